//! The WebSocket as a byte stream (SPEC.md §5.1 to §5.3).

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use broker_protocol::{CloseCode, DEAD_AFTER, PING_AFTER};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::pipe::{
    PIPE, Stream, both_ends, client, client_and_peer, next_binary, server, server_and_peer, within,
};

const CODES: [CloseCode; 5] = [
    CloseCode::Normal,
    CloseCode::Drain,
    CloseCode::Paused,
    CloseCode::Revoked,
    CloseCode::Version,
];
const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const MINUTE: Duration = Duration::from_secs(60);

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

// Messages.

/// Writes pieces of `sizes`, each flushed or not, and reads them into buffers of `reads`.
async fn pass(
    from: &mut Stream,
    to: &mut Stream,
    sizes: &[(usize, bool)],
    reads: &[usize],
) -> (Vec<u8>, Vec<u8>) {
    let total = sizes.iter().map(|(size, _)| size).sum();
    let sent: Vec<u8> = (0..251).cycle().take(total).collect();
    let writing = async {
        let mut rest = &sent[..];
        for (size, flush) in sizes {
            let (piece, after) = rest.split_at(*size);
            from.write_all(piece).await.unwrap();
            rest = after;
            if *flush {
                from.flush().await.unwrap();
            }
        }
        from.flush().await.unwrap();
    };
    let reading = async {
        let mut received = Vec::new();
        let mut sizes = reads.iter().cycle();
        while received.len() < total {
            let mut buffer = vec![0; *sizes.next().unwrap()];
            let n = to.read(&mut buffer).await.unwrap();
            assert_ne!(n, 0, "the stream ended early");
            received.extend(&buffer[..n]);
        }
        received
    };
    let ((), received) = within("all bytes", async { tokio::join!(writing, reading) }).await;
    (sent, received)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn bytes_pass_both_ways_in_any_chunking(
        sizes in prop::collection::vec((0..150 * KIB, any::<bool>()), 1..12),
        reads in prop::collection::vec(1..100 * KIB, 1..5),
    ) {
        runtime().block_on(async {
            let (mut client, mut server) = both_ends().await;
            for _ in 0..2 {
                let (sent, received) = pass(&mut client, &mut server, &sizes, &reads).await;
                assert!(sent == received);
                std::mem::swap(&mut client, &mut server);
            }
        });
    }

    #[test]
    fn random_bytes_end_either_end_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..2 * KIB)) {
        runtime().block_on(async {
            for is_client in [true, false] {
                let (ours, mut theirs) = tokio::io::duplex(PIPE);
                let mut ours = if is_client { client(ours).await } else { server(ours).await };
                theirs.write_all(&bytes).await.unwrap();
                theirs.shutdown().await.unwrap();
                // Whether it is an error is for the bytes to say; that it ends is what counts.
                let mut received = Vec::new();
                within("the end", ours.read_to_end(&mut received)).await.ok();
                assert!(received.len() <= bytes.len());
            }
        });
    }
}

#[tokio::test]
async fn no_message_has_more_than_64_kib() {
    let (mut stream, mut peer) = client_and_peer().await;
    let writing = async {
        stream.write_all(&vec![1; MIB]).await.unwrap();
        stream.shutdown().await.unwrap();
    };
    let reading = async {
        let (mut total, mut largest) = (0, 0);
        while let Some(bytes) = next_binary(&mut peer).await {
            total += bytes.len();
            largest = largest.max(bytes.len());
        }
        drop(peer);
        (total, largest)
    };
    let ((), (total, largest)) =
        within("the message", async { tokio::join!(writing, reading) }).await;
    assert_eq!(total, MIB);
    assert_eq!(largest, 64 * KIB);
}

#[tokio::test]
async fn what_is_flushed_is_not_kept_back() {
    let (mut stream, mut peer) = client_and_peer().await;
    stream.write_all(b"x").await.unwrap();
    stream.flush().await.unwrap();
    assert_eq!(
        within("the byte", next_binary(&mut peer)).await.unwrap(),
        "x"
    );
}

#[tokio::test]
async fn a_text_message_ends_the_stream() {
    let (mut stream, mut peer) = client_and_peer().await;
    peer.send(Message::text("hello")).await.unwrap();
    let error = within("the error", stream.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(error.to_string().contains("text message"), "{error}");
}

#[tokio::test]
async fn a_message_of_1_mib_is_taken_and_a_larger_one_ends_the_stream() {
    for (size, fits) in [(MIB, true), (MIB + 1, false)] {
        for fragments in [1, 4] {
            let (mut stream, mut peer) = server_and_peer().await;
            let sending = async {
                let message = Bytes::from(vec![7; size]);
                let piece = size.div_ceil(fragments);
                for start in (0..size).step_by(piece) {
                    let end = (start + piece).min(size);
                    let kind = if start == 0 {
                        Data::Binary
                    } else {
                        Data::Continue
                    };
                    let frame =
                        Frame::message(message.slice(start..end), OpCode::Data(kind), end == size);
                    // A refused message is not read to its end.
                    if peer.send(Message::Frame(frame)).await.is_err() {
                        break;
                    }
                }
                peer
            };
            let mut received = vec![0; size];
            let reading = async {
                let read = stream.read_exact(&mut received).await;
                drop(stream);
                read
            };
            let (_peer, read) =
                within("the message", async { tokio::join!(sending, reading) }).await;
            match read {
                Ok(_) => assert!(fits, "{size} bytes in {fragments} fragments were taken"),
                Err(error) => {
                    assert!(!fits, "{error}");
                    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
                }
            }
        }
    }
}

#[tokio::test]
async fn a_peer_that_reads_nothing_is_sent_no_more_than_the_buffers_hold() {
    let (mut stream, _peer) = client_and_peer().await;
    let chunk = [0; 16 * KIB];
    let mut written = 0;
    poll_fn(|cx| {
        while let Poll::Ready(n) = pin!(&mut stream).poll_write(cx, &chunk) {
            written += n.unwrap();
            assert!(written < MIB, "writing never waits");
        }
        Poll::Ready(())
    })
    .await;
    // One message, what may wait for the transport, and the pipe itself.
    assert!(written <= (64 + 256 + 64 + 64) * KIB, "{written}");
}

// Pings.

#[tokio::test]
async fn a_flood_of_pings_does_not_keep_the_thread() {
    const PINGS: usize = 1000;
    let (mut stream, mut peer) = server_and_peer().await;
    for _ in 0..PINGS {
        peer.feed(Message::Ping(Bytes::new())).await.unwrap();
    }
    peer.send(Message::binary("x")).await.unwrap();
    let mut polls = 0;
    let mut byte = [0];
    within(
        "the byte behind the Pings",
        poll_fn(|cx| {
            polls += 1;
            pin!(&mut stream).poll_read(cx, &mut ReadBuf::new(&mut byte))
        }),
    )
    .await
    .unwrap();
    assert!(polls > PINGS / 100, "{polls} turns");
}

#[tokio::test]
async fn pings_without_end_neither_grow_nor_stop_the_data() {
    let (stream, mut peer) = server_and_peer().await;
    let (mut read, mut write) = tokio::io::split(stream);
    let flooding = async {
        let mut received = 0;
        while received < MIB {
            peer.feed(Message::Ping(Bytes::from_static(&[b'p'; 125])))
                .await
                .unwrap();
            tokio::select! {
                biased;
                bytes = next_binary(&mut peer) => received += bytes.unwrap().len(),
                () = tokio::task::yield_now() => {}
            }
        }
    };
    let sending = async {
        write.write_all(&vec![0; MIB]).await.unwrap();
        write.flush().await.unwrap();
        std::future::pending::<()>().await;
    };
    let reading = async { read.read_u8().await };
    within("all data", async {
        tokio::select! {
            () = flooding => {}
            () = sending => {}
            ended = reading => panic!("the stream ended: {ended:?}"),
        }
    })
    .await;
}

#[tokio::test]
async fn a_ping_is_answered() {
    let (mut stream, mut peer) = server_and_peer().await;
    peer.send(Message::Ping(Bytes::from_static(b"there?")))
        .await
        .unwrap();
    within("the Pong", async {
        tokio::select! {
            ended = stream.read_u8() => panic!("the stream ended: {ended:?}"),
            pong = peer.next() => assert_eq!(pong.unwrap().unwrap(), Message::Pong(Bytes::from_static(b"there?"))),
        }
    })
    .await;
}

// Liveness.

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_asked_after_5_s_and_given_up_after_15_s() {
    let (ours, mut peer) = tokio::io::duplex(PIPE);
    let mut stream = client(ours).await;
    let start = Instant::now();
    let asked = async {
        // The Ping's two bytes and its mask.
        let mut ping = [0; 6];
        peer.read_exact(&mut ping).await.unwrap();
        assert_eq!(ping[0], 0x89);
        start.elapsed()
    };
    let (asked, ended) = tokio::join!(asked, stream.read_u8());
    assert_eq!(asked.as_secs(), PING_AFTER.as_secs());
    assert_eq!(start.elapsed().as_secs(), DEAD_AFTER.as_secs());
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_answers_pings_is_kept() {
    let (mut stream, mut peer) = client_and_peer().await;
    let answering = async { while let Some(Ok(_)) = peer.next().await {} };
    tokio::select! {
        ended = timeout(60 * MINUTE, stream.read_u8()) => assert!(ended.is_err(), "{ended:?}"),
        () = answering => panic!("the stream ended"),
    }
}

#[tokio::test(start_paused = true)]
async fn our_own_pause_is_not_the_peers_silence() {
    let (mut stream, mut peer) = client_and_peer().await;
    // An idle tunnel: our read is pending, and the peer has nothing to say.
    let idle = timeout(PING_AFTER - Duration::from_secs(1), stream.read_u8());
    assert!(idle.await.is_err());
    // Nobody reads for long, as when this process was stopped.
    sleep(MINUTE).await;
    let start = Instant::now();
    let answering = async {
        sleep(Duration::from_secs(4)).await;
        peer.send(Message::binary("x")).await.unwrap();
        while let Some(Ok(_)) = peer.next().await {}
    };
    tokio::select! {
        byte = stream.read_u8() => assert_eq!(byte.unwrap(), b'x'),
        () = answering => panic!("the stream ended"),
    }
    assert_eq!(start.elapsed().as_secs(), 4);
}

#[tokio::test(start_paused = true)]
async fn silence_begins_anew_after_bytes_that_were_long_in_being_read() {
    let (mut stream, mut peer) = client_and_peer().await;
    peer.send(Message::binary("x")).await.unwrap();
    sleep(MINUTE).await;
    assert_eq!(stream.read_u8().await.unwrap(), b'x');
    sleep(MINUTE).await;
    let start = Instant::now();
    stream.read_u8().await.unwrap_err();
    assert_eq!(start.elapsed().as_secs(), DEAD_AFTER.as_secs());
}

#[tokio::test(start_paused = true)]
async fn bytes_of_a_message_that_is_not_whole_are_life() {
    let (ours, mut theirs) = tokio::io::duplex(PIPE);
    let mut stream = client(ours).await;
    let trickling = async {
        // A binary message of 60 bytes, one byte every 10 s.
        theirs.write_all(&[0x82, 60]).await.unwrap();
        for _ in 0..60 {
            sleep(Duration::from_secs(10)).await;
            theirs.write_all(b"x").await.unwrap();
        }
        std::future::pending::<()>().await;
    };
    let mut message = [0; 60];
    tokio::select! {
        read = stream.read_exact(&mut message) => drop(read.unwrap()),
        () = trickling => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_nothing_for_a_minute_is_given_up() {
    let (mut stream, _peer) = client_and_peer().await;
    let start = Instant::now();
    let error = stream.write_all(&vec![0; MIB]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert_eq!(start.elapsed().as_secs(), 60);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_little_at_a_time_is_kept() {
    let (ours, mut theirs) = tokio::io::duplex(KIB);
    let mut stream = client(ours).await;
    let taking = async {
        let mut taken = [0; KIB];
        loop {
            sleep(MINUTE / 2).await;
            if theirs.read(&mut taken).await.unwrap() == 0 {
                return;
            }
        }
    };
    let writing = async {
        stream.write_all(&vec![0; 300 * KIB]).await.unwrap();
        stream.flush().await.unwrap();
    };
    tokio::select! {
        () = writing => {}
        () = taking => panic!("the stream ended"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_to_a_peer_that_takes_nothing_ends_too() {
    let (mut stream, _peer) = client_and_peer().await;
    let full = timeout(MINUTE / 2, stream.write_all(&vec![0; MIB])).await;
    assert!(full.is_err());
    stream.close_handle().close(CloseCode::Drain);
    let start = Instant::now();
    stream.read_u8().await.unwrap_err();
    assert!(start.elapsed() <= MINUTE, "{:?}", start.elapsed());
}

// Closing.

#[tokio::test]
async fn each_close_code_is_seen_at_the_other_end() {
    for code in CODES {
        let (mut ours, mut theirs) = both_ends().await;
        let handle = theirs.close_handle();
        assert_eq!(handle.closed_by_peer(), None);
        ours.close_handle().close(code);
        let closing = async {
            assert_eq!(ours.read(&mut [0]).await.unwrap(), 0);
            ours.shutdown().await.unwrap();
        };
        let reading = async {
            assert_eq!(theirs.read(&mut [0]).await.unwrap(), 0);
            theirs.shutdown().await.unwrap();
        };
        within("the close", async { tokio::join!(closing, reading) }).await;
        assert_eq!(handle.closed_by_peer(), Some(code));
    }
}

#[tokio::test]
async fn the_first_close_code_wins() {
    let (mut stream, mut peer) = client_and_peer().await;
    stream.close_handle().close(CloseCode::Paused);
    stream.close_handle().close(CloseCode::Drain);
    let (_, close) = within("the close", async {
        tokio::join!(stream.read_u8(), peer.next())
    })
    .await;
    assert_eq!(close_code(close), 4001);
}

#[tokio::test]
async fn a_close_code_that_is_unknown_or_absent_counts_as_normal() {
    let unknown = CloseFrame {
        code: 4999.into(),
        reason: "?".into(),
    };
    for frame in [Some(unknown), None] {
        let (mut stream, mut peer) = client_and_peer().await;
        peer.send(Message::Close(frame)).await.unwrap();
        assert_eq!(within("the end", stream.read(&mut [0])).await.unwrap(), 0);
        assert_eq!(
            stream.close_handle().closed_by_peer(),
            Some(CloseCode::Normal)
        );
    }
}

#[tokio::test]
async fn a_close_goes_behind_what_was_written_before() {
    let (mut stream, mut peer) = client_and_peer().await;
    stream.write_all(b"last words").await.unwrap();
    stream.close_handle().close(CloseCode::Drain);
    let reading = async { (peer.next().await, peer.next().await) };
    let (_, (data, close)) = within("the close", async {
        tokio::join!(stream.read_u8(), reading)
    })
    .await;
    assert_eq!(data.unwrap().unwrap(), Message::binary("last words"));
    assert_eq!(close_code(close), 4000);
    stream.write_all(b"more").await.unwrap_err();
}

#[tokio::test]
async fn a_close_reaches_a_peer_that_is_sending_all_the_while() {
    let (mut stream, peer) = client_and_peer().await;
    let (mut sink, mut messages) = peer.split();
    let flooding = async { while sink.send(Message::binary(vec![0; 64 * KIB])).await.is_ok() {} };
    let close = async {
        loop {
            let message = messages.next().await;
            if let Some(Ok(Message::Close(_))) | None = &message {
                return close_code(message);
            }
        }
    };
    let closing = async {
        let mut buffer = vec![0; 64 * KIB];
        stream.read_exact(&mut buffer).await.unwrap();
        stream.close_handle().close(CloseCode::Revoked);
        while stream.read(&mut buffer).await.unwrap() != 0 {}
        stream.shutdown().await.unwrap();
    };
    let code = within("the close", async {
        let code = async {
            tokio::select! {
                code = close => code,
                () = flooding => panic!("the peer saw no Close message"),
            }
        };
        tokio::join!(closing, code).1
    })
    .await;
    assert_eq!(code, 4002);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_stops_sending_does_not_hold_up_the_end() {
    // More than is read in one turn.
    let (ours, mut peer) = tokio::io::duplex(2 * MIB);
    let mut stream = client(ours).await;
    stream.close_handle().close(CloseCode::Normal);
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    let start = Instant::now();
    let mut shutdown = pin!(stream.shutdown());
    loop {
        poll_fn(|cx| Poll::Ready(pin!(&mut peer).poll_write(cx, &vec![0; 2 * MIB])))
            .await
            .is_ready();
        tokio::task::yield_now().await;
        if poll_fn(|cx| Poll::Ready(shutdown.as_mut().poll(cx)))
            .await
            .is_ready()
        {
            break;
        }
        assert!(start.elapsed() < MINUTE, "it never ends");
        tokio::time::advance(Duration::from_millis(100)).await;
    }
    assert_eq!(start.elapsed().as_secs(), 2);
}

fn close_code(message: Option<Result<Message, tokio_tungstenite::tungstenite::Error>>) -> u16 {
    match message {
        Some(Ok(Message::Close(Some(frame)))) => frame.code.into(),
        other => panic!("no Close message: {other:?}"),
    }
}

//! The server's end against an agent that breaks HTTP/2, or uses it as a weapon (SPEC.md §9).

use std::time::Duration;

use broker_protocol::{SendError, ServerEnd};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use proptest::prelude::*;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use crate::pipe::{FramePeer, frame, server_and_peer, within};

const STALL: Duration = Duration::from_secs(300);
const HEADERS: u8 = 1;

type Body = Empty<Bytes>;

fn request() -> Request<Body> {
    Request::get("http://origin.broker.invalid/")
        .body(Empty::new())
        .unwrap()
}

/// The server's end, and the agent played by the test, which has read the preface.
struct Server {
    end: ServerEnd<Body>,
    driver: JoinHandle<hyper::Result<()>>,
    tasks: TaskTracker,
}

impl Server {
    async fn start() -> (Self, FramePeer) {
        let (stream, peer) = server_and_peer().await;
        let tasks = TaskTracker::new();
        let opening = ServerEnd::open(stream, tasks.clone(), STALL, 250);
        let (end, driver) = within("the handshake", opening).await.unwrap();
        let driver = tasks.spawn(driver);
        let mut peer = FramePeer::new(peer);
        peer.skip(frame::PREFACE.len()).await;
        let server = Self { end, driver, tasks };
        (server, peer)
    }

    async fn send(&self) -> Result<http::Response<hyper::body::Incoming>, SendError<Body>> {
        within("an answer or an error", self.end.send(request())).await
    }

    async fn ended(self) -> hyper::Result<()> {
        let ended = within("the server's end", self.driver).await.unwrap();
        drop(self.end);
        self.tasks.close();
        within("the streams' end", self.tasks.wait()).await;
        ended
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_http2_ends_the_tunnel_and_its_requests() {
    for garbage in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        &[0xff; 100],
        // Answers to nothing.
        &[frame::settings(), frame::ok(0)].concat(),
        &[frame::settings(), frame::ok(9)].concat(),
    ] {
        let (server, mut peer) = Server::start().await;
        let playing = async {
            within("the request", peer.next(HEADERS)).await.unwrap();
            assert!(peer.send(garbage.to_vec()).await);
            while peer.next(frame::GOAWAY).await.is_some() {}
        };
        let (answer, ()) = within("the end", async { tokio::join!(server.send(), playing) }).await;
        assert!(matches!(answer, Err(SendError::Lost(_))), "{garbage:?}");
        server.ended().await.unwrap_err();
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_the_agent_resets_is_lost_and_the_tunnel_goes_on() {
    let (server, mut peer) = Server::start().await;
    assert!(peer.send(frame::settings()).await);
    for i in 0..2000 {
        let stream = 2 * i + 1;
        let playing = async {
            let (asked, _) = peer.next(HEADERS).await.unwrap();
            assert_eq!(asked, stream);
            assert!(peer.send(frame::reset(stream)).await);
        };
        let (answer, ()) = tokio::join!(server.send(), playing);
        assert!(matches!(answer, Err(SendError::Lost(_))), "{i}");
    }
    let playing = async {
        let (stream, _) = peer.next(HEADERS).await.unwrap();
        assert!(peer.send(frame::ok(stream)).await);
    };
    let (answer, ()) = tokio::join!(server.send(), playing);
    assert_eq!(answer.ok().unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn what_still_comes_of_answers_that_nobody_wants_does_not_end_the_tunnel() {
    let (server, mut peer) = Server::start().await;
    assert!(peer.send(frame::settings()).await);
    let mut unwanted = Vec::new();
    for i in 0..200 {
        let playing = async {
            peer.next(HEADERS).await.unwrap();
            let head = frame::new(HEADERS, frame::END_HEADERS, 2 * i + 1, &[0x88]);
            assert!(peer.send(head).await);
        };
        let (answer, ()) = tokio::join!(server.send(), playing);
        unwanted.push(answer.ok().unwrap());
    }
    drop(unwanted);
    for _ in 0..200 {
        within("the reset", peer.next(3)).await.unwrap();
    }
    for _ in 0..10 {
        let pieces = (0..200).flat_map(|i| frame::new(0, 0, 2 * i + 1, &[0; 300]));
        let round: Vec<u8> = pieces.chain(frame::ping()).collect();
        assert!(peer.send(round).await);
        within("the PONG", peer.next(6)).await.unwrap();
    }
    let playing = async {
        let (stream, _) = peer.next(HEADERS).await.unwrap();
        assert!(peer.send(frame::ok(stream)).await);
    };
    let (answer, ()) = tokio::join!(server.send(), playing);
    assert_eq!(answer.ok().unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn frames_of_ended_streams_without_end_end_the_tunnel() {
    let (server, mut peer) = Server::start().await;
    assert!(peer.send(frame::settings()).await);
    let playing = async {
        let (stream, _) = peer.next(HEADERS).await.unwrap();
        assert!(peer.send(frame::ok(stream)).await);
    };
    let (answer, ()) = tokio::join!(server.send(), playing);
    drop(answer.ok().unwrap());
    let flooding = peer.flood(|| frame::new(0, 0, 1, b"x").repeat(1000));
    let (code, ended) = within("the end", async { tokio::join!(flooding, server.ended()) }).await;
    ended.unwrap_err();
    assert_eq!(code, Some(11), "ENHANCE_YOUR_CALM");
}

#[tokio::test(start_paused = true)]
async fn after_goaway_the_open_stream_finishes_and_a_new_one_is_returned_unsent() {
    let (server, mut peer) = Server::start().await;
    let playing = async {
        let (stream, _) = peer.next(HEADERS).await.unwrap();
        assert!(
            peer.send([frame::settings(), frame::go_away(stream)].concat())
                .await
        );
        // An answered Ping shows that what came before it has been seen.
        assert!(peer.send(frame::ping()).await);
        within("the PONG", peer.next(6)).await.unwrap();
        assert!(matches!(server.send().await, Err(SendError::Unsent(_))));
        assert!(peer.send(frame::ok(stream)).await);
    };
    let (answer, ()) = tokio::join!(server.send(), playing);
    let body = answer.ok().unwrap().into_body();
    assert!(body.collect().await.unwrap().to_bytes().is_empty());
}

#[tokio::test(start_paused = true)]
async fn header_lists_without_end_end_the_tunnel() {
    let (server, mut peer) = Server::start().await;
    let field = [&[0, 1, b'x', 100][..], &[b'y'; 100]].concat();
    let playing = async move {
        peer.next(HEADERS).await.unwrap();
        let opening = [frame::settings(), frame::new(1, 0, 1, &[0x88])].concat();
        assert!(peer.send(opening).await);
        peer.flood(|| frame::new(9, 0, 1, &field.repeat(100))).await;
    };
    let (answer, ()) = within("the end", async { tokio::join!(server.send(), playing) }).await;
    assert!(matches!(answer, Err(SendError::Lost(_))));
    server.ended().await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn pushes_end_the_tunnel() {
    let (server, mut peer) = Server::start().await;
    let playing = async {
        peer.next(HEADERS).await.unwrap();
        let promise = [&2_u32.to_be_bytes()[..], &[0x82, 0x86, 0x84, 0x41, 1, b'a']].concat();
        let push = frame::new(5, frame::END_HEADERS, 1, &promise);
        assert!(peer.send([frame::settings(), push].concat()).await);
        while peer.next(frame::GOAWAY).await.is_some() {}
    };
    let (answer, ()) = within("the end", async { tokio::join!(server.send(), playing) }).await;
    assert!(matches!(answer, Err(SendError::Lost(_))));
    server.ended().await.unwrap_err();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn random_frames_neither_panic_nor_hang(
        frames in prop::collection::vec((0..12_u8, any::<u8>(), 0..4_u32, prop::collection::vec(any::<u8>(), 0..64)), 0..20)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (server, mut peer) = Server::start().await;
            let mut bytes = frame::settings();
            for (kind, flags, stream, payload) in frames {
                bytes.extend(frame::new(kind, flags, stream, &payload));
            }
            let playing = async {
                peer.next(HEADERS).await;
                peer.send(bytes).await;
                drop(peer);
            };
            // Whether there is an answer, and what it ends with, is for the bytes to say.
            drop(tokio::join!(server.send(), playing));
            drop(server.ended().await);
        });
    }
}

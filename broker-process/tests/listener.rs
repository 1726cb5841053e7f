//! The listener against peers that say too little, and while it ends.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use broker_process::listener::{self, Listening, Protocols, Stream};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

struct Served {
    address: SocketAddr,
    shutdown: CancellationToken,
    accepting: JoinSet<()>,
}

/// Serves two connections at once by `answer`.
async fn serve<R>(
    protocols: Protocols<TokioExecutor>,
    answer: impl Fn(Request<Incoming>) -> R + Clone + Send + 'static,
) -> Served
where
    R: Future<Output = Response<Empty<Bytes>>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let listening = Listening {
        listener,
        tls: None,
        protocols,
        max_connections: 2,
        stall: Duration::from_secs(300),
        tasks: TaskTracker::new(),
    };
    let mut accepting = JoinSet::new();
    let serving = listener::serve(listening, shutdown.clone(), move |request, _| {
        answer(request)
    });
    accepting.spawn(serving);
    Served {
        address,
        shutdown,
        accepting,
    }
}

async fn at_once(_: Request<Incoming>) -> Response<Empty<Bytes>> {
    Response::new(Empty::new())
}

async fn connect(served: &Served, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

/// Reads one answer, which has no body.
async fn answer(stream: &mut TcpStream) -> String {
    let mut answer = String::new();
    while !answer.ends_with("\r\n\r\n") {
        answer.push(char::from(stream.read_u8().await.unwrap()));
    }
    answer
}

#[tokio::test]
async fn a_connection_without_a_whole_request_is_closed_after_15_seconds() {
    let http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for bytes in [&b""[..], b"GET / HT", b"PRI * HT", http2] {
        let protocols = Protocols::Http1AndHttp2(TokioExecutor::new());
        let served = serve(protocols, at_once).await;
        let mut stream = connect(&served, bytes).await;
        // A paused clock moves when nobody has anything left to do.
        tokio::time::pause();
        let start = Instant::now();
        let end = timeout(Duration::from_secs(45), stream.read_to_end(&mut Vec::new())).await;
        let after = start.elapsed();
        assert!(end.is_ok(), "{bytes:?} holds the connection");
        assert!((14..17).contains(&after.as_secs()), "{bytes:?}: {after:?}");
        tokio::time::resume();
    }
}

#[tokio::test]
async fn a_connection_that_has_made_a_request_may_pause_for_longer() {
    let served = serve(Protocols::Http1AndHttp2(TokioExecutor::new()), at_once).await;
    let mut stream = connect(&served, GET).await;
    answer(&mut stream).await;
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(30)).await;
    tokio::time::resume();
    stream.write_all(GET).await.unwrap();
    assert!(answer(&mut stream).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_full_listener_stops_at_once() {
    let (begun, mut begins) = mpsc::channel(2);
    let never = move |_| {
        let begun = begun.clone();
        async move {
            begun.send(()).await.unwrap();
            std::future::pending().await
        }
    };
    let mut served = serve(Protocols::Http1WithUpgrades, never).await;
    let _held = [connect(&served, GET).await, connect(&served, GET).await];
    for _ in 0..2 {
        begins.recv().await.unwrap();
    }
    served.shutdown.cancel();
    let stopped = timeout(Duration::from_secs(30), served.accepting.join_next()).await;
    stopped.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn the_kernel_probes_for_peers_that_are_gone() {
    let (upgrades, mut upgraded) = mpsc::channel(1);
    let upgrade = move |request| {
        let upgrade = upgrades.try_send(hyper::upgrade::on(request));
        async move {
            upgrade.unwrap();
            let switching = Response::builder().status(101).header("upgrade", "x");
            switching.body(Empty::new()).unwrap()
        }
    };
    let served = serve(Protocols::Http1WithUpgrades, upgrade).await;
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    let _caller = connect(&served, request).await;
    let upgraded = upgraded.recv().await.unwrap().await.unwrap();
    let stream = upgraded.downcast::<TokioIo<Stream>>().ok().unwrap();
    let stream = stream.io.into_inner();
    let socket = SockRef::from(stream.tcp());
    assert!(socket.keepalive().unwrap());
    assert_eq!(
        socket.tcp_keepalive_time().unwrap(),
        Duration::from_secs(30)
    );
}

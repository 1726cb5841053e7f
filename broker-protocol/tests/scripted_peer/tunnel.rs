//! The two ends of a tunnel together (SPEC.md §5.4, §5.5).

use std::convert::Infallible;
use std::future::{Future, pending};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use broker_protocol::{
    CloseCode, CloseHandle, RELAY_AUTHORITY, SendError, ServerEnd, serve_agent_end,
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Incoming;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::pipe::{both_ends, within};

const STALL: Duration = Duration::from_secs(300);

type Body = UnsyncBoxBody<Bytes, io::Error>;

fn empty() -> Body {
    Empty::new()
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

fn frames(frames: impl IntoIterator<Item = Frame<Bytes>>) -> Body {
    let frames: Vec<_> = frames.into_iter().map(Ok).collect();
    StreamBody::new(stream::iter(frames)).boxed_unsync()
}

fn channel() -> (mpsc::Sender<io::Result<Frame<Bytes>>>, Body) {
    let (sender, receiver) = mpsc::channel(1);
    let frames = stream::unfold(receiver, |mut receiver| async move {
        Some((receiver.recv().await?, receiver))
    });
    (sender, StreamBody::new(frames).boxed_unsync())
}

fn data(bytes: &'static str) -> Frame<Bytes> {
    Frame::data(Bytes::from_static(bytes.as_bytes()))
}

fn get(path: &str) -> Request<Body> {
    with_body(path, empty())
}

fn with_body(path: &str, body: Body) -> Request<Body> {
    let uri = format!("http://{RELAY_AUTHORITY}{path}");
    Request::builder().uri(uri).body(body).unwrap()
}

/// A tunnel with both ends running.
struct Tunnel {
    server: ServerEnd<Body>,
    close: CloseHandle,
    shutdown: CancellationToken,
    agent: JoinHandle<hyper::Result<()>>,
    driver: JoinHandle<hyper::Result<()>>,
    tasks: TaskTracker,
}

impl Tunnel {
    async fn open<F, R>(max_streams: u32, service: F) -> Self
    where
        F: Fn(Request<Incoming>) -> R + Send + 'static,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        let (agent, server) = both_ends().await;
        let close = server.close_handle();
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let serving = serve_agent_end(agent, tasks.clone(), STALL, shutdown.clone(), service);
        let agent = tasks.spawn(serving);
        let opening = ServerEnd::open(server, tasks.clone(), STALL, max_streams);
        let (server, driver) = within("the tunnel", opening).await.unwrap();
        let driver = tasks.spawn(driver);
        Self {
            server,
            close,
            shutdown,
            agent,
            driver,
            tasks,
        }
    }

    async fn send(&self, request: Request<Body>) -> Response<Incoming> {
        let sent = within("the answer", self.server.send(request)).await;
        sent.unwrap_or_else(|error| panic!("{}", why(error)))
    }

    /// Ends it, and waits for every task of it.
    async fn end(self) {
        drop(self.server);
        self.tasks.close();
        within("the end of all tasks", self.tasks.wait()).await;
    }
}

fn why(error: SendError<Body>) -> String {
    match error {
        SendError::Unsent(_) => "unsent".into(),
        SendError::Lost(error) => format!("lost: {error:?}"),
    }
}

#[tokio::test]
async fn request_answer_and_trailers_pass_both_ways() {
    let tunnel = Tunnel::open(10, |request: Request<Incoming>| async {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap();
        let trailers = body.trailers().cloned().unwrap();
        let text = format!("{} {} {:?}", head.method, head.uri, body.to_bytes());
        let answer = Response::builder().status(201).header("x-answer", "1");
        answer
            .body(frames([
                Frame::data(text.into()),
                Frame::trailers(trailers),
            ]))
            .unwrap()
    })
    .await;
    let trailers = HeaderMap::from_iter([(
        http::HeaderName::from_static("x-sum"),
        HeaderValue::from_static("7"),
    )]);
    let body = frames([data("one"), data("two"), Frame::trailers(trailers.clone())]);
    let answer = tunnel.send(with_body("/a/..%2f//b?c=%zz", body)).await;
    assert_eq!(answer.status(), 201);
    assert_eq!(answer.headers()["x-answer"], "1");
    assert!(
        !answer.headers().contains_key("date"),
        "the origin's date is the answer's"
    );
    let body = within("the body", answer.into_body().collect())
        .await
        .unwrap();
    assert_eq!(body.trailers(), Some(&trailers));
    assert_eq!(
        body.to_bytes(),
        "GET http://origin.broker.invalid/a/..%2f//b?c=%zz b\"onetwo\""
    );
    tunnel.end().await;
}

#[tokio::test]
async fn a_head_of_64_kib_passes_both_ways() {
    let large = "x".repeat(64 * 1024);
    let tunnel = Tunnel::open(1, |request: Request<Incoming>| async move {
        let large = request.headers()["x-large"].clone();
        Response::builder()
            .header("x-large", large)
            .body(empty())
            .unwrap()
    })
    .await;
    let mut request = get("/");
    request
        .headers_mut()
        .insert("x-large", large.parse().unwrap());
    assert_eq!(tunnel.send(request).await.headers()["x-large"], large);
}

#[tokio::test]
async fn a_request_that_is_dropped_is_dropped_at_the_agent() {
    let (begun, mut begins) = mpsc::channel(1);
    let tunnel = Tunnel::open(1, move |_| {
        let begun = begun.clone();
        async move {
            let (alive, gone) = oneshot::channel::<()>();
            begun.send(gone).await.unwrap();
            pending::<()>().await;
            drop(alive);
            Response::new(empty())
        }
    })
    .await;
    let mut sending = Box::pin(tunnel.server.send(get("/")));
    let gone = tokio::select! {
        _ = &mut sending => panic!("there is no answer"),
        gone = begins.recv() => gone.unwrap(),
    };
    drop(sending);
    within("the cancellation", gone).await.unwrap_err();
}

#[tokio::test]
async fn an_answer_that_is_dropped_is_dropped_at_the_agent() {
    let (sender, body) = channel();
    let body = std::sync::Mutex::new(Some(body));
    let tunnel = Tunnel::open(1, move |_| {
        let body = body.lock().unwrap().take().unwrap();
        async { Response::new(body) }
    })
    .await;
    let answer = tunnel.send(get("/")).await;
    sender.send(Ok(data("x"))).await.unwrap();
    drop(answer);
    within("the cancellation", sender.closed()).await;
}

#[tokio::test]
async fn an_answer_that_breaks_is_seen_to_break_and_the_others_go_on() {
    let (senders, mut sender) = mpsc::channel(1);
    let tunnel = Tunnel::open(2, move |request: Request<Incoming>| {
        let senders = senders.clone();
        async move {
            if request.uri().path() == "/good" {
                return Response::new(full("good"));
            }
            let (sender, body) = channel();
            senders.send(sender).await.unwrap();
            Response::new(body)
        }
    })
    .await;
    for _ in 0..100 {
        let mut broken = tunnel.send(get("/broken")).await.into_body();
        let sender = sender.recv().await.unwrap();
        sender.send(Ok(data("half"))).await.unwrap();
        let half = within("the first half", broken.frame())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(half.into_data().unwrap(), "half");
        sender
            .send(Err(io::Error::other("the origin broke")))
            .await
            .unwrap();
        within("the break", broken.collect()).await.unwrap_err();
        let good = tunnel.send(get("/good")).await;
        let good = within("the body", good.into_body().collect())
            .await
            .unwrap();
        assert_eq!(good.to_bytes(), "good");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_at_once_has_its_head_and_what_came_before() {
    let tunnel = Tunnel::open(1, |_| async {
        let broken = [Ok(data("half")), Err(io::Error::other("the origin broke"))];
        Response::new(StreamBody::new(stream::iter(broken)).boxed_unsync())
    })
    .await;
    for _ in 0..100 {
        let mut broken = tunnel.send(get("/")).await.into_body();
        let half = within("the first half", broken.frame())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(half.into_data().unwrap(), "half");
        within("the break", broken.collect()).await.unwrap_err();
    }
}

#[tokio::test]
async fn empty_pieces_of_a_body_do_not_end_the_tunnel() {
    // HTTP/2 counts empty DATA frames as an attack, 100 of them in a connection's life.
    let pieces = || {
        (0..300)
            .map(|_| Frame::data(Bytes::new()))
            .chain([data("x")])
    };
    let tunnel = Tunnel::open(1, move |request: Request<Incoming>| async move {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "x");
        Response::new(frames(pieces()))
    })
    .await;
    for _ in 0..2 {
        let answer = tunnel.send(with_body("/", frames(pieces()))).await;
        let body = within("the body", answer.into_body().collect())
            .await
            .unwrap();
        assert_eq!(body.to_bytes(), "x");
    }
}

#[tokio::test]
async fn tiny_pieces_of_a_body_do_not_end_the_tunnel() {
    // HTTP/2 counts DATA frames below 256 bytes that nobody has read: about 130 000 of one byte end the connection.
    const PIECES: usize = 200_000;
    let (all_sent, is_sent) = oneshot::channel();
    let all_sent = std::sync::Mutex::new(Some(all_sent));
    let tunnel = Tunnel::open(2, move |request: Request<Incoming>| {
        let all_sent = all_sent.lock().unwrap().take();
        async move {
            if request.uri().path() == "/small" {
                return Response::new(full("small"));
            }
            let pieces = stream::iter((0..PIECES).map(|_| Ok(data("x"))));
            let last = stream::once(async {
                all_sent.unwrap().send(()).unwrap();
                Ok(data("y"))
            });
            Response::new(StreamBody::new(pieces.chain(last)).boxed_unsync())
        }
    })
    .await;
    let unread = tunnel.send(get("/")).await;
    within("all pieces sent", is_sent).await.unwrap();
    assert_eq!(tunnel.send(get("/small")).await.status(), 200);
    let body = within("the body", unread.into_body().collect()).await;
    assert_eq!(body.unwrap().to_bytes().len(), PIECES + 1);
}

#[tokio::test]
async fn permits_cap_the_streams_and_come_back() {
    let tunnel = Tunnel::open(2, |_| async { Response::new(empty()) }).await;
    let first = tunnel.server.permit().unwrap();
    let _second = tunnel.server.permit().unwrap();
    assert!(tunnel.server.permit().is_none());
    assert_eq!(tunnel.server.in_flight(), 2);
    drop(first);
    assert_eq!(tunnel.server.in_flight(), 1);
    assert!(tunnel.server.permit().is_some());
}

#[tokio::test]
async fn an_idle_tunnel_gives_no_more_permits() {
    let tunnel = Tunnel::open(2, |_| async { Response::new(empty()) }).await;
    let permit = tunnel.server.permit().unwrap();
    let mut idle = Box::pin(tunnel.server.idle());
    tokio::select! {
        biased;
        () = &mut idle => panic!("a stream is open"),
        () = tokio::task::yield_now() => {}
    }
    drop(permit);
    within("the last stream's end", idle).await;
    assert!(tunnel.server.permit().is_none());
}

#[tokio::test(start_paused = true)]
async fn shutdown_finishes_the_open_streams_and_returns_what_comes_after_unsent() {
    let (sender, body) = channel();
    let body = std::sync::Mutex::new(Some(body));
    let tunnel = Tunnel::open(2, move |_| {
        let body = body.lock().unwrap().take().unwrap();
        async { Response::new(body) }
    })
    .await;
    let answer = tunnel.send(get("/open")).await;
    tunnel.shutdown.cancel();
    // A paused clock moves when nobody has anything left to do: the GOAWAY has come.
    tokio::time::sleep(Duration::from_millis(1)).await;
    let unsent = match tunnel.server.send(with_body("/late", full("late"))).await {
        Err(SendError::Unsent(request)) => request,
        Err(lost) => panic!("{}", why(lost)),
        Ok(_) => panic!("a stream opened after GOAWAY"),
    };
    assert!(!tunnel.server.is_open());
    assert_eq!(unsent.uri().path(), "/late");
    assert_eq!(
        unsent.into_body().collect().await.unwrap().to_bytes(),
        "late"
    );
    sender.send(Ok(data("all"))).await.unwrap();
    drop(sender);
    let body = within("the body", answer.into_body().collect())
        .await
        .unwrap();
    assert_eq!(body.to_bytes(), "all");
    within("the agent's end", tunnel.agent)
        .await
        .unwrap()
        .unwrap();
    within("the server's end", tunnel.driver)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_request_in_flight_is_lost_with_its_tunnel_and_not_returned() {
    let (begun, mut begins) = mpsc::channel(1);
    let tunnel = Tunnel::open(1, move |_| {
        let begun = begun.clone();
        async move {
            begun.send(()).await.unwrap();
            pending().await
        }
    })
    .await;
    let ending = async {
        begins.recv().await.unwrap();
        tunnel.close.close(CloseCode::Drain);
    };
    let (sent, ()) = within("the loss", async {
        tokio::join!(tunnel.server.send(get("/")), ending)
    })
    .await;
    assert!(matches!(sent, Err(SendError::Lost(_))));
    assert!(matches!(
        tunnel.server.send(get("/")).await,
        Err(SendError::Unsent(_))
    ));
    tunnel.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_whose_reader_takes_nothing_is_reset_and_the_others_go_on() {
    reader_that_takes_nothing(16 * 1024).await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_small_pieces_whose_reader_takes_nothing_is_reset_as_well() {
    reader_that_takes_nothing(100).await;
}

/// Reads nothing of an endless answer that is made in pieces of this length.
async fn reader_that_takes_nothing(piece: usize) {
    let (gone, mut goes) = mpsc::channel::<Duration>(1);
    let start = Instant::now();
    let gone = Arc::new(gone);
    let tunnel = Tunnel::open(10, move |request: Request<Incoming>| {
        let gone = Arc::clone(&gone);
        async move {
            if request.uri().path() == "/small" {
                return Response::new(full("small"));
            }
            let end = OnDrop(Some(move || {
                // The receiver outlives the tunnel.
                gone.try_send(start.elapsed()).unwrap();
            }));
            let endless = stream::unfold(end, move |end| async move {
                tokio::task::yield_now().await;
                Some((Ok(Frame::data(Bytes::from(vec![0; piece]))), end))
            });
            Response::new(StreamBody::new(endless).boxed_unsync())
        }
    })
    .await;
    let stalled = tunnel.send(get("/endless")).await;
    let mut small = 0;
    let after = loop {
        tokio::select! {
            after = goes.recv() => break after.unwrap(),
            () = tokio::time::sleep(Duration::from_secs(20)) => {
                let answer = tunnel.send(get("/small")).await;
                assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "small");
                small += 1;
            }
        }
    };
    assert!(
        (STALL..STALL + Duration::from_secs(2)).contains(&after),
        "{after:?}"
    );
    assert!(small >= 14, "{small}");
    stalled.into_body().collect().await.unwrap_err();
    let answer = tunnel.send(get("/small")).await;
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn readers_that_take_nothing_do_not_stop_the_others() {
    let tunnel = Tunnel::open(250, |request: Request<Incoming>| async move {
        if request.uri().path() == "/small" {
            return Response::new(full("small"));
        }
        Response::new(full(vec![0; 1024 * 1024]))
    })
    .await;
    let mut stalled = Vec::new();
    for _ in 0..249 {
        stalled.push(tunnel.send(get("/large")).await);
    }
    for _ in 0..20 {
        let answer = tunnel.send(get("/small")).await;
        let body = within("a small body", answer.into_body().collect())
            .await
            .unwrap();
        assert_eq!(body.to_bytes(), "small");
    }
}

struct OnDrop<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        if let Some(then) = self.0.take() {
            then();
        }
    }
}

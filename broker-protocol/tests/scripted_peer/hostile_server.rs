//! The agent's end against a server that breaks HTTP/2, or uses it as a weapon (SPEC.md §9).

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use broker_protocol::serve_agent_end;
use bytes::Bytes;
use http::Response;
use http_body_util::Empty;
use proptest::prelude::*;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::pipe::{FramePeer, client_and_peer, frame, within};

const STALL: Duration = Duration::from_secs(300);
const ENHANCE_YOUR_CALM: u32 = 11;

/// How many requests the agent has at once, and the most that it had.
#[derive(Default)]
struct Load {
    now: AtomicUsize,
    most: AtomicUsize,
}

struct Busy(Arc<Load>);

impl Busy {
    fn new(load: &Arc<Load>) -> Self {
        let now = load.now.fetch_add(1, Ordering::SeqCst) + 1;
        load.most.fetch_max(now, Ordering::SeqCst);
        Self(Arc::clone(load))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The agent's end, whose service answers `/` never, and the server played by the test.
struct Agent {
    serving: JoinHandle<hyper::Result<()>>,
    load: Arc<Load>,
    tasks: TaskTracker,
}

impl Agent {
    async fn start() -> (Self, FramePeer) {
        let (stream, peer) = client_and_peer().await;
        let (tasks, load) = (TaskTracker::new(), Arc::<Load>::default());
        let service = {
            let load = Arc::clone(&load);
            move |_| {
                let busy = Busy::new(&load);
                async move {
                    pending::<()>().await;
                    drop(busy);
                    Response::new(Empty::<Bytes>::new())
                }
            }
        };
        let stop = CancellationToken::new();
        let serving = serve_agent_end(stream, tasks.clone(), STALL, stop, service);
        let serving = tasks.spawn(serving);
        let agent = Self {
            serving,
            load,
            tasks,
        };
        (agent, FramePeer::new(peer))
    }

    /// Waits for its end, and for every stream's.
    async fn ended(self) -> hyper::Result<()> {
        let ended = within("the agent's end", self.serving).await.unwrap();
        self.tasks.close();
        within("the streams' end", self.tasks.wait()).await;
        assert_eq!(self.load.now.load(Ordering::SeqCst), 0);
        ended
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_http2_ends_the_tunnel() {
    for garbage in [
        &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        &[0; 100],
        &[frame::PREFACE, &[0xff; 100]].concat(),
        // DATA before any SETTINGS, HEADERS on stream 0, and on a stream of the agent's own.
        &[frame::PREFACE, &frame::new(0, 0, 1, b"x")].concat(),
        &[frame::PREFACE, &frame::settings(), &frame::get(0)].concat(),
        &[frame::PREFACE, &frame::settings(), &frame::get(2)].concat(),
    ] {
        let (agent, mut peer) = Agent::start().await;
        assert!(peer.send(garbage.to_vec()).await);
        let reading = async { while peer.next(frame::GOAWAY).await.is_some() {} };
        let ended = async { agent.ended().await.unwrap_err() };
        within("the end", async { tokio::join!(ended, reading) }).await;
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_streams_run_than_were_advertised() {
    let (agent, mut peer) = Agent::start().await;
    let mut opening = [frame::PREFACE.to_vec(), frame::settings()].concat();
    for i in 0..300 {
        opening.extend(frame::get(2 * i + 1));
    }
    assert!(peer.send(opening).await);
    for _ in 0..300 - 256 {
        let (_, code) = within("a refusal", peer.next(3)).await.unwrap();
        assert_eq!(code, 7_u32.to_be_bytes(), "REFUSED_STREAM");
    }
    assert_eq!(agent.load.most.load(Ordering::SeqCst), 256);
    drop(peer);
    drop(agent.ended().await);
}

#[tokio::test(start_paused = true)]
async fn callers_that_left_before_the_agent_saw_them_do_not_end_the_tunnel() {
    let (agent, mut peer) = Agent::start().await;
    let mut opening = [frame::PREFACE.to_vec(), frame::settings()].concat();
    // All that the server may have open, in one message: the agent sees each with its reset.
    for i in 0..256 {
        opening.extend(frame::get(2 * i + 1));
        opening.extend(frame::reset(2 * i + 1));
    }
    opening.extend(frame::ping());
    assert!(peer.send(opening).await);
    within("the PONG", peer.next(6)).await.unwrap();
    assert!(peer.send(frame::get(513)).await);
    assert!(peer.send(frame::ping()).await);
    within("the second PONG", peer.next(6)).await.unwrap();
    assert_eq!(agent.load.now.load(Ordering::SeqCst), 1);
    drop(peer);
    drop(agent.ended().await);
}

#[tokio::test(start_paused = true)]
async fn more_resets_at_once_than_streams_may_be_open_end_the_tunnel() {
    let (agent, mut peer) = Agent::start().await;
    assert!(
        peer.send([frame::PREFACE.to_vec(), frame::settings()].concat())
            .await
    );
    let mut stream = 1;
    let flooding = peer.flood(|| {
        let mut burst = Vec::new();
        for _ in 0..300 {
            burst.extend(frame::get(stream));
            burst.extend(frame::reset(stream));
            stream += 2;
        }
        burst
    });
    let load = Arc::clone(&agent.load);
    let (code, ended) = within("the end", async { tokio::join!(flooding, agent.ended()) }).await;
    ended.unwrap_err();
    assert_eq!(code, Some(ENHANCE_YOUR_CALM));
    let most = load.most.load(Ordering::SeqCst);
    // As many open, and as many reset before they were seen.
    assert!(most <= 2 * 256, "{most} requests at once");
}

#[tokio::test(start_paused = true)]
async fn streams_opened_and_reset_without_end_leave_nothing_behind() {
    let (agent, mut peer) = Agent::start().await;
    assert!(
        peer.send([frame::PREFACE.to_vec(), frame::settings()].concat())
            .await
    );
    for round in 0..500 {
        let mut burst = Vec::new();
        for i in 0..100 {
            let stream = 2 * (100 * round + i) + 1;
            burst.extend(frame::get(stream));
            burst.extend(frame::reset(stream));
        }
        burst.extend(frame::ping());
        assert!(peer.send(burst).await);
        within("the PONG", peer.next(6)).await.unwrap();
        let now = agent.load.now.load(Ordering::SeqCst);
        assert!(now <= 100, "{now} requests are still there");
    }
    drop(peer);
    drop(agent.ended().await);
}

#[tokio::test(start_paused = true)]
async fn header_lists_without_end_end_the_tunnel() {
    let (agent, mut peer) = Agent::start().await;
    let headers = frame::new(1, 0, 1, &[0x82, 0x86, 0x84]);
    let opening = [frame::PREFACE.to_vec(), frame::settings(), headers].concat();
    assert!(peer.send(opening).await);
    // A literal field, not indexed, that goes on in CONTINUATION frames.
    let field = [&[0, 1, b'x', 100][..], &[b'y'; 100]].concat();
    let flooding = peer.flood(|| frame::new(9, 0, 1, &field.repeat(100)));
    let (_, ended) = within("the end", async { tokio::join!(flooding, agent.ended()) }).await;
    ended.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn floods_that_want_answers_end_with_a_peer_that_does_not_read_them() {
    for flood in [frame::ping(), frame::settings()] {
        let (agent, mut peer) = Agent::start().await;
        let start = Instant::now();
        let mut bytes = [frame::PREFACE.to_vec(), frame::settings()].concat();
        bytes.extend(flood.repeat(100));
        let mut sent = 0;
        while peer.send(bytes).await {
            bytes = flood.repeat(1000);
            sent += bytes.len();
            assert!(sent < 16 * 1024 * 1024, "all of it is kept");
        }
        agent.ended().await.unwrap_err();
        assert!(start.elapsed() < STALL, "{:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn goaway_and_the_end_of_the_stream_end_the_tunnel() {
    let (agent, mut peer) = Agent::start().await;
    let opening = [
        frame::PREFACE.to_vec(),
        frame::settings(),
        frame::go_away(0),
    ]
    .concat();
    assert!(peer.send(opening).await);
    let reading = async { while peer.next(frame::GOAWAY).await.is_some() {} };
    let (ended, ()) = within("the end", async { tokio::join!(agent.ended(), reading) }).await;
    ended.unwrap();
}

#[derive(Debug, Clone)]
enum Sent {
    Frame(u8, u8, u32, Vec<u8>),
    Get(u32),
    Bytes(Vec<u8>),
}

fn sent() -> impl Strategy<Value = Sent> {
    let payload = || prop::collection::vec(any::<u8>(), 0..64);
    prop_oneof![
        (0..12_u8, any::<u8>(), 0..8_u32, payload())
            .prop_map(|(kind, flags, stream, payload)| Sent::Frame(kind, flags, stream, payload)),
        (0..8_u32).prop_map(Sent::Get),
        payload().prop_map(Sent::Bytes),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn random_frames_neither_panic_nor_hang(frames in prop::collection::vec(sent(), 0..20)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (agent, mut peer) = Agent::start().await;
            let mut bytes = [frame::PREFACE.to_vec(), frame::settings()].concat();
            for frame in frames {
                bytes.extend(match frame {
                    Sent::Frame(kind, flags, stream, payload) => frame::new(kind, flags, stream, &payload),
                    Sent::Get(stream) => frame::get(stream),
                    Sent::Bytes(bytes) => bytes,
                });
            }
            peer.send(bytes).await;
            drop(peer);
            // What it ends with is for the bytes to say.
            drop(agent.ended().await);
        });
    }
}

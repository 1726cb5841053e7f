//! Bodies flow as they come, both ways, hold nobody up, and end when either end goes away.

use std::time::Duration;

use broker_tests::broker::{Agent, AgentSetup, Server, Site};
use broker_tests::caller::{Answer, Caller, body};
use broker_tests::origin::{self, Exchange, Origin};
use broker_tests::wait::{took, within};
use bytes::Bytes;
use http::{Request, Version};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How soon an origin must hear that its caller went away.
const CANCELLED_WITHIN: Duration = Duration::from_secs(1);
/// Streams whose reader takes nothing.
const STALLED: usize = 20;
/// Small requests beside them.
const SMALL: usize = 100;
/// The most that one stream with a reader that takes nothing may swallow, in bytes. The tunnel's share is half a MiB;
/// the rest is what the kernel holds in the sockets of both ends.
const SWALLOWED: u64 = 32 << 20;

#[tokio::test]
async fn server_sent_events_arrive_one_by_one() {
    let broker = Broker::start().await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let (mut exchange, mut answer) = broker.stream(version, "/events").await;
        for number in 0..10 {
            let event = format!("data: {number}\n\n");
            exchange.send_chunk(event.as_bytes()).await;
            assert_eq!(answer.chunk().await.unwrap(), event);
        }
        exchange.finish_chunked(&[]).await;
        assert_eq!(answer.chunk().await, None);
    }
}

#[tokio::test]
async fn a_watch_outlives_the_silence_that_ends_another_answer() {
    let broker = Broker::with_setting("timeouts: {idle: 300ms}").await;
    let version = Version::HTTP_11;
    let (mut watched, mut watch) = broker.stream(version, "/pods?watch=true").await;
    let (mut silent, mut other) = broker.stream_of(version, "/pods", "application/json").await;
    silent.send_chunk(b"[").await;
    assert_eq!(other.chunk().await.unwrap(), "[");

    other.try_chunk().await.unwrap_err();

    watched.send_chunk(b"{}\n").await;
    assert_eq!(watch.chunk().await.unwrap(), "{}\n");
}

#[tokio::test]
async fn a_caller_that_goes_away_while_it_reads_ends_the_origins_request() {
    let broker = Broker::start().await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let (mut exchange, mut answer) = broker.stream(version, "/events").await;
        exchange.send_chunk(b"data: 1\n\n").await;
        answer.chunk().await.unwrap();

        drop(answer);

        assert_gone("reading", version, &mut exchange).await;
    }
    broker.assert_ended("caller-gone").await;
}

#[tokio::test]
async fn a_caller_that_goes_away_while_it_waits_ends_the_origins_request() {
    let broker = Broker::start().await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let caller = broker.caller(version);
        let mut waiting = JoinSet::new();
        waiting.spawn(async move { caller.get("/broker/sonarqube/slow").await });
        let mut exchange = broker.origin.next().await;

        waiting.shutdown().await;

        assert_gone("waiting", version, &mut exchange).await;
    }
    broker.assert_ended("caller-gone").await;
}

#[tokio::test]
async fn a_caller_that_goes_away_while_it_uploads_ends_the_origins_request() {
    let broker = Broker::start().await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let (mut sender, upload) = body::channel();
        let caller = broker.caller(version);
        let mut uploading = JoinSet::new();
        uploading.spawn(async move { caller.try_send(post("/upload", upload)).await.map(drop) });
        let mut exchange = broker.origin.next().await;
        sender.send_data(Bytes::from("one")).await.unwrap();
        assert_eq!(exchange.read(8).await, b"3\r\none\r\n");

        uploading.shutdown().await;

        let rest = assert_gone("uploading", version, &mut exchange).await;
        // The last chunk would have the origin take what it has for the whole upload.
        assert_eq!(rest, b"", "{version:?}");
    }
    broker.assert_ended("caller-gone").await;
}

#[tokio::test]
async fn a_stream_that_its_caller_cancels_leaves_the_callers_other_streams_alone() {
    let broker = Broker::start().await;
    let connection = broker.caller(Version::HTTP_2).connect().await;
    let request = || {
        let request = Request::get("/broker/sonarqube/events");
        request.body(body::empty()).unwrap()
    };
    let (mut first, cancelled) = tokio::join!(broker.play_events(), connection.send(request()));
    let (mut second, mut kept) = tokio::join!(broker.play_events(), connection.send(request()));

    drop(cancelled);

    assert_gone("one of two", Version::HTTP_2, &mut first).await;
    second.send_chunk(b"data: 1\n\n").await;
    assert_eq!(kept.chunk().await.unwrap(), "data: 1\n\n");
}

#[tokio::test]
async fn an_answer_may_come_before_the_uploads_end() {
    let broker = Broker::start().await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let (mut sender, upload) = body::channel();
        let play = async {
            let mut exchange = broker.origin.next().await;
            sender.send_data(Bytes::from("one")).await.unwrap();
            exchange.read(8).await;
            exchange.answer(origin::Answer::json("[1]")).await;
            exchange
        };
        let caller = broker.caller(version);
        let (_exchange, answer) = tokio::join!(play, caller.send(post("/upload", upload)));
        assert_eq!(answer.text().await, "[1]", "{version:?}");
    }
}

#[tokio::test]
async fn an_upload_ends_soon_after_its_answer() {
    let broker = Broker::start().await;
    let (mut sender, upload) = body::channel();
    let play = async {
        let mut exchange = broker.origin.next().await;
        sender.send_data(Bytes::from("one")).await.unwrap();
        exchange.read(8).await;
        exchange.answer(origin::Answer::json("[1]")).await;
        exchange
    };
    let connection = broker.caller(Version::HTTP_2).connect().await;
    let (mut exchange, answer) = tokio::join!(play, connection.send(post("/upload", upload)));
    assert_eq!(answer.text().await, "[1]");

    // The caller neither sends nor ends, and its connection stays.
    exchange.client_gone().await;

    let lines = broker.agent.stop().await;
    let outcome = lines.iter().find(|line| line["kind"] == "outcome");
    let outcome = outcome.expect("the request was allowed");
    assert_eq!(outcome["ended"], "complete");
    assert_eq!(outcome["bytes_up"], 3);
}

#[tokio::test]
async fn an_upload_that_stands_still_ends_an_answer_that_flows() {
    let broker = Broker::with_setting("timeouts: {idle: 300ms}").await;
    let (mut sender, upload) = body::channel();
    sender.send_data(Bytes::from("one")).await.unwrap();
    let caller = broker.caller(Version::HTTP_2);
    let kind = "application/json";
    let (mut exchange, mut answer) =
        tokio::join!(broker.play(kind), caller.send(post("/talk", upload)));

    let read = async { while answer.try_chunk().await.is_ok_and(|chunk| chunk.is_some()) {} };
    let flow = async { tokio::join!(exchange.send_without_end(), read) };
    within("the end of the answer", flow).await;

    drop(sender);
    broker.assert_ended("timed-out").await;
}

#[tokio::test]
async fn both_bodies_flow_at_the_same_time() {
    let broker = Broker::start().await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let (mut sender, upload) = body::channel();
        let caller = broker.caller(version);
        let (mut exchange, mut answer) =
            tokio::join!(broker.play_events(), caller.send(post("/talk", upload)));
        for word in ["one", "two", "six"] {
            sender.send_data(Bytes::from(word)).await.unwrap();
            let chunk = format!("3\r\n{word}\r\n");
            assert_eq!(exchange.read(8).await, chunk.as_bytes());
            exchange.send_chunk(word.as_bytes()).await;
            assert_eq!(answer.chunk().await.unwrap(), word, "{version:?}");
        }
        drop(sender);
        assert_eq!(exchange.read(5).await, b"0\r\n\r\n");
        exchange.finish_chunked(&[]).await;
        assert_eq!(answer.chunk().await, None);
    }
}

#[tokio::test]
async fn readers_that_stall_hold_their_origins_up_and_nobody_else() {
    let broker = Broker::start().await;
    let alone = broker.small_requests().await;

    let mut answers = Vec::new();
    let mut origins = JoinSet::new();
    for _ in 0..STALLED {
        let (mut exchange, answer) = broker.stream(Version::HTTP_11, "/large").await;
        answers.push(answer);
        origins.spawn(async move { (exchange.send_until_stalled().await, exchange) });
    }
    let stalled = origins.join_all().await;
    for (swallowed, _) in &stalled {
        assert!(*swallowed < SWALLOWED, "{swallowed} bytes were taken");
    }

    broker.assert_not_slowed("stalled readers", alone).await;
    drop((answers, stalled));
}

#[tokio::test]
async fn origins_that_stall_hold_their_uploads_up_and_nobody_else() {
    let broker = Broker::start().await;
    let alone = broker.small_requests().await;

    let mut uploads = JoinSet::new();
    let mut senders = JoinSet::new();
    let mut exchanges = Vec::new();
    for _ in 0..STALLED {
        let (sender, upload) = body::channel();
        let caller = broker.caller(Version::HTTP_11);
        uploads.spawn(async move { caller.try_send(post("/upload", upload)).await.map(drop) });
        senders.spawn(body::send_until_stalled(sender));
        exchanges.push(broker.origin.next().await);
    }
    let stalled = senders.join_all().await;
    for (swallowed, _) in &stalled {
        assert!(*swallowed < SWALLOWED, "{swallowed} bytes were taken");
    }

    broker.assert_not_slowed("stalled origins", alone).await;
    drop((exchanges, stalled));
}

/// Server and agent in front of an origin that the test plays, and of one that answers `/small` by itself.
struct Broker {
    agent: Agent,
    server: Server,
    origin: Origin,
    _small: Origin,
}

impl Broker {
    async fn start() -> Self {
        Self::with_setting("").await
    }

    async fn with_setting(setting: &str) -> Self {
        let origin = Origin::scripted().await;
        let small = Origin::answering(|_| origin::Answer::json("{}")).await;
        let server = Server::start(Site::simple()).await;
        let rules = json!({"private": [
            {"path": "/small", "origin": small.url()},
            {"method": "any", "path": "/*", "origin": origin.url()},
        ]});
        let setup = AgentSetup::with_rules(rules).setting(setting);
        let agent = setup.start(&server).await;
        Self {
            agent,
            server,
            origin,
            _small: small,
        }
    }

    fn caller(&self, version: Version) -> Caller {
        self.server.caller().with_version(version)
    }

    /// A request whose answer has begun, as server-sent events.
    async fn stream(&self, version: Version, path: &str) -> (Exchange, Answer) {
        self.stream_of(version, path, "text/event-stream").await
    }

    /// A request whose answer has begun, with this type.
    async fn stream_of(&self, version: Version, path: &str, kind: &str) -> (Exchange, Answer) {
        let target = format!("/broker/sonarqube{path}");
        let caller = self.caller(version);
        tokio::join!(self.play(kind), caller.get(&target))
    }

    async fn play_events(&self) -> Exchange {
        self.play("text/event-stream").await
    }

    async fn play(&self, kind: &str) -> Exchange {
        let mut exchange = self.origin.next().await;
        exchange.start_chunked(200, &[("Content-Type", kind)]).await;
        exchange
    }

    /// The median of how long the small requests take, one after the other; each is answered.
    async fn small_requests(&self) -> Duration {
        let mut durations = Vec::new();
        for _ in 0..SMALL {
            let start = Instant::now();
            let answer = self.server.caller().get("/broker/sonarqube/small").await;
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.text().await, "{}");
            durations.push(start.elapsed());
        }
        durations.sort();
        durations[SMALL / 2]
    }

    async fn assert_not_slowed(&self, what: &str, alone: Duration) {
        let beside = self.small_requests().await;
        // That they are answered at all is what waiting behind a stalled stream would prevent.
        took(
            &format!("a small request beside {STALLED} {what}"),
            beside,
            alone * 10,
        );
    }

    /// Every request's outcome says that it ended so.
    async fn assert_ended(self, how: &str) {
        let requests = self.origin.requests().len();
        let lines = self.agent.stop().await;
        let outcomes = lines.iter().filter(|line| line["kind"] == "outcome");
        let ends: Vec<_> = outcomes.map(|line| line["ended"].clone()).collect();
        assert_eq!(ends, vec![json!(how); requests]);
    }
}

fn post(path: &str, body: body::Body) -> Request<body::Body> {
    let request = Request::post(format!("/broker/sonarqube{path}"));
    request.body(body).unwrap()
}

/// The origin's connection is closed at once; returns what came on it before.
async fn assert_gone(what: &str, version: Version, exchange: &mut Exchange) -> Vec<u8> {
    let start = Instant::now();
    let rest = exchange.client_gone().await;
    took(
        &format!("{version:?} {what}: the end of the origin's request"),
        start.elapsed(),
        CANCELLED_WITHIN,
    );
    rest
}

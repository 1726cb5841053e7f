//! Every failure that a caller can see: its code, its status, its document, and an end that is seen to be one.

use broker_protocol::ErrorCode;
use broker_tests::broker::{AGENT, Agent, AgentSetup, CALLER, Server, Site, TENANT, permissive};
use broker_tests::caller::{Caller, body};
use broker_tests::origin::{self, Exchange, Origin, head};
use broker_tests::tap::Tap;
use broker_tests::wait::within;
use bytes::Bytes;
use http::{Method, Request, Version};
use hyper::ext::Protocol;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

const TARGET: &str = "/broker/sonarqube/a";

async fn scripted() -> (Origin, Server, Agent) {
    let origin = Origin::scripted().await;
    let (server, agent) = permissive(&origin).await;
    (origin, server, agent)
}

/// An origin that answers exactly so, and closes.
async fn answered_with(bytes: &[u8]) -> broker_tests::caller::Answer {
    let (origin, server, _agent) = scripted().await;
    let caller = server.caller();
    let play = async {
        let mut exchange = origin.next().await;
        exchange.send(bytes).await;
    };
    tokio::join!(caller.get(TARGET), play).0
}

#[tokio::test]
async fn what_no_rule_allows_is_denied() {
    let server = Server::start(Site::simple()).await;
    let agent = AgentSetup::without_rules().start(&server).await;
    let request = Request::put("/broker/sonarqube/a;b?token=hidden")
        .body(body::empty())
        .unwrap();
    let problem = server
        .caller()
        .send(request)
        .await
        .problem(ErrorCode::Denied)
        .await;
    assert_eq!(problem["agent"], AGENT);
    assert_eq!(problem["method"], "PUT");
    assert_eq!(problem["path"], "/a;b");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("broker-client status")
    );
    assert!(!problem.to_string().contains("hidden"));
    assert_eq!(
        agent.audit("decision")[0]["request_id"],
        problem["request_id"]
    );
}

#[tokio::test]
async fn what_the_server_itself_refuses_says_so() {
    let site = Site::simple().agent(TENANT, "jenkins").caller_of(
        TENANT,
        "narrow",
        "broker-authorization",
        "[jenkins]",
    );
    let server = Server::start(site).await;
    let long = format!("/broker/sonarqube/{}", "a".repeat(20_000));
    let narrow = server.caller_as(TENANT, "narrow", "broker-authorization");
    let twice = server
        .caller_as(TENANT, CALLER, "broker-authorization")
        .with_header("proxy-authorization", &{
            format!(
                "Bearer {}",
                server.site.caller_token(TENANT, CALLER).expose()
            )
        });
    for version in [Version::HTTP_11, Version::HTTP_2] {
        for (caller, target, code) in [
            (server.stranger(), TARGET, ErrorCode::Unauthenticated),
            (narrow.clone(), TARGET, ErrorCode::Forbidden),
            (twice.clone(), TARGET, ErrorCode::BadRequest),
            (server.caller(), "/", ErrorCode::NotFound),
            (server.caller(), "/broker", ErrorCode::NotFound),
            (server.caller(), "/broker/-/a", ErrorCode::NotFound),
            (server.caller(), TARGET, ErrorCode::NoAgent),
            (server.caller(), &long, ErrorCode::TargetTooLong),
        ] {
            caller
                .with_version(version)
                .get(target)
                .await
                .problem(code)
                .await;
        }
    }
}

#[tokio::test]
async fn a_refusal_of_a_head_request_has_no_body() {
    let server = Server::start(Site::simple()).await;
    let request = Request::head(TARGET).body(body::empty()).unwrap();
    let answer = server.caller().send(request).await;
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.header("broker-error"), Some("no-agent"));
    assert_eq!(answer.bytes().await, "");
}

#[tokio::test]
async fn a_stream_whose_upload_goes_on_behind_its_answer_still_counts() {
    let origin = Origin::scripted().await;
    let server = Server::start(Site::simple().setting("tunnel: {max-streams: 1}")).await;
    let _agent = AgentSetup::allowing_everything(&origin.url())
        .start(&server)
        .await;
    let caller = server.caller().with_version(Version::HTTP_2);
    let mut uploads = Vec::new();
    // One for each of the two tunnels.
    for _ in 0..2 {
        let (mut sender, upload) = body::channel();
        let request = Request::post(TARGET).body(upload).unwrap();
        sender.send_data(Bytes::from_static(b"x")).await.unwrap();
        let play = async {
            let mut exchange = origin.next().await;
            exchange.answer(origin::Answer::new(200, &[], "{}")).await;
            exchange
        };
        let (mut answer, exchange) = tokio::join!(caller.send(request), play);
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.chunk().await.unwrap(), "{}");
        assert!(answer.chunk().await.is_none());
        uploads.push((sender, answer, exchange));
    }
    caller
        .get(TARGET)
        .await
        .problem(ErrorCode::Overloaded)
        .await;

    drop(uploads);
    has_room(&caller, &origin).await;
}

#[tokio::test]
async fn a_full_tunnel_is_overloaded_until_a_request_ends() {
    let origin = Origin::scripted().await;
    let server = Server::start(Site::simple().setting("tunnel: {max-streams: 1}")).await;
    let _agent = AgentSetup::allowing_everything(&origin.url())
        .start(&server)
        .await;
    let caller = server.caller();
    let mut stalled = JoinSet::new();
    for _ in 0..2 {
        let caller = caller.clone();
        stalled.spawn(async move { caller.get(TARGET).await.status() });
    }
    // One for each of the two tunnels.
    let (mut first, _second) = (origin.next().await, origin.next().await);
    caller
        .get(TARGET)
        .await
        .problem(ErrorCode::Overloaded)
        .await;

    first
        .answer(origin::Answer::new(200, &[("Connection", "close")], "{}"))
        .await;
    drop(first);
    let answered = within("the first answer", stalled.join_next())
        .await
        .unwrap();
    assert_eq!(answered.unwrap(), 200);
    has_room(&caller, &origin).await;
}

/// Waits until a request is answered: a caller may have its answer a moment before the tunnel has room again.
async fn has_room(caller: &Caller, origin: &Origin) {
    let ask = async { while caller.get(TARGET).await.status() == 503 {} };
    let play = async { origin.next().await.answer(origin::Answer::json("{}")).await };
    within("room for another request", async {
        tokio::join!(ask, play)
    })
    .await;
}

#[tokio::test]
async fn an_origin_that_refuses_connections_is_unreachable() {
    let closed = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let server = Server::start(Site::simple()).await;
    let agent = AgentSetup::allowing_everything(&format!("http://{closed}"))
        .start(&server)
        .await;
    let problem = server
        .caller()
        .get(TARGET)
        .await
        .problem(ErrorCode::OriginUnreachable)
        .await;
    assert!(
        !problem.to_string().contains(&closed.port().to_string()),
        "{problem}"
    );
    let outcome = &agent.stop().await[2];
    assert_eq!(outcome["error"], "origin-unreachable");
    assert_eq!(outcome["ended"], "origin-failed");
}

#[tokio::test]
async fn an_origin_that_does_not_answer_in_time_is_given_up() {
    let origin = Origin::scripted().await;
    let server = Server::start(Site::simple()).await;
    let agent = AgentSetup::allowing_everything(&origin.url())
        .setting("timeouts: {first-byte: 200ms}")
        .start(&server)
        .await;
    let caller = server.caller();
    let play = async {
        let mut exchange = origin.next().await;
        exchange.client_gone().await;
    };
    let (answer, ()) = tokio::join!(caller.get(TARGET), play);
    answer.problem(ErrorCode::OriginTimeout).await;
    assert_eq!(agent.stop().await[2]["ended"], "timed-out");
}

#[tokio::test]
async fn a_caller_whose_upload_stands_still_is_given_up() {
    let origin = Origin::scripted().await;
    let server = Server::start(Site::simple()).await;
    let _agent = AgentSetup::allowing_everything(&origin.url())
        .setting("timeouts: {idle: 200ms}")
        .start(&server)
        .await;
    let (mut sender, upload) = body::channel();
    sender.send_data(Bytes::from("x")).await.unwrap();
    let request = Request::post(TARGET).body(upload).unwrap();
    server
        .caller()
        .send(request)
        .await
        .problem(ErrorCode::OriginTimeout)
        .await;
}

#[tokio::test]
async fn an_origin_that_breaks_http_is_said_to() {
    let long = |bytes| head(200, &[("x-long", &"a".repeat(bytes))]);
    for bytes in [
        b"SSH-2.0-OpenSSH_9.6\r\n".as_slice(),
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nX y: 1\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Len",
        b"",
        &long(66_000),
        &long(90_000),
        &long(300_000),
    ] {
        let answer = answered_with(bytes).await;
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]);
        assert_eq!(
            answer.header("broker-error"),
            Some("origin-protocol"),
            "{text:?}"
        );
        let problem = answer.problem(ErrorCode::OriginProtocol).await;
        assert!(
            !problem.to_string().contains("127.0.0.1"),
            "{text:?}: {problem}"
        );
    }
}

#[tokio::test]
async fn a_request_whose_tunnel_is_cut_is_lost_and_never_sent_again() {
    let (origin, server, tap, agent) = tapped().await;
    let caller = server.caller();
    let play = async {
        let mut exchange = origin.next().await;
        tap.cut();
        exchange.client_gone().await;
    };
    let (answer, ()) = tokio::join!(caller.get(TARGET), play);
    answer.problem(ErrorCode::TunnelLost).await;
    agent.connected().await;
    assert_eq!(origin.requests().len(), 1);
}

async fn tapped() -> (Origin, Server, Tap, Agent) {
    let origin = Origin::scripted().await;
    let (server, tap, agent) = behind_a_tap(&origin).await;
    (origin, server, tap, agent)
}

async fn behind_a_tap(origin: &Origin) -> (Server, Tap, Agent) {
    let server = Server::start(Site::simple().without_tls()).await;
    let tap = Tap::to(server.agents).await;
    let agent = AgentSetup::allowing_everything(&origin.url())
        .dialling(&format!("http://{}", tap.address()))
        .start(&server)
        .await;
    (server, tap, agent)
}

#[tokio::test]
async fn what_cannot_be_recorded_does_not_pass_until_it_can_again() {
    let origin = Origin::answering(|_| origin::Answer::json("{}")).await;
    let server = Server::start(Site::simple()).await;
    let rules = json!({"private": [{"path": "/a", "origin": origin.url()}]});
    let agent = AgentSetup::with_rules(rules).start(&server).await;
    let log = agent.folder().join("data/default/audit.jsonl");
    let kept = log.with_extension("kept");
    std::fs::rename(&log, &kept).unwrap();
    std::os::unix::fs::symlink("/dev/full", &log).unwrap();
    for target in [TARGET, "/broker/sonarqube/denied", "/broker/sonarqube/../a"] {
        server
            .caller()
            .get(target)
            .await
            .problem(ErrorCode::AuditUnavailable)
            .await;
    }
    assert_eq!(origin.connections(), 0);

    std::fs::remove_file(&log).unwrap();
    std::fs::rename(&kept, &log).unwrap();
    assert_eq!(server.caller().get(TARGET).await.status(), 200);
    server
        .caller()
        .get("/broker/sonarqube/denied")
        .await
        .problem(ErrorCode::Denied)
        .await;
    assert_eq!(agent.audit("decision").len(), 2);
}

#[tokio::test]
async fn an_upgrade_is_refused_and_never_sent_as_a_plain_request() {
    let (origin, server, _agent) = scripted().await;
    for (method, protocol) in [("GET", "websocket"), ("POST", "SPDY/3.1"), ("GET", "h2c")] {
        let lines = format!(
            "Connection: Upgrade\r\nUpgrade: {protocol}\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        );
        let request = server.raw_head(&format!("{method} {TARGET}"), &lines);
        let answer = server.stranger().raw(&request).await;
        assert_eq!(answer.head.status(), 501, "{protocol}");
        assert_eq!(answer.code().unwrap(), "upgrade-not-supported");
    }
    let http2 = server.caller().with_version(Version::HTTP_2);
    let connect = Request::connect("origin.local:443")
        .body(body::empty())
        .unwrap();
    http2
        .send(connect)
        .await
        .problem(ErrorCode::UpgradeNotSupported)
        .await;
    assert_eq!(origin.connections(), 0);
}

#[tokio::test]
async fn an_extended_connect_is_refused() {
    let (origin, server, _agent) = scripted().await;
    let http2 = server.caller().with_version(Version::HTTP_2);
    let uri = format!("http://{}{TARGET}", server.callers);
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri(uri)
        .extension(Protocol::from_static("websocket"))
        .body(body::empty())
        .unwrap();
    // It is offered nowhere, so a client may refuse by itself to send it (RFC 8441 §3).
    if let Ok(answer) = http2.try_send(request).await {
        answer.problem(ErrorCode::UpgradeNotSupported).await;
    }
    assert_eq!(origin.connections(), 0);
}

/// How an answer's body is framed on its way to the caller, and the head with which the origin begins it.
const FRAMINGS: [(Version, &str); 4] = [
    (
        Version::HTTP_11,
        "Transfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\n",
    ),
    (Version::HTTP_11, "Content-Length: 100\r\n\r\nbegin"),
    (
        Version::HTTP_2,
        "Transfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\n",
    ),
    (Version::HTTP_2, "Content-Length: 100\r\n\r\nbegin"),
];

/// Begins an answer, lets `break_off` happen, and asserts that the caller sees a broken body.
async fn assert_broken(
    origin: &Origin,
    caller: Caller,
    framing: &str,
    break_off: impl AsyncFnOnce(Exchange),
) {
    let play = async {
        let mut exchange = origin.next().await;
        exchange
            .send(format!("HTTP/1.1 200 OK\r\n{framing}").as_bytes())
            .await;
        exchange
    };
    let (mut answer, exchange) = tokio::join!(caller.get(TARGET), play);
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.chunk().await.unwrap(), "begin");
    let rest = async {
        while let Ok(chunk) = answer.try_chunk().await {
            assert!(chunk.is_some(), "the body ended as if it were whole");
        }
    };
    let ((), ()) = tokio::join!(rest, break_off(exchange));
}

#[tokio::test]
async fn an_origin_that_breaks_off_leaves_a_body_that_is_seen_to_be_broken() {
    let (origin, server, agent) = scripted().await;
    for (version, framing) in FRAMINGS {
        let caller = server.caller().with_version(version);
        assert_broken(&origin, caller, framing, async |exchange| drop(exchange)).await;
    }
    let ends: Vec<_> = agent
        .stop()
        .await
        .iter()
        .map(|line| line["ended"].clone())
        .collect();
    assert_eq!(
        ends.iter().filter(|end| **end == "origin-failed").count(),
        FRAMINGS.len()
    );
}

#[tokio::test]
async fn a_tunnel_that_is_cut_leaves_a_body_that_is_seen_to_be_broken() {
    let (origin, server, tap, agent) = tapped().await;
    for (version, framing) in FRAMINGS {
        agent.connected().await;
        let caller = server.caller().with_version(version);
        assert_broken(&origin, caller, framing, async |mut exchange| {
            tap.cut();
            exchange.client_gone().await;
            agent.disconnected().await;
        })
        .await;
    }
}

#[tokio::test]
async fn an_origin_that_falls_silent_leaves_a_body_that_is_seen_to_be_broken() {
    let origin = Origin::scripted().await;
    let server = Server::start(Site::simple()).await;
    let _agent = AgentSetup::allowing_everything(&origin.url())
        .setting("timeouts: {idle: 200ms}")
        .start(&server)
        .await;
    for (version, framing) in FRAMINGS {
        let caller = server.caller().with_version(version);
        assert_broken(&origin, caller, framing, async |mut exchange| {
            exchange.client_gone().await;
        })
        .await;
    }
}

#[tokio::test]
async fn forty_kib_of_headers_pass_both_ways() {
    let value = "v".repeat(4 * 1024);
    let names: Vec<String> = (0..10).map(|index| format!("x-large-{index}")).collect();
    let headers: Vec<(String, String)> = names
        .iter()
        .map(|name| (name.clone(), value.clone()))
        .collect();
    let of_answer = headers.clone();
    let origin = Origin::answering(move |_| {
        let headers: Vec<_> = of_answer
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        origin::Answer::new(200, &headers, "{}")
    })
    .await;
    let (server, _agent) = permissive(&origin).await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let caller = headers.iter().fold(
            server.caller().with_version(version),
            |caller, (name, value)| caller.with_header(name, value),
        );
        let answer = caller.get(TARGET).await;
        assert_eq!(answer.status(), 200);
        let request = origin.requests().pop().unwrap();
        for name in &names {
            assert_eq!(answer.header(name), Some(value.as_str()), "{name}");
            assert_eq!(request.head.value(name).as_ref(), Some(&value), "{name}");
        }
    }
}

#[tokio::test]
async fn over_64_kib_of_headers_are_refused_and_the_tunnel_lives_on() {
    let origin = Origin::answering(|_| origin::Answer::json("{}")).await;
    let (server, tap, _agent) = behind_a_tap(&origin).await;
    let with_headers = |version, kib| {
        (0..kib).fold(server.caller().with_version(version), |caller, index| {
            caller.with_header(&format!("x-{index}"), &"v".repeat(1024))
        })
    };
    for (version, kib) in [
        (Version::HTTP_11, 90),
        (Version::HTTP_2, 70),
        (Version::HTTP_2, 90),
    ] {
        let answer = with_headers(version, kib).get(TARGET).await;
        assert_eq!(answer.status(), 431, "{kib} KiB by {version:?}");
    }
    let head = server.raw_head(
        &format!("GET {TARGET}"),
        &format!("X: {}\r\n", "v".repeat(300_000)),
    );
    assert_eq!(server.stranger().raw(&head).await.head.status(), 431);
    assert_eq!(origin.connections(), 0);
    // Just below the limit there is room for what the server adds.
    assert_eq!(
        with_headers(Version::HTTP_11, 60)
            .get(TARGET)
            .await
            .status(),
        200
    );
    assert_eq!(tap.links(), 2);
}

//! Requests that two HTTP parsers could split differently: the origin sees the one that was judged, or none.

use broker_protocol::ErrorCode;
use broker_tests::broker::{AGENT, AgentSetup, CALLER, Server, Site, TENANT, permissive};
use broker_tests::caller::{Caller, body};
use broker_tests::origin::{Answer, Origin};
use bytes::Bytes;
use http::{Request, Version};
use serde_json::json;

/// What follows each case on the same connection: seen by the origin where the case is over and the connection is
/// kept, and never as anything else.
const NEXT: &str = "GET /broker/sonarqube/next";

/// A case's header lines, its body, and what the origin sees of it and of [`NEXT`].
type Case = (&'static str, &'static str, &'static [&'static str]);

const KEPT: &[&str] = &["POST /case HTTP/1.1", "GET /next HTTP/1.1"];
const CLOSED: &[&str] = &["POST /case HTTP/1.1"];
const REFUSED: &[&str] = &[];
const REFUSED_AND_KEPT: &[&str] = &["GET /next HTTP/1.1"];

const CASES: &[Case] = &[
    // Two lengths: the chunked one counts, and the connection is not used again (RFC 9112 §6.1).
    (
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "0\r\n\r\n",
        CLOSED,
    ),
    (
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        "0\r\n\r\n",
        CLOSED,
    ),
    (
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "hello!",
        REFUSED,
    ),
    ("Content-Length: 5\r\nContent-Length: 5\r\n", "hello", KEPT),
    ("Content-Length: 5, 5\r\n", "hello", REFUSED),
    ("Content-Length: +5\r\n", "hello", REFUSED),
    ("Content-Length: -5\r\n", "hello", REFUSED),
    ("Content-Length: 0x5\r\n", "hello", REFUSED),
    ("Content-Length: 99999999999999999999\r\n", "hello", REFUSED),
    ("Content-Length : 5\r\n", "hello", REFUSED),
    // Codings that hide `chunked`.
    (
        "Transfer-Encoding: chunked, identity\r\n",
        "0\r\n\r\n",
        REFUSED,
    ),
    ("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n", REFUSED),
    ("Transfer-Encoding: gzip\r\n", "0\r\n\r\n", REFUSED),
    (
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "0\r\n\r\n",
        REFUSED,
    ),
    ("Transfer-Encoding : chunked\r\n", "0\r\n\r\n", REFUSED),
    ("Transfer-Encoding:\x0bchunked\r\n", "0\r\n\r\n", REFUSED),
    ("X: y\rTransfer-Encoding: chunked\r\n", "0\r\n\r\n", REFUSED),
    (
        "X: y\r\n Transfer-Encoding: chunked\r\n",
        "0\r\n\r\n",
        REFUSED,
    ),
    // Chunks.
    (
        "Transfer-Encoding: CHUNKED\r\n",
        "5;a=b\r\nhello\r\n0\r\nX-Trailer: 1\r\n\r\n",
        KEPT,
    ),
    (
        "Transfer-Encoding: chunked\r\n",
        "zz\r\nhello\r\n0\r\n\r\n",
        REFUSED,
    ),
    (
        "Transfer-Encoding: chunked\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        REFUSED,
    ),
    (
        "Transfer-Encoding: chunked\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        REFUSED,
    ),
    (
        "Transfer-Encoding: chunked\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        REFUSED,
    ),
    (
        "Transfer-Encoding: chunked\r\n",
        "fffffffffffffffff5\r\nhello\r\n0\r\n\r\n",
        REFUSED,
    ),
    (
        "Transfer-Encoding: chunked\r\n",
        "5\r\nhelloXX0\r\n\r\n",
        REFUSED,
    ),
    (
        "Transfer-Encoding: chunked\r\n",
        "5\nhello\r\n0\r\n\r\n",
        REFUSED,
    ),
    // Header lines.
    ("X: y\r\n folded\r\n", "", REFUSED),
    ("X: a\rb\r\n", "", REFUSED),
    ("X: a\0b\r\n", "", REFUSED),
    ("X y: a\r\n", "", REFUSED),
    ("X\r\n", "", REFUSED),
    (": a\r\n", "", REFUSED),
    ("X: y\n", "", KEPT),
    // More than one name for us (RFC 9112 §3.2).
    ("Host: other\r\n", "", REFUSED_AND_KEPT),
    // A body that is a request.
    (
        "Content-Length: 38\r\n",
        "GET /smuggled HTTP/1.1\r\nHost: broker\r\n\r\n",
        KEPT,
    ),
];

#[tokio::test]
async fn one_accepted_request_is_one_request_at_the_origin() {
    let origin = Origin::answering(|_| Answer::json("{}")).await;
    let (server, _agent) = permissive(&origin).await;
    let mut seen = 0;
    for (lines, body, expected) in CASES {
        let case = [
            server.raw_head("POST /broker/sonarqube/case", lines),
            body.as_bytes().to_vec(),
            server.raw_head(NEXT, "Connection: close\r\n"),
        ];
        let answers = server.stranger().raw_until_close(&case.concat()).await;
        let answers = String::from_utf8(answers).unwrap();
        let requests = origin.requests().split_off(seen);
        let lines_seen: Vec<_> = requests
            .iter()
            .map(|request| request.head.first_line())
            .collect();
        assert_eq!(lines_seen, *expected, "{lines:?} {body:?}: {answers}");
        for request in &requests {
            let lengths = request.head.values("content-length").len();
            let codings = request.head.values("transfer-encoding").len();
            assert!(lengths + codings <= 1, "{lines:?}: {:?}", request.head);
        }
        let accepted = answers.matches("HTTP/1.1 200").count();
        assert_eq!(accepted, expected.len(), "{lines:?} {body:?}: {answers}");
        seen += requests.len();
    }
}

#[tokio::test]
async fn no_request_is_smuggled_into_another_callers_name() {
    const SMUGGLED: &str = "GET /broker/sonarqube/smuggled HTTP/1.1\r\nHost: broker\r\n\r\n";
    const OTHER: &str = "kubernetes";
    let origin = Origin::answering(|_| Answer::json("{}")).await;
    let site = Site::simple().caller(TENANT, OTHER, "broker-authorization");
    let server = Server::start(site).await;
    // Each caller has a credential of its own at the origin, and both share connections to it.
    let rule = |caller| {
        let auth = json!({"scheme": "token", "token": caller});
        json!({"path": "/**", "methods": ["GET", "POST"], "origin": origin.url(), "callers": [caller], "auth": auth})
    };
    let rules = json!({"version": 2, "private": [rule(CALLER), rule(OTHER)]});
    let agent = AgentSetup::with_rules(rules).start(&server).await;
    let other = server.caller_as(TENANT, OTHER, "broker-authorization");

    let mut theirs = 0;
    for (lines, body) in [
        (
            "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
            "0\r\n\r\n",
        ),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 9999\r\n",
            "0\r\n\r\n",
        ),
        ("Content-Length: 64\r\n", ""),
        ("Content-Length: 64\r\nContent-Length: 0\r\n", ""),
        ("Content_Length: 64\r\nContent-Length: 0\r\n", ""),
        ("Transfer_Encoding: chunked\r\nContent-Length: 64\r\n", ""),
        ("Content-Length : 0\r\nContent-Length: 64\r\n", ""),
        ("Transfer-Encoding: chunked\r\n", "40\r\n"),
        ("Transfer-Encoding: chunked\r\n", "0\r\nX: y\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\n", "0;\n\r\n"),
        ("X: y\r\n Content-Length: 64\r\n", ""),
        ("X: y\rContent-Length: 64\r\n", ""),
        ("X: y\n\nContent-Length: 64\r\n", ""),
    ] {
        let case = [
            &server.raw_head("POST /broker/sonarqube/case", lines),
            body.as_bytes(),
            SMUGGLED.as_bytes(),
            &server.raw_head(NEXT, "Connection: close\r\n"),
        ];
        server.stranger().raw_until_close(&case.concat()).await;
        assert_eq!(other.get("/broker/sonarqube/theirs").await.status(), 200);
        theirs += 1;
    }

    let requests = origin.requests();
    let of_other = |request: &&broker_tests::origin::Request| {
        request.head.values("authorization") == [format!("Token {OTHER}")]
    };
    let lines: Vec<_> = requests
        .iter()
        .filter(of_other)
        .map(|it| it.head.first_line())
        .collect();
    assert_eq!(lines, vec!["GET /theirs HTTP/1.1"; theirs]);
    for request in &requests {
        assert_ne!(request.head.target(), "/smuggled", "{:?}", request.head);
    }
    for line in agent.audit("decision") {
        let is_theirs = line["path"] == "/theirs";
        assert_eq!(
            line["caller"],
            if is_theirs { OTHER } else { CALLER },
            "{line}"
        );
    }
}

#[tokio::test]
async fn no_tunnel_is_smuggled_into_the_agents_listener() {
    let server = Server::start(Site::simple().without_tls()).await;
    let secret = server.site.agent_token(TENANT, AGENT).expose();
    let handshake = format!(
        "GET /tunnel HTTP/1.1\r\nHost: broker\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: broker.h2.v1\r\nAuthorization: Bearer {secret}\r\nBroker-Agent: {AGENT}\r\n\
         Broker-Instance: a\r\nBroker-Run: a\r\nBroker-Version: 0.1.0\r\n\r\n"
    );
    let agents = Caller::to(server.agents);
    let opened = agents.raw(handshake.as_bytes()).await;
    assert_eq!(opened.head.status(), 101, "it would be one");

    let length = handshake.len();
    for (lines, body) in [
        (format!("Content-Length: {length}\r\n"), ""),
        (
            format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"),
            "0\r\n\r\n",
        ),
        (
            format!("Content-Length: 0\r\nContent-Length: {length}\r\n"),
            "",
        ),
        (
            format!("Content-Length : 0\r\nContent-Length: {length}\r\n"),
            "",
        ),
        ("Transfer-Encoding: xchunked\r\n".to_owned(), ""),
        ("Transfer-Encoding: chunked\r\n".to_owned(), "zz\r\n"),
        ("Transfer-Encoding: chunked\r\n".to_owned(), "0\n\r\n"),
        ("X: y\r\n folded\r\n".to_owned(), ""),
        ("X: y\rz\r\n".to_owned(), ""),
    ] {
        let case = format!(
            "POST /tunnel HTTP/1.1\r\nHost: broker\r\n{lines}\r\n{body}{handshake}\
             GET /end HTTP/1.1\r\nHost: broker\r\nConnection: close\r\n\r\n"
        );
        let answers = agents.raw_until_close(case.as_bytes()).await;
        let answers = String::from_utf8_lossy(&answers);
        assert!(
            !answers.contains("HTTP/1.1 101"),
            "{lines:?} {body:?}: {answers}"
        );
    }
}

#[tokio::test]
async fn an_answer_that_nobody_asked_for_reaches_nobody() {
    let origin = Origin::scripted().await;
    let (server, _agent) = permissive(&origin).await;
    let caller = server.caller();
    let play = async {
        let mut exchange = origin.next().await;
        let two = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst\
                   HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled";
        exchange.send(two.as_bytes()).await;
        exchange.client_gone().await;
        origin.next().await.answer(Answer::json("{}")).await;
    };
    let ask = async {
        assert_eq!(
            caller.get("/broker/sonarqube/1").await.text().await,
            "first"
        );
        assert_eq!(caller.get("/broker/sonarqube/2").await.text().await, "{}");
    };
    tokio::join!(play, ask);
}

#[tokio::test]
async fn pipelined_requests_are_answered_one_by_one_and_each_is_judged() {
    let origin = Origin::answering(|_| Answer::json("{}")).await;
    let (server, agent) = permissive(&origin).await;
    let requests = [
        server.raw_head("POST /broker/sonarqube/1", "Content-Length: 3\r\n"),
        b"one".to_vec(),
        server.raw_head("GET /broker/sonarqube/a/../2", ""),
        server.raw_head("GET /broker/sonarqube/3", "Connection: close\r\n"),
    ];
    let answers = server.stranger().raw_until_close(&requests.concat()).await;

    let answers = String::from_utf8(answers).unwrap();
    let statuses: Vec<_> = answers
        .match_indices("HTTP/1.1 ")
        .map(|(at, _)| &answers[at + 9..at + 12])
        .collect();
    assert_eq!(statuses, ["200", "400", "200"]);
    let seen: Vec<_> = origin
        .requests()
        .iter()
        .map(|request| request.head.target())
        .collect();
    assert_eq!(seen, ["/1", "/3"]);
    let verdicts: Vec<_> = agent
        .audit("decision")
        .iter()
        .map(|line| line["verdict"].clone())
        .collect();
    assert_eq!(verdicts, ["allow", "deny", "allow"]);
}

#[tokio::test]
async fn no_more_of_an_http2_body_travels_than_its_length_says() {
    let origin = Origin::answering(|_| Answer::json("{}")).await;
    let (server, _agent) = permissive(&origin).await;
    let caller = server.caller().with_version(Version::HTTP_2);
    for (length, body) in [(3, "hello"), (9, "hello"), (0, "hello"), (5, "")] {
        // Of unknown length to the client, so that it does not correct the header.
        let (mut sender, upload) = body::channel();
        let play = async move {
            // The server may be gone before all of it is sent.
            sender.send_data(Bytes::from(body)).await.ok();
        };
        let request = Request::post("/broker/sonarqube/case")
            .header("content-length", length)
            .body(upload)
            .unwrap();
        tokio::join!(caller.try_send(request), play).0.ok();
    }
    for request in origin.requests() {
        // A request of length 0 is whole before its body turns out to be one too much.
        assert_eq!(request.head.values("content-length"), ["0"]);
        assert_eq!(request.body, b"");
    }
    let twice = Request::get("/broker/sonarqube/case")
        .header("content-length", "0")
        .header("content-length", "0");
    let answer = caller.send(twice.body(body::empty()).unwrap()).await;
    let problem = answer.problem(ErrorCode::BadRequest).await;
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("content-length")
    );
    let answer = caller.get("/broker/sonarqube/next").await;
    assert_eq!(answer.status(), 200);
    let last = origin.requests().pop().unwrap();
    assert_eq!(last.head.first_line(), "GET /next HTTP/1.1");
}

#[tokio::test]
async fn what_is_no_http1_request_is_refused() {
    let origin = Origin::answering(|_| Answer::json("{}")).await;
    let (server, _agent) = permissive(&origin).await;
    let head = String::from_utf8(server.raw_head("GET /broker/sonarqube/a", "")).unwrap();
    for (from, to) in [
        (" HTTP/1.1", ""),
        (" HTTP/1.1", " HTTP/2.0"),
        (" HTTP/1.1", " HTTP/1.2"),
        (" HTTP/1.1", " http/1.1"),
        (" HTTP/1.1", " HTTP/1.1 "),
        ("GET ", "G(T "),
        ("GET ", " GET "),
        ("GET ", "\0GET "),
        ("Host: broker\r\n", ""),
    ] {
        let request = head.replacen(from, to, 1);
        let answer = server.stranger().raw(request.as_bytes()).await;
        assert_eq!(answer.head.status(), 400, "{request:?}");
    }
    assert_eq!(origin.connections(), 0);
}

//! An origin that gives back the credential that the agent injected: headers are masked, bodies are looked at and never
//! altered.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use broker_tests::broker::{Agent, AgentSetup, Server, Site};
use broker_tests::origin::{self, Origin};
use http::Version;
use serde_json::{Value, json};

const SECRET: &str = "s3cret-of-the-customer";
const TARGET: &str = "/broker/sonarqube/a";

/// A broker whose rule injects this value as a bearer token.
struct Broker {
    origin: Origin,
    server: Server,
    agent: Agent,
}

impl Broker {
    async fn answering(secret: &str, setting: &str, answer: origin::Answer) -> Self {
        let origin = Origin::answering(move |_| answer.clone()).await;
        Self::before(origin, secret, setting).await
    }

    async fn before(origin: Origin, secret: &str, setting: &str) -> Self {
        let server = Server::start(Site::simple()).await;
        let auth = json!({"scheme": "bearer", "token": "${SECRET}"});
        let rule = json!({"method": "any", "path": "/*", "origin": origin.url(), "auth": auth});
        let agent = AgentSetup::with_rules(json!({"private": [rule]}))
            .variable("SECRET", secret)
            .setting(&setting.replace("ORIGIN", &origin.url()))
            .start(&server)
            .await;
        Self {
            origin,
            server,
            agent,
        }
    }

    /// The outcome on record of the only request.
    async fn outcome(self) -> Value {
        let lines = self.agent.stop().await;
        lines[2].clone()
    }
}

#[tokio::test]
async fn an_answers_headers_and_trailers_lose_the_credential_and_nothing_else() {
    let encoded = STANDARD.encode(format!("Bearer {SECRET}"));
    let answer = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Late\r\nX-Echo: got Bearer {SECRET}, thanks\r\n\
         X-Encoded: {encoded}\r\nLocation: /login?token={}\r\nX-Other: s3cret\r\n\r\n\
         2\r\n{{}}\r\n0\r\nX-Late: {SECRET}\r\n\r\n",
        SECRET.replace('-', "%2D")
    );
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let broker = Broker::answering(SECRET, "", origin::Answer::raw(answer.clone())).await;
        let caller = broker.server.caller().with_version(version);
        let request = http::Request::get(TARGET).header("te", "trailers");
        let answer = caller
            .send(request.body(broker_tests::caller::body::empty()).unwrap())
            .await;
        assert_eq!(answer.header("x-echo"), Some("got Bearer ***, thanks"));
        assert!(answer.header("x-encoded").unwrap().contains("***"));
        assert_eq!(answer.header("location"), Some("***"));
        assert_eq!(answer.header("x-other"), Some("s3cret"));
        let (bytes, trailers) = answer.bytes_and_trailers().await;
        assert_eq!(bytes, "{}");
        assert_eq!(trailers["x-late"], "***");

        let outcome = broker.outcome().await;
        let mut masked: Vec<_> = outcome["masked_response_headers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|name| name.as_str().unwrap())
            .collect();
        masked.sort_unstable();
        assert_eq!(masked, ["location", "x-echo", "x-encoded", "x-late"]);
        assert_eq!(outcome["secret_echo"], "none");
    }
}

#[tokio::test]
async fn a_body_that_holds_the_credential_passes_unaltered_and_is_on_record() {
    let found = [
        format!("{{\"token\": \"{SECRET}\"}}"),
        STANDARD.encode(format!("user:{SECRET}")),
        STANDARD.encode(format!("x{SECRET}")),
        STANDARD.encode(SECRET),
    ];
    for body in &found {
        let answer = origin::Answer::new(200, &[("Content-Type", "text/plain")], body);
        let broker = Broker::answering(SECRET, "", answer).await;
        assert_eq!(broker.server.caller().get(TARGET).await.text().await, *body);
        let outcome = broker.outcome().await;
        assert_eq!(outcome["secret_echo"], "found", "{body}");
        assert_eq!(outcome["ended"], "complete");
    }
    let answer = origin::Answer::json("{\"token\": \"s3cret-of-the-custome\"}");
    let broker = Broker::answering(SECRET, "", answer).await;
    assert_eq!(broker.server.caller().get(TARGET).await.status(), 200);
    assert_eq!(broker.outcome().await["secret_echo"], "none");
}

#[tokio::test]
async fn a_body_is_cut_before_the_credential_is_complete_where_the_settings_say_so() {
    for setting in [
        "on-secret-echo: cut",
        "origins: {\"ORIGIN\": {on-secret-echo: cut}}",
    ] {
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let broker = Broker::before(Origin::scripted().await, SECRET, setting).await;
            let caller = broker.server.caller().with_version(version);
            let play = async {
                let mut exchange = broker.origin.next().await;
                exchange.start_chunked(200, &[]).await;
                exchange.send_chunk(b"before ").await;
                let (first, last) = SECRET.split_at(5);
                exchange.send_chunk(first.as_bytes()).await;
                exchange.send_chunk(last.as_bytes()).await;
                exchange.client_gone().await;
            };
            let ask = async {
                let mut answer = caller.get(TARGET).await;
                assert_eq!(answer.status(), 200);
                let mut read = Vec::new();
                while let Ok(chunk) = answer.try_chunk().await {
                    read.extend_from_slice(&chunk.expect("the body is seen to be broken"));
                }
                let read = String::from_utf8(read).unwrap();
                assert!("before s3cre".starts_with(&read), "{read}");
            };
            tokio::join!(play, ask);
            let outcome = broker.outcome().await;
            assert_eq!(outcome["ended"], "secret-echo");
            assert_eq!(outcome["secret_echo"], "found");
            assert_eq!(outcome["bytes_down"], 12);
        }
    }
}

#[tokio::test]
async fn a_stream_is_not_held_back_to_look_at_it() {
    let broker = Broker::before(Origin::scripted().await, SECRET, "on-secret-echo: cut").await;
    let caller = broker.server.caller();
    let (mut exchange, mut answer) = tokio::join!(
        async {
            let mut exchange = broker.origin.next().await;
            exchange.start_events().await;
            exchange
        },
        caller.get(TARGET)
    );
    // The beginning of the credential, and each of its bytes, goes on at once.
    for byte in SECRET.as_bytes().split_last().unwrap().1 {
        exchange.send_chunk(&[*byte]).await;
        assert_eq!(answer.chunk().await.unwrap(), [*byte][..]);
    }
    exchange.send_chunk(b"!").await;
    assert_eq!(answer.chunk().await.unwrap(), "!");
    exchange.finish_chunked(&[]).await;
    assert_eq!(answer.bytes().await, "");
    assert_eq!(broker.outcome().await["secret_echo"], "none");
}

#[tokio::test]
async fn what_cannot_be_looked_at_passes_and_is_on_record_with_the_reason() {
    for (secret, headers, why) in [
        (SECRET, ("Content-Encoding", "gzip"), "compressed"),
        (
            SECRET,
            ("Content-Type", "application/octet-stream"),
            "binary",
        ),
        (
            "short-value",
            ("Content-Type", "text/plain"),
            "short-credential",
        ),
    ] {
        let answer = origin::Answer::new(200, &[headers], secret);
        let broker = Broker::answering(secret, "on-secret-echo: cut", answer).await;
        assert_eq!(
            broker.server.caller().get(TARGET).await.bytes().await,
            secret
        );
        let outcome = broker.outcome().await;
        assert_eq!(outcome["secret_echo"], "unscanned");
        assert_eq!(outcome["unscanned"], why);
        assert_eq!(outcome["ended"], "complete");
    }
}

#[tokio::test]
async fn where_nothing_is_injected_nothing_is_looked_for() {
    let origin = Origin::answering(|request| {
        origin::Answer::new(
            200,
            &[("X-Echo", &request.head.value("authorization").unwrap())],
            "",
        )
    })
    .await;
    let (server, agent) = broker_tests::broker::permissive(&origin).await;
    let caller = server
        .caller()
        .with_header("authorization", "Bearer of-the-caller-itself");
    let answer = caller.get(TARGET).await;
    assert_eq!(answer.header("x-echo"), Some("Bearer of-the-caller-itself"));
    let outcome = agent.stop().await[2].clone();
    assert_eq!(outcome["secret_echo"], Value::Null);
}

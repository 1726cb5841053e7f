//! Rules that ask about query, headers and body: what was judged is what the origin gets.

use broker_protocol::ErrorCode;
use broker_tests::broker::{Agent, AgentSetup, Server, Site};
use broker_tests::caller::{Answer as CallerAnswer, body};
use broker_tests::origin::{Answer, Origin};
use bytes::Bytes;
use http::Request;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use serde_json::{Value, json};

/// A server and an agent with one rule, `/hook`, that has these conditions.
async fn guarded(origin: &Origin, valid: Value, settings: &str) -> (Server, Agent) {
    let server = Server::start(Site::simple()).await;
    let rules = json!({"private": [
        {"method": "any", "path": "/hook", "origin": origin.url(), "valid": valid}
    ]});
    let setup = AgentSetup::with_rules(rules).setting(settings);
    let agent = setup.start(&server).await;
    (server, agent)
}

async fn post(server: &Server, headers: &[(http::HeaderName, &str)], text: &str) -> CallerAnswer {
    let mut request = Request::post("/broker/sonarqube/hook");
    for (name, value) in headers {
        request = request.header(name, *value);
    }
    let body = body::full(Bytes::copy_from_slice(text.as_bytes()));
    server.caller().send(request.body(body).unwrap()).await
}

#[tokio::test]
async fn a_body_passes_as_it_was_judged_or_not_at_all() {
    let origin = Origin::answering(|_| Answer::json("{}")).await;
    let valid = json!([
        {"path": "pull_request.state", "value": "open"},
        {"path": "commits.*.added.*", "regex": "package\\.json$"}
    ]);
    let (server, agent) = guarded(&origin, valid, "").await;
    let good = [
        r#"{ "pull_request": {"state": "open", "n": 1.0} }"#,
        r#"{"commits": [{"added": ["a"]}, {"added": ["b", "x/package.json"]}]}"#,
    ];
    for text in good {
        let answer = post(&server, &[(CONTENT_TYPE, "application/json")], text).await;
        assert_eq!(answer.status(), 200, "{text}");
    }
    for text in [
        "",
        "{}",
        r#"{"pull_request": {"state": "closed"}}"#,
        r#"{"pull_request": {"state": "open", "state": "closed"}}"#,
        r#"{"commits": [{"added": ["package.json.bak"]}]}"#,
        "pull_request.state=open",
    ] {
        post(&server, &[], text)
            .await
            .problem(ErrorCode::Denied)
            .await;
    }
    for headers in [
        [(CONTENT_ENCODING, "gzip")],
        [(CONTENT_TYPE, "application/x-www-form-urlencoded")],
        [(CONTENT_TYPE, "application/json; charset=utf-7")],
    ] {
        let denied = post(&server, &headers, good[0]).await;
        denied.problem(ErrorCode::Denied).await;
    }
    let seen: Vec<_> = origin
        .requests()
        .into_iter()
        .map(|seen| seen.body)
        .collect();
    assert_eq!(seen, good.map(|text| text.as_bytes().to_vec()));
    let outcomes = agent.audit("outcome");
    assert_eq!(outcomes[0]["bytes_up"], good[0].len());
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_before_it_is_kept() {
    let origin = Origin::answering(|_| Answer::json("{}")).await;
    let valid = json!([{"path": "a", "value": "b"}]);
    let (server, agent) = guarded(&origin, valid, "rules: {body-limit: 1000}").await;
    let padded = |len: usize| format!(r#"{{"a": "b"{}}}"#, " ".repeat(len - 10));

    assert_eq!(post(&server, &[], &padded(1000)).await.status(), 200);
    let refused = post(&server, &[], &padded(1001)).await;
    refused.problem(ErrorCode::BodyTooLarge).await;

    // Of unknown length, and never to end: the answer does not wait for it.
    let (mut sender, upload) = body::channel();
    let request = Request::post("/broker/sonarqube/hook")
        .body(upload)
        .unwrap();
    let sending = async {
        sender
            .send_data(Bytes::from(vec![b' '; 1001]))
            .await
            .unwrap();
        sender
    };
    let caller = server.caller();
    let (answer, _sender) = tokio::join!(caller.send(request), sending);
    answer.problem(ErrorCode::BodyTooLarge).await;

    assert_eq!(origin.requests().len(), 1);
    let reasons: Vec<_> = agent
        .audit("decision")
        .into_iter()
        .map(|line| line["reason"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(reasons, ["match", "body-too-large", "body-too-large"]);
}

#[tokio::test]
async fn query_and_headers_are_asked_without_the_body() {
    let origin = Origin::answering(|_| Answer::json("{}")).await;
    let valid = json!([
        {"queryParam": "file", "values": ["**/package.json"]},
        {"header": "accept", "values": ["application/vnd.sha"]}
    ]);
    let (server, _agent) = guarded(&origin, valid, "").await;
    for (query, accept, expected) in [
        ("?file=a/package.json", "application/vnd.sha", 200),
        (
            "?file=a%2Fpackage.json&x=http://y",
            "application/vnd.sha",
            200,
        ),
        ("?file=a/package.json&%66ile=b", "application/vnd.sha", 403),
        ("?file=a/secrets.env", "application/vnd.sha", 403),
        ("?file=a/package.json", "*/*", 403),
        ("", "application/vnd.sha", 403),
    ] {
        let request = Request::get(format!("/broker/sonarqube/hook{query}"))
            .header("accept", accept)
            .body(body::empty())
            .unwrap();
        let answer = server.caller().send(request).await;
        assert_eq!(answer.status(), expected, "{query} {accept}");
    }
}

#[tokio::test]
async fn a_rule_whose_variable_is_not_set_can_be_turned_off_alone() {
    let origin = Origin::answering(|_| Answer::json("{}")).await;
    let server = Server::start(Site::simple()).await;
    let rules = json!({"private": [
        {"path": "/a", "origin": origin.url(), "auth": {"scheme": "bearer", "token": "${UNSET}"}},
        {"path": "/a/*", "origin": origin.url()},
    ]});
    let setup = AgentSetup::with_rules(rules);
    let refused = setup.try_start(&server).await.map(|_| ()).unwrap_err();
    assert!(
        refused.to_string().contains("private[0]: auth: "),
        "{refused}"
    );

    let agent = setup
        .setting("rules: {missing-variables: disable-rule}")
        .start(&server)
        .await;
    let get = async |path: &str| {
        let target = format!("/broker/sonarqube{path}");
        server.caller().get(&target).await.status().as_u16()
    };
    assert_eq!((get("/a").await, get("/a/b").await), (403, 200));
    assert_eq!(agent.audit("decision")[1]["rule"], 1);
    let warnings = agent.board.snapshot().warnings;
    let told = |text: &String| text.contains("private[0] is turned off") && text.contains("UNSET");
    assert!(warnings.iter().any(told), "{warnings:?}");
}

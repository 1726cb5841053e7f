//! The main job: a caller's request reaches the origin through the tunnel, and the answer comes back.

use broker_tests::broker::{AgentSetup, Server, Site};
use broker_tests::origin::{Answer, Origin};
use serde_json::json;

#[tokio::test]
async fn an_allowed_request_reaches_the_origin_with_the_credential_and_is_on_record() {
    let origin = Origin::answering(|_| Answer::json(r#"{"fine":true}"#)).await;
    let server = Server::start(Site::simple()).await;
    let rules = json!({"private": [{
        "path": "/api/*", "origin": origin.url(), "auth": {"scheme": "bearer", "token": "${TOKEN}"}
    }]});
    let agent = AgentSetup::with_rules(rules)
        .variable("TOKEN", "s3cret")
        .start(&server)
        .await;

    let answer = server
        .caller()
        .get("/broker/sonarqube/api/issues?p=1")
        .await;

    assert_eq!(answer.status(), 200);
    assert_eq!(answer.text().await, r#"{"fine":true}"#);
    let request = &origin.requests()[0];
    assert_eq!(request.head.first_line(), "GET /api/issues?p=1 HTTP/1.1");
    assert_eq!(
        request.head.value("authorization").unwrap(),
        "Bearer s3cret"
    );
    let lines = agent.stop().await;
    let kinds: Vec<_> = lines
        .iter()
        .map(|line| line["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["start", "decision", "outcome", "stop"]);
    assert_eq!(lines[2]["ended"], "complete");
}

#[tokio::test]
async fn a_request_that_no_rule_allows_is_denied_and_the_origin_sees_nothing() {
    let origin = Origin::answering(|_| Answer::json("{}")).await;
    let server = Server::start(Site::simple()).await;
    let rules = json!({"private": [{"path": "/api/*", "origin": origin.url()}]});
    let _agent = AgentSetup::with_rules(rules).start(&server).await;

    let answer = server.caller().get("/broker/sonarqube/admin").await;

    assert_eq!(answer.status(), 403);
    let problem = answer.json().await;
    assert_eq!(problem["code"], "denied");
    assert_eq!(problem["path"], "/admin");
    assert_eq!(origin.connections(), 0);
}

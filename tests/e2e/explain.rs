//! Why a request was denied: the owner is told all of it, the caller as much as the owner lets it know.

use broker_protocol::ErrorCode;
use broker_tests::broker::{AgentSetup, Server, Site};
use broker_tests::caller::body;
use broker_tests::origin::Origin;
use broker_tests::programs::{AgentProcess, ServerProcess};
use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};

/// What a rule is made of, and no request is.
const CANARY: &str = "canary";

/// Rules that differ from requests in one way each.
fn rules() -> Value {
    json!({"private": [
        {"path": "/api/canary-segment", "origin": "http://origin"},
        {"method": "PUT", "path": "/method", "origin": "http://origin"},
        {"path": "/query", "origin": "http://origin", "valid": [{"queryParam": "canary-name", "values": ["canary"]}]},
        {"path": "/header", "origin": "http://origin", "valid": [{"header": "x-canary", "values": ["canary"]}]},
        {"method": "POST", "path": "/body", "origin": "http://origin", "valid": [{"path": "canary", "value": "canary"}]}
    ]})
}

/// A denied request for each, and the part in which it differs.
const DENIED: [(&str, &str, &str); 6] = [
    ("GET", "/nowhere", "path"),
    ("GET", "/api/other", "path"),
    ("GET", "/method", "method"),
    ("GET", "/query?q=1", "query"),
    ("GET", "/header", "header"),
    ("POST", "/body", "body"),
];

/// What the callers of the denied requests are told under these settings.
async fn told(settings: &str) -> Vec<Value> {
    let server = Server::start(Site::simple()).await;
    let setup = AgentSetup::with_rules(rules()).setting(settings);
    let _agent = setup.start(&server).await;
    let mut answers = Vec::new();
    for (method, target, _) in DENIED {
        let request = Request::builder()
            .method(method)
            .uri(format!("/broker/sonarqube{target}"))
            .body(body::full(Bytes::from_static(b"{}")))
            .unwrap();
        let answer = server.caller().send(request).await;
        answers.push(answer.problem(ErrorCode::Denied).await);
    }
    answers
}

#[tokio::test]
async fn callers_are_told_which_part_differs_and_nothing_of_a_rule() {
    for answer in told("").await.iter().zip(DENIED) {
        let (answer, (.., part)) = answer;
        assert_eq!(answer["differs"], part);
        for member in ["rule", "nearest", "contact"] {
            assert_eq!(answer.get(member), None, "{answer}");
        }
        assert!(!answer.to_string().contains(CANARY), "{answer}");
    }
}

#[tokio::test]
async fn callers_may_be_told_nothing_or_the_nearest_rule() {
    for answer in told("rules: {explain-to-callers: none, contact: 'it@example.org'}").await {
        for member in ["differs", "rule", "nearest"] {
            assert_eq!(answer.get(member), None, "{answer}");
        }
        assert_eq!(answer["contact"], "it@example.org");
    }

    let answers = told("rules: {explain-to-callers: nearest}").await;
    let told: Vec<_> = answers
        .iter()
        .map(|answer| json!([answer["differs"], answer["rule"], answer["nearest"]]))
        .collect();
    assert_eq!(
        told,
        [
            json!(["path", null, null]),
            json!([
                "path",
                0,
                "private[0] GET /api/canary-segment: segment 2 \"other\" is not \"canary-segment\""
            ]),
            json!([
                "method",
                1,
                "private[1] PUT /method: the method differs (GET)"
            ]),
            json!([
                "query",
                2,
                "private[2] GET /query: the query parameter \"canary-name\" has no allowed value"
            ]),
            json!([
                "header",
                3,
                "private[3] GET /header: the header \"x-canary\" has no allowed value"
            ]),
            json!([
                "body",
                4,
                "private[4] POST /body: the body at \"canary\" has no allowed value"
            ]),
        ]
    );
}

#[tokio::test]
async fn without_rules_nothing_differs_and_the_contact_is_named() {
    let server = Server::start(Site::simple()).await;
    let contact = "https://help.example.org/?topic=broker";
    let setup = AgentSetup::without_rules().setting(&format!("rules: {{contact: '{contact}'}}"));
    let _agent = setup.start(&server).await;
    let answer = server.caller().get("/broker/sonarqube/").await;
    let problem = answer.problem(ErrorCode::Denied).await;
    assert_eq!(
        (problem.get("differs"), &problem["contact"]),
        (None, &json!(contact))
    );
}

#[tokio::test]
async fn the_owner_finds_the_nearest_rule_in_log_record_and_status() {
    let origin = Origin::scripted().await;
    let rules = json!({"private": [
        {"path": "/api/issues/*", "origin": origin.url(), "valid": [{"header": "accept", "values": ["*/*"]}]}
    ]});
    let server = ServerProcess::start(Site::simple()).await;
    let agent = AgentProcess::start(&AgentSetup::with_rules(rules), &server).await;
    let caller = server.caller().with_header("accept", "text/canary");

    caller
        .get("/broker/sonarqube/api/users")
        .await
        .problem(ErrorCode::Denied)
        .await;
    caller
        .get("/broker/sonarqube/api/issues/1")
        .await
        .problem(ErrorCode::Denied)
        .await;
    caller
        .get("/broker/sonarqube/users")
        .await
        .problem(ErrorCode::Denied)
        .await;

    let [path, header] = [
        "segment 2 \"users\" is not \"issues\"",
        "the header \"accept\" has no allowed value",
    ];
    let records: Vec<_> = agent
        .audit("decision")
        .into_iter()
        .map(|line| line.get("nearest").cloned())
        .collect();
    assert_eq!(
        records,
        [
            Some(json!({"rule": 0, "part": "path", "detail": path})),
            Some(json!({"rule": 0, "part": "header", "detail": header})),
            None,
        ]
    );
    let rule = "private[0] GET /api/issues/*";
    let status: Value = serde_json::from_str(&agent.status(&["--json"]).await).unwrap();
    assert_eq!(status["denials"][0]["nearest"], format!("{rule}: {path}"));
    assert_eq!(status["denials"][1]["nearest"], format!("{rule}: {header}"));
    assert_eq!(status["denials"][2]["nearest"], Value::Null);
    let shown = agent.status(&[]).await;
    assert!(
        shown.contains(&format!("\n    nearest is {rule}: {header}\n")),
        "{shown}"
    );
    let logged = agent
        .child()
        .stderr()
        .line_with("path=\"/api/issues/1\"")
        .await;
    assert!(
        logged.contains(rule) && logged.contains("has no allowed value"),
        "{logged}"
    );
    assert!(!agent.child().stderr().text().contains("text/canary"));
}

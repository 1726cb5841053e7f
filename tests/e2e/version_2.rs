//! Rules of version 2: what only they can say holds on the wire.

use std::time::Duration;

use broker_protocol::ErrorCode;
use broker_tests::broker::{AgentSetup, Server, Site, TENANT};
use broker_tests::origin::{Answer, Origin};
use serde_json::{Value, json};

const TARGET: &str = "/broker/sonarqube/a";

/// A rule for `GET /a`, with `extra`.
fn rules(origin: &Origin, extra: Value) -> Value {
    let mut rule = json!({"path": "/a", "origin": origin.url()});
    let fields = rule.as_object_mut().unwrap();
    fields.extend(extra.as_object().unwrap().clone());
    json!({"version": 2, "private": [rule]})
}

#[tokio::test]
async fn only_the_callers_that_a_rule_names_reach_its_origin() {
    let origin = Origin::answering(|_| Answer::json("{}")).await;
    let site = Site::simple().caller(TENANT, "other", "broker-authorization");
    let server = Server::start(site).await;
    let rules = rules(&origin, json!({"callers": ["proxy"]}));
    let _agent = AgentSetup::with_rules(rules).start(&server).await;

    assert_eq!(server.caller().get(TARGET).await.status(), 200);
    let other = server.caller_as(TENANT, "other", "broker-authorization");
    let denied = other.get(TARGET).await;

    denied.problem(ErrorCode::Denied).await;
    assert_eq!(origin.requests().len(), 1);
}

#[tokio::test]
async fn a_rule_whose_day_is_over_allows_nothing() {
    let origin = Origin::answering(|_| Answer::json("{}")).await;
    for (day, status) in [("2020-01-31", 403), ("9999-12-30", 200)] {
        let server = Server::start(Site::simple()).await;
        let rules = rules(&origin, json!({"expires": day}));
        let _agent = AgentSetup::with_rules(rules).start(&server).await;
        assert_eq!(server.caller().get(TARGET).await.status(), status, "{day}");
    }
}

#[tokio::test]
async fn the_time_limits_of_a_rule_win_over_the_settings() {
    let origin = Origin::scripted().await;
    let server = Server::start(Site::simple()).await;
    let rules = rules(&origin, json!({"timeout": {"first-byte": "200ms"}}));
    let settings = format!(
        "origins: {{\"{}\": {{first-byte-timeout: 1h}}}}",
        origin.url()
    );
    let agent = AgentSetup::with_rules(rules).setting(&settings);
    let agent = agent.start(&server).await;
    let caller = server.caller();
    let play = async {
        let mut exchange = origin.next().await;
        exchange.client_gone().await;
    };

    let both = async { tokio::join!(caller.get(TARGET), play) };
    let (answer, ()) = tokio::time::timeout(Duration::from_secs(30), both)
        .await
        .unwrap();

    answer.problem(ErrorCode::OriginTimeout).await;
    assert_eq!(agent.stop().await[2]["ended"], "timed-out");
}

#[tokio::test]
async fn a_header_that_never_travels_cannot_be_allowed() {
    let origin = Origin::answering(|_| Answer::json("{}")).await;
    let server = Server::start(Site::simple()).await;
    for name in ["Connection", "Broker-Caller", "Host"] {
        let rules = rules(&origin, json!({"allow-headers": [name]}));
        let Err(error) = AgentSetup::with_rules(rules).try_start(&server).await else {
            panic!("{name} is refused");
        };
        let expected = format!(
            "private[0]: \"allow-headers\" cannot be \"{}\": headers of this name never travel",
            name.to_lowercase()
        );
        assert!(error.to_string().contains(&expected), "{error}");
    }
}

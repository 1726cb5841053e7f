//! What an agent's owner limits: how often, how many at once, how long an answer.

use broker_protocol::ErrorCode;
use broker_tests::broker::{AgentSetup, Server, Site, TENANT};
use broker_tests::caller::{Answer as Seen, body};
use broker_tests::origin::{Answer, Origin};
use broker_tests::wait::within;
use futures_util::future::select_all;
use serde_json::{Value, json};

const TARGET: &str = "/broker/sonarqube/a";

/// Rules of version 2: `GET /a` with `limits`, and `GET /b` without.
fn rules(origin: &Origin, limits: Value) -> Value {
    json!({"version": 2, "private": [
        {"path": "/a", "origin": origin.url(), "limits": limits},
        {"path": "/**", "origin": origin.url()},
    ]})
}

async fn ok() -> Origin {
    Origin::answering(|_| Answer::json("{}")).await
}

/// Seconds after which to try again; asserts that a limit held the request back.
async fn held_back(answer: Seen) -> u64 {
    let seconds = answer.header("retry-after").unwrap().parse().unwrap();
    let code = ErrorCode::RateLimited;
    answer.problem_with(code, Some(seconds)).await;
    seconds
}

/// The decisions of an agent's log: verdict, reason, rule.
fn decisions(records: &[Value]) -> Vec<(&str, &str, Option<u64>)> {
    let text = |record: &'_ Value, field: &str| record[field].as_str().unwrap().to_owned();
    let decisions = records.iter().filter(|it| text(it, "kind") == "decision");
    decisions
        .map(|it| {
            let field = |name: &str| it[name].as_str().unwrap();
            (field("verdict"), field("reason"), it["rule"].as_u64())
        })
        .collect()
}

#[tokio::test]
async fn a_rule_lets_so_many_pass_and_its_log_says_what_it_held_back() {
    let origin = ok().await;
    let server = Server::start(Site::simple()).await;
    let rules = rules(&origin, json!({"rate": "2/h"}));
    let agent = AgentSetup::with_rules(rules).start(&server).await;
    let caller = server.caller();

    for _ in 0..2 {
        assert_eq!(caller.get(TARGET).await.status(), 200);
    }
    let wait = held_back(caller.get(TARGET).await).await;
    assert!((1..=1800).contains(&wait), "{wait}");
    assert_eq!(caller.get("/broker/sonarqube/b").await.status(), 200);

    assert_eq!(origin.requests().len(), 3);
    assert_eq!(
        decisions(&agent.stop().await),
        [
            ("allow", "match", Some(0)),
            ("allow", "match", Some(0)),
            ("deny", "rate-limited", Some(0)),
            ("allow", "match", Some(1)),
        ]
    );
}

#[tokio::test]
async fn a_caller_at_its_limit_leaves_the_others_theirs() {
    let origin = ok().await;
    let site = Site::simple().caller(TENANT, "other", "broker-authorization");
    let server = Server::start(site).await;
    let unversioned = json!({"private": [{"path": "/*", "origin": origin.url()}]});
    let in_a_rule = rules(&origin, json!({"per-caller": {"rate": "1/h"}}));
    for (rules, setting) in [
        (in_a_rule, "limits: {}"),
        (unversioned, "limits: {caller-rate: 1/h}"),
    ] {
        let agent = AgentSetup::with_rules(rules).setting(setting);
        let agent = agent.start(&server).await;
        let other = server.caller_as(TENANT, "other", "broker-authorization");
        for caller in [server.caller(), other] {
            assert_eq!(caller.get(TARGET).await.status(), 200, "{setting}");
            held_back(caller.get(TARGET).await).await;
        }
        agent.stop().await;
    }
}

#[tokio::test]
async fn no_more_are_under_way_than_may_be_until_one_has_ended() {
    let origin = Origin::scripted().await;
    let server = Server::start(Site::simple()).await;
    let unversioned = json!({"private": [{"path": "/*", "origin": origin.url()}]});
    let in_a_rule = rules(&origin, json!({"concurrency": 1}));
    for (rules, setting) in [
        (in_a_rule, "limits: {}"),
        (unversioned, "limits: {caller-concurrency: 1}"),
    ] {
        let agent = AgentSetup::with_rules(rules).setting(setting);
        let agent = agent.start(&server).await;
        let caller = server.caller();
        let begin = async {
            let mut exchange = origin.next().await;
            exchange.start_chunked(200, &[]).await;
            exchange.send_chunk(b"a").await;
            exchange
        };
        let (mut under_way, mut exchange) = tokio::join!(caller.get(TARGET), begin);
        assert_eq!(under_way.chunk().await.unwrap(), "a");

        // Its answer is under way until its last byte.
        assert_eq!(held_back(caller.get(TARGET).await).await, 1, "{setting}");
        exchange.finish_chunked(&[]).await;
        assert!(under_way.chunk().await.is_none());
        let answer = async {
            let next = exchange.next().await;
            next.unwrap().answer(Answer::json("{}")).await;
        };
        let (next, ()) = tokio::join!(caller.get(TARGET), answer);
        assert_eq!(next.status(), 200, "{setting}");
        agent.stop().await;
    }
}

#[tokio::test]
async fn a_caller_at_its_limit_takes_no_place_for_a_body_that_rules_ask_about() {
    let origin = ok().await;
    let server = Server::start(Site::simple()).await;
    let body = json!({"any": [{"path": "a", "value": "b"}]});
    let rule = json!({"path": "/a", "methods": ["POST"], "origin": origin.url(), "body": body});
    let rules = json!({"version": 2, "private": [rule]});
    let agent = AgentSetup::with_rules(rules).setting("limits: {caller-concurrency: 1}");
    let agent = agent.start(&server).await;
    let caller = server.caller();
    let begin = || {
        let (sender, unfinished) = body::channel();
        let request = http::Request::post(TARGET).header("content-type", "application/json");
        let request = request.body(unfinished).unwrap();
        (sender, Box::pin(caller.send(request)))
    };
    let (mut senders, posts): (Vec<_>, Vec<_>) = (0..2).map(|_| begin()).unzip();

    // One of the two waits for its body; the other need not even send it.
    let held = within("a request is held back", select_all(posts)).await;
    let (answer, index, mut left) = held;
    held_back(answer).await;

    let mut sender = senders.remove(1 - index);
    let finish = async {
        sender.send_data("{\"a\": \"b\"}".into()).await.unwrap();
        drop(sender);
    };
    let (answer, ()) = tokio::join!(left.remove(0), finish);
    assert_eq!(answer.status(), 200);
    drop(agent);
}

#[tokio::test]
async fn an_answer_that_is_too_long_is_refused_or_cut() {
    let origin = Origin::scripted().await;
    let server = Server::start(Site::simple()).await;
    let rules = rules(&origin, json!({"response-size": 4}));
    let agent = AgentSetup::with_rules(rules).setting("limits: {response-size: 6}");
    let agent = agent.start(&server).await;
    let caller = server.caller();
    let answer_with = async |target: &str, answer: Answer| {
        let play = async { origin.next().await.try_answer(answer).await };
        tokio::join!(caller.get(target), play).0
    };

    // The shorter of the two limits holds.
    for (target, fits, longer) in [
        (TARGET, "1234", "12345"),
        ("/broker/sonarqube/b", "123456", "1234567"),
    ] {
        let whole = answer_with(target, Answer::json(fits)).await;
        assert_eq!(whole.text().await, fits);
        let refused = answer_with(target, Answer::json(longer)).await;
        refused.problem(ErrorCode::ResponseTooLarge).await;
    }
    let chunks = async {
        let mut exchange = origin.next().await;
        exchange.start_chunked(200, &[]).await;
        exchange.send_chunk(b"1234").await;
        exchange
    };
    let (mut cut, mut exchange) = tokio::join!(caller.get(TARGET), chunks);
    assert_eq!(cut.chunk().await.unwrap(), "1234");
    exchange.send_chunk(b"5").await;
    assert!(cut.try_chunk().await.is_err());

    let records = agent.stop().await;
    let outcomes = records.iter().filter(|it| it["kind"] == "outcome");
    let ended: Vec<_> = outcomes
        .map(|it| {
            (
                it["ended"].as_str().unwrap(),
                it["bytes_down"].as_u64().unwrap(),
            )
        })
        .collect();
    let refused = ("too-long", 0);
    assert_eq!(
        ended,
        [
            ("complete", 4),
            refused,
            ("complete", 6),
            refused,
            ("too-long", 4)
        ]
    );
}

#[tokio::test]
async fn an_origin_that_asks_to_wait_is_heard_by_the_caller_and_not_asked_again() {
    for status in [429, 503] {
        let origin =
            Origin::answering(move |_| Answer::new(status, &[("retry-after", "17")], "slow down"))
                .await;
        let server = Server::start(Site::simple()).await;
        let rules = rules(&origin, json!({}));
        let _agent = AgentSetup::with_rules(rules).start(&server).await;

        let answer = server.caller().get(TARGET).await;

        assert_eq!(answer.status(), status);
        assert_eq!(answer.header("retry-after"), Some("17"));
        assert_eq!(answer.header("broker-error"), None);
        assert_eq!(answer.text().await, "slow down");
        assert_eq!(origin.requests().len(), 1);
    }
}

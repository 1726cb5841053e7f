//! What a verdict costs in memory.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::time::SystemTime;

use accept_rules::{Decision, EncodedSlash, List, Request, RequestTarget, RuleFile, RuleSet};
use http::{HeaderMap, HeaderValue, Method};

const RULES: &str = r#"{"private": [
    {"path": "/literal", "origin": "https://origin"},
    {"path": "/segments/:a/:b", "origin": "https://origin"},
    {"path": "/all/*", "origin": "https://origin"},
    {"path": "/contents/:path*/package.json", "origin": "https://origin"},
    {"path": "/header", "origin": "https://origin", "valid": [{"header": "accept", "values": ["text/html"]}]},
    {"path": "/query", "origin": "https://origin", "valid": [{"queryParam": "ref", "values": ["main"]}]}
]}"#;

#[test]
fn a_request_is_allowed_without_an_allocation() {
    let file = RuleFile::parse(RULES).unwrap();
    let rules = RuleSet::compile(&file, List::Private, |_| EncodedSlash::Data);
    for (target, expected) in [
        ("/literal", 0),
        ("/segments/1/2?q=1", 1),
        ("/all/of/it", 2),
        ("/contents/a/b/package.json", 3),
        ("/header", 4),
        ("/query?ref=main&q=1", 5),
    ] {
        // An expression builds its automaton as it is first used.
        assert_eq!(allocations(&rules, target).0, Some(expected), "{target}");
        assert_eq!(allocations(&rules, target), (Some(expected), 0), "{target}");
    }
}

/// The rule that allows, and how often memory was asked for until that was known.
fn allocations(rules: &RuleSet, target: &str) -> (Option<usize>, u64) {
    let mut headers = HeaderMap::new();
    headers.insert("accept", HeaderValue::from_static("text/html"));
    let request = Request {
        target: RequestTarget::new(&Method::GET, target).unwrap(),
        headers,
        caller: "proxy".into(),
        now: SystemTime::UNIX_EPOCH,
    };
    let mut decision = None;
    let counted = allocation_counter::measure(|| decision = Some(rules.decide(request)));
    let rule = match decision.unwrap() {
        Decision::Allow(allowed) => Some(allowed.rule().as_usize()),
        Decision::Deny(_) | Decision::NeedsBody(_) => None,
    };
    (rule, counted.count_total)
}

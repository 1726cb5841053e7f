//! Kubernetes rules, held against what a real kubectl asks and what a real API server makes of tricks.

use std::fs;
use std::time::SystemTime;

use accept_rules::{Decision, EncodedSlash, List, Request, RequestTarget, RuleFile, RuleSet};
use broker_tests::corpus;
use http::{HeaderMap, Method};
use serde_json::{Value, json};

/// What kubectl asked in a recording, in order; none where there are no recordings.
fn asked(recording: &str) -> Option<Vec<(Method, String)>> {
    let path = corpus::path("kubernetes-recordings")?.join(recording);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let requests = text.lines().filter_map(|line| {
        let (_, request) = line.split_once("round_trippers.go:560] ")?;
        let mut words = request.split(' ');
        let method = words.next()?.parse().ok()?;
        let (_, target) = words.next()?.strip_prefix("https://")?.split_once('/')?;
        Some((method, format!("/{target}")))
    });
    Some(requests.collect())
}

fn rules(verbs: Value, resources: Value) -> RuleSet {
    let rule = json!({
        "kind": "kubernetes", "verbs": verbs, "resources": resources, "namespaces": ["default"],
        "origin": "https://k8s"
    });
    let file = json!({"version": 2, "private": [rule]}).to_string();
    let file = RuleFile::parse(&file).unwrap_or_else(|errors| panic!("{errors}"));
    RuleSet::compile(&file, List::Private, |_| EncodedSlash::Data)
}

fn allows(rules: &RuleSet, method: &Method, target: &str) -> bool {
    let Ok(target) = RequestTarget::new(method, target) else {
        return false;
    };
    let request = Request {
        target,
        headers: HeaderMap::new(),
        caller: "proxy".into(),
        now: SystemTime::UNIX_EPOCH,
    };
    matches!(rules.decide(request), Decision::Allow(_))
}

#[test]
fn each_kubectl_command_needs_its_verbs_and_resources_and_no_others() {
    let get = ["get", "list", "create"];
    for (recording, resources, expected) in [
        // Discovery is no resource: the first two requests.
        ("kubectl-get_pods.txt", json!(["pods"]), "..p"),
        ("kubectl-get_pods.txt", json!(["pods/log"]), "..."),
        ("kubectl-get_pod_nope.txt", json!(["pods"]), "p"),
        ("kubectl-logs_web-1.txt", json!(["pods"]), "p."),
        ("kubectl-logs_web-1.txt", json!(["pods", "pods/*"]), "p."),
        ("kubectl-logs_web-1.txt", json!(["pods", "pods/log"]), "pp"),
        (
            "kubectl-exec_web-1_--_ls.txt",
            json!(["pods", "pods/*", "*.*/*"]),
            "p..",
        ),
        ("kubectl-exec_web-1_--_ls.txt", json!(["pods/exec"]), ".pp"),
    ] {
        let Some(asked) = asked(recording) else {
            return;
        };
        let rules = rules(json!(get), resources.clone());
        let verdict = |(method, target): &(Method, String)| match allows(&rules, method, target) {
            true => 'p',
            false => '.',
        };
        let found: String = asked.iter().map(verdict).collect();
        assert_eq!(found, expected, "{recording} {resources}: {asked:?}");
    }
}

#[test]
fn what_gave_a_real_server_s_secrets_away_passes_no_rule() {
    let everything = rules(
        json!(["get", "list", "watch"]),
        json!(["*.*", "*.*/*", "pods/log", "namespaces"]),
    );
    for target in [
        "/api/v1/namespaces/default%2Fsecrets",
        "/api/v1/namespaces/default/%73ecrets",
        "/api/v1/namespaces/default/..%2fsecrets",
        "/api/v1//namespaces/default/secrets",
        "/api/v1/namespaces/default/secrets",
    ] {
        assert!(!allows(&everything, &Method::GET, target), "{target}");
    }
    assert!(allows(
        &everything,
        &Method::GET,
        "/api/v1/namespaces/default/pods"
    ));
}

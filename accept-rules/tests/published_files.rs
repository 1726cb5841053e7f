//! The rule files that operators run today load, and decide as they did.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may panic, and says when it is skipped"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use accept_rules::{Decision, EncodedSlash, List, Request, RequestTarget, RuleFile, RuleSet, lint};

/// Every file, with how many private and public rules each has.
const LOADED: &[(&str, usize, usize)] = &[
    ("argocd.json", 7, 1),
    ("bitbucket-server.json", 4, 1),
    ("cost-insights.json", 3, 1),
    ("github-enterprise.json", 3, 1),
    ("gitlab-self-hosted.json", 41, 1),
    ("grafana.json", 2, 1),
    ("jenkins.json", 3, 1),
    ("kubernetes.json", 21, 1),
    ("roadie-agent.json", 2, 1),
    ("sonarqube.json", 5, 1),
    ("scm/artifactory.json", 1, 0),
    ("scm/azure-repos.json", 30, 1),
    ("scm/bitbucket-server.json", 117, 1),
    ("scm/container-registry-agent.json", 10, 8),
    ("scm/github-com.json", 320, 2),
    ("scm/gitlab.json", 246, 1),
    ("scm/jira.json", 12, 0),
    ("scm/nexus.json", 4, 0),
];

/// What can be said against each file, with how often.
const FINDINGS: &[(&str, &str)] = &[
    ("argocd.json", "issues-tokens 1"),
    ("bitbucket-server.json", ""),
    ("cost-insights.json", "passes-authorization 1"),
    (
        "github-enterprise.json",
        "catch-all 1, open-graphql 1, passes-authorization 1",
    ),
    (
        "gitlab-self-hosted.json",
        "issues-tokens 2, named-asterisk 1, open-graphql 1",
    ),
    ("grafana.json", "reaches-proxy 1"),
    ("jenkins.json", "runs-scripts 1"),
    (
        "kubernetes.json",
        "glued-asterisk 19, reaches-exec 2, reaches-proxy 2, reaches-secrets 2, shadowed-rule 1",
    ),
    (
        "roadie-agent.json",
        "local-address 1, open-public-list 1, passes-authorization 1",
    ),
    ("sonarqube.json", ""),
    (
        "scm/artifactory.json",
        "catch-all 1, issues-tokens 1, passes-authorization 1",
    ),
    ("scm/azure-repos.json", "passes-authorization 1"),
    (
        "scm/bitbucket-server.json",
        "glued-asterisk 74, passes-authorization 1, shadowed-rule 2",
    ),
    (
        "scm/container-registry-agent.json",
        "passes-authorization 1",
    ),
    (
        "scm/github-com.json",
        "dot-parameter 1, literal-asterisk 1, open-graphql 1, passes-authorization 1, shadowed-rule 1",
    ),
    (
        "scm/gitlab.json",
        "duplicate-rule 1, glued-asterisk 204, open-graphql 1, passes-authorization 2, shadowed-rule 2",
    ),
    ("scm/jira.json", ""),
    ("scm/nexus.json", "catch-all 1, passes-authorization 2"),
];

#[test]
fn every_file_loads_with_all_its_rules() {
    let Some(folder) = published_files() else {
        return;
    };
    for (name, private, public) in LOADED {
        let file = parse(&folder, name).unwrap_or_else(|errors| panic!("{name}: {errors}"));
        let counts = (
            file.rules(List::Private).len(),
            file.rules(List::Public).len(),
        );
        assert_eq!(counts, (*private, *public), "{name}");
        assert!(file.warnings().is_empty(), "{name}");
    }
}

#[test]
fn every_published_file_is_in_the_list() {
    let Some(folder) = published_files() else {
        return;
    };
    let listed = LOADED.iter().map(|(name, ..)| folder.join(name));
    let mut listed: Vec<_> = listed.collect();
    let entries = [&folder, &folder.join("scm")].map(|folder| fs::read_dir(folder).unwrap());
    let paths = entries
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = paths
        .filter(|path| path.extension() == Some("json".as_ref()))
        .collect();
    listed.sort();
    found.sort();
    assert_eq!(found, listed);
}

#[test]
fn published_files_have_these_findings() {
    let Some(folder) = published_files() else {
        return;
    };
    let files = LOADED.iter().map(|(name, ..)| *name);
    let with_findings = FINDINGS.iter().map(|(name, _)| *name);
    assert!(files.eq(with_findings));
    for (name, expected) in FINDINGS {
        let mut counts = BTreeMap::new();
        for finding in lint(
            &parse(&folder, name).unwrap(),
            SystemTime::UNIX_EPOCH,
            |_| EncodedSlash::Data,
        ) {
            *counts.entry(finding.code().as_str()).or_insert(0) += 1;
        }
        let found: Vec<_> = counts
            .iter()
            .map(|(code, count)| format!("{code} {count}"))
            .collect();
        assert_eq!(found.join(", "), *expected, "{name}");
    }
}

#[test]
fn published_rules_decide_as_they_did() {
    let Some(folder) = published_files() else {
        return;
    };
    for (name, method, target, expected) in [
        (
            "sonarqube.json",
            "GET",
            "/api/metrics/search?ps=500",
            Some(1),
        ),
        ("sonarqube.json", "GET", "/API/Metrics/Search/", Some(1)),
        ("sonarqube.json", "POST", "/api/metrics/search", None),
        ("sonarqube.json", "GET", "/api/users/search", None),
        ("jenkins.json", "POST", "/job/a/job/b/build", Some(2)),
        ("jenkins.json", "GET", "/job", None),
        (
            "kubernetes.json",
            "GET",
            "/api/v1/pods?labelSelector=app%3Dx",
            Some(0),
        ),
        ("kubernetes.json", "GET", "/api/v1/podsecrets", Some(0)),
        ("kubernetes.json", "DELETE", "/api/v1/pods/x", None),
        ("kubernetes.json", "GET", "/version", None),
        ("github-enterprise.json", "GET", "/user", Some(1)),
        ("github-enterprise.json", "GET", "/anything/else", Some(2)),
        (
            "cost-insights.json",
            "GET",
            "/group-daily-cost/team%2Fa",
            Some(1),
        ),
        (
            "cost-insights.json",
            "GET",
            "/group-daily-cost/team/a",
            None,
        ),
        ("argocd.json", "POST", "/api/v1/session", Some(6)),
        ("scm/artifactory.json", "PUT", "/a/b/c", Some(0)),
    ] {
        let file = parse(&folder, name).unwrap();
        let rules = RuleSet::compile(&file, List::Private, |_| EncodedSlash::Data);
        assert_eq!(
            decide(&rules, method, target),
            expected,
            "{name}: {method} {target}"
        );
    }
}

fn decide(rules: &RuleSet, method: &str, target: &str) -> Option<usize> {
    let target = RequestTarget::new(&method.parse().unwrap(), target).unwrap();
    let (headers, now) = (http::HeaderMap::new(), SystemTime::UNIX_EPOCH);
    match rules.decide(Request {
        target,
        headers,
        caller: "proxy".into(),
        now,
    }) {
        Decision::Allow(allowed) => Some(allowed.rule().as_usize()),
        Decision::NeedsBody(_) | Decision::Deny(_) => None,
    }
}

fn parse(folder: &Path, name: &str) -> Result<RuleFile, accept_rules::FileErrors> {
    RuleFile::parse(&fs::read_to_string(folder.join(name)).unwrap())
}

/// The folder with the files, which is not part of the repository.
fn published_files() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let corpus = std::env::var_os("BROKER_TEST_CORPUS").map_or(beside, PathBuf::from);
    let folder = corpus.join("accept-files");
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: there is no {}", folder.display());
    None
}

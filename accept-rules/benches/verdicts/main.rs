//! How long a verdict takes, an explanation, and the loading of a file: see README.md beside this.
#![expect(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::cell::LazyCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use accept_rules::{
    Decision, EncodedSlash, List, MAX_FILE_LEN, Request, RequestTarget, RuleFile, RuleSet,
};
use criterion::{BatchSize, Criterion};
use http::{HeaderMap, HeaderValue, Method};

mod figures;

fn main() {
    let mut bench = Bench {
        criterion: Criterion::default()
            .warm_up_time(Duration::from_millis(500))
            .measurement_time(Duration::from_secs(2))
            .sample_size(50)
            .output_directory(&figures::folder())
            .configure_from_args(),
        names: Vec::new(),
    };
    published(&mut bench);
    generated(&mut bench);
    explained(&mut bench);
    loaded(&mut bench);
    hostile(&mut bench);
    if std::env::var_os("WRITE_FIGURES").is_some() {
        figures::write(&bench.names);
    }
}

struct Bench {
    criterion: Criterion,
    /// What was measured so far.
    names: Vec<String>,
}

impl Bench {
    /// Measures `routine` on a fresh `input` each time.
    fn measure<I, O>(&mut self, name: &str, input: impl Fn() -> I, routine: impl Fn(I) -> O) {
        self.names.push(name.to_owned());
        self.criterion.bench_function(name, |bencher| {
            bencher.iter_batched(&input, &routine, BatchSize::SmallInput);
        });
    }

    /// Measures the verdict of the rules in a file on each request. The file is read once it is needed.
    fn verdicts(&mut self, name: &str, text: &str, cases: &[(&str, &str, Expected)]) {
        let rules = LazyCell::new(|| rules(text));
        for (case, target, expected) in cases {
            let judged = || {
                assert_eq!(verdict(&rules, target), *expected, "{name}: {target}");
                request(target)
            };
            self.measure(&format!("{name}/{case}"), judged, |request| {
                rules.decide(request)
            });
        }
    }
}

/// What a request gets.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Expected {
    Rule(usize),
    Denied,
}

fn published(bench: &mut Bench) {
    let Some(folder) = published_files() else {
        return;
    };
    let of = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    let kubernetes = of("kubernetes.json");
    let cases = [
        (
            "allowed",
            "/apis/apps/v1/daemonsets?limit=500",
            Expected::Rule(20),
        ),
        ("denied", "/api/v1/secrets", Expected::Denied),
    ];
    bench.verdicts("kubernetes-21", &kubernetes, &cases);
    bench.verdicts("github-320", &of("scm/github-com.json"), &GITHUB);
}

const GITHUB: [(&str, &str, Expected); 4] = [
    (
        "allowed",
        "/repos/o/r/contents/a/b/build.gradle?ref=main",
        Expected::Rule(63),
    ),
    (
        "allowed-late",
        "/repos/o/r/pulls/17/files",
        Expected::Rule(302),
    ),
    (
        "allowed-by-header",
        "/repos/o/r/commits/main",
        Expected::Rule(294),
    ),
    (
        "denied",
        "/repos/o/r/contents/a/b/secrets.env",
        Expected::Denied,
    ),
];

fn generated(bench: &mut Bench) {
    let paths: Vec<_> = (0..21)
        .map(|n| format!("/apis/group-{n}/v1/things*"))
        .collect();
    let cases = [
        (
            "allowed",
            "/apis/group-20/v1/things?limit=500",
            Expected::Rule(20),
        ),
        ("denied", "/apis/group-20/v1/secrets", Expected::Denied),
    ];
    bench.verdicts("like-kubernetes-21", &file(&paths, ""), &cases);

    let names: Vec<_> = (0..80).map(|n| format!("file-{n}.json")).collect();
    let shapes = [
        "/repos/:owner/:repo/contents/:path*/",
        "/repos/:owner/:repo/contents/:path*%2F",
        "/:owner/:repo/:path*/",
        "/:owner/:repo/:path*%2F",
    ];
    let paths: Vec<_> = names
        .iter()
        .flat_map(|name| shapes.map(|shape| format!("{shape}{name}")))
        .collect();
    let cases = [
        (
            "allowed",
            "/repos/o/r/contents/a/b/file-79.json",
            Expected::Rule(316),
        ),
        (
            "denied",
            "/repos/o/r/contents/a/b/secrets.env",
            Expected::Denied,
        ),
    ];
    bench.verdicts("like-github-320", &file(&paths, ""), &cases);

    let cases = [
        ("allowed", "/api/v1/resource-999/42", Expected::Rule(999)),
        ("denied", "/api/v1/resource-1000/42", Expected::Denied),
    ];
    bench.verdicts("thousand", &thousand(""), &cases);
    let condition = r#", "valid": [{"queryParam": "ref", "values": ["release/*"]}]"#;
    let cases = [(
        "allowed-by-query",
        "/api/v1/resource-999/42?ref=release%2F1",
        Expected::Rule(999),
    )];
    bench.verdicts("thousand", &thousand(condition), &cases);
}

/// Long targets that no rule allows, where all rules are compared for the nearest.
fn explained(bench: &mut Bench) {
    let segments = format!("/api/v1{}", "/x".repeat(8_000));
    let segment = format!("/api/v1/{}", "x".repeat(16_000));
    let cases = [
        (
            "denied-16-kib-of-segments",
            segments.as_str(),
            Expected::Denied,
        ),
        ("denied-16-kib-segment", segment.as_str(), Expected::Denied),
    ];
    bench.verdicts("thousand", &thousand(""), &cases);
}

fn loaded(bench: &mut Bench) {
    let of = |before: &str| {
        let paths: Vec<_> = (0..1000)
            .map(|n| format!("{before}/file-{n}.json"))
            .collect();
        file(&paths, "")
    };
    for (name, text) in [
        ("thousand", thousand("")),
        ("thousand-any-segments", of("/a/:b/:c*")),
        ("thousand-expressions", of("/a/:b/*c*")),
    ] {
        bench.measure(&format!("load/{name}"), || (), |()| rules(&text));
    }
}

/// Files of the greatest length, of the shortest rules and of nothing but brackets; a target of 1 MiB.
fn hostile(bench: &mut Bench) {
    let rule = r#"{"path":"/:a*b","origin":"h"},"#;
    let rules = LazyCell::new(|| {
        let many = rule.repeat(MAX_FILE_LEN / rule.len() - 1);
        format!(r#"{{"private":[{many}0]}}"#)
    });
    let brackets = LazyCell::new(|| "[".repeat(MAX_FILE_LEN));
    let target = format!("/{}", "a/".repeat(512 << 10));
    bench.measure(
        "hostile/file-of-rules",
        || &*rules,
        |text| RuleFile::parse(text).unwrap_err(),
    );
    bench.measure(
        "hostile/file-of-brackets",
        || &*brackets,
        |text| RuleFile::parse(text).unwrap_err(),
    );
    let refused = |()| RequestTarget::new(&Method::GET, &target).unwrap_err();
    bench.measure("hostile/target-of-1-mib", || (), refused);
}

fn verdict(rules: &RuleSet, target: &str) -> Expected {
    match rules.decide(request(target)) {
        Decision::Allow(allowed) => Expected::Rule(allowed.rule().as_usize()),
        Decision::Deny(_) => Expected::Denied,
        Decision::NeedsBody(_) => panic!("no rule asks about the body"),
    }
}

fn request(target: &str) -> Request {
    let mut headers = HeaderMap::new();
    headers.insert(
        "accept",
        HeaderValue::from_static("application/vnd.github.v4.sha"),
    );
    headers.insert("user-agent", HeaderValue::from_static("portal"));
    Request {
        target: RequestTarget::new(&Method::GET, target).unwrap(),
        headers,
        caller: "proxy".into(),
        now: SystemTime::UNIX_EPOCH,
    }
}

fn rules(text: &str) -> RuleSet {
    let file = RuleFile::parse(text).unwrap_or_else(|errors| panic!("{errors}"));
    RuleSet::compile(&file, List::Private, |_| EncodedSlash::Data)
}

/// A thousand rules of one shape; the last one has `more`.
fn thousand(more: &str) -> String {
    let paths: Vec<_> = (0..1000)
        .map(|n| format!("/api/v1/resource-{n}/:id"))
        .collect();
    file(&paths, more)
}

fn file(paths: &[String], more_of_last: &str) -> String {
    let rule = |path: &String| format!(r#"{{"path": "{path}", "origin": "https://origin""#);
    let rules: Vec<_> = paths.iter().map(rule).collect();
    format!(r#"{{"private": [{}{more_of_last}}}]}}"#, rules.join("},\n"))
}

/// The folder with the published files, which is not part of the repository.
fn published_files() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let corpus = std::env::var_os("BROKER_TEST_CORPUS").map_or(beside, PathBuf::from);
    Some(corpus.join("accept-files")).filter(|folder| folder.is_dir())
}

//! Hostile targets: what could be read in two ways is refused, and what is accepted is sent as it was judged.

use accept_rules::RequestTarget;
use broker_protocol::ErrorCode;
use broker_tests::broker::{Agent, AgentSetup, Server, Site, permissive};
use broker_tests::caller::{RawAnswer, body};
use broker_tests::origin::{Answer, Origin};
use http::{Method, Request, Uri, Version};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::json;

/// Reason on record, and targets behind `/broker/{agent}` that reach the agent and are refused there.
const REFUSED_BY_THE_AGENT: &[(&str, &[&str])] = &[
    (
        "dot-segment",
        &[
            "/.",
            "/..",
            "/./a",
            "/a/../b",
            "/a/..?q",
            "/a/%2e",
            "/a/%2e%2e/b",
            "/a/.%2E/b",
            "/a/..%2fb",
            "/a%2F..%2Fb",
            "/a/..;/b",
            "/a/..;x=y/b",
            "/a/.;/b",
            "/a/..%3bx/b",
            "/a/%2e%2e%3Ba=b/c",
            "/a/%252e%252e/b",
            "/a/..%252fb",
            "/a/..%255cb",
            "/a/..%253bx",
            "/a/%25252e%25252e/b",
        ],
    ),
    ("backslash", &["/a\\b", "/a%5cb", "/..\\a", "/a/..%5C"]),
    ("control-byte", &["/a%00", "/a%0d%0ab", "/a%1f", "/a%7F"]),
    ("raw-byte", &["/é", "/．．/x", "/a?é"]),
    (
        "invalid-utf8",
        &[
            "/%ff",
            "/%c0%ae%c0%ae/x",
            "/%C0%AF",
            "/%e0%80%af",
            "/%ed%a0%80",
            "/%c3",
        ],
    ),
    ("empty-segment", &["//", "//host/a", "/a//b", "/a//"]),
    (
        "malformed-escape",
        &[
            "/%", "/a%2", "/%zz", "/%u002e", "/%%32e", "/a?%", "/a?x=%g0",
        ],
    ),
    (
        "escaped-alphanumeric",
        &["/api/v1/%73ecrets", "/%41", "/%30", "/%25%32%65"],
    ),
];

/// What the HTTP parser refuses before our code sees it.
const REFUSED_BY_THE_PARSER: &[&[u8]] = &[
    b"/a b",
    b"/a\tb",
    b"/a\0b",
    b"/a\rb",
    b"/a\x1bb",
    b"/a\x7fb",
    b"/a\x80b",
    b"/\xc0\xae\xc0\xae/b",
    b"/a?\xff",
];

#[tokio::test]
async fn every_disguise_is_refused_on_http1_and_stands_in_the_audit_log() {
    let origin = Origin::answering(|_| Answer::json("{}")).await;
    let (server, agent) = permissive(&origin).await;
    let mut reasons = Vec::new();
    for (reason, targets) in REFUSED_BY_THE_AGENT {
        for target in *targets {
            let answer = get(&server, target).await;
            assert_eq!(answer.head.status(), 400, "{target:?}");
            assert_eq!(answer.code().unwrap(), "bad-target", "{target:?}");
            let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!(problem["reason"], *reason, "{target:?}");
            reasons.push(*reason);
        }
    }
    assert_eq!(origin.connections(), 0);
    assert_denied_for(&agent, &reasons);
}

#[tokio::test]
async fn every_disguise_is_refused_on_http2_and_stands_in_the_audit_log() {
    let origin = Origin::answering(|_| Answer::json("{}")).await;
    let (server, agent) = permissive(&origin).await;
    let connection = server
        .caller()
        .with_version(Version::HTTP_2)
        .connect()
        .await;
    let mut reasons = Vec::new();
    for (reason, targets) in REFUSED_BY_THE_AGENT {
        for target in *targets {
            let uri = Uri::try_from(format!("http://broker/broker/sonarqube{target}")).unwrap();
            let request = Request::get(uri).body(body::empty()).unwrap();
            let problem = connection
                .send(request)
                .await
                .problem(ErrorCode::BadTarget)
                .await;
            assert_eq!(problem["reason"], *reason, "{target:?}");
            reasons.push(*reason);
        }
    }
    assert_eq!(origin.connections(), 0);
    assert_denied_for(&agent, &reasons);
}

#[tokio::test]
async fn what_is_no_http_is_refused_before_it_is_read() {
    let origin = Origin::answering(|_| Answer::json("{}")).await;
    let (server, agent) = permissive(&origin).await;
    for target in REFUSED_BY_THE_PARSER {
        let mut bytes = b"GET /broker/sonarqube".to_vec();
        bytes.extend_from_slice(target);
        let head = server.raw_head("", "");
        bytes.extend_from_slice(&head);
        let answer = server.stranger().raw(&bytes).await;
        let target = String::from_utf8_lossy(target);
        assert_eq!(
            (answer.head.status(), answer.code()),
            (400, None),
            "{target:?}"
        );
    }
    assert_eq!(origin.connections(), 0);
    assert_eq!(agent.audit("decision").len(), 0);
}

#[tokio::test]
async fn only_the_origin_form_is_taken_on_http1() {
    let origin = Origin::answering(|_| Answer::json("{}")).await;
    let (server, agent) = permissive(&origin).await;
    let absolute = format!("GET http://{}/broker/sonarqube/a", server.callers);
    for (request, status, code) in [
        (absolute.as_str(), 400, "bad-target"),
        ("GET https://origin.local/a", 400, "bad-target"),
        ("GET HTTP://user:secret@origin.local/a", 400, "bad-target"),
        ("GET ftp://origin.local/a", 400, "bad-target"),
        ("GET http://origin.local", 400, "bad-target"),
        ("GET origin.local:443", 400, "bad-target"),
        ("GET origin.local", 400, "bad-target"),
        ("OPTIONS *", 400, "bad-target"),
        ("GET *", 400, "bad-target"),
        ("CONNECT origin.local:443", 501, "upgrade-not-supported"),
        ("CONNECT /broker/sonarqube/a", 501, "upgrade-not-supported"),
    ] {
        let answer = server.stranger().raw(&server.raw_head(request, "")).await;
        let got = (answer.head.status(), answer.code());
        assert_eq!(got, (status, Some(code.to_owned())), "{request}");
    }
    for request in ["GET broker/sonarqube/a", "GET ?a", "GET #a"] {
        let answer = server.stranger().raw(&server.raw_head(request, "")).await;
        assert_eq!(answer.head.status(), 400, "{request}");
    }
    assert_eq!(origin.connections(), 0);
    assert_eq!(agent.audit("decision").len(), 0);
}

#[tokio::test]
async fn what_stands_before_the_agents_name_cannot_be_disguised() {
    let origin = Origin::answering(|_| Answer::json("{}")).await;
    let (server, _agent) = permissive(&origin).await;
    for target in [
        "/broker/../broker/sonarqube/a",
        "/broker/./sonarqube/a",
        "/broker//sonarqube/a",
        "//broker/sonarqube/a",
        "/broker%2Fsonarqube/a",
        "/broker/sonarqube%2Fa",
        "/broker/%73onarqube/a",
        "/broker/sonarqube;x/a",
        "/broker\\sonarqube\\a",
        "/BROKER/sonarqube/a",
        "/",
    ] {
        let answer = server
            .stranger()
            .raw(&server.raw_head(&format!("GET {target}"), ""))
            .await;
        assert_eq!(answer.head.status(), 404, "{target}");
        assert_eq!(answer.code().unwrap(), "not-found", "{target}");
    }
    assert_eq!(origin.connections(), 0);
}

#[tokio::test]
async fn a_target_over_16_kib_is_refused_and_one_of_16_kib_passes() {
    let origin = Origin::answering(|_| Answer::json("{}")).await;
    let (server, _agent) = permissive(&origin).await;
    let prefix = "/broker/sonarqube/".len();
    let longest = format!("/{}", "a".repeat(16 * 1024 - prefix));
    assert_eq!(get(&server, &longest).await.head.status(), 200);
    for target in [format!("{longest}a"), format!("/?{}", "a".repeat(20_000))] {
        let answer = get(&server, &target).await;
        assert_eq!(answer.head.status(), 414, "{} bytes", target.len());
        assert_eq!(answer.code().unwrap(), "target-too-long");
        let uri = format!("/broker/sonarqube{target}");
        let http2 = server.caller().with_version(Version::HTTP_2);
        http2
            .get(&uri)
            .await
            .problem(ErrorCode::TargetTooLong)
            .await;
    }
    // Over the limit of the whole head, the parser refuses.
    for (length, status) in [(65_000, 414), (70_000, 431), (300_000, 431)] {
        let answer = get(&server, &format!("/{}", "a".repeat(length))).await;
        assert_eq!(answer.head.status(), status, "{length} bytes");
    }
    assert_eq!(origin.requests().len(), 1);
}

#[tokio::test]
async fn a_refused_target_is_recorded_escaped_and_cut_without_its_query_values() {
    let origin = Origin::answering(|_| Answer::json("{}")).await;
    let (server, agent) = permissive(&origin).await;
    let answer = get(&server, "/a\\é?token=hidden&%zz").await;
    assert_eq!(answer.head.status(), 400);
    let long = format!("/../{}", "é".repeat(3_000));
    assert_eq!(get(&server, &long).await.head.status(), 400);

    let decisions = agent.audit("decision");
    assert_eq!(decisions[0]["path"], r"/a\\\xc3\xa9");
    assert_eq!(decisions[0]["query"], json!(["token", "%zz"]));
    let path = decisions[1]["path"].as_str().unwrap();
    assert!(
        path.starts_with(r"/../\xc3\xa9") && path.ends_with('…'),
        "{path}"
    );
    assert!(path.len() <= 2 * 1024 + "…".len());
    let log = agent.audit_bytes();
    assert!(log.is_ascii() || !String::from_utf8(log).unwrap().contains("hidden"));
}

#[tokio::test]
async fn a_bare_agent_path_is_the_origins_root() {
    let origin = Origin::answering(Answer::echo).await;
    let server = Server::start(Site::simple()).await;
    let _agent = AgentSetup::allowing_everything(&format!("{}/base", origin.url()))
        .start(&server)
        .await;
    for (target, sent) in [
        ("", "/base/"),
        ("/", "/base/"),
        ("?a=/../b", "/base/?a=/../b"),
        ("/?", "/base/?"),
    ] {
        let answer = get(&server, target).await;
        assert_eq!(
            first_line(&answer),
            format!("GET {sent} HTTP/1.1"),
            "{target}"
        );
    }
}

/// Methods, and the paths of the origins that the rules give them.
const ORIGIN_PATHS: [(&str, &str); 3] = [("GET", ""), ("PUT", "/pre;v=1/fix"), ("POST", "/base/")];

#[tokio::test]
async fn what_is_accepted_is_sent_byte_for_byte_behind_the_origins_own_path() {
    let (_origin, server, _agent) = one_origin_under_three_paths().await;
    for target in [
        "/a;v=1;w/b;x",
        "/a%2Fb%2fc",
        "/a%252Fb",
        "/a?u=http://host//x/../y&v=%00%ff%5c\\",
        "/a?b?c=//..//",
        "/%C3%A9%E2%82%AC/%20%22%3C%3E%25%2B%3F%23%5B",
        "/~u/-_.!$&'()*+,;=:@|^\"{x}",
        "/%2D%5F%7E...",
        "/a/",
        "/...",
    ] {
        for (method, path) in ORIGIN_PATHS {
            let head = server.raw_head(&format!("{method} /broker/sonarqube{target}"), "");
            let answer = server.stranger().raw(&head).await;
            assert_eq!(answer.head.status(), 200, "{method} {target}");
            assert_eq!(
                first_line(&answer),
                format!("{method} {path}{target} HTTP/1.1")
            );
        }
    }
}

#[test]
fn of_any_target_the_origin_gets_what_was_judged_or_nothing() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (origin, server, agent) = runtime.block_on(one_origin_under_three_paths());
    let accepted = std::cell::Cell::new(0);
    let config = Config {
        cases: 1000,
        failure_persistence: None,
        ..Config::default()
    };
    let outcome = TestRunner::new(config).run(&any_target(), |((method, path), raw)| {
        let head = server.raw_head(&format!("{method} /broker/sonarqube{raw}"), "");
        let answer = runtime.block_on(server.stranger().raw(&head));
        // The parser drops a fragment, and nobody behind it ever sees one.
        let judged = raw.split('#').next().unwrap_or_default();
        let target = RequestTarget::new(&Method::GET, judged);
        if answer.head.status() == 200 {
            accepted.set(accepted.get() + 1);
            prop_assert!(target.is_ok(), "{target:?}");
            prop_assert_eq!(
                first_line(&answer),
                format!("{method} {path}{judged} HTTP/1.1")
            );
        } else {
            prop_assert_eq!(answer.head.status(), 400);
            let refused_by_us = answer.code().is_some();
            prop_assert_eq!(
                answer.code(),
                refused_by_us.then(|| "bad-target".to_owned())
            );
            prop_assert!(target.is_err() || !refused_by_us, "{raw} is not ambiguous");
        }
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
    // A generator that is refused everywhere, or nowhere, would show nothing.
    let denied = agent.audit("decision").len() - accepted.get();
    assert!(
        accepted.get() > 100 && denied > 100,
        "{} accepted, {denied} denied",
        accepted.get()
    );
    assert_eq!(origin.requests().len(), accepted.get());
}

fn any_target() -> impl Strategy<Value = ((&'static str, &'static str), String)> {
    let pieces = prop::sample::select(vec![
        "/",
        "/a",
        "/Bc9",
        "/-",
        "/_",
        "/~",
        "..",
        "/.",
        ";v=1",
        ";",
        "%2F",
        "%2f",
        "%252F",
        "%20",
        "%C3%A9",
        "%c0",
        "%2e",
        "%252e",
        "%7E",
        "!$&'()*+,",
        ":@",
        "=",
        "?",
        "?q=",
        "&",
        "//",
        "|",
        "^",
        "\"",
        "{x}",
        "\\",
        "%5C",
        "%00",
        "%61",
        "%",
        "#",
        "é",
        "<",
        "`",
        "[",
        "...",
    ]);
    let raw =
        prop::collection::vec(pieces, 0..7).prop_map(|pieces| format!("/{}", pieces.concat()));
    (prop::sample::select(ORIGIN_PATHS.to_vec()), raw)
}

async fn one_origin_under_three_paths() -> (Origin, Server, Agent) {
    let origin = Origin::answering(Answer::echo).await;
    let server = Server::start(Site::simple()).await;
    let rule = |(method, path)| json!({"method": method, "path": "/*", "origin": format!("{}{path}", origin.url())});
    let rules = json!({"private": ORIGIN_PATHS.map(rule)});
    let agent = AgentSetup::with_rules(rules).start(&server).await;
    (origin, server, agent)
}

async fn get(server: &Server, target: &str) -> RawAnswer {
    let head = server.raw_head(&format!("GET /broker/sonarqube{target}"), "");
    server.stranger().raw(&head).await
}

/// The request line that an echoing origin saw.
fn first_line(answer: &RawAnswer) -> String {
    let head = String::from_utf8_lossy(&answer.body);
    head.lines().next().unwrap_or_default().to_owned()
}

fn assert_denied_for(agent: &Agent, reasons: &[&str]) {
    let decisions = agent.audit("decision");
    let denied: Vec<_> = decisions
        .iter()
        .map(|line| line["reason"].as_str().unwrap())
        .collect();
    assert_eq!(denied, reasons);
    for line in decisions {
        assert_eq!(
            (&line["verdict"], &line["rule"]),
            (&json!("deny"), &json!(null)),
            "{line}"
        );
        assert!(line["path"].as_str().unwrap().is_ascii(), "{line}");
    }
}

//! `AUDIT.md` shows lines as the code writes them, and explains every field.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use accept_rules::{
    Decision, EncodedSlash, Explanation, List, Request, RequestTarget, RuleFile, RuleSet,
};
use http::header::{CONNECTION, CONTENT_TYPE, COOKIE};
use http::{HeaderMap, Method};
use serde::Serialize;
use serde_json::{Map, Value};

use super::DecisionContext;
use super::chain::{Chain, verify_lines};
use super::record::{
    ConnectionStart, DecisionFields, DecisionRecord, Ended, Identity, Outcome, OutcomeRecord,
    PauseCause, Paused, RecoveredRecord, ReopenedRecord, Resumed, RulesLoaded, RulesRefused,
    SecretEcho, StartRecord, StopRecord, Unscanned, Verdict, refused_target,
};
use super::sink::Found;
use crate::pause::Pause;

const AUDIT_MD: &str = include_str!("../../AUDIT.md");

const ACCEPT_SHA256: &str = "8f434346648f6b96df89dda901c5176b10a6d83961dd3c1ac88b59b2dc327aa4";
const NEW_ACCEPT_SHA256: &str = "5c1d9e7a3b2f4e6d8c0a1b3d5f7e9c2a4b6d8f0e1c3a5b7d9f2e4c6a8b0d1f35";

/// Writes one process's lines, a second apart.
struct Example {
    chain: Chain,
    identity: Identity,
    time: SystemTime,
    lines: Vec<u8>,
}

impl Example {
    fn run(&mut self, run_id: &str, accept_sha256: &str) {
        self.identity.run_id = run_id.to_owned();
        let connections = [ConnectionStart {
            agent: "sonarqube".parse().unwrap(),
            accept_sha256: Some(accept_sha256.to_owned()),
        }];
        let new_chain = self.chain.is_new();
        self.add(
            "start",
            StartRecord {
                version: "0.1.0",
                connections: &connections,
                new_chain,
            },
        );
    }

    fn add(&mut self, kind: &'static str, record: impl Serialize) {
        self.time += Duration::from_secs(1);
        let line = self.identity.line(kind, self.time, record);
        self.chain.append(&line, &mut self.lines);
    }

    fn text(&self) -> &str {
        str::from_utf8(&self.lines).unwrap()
    }
}

fn context(request_id: &str) -> DecisionContext {
    DecisionContext {
        request_id: request_id.into(),
        tenant: Some("default".parse().unwrap()),
        agent: Arc::new("sonarqube".parse().unwrap()),
    }
}

fn nearest(target: RequestTarget) -> Explanation {
    let rules =
        r#"{"private": [{"path": "/api/issues/*", "origin": "https://sonarqube.internal"}]}"#;
    let rules = RuleFile::parse(rules).unwrap();
    let rules = RuleSet::compile(&rules, List::Private, |_| EncodedSlash::Data);
    let request = Request {
        target,
        headers: HeaderMap::new(),
        caller: "proxy".into(),
        now: SystemTime::UNIX_EPOCH,
    };
    let Decision::Deny(denied) = rules.decide(request) else {
        panic!("no rule allows it");
    };
    denied.nearest().unwrap().describe(&rules)
}

/// The lines of a short life: (an orderly run, what follows a power failure).
fn examples() -> (String, String) {
    let mut example = Example {
        chain: Chain::new(),
        identity: Identity {
            instance: "default".to_owned(),
            run_id: String::new(),
        },
        time: humantime::parse_rfc3339("2026-11-24T12:00:00Z").unwrap(),
        lines: Vec::new(),
    };
    example.run("3f0c5ac0-5a43-4b07-9cb1-0b8a1e2f6f10", ACCEPT_SHA256);

    let target = RequestTarget::new(&Method::GET, "/api/issues/search?p=2&ps=50").unwrap();
    let allowed = DecisionFields {
        rule: Some(0),
        verdict: Verdict::Allow,
        reason: "match",
        origin: Some("https://sonarqube.internal"),
        ..DecisionFields::of(&target, "proxy")
    };
    let first = context("0f6f8b0e4c1d4f2a9a6b1c2d3e4f5a6b");
    example.add("decision", DecisionRecord::new(allowed, &first));
    let mut outcome = Outcome::not_sent();
    outcome.status = Some(200);
    outcome.bytes_down = 18_234;
    outcome.removed_request_headers = vec![CONNECTION, COOKIE];
    outcome.injected = true;
    outcome.credential = Some("5bdcc146bf60754e".to_owned());
    outcome.secret_echo = Some(SecretEcho::None);
    outcome.ended = Ended::Complete;
    let duration = Duration::from_micros(41_276);
    example.add(
        "outcome",
        OutcomeRecord::new(&first.request_id, &first.agent, &outcome, duration),
    );

    let target = RequestTarget::new(&Method::POST, "/api/users/create").unwrap();
    let nearest = nearest(target.clone());
    let denied = DecisionFields {
        reason: "no-match",
        nearest: Some(&nearest),
        ..DecisionFields::of(&target, "proxy")
    };
    let second = context("7d1e2f3a4b5c4d6e8f9a0b1c2d3e4f5a");
    example.add("decision", DecisionRecord::new(denied, &second));

    let (path, names) = refused_target(b"/api/issues/..%2f..%2fusers?login=admin");
    let refused = DecisionFields {
        caller: "proxy",
        method: "GET",
        path: &path,
        query: names.iter().map(String::as_str).collect(),
        rule: None,
        verdict: Verdict::Deny,
        reason: "dot-segment",
        header: None,
        origin: None,
        nearest: None,
    };
    let third = context("c0ffee00a1b24c3d8e9f0a1b2c3d4e5f");
    example.add("decision", DecisionRecord::new(refused, &third));

    let target = RequestTarget::new(&Method::POST, "/api/issues/add_comment").unwrap();
    let repeated = DecisionFields {
        reason: "repeated-header",
        header: Some(&CONTENT_TYPE),
        ..DecisionFields::of(&target, "proxy")
    };
    let fourth = context("1b9d4c7e6f5a4d3c2b1a0f9e8d7c6b5a");
    example.add("decision", DecisionRecord::new(repeated, &fourth));

    let (agent, path) = (third.agent, Path::new("/etc/broker/accept.json"));
    let refused = RulesRefused {
        agent: &agent,
        path,
        sha256: Some("0a1e8f4f2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6"),
        error: "private[3]: unknown method \"GTE\" (did you mean \"GET\"?)",
        in_force_sha256: Some(ACCEPT_SHA256),
    };
    example.add("rules-refused", refused);
    let loaded = RulesLoaded {
        agent: &agent,
        path,
        sha256: NEW_ACCEPT_SHA256,
        private_rules: 4,
        public_rules: 0,
        previous_sha256: Some(ACCEPT_SHA256),
    };
    example.add("rules-loaded", loaded);
    example.add("stop", StopRecord {});
    let orderly = example.text().to_owned();

    example.lines.clear();
    let torn = br#"{"v":1,"seq":10,"prev":"5c"#;
    example.chain.adopt(torn);
    example.lines.extend_from_slice(torn);
    let torn = example.chain.close_open_line(&mut example.lines).unwrap();
    let recovered = RecoveredRecord {
        lines: torn.lines,
        bytes: torn.bytes,
    };
    example.identity.run_id = "b1f7c2de-93a4-4c55-8d0e-6a7b8c9d0e1f".to_owned();
    example.add("recovered", recovered);
    example.run("b1f7c2de-93a4-4c55-8d0e-6a7b8c9d0e1f", NEW_ACCEPT_SHA256);
    example.add(
        "reopened",
        ReopenedRecord {
            found: Found::Missing,
        },
    );
    let pause = Pause {
        agent: "sonarqube".to_owned(),
        rule: Some(2),
        accept_sha256: Some(NEW_ACCEPT_SHA256.to_owned()),
        reason: "migration of the issue tracker".to_owned(),
        since: example.time,
        until: Some(example.time + Duration::from_secs(7200)),
        uid: Some(1000),
    };
    example.add("paused", Paused::of(&pause, PauseCause::Command));
    let over = Resumed::of(&pause, PauseCause::Expired, None);
    example.add("resumed", over);
    (orderly, example.text().to_owned())
}

#[test]
fn the_document_shows_lines_as_they_are_written() {
    let (orderly, after_failure) = examples();
    for lines in [&orderly, &after_failure] {
        assert!(
            AUDIT_MD.contains(&format!("```\n{lines}```\n")),
            "AUDIT.md lacks this block:\n```\n{lines}```"
        );
    }
    let all = orderly + &after_failure;
    assert_eq!(verify_lines(all.as_bytes()).unwrap().last_seq, 14);
}

#[test]
fn the_document_explains_every_kind_and_field() {
    let (orderly, after_failure) = examples();
    let records = (orderly.lines().chain(after_failure.lines()))
        .filter_map(|line| serde_json::from_str::<Map<String, Value>>(line).ok());
    for record in records {
        let kind = record["kind"].as_str().unwrap();
        assert!(
            AUDIT_MD.contains(&format!("### `{kind}`")),
            "{kind} has no section"
        );
        for field in record.keys() {
            assert!(
                AUDIT_MD.contains(&format!("\n| `{field}` |")),
                "{field} has no row"
            );
        }
    }
}

#[test]
fn the_document_names_every_way_to_end() {
    let ended = [
        Ended::Complete,
        Ended::CallerGone,
        Ended::OriginFailed,
        Ended::TimedOut,
        Ended::TooLong,
        Ended::NotSent,
        Ended::SecretEcho,
        Ended::Paused,
    ];
    let ended = ended.map(|ended| serde_json::to_value(ended).unwrap());
    let (_, table) = AUDIT_MD.split_once("| `ended` | meaning |").unwrap();
    let (table, _) = table.split_once("\n\n").unwrap();
    let rows: Vec<_> = table.lines().skip(2).map(code_in_front).collect();
    assert_eq!(rows, ended, "the rows are what is ever written");

    for cause in [
        PauseCause::Command,
        PauseCause::Settings,
        PauseCause::StateUnreadable,
        PauseCause::Expired,
        PauseCause::Unsaved,
    ] {
        let row = format!("\n| `{}` |", cause.as_str());
        assert!(AUDIT_MD.contains(&row), "{row}");
    }
    for found in [Found::Missing, Found::Replaced, Found::Changed] {
        let found = serde_json::to_value(found).unwrap();
        let code = found.as_str().unwrap();
        assert!(AUDIT_MD.contains(&format!("`{code}`")), "{code}");
    }
}

#[test]
fn the_document_explains_what_is_said_of_echoes() {
    let echoes = [SecretEcho::None, SecretEcho::Found, SecretEcho::Unscanned]
        .map(|it| serde_json::to_value(it).unwrap());
    let reasons = [
        Unscanned::Compressed,
        Unscanned::Binary,
        Unscanned::Signature,
        Unscanned::ShortCredential,
    ];
    let reasons = reasons.map(|it| serde_json::to_value(it).unwrap());
    for (field, values) in [("secret_echo", &echoes[..]), ("unscanned", &reasons)] {
        let row = AUDIT_MD
            .lines()
            .find(|line| line.starts_with(&format!("| `{field}` |")))
            .unwrap();
        for value in values {
            let code = value.as_str().unwrap();
            assert!(row.contains(&format!("`{code}`")), "{field}: {code}");
        }
    }
}

/// The code of a table's row.
fn code_in_front(row: &str) -> &str {
    row.split('`').nth(1).unwrap_or_default()
}

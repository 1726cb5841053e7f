use std::fs;
use std::io::BufReader;
use std::path::Path;

use accept_rules::{
    Decision, EncodedSlash, List, Request, RequestTarget, RuleFile, RuleSet, TargetError,
};
use http::{HeaderMap, Method};
use serde_json::Value;

use super::*;
use crate::instance::tests::TestFolder;

fn identity() -> Identity {
    Identity {
        instance: "default".to_owned(),
        run_id: "3f0c5ac0-5a43-4b07-9cb1-0b8a1e2f6f10".to_owned(),
    }
}

fn open(path: &Path) -> (AuditLog, AuditWriter) {
    open_for(path, 8).unwrap()
}

fn open_for(path: &Path, exchanges: usize) -> Result<(AuditLog, AuditWriter), AuditOpenError> {
    let connections = [ConnectionStart {
        agent: "sonarqube".parse().unwrap(),
        accept_sha256: None,
    }];
    AuditLog::open_at(
        Some(path.to_owned()),
        identity(),
        &connections,
        exchanges,
        4,
    )
}

fn context(request_id: &str) -> DecisionContext {
    DecisionContext {
        request_id: request_id.into(),
        tenant: Some("default".parse().unwrap()),
        agent: Arc::new("sonarqube".parse().unwrap()),
    }
}

const RULES: &str = r#"{"private": [
    {"path": "/other", "origin": "https://other.internal"},
    {"path": "/api/*", "origin": "https://sonar.internal"}
]}"#;

fn decide(target: &str) -> Decision {
    let file = RuleFile::parse(RULES).unwrap();
    let rules = RuleSet::compile(&file, List::Private, |_| EncodedSlash::Data);
    let mut headers = HeaderMap::new();
    headers.insert("authorization", "Bearer canary".parse().unwrap());
    rules.decide(Request {
        target: RequestTarget::new(&Method::GET, target).unwrap(),
        headers,
        caller: "proxy".into(),
        now: SystemTime::now(),
    })
}

async fn allow(log: &AuditLog, id: &str) -> Result<Recorded<Allowed>, AuditUnavailable> {
    let Decision::Allow(allowed) = decide("/api/issues?p=canary&q=1") else {
        panic!("the rules allow it");
    };
    let origin = Origin::parse("https://sonar.internal").unwrap();
    log.record_allow(allowed, &origin, &context(id)).await
}

async fn deny(log: &AuditLog, id: &str) -> Result<(), AuditUnavailable> {
    let Decision::Deny(denied) = decide("/users?p=canary") else {
        panic!("the rules deny it");
    };
    log.record_deny(&denied, None, &context(id)).await
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn kinds(path: &Path) -> Vec<String> {
    lines(path)
        .iter()
        .map(|line| line["kind"].as_str().unwrap().to_owned())
        .collect()
}

fn verify(path: &Path) -> Result<ChainSummary, ChainError> {
    verify_lines(BufReader::new(fs::File::open(path).unwrap()))
}

#[tokio::test]
async fn a_decision_is_in_the_file_before_the_request_may_go_on() {
    let folder = TestFolder::new();
    let path = folder.path().join("audit.jsonl");
    let (log, _writer) = open(&path);

    let recorded = allow(&log, "r1").await.unwrap();

    let line = lines(&path).pop().unwrap();
    assert_eq!(line["kind"], "decision");
    assert_eq!(line["verdict"], "allow");
    assert_eq!(line["seq"], 2);
    assert_eq!(line["caller"], "proxy");
    assert_eq!(line["path"], "/api/issues");
    assert_eq!(line["query"], serde_json::json!(["p", "q"]));
    assert_eq!(line["rule"], 1);
    assert_eq!(line["reason"], "match");
    assert_eq!(line["origin"], "https://sonar.internal");
    drop(recorded);
}

#[tokio::test]
async fn an_outcome_tells_how_it_ended() {
    let folder = TestFolder::new();
    let path = folder.path().join("audit.jsonl");
    let (log, writer) = open(&path);

    let (_, mut slot) = allow(&log, "r1").await.unwrap().into_parts();
    slot.outcome().status = Some(200);
    slot.outcome().bytes_down = 17;
    slot.finish(Ended::Complete);
    writer.close().await.unwrap();

    let outcome = &lines(&path)[2];
    assert_eq!(outcome["kind"], "outcome");
    assert_eq!(outcome["request_id"], "r1");
    assert_eq!(outcome["status"], 200);
    assert_eq!(outcome["bytes_down"], 17);
    assert_eq!(outcome["ended"], "complete");
    assert!(outcome["duration_ms"].is_f64());
    assert_eq!(kinds(&path), ["start", "decision", "outcome", "stop"]);
}

#[tokio::test]
async fn a_dropped_exchange_has_an_outcome_with_what_was_known() {
    let folder = TestFolder::new();
    let path = folder.path().join("audit.jsonl");
    let (log, writer) = open(&path);

    let (_, mut slot) = allow(&log, "r1").await.unwrap().into_parts();
    slot.outcome().bytes_down = 5;
    drop(slot);
    writer.close().await.unwrap();

    let outcome = &lines(&path)[2];
    assert_eq!(outcome["ended"], "caller-gone");
    assert_eq!(outcome["bytes_down"], 5);
}

#[tokio::test]
async fn a_request_cancelled_while_it_is_recorded_has_an_outcome_too() {
    let folder = TestFolder::new();
    let path = folder.path().join("audit.jsonl");
    let (log, writer) = open(&path);

    {
        let mut request = std::pin::pin!(allow(&log, "r1"));
        // One poll queues the decision, which may be written by now or not; then the caller is gone.
        drop(futures_util::poll!(&mut request));
    }
    writer.close().await.unwrap();

    assert_eq!(kinds(&path), ["start", "decision", "outcome", "stop"]);
    let ended = &lines(&path)[2]["ended"];
    assert!(*ended == "not-sent" || *ended == "caller-gone", "{ended}");
}

#[tokio::test]
async fn a_request_cancelled_before_its_decision_is_queued_leaves_nothing() {
    let folder = TestFolder::new();
    let path = folder.path().join("audit.jsonl");
    let (log, writer) = open_for(&path, 1).unwrap();
    let others: Vec<_> = (0..4)
        .map(|_| log.queue.clone().try_reserve_owned().unwrap())
        .collect();

    {
        let mut request = std::pin::pin!(allow(&log, "r1"));
        assert!(futures_util::poll!(&mut request).is_pending());
        assert_eq!(log.queue.capacity(), 0);
    }
    drop(others);
    writer.close().await.unwrap();

    assert_eq!(kinds(&path), ["start", "stop"]);
}

#[tokio::test]
async fn no_header_value_and_no_query_value_is_recorded() {
    let folder = TestFolder::new();
    let path = folder.path().join("audit.jsonl");
    let (log, writer) = open(&path);

    let (_, mut slot) = allow(&log, "r1").await.unwrap().into_parts();
    slot.outcome().removed_request_headers = vec![http::header::COOKIE];
    slot.finish(Ended::Complete);
    deny(&log, "r2").await.unwrap();
    writer.close().await.unwrap();

    let text = fs::read_to_string(&path).unwrap();
    assert!(
        text.contains(r#""removed_request_headers":["cookie"]"#),
        "{text}"
    );
    assert!(!text.contains("canary"), "{text}");
}

#[tokio::test]
async fn a_denial_is_one_line_without_an_outcome() {
    let folder = TestFolder::new();
    let path = folder.path().join("audit.jsonl");
    let (log, writer) = open(&path);

    deny(&log, "r1").await.unwrap();
    assert_eq!(lines(&path)[1]["verdict"], "deny");
    assert_eq!(lines(&path)[1]["rule"], Value::Null);
    writer.close().await.unwrap();

    assert_eq!(kinds(&path), ["start", "decision", "stop"]);
}

#[tokio::test]
async fn a_refused_target_is_recorded_without_what_may_be_secret() {
    let folder = TestFolder::new();
    let path = folder.path().join("audit.jsonl");
    let (log, writer) = open(&path);
    let refused = RefusedRequest {
        caller: "",
        method: "GET",
        raw: b"http://u:canary@host/\xff?token=canary",
        why: &TargetError::NotOriginForm.into(),
    };

    log.record_refused(refused, &context("r1")).await.unwrap();
    writer.close().await.unwrap();

    let decision = &lines(&path)[1];
    assert_eq!(decision["path"], r"http://***@host/\xff");
    assert_eq!(decision["query"], serde_json::json!(["token"]));
    assert_eq!(decision["reason"], "not-origin-form");
    assert_eq!(decision["caller"], Value::Null);
    assert!(!fs::read_to_string(&path).unwrap().contains("canary"));
}

#[tokio::test]
async fn the_chain_goes_on_over_restarts() {
    let folder = TestFolder::new();
    let path = folder.path().join("audit.jsonl");
    for _ in 0..3 {
        let (log, writer) = open(&path);
        allow(&log, "r").await.unwrap();
        writer.close().await.unwrap();
    }

    let summary = verify(&path).unwrap();
    assert_eq!(
        (summary.records, summary.first_seq, summary.last_seq),
        (12, 1, 12)
    );
    let starts: Vec<_> = lines(&path)
        .into_iter()
        .filter(|line| line["kind"] == "start")
        .map(|line| line["new_chain"].clone())
        .collect();
    assert_eq!(starts, [true, false, false]);
}

#[tokio::test]
async fn a_changed_removed_or_moved_line_breaks_the_chain() {
    let folder = TestFolder::new();
    let path = folder.path().join("audit.jsonl");
    let (log, writer) = open(&path);
    for id in ["r1", "r2"] {
        allow(&log, id).await.unwrap();
    }
    writer.close().await.unwrap();

    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<_> = text.lines().collect();
    let check = |lines: &[&str]| verify_lines((lines.join("\n") + "\n").as_bytes());
    check(&lines).unwrap();

    let changed = lines[1].replace("\"path\":\"/", "\"path\":\"/x");
    check(&[lines[0], &changed, lines[2]]).unwrap_err();
    check(&[lines[0], lines[2]]).unwrap_err();
    check(&[lines[0], lines[2], lines[1]]).unwrap_err();
    check(&[lines[0], "{}", lines[1]]).unwrap_err();
    check(&[lines[0], lines[1], "{}"]).unwrap_err();
    check(&["{}", lines[1]]).unwrap_err();
    // A rotated file begins in the middle.
    assert_eq!(check(&lines[2..]).unwrap().first_seq, 3);
}

#[tokio::test]
async fn a_line_that_a_crash_cut_off_is_kept_and_owned_up_to() {
    let folder = TestFolder::new();
    let path = folder.path().join("audit.jsonl");
    open(&path).1.close().await.unwrap();
    let mut text = fs::read_to_string(&path).unwrap();
    text.push_str(r#"{"v":1,"seq":3,"pr"#);
    fs::write(&path, &text).unwrap();

    open(&path).1.close().await.unwrap();

    let after = fs::read_to_string(&path).unwrap();
    assert!(after.starts_with(&text));
    let recovered: Value = serde_json::from_str(after.lines().nth(3).unwrap()).unwrap();
    assert_eq!(recovered["kind"], "recovered");
    assert_eq!(recovered["seq"], 3);
    assert_eq!(recovered["bytes"], 18);
    let summary = verify(&path).unwrap();
    assert_eq!((summary.torn_lines, summary.last_seq), (1, 5));
}

#[tokio::test]
async fn a_line_that_lacks_only_its_newline_counts() {
    let folder = TestFolder::new();
    let path = folder.path().join("audit.jsonl");
    open(&path).1.close().await.unwrap();
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.trim_end()).unwrap();

    open(&path).1.close().await.unwrap();

    assert_eq!(verify(&path).unwrap().last_seq, 4);
    assert_eq!(kinds(&path), ["start", "stop", "start", "stop"]);
}

#[tokio::test]
async fn a_log_that_ends_in_something_else_is_not_continued() {
    let folder = TestFolder::new();
    let path = folder.path().join("audit.jsonl");
    for (text, problem) in [
        ("hello\n".to_owned(), "is not an audit record"),
        (
            r#"{"v":2,"seq":1,"prev":"","kind":"x"}"#.to_owned() + "\n",
            "has version 2",
        ),
        ("x".repeat(2 << 20) + "\n", "longer than"),
    ] {
        fs::write(&path, text).unwrap();
        let error = open_for(&path, 8).unwrap_err().to_string();
        for part in [problem, path.to_str().unwrap(), "move it away"] {
            assert!(error.contains(part), "{error}");
        }
    }
}

#[tokio::test]
async fn a_removed_log_is_begun_again_with_the_same_chain() {
    let folder = TestFolder::new();
    let path = folder.path().join("audit.jsonl");
    let moved = folder.path().join("audit.jsonl.1");
    let (log, writer) = open(&path);
    allow(&log, "r1").await.unwrap();

    fs::rename(&path, &moved).unwrap();
    let recorded = allow(&log, "r2").await.unwrap();
    let line = lines(&path)
        .into_iter()
        .find(|line| line["request_id"] == "r2");
    assert_eq!(line.unwrap()["kind"], "decision");
    drop(recorded);
    writer.close().await.unwrap();

    let reopened = lines(&path)
        .into_iter()
        .find(|line| line["kind"] == "reopened")
        .unwrap();
    assert_eq!(reopened["found"], "missing");
    let both = [fs::read(&moved).unwrap(), fs::read(&path).unwrap()].concat();
    verify_lines(both.as_slice()).unwrap();
}

#[tokio::test]
async fn a_log_cut_short_by_others_is_noticed_and_its_chain_is_broken() {
    let folder = TestFolder::new();
    let path = folder.path().join("audit.jsonl");
    let (log, writer) = open(&path);
    allow(&log, "r1").await.unwrap();

    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(10)
        .unwrap();
    deny(&log, "r2").await.unwrap();
    writer.close().await.unwrap();

    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(r#""found":"changed""#), "{text}");
    verify(&path).unwrap_err();
}

#[tokio::test]
async fn an_unwritable_log_refuses_requests_until_it_works_again() {
    let folder = TestFolder::new();
    let home = folder.path().join("home");
    let away = folder.path().join("away");
    let path = home.join("audit.jsonl");
    fs::create_dir(&home).unwrap();
    let (log, writer) = open(&path);
    let (_, slot) = allow(&log, "in flight").await.unwrap().into_parts();

    // The folder's place is taken by a file, which stops the superuser too.
    fs::rename(&home, &away).unwrap();
    fs::write(&home, "").unwrap();
    let error = allow(&log, "r2").await.unwrap_err().to_string();
    assert!(error.contains(path.to_str().unwrap()), "{error}");
    assert!(error.contains("Not a directory"), "{error}");
    deny(&log, "r3").await.unwrap_err();
    slot.finish(Ended::Complete);
    deny(&log, "r4").await.unwrap_err();
    assert!(log.position().failure().is_some());

    fs::remove_file(&home).unwrap();
    fs::rename(&away, &home).unwrap();
    allow(&log, "r5").await.unwrap();
    assert!(log.position().failure().is_none());
    writer.close().await.unwrap();

    let ids: Vec<_> = lines(&path)
        .into_iter()
        .filter_map(|line| Some(format!("{} {}", line["kind"], line["request_id"].as_str()?)))
        .collect();
    let expected = [
        r#""decision" in flight"#,
        r#""outcome" in flight"#,
        r#""decision" r5"#,
        r#""outcome" r5"#,
    ];
    assert_eq!(ids, expected);
    verify(&path).unwrap();
}

#[tokio::test]
async fn a_full_disk_refuses_requests_until_there_is_room() {
    let folder = TestFolder::new();
    let path = folder.path().join("audit.jsonl");
    let aside = folder.path().join("aside");
    let (log, writer) = open(&path);

    fs::rename(&path, &aside).unwrap();
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    let error = allow(&log, "r1").await.unwrap_err().to_string();
    assert!(error.contains("No space left on device"), "{error}");

    fs::remove_file(&path).unwrap();
    fs::rename(&aside, &path).unwrap();
    allow(&log, "r2").await.unwrap();
    writer.close().await.unwrap();
    verify(&path).unwrap();
}

#[tokio::test]
async fn exchanges_beyond_the_bound_wait_and_never_block_each_other() {
    let folder = TestFolder::new();
    let path = folder.path().join("audit.jsonl");
    let (log, writer) = open_for(&path, 2).unwrap();
    let first = allow(&log, "r1").await.unwrap();
    let second = allow(&log, "r2").await.unwrap();

    let mut third = std::pin::pin!(allow(&log, "r3"));
    assert!(futures_util::poll!(&mut third).is_pending());
    // Denials hold no place.
    deny(&log, "r4").await.unwrap();
    assert!(futures_util::poll!(&mut third).is_pending());

    drop(first);
    drop(third.await.unwrap());
    drop(second);
    writer.close().await.unwrap();
    verify(&path).unwrap();
}

#[tokio::test]
async fn closing_waits_for_outcomes_and_refuses_new_requests() {
    let folder = TestFolder::new();
    let path = folder.path().join("audit.jsonl");
    let (log, writer) = open(&path);
    let (_, slot) = allow(&log, "r1").await.unwrap().into_parts();

    let mut close = std::pin::pin!(writer.close());
    assert!(futures_util::poll!(&mut close).is_pending());
    // Whatever the writer has seen of the close by now, this either fails or is written.
    while deny(&log, "r2").await.is_ok() {}
    assert!(futures_util::poll!(&mut close).is_pending());
    slot.finish(Ended::Complete);
    close.await.unwrap();

    assert_eq!(lines(&path).last().unwrap()["kind"], "stop");
    verify(&path).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_requests_at_once_make_one_chain() {
    let folder = TestFolder::new();
    let path = folder.path().join("audit.jsonl");
    let (log, writer) = open_for(&path, 64).unwrap();
    let mut requests = tokio::task::JoinSet::new();
    for request in 0..2000 {
        let log = log.clone();
        requests.spawn(async move {
            let id = format!("r{request}");
            allow(&log, &id)
                .await
                .unwrap()
                .into_parts()
                .1
                .finish(Ended::Complete);
        });
    }
    requests.join_all().await;
    writer.close().await.unwrap();

    assert_eq!(verify(&path).unwrap().records, 4002);
    assert_eq!(log.position().seq(), 4002);
}

#[tokio::test]
async fn long_texts_of_the_server_are_cut() {
    let folder = TestFolder::new();
    let path = folder.path().join("audit.jsonl");
    let (log, writer) = open(&path);
    let long = "x".repeat(5000);
    let refused = RefusedRequest {
        caller: &long,
        method: &long,
        raw: b"*",
        why: &TargetError::NotOriginForm.into(),
    };
    log.record_refused(refused, &context(&long)).await.unwrap();
    writer.close().await.unwrap();
    for field in ["caller", "method", "request_id"] {
        assert_eq!(
            lines(&path)[1][field].as_str().unwrap().len(),
            128,
            "{field}"
        );
    }
}

//! `rules eval`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;

use serde_json::{Value, json};

use super::{Folder, stdout, text};

#[test]
fn every_line_has_its_verdict_in_order() {
    let folder = Folder::new("order");
    folder.write(
        "requests.jsonl",
        "{\"url\":\"/api/issues/search\"}\n\n{\"method\":\"POST\",\"url\":\"/files/x\",\"headers\":null,\"body\":null}\n\
         {\"url\":\"/a/../b\"}\n{\"url\":\"/other\"}",
    );
    let output = folder.rules(&[
        "eval",
        "--accept",
        "accept.json",
        "--requests",
        "requests.jsonl",
    ]);
    assert_eq!(
        stdout(&output, 0),
        "{\"verdict\":\"allow\",\"rule\":0,\"reason\":\"match\"}\n\
         {\"verdict\":\"allow\",\"rule\":2,\"reason\":\"match\"}\n\
         {\"verdict\":\"deny\",\"rule\":null,\"reason\":\"dot-segment\"}\n\
         {\"verdict\":\"deny\",\"rule\":null,\"reason\":\"no-match\"}\n"
    );
}

#[test]
fn an_answer_comes_before_the_next_line_is_read() {
    let folder = Folder::new("flush");
    let mut child = folder
        .command(&["eval", "--accept", "accept.json", "--requests", "-"], &[])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap()).lines();
    for (url, verdict) in [("/files/x", "allow"), ("/other", "deny")] {
        writeln!(input, "{{\"url\":\"{url}\"}}").unwrap();
        assert!(answers.next().unwrap().unwrap().contains(verdict));
    }
    drop(input);
    assert!(answers.next().is_none());
    assert!(child.wait().unwrap().success());
}

#[test]
fn headers_are_texts_or_lists_and_those_that_never_travel_do_not_count() {
    let folder = Folder::new("headers");
    let search = |headers: Value| json!({"url": "/search?q=shop-1", "headers": headers});
    let verdicts = folder.eval(&[
        search(json!({"x-team": "blue"})),
        search(json!({"X-Team": ["blue"]})),
        search(json!({"x-team": ["blue", "blue"]})),
        search(json!({"x-team": "blue", "X-TEAM": "blue"})),
        search(json!({"x-team": []})),
        search(json!({"x-team": "blue", "connection": "x-team"})),
        search(json!({})),
    ]);
    assert_eq!(
        verdicts,
        [
            "3", "3", "no-match", "no-match", "no-match", "no-match", "no-match"
        ]
    );
}

#[test]
fn a_body_is_a_text_or_the_serialisation_of_any_other_value() {
    let folder = Folder::new("bodies");
    let hook = |body: Value| json!({"method": "POST", "url": "/hook", "body": body});
    let long = format!(
        "{{\"action\":\"opened\",\"x\":\"{}\"}}",
        "x".repeat(1 << 20)
    );
    let verdicts = folder.eval(&[
        hook(json!("{\"action\": \"opened\"}")),
        hook(json!({"action": "opened"})),
        hook(json!({"action": "closed"})),
        hook(json!("{\"action\": \"opened\", \"action\": \"opened\"}")),
        hook(Value::Null),
        hook(json!("")),
        hook(json!(7)),
        hook(json!(long)),
        json!({"url": "/files/x", "body": long}),
    ]);
    assert_eq!(
        verdicts,
        [
            "4",
            "4",
            "no-match",
            "no-match",
            "no-match",
            "no-match",
            "no-match",
            "body-too-large",
            "2"
        ]
    );
}

#[test]
fn a_line_that_is_no_request_ends_it_with_64_after_the_answers_before() {
    let folder = Folder::new("bad-line");
    for (line, expected) in [
        ("{", "EOF while parsing an object at column 1"),
        ("[]", "invalid length 0"),
        ("{}", "missing field `url`"),
        (r#"{"url": 7}"#, "expected a string"),
        (r#"{"url": "/", "hedaers": {}}"#, "unknown field `hedaers`"),
        (
            r#"{"url": "/", "method": "G ET"}"#,
            "\"G ET\" is no HTTP method",
        ),
        (
            r#"{"url": "/", "headers": {"a b": "x"}}"#,
            "\"a b\" is no header name",
        ),
        (
            r#"{"url": "/", "headers": {"a": 7}}"#,
            "a text or a list of texts",
        ),
        (
            r#"{"url": "/", "headers": {"a": "x\ny"}}"#,
            "the value of \"a\" has a control character",
        ),
        (
            r#"{"url": "/", "headers": "a: b"}"#,
            "an object of header names",
        ),
    ] {
        let input = format!("{{\"url\":\"/files/x\"}}\n{line}\n{{\"url\":\"/files/x\"}}\n");
        let output = folder.rules_fed(
            &["eval", "--accept", "accept.json", "--requests", "-"],
            &input,
        );
        assert_eq!(stdout(&output, 64).lines().count(), 1, "{line}");
        let said = text(&output.stderr);
        assert!(
            said.starts_with("broker-client: standard input: line 2: "),
            "{said}"
        );
        assert!(said.contains(expected), "{line}: {said}");
    }
}

#[test]
fn the_public_list_can_be_asked() {
    let folder = Folder::new("public");
    let arguments = [
        "eval",
        "--accept",
        "accept.json",
        "--list",
        "public",
        "--requests",
        "-",
    ];
    let output = folder.rules_fed(&arguments, "{\"method\":\"POST\",\"url\":\"/webhook\"}");
    assert_eq!(
        stdout(&output, 0),
        "{\"verdict\":\"allow\",\"rule\":0,\"reason\":\"match\"}\n"
    );
}

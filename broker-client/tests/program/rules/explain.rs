//! `rules explain` of a request that is described.

use serde_json::{Value, json};

use super::{Folder, answer, stderr, stdout};

#[test]
fn an_allowed_request_names_its_rule() {
    let folder = Folder::new("allowed");
    let request = ["explain", "accept.json", "GET", "/api/issues/search?p=1"];
    assert_eq!(
        stdout(&folder.rules(&request), 0),
        "allowed by private[0] GET /api/issues/search, to ${SONARQUBE_URL}\n"
    );
    let explained = answer(
        &folder.rules(&[request.as_slice(), &["--json"]].concat()),
        0,
    );
    assert_eq!(
        explained,
        json!({
            "verdict": "allow",
            "rule": 0,
            "reason": "match",
            "allowed_by": {
                "list": "private",
                "rule": 0,
                "methods": ["GET"],
                "path": "/api/issues/search",
                "origin": "${SONARQUBE_URL}",
            },
            "nearest": null,
            "problem": null,
        })
    );
}

#[test]
fn userinfo_is_never_shown() {
    let folder = Folder::new("userinfo");
    let shown = stdout(
        &folder.rules(&["explain", "accept.json", "POST", "/api/projects/shop/tags"]),
        0,
    );
    assert_eq!(
        shown,
        "allowed by private[1] POST /api/projects/:key/tags, to https://sonar.example\n"
    );
}

#[test]
fn a_denied_request_names_the_nearest_rule_and_what_differs() {
    let folder = Folder::new("denied");
    let request = ["explain", "accept.json", "DELETE", "/api/issues/search"];
    let shown = stdout(&folder.rules(&request), 1);
    assert!(
        shown.starts_with("denied (no-match): nearest is private[0] GET /api/issues/search: "),
        "{shown}"
    );
    assert!(shown.contains("method"), "{shown}");
    let explained = answer(
        &folder.rules(&[request.as_slice(), &["--json"]].concat()),
        1,
    );
    assert_eq!(explained["verdict"], "deny");
    assert_eq!(explained["rule"], Value::Null);
    assert_eq!(explained["nearest"]["rule"], 0);
    assert_eq!(explained["nearest"]["part"], "method");
}

#[test]
fn a_target_with_two_readings_says_what_is_wrong() {
    let folder = Folder::new("bad-target");
    let shown = stdout(
        &folder.rules(&["explain", "accept.json", "GET", "/files/..%2fx"]),
        1,
    );
    assert_eq!(
        shown,
        "denied (dot-segment): the path has the dot segment \"..\"\n"
    );
}

#[test]
fn of_a_whole_url_path_and_query_count() {
    let folder = Folder::new("whole-url");
    for (url, reason) in [
        ("https://me:secret@host:8443/files/x?y", "match"),
        ("HTTP://host/files/../x", "dot-segment"),
        ("https://host", "no-match"),
        ("https://host?x", "no-match"),
        ("ftp://host/files/x", "not-origin-form"),
    ] {
        let output = folder.rules(&["explain", "accept.json", "GET", url, "--json"]);
        let explained: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(explained["reason"], reason, "{url}");
        let note = explained["note"].as_str().unwrap_or_default();
        assert_eq!(
            note.contains("only path and query"),
            !url.starts_with("ftp"),
            "{url}"
        );
        assert!(!note.contains("secret"), "{note}");
    }
}

#[test]
fn headers_and_body_are_judged() {
    let folder = Folder::new("headers-and-body");
    let search = ["explain", "accept.json", "GET", "/search?q=shop-1"];
    stdout(
        &folder.rules(&[search.as_slice(), &["-H", "X-Team: blue"]].concat()),
        0,
    );
    stdout(
        &folder.rules(&[search.as_slice(), &["--header", "X-Team: red"]].concat()),
        1,
    );
    stdout(&folder.rules(&search), 1);

    let hook = ["explain", "accept.json", "POST", "/hook", "--body"];
    let opened = r#"{"action": "opened"}"#;
    folder.write("opened.json", opened);
    stdout(&folder.rules(&[hook.as_slice(), &[opened]].concat()), 0);
    stdout(
        &folder.rules(&[hook.as_slice(), &["@opened.json"]].concat()),
        0,
    );
    stdout(
        &folder.rules_fed(&[hook.as_slice(), &["-"]].concat(), opened),
        0,
    );
    stdout(
        &folder.rules(&[hook.as_slice(), &[r#"{"action": "closed"}"#]].concat()),
        1,
    );
    let absent = stderr(&folder.rules(&[hook.as_slice(), &["@absent"]].concat()), 64);
    assert!(
        absent.contains("absent: the body cannot be read"),
        "{absent}"
    );
}

#[test]
fn each_list_is_asked_by_itself() {
    let folder = Folder::new("lists");
    let webhook = ["explain", "accept.json", "POST", "/webhook"];
    stdout(&folder.rules(&webhook), 1);
    let shown = stdout(
        &folder.rules(&[webhook.as_slice(), &["--list", "public"]].concat()),
        0,
    );
    assert_eq!(shown, "allowed by public[0] POST /webhook\n");
}

#[test]
fn what_the_settings_say_of_an_origin_holds() {
    let folder = Folder::new("settings");
    let request = ["explain", "accept.json", "GET", "/files/a%2Fb"];
    stdout(&folder.rules(&request), 0);
    folder.write(
        "agent.yaml",
        "origins: {\"https://files.example\": {encoded-slash: refuse}}",
    );
    let shown = stdout(
        &folder.rules(&[request.as_slice(), &["--config", "agent.yaml"]].concat()),
        1,
    );
    assert!(
        shown.starts_with("denied (no-match): nearest is private[2] any /files/*: "),
        "{shown}"
    );
}

#[test]
fn bad_usage_exits_with_64() {
    let folder = Folder::new("usage");
    for (arguments, expected) in [
        (&["accept.json", "GET"][..], "<URL>"),
        (&["accept.json", "G ET", "/"], "no HTTP method"),
        (
            &["accept.json", "GET", "/", "--header", "x"],
            "has no colon",
        ),
        (
            &["accept.json", "GET", "/", "--list", "secret"],
            "[possible values: private, public]",
        ),
        (&["accept.json", "GET", "/", "--hedaer", "x: y"], "--header"),
        (
            &["--request", "r1", "accept.json", "GET"],
            "cannot be used with",
        ),
        (&["--request", "r1", "--last-denied"], "cannot be used with"),
        (&["accept.json", "GET", "/", "--audit", "x"], "--request"),
    ] {
        let output = folder.rules(&[&["explain"], arguments].concat());
        let said = stderr(&output, 64);
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}

//! `rules check`.

use serde_json::json;

use super::{Folder, answer, stderr, stdout, text};

#[test]
fn the_hash_is_that_of_the_files_bytes() {
    let folder = Folder::new("hash");
    folder.write("empty.json", "{}");
    assert_eq!(
        answer(&folder.rules(&["check", "empty.json", "--json"]), 0),
        json!({
            "path": "empty.json",
            "sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
            "version": null,
            "private_rules": 0,
            "public_rules": 0,
            "warnings": [],
            "findings": [],
        })
    );
    let expected = "\
accept file  empty.json
sha256       44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a
form         without a version
rules        0 private, 0 public
findings     none
";
    assert_eq!(stdout(&folder.rules(&["check", "empty.json"]), 0), expected);
}

#[test]
fn everything_wrong_with_a_file_is_told_at_once_with_64() {
    let folder = Folder::new("wrong");
    folder.write(
        "bad.json",
        r#"{"private": [{"path": "/a"}, {"method": "GTE", "path": "/b", "origin": "https://x", "vaild": []}]}"#,
    );
    let said = stderr(&folder.rules(&["check", "bad.json"]), 64);
    let lines: Vec<_> = said.lines().collect();
    let expected = [
        r#"private[0]: "origin" is missing"#,
        r#"private[1]: unknown key "vaild" (did you mean "valid"?)"#,
        r#"private[1]: unknown method "GTE" (did you mean "GET"?)"#,
    ];
    assert_eq!(lines.len(), expected.len(), "{said}");
    for (line, expected) in lines.iter().zip(expected) {
        let expected = format!("broker-client: bad.json: {expected}");
        assert!(line.starts_with(&expected), "{expected}: {line}");
    }
}

#[test]
fn a_file_that_cannot_be_read_exits_with_64() {
    let folder = Folder::new("unreadable");
    let said = stderr(&folder.rules(&["check", "absent.json"]), 64);
    assert!(
        said.starts_with("broker-client: absent.json: cannot be read: No such file"),
        "{said}"
    );
}

#[test]
fn an_unknown_key_can_be_warned_about() {
    let folder = Folder::new("unknown-key");
    folder.write(
        "odd.json",
        r#"{"private": [{"path": "/a", "origin": "https://x", "owner": "me"}]}"#,
    );
    let refused = stderr(&folder.rules(&["check", "odd.json"]), 64);
    assert!(
        refused.contains(r#"private[0]: unknown key "owner""#),
        "{refused}"
    );
    let warned = folder.rules(&["check", "odd.json", "--unknown-keys", "warn"]);
    let expected = r#"warning      private[0]: the key "owner" has no meaning"#;
    assert!(text(&warned.stdout).contains(expected), "{warned:?}");
}

#[test]
fn settings_for_an_origin_that_no_rule_has_are_told() {
    let folder = Folder::new("unused-origin");
    folder.write(
        "agent.yaml",
        "origins: {\"https://file.example\": {encoded-slash: refuse}}",
    );
    let said = stderr(
        &folder.rules(&["check", "accept.json", "--config", "agent.yaml"]),
        64,
    );
    let expected = "broker-client: accept.json: no rule has the origin \"https://file.example\"";
    assert!(said.starts_with(expected), "{said}");
}

#[test]
fn findings_are_shown_and_exit_with_1() {
    let folder = Folder::new("findings");
    folder.write(
        "accept.json",
        r#"{"private": [{"path": "/pods*", "origin": "http://x", "auth": {"scheme": "raw", "token": "${TOKEN}"}}]}"#,
    );
    let checked = answer(&folder.rules(&["check", "accept.json", "--json"]), 1);
    let findings = checked["findings"].as_array().unwrap();
    let found = |code: &str| findings.iter().find(|finding| finding["code"] == code);
    for code in ["glued-asterisk", "cleartext-credential"] {
        let finding = found(code).unwrap_or_else(|| panic!("{code}: {checked}"));
        assert_eq!(
            (&finding["list"], &finding["rule"]),
            (&json!("private"), &json!(0))
        );
        assert!(!finding["problem"].as_str().unwrap().is_empty());
        assert!(!finding["fix"].as_str().unwrap().is_empty());
    }

    let shown = stdout(&folder.rules(&["check", "accept.json"]), 1);
    let lines: Vec<_> = shown
        .lines()
        .filter(|line| line.starts_with("finding "))
        .collect();
    assert_eq!(lines.len(), findings.len(), "{shown}");
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("finding      private[0]: ")
                && line.ends_with("[glued-asterisk]")),
        "{shown}"
    );
}

#[test]
fn what_the_settings_say_of_an_origin_counts_for_findings() {
    let folder = Folder::new("findings-settings");
    folder.write(
        "accept.json",
        r#"{"private": [{"path": "/api/v1/namespaces/:name", "origin": "${CLUSTER}",
            "auth": {"scheme": "bearer", "token": "${TOKEN}"}}]}"#,
    );
    folder.write(
        "agent.yaml",
        "origins: {\"${CLUSTER}\": {encoded-slash: refuse}}",
    );
    let shown = stdout(&folder.rules(&["check", "accept.json"]), 1);
    assert!(shown.contains("[encoded-slash]"), "{shown}");
    let settled = ["check", "accept.json", "--config", "agent.yaml"];
    stdout(&folder.rules(&settled), 0);
}

#[test]
fn an_origin_that_need_not_prove_who_it_is_is_a_finding() {
    let folder = Folder::new("unverified");
    folder.write(
        "accept.json",
        r#"{"private": [{"path": "/a", "origin": "https://tool.corp", "auth": {"scheme": "bearer", "token": "${T}"}}]}"#,
    );
    folder.write(
        "agent.yaml",
        "origins: {\"https://tool.corp\": {tls: {insecure-skip-verify: true}}}",
    );
    let checked = ["check", "accept.json", "--config", "agent.yaml", "--json"];
    let findings = answer(&folder.rules(&checked), 1)["findings"].clone();
    assert_eq!(findings.as_array().unwrap().len(), 1, "{findings}");
    assert_eq!(findings[0]["code"], "unverified-origin");
    let problem = findings[0]["problem"].as_str().unwrap();
    assert!(problem.contains("https://tool.corp"), "{problem}");
}

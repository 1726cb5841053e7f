//! `rules explain` and `rules suggest` of a request out of the audit log.

use std::fs;
use std::process::Output;

use serde_json::{Value, json};

use super::{Folder, RULES, answer, stderr, stdout};

/// A `decision` line that denied.
fn denied(id: &str, method: &str, path: &str, query: &[&str], reason: &str) -> Value {
    json!({
        "v": 1, "seq": 1, "prev": "0".repeat(64), "time": "2026-11-24T12:00:04.000Z", "kind": "decision",
        "instance": "default", "run_id": "3f0c5ac0-5a43-4b07-9cb1-0b8a1e2f6f10", "request_id": id,
        "tenant": "default", "agent": "sonarqube", "caller": "proxy", "method": method, "path": path,
        "query": query, "list": "private", "rule": null, "verdict": "deny", "reason": reason, "origin": null,
    })
}

/// One that rule 7 allowed, of a file that is long gone.
fn allowed(id: &str, path: &str) -> Value {
    let mut line = denied(id, "GET", path, &[], "match");
    line["rule"] = json!(7);
    line["verdict"] = json!("allow");
    line["origin"] = json!("https://sonarqube.internal");
    line
}

impl Folder {
    fn log(&self, lines: &[Value]) {
        let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
        self.write("audit.jsonl", &lines);
    }

    /// Runs `rules` on [`Folder::log`].
    fn rules_on_log(&self, arguments: &[&str]) -> Output {
        self.rules(&[arguments, &["--audit", "audit.jsonl"]].concat())
    }
}

#[test]
fn the_last_denied_request_is_explained_by_the_rules_of_today() {
    let folder = Folder::new("last-denied");
    let mut last = denied(
        "r1",
        "DELETE",
        "/api/issues/search",
        &["p", "ps"],
        "no-match",
    );
    last["nearest"] = json!({"rule": 0, "part": "method", "detail": "the method differs (DELETE)"});
    folder.log(&[
        denied("r0", "GET", "/other", &[], "no-match"),
        last,
        allowed("r2", "/files/x"),
    ]);
    let shown = stdout(&folder.rules_on_log(&["explain", "--last-denied"]), 0);
    let expected = format!(
        "\
request      r1, 2026-11-24T12:00:04.000Z, agent sonarqube
asked        DELETE /api/issues/search
query        p, ps
caller       proxy
recorded     denied (no-match): nearest was private[0] of the file at that time: the method differs (DELETE)
today        denied (no-match): nearest is private[0] GET /api/issues/search: the method differs (DELETE)
accept file  {}
note         the record holds no value of the query, no header and no body
",
        folder.0.join("accept.json").display()
    );
    assert_eq!(shown, expected);

    let explained = answer(
        &folder.rules_on_log(&["explain", "--last-denied", "--json"]),
        0,
    );
    assert_eq!(explained["recorded"]["request_id"], "r1");
    assert_eq!(explained["today"]["verdict"], "deny");
    assert_eq!(explained["today"]["nearest"]["rule"], 0);
}

#[test]
fn a_request_is_found_by_its_id_in_the_instances_log() {
    let folder = Folder::new("instance");
    folder.log(&[allowed("r0", "/files/x")]);
    fs::create_dir(folder.0.join("blue")).unwrap();
    fs::rename(
        folder.0.join("audit.jsonl"),
        folder.0.join("blue/audit.jsonl"),
    )
    .unwrap();
    let explain = |request: &str, instance: &str| {
        let arguments = ["explain", "--request", request, "--instance", instance];
        let environment = [("BROKER_DATA_DIR", "."), ("ACCEPT", "accept.json")];
        folder.command(&arguments, &environment).output().unwrap()
    };

    let shown = stdout(&explain("r0", "blue"), 0);
    for expected in [
        "recorded     allowed by private[7] of the file at that time, to https://sonarqube.internal\n",
        "today        allowed by private[2] any /files/*, to https://files.example\n",
    ] {
        assert!(shown.contains(expected), "{shown}");
    }
    let said = stderr(&explain("r9", "blue"), 1);
    assert!(
        said.contains("blue/audit.jsonl: no decision on the request \"r9\""),
        "{said}"
    );
    let said = stderr(&explain("r0", "red"), 64);
    assert!(
        said.contains("red/audit.jsonl: cannot be read: ") && said.contains("--audit"),
        "{said}"
    );
}

#[test]
fn a_verdict_that_depends_on_what_is_not_recorded_says_so() {
    let folder = Folder::new("depends");
    folder.log(&[
        denied("r0", "GET", "/search", &["q"], "no-match"),
        denied("r1", "POST", "/hook", &[], "no-match"),
    ]);
    for (request, rule) in [("r0", 3), ("r1", 4)] {
        let explain = ["explain", "--request", request];
        let explained = answer(
            &folder.rules_on_log(&[&explain[..], &["--json"]].concat()),
            0,
        );
        assert_eq!(explained["today"]["verdict"], "depends", "{explained}");
        assert_eq!(explained["today"]["allowed_if"][0]["rule"], rule);
        let shown = stdout(&folder.rules_on_log(&explain), 0);
        assert!(
            shown.contains("today        it depends on what is not recorded"),
            "{shown}"
        );
    }
}

#[test]
fn a_refused_target_is_refused_today_whatever_the_record_shows() {
    let folder = Folder::new("refused");
    // What stood behind the `#` is not recorded, so the path alone reads well.
    folder.log(&[denied("r0", "GET", "/files/x", &[], "fragment")]);
    let shown = stdout(&folder.rules_on_log(&["explain", "--last-denied"]), 0);
    assert!(
        shown.contains("today        denied: such a target is refused before any rule is asked\n"),
        "{shown}"
    );
}

#[test]
fn without_an_accept_file_everything_is_denied() {
    let folder = Folder::new("no-accept");
    fs::remove_file(folder.0.join("accept.json")).unwrap();
    folder.log(&[denied("r0", "GET", "/files/x", &[], "no-match")]);
    let shown = stdout(&folder.rules_on_log(&["explain", "--last-denied"]), 0);
    assert!(
        shown.contains("today        denied: there is no accept file"),
        "{shown}"
    );
    let said = stderr(&folder.rules_on_log(&["suggest", "--last-denied"]), 64);
    assert!(
        said.contains("there is no accept file that a rule could go to"),
        "{said}"
    );
}

#[test]
fn a_suggested_rule_at_its_place_allows_the_request_and_no_other() {
    for (method, path) in [
        ("DELETE", "/api/issues/search"),
        ("GET", "/api/issues/:id(x)/*/%2F/a+b.c"),
        ("PROPFIND", "/api/projects/a;v=1/tags"),
        ("POST", "/nowhere/near"),
    ] {
        let folder = Folder::new(&format!("suggest-{method}"));
        folder.log(&[denied("r0", method, path, &[], "no-match")]);
        let suggested = answer(
            &folder.rules_on_log(&["suggest", "--request", "r0", "--json"]),
            0,
        );
        assert_eq!(
            (&suggested["list"], &suggested["index"]),
            (&json!("private"), &json!(5))
        );
        assert_eq!(folder.read("accept.json"), RULES);

        let mut rules: Value = serde_json::from_str(RULES).unwrap();
        rules["private"]
            .as_array_mut()
            .unwrap()
            .push(suggested["rule"].clone());
        folder.write("accept.json", &rules.to_string());
        let verdicts = folder.eval(&[
            json!({"method": method, "url": path}),
            json!({"method": "PATCH", "url": path}),
            json!({"method": method, "url": format!("{path}/x")}),
            json!({"method": method, "url": format!("{path}x")}),
        ]);
        assert_eq!(
            verdicts,
            ["5", "no-match", "no-match", "no-match"],
            "{suggested}"
        );
    }
}

#[test]
fn a_suggested_rule_is_of_the_files_version() {
    let folder = Folder::new("version-2");
    let mut rules = json!({
        "version": 2,
        "private": [{"path": "/api/issues/*", "origin": "${X}", "callers": ["nobody"]}],
    });
    folder.write("accept.json", &rules.to_string());
    let path = "/api/{a}[b]*/%2F/%2D/Case";
    folder.log(&[denied("r0", "GET", path, &[], "no-match")]);
    let suggested = answer(
        &folder.rules_on_log(&["suggest", "--last-denied", "--json"]),
        0,
    );
    assert_eq!(
        suggested["rule"],
        json!({
            "methods": ["GET"],
            "path": r"/api/\{a\}\[b\]\*/%2F/%2D/Case",
            "encoded-slash": "data",
            "encoded-unreserved": "data",
            "origin": "${X}",
        })
    );
    rules["private"]
        .as_array_mut()
        .unwrap()
        .push(suggested["rule"].clone());
    folder.write("accept.json", &rules.to_string());
    let verdicts = folder.eval(&[json!({"url": path}), json!({"url": path.to_lowercase()})]);
    assert_eq!(verdicts, ["1", "no-match"]);
}

#[test]
fn what_a_kubernetes_rule_reads_in_the_query_is_not_recorded() {
    let folder = Folder::new("kubernetes");
    folder.write(
        "accept.json",
        r#"{"version": 2, "private": [{"kind": "kubernetes", "verbs": ["list"], "resources": ["pods"],
            "namespaces": ["*"], "origin": "${CLUSTER}"}]}"#,
    );
    folder.log(&[
        denied("r0", "GET", "/api/v1/pods", &["watch"], "no-match"),
        denied("r1", "GET", "/api/v1/pods", &[], "no-match"),
    ]);
    for (request, verdict) in [("r0", "depends"), ("r1", "allow")] {
        let explained = answer(
            &folder.rules_on_log(&["explain", "--request", request, "--json"]),
            0,
        );
        assert_eq!(explained["today"]["verdict"], verdict, "{explained}");
    }
}

#[test]
fn a_suggested_rule_leads_where_the_nearest_one_does() {
    let folder = Folder::new("destination");
    folder.log(&[
        denied("r0", "DELETE", "/api/issues/search", &["p"], "no-match"),
        denied("r1", "GET", "/api/projects/shop/tags", &[], "no-match"),
        denied("r2", "GET", "/nowhere/near", &[], "no-match"),
        denied("r3", "GET", "/search", &["q"], "no-match"),
    ]);
    let suggested = |request| {
        answer(
            &folder.rules_on_log(&["suggest", "--request", request, "--json"]),
            0,
        )
    };
    let has_note = |suggested: &Value, text: &str| suggested["notes"].to_string().contains(text);

    let known = suggested("r0");
    assert_eq!(
        known["rule"],
        json!({
            "method": "DELETE",
            "path": "/api/issues/search",
            "origin": "${SONARQUBE_URL}",
            "auth": {"scheme": "basic", "token": "${SONARQUBE_TOKEN}:"},
        })
    );
    assert!(
        has_note(&known, "query parameters p, whose values are not recorded"),
        "{known}"
    );
    let userinfo = suggested("r1");
    assert_eq!(
        userinfo["rule"]["origin"],
        "https://${USER}:${PASSWORD}@sonar.example"
    );
    let nowhere = suggested("r2");
    assert_eq!(nowhere["rule"]["origin"], "${FILL_IN}");
    assert!(
        has_note(&nowhere, "put the origin in place of ${FILL_IN}"),
        "{nowhere}"
    );
    let conditional = suggested("r3");
    assert!(
        has_note(&conditional, "private[3] GET /search"),
        "{conditional}"
    );

    let shown = stdout(&folder.rules_on_log(&["suggest", "--request", "r0"]), 0);
    assert!(
        shown.starts_with("{\n  \"method\": \"DELETE\",\n  \"path\": \"/api/issues/search\",\n"),
        "{shown}"
    );
    assert!(
        shown.contains("accept.json, the end of the list: what its other rules decide stays"),
        "{shown}"
    );
}

#[test]
fn where_all_rules_lead_to_one_origin_a_suggested_rule_does_too() {
    let folder = Folder::new("one-origin");
    folder.write(
        "accept.json",
        r#"{"private": [{"path": "/a", "origin": "${X}"}, {"path": "/b", "origin": "${X}"}]}"#,
    );
    folder.log(&[denied("r0", "GET", "/nowhere/near", &[], "no-match")]);
    let suggested = answer(
        &folder.rules_on_log(&["suggest", "--last-denied", "--json"]),
        0,
    );
    assert_eq!(suggested["rule"]["origin"], "${X}");
}

#[test]
fn a_suggested_rule_takes_its_credential_from_the_same_file() {
    let folder = Folder::new("credential-file");
    let auth = json!({"scheme": "bearer", "token": "${file:/run/secrets/token}"});
    let rules = json!({"private": [{"path": "/a", "origin": "https://x", "auth": auth}]});
    folder.write("accept.json", &rules.to_string());
    folder.log(&[denied("r0", "POST", "/a", &[], "no-match")]);
    let suggested = answer(
        &folder.rules_on_log(&["suggest", "--last-denied", "--json"]),
        0,
    );
    assert_eq!(suggested["rule"]["auth"], auth);
}

#[test]
fn a_credential_in_the_file_is_not_repeated() {
    let folder = Folder::new("withheld");
    folder.write(
        "accept.json",
        r#"{"private": [
            {"path": "/a", "origin": "https://me:hunter2@x"},
            {"path": "/b", "origin": "https://x", "auth": {"scheme": "raw", "token": "hunter2"}}
        ]}"#,
    );
    folder.log(&[
        denied("r0", "POST", "/a", &[], "no-match"),
        denied("r1", "POST", "/b", &[], "no-match"),
    ]);
    for request in ["r0", "r1"] {
        let shown = stdout(&folder.rules_on_log(&["suggest", "--request", request]), 0);
        assert!(
            !shown.contains("hunter2") && shown.contains("${FILL_IN}"),
            "{shown}"
        );
    }
}

#[test]
fn what_no_rule_can_allow_is_said_with_1() {
    let folder = Folder::new("never");
    folder.write(
        "agent.yaml",
        "origins: {\"https://files.example\": {encoded-slash: refuse}}",
    );
    folder.log(&[
        denied("r0", "GET", "/files/..%2fx", &[], "dot-segment"),
        denied("r1", "TRACE", "/files/x", &[], "no-match"),
        denied("r2", "CONNECT", "/files/x", &[], "no-match"),
        denied("r3", "BREW", "/api/issues/search", &[], "no-match"),
        denied("r4", "GET", "/files/a%2Fb", &[], "no-match"),
        allowed("r5", "/files/x"),
    ]);
    for (request, expected) in [
        (
            "r0",
            "no rule can allow the request r0: its target was refused (dot-segment)",
        ),
        (
            "r1",
            "no rule can allow the request r1: TRACE matches no rule",
        ),
        (
            "r2",
            "no rule can allow the request r2: CONNECT matches no rule",
        ),
        ("r3", "unknown method \"BREW\""),
        ("r4", "%2F"),
        (
            "r5",
            "the request r5 is allowed by private[2] any /files/*, to https://files.example today",
        ),
        ("r9", "no decision on the request \"r9\""),
    ] {
        let said = stderr(
            &folder.rules_on_log(&["suggest", "--request", request, "--config", "agent.yaml"]),
            1,
        );
        assert!(said.contains(expected), "{request}: {said}");
    }
}

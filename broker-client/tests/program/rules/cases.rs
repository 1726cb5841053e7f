//! `rules test`.

use serde_json::json;

use super::{Folder, answer, stderr, stdout};

#[test]
fn cases_beside_the_file_are_run() {
    let folder = Folder::new("beside");
    folder.write(
        "accept.tests.yaml",
        r#"
- {name: issues can be read, request: GET /api/issues/search?p=1, expect: allow, rule: 0}
- {request: POST /webhook, list: public, expect: allow}
- {request: GET /a/../b, expect: deny, reason: dot-segment}
- name: only opened ones
  request: {method: POST, url: /hook, headers: {content-type: application/json}, body: {action: opened}}
  expect: allow
- request: {url: "/search?q=shop-1", headers: {x-team: [blue]}, caller: proxy}
  expect: allow
  at: 2026-11-24T12:00:00Z
"#,
    );
    assert_eq!(
        stdout(&folder.rules(&["test", "accept.json"]), 0),
        "5 cases: 5 passed, 0 failed\n"
    );
    assert_eq!(
        answer(&folder.rules(&["test", "accept.json", "--json"]), 0),
        json!({
            "accept_file": "accept.json",
            "cases_file": "accept.tests.yaml",
            "cases": 5,
            "passed": 5,
            "failures": [],
        })
    );
}

#[test]
fn failures_are_explained_and_exit_with_1() {
    let folder = Folder::new("failures");
    folder.write(
        "other.yaml",
        "
- {name: wrong rule, request: GET /files/x, expect: allow, rule: 0}
- {request: GET /files/x, expect: deny}
- {request: DELETE /api/issues/search, expect: allow}
- {request: GET /a/../b, expect: deny, reason: no-match}
- {request: GET /files/x, expect: allow}
",
    );
    let test = ["test", "accept.json", "--cases", "other.yaml"];
    let shown = stdout(&folder.rules(&test), 1);
    let lines: Vec<_> = shown.lines().collect();
    assert_eq!(lines.len(), 5, "{shown}");
    assert_eq!(
        lines[0],
        "other.yaml: [0] \"wrong rule\": GET /files/x: expected allow by rule 0, but it is allowed by private[2] any \
             /files/*, to https://files.example"
    );
    assert!(lines[2].contains(
        "[2]: DELETE /api/issues/search: expected allow, but it is denied (no-match): nearest is"
    ));
    assert!(lines[3].contains("expected deny (no-match), but it is denied (dot-segment): "));
    assert_eq!(lines[4], "5 cases: 1 passed, 4 failed");

    let failures = answer(&folder.rules(&[test.as_slice(), &["--json"]].concat()), 1);
    assert_eq!(failures["failures"][0]["case"], 0);
    assert_eq!(failures["failures"][0]["name"], "wrong rule");
    assert_eq!(
        failures["failures"][0]["expected"],
        json!({"verdict": "allow", "rule": 0})
    );
    assert_eq!(failures["failures"][0]["got"]["rule"], 2);
}

#[test]
fn everything_wrong_with_the_cases_is_told_at_once_with_64() {
    let folder = Folder::new("bad-cases");
    folder.write(
        "accept.tests.yaml",
        r#"
- {requst: GET /, expect: allow, rule: -1}
- {request: {method: PO ST, url: /x, headers: {a: 3}, boddy: x}, expect: den}
- {request: GET, expect: deny, rule: 2, at: tomorrow, list: secret}
- 7
- {request: GET /x, expect: allow, reason: no-match}
- {request: {method: GET}}
"#,
    );
    let said = stderr(&folder.rules(&["test", "accept.json"]), 64);
    for expected in [
        "[0]: unknown key \"requst\" (did you mean \"request\"?)",
        "[0]: \"request\" is missing",
        "[0].rule: no index of a rule",
        "[1].request: unknown key \"boddy\" (did you mean \"body\"?)",
        "[1].request.method: \"PO ST\" is no HTTP method",
        "[1].request.headers: a header's value must be a text or a list of texts",
        "[1].expect: unknown verdict (use allow or deny)",
        "[2].request: expected \"METHOD URL\"",
        "[2].rule: no rule denies",
        "[2].at: \"tomorrow\" is no time",
        "[2].list: unknown list (use private or public)",
        "[3]: expected a map, found a number",
        "[4].reason: only a denial has a reason",
        "[5].request: \"url\" is missing",
        "[5]: \"expect\" is missing",
    ] {
        let line = format!("broker-client: accept.tests.yaml: {expected}");
        assert!(said.contains(&line), "{expected}: {said}");
    }
}

#[test]
fn no_cases_are_no_success() {
    let folder = Folder::new("no-cases");
    let absent = stderr(&folder.rules(&["test", "accept.json"]), 64);
    assert!(
        absent.contains("accept.tests.yaml: the cases cannot be read"),
        "{absent}"
    );
    for nothing in ["", "[]", "# none yet\n"] {
        folder.write("accept.tests.yaml", nothing);
        let said = stderr(&folder.rules(&["test", "accept.json"]), 64);
        assert!(said.contains("there is no case"), "{said}");
    }
}

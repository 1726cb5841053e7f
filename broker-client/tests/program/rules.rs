//! `broker-client rules …`.

mod cases;
mod check;
mod convert;
mod eval;
mod explain;
mod recorded;

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde::Deserialize;
use serde_json::Value;

use super::{program, text};

const RULES: &str = r#"{
  "private": [
    {"path": "/api/issues/search", "origin": "${SONARQUBE_URL}",
     "auth": {"scheme": "basic", "token": "${SONARQUBE_TOKEN}:"}},
    {"method": "POST", "path": "/api/projects/:key/tags", "origin": "https://${USER}:${PASSWORD}@sonar.example"},
    {"method": "any", "path": "/files/*", "origin": "https://files.example"},
    {"path": "/search", "origin": "${SONARQUBE_URL}",
     "valid": [{"queryParam": "q", "values": ["shop-*"]}, {"header": "x-team", "values": ["blue"]}]},
    {"method": "POST", "path": "/hook", "origin": "${SONARQUBE_URL}",
     "valid": [{"path": "action", "value": "opened"}]}
  ],
  "public": [{"method": "POST", "path": "/webhook"}]
}"#;

/// A folder of one test, with [`RULES`] in `accept.json`.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join("rules")
            .join(test);
        // What an earlier run left, if any.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        let folder = Self(path);
        folder.write("accept.json", RULES);
        folder
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.0.join(name), content).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).unwrap()
    }

    /// Runs `rules` with these arguments within the folder.
    fn rules(&self, arguments: &[&str]) -> Output {
        self.command(arguments, &[]).output().unwrap()
    }

    /// The same with a standard input.
    fn rules_fed(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = self
            .command(arguments, &[])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The program may end before it has read everything.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    fn command(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Command {
        let mut command = program(&[&["rules"], arguments].concat(), environment);
        command.current_dir(&self.0);
        command
    }

    /// What `rules eval` says of each of `requests`: the index of the rule, or the reason.
    fn eval(&self, requests: &[Value]) -> Vec<String> {
        let lines: String = requests
            .iter()
            .map(|request| format!("{request}\n"))
            .collect();
        let output = self.rules_fed(
            &["eval", "--accept", "accept.json", "--requests", "-"],
            &lines,
        );
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let answers = text(&output.stdout);
        answers.lines().map(rule_or_reason).collect()
    }
}

fn rule_or_reason(line: &str) -> String {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Answer {
        verdict: String,
        rule: Option<usize>,
        reason: String,
    }
    let answer: Answer = serde_json::from_str(line).unwrap();
    match (answer.verdict.as_str(), answer.rule, answer.reason.as_str()) {
        ("allow", Some(rule), "match") => rule.to_string(),
        ("deny", None, reason) => reason.to_owned(),
        _ => panic!("{line}"),
    }
}

/// What was printed; the exit code must be `code`.
#[track_caller]
fn stdout(output: &Output, code: i32) -> String {
    assert_eq!(
        output.status.code(),
        Some(code),
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

#[track_caller]
fn answer(output: &Output, code: i32) -> Value {
    serde_json::from_str(&stdout(output, code)).unwrap()
}

/// What was said on stderr by a command that printed nothing; the exit code must be `code`.
#[track_caller]
fn stderr(output: &Output, code: i32) -> String {
    assert_eq!(stdout(output, code), "");
    text(&output.stderr)
}

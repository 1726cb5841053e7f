//! `broker-client rules`, beside a running agent and on the rule files that operators run today.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use accept_rules::{EncodedSlash, List, RuleSet};
use broker_protocol::ErrorCode;
use broker_tests::broker::{AgentSetup, Site};
use broker_tests::corpus;
use broker_tests::origin::{Answer, Origin};
use broker_tests::programs::{AgentProcess, ServerProcess, Signal, broker_command};
use serde_json::{Value, json};

use crate::examples::{decide, json_files, rule_file};

#[tokio::test]
async fn the_rule_suggested_for_a_denied_request_lets_it_through() {
    let origin = Origin::answering(|_| Answer::json("{}")).await;
    let server = ServerProcess::start(Site::simple()).await;
    let mut rules = json!({"private": [{"path": "/api/a", "origin": origin.url()}]});
    let agent = AgentProcess::start(&AgentSetup::with_rules(rules.clone()), &server).await;
    let target = "/broker/sonarqube/api/b:c?page=2";
    let denied = server
        .caller()
        .get(target)
        .await
        .problem(ErrorCode::Denied)
        .await;
    let request = denied["request_id"].as_str().unwrap();

    let explained = rules_command(&agent, &["explain", "--last-denied"]);
    assert_eq!(explained["recorded"]["request_id"], request);
    assert_eq!(explained["recorded"]["query"], json!(["page"]));
    assert_eq!(explained["today"]["reason"], "no-match");

    let suggested = rules_command(&agent, &["suggest", "--request", request]);
    assert_eq!(suggested["index"], 1);
    rules["private"]
        .as_array_mut()
        .unwrap()
        .push(suggested["rule"].clone());
    fs::write(agent.folder().join("accept.json"), rules.to_string()).unwrap();
    agent.child().signal(Signal::HUP);
    agent.child().stderr().line_with("private=2").await;

    assert_eq!(server.caller().get(target).await.status(), 200);
}

#[test]
fn eval_says_of_published_rule_files_what_the_library_says() {
    let Some(folder) = corpus::path("accept-files") else {
        return;
    };
    let mut files = 0;
    let scm = json_files(&folder.join("scm"));
    for path in json_files(&folder).into_iter().chain(scm) {
        let rules = RuleSet::compile(&rule_file(&path), List::Private, |_| EncodedSlash::Data);
        let requests = requests(&rules);
        let lines = requests
            .iter()
            .map(|(method, url)| format!("{}\n", json!({"method": method, "url": url})));
        let answers = eval(&path, lines.collect());
        assert_eq!(answers.len(), requests.len(), "{}", path.display());
        for ((method, url), answer) in requests.iter().zip(answers) {
            let rule = decide(&rules, method, url);
            let verdict = if rule.is_some() { "allow" } else { "deny" };
            let expected = (json!(verdict), json!(rule));
            let answer = (answer["verdict"].clone(), answer["rule"].clone());
            assert_eq!(answer, expected, "{}: {method} {url}", path.display());
        }
        files += 1;
    }
    assert!(files > 10, "{files} files");
}

/// What a command answers for the agent's own log and accept file.
fn rules_command(agent: &AgentProcess, arguments: &[&str]) -> Value {
    let output = broker_command("broker-client")
        .arg("rules")
        .args(arguments)
        .arg("--json")
        .envs(agent.variables())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What `rules eval` prints, line by line.
fn eval(accept: &Path, input: String) -> Vec<Value> {
    let mut child = broker_command("broker-client")
        .args(["rules", "eval", "--requests", "-", "--accept"])
        .arg(accept)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // Both directions at once: the program answers each line before it reads the next.
    let feeding = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    feeding.join().unwrap().unwrap();
    assert!(output.status.success(), "{}", accept.display());
    let lines = str::from_utf8(&output.stdout).unwrap().lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// For each rule its own path, taken literally and with a name for each parameter, and some that hardly match.
fn requests(rules: &RuleSet) -> Vec<(&'static str, String)> {
    let mut requests = Vec::new();
    for rule in rules.rules() {
        let name = |segment| {
            if str::starts_with(segment, ':') {
                "name"
            } else {
                segment
            }
        };
        let filled: Vec<_> = rule.path().split('/').map(name).collect();
        let filled = filled.join("/").replace('*', "a/b");
        requests.extend([
            ("GET", rule.path().to_owned()),
            ("GET", filled.clone()),
            ("POST", format!("{filled}%2Fx?a=b&state=open")),
            ("GET", format!("{filled}/../x")),
        ]);
    }
    requests
}

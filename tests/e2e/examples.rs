//! Every example loads and decides as it says, and so do the rule files that operators run today load.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use accept_rules::{Decision, EncodedSlash, List, Request, RequestTarget, RuleFile, RuleSet};
use broker_client::config::{self, Config};
use broker_client::{Agent, status::StatusSnapshot};
use broker_process::settings::{Document, Environment, Node};
use broker_protocol::{AccessToken, TokenKind};
use broker_tests::certs::Ca;
use broker_tests::corpus;
use broker_tests::programs::broker_command;
use bytes::Bytes;
use tempfile::TempDir;

/// A value that is good in an origin and in a credential.
const PLACEHOLDER: &str = "placeholder.example";

#[tokio::test]
async fn every_example_loads() {
    for example in examples() {
        let expected = rule_file(&example.join("accept.json"));
        let (snapshot, _) = load(&example, &variables(&example.join("agent.env")));
        let name = example.display();
        assert_eq!(
            snapshot.connections[0].accept.private_rules,
            expected.rules(List::Private).len(),
            "{name}"
        );
        assert!(snapshot.connections[0].accept.private_rules > 0, "{name}");
    }
}

#[tokio::test]
async fn the_example_of_several_tools_loads_with_the_rules_of_each() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let copy = tempfile::tempdir().unwrap();
    let folder = copy.path().join("several-tools");
    fs::create_dir_all(folder.join("secrets")).unwrap();
    fs::copy(
        examples.join("several-tools/settings.yaml"),
        folder.join("settings.yaml"),
    )
    .unwrap();
    for tool in ["sonarqube", "jenkins"] {
        let token = AccessToken::generate(TokenKind::Agent);
        fs::write(folder.join("secrets").join(tool), token.expose()).unwrap();
        let accept = Path::new(tool).join("accept.json");
        fs::create_dir(copy.path().join(tool)).unwrap();
        fs::copy(examples.join(&accept), copy.path().join(&accept)).unwrap();
    }
    let data = copy.path().join("data").display().to_string();
    let environment: Environment = variables(&examples.join("several-tools/agent.env"))
        .into_iter()
        .chain([("BROKER_DATA_DIR".to_owned(), data)])
        .collect();
    let arguments = config::run_command().get_matches_from(["run"]);
    let config =
        Config::load(&arguments, environment, &folder).unwrap_or_else(|error| panic!("{error}"));

    let snapshot = Agent::new(config).unwrap().board().snapshot();

    let shown = snapshot.connections.iter();
    let shown: Vec<_> = shown
        .map(|each| (each.agent.as_str(), each.accept.private_rules))
        .collect();
    let rules = |tool| {
        rule_file(&examples.join(tool).join("accept.json"))
            .rules(List::Private)
            .len()
    };
    assert_eq!(
        shown,
        [
            ("sonarqube", rules("sonarqube")),
            ("jenkins", rules("jenkins"))
        ]
    );
}

#[test]
fn every_example_passes_its_cases() {
    for example in examples() {
        let mut command = broker_command("broker-client");
        command
            .args(["rules", "test", "accept.json"])
            .current_dir(&example);
        if example.join("settings.yaml").exists() {
            command.args(["--config", "settings.yaml"]);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}: {output:?}", example.display());
    }
}

#[test]
fn every_rule_of_an_example_has_a_case_and_so_has_a_denial() {
    for example in examples() {
        let name = example.join("accept.tests.yaml").display().to_string();
        let cases = Document::parse(&name, &fs::read_to_string(&name).unwrap()).unwrap();
        let (mut rules, mut verdicts) = (BTreeSet::new(), BTreeSet::new());
        for case in cases.root().items() {
            let fields = case.fields(&["expect", "rule", "reason", "request"]);
            rules.extend(
                fields
                    .get("rule")
                    .and_then(|rule| rule.read(str::parse::<usize>)),
            );
            verdicts.extend(fields.get("expect").and_then(Node::text));
        }
        let all = rule_file(&example.join("accept.json"))
            .rules(List::Private)
            .len();
        assert_eq!(rules, (0..all).collect(), "{name}");
        assert_eq!(verdicts.len(), 2, "{name}");
    }
}

#[tokio::test]
async fn published_rule_files_load_in_the_agent() {
    let Some(folder) = corpus::path("accept-files") else {
        return;
    };
    let mut loaded = 0;
    for path in json_files(&folder)
        .into_iter()
        .chain(json_files(&folder.join("scm")))
    {
        let text = fs::read_to_string(&path).unwrap();
        // Conditions are not supported yet; accept-rules has the tests that they are refused.
        if text.contains("\"valid\"") {
            continue;
        }
        let example = tempfile::tempdir().unwrap();
        fs::write(example.path().join("accept.json"), &text).unwrap();
        let mut variables = vec![
            ("BROKER_TOKEN".to_owned(), "agent".to_owned()),
            (
                "BROKER_SERVER_URL".to_owned(),
                "https://broker.example".to_owned(),
            ),
            ("ACCEPT".to_owned(), "accept.json".to_owned()),
        ];
        variables.extend(
            names(&text)
                .into_iter()
                .map(|name| (name, PLACEHOLDER.to_owned())),
        );
        let (snapshot, set) = load(example.path(), &variables);
        assert_eq!(
            snapshot.connections[0].accept.private_rules,
            set.len(),
            "{}",
            path.display()
        );
        assert!(!set.is_empty(), "{}", path.display());
        loaded += 1;
    }
    assert!(loaded > 10, "{loaded} files");
}

/// Those with rules of their own.
pub(crate) fn examples() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let folders: Vec<_> = entries
        .filter(|path| path.join("accept.json").exists())
        .collect();
    assert!(folders.len() >= 9, "{folders:?}");
    folders
}

pub(crate) fn json_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .collect()
}

/// The lines `NAME=value` of an environment file.
fn variables(file: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(file).unwrap();
    let lines = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.split_once('=').unwrap_or_else(|| panic!("{line:?}"));
            (name.to_owned(), value.to_owned())
        })
        .collect()
}

/// The names in `${NAME}`.
fn names(text: &str) -> BTreeSet<String> {
    let starts = text.split("${").skip(1);
    starts
        .filter_map(|rest| rest.split_once('}'))
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// Loads what stands in `folder` as the agent does, and compiles its private rules with the settings' origins.
fn load(folder: &Path, variables: &[(String, String)]) -> (StatusSnapshot, RuleSet) {
    let files = Files::new();
    let environment: Environment = variables
        .iter()
        .map(|(name, value)| (name.clone(), files.in_place_of(name, value)))
        .chain([("BROKER_DATA_DIR".to_owned(), files.path("data"))])
        .collect();
    let settings = folder.join("settings.yaml");
    let mut arguments = vec!["run".to_owned()];
    if settings.exists() {
        arguments.extend(["--config".to_owned(), settings.display().to_string()]);
    }
    let arguments = config::run_command().get_matches_from(arguments);
    let config = Config::load(&arguments, environment, folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let [connection] = &config.connections[..] else {
        panic!("{}: several connections", folder.display());
    };
    let set = RuleSet::compile(
        &rule_file(&folder.join("accept.json")),
        List::Private,
        |origin| match config.origin(connection, origin).encoded_slash {
            config::EncodedSlash::Refuse => EncodedSlash::Refuse,
            config::EncodedSlash::Data => EncodedSlash::Data,
        },
    );
    let agent = Agent::new(config).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    (agent.board().snapshot(), set)
}

/// Files that an environment file names and that only an operator has.
struct Files {
    folder: TempDir,
    ca: Ca,
}

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let token = AccessToken::generate(TokenKind::Agent);
        fs::write(folder.path().join("secret"), token.expose()).unwrap();
        let ca = Ca::new("origins");
        Self { folder, ca }
    }

    fn in_place_of(&self, name: &str, value: &str) -> String {
        match name {
            "BROKER_AGENT_SECRET_FILE" => self.path("secret"),
            "CA_CERT" | "TUNNEL_CA_CERT" => self.ca.file().display().to_string(),
            _ => value.to_owned(),
        }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }
}

pub(crate) fn rule_file(path: &Path) -> RuleFile {
    RuleFile::parse(&fs::read_to_string(path).unwrap())
        .unwrap_or_else(|errors| panic!("{}: {errors}", path.display()))
}

/// The rule that allows a request without a body; a target that cannot be judged is denied.
pub(crate) fn decide(set: &RuleSet, method: &str, target: &str) -> Option<usize> {
    let target = RequestTarget::new(&method.parse().unwrap(), target).ok()?;
    let question = Request {
        target,
        headers: http::HeaderMap::new(),
        caller: "proxy".into(),
        now: SystemTime::UNIX_EPOCH,
    };
    match set.decide(question) {
        Decision::Allow(allowed) => Some(allowed.rule().as_usize()),
        Decision::NeedsBody(pending) => {
            let allowed = set.decide_with_body(pending, Bytes::new()).ok()?;
            Some(allowed.rule().as_usize())
        }
        Decision::Deny(_) => None,
    }
}

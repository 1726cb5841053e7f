//! What can be said against the rules in `examples/`, and that the documentation has every finding.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use accept_rules::{EncodedSlash, Finding, LintCode, RuleFile, lint};

/// Every finding in the examples: the rule, its code, and how many more rules it is about.
const EXAMPLES: &[(&str, &[&str])] = &[
    ("argocd", &[]),
    ("bitbucket-server", &[]),
    // Its README says that the header passes.
    ("cost-insights", &["private[0]: passes-authorization +2"]),
    ("eks", &[]),
    ("github-enterprise", &[]),
    ("gitlab", &[]),
    ("grafana", &[]),
    ("jenkins", &[]),
    ("kubernetes", &[]),
    ("quickstart", &[]),
    ("sonarqube", &[]),
];

#[test]
fn the_examples_have_no_findings_but_these() {
    let folders = fs::read_dir(repository().join("examples")).unwrap();
    let folders = folders.map(|entry| entry.unwrap());
    let with_rules = folders.filter(|entry| entry.path().join("accept.json").is_file());
    let mut names: Vec<_> = with_rules
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    let listed: Vec<_> = EXAMPLES.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, listed);
    for (name, expected) in EXAMPLES {
        let findings = example_findings(name);
        let found: Vec<_> = findings.iter().map(summary).collect();
        assert_eq!(found, *expected, "{name}");
    }
}

#[test]
fn the_documentation_has_every_code_with_its_meaning_and_fix() {
    let text = fs::read_to_string(repository().join("docs/lint.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let expected = LintCode::ALL.iter().map(|code| {
        let (meaning, remedy) = (code.meaning(), code.remedy());
        format!("| `{code}` | {meaning} | {remedy} |")
    });
    assert_eq!(rows.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
}

fn summary(finding: &Finding) -> String {
    let (place, code) = (finding.place(), finding.code());
    format!("{place}{code} +{}", finding.also().len())
}

/// With the origins' settings that belong to the example.
fn example_findings(name: &str) -> Vec<Finding> {
    let folder = repository().join("examples").join(name);
    let file = RuleFile::parse(&fs::read_to_string(folder.join("accept.json")).unwrap()).unwrap();
    let settings = fs::read_to_string(folder.join("settings.yaml")).unwrap_or_default();
    let settings: Settings = serde_yaml::from_str(&settings).unwrap_or_default();
    lint(&file, SystemTime::UNIX_EPOCH, |origin| {
        let setting = settings.origins.get(origin);
        match setting.and_then(|setting| setting.get("encoded-slash")) {
            Some(value) if value == "refuse" => EncodedSlash::Refuse,
            Some(_) | None => EncodedSlash::Data,
        }
    })
}

#[derive(Default, serde::Deserialize)]
struct Settings {
    origins: BTreeMap<String, BTreeMap<String, String>>,
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

//! `rules check`: whether an accept file can be used, and what a reviewer should look at.

use std::fmt;
use std::time::SystemTime;

use accept_rules::{Finding, List, Place, lint};
use broker_process::exit::Exit;
use clap::{ArgMatches, Command};
use serde::Serialize;

use super::Surroundings;
use super::accept::{Subject, file_argument};
use super::report;
use crate::config::{reading_arguments, unverified};
use crate::rules::{RulesError, encoded_slash, unused_origins};
use crate::status::row;

pub(super) fn command() -> Command {
    Command::new("check")
        .about("Load an accept file as the agent would, and look for rules that allow more than they seem to")
        .after_help(
            "Exit code: 0 without findings; 1 with findings; 64 where the file cannot be used, and all that is wrong \
             with it is told at once.\n\nExample:\n  broker-client rules check accept.json --config agent.yaml",
        )
        .arg(file_argument().required(true))
        .args(reading_arguments())
}

pub(super) fn run(arguments: &ArgMatches, surroundings: Surroundings<'_>) -> Result<(), Exit> {
    let accept = Subject::of_arguments(arguments, surroundings)?;
    let unused = unused_origins(&accept.reading.origins, accept.rules.rules(List::Private));
    if !unused.is_empty() {
        return Err(Exit::usage(RulesError::unusable(&accept.file, unused)));
    }
    let checked = Checked::new(&accept);
    report::print(arguments, &checked)?;
    if checked.findings.is_empty() {
        Ok(())
    } else {
        Err(Exit::negative())
    }
}

/// What was found.
#[derive(Serialize)]
struct Checked {
    path: String,
    sha256: String,
    version: Option<u8>,
    private_rules: usize,
    public_rules: usize,
    warnings: Vec<String>,
    findings: Vec<ShownFinding>,
}

#[derive(Serialize)]
struct ShownFinding {
    code: &'static str,
    list: Option<String>,
    /// The index of the rule, where one is meant, and of others of which the same is true.
    rule: Option<usize>,
    also: Vec<usize>,
    problem: String,
    fix: String,
    #[serde(skip)]
    text: String,
}

impl From<&Finding> for ShownFinding {
    fn from(finding: &Finding) -> Self {
        let (list, rule) = match finding.place() {
            Place::File => (None, None),
            Place::List(list) => (Some(list), None),
            Place::Rule(list, rule) => (Some(list), Some(rule.as_usize())),
        };
        Self {
            code: finding.code().as_str(),
            list: list.map(|list| list.to_string()),
            rule,
            also: finding.also().iter().map(|rule| rule.as_usize()).collect(),
            problem: finding.problem().to_owned(),
            fix: finding.fix().to_owned(),
            text: finding.to_string(),
        }
    }
}

impl ShownFinding {
    /// One about the settings: an accept file cannot turn verification off.
    fn unverified_origin(problem: String) -> Self {
        let (code, fix) = ("unverified-origin", "name its authority in ca-cert instead");
        Self {
            code,
            list: None,
            rule: None,
            also: Vec::new(),
            text: format!("{problem}; {fix} [{code}]"),
            problem,
            fix: fix.to_owned(),
        }
    }
}

impl Checked {
    fn new(accept: &Subject) -> Self {
        let origins = &accept.reading.origins;
        let findings = lint(&accept.rules, SystemTime::now(), |origin| {
            encoded_slash(origins, origin)
        });
        Self {
            path: accept.file.path.display().to_string(),
            sha256: accept.file.sha256.clone(),
            version: accept.rules.version(),
            private_rules: accept.rules.rules(List::Private).len(),
            public_rules: accept.rules.rules(List::Public).len(),
            warnings: accept
                .rules
                .warnings()
                .iter()
                .map(ToString::to_string)
                .collect(),
            findings: findings
                .iter()
                .map(ShownFinding::from)
                .chain(unverified(origins).map(ShownFinding::unverified_origin))
                .collect(),
        }
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        row(f, "accept file", &self.path)?;
        row(f, "sha256", &self.sha256)?;
        match self.version {
            None => row(f, "form", "without a version")?,
            Some(version) => row(f, "form", &format!("version {version}"))?,
        }
        let rules = format!(
            "{} private, {} public",
            self.private_rules, self.public_rules
        );
        row(f, "rules", &rules)?;
        for warning in &self.warnings {
            row(f, "warning", warning)?;
        }
        for finding in &self.findings {
            row(f, "finding", &finding.text)?;
        }
        match self.findings.len() {
            0 => row(f, "findings", "none"),
            count => row(f, "findings", &count.to_string()),
        }
    }
}

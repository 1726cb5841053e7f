//! `broker-client doctor` as it is built, and what it says.

use std::collections::BTreeMap;

use serde_json::Value;
use tempfile::TempDir;

use crate::broker::{AgentSetup, Reach};
use crate::programs::{AgentProcess, Child, broker_command};

/// What a run of doctor has said.
pub struct Doctor {
    /// Its exit code.
    pub code: i32,
    /// Standard output.
    pub said: String,
    /// The report, where it was asked for in JSON.
    pub report: Value,
    /// The files of the agent that it looked at.
    pub folder: Option<TempDir>,
}

impl Doctor {
    /// Looks at an agent that is set up and does not run.
    pub async fn of(setup: &AgentSetup, server: &Reach) -> Self {
        let (variables, folder) = setup.prepare(server);
        let doctor = Self::run(&["--json"], &variables).await;
        Self {
            folder: Some(folder),
            ..doctor
        }
    }

    /// Looks at an agent that runs.
    pub async fn beside(agent: &AgentProcess) -> Self {
        Self::run(&["--json"], agent.variables()).await
    }

    /// Runs it with these arguments and variables.
    pub async fn run(arguments: &[&str], variables: &BTreeMap<String, String>) -> Self {
        let mut command = broker_command("broker-client");
        command.arg("doctor").args(arguments).envs(variables);
        let mut child = Child::start("broker-client doctor", command);
        let code = child.exit().await.code();
        let said = child.stdout().text();
        Self {
            code: code.expect("it ends by itself"),
            report: serde_json::from_str(&said).unwrap_or_default(),
            said: said + &child.stderr().text(),
            folder: None,
        }
    }

    /// What it found at a hop of the first way whose name begins so: verdict, code, and text of the worst check.
    ///
    /// # Panics
    /// If it did not look there.
    pub fn found(&self, way: &str, hop: &str) -> (String, String, String) {
        let sections = self.report["sections"].as_array();
        let mut sections = sections
            .unwrap_or_else(|| panic!("no report: {}", self.said))
            .iter();
        let section = sections.find(|section| text(&section["subject"]).starts_with(way));
        let section = section.unwrap_or_else(|| panic!("no {way}: {}", self.said));
        let checks = section["checks"].as_array().unwrap().iter();
        let rank = |check: &&Value| {
            let order = ["skip", "pass", "warn", "fail"];
            order
                .iter()
                .position(|verdict| check["verdict"] == *verdict)
        };
        let check = checks.filter(|check| check["hop"] == hop).max_by_key(rank);
        let check = check.unwrap_or_else(|| panic!("no {hop} of {way}: {}", self.said));
        (
            text(&check["verdict"]),
            text(&check["code"]),
            text(&check["text"]),
        )
    }

    /// Asserts that a hop failed with this code and these words, that doctor's result says so, and that nothing behind
    /// that hop was looked at.
    ///
    /// # Panics
    /// If it is otherwise.
    #[track_caller]
    pub fn assert_fails(&self, way: &str, hop: &str, code: &str, words: &str) {
        let (verdict, found, said) = self.found(way, hop);
        assert_eq!((&*verdict, &*found), ("fail", code), "{}", self.said);
        assert!(said.contains(words), "{said:?} does not say {words:?}");
        assert_eq!(self.report["result"], "fail");
        assert_eq!(self.code, 1);
    }

    /// Asserts that all is well.
    ///
    /// # Panics
    /// If it is not.
    #[track_caller]
    pub fn assert_passes(&self) {
        assert_eq!(self.report["result"], "pass", "{}", self.said);
        assert_eq!(self.code, 0);
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

//! Rules mean what they mean to the npm packages that defined them.
//!
//! Each test asks its package about generated cases, the same in every run, and knows the deliberate
//! differences one by one.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde::Serialize;
use serde::de::DeserializeOwned;

mod body;
mod js_regexp;
mod minimatch;
mod path_to_regexp;
mod qs;

/// What `tests/differential/<name>.js` answers to each case; none where its packages are missing.
fn ask_node<A: DeserializeOwned>(name: &str, cases: &[impl Serialize]) -> Option<Vec<A>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/differential");
    if !folder.join("node_modules").is_dir() {
        println!("skipped: run `npm ci` in {}", folder.display());
        return None;
    }
    let mut node = Command::new("node")
        .arg(folder.join(format!("{name}.js")))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node runs where its packages are installed");
    let mut input = node.stdin.take().expect("it is piped");
    let lines: String = cases
        .iter()
        .map(|case| serde_json::to_string(case).expect("a case is JSON") + "\n")
        .collect();
    let writer = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = node.wait_with_output().expect("node ends");
    writer.join().expect("no panic").expect("node reads it all");
    assert!(output.status.success(), "{name}: {}", output.status);
    let answers: Vec<A> = String::from_utf8(output.stdout)
        .expect("JSON is UTF-8")
        .lines()
        .map(|line| serde_json::from_str(line).expect("an answer of the script"))
        .collect();
    assert_eq!(answers.len(), cases.len(), "{name}");
    Some(answers)
}

/// Draws from strategies, the same values in every run.
struct Sampler(TestRunner);

impl Sampler {
    fn new() -> Self {
        Self(TestRunner::deterministic())
    }

    fn draw(&mut self, strategy: &BoxedStrategy<String>) -> String {
        let tree = strategy.new_tree(&mut self.0);
        tree.expect("no strategy here rejects").current()
    }
}

/// Texts of up to `most` of the `pieces`.
fn concatenated(pieces: &[&'static str], most: usize) -> BoxedStrategy<String> {
    prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..=most)
        .prop_map(|pieces| pieces.concat())
        .boxed()
}

/// The glob values, body paths and the like in published files: every text under the key `name`.
/// The files are not part of the repository.
fn published(name: &str) -> Vec<String> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let corpus = std::env::var_os("BROKER_TEST_CORPUS").map_or(beside, PathBuf::from);
    let mut texts = Vec::new();
    for folder in ["accept-files", "accept-files/scm"] {
        let entries = fs::read_dir(corpus.join(folder)).into_iter().flatten();
        let mut paths: Vec<_> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        paths.sort();
        for path in paths.iter().filter(|path| path.is_file()) {
            let file = fs::read_to_string(path).expect("it was listed");
            let parsed = serde_json::from_str(&file).unwrap_or_default();
            collect(&parsed, name, false, &mut texts);
        }
    }
    texts.sort();
    texts.dedup();
    texts
}

fn collect(value: &serde_json::Value, name: &str, is_named: bool, texts: &mut Vec<String>) {
    match value {
        serde_json::Value::String(text) if is_named => texts.push(text.clone()),
        serde_json::Value::Array(elements) => {
            for element in elements {
                collect(element, name, is_named, texts);
            }
        }
        serde_json::Value::Object(members) => {
            for (member, value) in members {
                collect(value, name, member == name, texts);
            }
        }
        serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Number(_)
        | serde_json::Value::String(_) => {}
    }
}

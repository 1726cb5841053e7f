//! Rule paths mean what they mean to the npm package that defined them.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::SystemTime;

use accept_rules::{Decision, EncodedSlash, List, Request, RequestTarget, RuleFile, RuleSet};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use regex::Regex;
use serde_json::json;

/// Few and short enough that the npm package, which backtracks, takes a second or two.
const PATTERNS: usize = 1500;
const PATHS_EACH: usize = 12;

/// Shapes from published files, and those where prefixes, ends and escapes are easily got wrong.
const HAND_WRITTEN: &[&str] = &[
    "/",
    "/api/v1/pods*",
    "/browse*/*.tf",
    "/rest/files/:searchPath?",
    "/branches:filterText?",
    "/:a-:b",
    "/:a.:b?",
    "/:base...:head",
    "/x/:p*/f",
    "/(.*)",
    "/a/(\\d+)?",
    "/:a(\\w+):b(\\d*)",
    "/**",
    "/a//b",
    "/a.*",
    "/a/.:b",
    "/:a*:b+",
    "/\\:a\\*",
    "/a\\/",
    "/:",
    "/a?",
    "/a+b",
    "/()",
    "/:a([^/]+)/",
    "/%2F:a",
];

#[test]
fn verdicts_are_those_of_the_npm_package() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/differential");
    if !folder.join("node_modules/path-to-regexp").is_dir() {
        println!("skipped: run `npm ci` in {}", folder.display());
        return;
    }
    let cases = cases();
    let answers = ask_node(&folder, &cases);
    assert_eq!(answers.len(), cases.len());
    let mut compared = 0;
    for ((pattern, paths), answer) in cases.iter().zip(answers) {
        let ours = verdicts(pattern, paths);
        match (ours, answer) {
            (Ok(ours), Some(theirs)) => {
                for ((path, ours), theirs) in paths.iter().zip(ours).zip(theirs) {
                    assert_eq!(ours, theirs, "{pattern} on {path}");
                    compared += 1;
                }
            }
            (Ok(_), None) => panic!("the npm package refuses {pattern}"),
            // The one difference: a parameter that only look-ahead could end.
            (Err(error), Some(_)) => {
                assert!(error.contains("needs look-ahead"), "{pattern}: {error}")
            }
            (Err(_), None) => {}
        }
    }
    assert!(
        compared > cases.len() * PATHS_EACH / 2,
        "only {compared} verdicts were compared"
    );
}

/// The same cases in every run.
fn cases() -> Vec<(String, Vec<String>)> {
    let mut runner = TestRunner::deterministic();
    let mut sample =
        |strategy: &BoxedStrategy<String>| strategy.new_tree(&mut runner).unwrap().current();
    let (pattern, path) = (pattern(), path());
    let generated = (0..PATTERNS).map(|_| sample(&pattern)).collect::<Vec<_>>();
    let patterns = HAND_WRITTEN
        .iter()
        .map(ToString::to_string)
        .chain(generated);
    patterns
        .map(|pattern| {
            // Half of the paths are made from the pattern, so that many match.
            let mut paths: Vec<_> = (0..PATHS_EACH / 2).map(|_| sample(&path)).collect();
            let fillers = ["a", "b1", "A/b", "a.b", "-", ""];
            paths.extend(fillers.map(|filler| filled(&pattern, filler)));
            paths.retain(|path| {
                !path.contains('?') && RequestTarget::new(&http::Method::GET, path).is_ok()
            });
            (pattern, paths)
        })
        .collect()
}

fn pattern() -> BoxedStrategy<String> {
    let pieces = prop::sample::select(vec![
        "/",
        "/",
        "/",
        "a",
        "b",
        "A",
        "ab",
        "-",
        ".",
        "..",
        "1",
        "%2F",
        "*",
        "/*",
        ":x",
        "/:x",
        ".:x",
        ":y1",
        "/:x_y",
        "(a|b)",
        "(\\d+)",
        "([^/]+)",
        "([a-z.]{1,2})",
        "(\\w)",
        "?",
        "+",
        "\\.",
        "\\*",
        "\\:",
        "=",
        "!",
        "$",
        "(",
        ")",
        "[",
        "]",
        "{",
        "^",
        "|",
        "~",
        "/:x?",
        "/:x+",
        "/:x*",
    ]);
    prop::collection::vec(pieces, 0..6)
        .prop_map(|pieces| format!("/{}", pieces.concat()))
        .boxed()
}

fn path() -> BoxedStrategy<String> {
    let pieces = prop::sample::select(vec![
        "/", "/", "a", "b", "A", "ab", "-", ".", "1", "%2F", "%2f", "*", ":x", "=", "$", "+", "~",
        "a/", "/b",
    ]);
    prop::collection::vec(pieces, 0..6)
        .prop_map(|pieces| format!("/{}", pieces.concat()))
        .boxed()
}

static PARAMETERS: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r":\w+(\([^()]*\))?[?*+]?|\([^()]*\)[?*+]?|\\|\*").unwrap());

/// The pattern with `filler` where it has parameters, as far as a glance tells.
fn filled(pattern: &str, filler: &str) -> String {
    PARAMETERS.replace_all(pattern, filler).into_owned()
}

fn ask_node(folder: &Path, cases: &[(String, Vec<String>)]) -> Vec<Option<Vec<bool>>> {
    let mut node = Command::new("node")
        .arg(folder.join("path_to_regexp.js"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node runs where its packages are installed");
    let mut input = node.stdin.take().unwrap();
    let lines: String = cases
        .iter()
        .map(|(pattern, paths)| format!("{}\n", json!({"pattern": pattern, "paths": paths})))
        .collect();
    let writer = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = node.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success(), "{}", output.status);
    let answers = String::from_utf8(output.stdout).unwrap();
    answers
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Whether each path matches, or why the pattern is refused.
fn verdicts(pattern: &str, paths: &[String]) -> Result<Vec<bool>, String> {
    let rule = json!({"private": [{"path": pattern, "origin": "https://host"}]});
    let file = RuleFile::parse(&rule.to_string()).map_err(|errors| errors.to_string())?;
    let rules = RuleSet::compile(&file, List::Private, |_| EncodedSlash::Data);
    let is_allowed = |path: &String| {
        let target = RequestTarget::new(&http::Method::GET, path).unwrap();
        let (headers, now) = (http::HeaderMap::new(), SystemTime::UNIX_EPOCH);
        let request = Request {
            target,
            headers,
            caller: "proxy".into(),
            now,
        };
        matches!(rules.decide(request), Decision::Allow(_))
    };
    Ok(paths.iter().map(is_allowed).collect())
}

//! Rule paths, and path-to-regexp 1.9.

use std::sync::LazyLock;
use std::time::SystemTime;

use regex::Regex;
use serde_json::json;

use super::{Sampler, ask_node, concatenated};
use crate::{Decision, EncodedSlash, List, Request, RequestTarget, RuleFile, RuleSet};

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

const PATTERN_PIECES: &[&str] = &[
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
];

const PATH_PIECES: &[&str] = &[
    "/", "/", "a", "b", "A", "ab", "-", ".", "1", "%2F", "%2f", "*", ":x", "=", "$", "+", "~",
    "a/", "/b",
];

#[test]
fn verdicts_are_those_of_the_npm_package() {
    let cases = cases();
    let lines: Vec<_> = cases
        .iter()
        .map(|(pattern, paths)| json!({"pattern": pattern, "paths": paths}))
        .collect();
    let Some(answers) = ask_node::<Option<Vec<bool>>>("path_to_regexp", &lines) else {
        return;
    };
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

fn cases() -> Vec<(String, Vec<String>)> {
    let mut sampler = Sampler::new();
    let (pattern, path) = (
        concatenated(PATTERN_PIECES, 5),
        concatenated(PATH_PIECES, 5),
    );
    let mut draw = |strategy| format!("/{}", sampler.draw(strategy));
    let generated = (0..PATTERNS).map(|_| draw(&pattern)).collect::<Vec<_>>();
    let patterns = HAND_WRITTEN
        .iter()
        .map(ToString::to_string)
        .chain(generated);
    patterns
        .map(|pattern| {
            // Half of the paths are made from the pattern, so that many match.
            let mut paths: Vec<_> = (0..PATHS_EACH / 2).map(|_| draw(&path)).collect();
            let fillers = ["a", "b1", "A/b", "a.b", "-", ""];
            paths.extend(fillers.map(|filler| filled(&pattern, filler)));
            paths.retain(|path| {
                !path.contains('?') && RequestTarget::new(&http::Method::GET, path).is_ok()
            });
            (pattern, paths)
        })
        .collect()
}

static PARAMETERS: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r":\w+(\([^()]*\))?[?*+]?|\([^()]*\)[?*+]?|\\|\*").unwrap());

/// The pattern with `filler` where it has parameters, as far as a glance tells.
fn filled(pattern: &str, filler: &str) -> String {
    PARAMETERS.replace_all(pattern, filler).into_owned()
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

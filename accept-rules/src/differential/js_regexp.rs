//! Expressions for bodies, and JavaScript's `RegExp`.

use serde_json::json;

use super::{Sampler, ask_node, concatenated, published};
use crate::js_regex::JsRegex;

const PATTERNS: usize = 4000;
const TEXTS_EACH: usize = 10;

const HAND_WRITTEN: &[&str] = &[
    "",
    "^$",
    "^a.b$",
    "(a|b)+c",
    "(?:a)?b*",
    "a{2,3}?",
    "\\bab\\b",
    "[\\d-]",
    "[^\\s]",
    "[\\S\\s]",
    "\\s+$",
    "[^a]",
    "[a-\\uffff]",
    "[\\ud83d-\\udfff]",
    "[😀]",
    "^.$",
    "^..$",
    "^\\W$",
    "\\u00e9|\\xe9",
    "[\\b]",
    "a]b}",
    "(?=a)",
    "(?<!a)b",
    "(a)\\1",
    "(?<n>a)",
    "a**",
    "(",
    ")",
    "[z-a]",
    "x{2,1}",
];

const PATTERN_PIECES: &[&str] = &[
    "a",
    "b",
    "1",
    "_",
    "-",
    "é",
    "😀",
    "K",
    " ",
    ".",
    ".",
    "^",
    "$",
    "|",
    "(",
    "(?:",
    ")",
    "(a|b)",
    "*",
    "+",
    "?",
    "??",
    "{2}",
    "{1,}",
    "{1,2}",
    "{",
    "}",
    "[ab]",
    "[^ab]",
    "[a-f]",
    "[\\w-]",
    "[^\\d]",
    "[\\s\\S]",
    "[é-\\uffff]",
    "[😀-]",
    "]",
    "\\d",
    "\\D",
    "\\w",
    "\\W",
    "\\s",
    "\\S",
    "\\b",
    "\\n",
    "\\.",
    "\\/",
    "\\\\",
    "\\x41",
    "\\u0061",
    "\\ud83d",
    "\\u",
    "\\k",
    "\\1",
    "(?=a)",
    "(?!a)",
    "\n",
];

const TEXT_PIECES: &[&str] = &[
    "a", "a", "b", "b", "1", "2", "_", "-", "é", "😀", "😁", "K", "\u{212a}", "A", " ", "\u{a0}",
    "\u{85}", "\u{feff}", "\u{2028}", "\n", "\r", "\t", ".", "/", "\\", "{", "}", "]", "\u{ffff}",
    "\u{8}", "٣",
];

#[test]
fn expressions_match_what_they_match_in_javascript() {
    let cases = cases();
    let lines: Vec<_> = cases
        .iter()
        .map(|(pattern, texts)| json!({"pattern": pattern, "texts": texts}))
        .collect();
    let Some(answers) = ask_node::<Option<Vec<bool>>>("js_regexp", &lines) else {
        return;
    };
    let mut compared = 0;
    for ((pattern, texts), answer) in cases.iter().zip(answers) {
        match (JsRegex::parse(pattern), answer) {
            (Ok(regex), Some(theirs)) => {
                for (text, theirs) in texts.iter().zip(theirs) {
                    assert_eq!(regex.is_match(text), theirs, "{pattern:?} on {text:?}");
                    compared += 1;
                }
            }
            (Ok(_), None) => panic!("JavaScript refuses {pattern:?}"),
            (Err(error), Some(_)) => {
                assert!(is_refused_by_name(pattern), "{pattern:?}: {error}");
            }
            (Err(_), None) => {}
        }
    }
    assert!(
        compared > cases.len() * TEXTS_EACH / 3,
        "only {compared} verdicts were compared"
    );
}

fn cases() -> Vec<(String, Vec<String>)> {
    let mut sampler = Sampler::new();
    let pattern = concatenated(PATTERN_PIECES, 6);
    let text = concatenated(TEXT_PIECES, 5);
    let generated: Vec<_> = (0..PATTERNS).map(|_| sampler.draw(&pattern)).collect();
    let hand_written = HAND_WRITTEN.iter().map(ToString::to_string);
    hand_written
        .chain(published("regex"))
        .chain(generated)
        .map(|pattern| {
            let texts = (0..TEXTS_EACH).map(|_| sampler.draw(&text)).collect();
            (pattern, texts)
        })
        .collect()
}

/// The deliberate differences: what takes more than linear time, and what JavaScript only tolerates.
fn is_refused_by_name(pattern: &str) -> bool {
    let looks_around_or_back = ["(?=", "(?!", "(?<", "\\1"];
    let is_tolerated = ["{", "[]", "[^]", "--", "\\u", "\\k", "\\B", "[\\w-"];
    let mut refused = looks_around_or_back.iter().chain(&is_tolerated);
    refused.any(|text| pattern.contains(text))
}

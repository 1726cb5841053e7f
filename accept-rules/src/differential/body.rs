//! Bodies and the paths into them, and JavaScript's `JSON` with undefsafe 2.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Sampler, ask_node, concatenated, published};
use crate::body::{Body, BodyError, BodyPath, Scalar};

const BODIES: usize = 1000;
const DAMAGED: usize = 3000;

const PATHS: &[&str] = &[
    "a", "b", "a.b", "a.0", "a.1.b", "0", "*", "*.*", "a.*", "*.a", "*.*.a", "a.*.b", "a.*.b.*",
    "*.b.*", "a.length", "*.length", "*.0", "a.00",
];

#[derive(Debug, Deserialize)]
struct Answer {
    /// What undefsafe says.
    odd: bool,
    /// What it says without its oddities.
    exact: bool,
    oddities: Vec<String>,
}

#[test]
fn paths_reach_what_they_reach_in_the_npm_package() {
    let paths: Vec<_> = published("path")
        .into_iter()
        .filter(|path| !path.starts_with('/') && path.contains('.'))
        .chain(PATHS.iter().map(ToString::to_string))
        .collect();
    let values = [
        json!("x"),
        json!(""),
        json!(0),
        json!(1.5),
        json!(true),
        json!(false),
        json!(null),
    ];
    let questions: Vec<_> = paths
        .iter()
        .flat_map(|path| values.iter().map(move |value| (path, value)))
        .collect();
    let bodies = bodies();
    let lines: Vec<_> = bodies
        .iter()
        .map(|text| json!({"text": text, "questions": questions}))
        .collect();
    let Some(answers) = ask_node::<Option<Vec<Answer>>>("body", &lines) else {
        return;
    };
    let mut seen = BTreeMap::<_, usize>::new();
    for (text, answers) in bodies.iter().zip(answers) {
        let body = Body::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"));
        let answers = answers.unwrap_or_else(|| panic!("JavaScript refuses {text}"));
        for ((path, value), answer) in questions.iter().zip(answers) {
            let ours = BodyPath::parse(path)
                .unwrap()
                .any_equals(&body, &scalar(value));
            assert_eq!(ours, answer.exact, "{text}: {path} is {value}");
            if ours != answer.odd {
                assert!(!answer.oddities.is_empty(), "{text}: {path} is {value}");
            }
            for oddity in answer.oddities.into_iter().filter(|_| ours != answer.odd) {
                *seen.entry(oddity).or_default() += 1;
            }
            *seen.entry(format!("same: {ours}")).or_default() += usize::from(ours == answer.odd);
        }
    }
    let names: Vec<_> = seen.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "falsy",
            "length",
            "same: false",
            "same: true",
            "scalar",
            "throws"
        ],
        "{seen:?}"
    );
}

#[test]
fn what_is_no_json_in_javascript_is_no_body() {
    let texts = damaged();
    let lines: Vec<_> = texts
        .iter()
        .map(|text| json!({"text": text, "questions": []}))
        .collect();
    let Some(answers) = ask_node::<Option<Vec<Answer>>>("body", &lines) else {
        return;
    };
    let mut accepted = 0;
    for (text, answer) in texts.iter().zip(answers) {
        match (Body::parse(text.as_bytes()), answer) {
            (Ok(_), Some(_)) => accepted += 1,
            (Ok(_), None) => panic!("JavaScript refuses {text:?}"),
            // The deliberate differences, which servers read in more than one way.
            (Err(error), Some(_)) => {
                let has_surrogate = text.contains("\\ud83d") || text.contains("\\ude00");
                let mut numbers = text.split(|c: char| !"0123456789e+-.".contains(c));
                let is_huge =
                    numbers.any(|number| number.parse::<f64>().is_ok_and(f64::is_infinite));
                assert!(
                    error == BodyError::DuplicateName || has_surrogate || is_huge,
                    "{text:?}: {error}"
                );
            }
            (Err(_), None) => {}
        }
    }
    assert!(
        accepted > DAMAGED / 20,
        "only {accepted} texts were accepted"
    );
}

fn scalar(value: &Value) -> Scalar {
    match value {
        Value::Null => Scalar::Null,
        Value::Bool(boolean) => Scalar::Boolean(*boolean),
        Value::Number(number) => Scalar::number(&number.to_string()).unwrap(),
        Value::String(text) => Scalar::Text(text.as_str().into()),
        Value::Array(_) | Value::Object(_) => panic!("no scalar: {value}"),
    }
}

/// Small bodies with few names, so that many paths reach something.
fn bodies() -> Vec<String> {
    use proptest::prelude::*;
    let scalar = prop::sample::select(vec![
        json!("x"),
        json!("x"),
        json!("y"),
        json!(""),
        json!("0"),
        json!(0),
        json!(1.5),
        json!(true),
        json!(false),
        json!(null),
    ]);
    let body = scalar.prop_recursive(4, 24, 4, |inner| {
        let name = prop::sample::select(vec!["a", "b", "0", "1", "length", "commits", "added"]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name, inner, 0..4).prop_map(Value::from_iter),
        ]
    });
    let object = prop::collection::btree_map(
        prop::sample::select(vec!["a", "b", "0", "commits", "pull_request"]),
        body,
        0..4,
    );
    let text = object
        .prop_map(|members| Value::from_iter(members).to_string())
        .boxed();
    let mut sampler = Sampler::new();
    (0..BODIES).map(|_| sampler.draw(&text)).collect()
}

/// Texts that are nearly JSON, and some that are.
fn damaged() -> Vec<String> {
    let text = concatenated(
        &[
            "{",
            "}",
            "[",
            "]",
            "{\"a\":",
            "\"b\":",
            "\"a\":",
            ":",
            ",",
            ",",
            "1",
            "-1",
            "0",
            "01",
            "1.",
            ".5",
            "1e5",
            "9e999",
            "-0",
            "+1",
            "\"x\"",
            "\"\\u0061\"",
            "\"\\ud83d\"",
            "\"\\ud83d\\ude00\"",
            "\"\\x\"",
            "\"\\/\"",
            "\"",
            "'x'",
            "true",
            "null",
            "NaN",
            "Infinity",
            " ",
            "\n",
            "\t",
            "\u{a0}",
            "\u{feff}",
            "\u{c}",
            "// c\n",
            "/* c */",
            "\"\t\"",
            "\"\u{2028}\"",
            "[1]",
            "{}",
            "{\"a\":1}",
            "{\"a\":1,\"a\":2}",
            "{\"a\":1,\"\\u0061\":2}",
        ],
        5,
    );
    let mut sampler = Sampler::new();
    (0..DAMAGED).map(|_| sampler.draw(&text)).collect()
}

//! Queries, and qs 6.

use serde_json::{Value, json};

use super::{Sampler, ask_node, concatenated};
use crate::RequestTarget;
use crate::query::{Query, QueryValue};

const QUERIES: usize = 6000;

const NAMES: &[&str] = &[
    "a",
    "b",
    "A",
    "a.b",
    "a_b",
    "a b",
    "ab",
    "0",
    "é",
    "toString",
    "__proto__",
    "a]",
    "a=b]",
];

const HAND_WRITTEN: &[&str] = &[
    "",
    "&",
    "a",
    "a=1&b=2",
    "a=b=c",
    "a%5B%5D=1",
    "a[b][c]=1",
    "[a]=1",
    "[]=1&[]=2",
    "a[=1",
    "a]=1",
    "a=b]=c",
    "a[]=b=c",
    "a=1&[a]=2",
    "a=%5B&b=%255B",
    "a=+%2B",
    "%61=1",
    "a.b=1",
    "__proto__[a]=1",
    "toString=1&a=2",
    "a=1;b=2",
    "a=%E9&b=%C3%A9",
    "%C3%A9=%F0%9F%98%80",
];

const PIECES: &[&str] = &[
    "&",
    "&",
    "&",
    "=",
    "=",
    "=",
    "a",
    "a",
    "b",
    "b",
    "A",
    "ab",
    ".",
    "_",
    "+",
    "%20",
    "[",
    "]",
    "[]",
    "[b]",
    "[0]",
    "[20]",
    "%5B",
    "%5D",
    "%5d",
    ";",
    "1",
    "0",
    "%61",
    "%C3%A9",
    "%C3",
    "%ff",
    "%00",
    "%26",
    "%3D",
    "%3B",
    "%25",
    "%2541",
    "?",
    "/",
    "**",
    "%F0%9F%98%80",
    "toString",
    "__proto__",
    "a=1",
    "&a=1",
    "&a=1",
    "&b=x%2Fy",
];

#[test]
fn query_values_are_those_of_the_npm_package() {
    let cases = cases();
    let lines: Vec<_> = cases
        .iter()
        .map(|query| json!({"query": query, "names": NAMES}))
        .collect();
    let Some(answers) = ask_node::<Vec<Value>>("qs", &lines) else {
        return;
    };
    let (mut same, mut stricter) = (0, 0);
    for (query, theirs) in cases.iter().zip(answers) {
        for (name, theirs) in NAMES.iter().zip(theirs) {
            let ours = Query::read(query).map(|query| query.value(name));
            match (ours, theirs) {
                (Ok(QueryValue::Text(ours)), Value::String(theirs)) if ours == theirs => same += 1,
                (Ok(QueryValue::Absent), Value::Null) => same += 1,
                (Ok(QueryValue::Ambiguous), Value::Bool(_)) => same += 1,
                (Ok(QueryValue::Ambiguous), theirs) => {
                    assert!(
                        may_be_read_otherwise(query, name),
                        "{query:?}, {name:?}: {theirs:?}"
                    );
                    stricter += 1;
                }
                (Err(error), _) => {
                    assert!(is_beyond_limits(query), "{query:?}: {error}");
                    stricter += 1;
                }
                (ours, theirs) => panic!("{query:?}, {name:?}: {ours:?}, not {theirs:?}"),
            }
        }
    }
    assert!(
        same > stricter,
        "{same} verdicts agreed, {stricter} were stricter"
    );
}

fn cases() -> Vec<String> {
    let mut sampler = Sampler::new();
    let query = concatenated(PIECES, 10);
    let generated: Vec<_> = (0..QUERIES).map(|_| sampler.draw(&query)).collect();
    let many = ["a=1&", "a[]=1&"].map(|parameter| parameter.repeat(21));
    let mut cases: Vec<_> = HAND_WRITTEN.iter().map(ToString::to_string).collect();
    cases.extend(generated.into_iter().chain(many));
    cases.retain(|query| RequestTarget::new(&http::Method::GET, &format!("/?{query}")).is_ok());
    cases
}

/// The deliberate differences: where some server other than qs finds another value, no condition
/// holds.
fn may_be_read_otherwise(query: &str, name: &str) -> bool {
    let lower = query.to_lowercase();
    let has_any = |texts: &[&str]| texts.iter().any(|text| lower.contains(text));
    let splits_elsewhere = has_any(&[";", "]=", "%5d="]);
    let is_no_text = has_any(&["%00", "%c3", "%ff"]);
    let is_member_of_all = matches!(name, "toString" | "__proto__");
    let starts_with_bracket = query.split('&').any(|parameter| {
        parameter
            .trim_start_matches(['+', '?'])
            .starts_with(['[', '%'])
    });
    let resembling = query
        .split('&')
        .filter(|parameter| reduced(parameter).starts_with(&reduced(name)))
        .count();
    let is_spelled_otherwise = !query
        .split('&')
        .any(|parameter| parameter.split('=').next() == Some(name));
    splits_elsewhere
        || is_no_text
        || is_member_of_all
        || starts_with_bracket
        || resembling > 1
        || (resembling == 1 && is_spelled_otherwise)
}

/// A name, or what starts with one, without all that servers drop or replace.
fn reduced(text: &str) -> String {
    let text = text
        .replace("%61", "a")
        .replace("%20", "")
        .replace("%5B", "");
    let text = text
        .replace("%5D", "")
        .replace("%5d", "")
        .replace("%3D", "");
    let kept = text.chars().filter(|c| c.is_alphanumeric());
    kept.collect::<String>().to_lowercase()
}

fn is_beyond_limits(query: &str) -> bool {
    let has_long_list = query.contains("[20]") || query.split('&').count() > 20;
    let is_deep = query
        .to_lowercase()
        .replace("%5b", "[")
        .matches('[')
        .count()
        > 5;
    let is_no_text = ["%C3", "%ff"].iter().any(|bytes| query.contains(bytes));
    has_long_list || is_deep || is_no_text
}

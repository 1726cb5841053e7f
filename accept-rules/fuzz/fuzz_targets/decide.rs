//! Any request against any rules made of pieces that mean something: no rule allows what it does not say.
#![no_main]

use accept_rules_fuzz::{MethodName, Question, rules, verdict};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, arbitrary::Arbitrary)]
struct Rule {
    post: bool,
    path: Vec<Piece>,
    condition: Option<Condition>,
}

#[derive(Debug, arbitrary::Arbitrary)]
enum Piece {
    Slash,
    Letter,
    Parameter,
    OptionalParameter,
    RepeatedParameter,
    Anything,
    Digits,
    Dot,
}

#[derive(Debug, arbitrary::Arbitrary)]
enum Condition {
    Query,
    Header,
    Value,
    Regex,
}

fuzz_target!(|input: (Vec<Rule>, Question<'_>)| {
    let (described, question) = input;
    let written: Vec<String> = described.iter().take(16).map(write).collect();
    let all = format!("{{\"private\": [{}]}}", written.join(","));
    let (Some(all), Some(request)) = (rules(&all), question.request()) else {
        return;
    };
    let allowed = verdict(&all, request, question.body);
    if matches!(question.method, MethodName::Trace) {
        assert_eq!(allowed, None);
    }
    // The rule that allows does so alone, and none of those before it does.
    for (index, rule) in written
        .iter()
        .enumerate()
        .take(allowed.map_or(16, |rule| rule + 1))
    {
        let alone = rules(&format!("{{\"private\": [{rule}]}}"));
        let Some((alone, request)) = alone.zip(question.request()) else {
            return;
        };
        let matches = verdict(&alone, request, question.body).is_some();
        assert_eq!(matches, allowed == Some(index), "rule {index}: {rule}");
    }
});

fn write(rule: &Rule) -> String {
    let path: String = rule
        .path
        .iter()
        .take(12)
        .map(|piece| match piece {
            Piece::Slash => "/",
            Piece::Letter => "a",
            Piece::Parameter => ":b",
            Piece::OptionalParameter => "/:c?",
            Piece::RepeatedParameter => "/:d*",
            Piece::Anything => "*",
            Piece::Digits => r"(\\d+)",
            Piece::Dot => ".",
        })
        .collect();
    let method = if rule.post { "POST" } else { "GET" };
    let valid = match rule.condition {
        None => "",
        Some(Condition::Query) => r#"{"queryParam": "a", "values": ["a*", "!(b)"]}"#,
        Some(Condition::Header) => r#"{"header": "accept", "values": ["a"]}"#,
        Some(Condition::Value) => r#"{"path": "a.*", "value": "a"}"#,
        Some(Condition::Regex) => r#"{"path": "a", "regex": "^a+$"}"#,
    };
    format!(r#"{{"method": "{method}", "path": "/{path}", "origin": "h", "valid": [{valid}]}}"#)
}

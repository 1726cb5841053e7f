//! Any query against any condition on it: judged in bounds, and alike at every asking.
#![no_main]

use accept_rules_fuzz::{MethodName, Question, rules, verdict};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &str, &str)| {
    let (name, glob, query) = input;
    let text = |text: &str| {
        let escaped: String = text
            .chars()
            .map(|c| format!("\\u{:04x}", (c as u32).min(0xd7ff)))
            .collect();
        format!("\"{escaped}\"")
    };
    let file = format!(
        r#"{{"private": [{{"path": "/", "origin": "h", "valid": [{{"queryParam": {}, "values": [{}]}}]}}]}}"#,
        text(name),
        text(glob)
    );
    let Some(rules) = rules(&file) else { return };
    let target = format!("/?{query}");
    let question = Question {
        method: MethodName::Get,
        target: &target,
        header: None,
        body: b"",
    };
    let ask = || {
        question
            .request()
            .map(|request| verdict(&rules, request, b""))
    };
    assert_eq!(ask(), ask());
});

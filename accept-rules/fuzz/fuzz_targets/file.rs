//! Any text as an accept file: read or refused, in bounds, and what is read decides.
#![no_main]

use accept_rules_fuzz::{MethodName, Question, rules, verdict};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Some(rules) = rules(text) else { return };
    let question = Question {
        method: MethodName::Get,
        target: "/api/v1/pods?a=b",
        header: None,
        body: br#"{"a": ["b"]}"#,
    };
    if let Some(request) = question.request() {
        verdict(&rules, request, question.body);
    }
});

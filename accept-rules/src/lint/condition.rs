//! Conditions that ask for less than they seem to.

use super::{Findings, LintCode, Subject, quoted};
use crate::body::Scalar;
use crate::condition::{BodyTest, ValueGlob};

pub(super) fn check(subject: &Subject<'_>, findings: &mut Findings) {
    if subject.never.is_some() {
        return;
    }
    optional_query(subject, findings);
    either_condition(subject, findings);
    literal_asterisk(subject, findings);
}

/// A pattern that the empty text of a missing parameter meets; `""` itself says so.
fn optional_query(subject: &Subject<'_>, findings: &mut Findings) {
    for condition in &subject.rule.conditions.query {
        if let Some(value) = condition.values.iter().find_map(open_value) {
            findings.push(
                LintCode::OptionalQuery,
                subject,
                format!(
                    "the query parameter {} may be missing, since {value} matches an empty text",
                    quoted(&condition.name),
                ),
                "write a pattern that needs text, such as \"?*\"",
            );
        }
    }
}

fn open_value(value: &ValueGlob) -> Option<String> {
    let matches_more = value.matches("") && (value.matches("x") || value.matches("0/y.z"));
    matches_more.then(|| match value {
        ValueGlob::Minimatch(glob) => quoted(glob.as_str()),
        ValueGlob::Segments(_) => "one of its globs".to_owned(),
    })
}

fn either_condition(subject: &Subject<'_>, findings: &mut Findings) {
    let conditions = &subject.rule.conditions;
    if conditions.either && !conditions.query.is_empty() && subject.rule.needs_body() {
        findings.push(
            LintCode::EitherCondition,
            subject,
            "\"valid\" has conditions on query and body: a request that meets those on the query is \
             allowed whatever its body, and the other way round",
            "write two rules, each with one of the two",
        );
    }
}

fn literal_asterisk(subject: &Subject<'_>, findings: &mut Findings) {
    let values =
        subject
            .rule
            .conditions
            .body
            .list()
            .iter()
            .filter_map(|condition| match &condition.test {
                BodyTest::Equals(Scalar::Text(text)) if text.contains('*') => Some(text),
                BodyTest::Equals(_) | BodyTest::Matches(_) => None,
            });
    let values: Vec<_> = values.collect();
    if let Some(first) = values.first() {
        let more = match values.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        findings.push(
            LintCode::LiteralAsterisk,
            subject,
            format!(
                "the body value {}{more} is compared as it stands: \"*\" is no wildcard in it",
                quoted(first)
            ),
            "write \"regex\" in the place of \"value\"",
        );
    }
}

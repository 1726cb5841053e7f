//! Rules that never decide, since an earlier one always does.

use super::shape::Budget;
use super::{Findings, LintCode, Subject, methods_text, quoted};
use crate::file::Place;
use crate::rule::{EncodedSlash, EncodedUnreserved, Methods, Rule};
use crate::target::has_parameters;

pub(super) fn check(subjects: &[Subject<'_>], findings: &mut Findings) {
    let mut budget = Budget::new();
    // A rule that never decides covers nothing that the one before it does not cover.
    let mut deciding: Vec<&Subject<'_>> = Vec::new();
    for subject in subjects.iter().filter(|subject| subject.never.is_none()) {
        if budget.is_spent() {
            return;
        }
        let mut earlier = deciding.iter();
        match earlier.find(|earlier| covers(earlier, subject, &mut budget)) {
            Some(earlier) => report(earlier, subject, findings),
            None if subject.is_unconditional() => deciding.push(subject),
            None => {}
        }
    }
}

fn report(earlier: &Subject<'_>, subject: &Subject<'_>, findings: &mut Findings) {
    let (first, own) = (earlier.rule, subject.rule);
    let place = Place::Rule(earlier.list, earlier.index).to_string();
    let place = place.trim_end_matches(": ");
    let same_origin = first.origin() == own.origin();
    let same_credential = first.auth() == own.auth();
    let same_request = is_same_path(first, own) && first.methods() == own.methods();
    if same_request && same_origin && same_credential && subject.is_unconditional() {
        findings.push(
            LintCode::DuplicateRule,
            subject,
            format!("{} is the same rule as {place}", subject.path_text()),
            "remove one of the two",
        );
        return;
    }
    let mut problem = format!(
        "{} is never reached: {place} ({} {}) matches all of it first",
        subject.path_text(),
        methods_text(first.methods()),
        quoted(first.path())
    );
    let unused = match (same_origin, same_credential) {
        (true, true) => "",
        (false, true) => ", so its own origin is never used",
        (true, false) => ", so its own credential is never used",
        (false, false) => ", so its own origin and credential are never used",
    };
    problem.push_str(unused);
    let fix = match same_origin && same_credential && subject.is_unconditional() {
        true => "remove it".to_owned(),
        false => format!("put it before {place}, or remove it"),
    };
    findings.push(LintCode::ShadowedRule, subject, problem, fix);
}

/// Whether `earlier`, which has no conditions, certainly matches all that `subject` matches.
fn covers(earlier: &Subject<'_>, subject: &Subject<'_>, budget: &mut Budget) -> bool {
    let (first, own) = (earlier.rule, subject.rule);
    budget.take(1)
        && methods_cover(first, own)
        && escapes_cover(first, own)
        && (is_same_path(first, own)
            || (!has_parameters(first.path())
                && !has_parameters(own.path())
                && earlier.shape.covers(&subject.shape, budget)))
}

fn is_same_path(first: &Rule, own: &Rule) -> bool {
    first.pattern_kind() == own.pattern_kind() && first.path() == own.path()
}

/// Whether the first refuses no escape that the other takes.
fn escapes_cover(first: &Rule, own: &Rule) -> bool {
    let slashes = (first.encoded_slash, own.encoded_slash);
    let unreserved = (first.encoded_unreserved, own.encoded_unreserved);
    slashes != (EncodedSlash::Refuse, EncodedSlash::Data)
        && unreserved != (EncodedUnreserved::Refuse, EncodedUnreserved::Data)
}

fn methods_cover(first: &Rule, own: &Rule) -> bool {
    match (first.methods(), own.methods()) {
        (Methods::Any, _) => true,
        (Methods::Only(_), Methods::Any) => false,
        (first @ Methods::Only(_), Methods::Only(own)) => {
            own.iter().all(|method| first.contain(method))
        }
    }
}

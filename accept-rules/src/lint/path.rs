//! What stands in a path, and the methods beside it.

use http::Method;

use super::shape::is_everything;
use super::{Findings, LintCode, Subject, methods_text, quoted};
use crate::path_pattern::Token;
use crate::rule::{List, Methods, PatternKind, Rule};

/// Where nobody writes.
const READ_ONLY: &[&str] = &[
    "health",
    "healthcheck",
    "healthz",
    "livez",
    "ping",
    "readyz",
];

/// Where tools read, though some want a `POST` for it, or keep something of that name.
const READ_MOSTLY: &[&str] = &["info", "list", "metrics", "search", "status", "version"];

/// How the comment of a rule begins that only reads.
const READING: &[&str] = &["fetch", "find", "get", "list", "read", "show", "view"];

const WRITING: &[Method] = &[Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

/// Without `POST`, by which some tools are read.
const CHANGING: &[Method] = &[Method::PUT, Method::PATCH, Method::DELETE];

pub(super) fn check(subject: &Subject<'_>, findings: &mut Findings) {
    if let Some((problem, fix)) = &subject.never {
        findings.push(
            LintCode::NeverMatches,
            subject,
            problem.as_str(),
            fix.as_str(),
        );
        return;
    }
    let everything = is_everything(subject.rule) && !subject.has_conditions();
    match subject.list {
        List::Private if everything => catch_all(subject, findings),
        List::Public if everything && *subject.rule.methods() == Methods::Any => {
            findings.push(
                LintCode::OpenPublicList,
                subject,
                format!(
                    "any method and {} let every local application send anything",
                    subject.path_text()
                ),
                "write one rule for each path that local applications call",
            );
        }
        List::Private | List::Public => {}
    }
    glued_asterisk(subject, findings);
    named_asterisk(subject, findings);
    dot_parameter(subject, findings);
    write_method(subject, findings);
    if subject.list == List::Private {
        open_graphql(subject, findings);
    }
}

fn catch_all(subject: &Subject<'_>, findings: &mut Findings) {
    let credential = match subject.rule.auth() {
        Some(_) => ", with the agent's credential",
        None => "",
    };
    findings.push(
        LintCode::CatchAll,
        subject,
        format!(
            "{} allows {} on every path of its origin{credential}",
            subject.path_text(),
            methods_text(subject.rule.methods())
        ),
        format!(
            "write one rule for each path that is needed, with \"{}\" for what varies",
            varying(subject.rule)
        ),
    );
}

/// `/pods*`: the segment starts with a name, and the asterisk follows it.
fn glued_asterisk(subject: &Subject<'_>, findings: &mut Findings) {
    let tokens = subject.shape.tokens();
    let found = tokens
        .windows(2)
        .enumerate()
        .find_map(|(index, pair)| match pair {
            [Token::Literal(text), Token::Parameter(parameter)]
                if parameter.asterisk && parameter.prefix_text().is_empty() =>
            {
                let (_, segment) = text.rsplit_once('/')?;
                let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
                let is_glued = segment.ends_with(is_name) && !ends_in_escape(segment);
                is_glued.then_some((index + 1, segment))
            }
            _ => None,
        });
    let Some((at, segment)) = found else { return };
    let Some(example) = subject.shape.example(subject.rule, at, "-x/y") else {
        return;
    };
    let path = subject.rule.path();
    let before = path.split_once(&format!("{segment}*"));
    let fix = match (before, tokens.get(at + 1)) {
        (Some((before, "")), _) => {
            let head = format!("{before}{segment}");
            format!(
                "write {} for itself and {} for what it holds",
                quoted(&head),
                quoted(&format!("{head}/:name"))
            )
        }
        (Some((before, after)), Some(Token::Literal(text))) if text.starts_with('/') => {
            format!(
                "write {}",
                quoted(&format!("{before}{segment}/:rest*{after}"))
            )
        }
        (Some((before, after)), _) => {
            format!("write {}", quoted(&format!("{before}{segment}/*{after}")))
        }
        (None, _) => "put a \"/\" before the \"*\"".to_owned(),
    };
    findings.push(
        LintCode::GluedAsterisk,
        subject,
        format!("{} also allows {}", subject.path_text(), quoted(&example)),
        fix,
    );
}

/// `%2F` and the like, which separate as a slash does.
fn ends_in_escape(segment: &str) -> bool {
    segment.len() > 2 && segment.as_bytes().get(segment.len() - 3) == Some(&b'%')
}

/// `/*name`, with which other routers mean a parameter.
fn named_asterisk(subject: &Subject<'_>, findings: &mut Findings) {
    let tokens = subject.shape.tokens();
    let last = tokens.len().saturating_sub(1);
    let found = tokens
        .windows(2)
        .enumerate()
        .find_map(|(index, pair)| match pair {
            [Token::Parameter(parameter), Token::Literal(text)]
                if parameter.asterisk && parameter.prefix_text() == "/" =>
            {
                let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
                let (name, after) = text.split_at(end.unwrap_or(text.len()));
                let is_name = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
                let ends = after.starts_with('/') || (after.is_empty() && index + 1 == last);
                (is_name && ends).then_some(name)
            }
            _ => None,
        });
    let Some(name) = found else { return };
    findings.push(
        LintCode::NamedAsterisk,
        subject,
        format!(
            "{} has \"*{name}\", which is no parameter: it is any text and then \"{name}\" itself",
            subject.path_text()
        ),
        format!("write \":{name}\" for one segment, or \":{name}+\" for several"),
    );
}

/// `.:type`, which ends at the next dot and not at the next slash.
fn dot_parameter(subject: &Subject<'_>, findings: &mut Findings) {
    let tokens = subject.shape.tokens();
    let found = tokens.iter().position(|token| match token {
        Token::Parameter(parameter) => {
            parameter.prefix_text() == "." && parameter.has_default_value('.')
        }
        Token::Literal(_) => false,
    });
    let Some(example) = found.and_then(|at| subject.shape.example(subject.rule, at, "x/y")) else {
        return;
    };
    findings.push(
        LintCode::DotParameter,
        subject,
        format!(
            "{} also allows {}: after a dot, a parameter crosses slashes",
            subject.path_text(),
            quoted(&example)
        ),
        "give it an expression, such as \".:type([^./]+)\"",
    );
}

fn write_method(subject: &Subject<'_>, findings: &mut Findings) {
    let rule = subject.rule;
    let name = subject.shape.last_name(rule).unwrap_or_default();
    let is_any = *rule.methods() == Methods::Any;
    let says = if (is_one_of(READ_ONLY, name) && allows(rule, WRITING))
        || (is_one_of(READ_MOSTLY, name) && is_any)
    {
        subject.path_text()
    } else if reads_by_comment(rule) && (is_any || allows(rule, CHANGING)) {
        let comment = quoted(rule.comment().unwrap_or_default());
        format!("{}, by its comment {comment},", subject.path_text())
    } else {
        return;
    };
    let fix = match rule.pattern_kind() {
        PatternKind::PathToRegexp => "write \"method\": \"GET\"",
        PatternKind::Glob => "write \"methods\": [\"GET\"]",
        PatternKind::Kubernetes => "write \"verbs\": [\"get\", \"list\", \"watch\"]",
    };
    findings.push(
        LintCode::WriteMethod,
        subject,
        format!(
            "{says} looks like one that is only read, but {} is allowed",
            methods_text(rule.methods())
        ),
        fix,
    );
}

fn is_one_of(words: &[&str], name: &str) -> bool {
    words.iter().any(|word| word.eq_ignore_ascii_case(name))
}

fn reads_by_comment(rule: &Rule) -> bool {
    let mut words = rule.comment().unwrap_or_default().split_whitespace();
    words.next().is_some_and(|first| is_one_of(READING, first))
}

fn allows(rule: &Rule, methods: &[Method]) -> bool {
    methods.iter().any(|method| rule.methods().contain(method))
}

fn open_graphql(subject: &Subject<'_>, findings: &mut Findings) {
    let rule = subject.rule;
    let is_graphql = subject
        .shape
        .last_name(rule)
        .is_some_and(|name| is_one_of(&["graphql"], name));
    if is_graphql && rule.methods().contain(&Method::POST) && !rule.needs_body() {
        let condition = match rule.pattern_kind() {
            PatternKind::Glob => r#""body": {"all": [{"path": "query", "regex": "…"}]}"#,
            PatternKind::PathToRegexp | PatternKind::Kubernetes => {
                r#""valid": [{"path": "query", "regex": "…"}]"#
            }
        };
        findings.push(
            LintCode::OpenGraphql,
            subject,
            format!(
                "{} serves every query and every mutation that the credential may do",
                subject.path_text()
            ),
            format!("add a condition on the body, such as {condition}, or use a credential that may only read"),
        );
    }
}

/// What stands for one segment that varies.
pub(super) fn varying(rule: &Rule) -> &'static str {
    match rule.pattern_kind() {
        PatternKind::PathToRegexp => ":name",
        PatternKind::Glob | PatternKind::Kubernetes => "*",
    }
}

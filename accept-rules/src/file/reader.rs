//! What reads one rule of either form.

use std::collections::HashSet;

use http::Method;

use super::error::nearest;
use super::{Entries, FileErrors, FileWarning, Findings, Form, Place, Problem, UnknownKeys};
use crate::document::Node;
use crate::path_glob::PathGlobError;
use crate::path_pattern::PathPattern;
use crate::rule::{List, Rule, RuleIndex};
use crate::weight::{FAILED_WEIGHT, MAX_WEIGHT, Weigh};

/// The methods that a rule can name. Not `CONNECT`, which is no request to an origin, nor `TRACE`,
/// whose answer repeats the credential that was put in.
pub(super) const METHODS: &[&str] = &[
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "PATCH",
    "DELETE",
    "OPTIONS",
    "PROPFIND",
    "PROPPATCH",
    "MKCOL",
    "COPY",
    "MOVE",
    "LOCK",
    "UNLOCK",
    "REPORT",
    "SEARCH",
    "MERGE",
    "MKACTIVITY",
    "CHECKOUT",
    "PURGE",
];

/// Keys without which a rule allows more: what looks like one of them is never ignored.
const NARROWING_KEYS: &[&str] = &["valid", "auth", "method"];

/// Other readers of YAML put in here what the value holds, conditions among it.
const YAML_MERGE: &str = "<<";

/// Reads one rule; whatever is wrong goes to `findings`, and reading goes on.
pub(super) struct RuleReader<'a> {
    pub(super) list: List,
    pub(super) index: RuleIndex,
    pub(super) findings: &'a mut Findings,
}

impl RuleReader<'_> {
    pub(super) fn read(mut self, form: Form, rule: &Node) -> Option<Rule> {
        let Node::Map(entries) = rule else {
            self.refuse(part_kind("the rule", "an object", rule));
            return None;
        };
        report_duplicates(entries, self.place(), &mut self.findings.errors);
        match form {
            Form::WithoutVersion => self.read_unversioned(entries),
            Form::Version2 => self.read_strict(entries),
        }
    }

    pub(super) fn place(&self) -> Place {
        Place::Rule(self.list, self.index)
    }

    pub(super) fn refuse(&mut self, problem: Problem) {
        self.findings.errors.push(self.place(), problem);
    }

    /// A key that means nothing, among those that do.
    pub(super) fn unknown_key(&mut self, key: &str, known: &[&'static str]) {
        let may_narrow = key == YAML_MERGE || nearest(key, NARROWING_KEYS).is_some();
        match self.findings.unknown_keys {
            UnknownKeys::Warn if !may_narrow => {
                self.findings.warnings.push(FileWarning::UnknownKey {
                    place: self.place(),
                    key: key.to_owned(),
                });
            }
            UnknownKeys::Warn | UnknownKeys::Refuse => self.refuse_unknown_key(key, known),
        }
    }

    pub(super) fn refuse_unknown_key(&mut self, key: &str, known: &[&'static str]) {
        self.refuse(Problem::UnknownKey {
            key: key.to_owned(),
            suggestion: nearest(key, known),
        });
    }

    pub(super) fn method(&mut self, text: &str) -> Option<Method> {
        let known = METHODS
            .iter()
            .find(|known| known.eq_ignore_ascii_case(text));
        match known.and_then(|known| known.parse().ok()) {
            Some(method) => Some(method),
            None => {
                let suggestion = nearest(text, METHODS);
                self.refuse(Problem::UnknownMethod {
                    found: text.to_owned(),
                    suggestion,
                });
                None
            }
        }
    }

    pub(super) fn path_pattern(&mut self, field: &'static str, path: &str) -> Option<PathPattern> {
        self.compiled(PathPattern::parse, path, |error| {
            let path = path.to_owned();
            Problem::Path { field, path, error }
        })
    }

    /// Compiles a pattern, unless the file's weigh too much already.
    pub(super) fn compiled<T: Weigh, E>(
        &mut self,
        parse: impl Fn(&str) -> Result<T, E>,
        text: &str,
        problem: impl Fn(E) -> Problem,
    ) -> Option<T> {
        if self.findings.weight > MAX_WEIGHT {
            return None;
        }
        let pattern = match parse(text) {
            Ok(pattern) => pattern,
            Err(error) => {
                self.refuse(problem(error));
                self.findings.weight += FAILED_WEIGHT;
                return None;
            }
        };
        self.findings.weight += pattern.weight();
        if self.findings.weight > MAX_WEIGHT {
            self.findings.errors.push(Place::File, Problem::TooHeavy);
            return None;
        }
        Some(pattern)
    }

    /// The fields of an object that has these and no others. An unknown one is never only warned
    /// about: what lost a part may hold where it must not.
    pub(super) fn fields<'n>(
        &mut self,
        field: &'static str,
        expected: &'static str,
        value: &'n Node,
        known: &[&'static str],
    ) -> Option<&'n Entries> {
        let Node::Map(fields) = value else {
            self.refuse(field_kind(field, expected, value));
            return None;
        };
        report_duplicates(fields, self.place(), &mut self.findings.errors);
        self.refuse_unknown_keys(fields, known);
        Some(fields)
    }

    pub(super) fn refuse_unknown_keys(&mut self, fields: &Entries, known: &[&'static str]) {
        for (key, _) in fields {
            if key != "//" && !known.contains(&key.as_str()) {
                self.refuse_unknown_key(key, known);
            }
        }
    }

    pub(super) fn text<'n>(&mut self, field: &'static str, value: &'n Node) -> Option<&'n str> {
        let expected = match value {
            Node::Text(text) => return Some(text),
            Node::Number(_) | Node::Boolean(_) => "a text in quotes",
            Node::Null | Node::List(_) | Node::Map(_) => "a text",
        };
        self.refuse(field_kind(field, expected, value));
        None
    }

    pub(super) fn texts<'n>(
        &mut self,
        field: &'static str,
        value: &'n Node,
    ) -> Option<Vec<&'n str>> {
        if let Node::List(list) = value {
            let texts = list.iter().map(|entry| match entry {
                Node::Text(text) => Some(text.as_str()),
                Node::Null | Node::Boolean(_) | Node::Number(_) | Node::List(_) | Node::Map(_) => {
                    None
                }
            });
            if let Some(texts) = texts.collect() {
                return Some(texts);
            }
        }
        self.refuse(field_kind(field, "a list of texts in quotes", value));
        None
    }

    pub(super) fn glob<T: Weigh>(
        &mut self,
        field: &'static str,
        glob: &str,
        parse: impl Fn(&str) -> Result<T, PathGlobError>,
    ) -> Option<T> {
        self.compiled(parse, glob, |error| {
            let glob = glob.to_owned();
            Problem::Glob { field, glob, error }
        })
    }

    /// A list of texts, at least one.
    pub(super) fn some_texts<'n>(
        &mut self,
        field: &'static str,
        value: &'n Node,
    ) -> Option<Vec<&'n str>> {
        let texts = self.texts(field, value)?;
        if texts.is_empty() {
            self.refuse(Problem::Empty { field });
        }
        Some(texts)
    }

    pub(super) fn refuse_value(
        &mut self,
        field: &'static str,
        found: &str,
        write: &'static str,
        known: &[&'static str],
    ) {
        self.refuse(Problem::Value {
            field,
            found: found.to_owned(),
            write,
            suggestion: nearest(found, known),
        });
    }
}

/// All of them, once each was read; none where one cannot be used.
pub(super) fn all<T, C: FromIterator<T>>(read: impl Iterator<Item = Option<T>>) -> Option<C> {
    let read: Vec<_> = read.collect();
    read.into_iter().collect()
}

pub(crate) fn find<'a>(entries: &'a Entries, key: &str) -> Option<&'a Node> {
    entries
        .iter()
        .find(|(name, _)| name == key)
        .map(|(_, value)| value)
}

/// A comment that is no text says nothing to anyone.
pub(super) fn comment(entries: &Entries) -> Option<Box<str>> {
    match find(entries, "//")? {
        Node::Text(text) => Some(text.as_str().into()),
        Node::Null | Node::Boolean(_) | Node::Number(_) | Node::List(_) | Node::Map(_) => None,
    }
}

pub(super) fn report_duplicates(entries: &Entries, place: Place, errors: &mut FileErrors) {
    let mut seen = HashSet::new();
    for (key, _) in entries {
        if !seen.insert(key) {
            errors.push(place, Problem::DuplicateKey { key: key.clone() });
        }
    }
}

pub(super) fn part_kind(part: &'static str, expected: &'static str, value: &Node) -> Problem {
    Problem::PartKind {
        part,
        expected,
        found: value.kind(),
    }
}

pub(super) fn field_kind(field: &'static str, expected: &'static str, value: &Node) -> Problem {
    Problem::FieldKind {
        field,
        expected,
        found: value.kind(),
    }
}

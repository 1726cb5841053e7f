//! Rules of version 2 about a path.

use http::Method;

use super::reader::{all, field_kind, find, report_duplicates};
use super::{Entries, Problem, RuleReader};
use crate::condition::{
    BodyCondition, BodyConditions, Conditions, HeaderCondition, QueryCondition, ValueGlob,
};
use crate::document::Node;
use crate::path_glob::{PathGlob, SegmentGlob};
use crate::rule::{EncodedSlash, EncodedUnreserved, Methods, Pattern};

/// Keys of a rule about a path.
pub(super) const PATH_KEYS: &[&str] = &[
    "methods",
    "path",
    "path-to-regexp",
    "query",
    "headers",
    "body",
    "valid",
    "encoded-slash",
    "encoded-unreserved",
];
pub(super) const BODY_KEYS: &[&str] = &["any", "all"];
pub(super) const BODY_CONDITION_KEYS: &[&str] = &["path", "value", "regex"];
pub(super) const DATA_OR_REFUSE: &[&str] = &["refuse", "data"];

/// Which requests a rule matches.
pub(super) struct Matched {
    pub(super) methods: Methods,
    pub(super) path: Box<str>,
    pub(super) pattern: Pattern,
    pub(super) conditions: Conditions,
    pub(super) encoded_slash: EncodedSlash,
    pub(super) encoded_unreserved: EncodedUnreserved,
}

impl RuleReader<'_> {
    pub(super) fn read_path_rule(&mut self, entries: &Entries) -> Option<Matched> {
        let methods = self.read_methods(entries);
        let path = self.read_strict_path(entries);
        let conditions = self.read_strict_conditions(entries);
        let encoded_slash = match self.is_data(entries, "encoded-slash") {
            true => EncodedSlash::Data,
            false => EncodedSlash::Refuse,
        };
        let encoded_unreserved = match self.is_data(entries, "encoded-unreserved") {
            true => EncodedUnreserved::Data,
            false => EncodedUnreserved::Refuse,
        };
        let (path, pattern) = path?;
        Some(Matched {
            methods: methods?,
            path,
            pattern,
            conditions: conditions?,
            encoded_slash,
            encoded_unreserved,
        })
    }

    fn read_methods(&mut self, entries: &Entries) -> Option<Methods> {
        let Some(value) = find(entries, "methods") else {
            return Some(Methods::Only([Method::GET].into()));
        };
        if matches!(value, Node::Text(text) if text.eq_ignore_ascii_case("any")) {
            return Some(Methods::Any);
        }
        let texts = self.some_texts("methods", value)?;
        if matches!(texts[..], [text] if text.eq_ignore_ascii_case("any")) {
            return Some(Methods::Any);
        }
        all(texts.into_iter().map(|text| self.method(text))).map(Methods::Only)
    }

    fn read_strict_path(&mut self, entries: &Entries) -> Option<(Box<str>, Pattern)> {
        match (find(entries, "path"), find(entries, "path-to-regexp")) {
            (Some(value), None) => {
                let path = self.text("path", value)?;
                let glob = self.glob("path", path, PathGlob::parse)?;
                Some((path.into(), Pattern::Glob(glob)))
            }
            (None, Some(value)) => {
                let path = self.text("path-to-regexp", value)?;
                if !path.starts_with('/') {
                    let write = "a path that starts with \"/\"";
                    self.refuse_value("path-to-regexp", path, write, &[]);
                    return None;
                }
                let pattern = self.path_pattern("path-to-regexp", path)?;
                Some((path.into(), Pattern::PathToRegexp(pattern)))
            }
            (None, None) | (Some(_), Some(_)) => {
                self.refuse(Problem::PathChoice);
                None
            }
        }
    }

    fn read_strict_conditions(&mut self, entries: &Entries) -> Option<Conditions> {
        let own = ["query", "headers", "body"];
        if find(entries, "valid").is_some() {
            for key in own.into_iter().filter(|key| find(entries, key).is_some()) {
                self.refuse(Problem::BesideValid { key });
            }
            return self.read_valid(entries);
        }
        let query = self.read_query(entries);
        let headers = self.read_headers(entries);
        let body = self.read_body(entries);
        Some(Conditions {
            query: query?,
            headers: headers?,
            body: body?,
            either: false,
        })
    }

    fn read_query(&mut self, entries: &Entries) -> Option<Box<[QueryCondition]>> {
        let expected = "an object of names, each with a list of globs";
        self.named_lists(entries, "query", expected, |reader, name, globs| {
            Some(QueryCondition {
                name: name.into(),
                values: reader
                    .globs("query", globs)?
                    .into_iter()
                    .map(ValueGlob::Segments)
                    .collect(),
            })
        })
    }

    fn read_headers(&mut self, entries: &Entries) -> Option<Box<[HeaderCondition]>> {
        let expected = "an object of names, each with a list of values";
        self.named_lists(entries, "headers", expected, |reader, name, values| {
            Some(HeaderCondition {
                name: name.into(),
                header: Some(reader.header_name(name)?),
                values: values.into_iter().map(Into::into).collect(),
            })
        })
    }

    /// An object of names, each with a list of texts.
    fn named_lists<T>(
        &mut self,
        entries: &Entries,
        field: &'static str,
        expected: &'static str,
        read: impl Fn(&mut Self, &str, Vec<&str>) -> Option<T>,
    ) -> Option<Box<[T]>> {
        let Some(value) = find(entries, field) else {
            return Some(Box::default());
        };
        let Node::Map(lists) = value else {
            self.refuse(field_kind(field, expected, value));
            return None;
        };
        report_duplicates(lists, self.place(), &mut self.findings.errors);
        let lists = lists.iter().filter(|(name, _)| name != "//");
        let read = lists.map(|(name, list)| {
            let texts = self.some_texts(field, list)?;
            read(self, name, texts)
        });
        all(read)
    }

    fn read_body(&mut self, entries: &Entries) -> Option<BodyConditions> {
        let Some(value) = find(entries, "body") else {
            return Some(BodyConditions::default());
        };
        let expected = "an object with \"any\" or \"all\"";
        let fields = self.fields("body", expected, value, BODY_KEYS)?;
        match (find(fields, "any"), find(fields, "all")) {
            (Some(list), None) => self.body_conditions("any", list).map(BodyConditions::Any),
            (None, Some(list)) => self.body_conditions("all", list).map(BodyConditions::All),
            (None, None) | (Some(_), Some(_)) => {
                self.refuse(Problem::ConditionFields {
                    field: "body",
                    needs: "exactly one of \"any\" and \"all\"",
                });
                None
            }
        }
    }

    fn body_conditions(
        &mut self,
        field: &'static str,
        list: &Node,
    ) -> Option<Box<[BodyCondition]>> {
        let expected = "a list of objects";
        let Node::List(list) = list else {
            self.refuse(field_kind(field, expected, list));
            return None;
        };
        if list.is_empty() {
            self.refuse(Problem::Empty { field });
        }
        all(list.iter().map(|entry| {
            let fields = self.fields(field, expected, entry, BODY_CONDITION_KEYS)?;
            let Some(path) = find(fields, "path") else {
                self.refuse(Problem::ConditionFields {
                    field: "body",
                    needs: "a \"path\"",
                });
                return None;
            };
            self.read_body_condition("body", path, fields)
        }))
    }

    /// Whether the field says `data`.
    fn is_data(&mut self, entries: &Entries, field: &'static str) -> bool {
        let text = find(entries, field).and_then(|value| self.text(field, value));
        match text {
            Some("data") => true,
            Some("refuse") | None => false,
            Some(other) => {
                self.refuse_value(field, other, "\"refuse\" or \"data\"", DATA_OR_REFUSE);
                false
            }
        }
    }

    fn globs(&mut self, field: &'static str, globs: Vec<&str>) -> Option<Vec<SegmentGlob>> {
        let globs = globs.into_iter();
        all(globs.map(|glob| self.glob(field, glob, SegmentGlob::parse)))
    }
}

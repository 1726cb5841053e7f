//! `valid`: what a rule without a version asks of query, headers and body.

use http::HeaderName;

use crate::body::{BodyPath, Scalar};
use crate::condition::{
    BodyCondition, BodyConditions, BodyTest, Conditions, HeaderCondition, QueryCondition, ValueGlob,
};
use crate::document::Node;
use crate::file::error::Problem;
use crate::file::reader::{all, field_kind, find};
use crate::file::{Entries, RuleReader};
use crate::glob::Glob;
use crate::js_regex::JsRegex;

pub(super) const CONDITION_KEYS: &[&str] =
    &["path", "value", "regex", "queryParam", "header", "values"];

/// One entry of `valid`.
enum Condition {
    Query(QueryCondition),
    Header(HeaderCondition),
    Body(BodyCondition),
}

impl RuleReader<'_> {
    /// None where something is wrong with it.
    pub(super) fn read_valid(&mut self, entries: &Entries) -> Option<Conditions> {
        let Some(value) = find(entries, "valid") else {
            return Some(Conditions::default());
        };
        let Node::List(list) = value else {
            self.refuse(field_kind("valid", "a list of conditions", value));
            return None;
        };
        let conditions: Vec<_> = all(list.iter().map(|entry| self.read_condition(entry)))?;
        let (mut query, mut headers, mut body) = (Vec::new(), Vec::new(), Vec::new());
        for condition in conditions {
            match condition {
                Condition::Query(condition) => query.push(condition),
                Condition::Header(condition) => headers.push(condition),
                Condition::Body(condition) => body.push(condition),
            }
        }
        Some(Conditions {
            query: query.into(),
            headers: headers.into(),
            body: BodyConditions::Any(body.into()),
            either: true,
        })
    }

    fn read_condition(&mut self, entry: &Node) -> Option<Condition> {
        let fields = self.fields("valid", "a list of objects", entry, CONDITION_KEYS)?;
        let given = |key| find(fields, key);
        match (given("path"), given("queryParam"), given("header")) {
            (Some(path), None, None) => self
                .read_body_condition("valid", path, fields)
                .map(Condition::Body),
            (None, Some(name), None) => {
                let name = self.text("queryParam", name)?;
                self.read_query_condition(name, fields)
            }
            (None, None, Some(name)) => {
                let name = self.text("header", name)?;
                self.read_header_condition(name, fields)
            }
            _ => {
                self.refuse(Problem::ConditionFields {
                    field: "valid",
                    needs: "exactly one of \"path\", \"queryParam\" and \"header\"",
                });
                None
            }
        }
    }

    fn read_query_condition(&mut self, name: &str, fields: &Entries) -> Option<Condition> {
        let values = self.read_values("queryParam", fields)?;
        let values = all(values.into_iter().map(|value| {
            let glob = self.compiled(Glob::parse, value, |error| Problem::QueryGlob {
                glob: value.to_owned(),
                error,
            });
            glob.map(ValueGlob::Minimatch)
        }))?;
        Some(Condition::Query(QueryCondition {
            name: name.into(),
            values,
        }))
    }

    fn read_header_condition(&mut self, name: &str, fields: &Entries) -> Option<Condition> {
        let values = self.read_values("header", fields)?;
        let header = self.header_name(name)?;
        let is_lower_case = !name.contains(|c: char| c.is_ascii_uppercase());
        Some(Condition::Header(HeaderCondition {
            name: name.into(),
            header: is_lower_case.then_some(header),
            values: values.into_iter().map(Into::into).collect(),
        }))
    }

    pub(super) fn header_name(&mut self, name: &str) -> Option<HeaderName> {
        let header = name.parse().ok();
        if header.is_none() {
            self.refuse(Problem::HeaderName {
                found: name.to_owned(),
            });
        }
        header
    }

    /// The condition of `field` that stands in `fields`, and whose `path` this is.
    pub(super) fn read_body_condition(
        &mut self,
        field: &'static str,
        path: &Node,
        fields: &Entries,
    ) -> Option<BodyCondition> {
        let text = self.text("path", path)?;
        let path = match BodyPath::parse(text) {
            Ok(path) => path,
            Err(error) => {
                self.refuse(Problem::BodyPath {
                    path: text.to_owned(),
                    error,
                });
                return None;
            }
        };
        let test = match (find(fields, "value"), find(fields, "regex")) {
            (Some(value), None) if find(fields, "values").is_none() => {
                BodyTest::Equals(self.scalar("value", value)?)
            }
            (None, Some(regex)) if find(fields, "values").is_none() => {
                BodyTest::Matches(self.read_regex(regex)?)
            }
            _ => {
                self.refuse(Problem::ConditionFields {
                    field,
                    needs: "beside \"path\" either \"value\" or \"regex\"",
                });
                return None;
            }
        };
        Some(BodyCondition { path, test })
    }

    fn read_regex(&mut self, value: &Node) -> Option<JsRegex> {
        let text = self.text("regex", value)?;
        self.compiled(JsRegex::parse, text, |error| Problem::BodyRegex {
            regex: text.to_owned(),
            error,
        })
    }

    fn scalar(&mut self, field: &'static str, value: &Node) -> Option<Scalar> {
        let scalar = match value {
            Node::Text(text) => Some(Scalar::Text(text.as_str().into())),
            Node::Number(text) => Scalar::number(text),
            Node::Boolean(value) => Some(Scalar::Boolean(*value)),
            Node::Null => Some(Scalar::Null),
            Node::List(_) | Node::Map(_) => None,
        };
        if scalar.is_none() {
            self.refuse(field_kind(
                field,
                "a text, a number, true, false or null",
                value,
            ));
        }
        scalar
    }

    /// The texts of `values`, and nothing beside them.
    fn read_values<'n>(
        &mut self,
        subject: &'static str,
        fields: &'n Entries,
    ) -> Option<Vec<&'n str>> {
        let Some(value) = find(fields, "values") else {
            self.refuse(Problem::ConditionFields {
                field: "valid",
                needs: match subject {
                    "header" => "beside \"header\" a list of \"values\"",
                    _ => "beside \"queryParam\" a list of \"values\"",
                },
            });
            return None;
        };
        if find(fields, "value").is_some() || find(fields, "regex").is_some() {
            self.refuse(Problem::ConditionFields {
                field: "valid",
                needs: "\"value\" and \"regex\" only beside \"path\"",
            });
            return None;
        }
        self.texts("values", value)
    }
}

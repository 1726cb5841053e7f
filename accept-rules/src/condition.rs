//! What a rule asks of a request's query, headers and body, beside method and path.

use std::borrow::Cow;

use http::HeaderName;

use crate::body::{BodyPath, Scalar};
use crate::explain::Difference;
use crate::glob::Glob;
use crate::js_regex::JsRegex;
use crate::path_glob::SegmentGlob;
use crate::query::QueryValue;
use crate::question::{Question, ReadBody};

/// The conditions of one rule.
///
/// Headers must always hold. In the form without a version one of query and body suffices where a
/// rule has both; that is what its `valid` means.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conditions {
    /// Every one must hold.
    pub(crate) query: Box<[QueryCondition]>,
    /// Every one must hold.
    pub(crate) headers: Box<[HeaderCondition]>,
    pub(crate) body: BodyConditions,
    /// Whether one of query and body suffices, where there are both.
    pub(crate) either: bool,
}

/// A query parameter that must be there once, with one of some values.
#[derive(Clone, Debug)]
pub(crate) struct QueryCondition {
    pub(crate) name: Box<str>,
    pub(crate) values: Box<[ValueGlob]>,
}

/// A glob for a query value, in the notation of the file's form.
#[derive(Clone, Debug)]
pub(crate) enum ValueGlob {
    Minimatch(Glob),
    Segments(SegmentGlob),
}

/// A header that must be there once, with exactly one of some values.
#[derive(Clone, Debug)]
pub(crate) struct HeaderCondition {
    /// None where the name has upper-case letters, which the form without a version takes as they
    /// are: no request has such a header, so the condition never holds.
    pub(crate) header: Option<HeaderName>,
    /// The name as written.
    pub(crate) name: Box<str>,
    pub(crate) values: Box<[Box<str>]>,
}

/// What is asked of the body.
#[derive(Clone, Debug)]
pub(crate) enum BodyConditions {
    /// One of them must hold.
    Any(Box<[BodyCondition]>),
    /// Every one must hold.
    All(Box<[BodyCondition]>),
}

/// A place in a JSON body, and what must stand there.
#[derive(Clone, Debug)]
pub(crate) struct BodyCondition {
    pub(crate) path: BodyPath,
    pub(crate) test: BodyTest,
}

/// What must stand there; where the path has a `*`, in one of its places.
#[derive(Clone, Debug)]
pub(crate) enum BodyTest {
    Equals(Scalar),
    Matches(JsRegex),
}

/// Whether the conditions hold.
pub(crate) enum Verdict {
    Hold,
    /// Only the body can tell.
    NeedBody,
    Fail(Difference),
}

impl Conditions {
    pub(crate) fn need_body(&self) -> bool {
        !self.body.list().is_empty()
    }

    pub(crate) fn are_none(&self) -> bool {
        self.query.is_empty() && self.headers.is_empty() && !self.need_body()
    }

    pub(crate) fn judge(&self, question: &Question<'_>) -> Verdict {
        if let Some(index) = position(&self.headers, |condition| condition.holds(question)) {
            return Verdict::Fail(Difference::Header { index });
        }
        let query = position(&self.query, |condition| condition.holds(question));
        match query {
            Some(index) if !(self.either && self.need_body()) => {
                return Verdict::Fail(Difference::Query { index });
            }
            None if self.either && !self.query.is_empty() => return Verdict::Hold,
            _ => {}
        }
        self.body.judge(question.body())
    }
}

/// The first that does not hold.
fn position<T>(conditions: &[T], holds: impl Fn(&T) -> bool) -> Option<usize> {
    conditions.iter().position(|condition| !holds(condition))
}

impl QueryCondition {
    fn holds(&self, question: &Question<'_>) -> bool {
        let Some(query) = question.query() else {
            return false;
        };
        let value = match query.value(&self.name) {
            QueryValue::Absent => Cow::Borrowed(""),
            QueryValue::Text(text) => text,
            QueryValue::Ambiguous => return false,
        };
        self.values.iter().any(|glob| glob.matches(&value))
    }
}

impl ValueGlob {
    pub(crate) fn matches(&self, value: &str) -> bool {
        match self {
            Self::Minimatch(glob) => glob.matches(value),
            Self::Segments(glob) => glob.matches_value(value),
        }
    }
}

impl HeaderCondition {
    fn holds(&self, question: &Question<'_>) -> bool {
        let Some(name) = &self.header else {
            return false;
        };
        let mut values = question.headers.get_all(name).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return false;
        };
        let mut names = question.headers.keys();
        if names.any(|other| other != name && variable(other).eq(variable(name))) {
            return false;
        }
        let mut known = self.values.iter();
        known.any(|own| own.as_bytes() == value.as_bytes())
    }
}

/// The name that an origin may know a header by: as a variable of CGI and its heirs (WSGI, Rack, PHP),
/// `x-role` and `x_role` alike are `HTTP_X_ROLE` (RFC 3875 §4.1.18).
fn variable(name: &HeaderName) -> impl Iterator<Item = u8> {
    let folded = |b: u8| if b.is_ascii_alphanumeric() { b } else { b'_' };
    name.as_str().bytes().map(folded)
}

impl BodyConditions {
    pub(crate) fn list(&self) -> &[BodyCondition] {
        match self {
            Self::Any(list) | Self::All(list) => list,
        }
    }

    fn judge(&self, body: &ReadBody) -> Verdict {
        if self.list().is_empty() {
            return Verdict::Hold;
        }
        let body = match body {
            ReadBody::NotRead => return Verdict::NeedBody,
            ReadBody::Unreadable(why) => {
                return Verdict::Fail(Difference::UnreadableBody(why.clone()));
            }
            ReadBody::Read(body) => body,
        };
        let holds = |condition: &BodyCondition| match &condition.test {
            BodyTest::Equals(value) => condition.path.any_equals(body, value),
            BodyTest::Matches(regex) => condition.path.any_text_matches(body, regex),
        };
        let failing = match self {
            Self::Any(list) if list.iter().any(holds) => None,
            Self::Any(_) => Some(0),
            Self::All(list) => position(list, holds),
        };
        failing.map_or(Verdict::Hold, |index| {
            Verdict::Fail(Difference::Body { index })
        })
    }
}

impl Default for BodyConditions {
    fn default() -> Self {
        Self::All(Box::default())
    }
}

//! One request as the rules look at it: what is read of it once, for all of them.

use std::cell::OnceCell;
use std::time::SystemTime;

use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use thiserror::Error;

use crate::body::{Body, BodyError};
use crate::query::Query;
use crate::target::RequestTarget;

/// A request under judgement.
pub(crate) struct Question<'a> {
    pub(crate) target: &'a RequestTarget,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) caller: &'a str,
    pub(crate) now: SystemTime,
    body: &'a ReadBody,
    query: OnceCell<Option<Query<'a>>>,
}

/// The body, as far as it is known.
#[derive(Debug)]
pub(crate) enum ReadBody {
    NotRead,
    Read(Body),
    Unreadable(UnreadableBody),
}

/// Why a body meets no condition.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum UnreadableBody {
    /// A `Content-Encoding`: what is judged would not be what the origin reads.
    #[error("the body has a content coding")]
    Encoded,
    /// A `Content-Type` under which an origin could read the same bytes as something else.
    #[error("the body is not declared as JSON in UTF-8")]
    NotJson,
    /// The bytes are not JSON that has one reading only.
    #[error(transparent)]
    Syntax(BodyError),
}

impl<'a> Question<'a> {
    pub(crate) fn new(
        target: &'a RequestTarget,
        headers: &'a HeaderMap,
        caller: &'a str,
        now: SystemTime,
        body: &'a ReadBody,
    ) -> Self {
        Self {
            target,
            headers,
            caller,
            now,
            body,
            query: OnceCell::new(),
        }
    }

    pub(crate) fn body(&self) -> &ReadBody {
        self.body
    }

    /// None where the query is over its limits, or fields of the body may count instead, so that it
    /// meets no condition.
    pub(crate) fn query(&self) -> Option<&Query<'a>> {
        let read = || {
            let query = self.target.query().unwrap_or_default();
            Query::read(query).ok().filter(|_| !has_form(self.headers))
        };
        self.query.get_or_init(read).as_ref()
    }
}

impl ReadBody {
    /// Reads a body that came with `headers`.
    pub(crate) fn read(headers: &HeaderMap, bytes: &[u8]) -> Self {
        let read = || {
            if !is_identity(headers) {
                return Err(UnreadableBody::Encoded);
            }
            if !is_json(headers) {
                return Err(UnreadableBody::NotJson);
            }
            Body::parse(bytes).map_err(UnreadableBody::Syntax)
        };
        read().map_or_else(Self::Unreadable, Self::Read)
    }
}

fn is_identity(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(CONTENT_ENCODING).iter();
    codings.all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity"))
}

/// Without a type, or once with that of JSON, and no character set but UTF-8 (RFC 8259 §8.1, §11).
/// An origin that reads a form would find fields inside the strings that were judged.
fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let value = match (types.next(), types.next()) {
        (None, _) => return true,
        (Some(value), None) => value.to_str().unwrap_or_default().to_ascii_lowercase(),
        (Some(_), Some(_)) => return false,
    };
    let mut parts = value.split(';').map(str::trim);
    let media_type = parts.next().unwrap_or_default();
    let is_json_type = media_type == "application/json"
        || media_type
            .strip_prefix("application/")
            .is_some_and(|subtype| is_token(subtype) && is_json_suffixed(subtype));
    let is_utf8 = |parameter: &str| match parameter.split_once('=') {
        Some(("charset", value)) => matches!(value.trim_matches('"'), "utf-8" | "utf8"),
        Some(_) | None => !parameter.contains("charset"),
    };
    is_json_type && parts.all(is_utf8)
}

/// Whether the body may be a form. Servers in Go, PHP and Ruby put its fields and the parameters of the
/// query in one place, where the body's count: in Ruby whatever the method.
fn has_form(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    types.any(|value| {
        let value = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
        value.contains("form-urlencoded") || value.contains("multipart/")
    })
}

/// RFC 6839 §3.1. Some servers look at how a type begins, and see a form.
fn is_json_suffixed(subtype: &str) -> bool {
    subtype.ends_with("+json") && !subtype.starts_with("x-www-form-urlencoded")
}

/// RFC 9110 §5.6.2. Where servers end a type differs for anything else: PHP and Ruby do at a comma.
fn is_token(text: &str) -> bool {
    let is_in_token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
    text.as_bytes().iter().all(is_in_token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(headers: &[(&str, &str)], body: &str) -> Option<UnreadableBody> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: http::HeaderName = name.parse().unwrap();
            map.append(name, value.parse().unwrap());
        }
        match ReadBody::read(&map, body.as_bytes()) {
            ReadBody::Read(_) => None,
            ReadBody::NotRead => panic!("it was read"),
            ReadBody::Unreadable(problem) => Some(problem),
        }
    }

    #[test]
    fn only_a_body_that_every_origin_reads_as_json_is_judged() {
        for good in [
            "application/json",
            "Application/JSON; charset=UTF-8",
            "application/vnd.api+json",
            "application/json;charset=\"utf-8\"; v=1",
        ] {
            assert_eq!(problem(&[("content-type", good)], "{}"), None, "{good}");
        }
        for bad in [
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "text/plain",
            "application/json; charset=utf-7",
            "application/json; charset = utf-16",
            "application/json, text/plain",
            "application/x-www-form-urlencoded, application/x+json",
            "application/x-www-form-urlencoded x+json",
            "application/x-www-form-urlencoded+json",
            "",
        ] {
            let found = problem(&[("content-type", bad)], "{}");
            assert_eq!(found, Some(UnreadableBody::NotJson), "{bad}");
        }
        let twice = [("content-type", "application/json"); 2];
        assert_eq!(problem(&twice, "{}"), Some(UnreadableBody::NotJson));
    }

    #[test]
    fn a_query_counts_only_where_no_form_can_stand_in_for_it() {
        let target = RequestTarget::new(&http::Method::POST, "/?a=b").unwrap();
        let counts = |types: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in types {
                headers.append(CONTENT_TYPE, value.parse().unwrap());
            }
            let (body, now) = (ReadBody::NotRead, SystemTime::UNIX_EPOCH);
            Question::new(&target, &headers, "", now, &body)
                .query()
                .is_some()
        };
        assert!(counts(&[]) && counts(&["application/json"]) && counts(&["text/plain"]));
        for form in [
            &["application/x-www-form-urlencoded"][..],
            &["Application/X-WWW-Form-URLEncoded; charset=utf-8"],
            &["multipart/form-data; boundary=x"],
            &["multipart/mixed; boundary=x"],
            &["text/plain", "application/x-www-form-urlencoded"],
        ] {
            assert!(!counts(form), "{form:?}");
        }
    }

    #[test]
    fn a_coded_body_is_not_judged() {
        assert_eq!(problem(&[("content-encoding", "identity")], "{}"), None);
        for coding in ["gzip", "identity, gzip", ""] {
            let found = problem(&[("content-encoding", coding)], "{}");
            assert_eq!(found, Some(UnreadableBody::Encoded), "{coding}");
        }
    }
}

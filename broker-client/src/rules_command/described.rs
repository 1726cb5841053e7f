//! The parts of a request as people and files write them.

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde_json::Value;

/// A method; its letters' case counts (RFC 9110 §9.1).
pub(super) fn method(text: &str) -> Result<Method, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is no HTTP method (write one such as GET)"))
}

/// A header line, `Name: value`.
pub(super) fn header_line(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text
        .split_once(':')
        .ok_or_else(|| format!("{text:?} has no colon (write 'Name: value')"))?;
    Ok((
        header_name(name)?,
        header_value(name, value.trim_matches([' ', '\t']))?,
    ))
}

/// The bytes of a body: a text's own, nothing for null, and any other value's serialisation.
pub(super) fn body(value: &Value) -> Bytes {
    match value {
        Value::Null => Bytes::new(),
        Value::String(text) => Bytes::copy_from_slice(text.as_bytes()),
        other => other.to_string().into(),
    }
}

/// An object of header names, each with a text or a list of texts.
#[derive(Debug, Default)]
pub(super) struct Headers(pub(super) HeaderMap);

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(HeadersVisitor)
    }
}

struct HeadersVisitor;

impl<'de> Visitor<'de> for HeadersVisitor {
    type Value = Headers;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of header names, each with a text or a list of texts")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Headers, E> {
        Ok(Headers::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Headers, A::Error> {
        let mut headers = HeaderMap::new();
        while let Some((name, values)) = map.next_entry::<String, OneOrMore>()? {
            let header = header_name(&name).map_err(de::Error::custom)?;
            let values = match values {
                OneOrMore::One(value) => vec![value],
                OneOrMore::More(values) => values,
            };
            for value in values {
                let value = header_value(&name, &value).map_err(de::Error::custom)?;
                headers
                    .try_append(header.clone(), value)
                    .map_err(|_| de::Error::custom("too many headers"))?;
            }
        }
        Ok(Headers(headers))
    }
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a header's value must be a text or a list of texts"
)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

fn header_name(text: &str) -> Result<HeaderName, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is no header name"))
}

/// The value is not repeated in an error, since it may be a secret.
fn header_value(name: &str, text: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_bytes(text.as_bytes())
        .map_err(|_| format!("the value of {name:?} has a control character"))
}

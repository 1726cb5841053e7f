//! A JSON body, and the paths by which conditions reach into it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use thiserror::Error;

use crate::js_regex::JsRegex;

/// Deepest nesting, which bounds the recursion here; published conditions need six levels.
const MAX_DEPTH: usize = 100;

/// Largest integer up to which every number is one in JavaScript, where conditions come from: beyond,
/// servers differ in which number they read.
const MAX_EXACT_INTEGER: f64 = 9_007_199_254_740_991.0;

/// A request's body: JSON that has one reading only.
#[derive(Clone, Debug)]
pub(crate) struct Body(Value);

impl Body {
    /// Reads `bytes`, the whole body without any content coding.
    ///
    /// # Errors
    /// When it is not JSON (RFC 8259) in UTF-8, has a name twice in one object, or nests too deep.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, BodyError> {
        let text = str::from_utf8(bytes).map_err(|_| BodyError::NotUtf8)?;
        let reading = Reading::default();
        let mut json = serde_json::Deserializer::from_str(text);
        let seed = ValueSeed {
            depth: 0,
            reading: &reading,
        };
        let value = seed.deserialize(&mut json);
        let value = value.and_then(|value| json.end().map(|()| value));
        value.map(Self).map_err(|error| {
            reading.refused.take().unwrap_or(BodyError::NotJson {
                line: error.line(),
                column: error.column(),
            })
        })
    }
}

/// Why no condition holds on a body. It never has a part of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub(crate) enum BodyError {
    /// Bytes that are not UTF-8.
    #[error("the body is not UTF-8")]
    NotUtf8,
    /// No JSON, or something behind it.
    #[error("the body is not one JSON value: line {line}, column {column}")]
    NotJson {
        /// From one.
        line: usize,
        /// From one, in bytes.
        column: usize,
    },
    /// Servers differ in which of the two they read.
    #[error("the body has an object with a name twice")]
    DuplicateName,
    /// More than [`MAX_DEPTH`] levels.
    #[error("the body nests deeper than {MAX_DEPTH} levels")]
    TooDeep,
}

#[derive(Clone, Debug)]
enum Value {
    Null,
    Boolean(bool),
    Number(f64),
    Text(Box<str>),
    List(Vec<Self>),
    Object(BTreeMap<Box<str>, Self>),
}

/// What a condition compares with.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scalar {
    Null,
    Boolean(bool),
    /// Made by [`Scalar::number`].
    Number(f64),
    Text(Box<str>),
}

impl Scalar {
    /// A number as JSON writes it, unless servers differ in what it is.
    pub(crate) fn number(text: &str) -> Option<Self> {
        let number: f64 = text.parse().ok()?;
        is_exact(number).then_some(Self::Number(number))
    }
}

/// A dotted path into a body, as in the npm package undefsafe 2: `commits.*.added.*`.
#[derive(Clone, Debug)]
pub(crate) struct BodyPath(Box<[Step]>);

#[derive(Clone, Debug)]
enum Step {
    /// The member of an object, or of a list by its index.
    Member(Box<str>),
    /// `*`: every member or element.
    Every,
}

impl BodyPath {
    /// Reads a path as a rule file has it.
    ///
    /// # Errors
    /// When it names nothing, or something that undefsafe reads in a surprising way.
    pub(crate) fn parse(path: &str) -> Result<Self, BodyPathError> {
        let mut steps = Vec::new();
        let mut rest = path;
        loop {
            let (name, after) = next_name(rest)?;
            let every_before = steps.iter().any(|step| matches!(step, Step::Every));
            if every_before && name.contains('.') {
                return Err(BodyPathError::DotAfterAsterisk);
            }
            steps.push(match name {
                "" => return Err(BodyPathError::EmptyName),
                "*" => Step::Every,
                name => Step::Member(name.into()),
            });
            rest = match after.strip_prefix('.') {
                Some(after) => after,
                None if after.is_empty() => return Ok(Self(steps.into())),
                None => after,
            };
        }
    }

    /// Whether a value that the path reaches is `scalar`, of the same type.
    pub(crate) fn any_equals(&self, body: &Body, scalar: &Scalar) -> bool {
        any_reached(&body.0, &self.0, &|value| match (value, scalar) {
            (Value::Null, Scalar::Null) => true,
            (Value::Boolean(value), Scalar::Boolean(scalar)) => value == scalar,
            (Value::Number(value), Scalar::Number(scalar)) => value == scalar && is_exact(*value),
            (Value::Text(value), Scalar::Text(scalar)) => value == scalar,
            _ => false,
        })
    }

    /// Whether a text that the path reaches has a match.
    pub(crate) fn any_text_matches(&self, body: &Body, regex: &JsRegex) -> bool {
        any_reached(
            &body.0,
            &self.0,
            &|value| matches!(value, Value::Text(text) if regex.is_match(text)),
        )
    }
}

/// Why the path of a condition is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub(crate) enum BodyPathError {
    /// An empty path, `a..b`, or a `.` at an end.
    #[error("there is an empty name (write \"a.b\")")]
    EmptyName,
    /// undefsafe knows no other brackets.
    #[error("a bracket that is not a name in quotes (write \"a.0\", or \"a['b.c']\")")]
    Bracket,
    /// undefsafe splits such a name.
    #[error("a name with a \".\" behind a \"*\", which no path can reach")]
    DotAfterAsterisk,
}

/// Looks at each value at most once: values at different depths cannot be reached by the same steps.
fn any_reached(value: &Value, steps: &[Step], holds: &dyn Fn(&Value) -> bool) -> bool {
    let Some((step, rest)) = steps.split_first() else {
        return holds(value);
    };
    match (step, value) {
        (Step::Member(name), Value::Object(members)) => members
            .get(name)
            .is_some_and(|member| any_reached(member, rest, holds)),
        (Step::Member(name), Value::List(elements)) => index(name)
            .and_then(|index| elements.get(index))
            .is_some_and(|element| any_reached(element, rest, holds)),
        (Step::Every, Value::Object(members)) => members
            .values()
            .any(|member| any_reached(member, rest, holds)),
        (Step::Every, Value::List(elements)) => elements
            .iter()
            .any(|element| any_reached(element, rest, holds)),
        (_, Value::Null | Value::Boolean(_) | Value::Number(_) | Value::Text(_)) => false,
    }
}

/// `01` and `+1` are no indexes.
fn index(name: &str) -> Option<usize> {
    let is_canonical = name == "0" || name.starts_with(|c: char| matches!(c, '1'..='9'));
    name.parse().ok().filter(|_| is_canonical)
}

fn is_exact(number: f64) -> bool {
    number.abs() <= MAX_EXACT_INTEGER
}

/// The first name of a path, and what follows it: nothing, or something that starts with `.` or `[`.
fn next_name(path: &str) -> Result<(&str, &str), BodyPathError> {
    let (name, after) = match path.strip_prefix('[') {
        Some(bracket) => {
            let quoted = ['\'', '"'].iter().find_map(|quote| {
                let (name, after) = bracket.strip_prefix(*quote)?.split_once(*quote)?;
                Some((name, after.strip_prefix(']')?))
            });
            quoted.ok_or(BodyPathError::Bracket)?
        }
        None => path.split_at(path.find(['.', '[']).unwrap_or(path.len())),
    };
    if name.contains(['[', ']']) || !(after.is_empty() || after.starts_with(['.', '['])) {
        return Err(BodyPathError::Bracket);
    }
    if name.trim().is_empty() {
        return Err(BodyPathError::EmptyName);
    }
    Ok((name, after))
}

/// What the JSON parser has no words for.
#[derive(Default)]
struct Reading {
    refused: Cell<Option<BodyError>>,
}

impl Reading {
    fn refuse<E: serde::de::Error>(&self, error: BodyError) -> E {
        self.refused.set(Some(error));
        E::custom(error)
    }
}

#[derive(Clone, Copy)]
struct ValueSeed<'a> {
    depth: usize,
    reading: &'a Reading,
}

impl ValueSeed<'_> {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth == MAX_DEPTH {
            return Err(self.reading.refuse(BodyError::TooDeep));
        }
        Ok(Self {
            depth: self.depth + 1,
            ..self
        })
    }
}

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: serde::de::Error>(self, boolean: bool) -> Result<Value, E> {
        Ok(Value::Boolean(boolean))
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Number(number as f64))
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number as f64))
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Number(number))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let seed = self.deeper()?;
        let mut elements = Vec::new();
        while let Some(element) = list.next_element_seed(seed)? {
            elements.push(element);
        }
        Ok(Value::List(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let seed = self.deeper()?;
        let mut members = BTreeMap::new();
        while let Some(name) = map.next_key::<Box<str>>()? {
            if members.insert(name, map.next_value_seed(seed)?).is_some() {
                return Err(self.reading.refuse(BodyError::DuplicateName));
            }
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reaches_members_and_elements() {
        let body = Body::parse(br#"{"a": {"b.c": [{"d": "x"}, 2, true, null]}}"#).unwrap();
        let holds =
            |path: &str, scalar: Scalar| BodyPath::parse(path).unwrap().any_equals(&body, &scalar);
        let number = |text| Scalar::number(text).unwrap();
        assert!(holds("a['b.c'].0.d", Scalar::Text("x".into())));
        assert!(holds("a[\"b.c\"].1", number("2.0")));
        assert!(holds("a.*.2", Scalar::Boolean(true)));
        assert!(holds("*.*.*", Scalar::Null));
        assert!(holds("a.*.*.d", Scalar::Text("x".into())));
        assert!(!holds("a.*.*", Scalar::Text("x".into())));
        assert!(!holds("a['b.c'].1", Scalar::Text("2".into())));
        assert!(!holds("a['b.c'].01", number("2")));
    }

    #[test]
    fn an_expression_looks_at_texts_only() {
        let body = Body::parse(br#"{"a": ["open", 12, ["open"]], "b": "closed"}"#).unwrap();
        let matches = |path: &str, regex: &str| {
            let regex = JsRegex::parse(regex).unwrap();
            BodyPath::parse(path)
                .unwrap()
                .any_text_matches(&body, &regex)
        };
        assert!(matches("a.*", "^op"));
        assert!(matches("b", "clo|x"));
        assert!(!matches("a", "open"));
        assert!(!matches("a.*", "1"));
        assert!(!matches("c", ""));
    }
}

//! A JSON body, and the paths by which conditions reach into it.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

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
pub enum BodyError {
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
    /// More levels than a recursion can follow safely.
    #[error("the body nests deeper than {MAX_DEPTH} levels")]
    TooDeep,
}

#[derive(Clone, Debug)]
enum Value {
    Null,
    Boolean(bool),
    Number(f64),
    Text(Box<str>),
    List(Box<[Self]>),
    /// Sorted by name, each of which is there once.
    Object(Box<[(Box<str>, Self)]>),
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

impl fmt::Display for BodyPath {
    /// As a rule file has it, but for quotes and brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "." };
            let name = match step {
                Step::Member(name) => name,
                Step::Every => "*",
            };
            write!(f, "{separator}{name}")?;
        }
        Ok(())
    }
}

/// Why the path of a condition is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BodyPathError {
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
        (Step::Member(name), Value::Object(members)) => {
            only_member(members, name).is_some_and(|member| any_reached(member, rest, holds))
        }
        (Step::Member(name), Value::List(elements)) => index(name)
            .and_then(|index| elements.get(index))
            .is_some_and(|element| any_reached(element, rest, holds)),
        (Step::Every, Value::Object(members)) => members
            .iter()
            .any(|(_, member)| any_reached(member, rest, holds)),
        (Step::Every, Value::List(elements)) => elements
            .iter()
            .any(|element| any_reached(element, rest, holds)),
        (_, Value::Null | Value::Boolean(_) | Value::Number(_) | Value::Text(_)) => false,
    }
}

/// The member of this name, unless some server may take another for it: in Go and .NET, names match in
/// either case and the last one counts, and protobuf knows a field as `repo_url` and as `repoUrl`.
fn only_member<'v>(members: &'v [(Box<str>, Value)], name: &str) -> Option<&'v Value> {
    let resembles = |other: &str| other != name && folded(other).eq(folded(name));
    let at = members.binary_search_by_key(&name, |(name, _)| name).ok()?;
    let is_alone = !members.iter().any(|(other, _)| resembles(other));
    members
        .get(at)
        .map(|(_, member)| member)
        .filter(|_| is_alone)
}

/// Twice, since the Kelvin sign and the long s are other letters in one case only.
fn folded(name: &str) -> impl Iterator<Item = char> {
    let kept = name.chars().filter(|c| !matches!(c, '_' | '-'));
    kept.flat_map(char::to_uppercase)
        .flat_map(char::to_lowercase)
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
        Ok(Value::List(elements.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let seed = self.deeper()?;
        let mut members = Vec::new();
        while let Some(member) = map.next_entry_seed(PhantomData, seed)? {
            members.push(member);
        }
        members.sort_unstable_by(|(a, _): &(Box<str>, Value), (b, _)| a.cmp(b));
        if members
            .windows(2)
            .any(|pair| matches!(pair, [(a, _), (b, _)] if a == b))
        {
            return Err(self.reading.refuse(BodyError::DuplicateName));
        }
        Ok(Value::Object(members.into()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(text: &str) -> Scalar {
        Scalar::Text(text.into())
    }

    fn number(text: &str) -> Scalar {
        Scalar::number(text).unwrap()
    }

    fn equals(body: &str, path: &str, scalar: &Scalar) -> bool {
        let body = Body::parse(body.as_bytes()).unwrap();
        BodyPath::parse(path).unwrap().any_equals(&body, scalar)
    }

    #[test]
    fn a_path_reaches_members_and_elements() {
        let holds = |path, scalar| {
            equals(
                r#"{"a": {"b.c": [{"d": "x"}, 2, true, null]}}"#,
                path,
                &scalar,
            )
        };
        assert!(holds("a['b.c'].0.d", text("x")));
        assert!(holds("a[\"b.c\"].1", number("2.0")));
        assert!(!holds("a['b.c'].01", number("2")));
        assert!(!holds("a['b.c'].4", Scalar::Null));
        assert!(!holds("a.b.c.0.d", text("x")));
        assert!(!holds("['a']['b.c'].length", number("4")));
        assert!(!holds("a['b.c'].0.d.length", number("1")));
    }

    #[test]
    fn an_asterisk_reaches_every_member_of_its_level() {
        let body = r#"{"commits": [{"added": ["x", "y"]}, {"added": []}, {"removed": ["z"]}, 1]}"#;
        assert!(equals(body, "commits.*.added.*", &text("y")));
        assert!(equals(body, "*.*.*.*", &text("z")));
        assert!(!equals(body, "commits.*.added.*", &text("z")));
        assert!(!equals(body, "commits.*.added", &text("x")));
        assert!(equals(body, "commits.*", &number("1")));
        assert!(!equals(body, "commits.*.*.*.*", &text("x")));
        assert!(!equals("[]", "*", &Scalar::Null));
    }

    #[test]
    fn a_member_that_another_may_stand_for_is_not_reached() {
        let holds = |body, path| equals(body, path, &text("x"));
        assert!(holds(r#"{"ref": "x", "prefer": "y"}"#, "ref"));
        assert!(holds(r#"{"a": {"Ref": "x"}, "A": 1, "b": 2}"#, "*.Ref"));
        for body in [
            r#"{"ref": "x", "REF": "y"}"#,
            r#"{"Ref": "y", "ref": "x"}"#,
            r#"{"ref": "x", "r_ef": "y"}"#,
            r#"{"Ref": "x"}"#,
        ] {
            assert!(!holds(body, "ref"), "{body}");
        }
        assert!(!holds(r#"{"task": "x", "ta\u017f\u212a": "y"}"#, "task"));
        assert!(!holds(r#"{"repoUrl": "x", "repo_url": "y"}"#, "repoUrl"));
        assert!(!holds(r#"{"a": {"b": "x"}, "A": {"b": "y"}}"#, "a.b"));
    }

    #[test]
    fn values_are_equal_when_their_types_are_too() {
        let body = r#"{"text": "1", "number": 1, "true": true, "false": false, "null": null, "empty": ""}"#;
        let holds = |path, scalar| equals(body, path, &scalar);
        assert!(holds("text", text("1")));
        assert!(!holds("text", number("1")));
        assert!(holds("number", number("1.0")));
        assert!(!holds("number", text("1")));
        assert!(!holds("number", Scalar::Boolean(true)));
        assert!(holds("true", Scalar::Boolean(true)));
        assert!(!holds("false", Scalar::Boolean(true)));
        assert!(holds("null", Scalar::Null));
        assert!(!holds("empty", Scalar::Null));
        assert!(!holds("missing", Scalar::Null));
        assert!(!holds("number", text("number")));
    }

    #[test]
    fn numbers_that_servers_read_differently_equal_nothing() {
        assert!(equals(
            "[9007199254740991]",
            "0",
            &number("9007199254740991")
        ));
        assert!(equals("[0.1]", "0", &number("1e-1")));
        assert!(equals("[-0]", "0", &number("0")));
        assert!(!equals("[0.30000000000000004]", "0", &number("0.3")));
        assert!(!equals(
            "[9007199254740993]",
            "0",
            &number("9007199254740991")
        ));
        for text in ["9007199254740992", "1e300", "inf", "NaN", "x", ""] {
            assert_eq!(Scalar::number(text), None, "{text}");
        }
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

    #[test]
    fn a_body_with_two_readings_is_refused() {
        let deep = |levels| "[".repeat(levels) + &"]".repeat(levels);
        for (body, error) in [
            (r#"{"a": 1, "a": 1}"#, BodyError::DuplicateName),
            (
                r#"[{"a": {"b": 1, "c": 2, "\u0062": 3}}]"#,
                BodyError::DuplicateName,
            ),
            (&deep(101), BodyError::TooDeep),
            (&deep(100_000), BodyError::TooDeep),
        ] {
            assert_eq!(Body::parse(body.as_bytes()).unwrap_err(), error, "{body}");
        }
        assert_eq!(Body::parse(b"\"\xff\"").unwrap_err(), BodyError::NotUtf8);
        assert_eq!(
            Body::parse(b"\"\xc0\xaf\"").unwrap_err(),
            BodyError::NotUtf8
        );
        for body in [
            "",
            " ",
            "x",
            "{}{}",
            "{} x",
            "\u{feff}{}",
            "[1,]",
            "{'a': 1}",
            "[01]",
            "[NaN]",
            "[1e999]",
            "// c\n{}",
            "\"\t\"",
            r#""\ud83d""#,
            "{\"a\": 1",
            "\u{a0}{}",
        ] {
            let error = Body::parse(body.as_bytes()).unwrap_err();
            assert!(
                matches!(error, BodyError::NotJson { .. }),
                "{body}: {error}"
            );
        }
        assert!(Body::parse(deep(100).as_bytes()).is_ok());
    }

    #[test]
    fn an_error_says_where_and_never_what() {
        let error = Body::parse(b"{\n  \"secret\": hunter2}").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the body is not one JSON value: line 2, column 13"
        );
        let error = Body::parse(br#"{"hunter2": 1, "hunter2": 2}"#).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the body has an object with a name twice"
        );
    }

    #[test]
    fn a_path_that_reads_in_a_surprising_way_is_refused() {
        for (path, error) in [
            ("", BodyPathError::EmptyName),
            (" ", BodyPathError::EmptyName),
            ("a..b", BodyPathError::EmptyName),
            ("a.", BodyPathError::EmptyName),
            (".a", BodyPathError::EmptyName),
            ("['']", BodyPathError::EmptyName),
            ("a[0]", BodyPathError::Bracket),
            ("a]b", BodyPathError::Bracket),
            ("a['b]", BodyPathError::Bracket),
            ("a['b']c", BodyPathError::Bracket),
            ("a['b[c]']", BodyPathError::Bracket),
            ("*['a.b']", BodyPathError::DotAfterAsterisk),
        ] {
            assert_eq!(BodyPath::parse(path).unwrap_err(), error, "{path}");
        }
    }

    #[test]
    fn a_large_body_takes_one_look_at_each_value() {
        let wide = format!("[{}0]", "[[[[1]]]],".repeat(100_000));
        let number = number("2");
        assert!(!equals(&wide, &["*"; 8].join("."), &number));
        assert!(!equals(&wide, &vec!["*"; 50_000].join("."), &number));
        let members: Vec<_> = (0..60_000).map(|i| format!("\"member{i}\":1")).collect();
        let object = format!("{{{}}}", members.join(","));
        assert!(equals(&object, "member59999", &Scalar::Number(1.0)));
        assert!(!equals(&object, "*", &number));
    }

    proptest! {
        #[test]
        fn any_body_and_any_path_are_read_without_panic(
            body in "[\\[\\]{}\":,ab0-9.\\\\eu -]{0,32}",
            path in "[a*.\\[\\]'\"0é ]{0,16}",
        ) {
            let body = Body::parse(body.as_bytes());
            if let (Ok(body), Ok(path)) = (body, BodyPath::parse(&path)) {
                path.any_equals(&body, &Scalar::Null);
            }
        }

        #[test]
        fn a_text_is_found_where_it_was_put(name in "[^.*\\[\\]]*[a-z]", value: String) {
            let body = serde_json::json!({"a": [{ name.as_str(): value.as_str() }]}).to_string();
            let path = format!("a.0.{name}");
            prop_assert!(equals(&body, &path, &Scalar::Text(value.as_str().into())));
            prop_assert!(equals(&body, "a.*.*", &Scalar::Text(value.into())));
        }
    }
}

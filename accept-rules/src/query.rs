//! A query string: the value of a parameter, where every server finds the same one.
//!
//! The reading is that of the npm package qs 6 with its default options. Servers read names in many
//! other ways, so a condition holds only on a parameter that all of them take for the same: it stands
//! there once, and nothing else resembles it.

use std::borrow::Cow;

use thiserror::Error;

use crate::target::decode;

/// Most parameters, as in qs, which drops those beyond.
const MAX_PARAMETERS: usize = 1000;

/// Most brackets in a name, as in qs, which reads those beyond as text.
const MAX_DEPTH: usize = 5;

/// Most elements of a list, as in qs, which makes an object of a longer one.
const MAX_ELEMENTS: usize = 20;

/// What every JavaScript object has: qs drops parameters of these names.
const OBJECT_MEMBERS: &[&str] = &[
    "__defineGetter__",
    "__defineSetter__",
    "__lookupGetter__",
    "__lookupSetter__",
    "__proto__",
    "constructor",
    "hasOwnProperty",
    "isPrototypeOf",
    "propertyIsEnumerable",
    "toLocaleString",
    "toString",
    "valueOf",
];

/// A query within the limits of qs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Query<'a> {
    raw: &'a str,
}

impl<'a> Query<'a> {
    /// Reads what follows the first `?` of a [`RequestTarget`](crate::RequestTarget).
    ///
    /// # Errors
    /// When servers differ in what they read of it, whatever the name.
    pub(crate) fn read(raw: &'a str) -> Result<Self, QueryError> {
        let query = Self { raw };
        let count = query.parameters().count();
        if count > MAX_PARAMETERS {
            return Err(QueryError::TooManyParameters);
        }
        for parameter in query.parameters() {
            check_name(&decode_text(qs_name(parameter)).ok_or(QueryError::NameNotUtf8)?)?;
        }
        if count > MAX_ELEMENTS {
            query.check_repetitions()?;
        }
        Ok(query)
    }

    /// The value of the parameter `name`.
    pub(crate) fn value(&self, name: &str) -> QueryValue<'a> {
        if OBJECT_MEMBERS.contains(&name) {
            return QueryValue::Ambiguous;
        }
        let mut value = QueryValue::Absent;
        for parameter in self.parameters() {
            match Claim::of(parameter, name) {
                Claim::None => {}
                Claim::Value(text) if value == QueryValue::Absent => {
                    value = QueryValue::Text(text);
                }
                Claim::Value(_) | Claim::Unclear => return QueryValue::Ambiguous,
            }
        }
        value
    }

    fn parameters(self) -> impl Iterator<Item = &'a str> {
        self.raw
            .split('&')
            .filter(|parameter| !parameter.is_empty())
    }

    fn check_repetitions(self) -> Result<(), QueryError> {
        let mut names: Vec<_> = self
            .parameters()
            .map(|parameter| decode_text(qs_name(parameter)))
            .collect();
        names.sort_unstable();
        let is_too_long = |names: &[Option<Cow<'_, str>>]| names.len() > MAX_ELEMENTS;
        if names.chunk_by(PartialEq::eq).any(is_too_long) {
            return Err(QueryError::ListTooLong);
        }
        Ok(())
    }
}

/// The value of a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum QueryValue<'a> {
    /// Nothing in the query resembles the name.
    Absent,
    /// The one value, decoded.
    Text(Cow<'a, str>),
    /// Servers may differ in what they read, so no condition holds on it.
    Ambiguous,
}

/// Why a query satisfies no condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub(crate) enum QueryError {
    /// qs and others drop those beyond.
    #[error("the query has more than {MAX_PARAMETERS} parameters")]
    TooManyParameters,
    /// qs reads those beyond as text.
    #[error("the query has a name with more than {MAX_DEPTH} brackets")]
    TooDeep,
    /// qs makes an object of a longer list.
    #[error("the query has a list of more than {MAX_ELEMENTS} elements")]
    ListTooLong,
    /// Servers leave it, replace bytes, or drop them.
    #[error("the query has a name that is not UTF-8")]
    NameNotUtf8,
}

fn check_name(name: &str) -> Result<(), QueryError> {
    let brackets = || name.split('[').skip(1);
    if brackets().nth(MAX_DEPTH).is_some() {
        return Err(QueryError::TooDeep);
    }
    let is_beyond = |index: &str| {
        let is_number = !index.is_empty() && index.bytes().all(|byte| byte.is_ascii_digit());
        is_number && !index.parse().is_ok_and(|index: usize| index < MAX_ELEMENTS)
    };
    let mut indexes = brackets().filter_map(|bracket| bracket.split_once(']'));
    if indexes.any(|(index, _)| is_beyond(index)) {
        return Err(QueryError::ListTooLong);
    }
    Ok(())
}

/// What one parameter is to a name.
enum Claim<'a> {
    None,
    Value(Cow<'a, str>),
    /// Some server may take it for a parameter of that name, or part of one.
    Unclear,
}

impl<'a> Claim<'a> {
    fn of(parameter: &'a str, name: &str) -> Self {
        let (raw_name, raw_value) = split_name(parameter);
        let resembles = |raw: &str| decode_text(raw).is_none_or(|other| resembles(&other, name));
        // Older servers split at `;` too.
        let mut pieces = parameter.split(';').map(|piece| split_name(piece).0);
        if !resembles(qs_name(parameter)) && !pieces.any(resembles) {
            return Self::None;
        }
        let is_plain = qs_name(parameter) == raw_name && !parameter.contains(';');
        let is_named = !name.is_empty() && !name.contains('[');
        if is_plain && is_named && decode_text(raw_name).as_deref() == Some(name) {
            // Servers written in C end a text at a zero byte.
            let value = decode_text(raw_value).filter(|value| !value.contains('\0'));
            return value.map_or(Self::Unclear, Self::Value);
        }
        Self::Unclear
    }
}

fn split_name(parameter: &str) -> (&str, &str) {
    parameter.split_once('=').unwrap_or((parameter, ""))
}

/// The name as qs finds it: up to the first `]=`, and only without one up to the first `=`.
fn qs_name(parameter: &str) -> &str {
    let ends = ["]=", "%5D=", "%5d="];
    let found = ends.iter().filter_map(|end| {
        let start = parameter.find(end)?;
        parameter.get(..start + end.len() - 1)
    });
    found
        .min_by_key(|name| name.len())
        .unwrap_or(split_name(parameter).0)
}

/// Whether some server may read `other` as `name`, or as an element or a member of it.
///
/// Names match in either case (ASP.NET), without space around them and with `_` for `.`, ` ` and `[`
/// (PHP), up to a zero byte (C); `a[b]` and `a.b` are members of `a` (qs, Rails, Spring), and what
/// starts with a bracket may be anything.
fn resembles(other: &str, name: &str) -> bool {
    if trimmed(other).starts_with('[') {
        return true;
    }
    let (mut other, mut name) = (folded(other), folded(name));
    loop {
        return match (other.next(), name.next()) {
            (None | Some('[' | '.'), None) => true,
            (Some(a), Some(b)) if a == b || (is_separator(a) && is_separator(b)) => continue,
            _ => false,
        };
    }
}

fn folded(name: &str) -> impl Iterator<Item = char> {
    let kept = trimmed(name).chars().filter(|c| *c != ']');
    kept.flat_map(char::to_lowercase)
}

fn trimmed(name: &str) -> &str {
    let is_space = |c: char| c.is_whitespace() || c.is_control();
    let name = name.trim_start_matches(|c| is_space(c) || c == '?');
    let end = name.find('\0').unwrap_or(name.len());
    name.get(..end).unwrap_or(name).trim_end_matches(is_space)
}

fn is_separator(c: char) -> bool {
    matches!(c, '.' | ' ' | '[' | '_' | '+')
}

/// Decodes escapes and `+`, a space in forms; nothing where that is not UTF-8.
fn decode_text(raw: &str) -> Option<Cow<'_, str>> {
    if !raw.contains(['%', '+']) {
        return Some(Cow::Borrowed(raw));
    }
    let spaced = raw.replace('+', " ");
    String::from_utf8(decode(spaced.as_bytes()))
        .ok()
        .map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value<'a>(raw: &'a str, name: &str) -> QueryValue<'a> {
        Query::read(raw).unwrap().value(name)
    }

    fn text(text: &str) -> QueryValue<'_> {
        QueryValue::Text(Cow::Borrowed(text))
    }

    #[test]
    fn a_value_that_stands_once_is_decoded() {
        assert_eq!(value("a=1&path=/x&b=2", "path"), text("/x"));
        assert_eq!(
            value("path=a%2Fb%20c+d%C3%A9=%26", "path"),
            text("a/b c dé=&")
        );
        assert_eq!(value("p%61th=x", "path"), text("x"));
        assert_eq!(value("a.b=x", "a.b"), text("x"));
        assert_eq!(value("path", "path"), text(""));
        assert_eq!(value("path=", "path"), text(""));
        assert_eq!(value("&&path=x&", "path"), text("x"));
    }

    #[test]
    fn a_value_without_escapes_is_not_copied() {
        let QueryValue::Text(text) = value("a=%20&path=x", "path") else {
            panic!("it is there");
        };
        assert!(matches!(text, Cow::Borrowed("x")));
    }

    #[test]
    fn what_nothing_resembles_is_absent() {
        for raw in [
            "",
            "a=path",
            "paths=x",
            "pat=x",
            "path2=x",
            "a=x%3Bpath=y",
            "my.path=x",
        ] {
            assert_eq!(value(raw, "path"), QueryValue::Absent, "{raw}");
        }
    }

    #[test]
    fn a_name_twice_or_in_two_spellings_is_ambiguous() {
        for raw in [
            "path=x&path=y",
            "path=x&path=x",
            "path=x&path",
            "path=x&p%61th=y",
            "path=x&Path=y",
            "PATH=y",
            "path=x&+path=y",
            "path=x&path%00z=y",
            "path=x&?path=y",
        ] {
            assert_eq!(value(raw, "path"), QueryValue::Ambiguous, "{raw}");
        }
        for raw in ["a_b=x", "a+b=x", "a[b]=x", "a[b=x", "a.B=x"] {
            assert_eq!(value(raw, "a.b"), QueryValue::Ambiguous, "{raw}");
        }
    }

    #[test]
    fn lists_and_objects_are_ambiguous() {
        for raw in [
            "path[]=x",
            "path[0]=x",
            "path[a]=x",
            "path%5Ba%5d=x",
            "path=x&path[]=y",
            "path[=x",
            "path]=x",
            "path.a=x",
            "[path]=x",
            "[]=x",
            "x&[0]=y",
        ] {
            assert_eq!(value(raw, "path"), QueryValue::Ambiguous, "{raw}");
        }
    }

    #[test]
    fn what_splits_elsewhere_on_other_servers_is_ambiguous() {
        for raw in [
            "path=x;y",
            "path=x;",
            "a=1;path=x",
            "path=x&a=1;path=y",
            "a;path",
            "path=x]=y",
            "path=x%5D=y",
            "a=1;p%61th=x",
        ] {
            assert_eq!(value(raw, "path"), QueryValue::Ambiguous, "{raw}");
        }
        assert_eq!(value("path=x&a=1;b=2]=3", "path"), text("x"));
    }

    #[test]
    fn a_value_that_is_no_text_everywhere_is_ambiguous() {
        for raw in ["path=%ff", "path=%C0%AF", "path=%ED%A0%80", "path=x%00y"] {
            assert_eq!(value(raw, "path"), QueryValue::Ambiguous, "{raw}");
        }
    }

    #[test]
    fn names_that_javascript_takes_for_its_own_are_ambiguous() {
        assert_eq!(value("toString=x", "toString"), QueryValue::Ambiguous);
        assert_eq!(value("", "__proto__"), QueryValue::Ambiguous);
        assert_eq!(value("=x", ""), QueryValue::Ambiguous);
        assert_eq!(value("a[b]=x", "a[b]"), QueryValue::Ambiguous);
    }

    #[test]
    fn a_query_beyond_the_limits_of_qs_is_refused() {
        let refused = |raw: &str| Query::read(raw).err();
        assert_eq!(refused(&"a=&".repeat(20)), None);
        assert_eq!(refused(&"a=&".repeat(21)), Some(QueryError::ListTooLong));
        let many = |count| (0..count).map(|i| format!("a{i}=&")).collect::<String>();
        assert_eq!(refused(&many(1000)), None);
        assert_eq!(refused(&many(1001)), Some(QueryError::TooManyParameters));
        assert_eq!(refused("a[19]=x"), None);
        assert_eq!(refused("a[20]=x"), Some(QueryError::ListTooLong));
        assert_eq!(
            refused("a[99999999999999999999]=x"),
            Some(QueryError::ListTooLong)
        );
        assert_eq!(refused("a[b][c][d][e][f]=x"), None);
        assert_eq!(refused("a[b][c][d][e][f][g]=x"), Some(QueryError::TooDeep));
        assert_eq!(refused("a%ff=x"), Some(QueryError::NameNotUtf8));
    }

    #[test]
    fn the_longest_query_is_read_in_linear_time() {
        for piece in [
            "&", "a&", "a[", "%5B", ";", "a;", "]=", "=", "+", "%00", "a=1;",
        ] {
            let raw = piece.repeat((1 << 14) / piece.len());
            if let Ok(query) = Query::read(&raw) {
                query.value("path");
            }
        }
    }

    proptest! {
        #[test]
        fn any_query_is_read_without_panic(raw in "[!-~]{0,48}", name: String) {
            if let Ok(query) = Query::read(&raw) {
                query.value(&name);
            }
        }

        #[test]
        fn an_escaped_value_is_found_as_it_was(value: String) {
            prop_assume!(!value.contains('\0'));
            let escaped: String = value.bytes().map(|byte| format!("%{byte:02X}")).collect();
            let raw = format!("a=1&path={escaped}&b");
            prop_assert_eq!(Query::read(&raw).unwrap().value("path"), text(&value));
        }

        #[test]
        fn more_parameters_never_make_a_value_certain(
            raw in "([ab.;=&\\[\\]+]|%61|%5B){0,12}",
            more in "([ab.;=&\\[\\]+]|%61|%5B){0,12}",
        ) {
            let longer = format!("{raw}&{more}");
            if let (Ok(before), Ok(after)) = (Query::read(&raw), Query::read(&longer)) {
                let (before, after) = (before.value("a"), after.value("a"));
                let is_kept = match &before {
                    QueryValue::Absent => true,
                    QueryValue::Text(_) => after == before || after == QueryValue::Ambiguous,
                    QueryValue::Ambiguous => after == QueryValue::Ambiguous,
                };
                prop_assert!(is_kept, "{:?}, then {:?}", before, after);
            }
        }
    }
}

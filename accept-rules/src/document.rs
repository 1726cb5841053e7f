//! The text of a file, JSON with comments or YAML, as a tree that keeps duplicate keys.

use std::cell::Cell;
use std::fmt;

use jsonc_parser::ast;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};

/// Longest YAML text, in bytes: its parser takes some microseconds a byte for hostile nesting, and
/// the largest rule files in use have less than a tenth of this.
const MAX_YAML_LEN: usize = 1 << 20;

/// How much a YAML file may expand to, in nodes plus bytes of text. Without aliases the longest file
/// stays below it; with them it could grow to its square.
const MAX_EXPANSION: usize = 4 * MAX_YAML_LEN;

/// A value of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    Null,
    Boolean(bool),
    /// A number as it is written; a text in quotes is a text.
    Number(String),
    Text(String),
    List(Vec<Self>),
    Map(Vec<(String, Self)>),
}

impl Node {
    /// Reads `text`: JSON when its first character that is no space and no comment is a `{`.
    ///
    /// # Errors
    /// The syntax error, with line and column.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if starts_like_json(text) {
            read_json(text)
        } else {
            read_yaml(text)
        }
    }

    /// What the value is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Boolean(_) => "true or false",
            Self::Number(_) => "a number",
            Self::Text(_) => "a text",
            Self::List(_) => "a list",
            Self::Map(_) => "an object",
        }
    }
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Boolean(value) => serializer.serialize_bool(*value),
            Self::Number(text) => match (text.parse::<i64>(), text.parse::<f64>()) {
                (Ok(number), _) => serializer.serialize_i64(number),
                (Err(_), Ok(number)) => serializer.serialize_f64(number),
                (Err(_), Err(_)) => serializer.serialize_str(text),
            },
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(list) => serializer.collect_seq(list),
            Self::Map(entries) => {
                serializer.collect_map(entries.iter().map(|(key, value)| (key, value)))
            }
        }
    }
}

fn starts_like_json(text: &str) -> bool {
    let mut rest = text.trim_start();
    loop {
        let after = if let Some(comment) = rest.strip_prefix("//") {
            comment.split_once('\n')
        } else if let Some(comment) = rest.strip_prefix("/*") {
            comment.split_once("*/")
        } else {
            return rest.starts_with('{');
        };
        rest = after.map_or("", |(_, after)| after.trim_start());
    }
}

fn read_json(text: &str) -> Result<Node, String> {
    let options = ParseOptions {
        allow_comments: true,
        allow_trailing_commas: true,
        allow_loose_object_property_names: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    };
    match parse_to_ast(text, &CollectOptions::default(), &options) {
        Ok(parsed) => Ok(parsed.value.map_or(Node::Null, from_json)),
        Err(error) => Err(format!(
            "line {}, column {}: {}",
            error.line_display(),
            error.column_display(),
            lower_case_first(&error.kind().to_string())
        )),
    }
}

/// The recursion is as deep as the parser's, which stops at 512 levels.
fn from_json(value: ast::Value<'_>) -> Node {
    match value {
        ast::Value::NullKeyword(_) => Node::Null,
        ast::Value::BooleanLit(literal) => Node::Boolean(literal.value),
        ast::Value::NumberLit(number) => Node::Number(number.value.to_owned()),
        ast::Value::StringLit(text) => Node::Text(text.value.into_owned()),
        ast::Value::Array(list) => Node::List(list.elements.into_iter().map(from_json).collect()),
        ast::Value::Object(object) => {
            let entries = object.properties.into_iter();
            Node::Map(
                entries
                    .map(|entry| (entry.name.into_string(), from_json(entry.value)))
                    .collect(),
            )
        }
    }
}

fn read_yaml(text: &str) -> Result<Node, String> {
    if text.len() > MAX_YAML_LEN {
        let len = text.len();
        return Err(format!(
            "a YAML file of {len} bytes, more than {MAX_YAML_LEN}: write it as JSON"
        ));
    }
    let budget = Cell::new(MAX_EXPANSION);
    let seed = NodeSeed { budget: &budget };
    let document = serde_yaml::Deserializer::from_str(text);
    seed.deserialize(document)
        .map_err(|error| lower_case_first(&error.to_string()))
}

/// Reads a node, and takes what it costs from the budget that the whole file shares.
#[derive(Clone, Copy)]
struct NodeSeed<'a> {
    budget: &'a Cell<usize>,
}

impl NodeSeed<'_> {
    fn spend<E: serde::de::Error>(self, text_len: usize) -> Result<(), E> {
        let left = self.budget.get().checked_sub(text_len + 1);
        self.budget
            .set(left.ok_or_else(|| E::custom("the file's aliases expand to too much"))?);
        Ok(())
    }

    fn number<E: serde::de::Error>(self, number: impl fmt::Display) -> Result<Node, E> {
        let text = number.to_string();
        self.spend(text.len())?;
        Ok(Node::Number(text))
    }
}

impl<'de> DeserializeSeed<'de> for NodeSeed<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for NodeSeed<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value without a tag")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Node, E> {
        self.spend(0)?;
        Ok(Node::Null)
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<Node, E> {
        self.visit_unit()
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Node, E> {
        self.spend(0)?;
        Ok(Node::Boolean(value))
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Node, E> {
        self.number(number)
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Node, E> {
        self.number(number)
    }

    fn visit_i128<E: serde::de::Error>(self, number: i128) -> Result<Node, E> {
        self.number(number)
    }

    fn visit_u128<E: serde::de::Error>(self, number: u128) -> Result<Node, E> {
        self.number(number)
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Node, E> {
        self.number(number)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Node, E> {
        self.spend(text.len())?;
        Ok(Node::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        self.spend(0)?;
        let mut nodes = Vec::new();
        while let Some(node) = list.next_element_seed(self)? {
            nodes.push(node);
        }
        Ok(Node::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        self.spend(0)?;
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            self.spend(key.len())?;
            entries.push((key, map.next_value_seed(self)?));
        }
        Ok(Node::Map(entries))
    }
}

fn lower_case_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| {
        format!("{}{}", first.to_ascii_lowercase(), chars.as_str())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Node {
        Node::Text(text.to_owned())
    }

    #[test]
    fn json_may_have_comments_trailing_commas_and_a_byte_order_mark() {
        let json = "\u{feff} // one\n/* two */ {\"a\": [\"b\", 1, true, null,], // three\n \"\\u0061\": {},}";
        let list = vec![
            text("b"),
            Node::Number("1".into()),
            Node::Boolean(true),
            Node::Null,
        ];
        let entries = vec![
            ("a".into(), Node::List(list)),
            ("a".into(), Node::Map(vec![])),
        ];
        assert_eq!(Node::read(json), Ok(Node::Map(entries)));
    }

    #[test]
    fn anything_else_is_yaml() {
        let yaml = "# one\na:\n  - b\n  - 1\n  - true\n  - ~\na: {}\n";
        let list = vec![
            text("b"),
            Node::Number("1".into()),
            Node::Boolean(true),
            Node::Null,
        ];
        let entries = vec![
            ("a".into(), Node::List(list)),
            ("a".into(), Node::Map(vec![])),
        ];
        assert_eq!(Node::read(yaml), Ok(Node::Map(entries)));
        assert_eq!(
            Node::read("# c\n{a: b}"),
            Ok(Node::Map(vec![("a".into(), text("b"))]))
        );
        assert_eq!(Node::read(""), Ok(Node::Null));
    }

    #[test]
    fn a_syntax_error_says_where_it_is() {
        for (source, error) in [
            ("{\"a\": 1 \"b\": 2}", "line 1, column 8: expected comma"),
            ("{\n\"a\": GET}", "line 2, column 6: unexpected token"),
            (
                "{'a': 1}",
                "line 1, column 2: single-quoted strings are not allowed",
            ),
            (
                "a: b: c",
                "mapping values are not allowed in this context at line 1 column 5",
            ),
            (
                "a: !x b",
                "a: invalid type: enum, expected a value without a tag at line 1 column 4",
            ),
        ] {
            assert_eq!(Node::read(source), Err(error.to_owned()), "{source}");
        }
    }

    #[test]
    fn hostile_nesting_and_aliases_are_refused() {
        let deep = |unit: &str, len: usize| Node::read(&unit.repeat(len / unit.len()));
        for (unit, len) in [
            ("{\"a\":", 10 << 20),
            ("- ", 1 << 20),
            ("&a [", 1 << 14),
            ("[", 1 << 14),
        ] {
            let error = deep(unit, len).unwrap_err();
            let is_about_depth =
                error.contains("depth exceeded") || error.contains("recursion limit");
            assert!(is_about_depth, "{unit}: {error}");
        }
        let bomb = format!(
            "a: &a [{}]\nb:\n{}",
            "x,".repeat(1 << 16),
            "  - *a\n".repeat(1 << 16)
        );
        assert!(
            Node::read(&bomb)
                .unwrap_err()
                .contains("the file's aliases expand to too much")
        );
        let error = Node::read(&"#".repeat(MAX_YAML_LEN + 1)).unwrap_err();
        assert_eq!(
            error,
            "a YAML file of 1048577 bytes, more than 1048576: write it as JSON"
        );
    }
}

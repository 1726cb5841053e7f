//! Texts with `${NAME}` in them, as origins and credentials are written.

use std::fmt;

use thiserror::Error;

/// A text with variables, not expanded yet.
///
/// A variable is the shortest `${`…`}`; there is no default, no nesting and no escape, and any other
/// `$` is literal. The text may hold a credential, so `Debug` shows the variables only.
#[derive(Clone, PartialEq, Eq)]
pub struct Template {
    parts: Box<[Part]>,
}

#[derive(Clone, PartialEq, Eq)]
enum Part {
    Literal(Box<str>),
    Variable(Box<str>),
}

impl Template {
    /// Reads `text`.
    ///
    /// # Errors
    /// When something other than a name stands between `${` and `}`.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((literal, name, after)) = next_variable(rest) {
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.into()));
            }
            parts.push(Part::Variable(check_name(name)?.into()));
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Literal(rest.into()));
        }
        Ok(Self {
            parts: parts.into(),
        })
    }

    /// The text before and after the first `separator` that is not part of a variable.
    pub(crate) fn split_once(&self, separator: char) -> Option<(Self, Self)> {
        let (index, before, after) = self.parts.iter().enumerate().find_map(|(index, part)| {
            let Part::Literal(text) = part else {
                return None;
            };
            text.split_once(separator)
                .map(|(before, after)| (index, before, after))
        })?;
        let literal = |text: &str| (!text.is_empty()).then(|| Part::Literal(text.into()));
        let first = self
            .parts
            .iter()
            .take(index)
            .cloned()
            .chain(literal(before));
        let second = literal(after)
            .into_iter()
            .chain(self.parts.iter().skip(index + 1).cloned());
        Some((
            Self {
                parts: first.collect(),
            },
            Self {
                parts: second.collect(),
            },
        ))
    }

    /// The names of the variables, in order, repeated as often as they stand in the text.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Literal(_) => None,
            Part::Variable(name) => Some(&**name),
        })
    }

    /// Whether it is an empty text.
    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Puts in the values that `lookup` has, literally: nothing is trimmed or escaped.
    ///
    /// # Errors
    /// When `lookup` has no value for a variable.
    pub fn expand<V: AsRef<str>>(
        &self,
        lookup: impl Fn(&str) -> Option<V>,
    ) -> Result<String, MissingVariable> {
        let mut expanded = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(text) => expanded.push_str(text),
                Part::Variable(name) => match lookup(name) {
                    Some(value) => expanded.push_str(value.as_ref()),
                    None => {
                        return Err(MissingVariable {
                            name: name.to_string(),
                        });
                    }
                },
            }
        }
        Ok(expanded)
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Template")?;
        f.debug_list().entries(self.variables()).finish()
    }
}

/// A variable that has no value.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the variable \"{name}\" is not set")]
pub struct MissingVariable {
    /// Its name.
    pub name: String,
}

/// Why a text cannot be read as a [`Template`].
///
/// The messages show the start of the name only: what follows may be a credential.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// `${NAME:default}`, `${plugin:…}`, `${file:…}` and the like, which other brokers know.
    #[error(
        "\"${{{name}:…}}\" is not supported: only \"${{NAME}}\" is, without a default or a source"
    )]
    Unsupported {
        /// What stands before the colon.
        name: String,
    },
    /// Something that is no variable name.
    #[error(
        "\"${{{start}…}}\" has no variable name: use letters, digits, \"_\", \"-\" and \".\" only"
    )]
    BadName {
        /// The part that could be a name.
        start: String,
    },
}

/// What stands before the first variable, its name, and what stands after it.
fn next_variable(text: &str) -> Option<(&str, &str, &str)> {
    let (literal, after) = text.split_once("${")?;
    let (name, rest) = after.split_once('}')?;
    Some((literal, name, rest))
}

fn check_name(name: &str) -> Result<&str, TemplateError> {
    let is_in_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let rest = name.trim_start_matches(is_in_name);
    let start = name.strip_suffix(rest).unwrap_or(name);
    match rest.chars().next() {
        None if !name.is_empty() => Ok(name),
        Some(':') => Err(TemplateError::Unsupported { name: start.into() }),
        None | Some(_) => Err(TemplateError::BadName {
            start: start.into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(text: &str) -> String {
        let template = Template::parse(text).unwrap();
        template.expand(|name| Some(format!("<{name}>"))).unwrap()
    }

    #[test]
    fn variables_are_put_in_and_everything_else_is_literal() {
        for (text, expanded) in [
            ("", ""),
            ("plain", "plain"),
            ("${A}", "<A>"),
            (" ${A}: ", " <A>: "),
            ("https://${H}:${P}/x", "https://<H>:<P>/x"),
            ("${A}${A}", "<A><A>"),
            ("$A $ {A} $$", "$A $ {A} $$"),
            ("$${A}}", "$<A>}"),
            ("${A", "${A"),
            ("a}${", "a}${"),
            ("${my-var.x_1}", "<my-var.x_1>"),
        ] {
            assert_eq!(expand(text), expanded, "{text}");
        }
    }

    #[test]
    fn a_value_is_not_expanded_again() {
        let template = Template::parse("${A}").unwrap();
        assert_eq!(template.expand(|_| Some(" ${A} ")).unwrap(), " ${A} ");
    }

    #[test]
    fn a_missing_variable_is_named() {
        let template = Template::parse("${A}${B}").unwrap();
        let error = template
            .expand(|name| (name == "A").then_some("a"))
            .unwrap_err();
        assert_eq!(error.to_string(), "the variable \"B\" is not set");
    }

    #[test]
    fn defaults_and_sources_are_refused_by_name() {
        for (text, shown) in [
            ("${X:default}", "\"${X:…}\" is not supported"),
            ("${plugin:a}", "\"${plugin:…}\" is not supported"),
            ("a ${file:/run/x} b", "\"${file:…}\" is not supported"),
            ("${exec:ls}", "\"${exec:…}\" is not supported"),
            ("${}", "\"${…}\" has no variable name"),
            ("${A B}", "\"${A…}\" has no variable name"),
            ("${${A}}", "\"${…}\" has no variable name"),
        ] {
            let error = Template::parse(text).unwrap_err().to_string();
            assert!(error.starts_with(shown), "{text}: {error}");
        }
    }

    #[test]
    fn debug_never_shows_the_literal_text() {
        let template = Template::parse("hunter2${A}").unwrap();
        assert_eq!(format!("{template:?}"), "Template[\"A\"]");
    }
}

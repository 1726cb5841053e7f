//! Texts with `${…}` in them, as origins and credentials are written.

use std::fmt;

use thiserror::Error;

/// Longest path in a `${file:…}`, in bytes, as Linux has it (`PATH_MAX`).
const MAX_PATH: usize = 4096;

/// A text with values to be put in, not expanded yet.
///
/// A source is the shortest `${`…`}`; there is no default, no nesting and no escape, and any other `$` is literal. The
/// text may hold a credential, so `Debug` shows the sources only.
#[derive(Clone, PartialEq, Eq)]
pub struct Template {
    parts: Box<[Part]>,
}

#[derive(Clone, PartialEq, Eq)]
enum Part {
    Literal(Box<str>),
    Source(Source),
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `${NAME}`: a variable.
    Variable(Box<str>),
    /// `${file:/path}`: a file's content; the path is absolute.
    File(Box<str>),
    /// `${exec:name}` and its kin: what the settings declare under this name.
    Declared(Declared, Box<str>),
}

/// A kind of sources that the settings declare, under its [`Declared::word`] in `credentials`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Declared {
    /// What a command prints.
    Exec,
    /// A token for a cluster of Amazon EKS.
    Eks,
    /// A token of Google Cloud.
    Gcp,
    /// A token of an OAuth 2.0 authorization server.
    OAuth2,
    /// A field of a secret in Vault.
    Vault,
    /// A token of a GitHub App's installation.
    GithubApp,
}

impl Declared {
    const ALL: [Self; 6] = [
        Self::Exec,
        Self::Eks,
        Self::Gcp,
        Self::OAuth2,
        Self::Vault,
        Self::GithubApp,
    ];

    /// What stands before the colon.
    pub fn word(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Eks => "eks",
            Self::Gcp => "gcp",
            Self::OAuth2 => "oauth2",
            Self::Vault => "vault",
            Self::GithubApp => "github-app",
        }
    }

    fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(name) => write!(f, "${{{name}}}"),
            Self::File(path) => write!(f, "${{file:{path}}}"),
            Self::Declared(kind, name) => write!(f, "${{{}:{name}}}", kind.word()),
        }
    }
}

impl Template {
    /// Reads `text`.
    ///
    /// # Errors
    /// When something other than a source stands between `${` and `}`.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((literal, source, after)) = split_at_source(rest) {
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.into()));
            }
            parts.push(Part::Source(Source::parse(source)?));
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

    /// Where its values come from, in order, repeated as often as they stand in the text.
    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        self.parts.iter().filter_map(|part| match part {
            Part::Literal(_) => None,
            Part::Source(source) => Some(source),
        })
    }

    /// Whether it is an empty text.
    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Puts in the values that `lookup` has, literally: nothing is trimmed or escaped. It is asked once for each of
    /// [`Template::sources`], in order.
    ///
    /// # Errors
    /// That of `lookup`.
    pub fn expand<V: AsRef<str>, E>(
        &self,
        mut lookup: impl FnMut(&Source) -> Result<V, E>,
    ) -> Result<String, E> {
        let values = self.sources().map(&mut lookup);
        let values = values.collect::<Result<Vec<V>, E>>()?;
        let mut next = values.iter();
        let texts: Vec<&str> = self
            .parts
            .iter()
            .filter_map(|part| match part {
                Part::Literal(text) => Some(&**text),
                Part::Source(_) => next.next().map(AsRef::as_ref),
            })
            .collect();
        // One allocation: a text that grows leaves copies of secrets behind.
        Ok(texts.concat())
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Template")?;
        f.debug_list().entries(self.sources()).finish()
    }
}

impl Source {
    /// Reads what stands between `${` and `}`.
    fn parse(text: &str) -> Result<Self, TemplateError> {
        let is_in_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let rest = text.trim_start_matches(is_in_name);
        let start = text.strip_suffix(rest).unwrap_or(text);
        match (start, rest.strip_prefix(':')) {
            ("file", Some(path)) if is_path(path) => Ok(Self::File(path.into())),
            ("file", Some(_)) => Err(TemplateError::BadPath),
            (_, Some(name)) => match Declared::of_word(start) {
                Some(kind) if is_name(name) => Ok(Self::Declared(kind, name.into())),
                Some(kind) => Err(TemplateError::BadDeclared { kind: kind.word() }),
                None => Err(TemplateError::Unsupported { name: start.into() }),
            },
            (_, None) if rest.is_empty() && !text.is_empty() => Ok(Self::Variable(text.into())),
            (_, None) => Err(TemplateError::BadName {
                start: start.into(),
            }),
        }
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
    /// `${NAME:default}`, `${plugin:…}` and the like, which other brokers know.
    #[error(
        "\"${{{name}:…}}\" is not supported: use \"${{NAME}}\", \"${{file:/path}}\"{}; there are no defaults",
        declared()
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
    /// A path that depends on the working folder, or that can be none.
    #[error("\"${{file:…}}\" needs an absolute path, such as \"${{file:/run/secrets/token}}\"")]
    BadPath,
    /// Something that cannot be a name in the settings.
    #[error(
        "\"${{{kind}:…}}\" needs a name of the settings' \"credentials.{kind}\": lower-case letters, digits, \".\", \"_\" and \"-\", up to 63"
    )]
    BadDeclared {
        /// The kind's word.
        kind: &'static str,
    },
    /// A credential's source in the part of an origin that everybody sees.
    #[error(
        "\"${{{kind}:…}}\" cannot stand in an origin: use it in \"auth\", or before the origin's \"@\""
    )]
    NotInOrigin {
        /// `file`, or the word of what the settings declare.
        kind: &'static str,
    },
}

/// Every kind that settings declare, as a rule writes it.
fn declared() -> String {
    let kinds = Declared::ALL.iter();
    kinds
        .map(|kind| format!(", \"${{{}:name}}\"", kind.word()))
        .collect()
}

/// What stands before the first source, what is inside its braces, and what stands after it.
pub(crate) fn split_at_source(text: &str) -> Option<(&str, &str, &str)> {
    let (literal, after) = text.split_once("${")?;
    let (source, rest) = after.split_once('}')?;
    Some((literal, source, rest))
}

fn is_path(text: &str) -> bool {
    text.starts_with('/') && text.len() <= MAX_PATH && !text.contains(char::is_control)
}

/// As all names in settings are (`[a-z0-9][a-z0-9._-]{0,62}`).
pub(crate) fn is_name(text: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.len() <= 63
        && text.bytes().next().is_some_and(is_plain)
        && text.bytes().all(|b| is_plain(b) || b"._-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(text: &str) -> String {
        let template = Template::parse(text).unwrap();
        let value = |source: &Source| match source {
            Source::Variable(name) => format!("<{name}>"),
            Source::File(path) => format!("<file {path}>"),
            Source::Declared(kind, name) => format!("<{} {name}>", kind.word()),
        };
        template
            .expand(|source| Ok::<_, ()>(value(source)))
            .unwrap()
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
            ("a ${file:/run/x} b", "a <file /run/x> b"),
            ("${file:/run/$ :{é}", "<file /run/$ :{é>"),
            ("${exec:eks-1}:${A}", "<exec eks-1>:<A>"),
            ("${eks:shop}", "<eks shop>"),
        ] {
            assert_eq!(expand(text), expanded, "{text}");
        }
    }

    #[test]
    fn a_value_is_not_expanded_again() {
        let template = Template::parse("${A}").unwrap();
        let expanded = template.expand(|_| Ok::<_, ()>(" ${A} "));
        assert_eq!(expanded.unwrap(), " ${A} ");
    }

    #[test]
    fn the_first_value_that_is_missing_is_the_error() {
        let template = Template::parse("${A}${B}${C}").unwrap();
        let error = template.expand(|source| match source.to_string().as_str() {
            "${A}" => Ok("a"),
            other => Err(other.to_owned()),
        });
        assert_eq!(error.unwrap_err(), "${B}");
    }

    #[test]
    fn defaults_and_other_sources_are_refused_by_name() {
        for (text, shown) in [
            ("${X:default}", "\"${X:…}\" is not supported"),
            ("${plugin:a}", "\"${plugin:…}\" is not supported"),
            ("${FILE:/run/x}", "\"${FILE:…}\" is not supported"),
            ("${file:token}", "\"${file:…}\" needs an absolute path"),
            ("${file:}", "\"${file:…}\" needs an absolute path"),
            ("${file:/a\0b}", "\"${file:…}\" needs an absolute path"),
            ("${exec:/bin/ls}", "\"${exec:…}\" needs a name"),
            ("${eks:}", "\"${eks:…}\" needs a name"),
            ("${exec:}", "\"${exec:…}\" needs a name"),
            ("${exec:EKS}", "\"${exec:…}\" needs a name"),
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
        let template = Template::parse("hunter2${A}hunter3").unwrap();
        assert_eq!(format!("{template:?}"), "Template[Variable(\"A\")]");
    }
}

//! What can be wrong with an accept file, and how it is said.

use std::fmt;

use thiserror::Error;

use super::{MAX_FILE_LEN, MAX_RULES};
use crate::body::BodyPathError;
use crate::glob::GlobError;
use crate::js_regex::JsRegexError;
use crate::origin::OriginError;
use crate::path_glob::PathGlobError;
use crate::path_pattern::PathPatternError;
use crate::rule::{List, RuleIndex};
use crate::template::TemplateError;

/// How many errors are kept: enough to mend a file in one go, and a bound for a hostile one.
const MAX_ERRORS: usize = 100;

/// Longest value shown in an error, in characters.
pub(crate) const MAX_SHOWN: usize = 60;

/// Everything that is wrong with a file, one error a line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Error)]
pub struct FileErrors {
    errors: Vec<FileError>,
    left_out: usize,
}

impl FileErrors {
    /// The errors, in the file's order, the first hundred of them.
    pub fn iter(&self) -> impl Iterator<Item = &FileError> {
        self.errors.iter()
    }

    pub(crate) fn one(problem: Problem) -> Self {
        Self {
            errors: vec![FileError {
                place: Place::File,
                problem,
            }],
            left_out: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    pub(super) fn push(&mut self, place: Place, problem: Problem) {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(FileError { place, problem });
        } else {
            self.left_out += 1;
        }
    }
}

impl fmt::Display for FileErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{error}")?;
        }
        match self.left_out {
            0 => Ok(()),
            more => write!(f, "\nand {more} more errors"),
        }
    }
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{place}{problem}")]
pub struct FileError {
    /// Where it is.
    pub place: Place,
    /// What it is.
    pub problem: Problem,
}

/// A place in an accept file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The file as a whole.
    File,
    /// One of its lists.
    List(List),
    /// One rule of a list.
    Rule(List, RuleIndex),
}

impl fmt::Display for Place {
    /// With what separates it from the problem, which is nothing for the whole file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File => Ok(()),
            Self::List(list) => write!(f, "{list}: "),
            Self::Rule(list, index) => write!(f, "{list}[{index}]: "),
        }
    }
}

/// What can be wrong with an accept file. No message shows a credential.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Problem {
    /// More bytes than [`MAX_FILE_LEN`].
    #[error("the file has {len} bytes, more than {MAX_FILE_LEN}")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// More rules than can be kept in memory for sure.
    #[error("the list has {count} rules, more than {MAX_RULES}")]
    TooManyRules {
        /// How many.
        count: usize,
    },
    /// Patterns that compile to more than can be kept in memory for sure.
    #[error(
        "the patterns of all rules are too large together: use fewer repetitions, braces and values"
    )]
    TooHeavy,
    /// Neither JSON nor YAML.
    #[error("{found}")]
    Syntax {
        /// What the parser says.
        found: String,
    },
    /// A part of the file that has the wrong kind.
    #[error("{part} must be {expected}, but it is {found}")]
    PartKind {
        /// The part.
        part: &'static str,
        /// What it has to be.
        expected: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// A field whose value has the wrong kind.
    #[error("{field:?} must be {expected}, but it is {found}")]
    FieldKind {
        /// The field.
        field: &'static str,
        /// What its value has to be.
        expected: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// A key that is there twice; readers differ in which one they take.
    #[error("the key {} is given twice", quoted(.key))]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A key that means nothing; a mistyped condition must not be dropped.
    #[error("unknown key {}{}", quoted(.key), Suggestion(.suggestion))]
    UnknownKey {
        /// The key.
        key: String,
        /// A known key like it.
        suggestion: Option<&'static str>,
    },
    /// A key whose meaning is not enforced.
    #[error("{key:?} is not supported by this version; the rule would allow more than it says")]
    UnsupportedKey {
        /// The key.
        key: &'static str,
    },
    /// A form of the file that is not known, or not yet.
    #[error(
        "\"version\": {found} is not supported: write 2, or leave the key out for the form without \
         a version"
    )]
    Version {
        /// The version.
        found: String,
    },
    /// A file that is to be converted, and is of version 2.
    #[error("the file is of version 2 already")]
    Converted,
    /// A method that no rule can allow.
    #[error("unknown method {}{}", quoted(.found), Suggestion(.suggestion))]
    UnknownMethod {
        /// The method.
        found: String,
        /// A known method like it.
        suggestion: Option<&'static str>,
    },
    /// A path that cannot be matched.
    #[error("{field:?} {}: {error}", quoted(.path))]
    Path {
        /// The field.
        field: &'static str,
        /// The path.
        path: String,
        /// What is wrong with it.
        error: PathPatternError,
    },
    /// A glob that cannot be matched.
    #[error("{field:?} {}: {error}", quoted(.glob))]
    Glob {
        /// The field.
        field: &'static str,
        /// The glob.
        glob: String,
        /// What is wrong with it.
        error: PathGlobError,
    },
    /// A key that the kind of rule needs.
    #[error("{key:?} is missing: name {what}")]
    Missing {
        /// The key.
        key: &'static str,
        /// What it has to name.
        what: &'static str,
    },
    /// Neither a glob nor a pattern for the path, or both.
    #[error("exactly one of \"path\" and \"path-to-regexp\" is needed")]
    PathChoice,
    /// Keys that say the same thing in two ways.
    #[error("{key:?} cannot stand beside \"valid\", which means the same in its own way")]
    BesideValid {
        /// The key beside it.
        key: &'static str,
    },
    /// A list in which something must stand.
    #[error("{field:?} is empty, so the rule would match nothing: name at least one")]
    Empty {
        /// The field.
        field: &'static str,
    },
    /// A value that a field cannot have.
    #[error("{field:?} cannot be {}: write {write}{}", quoted(.found), Suggestion(.suggestion))]
    Value {
        /// The field.
        field: &'static str,
        /// Its value.
        found: String,
        /// What it can be.
        write: &'static str,
        /// A possible value like it.
        suggestion: Option<&'static str>,
    },
    /// A key of version 2 that nothing enforces yet: to ignore it would allow more.
    #[error("{key:?} cannot be enforced by this version: take it out and {instead}")]
    NotEnforced {
        /// The key.
        key: &'static str,
        /// What to do without it.
        instead: &'static str,
    },
    /// A private rule without origin.
    #[error(
        "\"origin\" is missing: name where the request goes, such as \"https://sonarqube.internal\""
    )]
    MissingOrigin,
    /// An origin that cannot be used.
    #[error("\"origin\": {0}")]
    Origin(OriginError),
    /// An `@` with nothing before it.
    #[error("\"origin\": nothing stands before the \"@\"")]
    EmptyUserinfo,
    /// A condition that lacks a part, or has one too many.
    #[error("a condition of {field:?} needs {needs}")]
    ConditionFields {
        /// The field.
        field: &'static str,
        /// What it needs.
        needs: &'static str,
    },
    /// A glob for a query value that cannot be matched.
    #[error("the query value {}: {error}", quoted(.glob))]
    QueryGlob {
        /// The glob.
        glob: String,
        /// What is wrong with it.
        error: GlobError,
    },
    /// A header name that no request can have.
    #[error("{} is no header name", quoted(.found))]
    HeaderName {
        /// The name.
        found: String,
    },
    /// A place in the body that cannot be looked up.
    #[error("the body path {}: {error}", quoted(.path))]
    BodyPath {
        /// The path.
        path: String,
        /// What is wrong with it.
        error: BodyPathError,
    },
    /// An expression for a body value that cannot be matched.
    #[error("the expression {}: {error}", quoted(.regex))]
    BodyRegex {
        /// The expression.
        regex: String,
        /// What is wrong with it.
        error: JsRegexError,
    },
    /// A scheme of `auth` that is not known.
    #[error("\"auth\": unknown scheme {}{}", quoted(.found), Suggestion(.suggestion))]
    UnknownScheme {
        /// The scheme.
        found: String,
        /// A known scheme like it.
        suggestion: Option<&'static str>,
    },
    /// Fields of `auth` that do not fit its scheme.
    #[error("\"auth\": the scheme {scheme:?} needs {needs}")]
    AuthFields {
        /// The scheme.
        scheme: &'static str,
        /// The fields that it needs.
        needs: &'static str,
    },
    /// A field of `auth` that is no name.
    #[error(
        "\"auth\": \"{field}\" is no name (use lower-case letters, digits, \".\", \"_\" and \"-\", up to 63)"
    )]
    NoWord {
        /// The field.
        field: &'static str,
    },
    /// A text of `auth`, or an origin's userinfo, that cannot be expanded.
    #[error("\"{field}\": {error}")]
    Credential {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        error: TemplateError,
    },
}

/// The known name that was probably meant.
pub(super) fn nearest(word: &str, known: &[&'static str]) -> Option<&'static str> {
    if word.len() > MAX_SHOWN {
        return None;
    }
    let word = word.to_lowercase();
    let distance = |name: &&'static str| strsim::osa_distance(&word, &name.to_lowercase());
    let near = known.iter().min_by_key(|name| distance(name))?;
    let limit = word.chars().count().div_ceil(3).min(2);
    (distance(near) <= limit).then_some(near)
}

/// A value in quotes, escaped, and cut where it is too long to read.
pub(crate) fn quoted(value: &str) -> String {
    quoted_up_to(MAX_SHOWN, value)
}

/// As [`quoted`], with a length of its own, in characters.
pub(crate) fn quoted_up_to(max: usize, value: &str) -> String {
    match value.char_indices().nth(max) {
        Some((end, _)) => format!("{:?}", format!("{}…", value.get(..end).unwrap_or_default())),
        None => format!("{value:?}"),
    }
}

struct Suggestion<'a>(&'a Option<&'static str>);

impl fmt::Display for Suggestion<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(known) => write!(f, " (did you mean {known:?}?)"),
            None => Ok(()),
        }
    }
}

//! The text of an accept file, read into rules; every error names list, rule, field and fix.

use thiserror::Error;

use crate::document::Node;
use crate::rule::{List, Rule, RuleIndex};
use error::nearest;

mod auth;
mod condition;
mod error;
mod kubernetes;
mod path_rule;
mod reader;
mod schema;
mod strict;
mod unversioned;

pub(crate) use error::quoted_up_to;
pub use error::{FileError, FileErrors, Place, Problem};
pub(crate) use error::{MAX_SHOWN, quoted};
pub(crate) use reader::find;
use reader::{RuleReader, part_kind, report_duplicates};
pub use schema::SCHEMA;

/// Longest accept file, in bytes; the largest in use have 72 KiB.
pub const MAX_FILE_LEN: usize = 10 << 20;

/// Most rules of one list; the longest in use has 320. Each is compiled and kept.
const MAX_RULES: usize = 10_000;

const FILE_KEYS: &[&str] = &["private", "public", "version", "$schema"];

/// An accept file: two lists of rules, checked, and not expanded yet.
#[derive(Clone, Debug)]
pub struct RuleFile {
    form: Form,
    private: Box<[Rule]>,
    public: Box<[Rule]>,
    warnings: Box<[FileWarning]>,
}

/// What becomes of a key in a rule that means nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownKeys {
    /// The file is refused.
    #[default]
    Refuse,
    /// The key is warned about, unless it may be `valid`, `auth` or `method`, mistyped, or is `<<`,
    /// by which YAML merges. Only in the form without a version.
    Warn,
}

impl RuleFile {
    /// Reads JSON, with or without comments, when the first character that is no space and no
    /// comment is a `{`, and YAML otherwise. Unknown keys are refused.
    ///
    /// # Errors
    /// All that is wrong with the file.
    pub fn parse(text: &str) -> Result<Self, FileErrors> {
        Self::parse_with(text, UnknownKeys::Refuse)
    }

    /// As [`parse`](Self::parse), with a choice what becomes of unknown keys.
    ///
    /// # Errors
    /// All that is wrong with the file.
    pub fn parse_with(text: &str, unknown_keys: UnknownKeys) -> Result<Self, FileErrors> {
        if text.len() > MAX_FILE_LEN {
            return Err(FileErrors::one(Problem::TooLong { len: text.len() }));
        }
        let document =
            Node::read(text).map_err(|found| FileErrors::one(Problem::Syntax { found }))?;
        let mut findings = Findings {
            form: Form::WithoutVersion,
            unknown_keys,
            errors: FileErrors::default(),
            warnings: Vec::new(),
            weight: 0,
        };
        let [private, public] = read_lists(&document, &mut findings);
        if findings.errors.is_empty() {
            Ok(Self {
                form: findings.form,
                private: private.into(),
                public: public.into(),
                warnings: findings.warnings.into(),
            })
        } else {
            Err(findings.errors)
        }
    }

    /// Its `version`: 2, or none.
    pub fn version(&self) -> Option<u8> {
        match self.form {
            Form::WithoutVersion => None,
            Form::Version2 => Some(2),
        }
    }

    /// The rules of one list, in order.
    pub fn rules(&self, list: List) -> &[Rule] {
        match list {
            List::Private => &self.private,
            List::Public => &self.public,
        }
    }

    /// What the operator should know, though the file is in force.
    pub fn warnings(&self) -> &[FileWarning] {
        &self.warnings
    }
}

/// Something in the file that has no effect.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FileWarning {
    /// A key that means nothing.
    #[error("{place}the key {} has no meaning here and is ignored", quoted(.key))]
    UnknownKey {
        /// Where it is.
        place: Place,
        /// The key.
        key: String,
    },
}

/// What was found so far.
struct Findings {
    form: Form,
    unknown_keys: UnknownKeys,
    errors: FileErrors,
    warnings: Vec<FileWarning>,
    /// Of all patterns.
    weight: usize,
}

pub(crate) type Entries = [(String, Node)];

/// In which form a file's rules are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    WithoutVersion,
    Version2,
}

fn read_lists(document: &Node, findings: &mut Findings) -> [Vec<Rule>; 2] {
    let errors = &mut findings.errors;
    let mut lists: [Vec<Rule>; 2] = Default::default();
    let Node::Map(entries) = document else {
        errors.push(
            Place::File,
            part_kind(
                "the file",
                "an object with \"private\" and \"public\"",
                document,
            ),
        );
        return lists;
    };
    let form = match find(entries, "version") {
        None => Form::WithoutVersion,
        Some(Node::Number(version)) if version == "2" => Form::Version2,
        Some(version) => {
            // Its rules may have another form, so there is nothing else to say about them.
            let found = version_text(version);
            errors.push(Place::File, Problem::Version { found });
            return lists;
        }
    };
    findings.form = form;
    if form == Form::Version2 {
        findings.unknown_keys = UnknownKeys::Refuse;
    }
    report_duplicates(entries, Place::File, &mut findings.errors);
    let [private, public] = &mut lists;
    for (key, value) in entries {
        match key.as_str() {
            // Editors look there for the schema of the file.
            "//" | "version" | "$schema" => {}
            "private" => *private = read_list(form, List::Private, value, findings),
            "public" => *public = read_list(form, List::Public, value, findings),
            _ => match (form, nearest(key, FILE_KEYS)) {
                (Form::WithoutVersion, None) => findings.warnings.push(FileWarning::UnknownKey {
                    place: Place::File,
                    key: key.clone(),
                }),
                (Form::WithoutVersion | Form::Version2, suggestion) => {
                    findings.errors.push(
                        Place::File,
                        Problem::UnknownKey {
                            key: key.clone(),
                            suggestion,
                        },
                    );
                }
            },
        }
    }
    lists
}

fn read_list(form: Form, list: List, value: &Node, findings: &mut Findings) -> Vec<Rule> {
    let Node::List(rules) = value else {
        findings.errors.push(
            Place::List(list),
            part_kind("the value", "a list of rules", value),
        );
        return Vec::new();
    };
    if rules.len() > MAX_RULES {
        let count = rules.len();
        findings
            .errors
            .push(Place::List(list), Problem::TooManyRules { count });
        return Vec::new();
    }
    let indexes = (0..).map(RuleIndex);
    indexes
        .zip(rules)
        .filter_map(|(index, rule)| {
            RuleReader {
                list,
                index,
                findings,
            }
            .read(form, rule)
        })
        .collect()
}

fn version_text(version: &Node) -> String {
    match version {
        Node::Number(number) => number.clone(),
        Node::Text(text) => quoted(text),
        Node::Null | Node::Boolean(_) | Node::List(_) | Node::Map(_) => version.kind().to_owned(),
    }
}

#[cfg(test)]
mod tests;

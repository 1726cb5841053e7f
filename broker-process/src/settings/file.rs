//! The settings file: YAML, in which a key that nobody reads is an error and so is one that stands twice.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_yaml::Value;
use serde_yaml::value::Index as _;

use super::declaration::Table;
use super::value::{could_be_secret, nearest, shown};

/// What is wrong with the settings, one line each.
#[derive(Debug, Default)]
pub(super) struct Problems(RefCell<Vec<String>>);

impl Problems {
    pub(super) fn add(&self, problem: String) {
        self.0.borrow_mut().push(problem);
    }

    pub(super) fn into_lines(self) -> Vec<String> {
        self.0.into_inner()
    }
}

/// The file's content, and what to call it.
#[derive(Debug)]
pub(super) struct SettingsFile {
    name: String,
    folder: PathBuf,
    root: Value,
}

impl SettingsFile {
    /// Reads the file called `name` in the operator's words; a relative one is looked for in `folder`.
    pub(super) fn read(name: &str, folder: &Path) -> Result<Self, String> {
        let path = folder.join(name);
        let text = fs::read_to_string(&path)
            .map_err(|error| format!("{name}: cannot read the settings file: {error}"))?;
        let folder = path.parent().unwrap_or(folder).to_owned();
        Self::parse(name, &text, folder)
    }

    /// Takes `text` for the file's content.
    pub(super) fn parse(name: &str, text: &str, folder: PathBuf) -> Result<Self, String> {
        let root = parse(text).map_err(|error| format!("{name}: {error}"))?;
        Ok(Self {
            name: name.to_owned(),
            folder,
            root,
        })
    }

    /// All of it.
    pub(super) fn root<'f>(&'f self, problems: &'f Problems) -> Node<'f> {
        Node {
            file: self,
            problems,
            path: String::new(),
            value: &self.root,
        }
    }

    /// What a relative path in the file is relative to.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The part under a dotted key of the table.
    pub(super) fn find<'f>(&'f self, key: &str, problems: &'f Problems) -> Option<Node<'f>> {
        let mut steps = key.split('.');
        let value = steps.try_fold(&self.root, |value, step| step.index_into(value))?;
        let node = Node {
            file: self,
            problems,
            path: key.to_owned(),
            value,
        };
        (!value.is_null()).then_some(node)
    }

    /// Notes every key that the table does not know.
    pub(super) fn refuse_unknown(&self, table: &Table, problems: &Problems) {
        let root = self.root(problems);
        let settings: Vec<&str> = table.settings().filter_map(super::Setting::key).collect();
        let sections: Vec<&str> = table.sections().map(|section| section.key).collect();
        refuse_unknown_under(&root, &settings, &sections);
    }
}

fn parse(text: &str) -> Result<Value, String> {
    // Only `Value` refuses a key that stands twice; maps and `#[derive(Deserialize)]` would take the last one.
    serde_yaml::from_str(text).map_err(|error| {
        let message = error.to_string();
        if !could_be_secret(&message) {
            return format!("not YAML that can be read: {message}");
        }
        let place = error.location().map_or_else(String::new, |at| {
            format!(" at line {} column {}", at.line(), at.column())
        });
        format!("not YAML that can be read{place} (what stands there is not repeated here, it could hold a secret)")
    })
}

fn refuse_unknown_under(node: &Node<'_>, settings: &[&str], sections: &[&str]) {
    for (key, child) in node.entries() {
        let path = child.path.as_str();
        let map_prefix = format!("{path}.");
        let known = || settings.iter().chain(sections);
        if settings.contains(&path) {
            let _ = child.text();
        } else if known().any(|known| known.starts_with(&map_prefix)) {
            refuse_unknown_under(&child, settings, sections);
        } else if !sections.contains(&path) {
            let here = node.child_prefix();
            let names = known()
                .filter_map(|known| known.strip_prefix(&here))
                .filter_map(|rest| rest.split('.').next());
            node.problem(unknown_key(&key, names));
        }
    }
}

fn unknown_key<'k>(key: &str, known: impl Iterator<Item = &'k str>) -> String {
    let mut known: Vec<&str> = known.collect();
    known.sort_unstable();
    known.dedup();
    let hint = match nearest(key, known.iter().copied()) {
        Some(near) => format!("did you mean {near:?}?"),
        None => format!("known: {}", known.join(", ")),
    };
    format!("unknown key {} ({hint})", shown(key))
}

/// One place in the settings file. What is wrong with it is noted, named with file and path.
#[derive(Debug, Clone)]
pub struct Node<'f> {
    file: &'f SettingsFile,
    problems: &'f Problems,
    path: String,
    value: &'f Value,
}

impl<'f> Node<'f> {
    /// Notes that something is wrong here.
    pub fn problem(&self, text: impl AsRef<str>) {
        self.problems
            .add(format!("{}: {}", self.place(), text.as_ref()));
    }

    /// File and path, as in `broker.yaml: tunnel.count`.
    #[must_use]
    pub fn place(&self) -> String {
        let name = &self.file.name;
        match self.path.as_str() {
            "" => name.clone(),
            path => format!("{name}: {path}"),
        }
    }

    /// The entries of a map whose keys the operator chooses.
    #[must_use]
    pub fn entries(&self) -> Vec<(String, Self)> {
        let map = match self.value {
            Value::Null => return Vec::new(),
            Value::Mapping(map) => map,
            _ => {
                self.problem(format!("expected a map, found {}", kind(self.value)));
                return Vec::new();
            }
        };
        let mut entries = Vec::with_capacity(map.len());
        for (index, (key, value)) in map.iter().enumerate() {
            let Some(key) = key_text(key) else {
                self.problem(format!(
                    "key {} is {} (put it in quotes)",
                    index + 1,
                    kind(key)
                ));
                continue;
            };
            let path = self.child_prefix() + &path_step(&key, index);
            entries.push((key, self.at(path, value)));
        }
        entries
    }

    /// The fields of a map whose keys are `known`; any other is noted as a problem.
    #[must_use]
    pub fn fields(&self, known: &'static [&'static str]) -> Fields<'f> {
        let entries = self.entries();
        for (key, _) in &entries {
            if !known.contains(&key.as_str()) {
                self.problem(unknown_key(key, known.iter().copied()));
            }
        }
        Fields { entries }
    }

    /// The entries of a list.
    #[must_use]
    pub fn items(&self) -> Vec<Self> {
        match self.value {
            Value::Null => Vec::new(),
            Value::Sequence(list) => list
                .iter()
                .enumerate()
                .map(|(index, value)| self.at(format!("{}[{index}]", self.path), value))
                .collect(),
            _ => {
                self.problem(format!("expected a list, found {}", kind(self.value)));
                Vec::new()
            }
        }
    }

    /// A path; a relative one is relative to the file.
    #[must_use]
    pub fn path(&self) -> Option<PathBuf> {
        self.read(super::path)
            .map(|path| self.file.folder().join(path))
    }

    /// Whether it is a list.
    #[must_use]
    pub fn is_list(&self) -> bool {
        self.value.is_sequence()
    }

    /// Whether there is no value.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.value.is_null()
    }

    /// Whether it is a map.
    #[must_use]
    pub fn is_map(&self) -> bool {
        self.value.is_mapping()
    }

    /// A value of any kind, as `T` reads it.
    #[must_use]
    pub fn deserialize<T: DeserializeOwned>(&self) -> Option<T> {
        T::deserialize(self.value)
            .map_err(|error| self.problem(error.to_string()))
            .ok()
    }

    /// The text of a single value.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        match self.value {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(flag) => Some(flag.to_string()),
            Value::Null => None,
            Value::Sequence(_) | Value::Mapping(_) | Value::Tagged(_) => {
                self.problem(format!("expected one value, found {}", kind(self.value)));
                None
            }
        }
    }

    /// A single value, read by `parse`.
    pub fn read<T, E: std::fmt::Display>(
        &self,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        parse(&self.text()?)
            .map_err(|error| self.problem(error.to_string()))
            .ok()
    }

    fn at(&self, path: String, value: &'f Value) -> Self {
        Self {
            path,
            value,
            ..*self
        }
    }

    fn child_prefix(&self) -> String {
        if self.path.is_empty() {
            String::new()
        } else {
            format!("{}.", self.path)
        }
    }
}

/// The fields of a map.
#[derive(Debug)]
pub struct Fields<'f> {
    entries: Vec<(String, Node<'f>)>,
}

impl<'f> Fields<'f> {
    /// A field; one without a value counts as absent.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Node<'f>> {
        self.entries
            .iter()
            .find(|(key, node)| key == name && !node.value.is_null())
            .map(|(_, node)| node)
    }
}

/// How a key reads in a path: bare where it is plain, quoted elsewhere, by its place where it could hold a secret.
fn path_step(key: &str, index: usize) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    if could_be_secret(key) {
        format!("(entry {})", index + 1)
    } else if !key.is_empty() && key.bytes().all(is_plain) {
        key.to_owned()
    } else {
        shown(key)
    }
}

fn key_text(key: &Value) -> Option<String> {
    match key {
        Value::String(text) => Some(text.clone()),
        // A float does not read back as it was written (1.10 is 1.1), so as a name it needs its quotes.
        Value::Number(number) if !number.is_f64() => Some(number.to_string()),
        _ => None,
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Sequence(_) => "a list",
        Value::Mapping(_) => "a map",
        Value::Tagged(_) => "a value with a YAML tag",
    }
}

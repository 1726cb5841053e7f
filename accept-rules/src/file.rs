//! The text of an accept file, read into rules; every error names list, rule, field and fix.

use std::collections::HashSet;

use http::Method;
use thiserror::Error;

use crate::document::Node;
use crate::origin::{OriginTemplate, split_userinfo};
use crate::path_pattern::PathPattern;
use crate::rule::{
    Auth, EncodedSlash, EncodedUnreserved, List, Methods, Pattern, Rule, RuleIndex, RuleTimeouts,
};
use crate::template::Template;
use crate::weight::{MAX_WEIGHT, Weigh};
use error::nearest;

mod condition;
mod error;
mod kubernetes;
mod schema;
mod strict;

pub(crate) use error::quoted_up_to;
pub use error::{FileError, FileErrors, Place, Problem};
pub(crate) use error::{MAX_SHOWN, quoted};
pub use schema::SCHEMA;

/// Longest accept file, in bytes; the largest in use have 72 KiB.
pub const MAX_FILE_LEN: usize = 10 << 20;

/// Most rules of one list; the longest in use has 320. Each is compiled and kept.
const MAX_RULES: usize = 10_000;

/// The methods that a rule can name. Not `CONNECT`, which is no request to an origin, nor `TRACE`,
/// whose answer repeats the credential that was put in.
const METHODS: &[&str] = &[
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "PATCH",
    "DELETE",
    "OPTIONS",
    "PROPFIND",
    "PROPPATCH",
    "MKCOL",
    "COPY",
    "MOVE",
    "LOCK",
    "UNLOCK",
    "REPORT",
    "SEARCH",
    "MERGE",
    "MKACTIVITY",
    "CHECKOUT",
    "PURGE",
];

const FILE_KEYS: &[&str] = &["private", "public", "version", "$schema"];
const RULE_KEYS: &[&str] = &["method", "path", "origin", "auth", "valid", "stream"];
const AUTH_KEYS: &[&str] = &["scheme", "token", "username", "password"];
const AUTH_SCHEMES: &[&str] = &["token", "bearer", "basic", "raw"];

/// Keys with a meaning elsewhere that is not enforced here: to ignore them would allow more.
const UNSUPPORTED_RULE_KEYS: &[&str] = &["headers", "requiredCapabilities"];

/// Keys without which a rule allows more: what looks like one of them is never ignored.
const NARROWING_KEYS: &[&str] = &["valid", "auth", "method"];

/// Other readers of YAML put in here what the value holds, conditions among it.
const YAML_MERGE: &str = "<<";

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

/// Reads one rule; whatever is wrong goes to `findings`, and reading goes on.
struct RuleReader<'a> {
    list: List,
    index: RuleIndex,
    findings: &'a mut Findings,
}

impl RuleReader<'_> {
    fn read(mut self, form: Form, rule: &Node) -> Option<Rule> {
        let Node::Map(entries) = rule else {
            self.refuse(part_kind("the rule", "an object", rule));
            return None;
        };
        report_duplicates(entries, self.place(), &mut self.findings.errors);
        match form {
            Form::WithoutVersion => self.read_unversioned(entries),
            Form::Version2 => self.read_strict(entries),
        }
    }

    fn read_unversioned(&mut self, entries: &Entries) -> Option<Rule> {
        self.check_keys(entries);
        let methods = self.read_method(entries);
        let path = self.read_path(entries);
        let conditions = self.read_valid(entries);
        let auth = self.read_auth(entries);
        let (origin, userinfo) = self.read_origin(entries)?;
        let (path, pattern) = path?;
        Some(Rule {
            comment: comment(entries),
            methods: methods?,
            path,
            pattern: Pattern::PathToRegexp(pattern),
            conditions: conditions?,
            origin,
            auth: auth.or(userinfo),
            encoded_slash: EncodedSlash::Data,
            encoded_unreserved: EncodedUnreserved::Data,
            callers: None,
            expires: None,
            timeouts: RuleTimeouts::default(),
            keep_cookies: false,
            allow_headers: Box::default(),
            disabled: false,
        })
    }

    fn place(&self) -> Place {
        Place::Rule(self.list, self.index)
    }

    fn refuse(&mut self, problem: Problem) {
        self.findings.errors.push(self.place(), problem);
    }

    /// A key that means nothing, among those that do.
    fn unknown_key(&mut self, key: &str, known: &[&'static str]) {
        let may_narrow = key == YAML_MERGE || nearest(key, NARROWING_KEYS).is_some();
        match self.findings.unknown_keys {
            UnknownKeys::Warn if !may_narrow => {
                self.findings.warnings.push(FileWarning::UnknownKey {
                    place: self.place(),
                    key: key.to_owned(),
                });
            }
            UnknownKeys::Warn | UnknownKeys::Refuse => self.refuse_unknown_key(key, known),
        }
    }

    fn refuse_unknown_key(&mut self, key: &str, known: &[&'static str]) {
        self.refuse(Problem::UnknownKey {
            key: key.to_owned(),
            suggestion: nearest(key, known),
        });
    }

    fn check_keys(&mut self, entries: &Entries) {
        for (key, _) in entries {
            if let Some(key) = UNSUPPORTED_RULE_KEYS.iter().find(|known| *known == key) {
                self.refuse(Problem::UnsupportedKey { key });
            } else if key != "//" && !RULE_KEYS.contains(&key.as_str()) {
                self.unknown_key(key, RULE_KEYS);
            }
        }
    }

    fn read_method(&mut self, entries: &Entries) -> Option<Methods> {
        let Some(value) = find(entries, "method") else {
            return Some(Methods::Only([Method::GET].into()));
        };
        let text = self.text("method", value)?;
        if text.eq_ignore_ascii_case("any") {
            return Some(Methods::Any);
        }
        self.method(text)
            .map(|method| Methods::Only([method].into()))
    }

    fn method(&mut self, text: &str) -> Option<Method> {
        let known = METHODS
            .iter()
            .find(|known| known.eq_ignore_ascii_case(text));
        match known.and_then(|known| known.parse().ok()) {
            Some(method) => Some(method),
            None => {
                let suggestion = nearest(text, METHODS);
                self.refuse(Problem::UnknownMethod {
                    found: text.to_owned(),
                    suggestion,
                });
                None
            }
        }
    }

    fn read_path(&mut self, entries: &Entries) -> Option<(Box<str>, PathPattern)> {
        let text = match find(entries, "path") {
            Some(value) => self.text("path", value)?,
            None => "",
        };
        let path = if text.starts_with('/') {
            text.to_owned()
        } else {
            format!("/{text}")
        };
        let pattern = self.path_pattern("path", &path)?;
        Some((path.into(), pattern))
    }

    fn path_pattern(&mut self, field: &'static str, path: &str) -> Option<PathPattern> {
        self.compiled(PathPattern::parse, path, |error| {
            let path = path.to_owned();
            Problem::Path { field, path, error }
        })
    }

    /// Compiles a pattern, unless the file's weigh too much already.
    fn compiled<T: Weigh, E>(
        &mut self,
        parse: impl Fn(&str) -> Result<T, E>,
        text: &str,
        problem: impl Fn(E) -> Problem,
    ) -> Option<T> {
        if self.findings.weight > MAX_WEIGHT {
            return None;
        }
        let pattern = parse(text).map_err(|error| self.refuse(problem(error)));
        let pattern = pattern.ok()?;
        self.findings.weight += pattern.weight();
        if self.findings.weight > MAX_WEIGHT {
            self.findings.errors.push(Place::File, Problem::TooHeavy);
            return None;
        }
        Some(pattern)
    }

    fn read_origin(&mut self, entries: &Entries) -> Option<(Option<OriginTemplate>, Option<Auth>)> {
        let text = match find(entries, "origin") {
            Some(value) => self.text("origin", value)?,
            None => "",
        };
        match (text, self.list) {
            ("", List::Public) => return Some((None, None)),
            ("", List::Private) => {
                self.refuse(Problem::MissingOrigin);
                return None;
            }
            _ => {}
        }
        let (userinfo, rest) = split_userinfo(text);
        let auth = userinfo.map(|userinfo| self.read_userinfo(userinfo));
        match OriginTemplate::parse(&rest) {
            Ok(origin) => Some((
                Some(origin),
                auth.map_or(Some(None), |auth| auth.map(Some))?,
            )),
            Err(error) => {
                self.refuse(Problem::Origin(error));
                None
            }
        }
    }

    fn read_userinfo(&mut self, userinfo: &str) -> Option<Auth> {
        if userinfo.is_empty() {
            self.refuse(Problem::EmptyUserinfo);
            return None;
        }
        let userinfo = self.template("origin", userinfo)?;
        Some(match userinfo.split_once(':') {
            Some((username, password)) => Auth::UserinfoBasic { username, password },
            None => Auth::Userinfo(userinfo),
        })
    }

    fn read_auth(&mut self, entries: &Entries) -> Option<Auth> {
        let value = find(entries, "auth")?;
        let Node::Map(fields) = value else {
            self.refuse(field_kind("auth", "an object", value));
            return None;
        };
        report_duplicates(fields, self.place(), &mut self.findings.errors);
        for (key, _) in fields {
            if key != "//" && !AUTH_KEYS.contains(&key.as_str()) {
                self.unknown_key(key, AUTH_KEYS);
            }
        }
        let scheme = self.read_scheme(fields)?;
        let token = self.credential(fields, "token");
        let username = self.credential(fields, "username");
        let password = self.credential(fields, "password");
        match (scheme, token, username, password) {
            ("token", Some(token), None, None) => Some(Auth::Token(token?)),
            ("bearer", Some(token), None, None) => Some(Auth::Bearer(token?)),
            ("raw", Some(token), None, None) => Some(Auth::Raw(token?)),
            ("basic", Some(token), None, None) => Some(Auth::BasicToken(token?)),
            ("basic", None, Some(username), Some(password)) => Some(Auth::Basic {
                username: username?,
                password: password?,
            }),
            ("basic", ..) => {
                let needs = "either \"token\" or both \"username\" and \"password\"";
                self.refuse(Problem::AuthFields { scheme, needs });
                None
            }
            _ => {
                self.refuse(Problem::AuthFields {
                    scheme,
                    needs: "\"token\" and nothing else",
                });
                None
            }
        }
    }

    fn read_scheme(&mut self, fields: &Entries) -> Option<&'static str> {
        let text = match find(fields, "scheme") {
            Some(value) => self.text("scheme", value)?,
            None => "",
        };
        let known = AUTH_SCHEMES.iter().find(|known| **known == text).copied();
        if known.is_none() {
            let suggestion = nearest(text, AUTH_SCHEMES);
            self.refuse(Problem::UnknownScheme {
                found: text.to_owned(),
                suggestion,
            });
        }
        known
    }

    /// `None` where the field is missing, `Some(None)` where it is refused.
    fn credential(&mut self, fields: &Entries, field: &'static str) -> Option<Option<Template>> {
        let value = find(fields, field)?;
        Some(
            self.text(field, value)
                .and_then(|text| self.template(field, text)),
        )
    }

    fn template(&mut self, field: &'static str, text: &str) -> Option<Template> {
        Template::parse(text)
            .map_err(|error| self.refuse(Problem::Credential { field, error }))
            .ok()
    }

    /// The fields of an object that has these and no others. An unknown one is never only warned
    /// about: what lost a part may hold where it must not.
    fn fields<'n>(
        &mut self,
        field: &'static str,
        expected: &'static str,
        value: &'n Node,
        known: &[&'static str],
    ) -> Option<&'n Entries> {
        let Node::Map(fields) = value else {
            self.refuse(field_kind(field, expected, value));
            return None;
        };
        report_duplicates(fields, self.place(), &mut self.findings.errors);
        self.refuse_unknown_keys(fields, known);
        Some(fields)
    }

    fn refuse_unknown_keys(&mut self, fields: &Entries, known: &[&'static str]) {
        for (key, _) in fields {
            if key != "//" && !known.contains(&key.as_str()) {
                self.refuse_unknown_key(key, known);
            }
        }
    }

    fn text<'n>(&mut self, field: &'static str, value: &'n Node) -> Option<&'n str> {
        let expected = match value {
            Node::Text(text) => return Some(text),
            Node::Number(_) | Node::Boolean(_) => "a text in quotes",
            Node::Null | Node::List(_) | Node::Map(_) => "a text",
        };
        self.refuse(field_kind(field, expected, value));
        None
    }

    fn texts<'n>(&mut self, field: &'static str, value: &'n Node) -> Option<Vec<&'n str>> {
        if let Node::List(list) = value {
            let texts = list.iter().map(|entry| match entry {
                Node::Text(text) => Some(text.as_str()),
                Node::Null | Node::Boolean(_) | Node::Number(_) | Node::List(_) | Node::Map(_) => {
                    None
                }
            });
            if let Some(texts) = texts.collect() {
                return Some(texts);
            }
        }
        self.refuse(field_kind(field, "a list of texts in quotes", value));
        None
    }
}

/// All of them, once each was read; none where one cannot be used.
fn all<T, C: FromIterator<T>>(read: impl Iterator<Item = Option<T>>) -> Option<C> {
    let read: Vec<_> = read.collect();
    read.into_iter().collect()
}

pub(crate) fn find<'a>(entries: &'a Entries, key: &str) -> Option<&'a Node> {
    entries
        .iter()
        .find(|(name, _)| name == key)
        .map(|(_, value)| value)
}

/// A comment that is no text says nothing to anyone.
fn comment(entries: &Entries) -> Option<Box<str>> {
    match find(entries, "//")? {
        Node::Text(text) => Some(text.as_str().into()),
        Node::Null | Node::Boolean(_) | Node::Number(_) | Node::List(_) | Node::Map(_) => None,
    }
}

fn report_duplicates(entries: &Entries, place: Place, errors: &mut FileErrors) {
    let mut seen = HashSet::new();
    for (key, _) in entries {
        if !seen.insert(key) {
            errors.push(place, Problem::DuplicateKey { key: key.clone() });
        }
    }
}

fn part_kind(part: &'static str, expected: &'static str, value: &Node) -> Problem {
    Problem::PartKind {
        part,
        expected,
        found: value.kind(),
    }
}

fn field_kind(field: &'static str, expected: &'static str, value: &Node) -> Problem {
    Problem::FieldKind {
        field,
        expected,
        found: value.kind(),
    }
}

fn version_text(version: &Node) -> String {
    match version {
        Node::Number(number) => number.clone(),
        Node::Text(text) => quoted(text),
        Node::Null | Node::Boolean(_) | Node::List(_) | Node::Map(_) => version.kind().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::template::Source;

    const ORIGIN: &str = r#""origin": "https://host""#;

    fn errors(text: &str) -> String {
        RuleFile::parse(text).unwrap_err().to_string()
    }

    /// What is wrong with a rule that has `fields`.
    fn rule_error(fields: &str) -> String {
        errors(&format!(r#"{{"private": [{{{fields}}}]}}"#))
    }

    fn rule(fields: &str) -> Rule {
        let file = RuleFile::parse(&format!(r#"{{"private": [{{{fields}}}]}}"#)).unwrap();
        file.rules(List::Private)[0].clone()
    }

    /// What a rule's credential expands to, each variable to its name.
    fn expanded_auth(fields: &str) -> (&'static str, String) {
        let expand = |text: &Template| {
            let value = |source: &Source| match source {
                Source::Variable(name) => name.to_string(),
                Source::File(_) | Source::Exec(_) => source.to_string(),
            };
            text.expand(|source| Ok::<_, ()>(value(source))).unwrap()
        };
        match rule(fields).auth() {
            None => ("none", String::new()),
            Some(Auth::Token(text)) => ("token", expand(text)),
            Some(Auth::Bearer(text)) => ("bearer", expand(text)),
            Some(Auth::BasicToken(text)) => ("basic-token", expand(text)),
            Some(Auth::Raw(text)) => ("raw", expand(text)),
            Some(Auth::Userinfo(text)) => ("userinfo", expand(text)),
            Some(Auth::Basic { username, password }) => (
                "basic",
                format!("{}|{}", expand(username), expand(password)),
            ),
            Some(Auth::UserinfoBasic { username, password }) => (
                "userinfo-basic",
                format!("{}|{}", expand(username), expand(password)),
            ),
        }
    }

    #[test]
    fn a_rule_has_defaults() {
        let rule = rule(ORIGIN);
        assert_eq!(*rule.methods(), Methods::Only([Method::GET].into()));
        assert_eq!(rule.path(), "/");
        assert!(rule.auth().is_none());
    }

    #[test]
    fn methods_are_read_in_either_case() {
        let methods = |text: &str| rule(&format!(r#"{ORIGIN}, "method": "{text}""#)).methods;
        assert_eq!(methods("post"), Methods::Only([Method::POST].into()));
        let propfind = Method::from_bytes(b"PROPFIND").unwrap();
        assert_eq!(methods("PropFind"), Methods::Only([propfind].into()));
        assert_eq!(methods("any"), Methods::Any);
        assert_eq!(methods("ANY"), Methods::Any);
    }

    #[test]
    fn a_path_gets_its_leading_slash() {
        let path = |text: &str| rule(&format!(r#"{ORIGIN}, "path": "{text}""#)).path;
        assert_eq!(&*path("_apis/x"), "/_apis/x");
        assert_eq!(&*path("/x"), "/x");
        assert_eq!(&*path(""), "/");
    }

    #[test]
    fn comments_and_stream_are_ignored_in_a_rule() {
        rule(&format!(r#"{ORIGIN}, "//": ["why"], "stream": true"#));
    }

    #[test]
    fn each_scheme_has_its_fields() {
        let auth = |fields: &str| expanded_auth(&format!(r#"{ORIGIN}, "auth": {{{fields}}}"#));
        assert_eq!(
            auth(r#""scheme": "token", "token": "${T}""#),
            ("token", "T".into())
        );
        assert_eq!(
            auth(r#""scheme": "bearer", "token": " ${T}:", "//": 1"#),
            ("bearer", " T:".into())
        );
        assert_eq!(
            auth(r#""scheme": "raw", "token": "Key ${T}""#),
            ("raw", "Key T".into())
        );
        assert_eq!(
            auth(r#""scheme": "basic", "token": "${T}:""#),
            ("basic-token", "T:".into())
        );
        assert_eq!(
            auth(r#""scheme": "basic", "username": "${U}", "password": """#),
            ("basic", "U|".into())
        );
    }

    #[test]
    fn userinfo_is_a_credential_and_never_stands_in_the_origin() {
        for (origin, kind, credential, rest) in [
            ("https://${T}@host/x", "userinfo", "T", "https://host/x"),
            ("${T}@${HOST}", "userinfo", "T", "${HOST}"),
            (
                "https://${U}:${P}@host",
                "userinfo-basic",
                "U|P",
                "https://host",
            ),
            (
                "https://u:p:q@host",
                "userinfo-basic",
                "u|p:q",
                "https://host",
            ),
            (
                "https://x${U}y:@host",
                "userinfo-basic",
                "xUy|",
                "https://host",
            ),
            (
                "https://u:${file:/run/t}@host/${X}",
                "userinfo-basic",
                "u|${file:/run/t}",
                "https://host/${X}",
            ),
            ("${exec:eks}@host", "userinfo", "${exec:eks}", "host"),
        ] {
            let fields = format!(r#""origin": "{origin}""#);
            assert_eq!(
                expanded_auth(&fields),
                (kind, credential.to_owned()),
                "{origin}"
            );
            assert_eq!(rule(&fields).origin().unwrap().as_str(), rest);
        }
    }

    #[test]
    fn the_auth_of_a_rule_wins_over_userinfo() {
        let fields = r#""origin": "https://${T}@host", "auth": {"scheme": "bearer", "token": "b"}"#;
        assert_eq!(expanded_auth(fields), ("bearer", "b".into()));
        assert_eq!(rule(fields).origin().unwrap().as_str(), "https://host");
    }

    #[test]
    fn a_public_rule_needs_no_origin() {
        let file =
            RuleFile::parse(r#"{"public": [{"method": "any", "path": "/*", "origin": ""}]}"#);
        let file = file.unwrap();
        assert!(file.rules(List::Public)[0].origin().is_none());
        assert!(file.rules(List::Private).is_empty());
    }

    #[test]
    fn patterns_that_are_small_each_and_large_together_are_refused_in_bounds() {
        let expected = "the patterns of all rules are too large together: use fewer repetitions, \
                        braces and values";
        let conditions = |condition: &str| {
            let conditions = vec![condition; 10_000].join(",");
            rule_error(&format!(r#"{ORIGIN}, "valid": [{conditions}]"#))
        };
        assert_eq!(
            conditions(r#"{"path": "a", "regex": "(a{99}){99}"}"#),
            expected
        );
        let wide = format!(
            r#"{{"queryParam": "a", "values": ["{{1..999}}*{}"]}}"#,
            "?".repeat(50)
        );
        assert_eq!(conditions(&wide), expected);
    }

    #[test]
    fn missing_lists_are_empty_and_other_keys_are_warned_about() {
        let file = RuleFile::parse(r#"{"//": "x", "owner": "team-a"}"#).unwrap();
        assert!(file.rules(List::Private).is_empty() && file.rules(List::Public).is_empty());
        let warnings: Vec<_> = file.warnings().iter().map(ToString::to_string).collect();
        assert_eq!(
            warnings,
            ["the key \"owner\" has no meaning here and is ignored"]
        );
    }

    #[test]
    fn yaml_is_read_like_json() {
        let yaml =
            "private:\n- path: /a\n  origin: ${URL}\n  auth: {scheme: bearer, token: '${T}'}\n";
        let file = RuleFile::parse(yaml).unwrap();
        let [rule] = file.rules(List::Private) else {
            panic!("one rule")
        };
        assert_eq!(
            (rule.path(), rule.origin().unwrap().as_str()),
            ("/a", "${URL}")
        );
        let twice = errors("private:\n- path: /a\n  path: /b\n  origin: h\n");
        assert_eq!(twice, "private[0]: the key \"path\" is given twice");
    }

    #[test]
    fn an_error_names_rule_field_value_and_fix() {
        for (fields, error) in [
            (
                r#""method": "GTE""#,
                r#"unknown method "GTE" (did you mean "GET"?)"#,
            ),
            (r#""method": "TRACE""#, r#"unknown method "TRACE""#),
            (
                r#""method": 1"#,
                r#""method" must be a text in quotes, but it is a number"#,
            ),
            (
                r#""path": []"#,
                r#""path" must be a text, but it is a list"#,
            ),
            (
                r#""path": "/(a\\1)""#,
                r#""path" "/(a\\1)": the group "(a\1)" has the backreference "\1""#,
            ),
            (
                r#""vaild": []"#,
                r#"unknown key "vaild" (did you mean "valid"?)"#,
            ),
            (
                r#""Path": "/x""#,
                r#"unknown key "Path" (did you mean "path"?)"#,
            ),
            (r#""colour": 1"#, r#"unknown key "colour""#),
            (
                r#""headers": {}"#,
                r#""headers" is not supported by this version; the rule would allow more than it says"#,
            ),
            (
                r#""path": "/a", "path": "/b""#,
                r#"the key "path" is given twice"#,
            ),
            (
                r#""auth": "x""#,
                r#""auth" must be an object, but it is a text"#,
            ),
            (r#""auth": {"token": "x"}"#, r#""auth": unknown scheme """#),
            (
                r#""auth": {"scheme": "Bearer", "token": "x"}"#,
                r#""auth": unknown scheme "Bearer" (did you mean "bearer"?)"#,
            ),
            (
                r#""auth": {"scheme": "bearer"}"#,
                r#""auth": the scheme "bearer" needs "token" and nothing else"#,
            ),
            (
                r#""auth": {"scheme": "basic", "username": "x"}"#,
                r#""auth": the scheme "basic" needs either "token" or both "username" and "password""#,
            ),
            (
                r#""auth": {"scheme": "raw", "token": "a", "tokn": "b"}"#,
                r#"unknown key "tokn" (did you mean "token"?)"#,
            ),
            (
                r#""auth": {"scheme": "raw", "token": "a", "token": "b"}"#,
                r#"the key "token" is given twice"#,
            ),
            (
                r#""auth": {"scheme": "raw", "token": "${T:x}"}"#,
                r#""token": "${T:…}" is not supported: use "${NAME}", "${file:/path}" or "${exec:name}"; there are no defaults"#,
            ),
        ] {
            assert_eq!(
                rule_error(&format!("{ORIGIN}, {fields}")),
                format!("private[0]: {error}")
            );
        }
    }

    #[test]
    fn a_condition_is_read_whole_or_the_file_is_refused() {
        for (condition, error) in [
            (
                r#"{"header": "Accept"}"#,
                r#"a condition of "valid" needs beside "header" a list of "values""#,
            ),
            (
                r#"{"queryParam": "a", "values": "b"}"#,
                r#""values" must be a list of texts in quotes, but it is a text"#,
            ),
            (
                r#"{"queryParam": "a", "values": ["a!(b)*!(c)"]}"#,
                r#"the query value "a!(b)*!(c)": the pattern has "#,
            ),
            (
                r#"{"queryParam": "a", "values": [], "regex": "b"}"#,
                r#"a condition of "valid" needs "value" and "regex" only beside "path""#,
            ),
            (
                r#"{"path": "a"}"#,
                r#"a condition of "valid" needs beside "path" either "value" or "regex""#,
            ),
            (
                r#"{"path": "a", "value": ["b"]}"#,
                r#""value" must be a text, a number, true, false or null, but it is a list"#,
            ),
            (
                r#"{"path": "a..b", "value": 1}"#,
                r#"the body path "a..b": there is an empty name (write "a.b")"#,
            ),
            (
                r#"{"path": "a", "regex": "(?=b)"}"#,
                r#"the expression "(?=b)": the expression has "#,
            ),
            (
                r#"{"path": "a", "header": "b", "values": []}"#,
                r#"a condition of "valid" needs exactly one of "path", "queryParam" and "header""#,
            ),
            (
                r#"{"header": "a b", "values": []}"#,
                r#""a b" is no header name"#,
            ),
            (
                r#"{"header": "a", "vales": []}"#,
                r#"unknown key "vales" (did you mean "values"?)"#,
            ),
        ] {
            let found = rule_error(&format!(r#"{ORIGIN}, "valid": [{condition}]"#));
            let expected = format!("private[0]: {error}");
            assert!(found.starts_with(&expected), "{condition}: {found}");
        }
        let found = rule_error(&format!(r#"{ORIGIN}, "valid": {{}}"#));
        let expected = r#"private[0]: "valid" must be a list of conditions, but it is an object"#;
        assert_eq!(found, expected);
    }

    #[test]
    fn unknown_keys_can_be_warned_about_unless_they_may_narrow_the_rule() {
        let parse = |fields: &str| {
            let text = format!(r#"{{"private": [{{{ORIGIN}, {fields}}}]}}"#);
            RuleFile::parse_with(&text, UnknownKeys::Warn)
        };
        let file = parse(r#""colour": 1, "auth": {"scheme": "raw", "token": "a", "realm": "b"}"#);
        let warnings: Vec<_> = file
            .unwrap()
            .warnings()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            warnings,
            [
                r#"private[0]: the key "colour" has no meaning here and is ignored"#,
                r#"private[0]: the key "realm" has no meaning here and is ignored"#,
            ]
        );
        for key in ["vaild", "Valid", "atuh", "methods", "headers", "<<"] {
            assert!(parse(&format!(r#""{key}": []"#)).is_err(), "{key}");
        }
        assert!(parse(r#""valid": [{"header": "a", "values": [], "colour": 1}]"#).is_err());
    }

    #[test]
    fn a_bad_origin_is_refused_without_its_userinfo() {
        for (origin, error) in [
            (
                "",
                r#""origin" is missing: name where the request goes, such as "https://sonarqube.internal""#,
            ),
            (
                "https://@host",
                r#""origin": nothing stands before the "@""#,
            ),
            (
                "ftp://${U}:hunter2@host",
                r#""origin": the origin "ftp://host" has an unknown scheme: use "https://" or "http://""#,
            ),
            (
                "https://${vault:x}@host",
                r#""origin": "${vault:…}" is not supported: use "${NAME}", "${file:/path}" or "${exec:name}"; there are no defaults"#,
            ),
            (
                "https://${file:x}@host",
                r#""origin": "${file:…}" needs an absolute path, such as "${file:/run/secrets/token}""#,
            ),
            (
                "https://host/${exec:eks}",
                r#""origin": "${exec:…}" cannot stand in an origin: use it in "auth", or before the origin's "@""#,
            ),
        ] {
            let found = rule_error(&format!(r#""origin": "{origin}""#));
            assert_eq!(found, format!("private[0]: {error}"));
        }
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let text = r#"{
            "privat": [],
            "public": {},
            "private": [
                {"origin": "https://host"},
                {"method": "GTE", "path": "/(", "auth": {"scheme": "bear"}},
                "x"
            ]
        }"#;
        assert_eq!(
            errors(text),
            "unknown key \"privat\" (did you mean \"private\"?)\n\
             public: the value must be a list of rules, but it is an object\n\
             private[1]: unknown method \"GTE\" (did you mean \"GET\"?)\n\
             private[1]: \"auth\": unknown scheme \"bear\" (did you mean \"bearer\"?)\n\
             private[1]: \"origin\" is missing: name where the request goes, such as \
             \"https://sonarqube.internal\"\n\
             private[2]: the rule must be an object, but it is a text"
        );
    }

    #[test]
    fn no_error_shows_a_credential() {
        for fields in [
            r#""origin": "https://user:hunter2@host:x""#,
            r#""origin": "hunter2@host?q""#,
            r#""origin": "https://${A:hunter2}@host""#,
            r#""origin": "h", "auth": {"scheme": "basic", "token": "hunter2", "username": "hunter2"}"#,
            r#""origin": "h", "auth": {"scheme": "raw", "token": "${A hunter2}"}"#,
            r#""origin": "h", "auth": {"scheme": "raw", "token": ["hunter2"]}"#,
        ] {
            let error = rule_error(fields);
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_version_is_refused_before_anything_else_is_said() {
        let refused = |version| errors(&format!(r#"{{"version": {version}, "private": [1]}}"#));
        for (version, shown) in [
            ("3", "3"),
            ("1", "1"),
            ("2.0", "2.0"),
            (r#""2""#, r#""2""#),
            ("null", "nothing"),
        ] {
            let text =
                r#"is not supported: write 2, or leave the key out for the form without a version"#;
            assert_eq!(refused(version), format!(r#""version": {shown} {text}"#));
        }
    }

    #[test]
    fn a_file_that_is_no_object_is_refused() {
        for (text, kind) in [("", "nothing"), ("[]", "a list"), ("hello", "a text")] {
            let error = format!(
                r#"the file must be an object with "private" and "public", but it is {kind}"#
            );
            assert_eq!(errors(text), error);
        }
    }

    #[test]
    fn a_hostile_file_is_refused_in_bounds() {
        assert_eq!(
            errors(&" ".repeat(MAX_FILE_LEN + 1)),
            "the file has 10485761 bytes, more than 10485760"
        );
        assert_eq!(
            errors(&format!(r#"{{"private": [{}]}}"#, "1,".repeat(10_001))),
            "private: the list has 10001 rules, more than 10000"
        );
        let many = errors(&format!(r#"{{"private": [{}]}}"#, "1,".repeat(1000)));
        assert!(many.ends_with("\nand 900 more errors"), "{many}");
        let long = rule_error(&format!(r#"{ORIGIN}, "method": "{}""#, "G".repeat(1 << 20)));
        assert!(long.len() < 300, "{}", long.len());
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in any::<String>(), json in "[\\[\\]{}\":,a/*# \n-]{0,40}") {
            let _ = RuleFile::parse(&text);
            let _ = RuleFile::parse(&json);
            let _ = RuleFile::parse(&format!("{{\"private\": [{{{json}}}]}}"));
        }
    }
}

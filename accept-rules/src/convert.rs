//! An accept file without a version as one of version 2 that means the same.

use crate::document::Node;
use crate::file::{Entries, FileErrors, Problem, RuleFile, find};
use crate::path_glob::PathGlob;
use crate::rule::{List, Methods, Rule};

/// What every converted file says of itself.
const FILE_NOTE: &str = "Converted from the form without a version, with the same meaning. What could \
    be narrower is said in each rule. Take \"encoded-slash\" and \"encoded-unreserved\" out of the \
    rules whose tools are never asked for a path with an escape such as %2F or %2E.";

/// Writes a file in the form without a version as one of version 2, in JSON, that decides every
/// request alike. Entries under `//` are kept, and say what could be narrower; comments of other
/// kinds are not.
///
/// # Errors
/// All that is wrong with the file, or that it is of version 2 already.
pub fn to_version_2(text: &str) -> Result<String, FileErrors> {
    let file = RuleFile::parse(text)?;
    let document = Node::read(text).map_err(|found| FileErrors::one(Problem::Syntax { found }))?;
    let entries = fields(&document);
    if find(entries, "version").is_some() {
        return Err(FileErrors::one(Problem::Converted));
    }
    let mut converted = vec![
        comment(entries, vec![FILE_NOTE.to_owned()]),
        ("version".to_owned(), Node::Number("2".to_owned())),
    ];
    for list in [List::Private, List::Public] {
        if let Some(Node::List(rules)) = find(entries, &list.to_string()) {
            let rules = rules.iter().zip(file.rules(list));
            let rules = rules
                .map(|(written, rule)| convert(written, rule))
                .collect();
            converted.push((list.to_string(), Node::List(rules)));
        }
    }
    let text = serde_json::to_string_pretty(&Node::Map(converted));
    Ok(text.expect("a tree with texts for keys is written to memory"))
}

/// One rule, as it is `written` and as it was read.
fn convert(written: &Node, rule: &Rule) -> Node {
    let entries = fields(written);
    let mut converted = Vec::new();
    let notes = notes(rule);
    if find(entries, "//").is_some() || !notes.is_empty() {
        converted.push(comment(entries, notes));
    }
    let mut put = |key: &str, value: Node| converted.push((key.to_owned(), value));
    put("methods", methods(rule.methods()));
    put("path-to-regexp", text(rule.path()));
    for (key, value) in conditions(entries, rule) {
        put(key, value);
    }
    for key in ["origin", "auth"] {
        if let Some(value) = find(entries, key) {
            put(key, value.clone());
        }
    }
    put("encoded-slash", text("data"));
    put("encoded-unreserved", text("data"));
    Node::Map(converted)
}

fn methods(methods: &Methods) -> Node {
    match methods {
        Methods::Any => text("any"),
        Methods::Only(methods) => {
            Node::List(methods.iter().map(|method| text(method.as_str())).collect())
        }
    }
}

/// `valid`, in clearer keys where they mean the same.
///
/// They never do for the query, since minimatch reads `main` as `main/` too.
fn conditions(entries: &Entries, rule: &Rule) -> Vec<(&'static str, Node)> {
    let Some(valid @ Node::List(list)) = find(entries, "valid") else {
        return Vec::new();
    };
    match (rule.conditions.query.is_empty(), headers(list)) {
        (true, Some(headers)) => {
            let is_body = |entry: &&Node| field(entry, "path").is_some();
            let body: Vec<Node> = list.iter().filter(is_body).cloned().collect();
            let mut keys = Vec::new();
            if !headers.is_empty() {
                keys.push(("headers", Node::Map(headers)));
            }
            if !body.is_empty() {
                let any = ("any".to_owned(), Node::List(body));
                keys.push(("body", Node::Map(vec![any])));
            }
            keys
        }
        _ => vec![("valid", valid.clone())],
    }
}

/// The conditions on headers as one object; none where one can never hold, or has the name of another.
fn headers(list: &[Node]) -> Option<Vec<(String, Node)>> {
    let mut headers: Vec<(String, Node)> = Vec::new();
    for entry in list {
        let Some(Node::Text(name)) = field(entry, "header") else {
            continue;
        };
        let values = field(entry, "values")?;
        let never_holds =
            name.contains(|c: char| c.is_ascii_uppercase()) || *values == Node::List(Vec::new());
        if never_holds || headers.iter().any(|(known, _)| known == name) {
            return None;
        }
        headers.push((name.clone(), values.clone()));
    }
    Some(headers)
}

/// What could be narrower, or is easily misread.
fn notes(rule: &Rule) -> Vec<String> {
    let mut notes = Vec::new();
    if *rule.methods() == Methods::Any {
        notes.push("narrower: name the methods that are needed".to_owned());
    }
    match glob(rule.path()) {
        Some(glob) => notes.push(format!(
            "narrower: \"path\": {glob:?} instead of \"path-to-regexp\", with letters in this case only \
             and no other slash at the end"
        )),
        None if rule.path().contains('*') => notes.push(
            "narrower: \"*\" is anything here, slashes included; say in a \"path\" which segments vary"
                .to_owned(),
        ),
        None => {}
    }
    let conditions = &rule.conditions;
    match (conditions.query.is_empty(), conditions.need_body()) {
        (false, true) => notes.push(
            "mind: one of query and body suffices; \"query\" and \"body\" instead of \"valid\" must both \
             hold"
                .to_owned(),
        ),
        (false, false) => {
            notes.push("narrower: \"query\" instead of \"valid\", with globs as in \"path\"".to_owned());
        }
        (true, _) => {}
    }
    if rule.auth().is_none() && rule.origin().is_some() {
        notes.push("mind: without \"auth\" the caller's own credential travels".to_owned());
    }
    notes
}

/// The glob that comes nearest to a path, where there is a simple one.
fn glob(path: &str) -> Option<String> {
    let segments: Vec<&str> = path.split('/').collect();
    let last = segments.len() - 1;
    let segments = segments.iter().enumerate().map(|(index, segment)| {
        let is_name = |name: &str| {
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        match segment.strip_prefix(':') {
            Some(name) if is_name(name) => Some("*"),
            None if *segment == "*" && index == last => Some("**"),
            None if !segment.contains(is_special) => Some(*segment),
            Some(_) | None => None,
        }
    });
    let glob = segments.collect::<Option<Vec<_>>>()?.join("/");
    PathGlob::parse(&glob).is_ok().then_some(glob)
}

/// Whether a character is more than itself in one of the two notations.
fn is_special(c: char) -> bool {
    matches!(
        c,
        ':' | '(' | ')' | '*' | '+' | '?' | '\\' | '[' | ']' | '{' | '}'
    )
}

/// What stands under `//` already, and `notes`.
fn comment(entries: &Entries, notes: Vec<String>) -> (String, Node) {
    let mut list = match find(entries, "//") {
        Some(Node::List(list)) => list.clone(),
        Some(other) => vec![other.clone()],
        None => Vec::new(),
    };
    list.extend(notes.into_iter().map(Node::Text));
    let comment = match <[Node; 1]>::try_from(list) {
        Ok([only]) => only,
        Err(list) => Node::List(list),
    };
    ("//".to_owned(), comment)
}

fn field<'n>(entry: &'n Node, key: &str) -> Option<&'n Node> {
    find(fields(entry), key)
}

fn fields(node: &Node) -> &Entries {
    if let Node::Map(entries) = node {
        entries
    } else {
        &[]
    }
}

fn text(text: &str) -> Node {
    Node::Text(text.to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use bytes::Bytes;
    use http::HeaderMap;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::{Decision, EncodedSlash, Request, RequestTarget, RuleSet};

    fn converted(file: &Value) -> Value {
        serde_json::from_str(&to_version_2(&file.to_string()).unwrap()).unwrap()
    }

    /// The one rule of a file with this one, without what every rule gets.
    fn converted_rule(rule: Value) -> Value {
        let mut file = converted(&json!({"private": [rule]}));
        let rule = file["private"][0].as_object_mut().unwrap();
        for key in ["encoded-slash", "encoded-unreserved"] {
            assert_eq!(rule.remove(key), Some(json!("data")));
        }
        rule.remove("origin");
        Value::Object(rule.clone())
    }

    #[test]
    fn a_file_keeps_its_lists_comments_and_credentials_as_they_are_written() {
        let file = json!({
            "//": "of team a",
            "public": [{"method": "any", "path": "/*"}],
            "private": [{
                "//": ["why", 1.5],
                "path": "api/x",
                "origin": "https://${USER}:${PASSWORD}@host",
                "auth": {"//": "b", "scheme": "raw", "token": "${T}"},
                "stream": true
            }]
        });
        let expected = json!({
            "//": ["of team a", FILE_NOTE],
            "version": 2,
            "private": [{
                "//": ["why", 1.5, "narrower: \"path\": \"/api/x\" instead of \"path-to-regexp\", \
                    with letters in this case only and no other slash at the end"],
                "methods": ["GET"],
                "path-to-regexp": "/api/x",
                "origin": "https://${USER}:${PASSWORD}@host",
                "auth": {"//": "b", "scheme": "raw", "token": "${T}"},
                "encoded-slash": "data",
                "encoded-unreserved": "data"
            }],
            "public": [{
                "//": ["narrower: name the methods that are needed", "narrower: \"path\": \"/**\" \
                    instead of \"path-to-regexp\", with letters in this case only and no other \
                    slash at the end"],
                "methods": "any",
                "path-to-regexp": "/*",
                "encoded-slash": "data",
                "encoded-unreserved": "data"
            }]
        });
        assert_eq!(converted(&file), expected);
    }

    #[test]
    fn what_could_be_narrower_is_said() {
        let notes = |mut rule: Value| {
            rule["origin"] = json!("h");
            match converted_rule(rule).get("//") {
                Some(Value::String(note)) => note.clone(),
                Some(Value::Array(notes)) => {
                    let notes = notes.iter().map(|note| note.as_str().unwrap().to_owned());
                    notes.collect::<Vec<_>>().join("; ")
                }
                Some(_) | None => String::new(),
            }
        };
        let auth = json!({"scheme": "raw", "token": "t"});
        for (rule, expected) in [
            (json!({"path": "/a/:b(\\d+)", "auth": auth}), ""),
            (
                json!({"path": "/a/:b(\\d+)"}),
                "mind: without \"auth\" the caller's own credential travels",
            ),
            (
                json!({"path": "/a/:b/:c/*", "auth": auth}),
                "narrower: \"path\": \"/a/*/*/**\" instead of \"path-to-regexp\", with letters in this \
                 case only and no other slash at the end",
            ),
            (
                json!({"path": "/pods*", "auth": auth}),
                "narrower: \"*\" is anything here, slashes included; say in a \"path\" which segments \
                 vary",
            ),
            (
                json!({"path": "/(a)", "auth": auth, "valid": [
                    {"queryParam": "a", "values": ["b"]}, {"path": "c", "value": 1}
                ]}),
                "mind: one of query and body suffices; \"query\" and \"body\" instead of \"valid\" must \
                 both hold",
            ),
            (
                json!({"path": "/(a)", "auth": auth, "valid": [{"queryParam": "a", "values": ["b"]}]}),
                "narrower: \"query\" instead of \"valid\", with globs as in \"path\"",
            ),
        ] {
            assert_eq!(notes(rule.clone()), expected, "{rule}");
        }
    }

    #[test]
    fn conditions_have_clearer_keys_where_they_mean_the_same() {
        let keys = |valid: Value| {
            let mut rule =
                converted_rule(json!({"path": "/(a)", "origin": "u:p@h", "valid": valid}));
            for key in ["//", "methods", "path-to-regexp"] {
                rule.as_object_mut().unwrap().remove(key);
            }
            rule
        };
        let body = json!({"path": "a", "regex": "b"});
        let header = |name: &str| json!({"header": name, "values": ["x"]});
        for (valid, expected) in [
            (json!([]), json!({})),
            (json!([body]), json!({"body": {"any": [body]}})),
            (
                json!([header("a"), body, header("b")]),
                json!({"headers": {"a": ["x"], "b": ["x"]}, "body": {"any": [body]}}),
            ),
            (json!([header("A")]), json!({"valid": [header("A")]})),
            (
                json!([header("a"), header("a")]),
                json!({"valid": [header("a"), header("a")]}),
            ),
        ] {
            assert_eq!(keys(valid.clone()), expected, "{valid}");
        }
    }

    #[test]
    fn a_file_that_is_wrong_or_of_version_2_is_refused() {
        let error = |text: &str| to_version_2(text).unwrap_err().to_string();
        assert_eq!(
            error("{\"version\": 2}"),
            "the file is of version 2 already"
        );
        assert_eq!(
            error("{\"private\": [{\"vaild\": []}]}").lines().next(),
            Some("private[0]: unknown key \"vaild\" (did you mean \"valid\"?)")
        );
    }

    fn rule() -> impl Strategy<Value = Value> {
        let of = |values: &[Value]| prop::sample::select(values.to_vec());
        let methods = of(&[json!("GET"), json!("post"), json!("any")]);
        let paths = of(&[
            json!("/*"),
            json!("a"),
            json!("/a/"),
            json!("/a*"),
            json!("/:x/b"),
            json!("/a/:x?"),
            json!("/a;v=1"),
            json!("/:x(a|b)"),
        ]);
        let conditions = of(&[
            json!({"queryParam": "q", "values": ["a", "b*"]}),
            json!({"queryParam": "q", "values": ["**"]}),
            json!({"queryParam": "//", "values": ["a"]}),
            json!({"header": "x-a", "values": ["a", "b"]}),
            json!({"header": "x-b", "values": ["b"]}),
            json!({"header": "X-A", "values": ["a"]}),
            json!({"header": "x-a", "values": []}),
            json!({"path": "k", "value": "a"}),
            json!({"path": "k", "value": 1}),
            json!({"path": "*", "regex": "^b"}),
        ]);
        let valid = prop::collection::vec(conditions, 0..4);
        (methods, paths, valid).prop_map(|(method, path, valid)| {
            json!({"method": method, "path": path, "valid": valid, "origin": "h"})
        })
    }

    fn request() -> impl Strategy<Value = (String, String, HeaderMap, &'static str)> {
        let of = |values: &[&'static str]| prop::sample::select(values.to_vec());
        let target = "/([aAbB]|%2F|%2E|;v=1){0,2}(/[abAB]{1,2})?/?(\\?(q=(a|b|bc|a/)?|%2F%2F=a))?";
        let headers = prop::collection::vec((of(&["x-a", "x-b"]), of(&["a", "b"])), 0..3);
        let body = of(&[
            "",
            "{}",
            r#"{"k": "a"}"#,
            r#"{"k": 1}"#,
            r#"{"z": "b"}"#,
            r#"{"k": "A"}"#,
        ]);
        (of(&["GET", "POST", "PUT"]), target, headers, body).prop_map(
            |(method, target, headers, body)| {
                let mut map = HeaderMap::new();
                for (name, value) in headers {
                    map.append(name, value.parse().unwrap());
                }
                (method.to_owned(), target, map, body)
            },
        )
    }

    proptest! {
        #[test]
        fn a_file_and_its_conversion_decide_alike(
            rules in prop::collection::vec(rule(), 0..4),
            requests in prop::collection::vec(request(), 1..20),
        ) {
            let old = json!({"private": rules}).to_string();
            let new = to_version_2(&old).unwrap();
            let [old, new] = [old, new].map(|text| {
                let file = RuleFile::parse(&text).unwrap();
                RuleSet::compile(&file, List::Private, |_| EncodedSlash::Data)
            });
            for (method, target, headers, body) in requests {
                let method = method.parse().unwrap();
                let Ok(target) = RequestTarget::new(&method, &target) else { continue };
                let [old, new] = [&old, &new].map(|rules| {
                    let request = Request {
                        target: target.clone(),
                        headers: headers.clone(),
                        caller: "proxy".into(),
                        now: SystemTime::UNIX_EPOCH,
                    };
                    match rules.decide(request) {
                        Decision::Allow(allowed) => Some(allowed.rule()),
                        Decision::Deny(_) => None,
                        Decision::NeedsBody(pending) => {
                            let body = Bytes::from_static(body.as_bytes());
                            rules.decide_with_body(pending, body).ok().map(|allowed| allowed.rule())
                        }
                    }
                });
                prop_assert_eq!(old, new, "{:?} {:?} {}", target, headers, body);
            }
        }
    }
}

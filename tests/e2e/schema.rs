//! The schema that editors check accept files by, held against a real validator and against the reader.

use std::fs;
use std::path::Path;

use accept_rules::{RuleFile, SCHEMA, to_version_2};
use broker_tests::corpus;
use jsonschema::Validator;
use serde_json::{Value, json};

use crate::examples::{examples, json_files};

fn validator() -> Validator {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    jsonschema::draft202012::meta::validate(&schema).unwrap();
    jsonschema::draft202012::new(&schema).unwrap()
}

#[track_caller]
fn assert_valid(validator: &Validator, file: &Value, name: &str) {
    let errors = validator.iter_errors(file);
    let errors: Vec<String> = errors
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{name}: {errors:#?}");
}

fn read(path: &Path) -> (String, Value) {
    let text = fs::read_to_string(path).unwrap();
    let value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    (text, value)
}

#[test]
fn every_published_file_and_its_conversion_are_valid() {
    let Some(folder) = corpus::path("accept-files") else {
        return;
    };
    let validator = validator();
    let paths = [json_files(&folder), json_files(&folder.join("scm"))].concat();
    assert!(paths.len() > 15, "{paths:?}");
    for path in paths {
        let name = path.display().to_string();
        let (text, file) = read(&path);
        assert_valid(&validator, &file, &name);
        let converted = to_version_2(&text).unwrap_or_else(|errors| panic!("{name}: {errors}"));
        RuleFile::parse(&converted).unwrap_or_else(|errors| panic!("{name}: {errors}"));
        assert_valid(
            &validator,
            &serde_json::from_str(&converted).unwrap(),
            &name,
        );
    }
}

#[test]
fn every_example_is_valid() {
    let validator = validator();
    for example in examples() {
        let path = example.join("accept.json");
        assert_valid(&validator, &read(&path).1, &path.display().to_string());
    }
}

/// A file of version 2 with one rule, which has these fields beside an origin.
fn strict(fields: Value) -> Value {
    let mut rule = json!({"origin": "https://host"});
    let fields = fields.as_object().unwrap().clone();
    rule.as_object_mut().unwrap().extend(fields);
    json!({"version": 2, "private": [rule]})
}

/// The same in the form without a version.
fn unversioned(fields: Value) -> Value {
    let mut file = strict(fields);
    file.as_object_mut().unwrap().remove("version");
    file
}

#[test]
fn what_is_read_is_valid() {
    let validator = validator();
    for file in [
        json!({}),
        json!({"version": 2, "$schema": "accept.schema.json", "//": [1], "public": []}),
        json!({"version": 2, "public": [{"path": "/**", "methods": "any"}]}),
        json!({"owner": "team-a", "public": [{"method": "Any", "path": "x", "origin": ""}]}),
        unversioned(json!({"method": "pOsT", "stream": 1, "//": "x", "valid": [
            {"path": "a.*", "value": null, "//": 1},
            {"path": "a", "regex": "b"},
            {"queryParam": "a", "values": []},
            {"header": "A", "values": ["b"]}
        ]})),
        unversioned(
            json!({"auth": {"scheme": "basic", "username": "u", "password": "p", "//": 1}}),
        ),
        unversioned(json!({"auth": {"scheme": "basic", "token": "t"}})),
        strict(json!({
            "//": "x", "path": "/a/**", "methods": ["GET", "post"], "callers": ["Proxy"],
            "expires": "2027-01-31T18:00:00.5Z", "timeout": {"idle": "1m 30s", "//": 1},
            "limits": {"rate": "100/m", "concurrency": 4, "response-size": 1, "//": 1,
                "per-caller": {"rate": "1/s", "concurrency": 1, "//": 1}},
            "query": {"//": 1, "a": ["*"]}, "headers": {"X-A": ["b"], "//": 1},
            "body": {"//": 1, "all": [{"path": "a", "value": 1}]},
            "encoded-slash": "data", "encoded-unreserved": "refuse",
            "keep-cookies": true, "allow-headers": ["X-Forwarded-For"],
            "auth": {"scheme": "bearer", "token": "${T}"}
        })),
        strict(json!({"path-to-regexp": "/:a", "methods": ["ANY"], "valid": []})),
        strict(
            json!({"kind": "kubernetes", "verbs": ["get"], "namespaces": ["*"],
            "resources": ["pods", "*.*", "*", "*.apps/*", "ingresses.networking.k8s.io", "pods/log"]}),
        ),
        strict(
            json!({"kind": "kubernetes", "verbs": ["list"], "namespaces": ["team-*"],
            "resources": ["virtualmachines.kubevirt.io"], "names": ["system:*"], "callers": ["a"]}),
        ),
    ] {
        RuleFile::parse(&file.to_string()).unwrap_or_else(|errors| panic!("{file}: {errors}"));
        assert_valid(&validator, &file, &file.to_string());
    }
}

#[test]
fn what_is_refused_is_not_valid() {
    let validator = validator();
    let kubernetes = |key: &str, value: Value| {
        let mut rule = json!({"kind": "kubernetes", "verbs": ["get"], "namespaces": ["a"], "resources": ["pods"]});
        rule[key] = value;
        strict(rule)
    };
    for file in [
        json!([]),
        json!({"version": 1}),
        json!({"version": "2"}),
        json!({"version": 2, "owner": "team-a"}),
        json!({"private": {}}),
        json!({"private": [{"path": "/"}]}),
        json!({"private": [{"path": "/", "origin": ""}]}),
        unversioned(json!({"method": "GTE"})),
        unversioned(json!({"vaild": []})),
        unversioned(json!({"headers": {}})),
        unversioned(json!({"auth": {"scheme": "bearer"}})),
        unversioned(json!({"auth": {"scheme": "bear", "token": "t"}})),
        unversioned(json!({"auth": {"scheme": "raw", "token": "t", "username": "u"}})),
        unversioned(json!({"auth": {"scheme": "basic", "username": "u"}})),
        unversioned(json!({"valid": [{"path": "a"}]})),
        unversioned(json!({"valid": [{"path": "a", "value": []}]})),
        unversioned(json!({"valid": [{"path": "a", "value": 1, "regex": "b"}]})),
        unversioned(json!({"valid": [{"queryParam": "a"}]})),
        unversioned(json!({"valid": [{"queryParam": "a", "header": "b", "values": []}]})),
        strict(json!({})),
        strict(json!({"path": "/", "path-to-regexp": "/"})),
        strict(json!({"path": "a"})),
        strict(json!({"path": "/a?b"})),
        strict(json!({"path": "/a b"})),
        strict(json!({"path": "/", "method": "GET"})),
        strict(json!({"path": "/", "methods": "GET"})),
        strict(json!({"path": "/", "methods": []})),
        strict(json!({"path": "/", "methods": ["GET", "any"]})),
        strict(json!({"path": "/", "query": {"a": "b"}})),
        strict(json!({"path": "/", "query": {"a": []}})),
        strict(json!({"path": "/", "headers": {"a b": ["c"]}})),
        strict(json!({"path": "/", "body": {}})),
        strict(json!({"path": "/", "body": {"any": [], "all": []}})),
        strict(json!({"path": "/", "valid": [], "query": {}})),
        strict(json!({"path": "/", "callers": ["a b"]})),
        strict(json!({"path": "/", "expires": "soon"})),
        strict(json!({"path": "/", "timeout": {"idel": "1s"}})),
        strict(json!({"path": "/", "timeout": {"idle": 30}})),
        strict(json!({"path": "/", "encoded-slash": "allow"})),
        strict(json!({"path": "/", "keep-cookies": "yes"})),
        strict(json!({"path": "/", "limits": {"concurrency": 0}})),
        strict(json!({"path": "/", "callers-signed": true})),
        strict(json!({"path": "/", "upgrade": ["websocket"]})),
        strict(json!({"path": "/", "kind": "http"})),
        strict(json!({"path": "/", "verbs": ["get"]})),
        kubernetes("verbs", json!(["*"])),
        kubernetes("resources", json!(["Pods"])),
        kubernetes("resources", json!(["deployments.v1.apps"])),
        kubernetes("resources", json!([])),
        kubernetes("namespaces", json!(["*", "a"])),
        kubernetes("namespaces", json!(["a/b"])),
        kubernetes("names", json!(["**"])),
        kubernetes("path", json!("/")),
        kubernetes("encoded-slash", json!("data")),
    ] {
        assert!(!validator.is_valid(&file), "{file}");
        assert!(RuleFile::parse(&file.to_string()).is_err(), "{file}");
    }
}

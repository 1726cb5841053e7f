//! The JSON Schema of both forms, for editors.

/// A JSON Schema (2020-12) of accept files in both forms. It takes every file that is read, and
/// refuses most that are not: only the reader knows all.
pub const SCHEMA: &str = include_str!("../../accept.schema.json");

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::super::auth::{AUTH_KEYS, AUTH_SCHEMES};
    use super::super::unversioned::RULE_KEYS;
    use super::super::{FILE_KEYS, condition, path_rule, strict};
    use super::*;
    use crate::Verb;

    fn schema() -> Value {
        serde_json::from_str(SCHEMA).unwrap()
    }

    #[track_caller]
    fn assert_keys(pointer: &str, known: &[&[&str]]) {
        let schema = schema();
        let properties = schema.pointer(pointer).expect(pointer).as_object().unwrap();
        let found: BTreeSet<&str> = properties.keys().map(String::as_str).collect();
        let known = known.concat().into_iter().chain(["//"]);
        assert_eq!(found, known.collect(), "{pointer}");
    }

    #[test]
    fn every_key_that_is_read_stands_in_the_schema() {
        assert_keys("/then/properties", &[FILE_KEYS]);
        let rule = |name: &str| format!("/$defs/{name}/properties");
        assert_keys(&rule("unversioned-rule"), &[RULE_KEYS]);
        assert_keys(
            &rule("path-rule"),
            &[strict::SHARED_KEYS, path_rule::PATH_KEYS],
        );
        assert_keys(
            &rule("kubernetes-rule"),
            &[strict::SHARED_KEYS, strict::KUBERNETES_KEYS],
        );
        assert_keys(&rule("auth"), &[AUTH_KEYS]);
        assert_keys(&rule("body-condition"), &[path_rule::BODY_CONDITION_KEYS]);
        for name in ["path-rule", "kubernetes-rule"] {
            let timeout = format!("{}/timeout/properties", rule(name));
            assert_keys(&timeout, &[strict::TIMEOUT_KEYS]);
            let limits = format!("{}/limits/properties", rule(name));
            assert_keys(&limits, &[strict::LIMIT_KEYS]);
            let per_caller = format!("{limits}/per-caller/properties");
            assert_keys(&per_caller, &[strict::REQUEST_LIMIT_KEYS]);
        }
        assert_keys(
            &format!("{}/body/properties", rule("path-rule")),
            &[path_rule::BODY_KEYS],
        );
        let conditions = ["body", "query", "header"].map(|kind| {
            let properties = schema()["$defs"][format!("{kind}-condition")]["properties"].clone();
            properties
                .as_object()
                .unwrap()
                .keys()
                .cloned()
                .collect::<Vec<_>>()
        });
        let found: BTreeSet<String> = conditions.concat().into_iter().collect();
        let known = condition::CONDITION_KEYS.iter().chain(&["//"]);
        assert_eq!(found, known.map(|key| (*key).to_owned()).collect());
    }

    #[test]
    fn every_word_that_is_read_stands_in_the_schema() {
        let schema = schema();
        for (pointer, known) in [
            ("/$defs/auth/properties/scheme/enum", AUTH_SCHEMES),
            (
                "/$defs/kubernetes-rule/properties/verbs/items/enum",
                Verb::NAMES,
            ),
            ("/$defs/data-or-refuse/enum", path_rule::DATA_OR_REFUSE),
        ] {
            assert_eq!(
                schema.pointer(pointer),
                Some(&serde_json::json!(known)),
                "{pointer}"
            );
        }
    }
}

//! Which requests a Kubernetes rule matches, and which tricks do not work on it.

use std::time::SystemTime;

use http::HeaderMap;
use proptest::prelude::*;

use super::*;
use crate::{Decision, EncodedSlash, List, Request, RuleFile, RuleSet};

struct Rules(RuleSet);

/// One rule with these fields, in the short form of YAML.
fn rules(fields: &str) -> Rules {
    let text =
        format!("version: 2\nprivate:\n- {{kind: kubernetes, origin: 'https://k8s', {fields}}}\n");
    let file = RuleFile::parse(&text).unwrap_or_else(|errors| panic!("{fields}: {errors}"));
    // Even for an origin that takes an escaped slash for data.
    Rules(RuleSet::compile(&file, List::Private, |_| {
        EncodedSlash::Data
    }))
}

fn error(fields: &str) -> String {
    let text =
        format!("version: 2\nprivate:\n- {{kind: kubernetes, origin: 'https://k8s', {fields}}}\n");
    let errors = RuleFile::parse(&text).expect_err(fields).to_string();
    errors.replace("private[0]: ", "")
}

impl Rules {
    /// `allow`, or the first thing that differs.
    fn verdict(&self, method: &str, target: &str) -> String {
        let Ok(target) = RequestTarget::new(&method.parse().unwrap(), target) else {
            return "refused".to_owned();
        };
        let request = Request {
            target,
            headers: HeaderMap::new(),
            caller: "proxy".into(),
            now: SystemTime::UNIX_EPOCH,
        };
        match self.0.decide(request) {
            Decision::Allow(_) => "allow".to_owned(),
            Decision::NeedsBody(_) => panic!("no rule asks about the body"),
            Decision::Deny(denied) => {
                // What is asked of no resource is near no rule.
                let Some(nearest) = denied.nearest() else {
                    return "target".to_owned();
                };
                let shown = format!("{:?}", nearest.difference()).to_lowercase();
                let name = shown.trim_start_matches("kubernetes(");
                name.split([')', ' ']).next().unwrap().to_owned()
            }
        }
    }

    #[track_caller]
    fn assert_all(&self, cases: &[(&str, &str, &str)]) {
        for (method, target, expected) in cases {
            assert_eq!(self.verdict(method, target), *expected, "{method} {target}");
        }
    }
}

#[test]
fn a_resource_is_found_in_its_group_and_namespace_at_any_version() {
    let rules = rules(
        "verbs: [get, list], resources: [pods, deployments.apps], namespaces: [shop, team-*]",
    );
    rules.assert_all(&[
        ("GET", "/api/v1/namespaces/shop/pods", "allow"),
        ("GET", "/api/v1/namespaces/team-a/pods/web-1", "allow"),
        (
            "GET",
            "/api/v2beta1/namespaces/shop/pods?limit=500",
            "allow",
        ),
        (
            "GET",
            "/apis/apps/v1/namespaces/shop/deployments/web",
            "allow",
        ),
        ("GET", "/apis/apps/v1/namespaces/shop/pods", "resource"),
        ("GET", "/api/v1/namespaces/shop/deployments", "resource"),
        (
            "GET",
            "/apis/metrics.k8s.io/v1/namespaces/shop/pods",
            "resource",
        ),
        ("GET", "/api/v1/namespaces/other/pods", "namespace"),
        ("GET", "/api/v1/namespaces/team/pods", "namespace"),
        ("GET", "/api/v1/namespaces/shopping/pods", "namespace"),
        ("GET", "/api/v1/pods", "namespace"),
        ("GET", "/api/v1/pods/web-1", "namespace"),
        ("GET", "/apis/apps/v1/deployments", "namespace"),
        ("GET", "/api/v1/namespaces/shop/podsecrets", "resource"),
        ("GET", "/api/v1/namespaces/shop", "resource"),
        ("GET", "/api/v1/namespaces", "resource"),
    ]);
}

#[test]
fn all_namespaces_are_also_their_lists_and_what_stands_in_none() {
    let rules = rules("verbs: [get, list], resources: [pods, nodes], namespaces: ['*']");
    rules.assert_all(&[
        ("GET", "/api/v1/pods", "allow"),
        ("GET", "/api/v1/namespaces/any/pods", "allow"),
        ("GET", "/api/v1/nodes/worker-1", "allow"),
        ("GET", "/api/v1/nodes/worker-1/proxy/metrics", "resource"),
    ]);
}

#[test]
fn a_verb_is_read_from_method_name_and_watch() {
    let pods = "/api/v1/namespaces/shop/pods";
    for (verb, method, target) in [
        ("get", "GET", "/web"),
        ("list", "GET", ""),
        ("list", "GET", "?watch=false"),
        ("list", "GET", "?watch=0"),
        ("list", "GET", "?watching=1"),
        ("watch", "GET", "?watch=true"),
        ("watch", "GET", "?limit=1&w%61tch=1"),
        ("create", "POST", ""),
        ("update", "PUT", "/web"),
        ("patch", "PATCH", "/web"),
        ("delete", "DELETE", "/web"),
        ("deletecollection", "DELETE", ""),
    ] {
        let target = format!("{pods}{target}");
        for own in Verb::NAMES {
            let rules = rules(&format!(
                "verbs: [{own}], resources: [pods], namespaces: [shop]"
            ));
            let found = rules.verdict(method, &target);
            assert_eq!(
                found == "allow",
                *own == verb,
                "{own}: {method} {target}: {found}"
            );
        }
    }
}

#[test]
fn a_watch_in_disguise_needs_both_verbs() {
    let fields = |verbs: &str| format!("verbs: [{verbs}], resources: [pods], namespaces: ['*']");
    let [list, watch, both] = ["list", "watch", "list, watch"].map(|verbs| rules(&fields(verbs)));
    for query in [
        "watch",
        "watch=",
        "watch=True",
        "watch=FALSE",
        "watch=t",
        "watch=2",
        "watch=+true",
        "Watch=true",
        "WATCH=false",
        "watch=false&watch=true",
        "watch=true&watch=true",
        "watch=0&w%61tch=1",
        "a=b;watch=true",
        "watch=false;a",
        "watch=false&a=;",
    ] {
        let target = format!("/api/v1/pods?{query}");
        let found = [&list, &watch, &both].map(|rules| rules.verdict("GET", &target));
        assert_eq!(found, ["verb", "verb", "allow"], "{query}");
    }
    let named = "/api/v1/namespaces/a/pods/web?watch=true";
    let [get, both] = ["get", "get, watch"].map(|verbs| rules(&fields(verbs)));
    assert_eq!(get.verdict("GET", named), "verb");
    assert_eq!(both.verdict("GET", named), "allow");
}

#[test]
fn what_the_api_does_not_have_is_no_verb() {
    let rules = rules(
        "verbs: [get, list, watch, create, update, patch, delete, deletecollection], \
                       resources: [pods, pods/log], namespaces: ['*']",
    );
    rules.assert_all(&[
        ("POST", "/api/v1/namespaces/a/pods/web", "verb"),
        ("PUT", "/api/v1/namespaces/a/pods", "verb"),
        ("PATCH", "/api/v1/namespaces/a/pods", "verb"),
        ("HEAD", "/api/v1/namespaces/a/pods", "method"),
        ("OPTIONS", "/api/v1/namespaces/a/pods", "method"),
        ("get", "/api/v1/namespaces/a/pods", "method"),
    ]);
}

#[test]
fn a_subresource_is_matched_by_its_name_alone() {
    let plain = rules("verbs: [get, list, create], resources: [pods, '*'], namespaces: ['*']");
    let log = rules("verbs: [get], resources: [pods/log], namespaces: [shop]");
    let pod = "/api/v1/namespaces/shop/pods/web";
    for subresource in ["log", "exec", "status", "proxy", "ephemeralcontainers", "x"] {
        let target = format!("{pod}/{subresource}");
        assert_eq!(plain.verdict("GET", &target), "resource", "{target}");
    }
    log.assert_all(&[
        (
            "GET",
            "/api/v1/namespaces/shop/pods/web/log?follow=true",
            "allow",
        ),
        ("GET", "/api/v1/namespaces/shop/pods/web", "resource"),
        ("GET", "/api/v1/namespaces/shop/pods", "resource"),
        ("GET", "/api/v1/namespaces/shop/pods/web/log/x", "target"),
        ("GET", "/api/v1/namespaces/shop/pods/web/log/", "target"),
        ("GET", "/api/v1/namespaces/shop/pods/web/exec", "resource"),
        ("GET", "/api/v1/namespaces/other/pods/web/log", "namespace"),
    ]);
}

#[test]
fn a_wildcard_never_means_what_gives_away_secrets_or_control() {
    let verbs = "verbs: [get, list, watch, create, update, patch, delete, deletecollection]";
    let all = rules(&format!(
        "{verbs}, resources: ['*.*', '*.*/*'], namespaces: ['*']"
    ));
    for subresource in [
        "exec",
        "attach",
        "portforward",
        "proxy",
        "proxy/x",
        "log",
        "ephemeralcontainers",
    ] {
        let target = format!("/api/v1/namespaces/shop/pods/web/{subresource}");
        assert_eq!(all.verdict("GET", &target), "resource", "{target}");
        assert_eq!(all.verdict("POST", &target), "resource", "{target}");
    }
    all.assert_all(&[
        ("GET", "/api/v1/namespaces/shop/secrets", "resource"),
        ("GET", "/api/v1/secrets", "resource"),
        ("GET", "/apis/other.example/v1/secrets/x", "resource"),
        (
            "POST",
            "/api/v1/namespaces/shop/serviceaccounts/default/token",
            "resource",
        ),
        ("GET", "/api/v1/nodes/worker/proxy/pods", "resource"),
        ("GET", "/api/v1/namespaces", "resource"),
        ("DELETE", "/api/v1/namespaces/shop", "resource"),
        (
            "PUT",
            "/apis/certificates.k8s.io/v1/certificatesigningrequests/x/approval",
            "resource",
        ),
        ("GET", "/api/v1/namespaces/shop/pods/web/status", "allow"),
        (
            "PUT",
            "/apis/apps/v1/namespaces/shop/deployments/web/scale",
            "allow",
        ),
        (
            "GET",
            "/apis/example.org/v1/namespaces/shop/things/a",
            "allow",
        ),
        ("GET", "/api/v1/nodes", "allow"),
    ]);
}

#[test]
fn a_wildcard_is_about_its_group() {
    let core = rules("verbs: [list], resources: ['*'], namespaces: ['*']");
    let apps = rules("verbs: [list], resources: ['*.apps'], namespaces: ['*']");
    for (target, expected) in [
        ("/api/v1/pods", ["allow", "resource"]),
        ("/apis/apps/v1/deployments", ["resource", "allow"]),
        (
            "/apis/apps.example/v1/deployments",
            ["resource", "resource"],
        ),
    ] {
        let found = [&core, &apps].map(|rules| rules.verdict("GET", target));
        assert_eq!(found, expected, "{target}");
    }
}

#[test]
fn what_is_named_is_allowed_even_if_it_is_dangerous() {
    let rules = rules(
        "verbs: [get, list, create, delete], namespaces: [shop], \
                       resources: [secrets, pods/exec, services/proxy, namespaces, namespaces/status]",
    );
    rules.assert_all(&[
        ("GET", "/api/v1/namespaces/shop/secrets/db", "allow"),
        (
            "GET",
            "/api/v1/namespaces/shop/pods/web/exec?command=ls",
            "allow",
        ),
        ("POST", "/api/v1/namespaces/shop/pods/web/exec", "allow"),
        ("GET", "/api/v1/namespaces/shop/services/web/proxy", "allow"),
        (
            "GET",
            "/api/v1/namespaces/shop/services/web/proxy/",
            "allow",
        ),
        (
            "GET",
            "/api/v1/namespaces/shop/services/https:web:443/proxy/a/b/?watch=1",
            "allow",
        ),
        ("GET", "/api/v1/namespaces/shop", "allow"),
        ("GET", "/api/v1/namespaces/shop/status", "allow"),
        ("GET", "/api/v1/namespaces/other", "namespace"),
        ("GET", "/api/v1/namespaces", "namespace"),
        ("GET", "/api/v1/namespaces/shop/finalize", "resource"),
        ("GET", "/api/v1/namespaces/shop/status/x", "target"),
        ("GET", "/api/v1/namespaces/other/secrets", "namespace"),
    ]);
}

#[test]
fn names_hold_for_objects_and_for_lists_narrowed_to_one() {
    let rules = rules(
        "verbs: [get, list, watch, create, delete, deletecollection], \
                       resources: [configmaps, serviceaccounts/token], namespaces: [shop], \
                       names: [flags, 'web-*', 'system:x']",
    );
    let list = "/api/v1/namespaces/shop/configmaps";
    for (query, expected) in [
        ("fieldSelector=metadata.name=flags", "allow"),
        ("fieldSelector=metadata.name%3Dflags", "allow"),
        ("fieldSelector=metadata.name%3D%3Dweb-1&watch=true", "allow"),
        ("limit=1&fieldSelector=metadata.name%3Dsystem%3Ax", "allow"),
        ("", "name"),
        ("watch=true", "name"),
        ("fieldSelector=", "name"),
        ("fieldSelector=metadata.name=other", "name"),
        ("fieldSelector=metadata.name!=flags", "name"),
        ("fieldSelector=metadata.name=flags,metadata.name!=x", "name"),
        (
            "fieldSelector=metadata.name%3Dweb-1%2Cmetadata.namespace%3Dx",
            "name",
        ),
        ("fieldSelector=metadata.namespace=shop", "name"),
        (
            "fieldSelector=metadata.name=flags&fieldSelector=metadata.name=other",
            "name",
        ),
        ("fieldSelector=metadata.name=flags&fieldselector=", "name"),
        ("fieldSelector=metadata.name=flags;x", "name"),
        ("FieldSelector=metadata.name=flags", "name"),
        ("labelSelector=metadata.name=flags", "name"),
        ("fieldSelector=metadata.name=web-%2F", "name"),
        ("fieldSelector=metadata.name=web-%5C", "name"),
        ("fieldSelector=+metadata.name=flags", "name"),
    ] {
        for method in ["GET", "DELETE"] {
            let target = format!("{list}?{query}");
            assert_eq!(
                rules.verdict(method, &target),
                expected,
                "{method} {target}"
            );
        }
    }
    rules.assert_all(&[
        ("GET", "/api/v1/namespaces/shop/configmaps/flags", "allow"),
        (
            "GET",
            "/api/v1/namespaces/shop/configmaps/system:x",
            "allow",
        ),
        (
            "GET",
            "/api/v1/namespaces/shop/configmaps/system%3Ax",
            "allow",
        ),
        (
            "DELETE",
            "/api/v1/namespaces/shop/configmaps/web-2",
            "allow",
        ),
        ("GET", "/api/v1/namespaces/shop/configmaps/Flags", "name"),
        (
            "GET",
            "/api/v1/namespaces/shop/configmaps/other?fieldSelector=metadata.name=flags",
            "name",
        ),
        ("POST", "/api/v1/namespaces/shop/configmaps", "name"),
        (
            "POST",
            "/api/v1/namespaces/shop/serviceaccounts/web-1/token",
            "allow",
        ),
        (
            "POST",
            "/api/v1/namespaces/shop/serviceaccounts/default/token",
            "name",
        ),
    ]);
}

#[test]
fn a_path_that_has_another_reading_anywhere_matches_nothing() {
    let rules = rules(
        "verbs: [get, list, watch, create, update, patch, delete, deletecollection], \
         resources: ['*.*', '*.*/*', secrets, namespaces, pods/proxy], namespaces: ['*']",
    );
    for target in [
        "/",
        "/api",
        "/apis",
        "/api/v1",
        "/api/v1/",
        "/apis/apps/v1",
        "/version",
        "/healthz",
        "/metrics",
        "/API/v1/pods",
        "/Apis/apps/v1/deployments",
        "/x/api/v1/pods",
        "/api/v1/pods/",
        "/api/v1/namespaces/",
        "/api/v1/namespaces/shop/",
        "/api/v1/namespaces/shop/pods/",
        "/api/v1/namespaces/shop/pods/web/",
        "/api/v1/namespaces/shop/pods/web/status/",
        "/api/v1/namespaces/shop/pods/web/status/x",
        "/api/v1/watch/pods",
        "/api/v1/watch/namespaces/shop/secrets",
        "/api/v1/watch",
        "/api/v1/proxy/namespaces/shop/pods/web/x",
        "/api/v1/proxy/nodes",
        "/api/v1/proxy/nodes/x",
        "/apis/apps/v1/watch/deployments",
        "/apis/apps/v1/namespaces/shop/status",
        "/apis/x.y/v1/namespaces/shop/finalize",
        "/api/v1/Pods",
        "/api/V1/pods",
        "/api/v1/namespaces/Shop/pods",
        "/api/v1/namespaces/shop/PODS",
        "/api/v1/namespaces/shop/pods/web/Status",
        "/api/v1/namespaces/shop;x/pods",
        "/api/v1/namespaces/shop/pods;x=y",
        "/api/v1/namespaces/shop%3Bx/pods",
        "/api/v1/namespaces/shop%2Fsecrets",
        "/api/v1/namespaces%2Fshop/secrets",
        "/api/v1%2Fnamespaces/shop/secrets",
        "/api/v1/namespaces/shop/secrets%2Fdb",
        "/api/v1/namespaces/shop/pods/web%252Fx",
        "/api/v1/namespaces/shop/pods/web%25",
        "/api/v1/namespaces/shop/pods/a%3Fb",
        "/api/v1/namespaces/shop/pods/a%23b",
        "/api/v1/namespaces/shop%3Fx/pods",
        "/api/v1/namespaces/shop/pods/a%20b",
        "/api/v1/namespaces/shop/pods/%C3%A9",
        "/api/v1/namespaces/shop/pods/a*b",
        "/api/v1/namespaces/shop/pods/a,b",
        "/api/v1/namespaces/shop/p%20ods",
        "/api/v1/pods%3A",
        "/api/v1/namespaces/sh_op/pods",
        "/api/v1/namespaces/shop/pods/web/proxy/a%252Fb",
        "/api/v1/namespaces/shop/pods/web/proxy/a;b",
    ] {
        assert_eq!(rules.verdict("GET", target), "target", "{target}");
    }
    for (target, expected) in [
        ("/api/v1/namespaces/shop/pods/web%2Dx", "encodedunreserved"),
        ("/api/v1/namespaces/shop/pods/web%5Fx", "encodedunreserved"),
        (
            "/api/v1/namespaces/shop/pods/web/proxy/a%2Eb",
            "encodedunreserved",
        ),
        (
            "/api/v1/namespaces/shop/pods/web/proxy/a%2Fb",
            "encodedslash",
        ),
        ("/api/v1/namespaces/shop/%73ecrets", "refused"),
        ("/api/v1//namespaces/shop/secrets", "refused"),
        ("/api/v1/namespaces/shop/pods/../secrets", "refused"),
        ("/api/v1/namespaces/shop/..%2fsecrets", "refused"),
    ] {
        assert_eq!(rules.verdict("GET", target), expected, "{target}");
    }
}

#[test]
fn an_error_names_field_value_and_fix() {
    let write = "write resources in the plural and in lower case, without a version, such as \
                 \"pods\", \"deployments.apps\", \"pods/log\" or \"*.apps\"";
    let verbs = "write verbs by name: \"get\", \"list\", \"watch\", \"create\", \"update\", \
                 \"patch\", \"delete\" and \"deletecollection\"";
    let good = [
        ("verbs", "[get]"),
        ("resources", "[pods]"),
        ("namespaces", "[shop]"),
    ];
    for (key, value, expected) in [
        (
            "verbs",
            "['*']",
            format!("\"verbs\" cannot be \"*\": {verbs}"),
        ),
        (
            "verbs",
            "[lst]",
            format!("\"verbs\" cannot be \"lst\": {verbs} (did you mean \"list\"?)"),
        ),
        (
            "resources",
            "[Pods]",
            format!("\"resources\" cannot be \"Pods\": {write}"),
        ),
        (
            "resources",
            "[deployments.v1.apps]",
            format!("\"resources\" cannot be \"deployments.v1.apps\": {write}"),
        ),
        (
            "resources",
            "[pods/log/x]",
            format!("\"resources\" cannot be \"pods/log/x\": {write}"),
        ),
        (
            "resources",
            "['pod*']",
            format!("\"resources\" cannot be \"pod*\": {write}"),
        ),
        (
            "resources",
            "['']",
            format!("\"resources\" cannot be \"\": {write}"),
        ),
        (
            "namespaces",
            "['*', shop]",
            "\"namespaces\" cannot be \"*\": write it alone, or leave it out".into(),
        ),
        (
            "namespaces",
            "[]",
            "\"namespaces\" is empty, so the rule would match nothing: name at least one".into(),
        ),
        (
            "namespaces",
            "[a/b]",
            "\"namespaces\" \"a/b\": write a name, or a glob within one, without \"/\" and \"**\""
                .into(),
        ),
        (
            "names",
            "['**']",
            "\"names\" \"**\": write a name, or a glob within one, without \"/\" and \"**\"".into(),
        ),
        ("query", "{a: [b]}", "unknown key \"query\"".into()),
        (
            "encoded-slash",
            "data",
            "unknown key \"encoded-slash\"".into(),
        ),
    ] {
        let others = good.iter().filter(|(name, _)| *name != key);
        let mut fields: Vec<_> = others
            .map(|(key, value)| format!("{key}: {value}"))
            .collect();
        fields.push(format!("{key}: {value}"));
        assert_eq!(error(&fields.join(", ")), expected);
    }
    assert_eq!(
        error("verbs: [get]"),
        "\"resources\" is missing: name what it is about, such as \"pods\"\n\
         \"namespaces\" is missing: name namespaces, or [\"*\"] for all of them and what stands \
         in none"
    );
    let kind = RuleFile::parse(r#"{"version": 2, "private": [{"kind": "kubernets"}]}"#);
    assert_eq!(
        kind.unwrap_err().to_string(),
        "private[0]: \"kind\" cannot be \"kubernets\": write \"kubernetes\", or leave the key \
         out for a rule about a path (did you mean \"kubernetes\"?)"
    );
}

#[test]
fn a_rule_says_what_it_allows() {
    let rules = rules(
        "verbs: [get, list], resources: [pods/log, '*.apps'], namespaces: [shop], names: [web]",
    );
    let rule = &rules.0.rules()[0];
    assert_eq!(
        rule.path(),
        "kubernetes: get,list pods/log,*.apps in shop named web"
    );
    let kubernetes = rule.kubernetes().unwrap();
    assert_eq!(kubernetes.verbs(), [Verb::Get, Verb::List]);
    assert_eq!(
        kubernetes.namespaces().unwrap().collect::<Vec<_>>(),
        ["shop"]
    );
    assert_eq!(kubernetes.names().unwrap().collect::<Vec<_>>(), ["web"]);
    assert_eq!(*rule.methods(), crate::Methods::Only([Method::GET].into()));
}

proptest! {
    #[test]
    fn no_request_for_a_secret_passes_a_rule_that_does_not_name_them(
        method in prop::sample::select(vec!["GET", "POST", "DELETE", "PATCH"]),
        target in "/(api|apis/apps)/v1(/namespaces/[a-z%2F;.]{1,4})?/([a-z%2F;.]{0,3}secrets[a-z%2F;.]{0,3}|pods)(/[a-z%2F]{1,4}){0,2}(\\?watch=[a-z]{0,2})?",
    ) {
        let rules = rules(
            "verbs: [get, list, watch, create, patch, delete, deletecollection], \
             resources: ['*.*', '*.*/*'], namespaces: ['*']",
        );
        if rules.verdict(method, &target) == "allow" {
            let segments = target.split(['/', '?']);
            prop_assert!(segments.clone().all(|segment| segment != "secrets"), "{}", target);
        }
    }
}

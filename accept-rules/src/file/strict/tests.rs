use std::num::{NonZeroU32, NonZeroU64};

use http::{HeaderMap, Method};

use super::*;
use crate::limits::RequestLimits;
use crate::rule::{EncodedSlash, EncodedUnreserved, Methods};
use crate::{Decision, List, PatternKind, Request, RequestTarget, RuleFile, RuleSet, UnknownKeys};

const ORIGIN: &str = r#""origin": "https://host""#;

fn file(fields: &str) -> String {
    format!(r#"{{"version": 2, "private": [{{{ORIGIN}, {fields}}}]}}"#)
}

fn rule(fields: &str) -> Rule {
    let file = RuleFile::parse(&file(fields));
    file.unwrap_or_else(|errors| panic!("{fields}: {errors}"))
        .rules(List::Private)[0]
        .clone()
}

fn error(fields: &str) -> String {
    let errors = RuleFile::parse(&file(fields)).expect_err(fields);
    let text = errors.to_string();
    text.replace("private[0]: ", "")
}

/// A request, and whether a rule with `fields` allows it where origins take `%2F` for data.
struct Ask {
    fields: String,
    headers: HeaderMap,
    caller: &'static str,
    now: &'static str,
    origin: EncodedSlash,
}

fn ask(fields: &str) -> Ask {
    Ask {
        fields: fields.to_owned(),
        headers: HeaderMap::new(),
        caller: "proxy",
        now: "2026-11-24T00:00:00Z",
        origin: EncodedSlash::Data,
    }
}

impl Ask {
    fn allows(&self, method: &Method, target: &str) -> bool {
        let file = RuleFile::parse(&file(&self.fields)).unwrap();
        let rules = RuleSet::compile(&file, List::Private, |_| self.origin);
        let request = Request {
            target: RequestTarget::new(method, target).unwrap(),
            headers: self.headers.clone(),
            caller: self.caller.into(),
            now: humantime::parse_rfc3339(self.now).unwrap(),
        };
        matches!(rules.decide(request), Decision::Allow(_))
    }

    fn gets(&self, target: &str) -> bool {
        self.allows(&Method::GET, target)
    }
}

#[test]
fn a_rule_has_strict_defaults() {
    let rule = rule(r#""path": "/a""#);
    assert_eq!(*rule.methods(), Methods::Only([Method::GET].into()));
    assert_eq!(rule.pattern_kind(), PatternKind::Glob);
    assert_eq!(rule.encoded_slash(), EncodedSlash::Refuse);
    assert_eq!(rule.encoded_unreserved(), EncodedUnreserved::Refuse);
    assert_eq!(rule.timeouts(), RuleTimeouts::default());
    assert_eq!(rule.limits(), RuleLimits::default());
    assert_eq!((rule.callers(), rule.expires()), (None, None));
    assert!(!rule.keep_cookies() && rule.allow_headers().is_empty());
}

#[test]
fn methods_are_a_list() {
    let methods = |text: &str| {
        rule(&format!(r#""path": "/", "methods": {text}"#))
            .methods()
            .clone()
    };
    let some = Methods::Only([Method::GET, Method::POST].into());
    assert_eq!(methods(r#"["GET", "post"]"#), some);
    assert_eq!(methods(r#"["any"]"#), Methods::Any);
    assert_eq!(methods(r#""any""#), Methods::Any);
}

#[test]
fn a_path_is_a_glob_in_one_case_without_query() {
    let ask = ask(r#""path": "/api/*/x""#);
    assert!(ask.gets("/api/a/x") && ask.gets("/api/a/x?y=/z"));
    for other in ["/API/a/x", "/api/a/x/", "/api/a/b/x", "/api/x"] {
        assert!(!ask.gets(other), "{other}");
    }
}

#[test]
fn a_path_to_regexp_means_what_it_means_without_a_version() {
    let ask = ask(r#""path-to-regexp": "/api/:a/x""#);
    assert!(ask.gets("/API/a/x/") && !ask.gets("/api/a/b/x"));
}

#[test]
fn escapes_that_hide_something_are_refused_unless_the_rule_takes_them() {
    let strict = ask(r#""path": "/a/**""#);
    let slash = ask(r#""path": "/a/**", "encoded-slash": "data""#);
    let unreserved = ask(r#""path": "/a/**", "encoded-unreserved": "data""#);
    for (target, expected) in [
        ("/a/b%2Fc", [false, true, false]),
        ("/a/b%2fc", [false, true, false]),
        ("/a/b%2Ec", [false, false, true]),
        ("/a/b%5fc", [false, false, true]),
        ("/a/b%2F%7E", [false, false, false]),
        ("/a/b%20%3A", [true, true, true]),
        ("/a/b?%2F%2E", [true, true, true]),
    ] {
        let found = [&strict, &slash, &unreserved].map(|ask| ask.gets(target));
        assert_eq!(found, expected, "{target}");
    }
}

#[test]
fn an_origin_that_refuses_encoded_slashes_wins_over_its_rule() {
    let ask = Ask {
        origin: EncodedSlash::Refuse,
        ..ask(r#""path": "/a/**", "encoded-slash": "data""#)
    };
    assert!(ask.gets("/a/b") && !ask.gets("/a/b%2Fc"));
}

#[test]
fn parameters_of_a_path_are_no_way_around_a_glob() {
    let ask = ask(r#""path": "/a/*.tf""#);
    assert!(ask.gets("/a/x.tf") && !ask.gets("/a/secrets;.tf"));
}

#[test]
fn only_named_callers_are_served() {
    let named = ask(r#""path": "/a", "callers": ["Proxy", "tech-insights"]"#);
    assert!(named.gets("/a"));
    for caller in ["", "kubernetes", "proxy2"] {
        let other = Ask {
            caller,
            ..ask(&named.fields)
        };
        assert!(!other.gets("/a"), "{caller}");
    }
    let anyone = Ask {
        caller: "",
        ..ask(r#""path": "/a""#)
    };
    assert!(anyone.gets("/a"));
}

#[test]
fn a_rule_ends_with_its_day_or_at_its_time() {
    for (expires, now, expected) in [
        ("2027-01-31", "2027-01-31T23:59:59.999Z", true),
        ("2027-01-31", "2027-02-01T00:00:00Z", false),
        ("2027-01-31T18:00:00Z", "2027-01-31T17:59:59Z", true),
        ("2027-01-31T18:00:00Z", "2027-01-31T18:00:00Z", false),
        ("2020-02-29", "2026-11-24T00:00:00Z", false),
    ] {
        let fields = format!(r#""path": "/a", "expires": "{expires}""#);
        let ask = Ask {
            now,
            ..ask(&fields)
        };
        assert_eq!(ask.gets("/a"), expected, "{expires} {now}");
    }
}

#[test]
fn headers_are_named_in_any_case_and_all_must_hold() {
    let mut ask = ask(r#""path": "/a", "headers": {"Accept": ["x", "y"], "x-b": ["1"]}"#);
    assert!(!ask.gets("/a"));
    ask.headers.insert("accept", "y".parse().unwrap());
    assert!(!ask.gets("/a"));
    ask.headers.insert("x-b", "1".parse().unwrap());
    assert!(ask.gets("/a"));
}

#[test]
fn a_header_that_is_there_twice_or_in_two_spellings_is_none() {
    for other in ["x-role", "x_role", "x.role"] {
        let mut ask = ask(r#""path": "/a", "headers": {"x-role": ["reader"]}"#);
        ask.headers.insert("x-role", "reader".parse().unwrap());
        ask.headers.insert("x-roles", "admin".parse().unwrap());
        assert!(ask.gets("/a"));
        let other: HeaderName = other.parse().unwrap();
        ask.headers.append(other, "admin".parse().unwrap());
        assert!(!ask.gets("/a"), "{:?}", ask.headers);
    }
}

#[test]
fn limits_are_of_all_callers_and_of_each() {
    let rule = rule(
        r#""path": "/a", "limits": {"rate": "100/m", "concurrency": 4, "response-size": 1048576,
        "per-caller": {"rate": "1/s", "concurrency": 1, "//": "each"}}"#,
    );
    let limits = |rate: &str, concurrency| RequestLimits {
        rate: Some(rate.parse().unwrap()),
        concurrency: NonZeroU32::new(concurrency),
    };
    let expected = RuleLimits {
        together: limits("100/m", 4),
        per_caller: limits("1/s", 1),
        response_size: NonZeroU64::new(1 << 20),
    };
    assert_eq!(rule.limits(), expected);
}

#[test]
fn times_and_headers_are_given_out() {
    let rule = rule(
        r#""path": "/a", "timeout": {"connect": "2s", "first-byte": "1m 30s", "//": "slow"},
        "keep-cookies": true, "allow-headers": ["X-Forwarded-For"]"#,
    );
    let timeouts = rule.timeouts();
    let seconds = |number| Some(Duration::from_secs(number));
    assert_eq!(
        [timeouts.connect, timeouts.first_byte, timeouts.idle],
        [seconds(2), seconds(90), None]
    );
    assert!(rule.keep_cookies());
    assert_eq!(rule.allow_headers(), ["x-forwarded-for"]);
}

#[test]
fn valid_keeps_the_meaning_that_it_has_without_a_version() {
    let conditions = rule(
        r#""path": "/a", "valid": [{"queryParam": "a", "values": ["b"]},
        {"path": "c", "value": "d"}]"#,
    )
    .conditions;
    assert!(conditions.either && conditions.query.len() == 1);
    let conditions = rule(
        r#""path": "/a", "query": {"a": ["b"]}, "body": {"any": [{"path": "c", "value": 1}]}"#,
    )
    .conditions;
    assert!(!conditions.either && conditions.query.len() == 1);
}

#[test]
fn an_error_names_field_value_and_fix() {
    for (fields, expected) in [
        (
            "",
            r#"exactly one of "path" and "path-to-regexp" is needed"#,
        ),
        (
            r#""path": "/", "path-to-regexp": "/""#,
            r#"exactly one of "path" and "path-to-regexp" is needed"#,
        ),
        (r#""path": "a""#, r#""path" "a": a path starts with "/""#),
        (
            r#""path-to-regexp": "a""#,
            r#""path-to-regexp" cannot be "a": write a path that starts with "/""#,
        ),
        (
            r#""path-to-regexp": "/(a**)""#,
            r#""path-to-regexp" "/(a**)": the group "(a**)" has nothing to repeat before "*""#,
        ),
        (
            r#""path": "/", "method": "GET""#,
            r#"unknown key "method" (did you mean "methods"?)"#,
        ),
        (r#""path": "/", "stream": true"#, r#"unknown key "stream""#),
        (
            r#""path": "/", "path": "/""#,
            r#"the key "path" is given twice"#,
        ),
        (
            r#""path": "/", "methods": "GET""#,
            r#""methods" must be a list of texts in quotes, but it is a text"#,
        ),
        (
            r#""path": "/", "methods": []"#,
            r#""methods" is empty, so the rule would match nothing: name at least one"#,
        ),
        (
            r#""path": "/", "methods": ["GET", "any"]"#,
            r#"unknown method "any""#,
        ),
        (
            r#""path": "/", "query": {"a": "b"}"#,
            r#""query" must be a list of texts in quotes, but it is a text"#,
        ),
        (
            r#""path": "/", "query": {"a": ["b**"]}"#,
            r#""query" "b**": the segment "b**" has a "**" that is not all of it"#,
        ),
        (
            r#""path": "/", "query": {"a": ["b"], "a": ["c"]}"#,
            r#"the key "a" is given twice"#,
        ),
        (
            r#""path": "/", "query": {"a": []}"#,
            r#""query" is empty, so the rule would match nothing: name at least one"#,
        ),
        (
            r#""path": "/", "headers": {"a b": ["c"]}"#,
            r#""a b" is no header name"#,
        ),
        (
            r#""path": "/", "body": {}"#,
            r#"a condition of "body" needs exactly one of "any" and "all""#,
        ),
        (
            r#""path": "/", "body": {"all": []}"#,
            r#""all" is empty, so the rule would match nothing: name at least one"#,
        ),
        (
            r#""path": "/", "body": {"all": [{"path": "a"}]}"#,
            r#"a condition of "body" needs beside "path" either "value" or "regex""#,
        ),
        (
            r#""path": "/", "body": {"all": [{"paht": "a", "value": 1}]}"#,
            "unknown key \"paht\" (did you mean \"path\"?)\na condition of \"body\" needs a \"path\"",
        ),
        (
            r#""path": "/", "valid": [], "query": {"a": ["b"]}"#,
            r#""query" cannot stand beside "valid", which means the same in its own way"#,
        ),
        (
            r#""path": "/", "callers": ["a b"]"#,
            r#""callers" cannot be "a b": write the name of a caller, of letters, digits, ".", "_" and "-""#,
        ),
        (
            r#""path": "/", "expires": "2027-02-30""#,
            r#""expires" cannot be "2027-02-30": write a day such as "2027-01-31", or a time in UTC such as "2027-01-31T18:00:00Z""#,
        ),
        (
            r#""path": "/", "expires": 2027"#,
            r#""expires" must be a text in quotes, but it is a number"#,
        ),
        (
            r#""path": "/", "timeout": {"idle": "0s"}"#,
            r#""idle" cannot be "0s": write a time such as 500ms, 30s or 5m, of at most 30 days"#,
        ),
        (
            r#""path": "/", "timeout": {"idel": "1s"}"#,
            r#"unknown key "idel" (did you mean "idle"?)"#,
        ),
        (
            r#""path": "/", "limits": {"rate": "fast"}"#,
            r#""rate" cannot be "fast": write a number and a time such as "100/m""#,
        ),
        (
            r#""path": "/", "limits": {"concurrency": 0}"#,
            r#""concurrency" must be a whole number, at least 1, but it is a number"#,
        ),
        (
            r#""path": "/", "limits": {"response-size": "1MiB"}"#,
            r#""response-size" must be a whole number, at least 1, but it is a text"#,
        ),
        (
            r#""path": "/", "limits": {"rates": "1/s"}"#,
            r#"unknown key "rates" (did you mean "rate"?)"#,
        ),
        (
            r#""path": "/", "limits": {"per-caller": {"response-size": 1}}"#,
            r#"unknown key "response-size""#,
        ),
        (
            r#""path": "/", "encoded-slash": "refsue""#,
            r#""encoded-slash" cannot be "refsue": write "refuse" or "data" (did you mean "refuse"?)"#,
        ),
        (
            r#""path": "/", "keep-cookies": "yes""#,
            r#""keep-cookies" must be true or false, but it is a text"#,
        ),
        (
            r#""path": "/", "allow-headers": ["Authorization"]"#,
            r#""allow-headers" cannot be "Authorization": write none that "auth" replaces"#,
        ),
        (
            r#""path": "/", "auth": {"scheme": "raw", "token": "a", "colour": "b"}"#,
            r#"unknown key "colour""#,
        ),
    ] {
        assert_eq!(error(fields), expected, "{fields}");
    }
}

#[test]
fn what_cannot_be_enforced_is_refused_by_name_and_checked_all_the_same() {
    for (field, expected) in [
        (
            r#""callers-signed": true"#,
            r#""callers-signed" cannot be enforced by this version: take it out and use "callers", which trusts the server's word for who asks"#,
        ),
        (
            r#""upgrade": ["websocket", "spdy"]"#,
            r#""upgrade" cannot be enforced by this version: take it out and leave the rule to requests that do not switch protocols"#,
        ),
    ] {
        assert_eq!(error(&format!(r#""path": "/", {field}"#)), expected);
    }
    let errors = error(r#""path": "/", "upgrade": ["websockets"]"#);
    assert_eq!(
        errors.lines().next(),
        Some(
            r#""upgrade" cannot be "websockets": write "websocket" or "spdy" (did you mean "websocket"?)"#
        )
    );
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let text = r#"{"version": 2, "owner": "x", "private": [
        {"methods": ["GTE"], "path": "a", "origin": "ftp://h", "expires": "x"},
        {"path": "/", "colour": 1}
    ]}"#;
    assert_eq!(
        RuleFile::parse(text).unwrap_err().to_string(),
        "unknown key \"owner\"\n\
         private[0]: unknown method \"GTE\" (did you mean \"GET\"?)\n\
         private[0]: \"path\" \"a\": a path starts with \"/\"\n\
         private[0]: \"expires\" cannot be \"x\": write a day such as \"2027-01-31\", or a time \
         in UTC such as \"2027-01-31T18:00:00Z\"\n\
         private[0]: \"origin\": the origin \"ftp://h\" has an unknown scheme: use \"https://\" \
         or \"http://\"\n\
         private[1]: unknown key \"colour\"\n\
         private[1]: \"origin\" is missing: name where the request goes, such as \
         \"https://sonarqube.internal\""
    );
}

#[test]
fn unknown_keys_are_refused_whatever_the_setting_says() {
    let errors = RuleFile::parse_with(&file(r#""path": "/", "colour": 1"#), UnknownKeys::Warn);
    assert_eq!(
        errors.unwrap_err().to_string(),
        "private[0]: unknown key \"colour\""
    );
}

#[test]
fn comments_stand_anywhere() {
    rule(
        r#""//": ["why"], "path": "/a", "query": {"//": "x", "a": ["b"]},
        "body": {"//": 1, "any": [{"//": 2, "path": "c", "value": null}]}"#,
    );
}

#[test]
fn yaml_is_read_like_json() {
    let text = "version: 2\nprivate:\n- path: /a/**\n  origin: ${URL}\n  methods: [GET]\n";
    let file = RuleFile::parse(text).unwrap();
    assert_eq!(file.rules(List::Private)[0].path(), "/a/**");
}

use http::Method;
use proptest::prelude::*;

use super::*;
use crate::rule::{Auth, Methods, SigV4};
use crate::template::{Source, Template};

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
            Source::File(_) | Source::Declared(..) => source.to_string(),
        };
        text.expand(|source| Ok::<_, ()>(value(source))).unwrap()
    };
    match rule(fields).auth() {
        None => ("none", String::new()),
        Some(Auth::Token(text)) => ("token", expand(text)),
        Some(Auth::Bearer(text)) => ("bearer", expand(text)),
        Some(Auth::BasicToken(text)) => ("basic-token", expand(text)),
        Some(Auth::Raw(text)) => ("raw", expand(text)),
        Some(Auth::SigV4(SigV4 {
            aws,
            service,
            region,
        })) => ("sigv4", format!("{aws} {service} {region:?}")),
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
        auth(r#""scheme": "sigv4", "service": "execute-api""#),
        ("sigv4", "default execute-api None".into())
    );
    assert_eq!(
        auth(r#""scheme": "sigv4", "service": "aps", "aws": "shop", "region": "eu-west-1""#),
        ("sigv4", r#"shop aps Some("eu-west-1")"#.into())
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
    let file = RuleFile::parse(r#"{"public": [{"method": "any", "path": "/*", "origin": ""}]}"#);
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
fn patterns_that_cannot_be_compiled_end_the_reading_of_patterns() {
    let rule = format!(r#"{{{ORIGIN}, "path": "/(.{{100000}})"}}"#);
    let rules = vec![rule; 200].join(",");
    let errors = errors(&format!(r#"{{"private": [{rules}]}}"#));
    assert_eq!(errors.lines().last(), Some("and 29 more errors"));
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
    let yaml = "private:\n- path: /a\n  origin: ${URL}\n  auth: {scheme: bearer, token: '${T}'}\n";
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
            r#""auth": {"scheme": "sigv4", "service": "aps", "token": "x"}"#,
            r#""auth": the scheme "sigv4" needs "service", and may have "aws" and "region" beside it"#,
        ),
        (
            r#""auth": {"scheme": "sigv4", "aws": "shop"}"#,
            r#""auth": the scheme "sigv4" needs "service", and may have "aws" and "region" beside it"#,
        ),
        (
            r#""auth": {"scheme": "bearer", "token": "x", "aws": "shop"}"#,
            r#""auth": the scheme "bearer" needs "token" and nothing else"#,
        ),
        (
            r#""auth": {"scheme": "sigv4", "service": "a b"}"#,
            r#""auth": "service" is no name (use lower-case letters, digits, ".", "_" and "-", up to 63)"#,
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
            r#""token": "${T:…}" is not supported: use "${NAME}", "${file:/path}", "${exec:name}", "${eks:name}", "${gcp:name}", "${oauth2:name}", "${vault:name}", "${github-app:name}"; there are no defaults"#,
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
            "https://${plugin:x}@host",
            r#""origin": "${plugin:…}" is not supported: use "${NAME}", "${file:/path}", "${exec:name}", "${eks:name}", "${gcp:name}", "${oauth2:name}", "${vault:name}", "${github-app:name}"; there are no defaults"#,
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
        let error =
            format!(r#"the file must be an object with "private" and "public", but it is {kind}"#);
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

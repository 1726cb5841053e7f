//! Rules of version 2.

use std::time::{Duration, SystemTime};

use http::HeaderName;
use http::header::AUTHORIZATION;

use super::error::{Problem, nearest};
use super::{Entries, RuleReader, all, comment, field_kind, find, report_duplicates};
use crate::condition::{
    BodyCondition, BodyConditions, Conditions, HeaderCondition, QueryCondition, ValueGlob,
};
use crate::document::Node;
use crate::path_glob::{PathGlob, PathGlobError, SegmentGlob};
use crate::rule::{EncodedSlash, EncodedUnreserved, Methods, Pattern, Rule, RuleTimeouts};
use crate::weight::Weigh;

/// Keys of every rule.
pub(super) const SHARED_KEYS: &[&str] = &[
    "kind",
    "origin",
    "auth",
    "callers",
    "callers-signed",
    "expires",
    "timeout",
    "limits",
    "upgrade",
    "keep-cookies",
    "allow-headers",
];
/// Keys of a rule about a path.
pub(super) const PATH_KEYS: &[&str] = &[
    "methods",
    "path",
    "path-to-regexp",
    "query",
    "headers",
    "body",
    "valid",
    "encoded-slash",
    "encoded-unreserved",
];
/// Keys of a rule about a Kubernetes API.
pub(super) const KUBERNETES_KEYS: &[&str] = &["verbs", "resources", "namespaces", "names"];
pub(super) const TIMEOUT_KEYS: &[&str] = &["connect", "first-byte", "idle"];
pub(super) const BODY_KEYS: &[&str] = &["any", "all"];
pub(super) const BODY_CONDITION_KEYS: &[&str] = &["path", "value", "regex"];
const LIMIT_KEYS: &[&str] = &["rate", "concurrency", "response-size"];
const UPGRADES: &[&str] = &["websocket", "spdy"];
pub(super) const DATA_OR_REFUSE: &[&str] = &["refuse", "data"];

/// What `expires` gives its rule until: the end of that day.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Longest time-out: the settings' own.
const MAX_TIMEOUT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Longest name of a caller, in bytes: the server's own limit.
const MAX_CALLER_LEN: usize = 63;

/// What a rule of version 2 is about.
#[derive(Clone, Copy)]
enum Kind {
    Path,
    Kubernetes,
}

/// Which requests a rule matches.
pub(super) struct Matched {
    pub(super) methods: Methods,
    pub(super) path: Box<str>,
    pub(super) pattern: Pattern,
    pub(super) conditions: Conditions,
    pub(super) encoded_slash: EncodedSlash,
    pub(super) encoded_unreserved: EncodedUnreserved,
}

impl RuleReader<'_> {
    /// Reads a rule of version 2. Where something is wrong with an optional part, what is returned
    /// does not matter: the file is refused.
    pub(super) fn read_strict(&mut self, entries: &Entries) -> Option<Rule> {
        let kind = self.read_kind(entries)?;
        let own_keys = match kind {
            Kind::Path => PATH_KEYS,
            Kind::Kubernetes => KUBERNETES_KEYS,
        };
        self.refuse_unknown_keys(entries, &[SHARED_KEYS, own_keys].concat());
        self.refuse_not_enforced(entries);
        let matched = match kind {
            Kind::Path => self.read_path_rule(entries),
            Kind::Kubernetes => self.read_kubernetes(entries),
        };
        let auth = self.read_auth(entries);
        let callers = self.read_callers(entries);
        let expires = self.read_expires(entries);
        let timeouts = self.read_timeouts(entries);
        let keep_cookies = self.flag(entries, "keep-cookies");
        let allow_headers = self.read_allow_headers(entries);
        let (origin, userinfo) = self.read_origin(entries)?;
        let matched = matched?;
        Some(Rule {
            comment: comment(entries),
            methods: matched.methods,
            path: matched.path,
            pattern: matched.pattern,
            conditions: matched.conditions,
            origin,
            auth: auth.or(userinfo),
            encoded_slash: matched.encoded_slash,
            encoded_unreserved: matched.encoded_unreserved,
            callers,
            expires,
            timeouts,
            keep_cookies,
            allow_headers,
            disabled: false,
        })
    }

    fn read_kind(&mut self, entries: &Entries) -> Option<Kind> {
        let Some(value) = find(entries, "kind") else {
            return Some(Kind::Path);
        };
        match self.text("kind", value)? {
            "kubernetes" => Some(Kind::Kubernetes),
            other => {
                let write = "\"kubernetes\", or leave the key out for a rule about a path";
                self.refuse_value("kind", other, write, &["kubernetes"]);
                None
            }
        }
    }

    fn read_path_rule(&mut self, entries: &Entries) -> Option<Matched> {
        let methods = self.read_methods(entries);
        let path = self.read_strict_path(entries);
        let conditions = self.read_strict_conditions(entries);
        let encoded_slash = match self.is_data(entries, "encoded-slash") {
            true => EncodedSlash::Data,
            false => EncodedSlash::Refuse,
        };
        let encoded_unreserved = match self.is_data(entries, "encoded-unreserved") {
            true => EncodedUnreserved::Data,
            false => EncodedUnreserved::Refuse,
        };
        let (path, pattern) = path?;
        Some(Matched {
            methods: methods?,
            path,
            pattern,
            conditions: conditions?,
            encoded_slash,
            encoded_unreserved,
        })
    }

    fn read_methods(&mut self, entries: &Entries) -> Option<Methods> {
        let Some(value) = find(entries, "methods") else {
            return Some(Methods::Only([http::Method::GET].into()));
        };
        if matches!(value, Node::Text(text) if text.eq_ignore_ascii_case("any")) {
            return Some(Methods::Any);
        }
        let texts = self.some_texts("methods", value)?;
        if matches!(texts[..], [text] if text.eq_ignore_ascii_case("any")) {
            return Some(Methods::Any);
        }
        all(texts.into_iter().map(|text| self.method(text))).map(Methods::Only)
    }

    fn read_strict_path(&mut self, entries: &Entries) -> Option<(Box<str>, Pattern)> {
        match (find(entries, "path"), find(entries, "path-to-regexp")) {
            (Some(value), None) => {
                let path = self.text("path", value)?;
                let glob = self.glob("path", path, PathGlob::parse)?;
                Some((path.into(), Pattern::Glob(glob)))
            }
            (None, Some(value)) => {
                let path = self.text("path-to-regexp", value)?;
                if !path.starts_with('/') {
                    let write = "a path that starts with \"/\"";
                    self.refuse_value("path-to-regexp", path, write, &[]);
                    return None;
                }
                let pattern = self.path_pattern("path-to-regexp", path)?;
                Some((path.into(), Pattern::PathToRegexp(pattern)))
            }
            (None, None) | (Some(_), Some(_)) => {
                self.refuse(Problem::PathChoice);
                None
            }
        }
    }

    fn read_strict_conditions(&mut self, entries: &Entries) -> Option<Conditions> {
        let own = ["query", "headers", "body"];
        if find(entries, "valid").is_some() {
            for key in own.into_iter().filter(|key| find(entries, key).is_some()) {
                self.refuse(Problem::BesideValid { key });
            }
            return self.read_valid(entries);
        }
        let query = self.read_query(entries);
        let headers = self.read_headers(entries);
        let body = self.read_body(entries);
        Some(Conditions {
            query: query?,
            headers: headers?,
            body: body?,
            either: false,
        })
    }

    fn read_query(&mut self, entries: &Entries) -> Option<Box<[QueryCondition]>> {
        let expected = "an object of names, each with a list of globs";
        self.named_lists(entries, "query", expected, |reader, name, globs| {
            Some(QueryCondition {
                name: name.into(),
                values: reader
                    .globs("query", globs)?
                    .into_iter()
                    .map(ValueGlob::Segments)
                    .collect(),
            })
        })
    }

    fn read_headers(&mut self, entries: &Entries) -> Option<Box<[HeaderCondition]>> {
        let expected = "an object of names, each with a list of values";
        self.named_lists(entries, "headers", expected, |reader, name, values| {
            Some(HeaderCondition {
                name: name.into(),
                header: Some(reader.header_name(name)?),
                values: values.into_iter().map(Into::into).collect(),
            })
        })
    }

    /// An object of names, each with a list of texts.
    fn named_lists<T>(
        &mut self,
        entries: &Entries,
        field: &'static str,
        expected: &'static str,
        read: impl Fn(&mut Self, &str, Vec<&str>) -> Option<T>,
    ) -> Option<Box<[T]>> {
        let Some(value) = find(entries, field) else {
            return Some(Box::default());
        };
        let Node::Map(lists) = value else {
            self.refuse(field_kind(field, expected, value));
            return None;
        };
        report_duplicates(lists, self.place(), &mut self.findings.errors);
        let lists = lists.iter().filter(|(name, _)| name != "//");
        let read = lists.map(|(name, list)| {
            let texts = self.some_texts(field, list)?;
            read(self, name, texts)
        });
        all(read)
    }

    fn read_body(&mut self, entries: &Entries) -> Option<BodyConditions> {
        let Some(value) = find(entries, "body") else {
            return Some(BodyConditions::default());
        };
        let expected = "an object with \"any\" or \"all\"";
        let fields = self.fields("body", expected, value, BODY_KEYS)?;
        match (find(fields, "any"), find(fields, "all")) {
            (Some(list), None) => self.body_conditions("any", list).map(BodyConditions::Any),
            (None, Some(list)) => self.body_conditions("all", list).map(BodyConditions::All),
            (None, None) | (Some(_), Some(_)) => {
                self.refuse(Problem::ConditionFields {
                    field: "body",
                    needs: "exactly one of \"any\" and \"all\"",
                });
                None
            }
        }
    }

    fn body_conditions(
        &mut self,
        field: &'static str,
        list: &Node,
    ) -> Option<Box<[BodyCondition]>> {
        let expected = "a list of objects";
        let Node::List(list) = list else {
            self.refuse(field_kind(field, expected, list));
            return None;
        };
        if list.is_empty() {
            self.refuse(Problem::Empty { field });
        }
        all(list.iter().map(|entry| {
            let fields = self.fields(field, expected, entry, BODY_CONDITION_KEYS)?;
            let Some(path) = find(fields, "path") else {
                self.refuse(Problem::ConditionFields {
                    field: "body",
                    needs: "a \"path\"",
                });
                return None;
            };
            self.read_body_condition("body", path, fields)
        }))
    }

    fn read_callers(&mut self, entries: &Entries) -> Option<Box<[Box<str>]>> {
        let names = self.some_texts("callers", find(entries, "callers")?)?;
        let is_in_name = |b: &u8| b.is_ascii_alphanumeric() || b"._-".contains(b);
        let is_name = |name: &str| {
            name.len() <= MAX_CALLER_LEN
                && name.starts_with(|c: char| c.is_ascii_alphanumeric())
                && name.as_bytes().iter().all(is_in_name)
        };
        let write = "the name of a caller, of letters, digits, \".\", \"_\" and \"-\"";
        all(names.into_iter().map(|name| {
            if !is_name(name) {
                self.refuse_value("callers", name, write, &[]);
            }
            Some(name.to_ascii_lowercase().into())
        }))
    }

    fn read_expires(&mut self, entries: &Entries) -> Option<SystemTime> {
        let text = self.text("expires", find(entries, "expires")?)?;
        let end = parse_expiry(text);
        if end.is_none() {
            let write = "a day such as \"2027-01-31\", or a time in UTC such as \
                         \"2027-01-31T18:00:00Z\"";
            self.refuse_value("expires", text, write, &[]);
        }
        end
    }

    fn read_timeouts(&mut self, entries: &Entries) -> RuleTimeouts {
        let mut timeouts = RuleTimeouts::default();
        let fields = find(entries, "timeout").and_then(|value| {
            let expected = "an object with \"connect\", \"first-byte\" or \"idle\"";
            self.fields("timeout", expected, value, TIMEOUT_KEYS)
        });
        if let Some(fields) = fields {
            timeouts.connect = self.read_timeout(fields, "connect");
            timeouts.first_byte = self.read_timeout(fields, "first-byte");
            timeouts.idle = self.read_timeout(fields, "idle");
        }
        timeouts
    }

    fn read_timeout(&mut self, fields: &Entries, field: &'static str) -> Option<Duration> {
        let text = self.text(field, find(fields, field)?)?;
        match humantime::parse_duration(text) {
            Ok(time) if !time.is_zero() && time <= MAX_TIMEOUT => Some(time),
            Ok(_) | Err(_) => {
                let write = "a time such as 500ms, 30s or 5m, of at most 30 days";
                self.refuse_value(field, text, write, &[]);
                None
            }
        }
    }

    fn read_allow_headers(&mut self, entries: &Entries) -> Box<[HeaderName]> {
        let names = find(entries, "allow-headers")
            .and_then(|value| self.some_texts("allow-headers", value))
            .unwrap_or_default();
        let headers = names.into_iter().filter_map(|name| {
            let header = self.header_name(name)?;
            if header == AUTHORIZATION {
                let write = "none that \"auth\" replaces";
                self.refuse_value("allow-headers", name, write, &[]);
            }
            Some(header)
        });
        headers.collect()
    }

    /// Whether the field says `data`.
    fn is_data(&mut self, entries: &Entries, field: &'static str) -> bool {
        let text = find(entries, field).and_then(|value| self.text(field, value));
        match text {
            Some("data") => true,
            Some("refuse") | None => false,
            Some(other) => {
                self.refuse_value(field, other, "\"refuse\" or \"data\"", DATA_OR_REFUSE);
                false
            }
        }
    }

    fn flag(&mut self, entries: &Entries, field: &'static str) -> bool {
        match find(entries, field) {
            None => false,
            Some(Node::Boolean(flag)) => *flag,
            Some(other) => {
                self.refuse(field_kind(field, "true or false", other));
                false
            }
        }
    }

    /// Keys that have a form already, so that a file is refused for what is wrong in it at once.
    fn refuse_not_enforced(&mut self, entries: &Entries) {
        if let Some(value) = find(entries, "limits") {
            self.check_limits(value);
            let instead = "limit the callers at the server or the origin";
            self.refuse(Problem::NotEnforced {
                key: "limits",
                instead,
            });
        }
        if find(entries, "callers-signed").is_some() {
            self.flag(entries, "callers-signed");
            let instead = "use \"callers\", which trusts the server's word for who asks";
            self.refuse(Problem::NotEnforced {
                key: "callers-signed",
                instead,
            });
        }
        if let Some(value) = find(entries, "upgrade") {
            for found in self.some_texts("upgrade", value).unwrap_or_default() {
                if !UPGRADES.contains(&found) {
                    self.refuse_value("upgrade", found, "\"websocket\" or \"spdy\"", UPGRADES);
                }
            }
            let instead = "leave the rule to requests that do not switch protocols";
            self.refuse(Problem::NotEnforced {
                key: "upgrade",
                instead,
            });
        }
    }

    fn check_limits(&mut self, value: &Node) {
        let expected = "an object with \"rate\", \"concurrency\" or \"response-size\"";
        let Some(fields) = self.fields("limits", expected, value, LIMIT_KEYS) else {
            return;
        };
        if let Some(value) = find(fields, "rate")
            && let Some(rate) = self.text("rate", value)
            && !is_rate(rate)
        {
            self.refuse_value("rate", rate, "a number and a time such as \"100/m\"", &[]);
        }
        for field in ["concurrency", "response-size"] {
            match find(fields, field) {
                None => {}
                Some(Node::Number(text)) if text.parse().is_ok_and(|number: u64| number > 0) => {}
                Some(other) => {
                    let expected = "a whole number, at least 1";
                    self.refuse(field_kind(field, expected, other));
                }
            }
        }
    }

    pub(super) fn glob<T: Weigh>(
        &mut self,
        field: &'static str,
        glob: &str,
        parse: impl Fn(&str) -> Result<T, PathGlobError>,
    ) -> Option<T> {
        self.compiled(parse, glob, |error| {
            let glob = glob.to_owned();
            Problem::Glob { field, glob, error }
        })
    }

    fn globs(&mut self, field: &'static str, globs: Vec<&str>) -> Option<Vec<SegmentGlob>> {
        let globs = globs.into_iter();
        all(globs.map(|glob| self.glob(field, glob, SegmentGlob::parse)))
    }

    /// A list of texts, at least one.
    pub(super) fn some_texts<'n>(
        &mut self,
        field: &'static str,
        value: &'n Node,
    ) -> Option<Vec<&'n str>> {
        let texts = self.texts(field, value)?;
        if texts.is_empty() {
            self.refuse(Problem::Empty { field });
        }
        Some(texts)
    }

    pub(super) fn refuse_value(
        &mut self,
        field: &'static str,
        found: &str,
        write: &'static str,
        known: &[&'static str],
    ) {
        self.refuse(Problem::Value {
            field,
            found: found.to_owned(),
            write,
            suggestion: nearest(found, known),
        });
    }
}

/// A day, until its end, or a time; in UTC (RFC 3339 §5.6).
fn parse_expiry(text: &str) -> Option<SystemTime> {
    if text.contains('T') {
        return humantime::parse_rfc3339(text).ok();
    }
    let start = humantime::parse_rfc3339(&format!("{text}T00:00:00Z")).ok()?;
    start.checked_add(DAY)
}

fn is_rate(text: &str) -> bool {
    let count = |text: &str| text.parse().is_ok_and(|number: u32| number > 0);
    text.split_once('/')
        .is_some_and(|(number, unit)| count(number) && matches!(unit, "s" | "m" | "h"))
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;
    use crate::{
        Decision, List, PatternKind, Request, RequestTarget, RuleFile, RuleSet, UnknownKeys,
    };

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
                r#""limits": {"rate": "100/m", "concurrency": 4, "response-size": 1048576}"#,
                r#""limits" cannot be enforced by this version: take it out and limit the callers at the server or the origin"#,
            ),
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
        for (field, first) in [
            (
                r#""limits": {"rate": "fast"}"#,
                r#""rate" cannot be "fast": write a number and a time such as "100/m""#,
            ),
            (
                r#""limits": {"concurrency": 0}"#,
                r#""concurrency" must be a whole number, at least 1, but it is a number"#,
            ),
            (r#""limits": {"size": 1}"#, r#"unknown key "size""#),
            (
                r#""upgrade": ["websockets"]"#,
                r#""upgrade" cannot be "websockets": write "websocket" or "spdy" (did you mean "websocket"?)"#,
            ),
        ] {
            let errors = error(&format!(r#""path": "/", {field}"#));
            assert_eq!(errors.lines().next(), Some(first), "{field}");
        }
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
}

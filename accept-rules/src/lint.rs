//! Rules that allow more, or other, than they seem to, as a security reviewer would mark them.
//!
//! Nothing is reported that is not certain. What is reported may be meant: then the finding says
//! what that means.

use std::fmt;
use std::time::SystemTime;

use self::shape::Shape;
use crate::file::{Place, RuleFile, quoted_up_to};
use crate::rule::{EncodedSlash, List, Methods, PatternKind, Rule, RuleIndex};
use crate::rule_set::RuleSet;

mod code;
mod condition;
mod known;
mod never;
mod origin;
mod overlap;
mod path;
mod reach;
mod shape;

pub use code::LintCode;

/// Most findings of one file: more are not read, and a hostile file must not fill memory.
const MAX_FINDINGS: usize = 1_000;

/// Longest value shown, in characters: twice the longest path in use.
const MAX_SHOWN: usize = 300;

/// Looks for rules that allow more, or other, than they seem to.
///
/// `now` says which rules have expired, and `policy` what a `%2F` is to an origin, as for
/// [`RuleSet::compile`]. The findings are in the order of the file; beyond a thousand, the last one
/// says that there are more.
pub fn lint(
    file: &RuleFile,
    now: SystemTime,
    policy: impl Fn(&str) -> EncodedSlash,
) -> Vec<Finding> {
    let mut findings = Findings::default();
    for list in [List::Private, List::Public] {
        let rules = RuleSet::compile(file, list, &policy);
        let subjects = rules
            .indexed()
            .map(|(index, rule)| Subject::new(list, index, rule, now));
        let subjects: Vec<_> = subjects.collect();
        for subject in &subjects {
            if findings.are_full() {
                break;
            }
            path::check(subject, &mut findings);
            condition::check(subject, &mut findings);
        }
        overlap::check(&subjects, &mut findings);
        unsigned_callers(&subjects, &mut findings);
        if list == List::Private {
            reach::check(&subjects, &mut findings);
            origin::check(&subjects, &mut findings);
        }
    }
    findings.in_order()
}

/// Something that a reviewer should look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    code: LintCode,
    place: Place,
    also: Box<[RuleIndex]>,
    problem: Box<str>,
    fix: Box<str>,
}

impl Finding {
    /// What kind it is.
    pub fn code(&self) -> LintCode {
        self.code
    }

    /// The rule, or the first of several for which the same is true.
    pub fn place(&self) -> Place {
        self.place
    }

    /// The other rules of the same list for which the same is true.
    pub fn also(&self) -> &[RuleIndex] {
        &self.also
    }

    /// What is wrong, with the field and its value. It never has a credential.
    pub fn problem(&self) -> &str {
        &self.problem
    }

    /// What to do about it.
    pub fn fix(&self) -> &str {
        &self.fix
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.place, self.problem)?;
        match self.also.len() {
            0 => {}
            1 => f.write_str(" (and in 1 more rule)")?,
            more => write!(f, " (and in {more} more rules)")?,
        }
        write!(f, "; {} [{}]", self.fix, self.code)
    }
}

/// What was found so far.
#[derive(Default)]
struct Findings {
    list: Vec<Finding>,
}

impl Findings {
    fn are_full(&self) -> bool {
        self.list.len() >= MAX_FINDINGS
    }

    fn push(
        &mut self,
        code: LintCode,
        subject: &Subject<'_>,
        problem: impl Into<Box<str>>,
        fix: impl Into<Box<str>>,
    ) {
        self.push_group(code, subject, Box::default(), problem, fix);
    }

    /// One finding for several rules.
    fn push_group(
        &mut self,
        code: LintCode,
        first: &Subject<'_>,
        also: Box<[RuleIndex]>,
        problem: impl Into<Box<str>>,
        fix: impl Into<Box<str>>,
    ) {
        if !self.are_full() {
            self.list.push(Finding {
                code,
                place: Place::Rule(first.list, first.index),
                also,
                problem: problem.into(),
                fix: fix.into(),
            });
        }
    }

    fn in_order(mut self) -> Vec<Finding> {
        let full = self.are_full();
        self.list.sort_by_key(|finding| {
            let place = match finding.place {
                Place::File => None,
                Place::List(list) => Some((list == List::Public, None)),
                Place::Rule(list, index) => Some((list == List::Public, Some(index))),
            };
            (place, finding.code)
        });
        if full {
            self.list.push(Finding {
                code: LintCode::TooManyFindings,
                place: Place::File,
                also: Box::default(),
                problem: format!(
                    "there are {MAX_FINDINGS} findings or more, and the rest is left out"
                )
                .into(),
                fix: "mend these first, and look again".into(),
            });
        }
        self.list
    }
}

/// A rule under the eyes of the reviewer.
struct Subject<'a> {
    list: List,
    index: RuleIndex,
    rule: &'a Rule,
    shape: Shape,
    /// Why no request can match it: what is wrong, and what to do.
    never: Option<(String, String)>,
}

impl<'a> Subject<'a> {
    fn new(list: List, index: RuleIndex, rule: &'a Rule, now: SystemTime) -> Self {
        let shape = Shape::of(rule);
        let never = never::why(rule, &shape, now);
        Self {
            list,
            index,
            rule,
            shape,
            never,
        }
    }

    fn has_conditions(&self) -> bool {
        let conditions = &self.rule.conditions;
        !(conditions.query.is_empty() && conditions.headers.is_empty()) || self.rule.needs_body()
    }

    /// Whether nothing but method and path decides.
    fn is_unconditional(&self) -> bool {
        let rule = self.rule;
        !self.has_conditions() && rule.callers().is_none() && rule.expires().is_none()
    }

    /// `"path" "/as/written"`.
    fn path_text(&self) -> String {
        let path = quoted(self.rule.path());
        match self.rule.pattern_kind() {
            PatternKind::PathToRegexp | PatternKind::Glob => format!("\"path\" {path}"),
            PatternKind::Kubernetes => path,
        }
    }
}

/// A value in quotes, long enough to be pasted.
fn quoted(value: &str) -> String {
    quoted_up_to(MAX_SHOWN, value)
}

/// Once for all rules: it is the server that is believed.
fn unsigned_callers(subjects: &[Subject<'_>], findings: &mut Findings) {
    let named = subjects
        .iter()
        .filter(|subject| subject.rule.callers().is_some());
    let named: Vec<_> = named.collect();
    if let [first, ..] = named.as_slice() {
        findings.push_group(
            LintCode::UnsignedCallers,
            first,
            origin::others(&named),
            "\"callers\" takes the server's word for who asks, so it narrows an honest server only",
            "let the rule, and its credential, allow no more than every caller may do",
        );
    }
}

/// The methods as a finding shows them.
fn methods_text(methods: &Methods) -> String {
    match methods {
        Methods::Any => "any method".to_owned(),
        Methods::Only(methods) => {
            let names: Vec<_> = methods.iter().map(|method| method.as_str()).collect();
            names.join(", ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A rule's origin and credential that nothing can be said against.
    const TO_HOST: &str =
        r#""origin": "https://${HOST}", "auth": {"scheme": "bearer", "token": "${TOKEN}"}"#;

    fn found(text: &str, policy: EncodedSlash) -> Vec<Finding> {
        let text = text.replace("TO_HOST", TO_HOST);
        let file = RuleFile::parse(&text).unwrap_or_else(|errors| panic!("{text}: {errors}"));
        lint(&file, now(), |_| policy)
    }

    /// Before any end in these tests.
    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH
    }

    fn codes(text: &str) -> Vec<&'static str> {
        let findings = found(text, EncodedSlash::Data);
        findings
            .iter()
            .map(|finding| finding.code().as_str())
            .collect()
    }

    fn version_2(rules: &str) -> String {
        format!(r#"{{"version": 2, "private": [{rules}]}}"#)
    }

    fn private(rules: &str) -> String {
        format!(r#"{{"private": [{rules}]}}"#)
    }

    /// What has just one finding, by its code, and what is like it and has none.
    const CASES: &[(LintCode, &str, &str)] = &[
        (
            LintCode::ShadowedRule,
            r#"{"path": "/a/*", TO_HOST}, {"path": "/a/:b", TO_HOST}"#,
            r#"{"path": "/a/:b", TO_HOST}, {"path": "/a/*", TO_HOST}"#,
        ),
        (
            LintCode::DuplicateRule,
            r#"{"path": "/a", TO_HOST}, {"path": "/a", TO_HOST}"#,
            r#"{"path": "/a", TO_HOST}, {"path": "/a", "method": "PUT", TO_HOST}"#,
        ),
        (
            LintCode::NeverMatches,
            r#"{"path": "/a/../b", TO_HOST}"#,
            r#"{"path": "/a/..b", TO_HOST}"#,
        ),
        (
            LintCode::GluedAsterisk,
            r#"{"path": "/pods*", TO_HOST}"#,
            r#"{"path": "/pods/*", TO_HOST}"#,
        ),
        (
            LintCode::NamedAsterisk,
            r#"{"path": "/files/*path", TO_HOST}"#,
            r#"{"path": "/files/*path.txt", TO_HOST}"#,
        ),
        (
            LintCode::DotParameter,
            r#"{"path": "/:file.:type", TO_HOST}"#,
            r#"{"path": "/:file.:type([^./]+)", TO_HOST}"#,
        ),
        (
            LintCode::CatchAll,
            r#"{"path": "/*", TO_HOST}"#,
            r#"{"path": "/a/*", TO_HOST}"#,
        ),
        (
            LintCode::ReachesSecrets,
            r#"{"path": "/api/v1/namespaces/:ns([a-z]+)/secrets", TO_HOST}"#,
            r#"{"path": "/api/v1/namespaces/:ns([a-z]+)/pods", TO_HOST}"#,
        ),
        (
            LintCode::ReachesExec,
            r#"{"path": "/api/v1/namespaces/default/pods/x/exec", "method": "POST", TO_HOST}"#,
            r#"{"path": "/api/v1/namespaces/default/pods/x/log", "method": "POST", TO_HOST}"#,
        ),
        (
            LintCode::ReachesProxy,
            r#"{"path": "/api/v1/namespaces/default/services/x/proxy/*", TO_HOST}"#,
            r#"{"path": "/api/v1/namespaces/default/services/x", TO_HOST}"#,
        ),
        (
            LintCode::RunsScripts,
            r#"{"path": "/scriptText", "method": "POST", "origin": "https://${JENKINS}",
                "auth": {"scheme": "bearer", "token": "${TOKEN}"}}"#,
            r#"{"path": "/scriptText", "method": "POST", TO_HOST}"#,
        ),
        (
            LintCode::IssuesTokens,
            r#"{"path": "/oauth/token", "method": "POST", TO_HOST}"#,
            r#"{"path": "/oauth/token", TO_HOST}"#,
        ),
        (
            LintCode::OpenGraphql,
            r#"{"path": "/api/graphql", "method": "POST", TO_HOST}"#,
            r#"{"path": "/api/graphql", "method": "POST", TO_HOST,
                "valid": [{"path": "query", "regex": "^query Pods"}]}"#,
        ),
        (
            LintCode::EncodedSlash,
            r#"{"path": "/api/dashboards/uid/:uid", TO_HOST}"#,
            r#"{"path": "/api/dashboards/uid/:uid([0-9]+)", TO_HOST}"#,
        ),
        (
            LintCode::WriteMethod,
            r#"{"path": "/api/health", "method": "any", TO_HOST}"#,
            r#"{"path": "/api/health", "method": "HEAD", TO_HOST}"#,
        ),
        (
            LintCode::OptionalQuery,
            r#"{"path": "/a", "valid": [{"queryParam": "q", "values": ["**"]}], TO_HOST}"#,
            r#"{"path": "/a", "valid": [{"queryParam": "q", "values": ["", "*"]}], TO_HOST}"#,
        ),
        (
            LintCode::EitherCondition,
            r#"{"path": "/a", TO_HOST, "valid": [
                {"queryParam": "q", "values": ["x"]}, {"path": "p", "value": "x"}]}"#,
            r#"{"path": "/a", TO_HOST, "valid": [
                {"header": "q", "values": ["x"]}, {"path": "p", "value": "x"}]}"#,
        ),
        (
            LintCode::LiteralAsterisk,
            r#"{"path": "/a", "valid": [{"path": "file", "value": "*.txt"}], TO_HOST}"#,
            r#"{"path": "/a", "valid": [{"path": "*.file", "value": ".txt"}], TO_HOST}"#,
        ),
        (
            LintCode::LiteralCredential,
            r#"{"path": "/a", "origin": "https://${HOST}", "auth": {"scheme": "raw", "token": "x"}}"#,
            r#"{"path": "/a", "origin": "https://x:${file:/run/password}@${HOST}"}"#,
        ),
        (
            LintCode::CleartextCredential,
            r#"{"path": "/a", "origin": "http://${TOKEN}@${HOST}"}"#,
            r#"{"path": "/a", "origin": "https://${TOKEN}@${HOST}"}"#,
        ),
        (
            LintCode::PassesAuthorization,
            r#"{"path": "/a", "origin": "http://${HOST}"}"#,
            r#"{"path": "/a", "origin": "${TOKEN}@${HOST}"}"#,
        ),
        (
            LintCode::TrailingSlash,
            r#"{"path": "/a", "origin": "https://${TOKEN}@${HOST}/"}"#,
            r#"{"path": "/a", "origin": "https://${TOKEN}@${HOST}/a"}"#,
        ),
        (
            LintCode::LocalAddress,
            r#"{"path": "/a", "origin": "https://${TOKEN}@169.254.169.254"}"#,
            r#"{"path": "/a", "origin": "https://${TOKEN}@169.253.169.254"}"#,
        ),
    ];

    #[test]
    fn each_code_has_a_file_with_it_alone_and_one_like_it_without() {
        let open = r#"{"public": [{"method": "any", "path": "/*"}]}"#.to_owned();
        let narrow = r#"{"public": [{"method": "any", "path": "/webhook/*"}]}"#.to_owned();
        let callers = version_2(r#"{"path": "/a", "callers": ["proxy"], TO_HOST}"#);
        let no_callers = version_2(r#"{"path": "/a", TO_HOST}"#);
        let mut cases = vec![
            (LintCode::OpenPublicList, open, narrow),
            (LintCode::UnsignedCallers, callers, no_callers),
        ];
        cases.extend(
            CASES
                .iter()
                .map(|(code, has, has_not)| (*code, private(has), private(has_not))),
        );
        for (code, has, has_not) in &cases {
            assert_eq!(codes(has), [code.as_str()], "{has}");
            assert!(codes(has_not).is_empty(), "{has_not}: {:?}", codes(has_not));
        }
        let covered: Vec<_> = cases.iter().map(|(code, ..)| *code).collect();
        for code in LintCode::ALL {
            // It takes a file of its own, below.
            let is_covered = covered.contains(code) || *code == LintCode::TooManyFindings;
            assert!(is_covered, "{code} has no case");
        }
    }

    #[test]
    fn a_thousand_findings_are_kept_and_the_last_says_that_there_are_more() {
        let rules = |count| {
            let rules: Vec<_> = (0..count)
                .map(|n| format!(r#"{{"path": "/a{n}x*", TO_HOST}}"#))
                .collect();
            private(&rules.join(","))
        };
        let findings = found(&rules(MAX_FINDINGS - 1), EncodedSlash::Data);
        assert_eq!(findings.len(), MAX_FINDINGS - 1);
        let findings = found(&rules(MAX_FINDINGS + 1), EncodedSlash::Data);
        assert_eq!(findings.len(), MAX_FINDINGS + 1);
        let last = findings.last().unwrap();
        assert_eq!(
            (last.code(), last.place()),
            (LintCode::TooManyFindings, Place::File)
        );
    }

    #[test]
    fn a_finding_says_where_what_and_what_to_do() {
        let texts = |rules: &str| {
            let findings = found(&private(rules), EncodedSlash::Data);
            let texts: Vec<_> = findings.iter().map(Finding::to_string).collect();
            texts.join("\n")
        };
        assert_eq!(
            texts(r#"{"path": "/api/v1/pods*", TO_HOST}"#),
            "private[0]: \"path\" \"/api/v1/pods*\" also allows \"/api/v1/pods-x/y\"; write \
             \"/api/v1/pods\" for itself and \"/api/v1/pods/:name\" for what it holds [glued-asterisk]"
        );
        assert_eq!(
            texts(
                r#"{"path": "/a", "origin": "https://a"}, {"path": "/b", "origin": "https://a"}"#
            ),
            "private[0]: there is no \"auth\": the caller's own Authorization goes to \"https://a\" \
             (and in 1 more rule); write \"auth\": {\"scheme\": \"bearer\", \"token\": \"${TOKEN}\"}, \
             unless callers bring their own [passes-authorization]"
        );
        assert_eq!(
            texts(r#"{"path": "/:x", TO_HOST}, {"path": "/b", "origin": "https://${TOKEN}@a"}"#),
            "private[1]: \"path\" \"/b\" is never reached: private[0] (GET \"/:x\") matches all of it \
             first, so its own origin and credential are never used; put it before private[0], or \
             remove it [shadowed-rule]"
        );
    }

    #[test]
    fn no_finding_shows_a_credential() {
        let findings = found(
            &private(
                r#"{"path": "/*", "origin": "http://user:hunter2@localhost/"},
                   {"path": "/*", "origin": "http://localhost/", "auth": {"scheme": "raw", "token": "hunter2"}}"#,
            ),
            EncodedSlash::Data,
        );
        assert!(findings.len() > 4);
        for finding in findings {
            assert!(!finding.to_string().contains("hunter2"), "{finding}");
        }
    }

    #[test]
    fn an_origin_that_refuses_encoded_slashes_is_sound_with_parameters() {
        let rule = private(r#"{"path": "/api/v1/namespaces/:namespace/pods", TO_HOST}"#);
        let codes = |policy| {
            found(&rule, policy)
                .iter()
                .map(Finding::code)
                .collect::<Vec<_>>()
        };
        assert_eq!(codes(EncodedSlash::Data), [LintCode::EncodedSlash]);
        assert!(codes(EncodedSlash::Refuse).is_empty());
    }

    #[test]
    fn a_rule_that_only_a_refusing_one_precedes_is_reached() {
        let rules =
            r#"{"path": "/a/:b", "origin": "https://${TOKEN}@x"}, {"path": "/a/c", TO_HOST}"#;
        let file = RuleFile::parse(&private(rules).replace("TO_HOST", TO_HOST)).unwrap();
        let refuse_at = |origin| {
            let findings = lint(&file, now(), |text| match text == origin {
                true => EncodedSlash::Refuse,
                false => EncodedSlash::Data,
            });
            findings.len()
        };
        assert_eq!(refuse_at("https://x"), 0);
        assert_eq!(refuse_at("https://${HOST}"), 1);
    }

    #[test]
    fn rules_of_version_2_have_findings_too() {
        let codes = |rules: &str| codes(&version_2(rules)).join(" ");
        for (rules, expected) in [
            (r#"{"path": "/**", TO_HOST}"#, "catch-all"),
            (r#"{"path": "/*", TO_HOST}"#, ""),
            (r#"{"path": "/pods*", TO_HOST}"#, ""),
            (r#"{"path-to-regexp": "/pods*", TO_HOST}"#, "glued-asterisk"),
            (
                r#"{"path": "/a/**", TO_HOST}, {"path": "/a/*/b", TO_HOST}"#,
                "shadowed-rule",
            ),
            (
                r#"{"path": "/a/**", "expires": "2027-01-31", TO_HOST}, {"path": "/a/*/b", TO_HOST}"#,
                "",
            ),
            (
                r#"{"path": "/a/*", TO_HOST}, {"path": "/a/*", "encoded-slash": "data", TO_HOST}"#,
                "",
            ),
            (
                r#"{"path": "/a", "query": {"q": ["**"]}, TO_HOST}"#,
                "optional-query",
            ),
            (r#"{"path": "/a", "query": {"q": ["", "*"]}, TO_HOST}"#, ""),
            (
                r#"{"path": "/graphql", "methods": ["POST"], TO_HOST}"#,
                "open-graphql",
            ),
            (
                r#"{"path": "/status", "methods": "any", TO_HOST}"#,
                "write-method",
            ),
            (
                r#"{"path": "/api/v1/namespaces/*/pods", "encoded-slash": "data", TO_HOST}"#,
                "encoded-slash",
            ),
            (r#"{"path": "/api/v1/namespaces/*/pods", TO_HOST}"#, ""),
            (
                r#"{"path": "/api/v1/namespaces/*/*", TO_HOST}"#,
                "reaches-secrets",
            ),
        ] {
            assert_eq!(codes(rules), expected, "{rules}");
        }
    }

    #[test]
    fn a_kubernetes_rule_is_taken_at_its_word() {
        let codes_of = |verbs: &str, resources: &str| {
            codes(&version_2(&format!(
                r#"{{"kind": "kubernetes", "verbs": {verbs}, "resources": {resources},
                    "namespaces": ["shop"], TO_HOST}}"#
            )))
            .join(" ")
        };
        assert_eq!(codes_of(r#"["get"]"#, r#"["pods", "*"]"#), "");
        assert_eq!(codes_of(r#"["get"]"#, r#"["secrets"]"#), "reaches-secrets");
        assert_eq!(codes_of(r#"["delete"]"#, r#"["secrets"]"#), "");
        assert_eq!(
            codes_of(
                r#"["create"]"#,
                r#"["pods/exec", "pods/attach", "pods/proxy", "serviceaccounts/token"]"#
            ),
            "reaches-exec reaches-proxy issues-tokens"
        );
        let rule = r#"{"kind": "kubernetes", "verbs": ["get"], "resources": ["pods"],
            "namespaces": ["shop"], TO_HOST}"#;
        assert_eq!(
            codes(&version_2(&format!("{rule}, {rule}"))),
            ["duplicate-rule"]
        );
    }

    #[test]
    fn a_comment_that_says_read_is_taken_at_its_word() {
        let codes = |method: &str, comment: &str| {
            codes(&private(&format!(
                r#"{{"//": "{comment}", "method": "{method}", "path": "/a", TO_HOST}}"#
            )))
        };
        assert_eq!(codes("DELETE", "Get one item"), ["write-method"]);
        assert_eq!(codes("any", "list items"), ["write-method"]);
        assert!(codes("POST", "find items").is_empty());
        assert!(codes("PUT", "Getter of items").is_empty());
    }

    #[test]
    fn names_of_codes_differ() {
        let names: std::collections::HashSet<_> =
            LintCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(names.len(), LintCode::ALL.len());
    }
}

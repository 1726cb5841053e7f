//! Why a request is denied: the rule that comes nearest, and the first thing that differs from it.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::file::{MAX_SHOWN, quoted};
use crate::kubernetes::{KubernetesDifference, KubernetesRule};
use crate::question::{Question, UnreadableBody};
use crate::rule::{Fit, Pattern, Rule, RuleIndex};
use crate::rule_set::RuleSet;
use crate::target::RequestTarget;
use path::Alike;

mod path;
#[cfg(test)]
mod properties;

pub use path::PathDifference;
pub(crate) use path::Segment;

/// The rule that comes nearest to a denied request.
///
/// A rule whose whole path matches comes nearer than any other, and the later it fails, the nearer.
/// Among the others it is the one that has the most leading segments in common; none is near where
/// not even the first is alike. Of equals it is the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nearest {
    rule: RuleIndex,
    difference: Difference,
    /// What the request has there, cut: its method or a segment; nothing of other parts.
    found: Box<str>,
}

/// The first thing in which a request differs from what a rule allows, in the order of the variants;
/// the indexes are positions in the rule's own lists.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Difference {
    /// The path.
    Path(PathDifference),
    /// The path matches only with its `;parameters`.
    Parameters,
    /// What is asked of a Kubernetes API.
    Kubernetes(KubernetesDifference),
    /// The method.
    Method,
    /// The path has a `%2F`, which the rule or its origin refuses.
    EncodedSlash,
    /// The path has an escape that nothing needs, such as `%2E`, which the rule refuses.
    EncodedUnreserved,
    /// Who asks.
    Caller,
    /// Nothing: the rule's time is over.
    Expired,
    /// A header.
    Header {
        /// Which of the rule's conditions on headers.
        index: usize,
    },
    /// A query parameter.
    Query {
        /// Which of the rule's conditions on the query.
        index: usize,
    },
    /// The body is none that has one reading only.
    UnreadableBody(UnreadableBody),
    /// A value in the body.
    Body {
        /// Which of the rule's conditions on the body; where one of several suffices, the first.
        index: usize,
    },
    /// Nothing: the rule is turned off.
    Disabled,
}

/// The part of a request that differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Part {
    /// The method.
    Method,
    /// The path.
    Path,
    /// The query.
    Query,
    /// A header.
    Header,
    /// The body.
    Body,
    /// Who asks.
    Caller,
    /// None: the rule would match, and is not in force.
    Rule,
}

/// A [`Nearest`] in words, for the owner of the rules: it quotes them, and of the request the method
/// and a segment of the path. Values of the query, of headers and of the body never stand in it.
///
/// Shown it is one line, `private[3] GET /api/issues/*: the method differs (POST)`; serialized it is `{"rule": 3, "part": "path", "detail": "…"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The rule's position in its list.
    pub rule: usize,
    /// What differs.
    pub part: Part,
    /// What differs, in words.
    pub detail: String,
    #[serde(skip)]
    heading: String,
}

impl Nearest {
    /// The rule.
    pub fn rule(&self) -> RuleIndex {
        self.rule
    }

    /// The first thing that differs.
    pub fn difference(&self) -> &Difference {
        &self.difference
    }

    /// The same in words; `rules` is the set that denied.
    pub fn describe(&self, rules: &RuleSet) -> Explanation {
        let place = format!("{}[{}]", rules.list(), self.rule);
        let (heading, detail) = match rules.rules().get(self.rule.as_usize()) {
            Some(rule) => (
                format!("{place} {rule}"),
                self.difference.detail(rule, &self.found),
            ),
            None => (place, "it is not in this set of rules".to_owned()),
        };
        Explanation {
            rule: self.rule.as_usize(),
            part: self.difference.part(),
            detail,
            heading,
        }
    }

    pub(crate) fn find(rules: &[Rule], question: &Question<'_>) -> Option<Self> {
        let segments: Vec<_> = path::segments(question.target.path()).collect();
        let indexed = rules.iter().enumerate();
        // From the end, since of equals the last is taken.
        let compared = indexed.rev().filter_map(|(index, rule)| {
            let (closeness, difference) = compare(rule, question, &segments)?;
            Some((closeness, RuleIndex(index), difference))
        });
        let (closeness, rule, difference) = compared.max_by_key(|(closeness, ..)| *closeness)?;
        let found = difference.found(question, &segments);
        (closeness.segments > 0).then(|| Self {
            rule,
            difference,
            found: found.chars().take(MAX_SHOWN + 1).collect(),
        })
    }
}

/// How close a rule comes, the most important first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Closeness {
    /// Leading segments in common; the largest number where the whole path matches.
    segments: usize,
    method: bool,
    /// How late it fails; where the path differs, how many of the segments are literal.
    detail: usize,
}

/// How close a rule comes, and what differs first; none where it matches. `segments` are those of the
/// request's path.
fn compare(
    rule: &Rule,
    question: &Question<'_>,
    segments: &[&str],
) -> Option<(Closeness, Difference)> {
    let target = question.target;
    let method = rule.methods.contain(target.method());
    if !rule.pattern.matches(target) {
        let (alike, difference) = match &rule.pattern {
            Pattern::Kubernetes(own) => match kubernetes_difference(own, target)? {
                (alike, Difference::Kubernetes(KubernetesDifference::Verb)) if !method => {
                    (alike, Difference::Method)
                }
                differs => differs,
            },
            Pattern::PathToRegexp(_) | Pattern::Glob(_) => {
                let (alike, difference) = path::compare(rule, target.path(), segments);
                (alike, Difference::Path(difference))
            }
        };
        let closeness = Closeness {
            segments: alike.segments,
            method,
            detail: alike.literals,
        };
        return Some((closeness, difference));
    }
    let difference = if !rule.matches_without_parameters(target) {
        Difference::Parameters
    } else if !method {
        Difference::Method
    } else {
        match rule.fit(question) {
            Fit::Differs(difference) => difference,
            Fit::Matches | Fit::NeedsBody if rule.disabled => Difference::Disabled,
            Fit::Matches | Fit::NeedsBody => return None,
        }
    };
    let closeness = Closeness {
        segments: usize::MAX,
        method,
        detail: difference.stage(),
    };
    Some((closeness, difference))
}

/// A Kubernetes rule and a request have in common what comes before the difference; the numbers are
/// about those of the segments in `/api/v1/namespaces/shop/pods/web`.
fn kubernetes_difference(
    rule: &KubernetesRule,
    target: &RequestTarget,
) -> Option<(Alike, Difference)> {
    let difference = rule.difference(target)?;
    let segments = match difference {
        KubernetesDifference::Target => 0,
        KubernetesDifference::Resource => 1,
        KubernetesDifference::Namespace => 3,
        KubernetesDifference::Verb => 5,
        KubernetesDifference::Name => 5,
    };
    let alike = Alike {
        segments,
        literals: 0,
    };
    Some((alike, Difference::Kubernetes(difference)))
}

/// What a rule is about, in one line.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = shown(self.path());
        match &self.pattern {
            Pattern::Kubernetes(_) => f.write_str(&path),
            Pattern::PathToRegexp(_) | Pattern::Glob(_) => write!(f, "{} {path}", self.methods()),
        }
    }
}

impl Difference {
    /// The part of the request that it is about.
    pub fn part(&self) -> Part {
        match self {
            Self::Kubernetes(KubernetesDifference::Verb) | Self::Method => Part::Method,
            Self::Path(_)
            | Self::Parameters
            | Self::Kubernetes(_)
            | Self::EncodedSlash
            | Self::EncodedUnreserved => Part::Path,
            Self::Caller => Part::Caller,
            Self::Header { .. } => Part::Header,
            Self::Query { .. } => Part::Query,
            Self::UnreadableBody(_) | Self::Body { .. } => Part::Body,
            Self::Expired | Self::Disabled => Part::Rule,
        }
    }

    /// What the request has there, where that may be shown.
    fn found<'q>(&self, question: &Question<'q>, segments: &[&'q str]) -> &'q str {
        match self {
            Self::Method => question.target.method().as_str(),
            Self::Path(difference) => difference.found(segments),
            Self::Parameters
            | Self::Kubernetes(_)
            | Self::EncodedSlash
            | Self::EncodedUnreserved
            | Self::Caller
            | Self::Expired
            | Self::Header { .. }
            | Self::Query { .. }
            | Self::UnreadableBody(_)
            | Self::Body { .. }
            | Self::Disabled => "",
        }
    }

    fn stage(&self) -> usize {
        match self {
            Self::Path(_) => 0,
            Self::Parameters => 1,
            Self::Kubernetes(_) => 2,
            Self::Method => 3,
            Self::EncodedSlash => 4,
            Self::EncodedUnreserved => 5,
            Self::Caller => 6,
            Self::Expired => 7,
            Self::Header { .. } => 8,
            Self::Query { .. } => 9,
            Self::UnreadableBody(_) => 10,
            Self::Body { .. } => 11,
            Self::Disabled => 12,
        }
    }

    fn detail(&self, rule: &Rule, found: &str) -> String {
        let conditions = &rule.conditions;
        let no_value = |what: String| format!("{what} has no allowed value");
        match self {
            Self::Path(difference) => difference.detail(rule, found),
            Self::Parameters => "the path without its ;parameters is another one".to_owned(),
            Self::Kubernetes(KubernetesDifference::Target) => {
                "the path is not a resource's, or has more than one reading".to_owned()
            }
            Self::Kubernetes(KubernetesDifference::Resource) => {
                "the resource is not one of the rule's".to_owned()
            }
            Self::Kubernetes(KubernetesDifference::Namespace) => {
                "the namespace is not one of the rule's".to_owned()
            }
            Self::Kubernetes(KubernetesDifference::Verb) => {
                "the verb is not one of the rule's".to_owned()
            }
            Self::Kubernetes(KubernetesDifference::Name) => {
                "the name is not one of the rule's, or there is none".to_owned()
            }
            Self::Method => format!("the method differs ({})", shown(found)),
            Self::EncodedSlash => {
                "the path has a %2F, which the rule or its origin refuses".to_owned()
            }
            Self::EncodedUnreserved => {
                "the path has a %2D, %2E, %5F or %7E, which the rule refuses".to_owned()
            }
            Self::Caller => "the caller is not one of the rule's".to_owned(),
            Self::Expired => "the rule's time is over".to_owned(),
            Self::Header { index } => {
                let name = conditions.headers.get(*index).map(|it| &*it.name);
                no_value(format!("the header {}", quoted(name.unwrap_or_default())))
            }
            Self::Query { index } => {
                let name = conditions.query.get(*index).map(|it| &*it.name);
                let name = quoted(name.unwrap_or_default());
                no_value(format!("the query parameter {name}"))
            }
            Self::UnreadableBody(why) => why.to_string(),
            Self::Body { index } => {
                let path = conditions.body.list().get(*index);
                let path = path.map(|it| it.path.to_string()).unwrap_or_default();
                no_value(format!("the body at {}", quoted(&path)))
            }
            Self::Disabled => "the rule is turned off".to_owned(),
        }
    }
}

impl Part {
    /// A stable name for callers, logs and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Path => "path",
            Self::Query => "query",
            Self::Header => "header",
            Self::Body => "body",
            Self::Caller => "caller",
            Self::Rule => "rule",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Part {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.heading, self.detail)
    }
}

/// A text as in [`quoted`], without the quotes.
fn shown(text: &str) -> String {
    let quoted = quoted(text);
    let inside = quoted.get(1..quoted.len() - 1);
    inside.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;
    use crate::file::RuleFile;
    use crate::rule::{EncodedSlash, List};
    use crate::rule_set::Request;
    use crate::target::RequestTarget;
    use crate::{Decision, Denied};

    const RULES: &str = r#"{"private": [
        {"path": "/api/issues/search", "origin": "${O}"},
        {"method": "POST", "path": "/api/issues/:key/comments", "origin": "${O}"},
        {"path": "/api/components/*", "origin": "${O}"},
        {"path": "/browse*/*.tf", "origin": "${O}"},
        {"path": "/repos/:owner/:repo/contents/:path*/package.json", "origin": "${O}"},
        {"path": "/file", "origin": "${O}", "valid": [{"queryParam": "path", "values": ["**/a.json"]}]},
        {"path": "/sha", "origin": "${O}", "valid": [{"header": "accept", "values": ["sha"]}]},
        {"method": "POST", "path": "/hook", "origin": "${O}", "valid": [{"path": "a.b", "value": "open"}]},
        {"path": "/v/:id(\\d+)", "origin": "${O}"},
        {"path": "/go/*", "origin": "${GO}"}
    ]}"#;

    fn rules() -> RuleSet {
        let refuse_go = |origin: &str| match origin {
            "${GO}" => EncodedSlash::Refuse,
            _ => EncodedSlash::Data,
        };
        RuleSet::compile(&RuleFile::parse(RULES).unwrap(), List::Private, refuse_go)
    }

    /// A request, its headers as `name: value`.
    #[derive(Clone, Debug)]
    pub(super) struct Asked {
        pub(super) method: String,
        pub(super) target: String,
        pub(super) headers: Vec<(String, String)>,
        pub(super) body: String,
    }

    fn asked(method: &str, target: &str) -> Asked {
        Asked {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: "{}".to_owned(),
        }
    }

    /// Why `rules` deny it, if they do.
    pub(super) fn denial(rules: &RuleSet, asked: &Asked) -> Option<Denied> {
        let method = asked.method.parse().unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in &asked.headers {
            let name: http::HeaderName = name.parse().unwrap();
            headers.append(name, value.parse().unwrap());
        }
        let request = Request {
            target: RequestTarget::new(&method, &asked.target).unwrap(),
            headers,
            caller: "proxy".into(),
            now: std::time::SystemTime::UNIX_EPOCH,
        };
        match rules.decide(request) {
            Decision::Allow(_) => None,
            Decision::Deny(denied) => Some(denied),
            Decision::NeedsBody(pending) => {
                let body = asked.body.clone().into_bytes().into();
                rules.decide_with_body(pending, body).err().map(|it| *it)
            }
        }
    }

    #[track_caller]
    fn explained(asked: &Asked) -> String {
        let rules = rules();
        let denied = denial(&rules, asked).expect("it is denied");
        let nearest = denied.nearest();
        nearest.map_or_else(String::new, |nearest| nearest.describe(&rules).to_string())
    }

    #[test]
    fn the_nearest_rule_and_what_differs_are_told() {
        for (method, target, expected) in [
            (
                "POST",
                "/api/issues/search",
                "private[0] GET /api/issues/search: the method differs (POST)",
            ),
            (
                "GET",
                "/api/issues/7/comments",
                "private[1] POST /api/issues/:key/comments: the method differs (GET)",
            ),
            (
                "GET",
                "/api/users/search",
                "private[0] GET /api/issues/search: segment 2 \"users\" is not \"issues\"",
            ),
            (
                "POST",
                "/api/users/search",
                "private[1] POST /api/issues/:key/comments: segment 2 \"users\" is not \"issues\"",
            ),
            (
                "GET",
                "/api/issues/",
                "private[0] GET /api/issues/search: the path ends before segment 3 \"search\"",
            ),
            (
                "GET",
                "/api/issues/search/more",
                "private[0] GET /api/issues/search: segment 4 \"more\" is one too many",
            ),
            (
                "GET",
                "/api/components",
                "private[2] GET /api/components/*: the path ends before segment 3 \"*\"",
            ),
            (
                "GET",
                "/browse/prod/secrets.env",
                "private[3] GET /browse*/*.tf: the path does not end in \".tf\"",
            ),
            (
                "GET",
                "/browse/prod/secrets.env;.tf",
                "private[3] GET /browse*/*.tf: the path without its ;parameters is another one",
            ),
            (
                "GET",
                "/browse.tf",
                "private[3] GET /browse*/*.tf: the path does not match from segment 1 \"browse*\" on",
            ),
            (
                "GET",
                "/repos/a/b/contents/secrets.env",
                "private[4] GET /repos/:owner/:repo/contents/:path*/package.json: \
                 the path does not end in \"/package.json\"",
            ),
            (
                "GET",
                "/v/x",
                "private[8] GET /v/:id(\\\\d+): \
                 the path does not match from segment 2 \":id(\\\\d+)\" on",
            ),
            (
                "GET",
                "/go/a%2Fb",
                "private[9] GET /go/*: the path has a %2F, which the rule or its origin refuses",
            ),
        ] {
            assert_eq!(
                explained(&asked(method, target)),
                expected,
                "{method} {target}"
            );
        }
    }

    #[test]
    fn what_a_condition_asks_is_named_and_values_are_not() {
        let hook = asked("POST", "/hook");
        let sha = Asked {
            headers: vec![("accept".to_owned(), "canary".to_owned())],
            ..asked("GET", "/sha")
        };
        let coded = Asked {
            headers: vec![("content-encoding".to_owned(), "gzip".to_owned())],
            ..hook.clone()
        };
        let with_body = |body: &str| Asked {
            body: body.to_owned(),
            ..hook.clone()
        };
        for (asked, part, detail) in [
            (
                asked("GET", "/file?path=canary"),
                "query",
                "the query parameter \"path\" has no allowed value",
            ),
            (sha, "header", "the header \"accept\" has no allowed value"),
            (
                with_body(r#"{"a": {"b": "canary"}}"#),
                "body",
                "the body at \"a.b\" has no allowed value",
            ),
            (
                with_body(r#"{"canary": 1, "canary": 1}"#),
                "body",
                "the body has an object with a name twice",
            ),
            (coded, "body", "the body has a content coding"),
        ] {
            let rules = rules();
            let denied = denial(&rules, &asked).unwrap();
            let explanation = denied.nearest().unwrap().describe(&rules);
            assert_eq!(
                serde_json::to_value(&explanation).unwrap(),
                serde_json::json!({"rule": explanation.rule, "part": part, "detail": detail}),
            );
        }
    }

    #[test]
    fn rules_of_version_2_are_explained_alike() {
        let text = r#"{"version": 2, "private": [
            {"path": "/api/*/Search", "origin": "${O}"},
            {"path": "/tree/**", "origin": "${O}", "callers": ["portal"]},
            {"path": "/old", "origin": "${O}", "expires": "1970-01-01T00:00:00Z"},
            {"kind": "kubernetes", "verbs": ["get"], "resources": ["pods"], "namespaces": ["web"], "origin": "${K}"}
        ]}"#;
        let file = RuleFile::parse(text).unwrap_or_else(|errors| panic!("{errors}"));
        let rules = RuleSet::compile(&file, List::Private, |_| EncodedSlash::Data);
        for (target, part, expected) in [
            (
                "/api/x/search",
                "path",
                "segment 3 \"search\" is not \"Search\"",
            ),
            (
                "/api/x/Search/",
                "path",
                "only one of path and rule ends in a slash",
            ),
            ("/tree", "path", "the path ends before segment 2 \"**\""),
            ("/tree/a", "caller", "the caller is not one of the rule's"),
            (
                "/tree/a%2Fb",
                "path",
                "the path has a %2F, which the rule or its origin refuses",
            ),
            (
                "/tree/a%2Eb",
                "path",
                "the path has a %2D, %2E, %5F or %7E, which the rule refuses",
            ),
            ("/old", "rule", "the rule's time is over"),
            (
                "/api/v1/namespaces/web/pods",
                "method",
                "the verb is not one of the rule's",
            ),
            (
                "/api/v1/namespaces/db/pods/x",
                "path",
                "the namespace is not one of the rule's",
            ),
        ] {
            let denied = denial(&rules, &asked("GET", target)).unwrap();
            let explanation = denied.nearest().unwrap().describe(&rules);
            assert_eq!(
                (explanation.part.as_str(), explanation.detail.as_str()),
                (part, expected),
                "{target}: {explanation}"
            );
        }
        let denied = denial(&rules, &asked("GET", "/api/v1/namespaces/web/pods")).unwrap();
        let shown = denied.nearest().unwrap().describe(&rules).to_string();
        assert!(
            shown.starts_with("private[3] kubernetes: get pods in web: "),
            "{shown}"
        );
    }

    #[test]
    fn nothing_is_near_where_not_even_the_first_segment_is_alike() {
        for target in ["/", "/user", "/apis/issues"] {
            assert_eq!(explained(&asked("GET", target)), "", "{target}");
        }
        assert!(
            denial(&RuleSet::deny_all(), &asked("GET", "/"))
                .unwrap()
                .nearest()
                .is_none()
        );
    }

    #[test]
    fn a_rule_that_is_turned_off_is_named_for_that_alone() {
        let mut rules = rules();
        rules.disable(RuleIndex(0));
        let denied = denial(&rules, &asked("GET", "/api/issues/search")).unwrap();
        let explanation = denied.nearest().unwrap().describe(&rules);
        assert_eq!(
            (explanation.part, explanation.detail.as_str()),
            (Part::Rule, "the rule is turned off")
        );
        let denied = denial(&rules, &asked("PUT", "/api/issues/search")).unwrap();
        assert_eq!(denied.nearest().unwrap().difference().part(), Part::Method);
    }

    #[test]
    fn what_is_long_or_unprintable_is_cut_and_escaped() {
        let long = format!("/api/{}", "x".repeat(1000));
        let text = explained(&asked("GET", &long));
        assert!(
            text.ends_with("x…\" is not \"issues\"") && text.len() < 200,
            "{text}"
        );
    }
}

//! The rules in force, and the verdict that they give.

use std::time::SystemTime;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};

use crate::candidates::Candidates;
use crate::decision::{Allowed, AllowedParts, Decision, Denied, DenyReason, Pending};
use crate::explain::Nearest;
use crate::file::RuleFile;
use crate::question::{Question, ReadBody};
use crate::rule::{EncodedSlash, Fit, List, Rule, RuleIndex};
use crate::target::RequestTarget;

/// One list of rules, ready to decide: the first rule that matches allows, and no match is a deny.
#[derive(Clone, Debug)]
pub struct RuleSet {
    list: List,
    rules: Box<[Rule]>,
    candidates: Candidates,
}

impl RuleSet {
    /// Takes one list of a file; `policy` says what a `%2F` is to an origin, by its text as written.
    /// Where either the origin or a rule refuses it, it is refused.
    pub fn compile(file: &RuleFile, list: List, policy: impl Fn(&str) -> EncodedSlash) -> Self {
        let with_policy = |rule: &Rule| {
            let mut rule = rule.clone();
            let origin = rule.origin().map(|origin| policy(origin.as_str()));
            if origin == Some(EncodedSlash::Refuse) {
                rule.encoded_slash = EncodedSlash::Refuse;
            }
            rule
        };
        Self::of(list, file.rules(list).iter().map(with_policy).collect())
    }

    /// No rules: what is in force where there is no accept file.
    pub fn deny_all() -> Self {
        Self::of(List::Private, Box::default())
    }

    fn of(list: List, rules: Box<[Rule]>) -> Self {
        Self {
            list,
            candidates: Candidates::among(&rules),
            rules,
        }
    }

    /// Which list of the file it is.
    pub fn list(&self) -> List {
        self.list
    }

    /// The rules in order; [`RuleIndex`] is a position in it.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The rules, each with its place.
    pub fn indexed(&self) -> impl Iterator<Item = (RuleIndex, &Rule)> {
        (0..).map(RuleIndex).zip(&self.rules)
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether there are none, so that everything is denied.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Turns a rule off: it matches nothing, and the others keep their places.
    pub fn disable(&mut self, rule: RuleIndex) {
        self.candidates.remove(rule);
        if let Some(rule) = self.rules.get_mut(rule.as_usize()) {
            rule.disabled = true;
        }
    }

    /// Whether a rule asks for something in the body, so that a verdict may need it.
    pub fn needs_bodies(&self) -> bool {
        self.rules.iter().any(Rule::needs_body)
    }

    /// The verdict on `request`, as far as it can be given without the body.
    pub fn decide(&self, request: Request) -> Decision {
        match self.judge(&request, &ReadBody::NotRead, RuleIndex(0)) {
            Ok((rule, Fit::Matches)) => Decision::Allow(request.allowed(rule, None)),
            Ok((from, Fit::NeedsBody | Fit::Differs(_))) => {
                Decision::NeedsBody(Pending { request, from })
            }
            Err(nearest) => Decision::Deny(request.denied(self.no_match(), nearest)),
        }
    }

    /// The verdict on a request whose body is needed; `pending` must come from this set. A body that was
    /// judged as JSON is declared as JSON, where nothing says what it is.
    ///
    /// # Errors
    /// The request, denied.
    pub fn decide_with_body(&self, pending: Pending, body: Bytes) -> Result<Allowed, Box<Denied>> {
        let Pending { mut request, from } = pending;
        let read = ReadBody::read(&request.headers, &body);
        match self.judge(&request, &read, from) {
            Ok((rule, _)) => {
                if matches!(read, ReadBody::Read(_)) && self.asks_body(rule) {
                    declare_json(&mut request.headers);
                }
                Ok(request.allowed(rule, Some(body)))
            }
            Err(nearest) => Err(Box::new(request.denied(self.no_match(), nearest))),
        }
    }

    /// The first rule from `from` on that allows the request, or may with the right body; or the one
    /// that comes nearest.
    fn judge(
        &self,
        request: &Request,
        body: &ReadBody,
        from: RuleIndex,
    ) -> Result<(RuleIndex, Fit), Option<Nearest>> {
        let question = Question::new(
            &request.target,
            &request.headers,
            &request.caller,
            request.now,
            body,
        );
        for index in self.candidates.of(&request.target, from) {
            let rule = self
                .rules
                .get(index.as_usize())
                .expect("there is a candidate for each rule");
            if !rule.covers(&request.target) {
                continue;
            }
            match rule.fit(&question) {
                Fit::Differs(_) => {}
                fit @ (Fit::Matches | Fit::NeedsBody) => return Ok((index, fit)),
            }
        }
        Err(Nearest::find(&self.rules, &question))
    }

    fn asks_body(&self, rule: RuleIndex) -> bool {
        self.rules
            .get(rule.as_usize())
            .is_some_and(Rule::needs_body)
    }

    fn no_match(&self) -> DenyReason {
        if self.is_empty() {
            DenyReason::NoRules
        } else {
            DenyReason::NoMatch
        }
    }
}

/// Says that the body is JSON, where nothing says what it is: Rack would read it as a form, and find
/// fields in the texts that were judged.
fn declare_json(headers: &mut HeaderMap) {
    let json = HeaderValue::from_static("application/json");
    headers.entry(CONTENT_TYPE).or_insert(json);
}

/// Everything that a verdict may depend on.
#[derive(Debug)]
pub struct Request {
    /// What is asked for.
    pub target: RequestTarget,
    /// The headers that would be sent, hop-by-hop and reserved ones removed.
    pub headers: HeaderMap,
    /// The name of who asks.
    pub caller: Box<str>,
    /// The time of the request: a rule set has no clock of its own.
    pub now: SystemTime,
}

impl Request {
    fn allowed(self, rule: RuleIndex, body: Option<Bytes>) -> Allowed {
        Allowed {
            parts: AllowedParts {
                target: self.target,
                headers: self.headers,
                rule,
                caller: self.caller,
                body,
            },
        }
    }

    pub(crate) fn denied(self, reason: DenyReason, nearest: Option<Nearest>) -> Denied {
        Denied {
            target: self.target,
            caller: self.caller,
            reason,
            nearest,
            rule: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use proptest::prelude::*;

    use super::*;

    fn rules_of(text: &str, policy: EncodedSlash) -> RuleSet {
        RuleSet::compile(&RuleFile::parse(text).unwrap(), List::Private, |_| policy)
    }

    fn file(rules: &[(&str, &str)]) -> String {
        let rule = |(method, path): &(&str, &str)| {
            format!(r#"{{"method": "{method}", "path": "{path}", "origin": "https://host"}}"#)
        };
        format!(
            r#"{{"private": [{}]}}"#,
            rules.iter().map(rule).collect::<Vec<_>>().join(",")
        )
    }

    fn request(method: &str, target: &str) -> Request {
        let target = RequestTarget::new(&method.parse().unwrap(), target).unwrap();
        Request {
            target,
            headers: HeaderMap::new(),
            caller: "proxy".into(),
            now: SystemTime::UNIX_EPOCH,
        }
    }

    /// The index of the rule that allows, or the code of the reason to deny.
    fn verdict(rules: &RuleSet, method: &str, target: &str) -> String {
        match rules.decide(request(method, target)) {
            Decision::Allow(allowed) => allowed.rule().to_string(),
            Decision::NeedsBody(_) => "needs-body".to_owned(),
            Decision::Deny(denied) => denied.reason().code().to_owned(),
        }
    }

    #[test]
    fn without_rules_everything_is_denied() {
        assert_eq!(verdict(&RuleSet::deny_all(), "GET", "/"), "no-rules");
        assert_eq!(
            verdict(
                &rules_of(r#"{"private": []}"#, EncodedSlash::Data),
                "GET",
                "/"
            ),
            "no-rules"
        );
        let public = RuleFile::parse(r#"{"public": [{"method": "any", "path": "/*"}]}"#).unwrap();
        let private = RuleSet::compile(&public, List::Private, |_| EncodedSlash::Data);
        assert_eq!(verdict(&private, "GET", "/"), "no-rules");
    }

    #[test]
    fn a_path_must_match_also_as_it_reads_without_parameters() {
        let text = file(&[
            ("GET", "/browse*/*.tf"),
            ("GET", "/view/:id"),
            ("GET", "/m;v=1/x"),
        ]);
        let rules = rules_of(&text, EncodedSlash::Data);
        for (target, expected) in [
            ("/browse/prod/main.tf", "0"),
            ("/browse/prod/main.tf;v=1", "no-match"),
            ("/browse/prod/secrets.env;.tf", "no-match"),
            ("/browse/prod/secrets.env%3b/x.tf", "0"),
            ("/browse/prod/secrets.env%3B.tf", "no-match"),
            ("/view/7;jsessionid=8", "1"),
            ("/m;v=1/x", "2"),
        ] {
            assert_eq!(verdict(&rules, "GET", target), expected, "{target}");
        }
    }

    #[test]
    fn the_first_matching_rule_allows_and_no_match_denies() {
        let text = file(&[
            ("GET", "/a/:b"),
            ("any", "/a/*"),
            ("post", "/b"),
            ("GET", "/a/b"),
        ]);
        let rules = rules_of(&text, EncodedSlash::Data);
        for (method, target, expected) in [
            ("GET", "/a/b", "0"),
            ("GET", "/A/b/?c=d", "0"),
            ("GET", "/a/b/c", "1"),
            ("POST", "/a/b", "1"),
            ("QUERY", "/a/b", "1"),
            ("POST", "/b", "2"),
            ("GET", "/b", "no-match"),
            ("post", "/b", "no-match"),
            ("get", "/a/b", "1"),
            ("HEAD", "/a", "no-match"),
            ("GET", "/", "no-match"),
            ("TRACE", "/a/b", "no-match"),
            ("CONNECT", "/a/b", "no-match"),
        ] {
            assert_eq!(
                verdict(&rules, method, target),
                expected,
                "{method} {target}"
            );
        }
    }

    #[test]
    fn the_query_never_decides() {
        let rules = rules_of(&file(&[("GET", "/a")]), EncodedSlash::Data);
        for target in ["/a?", "/a?/../b", "/a?x=http://y"] {
            assert_eq!(verdict(&rules, "GET", target), "0", "{target}");
        }
        assert_eq!(verdict(&rules, "GET", "/b?/a"), "no-match");
    }

    #[test]
    fn an_origin_that_refuses_encoded_slashes_never_sees_one() {
        let text = r#"{"private": [
            {"path": "/api/*", "origin": "${GO}"},
            {"path": "/api/p/*", "origin": "${OTHER}"}
        ]}"#;
        let refuse_go = |origin: &str| match origin {
            "${GO}" => EncodedSlash::Refuse,
            _ => EncodedSlash::Data,
        };
        let rules = RuleSet::compile(&RuleFile::parse(text).unwrap(), List::Private, refuse_go);
        assert_eq!(verdict(&rules, "GET", "/api/p/x"), "0");
        assert_eq!(verdict(&rules, "GET", "/api/p/x%2Fy"), "1");
        assert_eq!(verdict(&rules, "GET", "/api/p/x%2fy"), "1");
        assert_eq!(verdict(&rules, "GET", "/api/q/x%2Fy"), "no-match");
        assert_eq!(verdict(&rules, "GET", "/api/q/x?y=%2F"), "0");
    }

    #[test]
    fn an_allowed_request_is_the_one_that_was_judged() {
        let rules = rules_of(&file(&[("GET", "/a%2f:b")]), EncodedSlash::Data);
        let mut asked = request("GET", "/A%2Fb?c");
        asked.headers.insert("accept", "text/html".parse().unwrap());
        let Decision::Allow(allowed) = rules.decide(asked) else {
            panic!("the rule matches")
        };
        let AllowedParts {
            target,
            headers,
            rule,
            caller,
            body,
        } = allowed.into_parts();
        assert_eq!(
            (target.as_str(), target.method()),
            ("/A%2Fb?c", &Method::GET)
        );
        assert_eq!(headers["accept"], "text/html");
        assert_eq!((rule.as_usize(), &*caller, body), (0, "proxy", None));
    }

    #[test]
    fn a_body_that_was_judged_as_json_is_sent_as_json() {
        let text = r#"{"private": [
            {"path": "/a", "origin": "h", "valid": [{"path": "b", "value": "c"}]},
            {"path": "/a", "origin": "h"}
        ]}"#;
        let rules = rules_of(text, EncodedSlash::Data);
        let sent = |headers: &[(&'static str, &str)], body: &'static str| {
            let mut asked = request("GET", "/a");
            for (name, value) in headers {
                asked.headers.insert(*name, value.parse().unwrap());
            }
            let Decision::NeedsBody(pending) = rules.decide(asked) else {
                panic!("the first rule asks for the body")
            };
            let allowed = rules.decide_with_body(pending, Bytes::from_static(body.as_bytes()));
            let headers = allowed.unwrap().into_parts().headers;
            let value = headers.get("content-type");
            value.map(|value| value.to_str().unwrap().to_owned())
        };
        let json = |text: &str| Some(text.to_owned());
        let judged = r#"{"b": "c"}"#;
        assert_eq!(sent(&[], judged), json("application/json"));
        let of_the_caller = [("content-type", "application/x+json")];
        assert_eq!(sent(&of_the_caller, judged), json("application/x+json"));
        for not_judged in ["", "b=c", r#"{"b": "d"}"#] {
            assert_eq!(sent(&[], not_judged), None, "{not_judged}");
        }
    }

    #[test]
    fn a_denied_request_says_who_asked_for_what() {
        let Decision::Deny(denied) = RuleSet::deny_all().decide(request("GET", "/x?y")) else {
            panic!("there are no rules")
        };
        assert_eq!(
            (denied.target().as_str(), denied.caller()),
            ("/x?y", "proxy")
        );
    }

    fn some_rules() -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
        let methods = prop::sample::select(vec!["GET", "POST", "any"]);
        let paths = prop::sample::select(vec![
            "/*", "/a", "/a/", "/a/*", "/a*", "/:x", "/:x/b", "/a/:x?", "/a/:x*/b", "/:x(a|b)",
            "/:x.:y?",
        ]);
        prop::collection::vec((methods, paths), 0..6)
    }

    proptest! {
        #[test]
        fn removing_a_rule_never_allows_more(
            rules in some_rules(),
            removed in any::<prop::sample::Index>(),
            method in prop::sample::select(vec!["GET", "POST", "PUT"]),
            target in "/([ab.]|%2F){0,3}(/[abAB]{1,2}){0,2}/?",
        ) {
            prop_assume!(!rules.is_empty() && RequestTarget::new(&Method::GET, &target).is_ok());
            let mut fewer = rules.clone();
            fewer.remove(removed.index(rules.len()));
            let is_allowed = |rules: &[(&str, &str)]| {
                let rules = rules_of(&file(rules), EncodedSlash::Data);
                matches!(rules.decide(request(method, &target)), Decision::Allow(_))
            };
            prop_assert!(is_allowed(&rules) || !is_allowed(&fewer));
        }

        #[test]
        fn the_case_of_a_path_never_decides(rules in some_rules(), target in "(/[ab]{1,2}){1,3}/?") {
            let rules = rules_of(&file(&rules), EncodedSlash::Data);
            let upper = target.to_uppercase();
            prop_assert_eq!(verdict(&rules, "GET", &target), verdict(&rules, "GET", &upper));
        }
    }
}

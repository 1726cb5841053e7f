//! What the targets share: asking a rule file about a request, and what must hold of every answer.

use std::time::SystemTime;

use accept_rules::{Decision, EncodedSlash, List, Request, RequestTarget, RuleFile, RuleSet};
use bytes::Bytes;
use http::{HeaderMap, Method};

/// A request, in texts.
#[derive(Clone, Debug, arbitrary::Arbitrary)]
pub struct Question<'a> {
    pub method: MethodName,
    pub target: &'a str,
    pub header: Option<(&'a str, &'a [u8])>,
    pub body: &'a [u8],
}

#[derive(Clone, Copy, Debug, arbitrary::Arbitrary)]
pub enum MethodName {
    Get,
    Post,
    Trace,
}

impl Question<'_> {
    /// None where no such request can be asked about.
    pub fn request(&self) -> Option<Request> {
        let method = match self.method {
            MethodName::Get => Method::GET,
            MethodName::Post => Method::POST,
            MethodName::Trace => Method::TRACE,
        };
        let mut headers = HeaderMap::new();
        if let Some((name, value)) = self.header {
            headers.insert(
                http::HeaderName::from_bytes(name.as_bytes()).ok()?,
                http::HeaderValue::from_bytes(value).ok()?,
            );
        }
        Some(Request {
            target: RequestTarget::new(&method, self.target).ok()?,
            headers,
            caller: "fuzz".into(),
            now: SystemTime::UNIX_EPOCH,
        })
    }
}

/// The rules of a text, private or none.
pub fn rules(text: &str) -> Option<RuleSet> {
    let file = RuleFile::parse(text).ok()?;
    Some(RuleSet::compile(&file, List::Private, |_| {
        EncodedSlash::Data
    }))
}

/// The index of the rule that allows `request`; a verdict's own promises are checked on the way.
pub fn verdict(rules: &RuleSet, request: Request, body: &[u8]) -> Option<usize> {
    let (target, headers) = (request.target.clone(), request.headers.clone());
    let decision = match rules.decide(request) {
        Decision::Allow(allowed) => Ok(allowed),
        Decision::NeedsBody(pending) => {
            rules.decide_with_body(pending, Bytes::copy_from_slice(body))
        }
        Decision::Deny(denied) => Err(Box::new(denied)),
    };
    match decision {
        Ok(allowed) => {
            let parts = allowed.into_parts();
            assert_eq!((parts.target, parts.headers), (target, headers));
            assert!(parts.body.is_none_or(|judged| judged == body));
            assert!(
                rules.rules()[parts.rule.as_usize()]
                    .methods()
                    .contain(&Method::GET)
                    || rules.rules()[parts.rule.as_usize()]
                        .methods()
                        .contain(&Method::POST)
            );
            Some(parts.rule.as_usize())
        }
        Err(denied) => {
            assert_eq!(*denied.target(), target);
            None
        }
    }
}

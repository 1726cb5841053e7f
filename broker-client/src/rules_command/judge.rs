//! A request, put to the rules the way the agent puts it.

use std::time::SystemTime;

use accept_rules::{BodyRefusal, Decision, Denied, Request, RuleIndex, RuleSet};
use broker_protocol::hop;
use bytes::Bytes;
use http::{HeaderMap, Method};

use crate::ambiguous::{Ambiguous, target_of};

/// A request as somebody describes it.
pub(super) struct Asked {
    pub(super) method: Method,
    /// Path and query.
    pub(super) target: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// Empty where nobody is named.
    pub(super) caller: String,
    pub(super) time: SystemTime,
}

/// What becomes of it.
#[derive(Debug)]
pub(super) enum Verdict {
    Allowed(RuleIndex),
    Denied(Box<Denied>),
    /// It has no single reading, so no rule is asked.
    Ambiguous(Ambiguous),
}

/// Takes the agent's steps: what never travels is removed, then target, decision, and the decision with the body.
pub(super) fn judge(rules: &RuleSet, body_limit: usize, asked: Asked) -> Verdict {
    let mut headers = asked.headers;
    hop::remove_from_request(&mut headers);
    let target = match target_of(&asked.method, &asked.target, &headers) {
        Ok(target) => target,
        Err(error) => return Verdict::Ambiguous(error),
    };
    let request = Request {
        target,
        headers,
        caller: asked.caller.into(),
        now: asked.time,
    };
    let decided = match rules.decide(request) {
        Decision::Allow(allowed) => Ok(allowed),
        Decision::Deny(denied) => Err(Box::new(denied)),
        Decision::NeedsBody(pending) if asked.body.len() > body_limit => {
            Err(Box::new(pending.deny(BodyRefusal::TooLarge)))
        }
        Decision::NeedsBody(pending) => rules.decide_with_body(pending, asked.body),
    };
    match decided {
        Ok(allowed) => Verdict::Allowed(allowed.rule()),
        Err(denied) => Verdict::Denied(denied),
    }
}

impl Verdict {
    /// `allow` or `deny`, as the audit log has it.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Allowed(_) => "allow",
            Self::Denied(_) | Self::Ambiguous(_) => "deny",
        }
    }

    /// The rule that allows it.
    pub(super) fn rule(&self) -> Option<usize> {
        match self {
            Self::Allowed(rule) => Some(rule.as_usize()),
            Self::Denied(_) | Self::Ambiguous(_) => None,
        }
    }

    /// The stable code of the reason, as the audit log has it.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Allowed(_) => "match",
            Self::Denied(denied) => denied.reason().code(),
            Self::Ambiguous(error) => error.code(),
        }
    }
}

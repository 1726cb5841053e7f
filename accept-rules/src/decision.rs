//! The verdict on one request.

use http::HeaderMap;

use crate::rule::RuleIndex;
use crate::target::RequestTarget;

/// A verdict, which owns the request that it is about.
#[derive(Debug)]
pub enum Decision {
    /// A rule matches.
    Allow(Allowed),
    /// No rule matches.
    Deny(Denied),
}

/// A request that a rule allows. Only [`RuleSet::decide`](crate::RuleSet::decide) makes one, out of
/// the very values that it judged.
#[derive(Debug)]
pub struct Allowed {
    pub(crate) parts: AllowedParts,
}

impl Allowed {
    /// The target as it was judged.
    pub fn target(&self) -> &RequestTarget {
        &self.parts.target
    }

    /// The headers as they were judged.
    pub fn headers(&self) -> &HeaderMap {
        &self.parts.headers
    }

    /// The rule that allows it.
    pub fn rule(&self) -> RuleIndex {
        self.parts.rule
    }

    /// Who asks.
    pub fn caller(&self) -> &str {
        &self.parts.caller
    }

    /// The request, to be sent.
    pub fn into_parts(self) -> AllowedParts {
        self.parts
    }
}

/// What an [`Allowed`] is made of.
#[derive(Debug)]
#[non_exhaustive]
pub struct AllowedParts {
    /// The target as it was judged.
    pub target: RequestTarget,
    /// The headers as they were judged.
    pub headers: HeaderMap,
    /// The rule that allows it.
    pub rule: RuleIndex,
    /// Who asks.
    pub caller: Box<str>,
}

/// A request that no rule allows.
#[derive(Debug)]
pub struct Denied {
    pub(crate) target: RequestTarget,
    pub(crate) caller: Box<str>,
    pub(crate) reason: DenyReason,
}

impl Denied {
    /// The target as it was judged.
    pub fn target(&self) -> &RequestTarget {
        &self.target
    }

    /// Who asked.
    pub fn caller(&self) -> &str {
        &self.caller
    }

    /// Why it is denied.
    pub fn reason(&self) -> DenyReason {
        self.reason
    }
}

/// Why a request is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DenyReason {
    /// There are no rules at all.
    NoRules,
    /// There are rules, and none matches.
    NoMatch,
}

impl DenyReason {
    /// A stable name for logs and records.
    pub fn code(self) -> &'static str {
        match self {
            Self::NoRules => "no-rules",
            Self::NoMatch => "no-match",
        }
    }
}

//! The verdict on one request.

use bytes::Bytes;
use http::HeaderMap;

use crate::explain::Nearest;
use crate::rule::RuleIndex;
use crate::rule_set::Request;
use crate::target::RequestTarget;

/// A verdict, which owns the request that it is about.
#[derive(Debug)]
pub enum Decision {
    /// A rule matches.
    Allow(Allowed),
    /// The first rule that may match asks for something in the body.
    NeedsBody(Pending),
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

    /// Denies it after all, by the same rule.
    pub fn hold_back(self, why: HeldBack) -> Denied {
        Denied {
            target: self.parts.target,
            caller: self.parts.caller,
            reason: DenyReason::HeldBack(why),
            nearest: None,
            rule: Some(self.parts.rule),
        }
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
    /// The body as it was judged; none where the rules did not ask for it.
    pub body: Option<Bytes>,
}

/// A request whose verdict needs its body: for
/// [`RuleSet::decide_with_body`](crate::RuleSet::decide_with_body), or refused without.
#[derive(Debug)]
pub struct Pending {
    pub(crate) request: Request,
    /// The first rule that may match.
    pub(crate) from: RuleIndex,
}

impl Pending {
    /// The headers that came with the body.
    pub fn headers(&self) -> &HeaderMap {
        &self.request.headers
    }

    /// Denies it, for a body that cannot be had.
    pub fn deny(self, why: BodyRefusal) -> Denied {
        let reason = match why {
            BodyRefusal::TooLarge => DenyReason::BodyTooLarge,
            BodyRefusal::NoPlace => DenyReason::NoPlaceForBody,
            BodyRefusal::Incomplete => DenyReason::BodyIncomplete,
        };
        self.request.denied(reason, None)
    }

    /// Who asks.
    pub fn caller(&self) -> &str {
        &self.request.caller
    }

    /// Denies it before its body is looked at, though a rule may allow it.
    pub fn hold_back(self, why: HeldBack) -> Denied {
        self.request.denied(DenyReason::HeldBack(why), None)
    }
}

/// Why there is no body to judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyRefusal {
    /// It is longer than may be kept for judging.
    TooLarge,
    /// As many as may be are being kept.
    NoPlace,
    /// It broke off.
    Incomplete,
}

/// A request that no rule allows, or that its rule holds back.
#[derive(Debug)]
pub struct Denied {
    pub(crate) target: RequestTarget,
    pub(crate) caller: Box<str>,
    pub(crate) reason: DenyReason,
    pub(crate) nearest: Option<Nearest>,
    pub(crate) rule: Option<RuleIndex>,
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

    /// The rule that holds it back; `None` where none matches.
    pub fn rule(&self) -> Option<RuleIndex> {
        self.rule
    }

    /// The rule that comes nearest, and the first thing that differs from it.
    pub fn nearest(&self) -> Option<&Nearest> {
        self.nearest.as_ref()
    }
}

/// Why a request does not pass though a rule allows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HeldBack {
    /// As many as may came in this period.
    Rate,
    /// As many as may are under way.
    Concurrency,
    /// All of the agent is paused.
    AgentPaused,
    /// The rule is paused.
    RulePaused,
    /// A rule is paused, and nobody can say whether it is this one.
    PausedRuleUnknown,
}

/// Why a request is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DenyReason {
    /// There are no rules at all.
    NoRules,
    /// There are rules, and none matches.
    NoMatch,
    /// The body that a rule asks for is longer than may be kept for judging.
    BodyTooLarge,
    /// There is no place to keep the body that a rule asks for.
    NoPlaceForBody,
    /// The body that a rule asks for broke off.
    BodyIncomplete,
    /// A rule allows it, and not now.
    HeldBack(HeldBack),
}

impl DenyReason {
    /// Every reason.
    pub const ALL: [Self; 10] = [
        Self::NoRules,
        Self::NoMatch,
        Self::BodyTooLarge,
        Self::NoPlaceForBody,
        Self::BodyIncomplete,
        Self::HeldBack(HeldBack::Rate),
        Self::HeldBack(HeldBack::Concurrency),
        Self::HeldBack(HeldBack::AgentPaused),
        Self::HeldBack(HeldBack::RulePaused),
        Self::HeldBack(HeldBack::PausedRuleUnknown),
    ];

    /// A stable name for logs and records.
    pub fn code(self) -> &'static str {
        match self {
            Self::NoRules => "no-rules",
            Self::NoMatch => "no-match",
            Self::BodyTooLarge => "body-too-large",
            Self::NoPlaceForBody => "no-place-for-body",
            Self::BodyIncomplete => "body-incomplete",
            Self::HeldBack(HeldBack::Rate) => "rate-limited",
            Self::HeldBack(HeldBack::Concurrency) => "concurrency-limited",
            Self::HeldBack(HeldBack::AgentPaused) => "agent-paused",
            Self::HeldBack(HeldBack::RulePaused) => "rule-paused",
            Self::HeldBack(HeldBack::PausedRuleUnknown) => "paused-rule-unknown",
        }
    }
}

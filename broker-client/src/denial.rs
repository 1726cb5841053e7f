//! What a caller is told of a denied request; its owner is told more, in log, record and status.

use std::time::Duration;

use accept_rules::{Denied, DenyReason, Explanation, HeldBack, Part, RuleSet};
use broker_protocol::{ErrorCode, Problem};

use crate::config::{ExplainToCallers, Explaining};

/// What the callers of paused requests are told, also where one was under way.
pub(crate) const PAUSED: &str = "the agent's owner has paused what allows this request";

/// A denied request, and the rule that came nearest, where one did.
pub(crate) struct Denial {
    pub(crate) denied: Box<Denied>,
    pub(crate) nearest: Option<Explanation>,
    /// When to try again, where that is known.
    pub(crate) retry_after: Option<Duration>,
}

impl Denial {
    pub(crate) fn of(denied: Box<Denied>, rules: &RuleSet) -> Self {
        Self {
            nearest: denied.nearest().map(|nearest| nearest.describe(rules)),
            denied,
            retry_after: None,
        }
    }

    /// Of a request that a rule may allow, and that does not pass now.
    pub(crate) fn held_back(denied: Denied, retry_after: Option<Duration>) -> Self {
        Self {
            denied: Box::new(denied),
            nearest: None,
            retry_after,
        }
    }

    pub(crate) fn code(&self) -> ErrorCode {
        match self.denied.reason() {
            DenyReason::NoRules | DenyReason::NoMatch => ErrorCode::Denied,
            DenyReason::BodyTooLarge => ErrorCode::BodyTooLarge,
            DenyReason::NoPlaceForBody => ErrorCode::Overloaded,
            DenyReason::BodyIncomplete => ErrorCode::BadRequest,
            DenyReason::HeldBack(HeldBack::Rate | HeldBack::Concurrency) => ErrorCode::RateLimited,
            DenyReason::HeldBack(
                HeldBack::AgentPaused | HeldBack::RulePaused | HeldBack::PausedRuleUnknown,
            ) => ErrorCode::AgentPaused,
        }
    }

    /// Adds to `problem` what the settings let the caller know.
    pub(crate) fn tell(&self, problem: Problem, explaining: &Explaining) -> Problem {
        let target = self.denied.target();
        let problem = problem
            .detail(self.detail())
            .with("method", target.method().as_str())
            .with("path", target.path());
        match self.denied.reason() {
            DenyReason::NoRules => with_contact(problem, explaining),
            DenyReason::NoMatch => {
                with_contact(self.tell_difference(problem, explaining), explaining)
            }
            DenyReason::BodyTooLarge | DenyReason::NoPlaceForBody | DenyReason::BodyIncomplete => {
                problem
            }
            DenyReason::HeldBack(_) => {
                let problem = problem.with("reason", self.denied.reason().code());
                match self.retry_after {
                    Some(wait) => problem.retry_after(wait),
                    None => problem,
                }
            }
        }
    }

    fn detail(&self) -> &'static str {
        match self.denied.reason() {
            DenyReason::NoRules | DenyReason::NoMatch => {
                "the agent's owner sees why in `broker-client status` and in the audit log, under this request id"
            }
            DenyReason::BodyTooLarge => {
                "a rule asks about this body, and it is longer than the agent keeps for judging (`rules.body-limit`)"
            }
            DenyReason::NoPlaceForBody => {
                "a rule asks about this body, and the agent keeps as many bodies as it may: try again"
            }
            DenyReason::BodyIncomplete => {
                "a rule asks about this body, and it did not come to its end in time"
            }
            DenyReason::HeldBack(HeldBack::Rate) => {
                "the agent's owner limits how many such requests pass in a time: try again after `Retry-After`"
            }
            DenyReason::HeldBack(HeldBack::Concurrency) => {
                "the agent's owner limits how many such requests are under way at once: try again when one has ended"
            }
            DenyReason::HeldBack(
                HeldBack::AgentPaused | HeldBack::RulePaused | HeldBack::PausedRuleUnknown,
            ) => PAUSED,
        }
    }

    fn tell_difference(&self, problem: Problem, explaining: &Explaining) -> Problem {
        // Where no rule is near, none has a path that begins like this one.
        let part = self
            .nearest
            .as_ref()
            .map_or(Part::Path, |nearest| nearest.part);
        match (explaining.to_callers, &self.nearest) {
            (ExplainToCallers::None, _) => problem,
            (ExplainToCallers::Part, _) | (ExplainToCallers::Nearest, None) => {
                problem.with("differs", part.as_str())
            }
            (ExplainToCallers::Nearest, Some(nearest)) => problem
                .with("differs", part.as_str())
                .with("rule", nearest.rule)
                .with("nearest", nearest.to_string()),
        }
    }
}

fn with_contact(problem: Problem, explaining: &Explaining) -> Problem {
    match &explaining.contact {
        Some(contact) => problem.with("contact", contact.as_str()),
        None => problem,
    }
}

//! How much each caller may ask for, whatever the rule.

use std::fmt::Display;
use std::num::NonZeroU64;
use std::str::FromStr;

use accept_rules::{RequestLimits, RuleLimits};
use broker_process::settings::{Settings, shown};

use super::table;

/// What holds beside the limits of the rules.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LimitSettings {
    /// Of each caller, over all rules.
    pub per_caller: RequestLimits,
    /// Longest body of an answer, in bytes.
    pub response_size: Option<NonZeroU64>,
}

impl LimitSettings {
    /// As a rule would have them.
    pub(crate) fn as_rule(self) -> RuleLimits {
        let mut limits = RuleLimits::default();
        limits.per_caller = self.per_caller;
        limits.response_size = self.response_size;
        limits
    }
}

pub(super) fn limits(settings: &Settings<'_>) -> LimitSettings {
    LimitSettings {
        per_caller: RequestLimits {
            rate: settings.optional(&table::CALLER_RATE, |text| {
                text.parse()
                    .map_err(|error| format!("{}: {error}", shown(text)))
            }),
            concurrency: settings.optional(&table::CALLER_CONCURRENCY, count),
        },
        response_size: settings.optional(&table::RESPONSE_SIZE, count),
    }
}

fn count<N: FromStr>(text: &str) -> Result<N, impl Display + use<N>> {
    let wrong = || format!("{} is not a whole number, at least 1", shown(text));
    text.parse().map_err(|_| wrong())
}

//! How much of what a rule allows may happen: the numbers alone. Who counts is elsewhere, since this
//! crate has no clock.

use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

/// What a rule limits; what is absent has no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuleLimits {
    /// Of all its callers together.
    pub together: RequestLimits,
    /// Of each of its callers.
    pub per_caller: RequestLimits,
    /// Longest body of an answer, in bytes.
    pub response_size: Option<NonZeroU64>,
}

/// How many requests there may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestLimits {
    /// In a time.
    pub rate: Option<Rate>,
    /// At once.
    pub concurrency: Option<NonZeroU32>,
}

/// So many requests in a second, a minute or an hour, all of which may come at once: `100/m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    requests: NonZeroU32,
    unit: Unit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Second,
    Minute,
    Hour,
}

/// A text that is no [`Rate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("write a number and a time such as \"100/m\"; the time is s, m or h")]
pub struct RateError;

impl Rate {
    /// How many.
    pub fn requests(self) -> NonZeroU32 {
        self.requests
    }

    /// In which time.
    pub fn period(self) -> Duration {
        Duration::from_secs(match self.unit {
            Unit::Second => 1,
            Unit::Minute => 60,
            Unit::Hour => 60 * 60,
        })
    }
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let (requests, unit) = text.split_once('/').ok_or(RateError)?;
        let unit = match unit {
            "s" => Unit::Second,
            "m" => Unit::Minute,
            "h" => Unit::Hour,
            _ => return Err(RateError),
        };
        let requests = requests.parse().map_err(|_| RateError)?;
        Ok(Self { requests, unit })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            Unit::Second => 's',
            Unit::Minute => 'm',
            Unit::Hour => 'h',
        };
        write!(f, "{}/{unit}", self.requests)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_and_a_time() {
        for (text, requests, seconds) in [("1/s", 1, 1), ("100/m", 100, 60), ("5/h", 5, 3600)] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!(rate.requests().get(), requests);
            assert_eq!(rate.period(), Duration::from_secs(seconds));
            assert_eq!(rate.to_string(), text);
        }
        for wrong in [
            "",
            "1",
            "0/s",
            "-1/s",
            "1/d",
            "1/s/s",
            "1 /s",
            "4294967296/s",
        ] {
            assert_eq!(wrong.parse::<Rate>(), Err(RateError), "{wrong}");
        }
    }
}

//! How many requests of what the rules allow may pass: in a time, at once, and of each caller.
//!
//! A request that a limit holds back is answered at once and never queued. The counts are of one process, and begin
//! anew where another accept file takes over.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use accept_rules::{HeldBack, Rate, RequestLimits, RuleLimits};
use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Callers that are counted one by one; those beyond count as one. Names come from the server.
const MAX_CALLERS: usize = 1_000;

/// When to come again where requests under way are the limit: nobody knows when they end.
const AFTER_CONCURRENCY: Duration = Duration::from_secs(1);

/// What limits one rule, or everything that each caller asks for.
pub(crate) struct Limiter {
    per_caller: Option<Callers>,
    together: Option<Gate>,
}

/// The places that a request takes while it is under way.
#[derive(Default)]
pub(crate) struct Permit(Vec<OwnedSemaphorePermit>);

/// A limit was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reached {
    pub(crate) why: HeldBack,
    pub(crate) retry_after: Duration,
}

impl Limiter {
    pub(crate) fn new(limits: RuleLimits) -> Self {
        let some = |limits: RequestLimits| (limits != RequestLimits::default()).then_some(limits);
        Self {
            per_caller: some(limits.per_caller).map(Callers::new),
            together: some(limits.together).map(Gate::new),
        }
    }

    /// Lets one request of `caller` pass, whose places `permit` keeps. The caller's own limit comes first, so that
    /// what it holds back takes nothing from others.
    pub(crate) fn admit(&self, caller: &str, permit: &mut Permit) -> Result<(), Reached> {
        if let Some(callers) = &self.per_caller {
            callers.gate(caller).admit(permit)?;
        }
        match &self.together {
            Some(gate) => gate.admit(permit),
            None => Ok(()),
        }
    }
}

/// Each caller's requests.
struct Callers {
    limits: RequestLimits,
    by_name: Mutex<HashMap<Box<str>, Arc<Gate>>>,
    others: Arc<Gate>,
}

impl Callers {
    fn new(limits: RequestLimits) -> Self {
        Self {
            limits,
            by_name: Mutex::default(),
            others: Arc::new(Gate::new(limits)),
        }
    }

    fn gate(&self, caller: &str) -> Arc<Gate> {
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gate) = by_name.get(caller) {
            return Arc::clone(gate);
        }
        if by_name.len() >= MAX_CALLERS {
            return Arc::clone(&self.others);
        }
        let gate = Arc::new(Gate::new(self.limits));
        by_name.insert(caller.into(), Arc::clone(&gate));
        gate
    }
}

/// One count of each kind.
struct Gate {
    rate: Option<RateLimiter<NotKeyed, InMemoryState, TokioClock, NoOpMiddleware<Duration>>>,
    room: Option<Arc<Semaphore>>,
}

impl Gate {
    fn new(limits: RequestLimits) -> Self {
        let rate = |rate: Rate| RateLimiter::direct_with_clock(quota(rate), TokioClock::new());
        let room = |most: std::num::NonZeroU32| {
            let most = usize::try_from(most.get()).unwrap_or(Semaphore::MAX_PERMITS);
            Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)))
        };
        Self {
            rate: limits.rate.map(rate),
            room: limits.concurrency.map(room),
        }
    }

    fn admit(&self, permit: &mut Permit) -> Result<(), Reached> {
        if let Some(room) = &self.room {
            let place = Arc::clone(room).try_acquire_owned();
            permit.0.push(place.map_err(|_| Reached {
                why: HeldBack::Concurrency,
                retry_after: AFTER_CONCURRENCY,
            })?);
        }
        let Some(rate) = &self.rate else {
            return Ok(());
        };
        rate.check().map_err(|until| Reached {
            why: HeldBack::Rate,
            retry_after: until.wait_time_from(rate.clock().now()),
        })
    }
}

/// All at once, and back one by one.
fn quota(rate: Rate) -> Quota {
    let one = rate.period() / rate.requests().get();
    Quota::with_period(one.max(Duration::from_nanos(1)))
        .expect("the time for one is longer than nothing")
        .allow_burst(rate.requests())
}

/// The runtime's time, which tests can pause.
#[derive(Debug, Clone)]
struct TokioClock {
    start: Instant,
}

impl TokioClock {
    fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Clock for TokioClock {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.start.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use tokio::time::advance;

    use super::*;

    const EACH: usize = 3;

    fn rate(text: &str) -> RequestLimits {
        RequestLimits {
            rate: Some(text.parse().unwrap()),
            concurrency: None,
        }
    }

    fn concurrency(most: u32) -> RequestLimits {
        RequestLimits {
            rate: None,
            concurrency: NonZeroU32::new(most),
        }
    }

    fn limiter(together: RequestLimits, per_caller: RequestLimits) -> Limiter {
        let mut limits = RuleLimits::default();
        (limits.together, limits.per_caller) = (together, per_caller);
        Limiter::new(limits)
    }

    fn admit(limiter: &Limiter, caller: &str) -> Result<Permit, Reached> {
        let mut permit = Permit::default();
        limiter.admit(caller, &mut permit).map(|()| permit)
    }

    fn passed(limiter: &Limiter, caller: &str) -> usize {
        (0..EACH * 2)
            .filter(|_| admit(limiter, caller).is_ok())
            .count()
    }

    fn reached(limiter: &Limiter, caller: &str) -> (HeldBack, u64) {
        let reached = admit(limiter, caller).err().expect("a limit is reached");
        (reached.why, reached.retry_after.as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_lets_so_many_pass_and_then_one_after_the_other() {
        let limiter = limiter(rate("3/m"), RequestLimits::default());
        assert_eq!(passed(&limiter, "a"), EACH);
        assert_eq!(reached(&limiter, "b"), (HeldBack::Rate, 20));
        advance(Duration::from_secs(19)).await;
        assert_eq!(reached(&limiter, "a"), (HeldBack::Rate, 1));
        advance(Duration::from_secs(1)).await;
        assert!(admit(&limiter, "a").is_ok() && admit(&limiter, "a").is_err());
        advance(Duration::from_secs(3600)).await;
        assert_eq!(passed(&limiter, "a"), EACH);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_at_its_limit_takes_nothing_from_others() {
        let limiter = limiter(rate("6/h"), rate("3/h"));
        assert_eq!(passed(&limiter, "a"), EACH);
        assert_eq!(passed(&limiter, "b"), EACH);
        assert_eq!(passed(&limiter, "c"), 0);
    }

    #[tokio::test]
    async fn as_many_are_under_way_as_may_be() {
        let limiter = limiter(concurrency(3), concurrency(2));
        let first: Vec<_> = (0..2)
            .map(|_| admit(&limiter, "a").unwrap_or_default())
            .collect();
        assert_eq!(reached(&limiter, "a"), (HeldBack::Concurrency, 1));
        let other = admit(&limiter, "b");
        assert!(other.is_ok() && admit(&limiter, "b").is_err());
        drop(first);
        assert!(admit(&limiter, "a").is_ok() && admit(&limiter, "b").is_ok());
    }

    #[tokio::test]
    async fn what_one_limit_holds_back_takes_no_place_of_another() {
        let limiter = limiter(concurrency(1), concurrency(1));
        let under_way = admit(&limiter, "a");
        assert!(under_way.is_ok() && admit(&limiter, "b").is_err());
        drop(under_way);
        assert!(admit(&limiter, "b").is_ok());
    }

    #[tokio::test]
    async fn without_limits_everything_passes_and_nothing_is_kept() {
        let limiter = Limiter::new(RuleLimits::default());
        let permits: Vec<_> = (0..1_000)
            .map(|_| admit(&limiter, "a").unwrap_or_default())
            .collect();
        assert!(permits.iter().all(|permit| permit.0.is_empty()));
    }

    #[tokio::test(start_paused = true)]
    async fn callers_without_end_are_counted_as_one() {
        let limiter = limiter(RequestLimits::default(), rate("1/h"));
        let callers = (0..2 * MAX_CALLERS).map(|index| index.to_string());
        let passed = callers
            .filter(|caller| admit(&limiter, caller).is_ok())
            .count();
        assert_eq!(passed, MAX_CALLERS + 1);
        let callers = limiter.per_caller.expect("it was given");
        assert_eq!(callers.by_name.into_inner().unwrap().len(), MAX_CALLERS);
    }

    #[test]
    fn the_largest_rate_is_one() {
        quota("4294967295/s".parse().unwrap());
    }
}

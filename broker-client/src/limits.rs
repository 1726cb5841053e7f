//! How many requests of what the rules allow may pass: in a time, at once, and of each caller.
//!
//! A request that a limit holds back is answered at once and never queued. The counts are of one process, and begin
//! anew where another accept file takes over.

use std::collections::HashMap;
use std::num::NonZeroU32;
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
    together: Option<Arc<Gate>>,
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
            together: some(limits.together).map(|limits| Arc::new(Gate::new(limits))),
        }
    }

    /// The counts that a request of `caller` is in. The caller's own come first, so that what they hold back takes
    /// nothing from others.
    fn gates(&self, caller: &str) -> impl Iterator<Item = Arc<Gate>> {
        let own = self.per_caller.as_ref().map(|callers| callers.gate(caller));
        own.into_iter().chain(self.together.clone())
    }
}

impl Permit {
    /// Lets one request of `caller` pass by all of `limiters`. A place costs nothing where another count holds the
    /// request back, a turn does: places come first.
    pub(crate) fn take(&mut self, limiters: &[&Limiter], caller: &str) -> Result<(), Reached> {
        let gates = limiters.iter().flat_map(|limiter| limiter.gates(caller));
        let gates: Vec<_> = gates.collect();
        for gate in &gates {
            self.0.extend(gate.place()?);
        }
        gates.iter().try_for_each(|gate| gate.turn())
    }
}

/// Each caller's requests.
struct Callers {
    limits: RequestLimits,
    by_name: Mutex<HashMap<Box<str>, Counted>>,
    others: Arc<Gate>,
}

struct Counted {
    gate: Arc<Gate>,
    last: Instant,
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
        let last = Instant::now();
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counted) = by_name.get_mut(caller) {
            counted.last = last;
            return Arc::clone(&counted.gate);
        }
        if by_name.len() >= MAX_CALLERS {
            by_name.retain(|_, counted| !self.is_as_new(counted));
        }
        if by_name.len() >= MAX_CALLERS {
            return Arc::clone(&self.others);
        }
        let gate = Arc::new(Gate::new(self.limits));
        let counted = Counted {
            gate: Arc::clone(&gate),
            last,
        };
        by_name.insert(caller.into(), counted);
        gate
    }

    /// Whether nothing of what it counted counts any more.
    fn is_as_new(&self, counted: &Counted) -> bool {
        let period = self.limits.rate.map_or(Duration::ZERO, Rate::period);
        counted.last.elapsed() >= period && counted.gate.is_empty()
    }
}

/// One count of each kind.
struct Gate {
    rate: Option<RateLimiter<NotKeyed, InMemoryState, TokioClock, NoOpMiddleware<Duration>>>,
    room: Option<Arc<Semaphore>>,
    limits: RequestLimits,
}

impl Gate {
    fn new(limits: RequestLimits) -> Self {
        let rate = |rate: Rate| RateLimiter::direct_with_clock(quota(rate), TokioClock::new());
        Self {
            rate: limits.rate.map(rate),
            room: limits
                .concurrency
                .map(|_| Arc::new(Semaphore::new(places(limits)))),
            limits,
        }
    }

    /// A place among those under way; none where nothing limits them.
    fn place(&self) -> Result<Option<OwnedSemaphorePermit>, Reached> {
        let room = self.room.as_ref();
        let place = room.map(|room| Arc::clone(room).try_acquire_owned());
        place.transpose().map_err(|_| Reached {
            why: HeldBack::Concurrency,
            retry_after: AFTER_CONCURRENCY,
        })
    }

    /// A turn of those in this time.
    fn turn(&self) -> Result<(), Reached> {
        let Some(rate) = &self.rate else {
            return Ok(());
        };
        rate.check().map_err(|until| Reached {
            why: HeldBack::Rate,
            retry_after: until.wait_time_from(rate.clock().now()),
        })
    }

    /// Whether nothing is under way.
    fn is_empty(&self) -> bool {
        let room = self.room.as_ref();
        room.is_none_or(|room| room.available_permits() == places(self.limits))
    }
}

/// How many may be under way; none where nothing limits them.
fn places(limits: RequestLimits) -> usize {
    let most = limits.concurrency.map_or(0, NonZeroU32::get);
    usize::try_from(most).map_or(Semaphore::MAX_PERMITS, |most| {
        most.min(Semaphore::MAX_PERMITS)
    })
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
        permit.take(&[limiter], caller).map(|()| permit)
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

    #[tokio::test(start_paused = true)]
    async fn a_caller_pays_no_turn_for_a_place_that_others_hold() {
        let rule = limiter(concurrency(1), RequestLimits::default());
        let own = limiter(RequestLimits::default(), rate("1/h"));
        let under_way = admit(&rule, "b");
        let mut permit = Permit::default();
        assert!(permit.take(&[&own, &rule], "a").is_err());
        drop(under_way);
        assert!(Permit::default().take(&[&own, &rule], "a").is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_was_long_away_makes_room_for_another() {
        let limiter = limiter(RequestLimits::default(), rate("1/m"));
        for index in 0..MAX_CALLERS {
            assert!(admit(&limiter, &index.to_string()).is_ok());
        }
        advance(Duration::from_secs(60)).await;
        assert!(admit(&limiter, "a").is_ok() && admit(&limiter, "b").is_ok());
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

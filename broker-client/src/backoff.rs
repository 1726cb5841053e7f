//! How long to wait before the next dial: jittered, so that agents do not come back in lockstep, and never for ever.

use std::time::Duration;

/// The first retry comes within this: a server that was only restarted is found again at once.
const FIRST: Duration = Duration::from_secs(1);
/// No wait is longer, unless the server itself asks for more.
const LONGEST: Duration = Duration::from_secs(30);
/// The longest `Retry-After` that is honoured: a wrong one must not keep an agent away for days.
const LONGEST_ASKED: Duration = Duration::from_secs(600);

/// Full jitter: each wait is uniform between nothing and a bound that doubles up to 30 s.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The dial succeeded and the tunnel has lived for a while.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// How many dials have failed in a row.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// The next wait. `random` is uniform in 0–1; `asked` is what the server's `Retry-After` said, and comes on top.
    pub(crate) fn next(&mut self, random: f64, asked: Option<Duration>) -> Duration {
        let bound = FIRST
            .saturating_mul(1 << self.failures.min(16))
            .min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        asked.unwrap_or_default().min(LONGEST_ASKED) + bound.mul_f64(random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_doubles_from_one_second_to_thirty_and_stays() {
        let mut backoff = Backoff::default();
        let bounds: Vec<u64> = (0..40).map(|_| backoff.next(1.0, None).as_secs()).collect();
        assert_eq!(bounds[..7], [1, 2, 4, 8, 16, 30, 30]);
        assert!(bounds[7..].iter().all(|bound| *bound == 30));
    }

    #[test]
    fn every_wait_is_drawn_from_the_whole_range() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next(0.0, None), Duration::ZERO);
        assert_eq!(backoff.next(0.5, None), Duration::from_secs(1));
    }

    #[test]
    fn a_success_starts_over() {
        let mut backoff = Backoff::default();
        for _ in 0..9 {
            backoff.next(1.0, None);
        }
        backoff.reset();
        assert_eq!(backoff.next(1.0, None), FIRST);
    }

    #[test]
    fn what_the_server_asks_for_is_waited_with_jitter_on_top_and_bounded() {
        let mut backoff = Backoff::default();
        assert_eq!(
            backoff.next(0.5, Some(Duration::from_secs(7))),
            Duration::from_millis(7500)
        );
        let years = Duration::from_secs(1 << 40);
        assert_eq!(backoff.next(0.0, Some(years)), LONGEST_ASKED);
    }
}

//! Tunnels that break again and again after the same time, though nothing is wrong with server or agent: something on
//! the way limits how long a connection may last.

use std::time::Duration;

use crate::status::TunnelFailure;

/// The code of a tunnel that ended without a word of either end's.
pub(crate) const BROKEN: &str = "broken";
/// The code of that state.
pub(crate) const CUT_REGULARLY: &str = "cut-regularly";
/// So many in a row are no accident.
const IN_A_ROW: usize = 3;
/// What breaks sooner was never a good tunnel, and has a cause of its own.
const SHORTEST: Duration = Duration::from_secs(1);
/// How far apart lives of "the same time" may be, beside a twentieth of it: limits are counted in whole seconds, and some
/// programs look at their clocks now and then.
const TOLERANCE: Duration = Duration::from_secs(1);

/// How long the last tunnels of one place lived, each of which broke.
#[derive(Debug, Default)]
pub(super) struct Cuts {
    lives: Vec<Duration>,
}

impl Cuts {
    /// A tunnel ended in order: nothing on the way has cut it.
    pub(super) fn reset(&mut self) {
        self.lives.clear();
    }

    /// Says why the tunnel in this place ended after this time: as it seemed, or as it looks beside the ones before.
    pub(super) fn explain(
        &mut self,
        slot: usize,
        seemed: TunnelFailure,
        lived: Duration,
    ) -> TunnelFailure {
        if seemed.code != BROKEN {
            self.reset();
            return seemed;
        }
        let Some(cut) = self.note(lived) else {
            return seemed;
        };
        tracing::warn!(tunnel = slot, code = cut.code, "{}", cut.text);
        cut
    }

    /// A tunnel broke after this time. Gives what that is called once it has come often enough.
    fn note(&mut self, lived: Duration) -> Option<TunnelFailure> {
        if lived < SHORTEST || self.lives.iter().any(|other| !is_same(*other, lived)) {
            self.reset();
        }
        if lived >= SHORTEST {
            self.lives.push(lived);
        }
        if self.lives.len() < IN_A_ROW {
            return None;
        }
        self.lives.remove(0);
        Some(TunnelFailure {
            code: CUT_REGULARLY,
            text: format!(
                "something on the way cuts each tunnel after about {} s (a proxy, load balancer or firewall that limits how \
                 long a connection may last: have that limit raised for the server's host)",
                lived.as_secs_f64().round()
            ),
        })
    }
}

fn is_same(one: Duration, other: Duration) -> bool {
    one.abs_diff(other) <= TOLERANCE + one.max(other) / 20
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said after the last of tunnels that lived for so many milliseconds.
    fn said(lives: &[u64]) -> Option<String> {
        let mut cuts = Cuts::default();
        let lives = lives
            .iter()
            .map(|life| cuts.note(Duration::from_millis(*life)));
        lives.last().flatten().map(|failure| failure.text)
    }

    #[test]
    fn three_tunnels_that_break_after_the_same_time_were_cut_by_something_on_the_way() {
        for lives in [
            [60_010, 60_020, 59_990],
            [60_000, 62_500, 60_400],
            [1_900, 2_100, 2_600],
        ] {
            assert!(said(&lives).is_some(), "{lives:?}");
        }
        let text = said(&[60_010, 60_020, 59_990]).unwrap();
        assert!(text.contains("after about 60 s"), "{text}");
    }

    #[test]
    fn fewer_or_other_times_are_not_taken_for_that() {
        for lives in [
            &[60_000, 60_000][..],
            &[60_000, 60_000, 80_000],
            &[60_000, 30_000, 60_000],
            &[5, 4, 6],
            &[60_000, 60_000, 5],
        ] {
            assert_eq!(said(lives), None, "{lives:?}");
        }
    }

    #[test]
    fn it_is_said_as_long_as_it_lasts_and_a_tunnel_that_ends_in_order_ends_it() {
        let minute = Duration::from_secs(60);
        let mut cuts = Cuts::default();
        let said: Vec<bool> = (0..5).map(|_| cuts.note(minute).is_some()).collect();
        assert_eq!(said, [false, false, true, true, true]);
        cuts.reset();
        assert_eq!(cuts.note(minute), None);
    }
}

//! Waiting for events, never for time to pass.

use std::time::Duration;

/// How long a test waits for an event that must come; far above what a busy machine needs, so that
/// only a real failure reaches it.
pub const LIMIT: Duration = Duration::from_secs(30);

/// A peer that takes nothing for so long takes nothing: that it stalls is no event that could be
/// waited for. On a machine so busy that it is taken too early, a test sees less, and none fails.
pub const STALLED: Duration = Duration::from_secs(1);

/// Waits for `event`.
///
/// # Panics
/// When it has not come within [`LIMIT`]; `what` names it.
pub async fn within<T>(what: &str, event: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LIMIT, event).await {
        Ok(outcome) => outcome,
        Err(_) => panic!("{what}: did not happen within {LIMIT:?}"),
    }
}

/// Says how long something took that is promised within `bound`, and where `BROKER_HOLD_BOUNDS` is set, holds it to
/// that: by `./check --hardship`, on a machine that does nothing else.
///
/// # Panics
/// When it took longer and bounds are held.
pub fn took(what: &str, took: Duration, bound: Duration) {
    eprintln!("{what}: took {took:?}, promised within {bound:?}");
    if std::env::var_os("BROKER_HOLD_BOUNDS").is_some() {
        assert!(
            took <= bound,
            "{what}: took {took:?}, promised within {bound:?}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_event_that_comes_hands_over_its_value() {
        assert_eq!(within("seven", async { 7 }).await, 7);
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "the tunnel: did not happen within 30s")]
    async fn an_event_that_never_comes_fails_by_name() {
        within("the tunnel", std::future::pending::<()>()).await;
    }
}

//! A value that is asked for again and again: what a command prints, what a server hands out for a while.
//!
//! It is asked for once for all who wait, kept until its end, and asked for anew before that. How it is asked for is
//! a [`Fetch`]; everything else is the same for all of them.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use http::Uri;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Unavailable;
use crate::backoff::Backoff;
use crate::control_call::Way;
use crate::status::CredentialSource;

/// How long after a failure the next attempt may begin, and longer with each that follows; requests in between fail by
/// the one before.
const AGAIN: Duration = Duration::from_secs(5);

/// How long after an attempt before its time the next one may begin.
const RENEW_AGAIN: Duration = Duration::from_secs(10);

/// Longest time for which a value is kept: what a server says of the end may be nonsense.
const LONGEST_LIFE: Duration = Duration::from_secs(24 * 60 * 60);

/// How one value is asked for.
pub(super) trait Fetch<T>: fmt::Debug + Send + Sync {
    /// Asks for it, within a time limit of its own.
    fn fetch(&self, occasion: Occasion) -> BoxFuture<'_, Result<Fetched<T>, Failure>>;

    /// What is called for it, and which way: nothing where no service is.
    fn calls(&self) -> Vec<(Uri, Way)> {
        Vec::new()
    }

    /// Whether it is asked for anew before its end though no request needs it then.
    fn is_kept(&self) -> bool {
        true
    }
}

/// A service that is called for a value.
pub(crate) struct Call {
    /// For which, as log and status know it: `aws shop`.
    pub(crate) source: String,
    pub(crate) uri: Uri,
    pub(crate) way: Way,
}

/// Why a value is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Occasion {
    /// There is none, or its end is near.
    Due,
    /// An origin refused it: what it is made of may be worthless as well.
    Refused,
}

/// A value, and how long it is good from now on.
pub(super) struct Fetched<T> {
    pub(super) value: T,
    pub(super) lives: Duration,
}

/// Why there is no value. It stands in log and status, and says nothing of any secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// Reads on from the source's name: `failed with exit status: 1`.
    pub(super) why: String,
    /// How long the server wants to be left alone.
    pub(super) retry_after: Option<Duration>,
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Self {
            why,
            retry_after: None,
        }
    }
}

impl From<&str> for Failure {
    fn from(why: &str) -> Self {
        why.to_owned().into()
    }
}

impl From<Unavailable> for Failure {
    fn from(error: Unavailable) -> Self {
        format!("needs what is not there: {error}").into()
    }
}

/// What all sources of one agent share.
#[derive(Debug, Clone, Default)]
pub(super) struct Household {
    /// A source came, went, or holds something else now.
    pub(super) changed: Arc<Notify>,
    /// Attempts belong to the agent, not to the request that began one: others wait for it too.
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
}

/// One value, as it was last asked for.
#[derive(Debug)]
pub(super) struct Renewed<T> {
    /// As log and status know it: `command eks`.
    name: String,
    fetch: Box<dyn Fetch<T>>,
    household: Household,
    state: Mutex<State<T>>,
    is_claimed: AtomicBool,
}

#[derive(Debug)]
struct State<T> {
    kept: Option<Kept<T>>,
    /// The last attempt's, where it failed.
    failed: Option<Failed>,
    backoff: Backoff,
    /// Since when there is this value, or none.
    since: Option<SystemTime>,
    attempt: Option<Attempt>,
    /// When it was last asked for before its time.
    renewed: Option<Instant>,
}

#[derive(Debug)]
struct Kept<T> {
    value: Arc<T>,
    from: Instant,
    lives: Duration,
}

#[derive(Debug)]
struct Failed {
    why: Arc<str>,
    at: SystemTime,
    /// From when on it may be tried again.
    again: Instant,
}

/// An attempt that is under way, for all who wait for its end.
pub(super) type Attempt = Shared<BoxFuture<'static, ()>>;

impl<T: PartialEq + Send + Sync + 'static> Renewed<T> {
    pub(super) fn new(name: String, fetch: Box<dyn Fetch<T>>, household: Household) -> Arc<Self> {
        Arc::new(Self {
            name,
            fetch,
            household,
            state: Mutex::new(State {
                kept: None,
                failed: None,
                backoff: Backoff::default(),
                since: None,
                attempt: None,
                renewed: None,
            }),
            is_claimed: AtomicBool::new(false),
        })
    }

    /// What is called for it, and which way, under its name.
    pub(super) fn calls(&self) -> Vec<Call> {
        let calls = self.fetch.calls().into_iter();
        let call = |(uri, way)| Call {
            source: self.name.clone(),
            uri,
            way,
        };
        calls.map(call).collect()
    }

    /// Whether it is the caller who is to [`keep`] it: true once.
    pub(super) fn claim(&self) -> bool {
        !self.is_claimed.swap(true, Ordering::Relaxed)
    }

    /// The value, once there is one or an attempt has failed.
    pub(super) async fn now(self: &Arc<Self>) -> Result<Arc<T>, Unavailable> {
        Ok(self.now_and_end().await?.0)
    }

    /// The value, and how long it is good.
    pub(super) async fn now_and_end(self: &Arc<Self>) -> Result<(Arc<T>, Duration), Unavailable> {
        let attempt = {
            let mut state = self.lock();
            match state.fresh() {
                Some((value, left, is_old)) => {
                    if is_old && !state.failed_lately() {
                        drop(self.begin(&mut state, Occasion::Due));
                    }
                    return Ok((value, left));
                }
                None if state.failed_lately() => return Err(self.unavailable(&state)),
                None => self.begin(&mut state, Occasion::Due),
            }
        };
        attempt.await;
        let state = self.lock();
        let fresh = state.fresh().map(|(value, left, _)| (value, left));
        fresh.ok_or_else(|| self.unavailable(&state))
    }

    /// Asks for it because its value was refused, or joins the attempt that is under way; `None` where that would be
    /// too soon after the last time: an origin may refuse every value.
    pub(super) fn renew(self: &Arc<Self>) -> Option<Attempt> {
        let mut state = self.lock();
        if state.attempt.is_none() {
            let last = state.renewed.filter(|at| at.elapsed() < RENEW_AGAIN);
            if last.is_some() || state.failed_lately() {
                return None;
            }
            state.renewed = Some(Instant::now());
        }
        Some(self.begin(&mut state, Occasion::Refused))
    }

    /// `None` before its first attempt has ended.
    pub(super) fn state(&self) -> Option<CredentialSource> {
        let state = self.lock();
        let failing = match state.fresh() {
            Some(_) => None,
            None => Some(self.unavailable(&state).why),
        };
        let source = CredentialSource::new(&self.name, state.since?, failing.as_deref());
        Some(match &state.failed {
            Some(failed) if failing.is_none() => source.not_renewed(failed.at, &failed.why),
            Some(_) | None => source,
        })
    }

    /// When it is to be asked for.
    fn due(&self) -> Instant {
        let state = self.lock();
        match (&state.failed, &state.kept) {
            (Some(failed), _) => failed.again,
            (None, Some(kept)) => kept.from + kept.renewal(),
            (None, None) => Instant::now(),
        }
    }

    fn begin(self: &Arc<Self>, state: &mut State<T>, occasion: Occasion) -> Attempt {
        let begin = || {
            let attempt = Arc::clone(self).attempt(occasion);
            let attempt = self.household.tasks.spawn(attempt);
            attempt.map(|_| ()).boxed().shared()
        };
        state.attempt.get_or_insert_with(begin).clone()
    }

    async fn attempt(self: Arc<Self>, occasion: Occasion) {
        let fetched = self.fetch.fetch(occasion);
        let fetched = self.household.stop.run_until_cancelled(fetched).await;
        let fetched = fetched.unwrap_or_else(|| Err("was stopped with the agent".into()));
        let mut state = self.lock();
        state.attempt = None;
        match fetched {
            Ok(Fetched { value, lives }) => self.take(&mut state, value, lives.min(LONGEST_LIFE)),
            Err(failure) => self.fail(&mut state, failure),
        }
        drop(state);
        self.household.changed.notify_one();
    }

    fn take(&self, state: &mut State<T>, value: T, lives: Duration) {
        let before = state.kept.take();
        let had_failed = state.failed.take().is_some();
        let is_same = before.as_ref().is_some_and(|kept| *kept.value == value);
        // What is new comes with a first value, and with one that others were refused for.
        if !is_same || (had_failed && before.as_ref().is_some_and(Kept::is_over)) {
            state.since = Some(SystemTime::now());
            tracing::info!(source = self.name, "a new credential is in use");
        }
        state.backoff.reset();
        state.kept = Some(Kept {
            value: Arc::new(value),
            from: Instant::now(),
            lives,
        });
    }

    fn fail(&self, state: &mut State<T>, failure: Failure) {
        let Failure { why, retry_after } = failure;
        let known = state.failed.as_ref().map(|failed| &*failed.why);
        let is_news = known != Some(&*why);
        if is_news {
            tracing::error!("no new credential: {} {why}", self.name);
        }
        if state.fresh().is_none() && is_news {
            state.since = Some(SystemTime::now());
        }
        let wait = AGAIN + state.backoff.next(fastrand::f64(), retry_after);
        state.failed = Some(Failed {
            why: why.into(),
            at: SystemTime::now(),
            again: Instant::now() + wait,
        });
    }

    fn unavailable(&self, state: &State<T>) -> Unavailable {
        let why = state.failed.as_ref().map(|failed| Arc::clone(&failed.why));
        Unavailable {
            what: self.name.clone(),
            why: why.unwrap_or_else(|| "was not asked since its value went out of date".into()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Drop for Renewed<T> {
    fn drop(&mut self) {
        self.household.changed.notify_one();
    }
}

impl<T> State<T> {
    /// What is kept, for how long it is good, and whether it is time to ask anew.
    fn fresh(&self) -> Option<(Arc<T>, Duration, bool)> {
        let kept = self.kept.as_ref().filter(|kept| !kept.is_over())?;
        let age = kept.from.elapsed();
        let left = kept.lives.saturating_sub(age);
        Some((Arc::clone(&kept.value), left, age >= kept.renewal()))
    }

    fn failed_lately(&self) -> bool {
        let failed = self.failed.as_ref();
        failed.is_some_and(|failed| Instant::now() < failed.again)
    }
}

impl<T> Kept<T> {
    fn is_over(&self) -> bool {
        self.from.elapsed() >= self.lives
    }

    /// How old it is when it is time to ask anew: a fifth of its time is left then for attempts that fail.
    fn renewal(&self) -> Duration {
        self.lives * 4 / 5
    }
}

/// Asks for the value at once, so that what is wrong is told now and not with the first request; and then, where it is
/// to be kept, whenever it is time, as long as anybody uses it.
pub(super) async fn keep<T: PartialEq + Send + Sync + 'static>(source: Weak<Renewed<T>>) {
    loop {
        let Some(used) = source.upgrade() else {
            return;
        };
        let attempt = used.begin(&mut used.lock(), Occasion::Due);
        drop(used);
        attempt.await;
        loop {
            let Some(used) = source.upgrade().filter(|used| used.fetch.is_kept()) else {
                return;
            };
            // Others may have asked since.
            let due = used.due();
            drop(used);
            if due <= Instant::now() {
                break;
            }
            sleep_until(due).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use futures_util::future::join_all;
    use tokio::time::{advance, sleep};

    use super::*;

    const LIFE: Duration = Duration::from_secs(300);

    /// Counts how often it was asked; each value is that count.
    #[derive(Debug, Default)]
    struct Counting {
        asked: Arc<AtomicUsize>,
        /// These attempts fail, counted from 1.
        failing: Vec<usize>,
        retry_after: Option<Duration>,
        is_kept: bool,
    }

    impl Fetch<usize> for Counting {
        fn fetch(&self, _: Occasion) -> BoxFuture<'_, Result<Fetched<usize>, Failure>> {
            let value = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
            Box::pin(async move {
                sleep(Duration::from_millis(100)).await;
                if self.failing.contains(&value) {
                    return Err(Failure {
                        why: format!("failed {value} times"),
                        retry_after: self.retry_after,
                    });
                }
                Ok(Fetched { value, lives: LIFE })
            })
        }

        fn is_kept(&self) -> bool {
            self.is_kept
        }
    }

    fn source(counting: Counting) -> (Arc<Renewed<usize>>, Arc<AtomicUsize>) {
        let asked = Arc::clone(&counting.asked);
        let source = Renewed::new("clock".to_owned(), Box::new(counting), Household::default());
        (source, asked)
    }

    fn failing(failing: impl IntoIterator<Item = usize>) -> Counting {
        Counting {
            failing: failing.into_iter().collect(),
            ..Counting::default()
        }
    }

    async fn value_of(source: &Arc<Renewed<usize>>) -> usize {
        *source.now().await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn one_attempt_serves_all_who_wait() {
        let (source, _) = source(Counting::default());
        let values = join_all((0..50).map(|_| value_of(&source))).await;
        assert!(values.iter().all(|value| *value == 1), "{values:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_goes_away_leaves_the_attempt_to_the_others() {
        let (source, _) = source(Counting::default());
        assert!(source.now().now_or_never().is_none());
        assert_eq!(value_of(&source).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_value_is_kept_and_asked_for_anew_before_its_end() {
        let (source, asked) = source(Counting::default());
        assert_eq!(value_of(&source).await, 1);
        advance(LIFE * 4 / 5 - Duration::from_secs(1)).await;
        assert_eq!(value_of(&source).await, 1);
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        advance(Duration::from_secs(1)).await;

        // The old value at once, the new one soon.
        assert_eq!(value_of(&source).await, 1);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(value_of(&source).await, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_value_that_is_to_be_kept_is_renewed_though_nobody_asks_and_until_nobody_uses_it() {
        let (source, asked) = source(Counting {
            is_kept: true,
            ..failing([2])
        });
        let keeping = keep(Arc::downgrade(&source));
        let using = async {
            sleep(LIFE * 4 / 5 + Duration::from_secs(1)).await;
            // The second attempt failed.
            assert_eq!(value_of(&source).await, 1);
            sleep(AGAIN * 2).await;
            assert_eq!(source.now().now_or_never().unwrap().unwrap(), 3.into());
            sleep(LIFE * 4 / 5).await;
            drop(source);
        };
        futures_util::join!(keeping, using);
        assert_eq!(asked.load(Ordering::SeqCst), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_value_is_renewed_once_in_a_while() {
        let (source, _) = source(Counting::default());
        assert_eq!(value_of(&source).await, 1);
        let attempts: Vec<_> = (0..5).filter_map(|_| source.renew()).collect();
        join_all(attempts).await;
        assert_eq!(value_of(&source).await, 2);
        assert!(source.renew().is_none());
        advance(RENEW_AGAIN).await;
        assert!(source.renew().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_told_and_tried_again_after_longer_and_longer_waits() {
        let (source, asked) = source(failing(1..100));
        for _ in 0..3 {
            let error = source.now().await.unwrap_err();
            assert_eq!(error.to_string(), "clock failed 1 times");
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        advance(AGAIN + Duration::from_secs(1)).await;
        let error = source.now().await.unwrap_err();
        assert_eq!(error.to_string(), "clock failed 2 times");
        advance(AGAIN - Duration::from_secs(1)).await;
        source.now().await.unwrap_err();
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_wants_to_be_left_alone_is() {
        let (source, asked) = source(Counting {
            retry_after: Some(Duration::from_secs(60)),
            ..failing([1])
        });
        source.now().await.unwrap_err();
        advance(Duration::from_secs(64)).await;
        source.now().await.unwrap_err();
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        advance(AGAIN).await;
        assert_eq!(value_of(&source).await, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_renewal_shows_while_the_value_is_still_good_and_then_as_its_lack() {
        let (source, _) = source(failing(2..100));
        value_of(&source).await;
        let good = source.state().unwrap();
        assert_eq!((good.failing, good.last_error), (None, None));
        advance(LIFE * 4 / 5).await;
        value_of(&source).await;
        sleep(Duration::from_secs(1)).await;
        let state = source.state().unwrap();
        assert_eq!(state.failing, None);
        assert_eq!(state.last_error.unwrap().text, "failed 2 times");
        advance(LIFE / 5).await;
        let state = source.state().unwrap();
        assert_eq!(state.failing.as_deref(), Some("failed 2 times"));
        assert_eq!(state.last_error, None);
    }
}

//! A credential that a command prints: a login helper, a client of a secrets manager.
//!
//! The command is the settings', never the accept file's. It runs without a shell, within a time limit, once for all
//! requests that wait for it; what it prints is kept for a while, and asked for anew before that is over.

use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use zeroize::Zeroizing;

use super::file::{MAX_LEN, value};
use super::{Secret, Unavailable};
use crate::config::CommandSettings;
use crate::status::CredentialSource;

/// How long after a run that failed the next one may begin; requests in between fail by the one before.
const AGAIN: Duration = Duration::from_secs(5);

/// How long after a run before its time the next one may begin.
const RENEW_AGAIN: Duration = Duration::from_secs(10);

/// One command, and what it printed last.
#[derive(Debug)]
pub(super) struct CommandSource {
    name: String,
    settings: CommandSettings,
    state: Mutex<State>,
    changed: Arc<Notify>,
    /// Runs belong to the agent, not to the request that began one: others wait for it too.
    runs: TaskTracker,
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    usage: Usage,
    value: Option<(Arc<Secret>, Instant)>,
    failure: Option<(Arc<str>, Instant)>,
    /// When one of the two became another.
    since: Option<SystemTime>,
    run: Option<Run>,
    /// When it was last run before its time.
    renewed: Option<Instant>,
}

/// A command that no rule uses is not run.
#[derive(Debug, Default, PartialEq, Eq)]
enum Usage {
    #[default]
    Unused,
    Used,
    Claimed,
}

/// A run that is under way, for all who wait for its end.
pub(super) type Run = Shared<BoxFuture<'static, ()>>;

impl CommandSource {
    pub(super) fn new(
        name: &str,
        settings: &CommandSettings,
        changed: Arc<Notify>,
        runs: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self {
            name: name.to_owned(),
            settings: settings.clone(),
            state: Mutex::default(),
            changed,
            runs,
            stop,
        }
    }

    /// A rule uses it.
    pub(super) fn use_it(&self) {
        let mut state = self.lock();
        if state.usage == Usage::Unused {
            state.usage = Usage::Used;
        }
    }

    /// Whether it is the caller who is to have it run first: true once, after a rule uses it.
    pub(super) fn claim(&self) -> bool {
        let mut state = self.lock();
        let is_first = state.usage == Usage::Used;
        if is_first {
            state.usage = Usage::Claimed;
        }
        is_first
    }

    /// The value, once there is one or a run has failed.
    pub(super) async fn now(self: &Arc<Self>) -> Result<Arc<Secret>, Unavailable> {
        let run = {
            let mut state = self.lock();
            match self.fresh(&state) {
                Some((value, is_old)) => {
                    if is_old && !failed_lately(&state) {
                        drop(self.begin(&mut state));
                    }
                    return Ok(value);
                }
                None if failed_lately(&state) => return Err(self.unavailable(&state)),
                None => self.begin(&mut state),
            }
        };
        run.await;
        let state = self.lock();
        let fresh = self.fresh(&state).map(|(value, _)| value);
        fresh.ok_or_else(|| self.unavailable(&state))
    }

    /// Has it run because its value was refused, or joins the run that is under way; `None` where that would be too soon
    /// after the last time: an origin may refuse every value.
    pub(super) fn renew(self: &Arc<Self>) -> Option<Run> {
        let mut state = self.lock();
        if state.run.is_none() {
            let last = state.renewed.filter(|at| at.elapsed() < RENEW_AGAIN);
            if last.is_some() || failed_lately(&state) {
                return None;
            }
            state.renewed = Some(Instant::now());
        }
        Some(self.begin(&mut state))
    }

    /// Has it run whatever is kept, unless it is running, and waits for the end.
    pub(super) async fn run_now(self: &Arc<Self>) {
        let run = self.begin(&mut self.lock());
        run.await;
    }

    /// `None` before its first run has ended.
    pub(super) fn state(&self) -> Option<CredentialSource> {
        let state = self.lock();
        let failure = match self.fresh(&state) {
            Some(_) => None,
            None => Some(self.unavailable(&state).why),
        };
        let name = format!("command {}", self.name);
        Some(CredentialSource::new(
            &name,
            state.since?,
            failure.as_deref(),
        ))
    }

    /// What is kept, and whether it is time to ask anew: a fifth of its time before the end.
    fn fresh(&self, state: &State) -> Option<(Arc<Secret>, bool)> {
        let (value, since) = state.value.as_ref()?;
        let (age, cache) = (since.elapsed(), self.settings.cache);
        (age < cache).then(|| (Arc::clone(value), age >= cache * 4 / 5))
    }

    fn begin(self: &Arc<Self>, state: &mut State) -> Run {
        let begin = || {
            let run = self.runs.spawn(Arc::clone(self).run());
            run.map(|_| ()).boxed().shared()
        };
        state.run.get_or_insert_with(begin).clone()
    }

    async fn run(self: Arc<Self>) {
        let output = self.stop.run_until_cancelled(output(&self.settings)).await;
        let output = output.unwrap_or_else(|| Err("was stopped with the agent".to_owned()));
        let mut state = self.lock();
        state.run = None;
        match output {
            Ok(value) => {
                let is_known = |(known, _): &(Arc<Secret>, _)| known.expose() == value.expose();
                if state.failure.take().is_some() || !state.value.as_ref().is_some_and(is_known) {
                    state.since = Some(SystemTime::now());
                    tracing::info!(command = self.name, "a new credential is in use");
                }
                state.value = Some((Arc::new(value), Instant::now()));
            }
            Err(why) => {
                if state
                    .failure
                    .as_ref()
                    .is_none_or(|(known, _)| **known != *why)
                {
                    state.since = Some(SystemTime::now());
                    tracing::error!(command = self.name, "no new credential: the command {why}");
                }
                state.failure = Some((why.into(), Instant::now()));
            }
        }
        self.changed.notify_one();
    }

    fn unavailable(&self, state: &State) -> Unavailable {
        let why = state.failure.as_ref().map(|(why, _)| Arc::clone(why));
        Unavailable {
            what: format!("command {}", self.name),
            why: why.unwrap_or_else(|| "has not run since its value went out of date".into()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failed_lately(state: &State) -> bool {
    let failure = state.failure.as_ref();
    failure.is_some_and(|(_, at)| at.elapsed() < AGAIN)
}

/// What the command prints. What it says on its standard error is dropped: it could show the secret.
async fn output(settings: &CommandSettings) -> Result<Secret, String> {
    let mut command = Command::new(&settings.program);
    command
        .args(&settings.arguments)
        // It is the broker's, and no business of any command.
        .env_remove("BROKER_AGENT_SECRET")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let failed = |error: std::io::Error| format!("cannot be run: {error}");
    let mut child = command.spawn().map_err(failed)?;
    let running = async {
        // Room for all, and one byte more, as for a file.
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_LEN + 64));
        if let Some(stdout) = child.stdout.take() {
            let mut stdout = stdout.take(MAX_LEN as u64 + 1);
            stdout.read_to_end(&mut bytes).await.map_err(failed)?;
        }
        let status = child.wait().await.map_err(failed)?;
        if !status.success() && bytes.len() <= MAX_LEN {
            return Err(format!("failed with {status}"));
        }
        value(&bytes).map_err(|error| format!("printed no credential: what it printed {error}"))
    };
    let limit = settings.timeout;
    timeout(limit, running)
        .await
        .unwrap_or_else(|_| Err(format!("did not end within {limit:?}")))
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use tokio::time::advance;

    use super::*;
    use crate::instance::tests::TestFolder;

    fn source(script: &str, timeout: Duration) -> Arc<CommandSource> {
        let settings = CommandSettings {
            program: "/bin/sh".into(),
            arguments: vec!["-c".to_owned(), script.to_owned()],
            timeout,
            cache: Duration::from_secs(300),
        };
        let (changed, runs, stop) = Default::default();
        Arc::new(CommandSource::new("eks", &settings, changed, runs, stop))
    }

    /// Prints how often it has run.
    fn counting(folder: &TestFolder) -> Arc<CommandSource> {
        let file = folder.path().join("runs").display().to_string();
        source(&format!("echo x >> {file}; wc -l < {file}"), LONG)
    }

    const LONG: Duration = Duration::from_secs(3600);

    async fn value_of(source: &Arc<CommandSource>) -> String {
        source.now().await.unwrap().expose().trim().to_owned()
    }

    async fn failure_of(source: &Arc<CommandSource>) -> String {
        source.now().await.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn one_run_serves_all_who_wait() {
        let folder = TestFolder::new();
        let source = counting(&folder);
        let values = join_all((0..50).map(|_| value_of(&source))).await;
        assert!(values.iter().all(|value| value == "1"), "{values:?}");
    }

    #[tokio::test]
    async fn a_request_that_goes_away_leaves_the_run_to_the_others() {
        let folder = TestFolder::new();
        let source = counting(&folder);
        {
            let gone = source.now();
            assert!(gone.now_or_never().is_none());
        }
        assert_eq!(value_of(&source).await, "1");
    }

    #[tokio::test]
    async fn a_value_is_kept_and_asked_for_anew_before_its_end() {
        let folder = TestFolder::new();
        let source = counting(&folder);
        assert_eq!(value_of(&source).await, "1");
        tokio::time::pause();
        advance(Duration::from_secs(239)).await;
        assert_eq!(value_of(&source).await, "1");
        assert!(source.lock().run.is_none());
        advance(Duration::from_secs(1)).await;

        // The old value at once, the new one soon.
        assert_eq!(value_of(&source).await, "1");
        let run = source.lock().run.clone().unwrap();
        tokio::time::resume();
        run.await;
        assert_eq!(value_of(&source).await, "2");
    }

    #[tokio::test]
    async fn a_refused_value_is_renewed_once_in_a_while() {
        let folder = TestFolder::new();
        let source = counting(&folder);
        assert_eq!(value_of(&source).await, "1");
        let runs: Vec<_> = (0..5).filter_map(|_| source.renew()).collect();
        join_all(runs).await;
        assert_eq!(value_of(&source).await, "2");
        assert!(source.renew().is_none());
        tokio::time::pause();
        advance(RENEW_AGAIN).await;
        assert!(source.renew().is_some());
    }

    #[tokio::test]
    async fn a_failure_is_told_and_not_tried_again_at_once() {
        let folder = TestFolder::new();
        let file = folder.path().join("runs").display().to_string();
        let source = source(&format!("echo x >> {file}; echo hunter2; exit 3"), LONG);
        for _ in 0..3 {
            assert_eq!(
                failure_of(&source).await,
                "command eks failed with exit status: 3"
            );
        }
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "x\n");
        tokio::time::pause();
        advance(AGAIN).await;
        tokio::time::resume();
        failure_of(&source).await;
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "x\nx\n");
    }

    #[tokio::test]
    async fn what_is_no_credential_is_said_without_being_shown() {
        for (script, why) in [
            ("", "printed no credential: what it printed is empty"),
            (
                "echo a; echo b",
                "printed no credential: what it printed holds a line break or another control character",
            ),
            (
                "yes | head -c 100000",
                "printed no credential: what it printed has more than 16384 bytes",
            ),
            (
                "yes",
                "printed no credential: what it printed has more than 16384 bytes",
            ),
        ] {
            assert_eq!(
                failure_of(&source(script, LONG)).await,
                format!("command eks {why}")
            );
        }
        let missing = CommandSettings {
            program: "/nowhere".into(),
            arguments: Vec::new(),
            timeout: LONG,
            cache: LONG,
        };
        let error = output(&missing).await.unwrap_err();
        assert!(error.starts_with("cannot be run: "), "{error}");
    }

    #[tokio::test]
    async fn a_command_that_hangs_is_ended() {
        let source = source("echo a; exec sleep 3600", Duration::from_millis(50));
        assert_eq!(
            failure_of(&source).await,
            "command eks did not end within 50ms"
        );
    }
}

//! Keeps the rules in force what the accept file says, without a restart and without a failed request.
//!
//! ```text
//! event, SIGHUP, poll ─▶ quiet ─▶ read ─┬▶ as in force, or as refused before: nothing
//!                                       └▶ new: read once more, until it is twice the same ─┬▶ good: on record, then in force
//!                                                                                           └▶ bad: refused
//! ```
//!
//! Events say when to look and are never believed: what counts is the file's SHA-256. A file that is refused or gone
//! leaves the last good one in force.

mod watch;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use broker_protocol::AgentName;
use tokio::sync::Notify;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::accept_file::{AcceptFile, Stamp};
use crate::audit::{AuditLog, RulesLoaded, RulesRefused};
use crate::config::{Accept, Config, Connection};
use crate::pause::{Gate, tell_of_another_file};
use crate::rules::{Rules, RulesError, RulesInForce};
use crate::status::ConnectionBoard;

use self::watch::Watch;

/// How long nothing may happen before the file is read: an editor or the kubelet takes several steps.
const QUIET: Duration = Duration::from_millis(150);
/// Longest wait for that: others may write to the same folder all the time.
const LONGEST: Duration = Duration::from_secs(1);
/// How often the file's metadata is looked at besides: network file systems tell nothing of what other machines do.
const POLL: Duration = Duration::from_secs(30);
/// The same where no events can come, or where something is still to be done.
const POLL_SOON: Duration = Duration::from_secs(1);
/// How long after a read the file is read again: it may have been half written, and half a file of YAML can be a good
/// one that lacks its last rule's conditions.
const CONFIRM: Duration = Duration::from_millis(250);
/// Reads after which a file that is another each time is taken for what it was last.
const MOST_READS: usize = 20;

/// Asks an agent to read its accept files now; clones ask the same agent.
#[derive(Debug, Clone)]
pub struct ReloadHandle(Vec<Arc<Notify>>);

impl ReloadHandle {
    /// What asks all of these.
    pub(crate) fn of<'r>(reloaders: impl Iterator<Item = &'r Reloader>) -> Self {
        Self(reloaders.map(|each| Arc::clone(&each.asked)).collect())
    }

    /// Has each connection's file read, whether it seems changed or not.
    pub fn now(&self) {
        for asked in &self.0 {
            asked.notify_one();
        }
    }
}

/// Says in log and status which rules are in force from now on.
pub(crate) fn announce(agent: &AgentName, rules: &Rules, board: &ConnectionBoard) {
    for warning in &rules.warnings {
        tracing::warn!("{warning}");
    }
    let source = rules.source.as_ref();
    let path = source.map(|source| source.path.display().to_string());
    let (sha256, private, public) = (rules.sha256(), rules.set.len(), rules.public_rules);
    board.rules_loaded(path.as_deref(), sha256, private, public, &rules.warnings);
    tracing::info!(%agent, accept = path, sha256, private, public, "rules in force");
}

/// Reads one connection's accept file again when it changes.
pub(crate) struct Reloader {
    config: Arc<Config>,
    connection: Arc<Connection>,
    rules: RulesInForce,
    gate: Gate,
    /// Those of all connections, its own first.
    all_rules: Vec<RulesInForce>,
    audit: AuditLog,
    board: ConnectionBoard,
    /// Something happened near the file.
    hints: Arc<Notify>,
    /// Somebody wants it read.
    asked: Arc<Notify>,
    /// [`Watch::new`], but for tests of a system that refuses.
    new_watch: fn(Arc<Notify>) -> notify::Result<Watch>,
    /// None while nothing can be watched.
    watch: Option<Watch>,
    /// The operator was told that nothing can be watched.
    is_unwatched_told: bool,
    /// The file's, right before it was last read.
    stamp: Option<Stamp>,
    refused: Option<RulesError>,
    /// A line of the audit log is still to be written.
    unrecorded: bool,
}

/// What the file holds now.
enum Found {
    InForce,
    Refused,
    Good(Box<Rules>),
    Bad(RulesError),
}

/// The file's bytes, or why they cannot be had.
type Content = Result<AcceptFile, RulesError>;

impl Reloader {
    /// Of a connection with these rules, beside `others`.
    pub(crate) fn new(
        config: Arc<Config>,
        connection: Arc<Connection>,
        rules: RulesInForce,
        others: &[RulesInForce],
        gate: Gate,
        audit: AuditLog,
        board: ConnectionBoard,
    ) -> Self {
        Self {
            config,
            connection,
            all_rules: [std::slice::from_ref(&rules), others].concat(),
            rules,
            gate,
            audit,
            board,
            hints: Arc::default(),
            asked: Arc::default(),
            new_watch: Watch::new,
            watch: None,
            is_unwatched_told: false,
            stamp: None,
            refused: None,
            unrecorded: false,
        }
    }

    /// Runs until `stop`. A switch that is on record may then not happen any more: no request comes after it.
    pub(crate) async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.keep()).await;
    }

    async fn keep(mut self) {
        let connection = Arc::clone(&self.connection);
        let agent = &connection.agent;
        let Accept::File(path) = &connection.accept else {
            loop {
                self.asked.notified().await;
                tracing::warn!(%agent, "there is no accept file to read again (set ACCEPT and restart)");
            }
        };
        let mut is_asked = false;
        loop {
            // Watching comes first, so that a change after the read is an event.
            self.watch(path).await;
            let found = self.look(path).await;
            if is_asked && matches!(found, Found::InForce | Found::Refused) {
                tracing::info!(%agent, accept = %path.display(), "the accept file is as it was when it was last read");
            }
            match found {
                Found::InForce => self.is_in_force(),
                Found::Refused => self.record_refusal().await,
                Found::Good(rules) => self.switch(*rules).await,
                Found::Bad(error) => self.refuse(error).await,
            }
            is_asked = self.wait(path).await;
        }
    }

    /// Watches whatever leads to the file now.
    async fn watch(&mut self, path: &Path) {
        let (watch, new_watch) = (self.watch.take(), self.new_watch);
        let (hints, file) = (Arc::clone(&self.hints), path.to_owned());
        let watching = spawn_blocking(move || {
            let mut watch = watch.map_or_else(|| new_watch(hints), Ok)?;
            watch.follow(&file)?;
            Ok(watch)
        });
        let failed = match watching.await {
            Ok(Ok(watch)) => {
                self.watch = Some(watch);
                return;
            }
            Ok(Err(notify::Error {
                kind: notify::ErrorKind::PathNotFound,
                ..
            })) => return,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        if !self.is_unwatched_told {
            self.is_unwatched_told = true;
            let warning = format!(
                "{}: changes of the accept file are noticed by looking once a second: {failed}",
                path.display()
            );
            tracing::warn!("{warning}");
            self.board.warn(&warning);
        }
    }

    /// Reads the file, again and again until something new is twice the same, and says what that is.
    async fn look(&mut self, path: &Path) -> Found {
        let mut content = self.read(path).await;
        for _ in 1..MOST_READS {
            if self.is_known(&content) {
                break;
            }
            sleep(CONFIRM).await;
            let before = std::mem::replace(&mut content, self.read(path).await);
            if is_same(&before, &content) {
                break;
            }
        }
        if self.is_known(&content) {
            return Found::InForce;
        }
        let compiled = match content {
            Ok(accept) => self.compile(path, accept).await,
            Err(error) => Err(error),
        };
        match compiled {
            Ok(rules) => Found::Good(Box::new(rules)),
            Err(error) if self.refused.as_ref() == Some(&error) => Found::Refused,
            Err(error) => Found::Bad(error),
        }
    }

    /// Whether it is what is in force.
    fn is_known(&self, content: &Content) -> bool {
        let sha256 = content.as_ref().map(|accept| accept.sha256.as_str());
        sha256.is_ok_and(|sha256| self.rules.now().sha256() == Some(sha256))
    }

    async fn read(&mut self, path: &Path) -> Content {
        let file = path.to_owned();
        let read = spawn_blocking(move || (Stamp::of(&file), AcceptFile::read(&file)));
        let (stamp, content) = read
            .await
            .unwrap_or_else(|error| (None, Err(broken(path, &error))));
        self.stamp = stamp;
        content
    }

    async fn compile(&self, path: &Path, accept: AcceptFile) -> Result<Rules, RulesError> {
        let (config, connection) = (Arc::clone(&self.config), Arc::clone(&self.connection));
        let rules: Vec<_> = self.all_rules.iter().map(RulesInForce::now).collect();
        let compiled =
            spawn_blocking(move || Rules::compile(&config, &connection, &accept, &rules));
        compiled
            .await
            .unwrap_or_else(|error| Err(broken(path, &error)))
    }

    fn is_in_force(&mut self) {
        self.unrecorded = false;
        if self.refused.take().is_some() {
            tracing::info!(agent = %self.connection.agent, "the accept file is again what is in force");
        }
        self.board.rules_unchanged();
    }

    /// Puts the new rules in force once that is on record.
    async fn switch(&mut self, rules: Rules) {
        let source = rules.source.as_ref().expect("what was read has a source");
        let previous = self.rules.now();
        let recorded = self.audit.record_rules_loaded(RulesLoaded {
            agent: &self.connection.agent,
            path: &source.path,
            sha256: &source.sha256,
            private_rules: rules.set.len(),
            public_rules: rules.public_rules,
            previous_sha256: previous.sha256(),
        });
        if let Err(error) = recorded.await {
            if !self.unrecorded {
                self.unrecorded = true;
                self.refused = None;
                let why = format!("it is good, but that cannot be put on record: {error}");
                tracing::error!(
                    agent = %self.connection.agent,
                    accept = %source.path.display(),
                    sha256 = &*source.sha256,
                    "the last good rules stay in force: {why}"
                );
                self.board.rules_refused(&why);
            }
            return;
        }
        let rules = Arc::new(rules);
        self.rules.replace(Arc::clone(&rules));
        self.unrecorded = false;
        self.refused = None;
        announce(&self.connection.agent, &rules, &self.board);
        tell_of_another_file(&self.connection.agent, rules.sha256(), &self.gate);
    }

    async fn refuse(&mut self, error: RulesError) {
        let [first, others @ ..] = error.problems() else {
            return;
        };
        for problem in error.problems() {
            tracing::error!(
                agent = %self.connection.agent,
                accept = %error.file().display(),
                sha256 = error.sha256(),
                "the last good rules stay in force: {problem}"
            );
        }
        let more = match others.len() {
            0 => String::new(),
            more => format!(" (and {more} more, see the log)"),
        };
        self.board.rules_refused(&format!("{first}{more}"));
        self.refused = Some(error);
        self.unrecorded = true;
        self.record_refusal().await;
    }

    /// Tries until it is on record; nothing waits for it.
    async fn record_refusal(&mut self) {
        let (Some(error), true) = (&self.refused, self.unrecorded) else {
            return;
        };
        let rules = self.rules.now();
        let recorded = self.audit.record_rules_refused(RulesRefused {
            agent: &self.connection.agent,
            path: error.file(),
            sha256: error.sha256(),
            error: error.problems().first().map_or("", String::as_str),
            in_force_sha256: rules.sha256(),
        });
        self.unrecorded = recorded.await.is_err();
    }

    /// Waits until there is a reason to look at the file; whether that is that somebody asked for it.
    async fn wait(&self, path: &Path) -> bool {
        // A folder that was missing cannot tell that it is there again.
        let soon = self.watch.is_none() || self.unrecorded || self.stamp.is_none();
        loop {
            tokio::select! {
                () = self.hints.notified() => {
                    settled(&self.hints).await;
                    return false;
                }
                () = self.asked.notified() => return true,
                () = sleep(if soon { POLL_SOON } else { POLL }) => {
                    if self.unrecorded || stamp(path).await != self.stamp {
                        return false;
                    }
                }
            }
        }
    }
}

/// Waits, after a first hint, until there was none for [`QUIET`], and no longer than [`LONGEST`].
async fn settled(hints: &Notify) {
    let longest = Instant::now() + LONGEST;
    while Instant::now() < longest {
        let quiet = longest.min(Instant::now() + QUIET);
        if timeout_at(quiet, hints.notified()).await.is_err() {
            return;
        }
    }
}

fn is_same(before: &Content, now: &Content) -> bool {
    match (before, now) {
        (Ok(before), Ok(now)) => before.sha256 == now.sha256,
        (Err(before), Err(now)) => before == now,
        (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
    }
}

async fn stamp(path: &Path) -> Option<Stamp> {
    let path = path.to_owned();
    spawn_blocking(move || Stamp::of(&path))
        .await
        .ok()
        .flatten()
}

/// A file that brought the program down is no good file.
fn broken(path: &Path, error: &JoinError) -> RulesError {
    let problem = format!("cannot be read for a defect of this program: {error}");
    RulesError::unreadable(path.to_owned(), problem)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::pin::pin;

    use futures_util::FutureExt as _;
    use tokio::time::{advance, timeout};

    use super::*;
    use crate::audit::AuditWriter;
    use crate::config::run_command;
    use crate::instance::Instance;
    use crate::instance::tests::TestFolder;
    use crate::status::tests::board;

    #[tokio::test(start_paused = true)]
    async fn the_file_is_read_once_its_folder_is_quiet() {
        let hints = Notify::new();
        let mut settled = pin!(settled(&hints));
        for _ in 0..3 {
            assert!(settled.as_mut().now_or_never().is_none());
            advance(QUIET / 2).await;
            hints.notify_one();
        }
        let last = Instant::now();
        settled.await;
        assert_eq!(last.elapsed(), QUIET);
    }

    #[tokio::test(start_paused = true)]
    async fn a_folder_that_is_never_quiet_is_waited_for_no_longer_than_a_second() {
        let hints = Notify::new();
        let begun = Instant::now();
        let never_quiet = async {
            loop {
                sleep(QUIET / 3).await;
                hints.notify_one();
            }
        };
        tokio::select! {
            () = settled(&hints) => {}
            () = never_quiet => {}
        }
        assert_eq!(begun.elapsed(), LONGEST);
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_file_is_not_taken_though_it_is_a_good_one() {
        let folder = TestFolder::new();
        let (mut reloader, file, _writer) = reloader(&folder);
        let half = "private:\n- path: /a\n  origin: http://a\n";
        std::fs::write(&file, half).unwrap();
        let write_on = async {
            sleep(CONFIRM / 2).await;
            std::fs::write(&file, format!("{half}  valid: [{{path: b, value: c}}]\n")).unwrap();
        };

        let (found, ()) = tokio::join!(reloader.look(&file), write_on);

        let Found::Good(rules) = found else {
            panic!("it is good")
        };
        assert!(rules.set.needs_bodies());
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_watched_is_looked_at_once_a_second() {
        let folder = TestFolder::new();
        let (mut reloader, file, _writer) = reloader(&folder);
        let (rules, board) = (reloader.rules.clone(), board());
        reloader.board = board.connections().remove(0);
        reloader.new_watch = |_| Err(notify::Error::generic("no more watches"));

        let play = async {
            let told = |text: &String| text.contains("once a second: no more watches");
            board.until(|now| now.warnings.iter().any(told)).await;
            let rule = r#"{"path": "/a", "origin": "http://a"}"#;
            // The first change may come before the first look; the second comes after it.
            for (count, rules) in [(1, rule.to_owned()), (2, format!("{rule},{rule}"))] {
                std::fs::write(&file, format!(r#"{{"private": [{rules}]}}"#)).unwrap();
                board
                    .until(|now| now.connections[0].accept.private_rules == count)
                    .await;
            }
        };
        tokio::select! {
            played = timeout(POLL, play) => played.unwrap(),
            () = reloader.run(CancellationToken::new()) => unreachable!("nobody stops it"),
        }
        assert_eq!(rules.now().set.len(), 2);
    }

    /// What reads `accept.json` in `folder`, where nothing is allowed yet.
    fn reloader(folder: &TestFolder) -> (Reloader, PathBuf, AuditWriter) {
        let file = folder.path().join("accept.json");
        std::fs::write(&file, "{}").unwrap();
        let data = folder.path().join("data");
        let environment = [
            ("BROKER_TOKEN", "sonarqube"),
            ("BROKER_SERVER_URL", "https://broker.example"),
            ("ACCEPT", file.to_str().unwrap()),
            ("BROKER_DATA_DIR", data.to_str().unwrap()),
        ];
        let arguments = run_command().get_matches_from(["run"]);
        let mut config = Config::load(&arguments, environment.into(), folder.path()).unwrap();
        let connection = Arc::new(config.connections.remove(0));
        let instance = Instance::open(&config.data, &config.instance).unwrap();
        let (audit, writer) = AuditLog::open(&instance, &[]).unwrap();
        let rules = RulesInForce::new(Arc::new(Rules::load(&config, &connection, &[]).unwrap()));
        let board = board().connections().remove(0);
        let reloader = Reloader::new(
            Arc::new(config),
            connection,
            rules,
            &[],
            Gate::open(),
            audit,
            board,
        );
        (reloader, file, writer)
    }
}

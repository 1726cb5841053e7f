//! The owner's switch: what is paused lets nothing pass, until its owner or its own end resumes it. Nothing that the
//! server sends has a say in it.
//!
//! ```text
//! broker-client pause  ─▶ closed ─▶ saved ─▶ on record
//! broker-client resume ─▶ on record ─▶ saved ─▶ open        (the same where a pause ends by itself)
//! ```
//!
//! A pause of one rule is about that rule of that accept file. While another file is in force, nobody can say which of
//! its rules is meant, and none of them lets anything pass.

mod gate;
mod state_file;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use broker_protocol::AgentName;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::audit::{AuditLog, AuditUnavailable, PauseCause, Paused, Resumed};
use crate::instance::Instance;
use crate::rules::RulesInForce;
use crate::status::ConnectionBoard;

pub(crate) use self::gate::{Closure, Gate, Passage, RuleId, Shut};

/// Most pauses at once; each is a few hundred bytes of the state file.
const MOST: usize = 1000;
/// Longest reason, in characters.
const MAX_REASON: usize = 300;
/// How often the clock is looked at while a pause has an end: it is the wall clock, which may be set meanwhile.
const TICK: Duration = Duration::from_secs(1);

/// One pause: of an agent, or of one of its rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pause {
    /// The agent.
    pub agent: String,
    /// The rule's position in `private`; `None`: all of the agent.
    pub rule: Option<usize>,
    /// SHA-256 of the accept file whose rule it is, in hex.
    pub accept_sha256: Option<String>,
    /// Why, in its owner's words.
    pub reason: String,
    /// Since when.
    #[serde(with = "rfc3339")]
    pub since: SystemTime,
    /// When it ends by itself.
    #[serde(with = "rfc3339::optional")]
    pub until: Option<SystemTime>,
    /// The user who asked for it, where the system told; `None` where nobody asked.
    pub uid: Option<u32>,
}

/// What `broker-client pause` and `resume` are about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// One agent; `None`: every one.
    pub agent: Option<String>,
    /// One rule of it.
    pub rule: Option<usize>,
}

/// What `broker-client pause` asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseOrder {
    /// Of what.
    #[serde(flatten)]
    pub selection: Selection,
    /// Why.
    pub reason: String,
    /// For how long, in milliseconds; `None`: until it is resumed.
    pub for_ms: Option<u64>,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PauseReport {
    /// The pauses that were made, or that have ended.
    pub changed: Vec<Pause>,
    /// What is paused from now on.
    pub paused: Vec<Pause>,
    /// What did not go as it should: the pauses are in force all the same.
    pub warnings: Vec<String>,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PauseError {
    /// What was asked for is none of what is there.
    #[error("{0}")]
    Refused(String),
    /// It stays paused: what is opened must be on record.
    #[error("it stays paused, since that it is resumed cannot be put on record: {0}")]
    Unrecorded(#[from] AuditUnavailable),
    /// It stays paused: after a restart it would be.
    #[error("it stays paused, since {path} cannot be written: {source}", path = path.display())]
    Unsaved {
        /// The state file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
}

/// Everything that is paused in this process.
pub(crate) struct Pauses {
    connections: Vec<Part>,
    audit: AuditLog,
    /// `None` where there is no folder to keep it in, and so no control socket either.
    file: Option<PathBuf>,
    state: Mutex<State>,
    /// Held while something is saved and put on record. A disk that hangs holds it for long, and closing waits for no
    /// disk.
    writing: tokio::sync::Mutex<()>,
    changed: Notify,
}

/// One connection.
pub(crate) struct Part {
    pub(crate) agent: AgentName,
    pub(crate) gate: Gate,
    pub(crate) rules: RulesInForce,
    pub(crate) board: ConnectionBoard,
    pub(crate) is_paused_by_settings: bool,
}

#[derive(Clone)]
struct State {
    pauses: Vec<Pause>,
    /// Pauses that no command ends: those of the settings, and of a state file that cannot be read.
    fixed: Vec<(PauseCause, Pause)>,
}

impl Pauses {
    /// Takes up what was paused before, and closes it.
    pub(crate) fn load(connections: Vec<Part>, instance: &Instance, audit: AuditLog) -> Self {
        let file = instance.file(state_file::NAME);
        let read = file.as_deref().map_or(Ok(Vec::new()), state_file::read);
        let now = SystemTime::now();
        let fixed = |part: &Part, cause, reason: &str| {
            let pause = Pause {
                agent: part.agent.to_string(),
                rule: None,
                accept_sha256: None,
                reason: reason.to_owned(),
                since: now,
                until: None,
                uid: None,
            };
            (cause, pause)
        };
        let by_settings = connections
            .iter()
            .filter(|part| part.is_paused_by_settings)
            .map(|part| {
                fixed(
                    part,
                    PauseCause::Settings,
                    "`paused` is set in the settings",
                )
            });
        let mut state = State {
            fixed: by_settings.collect(),
            pauses: Vec::new(),
        };
        match read {
            Ok(pauses) => state.pauses = pauses,
            Err(error) => {
                let reason = format!(
                    "what was paused before cannot be told, so all is: {error} (`broker-client resume` without further \
                     words resumes all of it, and begins a new file)"
                );
                tracing::error!("{reason}");
                let all = connections.iter();
                state
                    .fixed
                    .extend(all.map(|part| fixed(part, PauseCause::StateUnreadable, &reason)));
            }
        }
        let pauses = Self {
            connections,
            audit,
            file,
            state: Mutex::new(state),
            writing: tokio::sync::Mutex::default(),
            changed: Notify::new(),
        };
        let state = pauses.state();
        for pause in state.all() {
            tracing::warn!(
                agent = pause.agent,
                rule = pause.rule,
                reason = pause.reason,
                "paused"
            );
        }
        pauses.apply(&state);
        drop(state);
        pauses
    }

    /// Pauses what `order` names. It is closed at once, whatever else fails.
    ///
    /// # Errors
    /// Where there is no such thing.
    pub(crate) async fn pause(
        &self,
        order: PauseOrder,
        uid: Option<u32>,
    ) -> Result<PauseReport, PauseError> {
        let PauseOrder {
            selection,
            reason,
            for_ms,
        } = order;
        check_reason(&reason)?;
        let since = SystemTime::now();
        let until = for_ms.map(|ms| since + Duration::from_millis(ms));
        let mut made = Vec::new();
        for part in self.selected(&selection)? {
            let rules = part.rules.now();
            if let Some(rule) = selection.rule
                && rule >= rules.set.len()
            {
                let (agent, count) = (&part.agent, rules.set.len());
                return Err(PauseError::Refused(format!(
                    "{agent} has no rule private[{rule}] (it has {count}, counted from zero)"
                )));
            }
            made.push(Pause {
                agent: part.agent.to_string(),
                rule: selection.rule,
                accept_sha256: rules
                    .sha256()
                    .filter(|_| selection.rule.is_some())
                    .map(str::to_owned),
                reason: reason.clone(),
                since,
                until,
                uid,
            });
        }

        self.close(&made)?;
        self.changed.notify_one();

        let mut warnings = Vec::new();
        let _writing = self.writing.lock().await;
        let pauses = self.state().pauses.clone();
        if let Err(error) = self.save(pauses).await {
            warnings.push(format!("it does not survive a restart: {error}"));
        }
        for pause in &made {
            let recorded = self
                .audit
                .record_paused(Paused::of(pause, PauseCause::Command));
            if let Err(error) = recorded.await {
                warnings.push(format!("it is not on record: {error}"));
            }
        }
        Ok(PauseReport {
            changed: made,
            paused: self.state().all().cloned().collect(),
            warnings,
        })
    }

    fn close(&self, made: &[Pause]) -> Result<(), PauseError> {
        let mut state = self.state();
        if state.pauses.len() + made.len() > MOST {
            return Err(PauseError::Refused(format!(
                "{MOST} pauses are the most (pause the agent as a whole)"
            )));
        }
        for pause in made {
            state.pauses.retain(|known| !known.is_of_the_same(pause));
            state.pauses.push(pause.clone());
            let (agent, rule, reason) = (&pause.agent, pause.rule, &pause.reason);
            tracing::warn!(agent, rule, uid = pause.uid, reason, "paused");
        }
        self.apply(&state);
        Ok(())
    }

    /// Ends what `selection` names.
    ///
    /// # Errors
    /// Where nothing of it is paused, or nothing may be opened now.
    pub(crate) async fn resume(
        &self,
        selection: &Selection,
        uid: Option<u32>,
    ) -> Result<PauseReport, PauseError> {
        let parts = self.selected(selection)?;
        let _writing = self.writing.lock().await;
        let state = self.state().clone();
        let is_meant = |pause: &Pause| {
            pause.rule == selection.rule
                && parts.iter().any(|part| part.agent.as_str() == pause.agent)
        };
        let is_unreadable =
            |(cause, _): &(PauseCause, Pause)| *cause == PauseCause::StateUnreadable;
        let is_all = selection.agent.is_none() && selection.rule.is_none();
        let unreadable = state.fixed.iter().filter(|it| is_all && is_unreadable(it));
        let ended: Vec<Pause> = unreadable
            .map(|(_, pause)| pause.clone())
            .chain(state.pauses.iter().filter(|it| is_meant(it)).cloned())
            .collect();
        if ended.is_empty() {
            return Err(PauseError::Refused(state.why_not(is_meant)));
        }
        self.end(&ended, PauseCause::Command, uid).await?;
        Ok(PauseReport {
            changed: ended,
            paused: self.state().all().cloned().collect(),
            warnings: Vec::new(),
        })
    }

    /// Puts on record what is paused from the start on, and ends pauses when it is time, until `stop`.
    pub(crate) async fn keep(self: Arc<Self>, stop: CancellationToken) {
        stop.run_until_cancelled(async {
            let fixed = self.state().fixed.clone();
            for (cause, pause) in &fixed {
                if let Err(error) = self.audit.record_paused(Paused::of(pause, *cause)).await {
                    tracing::error!(%error, "a pause is in force, and not on record");
                }
            }
            loop {
                self.end_in_time().await;
                let has_ends = self.state().pauses.iter().any(|it| it.until.is_some());
                tokio::select! {
                    () = self.changed.notified() => {}
                    () = tokio::time::sleep(TICK), if has_ends => {}
                }
            }
        })
        .await;
    }

    async fn end_in_time(&self) {
        let _writing = self.writing.lock().await;
        let now = SystemTime::now();
        let is_over = |pause: &&Pause| pause.until.is_some_and(|until| until <= now);
        let over: Vec<Pause> = self
            .state()
            .pauses
            .iter()
            .filter(is_over)
            .cloned()
            .collect();
        if !over.is_empty()
            && let Err(error) = self.end(&over, PauseCause::Expired, None).await
        {
            tracing::error!("a pause is over: {error}");
        }
    }

    /// First on record, then saved, then open; the caller holds `writing`.
    async fn end(
        &self,
        ended: &[Pause],
        cause: PauseCause,
        uid: Option<u32>,
    ) -> Result<(), PauseError> {
        for pause in ended {
            self.audit
                .record_resumed(Resumed::of(pause, cause, uid))
                .await?;
        }
        let is_kept = |pause: &Pause| !ended.contains(pause);
        let pauses = self.state().pauses.clone().into_iter();
        if let Err(error) = self.save(pauses.filter(is_kept).collect()).await {
            for pause in ended {
                // The record would say otherwise; a log that fails as well shows in the status.
                drop(
                    self.audit
                        .record_paused(Paused::of(pause, PauseCause::Unsaved))
                        .await,
                );
            }
            return Err(error);
        }
        for pause in ended {
            tracing::warn!(
                agent = pause.agent,
                rule = pause.rule,
                uid,
                cause = cause.as_str(),
                "resumed"
            );
        }
        let mut state = self.state();
        state.pauses.retain(is_kept);
        state.fixed.retain(|(_, pause)| is_kept(pause));
        self.apply(&state);
        Ok(())
    }

    /// The connections that are meant.
    fn selected(&self, selection: &Selection) -> Result<Vec<&Part>, PauseError> {
        let agents = || {
            let agents = self.connections.iter().map(|part| part.agent.as_str());
            agents.collect::<Vec<_>>().join(", ")
        };
        let is_named = |part: &&Part| {
            let wanted = selection.agent.as_deref();
            wanted.is_none_or(|wanted| part.agent.as_str().eq_ignore_ascii_case(wanted))
        };
        let parts: Vec<&Part> = self.connections.iter().filter(is_named).collect();
        match (&selection.agent, selection.rule, parts.len()) {
            (Some(agent), _, 0) => Err(PauseError::Refused(format!(
                "this process is no agent {agent:?} (it is: {})",
                agents()
            ))),
            (None, Some(_), 2..) => Err(PauseError::Refused(format!(
                "this process is several agents (say whose rule is meant: --agent with one of {})",
                agents()
            ))),
            _ => Ok(parts),
        }
    }

    /// Closes what is paused, and nothing else, and shows it.
    fn apply(&self, state: &State) {
        for part in &self.connections {
            let pauses = state
                .all()
                .filter(|pause| pause.agent == part.agent.as_str());
            let pauses: Vec<Pause> = pauses.cloned().collect();
            part.gate.close(pauses.iter().map(Closure::from).collect());
            part.board.paused(pauses);
            tell_of_another_file(&part.agent, part.rules.now().sha256(), &part.gate);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn save(&self, pauses: Vec<Pause>) -> Result<(), PauseError> {
        let Some(path) = self.file.clone() else {
            return Ok(());
        };
        let unsaved = |source| PauseError::Unsaved {
            path: path.clone(),
            source,
        };
        let file = path.clone();
        let written = spawn_blocking(move || state_file::write(&file, &pauses)).await;
        written
            .map_err(std::io::Error::other)
            .and_then(|written| written)
            .map_err(unsaved)
    }
}

/// Says so where a rule is paused, and the file in force is not the one that it is a rule of.
pub(crate) fn tell_of_another_file(agent: &AgentName, sha256: Option<&str>, gate: &Gate) {
    if gate.waits_for_another_file(sha256) {
        tracing::error!(
            %agent, sha256,
            "a rule of another accept file is paused, so every request is refused: resume that rule (`broker-client \
             resume --rule N`), and pause the one of this file that is meant"
        );
    }
}

impl State {
    fn all(&self) -> impl Iterator<Item = &Pause> {
        self.fixed
            .iter()
            .map(|(_, pause)| pause)
            .chain(&self.pauses)
    }

    /// Why there is nothing to resume.
    fn why_not(&self, is_meant: impl Fn(&Pause) -> bool) -> String {
        let fixed = self.fixed.iter().find(|(_, pause)| is_meant(pause));
        match fixed {
            Some((PauseCause::Settings, pause)) => format!(
                "{} is paused by its settings (set `paused: false`, or unset BROKER_PAUSED, and restart)",
                pause.agent
            ),
            Some((_, pause)) => pause.reason.clone(),
            None => {
                let paused: Vec<_> = self.all().map(Pause::shown).collect();
                match paused.as_slice() {
                    [] => "nothing is paused".to_owned(),
                    paused => format!("that is not paused (paused: {})", paused.join(", ")),
                }
            }
        }
    }
}

impl Pause {
    /// What is paused, in words: `sonarqube`, or `private[2] of sonarqube`.
    #[must_use]
    pub fn shown(&self) -> String {
        match self.rule {
            None => self.agent.clone(),
            Some(rule) => format!("private[{rule}] of {}", self.agent),
        }
    }

    /// Pausing the same rule again replaces the pause, also where its file is another by now.
    fn is_of_the_same(&self, other: &Self) -> bool {
        (&self.agent, self.rule) == (&other.agent, other.rule)
    }
}

impl From<&Pause> for Closure {
    fn from(pause: &Pause) -> Self {
        Self {
            rule: pause.rule.map(|rule| RuleId {
                sha256: pause.accept_sha256.as_deref().map(Arc::from),
                rule,
            }),
            until: pause.until,
        }
    }
}

fn check_reason(reason: &str) -> Result<(), PauseError> {
    let problem = match reason {
        _ if reason.trim().is_empty() => "the reason is empty (say why: it goes on record)",
        _ if reason.chars().count() > MAX_REASON => "the reason is longer than 300 characters",
        _ if reason.contains(char::is_control) => "the reason has a control character",
        _ => return Ok(()),
    };
    Err(PauseError::Refused(problem.to_owned()))
}

/// A moment as text: RFC 3339, UTC.
pub(crate) mod rfc3339 {
    use std::time::SystemTime;

    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(crate) fn serialize<S: Serializer>(
        time: &SystemTime,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_rfc3339_millis(*time))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<SystemTime, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_rfc3339(&text).map_err(de::Error::custom)
    }

    pub(crate) mod optional {
        use super::{Deserialize, Deserializer, Serializer, SystemTime, de};

        pub(crate) fn serialize<S: Serializer>(
            time: &Option<SystemTime>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            match time {
                Some(time) => super::serialize(time, serializer),
                None => serializer.serialize_none(),
            }
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<SystemTime>, D::Error> {
            let text = Option::<String>::deserialize(deserializer)?;
            text.map(|text| humantime::parse_rfc3339(&text).map_err(de::Error::custom))
                .transpose()
        }
    }
}

//! The customer's record of every access: one JSON line for each decision, before the origin sees
//! a byte, and one for each outcome. `AUDIT.md` describes every line.
//!
//! ```text
//! record_allow ──decision──▶ queue ──▶ writer thread ──one write(2) per batch──▶ file
//!      ◀───── Recorded<Allowed>, once write(2) returned ─────┘
//! Recorded<Allowed> ──▶ (Allowed, OutcomeSlot) ──outcome, on finish or drop──▶ queue
//! ```
//!
//! Only this module makes a [`Recorded`], and only a written decision becomes one. The slot for the
//! outcome is reserved before the decision is written, so an outcome always finds room.
//! No header value, no body and no credential ever enters a record: the types have no place for
//! them.

mod chain;
#[cfg(test)]
mod documentation;
mod position;
mod record;
mod recorded;
mod search;
mod sink;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use accept_rules::{Allowed, Denied, Explanation, Origin, RuleIndex};
use broker_protocol::{AgentName, TenantId};
use serde::Serialize;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout};

use crate::ambiguous::Ambiguous;
use crate::instance::Instance;

use self::record::{DecisionFields, DecisionRecord, Identity, Verdict};
use self::writer::Entry;

pub use self::chain::{ChainError, ChainSummary, verify_lines};
pub use self::position::AuditPosition;
pub use self::record::{
    ConnectionStart, Ended, Outcome, PauseCause, Paused, Resumed, RulesLoaded, RulesRefused,
    SecretEcho, Unscanned,
};
pub use self::recorded::{OutcomeSlot, Recorded};
pub use self::search::{RecordedDecision, RecordedNearest, Wanted, last_decision};
pub use self::writer::AuditWriter;

/// Exchanges that may be in flight at once for each connection: 16 tunnels of 256 streams each, the most that one
/// agent is granted (SPEC.md §4.3, §5.4). Each holds one place of the queue, for its outcome.
const EXCHANGES: usize = 16 * 256;

/// Further places of the queue, for decisions: what the writer takes in about one batch.
const DECISIONS: usize = 1024;

/// Longest that a request waits for its decision to be written. A disk that hangs must end in an
/// answer, and before the caller's own time-out.
const DEADLINE: Duration = Duration::from_secs(5);

/// The audit log cannot take a record now; the request must not be forwarded.
#[derive(Debug, Clone, thiserror::Error)]
#[error("audit log {log}: {cause}")]
pub struct AuditUnavailable {
    log: Arc<str>,
    cause: Arc<str>,
}

/// Why the audit log cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditOpenError {
    /// The file cannot be opened, read or written.
    #[error("audit log {log}: {source} (the agent's user must be able to read and append to it)")]
    Io {
        /// The file, or `stdout`.
        log: Arc<str>,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The last line is not one that this program can continue.
    #[error(
        "audit log {log}: the last line {problem} (keep the file for your auditors and move it \
         away: the agent then begins a new chain)"
    )]
    LastLine {
        /// The file.
        log: Arc<str>,
        /// What is wrong with the line.
        problem: String,
    },
}

/// A handle to the audit log; clones write to the same chain.
#[derive(Debug, Clone)]
pub struct AuditLog {
    queue: mpsc::Sender<Entry>,
    exchanges: Arc<Semaphore>,
    identity: Arc<Identity>,
    position: Arc<AuditPosition>,
}

/// Whose request is decided.
#[derive(Debug, Clone)]
pub struct DecisionContext {
    /// The exchange's id, the same in every log and answer. Cut at 128 bytes.
    pub request_id: Arc<str>,
    /// The tenant that the tunnel belongs to; `None` for the operator's own probes, which come through none.
    pub tenant: Option<TenantId>,
    /// The agent that the caller asked for.
    pub agent: Arc<AgentName>,
}

/// A request that was refused before any rule was asked.
#[derive(Debug, Clone, Copy)]
pub struct RefusedRequest<'a> {
    /// Who asked, as the server names it; empty where it does not.
    pub caller: &'a str,
    /// The method as it came.
    pub method: &'a str,
    /// The target as it came; recorded without query values and userinfo, escaped, cut at 2 KiB.
    pub raw: &'a [u8],
    /// What is wrong with it.
    pub why: &'a Ambiguous,
}

impl AuditLog {
    /// Opens the instance's log, continues its chain and starts the writer thread.
    ///
    /// # Errors
    /// Where the log cannot be read and written, or its last line is not a record.
    pub fn open(
        instance: &Instance,
        connections: &[ConnectionStart],
    ) -> Result<(Self, AuditWriter), AuditOpenError> {
        let identity = Identity {
            instance: instance.name().to_string(),
            run_id: instance.run_id().to_string(),
        };
        Self::open_at(
            instance.audit_log(),
            identity,
            connections,
            EXCHANGES * connections.len().max(1),
            DECISIONS,
        )
    }

    fn open_at(
        path: Option<PathBuf>,
        identity: Identity,
        connections: &[ConnectionStart],
        exchanges: usize,
        decisions: usize,
    ) -> Result<(Self, AuditWriter), AuditOpenError> {
        let position = Arc::new(AuditPosition::new(path.as_deref()));
        let identity = Arc::new(identity);
        let (queue, writer) = writer::start(
            path,
            Arc::clone(&identity),
            Arc::clone(&position),
            connections,
            exchanges + decisions,
        )?;
        let log = Self {
            queue,
            exchanges: Arc::new(Semaphore::new(exchanges)),
            identity,
            position,
        };
        Ok((log, writer))
    }

    /// Where the log stands; outlives the log.
    #[must_use]
    pub fn position(&self) -> Arc<AuditPosition> {
        Arc::clone(&self.position)
    }

    /// Records that `allowed` goes to `origin`; the only way to a [`Recorded`].
    ///
    /// # Errors
    /// [`AuditUnavailable`] where the record could not be written; the request must not be sent.
    pub async fn record_allow(
        &self,
        allowed: Allowed,
        origin: &Origin,
        context: &DecisionContext,
    ) -> Result<Recorded<Allowed>, AuditUnavailable> {
        let started = Instant::now();
        let origin = origin.to_string();
        let fields = DecisionFields {
            rule: Some(allowed.rule().as_usize()),
            verdict: Verdict::Allow,
            reason: "match",
            origin: Some(&origin),
            ..DecisionFields::of(allowed.target(), allowed.caller())
        };
        let line = self.decision(fields, context);
        let slot = self.in_time(async {
            // An exchange's own permit first: without it, requests that each hold a place for
            // their outcome could fill the queue and wait for each other's decisions for ever.
            let exchange = Arc::clone(&self.exchanges).acquire_owned().await.ok()?;
            let place = self.queue.clone().reserve_owned().await.ok()?;
            // From here to the queue nothing waits: a slot that is dropped writes an outcome, which must not
            // come without its decision.
            let turn = self.queue.reserve().await.ok()?;
            let slot = OutcomeSlot {
                place: Some(place),
                request_id: Arc::clone(&context.request_id),
                agent: Arc::clone(&context.agent),
                identity: Arc::clone(&self.identity),
                started,
                outcome: Outcome::not_sent(),
                _exchange: exchange,
            };
            let (written, answer) = oneshot::channel();
            turn.send(Entry::Allow {
                line,
                slot,
                written,
            });
            answer.await.ok()
        });
        let mut slot = slot.await??;
        slot.outcome.ended = Ended::CallerGone;
        Ok(Recorded {
            value: allowed,
            slot,
        })
    }

    /// Records that no rule allows a request.
    ///
    /// # Errors
    /// [`AuditUnavailable`] where the record could not be written.
    pub async fn record_deny(
        &self,
        denied: &Denied,
        nearest: Option<&Explanation>,
        context: &DecisionContext,
    ) -> Result<(), AuditUnavailable> {
        let fields = DecisionFields {
            reason: denied.reason().code(),
            nearest,
            rule: denied.rule().map(RuleIndex::as_usize),
            ..DecisionFields::of(denied.target(), denied.caller())
        };
        self.deny(fields, context).await
    }

    /// Records a request that was refused before any rule was asked.
    ///
    /// # Errors
    /// [`AuditUnavailable`] where the record could not be written.
    pub async fn record_refused(
        &self,
        refused: RefusedRequest<'_>,
        context: &DecisionContext,
    ) -> Result<(), AuditUnavailable> {
        let (path, query) = record::refused_target(refused.raw);
        let fields = DecisionFields {
            caller: refused.caller,
            method: refused.method,
            path: &path,
            query: query.iter().map(String::as_str).collect(),
            rule: None,
            verdict: Verdict::Deny,
            reason: refused.why.code(),
            header: refused.why.header(),
            origin: None,
            nearest: None,
        };
        self.deny(fields, context).await
    }

    /// Records a pause.
    ///
    /// # Errors
    /// [`AuditUnavailable`] where the record could not be written; the pause is in force all the same.
    pub async fn record_paused(&self, paused: Paused<'_>) -> Result<(), AuditUnavailable> {
        self.event("paused", paused).await
    }

    /// Records that a pause is over, which it is only after that.
    ///
    /// # Errors
    /// [`AuditUnavailable`] where the record could not be written.
    pub async fn record_resumed(&self, resumed: Resumed<'_>) -> Result<(), AuditUnavailable> {
        let line = self.identity.line("resumed", SystemTime::now(), resumed);
        self.in_time(self.alone(line)).await?
    }

    /// Records that another accept file decides; the rules take over only after that.
    ///
    /// # Errors
    /// [`AuditUnavailable`] where the record could not be written.
    pub async fn record_rules_loaded(
        &self,
        loaded: RulesLoaded<'_>,
    ) -> Result<(), AuditUnavailable> {
        self.event("rules-loaded", loaded).await
    }

    /// Records that an accept file is wrong, and the one before goes on to decide.
    ///
    /// # Errors
    /// [`AuditUnavailable`] where the record could not be written.
    pub async fn record_rules_refused(
        &self,
        refused: RulesRefused<'_>,
    ) -> Result<(), AuditUnavailable> {
        self.event("rules-refused", refused).await
    }

    /// Without a deadline: no request waits for it, and given up too early, it might still be written.
    async fn event(
        &self,
        kind: &'static str,
        record: impl Serialize,
    ) -> Result<(), AuditUnavailable> {
        let line = self.identity.line(kind, SystemTime::now(), record);
        self.alone(line).await.unwrap_or_else(|| Err(self.closed()))
    }

    async fn deny(
        &self,
        fields: DecisionFields<'_>,
        context: &DecisionContext,
    ) -> Result<(), AuditUnavailable> {
        let line = self.decision(fields, context);
        self.in_time(self.alone(line)).await?
    }

    /// The writer's answer to a line that no outcome follows; `None` where the log is closed.
    async fn alone(&self, line: Vec<u8>) -> Option<Result<(), AuditUnavailable>> {
        let (written, answer) = oneshot::channel();
        let entry = Entry::Alone { line, written };
        self.queue.send(entry).await.ok()?;
        answer.await.ok()
    }

    fn decision(&self, fields: DecisionFields<'_>, context: &DecisionContext) -> Vec<u8> {
        let record = DecisionRecord::new(fields, context);
        self.identity.line("decision", SystemTime::now(), record)
    }

    /// The answer of the writer, or why there is none.
    async fn in_time<T>(
        &self,
        answer: impl Future<Output = Option<T>>,
    ) -> Result<T, AuditUnavailable> {
        match timeout(DEADLINE, answer).await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(self.closed()),
            Err(_) => Err(self.position.unavailable("no write ended within 5 s")),
        }
    }

    fn closed(&self) -> AuditUnavailable {
        self.position.unavailable("closed, the agent is stopping")
    }
}

#[cfg(test)]
mod tests;

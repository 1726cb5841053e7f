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
mod record;
mod search;
mod sink;
mod writer;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use accept_rules::{Allowed, Denied, Explanation, Origin, TargetError};
use broker_protocol::{AgentName, TenantId};
use serde::Serialize;
use tokio::sync::mpsc::{self, OwnedPermit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout};

use crate::instance::Instance;

use self::record::{DecisionFields, DecisionRecord, Identity, OutcomeRecord, Verdict};
use self::writer::Entry;

pub use self::chain::{ChainError, ChainSummary, verify_lines};
pub use self::record::{ConnectionStart, Ended, Outcome, RulesLoaded, RulesRefused};
pub use self::search::{RecordedDecision, RecordedNearest, Wanted, last_decision};
pub use self::writer::AuditWriter;

/// Exchanges that may be in flight at once: 16 tunnels of 256 streams each, the most that one agent
/// is granted (SPEC.md §4.3, §5.4). Each holds one place of the queue, for its outcome.
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
    /// The tenant that the tunnel belongs to.
    pub tenant: TenantId,
    /// The agent that the caller asked for.
    pub agent: AgentName,
}

/// A target that was refused before any rule was asked.
#[derive(Debug, Clone, Copy)]
pub struct RefusedTarget<'a> {
    /// Who asked, as the server names it; empty where it does not.
    pub caller: &'a str,
    /// The method as it came.
    pub method: &'a str,
    /// The target as it came; recorded without query values and userinfo, escaped, cut at 2 KiB.
    pub raw: &'a [u8],
    /// What is wrong with it.
    pub error: &'a TargetError,
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
            EXCHANGES,
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
            ..DecisionFields::of(denied.target(), denied.caller())
        };
        self.deny(fields, context).await
    }

    /// Records a target that was refused before any rule was asked.
    ///
    /// # Errors
    /// [`AuditUnavailable`] where the record could not be written.
    pub async fn record_refused(
        &self,
        refused: RefusedTarget<'_>,
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
            reason: refused.error.code(),
            origin: None,
            nearest: None,
        };
        self.deny(fields, context).await
    }

    /// Records that another accept file decides; the rules take over only after that.
    ///
    /// # Errors
    /// [`AuditUnavailable`] where the record could not be written.
    pub async fn record_rules_loaded(
        &self,
        loaded: RulesLoaded<'_>,
    ) -> Result<(), AuditUnavailable> {
        self.rules("rules-loaded", loaded).await
    }

    /// Records that an accept file is wrong, and the one before goes on to decide.
    ///
    /// # Errors
    /// [`AuditUnavailable`] where the record could not be written.
    pub async fn record_rules_refused(
        &self,
        refused: RulesRefused<'_>,
    ) -> Result<(), AuditUnavailable> {
        self.rules("rules-refused", refused).await
    }

    /// Without a deadline: no request waits for it, and given up too early, it might still be written.
    async fn rules(
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

/// `T`, whose decision is in the audit log; made by this module alone.
#[derive(Debug)]
pub struct Recorded<T> {
    value: T,
    slot: OutcomeSlot,
}

impl<T> Recorded<T> {
    /// What was recorded.
    pub fn get(&self) -> &T {
        &self.value
    }

    /// What was recorded, and the place for how it ends.
    #[must_use]
    pub fn into_parts(self) -> (T, OutcomeSlot) {
        (self.value, self.slot)
    }
}

/// The reserved place for one outcome. Dropped unfinished, it records what was noted so far, ended
/// `caller-gone`: whoever held it was cancelled, and callers do that.
#[derive(Debug)]
pub struct OutcomeSlot {
    /// `None` once used.
    place: Option<OwnedPermit<Entry>>,
    request_id: Arc<str>,
    identity: Arc<Identity>,
    started: Instant,
    outcome: Outcome,
    _exchange: OwnedSemaphorePermit,
}

impl OutcomeSlot {
    /// What is known so far, to be added to as the exchange goes on.
    pub fn outcome(&mut self) -> &mut Outcome {
        &mut self.outcome
    }

    /// Records how the exchange ended; never waits and never fails.
    pub fn finish(mut self, ended: Ended) {
        self.outcome.ended = ended;
    }

    /// Records nothing: the decision itself was not written.
    fn disarm(mut self) {
        self.place = None;
    }
}

impl Drop for OutcomeSlot {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            let record =
                OutcomeRecord::new(&self.request_id, &self.outcome, self.started.elapsed());
            let line = self.identity.line("outcome", SystemTime::now(), record);
            place.send(Entry::Outcome { line });
        }
    }
}

/// Where the audit log stands, for people and probes.
#[derive(Debug)]
pub struct AuditPosition {
    log: Arc<str>,
    seq: AtomicU64,
    failure: Mutex<Option<(SystemTime, Arc<str>)>>,
}

impl AuditPosition {
    fn new(path: Option<&std::path::Path>) -> Self {
        Self {
            log: path.map_or("stdout".into(), |path| path.display().to_string().into()),
            seq: AtomicU64::new(0),
            failure: Mutex::new(None),
        }
    }

    /// A position without a log, for tests of what shows it.
    #[cfg(test)]
    pub(crate) fn at_rest(path: &str) -> Self {
        Self::new(Some(path.as_ref()))
    }

    /// The file, or `stdout`.
    #[must_use]
    pub fn log(&self) -> &str {
        &self.log
    }

    /// The last written line's number.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq.load(Ordering::Relaxed)
    }

    /// Since when and why nothing can be written; `None` while the log works.
    #[must_use]
    pub fn failure(&self) -> Option<(SystemTime, Arc<str>)> {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn written(&self, seq: u64) {
        self.seq.store(seq, Ordering::Relaxed);
        let failure = self
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if failure.is_some() {
            tracing::info!(log = %self.log, seq, "the audit log can be written again");
        }
    }

    fn failed(&self, cause: &str) -> AuditUnavailable {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if failure.is_none() {
            tracing::error!(log = %self.log, cause, "the audit log cannot be written: requests are refused");
            *failure = Some((SystemTime::now(), cause.into()));
        }
        drop(failure);
        self.unavailable(cause)
    }

    fn unavailable(&self, cause: &str) -> AuditUnavailable {
        AuditUnavailable {
            log: Arc::clone(&self.log),
            cause: cause.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::BufReader;
    use std::path::Path;

    use accept_rules::{Decision, EncodedSlash, List, Request, RequestTarget, RuleFile, RuleSet};
    use http::{HeaderMap, Method};
    use serde_json::Value;

    use super::*;
    use crate::instance::tests::TestFolder;

    fn identity() -> Identity {
        Identity {
            instance: "default".to_owned(),
            run_id: "3f0c5ac0-5a43-4b07-9cb1-0b8a1e2f6f10".to_owned(),
        }
    }

    fn open(path: &Path) -> (AuditLog, AuditWriter) {
        open_for(path, 8).unwrap()
    }

    fn open_for(path: &Path, exchanges: usize) -> Result<(AuditLog, AuditWriter), AuditOpenError> {
        let connections = [ConnectionStart {
            agent: "sonarqube".parse().unwrap(),
            accept_sha256: None,
        }];
        AuditLog::open_at(
            Some(path.to_owned()),
            identity(),
            &connections,
            exchanges,
            4,
        )
    }

    fn context(request_id: &str) -> DecisionContext {
        DecisionContext {
            request_id: request_id.into(),
            tenant: "default".parse().unwrap(),
            agent: "sonarqube".parse().unwrap(),
        }
    }

    const RULES: &str = r#"{"private": [
        {"path": "/other", "origin": "https://other.internal"},
        {"path": "/api/*", "origin": "https://sonar.internal"}
    ]}"#;

    fn decide(target: &str) -> Decision {
        let file = RuleFile::parse(RULES).unwrap();
        let rules = RuleSet::compile(&file, List::Private, |_| EncodedSlash::Data);
        let mut headers = HeaderMap::new();
        headers.insert("authorization", "Bearer canary".parse().unwrap());
        rules.decide(Request {
            target: RequestTarget::new(&Method::GET, target).unwrap(),
            headers,
            caller: "proxy".into(),
            now: SystemTime::now(),
        })
    }

    async fn allow(log: &AuditLog, id: &str) -> Result<Recorded<Allowed>, AuditUnavailable> {
        let Decision::Allow(allowed) = decide("/api/issues?p=canary&q=1") else {
            panic!("the rules allow it");
        };
        let origin = Origin::parse("https://sonar.internal").unwrap();
        log.record_allow(allowed, &origin, &context(id)).await
    }

    async fn deny(log: &AuditLog, id: &str) -> Result<(), AuditUnavailable> {
        let Decision::Deny(denied) = decide("/users?p=canary") else {
            panic!("the rules deny it");
        };
        log.record_deny(&denied, None, &context(id)).await
    }

    fn lines(path: &Path) -> Vec<Value> {
        let text = fs::read_to_string(path).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn kinds(path: &Path) -> Vec<String> {
        lines(path)
            .iter()
            .map(|line| line["kind"].as_str().unwrap().to_owned())
            .collect()
    }

    fn verify(path: &Path) -> Result<ChainSummary, ChainError> {
        verify_lines(BufReader::new(fs::File::open(path).unwrap()))
    }

    #[tokio::test]
    async fn a_decision_is_in_the_file_before_the_request_may_go_on() {
        let folder = TestFolder::new();
        let path = folder.path().join("audit.jsonl");
        let (log, _writer) = open(&path);

        let recorded = allow(&log, "r1").await.unwrap();

        let line = lines(&path).pop().unwrap();
        assert_eq!(line["kind"], "decision");
        assert_eq!(line["verdict"], "allow");
        assert_eq!(line["seq"], 2);
        assert_eq!(line["caller"], "proxy");
        assert_eq!(line["path"], "/api/issues");
        assert_eq!(line["query"], serde_json::json!(["p", "q"]));
        assert_eq!(line["rule"], 1);
        assert_eq!(line["reason"], "match");
        assert_eq!(line["origin"], "https://sonar.internal");
        drop(recorded);
    }

    #[tokio::test]
    async fn an_outcome_tells_how_it_ended() {
        let folder = TestFolder::new();
        let path = folder.path().join("audit.jsonl");
        let (log, writer) = open(&path);

        let (_, mut slot) = allow(&log, "r1").await.unwrap().into_parts();
        slot.outcome().status = Some(200);
        slot.outcome().bytes_down = 17;
        slot.finish(Ended::Complete);
        writer.close().await.unwrap();

        let outcome = &lines(&path)[2];
        assert_eq!(outcome["kind"], "outcome");
        assert_eq!(outcome["request_id"], "r1");
        assert_eq!(outcome["status"], 200);
        assert_eq!(outcome["bytes_down"], 17);
        assert_eq!(outcome["ended"], "complete");
        assert!(outcome["duration_ms"].is_f64());
        assert_eq!(kinds(&path), ["start", "decision", "outcome", "stop"]);
    }

    #[tokio::test]
    async fn a_dropped_exchange_has_an_outcome_with_what_was_known() {
        let folder = TestFolder::new();
        let path = folder.path().join("audit.jsonl");
        let (log, writer) = open(&path);

        let (_, mut slot) = allow(&log, "r1").await.unwrap().into_parts();
        slot.outcome().bytes_down = 5;
        drop(slot);
        writer.close().await.unwrap();

        let outcome = &lines(&path)[2];
        assert_eq!(outcome["ended"], "caller-gone");
        assert_eq!(outcome["bytes_down"], 5);
    }

    #[tokio::test]
    async fn a_request_cancelled_while_it_is_recorded_has_an_outcome_too() {
        let folder = TestFolder::new();
        let path = folder.path().join("audit.jsonl");
        let (log, writer) = open(&path);

        {
            let mut request = std::pin::pin!(allow(&log, "r1"));
            // One poll queues the decision, which may be written by now or not; then the caller is gone.
            drop(futures_util::poll!(&mut request));
        }
        writer.close().await.unwrap();

        assert_eq!(kinds(&path), ["start", "decision", "outcome", "stop"]);
        let ended = &lines(&path)[2]["ended"];
        assert!(*ended == "not-sent" || *ended == "caller-gone", "{ended}");
    }

    #[tokio::test]
    async fn a_request_cancelled_before_its_decision_is_queued_leaves_nothing() {
        let folder = TestFolder::new();
        let path = folder.path().join("audit.jsonl");
        let (log, writer) = open_for(&path, 1).unwrap();
        let others: Vec<_> = (0..4)
            .map(|_| log.queue.clone().try_reserve_owned().unwrap())
            .collect();

        {
            let mut request = std::pin::pin!(allow(&log, "r1"));
            assert!(futures_util::poll!(&mut request).is_pending());
            assert_eq!(log.queue.capacity(), 0);
        }
        drop(others);
        writer.close().await.unwrap();

        assert_eq!(kinds(&path), ["start", "stop"]);
    }

    #[tokio::test]
    async fn no_header_value_and_no_query_value_is_recorded() {
        let folder = TestFolder::new();
        let path = folder.path().join("audit.jsonl");
        let (log, writer) = open(&path);

        let (_, mut slot) = allow(&log, "r1").await.unwrap().into_parts();
        slot.outcome().removed_request_headers = vec![http::header::COOKIE];
        slot.finish(Ended::Complete);
        deny(&log, "r2").await.unwrap();
        writer.close().await.unwrap();

        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.contains(r#""removed_request_headers":["cookie"]"#),
            "{text}"
        );
        assert!(!text.contains("canary"), "{text}");
    }

    #[tokio::test]
    async fn a_denial_is_one_line_without_an_outcome() {
        let folder = TestFolder::new();
        let path = folder.path().join("audit.jsonl");
        let (log, writer) = open(&path);

        deny(&log, "r1").await.unwrap();
        assert_eq!(lines(&path)[1]["verdict"], "deny");
        assert_eq!(lines(&path)[1]["rule"], Value::Null);
        writer.close().await.unwrap();

        assert_eq!(kinds(&path), ["start", "decision", "stop"]);
    }

    #[tokio::test]
    async fn a_refused_target_is_recorded_without_what_may_be_secret() {
        let folder = TestFolder::new();
        let path = folder.path().join("audit.jsonl");
        let (log, writer) = open(&path);
        let refused = RefusedTarget {
            caller: "",
            method: "GET",
            raw: b"http://u:canary@host/\xff?token=canary",
            error: &TargetError::NotOriginForm,
        };

        log.record_refused(refused, &context("r1")).await.unwrap();
        writer.close().await.unwrap();

        let decision = &lines(&path)[1];
        assert_eq!(decision["path"], r"http://***@host/\xff");
        assert_eq!(decision["query"], serde_json::json!(["token"]));
        assert_eq!(decision["reason"], "not-origin-form");
        assert_eq!(decision["caller"], Value::Null);
        assert!(!fs::read_to_string(&path).unwrap().contains("canary"));
    }

    #[tokio::test]
    async fn the_chain_goes_on_over_restarts() {
        let folder = TestFolder::new();
        let path = folder.path().join("audit.jsonl");
        for _ in 0..3 {
            let (log, writer) = open(&path);
            allow(&log, "r").await.unwrap();
            writer.close().await.unwrap();
        }

        let summary = verify(&path).unwrap();
        assert_eq!(
            (summary.records, summary.first_seq, summary.last_seq),
            (12, 1, 12)
        );
        let starts: Vec<_> = lines(&path)
            .into_iter()
            .filter(|line| line["kind"] == "start")
            .map(|line| line["new_chain"].clone())
            .collect();
        assert_eq!(starts, [true, false, false]);
    }

    #[tokio::test]
    async fn a_changed_removed_or_moved_line_breaks_the_chain() {
        let folder = TestFolder::new();
        let path = folder.path().join("audit.jsonl");
        let (log, writer) = open(&path);
        for id in ["r1", "r2"] {
            allow(&log, id).await.unwrap();
        }
        writer.close().await.unwrap();

        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        let check = |lines: &[&str]| verify_lines((lines.join("\n") + "\n").as_bytes());
        check(&lines).unwrap();

        let changed = lines[1].replace("\"path\":\"/", "\"path\":\"/x");
        check(&[lines[0], &changed, lines[2]]).unwrap_err();
        check(&[lines[0], lines[2]]).unwrap_err();
        check(&[lines[0], lines[2], lines[1]]).unwrap_err();
        check(&[lines[0], "{}", lines[1]]).unwrap_err();
        check(&[lines[0], lines[1], "{}"]).unwrap_err();
        check(&["{}", lines[1]]).unwrap_err();
        // A rotated file begins in the middle.
        assert_eq!(check(&lines[2..]).unwrap().first_seq, 3);
    }

    #[tokio::test]
    async fn a_line_that_a_crash_cut_off_is_kept_and_owned_up_to() {
        let folder = TestFolder::new();
        let path = folder.path().join("audit.jsonl");
        open(&path).1.close().await.unwrap();
        let mut text = fs::read_to_string(&path).unwrap();
        text.push_str(r#"{"v":1,"seq":3,"pr"#);
        fs::write(&path, &text).unwrap();

        open(&path).1.close().await.unwrap();

        let after = fs::read_to_string(&path).unwrap();
        assert!(after.starts_with(&text));
        let recovered: Value = serde_json::from_str(after.lines().nth(3).unwrap()).unwrap();
        assert_eq!(recovered["kind"], "recovered");
        assert_eq!(recovered["seq"], 3);
        assert_eq!(recovered["bytes"], 18);
        let summary = verify(&path).unwrap();
        assert_eq!((summary.torn_lines, summary.last_seq), (1, 5));
    }

    #[tokio::test]
    async fn a_line_that_lacks_only_its_newline_counts() {
        let folder = TestFolder::new();
        let path = folder.path().join("audit.jsonl");
        open(&path).1.close().await.unwrap();
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.trim_end()).unwrap();

        open(&path).1.close().await.unwrap();

        assert_eq!(verify(&path).unwrap().last_seq, 4);
        assert_eq!(kinds(&path), ["start", "stop", "start", "stop"]);
    }

    #[tokio::test]
    async fn a_log_that_ends_in_something_else_is_not_continued() {
        let folder = TestFolder::new();
        let path = folder.path().join("audit.jsonl");
        for (text, problem) in [
            ("hello\n".to_owned(), "is not an audit record"),
            (
                r#"{"v":2,"seq":1,"prev":"","kind":"x"}"#.to_owned() + "\n",
                "has version 2",
            ),
            ("x".repeat(2 << 20) + "\n", "longer than"),
        ] {
            fs::write(&path, text).unwrap();
            let error = open_for(&path, 8).unwrap_err().to_string();
            for part in [problem, path.to_str().unwrap(), "move it away"] {
                assert!(error.contains(part), "{error}");
            }
        }
    }

    #[tokio::test]
    async fn a_removed_log_is_begun_again_with_the_same_chain() {
        let folder = TestFolder::new();
        let path = folder.path().join("audit.jsonl");
        let moved = folder.path().join("audit.jsonl.1");
        let (log, writer) = open(&path);
        allow(&log, "r1").await.unwrap();

        fs::rename(&path, &moved).unwrap();
        let recorded = allow(&log, "r2").await.unwrap();
        let line = lines(&path)
            .into_iter()
            .find(|line| line["request_id"] == "r2");
        assert_eq!(line.unwrap()["kind"], "decision");
        drop(recorded);
        writer.close().await.unwrap();

        let reopened = lines(&path)
            .into_iter()
            .find(|line| line["kind"] == "reopened")
            .unwrap();
        assert_eq!(reopened["found"], "missing");
        let both = [fs::read(&moved).unwrap(), fs::read(&path).unwrap()].concat();
        verify_lines(both.as_slice()).unwrap();
    }

    #[tokio::test]
    async fn a_log_cut_short_by_others_is_noticed_and_its_chain_is_broken() {
        let folder = TestFolder::new();
        let path = folder.path().join("audit.jsonl");
        let (log, writer) = open(&path);
        allow(&log, "r1").await.unwrap();

        fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(10)
            .unwrap();
        deny(&log, "r2").await.unwrap();
        writer.close().await.unwrap();

        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(r#""found":"changed""#), "{text}");
        verify(&path).unwrap_err();
    }

    #[tokio::test]
    async fn an_unwritable_log_refuses_requests_until_it_works_again() {
        let folder = TestFolder::new();
        let home = folder.path().join("home");
        let away = folder.path().join("away");
        let path = home.join("audit.jsonl");
        fs::create_dir(&home).unwrap();
        let (log, writer) = open(&path);
        let (_, slot) = allow(&log, "in flight").await.unwrap().into_parts();

        // The folder's place is taken by a file, which stops the superuser too.
        fs::rename(&home, &away).unwrap();
        fs::write(&home, "").unwrap();
        let error = allow(&log, "r2").await.unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
        assert!(error.contains("Not a directory"), "{error}");
        deny(&log, "r3").await.unwrap_err();
        slot.finish(Ended::Complete);
        deny(&log, "r4").await.unwrap_err();
        assert!(log.position().failure().is_some());

        fs::remove_file(&home).unwrap();
        fs::rename(&away, &home).unwrap();
        allow(&log, "r5").await.unwrap();
        assert!(log.position().failure().is_none());
        writer.close().await.unwrap();

        let ids: Vec<_> = lines(&path)
            .into_iter()
            .filter_map(|line| Some(format!("{} {}", line["kind"], line["request_id"].as_str()?)))
            .collect();
        let expected = [
            r#""decision" in flight"#,
            r#""outcome" in flight"#,
            r#""decision" r5"#,
            r#""outcome" r5"#,
        ];
        assert_eq!(ids, expected);
        verify(&path).unwrap();
    }

    #[tokio::test]
    async fn a_full_disk_refuses_requests_until_there_is_room() {
        let folder = TestFolder::new();
        let path = folder.path().join("audit.jsonl");
        let aside = folder.path().join("aside");
        let (log, writer) = open(&path);

        fs::rename(&path, &aside).unwrap();
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let error = allow(&log, "r1").await.unwrap_err().to_string();
        assert!(error.contains("No space left on device"), "{error}");

        fs::remove_file(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
        allow(&log, "r2").await.unwrap();
        writer.close().await.unwrap();
        verify(&path).unwrap();
    }

    #[tokio::test]
    async fn exchanges_beyond_the_bound_wait_and_never_block_each_other() {
        let folder = TestFolder::new();
        let path = folder.path().join("audit.jsonl");
        let (log, writer) = open_for(&path, 2).unwrap();
        let first = allow(&log, "r1").await.unwrap();
        let second = allow(&log, "r2").await.unwrap();

        let mut third = std::pin::pin!(allow(&log, "r3"));
        assert!(futures_util::poll!(&mut third).is_pending());
        // Denials hold no place.
        deny(&log, "r4").await.unwrap();
        assert!(futures_util::poll!(&mut third).is_pending());

        drop(first);
        drop(third.await.unwrap());
        drop(second);
        writer.close().await.unwrap();
        verify(&path).unwrap();
    }

    #[tokio::test]
    async fn closing_waits_for_outcomes_and_refuses_new_requests() {
        let folder = TestFolder::new();
        let path = folder.path().join("audit.jsonl");
        let (log, writer) = open(&path);
        let (_, slot) = allow(&log, "r1").await.unwrap().into_parts();

        let mut close = std::pin::pin!(writer.close());
        assert!(futures_util::poll!(&mut close).is_pending());
        // Whatever the writer has seen of the close by now, this either fails or is written.
        while deny(&log, "r2").await.is_ok() {}
        assert!(futures_util::poll!(&mut close).is_pending());
        slot.finish(Ended::Complete);
        close.await.unwrap();

        assert_eq!(lines(&path).last().unwrap()["kind"], "stop");
        verify(&path).unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn thousands_of_requests_at_once_make_one_chain() {
        let folder = TestFolder::new();
        let path = folder.path().join("audit.jsonl");
        let (log, writer) = open_for(&path, 64).unwrap();
        let mut requests = tokio::task::JoinSet::new();
        for request in 0..2000 {
            let log = log.clone();
            requests.spawn(async move {
                let id = format!("r{request}");
                allow(&log, &id)
                    .await
                    .unwrap()
                    .into_parts()
                    .1
                    .finish(Ended::Complete);
            });
        }
        requests.join_all().await;
        writer.close().await.unwrap();

        assert_eq!(verify(&path).unwrap().records, 4002);
        assert_eq!(log.position().seq(), 4002);
    }

    #[tokio::test]
    async fn long_texts_of_the_server_are_cut() {
        let folder = TestFolder::new();
        let path = folder.path().join("audit.jsonl");
        let (log, writer) = open(&path);
        let long = "x".repeat(5000);
        let refused = RefusedTarget {
            caller: &long,
            method: &long,
            raw: b"*",
            error: &TargetError::NotOriginForm,
        };
        log.record_refused(refused, &context(&long)).await.unwrap();
        writer.close().await.unwrap();
        for field in ["caller", "method", "request_id"] {
            assert_eq!(
                lines(&path)[1][field].as_str().unwrap().len(),
                128,
                "{field}"
            );
        }
    }
}

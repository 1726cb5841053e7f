//! What the record stands for: a value whose decision was written, and the place for its outcome.

use std::sync::Arc;
use std::time::SystemTime;

use broker_protocol::AgentName;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::OwnedPermit;
use tokio::time::Instant;

use super::record::{Ended, Identity, Outcome, OutcomeRecord};
use super::writer::Entry;

/// `T`, whose decision is in the audit log; made by `audit` alone.
#[derive(Debug)]
pub struct Recorded<T> {
    pub(super) value: T,
    pub(super) slot: OutcomeSlot,
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
    pub(super) place: Option<OwnedPermit<Entry>>,
    pub(super) request_id: Arc<str>,
    pub(super) agent: Arc<AgentName>,
    pub(super) identity: Arc<Identity>,
    pub(super) started: Instant,
    pub(super) outcome: Outcome,
    pub(super) _exchange: OwnedSemaphorePermit,
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
    pub(super) fn disarm(mut self) {
        self.place = None;
    }
}

impl Drop for OutcomeSlot {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            let record = OutcomeRecord::new(
                &self.request_id,
                &self.agent,
                &self.outcome,
                self.started.elapsed(),
            );
            let line = self.identity.line("outcome", SystemTime::now(), record);
            place.send(Entry::Outcome { line });
        }
    }
}

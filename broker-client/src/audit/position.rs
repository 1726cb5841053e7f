//! Where the log stands: shared between the writer and whoever shows it.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use super::AuditUnavailable;

/// Where the audit log stands, for people and probes.
#[derive(Debug)]
pub struct AuditPosition {
    pub(super) log: Arc<str>,
    seq: AtomicU64,
    failure: Mutex<Option<(SystemTime, Arc<str>)>>,
}

impl AuditPosition {
    pub(super) fn new(path: Option<&Path>) -> Self {
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

    pub(super) fn written(&self, seq: u64) {
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

    pub(super) fn failed(&self, cause: &str) -> AuditUnavailable {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if failure.is_none() {
            tracing::error!(log = %self.log, cause, "the audit log cannot be written: requests are refused");
            *failure = Some((SystemTime::now(), cause.into()));
        }
        drop(failure);
        self.unavailable(cause)
    }

    pub(super) fn unavailable(&self, cause: &str) -> AuditUnavailable {
        AuditUnavailable {
            log: Arc::clone(&self.log),
            cause: cause.into(),
        }
    }
}

//! Bodies that rules ask about: kept whole until they are judged, so that what was judged is what is sent.

use std::sync::Arc;
use std::time::Duration;

use accept_rules::BodyRefusal;
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Bodies kept at once: at the usual limit of 1 MiB they take 32 MiB at most.
const PLACES: usize = 32;
/// How long a body may take, the wait for a place included: whoever sends slowly holds one that others need.
const DEADLINE: Duration = Duration::from_secs(30);

/// Keeps bodies for judging, within bounds; shared by all tunnels.
#[derive(Debug)]
pub(crate) struct BodyKeeper {
    /// Longest body, in bytes.
    limit: usize,
    places: Arc<Semaphore>,
}

/// A body, whole; its place is free again once its last byte is dropped.
struct Kept {
    bytes: Bytes,
    _place: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl BodyKeeper {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            places: Arc::new(Semaphore::new(PLACES)),
        }
    }

    /// Reads all of `body`.
    pub(crate) async fn keep(&self, body: Incoming) -> Result<Bytes, BodyRefusal> {
        if body.size_hint().lower() > self.limit as u64 {
            return Err(BodyRefusal::TooLarge);
        }
        timeout(DEADLINE, self.read(body))
            .await
            .unwrap_or(Err(BodyRefusal::Incomplete))
    }

    async fn read(&self, body: Incoming) -> Result<Bytes, BodyRefusal> {
        let place = Arc::clone(&self.places).acquire_owned().await;
        let place = place.expect("nobody closes this semaphore");
        let whole = Limited::new(body, self.limit).collect().await;
        let whole = whole.map_err(|error| {
            if error.is::<LengthLimitError>() {
                BodyRefusal::TooLarge
            } else {
                BodyRefusal::Incomplete
            }
        })?;
        Ok(Bytes::from_owner(Kept {
            bytes: whole.to_bytes(),
            _place: place,
        }))
    }
}

//! Bodies that rules ask about, or credentials sign: kept whole, so that what was judged or signed is what is sent.

use std::sync::Arc;
use std::time::Duration;

use accept_rules::BodyRefusal;
use bytes::Bytes;
use http_body::Body;
use http_body_util::BodyExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Bodies kept at once by one process: at the usual limit of 1 MiB they take 32 MiB at most.
const PLACES: usize = 32;
/// How long a body may wait for a place.
const PLACE: Duration = Duration::from_secs(5);
/// How long it may take then: whoever sends slowly holds a place that others need.
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
    bytes: Box<[u8]>,
    _place: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl BodyKeeper {
    /// For one of so many `connections`, which share the places of their process.
    pub(crate) fn new(limit: usize, connections: usize) -> Self {
        let places = (PLACES / connections.max(1)).max(1);
        Self {
            limit,
            places: Arc::new(Semaphore::new(places)),
        }
    }

    /// Longest body, in bytes.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Reads all of `body`.
    pub(crate) async fn keep(
        &self,
        body: impl Body<Data = Bytes> + Unpin,
    ) -> Result<Bytes, BodyRefusal> {
        if body.size_hint().lower() > self.limit as u64 {
            return Err(BodyRefusal::TooLarge);
        }
        if body.is_end_stream() {
            return Ok(Bytes::new());
        }
        let place = Arc::clone(&self.places).acquire_owned();
        let place = timeout(PLACE, place).await;
        let place = place.map_err(|_| BodyRefusal::NoPlace)?;
        let place = place.expect("nobody closes this semaphore");
        timeout(DEADLINE, self.read(body, place))
            .await
            .unwrap_or(Err(BodyRefusal::Incomplete))
    }

    /// Copies what comes: frames that are kept take many times their length, where each has one byte.
    async fn read(
        &self,
        mut body: impl Body<Data = Bytes> + Unpin,
        place: OwnedSemaphorePermit,
    ) -> Result<Bytes, BodyRefusal> {
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| BodyRefusal::Incomplete)?;
            let Some(data) = frame.data_ref() else {
                continue;
            };
            if data.len() > self.limit - bytes.len() {
                return Err(BodyRefusal::TooLarge);
            }
            bytes.extend_from_slice(data);
        }
        Ok(Bytes::from_owner(Kept {
            bytes: bytes.into(),
            _place: place,
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream;
    use http_body::Frame;
    use http_body_util::{Empty, StreamBody};

    use super::*;

    /// The data of a frame, which holds `held` as long as it is kept.
    struct OneByte {
        _held: Arc<()>,
    }

    impl AsRef<[u8]> for OneByte {
        fn as_ref(&self) -> &[u8] {
            b"x"
        }
    }

    /// A body of one byte a frame, which fails where an earlier frame is still kept.
    fn bytewise(length: usize) -> impl Body<Data = Bytes> + Unpin {
        let held = Arc::new(());
        let frames = (0..length).map(move |_| {
            assert_eq!(Arc::strong_count(&held), 1, "an earlier frame is kept");
            let _held = Arc::clone(&held);
            Ok::<_, Infallible>(Frame::data(Bytes::from_owner(OneByte { _held })))
        });
        StreamBody::new(stream::iter(frames))
    }

    #[tokio::test]
    async fn a_body_of_tiny_frames_is_kept_without_its_frames() {
        let kept = BodyKeeper::new(100, 1).keep(bytewise(100)).await;
        assert_eq!(kept.unwrap(), vec![b'x'; 100]);
    }

    #[tokio::test]
    async fn a_body_whose_length_shows_late_is_kept_up_to_the_limit() {
        let kept = BodyKeeper::new(100, 1).keep(bytewise(101)).await;
        assert_eq!(kept, Err(BodyRefusal::TooLarge));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_finds_no_place_is_told_so_and_one_that_is_empty_needs_none() {
        let keeper = BodyKeeper::new(100, PLACES);
        let first = keeper.keep(bytewise(1)).await.unwrap();
        assert_eq!(keeper.keep(bytewise(1)).await, Err(BodyRefusal::NoPlace));
        assert!(keeper.keep(Empty::new()).await.unwrap().is_empty());
        drop(first);
        assert!(keeper.keep(bytewise(1)).await.is_ok());
    }
}

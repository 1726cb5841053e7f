//! A caller's body on its way to the origin: counted, and watched for whether it still moves.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use broker_protocol::hop;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::origin::OriginError;

/// What of a request's body has gone to the origin.
#[derive(Debug)]
pub(crate) struct Upload {
    start: Instant,
    bytes: AtomicU64,
    /// Milliseconds from `start` of the last movement; [`ENDED`] is set once all has gone or been given up.
    moved: AtomicU64,
    ended: Notify,
}

/// The top bit of [`Upload::moved`].
const ENDED: u64 = 1 << 63;

impl Upload {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            bytes: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            ended: Notify::new(),
        }
    }

    /// Body bytes so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Resolves when the origin has taken too long: `first_byte` after the whole request was sent, or `idle` after
    /// the last movement of its body.
    pub(crate) async fn out_of_time(&self, first_byte: Duration, idle: Duration) -> OriginError {
        loop {
            let ended = self.ended.notified();
            let mut ended = std::pin::pin!(ended);
            ended.as_mut().enable();
            let moved = self.moved.load(Ordering::Acquire);
            let last = self.start + Duration::from_millis(moved & !ENDED);
            if moved & ENDED != 0 {
                tokio::time::sleep_until(last + first_byte).await;
                return OriginError::NoAnswer(first_byte);
            }
            tokio::select! {
                () = ended => {}
                () = tokio::time::sleep_until(last + idle) => {
                    if self.moved.load(Ordering::Acquire) == moved {
                        return OriginError::UploadStalled(idle);
                    }
                }
            }
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(0) & !ENDED
    }

    fn end(&self) {
        if self.moved.load(Ordering::Relaxed) & ENDED == 0 {
            self.moved.store(self.now() | ENDED, Ordering::Release);
            self.ended.notify_waiters();
        }
    }
}

/// The body itself.
pub(crate) enum UploadBody {
    Streaming(Incoming, Arc<Upload>),
    Empty,
}

impl UploadBody {
    /// Watches `incoming`.
    pub(crate) fn new(incoming: Incoming) -> (Self, Arc<Upload>) {
        let upload = Arc::new(Upload::new());
        if incoming.is_end_stream() {
            upload.end();
            return (Self::Empty, upload);
        }
        (Self::Streaming(incoming, Arc::clone(&upload)), upload)
    }

    pub(crate) fn empty() -> Self {
        Self::Empty
    }
}

impl Drop for UploadBody {
    fn drop(&mut self) {
        if let Self::Streaming(_, upload) = self {
            upload.end();
        }
    }
}

impl Body for UploadBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Self::Streaming(incoming, upload) = self.get_mut() else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(&mut *incoming).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            upload.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            upload.moved.store(upload.now(), Ordering::Release);
        }
        if frame.is_none() || incoming.is_end_stream() {
            upload.end();
        }
        Poll::Ready(frame.map(|frame| frame.map(hop::clean_trailers)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Streaming(incoming, _) => incoming.is_end_stream(),
            Self::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Streaming(incoming, _) => incoming.size_hint(),
            Self::Empty => SizeHint::with_exact(0),
        }
    }
}

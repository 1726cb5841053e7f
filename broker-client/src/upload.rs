//! A caller's body on its way to the origin: counted, watched for whether it still moves, and ended soon after the
//! answer.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use broker_protocol::hop::{self, Removed};
use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::HeaderName;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

use crate::origin::OriginError;

/// How long an upload may go on once its answer is over, as on the server's listeners: a slow uploader would hold its
/// stream's place for as long as it likes.
const LINGER: Duration = Duration::from_secs(5);

/// Why a request's body broke off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    #[error("the caller broke off its request: {0}")]
    Caller(#[source] hyper::Error),
    #[error("the answer has been over for {LINGER:?}")]
    Answered,
}

/// What of a request's body has gone to the origin.
#[derive(Debug)]
pub(crate) struct Upload {
    start: Instant,
    bytes: AtomicU64,
    /// Milliseconds from `start` of the last movement; [`ENDED`] is set once all has gone or been given up.
    moved: AtomicU64,
    ended: Notify,
    /// Since when its answer is over.
    answered: OnceLock<Instant>,
    /// Whoever waits for more of the body.
    reader: AtomicWaker,
    /// What its trailers lost.
    removed: OnceLock<Removed>,
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
            answered: OnceLock::new(),
            reader: AtomicWaker::new(),
            removed: OnceLock::new(),
        }
    }

    /// Names of the trailers that were removed.
    pub(crate) fn removed_trailers(&self) -> &[HeaderName] {
        self.removed.get().map_or(&[], Vec::as_slice)
    }

    /// Body bytes so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// When it last moved; `None` once it has ended.
    pub(crate) fn moving_since(&self) -> Option<Instant> {
        let moved = self.moved.load(Ordering::Acquire);
        (moved & ENDED == 0).then(|| self.start + Duration::from_millis(moved))
    }

    /// Its answer is over, one way or another: what is still coming has [`LINGER`] to end.
    pub(crate) fn answered(&self) {
        self.answered.get_or_init(Instant::now);
        self.reader.wake();
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
    Streaming {
        incoming: Incoming,
        /// What the head has; trailers cannot bring it again.
        head: Box<[HeaderName]>,
        upload: Arc<Upload>,
        /// Made when the answer is over before the body.
        linger: Option<Pin<Box<Sleep>>>,
    },
    /// Read to its end before it was judged.
    Whole {
        bytes: Bytes,
        upload: Arc<Upload>,
    },
    Empty,
}

impl UploadBody {
    /// Watches `incoming`, the body of a request that has the headers `head`.
    pub(crate) fn new(
        incoming: Incoming,
        head: impl FnOnce() -> Box<[HeaderName]>,
    ) -> (Self, Arc<Upload>) {
        let upload = Arc::new(Upload::new());
        if incoming.is_end_stream() {
            upload.end();
            return (Self::Empty, upload);
        }
        let body = Self::Streaming {
            incoming,
            head: head(),
            upload: Arc::clone(&upload),
            linger: None,
        };
        (body, upload)
    }

    /// Sends a body that is already whole.
    pub(crate) fn whole(bytes: Bytes) -> (Self, Arc<Upload>) {
        let upload = Arc::new(Upload::new());
        if bytes.is_empty() {
            upload.end();
            return (Self::Empty, upload);
        }
        let body = Self::Whole {
            bytes,
            upload: Arc::clone(&upload),
        };
        (body, upload)
    }

    pub(crate) fn empty() -> Self {
        Self::Empty
    }
}

impl Drop for UploadBody {
    fn drop(&mut self) {
        if let Self::Streaming { upload, .. } | Self::Whole { upload, .. } = self {
            upload.end();
        }
    }
}

impl Body for UploadBody {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let me = self.get_mut();
        let (incoming, head, upload, linger) = match me {
            Self::Streaming {
                incoming,
                head,
                upload,
                linger,
            } => (incoming, head, upload, linger),
            Self::Whole { bytes, upload } => {
                let bytes = std::mem::take(bytes);
                upload
                    .bytes
                    .fetch_add(bytes.len() as u64, Ordering::Relaxed);
                upload.end();
                return Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))));
            }
            Self::Empty => return Poll::Ready(None),
        };
        upload.reader.register(cx.waker());
        if let Some(&answered) = upload.answered.get() {
            let linger =
                linger.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(answered + LINGER)));
            if linger.as_mut().poll(cx).is_ready() {
                // Without its receiver, the stream is reset.
                *me = Self::Empty;
                return Poll::Ready(Some(Err(UploadError::Answered)));
            }
        }
        let frame = ready!(Pin::new(&mut *incoming).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            upload.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            upload.moved.store(upload.now(), Ordering::Release);
        }
        if frame.is_none() || incoming.is_end_stream() {
            upload.end();
        }
        Poll::Ready(frame.map(|frame| {
            let (frame, removed) = hop::clean_trailers(frame.map_err(UploadError::Caller)?, head);
            if frame.is_trailers() {
                upload.removed.get_or_init(|| removed);
            }
            Ok(frame)
        }))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Streaming { incoming, .. } => incoming.is_end_stream(),
            Self::Whole { bytes, .. } => bytes.is_empty(),
            Self::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Streaming { incoming, .. } => incoming.size_hint(),
            Self::Whole { bytes, .. } => SizeHint::with_exact(bytes.len() as u64),
            Self::Empty => SizeHint::with_exact(0),
        }
    }
}

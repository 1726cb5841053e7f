//! The answer's body on its way from the origin into the tunnel: counted, timed, and its end put on record.

use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use broker_protocol::hop;
use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use crate::audit::{Ended, OutcomeSlot};
use crate::echo_watch::{EchoWatch, Piece};
use crate::exchange::Places;
use crate::upload::Upload;

/// Why a body broke off after the head of its answer had gone. It ends visibly broken, never cleanly.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the origin broke off: {0}")]
    Origin(#[source] hyper::Error),
    #[error("nothing moved for {0:?}")]
    Idle(Duration),
    #[error("the agent's owner paused it")]
    Paused,
    #[error("the origin's answer is longer than its rule or `limits.response-size` allows")]
    TooLong,
    #[error("it held the credential that was injected")]
    SecretEcho,
}

/// What the agent answers with.
pub(crate) enum AnswerBody {
    /// A text of our own.
    Text(Full<Bytes>),
    /// The origin's body.
    Origin(Box<OriginBody>),
}

impl From<String> for AnswerBody {
    fn from(text: String) -> Self {
        Self::Text(Full::new(text.into()))
    }
}

/// The origin's body; dropped before its end, the caller went away.
pub(crate) struct OriginBody {
    incoming: Incoming,
    idle: Option<Idle>,
    /// Taken when the end is known.
    slot: Option<OutcomeSlot>,
    upload: Arc<Upload>,
    /// None where no credential was injected.
    watch: Option<EchoWatch>,
    places: Places,
    bytes: u64,
    /// Of its bytes.
    most: Option<NonZeroU64>,
}

/// How long nothing has come. A reader's pause is not the origin's: the clock stands from a frame until somebody
/// waits for the next.
struct Idle {
    limit: Duration,
    /// `None` until somebody waits.
    since: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

impl OriginBody {
    /// `idle` is how long the origin may send nothing, and the upload may not move; without one both may for ever.
    /// `most` is how many bytes may pass.
    pub(crate) fn new(
        incoming: Incoming,
        idle: Option<Duration>,
        most: Option<NonZeroU64>,
        slot: OutcomeSlot,
        upload: Arc<Upload>,
        places: Places,
        watch: Option<EchoWatch>,
    ) -> Self {
        let mut body = Self {
            incoming,
            idle: idle.map(Idle::new),
            slot: Some(slot),
            upload,
            watch,
            places,
            bytes: 0,
            most,
        };
        if body.incoming.is_end_stream() {
            body.end(Ended::Complete);
        }
        body
    }

    fn end(&mut self, ended: Ended) {
        self.upload.answered();
        self.note();
        if let Some(slot) = self.slot.take() {
            slot.finish(ended);
        }
    }

    fn note(&mut self) {
        if let Some(slot) = &mut self.slot {
            let outcome = slot.outcome();
            outcome.bytes_down = self.bytes;
            outcome.bytes_up = self.upload.bytes();
            let trailers = self.upload.removed_trailers();
            outcome.removed_request_headers.extend_from_slice(trailers);
        }
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.slot.is_some() && self.places.passage.poll_cut(cx).is_ready() {
            self.end(Ended::Paused);
            return Poll::Ready(Some(Err(BodyError::Paused)));
        }
        let frame = match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                let moving = self.upload.moving_since();
                let Some(limit) = self.idle.as_mut().and_then(|idle| idle.poll(moving, cx)) else {
                    return Poll::Pending;
                };
                self.end(Ended::TimedOut);
                return Poll::Ready(Some(Err(BodyError::Idle(limit))));
            }
        };
        if let Some(idle) = &mut self.idle {
            idle.frame_came();
        }
        let frame = frame.map(|frame| self.judged(frame.map_err(BodyError::Origin)?));
        match &frame {
            Some(Ok(frame)) => {
                let bytes = self.bytes + frame.data_ref().map_or(0, Bytes::len) as u64;
                if self.most.is_some_and(|most| bytes > most.get()) {
                    self.end(Ended::TooLong);
                    return Poll::Ready(Some(Err(BodyError::TooLong)));
                }
                self.bytes = bytes;
                // hyper does not ask again after the last frame, nor after trailers.
                if frame.is_trailers() || self.incoming.is_end_stream() {
                    self.end(Ended::Complete);
                }
            }
            Some(Err(BodyError::SecretEcho)) => self.end(Ended::SecretEcho),
            Some(Err(_)) => self.end(Ended::OriginFailed),
            None => self.end(Ended::Complete),
        }
        Poll::Ready(frame)
    }
}

impl OriginBody {
    /// The frame as it may travel; what its trailers lost, and whether it held our credential, goes on record.
    fn judged(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, BodyError> {
        let (mut frame, removed) = hop::clean_trailers(frame, &[]);
        let Some(slot) = &mut self.slot else {
            return Ok(frame);
        };
        let outcome = slot.outcome();
        outcome.removed_response_headers.extend(removed);
        let Some(watch) = &mut self.watch else {
            return Ok(frame);
        };
        if let Some(trailers) = frame.trailers_mut() {
            watch.mask(trailers, outcome);
        }
        let piece = frame.data_ref().map_or(&[][..], |data| data);
        match watch.look_at(piece, outcome) {
            Piece::Passes => Ok(frame),
            Piece::IsCut => Err(BodyError::SecretEcho),
        }
    }
}

impl Idle {
    fn new(limit: Duration) -> Self {
        Self {
            limit,
            since: None,
            timer: Box::pin(tokio::time::sleep(limit)),
        }
    }

    fn frame_came(&mut self) {
        self.since = None;
    }

    /// The limit, if nothing came for so long, or if the upload has not moved since, where there still is one. The
    /// timer is not moved for each frame: it fires, sees that frames came, and sleeps for the rest.
    fn poll(&mut self, upload: Option<Instant>, cx: &mut Context<'_>) -> Option<Duration> {
        let silent = *self.since.get_or_insert_with(Instant::now);
        let since = upload.map_or(silent, |moved| moved.min(silent));
        while self.timer.as_mut().poll(cx).is_ready() {
            let deadline = since + self.limit;
            if Instant::now() >= deadline {
                return Some(self.limit);
            }
            self.timer.as_mut().reset(deadline);
        }
        None
    }
}

impl Drop for OriginBody {
    fn drop(&mut self) {
        // The slot itself records the rest: whoever held it was cancelled.
        self.upload.answered();
        self.note();
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Text(text) => Pin::new(text)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(|never| match never {}))),
            Self::Origin(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(text) => text.is_end_stream(),
            Self::Origin(body) => body.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Text(text) => text.size_hint(),
            Self::Origin(body) => body.incoming.size_hint(),
        }
    }
}

/// Whether an answer may be silent for as long as it likes: a watch, a followed log, server-sent events.
pub(crate) fn is_long_lived(query: Option<&str>, answer: &HeaderMap) -> bool {
    let is_watch = query.unwrap_or_default().split('&').any(|parameter| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        matches!(name, "watch" | "follow") && matches!(value, "true" | "1")
    });
    let is_event_stream = answer
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| {
            let essence = value.split(';').next().unwrap_or_default();
            essence.trim().eq_ignore_ascii_case("text/event-stream")
        });
    is_watch || is_event_stream
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use http::HeaderValue;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(300);

    #[tokio::test(start_paused = true)]
    async fn a_readers_pause_is_not_the_origins() {
        let mut idle = Idle::new(LIMIT);
        let wait = |idle: &mut Idle, cx: &mut Context<'_>| Poll::Ready(idle.poll(None, cx));
        assert_eq!(poll_fn(|cx| wait(&mut idle, cx)).await, None);
        idle.frame_came();
        // The reader takes long over the frame, and only then waits for the next.
        tokio::time::advance(LIMIT * 2).await;
        assert_eq!(poll_fn(|cx| wait(&mut idle, cx)).await, None);

        let start = Instant::now();
        let limit = poll_fn(|cx| idle.poll(None, cx).map_or(Poll::Pending, Poll::Ready));
        assert_eq!(limit.await, LIMIT);
        assert!((LIMIT..LIMIT * 2).contains(&start.elapsed()));
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_that_stands_still_is_not_excused_by_an_answer_that_flows() {
        let mut idle = Idle::new(LIMIT);
        let start = Instant::now();
        let poll =
            |idle: &mut Idle, upload, cx: &mut Context<'_>| Poll::Ready(idle.poll(upload, cx));
        for second in 0..LIMIT.as_secs() {
            let limit = poll_fn(|cx| poll(&mut idle, Some(start), cx)).await;
            assert_eq!(limit, None, "{second}");
            idle.frame_came();
            tokio::time::advance(Duration::from_secs(1)).await;
        }

        for (upload, expected) in [
            (Some(start), Some(LIMIT)),
            (Some(Instant::now()), None),
            (None, None),
        ] {
            let limit = poll_fn(|cx| poll(&mut idle, upload, cx)).await;
            assert_eq!(limit, expected, "{upload:?}");
        }
    }

    #[test]
    fn watches_followed_logs_and_event_streams_may_be_silent() {
        let none = HeaderMap::new();
        for query in ["watch=true", "watch=1", "a=b&follow=true", "follow=1&x"] {
            assert!(is_long_lived(Some(query), &none), "{query}");
        }
        for query in ["watch=false", "watch", "xwatch=true", "q=watch%3Dtrue", ""] {
            assert!(!is_long_lived(Some(query), &none), "{query}");
        }
        let mut events = HeaderMap::new();
        events.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("Text/Event-Stream; charset=utf-8"),
        );
        assert!(is_long_lived(None, &events));
    }
}

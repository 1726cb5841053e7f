//! A caller's request into a tunnel, and the agent's answer back.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use broker_process::logging::chain;
use broker_protocol::header::{CALLER, REQUEST_ID};
use broker_protocol::{CallerName, RELAY_AUTHORITY, SendError, StreamPermit, Watched, hop};
use bytes::Bytes;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use tokio::sync::Notify;

use crate::agents::{AgentKey, Registry, Tunnel};
use crate::callers::remove_broker_secrets;
use crate::problem::Failure;

/// Most bytes of an answer that are read before its head goes to the caller.
const MAX_GATHERED: usize = 64 * 1024;
/// How long the head of an answer may wait for them.
const GATHERING: Duration = Duration::from_secs(1);

/// One authenticated request for an agent.
pub(crate) struct Call {
    pub(crate) key: AgentKey,
    pub(crate) caller: CallerName,
    pub(crate) request_id: String,
    pub(crate) method: Method,
    /// What the caller wrote behind `/broker/{agent}`, byte for byte.
    pub(crate) target: PathAndQuery,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Incoming,
}

/// An answer, and whether it came before the caller had sent all of its request.
pub(crate) struct Answer {
    pub(crate) response: Response<ResponseBody>,
    pub(crate) early: bool,
}

/// Sends `call` through a live tunnel of its agent. `patience` is how long the agent may take for the head of the
/// answer once it has the whole request; the agent's own time-outs are shorter.
pub(crate) async fn relay(
    registry: &dyn Registry,
    call: Call,
    patience: Duration,
) -> Result<Answer, Failure> {
    let Call {
        key,
        caller,
        request_id,
        method,
        target,
        mut headers,
        body,
    } = call;
    hop::remove_from_request(&mut headers);
    headers.insert(REQUEST_ID, ours(&request_id));
    headers.insert(CALLER, ours(caller.as_str()));
    let upload = Arc::new(Upload::default());
    let body = RequestBody::Caller(CallerBody {
        incoming: body,
        upload: Arc::clone(&upload),
        permit: None,
    });
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = tunnel_uri(target)?;
    *request.headers_mut() = headers;

    let mut tunnels = registry.tunnels(&key);
    let mut some_full = false;
    loop {
        let Some((tunnel, permit)) = choose(&mut tunnels, &mut some_full) else {
            return Err(if some_full {
                Failure::Overloaded(key)
            } else if registry.is_paused(&key) {
                Failure::AgentPaused(key)
            } else {
                Failure::NoAgent(key)
            });
        };
        let permit = Arc::new(permit);
        request.body_mut().count(Arc::clone(&permit));
        let out_of_patience = async {
            upload.ended().await;
            tokio::time::sleep(patience).await;
        };
        let sent = tokio::select! {
            sent = tunnel.end.send(request) => sent,
            () = out_of_patience => return Err(Failure::NoAnswer { seconds: patience.as_secs() }),
        };
        match sent {
            Ok(response) => {
                let early = !upload.has_ended();
                let response = response.map(|incoming| ResponseBody::relayed(incoming, permit));
                return Ok(Answer { response, early });
            }
            // Not a byte of it left, so it cannot have been acted on.
            Err(SendError::Unsent(unsent)) => request = *unsent,
            Err(SendError::Lost(error)) => {
                tracing::info!(%request_id, agent = %key, error = %chain(&error), "request lost with its stream");
                return Err(Failure::TunnelLost);
            }
        }
    }
}

/// Of two tunnels picked at random, the one with fewer requests in flight; of the rest, any that is not full.
/// What is chosen or full leaves the list.
fn choose(
    tunnels: &mut Vec<Arc<Tunnel>>,
    some_full: &mut bool,
) -> Option<(Arc<Tunnel>, StreamPermit)> {
    while !tunnels.is_empty() {
        let [a, b] = [(); 2].map(|()| fastrand::usize(..tunnels.len()));
        let load = |i: usize| tunnels.get(i).map(|tunnel| tunnel.end.in_flight());
        let tunnel = tunnels.swap_remove(if load(b) < load(a) { b } else { a });
        match tunnel.end.permit() {
            Some(permit) => return Some((tunnel, permit)),
            None => *some_full = true,
        }
    }
    None
}

fn tunnel_uri(target: PathAndQuery) -> Result<Uri, Failure> {
    let uri = Uri::builder()
        .scheme(Scheme::HTTP)
        .authority(RELAY_AUTHORITY)
        .path_and_query(target);
    uri.build().map_err(|_| Failure::NotOriginForm)
}

/// A value that we made ourselves: names and ids are plain ASCII.
pub(crate) fn ours(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("invalid"))
}

/// What the server sends into a tunnel.
pub(crate) enum RequestBody {
    /// A caller's body.
    Caller(CallerBody),
    /// A control request has none.
    Empty,
}

/// A caller's body, which tells when all of it has gone.
pub(crate) struct CallerBody {
    incoming: Incoming,
    upload: Arc<Upload>,
    /// Keeps the stream counted until this half of it has ended: an origin may answer all before it has read all.
    permit: Option<Arc<StreamPermit>>,
}

impl RequestBody {
    fn count(&mut self, permit: Arc<StreamPermit>) {
        match self {
            Self::Caller(body) => body.permit = Some(permit),
            Self::Empty => {}
        }
    }
}

impl Drop for CallerBody {
    fn drop(&mut self) {
        self.upload.set_over();
    }
}

/// Whether the caller's body is still being sent.
#[derive(Default)]
struct Upload {
    /// Nobody waits for more of it: it was sent, or given up.
    over: AtomicBool,
    /// All of it was sent.
    complete: AtomicBool,
    changed: Notify,
}

impl Upload {
    fn set_over(&self) {
        self.over.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    fn has_ended(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    async fn ended(&self) {
        let changed = self.changed.notified();
        let mut changed = std::pin::pin!(changed);
        changed.as_mut().enable();
        if !self.over.load(Ordering::Acquire) {
            changed.await;
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Self::Caller(body) = self.get_mut() else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(&mut body.incoming).poll_frame(cx));
        // Nobody asks again after trailers.
        let is_last = match &frame {
            None => true,
            Some(Ok(frame)) => frame.is_trailers() || body.incoming.is_end_stream(),
            Some(Err(_)) => false,
        };
        if is_last {
            body.upload.complete.store(true, Ordering::Release);
            body.upload.set_over();
        }
        Poll::Ready(frame.map(|frame| frame.map(clean_trailers)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Caller(body) => {
                let ended = body.incoming.is_end_stream();
                if ended {
                    body.upload.complete.store(true, Ordering::Release);
                    body.upload.set_over();
                }
                ended
            }
            Self::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Caller(body) => body.incoming.size_hint(),
            Self::Empty => SizeHint::with_exact(0),
        }
    }
}

fn clean_trailers(frame: Frame<Bytes>) -> Frame<Bytes> {
    match hop::clean_trailers(frame, &[]).0.into_trailers() {
        Ok(mut trailers) => {
            remove_broker_secrets(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(data) => data,
    }
}

/// What a caller receives.
pub(crate) enum ResponseBody {
    Text(Full<Bytes>),
    Relayed(Box<RelayedBody>),
}

/// The agent's answer.
pub(crate) struct RelayedBody {
    incoming: Watched<Incoming>,
    /// What was read of it before its head went to the caller.
    ahead: VecDeque<Result<Frame<Bytes>, hyper::Error>>,
    #[expect(
        dead_code,
        reason = "keeps the stream counted until this half of it has ended"
    )]
    permit: Arc<StreamPermit>,
}

impl ResponseBody {
    fn relayed(incoming: Incoming, permit: Arc<StreamPermit>) -> Self {
        Self::Relayed(Box::new(RelayedBody {
            incoming: Watched::new(incoming),
            ahead: VecDeque::new(),
            permit,
        }))
    }

    /// Reads a short body to its end, so that it goes to the caller together with its head. A long or slow one is
    /// read as far as it goes, and loses nothing.
    pub(crate) async fn gather(&mut self) {
        let Self::Relayed(body) = self else {
            return;
        };
        let mut bytes = 0;
        let all = async {
            while bytes < MAX_GATHERED
                && let Some(frame) = body.incoming.frame().await
            {
                bytes += frame
                    .as_ref()
                    .map_or(MAX_GATHERED, |frame| frame.data_ref().map_or(0, Bytes::len));
                body.ahead.push_back(frame);
                if body.incoming.is_end_stream() {
                    break;
                }
            }
        };
        // A frame is either read and kept, or not read: nothing is lost when the time is up.
        drop(tokio::time::timeout(GATHERING, all).await);
    }
}

impl RelayedBody {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = match self.ahead.pop_front() {
            Some(frame) => Some(frame),
            None => ready!(Pin::new(&mut self.incoming).poll_frame(cx)),
        };
        Poll::Ready(frame.map(|frame| frame.map(|frame| hop::clean_trailers(frame, &[]).0)))
    }

    fn size_hint(&self) -> SizeHint {
        let data = self.ahead.iter().flatten().filter_map(Frame::data_ref);
        let ahead = data.map(Bytes::len).sum::<usize>() as u64;
        let rest = self.incoming.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + ahead);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + ahead);
        }
        hint
    }
}

impl From<String> for ResponseBody {
    fn from(text: String) -> Self {
        Self::Text(Full::new(text.into()))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Text(text) => Pin::new(text)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(|never| match never {}))),
            Self::Relayed(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(text) => text.is_end_stream(),
            Self::Relayed(body) => body.ahead.is_empty() && body.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Text(text) => text.size_hint(),
            Self::Relayed(body) => body.size_hint(),
        }
    }
}

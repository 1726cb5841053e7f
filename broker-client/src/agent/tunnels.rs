//! The tunnels of one agent: each is dialled, served, and dialled again.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use broker_process::logging::chain;
use broker_protocol::{
    CONTROL_AUTHORITY, CONTROL_DRAIN, CloseCode, CloseHandle, ErrorCode, Problem, RELAY_AUTHORITY,
    serve_agent_end,
};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::cuts::{BROKEN, Cuts};
use crate::answer::AnswerBody;
use crate::audit::AuditLog;
use crate::backoff::Backoff;
use crate::config::{Connection, Explaining};
use crate::credential::FingerprintKey;
use crate::dial::{DialError, Dialer, Dialled};
use crate::exchange::Exchange;
use crate::judged_body::BodyKeeper;
use crate::limits::Limiter;
use crate::pause::Gate;
use crate::rules::RulesInForce;
use crate::status::{ConnectionBoard, TunnelFailure};

/// A tunnel that lived so long was a good one: the next dial begins with the shortest wait.
const GOOD_TUNNEL: Duration = Duration::from_secs(10);
/// How long the server may take to use a tunnel that it has just accepted.
pub(crate) const FIRST_BYTES: Duration = Duration::from_secs(10);
/// How long a reader may take nothing of an answer while bytes wait, before its stream is reset.
const STALL: Duration = Duration::from_secs(300);
/// How long a paused agent's streams may take to end; with the tunnel it is a second at the most.
const FAREWELL: Duration = Duration::from_millis(500);

/// What all tunnels of one connection share.
pub(super) struct Tunnels {
    pub(super) connection: Arc<Connection>,
    pub(super) explaining: Explaining,
    pub(super) rules: RulesInForce,
    pub(super) dialer: Dialer,
    pub(super) audit: AuditLog,
    pub(super) board: ConnectionBoard,
    /// No new tunnel, and the open ones finish.
    pub(super) stop: CancellationToken,
    /// What is still open is dropped.
    pub(super) cut: CancellationToken,
    pub(super) tracker: TaskTracker,
    pub(super) bodies: Arc<BodyKeeper>,
    pub(super) limiter: Arc<Limiter>,
    pub(super) fingerprints: Arc<FingerprintKey>,
    pub(super) gate: Gate,
    /// Tunnels that may exist at once, those that the server is draining among them.
    pub(super) room: Arc<Semaphore>,
}

/// The server wants this tunnel gone, and waits for an answer: whether another one is up.
type DrainRequest = oneshot::Sender<bool>;

impl Tunnels {
    /// Keeps one tunnel open: dials, serves, and dials again, until the agent stops. While it is paused there is none.
    pub(super) async fn keep(self: Arc<Self>, slot: usize) {
        let mut backoff = Backoff::default();
        let mut cuts = Cuts::default();
        let mut asked_to_drain: Option<DrainRequest> = None;
        let mut last_error: Option<TunnelFailure> = None;
        while !self.stop.is_cancelled() {
            if self.gate.is_closed() {
                answer_drain(asked_to_drain.take(), false);
                self.board.tunnel_closed(slot, None);
                tokio::select! {
                    () = self.gate.until(false) => backoff.reset(),
                    () = self.stop.cancelled() => break,
                }
            }
            self.board
                .tunnel_dialling(slot, backoff.failures() + 1, last_error.as_ref(), None);
            let dialled = tokio::select! {
                dialled = self.dial() => dialled,
                () = self.gate.until(true) => continue,
                () = self.stop.cancelled() => break,
            };
            let asked = match dialled {
                Ok(dialled) => {
                    let opened = Instant::now();
                    match self.serve(slot, dialled, asked_to_drain.take()).await {
                        TunnelEnd::Drain(request) => {
                            cuts.reset();
                            asked_to_drain = Some(request);
                            last_error = Some(TunnelFailure {
                                code: "drained",
                                text: "the server asked to connect elsewhere".to_owned(),
                            });
                        }
                        TunnelEnd::Closed(reason) => {
                            let reason = cuts.explain(slot, reason, opened.elapsed());
                            self.board.tunnel_closed(slot, Some(&reason));
                            last_error = Some(reason);
                        }
                        TunnelEnd::Paused => continue,
                        TunnelEnd::Stopped => break,
                    }
                    if opened.elapsed() >= GOOD_TUNNEL {
                        backoff.reset();
                    }
                    None
                }
                Err(error) => {
                    answer_drain(asked_to_drain.take(), false);
                    let code = error.code();
                    tracing::warn!(agent = %self.connection.agent, tunnel = slot, attempt = backoff.failures() + 1, code, %error, "no tunnel");
                    last_error = Some(TunnelFailure {
                        code,
                        text: error.to_string(),
                    });
                    error.retry_after()
                }
            };
            let wait = backoff.next(fastrand::f64(), asked);
            let at = SystemTime::now() + wait;
            self.board
                .tunnel_dialling(slot, backoff.failures() + 1, last_error.as_ref(), Some(at));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.gate.until(true) => {}
                () = self.stop.cancelled() => {}
            }
        }
        self.board.tunnel_closed(slot, None);
    }

    /// Dials once there is room for one more tunnel.
    async fn dial(&self) -> Result<(Dialled, OwnedSemaphorePermit), DialError> {
        let room = Arc::clone(&self.room).acquire_owned().await;
        let room = room.expect("nobody closes this semaphore");
        Ok((self.dialer.dial().await?, room))
    }

    /// Serves a tunnel until it closes or the server asks for it to be drained, in which case it goes on by itself.
    ///
    /// `replaces` is the request to drain the tunnel that this one takes over from, answered once this one is in use.
    async fn serve(
        self: &Arc<Self>,
        slot: usize,
        (dialled, room): (Dialled, OwnedSemaphorePermit),
        replaces: Option<DrainRequest>,
    ) -> TunnelEnd {
        let Dialled { stream, server, .. } = dialled;
        let node = server.node;
        let close = stream.close_handle();
        let opened = Instant::now();
        let exchange = Arc::new(Exchange {
            agent: Arc::new(self.connection.agent.clone()),
            tenant: Some(server.tenant),
            rules: self.rules.clone(),
            audit: self.audit.clone(),
            board: self.board.clone(),
            bodies: Arc::clone(&self.bodies),
            limiter: Arc::clone(&self.limiter),
            fingerprints: Arc::clone(&self.fingerprints),
            explaining: self.explaining.clone(),
            gate: self.gate.clone(),
        });
        // One request at a time is enough: the server asks once.
        let (drain, mut drains) = mpsc::channel(1);
        let service = move |request| {
            let (exchange, drain) = (Arc::clone(&exchange), drain.clone());
            async move { answer(&exchange, &drain, request).await }
        };
        let streams = TaskTracker::new();
        let stop = self.stop.clone();
        let pausing = pause(self.gate.clone(), close.clone(), streams.clone());
        let serving = serve_agent_end(stream, streams.clone(), STALL, stop, service);
        let cut = self.cut.clone();
        let (ended, end) = oneshot::channel();
        drop(self.tracker.spawn(async move {
            let result = tokio::select! {
                result = serving => result,
                () = cut.cancelled() => Ok(()),
                never = pausing => match never {},
            };
            // A stream whose tunnel is gone ends by itself.
            streams.close();
            streams.wait().await;
            drop(room);
            // Nobody waits for it once the tunnel is being drained.
            let _: Result<(), _> = ended.send(result);
        }));
        let closed = async {
            let ended = end.await;
            if self.stop.is_cancelled() {
                return TunnelEnd::Stopped;
            }
            if self.gate.is_closed() {
                tracing::info!(agent = %self.connection.agent, tunnel = slot, "the tunnel is closed, since the agent is paused");
                return TunnelEnd::Paused;
            }
            let lived = opened.elapsed().as_secs();
            let (code, text) = match (close.closed_by_peer(), ended) {
                (Some(code), _) => ("closed", close_reason(code).to_owned()),
                (None, Ok(Err(error))) => (BROKEN, format!("after {lived} s: {}", chain(&error))),
                // Something on the way that limits how long connections last shows by the time that comes back.
                (None, _) => (BROKEN, format!("the connection was closed after {lived} s")),
            };
            tracing::warn!(agent = %self.connection.agent, tunnel = slot, code, reason = text, "the tunnel closed");
            TunnelEnd::Closed(TunnelFailure { code, text })
        };
        let mut closed = std::pin::pin!(closed);
        tokio::select! {
            () = close.begun() => {}
            end = &mut closed => {
                answer_drain(replaces, false);
                return end;
            }
            () = tokio::time::sleep(FIRST_BYTES) => {
                answer_drain(replaces, false);
                close.close(CloseCode::Normal);
                return match closed.await {
                    TunnelEnd::Closed(_) => TunnelEnd::Closed(held_back()),
                    end => end,
                };
            }
        }
        tracing::info!(
            agent = %self.connection.agent, tunnel = slot, server = %self.connection.server, node, seen_from = server.source,
            "successfully established a websocket connection to the broker server"
        );
        self.board.tunnel_connected(slot, &node);
        answer_drain(replaces, true);
        tokio::select! {
            end = closed => end,
            Some(request) = drains.recv() => {
                tracing::info!(agent = %self.connection.agent, tunnel = slot, "the server goes away; connecting elsewhere");
                TunnelEnd::Drain(request)
            }
        }
    }
}

/// Ends the tunnel once its agent is paused, as soon as what was in flight, cut by the same pause, has its answers.
async fn pause(gate: Gate, close: CloseHandle, streams: TaskTracker) -> Infallible {
    gate.until(true).await;
    streams.close();
    drop(tokio::time::timeout(FAREWELL, streams.wait()).await);
    close.close(CloseCode::Paused);
    pending().await
}

/// How serving a tunnel ended.
enum TunnelEnd {
    Closed(TunnelFailure),
    Drain(DrainRequest),
    Paused,
    Stopped,
}

pub(crate) fn held_back() -> TunnelFailure {
    TunnelFailure {
        code: "held-back",
        text: format!(
            "the server accepted the tunnel and nothing came through it within {} s (does a proxy on the way collect \
             what it should pass on?)",
            FIRST_BYTES.as_secs()
        ),
    }
}

fn answer_drain(request: Option<DrainRequest>, is_replaced: bool) {
    if let Some(request) = request {
        // The server may have gone away meanwhile.
        let _: Result<(), bool> = request.send(is_replaced);
    }
}

/// Answers one stream: a caller's request, or one of the server's own.
async fn answer(
    exchange: &Exchange,
    drain: &mpsc::Sender<DrainRequest>,
    request: Request<Incoming>,
) -> Response<AnswerBody> {
    match request.uri().authority().map(http::uri::Authority::as_str) {
        Some(RELAY_AUTHORITY) => exchange.run(request).await,
        Some(CONTROL_AUTHORITY) => control(drain, &request).await,
        _ => {
            let detail = "requests in a tunnel are for one of the two authorities of the protocol";
            Problem::new(ErrorCode::BadRequest)
                .detail(detail)
                .into_response()
        }
    }
}

async fn control(
    drain: &mpsc::Sender<DrainRequest>,
    request: &Request<Incoming>,
) -> Response<AnswerBody> {
    if request.method() != Method::POST || request.uri().path() != CONTROL_DRAIN {
        return Problem::new(ErrorCode::NotFound).into_response();
    }
    let (answered, answer) = oneshot::channel();
    if drain.try_send(answered).is_err() {
        return Problem::new(ErrorCode::BadRequest)
            .detail("this tunnel is already being drained")
            .into_response();
    }
    let is_replaced = answer.await.unwrap_or(false);
    let mut response = Response::new(AnswerBody::from(String::new()));
    if !is_replaced {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}

fn close_reason(code: CloseCode) -> &'static str {
    match code {
        CloseCode::Normal => "the server closed the tunnel",
        CloseCode::Drain => "the server went away",
        CloseCode::Paused => "the agent is paused",
        CloseCode::Revoked => "the server withdrew this agent's admission",
        CloseCode::Version => "the server refuses this version of the agent",
    }
}

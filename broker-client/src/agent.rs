//! The agent's life: prepare, keep its tunnels, drain, end.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use broker_process::logging::chain;
use broker_process::tls::TlsError;
use broker_protocol::{
    AgentHello, CONTROL_AUTHORITY, CONTROL_DRAIN, CloseCode, ErrorCode, MAX_TUNNELS, Problem,
    RELAY_AUTHORITY, serve_agent_end,
};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::answer::AnswerBody;
use crate::audit::{AuditLog, AuditOpenError, AuditUnavailable, AuditWriter, ConnectionStart};
use crate::backoff::Backoff;
use crate::config::Config;
use crate::control::{ControlError, ControlSocket};
use crate::credential::{FingerprintKey, Sources};
use crate::dial::{DialError, Dialer, Dialled};
use crate::exchange::Exchange;
use crate::instance::{Instance, InstanceError};
use crate::judged_body::BodyKeeper;
use crate::local;
use crate::reload::{self, ReloadHandle, Reloader};
use crate::rules::{Rules, RulesError, RulesInForce};
use crate::status::{About, StatusBoard, TunnelFailure};

/// A tunnel that lived so long was a good one: the next dial begins with the shortest wait.
const GOOD_TUNNEL: Duration = Duration::from_secs(10);
/// How long the server may take to use a tunnel that it has just accepted.
const FIRST_BYTES: Duration = Duration::from_secs(10);
/// How long a reader may take nothing of an answer while bytes wait, before its stream is reset.
const STALL: Duration = Duration::from_secs(300);
/// How long cut streams may take to end.
const CUT: Duration = Duration::from_secs(3);
/// How long the last audit records may take to reach the disk.
const AUDIT_END: Duration = Duration::from_secs(10);

/// Why the agent cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The accept file, or what it refers to.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// A certificate file.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The data folder.
    #[error(transparent)]
    Instance(#[from] InstanceError),
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] AuditOpenError),
    /// The control socket.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The audit log could not be finished.
    #[error("the end of the audit log could not be written: {0}")]
    AuditEnd(AuditUnavailable),
    /// The audit log's disk does not answer.
    #[error("the end of the audit log could not be written within {} s", AUDIT_END.as_secs())]
    AuditHangs,
}

/// An agent whose settings and rules are all good, and which has neither dialled nor listened yet.
pub struct Agent {
    config: Arc<Config>,
    rules: RulesInForce,
    sources: Sources,
    fingerprints: FingerprintKey,
    reloader: Reloader,
    dialer: Dialer,
    instance: Instance,
    audit: AuditLog,
    writer: AuditWriter,
    control: Option<ControlSocket>,
    board: StatusBoard,
}

impl Agent {
    /// Loads the rules and the certificates, takes the data folder and opens the audit log.
    ///
    /// # Errors
    /// If anything that the settings name cannot be used.
    pub fn new(mut config: Config) -> Result<Self, AgentError> {
        let rules = Rules::load(&config)?;
        let instance = Instance::open(&config.data, &config.instance)?;
        let fingerprints = FingerprintKey::new(&instance.fingerprint_key()?);
        let hello = AgentHello {
            agent: config.agent.clone(),
            secret: config.secret.take(),
            instance: config.instance.clone(),
            run: instance.run_id().to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
        };
        let dialer = Dialer::new(&config, &hello)?;
        let source = rules.source.as_ref();
        let start = ConnectionStart {
            agent: config.agent.clone(),
            accept_sha256: source.map(|source| source.sha256.clone()),
        };
        let (audit, writer) = AuditLog::open(&instance, &[start])?;
        let control = instance
            .control_socket()
            .map(|path| ControlSocket::bind(&path))
            .transpose()?;

        let about = About {
            agent: config.agent.to_string(),
            instance: config.instance.to_string(),
            run_id: hello.run,
            version: hello.version,
        };
        let servers = vec![config.server.to_string(); config.tunnel.count.into()];
        let board = StatusBoard::new(about, servers, audit.position());
        let warnings = config.warnings.iter().map(String::as_str);
        for warning in warnings.chain(instance.warning()) {
            tracing::warn!("{warning}");
            board.warn(warning);
        }
        reload::announce(&rules, &board);
        let sources = rules.sources.clone();
        sources.tell(&board);
        let config = Arc::new(config);
        let rules = RulesInForce::new(rules);
        let reloader = Reloader::new(
            Arc::clone(&config),
            rules.clone(),
            audit.clone(),
            board.clone(),
        );
        Ok(Self {
            config,
            rules,
            sources,
            fingerprints,
            reloader,
            dialer,
            instance,
            audit,
            writer,
            control,
            board,
        })
    }

    /// What the agent is doing, also while it runs.
    #[must_use]
    pub fn board(&self) -> StatusBoard {
        self.board.clone()
    }

    /// Asks the running agent to read its accept file now.
    #[must_use]
    pub fn reload_handle(&self) -> ReloadHandle {
        self.reloader.handle()
    }

    /// Keeps the tunnels and serves the local port until `shutdown`; then takes no new request, lets what is in
    /// flight finish within the drain time-out, cuts the rest, and flushes the audit log.
    ///
    /// # Errors
    /// If the end of the audit log cannot be written.
    pub async fn run(
        self,
        local: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), AgentError> {
        let Self {
            config,
            rules,
            sources,
            fingerprints,
            reloader,
            dialer,
            instance,
            audit,
            writer,
            control,
            board,
        } = self;
        let stop = CancellationToken::new();
        let stop_local = CancellationToken::new();
        let tracker = TaskTracker::new();
        let locals = TaskTracker::new();

        let health = local::run(
            local,
            config.healthcheck_path.clone(),
            board.clone(),
            stop_local.clone(),
        );
        drop(locals.spawn(health));
        if let Some(control) = control {
            drop(locals.spawn(control.run(board.clone(), stop_local.clone())));
        }
        drop(locals.spawn(reloader.run(stop.clone())));
        drop(locals.spawn(sources.keep(board.clone(), stop_local.clone())));
        let bodies = Arc::new(BodyKeeper::new(config.rules.body_limit));
        let tunnels = Arc::new(Tunnels {
            config,
            rules,
            dialer,
            audit,
            board,
            stop: stop.clone(),
            cut: CancellationToken::new(),
            tracker: tracker.clone(),
            bodies,
            fingerprints: Arc::new(fingerprints),
            room: Arc::new(Semaphore::new(2 * MAX_TUNNELS)),
        });
        for slot in 0..usize::from(tunnels.config.tunnel.count) {
            let tunnels = Arc::clone(&tunnels);
            drop(tracker.spawn(async move { tunnels.keep(slot).await }));
        }

        shutdown.await;
        stop.cancel();
        tracker.close();
        let limit = tunnels.config.drain_timeout;
        if tokio::time::timeout(limit, tracker.wait()).await.is_err() {
            tracing::warn!(
                "requests were still in flight after {} s; they are cut",
                limit.as_secs()
            );
            tunnels.cut.cancel();
            drop(tokio::time::timeout(CUT, tracker.wait()).await);
        }
        stop_local.cancel();
        locals.close();
        locals.wait().await;
        drop(tunnels);
        // Every outcome has been handed to the writer: the exchanges have ended.
        let written = tokio::time::timeout(AUDIT_END, writer.close()).await;
        drop(instance);
        match written {
            Ok(written) => written.map_err(AgentError::AuditEnd),
            Err(_) => Err(AgentError::AuditHangs),
        }
    }
}

/// What all tunnels of one agent share.
struct Tunnels {
    config: Arc<Config>,
    rules: RulesInForce,
    dialer: Dialer,
    audit: AuditLog,
    board: StatusBoard,
    /// No new tunnel, and the open ones finish.
    stop: CancellationToken,
    /// What is still open is dropped.
    cut: CancellationToken,
    tracker: TaskTracker,
    bodies: Arc<BodyKeeper>,
    fingerprints: Arc<FingerprintKey>,
    /// Tunnels that may exist at once, those that the server is draining among them.
    room: Arc<Semaphore>,
}

/// The server wants this tunnel gone, and waits for an answer: whether another one is up.
type DrainRequest = oneshot::Sender<bool>;

impl Tunnels {
    /// Keeps one tunnel open: dials, serves, and dials again, until the agent stops.
    async fn keep(self: Arc<Self>, slot: usize) {
        let mut backoff = Backoff::default();
        let mut asked_to_drain: Option<DrainRequest> = None;
        let mut last_error: Option<TunnelFailure> = None;
        while !self.stop.is_cancelled() {
            self.board
                .tunnel_dialling(slot, backoff.failures() + 1, last_error.as_ref(), None);
            let dialled = tokio::select! {
                dialled = self.dial() => dialled,
                () = self.stop.cancelled() => break,
            };
            let asked = match dialled {
                Ok(dialled) => {
                    let opened = Instant::now();
                    match self.serve(slot, dialled, asked_to_drain.take()).await {
                        TunnelEnd::Drain(request) => {
                            asked_to_drain = Some(request);
                            last_error = Some(TunnelFailure {
                                code: "drained",
                                text: "the server asked to connect elsewhere".to_owned(),
                            });
                        }
                        TunnelEnd::Closed(reason) => {
                            self.board.tunnel_closed(slot, Some(&reason));
                            last_error = Some(reason);
                        }
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
                    tracing::warn!(tunnel = slot, attempt = backoff.failures() + 1, code, %error, "no tunnel");
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
        let Dialled { stream, server } = dialled;
        let node = server.node;
        let close = stream.close_handle();
        let opened = Instant::now();
        let exchange = Arc::new(Exchange {
            agent: self.config.agent.clone(),
            tenant: server.tenant,
            rules: self.rules.clone(),
            audit: self.audit.clone(),
            board: self.board.clone(),
            bodies: Arc::clone(&self.bodies),
            fingerprints: Arc::clone(&self.fingerprints),
            explaining: self.config.rules.explaining.clone(),
        });
        // One request at a time is enough: the server asks once.
        let (drain, mut drains) = mpsc::channel(1);
        let service = move |request| {
            let (exchange, drain) = (Arc::clone(&exchange), drain.clone());
            async move { answer(&exchange, &drain, request).await }
        };
        let streams = TaskTracker::new();
        let stop = self.stop.clone();
        let serving = serve_agent_end(stream, streams.clone(), STALL, stop, service);
        let cut = self.cut.clone();
        let (ended, end) = oneshot::channel();
        drop(self.tracker.spawn(async move {
            let result = tokio::select! {
                result = serving => result,
                () = cut.cancelled() => Ok(()),
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
            let lived = opened.elapsed().as_secs();
            let (code, text) = match (close.closed_by_peer(), ended) {
                (Some(code), _) => ("closed", close_reason(code).to_owned()),
                (None, Ok(Err(error))) => ("broken", format!("after {lived} s: {}", chain(&error))),
                // Something on the way that limits how long connections last shows by the time that comes back.
                (None, _) => (
                    "broken",
                    format!("the connection was closed after {lived} s"),
                ),
            };
            tracing::warn!(tunnel = slot, code, reason = text, "the tunnel closed");
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
            tunnel = slot, server = %self.config.server, node, seen_from = server.source,
            "successfully established a websocket connection to the broker server"
        );
        self.board.tunnel_connected(slot, &node);
        answer_drain(replaces, true);
        tokio::select! {
            end = closed => end,
            Some(request) = drains.recv() => {
                tracing::info!(tunnel = slot, "the server goes away; connecting elsewhere");
                TunnelEnd::Drain(request)
            }
        }
    }
}

/// How serving a tunnel ended.
enum TunnelEnd {
    Closed(TunnelFailure),
    Drain(DrainRequest),
    Stopped,
}

fn held_back() -> TunnelFailure {
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

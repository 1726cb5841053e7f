//! The agents listener: admits agents and keeps their tunnels.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use broker_process::listener::{Connection, Stream};
use broker_process::logging::chain;
use broker_protocol::{
    AgentHello, CONTROL_AUTHORITY, CONTROL_DRAIN, CloseCode, CloseHandle, Counted, ErrorCode,
    Problem, SUBPROTOCOL, ServerEnd, ServerHello, TUNNEL_PATH, WsStream, header::SOURCE,
    prepare_socket,
};
use bytes::Bytes;
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_util::task::TaskTracker;

use crate::agents::{AgentKey, Tunnel};
use crate::host::{self, NotOneHost};
use crate::problem::NotAdmitted;
use crate::relay::RequestBody;
use crate::server::State;

/// How long an agent may take to answer that it is ready for its tunnel to be drained.
const DRAIN_ANSWER: Duration = Duration::from_secs(15);

/// Answers one request on the agents listener.
pub(crate) async fn answer(
    state: &Arc<State>,
    request: Request<Incoming>,
    connection: Connection,
) -> Response<Full<Bytes>> {
    if request.uri().path() != TUNNEL_PATH {
        return Problem::new(ErrorCode::NotFound)
            .detail(format!(
                "agents connect to {TUNNEL_PATH}; is the path of the server's URL right?"
            ))
            .into_response();
    }
    let source = connection.peer.ip();
    open_tunnel(state, request, source).unwrap_or_else(|refusal| {
        let mut response = refusal.into_response();
        // Who is admitted by its network, and is not, can see which address came here.
        let seen = HeaderValue::from_str(&source.to_string());
        response
            .headers_mut()
            .insert(SOURCE, seen.expect("an address is a header value"));
        response
    })
}

/// Why no tunnel is opened.
enum Refusal {
    NotAWebSocket(&'static str),
    NotAdmitted,
    TooMany,
    Draining,
    Internal,
}

impl Refusal {
    fn into_response(self) -> Response<Full<Bytes>> {
        let problem = match self {
            Self::NotAWebSocket(what) => Problem::new(ErrorCode::BadRequest).detail(format!(
                "not a WebSocket handshake for {SUBPROTOCOL}: {what}; does something on the way strip it?"
            )),
            Self::NotAdmitted => Problem::new(ErrorCode::Unauthenticated).detail(
                "this name and secret are not admitted here; the server's log says why, under its time and source address",
            ),
            Self::TooMany => {
                Problem::new(ErrorCode::Overloaded).detail("this agent has as many tunnels as it may")
            }
            Self::Draining => Problem::new(ErrorCode::Overloaded).detail("this node is going away"),
            Self::Internal => Problem::new(ErrorCode::Internal),
        };
        problem.into_response()
    }
}

fn open_tunnel(
    state: &Arc<State>,
    request: Request<Incoming>,
    source: IpAddr,
) -> Result<Response<Full<Bytes>>, Refusal> {
    let accept = websocket_accept(&request).map_err(Refusal::NotAWebSocket)?;
    if state.draining.is_cancelled() {
        return Err(Refusal::Draining);
    }
    let host = host::of(
        request.method(),
        request.uri(),
        request.version(),
        request.headers(),
    )
    .map_err(|NotOneHost| Refusal::NotAWebSocket("not exactly one Host"))?;
    let admitted = AgentHello::read(request.headers())
        .map_err(NotAdmitted::from)
        .and_then(|hello| {
            let key = state
                .admission
                .admit(&hello, state.host_tenant(host.as_deref()), source)?;
            Ok((key, hello))
        });
    let (key, hello) = admitted.map_err(|error| {
        tracing::warn!(%source, reason = %error, "an agent was not admitted");
        Refusal::NotAdmitted
    })?;
    if state.registry.tunnels(&key).len() >= broker_protocol::MAX_TUNNELS {
        return Err(Refusal::TooMany);
    }

    let answer = ServerHello {
        tenant: key.tenant.clone(),
        node: state.node.clone(),
        nodes: 1,
        max_streams: state.max_streams,
        source: source.to_string(),
    };
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    headers.insert(
        SEC_WEBSOCKET_PROTOCOL,
        HeaderValue::from_static(SUBPROTOCOL),
    );
    answer.write(headers).map_err(|_| Refusal::Internal)?;

    let state_of_task = Arc::clone(state);
    let upgrade = hyper::upgrade::on(request);
    drop(state.tunnels.spawn(async move {
        match upgrade.await {
            Ok(upgraded) => match stream_of(upgraded, &key).await {
                Some(stream) if hello.is_check => say_goodbye(stream, &key).await,
                Some(stream) => {
                    keep_tunnel(&state_of_task, stream, key, hello, source.to_string()).await;
                }
                None => {}
            },
            Err(error) => tracing::debug!(%source, %error, "the upgrade did not finish"),
        }
    }));
    Ok(response)
}

/// What RFC 6455 §4.2.1 asks of a handshake, and our subprotocol.
fn websocket_accept(request: &Request<Incoming>) -> Result<HeaderValue, &'static str> {
    let headers = request.headers();
    if request.method() != Method::GET {
        return Err("the method is not GET");
    }
    if !has_token(headers, &CONNECTION, "upgrade") || !has_token(headers, &UPGRADE, "websocket") {
        return Err("no `Upgrade: websocket`");
    }
    if headers
        .get(SEC_WEBSOCKET_VERSION)
        .is_none_or(|version| version != "13")
    {
        return Err("Sec-WebSocket-Version is not 13");
    }
    if !has_token(headers, &SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL) {
        return Err("another Sec-WebSocket-Protocol");
    }
    let key = headers
        .get(SEC_WEBSOCKET_KEY)
        .ok_or("no Sec-WebSocket-Key")?;
    let is_key = base64::engine::general_purpose::STANDARD
        .decode(key)
        .is_ok_and(|key| key.len() == 16);
    if !is_key {
        return Err("the Sec-WebSocket-Key is not 16 bytes of base64");
    }
    HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
        .map_err(|_| "the Sec-WebSocket-Key is unusable")
}

fn has_token(headers: &HeaderMap, name: &http::HeaderName, token: &str) -> bool {
    let values = headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .any(|value| value.trim().eq_ignore_ascii_case(token))
}

/// The WebSocket on an upgraded connection.
async fn stream_of(upgraded: Upgraded, key: &AgentKey) -> Option<WsStream<Stream>> {
    let Ok(parts) = upgraded.downcast::<TokioIo<Stream>>() else {
        tracing::error!(agent = %key, "an upgraded connection is of another kind than the listener's");
        return None;
    };
    let io = parts.io.into_inner();
    if let Err(error) = prepare_socket(io.tcp()) {
        tracing::debug!(agent = %key, %error, "the agent is gone already");
        return None;
    }
    Some(WsStream::server(Counted::new(io), &parts.read_buf).await)
}

/// Closes a WebSocket that was asked for to see whether one gets through; it was never a tunnel.
async fn say_goodbye(mut stream: WsStream<Stream>, key: &AgentKey) {
    tracing::info!(agent = %key, "an agent has checked its way here");
    stream.close_handle().close(CloseCode::Normal);
    if let Err(error) = stream.shutdown().await {
        tracing::debug!(agent = %key, %error, "the agent was gone first");
    }
}

/// Registers the tunnel, drives it until it closes, and forgets it.
async fn keep_tunnel(
    state: &State,
    stream: WsStream<Stream>,
    key: AgentKey,
    hello: AgentHello,
    source: String,
) {
    let close = stream.close_handle();
    let streams = TaskTracker::new();
    let opened = ServerEnd::open(stream, streams.clone(), state.stall, state.max_streams).await;
    let (end, driver) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            tracing::info!(agent = %key, error = %chain(&error), "a tunnel broke before its first frame");
            return;
        }
    };
    let tunnel = Arc::new(Tunnel {
        end,
        close: close.clone(),
        draining: AtomicBool::new(false),
        instance: hello.instance.to_string(),
        run: hello.run,
        version: hello.version,
        source,
        since: SystemTime::now(),
    });
    if let Err(error) = state.registry.add(&key, &tunnel) {
        tracing::warn!(agent = %key, %error, "a tunnel was closed");
        close.close(CloseCode::Normal);
        drop(driver.await);
        return;
    }
    tracing::info!(
        agent = %key, instance = tunnel.instance, run = tunnel.run, version = tunnel.version, source = tunnel.source, "agent connected"
    );
    let ended = driver.await;
    let is_paused = close.closed_by_peer() == Some(CloseCode::Paused);
    state.registry.remove(&key, &tunnel, is_paused);
    let reason = ended.err().map(|error| chain(&error));
    let seconds = tunnel.since.elapsed().unwrap_or_default().as_secs();
    tracing::info!(agent = %key, instance = tunnel.instance, run = tunnel.run, seconds, reason, is_paused, "agent disconnected");
    streams.close();
    streams.wait().await;
}

/// Asks the agent to connect elsewhere, takes the tunnel out of use, and says when its last request has ended.
pub(crate) async fn drain(tunnel: &Tunnel, agent: &AgentKey) {
    if let Some(request) = control_request(CONTROL_DRAIN) {
        let answer = tokio::time::timeout(DRAIN_ANSWER, tunnel.end.send(request)).await;
        let status = answer
            .ok()
            .and_then(Result::ok)
            .map(|answer| answer.status().as_u16());
        tracing::debug!(%agent, status, "asked to connect elsewhere");
    }
    tunnel.draining.store(true, Ordering::Relaxed);
    tunnel.end.idle().await;
    tunnel.close.close(CloseCode::Drain);
}

fn control_request(path: &str) -> Option<Request<RequestBody>> {
    let uri = format!("http://{CONTROL_AUTHORITY}{path}");
    Request::builder()
        .method(Method::POST)
        .uri(uri)
        .body(RequestBody::Empty)
        .ok()
}

/// Ends a tunnel at once, with what is in flight.
pub(crate) fn cut(close: &CloseHandle) {
    close.close(CloseCode::Drain);
}

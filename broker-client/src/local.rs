//! The local port: what probes of the customer's platform ask.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use broker_process::listener::MAX_HEADER_BYTES;
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::status::{StatusBoard, TunnelState};

/// Connections at once. Probes are few; more would only serve who wants to tie us up.
const CONNECTIONS: usize = 64;

/// Longest life of a connection, which carries one request.
const CONNECTION: Duration = Duration::from_secs(10);

/// How long a connection may finish its answer once the agent stops.
const GRACE: Duration = Duration::from_secs(1);

/// How long to wait after a failed accept: it fails for want of descriptors, which takes time to
/// mend.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The answer of one request; all of it is known at once.
pub(crate) type Answer = Response<Full<Bytes>>;

/// Answers probes until `shutdown`: `/livez` whether the process works, `/readyz` whether there is a
/// live tunnel, and `healthcheck_path` the same in the form that the Snyk Broker's probes read.
pub(crate) async fn run(
    listener: TcpListener,
    healthcheck_path: String,
    board: StatusBoard,
    shutdown: CancellationToken,
) {
    let answer = move |request: Request<Incoming>, _| {
        std::future::ready(answer(&request, &healthcheck_path, &board))
    };
    serve(listener, CONNECTIONS, answer, shutdown).await;
}

fn answer<B>(request: &Request<B>, healthcheck_path: &str, board: &StatusBoard) -> Answer {
    let ready = board.connected_tunnels() > 0;
    let (down, body) = match request.uri().path() {
        path if path == healthcheck_path => (StatusCode::INTERNAL_SERVER_ERROR, healthcheck(board)),
        "/readyz" => (StatusCode::SERVICE_UNAVAILABLE, readiness(board)),
        "/livez" => (StatusCode::OK, json!({"ok": true})),
        _ => {
            let known = format!("this port answers /livez, /readyz and {healthcheck_path}");
            return problem(StatusCode::NOT_FOUND, "not-found", &known);
        }
    };
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return method_not_allowed();
    }
    answer_json(if ready { StatusCode::OK } else { down }, &body)
}

/// Ready while any connection has a tunnel: were it every one, a single refused secret would hold up all of the others
/// where a platform waits for ready processes before it ends old ones. Which of them have none, the body tells.
fn readiness(board: &StatusBoard) -> Value {
    let snapshot = board.snapshot();
    let connections = snapshot.connections.iter().map(
        |connection| json!({"agent": connection.agent, "tunnels": connection.connected_tunnels()}),
    );
    let connections: Vec<_> = connections.collect();
    let tunnels = board.connected_tunnels();
    json!({"ok": tunnels > 0, "tunnels": tunnels, "connections": connections})
}

/// The body of the Snyk Broker's `/healthcheck`: one object per tunnel, alone if there is one. Since when the accept
/// file is refused is told here, why is not: it may quote rules, and other machines reach this port.
fn healthcheck(board: &StatusBoard) -> Value {
    let snapshot = board.snapshot();
    let version = snapshot.about.version;
    let mut tunnels = Vec::new();
    for connection in snapshot.connections {
        let refused_since = connection.accept.refused.map(|refused| refused.time);
        for tunnel in connection.tunnels {
            let is_open = matches!(tunnel.state, TunnelState::Connected { .. });
            tunnels.push(json!({
                "ok": is_open,
                "websocketConnectionOpen": is_open,
                "brokerServerUrl": tunnel.server,
                "agent": connection.agent,
                "version": version,
                "transport": "websocket",
                "rulesRefusedSince": refused_since,
            }));
        }
    }
    match tunnels.pop() {
        Some(only) if tunnels.is_empty() => only,
        Some(last) => {
            tunnels.push(last);
            Value::Array(tunnels)
        }
        None => Value::Array(tunnels),
    }
}

pub(crate) fn answer_json(status: StatusCode, body: &Value) -> Answer {
    let mut answer = Response::new(Full::from(format!("{body}\n")));
    *answer.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    answer.headers_mut().insert(CONTENT_TYPE, json);
    answer
}

pub(crate) fn problem(status: StatusCode, code: &str, detail: &str) -> Answer {
    let title = status.canonical_reason().unwrap_or_default();
    let body = json!({"title": title, "status": status.as_u16(), "code": code, "detail": detail});
    let mut answer = answer_json(status, &body);
    let problem = HeaderValue::from_static("application/problem+json");
    answer.headers_mut().insert(CONTENT_TYPE, problem);
    answer
}

pub(crate) fn method_not_allowed() -> Answer {
    let detail = "only GET and HEAD are answered here";
    let mut answer = problem(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail);
    let allowed = HeaderValue::from_static("GET, HEAD");
    answer.headers_mut().insert(ALLOW, allowed);
    answer
}

/// Where connections come from.
pub(crate) trait Listener {
    type Connection: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    async fn accept(&self) -> io::Result<Self::Connection>;

    /// The user at the other end, where the system can tell.
    fn peer_uid(connection: &Self::Connection) -> Option<u32>;
}

impl Listener for TcpListener {
    type Connection = tokio::net::TcpStream;

    async fn accept(&self) -> io::Result<Self::Connection> {
        Self::accept(self).await.map(|(connection, _)| connection)
    }

    fn peer_uid(_: &Self::Connection) -> Option<u32> {
        None
    }
}

impl Listener for UnixListener {
    type Connection = tokio::net::UnixStream;

    async fn accept(&self) -> io::Result<Self::Connection> {
        Self::accept(self).await.map(|(connection, _)| connection)
    }

    fn peer_uid(connection: &Self::Connection) -> Option<u32> {
        connection.peer_cred().ok().map(|peer| peer.uid())
    }
}

/// Serves one request per connection, at most `connections` at once, until `shutdown`.
pub(crate) async fn serve<L, A, F>(
    listener: L,
    connections: usize,
    answer: A,
    shutdown: CancellationToken,
) where
    L: Listener,
    A: Fn(Request<Incoming>, Option<u32>) -> F + Send + Sync + 'static,
    F: Future<Output = Answer> + Send,
{
    let answer = Arc::new(answer);
    let permits = Arc::new(Semaphore::new(connections));
    let tasks = TaskTracker::new();
    let accepting = async {
        // The permit comes first: who waits for one waits in the kernel's queue and costs nothing.
        while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
            match listener.accept().await {
                Ok(connection) => {
                    let answer = Arc::clone(&answer);
                    let shutdown = shutdown.clone();
                    let uid = L::peer_uid(&connection);
                    tasks.spawn(async move {
                        let answer = |request| answer(request, uid);
                        serve_connection(connection, answer, shutdown).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a local connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    shutdown.run_until_cancelled(accepting).await;
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

async fn serve_connection<C, A, F>(connection: C, answer: A, shutdown: CancellationToken)
where
    C: AsyncRead + AsyncWrite + Unpin,
    A: Fn(Request<Incoming>) -> F,
    F: Future<Output = Answer>,
{
    let service = service_fn(|request| {
        let answer = answer(request);
        async { Ok::<_, std::convert::Infallible>(answer.await) }
    });
    // Without keep-alive nobody holds one of the few places with an idle connection.
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(CONNECTION)
        .max_buf_size(MAX_HEADER_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(connection), service);
    let mut serving = pin!(serving);
    // A connection that fails or takes too long concerns nobody but its peer.
    tokio::select! {
        _ = timeout(CONNECTION, serving.as_mut()) => {}
        () = shutdown.cancelled() => {
            serving.as_mut().graceful_shutdown();
            let _ = timeout(GRACE, serving).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;
    use tokio::task::JoinSet;

    use super::*;
    use crate::status::tests::{board, board_of, first};

    fn ask(method: Method, path: &str, board: &StatusBoard) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .body(())
            .unwrap();
        answer(&request, "/healthcheck", board)
    }

    async fn body(answer: Answer) -> Value {
        use http_body_util::BodyExt as _;
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        serde_json::from_slice(&bytes).unwrap()
    }

    #[test]
    fn probes_see_whether_a_tunnel_is_up() {
        let board = board();
        for (path, down) in [("/livez", 200), ("/readyz", 503), ("/healthcheck?x=1", 500)] {
            first(&board).tunnel_closed(0, None);
            assert_eq!(ask(Method::GET, path, &board).status(), down, "{path}");
            first(&board).tunnel_connected(0, "n1");
            assert_eq!(ask(Method::GET, path, &board).status(), 200, "{path}");
        }
    }

    #[tokio::test]
    async fn one_connection_with_a_tunnel_is_enough_to_be_ready_and_the_body_names_the_others() {
        let board = board_of(&["sonarqube", "jenkins"]);
        assert_eq!(ask(Method::GET, "/readyz", &board).status(), 503);
        first(&board).tunnel_connected(1, "n1");
        let answer = ask(Method::GET, "/readyz", &board);
        assert_eq!(answer.status(), 200);
        let expected = json!({"ok": true, "tunnels": 1, "connections": [
            {"agent": "sonarqube", "tunnels": 1},
            {"agent": "jenkins", "tunnels": 0},
        ]});
        assert_eq!(body(answer).await, expected);
        let health = body(ask(Method::GET, "/healthcheck", &board)).await;
        let agents = health.as_array().unwrap().iter();
        let agents: Vec<_> = agents.map(|tunnel| tunnel["agent"].clone()).collect();
        assert_eq!(agents, ["sonarqube", "sonarqube", "jenkins", "jenkins"]);
    }

    #[tokio::test]
    async fn the_healthcheck_has_one_object_per_tunnel() {
        let board = board();
        first(&board).tunnel_connected(0, "n1");
        let tunnel = |is_open: bool| {
            json!({
                "ok": is_open,
                "websocketConnectionOpen": is_open,
                "brokerServerUrl": "https://broker.example",
                "agent": "sonarqube",
                "version": "0.1.0",
                "transport": "websocket",
                "rulesRefusedSince": null,
            })
        };
        let two = body(ask(Method::GET, "/healthcheck", &board)).await;
        assert_eq!(two, json!([tunnel(true), tunnel(false)]));
    }

    #[tokio::test]
    async fn a_refused_accept_file_shows_in_the_healthchecks_body_and_in_no_code() {
        let board = board();
        first(&board).tunnel_connected(0, "n1");
        first(&board).rules_refused("private[0]: unknown method \"GTE\"");
        for path in ["/livez", "/readyz", "/healthcheck"] {
            assert_eq!(ask(Method::GET, path, &board).status(), 200, "{path}");
        }
        let tunnels = body(ask(Method::GET, "/healthcheck", &board)).await;
        let refused = board
            .snapshot()
            .connections
            .remove(0)
            .accept
            .refused
            .unwrap();
        assert_eq!(tunnels[0]["rulesRefusedSince"], refused.time);
        assert!(!tunnels.to_string().contains("GTE"), "{tunnels}");
    }

    #[test]
    fn everything_else_is_not_there() {
        let board = board();
        for path in ["/", "/filters", "/livez/", "/metrics"] {
            assert_eq!(ask(Method::GET, path, &board).status(), 404, "{path}");
        }
        let answer = ask(Method::POST, "/readyz", &board);
        assert_eq!(answer.status(), 405);
        assert_eq!(answer.headers()[ALLOW], "GET, HEAD");
        assert_eq!(answer.headers()[CONTENT_TYPE], "application/problem+json");
    }

    struct Server {
        address: std::net::SocketAddr,
        shutdown: CancellationToken,
        task: JoinSet<()>,
    }

    async fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let mut task = JoinSet::new();
        task.spawn(run(
            listener,
            "/healthcheck".to_owned(),
            board(),
            shutdown.clone(),
        ));
        Server {
            address,
            shutdown,
            task,
        }
    }

    async fn exchange(stream: &mut TcpStream, request: &str) -> String {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_head_request_has_no_body() {
        let server = start().await;
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let answer = exchange(&mut stream, "HEAD /livez HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    }

    #[tokio::test]
    async fn a_head_over_64_kib_is_refused() {
        let server = start().await;
        let ask = async |length| {
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            let padding = "x".repeat(length);
            let request = format!("GET /livez HTTP/1.1\r\nHost: x\r\nX: {padding}\r\n\r\n");
            exchange(&mut stream, &request).await
        };
        let answer = ask(MAX_HEADER_BYTES - 1024).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        // It is judged between two reads, so a little more may pass.
        let answer = ask(2 * MAX_HEADER_BYTES).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }

    #[tokio::test]
    async fn silent_connections_end_and_make_room() {
        let server = start().await;
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS {
            silent.push(TcpStream::connect(server.address).await.unwrap());
        }
        // Paused time jumps to the next deadline once nothing else can happen.
        tokio::time::pause();
        for stream in &mut silent {
            assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
        }
        tokio::time::resume();
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let answer = exchange(&mut stream, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(answer.contains(r#"{"ok":true}"#), "{answer}");
    }

    #[tokio::test]
    async fn a_stop_does_not_wait_for_silent_connections() {
        let mut server = start().await;
        let _silent = TcpStream::connect(server.address).await.unwrap();
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        exchange(&mut stream, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await;

        server.shutdown.cancel();
        timeout(CONNECTION / 2, server.task.join_next())
            .await
            .unwrap();
        TcpStream::connect(server.address).await.unwrap_err();
    }
}

//! The control socket in the instance's folder: how `broker-client status`, `pause` and `resume` reach the running agent.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use broker_protocol::InstanceName;

use crate::instance::{CONTROL_SOCKET, DataFolder};
use crate::local::{Answer, answer_json, method_not_allowed, problem, serve};
use crate::pause::{PauseError, PauseOrder, PauseReport, Pauses, Selection};
use crate::status::{StatusBoard, StatusSnapshot};

/// Longest path of a socket, in bytes: `sockaddr_un` has 108 with the closing zero (unix(7)).
const MAX_PATH: usize = 107;

/// Connections at once; only the agent's own user can open one.
const CONNECTIONS: usize = 8;

/// Largest status that is read; twenty denials and sixteen tunnels of each of the most connections stay below.
const MAX_STATUS: usize = 4 << 20;

/// Largest order, in bytes.
const MAX_ORDER: usize = 64 << 10;

const PAUSE: &str = "/pause";
const RESUME: &str = "/resume";

/// How long the agent may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The system's limit for a socket's path.
    #[error(
        "control socket {path}: the path has {len} bytes, the system allows {MAX_PATH} (set BROKER_DATA_DIR to a shorter path)",
        path = path.display(), len = path.as_os_str().len()
    )]
    PathTooLong {
        /// The socket.
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[error("control socket {path}: {source}", path = path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
}

/// The agent's end of the control socket; removes it when dropped.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    file: SocketFile,
}

#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // A socket that is left behind does no harm: the next agent removes it.
        let _ = fs::remove_file(&self.0);
    }
}

impl ControlSocket {
    /// Makes the socket at `path`, for the agent's own user alone. The caller holds the lock of the
    /// folder, so a socket found there is a dead process's.
    ///
    /// # Errors
    /// Where the path is too long for a socket or the folder cannot be written.
    pub fn bind(path: &Path) -> Result<Self, ControlError> {
        if path.as_os_str().as_bytes().len() > MAX_PATH {
            return Err(ControlError::PathTooLong { path: path.into() });
        }
        let io = |source| ControlError::Io {
            path: path.into(),
            source,
        };
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
            _ => {}
        }
        // Until its mode is set the socket is guarded by its folder's, 0700.
        let listener = UnixListener::bind(path).map_err(io)?;
        let file = SocketFile(path.into());
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(io)?;
        Ok(Self { listener, file })
    }

    /// Answers `GET /status`, `POST /pause` and `POST /resume` until `shutdown`.
    pub(crate) async fn run(
        self,
        board: StatusBoard,
        pauses: Arc<Pauses>,
        shutdown: CancellationToken,
    ) {
        let Self { listener, file } = self;
        let answer = move |request, uid| {
            let (board, pauses) = (board.clone(), Arc::clone(&pauses));
            async move { answer(request, uid, &board, &pauses).await }
        };
        serve(listener, CONNECTIONS, answer, shutdown).await;
        drop(file);
    }
}

async fn answer(
    request: Request<Incoming>,
    uid: Option<u32>,
    board: &StatusBoard,
    pauses: &Pauses,
) -> Answer {
    let method = request.method().clone();
    match (request.uri().path(), method) {
        ("/status", Method::GET | Method::HEAD) => answer_with(&board.snapshot()),
        (PAUSE, Method::POST) => match order(request).await {
            Ok(order) => changed(pauses.pause(order, uid).await),
            Err(problem) => problem,
        },
        (RESUME, Method::POST) => match order(request).await {
            Ok(selection) => changed(pauses.resume(&selection, uid).await),
            Err(problem) => problem,
        },
        ("/status", _) => method_not_allowed(),
        _ => problem(
            StatusCode::NOT_FOUND,
            "not-found",
            "this socket answers GET /status, POST /pause and POST /resume",
        ),
    }
}

/// What a command asks for.
async fn order<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Answer> {
    let refused = |error: &dyn std::fmt::Display| {
        problem(StatusCode::BAD_REQUEST, "bad-request", &error.to_string())
    };
    let body = Limited::new(request.into_body(), MAX_ORDER).collect().await;
    let body = body.map_err(|error| refused(&error))?;
    serde_json::from_slice(&body.to_bytes()).map_err(|error| refused(&error))
}

fn changed(outcome: Result<PauseReport, PauseError>) -> Answer {
    match outcome {
        Ok(report) => answer_with(&report),
        Err(error @ PauseError::Refused(_)) => {
            problem(StatusCode::CONFLICT, "refused", &error.to_string())
        }
        Err(error) => problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "still-paused",
            &error.to_string(),
        ),
    }
}

fn answer_with(answer: &impl Serialize) -> Answer {
    match serde_json::to_value(answer) {
        Ok(answer) => answer_json(StatusCode::OK, &answer),
        Err(error) => problem(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            &error.to_string(),
        ),
    }
}

/// Why the running agent does not do what it is asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// No agent listens.
    #[error(
        "no agent is running for instance {instance} ({what} at {path}; BROKER_DATA_DIR and BROKER_INSTANCE choose another)",
        path = path.display()
    )]
    NotRunning {
        /// The instance that was asked for.
        instance: InstanceName,
        /// What was found instead.
        what: &'static str,
        /// The socket.
        path: PathBuf,
    },
    /// The socket cannot be opened, or what answers is no agent.
    #[error("control socket {path}: {problem}", path = path.display())]
    Failed {
        /// The socket.
        path: PathBuf,
        /// What went wrong.
        problem: String,
    },
    /// It said no.
    #[error("{0}")]
    Refused(String),
}

/// Asks the running agent of `instance` for its status.
///
/// # Errors
/// [`AskError::NotRunning`] where no agent listens, [`AskError::Failed`] where it cannot be asked.
pub async fn fetch_status(
    data: &DataFolder,
    instance: &InstanceName,
) -> Result<StatusSnapshot, AskError> {
    ask(data, instance, Method::GET, "/status", &()).await
}

/// Has the running agent of `instance` pause something.
///
/// # Errors
/// As [`fetch_status`], and [`AskError::Refused`] with the agent's own words.
pub async fn pause(
    data: &DataFolder,
    instance: &InstanceName,
    order: &PauseOrder,
) -> Result<PauseReport, AskError> {
    ask(data, instance, Method::POST, PAUSE, order).await
}

/// Has the running agent of `instance` resume something.
///
/// # Errors
/// As [`pause`].
pub async fn resume(
    data: &DataFolder,
    instance: &InstanceName,
    selection: &Selection,
) -> Result<PauseReport, AskError> {
    ask(data, instance, Method::POST, RESUME, selection).await
}

async fn ask<T: DeserializeOwned>(
    data: &DataFolder,
    instance: &InstanceName,
    method: Method,
    path: &'static str,
    order: &impl Serialize,
) -> Result<T, AskError> {
    let socket = data.of_instance(instance).join(CONTROL_SOCKET);
    let failed = |problem: String| AskError::Failed {
        path: socket.clone(),
        problem,
    };
    let not_running = |what| AskError::NotRunning {
        instance: instance.clone(),
        what,
        path: socket.clone(),
    };
    let stream = UnixStream::connect(&socket)
        .await
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => not_running("no socket"),
            io::ErrorKind::ConnectionRefused => not_running("nobody listens"),
            io::ErrorKind::PermissionDenied => {
                failed(format!("{error} (run this as the agent's user)"))
            }
            _ => failed(error.to_string()),
        })?;
    let body = serde_json::to_vec(order).map_err(|error| failed(error.to_string()))?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, "control")
        .body(Full::from(body))
        .expect("all of its parts are constant");
    let (status, answer) = match timeout(ANSWER, send(stream, request)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Err(failed(error.to_string())),
        Err(_) => return Err(failed("the agent does not answer".to_owned())),
    };
    if status == StatusCode::OK {
        return serde_json::from_slice(&answer).map_err(|error| failed(error.to_string()));
    }
    match serde_json::from_slice::<Refusal>(&answer) {
        Ok(Refusal { detail }) => Err(AskError::Refused(detail)),
        Err(_) => Err(failed(format!("the agent answered {status}"))),
    }
}

/// As much of a problem document as a command shows.
#[derive(Deserialize)]
struct Refusal {
    detail: String,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

async fn send(
    stream: UnixStream,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), BoxError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async move {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_STATUS)
            .collect()
            .await?;
        Ok((status, body.to_bytes()))
    };
    // The connection's own failure reaches the exchange, which ends with it.
    tokio::join!(exchange, connection).0
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;
    use crate::audit::AuditLog;
    use crate::instance::Instance;
    use crate::instance::tests::TestFolder;
    use crate::status::tests::board;

    fn name() -> InstanceName {
        "default".parse().unwrap()
    }

    #[tokio::test]
    async fn the_running_agent_tells_its_status_to_its_own_user() {
        let folder = TestFolder::new();
        let data = DataFolder::Named(folder.path().into());
        let instance = Instance::open(&data, &name()).unwrap();
        let path = instance.control_socket().unwrap();
        let board = board();
        board.connections()[0].tunnel_connected(0, "n1");
        let socket = ControlSocket::bind(&path).unwrap();
        let shutdown = CancellationToken::new();
        let (audit, _writer) = AuditLog::open(&instance, &[]).unwrap();
        let pauses = Arc::new(Pauses::load(Vec::new(), &instance, audit));
        let mut agent = JoinSet::new();
        agent.spawn(socket.run(board.clone(), pauses, shutdown.clone()));

        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let snapshot = fetch_status(&data, &name()).await.unwrap();
        assert_eq!(snapshot.connections, board.snapshot().connections);

        shutdown.cancel();
        agent.join_next().await.unwrap().unwrap();
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_socket_that_a_dead_agent_left_is_replaced() {
        let folder = TestFolder::new();
        let path = folder.path().join("control.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        ControlSocket::bind(&path).unwrap();
    }

    #[tokio::test]
    async fn where_no_agent_runs_the_error_says_so() {
        let folder = TestFolder::new();
        let data = DataFolder::Named(folder.path().into());
        let error = fetch_status(&data, &name()).await.unwrap_err().to_string();
        let path = folder.path().join("default/control.sock");
        let expected = format!(
            "no agent is running for instance default (no socket at {}",
            path.display()
        );
        assert!(error.starts_with(&expected), "{error}");

        fs::create_dir(folder.path().join("default")).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let error = fetch_status(&data, &name()).await.unwrap_err().to_string();
        assert!(error.contains("nobody listens"), "{error}");
    }

    #[tokio::test]
    async fn a_path_too_long_for_a_socket_is_an_error_with_the_fix() {
        let path = Path::new("/tmp").join("x".repeat(120));
        let error = ControlSocket::bind(&path).unwrap_err().to_string();
        assert!(
            error.contains("125 bytes, the system allows 107"),
            "{error}"
        );
        assert!(error.contains("BROKER_DATA_DIR"), "{error}");
    }
}

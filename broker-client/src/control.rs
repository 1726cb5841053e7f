//! The control socket in the instance's folder: how `broker-client status` asks the running agent.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use broker_protocol::InstanceName;

use crate::instance::{CONTROL_SOCKET, DataFolder};
use crate::local::{Answer, answer_json, method_not_allowed, problem, serve};
use crate::status::{StatusBoard, StatusSnapshot};

/// Longest path of a socket, in bytes: `sockaddr_un` has 108 with the closing zero (unix(7)).
const MAX_PATH: usize = 107;

/// Connections at once; only the agent's own user can open one.
const CONNECTIONS: usize = 8;

/// Largest status that is read; twenty denials and sixteen tunnels of each of the most connections stay below.
const MAX_STATUS: usize = 4 << 20;

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

    /// Answers `GET /status` until `shutdown`.
    pub async fn run(self, board: StatusBoard, shutdown: CancellationToken) {
        let Self { listener, file } = self;
        let answer = move |request: &Request<Incoming>| answer(request, &board);
        serve(listener, CONNECTIONS, answer, shutdown).await;
        drop(file);
    }
}

fn answer(request: &Request<Incoming>, board: &StatusBoard) -> Answer {
    if request.uri().path() != "/status" {
        return problem(
            StatusCode::NOT_FOUND,
            "not-found",
            "this socket answers /status",
        );
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return method_not_allowed();
    }
    match serde_json::to_value(board.snapshot()) {
        Ok(snapshot) => answer_json(StatusCode::OK, &snapshot),
        Err(error) => problem(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            &error.to_string(),
        ),
    }
}

/// Why the running agent's status cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchStatusError {
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
}

/// Asks the running agent of `instance` for its status.
///
/// # Errors
/// [`FetchStatusError::NotRunning`] where no agent listens, [`FetchStatusError::Failed`] where it
/// cannot be asked.
pub async fn fetch_status(
    data: &DataFolder,
    instance: &InstanceName,
) -> Result<StatusSnapshot, FetchStatusError> {
    let path = data.of_instance(instance).join(CONTROL_SOCKET);
    let failed = |problem: String| FetchStatusError::Failed {
        path: path.clone(),
        problem,
    };
    let not_running = |what| FetchStatusError::NotRunning {
        instance: instance.clone(),
        what,
        path: path.clone(),
    };
    let stream = match UnixStream::connect(&path).await {
        Ok(stream) => stream,
        Err(error) => {
            return Err(match error.kind() {
                io::ErrorKind::NotFound => not_running("no socket"),
                io::ErrorKind::ConnectionRefused => not_running("nobody listens"),
                io::ErrorKind::PermissionDenied => {
                    failed(format!("{error} (run this as the agent's user)"))
                }
                _ => failed(error.to_string()),
            });
        }
    };
    match timeout(ANSWER, ask(stream)).await {
        Ok(Ok(snapshot)) => Ok(snapshot),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed("the agent does not answer".to_owned())),
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

async fn ask(stream: UnixStream) -> Result<StatusSnapshot, BoxError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async move {
        let request = Request::get("/status")
            .header(http::header::HOST, "control")
            .body(Empty::<Bytes>::new())?;
        let answer = sender.send_request(request).await?;
        if answer.status() != StatusCode::OK {
            return Err(format!("the agent answered {}", answer.status()).into());
        }
        let body = Limited::new(answer.into_body(), MAX_STATUS)
            .collect()
            .await?;
        Ok(serde_json::from_slice(&body.to_bytes())?)
    };
    // The connection's own failure reaches the exchange, which ends with it.
    tokio::join!(exchange, connection).0
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;
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
        let mut agent = JoinSet::new();
        agent.spawn(socket.run(board.clone(), shutdown.clone()));

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

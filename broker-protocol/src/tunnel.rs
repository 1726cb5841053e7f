//! HTTP/2 over the byte stream of a WebSocket, roles reversed: the server sends requests, the agent answers
//! (SPEC.md §5.4).

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http2 as client};
use hyper::server::conn::http2 as server;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::WsStream;
use crate::gather::Gathered;
use crate::stall::{StreamExecutor, Watched};

/// Most streams that the server may open at once in one tunnel.
pub const MAX_STREAMS: u32 = 250;
/// What the agent advertises: a little more, because a stream that the server has done with may not yet have
/// ended on the wire. The server's own count keeps to [`MAX_STREAMS`].
const ADVERTISED_STREAMS: u32 = 256;
/// Bytes that one stream may have in flight; larger ones made small requests wait behind bulk.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Bytes that all streams may have in flight: every stream's window, or one slow reader stops everyone.
const CONNECTION_WINDOW: u32 = ADVERTISED_STREAMS * STREAM_WINDOW;
/// Largest frame, in bytes: 64 KiB was as good as 16 KiB for small requests, and better for bulk.
const FRAME: u32 = 64 * 1024;
/// Bytes of one stream that wait for the peer's window.
const SEND_BUFFER: usize = STREAM_WINDOW as usize;
/// Streams that the server may have reset before the agent has seen them: as many as it may open. An agent that was
/// off the processor for a moment finds all callers that left meanwhile.
const RESET_UNSEEN: usize = ADVERTISED_STREAMS as usize;
/// Reset streams that the server's end remembers, about half a KiB each, and for how long. What the agent still sends
/// of them is thrown away; on a slow link that is what all windows and queues on the way held.
const REMEMBERED_RESETS: usize = 4096;
const RESET_MEMORY: Duration = Duration::from_secs(60);
/// Frames of reset streams that are forgotten which one tunnel may see in its life, of days. Each costs half a KiB
/// until its answer has left, so a peer that reads nothing gets 16 MiB.
const FORGOTTEN_RESETS: usize = 32 * 1024;
/// Header list limit in the tunnel, in bytes: the 64 KiB of every listener and what we add.
const HEADER_LIST: u32 = 80 * 1024;

/// `:authority` of relayed requests.
pub const RELAY_AUTHORITY: &str = "origin.broker.invalid";
/// `:authority` of what the server itself asks of the agent; no caller's request carries it (SPEC.md §5.5).
pub const CONTROL_AUTHORITY: &str = "control.broker.invalid";
/// Control request: connect elsewhere, this node is going away; answered when that is done or was tried.
pub const CONTROL_DRAIN: &str = "/v1/drain";

/// Serves the agent's end until the tunnel closes; once `shutdown` is cancelled, until its streams have ended.
///
/// Each request is answered by `service` in a task of its own, owned by `tasks`. `stall` is how long the server
/// may read nothing of an answer while bytes wait.
///
/// # Errors
/// If the transport or the peer broke.
pub async fn serve_agent_end<S, F, R, B>(
    stream: WsStream<S>,
    tasks: TaskTracker,
    stall: Duration,
    shutdown: CancellationToken,
    service: F,
) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Request<Incoming>) -> R,
    R: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync + Unpin,
{
    let service = hyper::service::service_fn(move |request| {
        // A service's future is large, and hyper moves it several times before it runs.
        let response = Box::pin(service(request));
        // Watched on the outside: gathering asks for more before the peer has taken anything.
        async move {
            let response = response.await;
            Ok::<_, Infallible>(response.map(|body| Watched::new(Gathered::new(body))))
        }
    });
    let connection = server::Builder::new(StreamExecutor::new(tasks, stall))
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(ADVERTISED_STREAMS)
        .max_frame_size(FRAME)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(HEADER_LIST)
        .max_pending_accept_reset_streams(RESET_UNSEEN)
        .max_local_error_reset_streams(FORGOTTEN_RESETS)
        // The origin's own date is the answer's date.
        .auto_date_header(false)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

/// The server's end: sends requests, each in a stream of its own.
pub struct ServerEnd<B: Body> {
    sender: client::SendRequest<Gathered<B>>,
    permits: Arc<Semaphore>,
    max_streams: u32,
}

/// The right to have one stream open.
pub type StreamPermit = OwnedSemaphorePermit;

/// Why a request got no answer.
pub enum SendError<B> {
    /// No byte of it left: it may be sent in another tunnel.
    Unsent(Box<Request<B>>),
    /// The tunnel ended, or the agent reset the stream; whether the origin acted is not known.
    Lost(hyper::Error),
}

impl<B> ServerEnd<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync,
{
    /// Opens the server's end; the future drives the tunnel until it closes, and must be polled.
    ///
    /// # Errors
    /// If the transport broke.
    pub async fn open<S>(
        stream: WsStream<S>,
        tasks: TaskTracker,
        stall: Duration,
        max_streams: u32,
    ) -> hyper::Result<(Self, impl Future<Output = hyper::Result<()>> + Send)>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = client::Builder::new(StreamExecutor::new(tasks, stall))
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(HEADER_LIST)
            .max_concurrent_reset_streams(REMEMBERED_RESETS)
            .reset_stream_duration(RESET_MEMORY)
            .max_local_error_reset_streams(FORGOTTEN_RESETS)
            // An HTTP/2 server's pushes have no use here, and hyper refuses them by itself.
            .max_concurrent_streams(0)
            .initial_max_send_streams(max_streams as usize)
            .handshake(TokioIo::new(stream))
            .await?;
        let permits = Arc::new(Semaphore::new(max_streams as usize));
        Ok((
            Self {
                sender,
                permits,
                max_streams,
            },
            connection,
        ))
    }

    /// The right to open one more stream, if one is left; give it back when the stream has ended.
    #[must_use]
    pub fn permit(&self) -> Option<StreamPermit> {
        Arc::clone(&self.permits).try_acquire_owned().ok()
    }

    /// How many streams are open.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        (self.max_streams as usize).saturating_sub(self.permits.available_permits())
    }

    /// Waits until no stream is open, and lets none open from then on.
    pub async fn idle(&self) {
        if let Ok(all) = self.permits.acquire_many(self.max_streams).await {
            all.forget();
        }
    }

    /// Whether it still takes requests.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// # Errors
    /// If no answer came; only [`SendError::Unsent`] may be tried elsewhere.
    pub async fn send(&self, request: Request<B>) -> Result<Response<Incoming>, SendError<B>> {
        let request = request.map(Gathered::new);
        let sent = self.sender.clone().try_send_request(request).await;
        sent.map_err(|mut error: TrySendError<_>| match error.take_message() {
            Some(request) => SendError::Unsent(Box::new(request.map(Gathered::into_inner))),
            None => SendError::Lost(error.into_error()),
        })
    }
}

/// Sets what a tunnel needs of its socket: no waiting for more bytes, and no long queue in the kernel.
///
/// # Errors
/// If the socket is broken.
pub fn prepare_socket(socket: &tokio::net::TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(socket).set_tcp_notsent_lowat(crate::ws_stream::NOTSENT_LOWAT)?;
    Ok(())
}

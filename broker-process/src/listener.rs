//! HTTP listening: bounded connections, time-outs that no peer can sit out, and answers that arrive.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::rt::bounds::Http2ServerConnExec;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, SetOnce};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::certificate_name::{CertificateName, NamesError};

/// Header limit, in bytes: kubectl, browsers with cookies and JWTs stay well below.
pub const MAX_HEADER_BYTES: usize = 64 * 1024;
/// A peer must have finished its TLS handshake and sent the head of its first request by then, whatever else it sends.
const FIRST_REQUEST: Duration = Duration::from_secs(15);
/// HTTP/1.1: how long a connection may be idle, the head of its next request included.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// How long an upload that was refused is read and thrown away, so that the answer is not lost in a reset.
const LINGER: Duration = Duration::from_secs(5);
/// Connections that may linger at once; the ones above are closed at once.
const MAX_LINGERING: usize = 256;
/// HTTP/2: streams of one connection, and bytes in flight: all streams' windows together, or one slow stream
/// stops everyone.
const H2_STREAMS: u32 = 128;
const H2_STREAM_WINDOW: u32 = 256 * 1024;
const H2_CONNECTION_WINDOW: u32 = H2_STREAMS * H2_STREAM_WINDOW;
/// HTTP/2 Pings find out that a peer is gone without a word.
const H2_PING: Duration = Duration::from_secs(30);
/// Probes of the kernel find out the same where nothing is sent, as behind a quiet watch: after a minute.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(30))
    .with_interval(Duration::from_secs(10))
    .with_retries(3);
/// Pause after a failed accept, which is nearly always a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a listener speaks.
#[derive(Clone)]
pub enum Protocols<E> {
    /// HTTP/1.1, whose connections a service may take over by an upgrade.
    Http1WithUpgrades,
    /// HTTP/1.1 and HTTP/2; the executor runs the streams of the latter.
    Http1AndHttp2(E),
}

/// How a listener serves.
pub struct Listening<E> {
    /// The bound socket.
    pub listener: TcpListener,
    /// With TLS, or in the clear.
    pub tls: Option<TlsAcceptor>,
    /// What it speaks.
    pub protocols: Protocols<E>,
    /// Connections at once; further ones wait in the kernel's queue.
    pub max_connections: usize,
    /// How long a peer may take none of the bytes that wait for it.
    pub stall: Duration,
    /// Owns the connections' tasks.
    pub tasks: TaskTracker,
}

/// The connection on which a request came.
#[derive(Debug, Clone)]
pub struct Connection {
    /// The peer's address as the kernel gives it; an IPv4 peer of an IPv6 socket as IPv4.
    pub peer: SocketAddr,
    /// The names of the certificate by which the peer proved itself; `None` where it showed none.
    pub certificate: Option<Arc<[CertificateName]>>,
}

/// Accepts until `shutdown` is cancelled; then every connection finishes what it has begun.
///
/// Returns when it stops accepting; `tasks` tells when the connections have ended.
pub async fn serve<E, F, R, B>(listening: Listening<E>, shutdown: CancellationToken, service: F)
where
    F: Fn(Request<Incoming>, Connection) -> R + Clone + Send + 'static,
    R: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: std::error::Error + Send + Sync,
    E: Clone + Send + Sync + 'static,
    E: Http2ServerConnExec<Answering<B>, B>,
{
    let Listening {
        listener,
        tls,
        protocols,
        max_connections,
        stall,
        tasks,
    } = listening;
    let connections = Arc::new(Semaphore::new(max_connections));
    let lingering = Arc::new(Semaphore::new(MAX_LINGERING));
    loop {
        let accepting = async {
            let permit = Arc::clone(&connections).acquire_owned();
            let permit = permit.await.map_err(io::Error::other)?;
            let (stream, peer) = listener.accept().await?;
            Ok::<_, io::Error>((permit, stream, peer))
        };
        let (permit, stream, peer) = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = accepting => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        if let Err(error) = prepare(&stream) {
            tracing::debug!(%peer, %error, "the peer is gone already");
            continue;
        }
        let socket = Socket::new(stream, stall, Arc::clone(&lingering));
        let (tls, protocols, service) = (tls.clone(), protocols.clone(), service.clone());
        let shutdown = shutdown.clone();
        drop(tasks.spawn(async move {
            let ended = serve_connection(socket, peer, tls, protocols, shutdown, service).await;
            if let Err(error) = ended {
                tracing::debug!(%peer, %error, "connection ended");
            }
            drop(permit);
        }));
    }
}

type Error = Box<dyn std::error::Error + Send + Sync>;
/// A request that is being answered.
type Answering<B> = Pin<Box<dyn Future<Output = Result<Response<B>, Infallible>> + Send>>;

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_keepalive(&KEEPALIVE)
}

async fn serve_connection<E, F, R, B>(
    socket: Socket,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    protocols: Protocols<E>,
    shutdown: CancellationToken,
    service: F,
) -> Result<(), Error>
where
    F: Fn(Request<Incoming>, Connection) -> R,
    R: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: std::error::Error + Send + Sync,
    E: Clone + Send + Sync + 'static,
    E: Http2ServerConnExec<Answering<B>, B>,
{
    let begun = Arc::new(SetOnce::new());
    let first_request = Arc::clone(&begun);
    let serving = async move {
        let stream = match tls {
            None => Stream::Plain(socket),
            Some(tls) => Stream::Tls(Box::new(tls.accept(socket).await?)),
        };
        let connection = Connection {
            peer,
            certificate: stream.certificate()?,
        };
        let service = hyper::service::service_fn(move |request| {
            // Only the first can set it.
            drop(begun.set(()));
            let response = service(request, connection.clone());
            // An async block would hold it twice, and it has kilobytes.
            Box::pin(response.map(Ok)) as Answering<_>
        });
        speak(protocols, TokioIo::new(stream), service, shutdown).await
    };
    let late = async {
        let request = tokio::time::timeout(FIRST_REQUEST, first_request.wait());
        if request.await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        ended = serving => ended,
        () = late => Err("no request in time".into()),
    }
}

/// Serves HTTP until the connection ends; once `shutdown` is cancelled, until its requests have.
async fn speak<E, S, B>(
    protocols: Protocols<E>,
    io: TokioIo<Stream>,
    service: S,
    shutdown: CancellationToken,
) -> Result<(), Error>
where
    S: Service<
            Request<Incoming>,
            Response = Response<B>,
            Error = Infallible,
            Future = Answering<B>,
        >,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: std::error::Error + Send + Sync,
    E: Http2ServerConnExec<Answering<B>, B>,
{
    match protocols {
        Protocols::Http1WithUpgrades => {
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(MAX_HEADER_BYTES)
                .serve_connection(io, service)
                .with_upgrades();
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                ended = connection.as_mut() => return Ok(ended?),
                () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
            }
            Ok(connection.await?)
        }
        Protocols::Http1AndHttp2(executor) => {
            let mut builder = auto::Builder::new(executor);
            builder
                .http1()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(MAX_HEADER_BYTES);
            builder
                .http2()
                .timer(TokioTimer::new())
                .keep_alive_interval(H2_PING)
                .initial_stream_window_size(H2_STREAM_WINDOW)
                .initial_connection_window_size(H2_CONNECTION_WINDOW)
                .max_concurrent_streams(H2_STREAMS)
                .max_header_list_size(u32::try_from(MAX_HEADER_BYTES).unwrap_or(u32::MAX));
            let connection = builder.serve_connection(io, service);
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                ended = connection.as_mut() => return ended,
                () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
            }
            connection.await
        }
    }
}

/// An accepted connection, as it comes back from an upgrade.
pub enum Stream {
    /// In the clear.
    Plain(Socket),
    /// Over TLS.
    Tls(Box<tokio_rustls::server::TlsStream<Socket>>),
}

impl Stream {
    /// The TCP socket at the bottom.
    #[must_use]
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => &socket.io,
            Self::Tls(tls) => &tls.get_ref().0.io,
        }
    }

    /// The names of the peer's certificate, which the handshake has verified.
    fn certificate(&self) -> Result<Option<Arc<[CertificateName]>>, NamesError> {
        let Self::Tls(tls) = self else {
            return Ok(None);
        };
        let chain = tls.get_ref().1.peer_certificates();
        let names = chain.and_then(<[_]>::first).map(CertificateName::of);
        Ok(names.transpose()?.map(Arc::from))
    }
}

macro_rules! delegate {
    ($self:ident, $io:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Plain(socket) => {
                let $io = Pin::new(socket);
                $call
            }
            Stream::Tls(tls) => {
                let $io = Pin::new(&mut **tls);
                $call
            }
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        delegate!(self, io => io.poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, io => io.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, io => io.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.is_write_vectored(),
            Self::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, io => io.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, io => io.poll_shutdown(cx))
    }
}

/// A TCP connection that gives up a peer which stops reading, and that closes so that the peer can read the last
/// answer.
pub struct Socket {
    io: TcpStream,
    stall: Duration,
    /// While a write waits for the peer.
    stalled: Option<Pin<Box<Sleep>>>,
    closing: Closing,
    lingering: Arc<Semaphore>,
}

enum Closing {
    No,
    /// The writing side is shut; what still comes is thrown away until the peer closes or the time is up.
    Lingering(Pin<Box<Sleep>>, tokio::sync::OwnedSemaphorePermit),
    Done,
}

impl Socket {
    fn new(io: TcpStream, stall: Duration, lingering: Arc<Semaphore>) -> Self {
        Self {
            io,
            stall,
            stalled: None,
            closing: Closing::No,
            lingering,
        }
    }

    fn watch_write<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stall = self.stall;
        let timer = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the peer does not read",
        )))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.watch_write(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.watch_write(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Closing a socket with unread bytes makes the kernel send a reset, and a reset lets the peer's kernel throw
    /// away the answer that it has already received. So the writing side is shut, and what the peer is still
    /// sending is read and discarded until it closes.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = &mut *self;
        loop {
            match &mut me.closing {
                Closing::No => {
                    ready!(Pin::new(&mut me.io).poll_shutdown(cx))?;
                    me.closing = match Arc::clone(&me.lingering).try_acquire_owned() {
                        Ok(permit) => {
                            Closing::Lingering(Box::pin(tokio::time::sleep(LINGER)), permit)
                        }
                        Err(_) => Closing::Done,
                    };
                }
                Closing::Lingering(timer, _permit) => {
                    if timer.as_mut().poll(cx).is_pending() && !ready!(poll_discard(&mut me.io, cx))
                    {
                        continue;
                    }
                    me.closing = Closing::Done;
                }
                Closing::Done => return Poll::Ready(Ok(())),
            }
        }
    }
}

/// Reads once and forgets it; ready with whether the peer has closed.
fn poll_discard(io: &mut TcpStream, cx: &mut Context<'_>) -> Poll<bool> {
    let mut space = [0; 16 * 1024];
    let mut buf = ReadBuf::new(&mut space);
    let read = ready!(Pin::new(io).poll_read(cx, &mut buf));
    Poll::Ready(read.is_err() || buf.filled().is_empty())
}

//! A WebSocket as a byte stream, bounded both ways, that knows when its peer is gone (SPEC.md §5).
//!
//! Message boundaries carry no meaning. One message holds whatever was written when it was flushed, and never
//! waits to fill up.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::task::AtomicWaker;
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::SetOnce;
use tokio::time::{Instant, Sleep};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};

/// Largest message sent, in bytes: a Ping waits behind one message at the most (SPEC.md §5.1).
const SEND_MESSAGE: usize = 64 * 1024;
/// Largest message accepted, in bytes (SPEC.md §5.1).
const MAX_MESSAGE: usize = 1024 * 1024;
/// Bytes read from the transport at once; allocated per tunnel, and a larger one was not faster.
const READ_BUFFER: usize = 8 * 1024;
/// Bytes collected before a write to the transport.
const WRITE_BUFFER: usize = 16 * 1024;
/// Bytes that may wait for a slow transport; bounds what a Ping stands behind.
const MAX_WRITE_BUFFER: usize = 256 * 1024;
/// For the socket under the tunnel: bytes that the kernel holds beyond what is on the wire (`TCP_NOTSENT_LOWAT`).
pub const NOTSENT_LOWAT: u32 = 128 * 1024;

/// Silence after which a Ping asks whether the peer is there (SPEC.md §5.2).
pub const PING_AFTER: Duration = Duration::from_secs(5);
/// Silence after which the peer is gone (SPEC.md §5.2).
pub const DEAD_AFTER: Duration = Duration::from_secs(15);
/// How long bytes may wait for the transport while the peer takes none: one that is there reads, so it is gone,
/// or means to pin us (SPEC.md §5.2).
const WRITE_STALL: Duration = Duration::from_secs(60);
/// How long a closed stream goes on reading, so that a reset does not overtake the Close message.
const CLOSE_LINGER: Duration = Duration::from_secs(2);
/// Messages without data handled in one go: a peer that floods Pings must not keep the thread.
const CONTROL_BUDGET: u32 = 32;

/// Why a tunnel was closed, told in the Close message (SPEC.md §5.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum CloseCode {
    /// Nothing more to say; connect again as after any loss.
    Normal = 1000,
    /// The server is going away; connect elsewhere.
    Drain = 4000,
    /// The customer paused the agent.
    Paused = 4001,
    /// The agent's admission was withdrawn.
    Revoked = 4002,
    /// The agent's version is refused.
    Version = 4003,
}

impl CloseCode {
    const ALL: [Self; 5] = [
        Self::Normal,
        Self::Drain,
        Self::Paused,
        Self::Revoked,
        Self::Version,
    ];

    fn from_u16(code: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|known| *known as u16 == code)
    }

    fn frame(self) -> CloseFrame {
        CloseFrame {
            code: (self as u16).into(),
            reason: "".into(),
        }
    }
}

/// Closes a [`WsStream`] from outside, and tells when the peer began and how it closed.
#[derive(Clone, Default)]
pub struct CloseHandle(Arc<CloseState>);

#[derive(Default)]
struct CloseState {
    /// What we were asked to close with; 0 for nothing.
    ours: AtomicU16,
    /// What the peer closed with; 0 for nothing.
    theirs: AtomicU16,
    waker: AtomicWaker,
    /// Set once the peer's first data came.
    begun: SetOnce<()>,
}

impl CloseHandle {
    /// Has the stream send a Close message and end, behind all that was handed to HTTP/2 before; the first code wins.
    pub fn close(&self, code: CloseCode) {
        // Whoever came first decided; either way the stream must look.
        let _ = self
            .0
            .ours
            .compare_exchange(0, code as u16, Ordering::AcqRel, Ordering::Acquire);
        self.0.waker.wake();
    }

    /// The peer's code, once its Close message came; a code that we do not know counts as `Normal`.
    #[must_use]
    pub fn closed_by_peer(&self) -> Option<CloseCode> {
        match self.0.theirs.load(Ordering::Acquire) {
            0 => None,
            code => Some(CloseCode::from_u16(code).unwrap_or(CloseCode::Normal)),
        }
    }

    /// Resolves when the peer's first data has come: only then does it use the tunnel.
    pub async fn begun(&self) {
        self.0.begun.wait().await;
    }

    fn requested(&self) -> Option<CloseCode> {
        CloseCode::from_u16(self.0.ours.load(Ordering::Acquire))
    }
}

/// The limits that both ends set on the WebSocket under a tunnel.
#[must_use]
pub fn websocket_config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(MAX_WRITE_BUFFER)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
}

/// A transport that counts what passes: any byte read is life, also that of a half-read message, and any byte
/// written shows that the peer takes what waits for it.
pub struct Counted<S> {
    io: S,
    read: u64,
    written: u64,
}

impl<S> Counted<S> {
    /// Counts from here on.
    pub fn new(io: S) -> Self {
        Self {
            io,
            read: 0,
            written: 0,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        self.read += (buf.filled().len() - before) as u64;
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        if let Poll::Ready(Ok(n)) = &written {
            self.written += *n as u64;
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// The bytes of a WebSocket's binary messages, in order.
pub struct WsStream<S> {
    ws: WebSocketStream<Counted<S>>,
    /// What the last message held and has not been read yet.
    incoming: Bytes,
    /// What has been written and not been made a message yet; at most [`SEND_MESSAGE`].
    outgoing: BytesMut,
    liveness: Liveness,
    stall: WriteStall,
    close: CloseHandle,
    /// No more data will come: the peer closed, or we were asked to.
    ended: bool,
    close_sent: bool,
    /// Since we were asked to close, whoever reads has had a turn to write.
    written_out: bool,
    linger: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WsStream<S> {
    /// The client's end, after its handshake.
    pub fn client(ws: WebSocketStream<Counted<S>>) -> Self {
        Self::new(ws)
    }

    /// The server's end of a connection that was upgraded; `read` is what came behind the upgrade request.
    pub async fn server(io: Counted<S>, read: &[u8]) -> Self {
        let config = Some(websocket_config());
        Self::new(
            WebSocketStream::from_partially_read(io, read.to_vec(), Role::Server, config).await,
        )
    }

    fn new(ws: WebSocketStream<Counted<S>>) -> Self {
        Self {
            ws,
            incoming: Bytes::new(),
            outgoing: BytesMut::new(),
            liveness: Liveness::new(),
            stall: WriteStall::default(),
            close: CloseHandle::default(),
            ended: false,
            close_sent: false,
            written_out: false,
            linger: None,
        }
    }

    /// A handle by which the stream can be closed from outside.
    #[must_use]
    pub fn close_handle(&self) -> CloseHandle {
        self.close.clone()
    }

    /// Waits until the WebSocket takes another message, for as long as the peer takes anything.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ready = Pin::new(&mut self.ws).poll_ready(cx).map_err(to_io);
        let written = self.ws.get_ref().written;
        self.stall.watch(cx, written, ready)
    }

    /// Waits until everything has gone to the transport, for as long as the peer takes anything.
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = Pin::new(&mut self.ws).poll_flush(cx).map(closed_is_fine);
        let written = self.ws.get_ref().written;
        self.stall.watch(cx, written, sent)
    }

    /// Hands what was written to the WebSocket as one message.
    fn poll_push(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.outgoing.is_empty() {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_room(cx))?;
        let message = Message::Binary(self.outgoing.split().freeze());
        Poll::Ready(Pin::new(&mut self.ws).start_send(message).map_err(to_io))
    }

    /// Sends a Ping if the transport takes one now; behind a full buffer it would say nothing anyway.
    fn try_ping(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        if Pin::new(&mut self.ws)
            .poll_ready(cx)
            .map_err(to_io)?
            .is_pending()
        {
            return Ok(false);
        }
        Pin::new(&mut self.ws)
            .start_send(Message::Ping(Bytes::new()))
            .map_err(to_io)?;
        // What cannot be flushed now goes with the next write.
        let _ = Pin::new(&mut self.ws).poll_flush(cx).map_err(to_io)?;
        Ok(true)
    }

    /// Nothing to read: looks at the clock, asks after the peer, and gives it up when it is gone.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.liveness.heard(self.ws.get_ref().read);
        loop {
            if self.liveness.ping_due() {
                let sent = self.try_ping(cx)?;
                self.liveness.asked(sent);
            }
            if self.liveness.is_dead() {
                let silence = format!("nothing came from the peer for {} s", DEAD_AFTER.as_secs());
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, silence)));
            }
            ready!(self.liveness.poll_timer(cx));
        }
    }

    /// Sends our Close message once, with the code that was asked for.
    fn poll_close_message(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A Close message of the peer's is answered by the WebSocket itself, when it is flushed.
        if !self.close_sent && self.close.closed_by_peer().is_none() {
            ready!(self.poll_push(cx))?;
            ready!(self.poll_room(cx))?;
            self.close_sent = true;
            let code = self.close.requested().unwrap_or(CloseCode::Normal);
            closed_is_fine(Pin::new(&mut self.ws).start_send(Message::Close(Some(code.frame()))))?;
        }
        self.poll_sent(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WsStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = &mut *self;
        let mut budget = CONTROL_BUDGET;
        loop {
            if !me.incoming.is_empty() {
                me.liveness.reading();
                let n = me.incoming.len().min(buf.remaining());
                buf.put_slice(&me.incoming.split_to(n));
                return Poll::Ready(Ok(()));
            }
            if me.ended {
                return Poll::Ready(Ok(()));
            }
            me.close.0.waker.register(cx.waker());
            if me.close.requested().is_some() {
                // HTTP/2 reads first and writes when there is nothing to read: the end of an answer waits for that.
                if !std::mem::replace(&mut me.written_out, true) {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                ready!(me.poll_close_message(cx))?;
                me.ended = true;
                return Poll::Ready(Ok(()));
            }
            let message = match Pin::new(&mut me.ws).poll_next(cx) {
                Poll::Ready(Some(message)) => message,
                Poll::Ready(None) => {
                    me.ended = true;
                    continue;
                }
                Poll::Pending => return me.poll_silence(cx),
            };
            match message {
                Ok(Message::Binary(bytes)) => {
                    me.incoming = bytes;
                    // Only the first one sets it.
                    let _ = me.close.0.begun.set(());
                }
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {}
                Ok(Message::Close(frame)) => {
                    let code = frame.map_or(CloseCode::Normal as u16, |frame| frame.code.into());
                    me.close.0.theirs.store(code, Ordering::Release);
                    me.ended = true;
                }
                Ok(Message::Text(_)) => {
                    let error = "the peer sent a text message; a tunnel has binary ones alone";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
                }
                Err(error) => {
                    closed_is_fine(Err(error))?;
                    me.ended = true;
                }
            }
            budget -= 1;
            if budget == 0 && me.incoming.is_empty() && !me.ended {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            budget = budget.max(1);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WsStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.close_sent {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if self.outgoing.len() >= SEND_MESSAGE {
            ready!(self.poll_push(cx))?;
        }
        let mut written = 0;
        for mut buf in bufs.iter().map(|buf| &**buf) {
            let n = buf.len().min(SEND_MESSAGE - self.outgoing.len());
            self.outgoing.put((&mut buf).take(n));
            written += n;
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_push(cx))?;
        self.poll_sent(cx)
    }

    /// Sends the Close message, shuts the transport's writing side, and reads on for a moment: data that
    /// nobody read would make the kernel reset the connection and take the Close message with it.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(self.poll_close_message(cx))?;
            ready!(Pin::new(self.ws.get_mut()).poll_shutdown(cx))?;
            self.linger = Some(Box::pin(tokio::time::sleep(CLOSE_LINGER)));
        }
        // The clock before the bytes: a peer that never stops sending must not keep it from being looked at.
        if let Some(linger) = &mut self.linger
            && linger.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Ok(()));
        }
        let mut discarded = [0; 4096];
        loop {
            let mut buf = ReadBuf::new(&mut discarded);
            ready!(Pin::new(self.ws.get_mut()).poll_read(cx, &mut buf))?;
            if buf.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

/// When the peer was last heard, counted only while our own read is pending: a reader that is busy must not
/// take its own pause for the peer's silence.
struct Liveness {
    timer: Pin<Box<Sleep>>,
    /// Whether the last read found nothing.
    waiting: bool,
    heard: Instant,
    read: u64,
    /// When we first noticed the silence. What counts from here on cannot be a pause of our own.
    asked: Option<Instant>,
    pinged: bool,
}

impl Liveness {
    fn new() -> Self {
        let timer = Box::pin(tokio::time::sleep(PING_AFTER));
        Self {
            timer,
            waiting: false,
            heard: Instant::now(),
            read: 0,
            asked: None,
            pinged: false,
        }
    }

    fn reading(&mut self) {
        self.waiting = false;
    }

    /// Our read is pending, and `read` bytes have come in all.
    fn heard(&mut self, read: u64) {
        if self.waiting && self.read == read {
            return;
        }
        self.waiting = true;
        self.read = read;
        self.heard = Instant::now();
        self.pinged = false;
        if self.asked.take().is_some() {
            self.timer.as_mut().reset(self.heard + PING_AFTER);
        }
    }

    fn ping_due(&self) -> bool {
        !self.pinged && self.heard.elapsed() >= PING_AFTER
    }

    /// The peer was asked, or could not be because bytes still wait for it.
    fn asked(&mut self, pinged: bool) {
        self.asked.get_or_insert_with(Instant::now);
        self.pinged = pinged;
    }

    fn is_dead(&self) -> bool {
        self.asked
            .is_some_and(|asked| asked.elapsed() >= DEAD_AFTER - PING_AFTER)
    }

    /// Ready when there may be something to do. The timer is not moved for each byte: it fires, sees that
    /// bytes came, and sleeps for the rest.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.timer.as_mut().poll(cx));
        let next = match self.asked {
            Some(asked) => asked + (DEAD_AFTER - PING_AFTER),
            None => self.heard + PING_AFTER,
        };
        self.timer.as_mut().reset(next);
        Poll::Ready(())
    }
}

/// Gives a peer up that takes nothing while bytes wait for it. Its silence does not tell: HTTP/2 reads no more
/// when it cannot write.
#[derive(Default)]
struct WriteStall {
    /// Since a write had to wait, or since a byte was taken while it did.
    timer: Option<Pin<Box<Sleep>>>,
    written: u64,
}

impl WriteStall {
    /// Passes on how a write went; `written` bytes have been taken in all.
    fn watch(
        &mut self,
        cx: &mut Context<'_>,
        written: u64,
        result: Poll<io::Result<()>>,
    ) -> Poll<io::Result<()>> {
        if result.is_ready() {
            self.timer = None;
            return result;
        }
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_STALL)));
        if self.written != written {
            self.written = written;
            timer.as_mut().reset(Instant::now() + WRITE_STALL);
        }
        ready!(timer.as_mut().poll(cx));
        let stalled = format!("the peer took nothing for {} s", WRITE_STALL.as_secs());
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, stalled)))
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "a foreign enum: all else is a broken peer"
)]
fn to_io(error: tungstenite::Error) -> io::Error {
    match error {
        tungstenite::Error::Io(error) => error,
        tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => {
            io::ErrorKind::BrokenPipe.into()
        }
        error => io::Error::new(io::ErrorKind::InvalidData, error),
    }
}

fn closed_is_fine(result: Result<(), tungstenite::Error>) -> io::Result<()> {
    match result {
        Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed) => Ok(()),
        result => result.map_err(to_io),
    }
}

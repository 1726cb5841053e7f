//! A relay between agent and server that keeps everything that passes, both ways, and takes it
//! apart: the upgrade, the WebSocket's messages, the HTTP/2 inside. It can also stall and cut.

mod http2;
mod websocket;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use http2::{Frame, Message};
pub use websocket::Control;

use crate::http1::Head;

/// The most that is kept of one direction of one link, in bytes; a test that sends more through a
/// tap could no longer say what passed.
pub const KEPT: usize = 64 * 1024 * 1024;

/// Bytes read at once.
const CHUNK: usize = 64 * 1024;

/// A running relay. The agent dials [`Tap::address`] by `ws://`; the tap dials the server.
pub struct Tap {
    address: SocketAddr,
    links: Links,
    flow: watch::Sender<Flow>,
    _tasks: JoinSet<()>,
}

type Links = Arc<Mutex<Vec<Link>>>;

/// Whether bytes pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Open,
    Stalled,
}

/// One connection through the tap.
struct Link {
    from_agent: Arc<Mutex<Vec<u8>>>,
    from_server: Arc<Mutex<Vec<u8>>>,
    cut: CancellationToken,
}

impl Tap {
    /// A relay to the server at this address.
    pub async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (flow, _) = watch::channel(Flow::Open);
        let links = Links::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, server, links.clone(), flow.clone()));
        Self {
            address,
            links,
            flow,
            _tasks: tasks,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets no byte pass on any link, neither way, until [`Tap::resume`]. The connections stay, and
    /// the kernel's buffers fill up.
    pub fn stall(&self) {
        self.flow.send_replace(Flow::Stalled);
    }

    /// Lets bytes pass again.
    pub fn resume(&self) {
        self.flow.send_replace(Flow::Open);
    }

    /// Closes both ends of all links there are; new ones are accepted.
    pub fn cut(&self) {
        for link in self.links.lock().unwrap().iter() {
            link.cut.cancel();
        }
    }

    /// Closes both ends of one link, counted from the oldest.
    pub fn cut_link(&self, index: usize) {
        self.links.lock().unwrap()[index].cut.cancel();
    }

    /// How many links there have been.
    pub fn links(&self) -> usize {
        self.links.lock().unwrap().len()
    }

    /// All links taken apart, oldest first.
    ///
    /// # Panics
    /// When something that passed is not what a tunnel carries: it could hide what a test looks for.
    pub fn decode(&self) -> Vec<Conversation> {
        self.links
            .lock()
            .unwrap()
            .iter()
            .map(Conversation::of)
            .collect()
    }

    /// Everything that passed, as it stood on the wire and taken apart to the last layer, each
    /// piece with a label that says where it stood.
    ///
    /// # Panics
    /// As [`Tap::decode`].
    pub fn everything(&self) -> Vec<(String, Vec<u8>)> {
        let conversations = self.decode().into_iter().enumerate();
        conversations
            .flat_map(|(index, link)| link.everything(&format!("link {index}")))
            .collect()
    }
}

/// One link taken apart.
#[derive(Debug, Clone)]
pub struct Conversation {
    /// What the agent sent.
    pub from_agent: Direction,
    /// What the server sent.
    pub from_server: Direction,
}

/// One direction of a link taken apart. What had not come whole when the link ended, or when it was
/// looked at, is in `wire` alone.
#[derive(Debug, Clone, Default)]
pub struct Direction {
    /// As it stood on the wire.
    pub wire: Vec<u8>,
    /// The upgrade request, or the answer to it.
    pub upgrade: Option<Head>,
    /// The body of an answer that refused the upgrade.
    pub refusal: Vec<u8>,
    /// The WebSocket's pings, pongs and closes.
    pub controls: Vec<Control>,
    /// The WebSocket's binary messages, unmasked and joined: the HTTP/2 connection's bytes.
    pub http2: Vec<u8>,
    /// Its frames.
    pub frames: Vec<Frame>,
    /// What its frames carried for each stream, in the order in which the streams began.
    pub messages: Vec<Message>,
}

impl Conversation {
    fn of(link: &Link) -> Self {
        let from_server = Direction::of(link.from_server.lock().unwrap().clone());
        let from_agent = Direction::of(link.from_agent.lock().unwrap().clone());
        Self {
            from_agent,
            from_server,
        }
    }

    fn everything(&self, link: &str) -> Vec<(String, Vec<u8>)> {
        let mut all = self
            .from_agent
            .everything(&format!("{link}, from the agent"));
        all.extend(
            self.from_server
                .everything(&format!("{link}, from the server")),
        );
        all
    }
}

impl Direction {
    fn of(wire: Vec<u8>) -> Self {
        assert!(
            wire.len() < KEPT,
            "the tap is full: more than {KEPT} bytes passed"
        );
        let end = wire
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .map(|at| at + 4);
        let Some(end) = end else {
            return Self {
                wire,
                ..Self::default()
            };
        };
        let upgrade = Head::new(&wire[..end]);
        let is_answer = upgrade.first_line().starts_with("HTTP/");
        if is_answer && upgrade.status() != 101 {
            let refusal = wire[end..].to_vec();
            return Self {
                wire,
                upgrade: Some(upgrade),
                refusal,
                ..Self::default()
            };
        }
        let websocket = websocket::decode(&wire[end..]);
        let decoded = http2::decode(&websocket.binary);
        Self {
            wire,
            upgrade: Some(upgrade),
            refusal: Vec::new(),
            controls: websocket.controls,
            http2: websocket.binary,
            frames: decoded.frames,
            messages: decoded.messages,
        }
    }

    fn everything(&self, from: &str) -> Vec<(String, Vec<u8>)> {
        let mut all = vec![
            (format!("{from}: wire"), self.wire.clone()),
            (format!("{from}: HTTP/2"), self.http2.clone()),
        ];
        for control in &self.controls {
            all.push((format!("{from}: {control:?}"), control.payload().to_vec()));
        }
        for frame in &self.frames {
            let label = format!(
                "{from}: frame of type {} on stream {}",
                frame.kind, frame.stream
            );
            all.push((label, frame.payload.clone()));
        }
        for message in &self.messages {
            let stream = format!("{from}: stream {}", message.stream);
            all.push((
                format!("{stream}, headers"),
                message.headers_as_text().into_bytes(),
            ));
            all.push((format!("{stream}, body"), message.body.clone()));
            if let Some(body) = message.decompressed() {
                all.push((format!("{stream}, body decompressed"), body));
            }
        }
        all
    }
}

async fn accept(
    listener: TcpListener,
    server: SocketAddr,
    links: Links,
    flow: watch::Sender<Flow>,
) {
    let mut relays = JoinSet::new();
    loop {
        let (agent, _) = listener.accept().await.unwrap();
        let link = Link {
            from_agent: Arc::default(),
            from_server: Arc::default(),
            cut: CancellationToken::new(),
        };
        let kept = (link.from_agent.clone(), link.from_server.clone());
        let (cut, flow) = (link.cut.clone(), flow.clone());
        links.lock().unwrap().push(link);
        relays.spawn(async move {
            // Ending drops both sockets; a link that breaks by itself ends the same way.
            cut.run_until_cancelled(relay(agent, server, kept, flow))
                .await;
        });
        while relays.try_join_next().is_some() {}
    }
}

type Kept = Arc<Mutex<Vec<u8>>>;

async fn relay(
    agent: TcpStream,
    server: SocketAddr,
    (from_agent, from_server): (Kept, Kept),
    flow: watch::Sender<Flow>,
) -> io::Result<()> {
    let server = TcpStream::connect(server).await?;
    agent.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (agent_read, agent_write) = agent.into_split();
    let (server_read, server_write) = server.into_split();
    let up = copy(agent_read, server_write, from_agent, flow.subscribe());
    let down = copy(server_read, agent_write, from_server, flow.subscribe());
    tokio::try_join!(up, down)?;
    Ok(())
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    kept: Kept,
    mut flow: watch::Receiver<Flow>,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = from.read(&mut chunk).await?;
        // Asked after the read, so that what came during a stall waits too. It fails only when the
        // tap is gone, and this task with it.
        flow.wait_for(|flow| *flow == Flow::Open).await.ok();
        if read == 0 {
            return to.shutdown().await;
        }
        {
            let mut kept = kept.lock().unwrap();
            let room = KEPT - kept.len();
            kept.extend_from_slice(&chunk[..read.min(room)]);
        }
        to.write_all(&chunk[..read]).await?;
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::io::Write;

    use bytes::Bytes;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use futures_util::{SinkExt, StreamExt};
    use http_body_util::{BodyExt, Full};
    use hyper::body::Incoming;
    use hyper::service::service_fn;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
    use tokio_tungstenite::tungstenite::Message as WebSocketMessage;
    use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
    use tokio_tungstenite::{WebSocketStream, accept_async, client_async};

    use super::*;
    use crate::canary::Outputs;
    use crate::http1::{read_head, read_request_body};
    use crate::wait::within;

    /// Carries an in-memory pipe's bytes in binary messages until either end closes.
    async fn carry<S: AsyncRead + AsyncWrite + Unpin>(
        mut websocket: WebSocketStream<S>,
        pipe: DuplexStream,
    ) {
        let (mut read, mut write) = tokio::io::split(pipe);
        let mut chunk = vec![0; 16 * 1024];
        let mut closing = false;
        loop {
            tokio::select! {
                message = websocket.next() => match message {
                    Some(Ok(WebSocketMessage::Binary(data))) => write.write_all(&data).await.unwrap(),
                    Some(Ok(WebSocketMessage::Ping(_) | WebSocketMessage::Pong(_))) => {}
                    _ => return,
                },
                length = read.read(&mut chunk), if !closing => match length.unwrap() {
                    0 => {
                        closing = true;
                        let close = CloseFrame { code: 4000.into(), reason: "drain".into() };
                        websocket.close(Some(close)).await.unwrap();
                    }
                    length => {
                        let data = Bytes::copy_from_slice(&chunk[..length]);
                        websocket.send(WebSocketMessage::Binary(data)).await.unwrap();
                    }
                },
            }
        }
    }

    async fn answer(
        request: http::Request<Incoming>,
    ) -> Result<http::Response<Full<Bytes>>, Infallible> {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(&[b"the answer to ", body.as_ref()].concat())
            .unwrap();
        let body = Full::new(Bytes::from(gzip.finish().unwrap()));
        let response = http::Response::builder().header("content-encoding", "gzip");
        Ok(response
            .header("x-secret", "header-marker")
            .body(body)
            .unwrap())
    }

    #[tokio::test]
    async fn http2_in_a_websocket_is_taken_apart() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let tap = Tap::to(listener.local_addr().unwrap()).await;

        let agent = async {
            let tcp = TcpStream::connect(tap.address()).await.unwrap();
            let url = format!("ws://{}/tunnel", tap.address());
            let (websocket, _) = client_async(url, tcp).await.unwrap();
            let (near, far) = tokio::io::duplex(64 * 1024);
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let serving = server.serve_connection(TokioIo::new(far), service_fn(answer));
            tokio::join!(carry(websocket, near), serving).1.unwrap();
        };
        let server = async {
            let (tcp, _) = listener.accept().await.unwrap();
            let websocket = accept_async(tcp).await.unwrap();
            let (near, far) = tokio::io::duplex(64 * 1024);
            let asking = async {
                let io = TokioIo::new(far);
                let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io);
                let (mut sender, connection) = handshake.await.unwrap();
                let ask = async move {
                    let body = Full::new(Bytes::from("the question"));
                    let request = http::Request::post("http://agent/path?query").body(body);
                    let response = sender.send_request(request.unwrap()).await.unwrap();
                    response.into_body().collect().await.unwrap();
                };
                tokio::join!(ask, connection).1.unwrap();
            };
            tokio::join!(carry(websocket, near), asking);
        };
        within("the exchange", async { tokio::join!(agent, server) }).await;

        let [link] = &tap.decode()[..] else {
            panic!("one link")
        };
        assert_eq!(
            link.from_agent.upgrade.as_ref().unwrap().target(),
            "/tunnel"
        );
        assert_eq!(link.from_server.upgrade.as_ref().unwrap().status(), 101);
        let question = &link.from_server.messages[0];
        assert_eq!(question.value(":path"), Some("/path?query"));
        assert_eq!(question.body, b"the question");
        let answer = &link.from_agent.messages[0];
        assert_eq!(answer.value(":status"), Some("200"));
        assert_eq!(
            answer.decompressed().unwrap(),
            b"the answer to the question"
        );
        let drain = Control::Close(Some(4000), b"drain".to_vec());
        assert!(
            link.from_server.controls.contains(&drain),
            "{:?}",
            link.from_server.controls
        );

        let mut outputs = Outputs::new();
        tap.everything()
            .into_iter()
            .for_each(|(label, bytes)| outputs.register(label, bytes));
        let found = |marker: &str| outputs.find(marker.as_bytes()).pop().unwrap().output;
        assert_eq!(
            found("the question"),
            "link 0, from the server: stream 1, body"
        );
        assert_eq!(
            found("header-marker"),
            "link 0, from the agent: stream 1, headers"
        );
        let decompressed = "link 0, from the agent: stream 1, body decompressed";
        assert_eq!(found("the answer to the question"), decompressed);
    }

    async fn echo(listener: TcpListener) {
        let mut connections = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            connections.spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await.ok();
            });
        }
    }

    async fn tapped_echo() -> (Tap, TcpStream, JoinSet<()>) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let tap = Tap::to(listener.local_addr().unwrap()).await;
        let mut tasks = JoinSet::new();
        tasks.spawn(echo(listener));
        let stream = TcpStream::connect(tap.address()).await.unwrap();
        (tap, stream, tasks)
    }

    async fn echoed(stream: &mut TcpStream, text: &[u8]) -> Vec<u8> {
        let mut back = vec![0; text.len()];
        within("the echo", stream.read_exact(&mut back))
            .await
            .unwrap();
        back
    }

    #[tokio::test]
    async fn a_refused_upgrade_is_seen_with_its_body() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let tap = Tap::to(listener.local_addr().unwrap()).await;
        let server = async {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = tokio::io::BufReader::new(stream);
            let head = read_head(&mut stream).await.unwrap().unwrap();
            read_request_body(&head, &mut stream).await.unwrap();
            let refusal = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno";
            stream.write_all(refusal).await.unwrap();
        };
        let agent = async {
            let mut stream = TcpStream::connect(tap.address()).await.unwrap();
            stream
                .write_all(b"GET /tunnel HTTP/1.1\r\nHost: x\r\n\r\n")
                .await
                .unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.unwrap();
        };
        within("the refusal", async { tokio::join!(server, agent) }).await;
        assert_eq!(tap.decode()[0].from_server.refusal, b"no");
    }

    #[tokio::test]
    async fn a_stall_holds_bytes_back_and_loses_none() {
        let (tap, mut stream, _tasks) = tapped_echo().await;
        stream.write_all(b"before").await.unwrap();
        assert_eq!(echoed(&mut stream, b"before").await, b"before");
        tap.stall();
        stream.write_all(b"during").await.unwrap();
        // Both copies wait for the flow to open: nothing can arrive, however long one waited.
        tokio::task::yield_now().await;
        assert_eq!(
            stream.try_read(&mut [0; 8]).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        tap.resume();
        assert_eq!(echoed(&mut stream, b"during").await, b"during");
    }

    #[tokio::test]
    async fn a_cut_closes_the_link_and_lets_new_ones_in() {
        let (tap, mut stream, _tasks) = tapped_echo().await;
        stream.write_all(b"before").await.unwrap();
        echoed(&mut stream, b"before").await;
        tap.cut();
        let end = within("the cut", stream.read(&mut [0; 8])).await;
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
        let mut stream = TcpStream::connect(tap.address()).await.unwrap();
        stream.write_all(b"after").await.unwrap();
        assert_eq!(echoed(&mut stream, b"after").await, b"after");
        assert_eq!(tap.links(), 2);
    }
}

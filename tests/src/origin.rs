//! An origin of the tests' own: plain TCP or TLS, HTTP/1.1 by hand, so that what it got is seen
//! byte for byte and what it answers is the test's to say.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::certs::Leaf;
use crate::http1::{self, Head};
use crate::wait::{STALLED, within};

/// Requests that wait until the test takes them; more than any test has in flight.
const WAITING: usize = 1024;

/// A running origin.
///
/// One that is [`answering`](Self::answering) answers by itself; one that is
/// [`scripted`](Self::scripted) hands each request to the test, which plays the origin with an
/// [`Exchange`]. Both keep every request.
pub struct Origin {
    address: SocketAddr,
    scheme: &'static str,
    seen: Arc<Seen>,
    exchanges: AsyncMutex<mpsc::Receiver<Exchange>>,
    _tasks: JoinSet<()>,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    /// The head, byte for byte.
    pub head: Head,
    /// The body, whole; empty for a scripted origin, where the test reads it.
    pub body: Vec<u8>,
}

impl Origin {
    /// An origin that gives each request the answer that `answer` makes of it.
    pub async fn answering(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Self::start(None, Mode::Answering(Arc::new(answer))).await
    }

    /// The same, over TLS.
    pub async fn tls_answering(
        leaf: &Leaf,
        answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::start(Some(leaf), Mode::Answering(Arc::new(answer))).await
    }

    /// An origin that does nothing but what the test does with [`Origin::next`].
    pub async fn scripted() -> Self {
        Self::start(None, Mode::Scripted).await
    }

    /// The same, over TLS.
    pub async fn tls_scripted(leaf: &Leaf) -> Self {
        Self::start(Some(leaf), Mode::Scripted).await
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:<port>`, or with https.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// Every request whose head has come, in order.
    pub fn requests(&self) -> Vec<Request> {
        self.seen.requests.lock().unwrap().clone()
    }

    /// Connections accepted so far; an origin that must see nothing has none.
    pub fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// Waits for the next request of a scripted origin.
    pub async fn next(&self) -> Exchange {
        let mut exchanges = self.exchanges.lock().await;
        within("a request at the origin", exchanges.recv())
            .await
            .expect("the origin runs")
    }

    async fn start(leaf: Option<&Leaf>, mode: Mode) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, exchanges) = mpsc::channel(WAITING);
        let seen = Arc::new(Seen::default());
        let acceptor = leaf.map(|leaf| TlsAcceptor::from(leaf.server_config(&["http/1.1"])));
        let each = Each {
            mode,
            acceptor,
            seen: seen.clone(),
            exchanges: sender,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::new(each)));
        let scheme = if leaf.is_some() { "https" } else { "http" };
        Self {
            address,
            scheme,
            seen,
            exchanges: AsyncMutex::new(exchanges),
            _tasks: tasks,
        }
    }
}

/// A fixed answer.
#[derive(Debug, Clone)]
pub struct Answer(Vec<u8>);

impl Answer {
    /// Status, headers and body; `Content-Length` is added.
    pub fn new(status: u16, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let mut answer = head(status, headers);
        answer.truncate(answer.len() - 2);
        answer.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
        answer.extend_from_slice(body);
        Self(answer)
    }

    /// 200 with a JSON document.
    pub fn json(document: &str) -> Self {
        Self::new(200, &[("Content-Type", "application/json")], document)
    }

    /// 200 whose body is the request's head, byte for byte.
    pub fn echo(request: &Request) -> Self {
        Self::new(200, &[("Content-Type", "text/plain")], request.head.bytes())
    }

    /// Exactly these bytes.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }
}

/// The head of an answer, with the empty line that ends it.
pub fn head(status: u16, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status} Test\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    head.into_bytes()
}

/// One request at a scripted origin, played by the test. Dropping it closes the connection.
pub struct Exchange {
    /// The request's head; its body is not read until the test reads it.
    pub head: Head,
    io: BufReader<Box<dyn Io>>,
    seen: Arc<Seen>,
}

impl Exchange {
    /// Reads the whole body.
    pub async fn body(&mut self) -> Vec<u8> {
        let body = http1::read_request_body(&self.head, &mut self.io);
        within("the request's body", body).await.unwrap()
    }

    /// Reads exactly `length` bytes of what follows the head, as they stand on the wire.
    pub async fn read(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        within("bytes from the client", self.io.read_exact(&mut bytes))
            .await
            .unwrap();
        bytes
    }

    /// Answers with a whole answer.
    pub async fn answer(&mut self, answer: Answer) {
        self.send(&answer.0).await;
    }

    /// The same, where the client may have gone away.
    pub async fn try_answer(&mut self, answer: Answer) {
        let sent = async {
            self.io.write_all(&answer.0).await?;
            self.io.flush().await
        };
        within("the client to take bytes", sent).await.ok();
    }

    /// Starts an answer whose body follows by [`Exchange::send_chunk`].
    pub async fn start_chunked(&mut self, status: u16, headers: &[(&str, &str)]) {
        let headers = [headers, &[("Transfer-Encoding", "chunked")]].concat();
        self.send(&head(status, &headers)).await;
    }

    /// Starts a stream of server-sent events; each follows by [`Exchange::send_chunk`].
    pub async fn start_events(&mut self) {
        self.start_chunked(200, &[("Content-Type", "text/event-stream")])
            .await;
    }

    /// Sends one chunk of the body, at once.
    pub async fn send_chunk(&mut self, bytes: &[u8]) {
        self.send(&http1::chunk(bytes)).await;
    }

    /// Ends a chunked body, with these trailers.
    pub async fn finish_chunked(&mut self, trailers: &[(&str, &str)]) {
        let mut end = String::from("0\r\n");
        for (name, value) in trailers {
            end += &format!("{name}: {value}\r\n");
        }
        end += "\r\n";
        self.send(end.as_bytes()).await;
    }

    /// Sends these bytes, at once.
    pub async fn send(&mut self, bytes: &[u8]) {
        let sent = async {
            self.io.write_all(bytes).await?;
            self.io.flush().await
        };
        within("the client to take bytes", sent).await.unwrap();
    }

    /// Sends chunks until the client has taken nothing for [`STALLED`], and returns how many bytes it
    /// took. Nothing more can be sent afterwards: a chunk may be half gone.
    ///
    /// # Panics
    /// When the client goes away.
    pub async fn send_until_stalled(&mut self) -> u64 {
        let chunk = http1::chunk(&[b'x'; 16 * 1024]);
        let mut sent = 0;
        while let Ok(taken) = timeout(STALLED, self.io.write_all(&chunk)).await {
            taken.expect("the client stays");
            sent += 16 * 1024;
        }
        sent
    }

    /// Sends chunks without end until the client is gone, and returns how many bytes it took. A
    /// client that is there and takes nothing holds this up for ever, as it would hold an origin.
    pub async fn send_without_end(&mut self) -> u64 {
        let chunk = http1::chunk(&[b'x'; 16 * 1024]);
        let mut sent = 0;
        while self.io.write_all(&chunk).await.is_ok() && self.io.flush().await.is_ok() {
            sent += 16 * 1024;
        }
        sent
    }

    /// Waits until the client has closed or reset the connection, and returns what it sent before.
    pub async fn client_gone(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let gone = self.io.read_to_end(&mut rest);
        // A reset ends it as well as a close.
        within("the client to go away", gone).await.ok();
        rest
    }

    /// Waits for another request on the same connection; `None` when the client closes it.
    pub async fn next(mut self) -> Option<Self> {
        let head = within("another request", http1::read_head(&mut self.io))
            .await
            .ok()??;
        self.seen.add(Request {
            head: head.clone(),
            body: Vec::new(),
        });
        Some(Self { head, ..self })
    }
}

/// A connection, encrypted or not.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    requests: Mutex<Vec<Request>>,
}

impl Seen {
    fn add(&self, request: Request) {
        self.requests.lock().unwrap().push(request);
    }
}

enum Mode {
    Answering(Arc<dyn Fn(&Request) -> Answer + Send + Sync>),
    Scripted,
}

/// What every connection needs.
struct Each {
    mode: Mode,
    acceptor: Option<TlsAcceptor>,
    seen: Arc<Seen>,
    exchanges: mpsc::Sender<Exchange>,
}

async fn accept(listener: TcpListener, each: Arc<Each>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        each.seen.connections.fetch_add(1, Ordering::SeqCst);
        let each = each.clone();
        // A connection that breaks is the client's affair; the test sees what came of it.
        connections.spawn(async move { each.serve(stream).await.ok() });
        while connections.try_join_next().is_some() {}
    }
}

impl Each {
    async fn serve(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let io: Box<dyn Io> = match &self.acceptor {
            Some(acceptor) => Box::new(acceptor.accept(stream).await?),
            None => Box::new(stream),
        };
        let mut io = BufReader::new(io);
        match &self.mode {
            Mode::Answering(answer) => {
                while let Some(head) = http1::read_head(&mut io).await? {
                    let body = http1::read_request_body(&head, &mut io).await?;
                    let request = Request { head, body };
                    self.seen.add(request.clone());
                    io.write_all(&answer(&request).0).await?;
                    io.flush().await?;
                }
            }
            Mode::Scripted => {
                if let Some(head) = http1::read_head(&mut io).await? {
                    self.seen.add(Request {
                        head: head.clone(),
                        body: Vec::new(),
                    });
                    let exchange = Exchange {
                        head,
                        io,
                        seen: self.seen.clone(),
                    };
                    self.exchanges.send(exchange).await.ok();
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use http::Request as HttpRequest;

    use super::*;
    use crate::caller::{Caller, body};
    use crate::certs::Ca;

    #[tokio::test]
    async fn a_request_is_kept_byte_for_byte() {
        let origin = Origin::answering(|_| Answer::json("{}")).await;
        let sent = b"GET /a/%2e%2e/b?x HTTP/1.1\r\nhOsT: x\r\nConnection: close\r\n\r\n";
        let answer = Caller::to(origin.address()).raw(sent).await;
        assert_eq!(answer.head.status(), 200);
        assert_eq!(answer.body, b"{}");
        assert_eq!(origin.requests()[0].head.bytes(), sent);
        assert_eq!(origin.connections(), 1);
    }

    #[tokio::test]
    async fn a_body_is_kept_too() {
        let origin = Origin::answering(|_| Answer::json("{}")).await;
        let request = HttpRequest::post("/").body(body::noise(100_000)).unwrap();
        Caller::to(origin.address())
            .send(request)
            .await
            .bytes()
            .await;
        let expected: Vec<u8> = crate::digest::Noise::new(100_000).flatten().collect();
        assert_eq!(origin.requests()[0].body, expected);
    }

    #[tokio::test]
    async fn events_arrive_when_they_are_sent_and_not_before() {
        let origin = Origin::scripted().await;
        let caller = Caller::to(origin.address());
        let (mut exchange, mut answer) = tokio::join!(
            async {
                let mut exchange = origin.next().await;
                exchange.start_events().await;
                exchange
            },
            caller.get("/events")
        );
        for event in ["data: 1\n\n", "data: 2\n\n"] {
            exchange.send_chunk(event.as_bytes()).await;
            assert_eq!(answer.chunk().await.unwrap(), event);
        }
    }

    #[tokio::test]
    async fn trailers_are_sent() {
        let origin = Origin::scripted().await;
        let caller = Caller::to(origin.address());
        let play = async {
            let mut exchange = origin.next().await;
            exchange
                .start_chunked(200, &[("Trailer", "grpc-status")])
                .await;
            exchange.send_chunk(b"x").await;
            exchange.finish_chunked(&[("grpc-status", "0")]).await;
        };
        let ((), answer) = tokio::join!(play, caller.get("/"));
        let (body, trailers) = answer.bytes_and_trailers().await;
        assert_eq!(body, "x");
        assert_eq!(trailers["grpc-status"], "0");
    }

    #[tokio::test]
    async fn a_client_that_goes_away_is_noticed() {
        let origin = Origin::scripted().await;
        let caller = Caller::to(origin.address());
        let play = async {
            let mut exchange = origin.next().await;
            exchange.start_chunked(200, &[]).await;
            exchange
        };
        let (mut exchange, answer) = tokio::join!(play, caller.get("/"));
        drop(answer);
        exchange.client_gone().await;
        within("an end without end", exchange.send_without_end()).await;
    }

    #[tokio::test]
    async fn a_kept_connection_carries_another_request() {
        let origin = Origin::scripted().await;
        let connection = Caller::to(origin.address()).connect().await;
        let play = async {
            let mut first = origin.next().await;
            first.answer(Answer::json("1")).await;
            let mut second = first.next().await.unwrap();
            second.answer(Answer::json("2")).await;
            second
        };
        let ask = async {
            let first = connection
                .send(HttpRequest::get("/1").body(body::empty()).unwrap())
                .await;
            assert_eq!(first.bytes().await, "1");
            let second = connection
                .send(HttpRequest::get("/2").body(body::empty()).unwrap())
                .await;
            assert_eq!(second.bytes().await, "2");
        };
        tokio::join!(play, ask);
        assert_eq!(origin.connections(), 1);
    }

    #[tokio::test]
    async fn over_tls_it_answers_the_same() {
        let ca = Ca::new("tests");
        let origin = Origin::tls_answering(&ca.loopback("origin"), Answer::echo).await;
        let answer = Caller::to(origin.address()).with_tls(&ca).get("/x").await;
        assert!(answer.bytes().await.starts_with(b"GET /x HTTP/1.1\r\n"));
    }
}

//! A caller of the tests' own: HTTP/1.1 and HTTP/2, over cleartext or TLS, bodies as streams both
//! ways, and raw bytes where hyper would not send what a test wants sent.

pub mod body;

use std::net::SocketAddr;
use std::sync::Arc;

use broker_protocol::ErrorCode;
use bytes::{Bytes, BytesMut};
use http::header::{HOST, HeaderName, HeaderValue};
use http::{HeaderMap, Request, Response, StatusCode, Uri, Version};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::caller::body::Body;
use crate::certs::{Ca, Leaf, server_name};
use crate::digest::{Digest, Sha256};
use crate::http1::{Head, read_answer_body, read_head};
use crate::wait::within;

/// Whom to call, and how. Each request has a connection of its own, as Backstage's proxy does it;
/// [`Caller::connect`] gives one that is kept.
#[derive(Clone)]
pub struct Caller {
    address: SocketAddr,
    version: Version,
    tls: Option<Tls>,
    headers: HeaderMap,
}

impl Caller {
    /// A caller of this address by HTTP/1.1 in cleartext.
    pub fn to(address: SocketAddr) -> Self {
        Self {
            address,
            version: Version::HTTP_11,
            tls: None,
            headers: HeaderMap::new(),
        }
    }

    /// By this version: HTTP/1.1, or HTTP/2 (with prior knowledge where there is no TLS).
    #[must_use]
    pub fn with_version(mut self, version: Version) -> Self {
        self.version = version;
        self
    }

    /// Over TLS, trusting this authority alone.
    #[must_use]
    pub fn with_tls(mut self, ca: &Ca) -> Self {
        self.tls = Some(Tls {
            http1: ca.client_config(&["http/1.1"]),
            http2: ca.client_config(&["h2"]),
        });
        self
    }

    /// The same, and showing this certificate where it is asked for one.
    #[must_use]
    pub fn with_certificate(mut self, ca: &Ca, leaf: &Leaf) -> Self {
        self.tls = Some(Tls {
            http1: ca.client_config_showing(leaf, &["http/1.1"]),
            http2: ca.client_config_showing(leaf, &["h2"]),
        });
        self
    }

    /// With this header on every request that does not have it already.
    ///
    /// # Panics
    /// When that is no header.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        let name = HeaderName::try_from(name).unwrap();
        self.headers
            .append(name, HeaderValue::try_from(value).unwrap());
        self
    }

    /// Asks for a path, or an absolute URI.
    pub async fn get(&self, target: &str) -> Answer {
        self.send(Request::get(target).body(body::empty()).unwrap())
            .await
    }

    /// Sends a request on a connection of its own and waits for the answer's head.
    pub async fn send(&self, request: Request<Body>) -> Answer {
        self.try_send(request)
            .await
            .unwrap_or_else(|error| panic!("no answer: {error:?}"))
    }

    /// The same, where the test expects that there may be no answer.
    ///
    /// # Errors
    /// When the connection ends before an answer's head.
    pub async fn try_send(&self, request: Request<Body>) -> Result<Answer, hyper::Error> {
        let connection = self.connect().await;
        let mut answer = connection.try_send(request).await?;
        answer.connection = Some(connection);
        Ok(answer)
    }

    /// Opens a connection for several requests: one after the other on HTTP/1.1, side by side on
    /// HTTP/2.
    pub async fn connect(&self) -> Connection {
        let io = TokioIo::new(self.open().await);
        let mut driver = JoinSet::new();
        let sender = if self.version == Version::HTTP_2 {
            let mut http2 = http2::Builder::new(TokioExecutor::new());
            // The product's own limit is the one that tests meet.
            let handshake = http2.max_header_list_size(1024 * 1024).handshake(io);
            let (sender, connection) = within("an HTTP/2 handshake", handshake).await.unwrap();
            driver.spawn(async { connection.await.unwrap_or_default() });
            Sender::Http2(sender)
        } else {
            let (sender, connection) = http1::handshake(io).await.unwrap();
            driver.spawn(async { connection.await.unwrap_or_default() });
            Sender::Http1(Mutex::new(sender))
        };
        Connection {
            caller: self.clone(),
            sender,
            _driver: driver,
        }
    }

    /// Sends these bytes as they are and reads one answer, also while they are being sent.
    ///
    /// # Panics
    /// When the peer closes before an answer is complete.
    pub async fn raw(&self, bytes: &[u8]) -> RawAnswer {
        let (read, mut write) = tokio::io::split(self.open().await);
        let mut read = BufReader::new(read);
        let to_head = bytes.starts_with(b"HEAD ");
        // A peer that refuses early stops reading: its answer is what counts.
        let writing = async { write.write_all(bytes).await.is_ok() && write.flush().await.is_ok() };
        let reading = async {
            let head = read_head(&mut read)
                .await
                .unwrap()
                .expect("an answer before the close");
            let body = read_answer_body(&head, to_head, &mut read).await.unwrap();
            RawAnswer { head, body }
        };
        let both = async { tokio::join!(writing, reading).1 };
        within("an answer to raw bytes", both).await
    }

    /// Sends these bytes as they are and returns all that comes until the peer closes.
    pub async fn raw_until_close(&self, bytes: &[u8]) -> Vec<u8> {
        let (mut read, mut write) = tokio::io::split(self.open().await);
        let mut answer = Vec::new();
        let writing = async { write.write_all(bytes).await.is_ok() && write.flush().await.is_ok() };
        let reading = async { read.read_to_end(&mut answer).await.is_ok() };
        within("the peer to close", async {
            tokio::join!(writing, reading)
        })
        .await;
        answer
    }

    /// Opens a bare connection, with TLS where that is asked for.
    pub async fn open(&self) -> Box<dyn Io> {
        let stream = within("a connection", TcpStream::connect(self.address))
            .await
            .unwrap();
        stream.set_nodelay(true).unwrap();
        let Some(tls) = &self.tls else {
            return Box::new(stream);
        };
        let config = if self.version == Version::HTTP_2 {
            &tls.http2
        } else {
            &tls.http1
        };
        let connector = TlsConnector::from(config.clone());
        let handshake = connector.connect(server_name(self.address), stream);
        Box::new(within("a TLS handshake", handshake).await.unwrap())
    }

    /// HTTP/1.1 sends a path with `Host`, HTTP/2 wants the whole URI; an absolute URI of the
    /// test's own stays as it is.
    fn complete(&self, mut request: Request<Body>) -> Request<Body> {
        for (name, value) in &self.headers {
            if !request.headers().contains_key(name) {
                request.headers_mut().insert(name, value.clone());
            }
        }
        let authority = self.address.to_string();
        if self.version != Version::HTTP_2 {
            let host = HeaderValue::try_from(authority).unwrap();
            request.headers_mut().entry(HOST).or_insert(host);
        } else if request.uri().authority().is_none() {
            let mut parts = std::mem::take(request.uri_mut()).into_parts();
            parts.scheme = Some(
                if self.tls.is_some() { "https" } else { "http" }
                    .parse()
                    .unwrap(),
            );
            parts.authority = Some(authority.parse().unwrap());
            *request.uri_mut() = Uri::from_parts(parts).unwrap();
        }
        request
    }
}

/// A connection, encrypted or not.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

#[derive(Clone)]
struct Tls {
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
}

/// A kept connection. Dropping it is a caller that goes away.
pub struct Connection {
    caller: Caller,
    sender: Sender,
    _driver: JoinSet<()>,
}

enum Sender {
    Http1(Mutex<http1::SendRequest<Body>>),
    Http2(http2::SendRequest<Body>),
}

impl Connection {
    /// Sends a request and waits for the answer's head.
    pub async fn send(&self, request: Request<Body>) -> Answer {
        self.try_send(request)
            .await
            .unwrap_or_else(|error| panic!("no answer: {error:?}"))
    }

    /// The same, where the test expects that there may be no answer.
    ///
    /// # Errors
    /// When the connection ends before an answer's head.
    pub async fn try_send(&self, request: Request<Body>) -> Result<Answer, hyper::Error> {
        let request = self.caller.complete(request);
        let what = format!("the answer to {} {}", request.method(), request.uri());
        let response = match &self.sender {
            Sender::Http1(sender) => {
                let mut sender = sender.lock().await;
                within("the connection to be free", sender.ready()).await?;
                within(&what, sender.send_request(request)).await?
            }
            Sender::Http2(sender) => within(&what, sender.clone().send_request(request)).await?,
        };
        Ok(Answer {
            response,
            connection: None,
        })
    }
}

/// An answer whose body is read as the test wishes. Dropping it drops what is left of the body,
/// and with it the connection where that is the answer's own.
pub struct Answer {
    response: Response<Incoming>,
    connection: Option<Connection>,
}

impl Answer {
    /// The status.
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// The version that was spoken.
    pub fn version(&self) -> Version {
        self.response.version()
    }

    /// The headers.
    pub fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// A header's value as text; `None` where it is absent.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers()
            .get(name)
            .map(|value| value.to_str().unwrap())
    }

    /// The next piece of the body as it arrives; `None` at its end.
    pub async fn chunk(&mut self) -> Option<Bytes> {
        self.try_chunk()
            .await
            .unwrap_or_else(|error| panic!("the body broke off: {error:?}"))
    }

    /// The same, where the test expects that the body may break off.
    ///
    /// # Errors
    /// When the body ends other than cleanly.
    pub async fn try_chunk(&mut self) -> Result<Option<Bytes>, hyper::Error> {
        while let Some(frame) = self.frame().await {
            match frame?.into_data() {
                // HTTP/2 may end a body by an empty frame, which is no piece of it.
                Ok(data) if !data.is_empty() => return Ok(Some(data)),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(None)
    }

    /// The whole body.
    pub async fn bytes(self) -> Bytes {
        self.bytes_and_trailers().await.0
    }

    /// The whole body, as text.
    pub async fn text(self) -> String {
        String::from_utf8(self.bytes().await.to_vec()).unwrap()
    }

    /// The whole body, as JSON.
    pub async fn json(self) -> serde_json::Value {
        let text = self.text().await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The problem document of a failure that the broker itself answers with.
    ///
    /// # Panics
    /// When status, headers and document do not all tell of `code`, under one request id.
    pub async fn problem(self, code: ErrorCode) -> serde_json::Value {
        let wait = code.retry_after().map(|wait| wait.as_secs());
        self.problem_with(code, wait).await
    }

    /// The same of one that says itself after how many seconds to try again.
    ///
    /// # Panics
    /// When status, headers and document do not all tell of `code` and the wait, under one request id.
    pub async fn problem_with(self, code: ErrorCode, wait: Option<u64>) -> serde_json::Value {
        assert_eq!(self.header("broker-error"), Some(code.as_str()));
        assert_eq!(self.status(), code.status());
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json")
        );
        assert_eq!(self.header("cache-control"), Some("no-store"));
        let wait = wait.map(|seconds| seconds.to_string());
        assert_eq!(self.header("retry-after"), wait.as_deref());
        let request_id = self
            .header("broker-request-id")
            .unwrap_or_default()
            .to_owned();
        assert!(!request_id.is_empty(), "{code}: no broker-request-id");
        let document = self.json().await;
        assert_eq!(document["code"], code.as_str());
        assert_eq!(document["status"], code.status().as_u16());
        assert_eq!(document["title"], code.title());
        assert_eq!(document["request_id"], request_id.as_str());
        document
    }

    /// The whole body and the trailers after it.
    pub async fn bytes_and_trailers(mut self) -> (Bytes, HeaderMap) {
        let (mut body, mut trailers) = (BytesMut::new(), HeaderMap::new());
        while let Some(frame) = self.frame().await {
            let frame = frame.unwrap_or_else(|error| panic!("the body broke off: {error:?}"));
            match frame.into_data() {
                Ok(data) => body.extend_from_slice(&data),
                Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
            }
        }
        (body.freeze(), trailers)
    }

    /// Length and SHA-256 of the body, which is not kept.
    pub async fn digest(mut self) -> Digest {
        let mut sha256 = Sha256::new();
        while let Some(chunk) = self.chunk().await {
            sha256.update(&chunk);
        }
        sha256.finish()
    }

    /// The next piece of the body, or its trailers; `None` at the end.
    ///
    /// # Errors
    /// When the body ends other than cleanly.
    pub async fn frame(&mut self) -> Option<Result<Frame<Bytes>, hyper::Error>> {
        within("more of the body", self.response.body_mut().frame()).await
    }
}

/// An answer to raw bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawAnswer {
    /// The head, byte for byte.
    pub head: Head,
    /// The body, with the transfer coding taken off.
    pub body: Vec<u8>,
}

impl RawAnswer {
    /// The code of a failure that the broker itself answers with; what its HTTP parser refuses has none.
    pub fn code(&self) -> Option<String> {
        self.head.value("broker-error")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::{self, Origin};

    #[tokio::test]
    async fn its_own_headers_stand_on_each_request() {
        let origin = Origin::answering(origin::Answer::echo).await;
        let caller = Caller::to(origin.address()).with_header("x-one", "1");
        let text = caller.get("/path?query").await.text().await;
        assert!(text.starts_with("GET /path?query HTTP/1.1\r\n"), "{text}");
        assert!(text.contains("x-one: 1\r\n"), "{text}");
    }

    #[tokio::test]
    async fn a_body_is_sent_piece_by_piece() {
        let origin = Origin::scripted().await;
        let caller = Caller::to(origin.address());
        let (mut sender, body) = body::channel();
        let play = async {
            let mut exchange = origin.next().await;
            sender.send_data(Bytes::from("one")).await.unwrap();
            assert_eq!(exchange.read(8).await, b"3\r\none\r\n");
            drop(sender);
            assert_eq!(exchange.read(5).await, b"0\r\n\r\n");
            exchange.answer(origin::Answer::json("{}")).await;
        };
        let request = Request::post("/").body(body).unwrap();
        let ((), answer) = tokio::join!(play, caller.send(request));
        assert_eq!(answer.json().await, serde_json::json!({}));
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_is_an_error() {
        let broken = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nabc";
        let origin = Origin::scripted().await;
        let caller = Caller::to(origin.address());
        let play = async {
            origin
                .next()
                .await
                .answer(origin::Answer::raw(broken))
                .await
        };
        let ((), mut answer) = tokio::join!(play, caller.get("/"));
        assert_eq!(answer.chunk().await.unwrap(), "abc");
        answer.try_chunk().await.unwrap_err();
    }

    #[tokio::test]
    async fn bytes_that_no_client_sends_are_sent() {
        let origin = Origin::answering(|_| origin::Answer::json("{}")).await;
        let bytes = b"GET http://other/../a HTTP/1.1\r\n\r\n";
        Caller::to(origin.address()).raw(bytes).await;
        assert_eq!(origin.requests()[0].head.target(), "http://other/../a");
    }
}

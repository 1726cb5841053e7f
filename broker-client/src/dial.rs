//! Dialling the server: TCP, TLS, WebSocket, handshake.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use broker_process::tls::{self, ClientRoots, TlsError};
use broker_protocol::{
    AgentHello, Counted, HandshakeError, SUBPROTOCOL, ServerHello, TUNNEL_PATH, WsStream,
    prepare_socket, websocket_config,
};
use http::header::{
    CONNECTION, HOST, RETRY_AFTER, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use rustls::AlertDescription;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::{self, handshake::client::generate_key};

use crate::config::{Config, ServerUrl};

/// A dial that takes longer has failed.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one of the server's addresses may take before the next is tried.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest text of a refusal that is shown, in characters.
const MAX_REFUSAL: usize = 300;

/// What a tunnel runs over.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// Knows how to reach the server.
pub(crate) struct Dialer {
    server: ServerUrl,
    /// None for `ws://`.
    tls: Option<TlsConnector>,
    /// Of the upgrade request; the secret in it is marked sensitive.
    headers: HeaderMap,
}

/// An open tunnel, and what the server said.
pub(crate) struct Dialled {
    pub(crate) stream: WsStream<Box<dyn Transport>>,
    pub(crate) server: ServerHello,
}

/// Why there is no tunnel. Each says what an operator can do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error(
        "{server} cannot be reached: {source} (is the address right, and may this host connect to it?)"
    )]
    Connect { server: String, source: io::Error },
    #[error("TLS with {server} failed: {source}{}", tls_hint(.source))]
    Tls { server: String, source: io::Error },
    #[error("the server refused the tunnel: {status} {text}")]
    Refused {
        status: StatusCode,
        text: String,
        retry_after: Option<Duration>,
    },
    #[error(
        "{server} does not speak this protocol: {reason} (is it the broker's agents listener?)"
    )]
    Protocol { server: String, reason: String },
    #[error("{server} answered, and its handshake cannot be used: {source}")]
    Handshake {
        server: String,
        source: HandshakeError,
    },
    #[error("no tunnel to {server} within {} s", DIAL_TIMEOUT.as_secs())]
    Timeout { server: String },
}

impl DialError {
    /// How long the server asks to be left alone.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            Self::Connect { .. }
            | Self::Tls { .. }
            | Self::Protocol { .. }
            | Self::Handshake { .. }
            | Self::Timeout { .. } => None,
        }
    }
}

fn tls_hint(source: &io::Error) -> &'static str {
    let cause = source
        .get_ref()
        .and_then(|cause| cause.downcast_ref::<rustls::Error>());
    match cause {
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)) => {
            " (a certificate authority that this agent does not trust: set TUNNEL_CA_CERT to its PEM file)"
        }
        Some(rustls::Error::InvalidCertificate(_)) => {
            " (the server's certificate is not good for this address)"
        }
        Some(
            rustls::Error::AlertReceived(AlertDescription::ProtocolVersion)
            | rustls::Error::PeerIncompatible(_),
        ) => {
            " (the server speaks no version of TLS that tunnel.tls-min allows: enable TLS 1.3 there, or set it to 1.2)"
        }
        _ => "",
    }
}

impl Dialer {
    /// Loads what TLS needs and prepares the handshake.
    pub(crate) fn new(config: &Config, hello: &AgentHello) -> Result<Self, TlsError> {
        let tls = if config.server.is_tls() {
            let extra: Vec<_> = config.tunnel.ca_cert.iter().cloned().collect();
            let roots = ClientRoots::load(&extra)?;
            Some(tls::client_config(&roots, config.tunnel.tls_policy(), &[b"http/1.1"])?.into())
        } else {
            None
        };
        let mut headers = HeaderMap::new();
        hello
            .write(&mut headers)
            .expect("names, a UUID, a version and a token are header values");
        Ok(Self {
            server: config.server.clone(),
            tls,
            headers,
        })
    }

    /// Opens one tunnel.
    pub(crate) async fn dial(&self) -> Result<Dialled, DialError> {
        let dialled = tokio::time::timeout(DIAL_TIMEOUT, self.connect_and_shake_hands()).await;
        dialled.unwrap_or_else(|_| {
            Err(DialError::Timeout {
                server: self.server.to_string(),
            })
        })
    }

    async fn connect_and_shake_hands(&self) -> Result<Dialled, DialError> {
        let transport = self.connect().await?;
        let server = self.server.to_string();
        let config = Some(websocket_config());
        let shaken =
            client_async_with_config(self.upgrade_request(), Counted::new(transport), config).await;
        let (ws, response) = shaken.map_err(|error| refusal(server.clone(), error))?;
        let hello = ServerHello::read(response.headers())
            .map_err(|source| DialError::Handshake { server, source })?;
        Ok(Dialled {
            stream: WsStream::client(ws),
            server: hello,
        })
    }

    async fn connect(&self) -> Result<Box<dyn Transport>, DialError> {
        let server = || self.server.to_string();
        let failed = |source| DialError::Connect {
            server: server(),
            source,
        };
        let tcp = self.connect_tcp().await.map_err(failed)?;
        prepare_socket(&tcp).map_err(failed)?;
        let Some(tls) = &self.tls else {
            return Ok(Box::new(tcp));
        };
        let tls = tls.connect(self.server.host().clone(), tcp).await;
        Ok(Box::new(tls.map_err(|source| DialError::Tls {
            server: server(),
            source,
        })?))
    }

    async fn connect_tcp(&self) -> io::Result<TcpStream> {
        let host = self.server.host().to_str();
        let addresses = tokio::net::lookup_host((&*host, self.server.port())).await?;
        first_that_answers(addresses, TcpStream::connect).await
    }

    fn upgrade_request(&self) -> Request<()> {
        let mut request = Request::new(());
        *request.uri_mut() = format!(
            "{}://{}{}",
            if self.server.is_tls() { "wss" } else { "ws" },
            self.server.authority(),
            self.server.path_below(TUNNEL_PATH)
        )
        .parse()
        .expect("a server URL is a URL, also with a path below it");
        let headers = request.headers_mut();
        *headers = self.headers.clone();
        let host = HeaderValue::from_str(&self.server.authority());
        headers.insert(HOST, host.expect("a host name is a header value"));
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        headers.insert(
            SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_static(SUBPROTOCOL),
        );
        let key = HeaderValue::from_str(&generate_key());
        headers.insert(SEC_WEBSOCKET_KEY, key.expect("base64 is a header value"));
        request
    }
}

/// Tries a name's addresses in turn; one that does not answer must not hide the others.
async fn first_that_answers<T, F>(
    addresses: impl Iterator<Item = SocketAddr>,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
{
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match tokio::time::timeout(ADDRESS_TIMEOUT, connect(address)).await {
            Ok(Ok(connected)) => return Ok(connected),
            Ok(Err(error)) => failure = error,
            Err(_) => {
                let text = format!("{address} does not answer");
                failure = io::Error::new(io::ErrorKind::TimedOut, text);
            }
        }
    }
    Err(failure)
}

fn refusal(server: String, error: tungstenite::Error) -> DialError {
    match error {
        tungstenite::Error::Http(response) => refused(&response),
        tungstenite::Error::Io(source) => DialError::Connect { server, source },
        error => DialError::Protocol {
            server,
            reason: error.to_string(),
        },
    }
}

fn refused(response: &Response<Option<Vec<u8>>>) -> DialError {
    let retry_after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok());
    DialError::Refused {
        status: response.status(),
        text: refusal_text(response.body().as_deref().unwrap_or_default()),
        retry_after: retry_after
            .and_then(|seconds| seconds.parse().ok())
            .map(Duration::from_secs),
    }
}

/// What a problem document says, or nothing: the body of something else is of no use in a log.
fn refusal_text(body: &[u8]) -> String {
    let problem: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let member = |name| problem.get(name).and_then(serde_json::Value::as_str);
    let text = [member("code"), member("detail").or_else(|| member("title"))];
    let text = text.into_iter().flatten().collect::<Vec<_>>().join(": ");
    text.chars()
        .filter(|c| !c.is_control())
        .take(MAX_REFUSAL)
        .collect()
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    const SILENT: u16 = 1;
    const REFUSING: u16 = 2;
    const ANSWERING: u16 = 3;

    /// Tries addresses with these ports, and gives the port that answered.
    async fn try_ports(ports: &[u16]) -> io::Result<u16> {
        let addresses = ports.iter().map(|port| ([127, 0, 0, 1], *port).into());
        let connect = async |address: SocketAddr| match address.port() {
            SILENT => std::future::pending().await,
            REFUSING => Err(io::ErrorKind::ConnectionRefused.into()),
            port => Ok(port),
        };
        first_that_answers(addresses, connect).await
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_does_not_answer_or_refuses_hides_no_other() {
        let begun = Instant::now();
        let answered = try_ports(&[REFUSING, SILENT, ANSWERING, SILENT]).await;
        assert_eq!(answered.unwrap(), ANSWERING);
        assert_eq!(begun.elapsed(), ADDRESS_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn where_no_address_answers_the_last_failure_is_told() {
        let silent = try_ports(&[REFUSING, SILENT]).await.unwrap_err();
        assert_eq!(silent.to_string(), "127.0.0.1:1 does not answer");
        let refused = try_ports(&[SILENT, REFUSING]).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let none = try_ports(&[]).await.unwrap_err();
        assert_eq!(none.to_string(), "the name has no address");
    }

    #[test]
    fn a_refusal_shows_the_problem_and_nothing_of_other_bodies() {
        let body = br#"{"code":"unauthenticated","detail":"not admitted\u001b[31m"}"#;
        assert_eq!(refusal_text(body), "unauthenticated: not admitted[31m");
        assert_eq!(refusal_text(b"<html>"), "");
        assert_eq!(refusal_text(&[0xff; 9]), "");
    }

    #[test]
    fn retry_after_is_read_from_a_refusal() {
        let response = Response::builder()
            .status(503)
            .header(RETRY_AFTER, "7")
            .body(None)
            .expect("a response");
        assert_eq!(
            refused(&response).retry_after(),
            Some(Duration::from_secs(7))
        );
    }
}

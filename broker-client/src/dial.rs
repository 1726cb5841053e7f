//! Dialling the server: TCP, TLS, WebSocket, handshake.

use std::io;
use std::time::Duration;

use broker_process::tls::{self, ClientRoots, TlsError};
use broker_protocol::{
    AgentHello, Counted, ErrorCode, HandshakeError, SUBPROTOCOL, ServerHello, TUNNEL_PATH,
    WsStream, prepare_socket, websocket_config,
};
use http::header::{
    CONNECTION, HOST, RETRY_AFTER, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use rustls::AlertDescription;
use serde_json::Value;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::{self, handshake::client::generate_key};

use crate::config::{Config, ServerUrl};
use crate::proxy::{ProxyError, ProxyWay};
use crate::tcp::{self, Transport};

/// How long it may take to be connected to the server, by TCP or through a proxy.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take from there to the tunnel: TLS and the upgrade.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest text of a refusal that is shown, in characters.
const MAX_REFUSAL: usize = 300;

/// Knows how to reach the server.
pub(crate) struct Dialer {
    server: ServerUrl,
    /// None for `ws://`.
    tls: Option<TlsConnector>,
    /// None where the server is dialled directly.
    proxy: Option<ProxyWay>,
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
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    #[error("TLS with {server} failed: {source}{}", tls_hint(.source))]
    Tls { server: String, source: io::Error },
    #[error("the server refused the tunnel: {status} {text}")]
    Refused {
        status: StatusCode,
        text: String,
        retry_after: Option<Duration>,
    },
    #[error(
        "{server} was asked for a WebSocket, and {reason} (is it the broker's agents listener? a proxy or firewall on \
         the way that does not let WebSockets through must be told to)"
    )]
    NoUpgrade {
        server: String,
        reason: &'static str,
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
    #[error(
        "{server} was reached and opened no tunnel within {} s (does something on the way hold TLS or WebSockets back?)",
        UPGRADE_TIMEOUT.as_secs()
    )]
    Timeout { server: String },
}

impl DialError {
    /// How long the server asks to be left alone.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            Self::Connect { .. }
            | Self::Proxy(_)
            | Self::Tls { .. }
            | Self::NoUpgrade { .. }
            | Self::Protocol { .. }
            | Self::Handshake { .. }
            | Self::Timeout { .. } => None,
        }
    }

    /// For machines; never changes (docs/troubleshooting.md).
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "unreachable",
            Self::Proxy(error) => error.code(),
            Self::Tls { source, .. } => tls_code(source),
            Self::Refused { .. } => "refused",
            Self::NoUpgrade { .. } => "websocket-blocked",
            Self::Protocol { .. } | Self::Handshake { .. } => "not-a-broker",
            Self::Timeout { .. } => "no-answer",
        }
    }
}

fn tls_code(source: &io::Error) -> &'static str {
    match rustls_cause(source) {
        Some(rustls::Error::InvalidCertificate(_)) => "tls-untrusted",
        Some(
            rustls::Error::AlertReceived(AlertDescription::ProtocolVersion)
            | rustls::Error::PeerIncompatible(_),
        ) => "tls-version",
        _ => "tls",
    }
}

fn tls_hint(source: &io::Error) -> &'static str {
    match rustls_cause(source) {
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)) => {
            " (a certificate authority that this agent does not trust: set TUNNEL_CA_CERT, or NODE_EXTRA_CA_CERTS, to \
             its PEM file)"
        }
        Some(rustls::Error::InvalidCertificate(_)) => {
            " (the server's certificate is not good for this address)"
        }
        Some(
            rustls::Error::AlertReceived(AlertDescription::ProtocolVersion)
            | rustls::Error::PeerIncompatible(_),
        ) => {
            " (the server, or a proxy that opens TLS on the way, speaks no version of it that tunnel.tls-min allows: \
             enable TLS 1.3 there, or set it to 1.2)"
        }
        _ => "",
    }
}

fn rustls_cause(source: &io::Error) -> Option<&rustls::Error> {
    source.get_ref()?.downcast_ref()
}

impl Dialer {
    /// Loads what TLS needs and prepares the handshake.
    pub(crate) fn new(config: &Config, hello: &AgentHello) -> Result<Self, TlsError> {
        let authorities = config.tunnel_authorities();
        let tls = if config.server.is_tls() {
            let roots = ClientRoots::load(&authorities)?;
            Some(tls::client_config(&roots, config.tunnel.tls_policy(), &[b"http/1.1"])?.into())
        } else {
            None
        };
        let proxy = config
            .tunnel_proxy()
            .map(|proxy| ProxyWay::new(proxy.clone(), &authorities, prepare_socket))
            .transpose()?;
        let mut headers = HeaderMap::new();
        hello
            .write(&mut headers)
            .expect("names, a UUID, a version and a token are header values");
        Ok(Self {
            server: config.server.clone(),
            tls,
            proxy,
            headers,
        })
    }

    /// Opens one tunnel.
    pub(crate) async fn dial(&self) -> Result<Dialled, DialError> {
        let connection = self.connect().await?;
        let opened = tokio::time::timeout(UPGRADE_TIMEOUT, self.open(connection)).await;
        opened.unwrap_or_else(|_| {
            Err(DialError::Timeout {
                server: self.server.to_string(),
            })
        })
    }

    /// A connection to the server's port.
    async fn connect(&self) -> Result<Box<dyn Transport>, DialError> {
        if let Some(proxy) = &self.proxy {
            let server = self.server.host_and_port();
            return Ok(proxy.reach_through(&server, CONNECT_TIMEOUT).await?);
        }
        let host = self.server.host().to_str();
        let connected = tcp::connect(&host, self.server.port(), prepare_socket);
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, connected).await;
        match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(tcp) => Ok(Box::new(tcp)),
            Err(source) => Err(DialError::Connect {
                server: self.server.to_string(),
                source,
            }),
        }
    }

    /// TLS and the upgrade.
    async fn open(&self, connection: Box<dyn Transport>) -> Result<Dialled, DialError> {
        let server = self.server.to_string();
        let transport: Box<dyn Transport> = match &self.tls {
            None => connection,
            Some(tls) => match tls.connect(self.server.host().clone(), connection).await {
                Ok(tls) => Box::new(tls),
                Err(source) => return Err(DialError::Tls { server, source }),
            },
        };
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

fn refusal(server: String, error: tungstenite::Error) -> DialError {
    match error {
        tungstenite::Error::Http(response) => refused(server, &response),
        tungstenite::Error::Io(source) => DialError::Connect { server, source },
        error => DialError::Protocol {
            server,
            reason: error.to_string(),
        },
    }
}

fn refused(server: String, response: &Response<Option<Vec<u8>>>) -> DialError {
    let status = response.status();
    if status.is_success() || status.is_redirection() {
        let reason = "an ordinary answer came instead";
        return DialError::NoUpgrade { server, reason };
    }
    let body = response.body().as_deref().unwrap_or_default();
    let problem: Value = serde_json::from_slice(body).unwrap_or_default();
    // Ours is a good request: the server finds fault with what something on the way has made of it.
    if problem.get("code").and_then(Value::as_str) == Some(ErrorCode::BadRequest.as_str()) {
        let reason = "got a request without its upgrade, which something on the way has removed";
        return DialError::NoUpgrade { server, reason };
    }
    let retry_after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok());
    DialError::Refused {
        status,
        text: refusal_text(&problem),
        retry_after: retry_after
            .and_then(|seconds| seconds.parse().ok())
            .map(Duration::from_secs),
    }
}

/// What a problem document says, or nothing: the body of something else is of no use in a log.
fn refusal_text(problem: &Value) -> String {
    let member = |name| problem.get(name).and_then(Value::as_str);
    let text = [member("code"), member("detail").or_else(|| member("title"))];
    let text = text.into_iter().flatten().collect::<Vec<_>>().join(": ");
    text.chars()
        .filter(|c| !c.is_control())
        .take(MAX_REFUSAL)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, body: &[u8]) -> DialError {
        let response = Response::builder()
            .status(status)
            .header(RETRY_AFTER, "7")
            .body(Some(body.to_vec()))
            .expect("a response");
        refused("https://broker.example".into(), &response)
    }

    #[test]
    fn a_refusal_shows_the_problem_and_nothing_of_other_bodies() {
        for (body, text) in [
            (
                &br#"{"code":"unauthenticated","detail":"not admitted\u001b[31m"}"#[..],
                "unauthenticated: not admitted[31m",
            ),
            (b"<html>", ""),
            (&[0xff; 9], ""),
        ] {
            let error = answered(401, body).to_string();
            assert_eq!(
                error,
                format!("the server refused the tunnel: 401 Unauthorized {text}")
            );
        }
    }

    #[test]
    fn an_answer_that_is_no_upgrade_says_that_something_is_in_the_way() {
        for (status, body, expected) in [
            (200, &b"<html>"[..], "an ordinary answer came instead"),
            (302, b"", "an ordinary answer came instead"),
            (
                400,
                br#"{"code":"bad-request"}"#,
                "something on the way has removed",
            ),
        ] {
            let error = answered(status, body);
            assert_eq!(error.code(), "websocket-blocked");
            assert!(error.to_string().contains(expected), "{error}");
        }
        assert_eq!(answered(400, b"<html>").code(), "refused");
    }

    #[test]
    fn retry_after_is_read_from_a_refusal() {
        let error = answered(503, b"");
        assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
    }
}

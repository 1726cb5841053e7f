//! Dialling the server: TCP, TLS, WebSocket, handshake.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use broker_process::tls::{self, ClientRoots, TlsError};
use broker_protocol::{
    AgentHello, Counted, ErrorCode, HandshakeError, SUBPROTOCOL, ServerHello, TUNNEL_PATH,
    WsStream, header::SOURCE, prepare_socket, websocket_config,
};
use http::header::{
    CONNECTION, DATE, HOST, RETRY_AFTER, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use rustls::AlertDescription;
use serde_json::Value;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::{self, handshake::client::generate_key};

use crate::config::{Config, ServerUrl};
use crate::peer::{TlsPeer, rustls_cause, tls_hint};
use crate::proxy::{ProxyError, ProxyWay};
use crate::tcp::{self, Transport};

/// How long it may take to be connected to the server, by TCP or through a proxy.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
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
    /// The server's clock.
    pub(crate) date: Option<SystemTime>,
}

/// A connection to the server on which HTTP can begin.
pub(crate) struct Secured {
    transport: Box<dyn Transport>,
    /// None for `ws://`.
    pub(crate) peer: Option<TlsPeer>,
}

/// Why there is no tunnel. Each says what an operator can do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error(
        "the name {host} cannot be resolved: {source} (is it right, and does this host's resolver know it? where only a \
         proxy leads out, set HTTPS_PROXY)"
    )]
    Name { host: String, source: io::Error },
    #[error(
        "{server} cannot be reached: {source} (is the address right, and may this host connect to it?)"
    )]
    Connect { server: String, source: io::Error },
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    #[error("TLS with {server} failed: {source}{}", tls_hint(.source, "TUNNEL_CA_CERT"))]
    Tls { server: String, source: io::Error },
    #[error("the server refused the tunnel: {status} {text}{}", answer.hint())]
    Refused {
        status: StatusCode,
        text: String,
        retry_after: Option<Duration>,
        answer: Box<Refusal>,
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

/// What a refusal says beside its own matter.
#[derive(Debug, Default)]
pub(crate) struct Refusal {
    /// The code of its problem document, where it is one.
    pub(crate) code: Option<String>,
    /// The server's clock.
    pub(crate) date: Option<SystemTime>,
    /// The address from which the server saw the agent come.
    pub(crate) source: Option<String>,
}

impl Refusal {
    /// Whether the server is a broker, and admits no such agent.
    fn is_of_admission(&self) -> bool {
        self.code.as_deref() == Some(ErrorCode::Unauthenticated.as_str())
    }

    fn hint(&self) -> String {
        match &self.source {
            Some(source) if self.is_of_admission() => format!(
                " (it saw {source}: is BROKER_TOKEN the name, and is this secret's sha256: line under it there?)"
            ),
            _ => String::new(),
        }
    }
}

impl DialError {
    /// How long the server asks to be left alone.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            Self::Name { .. }
            | Self::Connect { .. }
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
            Self::Name { .. } => "dns",
            Self::Connect { .. } => "unreachable",
            Self::Proxy(error) => error.code(),
            Self::Tls { source, .. } => tls_code(source),
            Self::Refused { answer, .. } if answer.is_of_admission() => "not-admitted",
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

impl Dialer {
    /// Loads what TLS needs and prepares the handshake.
    pub(crate) fn new(
        config: &Config,
        server: &ServerUrl,
        hello: &AgentHello,
    ) -> Result<Self, TlsError> {
        let authorities = config.tunnel_authorities();
        let tls = if server.is_tls() {
            let roots = ClientRoots::load(&authorities)?;
            Some(tls::client_config(&roots, config.tunnel.tls_policy(), &[b"http/1.1"])?.into())
        } else {
            None
        };
        let proxy = config
            .tunnel_proxy(server)
            .map(|proxy| ProxyWay::new(proxy.clone(), &authorities, prepare_socket))
            .transpose()?;
        let mut headers = HeaderMap::new();
        hello
            .write(&mut headers)
            .expect("names, a UUID, a version and a token are header values");
        Ok(Self {
            server: server.clone(),
            tls,
            proxy,
            headers,
        })
    }

    /// Opens one tunnel.
    pub(crate) async fn dial(&self) -> Result<Dialled, DialError> {
        let connection = self.connect().await?;
        self.in_time(async { self.upgrade(self.secure(connection).await?).await })
            .await
    }

    /// Gives what follows the connection the time that it may take.
    pub(crate) async fn in_time<T>(
        &self,
        opening: impl Future<Output = Result<T, DialError>>,
    ) -> Result<T, DialError> {
        let opened = tokio::time::timeout(UPGRADE_TIMEOUT, opening).await;
        opened.unwrap_or_else(|_| {
            Err(DialError::Timeout {
                server: self.server.to_string(),
            })
        })
    }

    /// The way to the server, where a proxy leads there.
    pub(crate) fn proxy(&self) -> Option<&ProxyWay> {
        self.proxy.as_ref()
    }

    /// The server's addresses, for which nobody asks where a proxy leads there.
    pub(crate) async fn resolve(&self) -> Result<Vec<SocketAddr>, DialError> {
        let host = self.server.host().to_str();
        let resolved = tcp::resolve(host.clone().into_owned(), self.server.port());
        let resolved = tokio::time::timeout(CONNECT_TIMEOUT, resolved).await;
        let resolved = resolved.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        resolved.map_err(|source| DialError::Name {
            host: host.into_owned(),
            source,
        })
    }

    /// A connection to the server's port.
    pub(crate) async fn connect(&self) -> Result<Box<dyn Transport>, DialError> {
        if let Some(proxy) = &self.proxy {
            let server = self.server.host_and_port();
            return Ok(proxy.reach_through(&server, CONNECT_TIMEOUT).await?);
        }
        let connected = tcp::connect_to(self.resolve().await?, prepare_socket);
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, connected).await;
        match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(tcp) => Ok(Box::new(tcp)),
            Err(source) => Err(DialError::Connect {
                server: self.server.to_string(),
                source,
            }),
        }
    }

    /// TLS, where the server is dialled with it.
    pub(crate) async fn secure(
        &self,
        connection: Box<dyn Transport>,
    ) -> Result<Secured, DialError> {
        let Some(tls) = &self.tls else {
            return Ok(Secured {
                transport: connection,
                peer: None,
            });
        };
        match tls.connect(self.server.host().clone(), connection).await {
            Ok(tls) => Ok(Secured {
                peer: Some(TlsPeer::of(tls.get_ref().1)),
                transport: Box::new(tls),
            }),
            Err(source) => Err(DialError::Tls {
                server: self.server.to_string(),
                source,
            }),
        }
    }

    /// The upgrade.
    pub(crate) async fn upgrade(&self, secured: Secured) -> Result<Dialled, DialError> {
        let server = self.server.to_string();
        let config = Some(websocket_config());
        let transport = Counted::new(secured.transport);
        let shaken = client_async_with_config(self.upgrade_request(), transport, config).await;
        let (ws, response) = shaken.map_err(|error| refusal(server.clone(), error))?;
        let hello = ServerHello::read(response.headers())
            .map_err(|source| DialError::Handshake { server, source })?;
        Ok(Dialled {
            stream: WsStream::client(ws),
            server: hello,
            date: date(response.headers()),
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
    let text_of = |name| response.headers().get(name)?.to_str().ok();
    let source = text_of(SOURCE).and_then(|source| source.parse::<IpAddr>().ok());
    DialError::Refused {
        status,
        text: refusal_text(&problem),
        retry_after: text_of(RETRY_AFTER)
            .and_then(|seconds| seconds.parse().ok())
            .map(Duration::from_secs),
        answer: Box::new(Refusal {
            code: problem
                .get("code")
                .and_then(Value::as_str)
                .map(str::to_owned),
            date: date(response.headers()),
            source: source.map(|source| source.to_string()),
        }),
    }
}

/// When an answer was made, by the server's clock.
fn date(headers: &HeaderMap) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(DATE)?.to_str().ok()?).ok()
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
    use rustls::CertificateError;

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

    #[test]
    fn a_refusal_for_want_of_admission_tells_the_address_that_the_server_saw() {
        let response = Response::builder()
            .status(401)
            .header(SOURCE, "203.0.113.9")
            .header(DATE, "Sun, 06 Nov 1994 08:49:37 GMT")
            .body(Some(br#"{"code":"unauthenticated"}"#.to_vec()))
            .expect("a response");
        let error = refused("https://broker.example".into(), &response);
        assert_eq!(error.code(), "not-admitted");
        assert!(error.to_string().contains("saw 203.0.113.9"), "{error}");
        let DialError::Refused { answer, .. } = error else {
            panic!("it is a refusal");
        };
        let date = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(answer.date, Some(date));
    }

    #[test]
    fn a_certificate_that_has_ended_may_be_the_clocks_fault() {
        for (error, expected) in [
            (CertificateError::Expired, "has ended"),
            (CertificateError::NotValidYet, "is not valid yet"),
        ] {
            let source = rustls::Error::InvalidCertificate(error);
            let error = DialError::Tls {
                server: "https://broker.example".into(),
                source: io::Error::other(source),
            };
            assert_eq!(error.code(), "tls-untrusted");
            let text = error.to_string();
            assert!(text.contains(expected) && text.contains("clock"), "{text}");
        }
    }
}

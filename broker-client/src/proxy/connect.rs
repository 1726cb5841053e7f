//! The way through a proxy: TCP, TLS to it where its URL asks for that, and the CONNECT method (RFC 9110 §9.3.6).

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use broker_process::logging::chain;
use broker_process::tls::{self, ClientRoots, TlsError, TlsPolicy};
use bytes::Bytes;
use http::header::{HOST, PROXY_AUTHENTICATE};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Proxy;
use crate::tcp::{self, Prepare, Transport};

/// Proxies may be old; what passes through them is encrypted once more wherever that matters.
const TLS: TlsPolicy = TlsPolicy::LENIENT;
/// Longest head of a proxy's answer, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// Most authentication schemes of a proxy that are looked at.
const MAX_SCHEMES: usize = 16;

/// Why a proxy gives no way. Each says what an operator can do.
#[derive(Debug, thiserror::Error)]
#[error("the proxy {proxy} {failure}")]
pub(crate) struct ProxyError {
    proxy: Proxy,
    failure: ProxyFailure,
}

/// What is wrong between the agent and its proxy.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProxyFailure {
    #[error("cannot be reached: {0} (is its address right, and may this host connect to it?)")]
    Unreachable(io::Error),
    #[error(
        "speaks no TLS that can be trusted: {0} (for an authority of its own: set NODE_EXTRA_CA_CERTS to its PEM file; \
         for a proxy that takes plain HTTP: write http://)"
    )]
    Tls(io::Error),
    #[error("wants credentials (put user:password@ before the host in its URL)")]
    CredentialsMissing,
    #[error("does not accept the user and password in its URL")]
    CredentialsRefused,
    #[error(
        "offers {0} and no Basic authentication, which is all that this agent can do with proxies (have it offer Basic, \
         or let this host through without)"
    )]
    SchemeUnsupported(String),
    #[error(
        "refuses the way to {to}: {status} (its owner must allow CONNECT to that host and port)"
    )]
    Refused { to: String, status: StatusCode },
    #[error("cannot connect to {to} itself: {status}")]
    CannotConnect { to: String, status: StatusCode },
    #[error("broke off, or does not speak HTTP: {0}")]
    Protocol(String),
    #[error("gave no answer within {} s", .0.as_secs())]
    Timeout(Duration),
}

impl ProxyError {
    /// What a proxy means with an answer of status 407.
    pub(crate) fn credentials_wanted(proxy: &Proxy, headers: &HeaderMap) -> Self {
        Self {
            failure: credentials_wanted(proxy, headers),
            proxy: proxy.clone(),
        }
    }

    /// For machines; never changes.
    pub(crate) fn code(&self) -> &'static str {
        match &self.failure {
            ProxyFailure::Unreachable(_) => "proxy-unreachable",
            ProxyFailure::Tls(_) => "proxy-tls",
            ProxyFailure::CredentialsMissing | ProxyFailure::CredentialsRefused => {
                "proxy-credentials"
            }
            ProxyFailure::SchemeUnsupported(_) => "proxy-authentication-unsupported",
            ProxyFailure::Refused { .. } => "proxy-refused",
            ProxyFailure::CannotConnect { .. } => "proxy-cannot-connect",
            ProxyFailure::Protocol(_) => "proxy-broke-off",
            ProxyFailure::Timeout(_) => "proxy-timeout",
        }
    }
}

/// A proxy, and all that it takes to use it.
#[derive(Clone)]
pub(crate) struct ProxyWay {
    pub(crate) proxy: Proxy,
    /// For `https://` proxies.
    tls: Option<TlsConnector>,
    prepare: Prepare,
}

impl ProxyWay {
    /// # Errors
    /// If the proxy speaks TLS, and the files with more `authorities` cannot be used.
    pub(crate) fn new(
        proxy: Proxy,
        authorities: &[PathBuf],
        prepare: Prepare,
    ) -> Result<Self, TlsError> {
        let tls = if proxy.url().is_tls() {
            let roots = ClientRoots::load(authorities)?;
            Some(tls::client_config(&roots, TLS, &[b"http/1.1"])?.into())
        } else {
            None
        };
        Ok(Self {
            proxy,
            tls,
            prepare,
        })
    }

    /// A connection to the proxy itself, within `limit`.
    pub(crate) async fn reach(&self, limit: Duration) -> Result<Box<dyn Transport>, ProxyError> {
        self.within(limit, self.reach_in_time()).await
    }

    /// A connection to a host and port behind the proxy, within `limit`. The proxy resolves the name.
    pub(crate) async fn reach_through(
        &self,
        to: &str,
        limit: Duration,
    ) -> Result<Box<dyn Transport>, ProxyError> {
        let way = async {
            let io = self.reach_in_time().await?;
            self.ask(io, to).await
        };
        self.within(limit, way).await
    }

    async fn within<T>(
        &self,
        limit: Duration,
        way: impl Future<Output = Result<T, ProxyFailure>>,
    ) -> Result<T, ProxyError> {
        let found = tokio::time::timeout(limit, way).await;
        found
            .unwrap_or(Err(ProxyFailure::Timeout(limit)))
            .map_err(|failure| self.error(failure))
    }

    fn error(&self, failure: ProxyFailure) -> ProxyError {
        ProxyError {
            proxy: self.proxy.clone(),
            failure,
        }
    }

    /// The proxy's addresses, within `limit`.
    pub(crate) async fn resolve(&self, limit: Duration) -> Result<Vec<SocketAddr>, ProxyError> {
        self.within(limit, self.resolve_in_time()).await
    }

    /// A TCP connection to the proxy, and nothing more, within `limit`.
    pub(crate) async fn touch(&self, limit: Duration) -> Result<TcpStream, ProxyError> {
        self.within(limit, self.touch_in_time()).await
    }

    async fn resolve_in_time(&self) -> Result<Vec<SocketAddr>, ProxyFailure> {
        let url = self.proxy.url();
        let host = url.host().to_str().into_owned();
        let resolved = tcp::resolve(host, url.port()).await;
        resolved.map_err(ProxyFailure::Unreachable)
    }

    async fn touch_in_time(&self) -> Result<TcpStream, ProxyFailure> {
        let connected = tcp::connect_to(self.resolve_in_time().await?, self.prepare).await;
        connected.map_err(ProxyFailure::Unreachable)
    }

    async fn reach_in_time(&self) -> Result<Box<dyn Transport>, ProxyFailure> {
        let url = self.proxy.url();
        let tcp = self.touch_in_time().await?;
        let Some(tls) = &self.tls else {
            return Ok(Box::new(tcp));
        };
        let tls = tls.connect(url.host().clone(), tcp).await;
        Ok(Box::new(tls.map_err(ProxyFailure::Tls)?))
    }

    /// Has the proxy connect to `to`, and gives what is a connection there from then on.
    async fn ask(
        &self,
        io: Box<dyn Transport>,
        to: &str,
    ) -> Result<Box<dyn Transport>, ProxyFailure> {
        let broke_off = |error: hyper::Error| ProxyFailure::Protocol(chain(&error));
        let (mut sender, mut connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD)
            .handshake(TokioIo::new(io))
            .await
            .map_err(broke_off)?;
        let answer = {
            let mut answer = pin!(sender.send_request(self.request(to)?));
            let running = poll_fn(|cx| connection.poll_without_shutdown(cx));
            // HTTP ends here as soon as the way is open; the answer is there by then.
            tokio::select! {
                answer = &mut answer => answer,
                _ = running => answer.await,
            }
        };
        let answer = answer.map_err(broke_off)?;
        if !answer.status().is_success() {
            return Err(self.refusal(answer.status(), answer.headers(), to));
        }
        let parts = connection.into_parts();
        if !parts.read_buf.is_empty() {
            // Neither TLS nor HTTP lets the other end speak first.
            let reason = "it sent more than its answer to CONNECT".to_owned();
            return Err(ProxyFailure::Protocol(reason));
        }
        Ok(parts.io.into_inner())
    }

    fn request(&self, to: &str) -> Result<Request<Empty<Bytes>>, ProxyFailure> {
        let mut request = Request::connect(to)
            .header(HOST, to)
            .body(Empty::new())
            .map_err(|error| {
                ProxyFailure::Protocol(format!("{to} cannot be asked for: {error}"))
            })?;
        self.proxy.inject(request.headers_mut());
        Ok(request)
    }

    fn refusal(&self, status: StatusCode, headers: &HeaderMap, to: &str) -> ProxyFailure {
        let to = to.to_owned();
        let is_about_credentials = [
            StatusCode::PROXY_AUTHENTICATION_REQUIRED,
            // tinyproxy's word for credentials that are wrong; no host behind a proxy answers CONNECT.
            StatusCode::UNAUTHORIZED,
        ];
        if is_about_credentials.contains(&status) {
            credentials_wanted(&self.proxy, headers)
        } else if status.is_server_error() {
            ProxyFailure::CannotConnect { to, status }
        } else {
            ProxyFailure::Refused { to, status }
        }
    }
}

fn credentials_wanted(proxy: &Proxy, headers: &HeaderMap) -> ProxyFailure {
    let schemes = schemes(headers);
    if !schemes.is_empty() && !schemes.iter().any(|scheme| scheme == "basic") {
        ProxyFailure::SchemeUnsupported(schemes.join(" and "))
    } else if proxy.has_credential() {
        ProxyFailure::CredentialsRefused
    } else {
        ProxyFailure::CredentialsMissing
    }
}

/// The names of the authentication schemes that are offered (RFC 9110 §11.6.1), in lower case.
fn schemes(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(PROXY_AUTHENTICATE).into_iter();
    let mut schemes: Vec<String> = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|part| part.split_whitespace().next())
        // What follows a comma can also be one more parameter, `name=value`.
        .filter(|word| word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))
        .map(str::to_ascii_lowercase)
        .take(MAX_SCHEMES)
        .collect();
    schemes.dedup();
    schemes
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    /// What the agent makes of a proxy that reads the head of a request and answers so; and that head.
    async fn asked(url: &str, answer: &str) -> (Result<Box<dyn Transport>, ProxyFailure>, String) {
        let way = ProxyWay {
            proxy: url.parse().unwrap(),
            tls: None,
            prepare: |_| Ok(()),
        };
        let (ours, theirs) = duplex(4096);
        let to = "broker.example:443";
        let (asked, head) = tokio::join!(way.ask(Box::new(ours), to), answer_once(theirs, answer));
        (asked, head)
    }

    async fn answer_once(mut io: DuplexStream, answer: &str) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(io.read_u8().await.unwrap());
        }
        io.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(head).unwrap()
    }

    async fn failure(url: &str, answer: &str) -> String {
        let (asked, _) = asked(url, answer).await;
        asked.map(drop).unwrap_err().to_string()
    }

    #[tokio::test]
    async fn a_way_is_asked_for_by_name_with_the_credential() {
        let answer = "HTTP/1.0 200 Connection established\r\nProxy-agent: x\r\n\r\n";
        let (asked, head) = asked("http://user:pass@proxy:3128", answer).await;
        assert!(asked.is_ok());
        assert_eq!(
            head,
            "CONNECT broker.example:443 HTTP/1.1\r\nhost: broker.example:443\r\n\
             proxy-authorization: Basic dXNlcjpwYXNz\r\n\r\n"
        );
    }

    #[tokio::test]
    async fn each_refusal_is_told_apart() {
        let (without, with) = ("http://proxy", "http://user:hunter2@proxy");
        let basic = "HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=\"a, b\"\r\n\r\n";
        let both = "HTTP/1.1 407 No\r\nProxy-Authenticate: NTLM\r\nProxy-Authenticate: Basic realm=x\r\n\r\n";
        let ntlm =
            "HTTP/1.1 407 No\r\nProxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM\r\n\r\n";
        let listed = "HTTP/1.1 407 No\r\nProxy-Authenticate: Negotiate, NTLM\r\n\r\n";
        for (url, answer, expected) in [
            (without, basic, "wants credentials"),
            (without, both, "wants credentials"),
            (with, basic, "does not accept the user and password"),
            (with, ntlm, "offers negotiate and ntlm and no Basic"),
            (without, listed, "offers negotiate and ntlm and no Basic"),
            (
                with,
                "HTTP/1.1 407 No\r\n\r\n",
                "does not accept the user and password",
            ),
            (
                with,
                "HTTP/1.1 401 No\r\n\r\n",
                "does not accept the user and password",
            ),
            (
                with,
                "HTTP/1.1 403 No\r\n\r\n",
                "refuses the way to broker.example:443: 403",
            ),
            (
                with,
                "HTTP/1.1 503 No\r\n\r\n",
                "cannot connect to broker.example:443 itself: 503",
            ),
            (with, "SSH-2.0-OpenSSH\r\n\r\n", "does not speak HTTP"),
            (
                with,
                "HTTP/1.1 200 OK\r\n\r\nhello",
                "it sent more than its answer",
            ),
            (with, "", "broke off"),
        ] {
            let text = failure(url, answer).await;
            assert!(text.contains(expected), "{answer:?}: {text}");
            assert!(!text.contains("hunter2"), "{text}");
        }
    }
}

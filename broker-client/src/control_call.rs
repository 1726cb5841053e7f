//! Calls of the agent's own, to what hands out credentials: token services, secrets managers, a cloud's metadata.
//!
//! They go the way that the settings name, and nowhere else: no redirect is followed. Time and the answer's length are
//! bounded, and no error shows anything of what was sent or answered.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use broker_process::logging::chain;
use broker_process::tls::{self, ClientRoots, TlsPolicy};
use bytes::Bytes;
use http::header::{DATE, PROXY_AUTHORIZATION, RETRY_AFTER};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Client;
use reqwest::redirect::Policy;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::address_policy::{is_metadata, is_this_machine};
use crate::config::{Config, default_port};
use crate::proxy::{Proxies, Proxy};

/// Services in a company's own network may be old.
const TLS: TlsPolicy = TlsPolicy::LENIENT;
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long one call may take, from the name's look-up to the answer's end.
const LIMIT: Duration = Duration::from_secs(10);
/// Longest answer, in bytes: a token has a few thousand.
const MAX_ANSWER: usize = 128 * 1024;
/// Longest code of an error that is repeated, in bytes: `AWSOrganizationsNotInUseException` has 33.
const MAX_CODE: usize = 48;

/// Makes calls; clones share their connections' settings.
#[derive(Debug, Clone, Default)]
pub(crate) struct ControlCalls(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    proxies: Proxies,
    authorities: Vec<PathBuf>,
    /// One for each way, made when it is first needed: most agents need none.
    clients: Mutex<HashMap<(bool, Option<Proxy>), Client>>,
}

/// Which way a call takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// As the settings' proxies have it.
    Usual,
    /// Never through a proxy: what is called is this machine's own, under an address that is another machine's to a
    /// proxy.
    Direct,
}

/// Why there is no answer that can be used. Reads on from the name of what was called.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallError {
    #[error("cannot be called: {0}")]
    Unreachable(String),
    #[error("gave no answer within {} s", LIMIT.as_secs())]
    Timeout,
    #[error("answered with more than {MAX_ANSWER} bytes")]
    TooLong,
    #[error("answered {status}{}", code.as_ref().map_or(String::new(), |code| format!(": {code}")))]
    Refused {
        status: StatusCode,
        /// The service's own word for it.
        code: Option<String>,
        retry_after: Option<Duration>,
    },
    #[error("gave an answer that is not what is documented")]
    Unreadable,
}

impl CallError {
    /// How long the service wants to be left alone.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            Self::Unreachable(_) | Self::Timeout | Self::TooLong | Self::Unreadable => None,
        }
    }
}

impl ControlCalls {
    /// With these settings' proxies and authorities.
    pub(crate) fn new(config: &Config) -> Self {
        Self(Arc::new(Inner {
            proxies: config.proxies.clone(),
            authorities: config.origin_authorities(),
            clients: Mutex::default(),
        }))
    }

    /// The answer, whatever its status. The request's body is wiped by whoever made it.
    pub(crate) async fn send(
        &self,
        request: Request<Bytes>,
        way: Way,
    ) -> Result<Answer, CallError> {
        let client = self.client(request.uri(), way)?;
        let sent = request.body().clone();
        let request = reqwest::Request::try_from(request).map_err(unreachable)?;
        tokio::time::timeout(LIMIT, answer(client, request, sent))
            .await
            .unwrap_or(Err(CallError::Timeout))
    }

    fn client(&self, uri: &Uri, way: Way) -> Result<Client, CallError> {
        let is_tls = uri.scheme_str() == Some("https");
        let proxy = match way {
            Way::Direct => None,
            Way::Usual => {
                let host = uri.host().unwrap_or_default();
                let port = uri.port_u16().unwrap_or(default_port(is_tls));
                self.0.proxies.towards(is_tls, host, port)
            }
        };
        let key = (is_tls || proxy.is_some(), proxy.cloned());
        let clients = self.0.clients.lock();
        let mut clients = clients.unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let client = self.new_client(&key).map_err(CallError::Unreachable)?;
        clients.insert(key, client.clone());
        Ok(client)
    }

    fn new_client(&self, (is_tls, proxy): &(bool, Option<Proxy>)) -> Result<Client, String> {
        let roots = if *is_tls {
            ClientRoots::load(&self.0.authorities)
        } else {
            Ok(ClientRoots::none())
        };
        let roots = roots.map_err(|error| error.to_string())?;
        let tls = tls::client_config(&roots, TLS, &[]).map_err(|error| error.to_string())?;
        let mut builder = Client::builder()
            .tls_backend_preconfigured((*tls).clone())
            .redirect(Policy::none())
            .referer(false)
            .no_proxy()
            .connect_timeout(CONNECT)
            // Calls are minutes apart.
            .pool_max_idle_per_host(0)
            .user_agent(concat!("broker-client/", env!("CARGO_PKG_VERSION")));
        if let Some(proxy) = proxy {
            builder = builder.proxy(through(proxy)?);
        }
        builder.build().map_err(|error| chain(&error.without_url()))
    }
}

fn through(proxy: &Proxy) -> Result<reqwest::Proxy, String> {
    let all = reqwest::Proxy::all(proxy.to_string());
    let all = all.map_err(|error| chain(&error.without_url()))?;
    let mut headers = HeaderMap::new();
    proxy.inject(&mut headers);
    Ok(match headers.remove(PROXY_AUTHORIZATION) {
        Some(credential) => all.custom_http_auth(credential),
        None => all,
    })
}

async fn answer(
    client: Client,
    request: reqwest::Request,
    sent: Bytes,
) -> Result<Answer, CallError> {
    let mut response = client.execute(request).await.map_err(unreachable)?;
    // Room for all: a buffer that grows leaves copies.
    let mut body = Zeroizing::new(Vec::with_capacity(MAX_ANSWER));
    while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
        if chunk.len() > MAX_ANSWER - body.len() {
            return Err(CallError::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer {
        status: response.status(),
        sent,
        headers: std::mem::take(response.headers_mut()),
        body,
    })
}

/// Without the URL, which can hold secrets.
fn unreachable(error: reqwest::Error) -> CallError {
    if error.is_timeout() {
        return CallError::Timeout;
    }
    CallError::Unreachable(chain(&error.without_url()))
}

/// The media type of [`form`].
pub(crate) const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");

/// A form's fields, as a body that is wiped when it was sent.
pub(crate) fn form(fields: &[(&str, &str)]) -> Bytes {
    let length = |(name, value): &(&str, &str)| name.len() + value.len() * 3 + "=&".len();
    // Room for all: a text that grows leaves copies of secrets behind.
    let mut text = Zeroizing::new(String::with_capacity(fields.iter().map(length).sum()));
    for (name, value) in fields {
        let divider = if text.is_empty() { "" } else { "&" };
        text.extend([divider, name, "="]);
        text.extend(utf8_percent_encode(value, ESCAPED));
    }
    Bytes::from_owner(text)
}

/// All but letters, digits and `-._~`: what every reader of forms and URLs takes alike (RFC 3986 §2.3).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// As a form has it, in one allocation.
pub(crate) fn escaped(text: &str) -> Zeroizing<String> {
    let mut all = Zeroizing::new(String::with_capacity(text.len() * 3));
    all.extend(utf8_percent_encode(text, ESCAPED));
    all
}

/// Where secrets may be sent: an `https://` URL, or one of this machine or its cloud's metadata.
pub(crate) fn secure_uri(text: &str) -> Result<Uri, &'static str> {
    const NO_URL: &str = "is no URL (write https://host/path, without user and password)";
    let uri: Uri = text.parse().map_err(|_| NO_URL)?;
    let authority = uri.authority().map(Authority::as_str);
    if authority.is_none_or(|authority| authority.contains('@')) {
        return Err(NO_URL);
    }
    let host = uri.host().unwrap_or_default();
    match uri.scheme_str() {
        Some("https") => Ok(uri),
        Some("http") if is_this_machine(host) || is_metadata(host) => Ok(uri),
        Some("http") => Err(
            "is http://, which is for this machine alone, since secrets travel here (use https://)",
        ),
        _ => Err(NO_URL),
    }
}

/// What a service said.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// The request's body.
    sent: Bytes,
    headers: HeaderMap,
    body: Zeroizing<Vec<u8>>,
}

impl Answer {
    pub(crate) fn header(&self, name: &HeaderName) -> Option<&HeaderValue> {
        self.headers.get(name)
    }

    /// The body, as text.
    pub(crate) fn text(&self) -> Result<&str, CallError> {
        str::from_utf8(&self.body).map_err(|_| CallError::Unreadable)
    }

    /// The body, as JSON. What is wrong with it is not repeated: it would show values.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, CallError> {
        serde_json::from_slice(&self.body).map_err(|_| CallError::Unreadable)
    }

    /// The answer where it is a success. `code` finds the service's own word for an error.
    pub(crate) fn success(
        self,
        code: impl FnOnce(&Self) -> Option<String>,
    ) -> Result<Self, CallError> {
        if self.status.is_success() {
            return Ok(self);
        }
        // A service that repeats what it was sent must not have us show it: codes are words, and secrets are not.
        let is_word = |code: &String| {
            code.len() <= MAX_CODE
                && code.bytes().all(|b| b.is_ascii_alphabetic() || b == b'_')
                && !self
                    .sent
                    .windows(code.len().max(1))
                    .any(|sent| sent == code.as_bytes())
        };
        let retry_after = self.headers.get(RETRY_AFTER);
        let retry_after = retry_after.and_then(|value| value.to_str().ok()?.trim().parse().ok());
        Err(CallError::Refused {
            status: self.status,
            code: code(&self).filter(is_word),
            retry_after: retry_after.map(Duration::from_secs),
        })
    }

    /// How long it is until `end`, by the service's own clock where it shows it: this machine's may be wrong.
    pub(crate) fn until(&self, end: SystemTime) -> Duration {
        let date = self.headers.get(DATE).and_then(|date| date.to_str().ok());
        let now = date.and_then(|date| httpdate::parse_http_date(date).ok());
        end.duration_since(now.unwrap_or_else(SystemTime::now))
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// What comes of a call with `body` to a service that gives these bytes, or none.
    async fn call(body: &'static str, answer: Option<&str>) -> Result<Answer, CallError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}/", listener.local_addr().unwrap());
        let serving = async {
            let (mut tcp, _) = listener.accept().await.unwrap();
            tcp.read_u8().await.unwrap();
            if let Some(answer) = answer {
                // A client that has enough goes away.
                drop(tcp.write_all(answer.as_bytes()).await);
            }
            std::future::pending::<()>().await;
        };
        let request = Request::post(uri).body(Bytes::from_static(body.as_bytes()));
        let calls = ControlCalls::default();
        tokio::select! {
            answer = calls.send(request.unwrap(), Way::Usual) => answer,
            () = serving => panic!("it serves for ever"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_hangs_is_given_up() {
        assert_eq!(call("", None).await.err(), Some(CallError::Timeout));
    }

    #[tokio::test]
    async fn an_answer_has_a_longest_length() {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let chunk = format!("{:x}\r\n{}\r\n", MAX_ANSWER, "x".repeat(MAX_ANSWER));
        let whole = call("", Some(&format!("{head}{chunk}0\r\n\r\n"))).await;
        assert_eq!(whole.unwrap().text().unwrap().len(), MAX_ANSWER);
        let endless = call("", Some(&format!("{head}{chunk}{chunk}"))).await;
        assert_eq!(endless.err(), Some(CallError::TooLong));
    }

    #[tokio::test]
    async fn a_refusal_is_told_by_its_word_and_by_nothing_that_was_sent() {
        let answer = "HTTP/1.1 429 No\r\nRetry-After: 7\r\nContent-Length: 6\r\n\r\nsecret";
        let said = async |sent, word: &'static str| {
            let answer = call(sent, Some(answer)).await.unwrap();
            answer.success(|_| Some(word.to_owned())).err().unwrap()
        };
        let error = said("token=hunter", "SlowDown").await;
        assert_eq!(
            error.to_string(),
            "answered 429 Too Many Requests: SlowDown"
        );
        assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
        for word in ["hunter", "hunter2", "a\u{1b}[2J", "two words"] {
            let error = said("token=hunter", word).await;
            assert_eq!(error.to_string(), "answered 429 Too Many Requests");
        }
    }

    #[test]
    fn a_form_is_escaped_for_every_reader() {
        let body = form(&[("a", "c&d=é+"), ("e", "-._~")]);
        assert_eq!(body, "a=c%26d%3D%C3%A9%2B&e=-._~");
    }
}

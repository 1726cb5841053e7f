//! HTTP towards origins. What is sent is a [`Recorded<Allowed>`], byte for byte as it was judged.

mod connector;
mod tls;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use accept_rules::{Allowed, BodyRefusal, Origin};
use broker_protocol::{ErrorCode, MAX_STREAMS, hop};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::uri::PathAndQuery;
use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri,
    Version,
};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::capture_connection;
use hyper_util::client::legacy::{self as client, Client};
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::address_policy::AddressPolicy;
use crate::audit::{Outcome, OutcomeSlot, Recorded};
use crate::credential::{
    CredentialVersion, Unavailable, Unsignable, Unsigned, check_signable, remove_signature,
};
use crate::judged_body::BodyKeeper;
use crate::pause::Shut;
use crate::proxy::{Proxy, ProxyError, ProxyWay};
use crate::rules::Route;
use crate::upload::UploadBody;
use connector::{Connector, Handshake, KEEP_ALIVE, KEEP_ALIVE_ANSWER, Past};
pub(crate) use connector::{Steps, prepare_socket as prepare_origin_socket};
pub(crate) use tls::{OriginTls, TLS_POLICY, keep as keep_tls};

/// Idle connections are closed well before origins close them: nginx does after 75 s, others after 20.
const IDLE: Duration = Duration::from_secs(15);
/// No request begins on a connection that is older: its name may have another address by now, and its certificate may
/// have ended.
const MAX_AGE: Duration = Duration::from_secs(5 * 60);
/// An HTTP/2 origin's window for each stream, in bytes, as in the tunnel.
const H2_STREAM_WINDOW: u32 = 256 * 1024;
/// All streams' together, in bytes: what those of two tunnels, the default, can fill. Were it less, callers that stop
/// reading could fill it, and stop every other one of this origin's.
const H2_CONNECTION_WINDOW: u32 = 2 * MAX_STREAMS * H2_STREAM_WINDOW;
/// Header limit of answers, as on every listener.
const MAX_HEADER_BYTES: usize = 64 * 1024;

/// Why an origin gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OriginError {
    #[error("cannot connect: {0}")]
    Unreachable(String),
    #[error("no answer within {0:?} after the request was sent")]
    NoAnswer(Duration),
    #[error("nothing moved for {0:?} while the request was being sent")]
    UploadStalled(Duration),
    #[error("{0}")]
    Protocol(String),
    #[error("the target cannot be sent as it was judged")]
    Unsendable,
    #[error("nothing was sent without its credential: {0}")]
    NoCredential(Unavailable),
    #[error("the caller broke off its request")]
    CallerGone,
    #[error("it was paused meanwhile")]
    Paused(Shut),
    #[error("as many bodies as may be are being kept to be judged or signed")]
    NoPlace,
    #[error(
        "the body is longer than {limit} bytes, and is kept whole to be signed (rules.body-limit is the limit)"
    )]
    BodyTooLarge { limit: usize },
    #[error(transparent)]
    Unsignable(#[from] Unsignable),
    #[error("the answer is longer than its rule or `limits.response-size` allows")]
    TooLong,
}

impl OriginError {
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::Unreachable(_) => ErrorCode::OriginUnreachable,
            Self::NoAnswer(_) | Self::UploadStalled(_) => ErrorCode::OriginTimeout,
            Self::Protocol(_) => ErrorCode::OriginProtocol,
            Self::Unsendable => ErrorCode::BadTarget,
            Self::NoCredential(_) => ErrorCode::CredentialUnavailable,
            Self::CallerGone | Self::Unsignable(_) => ErrorCode::BadRequest,
            Self::Paused(_) => ErrorCode::AgentPaused,
            Self::NoPlace => ErrorCode::Overloaded,
            Self::BodyTooLarge { .. } => ErrorCode::BodyTooLarge,
            Self::TooLong => ErrorCode::ResponseTooLarge,
        }
    }
}

/// TLS towards an origin.
pub(crate) enum Tls {
    /// As for all that have no settings of their own.
    Usual(Arc<rustls::ClientConfig>),
    Own(Arc<OriginTls>),
}

/// One origin's HTTP client: its own connections, shared by all rules that name it.
#[derive(Clone)]
pub(crate) struct OriginClient {
    http: Http,
    steps: Steps,
    /// The proxy that reads the requests, where one does.
    reader: Option<Proxy>,
}

/// Its connections.
#[derive(Clone)]
enum Http {
    /// Nothing about them changes.
    Same(Arc<HttpClient>),
    Renewed(Arc<RenewedHttp>),
}

type HttpClient = Client<Connector, UploadBody>;

/// Connections by the TLS that is in use now: a change of certificates must not leave requests on connections that
/// were made by the old ones.
struct RenewedHttp {
    tls: Arc<OriginTls>,
    connector: Box<dyn Fn(Option<Handshake>) -> Connector + Send + Sync>,
    /// By the version of `tls`.
    client: Mutex<(u64, Arc<HttpClient>)>,
}

impl RenewedHttp {
    fn new(
        tls: Arc<OriginTls>,
        connector: impl Fn(Option<Handshake>) -> Connector + Send + Sync + 'static,
    ) -> Self {
        let (version, handshake) = tls.now();
        let client = settings().build(connector(Some(handshake)));
        Self {
            tls,
            connector: Box::new(connector),
            client: Mutex::new((version, Arc::new(client))),
        }
    }

    /// What is in flight by the client before ends there.
    fn now(&self) -> Arc<HttpClient> {
        let (version, handshake) = self.tls.now();
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if client.0 < version {
            let connector = (self.connector)(Some(handshake));
            *client = (version, Arc::new(settings().build(connector)));
        }
        Arc::clone(&client.1)
    }
}

impl OriginClient {
    /// `tls` is for an `https://` origin, `None` for the others. To those a proxy is no mere way: it gets the request,
    /// as every HTTP client does it and as proxies expect it (RFC 9112 §3.2.2); most refuse CONNECT to such ports. The
    /// target's bytes are the judged ones there too.
    pub(crate) fn new(
        tls: Option<Tls>,
        proxy: Option<ProxyWay>,
        addresses: AddressPolicy,
        connect_timeout: Duration,
    ) -> Self {
        let reader = proxy.as_ref().filter(|_| tls.is_none());
        let reader = reader.map(|way| way.proxy.clone());
        let connector = move |tls: Option<Handshake>| {
            Connector::new(tls, proxy.clone(), addresses.clone(), connect_timeout)
        };
        let (handshake, own) = match tls {
            None => (None, None),
            Some(Tls::Usual(config)) => (Some(config.into()), None),
            Some(Tls::Own(tls)) => (Some(tls.now().1), Some(tls)),
        };
        let first = connector(handshake);
        let steps = first.steps().clone();
        let http = match own {
            None => Http::Same(Arc::new(settings().build(first))),
            Some(tls) => Http::Renewed(Arc::new(RenewedHttp::new(tls, connector))),
        };
        Self {
            http,
            steps,
            reader,
        }
    }

    /// Whether connections of both begin with the same certificates.
    pub(crate) fn has_same_tls(&self, other: &Self) -> bool {
        match (&self.http, &other.http) {
            (Http::Same(_), Http::Same(_)) => true,
            (Http::Renewed(one), Http::Renewed(other)) => Arc::ptr_eq(&one.tls, &other.tls),
            (Http::Same(_), Http::Renewed(_)) | (Http::Renewed(_), Http::Same(_)) => false,
        }
    }

    fn http(&self) -> Arc<HttpClient> {
        match &self.http {
            Http::Same(client) => Arc::clone(client),
            Http::Renewed(http) => http.now(),
        }
    }

    /// The way that its connections take.
    pub(crate) fn steps(&self) -> &Steps {
        &self.steps
    }

    async fn request(
        &self,
        mut request: Request<UploadBody>,
    ) -> Result<Response<Incoming>, client::Error> {
        if let Some(proxy) = &self.reader {
            proxy.inject(request.headers_mut());
        }
        let connection = capture_connection(&mut request);
        let answer = self.http().request(request).await?;
        let past = answer.extensions().get::<Past>();
        if past.is_some_and(|past| past.age() + IDLE >= MAX_AGE)
            && let Some(connected) = connection.connection_metadata().as_ref()
        {
            connected.poison();
        }
        Ok(answer)
    }

    /// An answer, unless it is the proxy's own (RFC 9110 §15.5.8).
    fn unless_of_proxy(
        &self,
        answer: Response<Incoming>,
    ) -> Result<Response<Incoming>, OriginError> {
        match &self.reader {
            Some(proxy) if answer.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                let error = ProxyError::credentials_wanted(proxy, answer.headers());
                Err(OriginError::Unreachable(error.to_string()))
            }
            _ => Ok(answer),
        }
    }
}

fn settings() -> client::Builder {
    let mut settings = Client::builder(TokioExecutor::new());
    settings
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        // What was not sent is sent on another connection by us, under our own rule.
        .retry_canceled_requests(true)
        .http1_max_buf_size(MAX_HEADER_BYTES)
        .http2_initial_stream_window_size(H2_STREAM_WINDOW)
        .http2_initial_connection_window_size(H2_CONNECTION_WINDOW)
        .http2_max_header_list_size(u32::try_from(MAX_HEADER_BYTES).unwrap_or(u32::MAX))
        .http2_keep_alive_interval(KEEP_ALIVE)
        .http2_keep_alive_timeout(KEEP_ALIVE_ANSWER)
        .http2_keep_alive_while_idle(true);
    settings
}

/// A request on its way to the origin: allowed, recorded, and not sent yet.
pub(crate) struct Outgoing {
    uri: Uri,
    method: Method,
    headers: HeaderMap,
    /// The body, where it was judged.
    body: Option<Bytes>,
}

impl Outgoing {
    /// Joins the origin and the target literally; and the place where the outcome goes on record.
    pub(crate) fn new(
        recorded: Recorded<Allowed>,
        origin: &Origin,
    ) -> (Result<Self, OriginError>, OutcomeSlot) {
        let (allowed, slot) = recorded.into_parts();
        let parts = allowed.into_parts();
        let outgoing = join(origin, parts.target.as_str()).map(|uri| {
            let mut outgoing = Self {
                uri,
                method: parts.target.method().clone(),
                headers: parts.headers,
                body: None,
            };
            if let Some(body) = parts.body {
                outgoing.set_body(body);
            }
            outgoing
        });
        (outgoing.ok_or(OriginError::Unsendable), slot)
    }

    /// Takes in all of the body, unless it is there: a signature is of the whole request. What its caller signed in a
    /// way that is not spoken is refused.
    pub(crate) async fn prepare_to_sign(
        &mut self,
        body: Option<Incoming>,
        keeper: &BodyKeeper,
    ) -> Result<(), OriginError> {
        check_signable(&self.uri, &self.headers)?;
        if let (None, Some(body)) = (&self.body, body) {
            let kept = keeper.keep(body).await.map_err(|why| match why {
                BodyRefusal::TooLarge => OriginError::BodyTooLarge {
                    limit: keeper.limit(),
                },
                BodyRefusal::NoPlace => OriginError::NoPlace,
                BodyRefusal::Incomplete => OriginError::CallerGone,
            })?;
            self.set_body(kept);
        }
        Ok(())
    }

    fn set_body(&mut self, body: Bytes) {
        if !body.is_empty() {
            self.headers.insert(CONTENT_LENGTH, body.len().into());
        }
        self.body = Some(body);
    }

    /// The body that was judged; none where the rules did not ask for it.
    pub(crate) fn take_body(&mut self) -> Option<Bytes> {
        self.body.take()
    }

    /// Puts the rule's credential in, and takes out what would act beside it or against the decision.
    pub(crate) async fn inject(
        &mut self,
        route: &Route,
        outcome: &mut Outcome,
    ) -> Result<Option<CredentialVersion>, OriginError> {
        let removed =
            hop::remove_before_origin(&mut self.headers, route.acts_as_agent(), &route.kept);
        outcome.removed_request_headers.extend(removed);
        let Some(credential) = &route.credential else {
            // Nothing replaces the caller's own, which would speak beside the agent's certificate.
            if route.shows_certificate && self.headers.remove(AUTHORIZATION).is_some() {
                outcome.removed_request_headers.push(AUTHORIZATION);
            }
            return Ok(None);
        };
        let version = credential.now().await.map_err(OriginError::NoCredential)?;
        if credential.signs() {
            let removed = remove_signature(&mut self.headers, &route.kept.names);
            outcome.removed_request_headers.extend(removed);
        }
        let body = self.body.clone().unwrap_or_default();
        self.put_in(&version, &body);
        outcome.injected = true;
        Ok(Some(version))
    }

    /// What its head has.
    pub(crate) fn header_names(&self) -> Box<[HeaderName]> {
        self.headers.keys().cloned().collect()
    }

    /// Whether it may be sent again: it is safe, and there is nothing of a body that would have to be kept
    /// (RFC 9110 §9.2.2).
    pub(crate) fn is_repeatable(&self, body: &UploadBody) -> bool {
        body.is_end_stream() && matches!(self.method, Method::GET | Method::HEAD)
    }

    /// Puts this version in, in place of the one that was refused; what is repeated has no body.
    pub(crate) fn replace_credential(&mut self, version: &CredentialVersion) {
        self.put_in(version, b"");
    }

    fn put_in(&mut self, version: &CredentialVersion, body: &[u8]) {
        version.inject(Unsigned {
            method: &self.method,
            uri: &self.uri,
            headers: &mut self.headers,
            body,
        });
    }

    /// Sends it, and once more where nothing can have been done with the first.
    pub(crate) async fn send(
        &self,
        client: &OriginClient,
        body: UploadBody,
        outcome: &mut Outcome,
    ) -> Result<Response<Incoming>, OriginError> {
        let is_repeatable = self.is_repeatable(&body);
        let mut result = client.request(self.request(body)).await;
        if is_repeatable && result.as_ref().is_err_and(closed_while_reused) {
            outcome.retried = true;
            result = client.request(self.request(UploadBody::empty())).await;
        }
        result
            .map_err(|error| classify(&error))
            .and_then(|answer| client.unless_of_proxy(answer))
            .and_then(accept)
    }

    fn request(&self, body: UploadBody) -> Request<UploadBody> {
        request(
            self.uri.clone(),
            self.method.clone(),
            self.headers.clone(),
            body,
        )
    }
}

fn join(origin: &Origin, target: &str) -> Option<Uri> {
    let path = format!("{}{target}", origin.path());
    let path_and_query = PathAndQuery::try_from(path.as_str()).ok()?;
    // What was judged is what is sent, or nothing is.
    if path_and_query.as_str() != path {
        return None;
    }
    Uri::builder()
        .scheme(origin.scheme().clone())
        .authority(origin.authority().clone())
        .path_and_query(path_and_query)
        .build()
        .ok()
}

fn request<B: Body>(uri: Uri, method: Method, mut headers: HeaderMap, body: B) -> Request<B> {
    // Without this, hyper sends a GET or HEAD without its body; on HTTP/2 it takes the header out again.
    if !body.is_end_stream() && !headers.contains_key(CONTENT_LENGTH) {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let mut request = Request::new(body);
    *request.uri_mut() = uri;
    *request.method_mut() = method;
    *request.headers_mut() = headers;
    *request.version_mut() = Version::HTTP_11;
    request
}

/// Marks the connection as used, and refuses an answer that nobody asked for or that the tunnel would not take.
fn accept(response: Response<Incoming>) -> Result<Response<Incoming>, OriginError> {
    if let Some(past) = response.extensions().get::<Past>() {
        past.note_answer();
    }
    if response.status().is_informational() {
        return Err(OriginError::Protocol(
            "the origin switched protocols without being asked".into(),
        ));
    }
    // The client's own limit is one of its buffer, and lets through what has come in one piece.
    if header_bytes(response.headers()) > MAX_HEADER_BYTES {
        return Err(OriginError::Protocol(format!(
            "the answer's headers have more than {MAX_HEADER_BYTES} bytes"
        )));
    }
    Ok(response)
}

fn header_bytes(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len())
        .sum()
}

/// Whether a connection that had already served a request was closed before any byte of this answer.
fn closed_while_reused(error: &hyper_util::client::legacy::Error) -> bool {
    let was_used = error.connect_info().is_some_and(|info| {
        let mut extensions = Extensions::new();
        info.get_extras(&mut extensions);
        extensions.get::<Past>().is_some_and(Past::has_answered)
    });
    was_used
        && hyper_cause(error).is_some_and(|error| {
            error.is_incomplete_message() || error.is_canceled() || is_reset(error)
        })
}

fn is_reset(error: &hyper::Error) -> bool {
    causes(error)
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| {
            matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
            )
        })
}

fn classify(error: &hyper_util::client::legacy::Error) -> OriginError {
    let text = causes(error)
        .skip(1)
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ");
    if error.is_connect() {
        return OriginError::Unreachable(text);
    }
    match hyper_cause(error) {
        Some(cause) if cause.is_user() || cause.is_body_write_aborted() => OriginError::CallerGone,
        Some(cause) if cause.is_incomplete_message() => {
            OriginError::Protocol("the connection was closed before the answer was complete".into())
        }
        _ => OriginError::Protocol(text),
    }
}

fn hyper_cause(error: &hyper_util::client::legacy::Error) -> Option<&hyper::Error> {
    causes(error).find_map(|cause| cause.downcast_ref::<hyper::Error>())
}

fn causes<'e>(
    error: &'e (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'e (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicU32, Ordering};

    use bytes::Bytes;
    use futures_util::stream;
    use http_body::Frame;
    use http_body_util::{BodyExt as _, Full, StreamBody};
    use hyper::server::conn::{http1, http2};
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::net::TcpListener;

    use super::*;

    /// An origin's port, and a URL of it.
    async fn listen() -> (TcpListener, Uri) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        (listener, format!("http://{address}/").parse().unwrap())
    }

    #[tokio::test]
    async fn a_watch_ends_when_its_http2_origin_has_vanished() {
        let (listener, uri) = listen().await;
        let client = settings().http2_only(true).build(Connector::new(
            None,
            None,
            AddressPolicy::default(),
            KEEP_ALIVE,
        ));
        let request = request(uri, Method::GET, HeaderMap::new(), UploadBody::empty());
        let answer = client.request(request);
        let mut answer = std::pin::pin!(answer);
        let (tcp, _) = tokio::select! {
            accepted = listener.accept() => accepted.unwrap(),
            _ = &mut answer => panic!("nobody answers yet"),
        };
        let service = service_fn(|_| async {
            let silence = stream::pending::<Result<Frame<Bytes>, Infallible>>();
            Ok::<_, Infallible>(Response::new(StreamBody::new(silence)))
        });
        let origin = http2::Builder::new(TokioExecutor::new());
        let mut origin = std::pin::pin!(origin.serve_connection(TokioIo::new(tcp), service));
        let answer = tokio::select! {
            answer = answer => answer.unwrap(),
            _ = &mut origin => panic!("the origin stays"),
        };

        // From here on the origin is not polled: it is still connected, and does nothing.
        tokio::time::pause();
        let mut body = answer.into_body();
        let frame = tokio::time::timeout(KEEP_ALIVE * 3, body.frame());

        frame.await.unwrap().unwrap().unwrap_err();
    }

    #[tokio::test]
    async fn a_body_of_unknown_length_is_sent_whatever_the_method() {
        for (is_http2, method) in [
            (false, Method::GET),
            (false, Method::HEAD),
            (false, Method::POST),
            (true, Method::GET),
            (true, Method::POST),
        ] {
            let (listener, uri) = listen().await;
            let client = settings().http2_only(is_http2).build(Connector::new(
                None,
                None,
                AddressPolicy::default(),
                KEEP_ALIVE,
            ));
            let frames = [Ok::<_, Infallible>(Frame::data(Bytes::from("body")))];
            let body = StreamBody::new(stream::iter(frames));
            let request = request(uri, method.clone(), HeaderMap::new(), body);
            let origin = async {
                let (tcp, _) = listener.accept().await.unwrap();
                let service = service_fn(|request: Request<Incoming>| async {
                    let (head, body) = request.into_parts();
                    let framing = head.headers.get(TRANSFER_ENCODING);
                    let mut answer = Response::builder();
                    if let Some(framing) = framing {
                        answer = answer.header("x-framing", framing);
                    }
                    let body = body.collect().await?.to_bytes();
                    let answer = answer.header("x-body", body.as_ref());
                    Ok::<_, hyper::Error>(answer.body(Full::new(Bytes::new())).unwrap())
                });
                let tcp = TokioIo::new(tcp);
                if is_http2 {
                    let builder = http2::Builder::new(TokioExecutor::new());
                    drop(builder.serve_connection(tcp, service).await);
                } else {
                    drop(http1::Builder::new().serve_connection(tcp, service).await);
                }
                std::future::pending::<()>().await;
            };
            let answer = tokio::select! {
                answer = client.request(request) => answer.unwrap(),
                () = origin => panic!("the origin stays"),
            };
            assert_eq!(answer.headers()["x-body"], "body", "{method} {is_http2}");
            let framing = answer.headers().get("x-framing").map(HeaderValue::as_bytes);
            let chunked = (!is_http2).then_some(b"chunked".as_slice());
            assert_eq!(framing, chunked, "{method} {is_http2}");
        }
    }

    #[tokio::test]
    async fn a_connection_is_given_up_before_it_is_five_minutes_old() {
        let (listener, uri) = listen().await;
        let client = OriginClient::new(None, None, AddressPolicy::default(), KEEP_ALIVE);
        let connections = AtomicU32::new(0);
        let serve = async {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                connections.fetch_add(1, Ordering::Relaxed);
                let service = service_fn(|_| async {
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
                });
                let origin = http1::Builder::new();
                drop(origin.serve_connection(TokioIo::new(tcp), service).await);
            }
        };
        let step = Duration::from_secs(10);
        let ask = async {
            let mut oldest = Duration::ZERO;
            while connections.load(Ordering::Relaxed) < 2 {
                let request = Request::get(uri.clone()).body(UploadBody::empty());
                let answer = client.request(request.unwrap()).await.unwrap();
                oldest = oldest.max(answer.extensions().get::<Past>().unwrap().age());
                answer.into_body().collect().await.unwrap();
                tokio::time::pause();
                tokio::time::advance(step).await;
                tokio::time::resume();
            }
            oldest
        };

        let oldest = tokio::select! {
            oldest = ask => oldest,
            () = serve => panic!("the origin stays"),
        };

        assert!(oldest < MAX_AGE, "{oldest:?}");
        assert!(oldest > MAX_AGE - IDLE - step, "{oldest:?}");
    }

    #[test]
    fn the_streams_of_the_default_tunnels_cannot_fill_a_connections_window() {
        let tunnels = 2;
        assert_eq!(
            H2_CONNECTION_WINDOW / H2_STREAM_WINDOW,
            tunnels * MAX_STREAMS
        );
    }
}

//! Connections to origins: directly or through a proxy, TLS included, within a time limit.

use std::error::Error;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use broker_process::tls::{self, ClientRoots};
use http::Uri;
use http::uri::Scheme;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{
    FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream,
};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tower_service::Service;

use crate::address_policy::{AddressPolicy, without_brackets};
use crate::config::default_port;
use crate::origin::TLS_POLICY;
use crate::peer::{TlsPeer, tls_hint};
use crate::proxy::ProxyWay;
use crate::tcp::{self, Resolve, Transport};

/// How long a peer may take to refuse a client certificate, where somebody wants to know.
const REFUSAL: Duration = Duration::from_secs(1);

/// How long a connection may be silent before its origin is asked whether it is still there: a watch may wait for
/// ever, and an origin that vanished says nothing.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// How long it may take to say so.
pub(super) const KEEP_ALIVE_ANSWER: Duration = Duration::from_secs(10);
/// How often TCP asks again before it gives the connection up.
const TCP_KEEP_ALIVE_TRIES: u32 = 3;

type BoxError = Box<dyn Error + Send + Sync>;
type Connecting<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// How TLS begins on a connection.
#[derive(Clone)]
pub(super) struct Handshake {
    pub(super) config: Arc<rustls::ClientConfig>,
    /// In the origin's certificate, where it is not the origin's own.
    pub(super) server_name: Option<ServerName<'static>>,
}

impl From<Arc<rustls::ClientConfig>> for Handshake {
    fn from(config: Arc<rustls::ClientConfig>) -> Self {
        Self {
            config,
            server_name: None,
        }
    }
}

/// Connects within a time limit, TLS included, and keeps a note of what each connection has seen.
#[derive(Clone)]
pub(super) struct Connector {
    inner: HttpsConnector<Ways>,
    steps: Steps,
}

impl Connector {
    pub(super) fn new(
        tls: Option<Handshake>,
        proxy: Option<ProxyWay>,
        addresses: AddressPolicy,
        timeout: Duration,
    ) -> Self {
        let config = tls
            .as_ref()
            .map_or_else(no_tls, |tls| (*tls.config).clone());
        let mut https = HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_or_http();
        if let Some(name) = tls.as_ref().and_then(|tls| tls.server_name.clone()) {
            https = https.with_server_name_resolver(FixedServerNameResolver::new(name));
        }
        let ways = Ways {
            proxy,
            addresses,
            resolve: tcp::resolve,
            timeout,
        };
        let https = https.enable_http1().enable_http2();
        Self {
            inner: https.wrap_connector(ways.clone()),
            steps: Steps { ways, tls },
        }
    }

    pub(super) fn steps(&self) -> &Steps {
        &self.steps
    }
}

/// What a connection is made of, one step after the other, for who wants to know how far it leads.
#[derive(Clone)]
pub(crate) struct Steps {
    ways: Ways,
    tls: Option<Handshake>,
}

impl Steps {
    pub(crate) fn proxy(&self) -> Option<&ProxyWay> {
        self.ways.proxy.as_ref()
    }

    /// How long all of them may take together.
    pub(crate) fn limit(&self) -> Duration {
        self.ways.timeout
    }

    /// The addresses that the origin's name has and that are permitted; nobody asks for them where a proxy leads there.
    pub(crate) async fn addresses(&self, origin: &Uri) -> Result<Vec<SocketAddr>, BoxError> {
        let (host, port) = host_and_port(origin)?;
        self.in_time(self.ways.permitted(host, port)).await
    }

    /// A connection to the origin's port, or to the proxy that reads what is for it.
    pub(crate) async fn connect(&self, origin: &Uri) -> Result<Box<dyn Transport>, BoxError> {
        let way = self.in_time(self.ways.clone().call(origin.clone())).await?;
        Ok(way.io.into_inner())
    }

    /// TLS on that connection, where the origin has it.
    pub(crate) async fn secure(
        &self,
        origin: &Uri,
        connection: Box<dyn Transport>,
    ) -> Result<Option<TlsPeer>, BoxError> {
        let Some(tls) = &self.tls else {
            return Ok(None);
        };
        let name = match &tls.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(without_brackets(host_and_port(origin)?.0).to_owned())?,
        };
        let connecting = TlsConnector::from(Arc::clone(&tls.config)).connect(name, connection);
        let handshake = async {
            connecting.await.map_err(|error| {
                let hint = tls_hint(&error, "CA_CERT");
                BoxError::from(format!("{error}{hint}"))
            })
        };
        let mut connection = self.in_time(handshake).await?;
        if tls.config.client_auth_cert_resolver.has_certs() {
            accepted(&mut connection).await?;
        }
        Ok(Some(TlsPeer::of(connection.get_ref().1)))
    }

    async fn in_time<T>(
        &self,
        step: impl Future<Output = Result<T, BoxError>>,
    ) -> Result<T, BoxError> {
        let limit = self.limit();
        match tokio::time::timeout(limit, step).await {
            Ok(ended) => ended,
            Err(_) => {
                let through = self.proxy().map(|way| &way.proxy);
                let through = through.map(|proxy| format!(" through the proxy {proxy}"));
                Err(format!(
                    "not connected within {limit:?}{}",
                    through.unwrap_or_default()
                )
                .into())
            }
        }
    }
}

/// Waits for a peer's refusal of our certificate: in TLS 1.3 it comes once the handshake is over on this side
/// (RFC 8446 §4.4.2.4). One that asks for no certificate, or judges it by the first request alone, says nothing here.
async fn accepted(connection: &mut (impl AsyncRead + Unpin)) -> Result<(), BoxError> {
    match tokio::time::timeout(REFUSAL, connection.read(&mut [0])).await {
        Ok(Err(error)) => Err(format!("it refuses the client certificate: {error}").into()),
        Ok(Ok(0)) => Err("it closes the connection once it has seen the client certificate".into()),
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}

fn host_and_port(uri: &Uri) -> Result<(&str, u16), BoxError> {
    let host = uri.host().ok_or("the origin has no host")?;
    let is_tls = uri.scheme() == Some(&Scheme::HTTPS);
    Ok((host, uri.port_u16().unwrap_or(default_port(is_tls))))
}

/// A client that only ever sees `http://` origins trusts nobody.
fn no_tls() -> rustls::ClientConfig {
    let config = tls::client_config(&ClientRoots::none(), TLS_POLICY, &[]);
    Arc::unwrap_or_clone(config.expect("rustls speaks the versions of this policy"))
}

impl Service<Uri> for Connector {
    type Response = OriginConnection;
    type Error = BoxError;
    type Future = Connecting<OriginConnection>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let steps = self.steps.clone();
        let connecting = self.inner.call(uri);
        Box::pin(async move {
            let io = steps.in_time(connecting).await?;
            Ok(OriginConnection {
                io,
                past: Past::begin(),
            })
        })
    }
}

/// The way to an origin's port, or to the proxy that reads what is for it.
#[derive(Clone)]
struct Ways {
    proxy: Option<ProxyWay>,
    addresses: AddressPolicy,
    resolve: Resolve,
    timeout: Duration,
}

impl Ways {
    /// To one of the addresses that the name has now and that are permitted: they are judged here, after the last
    /// look-up, so that no later one can lead elsewhere.
    async fn directly(&self, host: &str, port: u16) -> Result<TcpStream, BoxError> {
        let permitted = self.permitted(host, port).await?;
        Ok(tcp::connect_to(permitted, prepare_socket).await?)
    }

    async fn permitted(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, BoxError> {
        let found = (self.resolve)(without_brackets(host).to_owned(), port).await?;
        let mut permitted = Vec::with_capacity(found.len());
        let mut refused = None;
        for address in found {
            match self.addresses.permit(host, address.ip()) {
                Ok(()) => permitted.push(address),
                Err(why) => refused = Some(why),
            }
        }
        match refused {
            Some(why) if permitted.is_empty() => Err(why.into()),
            _ => Ok(permitted),
        }
    }
}

impl Service<Uri> for Ways {
    type Response = Way;
    type Error = BoxError;
    type Future = Connecting<Way>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let ways = self.clone();
        Box::pin(async move {
            let proxy = &ways.proxy;
            let (host, port) = host_and_port(&uri)?;
            let is_tls = uri.scheme() == Some(&Scheme::HTTPS);
            let io: Box<dyn Transport> = match proxy {
                None => Box::new(ways.directly(host, port).await?),
                Some(proxy) if is_tls => {
                    proxy
                        .reach_through(&format!("{host}:{port}"), ways.timeout)
                        .await?
                }
                Some(proxy) => proxy.reach(ways.timeout).await?,
            };
            Ok(Way {
                io: TokioIo::new(io),
                is_read_by_proxy: proxy.is_some() && !is_tls,
            })
        })
    }
}

pub(crate) fn prepare_socket(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let keep_alive = TcpKeepalive::new()
        .with_time(KEEP_ALIVE)
        .with_interval(KEEP_ALIVE_ANSWER)
        .with_retries(TCP_KEEP_ALIVE_TRIES);
    SockRef::from(tcp).set_tcp_keepalive(&keep_alive)
}

/// What a connection has seen; clones are of the same one.
#[derive(Clone)]
pub(super) struct Past {
    opened: Instant,
    has_answered: Arc<AtomicBool>,
}

impl Past {
    fn begin() -> Self {
        Self {
            opened: Instant::now(),
            has_answered: Arc::default(),
        }
    }

    /// How old it is.
    pub(super) fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    pub(super) fn note_answer(&self) {
        self.has_answered.store(true, Ordering::Relaxed);
    }

    /// Whether it has already answered a request.
    pub(super) fn has_answered(&self) -> bool {
        self.has_answered.load(Ordering::Relaxed)
    }
}

struct Way {
    io: TokioIo<Box<dyn Transport>>,
    /// Requests then name their origin in full.
    is_read_by_proxy: bool,
}

impl Connection for Way {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.is_read_by_proxy)
    }
}

/// A connection to an origin.
pub(super) struct OriginConnection {
    io: MaybeHttpsStream<Way>,
    past: Past,
}

impl Connection for OriginConnection {
    fn connected(&self) -> Connected {
        self.io.connected().extra(self.past.clone())
    }
}

/// Reads and writes what is in the field `io`.
macro_rules! read_and_write_io {
    ($connection:ty) => {
        impl Read for $connection {
            fn poll_read(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: ReadBufCursor<'_>,
            ) -> Poll<io::Result<()>> {
                Pin::new(&mut self.io).poll_read(cx, buf)
            }
        }

        impl Write for $connection {
            fn poll_write(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &[u8],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.io).poll_write(cx, buf)
            }

            fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                Pin::new(&mut self.io).poll_flush(cx)
            }

            fn poll_shutdown(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
            ) -> Poll<io::Result<()>> {
                Pin::new(&mut self.io).poll_shutdown(cx)
            }

            fn is_write_vectored(&self) -> bool {
                self.io.is_write_vectored()
            }

            fn poll_write_vectored(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
            }
        }
    };
}

read_and_write_io!(Way);
read_and_write_io!(OriginConnection);

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use futures_util::FutureExt as _;
    use futures_util::future::BoxFuture;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_name_that_leads_elsewhere_later_is_not_followed_there() {
        static IS_REBOUND: AtomicBool = AtomicBool::new(false);
        fn rebinding(_: String, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
            let last = if IS_REBOUND.load(Ordering::Relaxed) {
                1
            } else {
                2
            };
            let address = (Ipv4Addr::new(127, 0, 0, last), port).into();
            Box::pin(async move { Ok(vec![address]) })
        }
        // Stands for the addresses outside that no test can listen at.
        let allowed = "127.0.0.2/32".parse().unwrap();
        let mut ways = Ways {
            proxy: None,
            addresses: AddressPolicy::naming(vec![allowed]),
            resolve: rebinding,
            timeout: KEEP_ALIVE,
        };
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let uri: Uri = format!("http://tool.test:{port}").parse().unwrap();

        ways.call(uri.clone()).await.map(drop).unwrap();
        listener.accept().await.unwrap();
        IS_REBOUND.store(true, Ordering::Relaxed);
        let refused = ways.call(uri).await.map(drop).unwrap_err().to_string();

        let expected = "127.0.0.1 is this machine itself, where no origin may lead";
        assert!(refused.starts_with(expected), "{refused}");
        assert!(listener.accept().now_or_never().is_none());
    }

    #[tokio::test]
    async fn of_a_names_addresses_those_that_are_refused_are_left_out() {
        fn mixed(_: String, port: u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
            let addresses = ["169.254.169.254", "127.0.0.2"];
            let addresses =
                addresses.map(|address| (address.parse::<IpAddr>().unwrap(), port).into());
            Box::pin(async move { Ok(addresses.into()) })
        }
        let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let ways = Ways {
            proxy: None,
            addresses: AddressPolicy::default(),
            resolve: mixed,
            timeout: KEEP_ALIVE,
        };

        let tcp = ways.directly("localhost", address.port()).await.unwrap();

        assert_eq!(tcp.peer_addr().unwrap(), address);
    }

    #[tokio::test]
    async fn tcp_asks_after_an_origin_that_is_silent() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();

        let tcp = tcp::connect_to(vec![address], prepare_socket).await;

        let tcp = tcp.unwrap();
        let socket = SockRef::from(&tcp);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEP_ALIVE);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEP_ALIVE_ANSWER);
        assert_eq!(
            socket.tcp_keepalive_retries().unwrap(),
            TCP_KEEP_ALIVE_TRIES
        );
    }
}

//! The server's life: prepare, listen, drain, end.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use broker_process::listener::{self, Listening, Protocols};
use broker_process::tls::TlsError;
use broker_protocol::{StreamExecutor, TenantId};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::Admission;
use crate::agents::{InMemory, Registry};
use crate::callers::Callers;
use crate::config::Config;
use crate::{admin_listener, agent_listener, caller_listener};

/// Connections of agents at once: each holds a tunnel for days.
const MAX_AGENT_CONNECTIONS: usize = 4096;
/// Connections of callers at once; Backstage's proxy opens one for each request.
const MAX_CALLER_CONNECTIONS: usize = 4096;
/// Connections to the admin listener at once.
const MAX_ADMIN_CONNECTIONS: usize = 64;

/// The bound sockets.
pub struct Listeners {
    /// Where agents dial in.
    pub agents: TcpListener,
    /// Where callers send requests.
    pub callers: TcpListener,
    /// Health.
    pub admin: TcpListener,
}

/// What all requests share.
pub(crate) struct State {
    pub(crate) registry: Arc<dyn Registry>,
    pub(crate) callers: Callers,
    pub(crate) admission: Admission,
    pub(crate) node: String,
    pub(crate) max_streams: u32,
    pub(crate) response_timeout: Duration,
    pub(crate) stall: Duration,
    domain: Option<String>,
    /// Cancelled when the server has been asked to end.
    pub(crate) draining: CancellationToken,
    /// Owns the tunnels' tasks.
    pub(crate) tunnels: TaskTracker,
}

impl State {
    /// The tenant that a host name says: `<tenant>.<domain>`.
    pub(crate) fn host_tenant(&self, host: Option<&str>) -> Option<TenantId> {
        let host = host?.to_ascii_lowercase();
        host.strip_suffix(self.domain.as_deref()?)?
            .strip_suffix('.')?
            .parse()
            .ok()
    }
}

/// A server whose settings are all good, and which listens nowhere yet.
pub struct Server {
    state: Arc<State>,
    agents_tls: Option<TlsAcceptor>,
    callers_tls: Option<TlsAcceptor>,
    drain_timeout: Duration,
}

impl Server {
    /// Loads the certificates that `config` names.
    ///
    /// # Errors
    /// If one of them cannot be used.
    pub fn new(config: Config) -> Result<Self, TlsError> {
        let agents_tls = config.agents_listener.acceptor(&[b"http/1.1"])?;
        let callers_tls = config.callers_listener.acceptor(&[b"h2", b"http/1.1"])?;
        let state = State {
            registry: Arc::new(InMemory::default()),
            callers: Callers::new(&config.tenants),
            admission: Admission::new(&config.tenants),
            node: config.node,
            max_streams: config.max_streams,
            response_timeout: config.response_timeout,
            stall: config.stall_timeout,
            domain: config.domain,
            draining: CancellationToken::new(),
            tunnels: TaskTracker::new(),
        };
        Ok(Self {
            state: Arc::new(state),
            agents_tls,
            callers_tls,
            drain_timeout: config.drain_timeout,
        })
    }

    /// Serves until `shutdown`, then drains: readiness goes off, agents are told to connect elsewhere, what is in
    /// flight finishes within the drain time-out, and the rest is cut.
    pub async fn run(self, listeners: Listeners, shutdown: impl Future<Output = ()>) {
        let Self {
            state,
            agents_tls,
            callers_tls,
            drain_timeout,
        } = self;
        let accepting = TaskTracker::new();
        let requests = TaskTracker::new();
        let admin_requests = TaskTracker::new();
        // Agents and callers are accepted until the drain begins; health is told until the very end.
        let stop_admin = CancellationToken::new();

        let of_agents = Arc::clone(&state);
        drop(accepting.spawn(listener::serve(
            Listening {
                listener: listeners.agents,
                tls: agents_tls,
                protocols: Protocols::<StreamExecutor>::Http1WithUpgrades,
                max_connections: MAX_AGENT_CONNECTIONS,
                stall: state.stall,
                tasks: requests.clone(),
            },
            state.draining.clone(),
            move |request, connection| {
                let state = Arc::clone(&of_agents);
                async move { agent_listener::answer(&state, request, connection).await }
            },
        )));
        let of_callers = Arc::clone(&state);
        drop(accepting.spawn(listener::serve(
            Listening {
                listener: listeners.callers,
                tls: callers_tls,
                protocols: Protocols::Http1AndHttp2(StreamExecutor::new(
                    requests.clone(),
                    state.stall,
                )),
                max_connections: MAX_CALLER_CONNECTIONS,
                stall: state.stall,
                tasks: requests.clone(),
            },
            state.draining.clone(),
            move |request, connection| {
                let state = Arc::clone(&of_callers);
                async move { caller_listener::answer(&state, request, connection).await }
            },
        )));
        let of_admin = Arc::clone(&state);
        drop(accepting.spawn(listener::serve(
            Listening {
                listener: listeners.admin,
                tls: None,
                protocols: Protocols::<StreamExecutor>::Http1WithUpgrades,
                max_connections: MAX_ADMIN_CONNECTIONS,
                stall: state.stall,
                tasks: admin_requests.clone(),
            },
            stop_admin.clone(),
            move |request, _| {
                let state = Arc::clone(&of_admin);
                async move { admin_listener::answer(&state, &request) }
            },
        )));

        shutdown.await;
        drain(&state, &requests, drain_timeout).await;
        stop_admin.cancel();
        accepting.close();
        admin_requests.close();
        let rest = async {
            accepting.wait().await;
            admin_requests.wait().await;
        };
        // Half a request for health holds up nobody's end.
        drop(tokio::time::timeout(CUT, rest).await);
    }
}

/// Lets everything finish within `limit`, then ends it.
async fn drain(state: &State, requests: &TaskTracker, limit: Duration) {
    state.draining.cancel();
    requests.close();
    state.tunnels.close();
    let tunnels = state.registry.all();
    let ended = tokio::time::timeout(limit, async {
        let drains = tunnels
            .iter()
            .map(|(agent, tunnel)| agent_listener::drain(tunnel, agent));
        futures_util::future::join_all(drains).await;
        requests.wait().await;
        state.tunnels.wait().await;
    });
    if ended.await.is_err() {
        tracing::warn!(
            "requests were still in flight after {} s; they are cut",
            limit.as_secs()
        );
        // A tunnel that ends fails its requests, and each caller's answer or connection with them.
        for (_, tunnel) in state.registry.all() {
            agent_listener::cut(&tunnel.close);
        }
        drop(tokio::time::timeout(CUT, state.tunnels.wait()).await);
    }
}

/// How long a cut may take to reach everyone before the process ends anyway.
const CUT: Duration = Duration::from_secs(3);

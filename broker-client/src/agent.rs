//! The agent's life: prepare, keep its tunnels, drain, end.

mod cuts;
mod tunnels;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use broker_process::tls::TlsError;
use broker_protocol::{AgentHello, MAX_TUNNELS};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::audit::{AuditLog, AuditOpenError, AuditUnavailable, AuditWriter, ConnectionStart};
use crate::config::{Config, Connection};
use crate::control::{ControlError, ControlSocket};
use crate::credential::{FingerprintKey, Sources};
use crate::dial::Dialer;
use crate::instance::{Instance, InstanceError};
use crate::judged_body::BodyKeeper;
use crate::limits::Limiter;
use crate::local;
use crate::pause::{self, Gate, Pauses};
use crate::reload::{self, ReloadHandle, Reloader};
use crate::rules::{Rules, RulesError, RulesInForce};
use crate::status::{About, ConnectionBoard, ConnectionStatus, StatusBoard};

use self::tunnels::Tunnels;

pub(crate) use self::cuts::{BROKEN, CUT_REGULARLY};
pub(crate) use self::tunnels::{FIRST_BYTES, held_back};

/// How long cut streams may take to end.
const CUT: Duration = Duration::from_secs(3);
/// How long the last audit records may take to reach the disk.
const AUDIT_END: Duration = Duration::from_secs(10);

/// Why the agent cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The accept file, or what it refers to.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// A certificate file.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The data folder.
    #[error(transparent)]
    Instance(#[from] InstanceError),
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] AuditOpenError),
    /// The control socket.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The audit log could not be finished.
    #[error("the end of the audit log could not be written: {0}")]
    AuditEnd(AuditUnavailable),
    /// The audit log's disk does not answer.
    #[error("the end of the audit log could not be written within {} s", AUDIT_END.as_secs())]
    AuditHangs,
}

/// An agent whose settings and rules are all good, and which has neither dialled nor listened yet.
pub struct Agent {
    config: Arc<Config>,
    connections: Vec<Prepared>,
    sources: Sources,
    fingerprints: FingerprintKey,
    instance: Instance,
    audit: AuditLog,
    writer: AuditWriter,
    control: Option<ControlSocket>,
    board: StatusBoard,
    reload: ReloadHandle,
    pauses: Arc<Pauses>,
}

/// One connection, ready to dial.
struct Prepared {
    connection: Arc<Connection>,
    rules: RulesInForce,
    dialer: Dialer,
    board: ConnectionBoard,
    gate: Gate,
    reloader: Reloader,
}

impl Agent {
    /// Loads the rules and the certificates, takes the data folder and opens the audit log.
    ///
    /// # Errors
    /// If anything that the settings name cannot be used.
    pub fn new(mut config: Config) -> Result<Self, AgentError> {
        let mut connections = std::mem::take(&mut config.connections);
        let rules = Rules::load_all(&config, &connections)?;
        let instance = Instance::open(&config.data, &config.instance)?;
        let fingerprints = FingerprintKey::new(&instance.fingerprint_key()?);
        let dialers = connections
            .iter_mut()
            .map(|connection| dialer(&config, connection, &instance))
            .collect::<Result<Vec<_>, _>>()?;
        let starts = connections.iter().zip(&rules);
        let starts: Vec<_> = starts
            .map(|(connection, rules)| ConnectionStart::of(connection, rules))
            .collect();
        let (audit, writer) = AuditLog::open(&instance, &starts)?;
        let control = instance
            .control_socket()
            .map(|path| ControlSocket::bind(&path))
            .transpose()?;

        let about = About {
            instance: config.instance.to_string(),
            run_id: instance.run_id().to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let shown = connections.iter().map(|connection| {
            let server = connection.server.to_string();
            ConnectionStatus::new(&connection.agent, &server, connection.tunnels)
        });
        let board = StatusBoard::new(about, shown.collect(), audit.position());
        let warnings = config.warnings.iter().map(String::as_str);
        for warning in warnings.chain(instance.warning()) {
            tracing::warn!("{warning}");
            board.warn(warning);
        }
        let sources = rules
            .first()
            .map(|rules| rules.sources.clone())
            .expect("settings name at least one connection");
        sources.tell(&board);

        let config = Arc::new(config);
        let in_force: Vec<_> = rules.iter().cloned().map(RulesInForce::new).collect();
        let parts = board.connections().into_iter().zip(&rules).zip(&in_force);
        let mut prepared = Vec::with_capacity(connections.len());
        let mut pausable = Vec::with_capacity(connections.len());
        for ((connection, dialer), ((board, loaded), rules)) in
            connections.into_iter().zip(dialers).zip(parts)
        {
            reload::announce(&connection.agent, loaded, &board);
            let gate = Gate::open();
            pausable.push(pause::Part {
                agent: connection.agent.clone(),
                gate: gate.clone(),
                rules: rules.clone(),
                board: board.clone(),
                is_paused_by_settings: connection.is_paused,
            });
            let connection = Arc::new(connection);
            let reloader = Reloader::new(
                Arc::clone(&config),
                Arc::clone(&connection),
                rules.clone(),
                &in_force,
                gate.clone(),
                audit.clone(),
                board.clone(),
            );
            prepared.push(Prepared {
                connection,
                rules: rules.clone(),
                dialer,
                board,
                gate,
                reloader,
            });
        }
        // Before anything is dialled.
        let pauses = Arc::new(Pauses::load(pausable, &instance, audit.clone()));
        Ok(Self {
            config,
            reload: ReloadHandle::of(prepared.iter().map(|each| &each.reloader)),
            connections: prepared,
            sources,
            fingerprints,
            instance,
            audit,
            writer,
            control,
            board,
            pauses,
        })
    }

    /// What the agent is doing, also while it runs.
    #[must_use]
    pub fn board(&self) -> StatusBoard {
        self.board.clone()
    }

    /// Asks the running agent to read its accept files now.
    #[must_use]
    pub fn reload_handle(&self) -> ReloadHandle {
        self.reload.clone()
    }

    /// Keeps the tunnels and serves the local port until `shutdown`; then takes no new request, lets what is in
    /// flight finish within the drain time-out, cuts the rest, and flushes the audit log.
    ///
    /// # Errors
    /// If the end of the audit log cannot be written.
    pub async fn run(
        self,
        local: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), AgentError> {
        let Self {
            config,
            connections,
            sources,
            fingerprints,
            instance,
            audit,
            writer,
            control,
            board,
            reload: _,
            pauses,
        } = self;
        let (stop, cut) = (CancellationToken::new(), CancellationToken::new());
        let stop_local = CancellationToken::new();
        let tracker = TaskTracker::new();
        let locals = TaskTracker::new();

        let health = local::run(
            local,
            config.healthcheck_path.clone(),
            board.clone(),
            stop_local.clone(),
        );
        drop(locals.spawn(health));
        if let Some(control) = control {
            drop(locals.spawn(control.run(board.clone(), Arc::clone(&pauses), stop_local.clone())));
        }
        drop(locals.spawn(pauses.keep(stop_local.clone())));
        drop(locals.spawn(sources.keep(board, stop_local.clone())));
        let fingerprints = Arc::new(fingerprints);
        let count_of_connections = connections.len();
        for prepared in connections {
            drop(locals.spawn(prepared.reloader.run(stop.clone())));
            let count = prepared.connection.tunnels;
            let tunnels = Arc::new(Tunnels {
                connection: prepared.connection,
                explaining: config.rules.explaining.clone(),
                rules: prepared.rules,
                dialer: prepared.dialer,
                audit: audit.clone(),
                board: prepared.board,
                stop: stop.clone(),
                cut: cut.clone(),
                tracker: tracker.clone(),
                bodies: Arc::new(BodyKeeper::new(
                    config.rules.body_limit,
                    count_of_connections,
                )),
                limiter: Arc::new(Limiter::new(config.limits.as_rule())),
                fingerprints: Arc::clone(&fingerprints),
                gate: prepared.gate,
                room: Arc::new(Semaphore::new(2 * MAX_TUNNELS)),
            });
            for slot in 0..usize::from(count) {
                let tunnels = Arc::clone(&tunnels);
                drop(tracker.spawn(async move { tunnels.keep(slot).await }));
            }
        }

        shutdown.await;
        stop.cancel();
        tracker.close();
        let limit = config.drain_timeout;
        if tokio::time::timeout(limit, tracker.wait()).await.is_err() {
            tracing::warn!(
                "requests were still in flight after {} s; they are cut",
                limit.as_secs()
            );
            cut.cancel();
            drop(tokio::time::timeout(CUT, tracker.wait()).await);
        }
        stop_local.cancel();
        locals.close();
        locals.wait().await;
        drop(audit);
        // Every outcome has been handed to the writer: the exchanges have ended.
        let written = tokio::time::timeout(AUDIT_END, writer.close()).await;
        drop(instance);
        match written {
            Ok(written) => written.map_err(AgentError::AuditEnd),
            Err(_) => Err(AgentError::AuditHangs),
        }
    }
}

/// What dials the connection's server; its secret is in there then, and nowhere else.
fn dialer(
    config: &Config,
    connection: &mut Connection,
    instance: &Instance,
) -> Result<Dialer, TlsError> {
    let hello = AgentHello {
        agent: connection.agent.clone(),
        secret: connection.secret.take(),
        instance: config.instance.clone(),
        run: instance.run_id().to_string(),
        version: env!("CARGO_PKG_VERSION").into(),
        is_check: false,
    };
    Dialer::new(config, &connection.server, &hello)
}

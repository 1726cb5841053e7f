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
use crate::config::Config;
use crate::control::{ControlError, ControlSocket};
use crate::credential::{FingerprintKey, Sources};
use crate::dial::Dialer;
use crate::instance::{Instance, InstanceError};
use crate::judged_body::BodyKeeper;
use crate::local;
use crate::reload::{self, ReloadHandle, Reloader};
use crate::rules::{Rules, RulesError, RulesInForce};
use crate::status::{About, StatusBoard};

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
    rules: RulesInForce,
    sources: Sources,
    fingerprints: FingerprintKey,
    reloader: Reloader,
    dialer: Dialer,
    instance: Instance,
    audit: AuditLog,
    writer: AuditWriter,
    control: Option<ControlSocket>,
    board: StatusBoard,
}

impl Agent {
    /// Loads the rules and the certificates, takes the data folder and opens the audit log.
    ///
    /// # Errors
    /// If anything that the settings name cannot be used.
    pub fn new(mut config: Config) -> Result<Self, AgentError> {
        let rules = Rules::load(&config)?;
        let instance = Instance::open(&config.data, &config.instance)?;
        let fingerprints = FingerprintKey::new(&instance.fingerprint_key()?);
        let hello = AgentHello {
            agent: config.agent.clone(),
            secret: config.secret.take(),
            instance: config.instance.clone(),
            run: instance.run_id().to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
            is_check: false,
        };
        let dialer = Dialer::new(&config, &hello)?;
        let source = rules.source.as_ref();
        let start = ConnectionStart {
            agent: config.agent.clone(),
            accept_sha256: source.map(|source| source.sha256.clone()),
        };
        let (audit, writer) = AuditLog::open(&instance, &[start])?;
        let control = instance
            .control_socket()
            .map(|path| ControlSocket::bind(&path))
            .transpose()?;

        let about = About {
            agent: config.agent.to_string(),
            instance: config.instance.to_string(),
            run_id: hello.run,
            version: hello.version,
        };
        let servers = vec![config.server.to_string(); config.tunnel.count.into()];
        let board = StatusBoard::new(about, servers, audit.position());
        let warnings = config.warnings.iter().map(String::as_str);
        for warning in warnings.chain(instance.warning()) {
            tracing::warn!("{warning}");
            board.warn(warning);
        }
        reload::announce(&rules, &board);
        let sources = rules.sources.clone();
        sources.tell(&board);
        let config = Arc::new(config);
        let rules = RulesInForce::new(rules);
        let reloader = Reloader::new(
            Arc::clone(&config),
            rules.clone(),
            audit.clone(),
            board.clone(),
        );
        Ok(Self {
            config,
            rules,
            sources,
            fingerprints,
            reloader,
            dialer,
            instance,
            audit,
            writer,
            control,
            board,
        })
    }

    /// What the agent is doing, also while it runs.
    #[must_use]
    pub fn board(&self) -> StatusBoard {
        self.board.clone()
    }

    /// Asks the running agent to read its accept file now.
    #[must_use]
    pub fn reload_handle(&self) -> ReloadHandle {
        self.reloader.handle()
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
            rules,
            sources,
            fingerprints,
            reloader,
            dialer,
            instance,
            audit,
            writer,
            control,
            board,
        } = self;
        let stop = CancellationToken::new();
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
            drop(locals.spawn(control.run(board.clone(), stop_local.clone())));
        }
        drop(locals.spawn(reloader.run(stop.clone())));
        drop(locals.spawn(sources.keep(board.clone(), stop_local.clone())));
        let bodies = Arc::new(BodyKeeper::new(config.rules.body_limit));
        let tunnels = Arc::new(Tunnels {
            config,
            rules,
            dialer,
            audit,
            board,
            stop: stop.clone(),
            cut: CancellationToken::new(),
            tracker: tracker.clone(),
            bodies,
            fingerprints: Arc::new(fingerprints),
            room: Arc::new(Semaphore::new(2 * MAX_TUNNELS)),
        });
        for slot in 0..usize::from(tunnels.config.tunnel.count) {
            let tunnels = Arc::clone(&tunnels);
            drop(tracker.spawn(async move { tunnels.keep(slot).await }));
        }

        shutdown.await;
        stop.cancel();
        tracker.close();
        let limit = tunnels.config.drain_timeout;
        if tokio::time::timeout(limit, tracker.wait()).await.is_err() {
            tracing::warn!(
                "requests were still in flight after {} s; they are cut",
                limit.as_secs()
            );
            tunnels.cut.cancel();
            drop(tokio::time::timeout(CUT, tracker.wait()).await);
        }
        stop_local.cancel();
        locals.close();
        locals.wait().await;
        drop(tunnels);
        // Every outcome has been handed to the writer: the exchanges have ended.
        let written = tokio::time::timeout(AUDIT_END, writer.close()).await;
        drop(instance);
        match written {
            Ok(written) => written.map_err(AgentError::AuditEnd),
            Err(_) => Err(AgentError::AuditHangs),
        }
    }
}

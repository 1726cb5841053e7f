//! The probes that settings name. Every access is on record before an origin sees it, so where the audit log cannot be
//! written, nothing is sent.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use futures_util::future::join_all;

use super::report::{Check, Section};
use crate::audit::{AuditLog, ConnectionStart};
use crate::config::{Config, Connection};
use crate::credential::FingerprintKey;
use crate::exchange::Exchange;
use crate::instance::{Instance, own_uid};
use crate::judged_body::BodyKeeper;
use crate::limits::Limiter;
use crate::pause::Gate;
use crate::probe;
use crate::rules::{Rules, RulesInForce};
use crate::status::{About, ConnectionStatus, StatusBoard};

const HOPS: &[&str] = &["probe"];

/// Sends them, where there are any.
pub(super) async fn check(
    config: &Config,
    parts: &[(&Connection, Arc<Rules>)],
    is_running: bool,
) -> Option<Section> {
    if !parts.iter().any(|(_, rules)| rules.has_probes()) {
        return None;
    }
    let mut section = Section::new("probes, which are in the audit log".into(), HOPS);
    let found = if is_running {
        Err("not sent, since the running agent holds the audit log (stop it first, or send a request through the server)".to_owned())
    } else {
        alone(config, parts).await
    };
    match found {
        Ok(checks) => checks.into_iter().for_each(|check| section.add(check)),
        Err(why) => section.skip("probe", why),
    }
    Some(section.finish())
}

/// Without a running agent: with its audit log, which is opened and closed as by an agent that runs for a moment.
async fn alone(config: &Config, parts: &[(&Connection, Arc<Rules>)]) -> Result<Vec<Check>, String> {
    let unrecorded = |error: &dyn std::fmt::Display| {
        format!("not sent, since it could not be recorded: {error}")
    };
    let folder = config.data.of_instance(&config.instance);
    if is_of_another_user(&folder) {
        let text =
            "root would make files there that the agent's user cannot write: run this as that user";
        return Err(unrecorded(&text));
    }
    let instance = Instance::open(&config.data, &config.instance);
    let instance = instance.map_err(|error| unrecorded(&error))?;
    if let Some(warning) = instance.warning() {
        return Err(unrecorded(&warning));
    }
    let key = instance
        .fingerprint_key()
        .map_err(|error| unrecorded(&error))?;
    let fingerprints = Arc::new(FingerprintKey::new(&key));
    let starts = parts.iter();
    let starts: Vec<_> = starts
        .map(|(connection, rules)| ConnectionStart::of(connection, rules))
        .collect();
    let (audit, writer) = AuditLog::open(&instance, &starts).map_err(|error| unrecorded(&error))?;
    let about = About {
        instance: config.instance.to_string(),
        run_id: instance.run_id().to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let shown = parts.iter().map(|(connection, _)| {
        ConnectionStatus::new(&connection.agent, &connection.server.to_string(), 0)
    });
    let board = StatusBoard::new(about, shown.collect(), audit.position());
    let boards = board.connections();
    let mut exchanges = Vec::with_capacity(parts.len());
    for (board, (connection, rules)) in boards.into_iter().zip(parts) {
        exchanges.push(Exchange {
            agent: Arc::new(connection.agent.clone()),
            tenant: None,
            rules: RulesInForce::new(Arc::clone(rules)),
            audit: audit.clone(),
            board,
            bodies: Arc::new(BodyKeeper::new(config.rules.body_limit, 1)),
            explaining: config.rules.explaining.clone(),
            fingerprints: Arc::clone(&fingerprints),
            // Who owns the switch asks here.
            gate: Gate::open(),
            limiter: Arc::new(Limiter::new(config.limits.as_rule())),
        });
    }
    let checks = join_all(exchanges.iter().map(probe::run)).await;
    drop(exchanges);
    drop(audit);
    writer.close().await.map_err(|error| error.to_string())?;
    Ok(checks.into_iter().flatten().collect())
}

fn is_of_another_user(folder: &Path) -> bool {
    let there = folder
        .ancestors()
        .find_map(|folder| fs::metadata(folder).ok());
    own_uid() == 0 && there.is_some_and(|there| there.uid() != 0)
}

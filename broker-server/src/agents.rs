//! Which agents are connected: tenant and agent name -> live tunnels.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use broker_protocol::{AgentName, CloseHandle, MAX_TUNNELS, ServerEnd, TenantId};

use crate::relay::RequestBody;

/// An agent: the tenant is part of its name, so that nothing can be looked up without it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct AgentKey {
    /// Whose it is.
    pub(crate) tenant: TenantId,
    /// What its callers call it.
    pub(crate) agent: AgentName,
}

impl fmt::Display for AgentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.agent)
    }
}

/// One live tunnel, and who is at its other end.
pub(crate) struct Tunnel {
    pub(crate) end: ServerEnd<RequestBody>,
    pub(crate) close: CloseHandle,
    pub(crate) draining: AtomicBool,
    /// The installation of the agent.
    pub(crate) instance: String,
    /// The agent's process.
    pub(crate) run: String,
    /// The agent's version.
    pub(crate) version: String,
    /// Where it came from.
    pub(crate) source: String,
    /// Since when.
    pub(crate) since: SystemTime,
}

impl Tunnel {
    /// Whether it takes new requests.
    #[must_use]
    pub(crate) fn is_open(&self) -> bool {
        self.end.is_open() && !self.draining.load(Ordering::Relaxed)
    }
}

/// The agent already holds as many tunnels as it may.
#[derive(Debug, thiserror::Error)]
#[error("the agent already has {MAX_TUNNELS} tunnels to this server")]
pub(crate) struct TooManyTunnels;

/// Where live tunnels are kept. Several nodes can share one; a single node needs [`InMemory`] alone.
pub(crate) trait Registry: Send + Sync + 'static {
    /// Adds a tunnel.
    ///
    /// # Errors
    /// If the agent has too many; the tunnel is then not used.
    fn add(&self, key: &AgentKey, tunnel: &Arc<Tunnel>) -> Result<(), TooManyTunnels>;

    /// Removes a tunnel that has ended, by a pause of the agent's or otherwise.
    fn remove(&self, key: &AgentKey, tunnel: &Arc<Tunnel>, is_paused: bool);

    /// Whether the agent's last tunnel ended by a pause, and none has come since.
    fn is_paused(&self, key: &AgentKey) -> bool;

    /// The tunnels of an agent that take requests, in no order.
    fn tunnels(&self, key: &AgentKey) -> Vec<Arc<Tunnel>>;

    /// Every tunnel.
    fn all(&self) -> Vec<(AgentKey, Arc<Tunnel>)>;
}

/// The tunnels of this process.
#[derive(Default)]
pub(crate) struct InMemory(Mutex<HashMap<AgentKey, Live>>);

/// What is kept of an agent that was admitted; of those there are no more than the settings name.
#[derive(Default)]
struct Live {
    tunnels: Vec<Arc<Tunnel>>,
    is_paused: bool,
}

impl InMemory {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<AgentKey, Live>> {
        // Nothing that holds the lock can leave the map half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registry for InMemory {
    fn add(&self, key: &AgentKey, tunnel: &Arc<Tunnel>) -> Result<(), TooManyTunnels> {
        let mut map = self.lock();
        let live = map.entry(key.clone()).or_default();
        if live.tunnels.len() >= MAX_TUNNELS {
            return Err(TooManyTunnels);
        }
        live.tunnels.push(Arc::clone(tunnel));
        live.is_paused = false;
        Ok(())
    }

    fn remove(&self, key: &AgentKey, tunnel: &Arc<Tunnel>, is_paused: bool) {
        let mut map = self.lock();
        if let Some(live) = map.get_mut(key) {
            live.tunnels.retain(|other| !Arc::ptr_eq(other, tunnel));
            live.is_paused = live.tunnels.is_empty() && is_paused;
            if live.tunnels.is_empty() && !is_paused {
                map.remove(key);
            }
        }
    }

    fn is_paused(&self, key: &AgentKey) -> bool {
        self.lock().get(key).is_some_and(|live| live.is_paused)
    }

    fn tunnels(&self, key: &AgentKey) -> Vec<Arc<Tunnel>> {
        let map = self.lock();
        let tunnels = map.get(key).map(|live| live.tunnels.as_slice());
        tunnels
            .unwrap_or_default()
            .iter()
            .filter(|tunnel| tunnel.is_open())
            .cloned()
            .collect()
    }

    fn all(&self) -> Vec<(AgentKey, Arc<Tunnel>)> {
        let map = self.lock();
        let each = map
            .iter()
            .flat_map(|(key, live)| live.tunnels.iter().map(|t| (key.clone(), Arc::clone(t))));
        each.collect()
    }
}

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

    /// Removes a tunnel that has ended.
    fn remove(&self, key: &AgentKey, tunnel: &Arc<Tunnel>);

    /// The tunnels of an agent that take requests, in no order.
    fn tunnels(&self, key: &AgentKey) -> Vec<Arc<Tunnel>>;

    /// Every tunnel.
    fn all(&self) -> Vec<(AgentKey, Arc<Tunnel>)>;
}

/// The tunnels of this process.
#[derive(Default)]
pub(crate) struct InMemory(Mutex<HashMap<AgentKey, Vec<Arc<Tunnel>>>>);

impl InMemory {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<AgentKey, Vec<Arc<Tunnel>>>> {
        // Nothing that holds the lock can leave the map half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registry for InMemory {
    fn add(&self, key: &AgentKey, tunnel: &Arc<Tunnel>) -> Result<(), TooManyTunnels> {
        let mut map = self.lock();
        let tunnels = map.entry(key.clone()).or_default();
        if tunnels.len() >= MAX_TUNNELS {
            return Err(TooManyTunnels);
        }
        tunnels.push(Arc::clone(tunnel));
        Ok(())
    }

    fn remove(&self, key: &AgentKey, tunnel: &Arc<Tunnel>) {
        let mut map = self.lock();
        if let Some(tunnels) = map.get_mut(key) {
            tunnels.retain(|other| !Arc::ptr_eq(other, tunnel));
            if tunnels.is_empty() {
                map.remove(key);
            }
        }
    }

    fn tunnels(&self, key: &AgentKey) -> Vec<Arc<Tunnel>> {
        let map = self.lock();
        let tunnels = map.get(key).map(Vec::as_slice).unwrap_or_default();
        tunnels
            .iter()
            .filter(|tunnel| tunnel.is_open())
            .cloned()
            .collect()
    }

    fn all(&self) -> Vec<(AgentKey, Arc<Tunnel>)> {
        let map = self.lock();
        let each = map
            .iter()
            .flat_map(|(key, tunnels)| tunnels.iter().map(|t| (key.clone(), Arc::clone(t))));
        each.collect()
    }
}

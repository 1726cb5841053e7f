//! Under construction.

mod name;

pub use name::{AgentName, CallerName, InstanceName, NameError, TenantId};

//! The public end: it admits agents and callers, and relays callers' requests through the agents' tunnels.
//!
//! [`Server`] is the whole of it; `caller_listener.rs` and `relay.rs` are one request end to end.

mod admin_listener;
mod admission;
mod agent_listener;
mod agents;
mod caller_listener;
mod callers;
pub mod config;
pub mod dev;
mod host;
mod problem;
mod relay;
pub mod server;
pub mod token;

pub use server::{Listeners, Server};

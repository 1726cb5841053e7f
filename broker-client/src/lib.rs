//! The agent: it dials out to broker-server, judges each request that comes through the tunnel by the customer's
//! accept file, puts it on record, injects the credential, forwards it to the origin and streams the answer back.
//!
//! [`Agent`] is the whole of it; `exchange.rs` is one request end to end, to be read first.

mod accept_file;
mod address_policy;
pub mod agent;
mod ambiguous;
mod answer;
pub mod audit;
mod backoff;
pub mod config;
pub mod control;
mod control_call;
mod credential;
mod denial;
mod dial;
pub mod doctor;
mod echo_watch;
mod exchange;
pub mod instance;
mod judged_body;
mod limits;
mod local;
mod location;
mod origin;
pub mod pause;
pub mod pause_command;
mod peer;
mod probe;
mod proxy;
pub mod reload;
mod rules;
pub mod rules_command;
pub mod status;
mod tcp;
mod upload;

pub use agent::{Agent, AgentError};
pub use ambiguous::Ambiguous;
pub use rules::RulesError;

//! End-to-end tests: real sockets, real programs, one promise each.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panicking, also in what tests share, and shows the figures that it measures"
)]

mod callers;
mod canary;
mod certificates;
mod cloud;
mod conditions;
mod connections;
mod credentials;
mod doctor;
mod examples;
mod explain;
mod failures;
mod headers;
mod hostile;
mod kubernetes_rules;
mod lifecycle;
mod limits;
mod lint;
mod networks;
mod origin_tls;
mod pause;
mod process;
mod promises;
mod real_programs;
mod reload;
mod request;
mod rules_commands;
mod schema;
mod secret_echo;
mod smuggling;
mod streaming;
mod tenants;
mod tokens;
mod tunnels;
mod version_2;

//! The harness of the end-to-end tests, and of the benchmark.
//!
//! - [`programs`] starts real programs: nginx, squid, tinyproxy, mitmproxy, Node's proxy, and our own binaries.
//! - [`scripted_proxy::ScriptedProxy`] has the faults of the proxies that lead out of a company's network.
//! - [`broker`] runs our own server and agent within the test.
//! - [`origin::Origin`] and [`caller::Caller`] stand at the two ends and see every byte.
//! - [`aws::ScriptedAws`] hands out keys of Amazon Web Services.
//! - [`tap::Tap`] stands between agent and server, keeps what passes, and takes it apart.
//! - [`volume`] replaces files as the kubelet does.
//! - [`canary::Outputs`] looks for a secret in everything that was written or answered.
//!
//! Nothing here sleeps: each wait is for an event and gives up after [`wait::LIMIT`].
//! Whatever goes wrong in the harness panics, because that is how a test fails.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a harness fails its test by panicking, and tells why on the terminal"
)]

pub mod aws;
pub mod broker;
pub mod caller;
pub mod canary;
pub mod certs;
pub mod corpus;
pub mod digest;
pub mod http1;
pub mod memory;
pub mod origin;
pub mod programs;
pub mod scripted_proxy;
pub mod tap;
pub mod volume;
pub mod wait;

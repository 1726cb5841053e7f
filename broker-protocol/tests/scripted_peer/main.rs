//! The tunnel against peers that a test plays itself, over in-memory pipes: honest ones, and ones that lie,
//! stall, flood or stop half way.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod hostile_agent;
mod hostile_server;
mod pipe;
mod tunnel;
mod vectors;
mod ws_stream;

//! The tunnel between broker-client (the agent) and broker-server, as SPEC.md defines it.
//!
//! ```text
//!   HTTP/2, roles reversed   tunnel      one caller request is one stream; windows, resets, trailers
//!   byte stream              ws_stream   bounded messages, Ping and Pong, Close with a reason
//!   WebSocket                handshake   who the agent is, what the server offers
//!   TLS, TCP                             the dialling and the listening side's own
//! ```
//!
//! Beside the layers stand the words that both ends share: names, access tokens, reserved headers, the table of
//! headers that do not travel, error codes and the document that tells them.
//!
//! This crate knows nothing of rules, origins or callers. It opens no socket, reads no file and keeps no secret.
//!
//! ```
//! use broker_protocol::{ErrorCode, Problem};
//!
//! let problem = Problem::new(ErrorCode::NoAgent).detail("no agent \"sonarqube\" is connected");
//! let answer: http::Response<String> = problem.into_response();
//! assert_eq!(answer.status(), 503);
//! assert_eq!(answer.headers()["broker-error"], "no-agent");
//! ```

#![warn(clippy::wildcard_enum_match_arm)]

mod access_token;
mod error_code;
mod gather;
mod handshake;
pub mod header;
pub mod hop;
mod name;
mod problem;
mod stall;
mod tunnel;
mod ws_stream;

pub use access_token::{AccessToken, AccessTokenError, TokenDigest, TokenDigestError, TokenKind};
pub use error_code::ErrorCode;
pub use handshake::{
    AgentHello, HandshakeError, MAX_TUNNELS, SUBPROTOCOL, ServerHello, TUNNEL_PATH, bearer,
};
pub use name::{AgentName, CallerName, InstanceName, NameError, TenantId};
pub use problem::Problem;
pub use stall::{StreamExecutor, Watched};
pub use tunnel::{
    CONTROL_AUTHORITY, CONTROL_DRAIN, MAX_STREAMS, RELAY_AUTHORITY, SendError, ServerEnd,
    StreamPermit, prepare_socket, serve_agent_end,
};
pub use ws_stream::{
    CloseCode, CloseHandle, Counted, DEAD_AFTER, NOTSENT_LOWAT, PING_AFTER, WsStream,
    websocket_config,
};

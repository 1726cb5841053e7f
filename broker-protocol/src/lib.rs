//! Under construction.

mod access_token;
mod name;

pub use access_token::{AccessToken, AccessTokenError, TokenDigest, TokenDigestError, TokenKind};
pub use name::{AgentName, CallerName, InstanceName, NameError, TenantId};

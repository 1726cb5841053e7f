//! The reserved header names `broker-*`: set by broker-client and broker-server alone (SPEC.md §6).

use http::HeaderName;

/// What every reserved name begins with.
pub(crate) const RESERVED_PREFIX: &str = "broker-";

/// Where a caller may put its broker credential; read, then removed.
pub const AUTHORIZATION: HeaderName = HeaderName::from_static("broker-authorization");
/// Server to agent and to caller: the id under which this request is on record.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("broker-request-id");
/// Server to agent: the name of the caller.
pub const CALLER: HeaderName = HeaderName::from_static("broker-caller");
/// On an answer that the broker itself made: the code of the failure.
pub const ERROR: HeaderName = HeaderName::from_static("broker-error");

/// Handshake: the agent's name.
pub const AGENT: HeaderName = HeaderName::from_static("broker-agent");
/// Handshake: which installation of the agent.
pub const INSTANCE: HeaderName = HeaderName::from_static("broker-instance");
/// Handshake: the agent's process, new at each start.
pub const RUN: HeaderName = HeaderName::from_static("broker-run");
/// Handshake: the version of the program that speaks.
pub const VERSION: HeaderName = HeaderName::from_static("broker-version");
/// Handshake: the agent wants the handshake alone, and no tunnel.
pub const CHECK: HeaderName = HeaderName::from_static("broker-check");
/// Handshake answer: the tenant that the agent was admitted to.
pub const TENANT: HeaderName = HeaderName::from_static("broker-tenant");
/// Handshake answer: the server node that holds this tunnel.
pub const NODE: HeaderName = HeaderName::from_static("broker-node");
/// Handshake answer: how many nodes there are.
pub const NODES: HeaderName = HeaderName::from_static("broker-nodes");
/// Handshake answer: how many streams the server will have open at once.
pub const MAX_STREAMS: HeaderName = HeaderName::from_static("broker-max-streams");
/// Handshake answer: the address from which the server saw the agent come.
pub const SOURCE: HeaderName = HeaderName::from_static("broker-source");

/// Whether only the broker itself may set this header, in whichever spelling.
#[must_use]
pub fn is_reserved(name: &HeaderName) -> bool {
    begins_like(name.as_str(), RESERVED_PREFIX)
}

/// Whether servers that turn names into variables cannot tell the two apart: all of them make `_` of `-`, and some of
/// everything else that is neither letter nor digit.
pub(crate) fn same_variable(name: &str, other: &str) -> bool {
    name.len() == other.len() && begins_like(name, other)
}

/// The same of the beginning of `name`.
#[must_use]
pub fn begins_like(name: &str, prefix: &str) -> bool {
    let folded = |byte: u8| {
        if byte.is_ascii_alphanumeric() {
            byte
        } else {
            b'-'
        }
    };
    let mut pairs = name.bytes().zip(prefix.bytes());
    name.len() >= prefix.len() && pairs.all(|(a, b)| folded(a) == folded(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_names_are_known_with_hyphen_or_underscore() {
        for name in [
            "broker-request-id",
            "broker_request_id",
            "broker-",
            "broker-anything",
            "broker.caller",
        ] {
            assert!(is_reserved(&HeaderName::from_static(name)), "{name}");
        }
        for name in ["broke", "brokerage", "x-broker-id", "broker"] {
            assert!(!is_reserved(&HeaderName::from_static(name)), "{name}");
        }
    }
}

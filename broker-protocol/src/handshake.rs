//! What agent and server say to each other in the upgrade that opens a tunnel (SPEC.md §4).

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::header::{
    AGENT, CHECK, INSTANCE, MAX_STREAMS, NODE, NODES, RUN, SOURCE, TENANT, VERSION,
};
use crate::{AccessToken, AccessTokenError, AgentName, InstanceName, TenantId, TokenKind};

/// The subprotocol, in `Sec-WebSocket-Protocol`; another wire format gets another name.
pub const SUBPROTOCOL: &str = "broker.h2.v1";

/// The path of the tunnel on the agents listener, behind the path of the server's URL if it has one.
pub const TUNNEL_PATH: &str = "/tunnel";

/// Most tunnels that one agent may hold at a server; one more is refused with 503.
pub const MAX_TUNNELS: usize = 16;

/// Longest text of a handshake header that is kept, in bytes: version, run id, node.
const MAX_TEXT: usize = 128;

/// What one side said that the other cannot take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// A header that must be there is not.
    #[error("the header {0} is missing")]
    Missing(HeaderName),
    /// A header has a value that means nothing.
    #[error("the header {0} has a value that cannot be used")]
    Invalid(HeaderName),
    /// `Authorization` holds something else than a broker secret.
    #[error("the header authorization holds no agent secret: {0}")]
    Secret(#[from] AccessTokenError),
}

/// The agent's half: who it is. Unknown `Broker-*` headers are ignored by both sides.
#[derive(Debug)]
pub struct AgentHello {
    /// The name that callers use.
    pub agent: AgentName,
    /// The secret; without one, the server may admit the agent by its network.
    pub secret: Option<AccessToken>,
    /// Which installation this is.
    pub instance: InstanceName,
    /// The process, new at each start.
    pub run: String,
    /// The agent's version.
    pub version: String,
    /// Whether the handshake is all that is wanted, and no tunnel.
    pub is_check: bool,
}

impl AgentHello {
    /// Writes it into the headers of the upgrade request; the secret is marked sensitive.
    ///
    /// # Errors
    /// If the run id or the version cannot stand in a header.
    pub fn write(&self, headers: &mut HeaderMap) -> Result<(), HandshakeError> {
        if let Some(secret) = &self.secret {
            let value = zeroize::Zeroizing::new(format!("Bearer {}", secret.expose()));
            let mut value = to_value(&AUTHORIZATION, &value)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        headers.insert(AGENT, to_value(&AGENT, self.agent.as_str())?);
        headers.insert(INSTANCE, to_value(&INSTANCE, self.instance.as_str())?);
        headers.insert(RUN, to_value(&RUN, &self.run)?);
        headers.insert(VERSION, to_value(&VERSION, &self.version)?);
        if self.is_check {
            headers.insert(CHECK, HeaderValue::from_static("handshake"));
        }
        Ok(())
    }

    /// Reads it from an upgrade request.
    ///
    /// # Errors
    /// If a header is missing or cannot be used.
    pub fn read(headers: &HeaderMap) -> Result<Self, HandshakeError> {
        let secret = match headers.get(AUTHORIZATION) {
            None => None,
            Some(value) => {
                let text = value
                    .to_str()
                    .map_err(|_| HandshakeError::Invalid(AUTHORIZATION))?;
                Some(AccessToken::parse(
                    TokenKind::Agent,
                    bearer(text).unwrap_or_default(),
                )?)
            }
        };
        Ok(Self {
            agent: parse(headers, &AGENT)?,
            secret,
            instance: parse(headers, &INSTANCE)?,
            run: text(headers, &RUN)?.to_owned(),
            version: text(headers, &VERSION)?.to_owned(),
            is_check: headers.contains_key(CHECK),
        })
    }
}

/// The server's half: what it admitted, and what it offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerHello {
    /// The tenant that the agent's credential or network belongs to.
    pub tenant: TenantId,
    /// The node that holds this tunnel.
    pub node: String,
    /// How many nodes there are; with 1 the agent does not look for others.
    pub nodes: u32,
    /// How many streams the server will have open at once.
    pub max_streams: u32,
    /// The address from which the server saw the agent come.
    pub source: String,
}

impl ServerHello {
    /// Writes it into the headers of the 101.
    ///
    /// # Errors
    /// If the node's name or the source cannot stand in a header.
    pub fn write(&self, headers: &mut HeaderMap) -> Result<(), HandshakeError> {
        headers.insert(TENANT, to_value(&TENANT, self.tenant.as_str())?);
        headers.insert(NODE, to_value(&NODE, &self.node)?);
        headers.insert(NODES, HeaderValue::from(self.nodes));
        headers.insert(MAX_STREAMS, HeaderValue::from(self.max_streams));
        headers.insert(SOURCE, to_value(&SOURCE, &self.source)?);
        Ok(())
    }

    /// Reads it from the headers of the 101.
    ///
    /// # Errors
    /// If a header is missing or cannot be used.
    pub fn read(headers: &HeaderMap) -> Result<Self, HandshakeError> {
        Ok(Self {
            tenant: parse(headers, &TENANT)?,
            node: text(headers, &NODE)?.to_owned(),
            nodes: parse(headers, &NODES)?,
            max_streams: parse(headers, &MAX_STREAMS)?,
            source: text(headers, &SOURCE)?.to_owned(),
        })
    }
}

/// The value of a `Bearer` credential (RFC 6750 §2.1); the scheme's case does not matter.
#[must_use]
pub fn bearer(header: &str) -> Option<&str> {
    let (scheme, value) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| value.trim())
}

fn to_value(name: &HeaderName, text: &str) -> Result<HeaderValue, HandshakeError> {
    HeaderValue::from_str(text).map_err(|_| HandshakeError::Invalid(name.clone()))
}

fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<&'h str, HandshakeError> {
    let value = headers
        .get(name)
        .ok_or_else(|| HandshakeError::Missing(name.clone()))?;
    let text = value
        .to_str()
        .map_err(|_| HandshakeError::Invalid(name.clone()))?;
    if text.len() > MAX_TEXT {
        Err(HandshakeError::Invalid(name.clone()))
    } else {
        Ok(text)
    }
}

fn parse<T: std::str::FromStr>(
    headers: &HeaderMap,
    name: &HeaderName,
) -> Result<T, HandshakeError> {
    text(headers, name)?
        .parse()
        .map_err(|_| HandshakeError::Invalid(name.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> AgentHello {
        AgentHello {
            agent: "sonarqube".parse().unwrap(),
            secret: Some(AccessToken::generate(TokenKind::Agent)),
            instance: "default".parse().unwrap(),
            run: "00000000-0000-4000-8000-000000000000".into(),
            version: "0.1.0".into(),
            is_check: false,
        }
    }

    #[test]
    fn an_agent_hello_reads_back_and_its_secret_is_sensitive() {
        let mut headers = HeaderMap::new();
        hello().write(&mut headers).unwrap();
        assert!(headers[AUTHORIZATION].is_sensitive());
        let read = AgentHello::read(&headers).unwrap();
        assert_eq!(read.agent.as_str(), "sonarqube");
        assert!(read.secret.is_some());
        assert!(!read.is_check);
    }

    #[test]
    fn a_handshake_alone_is_asked_for_by_a_header() {
        let mut headers = HeaderMap::new();
        let hello = AgentHello {
            is_check: true,
            ..hello()
        };
        hello.write(&mut headers).unwrap();
        assert_eq!(headers[CHECK], "handshake");
        assert!(AgentHello::read(&headers).unwrap().is_check);
    }

    #[test]
    fn unknown_broker_headers_are_ignored() {
        let mut headers = HeaderMap::new();
        hello().write(&mut headers).unwrap();
        headers.insert("broker-colour", HeaderValue::from_static("blue"));
        assert!(AgentHello::read(&headers).is_ok());
    }

    #[test]
    fn what_is_missing_or_unusable_is_named() {
        let mut headers = HeaderMap::new();
        hello().write(&mut headers).unwrap();
        let mut broken = headers.clone();
        broken.remove(AGENT);
        assert_eq!(
            AgentHello::read(&broken).unwrap_err(),
            HandshakeError::Missing(AGENT)
        );
        let mut broken = headers.clone();
        broken.insert(
            RUN,
            HeaderValue::from_str(&"x".repeat(MAX_TEXT + 1)).unwrap(),
        );
        assert_eq!(
            AgentHello::read(&broken).unwrap_err(),
            HandshakeError::Invalid(RUN)
        );
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Basic eDp5"));
        assert!(matches!(
            AgentHello::read(&headers),
            Err(HandshakeError::Secret(_))
        ));
    }
}

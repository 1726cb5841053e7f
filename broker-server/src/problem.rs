//! Every failure that a caller can see: what it says in public. The cause goes to the log, under the same id.

use std::sync::Arc;

use broker_process::certificate_name::CertificateName;
use broker_protocol::{AgentName, ErrorCode, Problem, TenantId};

use crate::agents::AgentKey;

/// Why the server itself answers a caller's request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    NotOriginForm,
    NotOneHost,
    TargetTooLong {
        bytes: usize,
        limit: usize,
    },
    NoSuchResource,
    NotAnAgentName,
    TwoCredentials,
    RepeatedCredential(&'static str),
    SecretInRequest(&'static str),
    NoCredential,
    UnknownCredential,
    /// Its names are in the log, for whoever lists them.
    UnknownCertificate(Arc<[CertificateName]>),
    TwoCallersInCertificate,
    MisplacedCredential {
        expected: &'static str,
    },
    OtherTenant,
    AgentNotAllowed(AgentName),
    Upgrade,
    NoAgent(AgentKey),
    AgentPaused(AgentKey),
    Overloaded(AgentKey),
    TunnelLost,
    NoAnswer {
        seconds: u64,
    },
}

impl Failure {
    /// The document for the caller.
    pub(crate) fn problem(&self, request_id: &str) -> Problem {
        let (code, detail) = self.code_and_detail();
        Problem::new(code).detail(detail).request_id(request_id)
    }

    fn code_and_detail(&self) -> (ErrorCode, String) {
        match self {
            Self::NotOriginForm => (
                ErrorCode::BadTarget,
                "the request target must be a path beginning with \"/\" (RFC 9112 §3.2.1)".into(),
            ),
            Self::NotOneHost => (
                ErrorCode::BadRequest,
                "a request names its host once, in `Host` or `:authority` (RFC 9112 §3.2, RFC 9113 §8.3.1)".into(),
            ),
            Self::TargetTooLong { bytes, limit } => (
                ErrorCode::TargetTooLong,
                format!("the request target has {bytes} bytes; the limit is {limit}"),
            ),
            Self::NoSuchResource => {
                (ErrorCode::NotFound, "agents are reached under /broker/{agent}/…".into())
            }
            Self::NotAnAgentName => (
                ErrorCode::NotFound,
                "the part after /broker/ is not an agent's name: 1 to 63 of a-z, 0-9, '.', '_' and '-'".into(),
            ),
            Self::TwoCredentials => (
                ErrorCode::BadRequest,
                "the request carries two broker credentials, of which a client certificate may be one; send one, in the \
                 place that the caller's entry declares"
                    .into(),
            ),
            Self::RepeatedCredential(header) => {
                (ErrorCode::BadRequest, format!("the header {header} occurs more than once"))
            }
            Self::SecretInRequest(place) => (
                ErrorCode::BadRequest,
                format!("a broker secret stands in {place}, from where it would travel on; replace that secret"),
            ),
            Self::NoCredential => (
                ErrorCode::Unauthenticated,
                "send `Broker-Authorization: Bearer brk_caller_…`, or the header that the caller's entry declares".into(),
            ),
            Self::UnknownCredential | Self::OtherTenant => {
                (ErrorCode::Unauthenticated, "the broker credential is not known here".into())
            }
            Self::UnknownCertificate(_) => (
                ErrorCode::Unauthenticated,
                "no DNS name and no URI of the client certificate's subjectAltName is a caller's".into(),
            ),
            Self::TwoCallersInCertificate => (
                ErrorCode::BadRequest,
                "the client certificate has the names of two callers; show one that has one caller's".into(),
            ),
            Self::MisplacedCredential { expected } => (
                ErrorCode::Unauthenticated,
                format!("this caller's credential must stand in the header {expected}"),
            ),
            Self::AgentNotAllowed(agent) => (
                ErrorCode::Forbidden,
                format!("the caller's entry does not list the agent {:?}", agent.as_str()),
            ),
            Self::Upgrade => (
                ErrorCode::UpgradeNotSupported,
                "requests with Upgrade, CONNECT and WebSockets are not relayed".into(),
            ),
            Self::NoAgent(AgentKey { agent, .. }) => {
                (ErrorCode::NoAgent, format!("no agent {:?} is connected", agent.as_str()))
            }
            Self::AgentPaused(AgentKey { agent, .. }) => (
                ErrorCode::AgentPaused,
                format!("the owner of the agent {:?} has paused it", agent.as_str()),
            ),
            Self::Overloaded(AgentKey { agent, .. }) => (
                ErrorCode::Overloaded,
                format!("every tunnel of the agent {:?} is full", agent.as_str()),
            ),
            Self::TunnelLost => (
                ErrorCode::TunnelLost,
                "the connection to the agent ended before the answer; whether the origin acted is not known".into(),
            ),
            Self::NoAnswer { seconds } => {
                (ErrorCode::OriginTimeout, format!("the agent gave no answer within {seconds} s"))
            }
        }
    }
}

/// Why an agent is not admitted; it is told little, the log is told all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotAdmitted {
    #[error("the handshake is not valid: {0}")]
    Handshake(#[from] broker_protocol::HandshakeError),
    #[error("the secret is not known")]
    UnknownSecret,
    #[error("the secret belongs to the agent {0}")]
    OtherAgent(AgentKey),
    #[error("no secret, and no agent of that name is admitted by its network in the tenant {0}")]
    NotByNetwork(TenantId),
    #[error("no secret, and the source address is not in the networks of that agent")]
    OtherNetwork,
    #[error("the host name says tenant {host}, the secret says {secret}")]
    OtherTenant { host: TenantId, secret: TenantId },
    #[error("no secret, and the host name names no tenant")]
    NoTenant,
}

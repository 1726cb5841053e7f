//! The stable codes of every failure that a caller can see (SPEC.md §8).

use std::fmt;
use std::time::Duration;

use http::StatusCode;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $status:ident, $title:literal;)+) => {
        /// What went wrong, as a word that never changes its meaning (SPEC.md §8).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $($(#[$doc])* $variant,)+
        }

        impl ErrorCode {
            /// Every code, in the order of SPEC.md §8.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The code as it stands in bodies, headers, logs and audit records.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// The HTTP status that goes with it.
            #[must_use]
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)+ }
            }

            /// One line for people; the same for every occurrence (RFC 9457 §3.1.3).
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)+ }
            }
        }
    };
}

codes! {
    /// No rule of the customer's allowlist allows the request.
    Denied = "denied", FORBIDDEN, "the customer's allowlist does not allow this request";
    /// The target could be read in more than one way.
    BadTarget = "bad-target", BAD_REQUEST, "the request target is ambiguous";
    /// The caller, or the agent, did not prove who it is.
    Unauthenticated = "unauthenticated", UNAUTHORIZED, "no valid broker credential";
    /// The caller is known and may not use this agent.
    Forbidden = "forbidden", FORBIDDEN, "this caller may not use this agent";
    /// No live tunnel of that name in the caller's tenant.
    NoAgent = "no-agent", SERVICE_UNAVAILABLE, "no agent of that name is connected";
    /// The customer paused the agent.
    AgentPaused = "agent-paused", SERVICE_UNAVAILABLE, "the customer paused the agent";
    /// A limit on concurrent work was reached.
    Overloaded = "overloaded", SERVICE_UNAVAILABLE, "too many requests at once";
    /// A limit on the rate was reached.
    RateLimited = "rate-limited", TOO_MANY_REQUESTS, "too many requests in this period";
    /// The agent could not connect to the origin.
    OriginUnreachable = "origin-unreachable", BAD_GATEWAY, "the agent cannot reach the origin";
    /// The origin did not answer in time.
    OriginTimeout = "origin-timeout", GATEWAY_TIMEOUT, "the origin did not answer in time";
    /// The tunnel ended while the request was in it.
    TunnelLost = "tunnel-lost", BAD_GATEWAY, "the connection to the agent was lost";
    /// The agent could not put the request on record, so it did not let it pass.
    AuditUnavailable = "audit-unavailable", SERVICE_UNAVAILABLE, "the agent cannot write its audit log";
    /// The agent could not get the origin's credential.
    CredentialUnavailable = "credential-unavailable", BAD_GATEWAY, "the agent cannot get the origin's credential";
    /// The request breaks HTTP or this interface.
    BadRequest = "bad-request", BAD_REQUEST, "the request is malformed";
    /// No such resource on the broker itself.
    NotFound = "not-found", NOT_FOUND, "the broker has no such resource";
    /// The body is larger than a limit of the broker.
    BodyTooLarge = "body-too-large", PAYLOAD_TOO_LARGE, "the request body is too large";
    /// The target is larger than 16 KiB.
    TargetTooLong = "target-too-long", URI_TOO_LONG, "the request target is too long";
    /// An upgrade that no rule or no code allows.
    UpgradeNotSupported = "upgrade-not-supported", NOT_IMPLEMENTED, "protocol upgrades are not supported here";
    /// The agent is too old for this server.
    VersionRefused = "version-refused", UPGRADE_REQUIRED, "this version is too old";
    /// The origin's answer is not valid HTTP.
    OriginProtocol = "origin-protocol", BAD_GATEWAY, "the origin's answer is not valid HTTP";
    /// The origin's answer is longer than the customer allows.
    ResponseTooLarge = "response-too-large", BAD_GATEWAY, "the origin's answer is longer than the customer allows";
    /// A defect of the broker.
    Internal = "internal", INTERNAL_SERVER_ERROR, "the broker failed";
}

impl ErrorCode {
    /// When trying again makes sense, if it does (RFC 9110 §10.2.3).
    #[must_use]
    pub const fn retry_after(self) -> Option<Duration> {
        match self {
            Self::NoAgent | Self::Overloaded | Self::RateLimited | Self::AuditUnavailable => {
                Some(Duration::from_secs(5))
            }
            Self::AgentPaused => Some(Duration::from_secs(60)),
            Self::Denied
            | Self::BadTarget
            | Self::Unauthenticated
            | Self::Forbidden
            | Self::OriginUnreachable
            | Self::OriginTimeout
            | Self::TunnelLost
            | Self::CredentialUnavailable
            | Self::BadRequest
            | Self::NotFound
            | Self::BodyTooLarge
            | Self::TargetTooLong
            | Self::UpgradeNotSupported
            | Self::VersionRefused
            | Self::OriginProtocol
            | Self::ResponseTooLarge
            | Self::Internal => None,
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

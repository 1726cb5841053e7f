//! Requests that two programs could read differently: no rule is asked about them.

use accept_rules::{RequestTarget, TargetError};
use broker_protocol::{ErrorCode, hop};
use http::{HeaderMap, HeaderName, Method};

/// Why a request has no single reading.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Ambiguous {
    /// Its target has none.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// It has two headers where one program reads the first, and the next one the last (SPEC.md §7).
    #[error("the header {0} occurs more than once (send it once)")]
    Repeated(HeaderName),
}

impl Ambiguous {
    /// Stable, for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Target(error) => error.code(),
            Self::Repeated(_) => "repeated-header",
        }
    }

    /// The header that it is about.
    #[must_use]
    pub fn header(&self) -> Option<&HeaderName> {
        match self {
            Self::Target(_) => None,
            Self::Repeated(name) => Some(name),
        }
    }

    /// What the caller is answered.
    pub(crate) fn error_code(&self) -> ErrorCode {
        match self {
            Self::Target(TargetError::TooLong { .. }) => ErrorCode::TargetTooLong,
            Self::Target(_) => ErrorCode::BadTarget,
            Self::Repeated(_) => ErrorCode::BadRequest,
        }
    }
}

/// The target of a request whose headers have one reading as well.
pub(crate) fn target_of(
    method: &Method,
    raw: &str,
    headers: &HeaderMap,
) -> Result<RequestTarget, Ambiguous> {
    let target = RequestTarget::new(method, raw)?;
    match hop::repeated(headers) {
        Some(name) => Err(Ambiguous::Repeated(name.clone())),
        None => Ok(target),
    }
}

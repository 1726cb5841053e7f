//! Watches an answer for the credential that its request carried: headers are masked, the body is looked at as it
//! passes and never altered.

use std::sync::Arc;

use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};

use crate::audit::{Outcome, SecretEcho, Unscanned};
use crate::config::OnSecretEcho;
use crate::credential::Echo;

/// Subtypes of `application` whose text has ASCII in it, beside those that end in `+json`, `+xml` or `+yaml`.
const TEXT: [&str; 10] = [
    "json",
    "xml",
    "yaml",
    "x-yaml",
    "javascript",
    "x-javascript",
    "graphql",
    "x-ndjson",
    "jwt",
    "x-www-form-urlencoded",
];

/// The watch over one answer.
pub(crate) struct EchoWatch {
    /// None where the credential was not sent itself.
    echo: Option<Echo>,
    is_scanning: bool,
    on_echo: OnSecretEcho,
    /// For the log.
    request_id: Arc<str>,
}

/// What becomes of a piece of a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Passes,
    /// It is the one in which the credential ends.
    IsCut,
}

impl EchoWatch {
    /// Masks the answer's headers, and finds out whether its body can be looked at.
    pub(crate) fn begin(
        echo: Option<Echo>,
        headers: &mut HeaderMap,
        on_echo: OnSecretEcho,
        request_id: &Arc<str>,
        outcome: &mut Outcome,
    ) -> Self {
        let unscanned = why_unscanned(echo.as_ref(), headers);
        outcome.unscanned = unscanned;
        outcome.secret_echo = Some(match unscanned {
            Some(_) => SecretEcho::Unscanned,
            None => SecretEcho::None,
        });
        let watch = Self {
            echo,
            is_scanning: unscanned.is_none(),
            on_echo,
            request_id: Arc::clone(request_id),
        };
        watch.mask(headers, outcome);
        watch
    }

    /// Masks headers or trailers.
    pub(crate) fn mask(&self, headers: &mut HeaderMap, outcome: &mut Outcome) {
        let Some(echo) = &self.echo else {
            return;
        };
        let masked = echo.mask(headers);
        if !masked.is_empty() {
            tracing::warn!(
                request_id = %self.request_id, headers = ?masked,
                "the origin gave back the credential in headers, where it is masked"
            );
        }
        outcome.masked_response_headers.extend(masked);
    }

    /// Looks at the next piece of the body.
    pub(crate) fn look_at(&mut self, piece: &[u8], outcome: &mut Outcome) -> Piece {
        let echo = self.echo.as_mut().filter(|_| self.is_scanning);
        if !echo.is_some_and(|echo| echo.ends_in(piece)) {
            return Piece::Passes;
        }
        // It is on record; nothing is gained by knowing how often.
        self.is_scanning = false;
        outcome.secret_echo = Some(SecretEcho::Found);
        let (piece, done) = match self.on_echo {
            OnSecretEcho::Record => (Piece::Passes, "passes"),
            OnSecretEcho::Cut => (Piece::IsCut, "is cut off"),
        };
        tracing::warn!(request_id = %self.request_id, "the origin gave back the credential in a body, which {done}");
        piece
    }
}

fn why_unscanned(echo: Option<&Echo>, headers: &HeaderMap) -> Option<Unscanned> {
    let Some(echo) = echo else {
        return Some(Unscanned::Signature);
    };
    let is_identity = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"identity");
    if !headers.get_all(CONTENT_ENCODING).iter().all(is_identity) {
        Some(Unscanned::Compressed)
    } else if !headers.get_all(CONTENT_TYPE).iter().all(is_text) {
        Some(Unscanned::Binary)
    } else {
        echo.is_too_short().then_some(Unscanned::ShortCredential)
    }
}

fn is_text(content_type: &HeaderValue) -> bool {
    let Ok(content_type) = content_type.to_str() else {
        return false;
    };
    let content_type = content_type.to_ascii_lowercase();
    let (essence, parameters) = content_type.split_once(';').unwrap_or((&content_type, ""));
    if ["utf-16", "utf-32", "ucs-"]
        .iter()
        .any(|wide| parameters.contains(wide))
    {
        return false;
    }
    match essence.trim().split_once('/') {
        Some(("text", _)) => true,
        Some(("application", subtype)) => {
            TEXT.contains(&subtype)
                || ["+json", "+xml", "+yaml"]
                    .iter()
                    .any(|end| subtype.ends_with(end))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_that_only_signs_is_not_looked_for() {
        let why = why_unscanned(None, &HeaderMap::new());
        assert_eq!(why, Some(Unscanned::Signature));
    }

    #[test]
    fn text_is_told_from_what_is_not() {
        for content_type in [
            "text/plain",
            "Application/JSON; charset=utf-8",
            "application/problem+json",
            "text/event-stream",
            "application/xml",
        ] {
            assert!(
                is_text(&HeaderValue::from_static(content_type)),
                "{content_type}"
            );
        }
        for content_type in [
            "application/octet-stream",
            "image/png",
            "application/zip",
            "text/plain; charset=UTF-16LE",
            "json",
        ] {
            assert!(
                !is_text(&HeaderValue::from_static(content_type)),
                "{content_type}"
            );
        }
    }
}

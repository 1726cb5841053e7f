//! The one document in which every failure is told (RFC 9457, SPEC.md §8).

use std::time::Duration;

use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response};

use crate::ErrorCode;
use crate::header::{ERROR, REQUEST_ID};

/// A failure as its receiver sees it: a stable code, and public text only.
#[derive(Debug, Clone)]
pub struct Problem {
    code: ErrorCode,
    members: serde_json::Map<String, serde_json::Value>,
    retry_after: Option<Duration>,
}

impl Problem {
    /// A problem with the texts of its code alone.
    #[must_use]
    pub fn new(code: ErrorCode) -> Self {
        let mut members = serde_json::Map::new();
        members.insert("type".into(), "about:blank".into());
        members.insert("title".into(), code.title().into());
        members.insert("status".into(), code.status().as_u16().into());
        members.insert("code".into(), code.as_str().into());
        Self {
            code,
            members,
            retry_after: code.retry_after(),
        }
    }

    /// Adds what is particular to this occurrence (RFC 9457 §3.1.4): what happened and how to mend it.
    #[must_use]
    pub fn detail(self, text: impl Into<String>) -> Self {
        self.with("detail", text.into())
    }

    /// Adds the id under which the audit log and both sides' logs know the request.
    #[must_use]
    pub fn request_id(self, id: &str) -> Self {
        self.with("request_id", id)
    }

    /// Adds a member of our own (RFC 9457 §3.2).
    #[must_use]
    pub fn with(mut self, member: &str, value: impl Into<serde_json::Value>) -> Self {
        self.members.insert(member.into(), value.into());
        self
    }

    /// When to try again, where that is known better than by the code (RFC 9110 §10.2.3); whole seconds, rounded up.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Its code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        self.code
    }

    /// The answer that carries it; the code also stands in the `broker-error` header.
    #[must_use]
    pub fn into_response<B: From<String>>(self) -> Response<B> {
        let request_id = self.members.get("request_id").and_then(|id| id.as_str());
        let request_id = request_id.and_then(|id| HeaderValue::from_str(id).ok());
        let mut response =
            Response::new(B::from(serde_json::Value::Object(self.members).to_string()));
        *response.status_mut() = self.code.status();
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(ERROR, HeaderValue::from_static(self.code.as_str()));
        if let Some(id) = request_id {
            headers.insert(REQUEST_ID, id);
        }
        if let Some(wait) = self.retry_after {
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.code == ErrorCode::Unauthenticated {
            // RFC 9110 §15.5.2: a 401 names the scheme that would have been accepted.
            headers.insert(
                WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"broker\""),
            );
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_says_code_status_and_request_in_body_and_header() {
        let response: Response<String> = Problem::new(ErrorCode::NoAgent)
            .detail("no agent \"a\"")
            .request_id("7")
            .into_response();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()[ERROR], "no-agent");
        assert_eq!(response.headers()[RETRY_AFTER], "5");
        let body: serde_json::Value = serde_json::from_str(response.body()).unwrap();
        assert_eq!(body["code"], "no-agent");
        assert_eq!(body["status"], 503);
        assert_eq!(body["request_id"], "7");
    }

    #[test]
    fn codes_are_unique_and_never_a_success() {
        for (i, code) in ErrorCode::ALL.iter().enumerate() {
            assert!(code.status().is_client_error() || code.status().is_server_error());
            assert!(
                ErrorCode::ALL[..i]
                    .iter()
                    .all(|other| other.as_str() != code.as_str())
            );
        }
    }
}

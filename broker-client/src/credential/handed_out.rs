//! What the services that hand out tokens have in common: how they are asked, and what they answer.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Uri};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Secret;
use super::renewed::{Failure, Fetched};
use crate::control_call::{Answer, CallError, ControlCalls, FORM, Way, form};

pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// How long a token is used whose service says nothing of its end.
const UNSAID: Duration = Duration::from_secs(300);
/// Tokens that end sooner are not used: a request would come too late with them.
const WORTH_USING: Duration = Duration::from_secs(5);

/// A request with a form, as token endpoints take it (RFC 6749 §3.2).
pub(super) fn form_request(uri: &Uri, fields: &[(&str, &str)]) -> Request<Bytes> {
    let mut request = Request::new(form(fields));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri.clone();
    request.headers_mut().insert(CONTENT_TYPE, FORM);
    request.headers_mut().insert(ACCEPT, JSON);
    request
}

/// The answer of `what` where it is a success.
pub(super) async fn ask(
    calls: &ControlCalls,
    request: Request<Bytes>,
    way: Way,
    what: &str,
) -> Result<Answer, Failure> {
    let answer = calls.send(request, way).await;
    let answer = answer.and_then(|answer| answer.success(error_code));
    answer.map_err(|error| failure(what, &error))
}

/// What `what` answered, in JSON.
pub(super) fn read<T: DeserializeOwned>(answer: &Answer, what: &str) -> Result<T, Failure> {
    answer.json().map_err(|error| failure(what, &error))
}

/// A token as it stands in an answer (RFC 6749 §5.1).
#[derive(Deserialize)]
pub(super) struct AccessToken {
    access_token: Secret,
    token_type: Option<String>,
    expires_in: Option<Seconds>,
}

/// Some services write the number as a text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds {
    Number(u64),
    Text(String),
}

impl AccessToken {
    /// What is used of it, unless it can be no bearer's or is worth nothing any more.
    pub(super) fn take(self, what: &str) -> Result<Fetched<Secret>, Failure> {
        let is_bearer = |kind: &str| kind.eq_ignore_ascii_case("bearer");
        if !self.token_type.as_deref().is_none_or(is_bearer) {
            return Err(
                format!("has no token: {what} hands out tokens that are no bearer's").into(),
            );
        }
        let lives = match self.expires_in {
            None => UNSAID,
            Some(Seconds::Number(seconds)) => Duration::from_secs(seconds),
            Some(Seconds::Text(text)) => match text.parse() {
                Ok(seconds) => Duration::from_secs(seconds),
                Err(_) => return Err(failure(what, &CallError::Unreadable)),
            },
        };
        token(self.access_token, lives, what)
    }
}

/// A token that ends at `end`, which is written as RFC 3339 has it.
pub(super) fn token_until(
    value: Secret,
    end: &str,
    answer: &Answer,
    what: &str,
) -> Result<Fetched<Secret>, Failure> {
    let end: SystemTime =
        humantime::parse_rfc3339_weak(end).map_err(|_| failure(what, &CallError::Unreadable))?;
    token(value, answer.until(end), what)
}

fn token(value: Secret, lives: Duration, what: &str) -> Result<Fetched<Secret>, Failure> {
    if value.expose().is_empty() || !value.can_be_header() {
        return Err(failure(what, &CallError::Unreadable));
    }
    if lives < WORTH_USING {
        return Err(format!("has no token: {what} handed out one that ends at once").into());
    }
    Ok(Fetched { value, lives })
}

/// That there is no token, since `what` was no help.
pub(super) fn failure(what: &str, error: &CallError) -> Failure {
    Failure {
        why: format!("has no token: {what} {error}"),
        retry_after: error.retry_after(),
    }
}

/// A service's own word for a refusal: `{"error": "invalid_client"}` (RFC 6749 §5.2), or
/// `{"error": {"status": "PERMISSION_DENIED"}}`.
fn error_code(answer: &Answer) -> Option<String> {
    #[derive(Deserialize)]
    struct Said {
        error: Error,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Error {
        Word(String),
        Status { status: String },
    }
    Some(match answer.json::<Said>().ok()?.error {
        Error::Word(word) => word,
        Error::Status { status } => status,
    })
}

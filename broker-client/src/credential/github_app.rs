//! Tokens of a GitHub App's installation, for what the installation may do and an hour (GitHub, "Authenticating as a
//! GitHub App installation").

use std::time::SystemTime;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::handed_out::{JSON, failure, read, token_until};
use super::renewed::{Failure, Fetch, Fetched, Occasion};
use super::{Secret, file, jwt};
use crate::config::GithubAppSettings;
use crate::control_call::{CallError, ControlCalls, Way};

const VERSION: HeaderName = HeaderName::from_static("x-github-api-version");
/// How far this machine's clock may be ahead, in seconds; GitHub advises as much.
const SKEW: u64 = 60;
/// How long the app's own token is good, in seconds; GitHub takes ten minutes at most.
const LIVES: u64 = 9 * 60;

/// The tokens of one installation.
#[derive(Debug)]
pub(super) struct GithubApp {
    pub(super) settings: GithubAppSettings,
    pub(super) calls: ControlCalls,
}

impl GithubApp {
    async fn token(&self) -> Result<Fetched<Secret>, Failure> {
        #[derive(Deserialize)]
        struct Installed {
            token: Secret,
            expires_at: String,
        }
        let GithubAppSettings {
            api, installation, ..
        } = &self.settings;
        let uri = format!("{api}/app/installations/{installation}/access_tokens");
        let mut request = Request::new(self.narrowing());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri
            .parse()
            .map_err(|_| "has no token: the URL of its \"api\" is none")?;
        let headers = request.headers_mut();
        headers.insert(AUTHORIZATION, self.bearer().await?);
        headers.insert(
            ACCEPT,
            HeaderValue::from_static("application/vnd.github+json"),
        );
        headers.insert(VERSION, HeaderValue::from_static("2022-11-28"));
        headers.insert(CONTENT_TYPE, JSON);
        let what = api.authority();
        let answer = self.calls.send(request, Way::Usual).await;
        // Its own text may repeat what it was sent, and its status tells enough.
        let answer = answer.and_then(|answer| answer.success(|_| None));
        let answer = answer.map_err(|error| refused(&what, &error))?;
        let Installed { token, expires_at } = read(&answer, &what)?;
        token_until(token, &expires_at, &answer, &what)
    }

    /// To what the token is narrowed, as GitHub is asked for it.
    fn narrowing(&self) -> Bytes {
        let mut asked = Map::new();
        let GithubAppSettings {
            repositories,
            permissions,
            ..
        } = &self.settings;
        if !repositories.is_empty() {
            asked.insert("repositories".to_owned(), json!(repositories));
        }
        if !permissions.is_empty() {
            asked.insert("permissions".to_owned(), json!(permissions));
        }
        Value::Object(asked).to_string().into()
    }

    /// The app itself, by its key, which is read for each renewal.
    async fn bearer(&self) -> Result<HeaderValue, Failure> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap_or_default().as_secs();
        let claims =
            json!({"iat": now.saturating_sub(SKEW), "exp": now + LIVES, "iss": self.settings.app});
        let path = &self.settings.private_key_file;
        let key = file::bytes(path.clone()).await;
        let token = key.and_then(|key| jwt::signed(&claims, None, &key));
        let token = token.map_err(|why| format!("has no token: {} {why}", path.display()))?;
        Ok(Secret::new(["Bearer ", token.expose()].concat()).to_header())
    }
}

/// What GitHub's statuses mean here, and what to look at.
fn refused(what: &str, error: &CallError) -> Failure {
    let hint = match error {
        CallError::Refused { status, .. } => match *status {
            StatusCode::UNAUTHORIZED => {
                " (is private-key-file a key of this app-id, and is the clock of this machine right?)"
            }
            StatusCode::FORBIDDEN => {
                " (is the installation suspended, the rate limit used up, or this machine's address not on the organization's list?)"
            }
            StatusCode::NOT_FOUND => {
                " (does this app have an installation of this installation-id, at this api?)"
            }
            StatusCode::UNPROCESSABLE_ENTITY => {
                " (does the installation have all of these repositories and permissions?)"
            }
            status if status.is_redirection() => {
                " (redirects are not followed: name the new address in api)"
            }
            _ => "",
        },
        CallError::Unreachable(_)
        | CallError::Timeout
        | CallError::TooLong
        | CallError::Unreadable => "",
    };
    let mut failure = failure(what, error);
    failure.why.push_str(hint);
    failure
}

impl Fetch<Secret> for GithubApp {
    fn fetch(&self, _: Occasion) -> BoxFuture<'_, Result<Fetched<Secret>, Failure>> {
        Box::pin(self.token())
    }

    fn calls(&self) -> Vec<(Uri, Way)> {
        let api = self.settings.api.to_string().parse();
        api.into_iter().map(|uri| (uri, Way::Usual)).collect()
    }
}

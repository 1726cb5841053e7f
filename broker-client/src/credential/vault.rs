//! Secrets of HashiCorp Vault, or OpenBao: a field of one in a KV store of version 2, read by a session that is renewed
//! as long as Vault lets it, and then opened anew.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::handed_out::failure;
use super::renewed::{Failure, Fetch, Fetched, Occasion};
use super::sources::Composed;
use super::{Secret, file};
use crate::config::{VaultLogin, VaultSettings};
use crate::control_call::{Answer, CallError, ControlCalls, Way};

const TOKEN: HeaderName = HeaderName::from_static("x-vault-token");
const NAMESPACE: HeaderName = HeaderName::from_static("x-vault-namespace");
/// Vault refuses requests without it where it is told to: browsers cannot be made to send it.
const REQUEST: HeaderName = HeaderName::from_static("x-vault-request");
/// A session whose rest is shorter is not used.
const WORTH_USING: Duration = Duration::from_secs(5);

/// One field of one secret.
#[derive(Debug)]
pub(super) struct Vault {
    settings: VaultSettings,
    /// Where the session is the operator's.
    token: Option<Composed>,
    calls: ControlCalls,
    session: Mutex<Option<Session>>,
}

/// What Vault knows the agent by.
#[derive(Debug)]
struct Session {
    token: Secret,
    is_renewable: bool,
    from: Instant,
    /// `None` where it does not end, or its end is not known.
    lives: Option<Duration>,
}

impl Session {
    fn left(&self) -> Option<Duration> {
        Some(self.lives?.saturating_sub(self.from.elapsed()))
    }

    /// Two thirds of its time have passed.
    fn is_old(&self) -> bool {
        self.lives
            .is_some_and(|lives| self.from.elapsed() >= lives * 2 / 3)
    }
}

/// A session as Vault hands it out.
#[derive(Deserialize)]
struct Opened {
    auth: Auth,
}

#[derive(Deserialize)]
struct Auth {
    client_token: Secret,
    /// In seconds; 0 is for ever.
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
}

impl Vault {
    pub(super) fn new(
        settings: &VaultSettings,
        token: Option<Composed>,
        calls: ControlCalls,
    ) -> Self {
        Self {
            settings: settings.clone(),
            token,
            calls,
            session: Mutex::new(None),
        }
    }

    async fn secret(&self) -> Result<Fetched<Secret>, Failure> {
        // Held over calls: there is one attempt at a time anyway.
        let mut session = self.session.lock().await;
        let is_kept = self.keep(&mut session).await?;
        let open = session.as_ref().ok_or("has no session")?;
        let mut answer = self.read(&open.token).await;
        if is_kept && is_forbidden(&answer) {
            // It was revoked, or Vault was set up anew.
            *session = None;
            self.keep(&mut session).await?;
            let open = session.as_ref().ok_or("has no session")?;
            answer = self.read(&open.token).await;
        }
        let answer = answer.map_err(|error| failure(&self.what(), &error))?;
        let value = self.field(&answer)?;
        let left = session.as_ref().and_then(Session::left);
        Ok(Fetched {
            value,
            lives: left
                .unwrap_or(self.settings.refresh)
                .min(self.settings.refresh),
        })
    }

    /// Sees to it that there is a session with some time left; whether there was one before.
    async fn keep(&self, session: &mut Option<Session>) -> Result<bool, Failure> {
        if let Some(open) = session {
            if !open.is_old() {
                return Ok(true);
            }
            if open.is_renewable
                && let Ok(renewed) = self.renew(&open.token).await
            {
                *open = renewed;
            }
            if open.left().is_none_or(|left| left > WORTH_USING) && !open.is_old() {
                return Ok(true);
            }
        }
        *session = Some(self.open().await?);
        Ok(false)
    }

    async fn open(&self) -> Result<Session, Failure> {
        match &self.settings.login {
            VaultLogin::Token(_) => {
                let token = self.token.as_ref().ok_or("has no token")?.now().await?;
                if !token.can_be_header() {
                    return Err("has no session: its token holds what no header may carry".into());
                }
                // Not every token can be renewed, and one that cannot is good all the same.
                Ok(self.renew(&token).await.unwrap_or(Session {
                    token,
                    is_renewable: false,
                    from: Instant::now(),
                    lives: None,
                }))
            }
            VaultLogin::Kubernetes {
                role,
                mount,
                jwt_file,
            } => {
                let jwt = file::content(jwt_file.clone()).await;
                let jwt =
                    jwt.map_err(|why| format!("has no session: {} {why}", jwt_file.display()))?;
                let path = format!("auth/{mount}/login");
                let body = json(&[("jwt", jwt.expose()), ("role", role)]);
                let answer = self.call(Method::POST, &path, None, body).await;
                self.opened(answer).map_err(|error| {
                    failure(
                        &format!("{} asked for the role {role:?}", self.what()),
                        &error,
                    )
                })
            }
        }
    }

    async fn renew(&self, token: &Secret) -> Result<Session, CallError> {
        let body = Bytes::from_static(b"{}");
        let answer = self.call(Method::POST, "auth/token/renew-self", Some(token), body);
        self.opened(answer.await)
    }

    fn opened(&self, answer: Result<Answer, CallError>) -> Result<Session, CallError> {
        let Opened { auth } = answer?.json()?;
        if !auth.client_token.can_be_header() {
            return Err(CallError::Unreadable);
        }
        Ok(Session {
            token: auth.client_token,
            is_renewable: auth.renewable,
            from: Instant::now(),
            lives: (auth.lease_duration > 0).then(|| Duration::from_secs(auth.lease_duration)),
        })
    }

    async fn read(&self, token: &Secret) -> Result<Answer, CallError> {
        let VaultSettings { mount, path, .. } = &self.settings;
        let path = format!("{mount}/data/{path}");
        self.call(Method::GET, &path, Some(token), Bytes::new())
            .await
    }

    fn field(&self, answer: &Answer) -> Result<Secret, Failure> {
        #[derive(Deserialize)]
        struct Read {
            data: Version,
        }
        #[derive(Deserialize)]
        struct Version {
            data: BTreeMap<String, Kept>,
        }
        /// A field may hold anything; only a text is a credential.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Kept {
            Text(Secret),
            Other(serde::de::IgnoredAny),
        }
        let VaultSettings { path, field, .. } = &self.settings;
        let read: Read = answer
            .json()
            .map_err(|error| failure(&self.what(), &error))?;
        let mut fields = read.data.data;
        match fields.remove(field) {
            Some(Kept::Text(secret)) => {
                let value = file::value(secret.expose().as_bytes());
                value
                    .map_err(|why| format!("holds no credential: the field {field:?} {why}").into())
            }
            Some(Kept::Other(_)) => {
                Err(format!("holds no credential: the field {field:?} is no text").into())
            }
            None => Err(format!("holds no credential: {path} has no field {field:?}").into()),
        }
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        token: Option<&Secret>,
        body: Bytes,
    ) -> Result<Answer, CallError> {
        let uri = format!("{}/v1/{path}", self.settings.address).parse();
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() =
            uri.map_err(|_| CallError::Unreachable("its URL is none".to_owned()))?;
        let headers = request.headers_mut();
        headers.insert(REQUEST, HeaderValue::from_static("true"));
        if let Some(namespace) = &self.settings.namespace {
            headers.insert(NAMESPACE, namespace.clone());
        }
        if let Some(token) = token {
            headers.insert(TOKEN, token.to_header());
        }
        // What Vault says of an error is a sentence, which may repeat anything.
        self.calls
            .send(request, Way::Usual)
            .await?
            .success(|_| None)
    }

    fn what(&self) -> String {
        self.settings.address.authority()
    }
}

impl Fetch<Secret> for Vault {
    fn fetch(&self, _: Occasion) -> BoxFuture<'_, Result<Fetched<Secret>, Failure>> {
        Box::pin(self.secret())
    }

    fn calls(&self) -> Vec<(Uri, Way)> {
        let address = self.settings.address.to_string().parse();
        address.into_iter().map(|uri| (uri, Way::Usual)).collect()
    }
}

fn is_forbidden(answer: &Result<Answer, CallError>) -> bool {
    matches!(answer, Err(CallError::Refused { status, .. }) if *status == StatusCode::FORBIDDEN)
}

/// An object of these texts, in a body that is wiped when it was sent.
fn json(fields: &[(&str, &str)]) -> Bytes {
    let length: usize = fields
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    // Room for all, also where some is escaped: what grows leaves copies of secrets behind.
    let mut body = Zeroizing::new(Vec::with_capacity(64 + 6 * length));
    let fields: BTreeMap<_, _> = fields.iter().copied().collect();
    serde_json::to_writer(&mut *body, &fields).expect("texts are JSON, and a Vec takes everything");
    Bytes::from_owner(body)
}

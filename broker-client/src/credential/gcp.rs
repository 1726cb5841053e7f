//! Tokens of Google Cloud for the identity that the agent runs with: that of its machine or pod from the metadata
//! server, or what `GOOGLE_APPLICATION_CREDENTIALS` names, a workload identity federation or a service account's key.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use broker_process::settings::Environment;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::handed_out::{AccessToken, JSON, ask, failure, form_request, read, token_until};
use super::renewed::{Failure, Fetch, Fetched, Occasion};
use super::{Secret, file, jwt};
use crate::address_policy::is_metadata;
use crate::config::GcpSettings;
use crate::control_call::{Answer, CallError, ControlCalls, Way, secure_uri};

const METADATA: &str = "metadata.google.internal";
const TOKEN_PATH: &str = "/computeMetadata/v1/instance/service-accounts/default/token";
/// Asked with it and answered with it, so that neither is a mistake (Google, "About VM metadata").
const FLAVOR: HeaderName = HeaderName::from_static("metadata-flavor");
const GOOGLE: HeaderValue = HeaderValue::from_static("Google");
/// How long a token for a service account is wished for, in seconds.
const LIFETIME: u64 = 3600;

/// The tokens of one identity.
#[derive(Debug)]
pub(super) struct Gcp {
    settings: GcpSettings,
    origin: Origin,
    calls: ControlCalls,
}

#[derive(Debug)]
enum Origin {
    /// The metadata server at this address.
    Metadata(String),
    /// What this file says, which is read for each renewal.
    File(PathBuf),
}

/// A file of credentials (Google, AIP-4110 and AIP-4117).
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Credentials {
    ServiceAccount(ServiceAccount),
    ExternalAccount(ExternalAccount),
}

#[derive(Deserialize)]
struct ServiceAccount {
    client_email: String,
    private_key: Secret,
    private_key_id: Option<String>,
    token_uri: String,
}

#[derive(Deserialize)]
struct ExternalAccount {
    audience: String,
    subject_token_type: String,
    token_url: String,
    service_account_impersonation_url: Option<String>,
    credential_source: SubjectSource,
}

/// Where the token of the other identity provider is.
#[derive(Deserialize)]
struct SubjectSource {
    file: Option<PathBuf>,
    url: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    format: Option<Format>,
}

#[derive(Deserialize)]
struct Format {
    r#type: String,
    subject_token_field_name: Option<String>,
}

impl Gcp {
    pub(super) fn new(
        settings: &GcpSettings,
        environment: &Environment,
        calls: ControlCalls,
    ) -> Self {
        let host = environment.get("GCE_METADATA_HOST").unwrap_or(METADATA);
        let origin = match environment.get("GOOGLE_APPLICATION_CREDENTIALS") {
            Some(path) => Origin::File(path.into()),
            None => Origin::Metadata(host.to_owned()),
        };
        Self {
            settings: settings.clone(),
            origin,
            calls,
        }
    }

    async fn token(&self) -> Result<Fetched<Secret>, Failure> {
        match &self.origin {
            Origin::Metadata(host) => self.of_metadata(host).await,
            Origin::File(path) => {
                let credentials = file::bytes(path.clone()).await;
                let credentials = credentials.and_then(|bytes| parse(&bytes));
                match credentials.map_err(|why| of_file(path, &why))? {
                    Credentials::ServiceAccount(account) => self.of_account(&account, path).await,
                    Credentials::ExternalAccount(account) => self.of_external(&account).await,
                }
            }
        }
    }

    async fn of_metadata(&self, host: &str) -> Result<Fetched<Secret>, Failure> {
        let what = "the metadata server";
        let scopes = self.settings.scope.replace(' ', ",");
        let uri = format!("http://{host}{TOKEN_PATH}?scopes={scopes}").parse();
        let mut request = Request::new(Bytes::new());
        *request.uri_mut() =
            uri.map_err(|_| "has no token: GCE_METADATA_HOST is no host (write 169.254.169.254)")?;
        request.headers_mut().insert(FLAVOR, GOOGLE);
        let answer = ask(&self.calls, request, Way::Direct, what).await?;
        if answer.header(&FLAVOR) != Some(&GOOGLE) {
            return Err(failure(what, &CallError::Unreadable));
        }
        read::<AccessToken>(&answer, what)?.take(what)
    }

    /// A service account's own assertion for a token (RFC 7523 §2.1).
    async fn of_account(
        &self,
        account: &ServiceAccount,
        path: &Path,
    ) -> Result<Fetched<Secret>, Failure> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap_or_default().as_secs();
        let claims = json!({
            "iss": account.client_email, "scope": self.settings.scope, "aud": account.token_uri,
            "iat": now, "exp": now + LIFETIME,
        });
        let key_id = account.private_key_id.as_deref();
        let assertion = jwt::signed(&claims, key_id, account.private_key.expose().as_bytes());
        let assertion =
            assertion.map_err(|why| of_file(path, &format!("\"private_key\" {why}")))?;
        let grant = "urn:ietf:params:oauth:grant-type:jwt-bearer";
        let fields = [("grant_type", grant), ("assertion", assertion.expose())];
        let uri = secure(&account.token_uri, "token_uri")?;
        self.exchange(&uri, &fields).await
    }

    /// Another provider's token for one of Google's (RFC 8693), and that for a service account's where one is named.
    async fn of_external(&self, account: &ExternalAccount) -> Result<Fetched<Secret>, Failure> {
        let subject = self.subject(&account.credential_source).await?;
        let fields = [
            (
                "grant_type",
                "urn:ietf:params:oauth:grant-type:token-exchange",
            ),
            ("audience", &account.audience),
            ("scope", &self.settings.scope),
            (
                "requested_token_type",
                "urn:ietf:params:oauth:token-type:access_token",
            ),
            ("subject_token", subject.expose()),
            ("subject_token_type", &account.subject_token_type),
        ];
        let uri = secure(&account.token_url, "token_url")?;
        let token = self.exchange(&uri, &fields).await?;
        match &account.service_account_impersonation_url {
            None => Ok(token),
            Some(url) => self.impersonate(url, &token.value).await,
        }
    }

    async fn subject(&self, source: &SubjectSource) -> Result<Secret, Failure> {
        let (what, text) = match (&source.file, &source.url) {
            (Some(path), None) => {
                let bytes = file::bytes(path.clone()).await;
                (
                    path.display().to_string(),
                    bytes.map_err(|why| of_file(path, &why))?,
                )
            }
            (None, Some(url)) => {
                let uri = secure(url, "credential_source.url")?;
                let what = uri.host().unwrap_or_default().to_owned();
                let way = way_to(&what);
                let mut request = Request::new(Bytes::new());
                *request.uri_mut() = uri;
                for (name, value) in &source.headers {
                    let header = name.parse::<HeaderName>().ok().zip(value.parse().ok());
                    let (name, mut value): (_, HeaderValue) = header
                        .ok_or("has no token: \"credential_source.headers\" has no headers")?;
                    value.set_sensitive(true);
                    request.headers_mut().insert(name, value);
                }
                let answer = ask(&self.calls, request, way, &what).await?;
                let text = answer.text().map_err(|error| failure(&what, &error))?;
                (what, Zeroizing::new(text.as_bytes().to_vec()))
            }
            _ => {
                return Err("has no token: \"credential_source\" needs either \"file\" or \"url\" (tokens of AWS and of \
                     programs are not supported)"
                    .into());
            }
        };
        subject(&text, source.format.as_ref()).ok_or_else(|| {
            format!("has no token: {what} holds no subject token as \"format\" has it").into()
        })
    }

    async fn exchange(
        &self,
        uri: &Uri,
        fields: &[(&str, &str)],
    ) -> Result<Fetched<Secret>, Failure> {
        let what = uri.host().unwrap_or_default();
        let request = form_request(uri, fields);
        let answer = ask(&self.calls, request, Way::Usual, what).await?;
        read::<AccessToken>(&answer, what)?.take(what)
    }

    async fn impersonate(&self, url: &str, token: &Secret) -> Result<Fetched<Secret>, Failure> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Generated {
            access_token: Secret,
            expire_time: String,
        }
        let uri = secure(url, "service_account_impersonation_url")?;
        let what = uri.host().unwrap_or_default().to_owned();
        let scopes: Vec<&str> = self.settings.scope.split(' ').collect();
        let body: Value = json!({"scope": scopes, "lifetime": format!("{LIFETIME}s")});
        let mut request = Request::new(Bytes::from(body.to_string()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        let bearer = Secret::new(["Bearer ", token.expose()].concat()).to_header();
        request.headers_mut().insert(AUTHORIZATION, bearer);
        request.headers_mut().insert(CONTENT_TYPE, JSON);
        let answer: Answer = ask(&self.calls, request, Way::Usual, &what).await?;
        let Generated {
            access_token,
            expire_time,
        } = read(&answer, &what)?;
        token_until(access_token, &expire_time, &answer, &what)
    }
}

impl Fetch<Secret> for Gcp {
    fn fetch(&self, _: Occasion) -> BoxFuture<'_, Result<Fetched<Secret>, Failure>> {
        Box::pin(self.token())
    }

    fn calls(&self) -> Vec<(Uri, Way)> {
        let path = match &self.origin {
            Origin::Metadata(host) => {
                let uri = format!("http://{host}").parse();
                return uri.into_iter().map(|uri| (uri, Way::Direct)).collect();
            }
            Origin::File(path) => path,
        };
        // Whoever asks is no server: the file may be read here and now.
        let credentials = std::fs::read(path).ok().and_then(|it| parse(&it).ok());
        credentials.map_or(Vec::new(), called)
    }
}

/// What is called by such a file, in this order.
fn called(credentials: Credentials) -> Vec<(Uri, Way)> {
    let urls = match credentials {
        Credentials::ServiceAccount(it) => vec![Some(it.token_uri)],
        Credentials::ExternalAccount(it) => vec![
            it.credential_source.url,
            Some(it.token_url),
            it.service_account_impersonation_url,
        ],
    };
    let uris = urls.iter().flatten().filter_map(|url| secure_uri(url).ok());
    uris.map(|uri| {
        let way = way_to(uri.host().unwrap_or_default());
        (uri, way)
    })
    .collect()
}

fn way_to(host: &str) -> Way {
    if is_metadata(host) {
        Way::Direct
    } else {
        Way::Usual
    }
}

fn parse(bytes: &[u8]) -> Result<Credentials, String> {
    serde_json::from_slice(bytes).map_err(|_| {
        "holds no credentials of the type external_account or service_account".to_owned()
    })
}

fn subject(bytes: &[u8], format: Option<&Format>) -> Option<Secret> {
    let text = match format {
        Some(format) if format.r#type == "json" => {
            let mut fields: BTreeMap<String, Secret> = serde_json::from_slice(bytes).ok()?;
            return fields.remove(format.subject_token_field_name.as_ref()?);
        }
        Some(format) if format.r#type != "text" => return None,
        _ => str::from_utf8(bytes).ok()?.trim(),
    };
    (!text.is_empty()).then(|| Secret::new(text))
}

fn of_file(path: &Path, why: &str) -> Failure {
    format!("has no token: {} {why}", path.display()).into()
}

fn secure(text: &str, field: &str) -> Result<Uri, Failure> {
    secure_uri(text).map_err(|why| format!("has no token: \"{field}\" {why}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_that_a_file_of_credentials_names_is_told() {
        let file = json!({
            "type": "external_account", "audience": "a", "subject_token_type": "b",
            "token_url": "https://sts.example/token",
            "service_account_impersonation_url": "https://iam.example/b",
            "credential_source": {"url": "http://169.254.169.254/subject"},
        });
        let called = called(parse(file.to_string().as_bytes()).unwrap());
        let hosts = called.iter().map(|(uri, way)| (uri.host().unwrap(), *way));
        assert_eq!(
            hosts.collect::<Vec<_>>(),
            [
                ("169.254.169.254", Way::Direct),
                ("sts.example", Way::Usual),
                ("iam.example", Way::Usual),
            ]
        );
    }
}

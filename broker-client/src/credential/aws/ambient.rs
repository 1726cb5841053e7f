//! The keys that the agent runs with, from where Amazon's own programs take them and in their order: environment, web
//! identity (IRSA), container (EKS Pod Identity, ECS), instance.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use broker_process::settings::Environment;
use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use serde::Deserialize;

use super::sts::Sts;
use super::{AwsKeys, HandedOut};
use crate::address_policy::{is_this_machine, literal};
use crate::config::ServerUrl;
use crate::control_call::{Answer, CallError, ControlCalls, Way};
use crate::credential::Secret;
use crate::credential::file;
use crate::credential::renewed::{Failure, Fetched};

/// The name of a session in the cloud's records where the environment has none.
const SESSION: &str = "broker-client";
/// How long keys that do not end are kept.
const ENDLESS: Duration = Duration::from_secs(3600);
/// Where containers ask for a role's keys: on ECS, and on EKS by either family.
const CONTAINER_HOSTS: [&str; 3] = ["169.254.170.2", "169.254.170.23", "fd00:ec2::23"];
const INSTANCE: &str = "http://169.254.169.254";
const INSTANCE_IPV6: &str = "http://[fd00:ec2::254]";
/// How long a session with an instance's metadata may last, in seconds; one serves for a single question.
const SESSION_LIVES: HeaderValue = HeaderValue::from_static("60");

/// Where the keys come from.
#[derive(Debug)]
pub(super) struct Ambient {
    origin: Result<Origin, String>,
    calls: ControlCalls,
    sts: Arc<Sts>,
}

#[derive(Debug)]
enum Origin {
    Environment(Keys),
    WebIdentity {
        role: String,
        session_name: String,
        token: PathBuf,
    },
    Container {
        uri: Uri,
        authorization: Option<Authorization>,
    },
    Instance {
        base: String,
    },
}

#[derive(Debug)]
struct Keys {
    id: String,
    secret: Secret,
    token: Option<Secret>,
}

/// What a container shows for the keys of its role.
#[derive(Debug)]
enum Authorization {
    Text(Secret),
    /// Read for each question: it is replaced now and then.
    File(PathBuf),
}

impl Ambient {
    /// `metadata` is the instance's metadata service, if not at its usual address.
    pub(super) fn new(
        environment: &Environment,
        metadata: Option<&ServerUrl>,
        calls: ControlCalls,
        sts: Arc<Sts>,
    ) -> Self {
        Self {
            origin: origin(environment, metadata),
            calls,
            sts,
        }
    }

    /// The one service that is called for the keys, if there is one.
    pub(super) fn call(&self) -> Option<(Uri, Way)> {
        match self.origin.as_ref().ok()? {
            Origin::Environment(_) => None,
            Origin::WebIdentity { .. } => Some(self.sts.call()),
            Origin::Container { uri, .. } => Some((uri.clone(), Way::Direct)),
            Origin::Instance { base } => Some((base.parse().ok()?, Way::Direct)),
        }
    }

    pub(super) async fn keys(&self) -> Result<Fetched<AwsKeys>, Failure> {
        let origin = self.origin.as_ref();
        match origin.map_err(|why| format!("has no keys: {why}"))? {
            Origin::Environment(Keys { id, secret, token }) => Ok(Fetched {
                value: AwsKeys {
                    id: id.clone(),
                    secret: copy(secret),
                    token: token.as_ref().map(copy),
                },
                lives: ENDLESS,
            }),
            Origin::WebIdentity {
                role,
                session_name,
                token,
            } => {
                let token = read(token).await?;
                let sts = &self.sts;
                sts.assume_with_web_identity(role, session_name, &token)
                    .await
            }
            Origin::Container { uri, authorization } => {
                let what = "the container's role";
                let mut request = Request::new(Bytes::new());
                *request.uri_mut() = uri.clone();
                if let Some(authorization) = authorization {
                    let token = authorization.now().await?;
                    if !token.can_be_header() {
                        return Err(format!(
                            "has no keys: what is shown for {what} holds what no header may carry"
                        )
                        .into());
                    }
                    request
                        .headers_mut()
                        .insert(AUTHORIZATION, token.to_header());
                }
                let answer = self.ask(what, request).await?;
                handed_out(&answer, what)?.keys(what, &answer)
            }
            Origin::Instance { base } => self.keys_of_instance(base).await,
        }
    }

    /// By sessions alone (IMDSv2): without one, a request that somebody had the agent make could ask as well.
    async fn keys_of_instance(&self, base: &str) -> Result<Fetched<AwsKeys>, Failure> {
        const TTL: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token-ttl-seconds");
        const SESSION: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token");
        let what = "the instance's metadata service";
        let request = |path: &str, name: HeaderName, value: HeaderValue| {
            let uri = format!("{base}{path}").parse::<Uri>();
            let uri = uri.map_err(|_| format!("has no keys: {what} named a role that is none"))?;
            let mut request = Request::new(Bytes::new());
            *request.uri_mut() = uri;
            request.headers_mut().insert(name, value);
            Ok::<_, Failure>(request)
        };

        let mut opening = request("/latest/api/token", TTL, SESSION_LIVES)?;
        *opening.method_mut() = Method::PUT;
        let answer = self.ask(what, opening).await?;
        let session = Secret::new(text(&answer, what)?);
        if !session.can_be_header() {
            return Err(failure(what, &CallError::Unreadable));
        }
        let roles = "/latest/meta-data/iam/security-credentials/";
        let answer = self
            .ask(what, request(roles, SESSION, session.to_header())?)
            .await?;
        let role = text(&answer, what)?.lines().next().unwrap_or_default();
        let path = format!("{roles}{}", role.trim());
        let answer = self
            .ask(what, request(&path, SESSION, session.to_header())?)
            .await?;
        handed_out(&answer, what)?.keys(what, &answer)
    }

    async fn ask(&self, what: &str, request: Request<Bytes>) -> Result<Answer, Failure> {
        let answer = self.calls.send(request, Way::Direct).await;
        let answer = answer.and_then(|answer| answer.success(error_code));
        answer.map_err(|error| failure(what, &error))
    }
}

impl Authorization {
    async fn now(&self) -> Result<Secret, Failure> {
        match self {
            Self::Text(text) => Ok(copy(text)),
            Self::File(path) => read(path).await,
        }
    }
}

fn origin(environment: &Environment, metadata: Option<&ServerUrl>) -> Result<Origin, String> {
    let variable = |name: &str| environment.get(name).map(str::to_owned);
    if let Some(id) = variable("AWS_ACCESS_KEY_ID") {
        let secret = variable("AWS_SECRET_ACCESS_KEY")
            .ok_or("AWS_ACCESS_KEY_ID is set without AWS_SECRET_ACCESS_KEY")?;
        let token = variable("AWS_SESSION_TOKEN").map(Secret::new);
        let are_headers =
            HeaderValue::from_str(&id).is_ok() && token.as_ref().is_none_or(Secret::can_be_header);
        if !are_headers {
            return Err(
                "AWS_ACCESS_KEY_ID or AWS_SESSION_TOKEN holds what no header may carry".to_owned(),
            );
        }
        return Ok(Origin::Environment(Keys {
            id,
            secret: Secret::new(secret),
            token,
        }));
    }
    if let Some(token) = variable("AWS_WEB_IDENTITY_TOKEN_FILE") {
        return Ok(Origin::WebIdentity {
            role: variable("AWS_ROLE_ARN")
                .ok_or("AWS_WEB_IDENTITY_TOKEN_FILE is set without AWS_ROLE_ARN")?,
            session_name: variable("AWS_ROLE_SESSION_NAME").unwrap_or_else(|| SESSION.to_owned()),
            token: token.into(),
        });
    }
    if let Some(uri) = container(environment)? {
        let file = variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
        let text = variable("AWS_CONTAINER_AUTHORIZATION_TOKEN");
        let file = file.map(|path| Authorization::File(path.into()));
        return Ok(Origin::Container {
            uri,
            authorization: file.or_else(|| Some(Authorization::Text(Secret::new(text?)))),
        });
    }
    if variable("AWS_EC2_METADATA_DISABLED").is_some_and(|text| text.eq_ignore_ascii_case("true")) {
        return Err(
            "the environment names none, and AWS_EC2_METADATA_DISABLED keeps the instance's away"
                .to_owned(),
        );
    }
    let mode = variable("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE");
    let is_ipv6 = mode.is_some_and(|mode| mode.eq_ignore_ascii_case("ipv6"));
    let usual = if is_ipv6 { INSTANCE_IPV6 } else { INSTANCE };
    Ok(Origin::Instance {
        base: metadata.map_or(usual.to_owned(), ServerUrl::to_string),
    })
}

/// Where a container asks. Its token is shown there, so it is nowhere but on this machine.
fn container(environment: &Environment) -> Result<Option<Uri>, String> {
    let relative = environment.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
    let full = environment.get("AWS_CONTAINER_CREDENTIALS_FULL_URI");
    let (name, text) = match (relative, full) {
        (Some(path), _) => (
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            format!("http://{}{path}", CONTAINER_HOSTS[0]),
        ),
        (None, Some(uri)) => ("AWS_CONTAINER_CREDENTIALS_FULL_URI", uri.to_owned()),
        (None, None) => return Ok(None),
    };
    let uri: Uri = text.parse().map_err(|_| format!("{name} is no URL"))?;
    let host = uri.host().unwrap_or_default();
    let is_container = literal(host).is_some_and(|address| {
        CONTAINER_HOSTS
            .iter()
            .any(|known| known.parse() == Ok(address))
    });
    if uri.scheme_str().is_none() || !(is_container || is_this_machine(host)) {
        return Err(format!(
            "{name} leads elsewhere than to this machine or to {}",
            CONTAINER_HOSTS.join(", ")
        ));
    }
    Ok(Some(uri))
}

async fn read(path: &Path) -> Result<Secret, Failure> {
    let content = file::content(path.to_owned()).await;
    let content = content.map_err(|why| format!("has no keys: {} {why}", path.display()))?;
    Ok(copy(&content))
}

fn handed_out(answer: &Answer, what: &str) -> Result<HandedOut, Failure> {
    answer.json().map_err(|error| failure(what, &error))
}

fn text<'a>(answer: &'a Answer, what: &str) -> Result<&'a str, Failure> {
    let text = answer.text().map_err(|error| failure(what, &error))?;
    Ok(text.trim())
}

fn error_code(answer: &Answer) -> Option<String> {
    #[derive(Deserialize)]
    struct Said {
        code: String,
    }
    Some(answer.json::<Said>().ok()?.code)
}

fn failure(what: &str, error: &CallError) -> Failure {
    let hint = match error {
        CallError::Timeout | CallError::Unreachable(_) if what.starts_with("the instance") => {
            " (in a pod: name a role by IRSA or EKS Pod Identity, or have the instance's hop limit be 2)"
        }
        _ => "",
    };
    Failure {
        why: format!("has no keys: {what} {error}{hint}"),
        retry_after: error.retry_after(),
    }
}

fn copy(secret: &Secret) -> Secret {
    Secret::new(secret.expose())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(name: &str, value: &str) -> Result<String, String> {
        let uri = super::container(&Environment::from([(name, value)]));
        uri.map(|uri| uri.unwrap().to_string())
    }

    #[test]
    fn what_a_container_shows_goes_to_this_machine_alone() {
        const FULL: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
        for uri in [
            "http://169.254.170.23/v1/credentials",
            "http://[fd00:ec2::23]/v1/credentials",
            "http://169.254.170.2/v2/credentials",
            "http://localhost:8080/",
            "https://127.0.0.1:8443/",
        ] {
            assert_eq!(container(FULL, uri).as_deref(), Ok(uri));
        }
        for uri in [
            "http://169.254.169.254/latest/",
            "http://169.254.170.23.example/",
            "https://hunter2@credentials.example/",
            "http://10.0.0.1/",
            "/v1/credentials",
        ] {
            assert_eq!(
                container(FULL, uri).unwrap_err(),
                "AWS_CONTAINER_CREDENTIALS_FULL_URI leads elsewhere than to this machine or to \
                 169.254.170.2, 169.254.170.23, fd00:ec2::23"
            );
        }
        const RELATIVE: &str = "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI";
        let uri = container(RELATIVE, "/v2/credentials/1").unwrap();
        assert_eq!(uri, "http://169.254.170.2/v2/credentials/1");
        container(RELATIVE, "@elsewhere.example/").unwrap_err();
    }

    #[test]
    fn an_environment_that_says_half_of_it_is_told() {
        let says = |variables: &[(&str, &str)]| {
            let environment = variables.iter().copied().collect();
            origin(&environment, None).unwrap_err()
        };
        assert_eq!(
            says(&[("AWS_ACCESS_KEY_ID", "AKID")]),
            "AWS_ACCESS_KEY_ID is set without AWS_SECRET_ACCESS_KEY"
        );
        assert_eq!(
            says(&[("AWS_WEB_IDENTITY_TOKEN_FILE", "/run/token")]),
            "AWS_WEB_IDENTITY_TOKEN_FILE is set without AWS_ROLE_ARN"
        );
        assert_eq!(
            says(&[("AWS_EC2_METADATA_DISABLED", "TRUE")]),
            "the environment names none, and AWS_EC2_METADATA_DISABLED keeps the instance's away"
        );
    }
}

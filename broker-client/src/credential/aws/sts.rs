//! Amazon's token service: assumes roles, with keys or with a token of another identity provider.

use std::time::SystemTime;

use http::header::CONTENT_TYPE;
use http::{Method, Request, Uri};

use super::sigv4::{Scope, sign};
use super::{AwsKeys, HandedOut};
use crate::config::{AssumedRole, AwsSettings};
use crate::control_call::{Answer, CallError, ControlCalls, FORM, Way, form};
use crate::credential::Secret;
use crate::credential::renewed::{Failure, Fetched};

/// Of the service's interface, and of every request to it.
const VERSION: (&str, &str) = ("Version", "2011-06-15");

/// The token service of one region.
#[derive(Debug)]
pub(super) struct Sts {
    uri: Uri,
    scope: Scope,
    calls: ControlCalls,
}

impl Sts {
    pub(super) fn new(settings: &AwsSettings, calls: ControlCalls) -> Self {
        let uri = match &settings.endpoint {
            Some(endpoint) => format!("{endpoint}/"),
            None => format!("https://{}/", regional(&settings.region)),
        };
        Self {
            uri: uri.parse().expect("a checked URL, or a region in a name"),
            scope: service_scope(&settings.region),
            calls,
        }
    }

    pub(super) fn call(&self) -> (Uri, Way) {
        (self.uri.clone(), Way::Usual)
    }

    /// The keys of `role`, for whoever has `keys`.
    pub(super) async fn assume(
        &self,
        keys: &AwsKeys,
        role: &AssumedRole,
    ) -> Result<Fetched<AwsKeys>, Failure> {
        let seconds = role.duration.as_secs().to_string();
        let mut fields = vec![
            ("Action", "AssumeRole"),
            VERSION,
            ("RoleArn", &role.role),
            ("RoleSessionName", &role.session_name),
            ("DurationSeconds", &seconds),
        ];
        if let Some(id) = &role.external_id {
            fields.push(("ExternalId", id));
        }
        self.keys_of(&role.role, Some(keys), &fields).await
    }

    /// The keys of a role, for whoever has a token that its trust policy names.
    pub(super) async fn assume_with_web_identity(
        &self,
        role: &str,
        session_name: &str,
        token: &Secret,
    ) -> Result<Fetched<AwsKeys>, Failure> {
        let fields = [
            ("Action", "AssumeRoleWithWebIdentity"),
            VERSION,
            ("RoleArn", role),
            ("RoleSessionName", session_name),
            ("WebIdentityToken", token.expose()),
        ];
        self.keys_of(role, None, &fields).await
    }

    async fn keys_of(
        &self,
        role: &str,
        keys: Option<&AwsKeys>,
        fields: &[(&str, &str)],
    ) -> Result<Fetched<AwsKeys>, Failure> {
        let what = format!("{} asked for {role}", self.uri.host().unwrap_or_default());
        let body = form(fields);
        let mut request = Request::new(body.clone());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        request.headers_mut().insert(CONTENT_TYPE, FORM);
        if let Some(keys) = keys {
            let target = (&Method::POST, &self.uri);
            let headers = request.headers_mut();
            sign(keys, &self.scope, SystemTime::now(), target, headers, &body);
        }
        let answer = self.calls.send(request, Way::Usual).await;
        let answer = answer.and_then(|answer| answer.success(error_code));
        let answer = answer.map_err(|error| failure(&what, &error))?;
        let handed_out = answer.text().ok().and_then(handed_out);
        let handed_out = handed_out.ok_or_else(|| failure(&what, &CallError::Unreadable))?;
        handed_out.keys(&what, &answer)
    }
}

/// The host of a region's token service.
pub(super) fn regional(region: &str) -> String {
    let partition = if region.starts_with("cn-") {
        "amazonaws.com.cn"
    } else {
        "amazonaws.com"
    };
    format!("sts.{region}.{partition}")
}

pub(super) fn service_scope(region: &str) -> Scope {
    Scope {
        region: region.into(),
        service: "sts".into(),
    }
}

fn failure(what: &str, error: &CallError) -> Failure {
    let hint = match error {
        CallError::Refused {
            code: Some(code), ..
        } => match code.as_str() {
            "AccessDenied" => {
                " (does the role's trust policy name whom the agent runs as, and the external id?)"
            }
            "ExpiredTokenException"
            | "ExpiredToken"
            | "RequestExpired"
            | "SignatureDoesNotMatch" => " (is the clock of this machine right?)",
            "RegionDisabledException" => " (this region's token service is off in that account)",
            _ => "",
        },
        _ => "",
    };
    Failure {
        why: format!("has no keys: {what} {error}{hint}"),
        retry_after: error.retry_after(),
    }
}

fn error_code(answer: &Answer) -> Option<String> {
    element(answer.text().ok()?, "Code").map(str::to_owned)
}

fn handed_out(xml: &str) -> Option<HandedOut> {
    let credentials = element(xml, "Credentials")?;
    let secret = |name| Some(Secret::new(element(credentials, name)?));
    Some(HandedOut {
        access_key_id: element(credentials, "AccessKeyId")?.to_owned(),
        secret_access_key: secret("SecretAccessKey")?,
        token: secret("SessionToken")?,
        expiration: element(credentials, "Expiration")?.to_owned(),
    })
}

/// What stands in the first element of this name. Nothing that is looked for has attributes, escapes or another of its
/// name within.
fn element<'x>(xml: &'x str, name: &str) -> Option<&'x str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (inner, _) = rest.split_once(&format!("</{name}>"))?;
    Some(inner.trim())
}

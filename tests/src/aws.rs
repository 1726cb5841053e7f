//! Amazon Web Services as far as an agent asks them for keys: the token service, an instance's metadata and a
//! container's role. No registry has the real ones; these answer as Amazon's documentation says, and refuse what does
//! not fit.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use crate::http1::form;
use crate::origin::{Answer, Origin, Request};
use aws_lc_rs::{digest, hmac};

/// Keys that a test puts into the agent's environment.
pub const KEY_ID: &str = "AKIAIOSFODNN7EXAMPLE";
/// The role that [`ScriptedAws`] lets [`KEY_ID`] and each role before assume.
pub const ROLE: &str = "arn:aws:iam::123456789012:role/broker";
/// What its trust policy asks for.
pub const EXTERNAL_ID: &str = "customer/42";
/// What the web identity, or the container, shows for keys.
pub const PROOF: &str = "proof-of-the-pod";

/// The running services, all on one port.
pub struct ScriptedAws {
    origin: Origin,
    state: Arc<State>,
}

struct State {
    /// Stands in every secret that is handed out.
    secret: String,
    handed_out: AtomicUsize,
    lives: Mutex<Duration>,
    /// What is answered instead.
    instead: Mutex<Option<Answer>>,
}

impl ScriptedAws {
    /// Hands out keys whose secret parts begin with `secret`, and that are good for an hour.
    pub async fn start(secret: &str) -> Self {
        let state = Arc::new(State {
            secret: secret.to_owned(),
            handed_out: AtomicUsize::new(0),
            lives: Mutex::new(Duration::from_secs(3600)),
            instead: Mutex::new(None),
        });
        let answering = Arc::clone(&state);
        let origin = Origin::answering(move |request| answering.answer(request)).await;
        Self { origin, state }
    }

    /// Where they are.
    pub fn url(&self) -> String {
        self.origin.url()
    }

    /// The same, as an address.
    pub fn address(&self) -> SocketAddr {
        self.origin.address()
    }

    /// Everything that was asked, as `POST /` with the form's `Action`, or `GET /path`.
    pub fn asked(&self) -> Vec<String> {
        let requests = self.origin.requests();
        requests.iter().map(what).collect()
    }

    /// Every request as it came.
    pub fn requests(&self) -> Vec<Request> {
        self.origin.requests()
    }

    /// How many keys were handed out.
    pub fn handed_out(&self) -> usize {
        self.state.handed_out.load(Ordering::SeqCst)
    }

    /// How long the keys are good that are handed out from now on.
    pub fn hand_out_for(&self, lives: Duration) {
        *self.state.lives.lock().unwrap() = lives;
    }

    /// Answers everything so from now on; `None` is as at the start.
    pub fn answer_instead(&self, answer: Option<Answer>) {
        *self.state.instead.lock().unwrap() = answer;
    }
}

/// The id of the keys that were handed out as the `n`th, from 1.
pub fn key_id(n: usize) -> String {
    format!("ASIA{n:016}")
}

fn what(request: &Request) -> String {
    let form = form(&request.body);
    match form.get("Action") {
        Some(action) => format!("{action} {}", form["RoleArn"]),
        None => format!("{} {}", request.head.method(), request.head.target()),
    }
}

impl State {
    fn answer(&self, request: &Request) -> Answer {
        if let Some(answer) = &*self.instead.lock().unwrap() {
            return answer.clone();
        }
        let header = |name: &str| request.head.value(name).unwrap_or_default();
        let (method, target) = (request.head.method(), request.head.target());
        match (method.as_str(), target.as_str()) {
            ("PUT", "/latest/api/token")
                if !header("x-aws-ec2-metadata-token-ttl-seconds").is_empty() =>
            {
                Answer::new(200, &[], "session-with-the-instance")
            }
            ("GET", target) if target.starts_with("/latest/meta-data/iam/") => {
                if header("x-aws-ec2-metadata-token") != "session-with-the-instance" {
                    return Answer::new(401, &[], "");
                }
                match target.strip_prefix("/latest/meta-data/iam/security-credentials/") {
                    Some("") => Answer::new(200, &[], "role-of-the-instance"),
                    Some("role-of-the-instance") => self.json(),
                    _ => Answer::new(404, &[], ""),
                }
            }
            ("GET", "/container") if header("authorization") == PROOF => self.json(),
            ("POST", "/") => self.token_service(request),
            _ => Answer::new(403, &[], ""),
        }
    }

    /// `AssumeRole` and `AssumeRoleWithWebIdentity` (AWS Security Token Service API Reference).
    fn token_service(&self, request: &Request) -> Answer {
        let form = form(&request.body);
        let field = |name: &str| form.get(name).map(String::as_str);
        if (field("Version"), field("RoleArn")) != (Some("2011-06-15"), Some(ROLE)) {
            return denied("AccessDenied");
        }
        let has_signature = request.head.value("authorization").is_some();
        match field("Action") {
            Some("AssumeRole") if field("ExternalId") != Some(EXTERNAL_ID) => {
                denied("AccessDenied")
            }
            Some("AssumeRole") if self.is_signed(request) => self.xml("AssumeRole"),
            Some("AssumeRole") => denied("InvalidClientTokenId"),
            Some("AssumeRoleWithWebIdentity")
                if field("WebIdentityToken") == Some(PROOF) && !has_signature =>
            {
                self.xml("AssumeRoleWithWebIdentity")
            }
            _ => denied("AccessDenied"),
        }
    }

    /// Whether it is signed with the keys of a test's environment, or with some that were handed out and show their
    /// token.
    fn is_signed(&self, request: &Request) -> bool {
        let token = request.head.value("x-amz-security-token");
        if is_signed(request, KEY_ID, &self.secret) {
            return token.is_none();
        }
        let mut known = 1..=self.handed_out.load(Ordering::SeqCst);
        known.any(|n| {
            is_signed(request, &key_id(n), &self.secret_key(n)) && token == Some(self.token(n))
        })
    }

    fn secret_key(&self, n: usize) -> String {
        format!("{}/{n}", self.secret)
    }

    fn token(&self, n: usize) -> String {
        format!("{}+session/{n}==", self.secret)
    }

    fn hand_out(&self) -> (usize, String) {
        let lives = *self.lives.lock().unwrap();
        let n = self.handed_out.fetch_add(1, Ordering::SeqCst) + 1;
        (n, rfc3339(SystemTime::now() + lives))
    }

    fn json(&self) -> Answer {
        let (n, end) = self.hand_out();
        Answer::json(&format!(
            r#"{{"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": "{}", "SecretAccessKey": "{}",
                "Token": "{}", "Expiration": "{end}"}}"#,
            key_id(n),
            self.secret_key(n),
            self.token(n),
        ))
    }

    fn xml(&self, action: &str) -> Answer {
        let (n, end) = self.hand_out();
        let xml = format!(
            r#"<{action}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><{action}Result>
  <AssumedRoleUser><AssumedRoleId>AROA:broker</AssumedRoleId><Arn>{ROLE}</Arn></AssumedRoleUser>
  <Credentials>
    <AccessKeyId>{}</AccessKeyId>
    <SecretAccessKey>{}</SecretAccessKey>
    <SessionToken>{}</SessionToken>
    <Expiration>{end}</Expiration>
  </Credentials>
</{action}Result><ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></{action}Response>"#,
            key_id(n),
            self.secret_key(n),
            self.token(n),
        );
        Answer::new(200, &[("Content-Type", "text/xml")], xml)
    }
}

/// The token service's refusal.
pub fn denied(code: &str) -> Answer {
    let xml = format!(
        r#"<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type>
  <Code>{code}</Code><Message>User: somebody is not authorized</Message></Error><RequestId>1</RequestId></ErrorResponse>"#
    );
    Answer::new(403, &[("Content-Type", "text/xml")], xml)
}

/// Whether a request carries a signature of these keys (AWS Signature Version 4), over its method, target, body, and the
/// headers that it names, among which the host and everything of Amazon's own must be. It is computed from what came,
/// for a path without escapes and a query whose fields are in order.
pub fn is_signed(request: &Request, key_id: &str, secret: &str) -> bool {
    let head = &request.head;
    let authorization = head.value("authorization").unwrap_or_default();
    let part = |name: &str| {
        let (_, rest) = authorization.split_once(name)?;
        Some(rest.split(',').next().unwrap_or_default().to_owned())
    };
    let (Some(credential), Some(names), Some(claimed)) = (
        part("Credential="),
        part("SignedHeaders="),
        part("Signature="),
    ) else {
        return false;
    };
    let Some(scope) = credential.strip_prefix(&format!("{key_id}/")) else {
        return false;
    };
    let names: Vec<&str> = names.split(';').collect();
    let must_be_signed = |name: &String| name == "host" || name.starts_with("x-amz-");
    let sent: Vec<String> = head
        .headers()
        .iter()
        .map(|(name, _)| name.to_lowercase())
        .collect();
    if !sent
        .iter()
        .filter(|name| must_be_signed(name))
        .all(|name| names.contains(&&**name))
    {
        return false;
    }

    let target = head.target();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let lines: String = names
        .iter()
        .map(|name| format!("{name}:{}\n", head.values(name).join(",")))
        .collect();
    let body = digest::digest(&digest::SHA256, &request.body);
    let (names, body) = (names.join(";"), hex(body.as_ref()));
    if head
        .value("x-amz-content-sha256")
        .is_some_and(|claimed| claimed != body)
    {
        return false;
    }
    let canonical = [&*head.method(), path, query, &lines, &names, &body].join("\n");
    let canonical = digest::digest(&digest::SHA256, canonical.as_bytes());
    let date = head.value("x-amz-date").unwrap_or_default();
    let text = ["AWS4-HMAC-SHA256", &date, scope, &hex(canonical.as_ref())].join("\n");
    let mut key = format!("AWS4{secret}").into_bytes();
    for step in scope.split('/').chain([&*text]) {
        let signer = hmac::Key::new(hmac::HMAC_SHA256, &key);
        key = hmac::sign(&signer, step.as_bytes()).as_ref().to_vec();
    }
    hex(&key) == claimed
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

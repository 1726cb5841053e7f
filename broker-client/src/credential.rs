//! What the agent adds for an origin. Its bytes are a [`Secret`], and leave it here alone.

mod aws;
mod command;
mod echo;
mod file;
mod fingerprint;
mod gcp;
mod github_app;
mod handed_out;
mod jwt;
mod oauth2;
mod pool;
mod renewed;
mod sources;
mod vault;

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use accept_rules::{Auth, MissingVariable, Template};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, PROXY_AUTHORIZATION};
use http::{HeaderMap, HeaderValue, Method, Uri};
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use self::aws::{AwsKeys, Scope};
pub(crate) use self::aws::{Unsignable, check_signable, remove_signature};
pub(crate) use self::echo::Echo;
pub(crate) use self::fingerprint::{FingerprintKey, KEY_LEN};
pub(crate) use self::renewed::Call;
use self::renewed::Renewed;
pub(crate) use self::sources::Sources;
use self::sources::Value;

/// Text that nobody may see: no `Display`, no `Clone`, wiped on drop, read by [`Secret::expose`] in this module alone.
pub(crate) struct Secret(Zeroizing<Box<str>>);

impl Secret {
    fn new(text: impl Into<Box<str>>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    fn expose(&self) -> &str {
        &self.0
    }

    fn can_be_header(&self) -> bool {
        HeaderValue::from_str(self.expose()).is_ok()
    }

    /// A copy that a header carries; it is wiped as that of [`Secret::into_header`].
    fn to_header(&self) -> HeaderValue {
        let copy = Self::new(self.expose()).into_header();
        copy.expect("what becomes a header was checked when it came")
    }

    /// As a header's value, without a copy: the bytes are wiped when the last request that carries them has gone.
    /// Marked sensitive, so that no codec stores or prints it.
    fn into_header(self) -> Result<HeaderValue, CredentialError> {
        struct Owner(Secret);
        impl AsRef<[u8]> for Owner {
            fn as_ref(&self) -> &[u8] {
                self.0.expose().as_bytes()
            }
        }
        let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(Owner(self)))
            .map_err(|_| CredentialError::NotAHeader)?;
        value.set_sensitive(true);
        Ok(value)
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        Ok(Self::new(text.as_str()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Why a credential cannot be made. Says nothing of its value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CredentialError {
    /// A variable is not set.
    #[error("{0}")]
    Missing(#[from] MissingVariable),
    /// Two variables that say where the same value comes from.
    #[error("{first} and {second} are both set (keep one of the two)")]
    Twice { first: String, second: String },
    /// A pool with a value that is none.
    #[error("{name}_POOL has an empty entry (write values with commas between them)")]
    EmptyInPool { name: String },
    /// A file that would depend on where the agent was started.
    #[error("{name}_FILE is no absolute path (write /run/secrets/{name})")]
    RelativeFile { name: String },
    /// An origin stands in records, and its connections are kept: it does not change while the agent runs.
    #[error("{variable} is set, but an origin has neither pools nor files (set {name} alone)")]
    NotForOrigin { name: String, variable: String },
    /// The settings declare nothing of this kind and name.
    #[error(
        "\"${{{kind}:{name}}}\" is not in the settings' \"credentials.{kind}\"{}",
        near.as_ref().map_or(String::new(), |near| format!(" (did you mean {near:?}?)"))
    )]
    Undeclared {
        kind: &'static str,
        name: String,
        near: Option<String>,
    },
    /// In a secret that the settings have.
    #[error("{place}: {error}")]
    OfSettings { place: String, error: Box<Self> },
    /// No keys to sign with.
    #[error("\"aws\": {0}")]
    UnknownAws(String),
    /// No header can carry it.
    #[error("the credential holds a line break or another byte that no HTTP header may carry")]
    NotAHeader,
    /// Percent-encoding in an origin's userinfo that decodes to nothing.
    #[error(
        "the origin's userinfo has a percent sign that begins no escape (write %25 for the sign itself)"
    )]
    Userinfo,
}

/// Why a request cannot have its credential now. Says nothing of its value.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{what} {why}")]
pub(crate) struct Unavailable {
    what: String,
    why: Arc<str>,
}

/// An `Authorization` value, from a rule's `auth` or an origin's userinfo.
#[derive(Debug)]
pub(crate) struct Credential(Kind);

#[derive(Debug)]
enum Kind {
    /// The same for ever.
    Fixed(CredentialVersion),
    /// Put together for each request, of what its sources hold then.
    Live { auth: Auth, values: Box<[Value]> },
    /// Signs each request.
    Signing {
        keys: Arc<Renewed<AwsKeys>>,
        scope: Arc<Scope>,
    },
}

/// A credential as one request carries it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CredentialVersion(Version);

#[derive(Debug, Clone, PartialEq)]
enum Version {
    /// The same for every request.
    Header(HeaderValue),
    /// Signs a request as a whole.
    Aws {
        keys: Arc<AwsKeys>,
        scope: Arc<Scope>,
    },
}

/// A request as it will be sent, but for its credential.
pub(crate) struct Unsigned<'r> {
    pub(crate) method: &'r Method,
    pub(crate) uri: &'r Uri,
    pub(crate) headers: &'r mut HeaderMap,
    /// All of it where the credential signs; else it may be left out.
    pub(crate) body: &'r [u8],
}

impl Credential {
    /// From a rule's `auth`. Interpolated literally, never trimmed: a trailing colon in a token is part of it.
    pub(crate) fn from_auth(auth: &Auth, sources: &Sources) -> Result<Self, CredentialError> {
        if let Auth::SigV4(sigv4) = auth {
            let (keys, region) = sources.aws(&sigv4.aws)?;
            let scope = Arc::new(Scope {
                region: sigv4.region.clone().unwrap_or(region),
                service: sigv4.service.clone(),
            });
            return Ok(Self(Kind::Signing { keys, scope }));
        }
        let values = auth.sources().map(|source| sources.find(source));
        let values = values.collect::<Result<Box<[Value]>, _>>()?;
        let fixed: Option<Vec<_>> = values.iter().map(Value::fixed).collect();
        if let Some(fixed) = fixed {
            return Ok(Self(Kind::Fixed(CredentialVersion::of(auth, &fixed)?)));
        }
        // What stands around live values is as wrong now as it would be for each request.
        let stand_in = Arc::new(Secret::new("x"));
        let trial = values.iter().map(Value::fixed);
        let trial: Vec<_> = trial
            .map(|value| value.unwrap_or_else(|| Arc::clone(&stand_in)))
            .collect();
        CredentialVersion::of(auth, &trial)?;
        let auth = auth.clone();
        Ok(Self(Kind::Live { auth, values }))
    }

    /// From the userinfo of an expanded origin: `user:password` is Basic, percent-decoded as in every URL
    /// (RFC 3986 §3.2.1); a token alone is `token <x>`.
    pub(crate) fn from_userinfo(userinfo: &str) -> Result<Self, CredentialError> {
        let secret = of_userinfo(userinfo)?;
        Ok(Self(Kind::Fixed(CredentialVersion::header(secret)?)))
    }

    /// As it is now.
    pub(crate) async fn now(&self) -> Result<CredentialVersion, Unavailable> {
        match &self.0 {
            Kind::Fixed(version) => Ok(version.clone()),
            Kind::Live { auth, values } => {
                let mut now = Vec::with_capacity(values.len());
                for value in values {
                    now.push(value.now().await?);
                }
                CredentialVersion::of(auth, &now).map_err(|error| Unavailable {
                    what: "the credential cannot be put together:".to_owned(),
                    why: error.to_string().into(),
                })
            }
            Kind::Signing { keys, scope } => Ok(CredentialVersion(Version::Aws {
                keys: keys.now().await?,
                scope: Arc::clone(scope),
            })),
        }
    }

    /// Whether it signs a request as a whole, so that the body must be there before it is sent, and nothing of the
    /// request can change any more.
    pub(crate) fn signs(&self) -> bool {
        matches!(self.0, Kind::Signing { .. })
    }

    /// Another version than the one that the origin refused, if there is one: what its sources hold by now, once they
    /// were asked anew. Values that take turns are no newer than each other.
    pub(crate) async fn renewed(&self, refused: &CredentialVersion) -> Option<CredentialVersion> {
        if self.takes_turns() {
            return None;
        }
        if self.now().await.is_ok_and(|now| now == *refused) {
            match &self.0 {
                Kind::Fixed(_) => return None,
                Kind::Live { values, .. } => {
                    for value in values {
                        value.renew().await;
                    }
                }
                Kind::Signing { keys, .. } => {
                    if let Some(attempt) = keys.renew() {
                        attempt.await;
                    }
                }
            }
        }
        self.now().await.ok().filter(|now| now != refused)
    }

    fn takes_turns(&self) -> bool {
        match &self.0 {
            Kind::Live { values, .. } => values.iter().any(Value::takes_turns),
            Kind::Fixed(_) | Kind::Signing { .. } => false,
        }
    }

    /// Has its sources asked anew, and waits for none of them.
    pub(crate) fn renew_soon(&self) {
        match &self.0 {
            Kind::Fixed(_) => {}
            Kind::Live { values, .. } => values.iter().for_each(Value::renew_soon),
            Kind::Signing { keys, .. } => drop(keys.renew()),
        }
    }
}

impl CredentialVersion {
    /// What tells it from others in the audit log.
    pub(crate) fn fingerprint(&self, key: &FingerprintKey) -> String {
        match &self.0 {
            Version::Header(value) => key.of(value.as_bytes()),
            Version::Aws { keys, .. } => key.of(keys.distinct().as_bytes()),
        }
    }

    fn header(secret: Secret) -> Result<Self, CredentialError> {
        Ok(Self(Version::Header(secret.into_header()?)))
    }

    /// What of it must not come back in an answer: what stands behind the scheme, and of Basic the password. `None`
    /// where it signs requests and is not sent itself.
    pub(crate) fn echo(&self) -> Option<Echo> {
        let Version::Header(value) = &self.0 else {
            return None;
        };
        let value = str::from_utf8(value.as_bytes()).unwrap_or_default();
        let (scheme, secret) = value.split_once(' ').unwrap_or(("", value));
        let is_basic = scheme.eq_ignore_ascii_case("basic");
        let pair = is_basic.then(|| STANDARD.decode(secret).map(Zeroizing::new));
        let Some(Ok(pair)) = pair else {
            return Some(Echo::of(secret.as_bytes()));
        };
        let password = pair.splitn(2, |byte| *byte == b':').last();
        let password = Echo::of(password.unwrap_or_default());
        // `token:` has all of its secret in front; a password too short to be found may be with its user.
        Some(if password.is_too_short() {
            Echo::of(pair.strip_suffix(b":").unwrap_or(&pair))
        } else {
            password
        })
    }

    /// Of values for the sources of `auth`, in their order.
    fn of(auth: &Auth, values: &[Arc<Secret>]) -> Result<Self, CredentialError> {
        let mut values = values.iter();
        let mut expand = |text: &Template| {
            let mut value = || values.next().expect("each source has a value").expose();
            text.expand(|_| Ok::<_, CredentialError>(value()))
                .map(Zeroizing::new)
        };
        let secret = match auth {
            Auth::Token(token) => joined(&["Token ", &expand(token)?]),
            Auth::Bearer(token) => joined(&["Bearer ", &expand(token)?]),
            Auth::BasicToken(token) => basic(&expand(token)?),
            Auth::Basic { username, password } => {
                basic(&user_pass(&expand(username)?, &expand(password)?))
            }
            Auth::Raw(token) => joined(&[&expand(token)?]),
            Auth::Userinfo(token) => of_userinfo(&expand(token)?)?,
            Auth::UserinfoBasic { username, password } => {
                of_userinfo(&user_pass(&expand(username)?, &expand(password)?))?
            }
            Auth::SigV4(_) => unreachable!("this scheme has keys and no values"),
        };
        Self::header(secret)
    }

    /// From the userinfo of a proxy's URL: always Basic, without a password too.
    pub(crate) fn for_proxy(userinfo: &str) -> Result<Self, CredentialError> {
        let (username, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
        let plain = user_pass(&percent_decode(username)?, &percent_decode(password)?);
        Self::header(basic(&plain))
    }

    /// Puts it in, in place of the caller's own. Nothing of the request may change afterwards.
    pub(crate) fn inject(&self, request: Unsigned<'_>) {
        let Unsigned {
            method,
            uri,
            headers,
            body,
        } = request;
        match &self.0 {
            Version::Header(value) => drop(headers.insert(AUTHORIZATION, value.clone())),
            Version::Aws { keys, scope } => {
                let now = SystemTime::now();
                aws::sign(keys, scope, now, (method, uri), headers, body);
            }
        }
    }

    /// Puts it in for the proxy on the way.
    pub(crate) fn inject_for_proxy(&self, headers: &mut HeaderMap) {
        if let Version::Header(value) = &self.0 {
            headers.insert(PROXY_AUTHORIZATION, value.clone());
        }
    }
}

fn of_userinfo(userinfo: &str) -> Result<Secret, CredentialError> {
    Ok(match userinfo.split_once(':') {
        Some((username, password)) => basic(&user_pass(
            &percent_decode(username)?,
            &percent_decode(password)?,
        )),
        None => joined(&["token ", userinfo]),
    })
}

/// These texts behind each other, in one allocation: one that grows would leave copies of a secret behind.
fn joined(texts: &[&str]) -> Secret {
    let mut all = String::with_capacity(texts.iter().map(|text| text.len()).sum());
    all.extend(texts.iter().copied());
    Secret::new(all)
}

fn basic(plain: &str) -> Secret {
    const SCHEME: &str = "Basic ";
    let encoded = base64::encoded_len(plain.len(), true).unwrap_or(0);
    let mut all = String::with_capacity(SCHEME.len() + encoded);
    all.push_str(SCHEME);
    STANDARD.encode_string(plain, &mut all);
    Secret::new(all)
}

fn user_pass(username: &str, password: &str) -> Zeroizing<String> {
    let mut all = Zeroizing::new(String::with_capacity(username.len() + 1 + password.len()));
    all.push_str(username);
    all.push(':');
    all.push_str(password);
    all
}

fn percent_decode(text: &str) -> Result<Zeroizing<String>, CredentialError> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (escape, after) = rest.split_at_checked(2).ok_or(CredentialError::Userinfo)?;
        let escape = str::from_utf8(escape).map_err(|_| CredentialError::Userinfo)?;
        bytes.push(u8::from_str_radix(escape, 16).map_err(|_| CredentialError::Userinfo)?);
        rest = after;
    }
    let text = str::from_utf8(&bytes).map_err(|_| CredentialError::Userinfo)?;
    Ok(Zeroizing::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use broker_process::settings::Environment;
    use futures_util::FutureExt as _;

    use super::*;
    use crate::config::CredentialSettings;
    use crate::control_call::ControlCalls;

    /// What the origin would see.
    fn injected(credential: &Credential) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(
            AUTHORIZATION,
            HeaderValue::from_static("Bearer of-the-caller"),
        );
        credential
            .now()
            .now_or_never()
            .unwrap()
            .unwrap()
            .inject(Unsigned {
                method: &Method::GET,
                uri: &Uri::default(),
                headers: &mut headers,
                body: b"",
            });
        assert!(headers[AUTHORIZATION].is_sensitive());
        assert_eq!(headers.len(), 1);
        headers[AUTHORIZATION].to_str().unwrap().to_owned()
    }

    fn from_auth(auth: &Auth) -> Result<Credential, CredentialError> {
        let environment = Environment::from([("T", "s3cret"), ("U", "user"), ("BROKEN", "a\nb")]);
        Credential::from_auth(
            auth,
            &Sources::new(
                environment,
                &CredentialSettings::default(),
                ControlCalls::default(),
            ),
        )
    }

    fn template(text: &str) -> Template {
        Template::parse(text).unwrap()
    }

    #[test]
    fn each_scheme_makes_the_header_that_customers_have_today() {
        let basic = Auth::Basic {
            username: template("${U}"),
            password: template("${T}"),
        };
        for (auth, expected) in [
            (Auth::Token(template("${T}")), "Token s3cret"),
            (Auth::Bearer(template("${T}:")), "Bearer s3cret:"),
            (Auth::BasicToken(template("${T}:")), "Basic czNjcmV0Og=="),
            (basic, "Basic dXNlcjpzM2NyZXQ="),
            (Auth::Raw(template("Key ${T}")), "Key s3cret"),
            (Auth::Userinfo(template("${T}")), "token s3cret"),
        ] {
            assert_eq!(injected(&from_auth(&auth).unwrap()), expected);
        }
    }

    #[test]
    fn userinfo_is_decoded_as_in_every_url() {
        let credential = Credential::from_userinfo("user:a%40b%3Ac").unwrap();
        assert_eq!(
            injected(&credential),
            format!("Basic {}", STANDARD.encode("user:a@b:c"))
        );
        assert_eq!(
            Credential::from_userinfo("user:100%").unwrap_err(),
            CredentialError::Userinfo
        );
    }

    #[test]
    fn what_no_header_can_carry_is_refused_without_being_shown() {
        let error = from_auth(&Auth::Raw(template("${BROKEN}"))).unwrap_err();
        assert_eq!(error, CredentialError::NotAHeader);
        assert!(matches!(
            from_auth(&Auth::Raw(template("${NONE}"))),
            Err(CredentialError::Missing(_))
        ));
    }

    #[test]
    fn debug_shows_no_secret() {
        let shown = format!("{:?}", from_auth(&Auth::Token(template("${T}"))).unwrap());
        assert_eq!(
            shown,
            "Credential(Fixed(CredentialVersion(Header(Sensitive))))"
        );
        assert_eq!(format!("{:?}", joined(&["s3cret"])), "Secret(..)");
    }
}

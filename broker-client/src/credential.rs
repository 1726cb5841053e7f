//! What the agent adds for an origin. Its bytes are a [`Secret`], and leave it here alone.

use std::fmt;

use accept_rules::{Auth, MissingVariable, Template};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use broker_process::settings::Environment;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use zeroize::Zeroizing;

/// Bytes that nobody may see: no `Display`, no `Clone`, wiped on drop, read by [`Secret::expose`] in this file alone.
pub(crate) struct Secret(Zeroizing<Box<[u8]>>);

impl Secret {
    fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes.into_boxed_slice()))
    }

    fn expose(&self) -> &[u8] {
        &self.0
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
    /// No header can carry it.
    #[error("the credential holds a line break or another byte that no HTTP header may carry")]
    NotAHeader,
    /// Percent-encoding in an origin's userinfo that decodes to nothing.
    #[error(
        "the origin's userinfo has a percent sign that begins no escape (write %25 for the sign itself)"
    )]
    Userinfo,
}

/// An `Authorization` value, made once from a rule's `auth` or an origin's userinfo.
#[derive(Debug)]
pub(crate) struct Credential(Secret);

impl Credential {
    /// From a rule's `auth`. Interpolated literally, never trimmed: a trailing colon in a token is part of it.
    pub(crate) fn from_auth(
        auth: &Auth,
        environment: &Environment,
    ) -> Result<Self, CredentialError> {
        let expand = |text: &Template| {
            text.expand(|name| environment.get(name))
                .map(Zeroizing::new)
        };
        Self::new(match auth {
            Auth::Token(token) => format!("Token {}", *expand(token)?),
            Auth::Bearer(token) => format!("Bearer {}", *expand(token)?),
            Auth::BasicToken(token) => {
                format!("Basic {}", STANDARD.encode(expand(token)?.as_bytes()))
            }
            Auth::Basic { username, password } => basic(&expand(username)?, &expand(password)?),
            Auth::Raw(token) => expand(token)?.to_string(),
            Auth::Userinfo(token) => return Self::from_userinfo(&expand(token)?),
            Auth::UserinfoBasic { username, password } => {
                return Self::from_userinfo(&format!(
                    "{}:{}",
                    *expand(username)?,
                    *expand(password)?
                ));
            }
        })
    }

    /// From the userinfo of an expanded origin: `user:password` is Basic, percent-decoded as in every URL
    /// (RFC 3986 §3.2.1); a token alone is `token <x>`.
    pub(crate) fn from_userinfo(userinfo: &str) -> Result<Self, CredentialError> {
        Self::new(match userinfo.split_once(':') {
            Some((username, password)) => {
                basic(&percent_decode(username)?, &percent_decode(password)?)
            }
            None => format!("token {userinfo}"),
        })
    }

    fn new(value: String) -> Result<Self, CredentialError> {
        let secret = Secret::new(value.into_bytes());
        HeaderValue::from_bytes(secret.expose()).map_err(|_| CredentialError::NotAHeader)?;
        Ok(Self(secret))
    }

    /// Puts it in, in place of the caller's own; marked sensitive, so that no codec stores or prints it.
    pub(crate) fn inject(&self, headers: &mut HeaderMap) {
        let mut value =
            HeaderValue::from_bytes(self.0.expose()).expect("a credential is made of header bytes");
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
}

fn basic(username: &str, password: &str) -> String {
    format!(
        "Basic {}",
        STANDARD.encode(Zeroizing::new(format!("{username}:{password}")).as_bytes())
    )
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
        let escape = std::str::from_utf8(escape).map_err(|_| CredentialError::Userinfo)?;
        bytes.push(u8::from_str_radix(escape, 16).map_err(|_| CredentialError::Userinfo)?);
        rest = after;
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| CredentialError::Userinfo)?;
    Ok(Zeroizing::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the origin would see.
    fn injected(credential: &Credential) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(
            AUTHORIZATION,
            HeaderValue::from_static("Bearer of-the-caller"),
        );
        credential.inject(&mut headers);
        assert!(headers[AUTHORIZATION].is_sensitive());
        assert_eq!(headers.len(), 1);
        headers[AUTHORIZATION].to_str().unwrap().to_owned()
    }

    fn from_auth(auth: &Auth) -> Result<Credential, CredentialError> {
        let environment = Environment::from([("T", "s3cret"), ("U", "user"), ("BROKEN", "a\nb")]);
        Credential::from_auth(auth, &environment)
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
        assert_eq!(shown, "Credential(Secret(..))");
    }
}

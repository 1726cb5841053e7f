//! Who a caller is: one broker credential, in the place that the caller's entry declares, and nothing of it travels.

use std::borrow::Cow;
use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use broker_protocol::header::AUTHORIZATION as BROKER_AUTHORIZATION;
use broker_protocol::{
    AccessToken, AgentName, CallerName, TenantId, TokenDigest, TokenKind, bearer,
};
use http::header::{AUTHORIZATION, PROXY_AUTHORIZATION};
use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode;

use crate::config::{AgentScope, CredentialPlace, Tenant};
use crate::problem::Failure;

/// Every caller's secrets, by the public id that each carries.
pub(crate) struct Callers(HashMap<Box<str>, Entry>);

struct Entry {
    digest: TokenDigest,
    tenant: TenantId,
    caller: CallerName,
    place: CredentialPlace,
    agents: AgentScope,
}

/// An authenticated caller.
#[derive(Debug)]
pub(crate) struct Caller<'c> {
    pub(crate) tenant: &'c TenantId,
    pub(crate) name: &'c CallerName,
    agents: &'c AgentScope,
}

impl Caller<'_> {
    /// Whether its entry lists `agent`.
    pub(crate) fn may_use(&self, agent: &AgentName) -> bool {
        self.agents.contains(agent)
    }
}

impl Callers {
    pub(crate) fn new<'t>(tenants: impl IntoIterator<Item = (&'t TenantId, &'t Tenant)>) -> Self {
        let mut entries = HashMap::new();
        for (tenant, of_tenant) in tenants {
            for (caller, entry) in &of_tenant.callers {
                for digest in &entry.secrets {
                    let entry = Entry {
                        digest: digest.clone(),
                        tenant: tenant.clone(),
                        caller: caller.clone(),
                        place: entry.place,
                        agents: entry.agents.clone(),
                    };
                    entries.insert(digest.id().into(), entry);
                }
            }
        }
        Self(entries)
    }

    /// Finds the caller and removes its credential, and whatever else must not travel, from `headers`.
    pub(crate) fn authenticate(&self, headers: &mut HeaderMap) -> Result<Caller<'_>, Failure> {
        let broker = single(headers, &BROKER_AUTHORIZATION, "broker-authorization")?;
        let proxy = single(headers, &PROXY_AUTHORIZATION, "proxy-authorization")?;
        let own = single(headers, &AUTHORIZATION, "authorization")?;
        // What stands in `Broker-Authorization` is meant for us, whatever it is.
        let in_broker = match broker {
            Some(value) => Some(self.known(value).ok_or(Failure::UnknownCredential)?),
            None => None,
        };
        let in_proxy = proxy.and_then(|value| self.known(value));
        let in_own = own.and_then(|value| self.known(value));
        let found = [
            (CredentialPlace::BrokerAuthorization, in_broker),
            (CredentialPlace::ProxyAuthorization, in_proxy),
            (CredentialPlace::Authorization, in_own),
        ];
        let mut found = found
            .into_iter()
            .filter_map(|(place, entry)| Some((place, entry?)));
        let (place, entry) = match (found.next(), found.next()) {
            (None, _) if [proxy, own].into_iter().flatten().any(is_broker_secret) => {
                return Err(Failure::UnknownCredential);
            }
            (None, _) => return Err(Failure::NoCredential),
            (Some(_), Some(_)) => return Err(Failure::TwoCredentials),
            (Some(found), None) => found,
        };
        if place != entry.place {
            return Err(Failure::MisplacedCredential {
                expected: entry.place.as_str(),
            });
        }
        headers.remove(BROKER_AUTHORIZATION);
        headers.remove(PROXY_AUTHORIZATION);
        if place == CredentialPlace::Authorization {
            headers.remove(AUTHORIZATION);
        }
        if headers.values().any(holds_broker_secret) {
            return Err(Failure::SecretInRequest("another header"));
        }
        Ok(Caller {
            tenant: &entry.tenant,
            name: &entry.caller,
            agents: &entry.agents,
        })
    }

    fn known(&self, value: &HeaderValue) -> Option<&Entry> {
        let token = AccessToken::parse(TokenKind::Caller, bearer(value.to_str().ok()?)?).ok()?;
        self.0
            .get(token.id())
            .filter(|entry| entry.digest.matches(&token))
    }
}

/// Whether a text that would travel on holds something like one of our secrets, percent-encoded or not.
pub(crate) fn mentions_broker_secret(text: &[u8]) -> bool {
    let mentions = |text: &[u8]| {
        [TokenKind::Agent, TokenKind::Caller].iter().any(|kind| {
            let prefix = kind.prefix().as_bytes();
            text.windows(prefix.len())
                .any(|window| window.eq_ignore_ascii_case(prefix))
        })
    };
    mentions(text) || mentions(&Cow::from(percent_decode(text)))
}

/// Removes trailers that hold something like one of our secrets: they come too late to refuse the request.
pub(crate) fn remove_broker_secrets(trailers: &mut HeaderMap) {
    let holding: Vec<HeaderName> = trailers
        .iter()
        .filter(|(_, value)| holds_broker_secret(value))
        .map(|(name, _)| name.clone())
        .collect();
    for name in holding {
        trailers.remove(name);
    }
}

fn holds_broker_secret(value: &HeaderValue) -> bool {
    mentions_broker_secret(value.as_bytes())
        || basic(value).is_some_and(|pair| mentions_broker_secret(&pair))
}

/// The user and password of a Basic credential (RFC 7617 §2), where clients put a token as either.
fn basic(value: &HeaderValue) -> Option<Vec<u8>> {
    let (scheme, encoded) = value.to_str().ok()?.split_once(' ')?;
    let pair = STANDARD.decode(encoded.trim()).ok()?;
    scheme.eq_ignore_ascii_case("basic").then_some(pair)
}

fn is_broker_secret(value: &HeaderValue) -> bool {
    let token = value.to_str().ok().and_then(bearer);
    token.is_some_and(|token| AccessToken::parse_any(token).is_ok())
}

fn single<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
    text: &'static str,
) -> Result<Option<&'h HeaderValue>, Failure> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(Failure::RepeatedCredential(text)),
        (value, None) => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::CallerEntry;

    /// A tenant with one caller for each place, and their tokens in that order.
    fn callers() -> (Callers, [AccessToken; 3]) {
        let tokens = [(); 3].map(|()| AccessToken::generate(TokenKind::Caller));
        let places = [
            CredentialPlace::BrokerAuthorization,
            CredentialPlace::ProxyAuthorization,
            CredentialPlace::Authorization,
        ];
        let entries = places
            .into_iter()
            .zip(&tokens)
            .enumerate()
            .map(|(i, (place, token))| {
                let entry = CallerEntry {
                    place,
                    secrets: vec![token.digest()],
                    agents: AgentScope::All,
                };
                (format!("caller-{i}").parse().unwrap(), entry)
            });
        let tenant = Tenant {
            agents: BTreeMap::new(),
            callers: entries.collect(),
        };
        let id: TenantId = "default".parse().unwrap();
        (Callers::new([(&id, &tenant)]), tokens)
    }

    fn headers(lines: &[(&'static str, &AccessToken)]) -> HeaderMap {
        let value = |token: &AccessToken| format!("bearer {}", token.expose()).parse().unwrap();
        lines
            .iter()
            .map(|(name, token)| (HeaderName::from_static(name), value(token)))
            .collect()
    }

    #[test]
    fn each_place_admits_its_caller_and_keeps_nothing_of_the_credential() {
        let (callers, [a, b, c]) = callers();
        for (i, (name, token)) in [
            ("broker-authorization", a),
            ("proxy-authorization", b),
            ("authorization", c),
        ]
        .iter()
        .enumerate()
        {
            let mut headers = headers(&[(name, token)]);
            let caller = callers.authenticate(&mut headers).unwrap();
            assert_eq!(caller.name.as_str(), format!("caller-{i}"));
            assert!(headers.is_empty(), "{name}");
        }
    }

    #[test]
    fn two_credentials_are_a_bad_request() {
        let (callers, [a, b, _]) = callers();
        let mut headers = headers(&[("broker-authorization", &a), ("proxy-authorization", &b)]);
        assert_eq!(
            callers.authenticate(&mut headers).unwrap_err(),
            Failure::TwoCredentials
        );
    }

    #[test]
    fn none_unknown_or_misplaced_is_unauthenticated() {
        let (callers, [a, ..]) = callers();
        let unknown = AccessToken::generate(TokenKind::Caller);
        let fail = |mut headers: HeaderMap| callers.authenticate(&mut headers).unwrap_err();
        assert_eq!(fail(HeaderMap::new()), Failure::NoCredential);
        assert_eq!(
            fail(headers(&[("broker-authorization", &unknown)])),
            Failure::UnknownCredential
        );
        assert_eq!(
            fail(headers(&[("authorization", &unknown)])),
            Failure::UnknownCredential
        );
        let misplaced = Failure::MisplacedCredential {
            expected: "broker-authorization",
        };
        assert_eq!(fail(headers(&[("authorization", &a)])), misplaced);
        let mut repeated = headers(&[("broker-authorization", &a)]);
        repeated.append("broker-authorization", HeaderValue::from_static("Bearer x"));
        assert_eq!(
            fail(repeated),
            Failure::RepeatedCredential("broker-authorization")
        );
    }

    #[test]
    fn anything_unknown_in_broker_authorization_is_refused_even_beside_a_good_one() {
        let (callers, [_, _, c]) = callers();
        let mut headers = headers(&[("authorization", &c)]);
        headers.insert(BROKER_AUTHORIZATION, HeaderValue::from_static("Basic eDp5"));
        assert_eq!(
            callers.authenticate(&mut headers).unwrap_err(),
            Failure::UnknownCredential
        );
    }

    #[test]
    fn the_callers_own_authorization_travels_on_and_proxy_authorization_never() {
        let (callers, [a, ..]) = callers();
        let mut headers = headers(&[("broker-authorization", &a)]);
        headers.insert(
            AUTHORIZATION,
            HeaderValue::from_static("Bearer of-the-caller"),
        );
        headers.insert(PROXY_AUTHORIZATION, HeaderValue::from_static("Basic eDp5"));
        callers.authenticate(&mut headers).unwrap();
        assert_eq!(headers[AUTHORIZATION], "Bearer of-the-caller");
        assert_eq!(headers.len(), 1);
    }

    #[test]
    fn no_broker_secret_travels_in_another_header() {
        let (callers, [a, ..]) = callers();
        let stale = AccessToken::generate(TokenKind::Caller);
        for name in ["x-token", "authorization", "cookie"] {
            let mut headers = headers(&[("broker-authorization", &a), (name, &stale)]);
            let refused = callers.authenticate(&mut headers).unwrap_err();
            assert_eq!(
                refused,
                Failure::SecretInRequest("another header"),
                "{name}"
            );
        }
    }
}

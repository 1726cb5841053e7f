//! Who a caller is: one broker credential, in the place that the caller's entry declares, and nothing of it travels.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use broker_process::certificate_name::CertificateName;
use broker_protocol::header::AUTHORIZATION as BROKER_AUTHORIZATION;
use broker_protocol::{
    AccessToken, AgentName, CallerName, TenantId, TokenDigest, TokenKind, bearer,
};
use http::header::{AUTHORIZATION, PROXY_AUTHORIZATION};
use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode;

use crate::config::{AgentScope, Credential, CredentialPlace, Tenant};
use crate::problem::Failure;

/// Every caller, by what proves it.
#[derive(Default)]
pub(crate) struct Callers {
    /// By the public id that each secret carries.
    secrets: HashMap<Box<str>, Secret>,
    certificates: HashMap<CertificateName, Arc<Caller>>,
}

struct Secret {
    digest: TokenDigest,
    place: CredentialPlace,
    caller: Arc<Caller>,
}

/// A caller, which is authenticated where `Callers` gives it out.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) tenant: TenantId,
    pub(crate) name: CallerName,
    agents: AgentScope,
}

impl Caller {
    /// Whether its entry lists `agent`.
    pub(crate) fn may_use(&self, agent: &AgentName) -> bool {
        self.agents.contains(agent)
    }
}

impl Callers {
    pub(crate) fn new<'t>(tenants: impl IntoIterator<Item = (&'t TenantId, &'t Tenant)>) -> Self {
        let mut callers = Self::default();
        for (tenant, of_tenant) in tenants {
            for (name, entry) in &of_tenant.callers {
                let caller = Caller {
                    tenant: tenant.clone(),
                    name: name.clone(),
                    agents: entry.agents.clone(),
                };
                callers.add(&Arc::new(caller), &entry.credential);
            }
        }
        callers
    }

    fn add(&mut self, caller: &Arc<Caller>, credential: &Credential) {
        match credential {
            Credential::Secrets(place, digests) => {
                self.secrets.extend(digests.iter().map(|digest| {
                    let secret = Secret {
                        digest: digest.clone(),
                        place: *place,
                        caller: Arc::clone(caller),
                    };
                    (digest.id().into(), secret)
                }));
            }
            Credential::Certificate(names) => {
                let names = names.iter().cloned();
                self.certificates
                    .extend(names.map(|name| (name, Arc::clone(caller))));
            }
        }
    }

    /// Finds the caller and removes its credential, and whatever else must not travel, from `headers`. `certificate`
    /// are the names of the one that its connection was verified by.
    pub(crate) fn authenticate(
        &self,
        headers: &mut HeaderMap,
        certificate: Option<&Arc<[CertificateName]>>,
    ) -> Result<&Caller, Failure> {
        let by_certificate = match certificate {
            Some(names) => self.of_certificate(names)?,
            None => None,
        };
        let by_secret = self.by_secret(headers)?;
        let caller = match (by_secret, by_certificate, certificate) {
            (Some(_), Some(_), _) => return Err(Failure::TwoCredentials),
            (Some((place, secret)), None, _) if place != secret.place => {
                return Err(Failure::MisplacedCredential {
                    expected: secret.place.as_str(),
                });
            }
            (Some((place, secret)), None, _) => {
                if place == CredentialPlace::Authorization {
                    headers.remove(AUTHORIZATION);
                }
                &*secret.caller
            }
            (None, Some(caller), _) => caller,
            (None, None, _) if holds_unknown_secret(headers) => {
                return Err(Failure::UnknownCredential);
            }
            (None, None, Some(names)) => {
                return Err(Failure::UnknownCertificate(Arc::clone(names)));
            }
            (None, None, None) => return Err(Failure::NoCredential),
        };
        headers.remove(BROKER_AUTHORIZATION);
        headers.remove(PROXY_AUTHORIZATION);
        if headers.values().any(holds_broker_secret) {
            return Err(Failure::SecretInRequest("another header"));
        }
        Ok(caller)
    }

    /// The one caller that has a name of this certificate.
    fn of_certificate(&self, names: &[CertificateName]) -> Result<Option<&Caller>, Failure> {
        let mut callers = names.iter().filter_map(|name| self.certificates.get(name));
        let Some(caller) = callers.next() else {
            return Ok(None);
        };
        if callers.any(|other| !Arc::ptr_eq(other, caller)) {
            return Err(Failure::TwoCallersInCertificate);
        }
        Ok(Some(caller))
    }

    /// The one known secret in the headers, and where it stands.
    fn by_secret(
        &self,
        headers: &HeaderMap,
    ) -> Result<Option<(CredentialPlace, &Secret)>, Failure> {
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
            .filter_map(|(place, secret)| Some((place, secret?)));
        match (found.next(), found.next()) {
            (Some(_), Some(_)) => Err(Failure::TwoCredentials),
            (found, _) => Ok(found),
        }
    }

    fn known(&self, value: &HeaderValue) -> Option<&Secret> {
        let token = AccessToken::parse(TokenKind::Caller, bearer(value.to_str().ok()?)?).ok()?;
        self.secrets
            .get(token.id())
            .filter(|secret| secret.digest.matches(&token))
    }
}

/// Whether a text that would travel on holds something like one of our secrets, percent-encoded or not.
pub(crate) fn mentions_broker_secret(text: &[u8]) -> bool {
    let mentions = |text: &[u8]| {
        TokenKind::ALL.iter().any(|kind| {
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

/// Whether one of our secrets stands where a credential may, although none of them is known.
fn holds_unknown_secret(headers: &HeaderMap) -> bool {
    [PROXY_AUTHORIZATION, AUTHORIZATION]
        .iter()
        .filter_map(|name| headers.get(name))
        .any(is_broker_secret)
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

    /// A tenant with one caller for each place, and their tokens in that order; and two for certificates.
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
                let credential = Credential::Secrets(place, vec![token.digest()]);
                (format!("caller-{i}").parse().unwrap(), entry(credential))
            });
        let by_certificate = [
            ("portal", vec!["portal.example", "spiffe://example/portal"]),
            ("kubernetes", vec!["kubernetes.example"]),
        ]
        .map(|(caller, names)| {
            let credential = Credential::Certificate(certificate(&names).to_vec());
            (caller.parse().unwrap(), entry(credential))
        });
        let tenant = Tenant {
            agents: BTreeMap::new(),
            callers: entries.chain(by_certificate).collect(),
        };
        let id: TenantId = "default".parse().unwrap();
        (Callers::new([(&id, &tenant)]), tokens)
    }

    fn entry(credential: Credential) -> CallerEntry {
        CallerEntry {
            credential,
            agents: AgentScope::All,
        }
    }

    fn certificate(names: &[&str]) -> Arc<[CertificateName]> {
        names.iter().map(|name| name.parse().unwrap()).collect()
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
            let caller = callers.authenticate(&mut headers, None).unwrap();
            assert_eq!(caller.name.as_str(), format!("caller-{i}"));
            assert!(headers.is_empty(), "{name}");
        }
    }

    #[test]
    fn two_credentials_are_a_bad_request() {
        let (callers, [a, b, _]) = callers();
        let mut headers = headers(&[("broker-authorization", &a), ("proxy-authorization", &b)]);
        assert_eq!(
            callers.authenticate(&mut headers, None).unwrap_err(),
            Failure::TwoCredentials
        );
    }

    #[test]
    fn none_unknown_or_misplaced_is_unauthenticated() {
        let (callers, [a, ..]) = callers();
        let unknown = AccessToken::generate(TokenKind::Caller);
        let fail = |mut headers: HeaderMap| callers.authenticate(&mut headers, None).unwrap_err();
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
            callers.authenticate(&mut headers, None).unwrap_err(),
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
        callers.authenticate(&mut headers, None).unwrap();
        assert_eq!(headers[AUTHORIZATION], "Bearer of-the-caller");
        assert_eq!(headers.len(), 1);
    }

    #[test]
    fn no_broker_secret_travels_in_another_header() {
        let (callers, [a, ..]) = callers();
        let stale = AccessToken::generate(TokenKind::Caller);
        for name in ["x-token", "authorization", "cookie"] {
            let mut headers = headers(&[("broker-authorization", &a), (name, &stale)]);
            let refused = callers.authenticate(&mut headers, None).unwrap_err();
            assert_eq!(
                refused,
                Failure::SecretInRequest("another header"),
                "{name}"
            );
        }
    }

    #[test]
    fn a_certificate_with_a_name_of_a_caller_is_its_credential() {
        let (callers, _) = callers();
        for (names, expected) in [
            (vec!["portal.example"], "portal"),
            (vec!["spiffe://example/portal"], "portal"),
            (vec!["elsewhere.example", "portal.example"], "portal"),
            (vec!["portal.example", "spiffe://example/portal"], "portal"),
            (vec!["kubernetes.example"], "kubernetes"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer its-own"));
            headers.insert(PROXY_AUTHORIZATION, HeaderValue::from_static("Basic eDp5"));
            let caller = callers.authenticate(&mut headers, Some(&certificate(&names)));
            assert_eq!(caller.unwrap().name.as_str(), expected);
            assert_eq!(headers[AUTHORIZATION], "Bearer its-own");
            assert_eq!(headers.len(), 1);
        }
    }

    #[test]
    fn a_known_certificate_beside_a_known_secret_is_a_bad_request() {
        let (callers, tokens) = callers();
        for (name, token) in [
            ("broker-authorization", &tokens[0]),
            ("proxy-authorization", &tokens[1]),
            ("authorization", &tokens[2]),
        ] {
            let refused = callers.authenticate(
                &mut headers(&[(name, token)]),
                Some(&certificate(&["portal.example"])),
            );
            assert_eq!(refused.unwrap_err(), Failure::TwoCredentials);
        }
    }

    #[test]
    fn a_certificate_with_the_names_of_two_callers_is_a_bad_request() {
        let (callers, _) = callers();
        let both = certificate(&["portal.example", "kubernetes.example"]);
        let refused = callers.authenticate(&mut HeaderMap::new(), Some(&both));
        assert_eq!(refused.unwrap_err(), Failure::TwoCallersInCertificate);
    }

    #[test]
    fn a_certificate_that_is_nobodys_admits_nobody_and_is_in_nobodys_way() {
        let (callers, [a, ..]) = callers();
        let nobodys = certificate(&["example", "sub.portal.example", "spiffe://example/Portal"]);
        for names in [nobodys, certificate(&[])] {
            let refused = callers.authenticate(&mut HeaderMap::new(), Some(&names));
            assert_eq!(
                refused.unwrap_err(),
                Failure::UnknownCertificate(Arc::clone(&names))
            );
            let mut headers = headers(&[("broker-authorization", &a)]);
            let caller = callers.authenticate(&mut headers, Some(&names)).unwrap();
            assert_eq!(caller.name.as_str(), "caller-0");
        }
    }

    #[test]
    fn a_certificate_helps_no_unknown_secret() {
        let (callers, _) = callers();
        let stale = AccessToken::generate(TokenKind::Caller);
        let portal = certificate(&["portal.example"]);
        let refused = |name| {
            let mut headers = headers(&[(name, &stale)]);
            callers
                .authenticate(&mut headers, Some(&portal))
                .unwrap_err()
        };
        assert_eq!(refused("broker-authorization"), Failure::UnknownCredential);
        assert_eq!(
            refused("authorization"),
            Failure::SecretInRequest("another header")
        );
    }
}

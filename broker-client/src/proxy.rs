//! Which proxy leads to a host: `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`, or what the settings say in their place.
//! `connect` then asks that proxy for a way.

mod connect;
mod exceptions;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use http::HeaderMap;

use crate::address_policy::is_this_machine;
use crate::config::ServerUrl;
use crate::credential::CredentialVersion;

pub(crate) use connect::{ProxyError, ProxyWay};
pub use exceptions::Exceptions;

/// An HTTP proxy, as an operator writes it: `http://user:password@host:3128`. Clones are the same proxy.
#[derive(Clone)]
pub struct Proxy(Arc<Entry>);

struct Entry {
    url: ServerUrl,
    credential: Option<CredentialVersion>,
}

impl Proxy {
    /// Where it is. That it is a server like another one is why it has the same type of address.
    pub(crate) fn url(&self) -> &ServerUrl {
        &self.0.url
    }

    pub(crate) fn has_credential(&self) -> bool {
        self.0.credential.is_some()
    }

    /// Puts in what the proxy asks for, where its URL has it.
    pub(crate) fn inject(&self, headers: &mut HeaderMap) {
        if let Some(credential) = &self.0.credential {
            credential.inject_for_proxy(headers);
        }
    }
}

/// Without userinfo.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.url.fmt(f)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

/// The same entry of the settings, since two credentials cannot be compared.
impl PartialEq for Proxy {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Proxy {}

impl Hash for Proxy {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

/// Why a text is not a proxy's URL. It shows nothing of it, since there could be a password anywhere in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} (write http://host:port, or http://user:password@host:port with special characters percent-encoded)"
)]
pub struct ProxyUrlError(&'static str);

impl FromStr for Proxy {
    type Err = ProxyUrlError;

    fn from_str(text: &str) -> Result<Self, ProxyUrlError> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let scheme = scheme.to_ascii_lowercase();
        if !matches!(scheme.as_str(), "http" | "https") {
            return Err(ProxyUrlError(
                "this proxy is of a kind that is not supported: http:// and https:// are",
            ));
        }
        let (userinfo, place) = match rest.rsplit_once('@') {
            Some((userinfo, place)) => (Some(userinfo), place),
            None => (None, rest),
        };
        let url: ServerUrl = format!("{scheme}://{place}")
            .parse()
            .map_err(|_| ProxyUrlError("this is not a proxy's URL"))?;
        if !url.path_below("").is_empty() {
            return Err(ProxyUrlError("a proxy's URL has no path"));
        }
        let credential = userinfo.map(CredentialVersion::for_proxy).transpose();
        let credential =
            credential.map_err(|_| ProxyUrlError("the proxy's user or password cannot be read"))?;
        Ok(Self(Arc::new(Entry { url, credential })))
    }
}

/// The proxies of this machine, as `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` name them.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    /// For `http://`, and for `https://` where `https` names none.
    pub http: Option<Proxy>,
    /// For `https://`.
    pub https: Option<Proxy>,
    /// What is reached without any.
    pub except: Exceptions,
}

impl Proxies {
    /// The proxy that leads to this place; none where it is reached directly. This machine always is: to a proxy,
    /// `localhost` means the proxy's own.
    pub(crate) fn towards(&self, is_tls: bool, host: &str, port: u16) -> Option<&Proxy> {
        let proxy = if is_tls {
            self.https.as_ref().or(self.http.as_ref())
        } else {
            self.http.as_ref()
        };
        proxy.filter(|_| !is_this_machine(host) && !self.except.has(host, port))
    }
}

/// What the settings say of one direction, or of one origin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ProxyChoice {
    /// Nothing: what is said more generally holds.
    #[default]
    Unsaid,
    /// No proxy.
    Direct,
    /// This one, whatever `NO_PROXY` says.
    Through(Proxy),
}

impl ProxyChoice {
    /// The proxy where something is said, else what `general` gives.
    pub(crate) fn or_else<'p>(
        &'p self,
        general: impl FnOnce() -> Option<&'p Proxy>,
    ) -> Option<&'p Proxy> {
        match self {
            Self::Unsaid => general(),
            Self::Direct => None,
            Self::Through(proxy) => Some(proxy),
        }
    }
}

impl FromStr for ProxyChoice {
    type Err = ProxyUrlError;

    fn from_str(text: &str) -> Result<Self, ProxyUrlError> {
        if text == "none" {
            return Ok(Self::Direct);
        }
        text.parse().map(Self::Through)
    }
}

#[cfg(test)]
mod tests {
    use http::header::PROXY_AUTHORIZATION;

    use super::*;

    fn proxy(text: &str) -> Proxy {
        text.parse().unwrap()
    }

    fn authorization(text: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        proxy(text).inject(&mut headers);
        let value = headers.get(PROXY_AUTHORIZATION)?;
        assert!(value.is_sensitive());
        Some(value.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_proxy_is_written_with_or_without_scheme_port_and_credential() {
        for (text, shown) in [
            ("http://proxy.corp:3128", "http://proxy.corp:3128"),
            ("proxy.corp:3128/", "http://proxy.corp:3128"),
            ("http://proxy.corp", "http://proxy.corp"),
            ("HTTPS://proxy.corp:8443", "https://proxy.corp:8443"),
            ("http://[fd00::1]:3128", "http://[fd00::1]:3128"),
            (
                "http://user:p%40ss@proxy.corp:3128",
                "http://proxy.corp:3128",
            ),
        ] {
            assert_eq!(proxy(text).to_string(), shown);
        }
    }

    #[test]
    fn userinfo_is_the_basic_credential_and_is_never_shown() {
        // RFC 7617 §2: `user:p@ss`, `user:`.
        for (text, expected) in [
            ("http://user:p%40ss@proxy:3128", "Basic dXNlcjpwQHNz"),
            ("http://user:p@ss@proxy:3128", "Basic dXNlcjpwQHNz"),
            ("user:p@ss@proxy:3128", "Basic dXNlcjpwQHNz"),
            ("http://user@proxy:3128", "Basic dXNlcjo="),
        ] {
            assert_eq!(authorization(text).as_deref(), Some(expected), "{text}");
        }
        assert_eq!(authorization("http://proxy:3128"), None);
        let debug = format!("{:?}", proxy("http://user:p%40ss@proxy:3128"));
        assert_eq!(debug, "Proxy(http://proxy:3128)");
    }

    #[test]
    fn what_is_no_http_proxy_is_refused_and_not_repeated() {
        for (text, reason) in [
            ("socks5://u:hunter2@proxy:1080", "http:// and https:// are"),
            ("http://u:hunter2@proxy:3128/path", "has no path"),
            ("http://u:hunter2@pro xy", "not a proxy's URL"),
            ("http://u:hunter2%@proxy", "user or password"),
            ("http://", "not a proxy's URL"),
        ] {
            let error = text.parse::<Proxy>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn each_scheme_has_its_proxy_and_this_machine_has_none() {
        let proxies = Proxies {
            http: Some(proxy("http://plain:1")),
            https: Some(proxy("http://secure:2")),
            except: Exceptions::parse("direct.corp").0,
        };
        let towards = |is_tls, host| {
            let proxy = proxies.towards(is_tls, host, 443);
            proxy.map(ToString::to_string).unwrap_or_default()
        };
        assert_eq!(towards(true, "broker.example"), "http://secure:2");
        assert_eq!(towards(false, "broker.example"), "http://plain:1");
        for host in ["direct.corp", "localhost", "127.9.9.9", "::1", "LOCALHOST."] {
            assert_eq!(towards(true, host), "", "{host}");
        }
    }

    #[test]
    fn where_https_has_no_proxy_of_its_own_that_of_http_is_used() {
        let proxies = Proxies {
            http: Some(proxy("http://plain:1")),
            ..Proxies::default()
        };
        assert!(proxies.towards(true, "broker.example", 443).is_some());
        let proxies = Proxies {
            https: Some(proxy("http://secure:1")),
            ..Proxies::default()
        };
        assert!(proxies.towards(false, "broker.example", 80).is_none());
    }

    #[test]
    fn what_is_said_of_a_direction_comes_before_the_usual() {
        let usual = proxy("http://usual:1");
        let chosen = |text: &str| {
            let choice: ProxyChoice = text.parse().unwrap();
            choice.or_else(|| Some(&usual)).map(ToString::to_string)
        };
        assert_eq!(chosen("none"), None);
        assert_eq!(chosen("http://own:2").as_deref(), Some("http://own:2"));
        let unsaid = ProxyChoice::default();
        assert_eq!(unsaid.or_else(|| Some(&usual)), Some(&usual));
    }
}

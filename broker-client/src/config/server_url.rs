//! The server's address, as an operator writes it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use http::Uri;
use rustls_pki_types::ServerName;

use broker_process::settings::shown;

/// Where the server is: `https://host[:port][/prefix]`. `wss` means `https`, `ws` means `http`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerUrl {
    is_tls: bool,
    host: ServerName<'static>,
    port: u16,
    prefix: String,
}

impl ServerUrl {
    /// Whether the connection is encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// The host: what is resolved, and what the server's certificate must be for.
    #[must_use]
    pub fn host(&self) -> &ServerName<'static> {
        &self.host
    }

    /// The port; where none was written, the scheme's own.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Host and port, for the `Host` header and for an operator's eyes: `broker.example`, `[::1]:8443`.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.port == default_port(self.is_tls) {
            self.bracketed_host()
        } else {
            self.host_and_port()
        }
    }

    /// The same with its port in any case, for a CONNECT request: `broker.example:443`.
    #[must_use]
    pub fn host_and_port(&self) -> String {
        format!("{}:{}", self.bracketed_host(), self.port)
    }

    fn bracketed_host(&self) -> String {
        match self.ip() {
            Some(IpAddr::V6(ip)) => format!("[{ip}]"),
            _ => self.host.to_str().into_owned(),
        }
    }

    /// `path`, which begins with a slash, below the prefix: what a request asks for.
    #[must_use]
    pub fn path_below(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }

    /// Whether the server is on this machine by its very name, whatever a resolver says.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self.ip() {
            Some(ip) => ip.is_loopback(),
            None => self.host.to_str().eq_ignore_ascii_case("localhost"),
        }
    }

    fn ip(&self) -> Option<IpAddr> {
        match self.host {
            ServerName::IpAddress(ip) => Some(ip.into()),
            _ => None,
        }
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.prefix)
    }
}

/// Why a text is not the server's address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason} (write https://host, with :port and /prefix where needed)")]
pub struct ServerUrlError {
    reason: String,
}

impl FromStr for ServerUrl {
    type Err = ServerUrlError;

    fn from_str(text: &str) -> Result<Self, ServerUrlError> {
        let refused = |reason: &str| ServerUrlError {
            reason: format!("{} {reason}", shown(text)),
        };
        // Named one by one, since the parser would drop a fragment without a word.
        if text.contains('@') {
            return Err(refused("has a user name or password, which is never sent"));
        }
        if text.contains(['?', '#']) {
            return Err(refused("has a query or a fragment"));
        }
        let uri: Uri = text.parse().map_err(|_| refused("is not a URL"))?;
        let is_tls = match uri.scheme_str() {
            Some("https" | "wss") => true,
            Some("http" | "ws") => false,
            Some(_) => return Err(refused("has an unknown scheme")),
            None => return Err(refused("has no scheme")),
        };
        let host = uri.host().ok_or_else(|| refused("has no host"))?;
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        let port = match uri.port() {
            Some(port) => port.as_u16(),
            None => default_port(is_tls),
        };
        let prefix = uri.path().trim_end_matches('/');
        if port == 0 || prefix.split('/').any(|step| step == "." || step == "..") {
            return Err(refused("names no place that can be asked"));
        }
        Ok(Self {
            is_tls,
            host: ServerName::try_from(host.to_owned())
                .map_err(|_| refused("has a host that is neither a name nor an address"))?,
            port,
            prefix: prefix.to_owned(),
        })
    }
}

/// The port of `https` and `wss`, or that of `http` and `ws` (RFC 9110 §4.2, RFC 6455 §3).
pub(crate) fn default_port(is_tls: bool) -> u16 {
    if is_tls { 443 } else { 80 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> ServerUrl {
        text.parse().unwrap()
    }

    #[test]
    fn the_websocket_schemes_mean_the_http_ones() {
        assert_eq!(
            url("wss://broker.example"),
            url("https://broker.example:443/")
        );
        assert_eq!(url("ws://broker.example"), url("http://broker.example:80"));
    }

    #[test]
    fn a_path_is_a_prefix() {
        let url = url("https://broker.example:8443/eu/");
        assert_eq!(url.path_below("/tunnel"), "/eu/tunnel");
        assert_eq!(url.authority(), "broker.example:8443");
        assert_eq!(url.to_string(), "https://broker.example:8443/eu");
    }

    #[test]
    fn a_port_that_is_the_schemes_own_is_left_out_where_it_may_be() {
        let url = url("https://broker.example");
        assert_eq!(url.authority(), "broker.example");
        assert_eq!(url.host_and_port(), "broker.example:443");
    }

    #[test]
    fn an_ipv6_address_keeps_its_brackets_in_the_authority_alone() {
        let url = url("wss://[::1]:8443");
        assert_eq!(url.authority(), "[::1]:8443");
        assert_eq!(url.host_and_port(), "[::1]:8443");
        assert_eq!(url.host().to_str(), "::1");
        assert!(url.is_loopback());
    }

    #[test]
    fn only_a_literal_or_localhost_is_loopback() {
        for text in [
            "ws://127.0.0.1:1",
            "ws://127.9.9.9",
            "ws://LocalHost",
            "ws://[::1]",
        ] {
            assert!(url(text).is_loopback(), "{text}");
        }
        for text in [
            "ws://localhost.example",
            "ws://127.0.0.1.example",
            "ws://10.0.0.1",
        ] {
            assert!(!url(text).is_loopback(), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_servers_address_is_refused_with_its_reason() {
        for (text, reason) in [
            ("broker.example", "has no scheme"),
            ("ftp://broker.example", "has an unknown scheme"),
            ("https://", "is not a URL"),
            ("https://broker.example?x=1", "has a query or a fragment"),
            ("https://broker.example#x", "has a query or a fragment"),
            ("https://bro ker.example", "is not a URL"),
            (
                "https://broker.example/a/../b",
                "names no place that can be asked",
            ),
            ("https://under score", "is not a URL"),
            ("https://-:1", "has a host that is neither"),
        ] {
            let error = text.parse::<ServerUrl>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn a_password_in_the_address_is_refused_and_not_repeated() {
        let error = "https://u:hunter2@broker.example"
            .parse::<ServerUrl>()
            .unwrap_err();
        assert!(error.to_string().contains("never sent"), "{error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}

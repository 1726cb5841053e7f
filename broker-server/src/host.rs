//! By which name a request calls us: it can say the tenant.

use http::header::HOST;
use http::{HeaderMap, Method, Uri, Version};

/// The request has no host, or two that differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotOneHost;

/// The host without its port: something in front of us may have chosen by another name if there were two
/// (RFC 9112 §3.2, RFC 9113 §8.3.1).
pub(crate) fn of(
    method: &Method,
    uri: &Uri,
    version: Version,
    headers: &HeaderMap,
) -> Result<Option<String>, NotOneHost> {
    let mut headers = headers.get_all(HOST).iter();
    let header = match (headers.next(), headers.next()) {
        (_, Some(_)) => return Err(NotOneHost),
        (None, None) if version == Version::HTTP_11 => return Err(NotOneHost),
        (header, None) => header,
    };
    // That of a CONNECT is where it wants to go.
    if let Some(authority) = uri.authority().filter(|_| *method != Method::CONNECT) {
        return if header.is_none_or(|header| header == authority.as_str()) {
            Ok(Some(authority.host().to_owned()))
        } else {
            Err(NotOneHost)
        };
    }
    let name = |host: &str| {
        host.rsplit_once(':')
            .map_or(host, |(name, _port)| name)
            .to_owned()
    };
    Ok(header.and_then(|header| header.to_str().ok()).map(name))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn host(uri: &'static str, hosts: &[&'static str]) -> Result<Option<String>, NotOneHost> {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(HOST, HeaderValue::from_static(host));
        }
        of(
            &Method::GET,
            &Uri::from_static(uri),
            Version::HTTP_11,
            &headers,
        )
    }

    #[test]
    fn a_request_has_one_host_and_its_port_does_not_count() {
        assert_eq!(host("/", &["a.example:8443"]), Ok(Some("a.example".into())));
        assert_eq!(host("https://a.example/", &[]), Err(NotOneHost));
        assert_eq!(
            host("https://a.example/", &["a.example"]),
            Ok(Some("a.example".into()))
        );
    }

    #[test]
    fn no_host_or_two_are_refused() {
        assert_eq!(host("/", &[]), Err(NotOneHost));
        assert_eq!(host("/", &["a.example", "b.example"]), Err(NotOneHost));
        assert_eq!(host("https://a.example/", &["b.example"]), Err(NotOneHost));
    }
}

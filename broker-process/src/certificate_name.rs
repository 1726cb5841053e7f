//! The names by which a certificate says who shows it: DNS names and URIs of its `subjectAltName` (RFC 5280 §4.2.1.6).

use std::fmt;
use std::str::FromStr;

use rustls_pki_types::{CertificateDer, ServerName};
use webpki::EndEntityCert;

use crate::settings::shown;

/// Names of one certificate that are kept for as long as its connection; who has more is refused.
const MAX_NAMES: usize = 64;

/// One name of a certificate, compared as a whole. A common name is none: what it means was never agreed on.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CertificateName {
    /// A DNS name, in lower case.
    Dns(String),
    /// A URI, such as a SPIFFE id, byte for byte.
    Uri(String),
}

/// A certificate whose names cannot be kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NamesError {
    #[error("the certificate cannot be read: {0}")]
    Unreadable(webpki::Error),
    #[error("the certificate has more than {MAX_NAMES} names")]
    TooMany,
}

impl CertificateName {
    /// The names of a certificate whose signature was verified.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Result<Vec<Self>, NamesError> {
        let certificate = EndEntityCert::try_from(certificate).map_err(NamesError::Unreadable)?;
        let dns = certificate
            .valid_dns_names()
            .map(|name| Self::Dns(name.to_ascii_lowercase()));
        let uris = certificate
            .valid_uri_names()
            .map(|uri| Self::Uri(uri.to_owned()));
        let names: Vec<_> = dns.chain(uris).take(MAX_NAMES + 1).collect();
        if names.len() > MAX_NAMES {
            return Err(NamesError::TooMany);
        }
        Ok(names)
    }
}

impl fmt::Display for CertificateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Dns(name) | Self::Uri(name)) = self;
        f.write_str(name)
    }
}

impl FromStr for CertificateName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if is_uri(text) {
            return Ok(Self::Uri(text.to_owned()));
        }
        match ServerName::try_from(text) {
            Ok(ServerName::DnsName(name)) if !text.ends_with('.') => {
                Ok(Self::Dns(name.as_ref().to_ascii_lowercase()))
            }
            _ => Err(format!(
                "{} is not a name of a certificate (write a DNS name as tech-insights.platform.example, or a URI as \
                 spiffe://platform.example/tech-insights; names are compared as a whole, without wildcards)",
                shown(text)
            )),
        }
    }
}

/// A scheme, a colon (RFC 3986 §3), and what follows in a URI that names somebody; `broker.example:8443` is none.
fn is_uri(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else {
        return false;
    };
    let names_something = match rest.strip_prefix("//") {
        Some(rest) => !rest.is_empty(),
        None => scheme == "urn" && !rest.is_empty(),
    };
    names_something
        && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
        && !text.contains('*')
        && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn certificate(names: Vec<SanType>) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        let common_name = "common-name.example";
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        params.subject_alt_names = names;
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().into()
    }

    fn dns(name: &str) -> SanType {
        SanType::DnsName(name.try_into().unwrap())
    }

    #[test]
    fn dns_names_and_uris_are_names_and_nothing_else_is() {
        let names = CertificateName::of(&certificate(vec![
            SanType::Rfc822Name("somebody@platform.example".try_into().unwrap()),
            dns("Tech-Insights.Platform.example"),
            SanType::IpAddress([127, 0, 0, 1].into()),
            SanType::URI("spiffe://platform.example/Portal".try_into().unwrap()),
        ]));
        assert_eq!(
            names.unwrap(),
            [
                CertificateName::Dns("tech-insights.platform.example".into()),
                CertificateName::Uri("spiffe://platform.example/Portal".into()),
            ]
        );
        assert_eq!(CertificateName::of(&certificate(vec![])).unwrap(), []);
    }

    #[test]
    fn a_certificate_with_very_many_names_is_refused() {
        let many = |count| (0..count).map(|i| dns(&format!("n{i}.example"))).collect();
        let names = CertificateName::of(&certificate(many(MAX_NAMES))).unwrap();
        assert_eq!(names.len(), MAX_NAMES);
        let error = CertificateName::of(&certificate(many(MAX_NAMES + 1))).unwrap_err();
        assert_eq!(error.to_string(), "the certificate has more than 64 names");
        assert!(CertificateName::of(&CertificateDer::from(vec![0x30, 0])).is_err());
    }

    #[test]
    fn a_name_is_written_as_a_dns_name_or_a_uri() {
        let dns = |text: &str| CertificateName::Dns(text.to_owned());
        let uri = |text: &str| CertificateName::Uri(text.to_owned());
        for (text, expected) in [
            ("Portal.Example", dns("portal.example")),
            ("portal", dns("portal")),
            ("spiffe://Example/a", uri("spiffe://Example/a")),
            ("urn:uuid:0", uri("urn:uuid:0")),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for text in [
            "",
            "*.example",
            "portal.example.",
            "127.0.0.1",
            "::1",
            "broker.example:8443",
            "CN=portal",
            "bücher.example",
            "spiffe://",
            "spiffe://example/*",
            "spiffe://example/a b",
            "://example",
        ] {
            let error = text.parse::<CertificateName>().unwrap_err();
            assert!(error.contains("is not a name of a certificate"), "{error}");
        }
    }
}

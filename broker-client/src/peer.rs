//! What the other end of a TLS connection has shown of itself.

use std::fmt;
use std::io;
use std::time::{Duration, SystemTime};

use broker_process::tls;
use rustls::{AlertDescription, CertificateError, ClientConnection, ProtocolVersion};
use rustls_pki_types::CertificateDer;

/// A day, the unit in which ends of certificates are told.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What helps against a failure of TLS, in parentheses; `setting` names authorities for this peer.
pub(crate) fn tls_hint(source: &io::Error, setting: &str) -> String {
    let hint = match rustls_cause(source) {
        Some(rustls::Error::InvalidCertificate(error)) => certificate_hint(error, setting),
        Some(
            rustls::Error::AlertReceived(AlertDescription::ProtocolVersion)
            | rustls::Error::PeerIncompatible(_),
        ) => {
            "it, or a proxy that opens TLS on the way, speaks no version of it that is allowed here: enable TLS 1.3 there; \
             for the tunnel, tunnel.tls-min: 1.2 allows the older one"
                .to_owned()
        }
        _ => return String::new(),
    };
    format!(" ({hint})")
}

fn certificate_hint(error: &CertificateError, setting: &str) -> String {
    match error {
        CertificateError::UnknownIssuer => format!(
            "a certificate authority that this agent does not trust: set {setting}, or NODE_EXTRA_CA_CERTS, to its PEM file"
        ),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has ended, or this machine's clock is ahead: have it renewed, or set the clock".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet, or this machine's clock is behind: set the clock".to_owned()
        }
        _ => "its certificate is not good for this address".to_owned(),
    }
}

/// What rustls finds wrong, where that is the cause.
pub(crate) fn rustls_cause(source: &io::Error) -> Option<&rustls::Error> {
    source.get_ref()?.downcast_ref()
}

/// A peer whose certificate was found good.
#[derive(Debug)]
pub(crate) struct TlsPeer {
    version: Option<ProtocolVersion>,
    chain: Vec<CertificateDer<'static>>,
}

impl TlsPeer {
    /// The peer of a connection whose handshake is over.
    pub(crate) fn of(connection: &ClientConnection) -> Self {
        let chain = connection.peer_certificates().unwrap_or_default();
        Self {
            version: connection.protocol_version(),
            chain: chain.iter().map(|der| der.clone().into_owned()).collect(),
        }
    }

    /// When the first certificate of its chain ends.
    pub(crate) fn ends(&self) -> Option<SystemTime> {
        self.chain.iter().filter_map(tls::ends).min()
    }

    /// Whether that is so soon that its owner should act.
    pub(crate) fn ends_soon(&self) -> bool {
        let soon = SystemTime::now() + tls::EXPIRES_SOON;
        self.ends().is_some_and(|ends| ends < soon)
    }
}

/// `TLS 1.3, 2 certificates, the first to end does so on 2027-01-31 (in 68 days)`
impl fmt::Display for TlsPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = match self.version {
            Some(ProtocolVersion::TLSv1_3) => "TLS 1.3",
            Some(ProtocolVersion::TLSv1_2) => "TLS 1.2",
            _ => "TLS",
        };
        let certificates = match self.chain.len() {
            1 => "1 certificate".to_owned(),
            count => format!("{count} certificates"),
        };
        write!(f, "{version}, {certificates}")?;
        let Some(ends) = self.ends() else {
            return Ok(());
        };
        let left = ends.duration_since(SystemTime::now()).unwrap_or_default();
        let ends = humantime::format_rfc3339_seconds(ends).to_string();
        let day = ends.split('T').next().unwrap_or_default();
        let days = left.as_secs() / DAY.as_secs();
        write!(f, ", the first to end does so on {day} (in {days} days)")
    }
}

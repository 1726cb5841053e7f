//! From when to when certificates hold.

use std::path::Path;
use std::time::{Duration, SystemTime};

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::aws_lc_rs;
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, RootCertStore};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::TlsError;
use super::pem::read_certificates;

/// How long before its end a certificate is worth a warning; two weeks leave time to act.
pub const EXPIRES_SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

/// Whether all certificates of a PEM file hold, now and until `ahead` from now.
///
/// # Errors
/// If it cannot be read or holds none.
pub fn outlives(path: &Path, ahead: Duration) -> Result<bool, TlsError> {
    let at = UnixTime::since_unix_epoch(Duration::from_secs(UnixTime::now().as_secs()) + ahead);
    Ok(read_certificates(path)?
        .iter()
        .all(|der| validity(der, at) == Validity::Holds))
}

/// When a certificate ends; `None` where that is so far off that clocks cannot tell it, or it is no certificate.
#[must_use]
pub fn ends(der: &CertificateDer<'_>) -> Option<SystemTime> {
    // Judged at the end of all days it has ended, and the judgement says since when.
    let end_of_days = UnixTime::since_unix_epoch(Duration::from_secs(u64::MAX));
    match verdict_without_roots(der, end_of_days)? {
        CertificateError::ExpiredContext { not_after, .. } => {
            SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(not_after.as_secs()))
        }
        _ => None,
    }
}

pub(super) fn validity_warnings(path: &Path, chain: &[CertificateDer<'_>]) -> Vec<String> {
    let warnings = chain.iter().filter_map(|der| validity_warning(path, der));
    warnings.collect()
}

#[derive(Debug, PartialEq, Eq)]
enum Validity {
    Holds,
    NotYet,
    Ended,
}

/// Whether a certificate holds at a time.
fn validity(der: &CertificateDer<'_>, at: UnixTime) -> Validity {
    match verdict_without_roots(der, at) {
        Some(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            Validity::Ended
        }
        Some(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
            Validity::NotYet
        }
        _ => Validity::Holds,
    }
}

/// What rustls finds wrong with a certificate of a server's. It judges times before it asks who signed, so that an empty
/// list of trusted roots gives that answer alone.
fn verdict_without_roots(der: &CertificateDer<'_>, at: UnixTime) -> Option<CertificateError> {
    let certificate = ParsedCertificate::try_from(der).ok()?;
    let nobody = RootCertStore::empty();
    let algorithms = aws_lc_rs::default_provider()
        .signature_verification_algorithms
        .all;
    match verify_server_cert_signed_by_trust_anchor(&certificate, &nobody, &[], at, algorithms) {
        Err(rustls::Error::InvalidCertificate(error)) => Some(error),
        _ => None,
    }
}

fn validity_warning(path: &Path, der: &CertificateDer<'_>) -> Option<String> {
    let now = UnixTime::now();
    let soon = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()) + EXPIRES_SOON);
    let what = match (validity(der, now), validity(der, soon)) {
        (Validity::Ended, _) => "has expired: peers will refuse it",
        (Validity::NotYet, _) => {
            "is not valid yet: peers will refuse it (is this machine's clock right?)"
        }
        (Validity::Holds, Validity::Ended) => "expires within two weeks",
        (Validity::Holds, _) => return None,
    };
    Some(format!("{}: the certificate {what}", path.display()))
}

//! Certificates and keys as they stand in files.

use std::path::Path;

use rustls_pki_types::pem::{self, PemObject as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::TlsError;
use crate::regular_file::{self, ReadError};

/// Longest file, in bytes: whole bundles of authorities have a quarter of this.
const MAX_LEN: usize = 1 << 20;

/// The certificates of a PEM file, at least one.
///
/// # Errors
/// If it cannot be read or holds none.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read_material(path)?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| content(path, format!("broken PEM: {error}")))?;
    if !certificates.is_empty() {
        return Ok(certificates);
    }
    Err(content(
        path,
        if contains(&bytes, "PRIVATE KEY-----") {
            "holds a private key where a certificate belongs (a PEM file with BEGIN CERTIFICATE)"
        } else {
            "no PEM certificate in it (a block that begins with BEGIN CERTIFICATE)"
        },
    ))
}

pub(super) fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bytes = read_material(path)?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| {
        content(
            path,
            match error {
                pem::Error::NoItemsFound if contains(&bytes, "BEGIN ENCRYPTED PRIVATE KEY") => {
                    "the private key is encrypted (give it decrypted, readable by this process alone)".to_owned()
                }
                pem::Error::NoItemsFound if contains(&bytes, "BEGIN CERTIFICATE") => {
                    "holds a certificate where its private key belongs (a PEM file with BEGIN PRIVATE KEY)".to_owned()
                }
                pem::Error::NoItemsFound => {
                    "no PEM private key in it (a block that begins with BEGIN PRIVATE KEY)".to_owned()
                }
                error => format!("broken PEM: {error}"),
            },
        )
    })
}

/// What a file of certificates or a key holds.
///
/// # Errors
/// If it cannot be read, is no regular file, or is longer than a megabyte.
pub fn read_material(path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let mut bytes = Zeroizing::new(Vec::new());
    match regular_file::read(path, MAX_LEN, &mut bytes) {
        Ok(()) => Ok(bytes),
        Err(ReadError::Io(source)) => Err(TlsError::Unreadable {
            path: path.to_owned(),
            source,
        }),
        Err(error) => Err(content(path, error.to_string())),
    }
}

pub(super) fn content(path: &Path, reason: impl Into<String>) -> TlsError {
    TlsError::Content {
        path: path.to_owned(),
        reason: reason.into(),
    }
}

fn contains(bytes: &[u8], marker: &str) -> bool {
    bytes
        .windows(marker.len())
        .any(|window| window == marker.as_bytes())
}

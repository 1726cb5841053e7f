//! TLS material: read, checked, and made into rustls configurations.
//!
//! TLS 1.3 with the post-quantum hybrid X25519MLKEM768 preferred, unless an operator asks for less.

mod pem;
mod policy;
mod validity;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoClientAuth, NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{
    ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use self::pem::{content, read_key};
pub use self::pem::{read_certificates, read_material};
pub use self::policy::{PostQuantum, TlsMin, TlsPolicy};
use self::validity::validity_warnings;
pub use self::validity::{EXPIRES_SOON, ends, outlives};

/// Why TLS material cannot be used. Each names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file holds no usable certificate or key.
    #[error("{}: {reason}", .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what should be there.
        reason: String,
    },
    /// The key and the certificate are both sound but not of one pair.
    #[error("{}: is not the key of the certificate in {} (give the two files that were issued together)", .key.display(), .certificate.display())]
    KeyMismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// This machine trusts nobody and no file was given.
    #[error(
        "no certificate authority is trusted: this machine has no system roots (install ca-certificates, or give the authority's PEM file)"
    )]
    NoRoots,
    /// rustls refuses the policy; our bug.
    #[error("TLS cannot be set up: {0}")]
    Setup(rustls::Error),
}

/// A server's side of TLS: certificate and key, ready to accept.
#[derive(Debug, Clone)]
pub struct ServerTls {
    /// What rustls needs.
    pub config: Arc<ServerConfig>,
    /// What an operator should know, such as a certificate that ends soon.
    pub warnings: Vec<String>,
}

impl ServerTls {
    /// Reads a certificate chain and its key, in PEM, and offers `alpn` in that order. Where there are `clients`, a
    /// peer is asked for a certificate; it may show none, but not one that they do not vouch for.
    ///
    /// # Errors
    /// If a file cannot be read, does not hold what it should, or the two do not belong together.
    pub fn load(
        certificate: &Path,
        key: &Path,
        clients: Option<&ClientAuthorities>,
        policy: TlsPolicy,
        alpn: &[&[u8]],
    ) -> Result<Self, TlsError> {
        let chain = read_certificates(certificate)?;
        let warnings = validity_warnings(certificate, &chain);
        let key_der = read_key(key)?;
        let mut config = ServerConfig::builder_with_provider(policy.provider())
            .with_protocol_versions(policy.versions())
            .map_err(TlsError::Setup)?
            .with_client_cert_verifier(client_verifier(clients, policy)?)
            .with_single_cert(chain, key_der)
            .map_err(|error| not_a_pair(certificate, key, error))?;
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        if clients.is_some() {
            // A resumed session would prove a certificate again after its end, since it is not verified again.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(Self {
            config: Arc::new(config),
            warnings,
        })
    }
}

/// Whose signature makes a client's certificate good. Nothing else does: the system's roots vouch for servers.
#[derive(Debug, Clone)]
pub struct ClientAuthorities {
    store: Arc<RootCertStore>,
}

impl ClientAuthorities {
    /// Those in a PEM file.
    ///
    /// # Errors
    /// If it cannot be read or holds no usable certificate.
    pub fn load(path: &Path) -> Result<Self, TlsError> {
        let store = store_of(path)?;
        Ok(Self { store })
    }
}

fn client_verifier(
    clients: Option<&ClientAuthorities>,
    policy: TlsPolicy,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let Some(clients) = clients else {
        return Ok(Arc::new(NoClientAuth));
    };
    let roots = Arc::clone(&clients.store);
    WebPkiClientVerifier::builder_with_provider(roots, policy.provider())
        .allow_unauthenticated()
        .build()
        .map_err(|error| TlsError::Setup(rustls::Error::General(error.to_string())))
}

/// Whom a client trusts.
#[derive(Debug, Clone)]
pub struct ClientRoots {
    store: Arc<RootCertStore>,
}

impl ClientRoots {
    /// Nobody, for what does not speak TLS.
    #[must_use]
    pub fn none() -> Self {
        Self {
            store: Arc::new(RootCertStore::empty()),
        }
    }

    /// The system's roots and those in `extra`, PEM files. A machine without system roots is fine where `extra` gives
    /// some.
    ///
    /// # Errors
    /// If a file of `extra` cannot be read or holds no usable certificate, or nobody at all is trusted.
    pub fn load(extra: &[PathBuf]) -> Result<Self, TlsError> {
        let mut store = RootCertStore::empty();
        // What is odd in the system's own bundle is the system's affair; what can be read of it counts.
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        for path in extra {
            add_certificates(&mut store, path)?;
        }
        if store.is_empty() {
            return Err(TlsError::NoRoots);
        }
        Ok(Self {
            store: Arc::new(store),
        })
    }

    /// Those in a PEM file, and nobody else.
    ///
    /// # Errors
    /// If it cannot be read or holds no usable certificate.
    pub fn only(path: &Path) -> Result<Self, TlsError> {
        let store = store_of(path)?;
        Ok(Self { store })
    }
}

/// Whether a server must prove who it is.
#[derive(Debug, Clone)]
pub enum ServerTrust {
    /// By a certificate that one of these vouches for.
    Verified(ClientRoots),
    /// No: whoever answers is believed, and so is whoever sits on the way.
    Unverified,
}

/// A client's side of TLS, with a certificate to show where it has one.
#[derive(Debug, Clone)]
pub struct ClientTls {
    /// What rustls needs.
    pub config: Arc<ClientConfig>,
    /// What an operator should know, such as a certificate that ends soon.
    pub warnings: Vec<String>,
}

impl ClientTls {
    /// Reads the certificate chain and the key of `identity`, in PEM, if there is one.
    ///
    /// # Errors
    /// If a file cannot be read, does not hold what it should, or the two do not belong together.
    pub fn load(
        trust: &ServerTrust,
        identity: Option<(&Path, &Path)>,
        policy: TlsPolicy,
    ) -> Result<Self, TlsError> {
        let builder = client_builder(trust, policy)?;
        let Some((certificate, key)) = identity else {
            return Ok(Self {
                config: Arc::new(builder.with_no_client_auth()),
                warnings: Vec::new(),
            });
        };
        let chain = read_certificates(certificate)?;
        let warnings = validity_warnings(certificate, &chain);
        let config = builder
            .with_client_auth_cert(chain, read_key(key)?)
            .map_err(|error| not_a_pair(certificate, key, error))?;
        Ok(Self {
            config: Arc::new(config),
            warnings,
        })
    }
}

/// A client's side of TLS: whom it trusts, how strong, and `alpn` in order of preference.
///
/// # Errors
/// If rustls refuses the policy, which would be our bug.
pub fn client_config(
    roots: &ClientRoots,
    policy: TlsPolicy,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, TlsError> {
    let trust = ServerTrust::Verified(roots.clone());
    let mut config = client_builder(&trust, policy)?.with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config))
}

fn client_builder(
    trust: &ServerTrust,
    policy: TlsPolicy,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, TlsError> {
    let provider = policy.provider();
    let algorithms = provider.signature_verification_algorithms;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(policy.versions())
        .map_err(TlsError::Setup)?;
    Ok(match trust {
        ServerTrust::Verified(roots) => builder.with_root_certificates(Arc::clone(&roots.store)),
        ServerTrust::Unverified => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(algorithms))),
    })
}

/// Believes every certificate; that the peer holds its key is checked all the same.
#[derive(Debug)]
struct Anybody(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

fn not_a_pair(certificate: &Path, key: &Path, error: rustls::Error) -> TlsError {
    match error {
        rustls::Error::InconsistentKeys(_) => TlsError::KeyMismatch {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
        },
        rustls::Error::InvalidCertificate(error) => {
            content(certificate, format!("not a usable certificate: {error}"))
        }
        error => content(key, format!("not a usable private key: {error}")),
    }
}

fn store_of(path: &Path) -> Result<Arc<RootCertStore>, TlsError> {
    let mut store = RootCertStore::empty();
    add_certificates(&mut store, path)?;
    Ok(Arc::new(store))
}

fn add_certificates(store: &mut RootCertStore, path: &Path) -> Result<(), TlsError> {
    for der in read_certificates(path)? {
        store
            .add(der)
            .map_err(|error| content(path, format!("not a usable certificate: {error}")))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;

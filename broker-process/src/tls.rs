//! TLS material: read, checked, and made into rustls configurations.
//!
//! TLS 1.3 with the post-quantum hybrid X25519MLKEM768 preferred, unless an operator asks for less.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WantsClientCert, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature,
    verify_tls13_signature,
};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    NoClientAuth, NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier,
};
use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore,
    ServerConfig, SignatureScheme, SupportedProtocolVersion,
};
use rustls_pki_types::pem::{self, PemObject as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use zeroize::Zeroizing;

use crate::settings::shown;

/// How long before its end a certificate is worth a warning; two weeks leave time to act.
pub const EXPIRES_SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);

static TLS_1_3_ONLY: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// The oldest TLS version that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMin {
    /// TLS 1.2, for peers that cannot do better.
    V1_2,
    /// TLS 1.3.
    V1_3,
}

impl FromStr for TlsMin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "1.2" => Ok(Self::V1_2),
            "1.3" => Ok(Self::V1_3),
            _ => Err(format!("unknown value {} (use 1.2 or 1.3)", shown(text))),
        }
    }
}

/// Whether the key exchange that also withstands a quantum computer is offered, and preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PostQuantum {
    /// X25519MLKEM768 first, the classical ones after it.
    On,
    /// The classical ones alone.
    Off,
}

impl FromStr for PostQuantum {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            _ => Err(format!("unknown value {} (use on or off)", shown(text))),
        }
    }
}

/// How strong a connection must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TlsPolicy {
    /// The oldest version.
    pub min: TlsMin,
    /// The key exchange.
    pub post_quantum: PostQuantum,
}

impl TlsPolicy {
    /// TLS 1.3, post-quantum preferred.
    pub const STRICT: Self = Self {
        min: TlsMin::V1_3,
        post_quantum: PostQuantum::On,
    };

    fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        match self.min {
            TlsMin::V1_2 => rustls::ALL_VERSIONS,
            TlsMin::V1_3 => TLS_1_3_ONLY,
        }
    }

    fn provider(self) -> Arc<CryptoProvider> {
        use aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519, X25519MLKEM768};
        let kx_groups = match self.post_quantum {
            PostQuantum::On => vec![X25519MLKEM768, X25519, SECP256R1, SECP384R1],
            PostQuantum::Off => vec![X25519, SECP256R1, SECP384R1],
        };
        Arc::new(CryptoProvider {
            kx_groups,
            ..aws_lc_rs::default_provider()
        })
    }
}

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
        let mut store = RootCertStore::empty();
        add_certificates(&mut store, path)?;
        Ok(Self {
            store: Arc::new(store),
        })
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
        let mut store = RootCertStore::empty();
        add_certificates(&mut store, path)?;
        Ok(Self {
            store: Arc::new(store),
        })
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

fn validity_warnings(path: &Path, chain: &[CertificateDer<'_>]) -> Vec<String> {
    let warnings = chain.iter().filter_map(|der| validity_warning(path, der));
    warnings.collect()
}

fn add_certificates(store: &mut RootCertStore, path: &Path) -> Result<(), TlsError> {
    for der in read_certificates(path)? {
        store
            .add(der)
            .map_err(|error| content(path, format!("not a usable certificate: {error}")))?;
    }
    Ok(())
}

/// The certificates of a PEM file, at least one.
///
/// # Errors
/// If it cannot be read or holds none.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(path)?;
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

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bytes = Zeroizing::new(read(path)?);
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

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Unreadable {
        path: path.to_owned(),
        source,
    })
}

fn content(path: &Path, reason: impl Into<String>) -> TlsError {
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose,
        IsCa, KeyPair, KeyUsagePurpose, date_time_ymd,
    };
    use rustls::HandshakeKind;
    use rustls_pki_types::ServerName;
    use tokio::io::AsyncReadExt as _;
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;

    /// A folder that goes away with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path =
                std::env::temp_dir().join(format!("broker-tls-{}-{number}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.join(name);
            fs::write(&path, text).unwrap();
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn pair(edit: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        edit(&mut params);
        let certificate = params.self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn server_error(certificate: &Path, key: &Path) -> String {
        ServerTls::load(certificate, key, None, TlsPolicy::STRICT, &[])
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn a_certificate_tells_when_it_ends() {
        let (certificate, _) = pair(|params| params.not_after = date_time_ymd(2042, 1, 2));
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
        let expected = date_time_ymd(2042, 1, 2).unix_timestamp();
        let ends = ends(&der).unwrap();
        let ends = ends.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(i64::try_from(ends.as_secs()).unwrap(), expected);
        assert_eq!(super::ends(&CertificateDer::from(vec![1, 2, 3])), None);
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_with_its_name() {
        let folder = Folder::new();
        let (certificate, key) = pair(|_| ());
        let (_, other_key) = pair(|_| ());
        let certificate = folder.write("server.pem", &certificate);
        let key = folder.write("server.key", &key);
        let other_key = folder.write("other.key", &other_key);
        let empty = folder.write("empty.pem", "");
        let encrypted = folder.write(
            "encrypted.key",
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
        );
        let missing = folder.0.join("missing.pem");

        for (certificate, key, expected) in [
            (&missing, &key, "missing.pem: cannot be read: "),
            (&empty, &key, "empty.pem: no PEM certificate in it"),
            (
                &key,
                &key,
                "server.key: holds a private key where a certificate belongs",
            ),
            (
                &certificate,
                &certificate,
                "server.pem: holds a certificate where its private key belongs",
            ),
            (&certificate, &empty, "empty.pem: no PEM private key in it"),
            (
                &certificate,
                &encrypted,
                "encrypted.key: the private key is encrypted",
            ),
            (
                &certificate,
                &other_key,
                "other.key: is not the key of the certificate in ",
            ),
        ] {
            let error = server_error(certificate, key);
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn an_expired_certificate_is_a_warning() {
        let folder = Folder::new();
        let load = |edit: fn(&mut CertificateParams)| {
            let (certificate, key) = pair(edit);
            let certificate = folder.write("c.pem", &certificate);
            let key = folder.write("k.pem", &key);
            ServerTls::load(&certificate, &key, None, TlsPolicy::STRICT, &[])
                .unwrap()
                .warnings
        };
        let ended = load(|params| params.not_after = date_time_ymd(2001, 1, 1));
        assert!(
            ended[0].contains("c.pem: the certificate has expired"),
            "{ended:?}"
        );
        let early = load(|params| params.not_before = date_time_ymd(4000, 1, 1));
        assert!(early[0].contains("is not valid yet"), "{early:?}");
        assert!(load(|_| ()).is_empty());
    }

    #[test]
    fn an_authority_file_without_a_certificate_is_refused_by_name() {
        let folder = Folder::new();
        let ca = folder.write("ca.pem", "not PEM");
        let error = ClientRoots::load(&[ca]).unwrap_err().to_string();
        assert!(
            error.contains("ca.pem: no PEM certificate in it"),
            "{error}"
        );
    }

    /// Shakes hands in memory and tells version and key exchange, or the client's error.
    async fn handshake(
        server: TlsPolicy,
        client: impl FnOnce(&ClientRoots) -> Arc<ClientConfig>,
    ) -> Result<(String, String), String> {
        let folder = Folder::new();
        let (certificate, key) = pair(|_| ());
        let certificate = folder.write("c.pem", &certificate);
        let key = folder.write("k.pem", &key);
        let server = ServerTls::load(&certificate, &key, None, server, &[b"http/1.1"]).unwrap();
        let client = client(&ClientRoots::load(&[certificate]).unwrap());
        let (near, far) = tokio::io::duplex(64 * 1024);
        let (_, connected) = tokio::join!(
            TlsAcceptor::from(server.config).accept(far),
            TlsConnector::from(client).connect(ServerName::try_from("localhost").unwrap(), near)
        );
        let stream = connected.map_err(|error| error.to_string())?;
        let connection = stream.get_ref().1;
        let group = connection.negotiated_key_exchange_group().unwrap().name();
        Ok((
            format!("{:?}", connection.protocol_version().unwrap()),
            format!("{group:?}"),
        ))
    }

    #[tokio::test]
    async fn the_post_quantum_hybrid_is_used_unless_turned_off() {
        let negotiated = |policy| {
            handshake(TlsPolicy::STRICT, move |roots| {
                client_config(roots, policy, &[b"http/1.1"]).unwrap()
            })
        };
        let (version, group) = negotiated(TlsPolicy::STRICT).await.unwrap();
        assert_eq!((&*version, &*group), ("TLSv1_3", "X25519MLKEM768"));
        let off = TlsPolicy {
            post_quantum: PostQuantum::Off,
            ..TlsPolicy::STRICT
        };
        let (version, group) = negotiated(off).await.unwrap();
        assert_eq!((&*version, &*group), ("TLSv1_3", "X25519"));
    }

    #[tokio::test]
    async fn tls_1_2_is_spoken_only_when_asked_for() {
        let old_client = |roots: &ClientRoots| {
            let config = ClientConfig::builder_with_provider(TlsPolicy::STRICT.provider())
                .with_protocol_versions(&[&rustls::version::TLS12])
                .unwrap()
                .with_root_certificates(Arc::clone(&roots.store))
                .with_no_client_auth();
            Arc::new(config)
        };
        let error = handshake(TlsPolicy::STRICT, old_client).await.unwrap_err();
        assert!(error.contains("ProtocolVersion"), "{error}");
        let lenient = TlsPolicy {
            min: TlsMin::V1_2,
            ..TlsPolicy::STRICT
        };
        let (version, _) = handshake(lenient, old_client).await.unwrap();
        assert_eq!(version, "TLSv1_2");
    }

    type Issuer = CertifiedIssuer<'static, KeyPair>;

    fn authority(name: &str) -> Issuer {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    /// A server that asks clients for a certificate of its authority.
    struct AskingServer {
        authority: Issuer,
        config: Arc<ServerConfig>,
        roots: ClientRoots,
    }

    impl AskingServer {
        fn new() -> Self {
            let folder = Folder::new();
            let authority = authority("ours");
            let (certificate, key) = pair(|_| ());
            let certificate = folder.write("c.pem", &certificate);
            let key = folder.write("k.pem", &key);
            let clients = folder.write("clients.pem", &authority.pem());
            let clients = ClientAuthorities::load(&clients).unwrap();
            let server =
                ServerTls::load(&certificate, &key, Some(&clients), TlsPolicy::STRICT, &[]);
            Self {
                authority,
                config: server.unwrap().config,
                roots: ClientRoots::load(&[certificate]).unwrap(),
            }
        }

        /// A client that shows a certificate of this authority, or none.
        fn client(
            &self,
            signed_by: Option<&Issuer>,
            edit: impl FnOnce(&mut CertificateParams),
        ) -> Arc<ClientConfig> {
            let builder = ClientConfig::builder_with_provider(TlsPolicy::STRICT.provider())
                .with_protocol_versions(TLS_1_3_ONLY)
                .unwrap()
                .with_root_certificates(Arc::clone(&self.roots.store));
            let Some(issuer) = signed_by else {
                return Arc::new(builder.with_no_client_auth());
            };
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(["client".to_owned()]).unwrap();
            edit(&mut params);
            let certificate = params.signed_by(&key, issuer).unwrap().into();
            let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
            let config = builder.with_client_auth_cert(vec![certificate], key);
            Arc::new(config.unwrap())
        }

        /// How the server shook hands, and how many certificates it was shown; or why it refused.
        async fn accept(
            &self,
            client: &Arc<ClientConfig>,
        ) -> Result<(HandshakeKind, usize), String> {
            let (near, far) = tokio::io::duplex(64 * 1024);
            let connector = TlsConnector::from(Arc::clone(client));
            let name = ServerName::try_from("localhost").unwrap();
            let accepting = async {
                let accepted = TlsAcceptor::from(Arc::clone(&self.config)).accept(far);
                let stream = accepted.await.map_err(|error| error.to_string())?;
                let connection = stream.get_ref().1;
                let shown = connection.peer_certificates().map_or(0, <[_]>::len);
                Ok((connection.handshake_kind().unwrap(), shown))
            };
            let connecting = async {
                let mut stream = connector.connect(name, near).await.unwrap();
                // Reads what a client would keep to resume the session, up to the end.
                let _ = stream.read(&mut [0]).await;
            };
            tokio::join!(accepting, connecting).0
        }
    }

    #[tokio::test]
    async fn a_client_is_asked_for_a_certificate_and_may_show_none() {
        let server = AskingServer::new();
        let shows = server.client(Some(&server.authority), |_| ());
        assert_eq!(server.accept(&shows).await.unwrap().1, 1);
        let shows_none = server.client(None, |_| ());
        assert_eq!(server.accept(&shows_none).await.unwrap().1, 0);
    }

    #[tokio::test]
    async fn a_clients_certificate_that_does_not_verify_ends_the_handshake() {
        let server = AskingServer::new();
        let ours = &server.authority;
        for (client, expected) in [
            (
                server.client(Some(&authority("other")), |_| ()),
                "UnknownIssuer",
            ),
            (
                server.client(Some(&authority("ours")), |_| ()),
                "BadSignature",
            ),
            (
                server.client(Some(ours), |params| {
                    params.not_after = date_time_ymd(2001, 1, 1);
                }),
                "certificate expired",
            ),
            (
                server.client(Some(ours), |params| {
                    params.not_before = date_time_ymd(4000, 1, 1);
                }),
                "certificate not valid yet",
            ),
            (
                server.client(Some(ours), |params| {
                    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
                }),
                "extended key usage",
            ),
        ] {
            let error = server.accept(&client).await.unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[tokio::test]
    async fn a_clients_certificate_is_verified_in_each_handshake() {
        let server = AskingServer::new();
        let client = server.client(Some(&server.authority), |_| ());
        for _ in 0..3 {
            let (kind, _) = server.accept(&client).await.unwrap();
            assert!(
                matches!(
                    kind,
                    HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest
                ),
                "{kind:?}"
            );
        }
    }

    #[test]
    fn an_unknown_version_names_the_known_ones() {
        assert_eq!(
            "1.1".parse::<TlsMin>().unwrap_err(),
            r#"unknown value "1.1" (use 1.2 or 1.3)"#
        );
    }
}

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::HandshakeKind;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::io::AsyncReadExt as _;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::policy::TLS_1_3_ONLY;
use super::*;

/// A folder that goes away with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("broker-tls-{}-{number}", std::process::id()));
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
        let server = ServerTls::load(&certificate, &key, Some(&clients), TlsPolicy::STRICT, &[]);
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
    async fn accept(&self, client: &Arc<ClientConfig>) -> Result<(HandshakeKind, usize), String> {
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

//! A certificate authority of the tests' own, and the certificates that it signs.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
    PKCS_RSA_SHA256, SanType, date_time_ymd,
};
use rustls::client::WantsClientCert;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::{
    ClientConfig, ConfigBuilder, DEFAULT_VERSIONS, RootCertStore, ServerConfig,
    SupportedProtocolVersion,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tempfile::TempDir;

/// A new RSA key, PEM.
pub fn rsa_key() -> String {
    let key = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    key.serialize_pem()
}

/// A certificate authority; its files live as long as it does.
pub struct Ca {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Ca {
    /// A new authority with this common name.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    /// The authority's certificate in PEM.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate for `localhost` and `127.0.0.1`, in files named after `name`.
    pub fn loopback(&self, name: &str) -> Leaf {
        self.leaf(name, &["localhost", "127.0.0.1"])
    }

    /// A certificate for these DNS names, addresses and URIs, in files named after `name`, which is its common name.
    pub fn leaf(&self, name: &str, for_names: &[&str]) -> Leaf {
        self.sign(name, params(name, for_names))
    }

    /// The same, which has ended long ago.
    pub fn expired_leaf(&self, name: &str, for_names: &[&str]) -> Leaf {
        let mut params = params(name, for_names);
        params.not_after = date_time_ymd(2001, 1, 1);
        self.sign(name, params)
    }

    fn sign(&self, name: &str, params: CertificateParams) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let leaf = Leaf {
            certificate: self.folder.path().join(format!("{name}.pem")),
            key: self.folder.path().join(format!("{name}.key")),
        };
        fs::write(&leaf.certificate, certificate.pem()).unwrap();
        fs::write(&leaf.key, key.serialize_pem()).unwrap();
        leaf
    }

    /// What a client needs that trusts this authority alone and offers these protocols by ALPN.
    pub fn client_config(&self, alpn: &[&str]) -> Arc<ClientConfig> {
        let mut config = self.client_config_by(default_provider());
        config.alpn_protocols = protocols(alpn);
        Arc::new(config)
    }

    /// The same, with a certificate that it shows where it is asked for one.
    pub fn client_config_showing(&self, leaf: &Leaf, alpn: &[&str]) -> Arc<ClientConfig> {
        let mut config = self
            .trusting_client(default_provider())
            .with_client_auth_cert(certificates(&leaf.certificate), leaf.private_key())
            .unwrap();
        config.alpn_protocols = protocols(alpn);
        Arc::new(config)
    }

    /// What a client needs that trusts this authority alone, with the cryptography of its choice.
    pub fn client_config_with(&self, provider: CryptoProvider) -> Arc<ClientConfig> {
        Arc::new(self.client_config_by(provider))
    }

    fn client_config_by(&self, provider: CryptoProvider) -> ClientConfig {
        self.trusting_client(provider).with_no_client_auth()
    }

    fn trusting_client(
        &self,
        provider: CryptoProvider,
    ) -> ConfigBuilder<ClientConfig, WantsClientCert> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
    }
}

/// A certificate and its key, as PEM files in the folder of the authority that signed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// The certificate.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

impl Leaf {
    /// What a server needs that shows this certificate and accepts these protocols by ALPN.
    pub fn server_config(&self, alpn: &[&str]) -> Arc<ServerConfig> {
        let mut config = self.server_config_by(DEFAULT_VERSIONS);
        config.alpn_protocols = protocols(alpn);
        Arc::new(config)
    }

    /// What a server needs that shows this certificate and speaks these versions of TLS alone.
    pub fn server_config_with(
        &self,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Arc<ServerConfig> {
        Arc::new(self.server_config_by(versions))
    }

    fn server_config_by(&self, versions: &[&'static SupportedProtocolVersion]) -> ServerConfig {
        ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(certificates(&self.certificate), self.private_key())
            .unwrap()
    }

    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_file(&self.key).unwrap()
    }
}

fn params(common_name: &str, for_names: &[&str]) -> CertificateParams {
    let (uris, others): (Vec<&str>, Vec<&str>) =
        for_names.iter().partition(|name| name.contains("://"));
    let others: Vec<_> = others.into_iter().map(str::to_owned).collect();
    let mut params = CertificateParams::new(others).unwrap();
    let uris = uris
        .into_iter()
        .map(|uri| SanType::URI(uri.try_into().unwrap()));
    params.subject_alt_names.extend(uris);
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params
}

/// The name under which a loopback address stands in certificates.
pub fn server_name(address: SocketAddr) -> ServerName<'static> {
    ServerName::IpAddress(address.ip().into())
}

fn certificates(file: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(file)
        .unwrap()
        .map(Result::unwrap)
        .collect()
}

fn protocols(alpn: &[&str]) -> Vec<Vec<u8>> {
    alpn.iter()
        .map(|protocol| protocol.as_bytes().to_vec())
        .collect()
}

#[cfg(test)]
mod tests {
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;

    async fn handshake(client: &Ca, server: &Leaf) -> std::io::Result<()> {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let connector = TlsConnector::from(client.client_config(&[]));
        let acceptor = TlsAcceptor::from(server.server_config(&[]));
        let name = server_name(([127, 0, 0, 1], 0).into());
        let (client, _server) = tokio::join!(connector.connect(name, near), acceptor.accept(far));
        client.map(drop)
    }

    #[tokio::test]
    async fn a_leaf_is_trusted_by_those_who_trust_its_authority_and_by_nobody_else() {
        let (ours, other) = (Ca::new("ours"), Ca::new("other"));
        let leaf = ours.loopback("server");
        handshake(&ours, &leaf).await.unwrap();
        handshake(&other, &leaf).await.unwrap_err();
    }
}

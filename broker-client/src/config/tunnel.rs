//! How the server is dialled.

use std::path::PathBuf;

use broker_process::settings::{Settings, boolean};
use broker_process::tls::{PostQuantum, TlsMin, TlsPolicy};

use super::networks::{authorities, proxy_choice};
use super::{ProxyChoice, table};

/// How the server is dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelSettings {
    /// The oldest TLS version.
    pub tls_min: TlsMin,
    /// Whether the post-quantum key exchange is preferred.
    pub post_quantum: PostQuantum,
    /// More authorities to trust for the server.
    pub ca_cert: Option<PathBuf>,
    /// What holds for the server in place of the usual proxies.
    pub proxy: ProxyChoice,
    /// Whether a server on another machine may be dialled without TLS.
    pub may_be_plain: bool,
}

impl TunnelSettings {
    /// How strong TLS must be.
    #[must_use]
    pub fn tls_policy(&self) -> TlsPolicy {
        TlsPolicy {
            min: self.tls_min,
            post_quantum: self.post_quantum,
        }
    }
}

pub(super) fn tunnel(settings: &Settings<'_>, warnings: &mut Vec<String>) -> TunnelSettings {
    let tunnel = TunnelSettings {
        tls_min: settings.value(&table::TUNNEL_TLS_MIN, str::parse),
        post_quantum: settings.value(&table::TUNNEL_POST_QUANTUM, str::parse),
        ca_cert: authorities(settings, &table::TUNNEL_CA_CERT),
        proxy: proxy_choice(settings, &table::TUNNEL_PROXY),
        may_be_plain: settings.value(&table::TUNNEL_PLAINTEXT, boolean),
    };
    if tunnel.tls_min == TlsMin::V1_2 {
        warnings.push("tunnel.tls-min is 1.2: the tunnel may be weaker than TLS 1.3".to_owned());
    }
    if tunnel.post_quantum == PostQuantum::Off {
        warnings.push(
            "tunnel.post-quantum is off: what is recorded today can be read by a later quantum computer".to_owned(),
        );
    }
    tunnel
}

//! How the server is dialled.

use std::path::PathBuf;

use broker_process::settings::{Settings, boolean, integer};
use broker_process::tls::{PostQuantum, TlsMin, TlsPolicy};

use super::networks::{authorities, proxy_choice};
use super::{ProxyChoice, ServerUrl, table};

/// How the server is dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelSettings {
    /// How many tunnels are kept open, 1 to 16.
    pub count: u8,
    /// The oldest TLS version.
    pub tls_min: TlsMin,
    /// Whether the post-quantum key exchange is preferred.
    pub post_quantum: PostQuantum,
    /// More authorities to trust for the server.
    pub ca_cert: Option<PathBuf>,
    /// What holds for the server in place of the usual proxies.
    pub proxy: ProxyChoice,
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

pub(super) fn tunnel(
    settings: &Settings<'_>,
    server: Option<&ServerUrl>,
    warnings: &mut Vec<String>,
) -> TunnelSettings {
    let tunnel = TunnelSettings {
        count: settings.value(&table::TUNNEL_COUNT, integer(1..=16)),
        tls_min: settings.value(&table::TUNNEL_TLS_MIN, str::parse),
        post_quantum: settings.value(&table::TUNNEL_POST_QUANTUM, str::parse),
        ca_cert: authorities(settings, &table::TUNNEL_CA_CERT),
        proxy: proxy_choice(settings, &table::TUNNEL_PROXY),
    };
    let may_be_plain = settings.value(&table::TUNNEL_PLAINTEXT, boolean);
    if let Some(server) = server.filter(|server| !server.is_tls() && !server.is_loopback()) {
        if may_be_plain {
            warnings.push(format!(
                "the tunnel to {server} is not encrypted: secrets and answers are readable on the way"
            ));
        } else {
            settings.refuse(
                &table::SERVER,
                "http:// and ws:// are for this machine alone, since everything is readable on the way (use https://, \
                 or set tunnel.insecure-plaintext: true)",
            );
        }
    }
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

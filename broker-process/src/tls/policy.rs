//! How strong TLS must be.

use std::str::FromStr;
use std::sync::Arc;

use rustls::SupportedProtocolVersion;
use rustls::crypto::{CryptoProvider, aws_lc_rs};

use crate::settings::shown;

pub(super) static TLS_1_3_ONLY: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

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

    /// TLS 1.2 too, for peers of a company's own, which may be old.
    pub const LENIENT: Self = Self {
        min: TlsMin::V1_2,
        post_quantum: PostQuantum::On,
    };

    pub(super) fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        match self.min {
            TlsMin::V1_2 => rustls::ALL_VERSIONS,
            TlsMin::V1_3 => TLS_1_3_ONLY,
        }
    }

    pub(super) fn provider(self) -> Arc<CryptoProvider> {
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

//! What holds for origins: for all, and for single ones.

use std::collections::BTreeMap;
use std::time::Duration;

use broker_process::settings::{Node, Settings, positive_duration, shown};

use super::{ProxyChoice, table};

/// What holds for single origins, by the text as a rule writes it, unexpanded.
pub type Origins = BTreeMap<String, OriginSettings>;

/// What holds for one origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginSettings {
    /// Whether `%2F` may stand in a path.
    pub encoded_slash: EncodedSlash,
    /// How long it may take.
    pub timeouts: Timeouts,
    /// The proxy on the way.
    pub proxy: ProxyChoice,
}

/// What `%2F` in a path means to an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EncodedSlash {
    /// The origin may route on the decoded path, so a request that holds one is refused.
    Refuse,
    /// Part of a segment, like any other character.
    #[default]
    Data,
}

/// How long an origin may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// To be connected to.
    pub connect: Duration,
    /// To begin its answer, from the end of the request.
    pub first_byte: Duration,
    /// To move anything, in either direction, while a body flows.
    pub idle: Duration,
}

pub(super) fn origins(settings: &Settings<'_>, timeouts: Timeouts) -> Origins {
    let section = settings.section(&table::ORIGINS);
    section.map_or_else(Origins::new, |section| origins_at(&section, timeouts))
}

/// What stands at `node`.
pub(super) fn origins_at(node: &Node<'_>, timeouts: Timeouts) -> Origins {
    let mut origins = Origins::new();
    for (origin, node) in node.entries() {
        let fields = node.fields(&[
            "encoded-slash",
            "connect-timeout",
            "first-byte-timeout",
            "idle-timeout",
            "proxy",
        ]);
        let time = |name: &str| fields.get(name)?.read(positive_duration);
        let settings = OriginSettings {
            encoded_slash: fields
                .get("encoded-slash")
                .and_then(|node| node.read(encoded_slash))
                .unwrap_or_default(),
            timeouts: Timeouts {
                connect: time("connect-timeout").unwrap_or(timeouts.connect),
                first_byte: time("first-byte-timeout").unwrap_or(timeouts.first_byte),
                idle: time("idle-timeout").unwrap_or(timeouts.idle),
            },
            proxy: fields
                .get("proxy")
                .and_then(|node| node.read(str::parse))
                .unwrap_or_default(),
        };
        origins.insert(origin, settings);
    }
    origins
}

pub(super) fn timeouts(settings: &Settings<'_>) -> Timeouts {
    Timeouts {
        connect: settings.value(&table::CONNECT, positive_duration),
        first_byte: settings.value(&table::FIRST_BYTE, positive_duration),
        idle: settings.value(&table::IDLE, positive_duration),
    }
}

fn encoded_slash(text: &str) -> Result<EncodedSlash, String> {
    match text {
        "refuse" => Ok(EncodedSlash::Refuse),
        "data" => Ok(EncodedSlash::Data),
        _ => Err(format!(
            "unknown value {} (use refuse or data)",
            shown(text)
        )),
    }
}

//! What holds for origins: for all, and for single ones.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use accept_rules::{RequestTarget, split_userinfo};
use broker_process::settings::{Node, Settings, boolean, positive_duration, shown};
use http::Method;
use rustls_pki_types::ServerName;

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
    /// What becomes of an answer that holds the injected credential, where it is not as for all others.
    pub on_secret_echo: Option<OnSecretEcho>,
    /// TLS, where it is not as for all others.
    pub tls: Option<OriginTlsSettings>,
    /// By what `broker-client doctor` asks it whether it takes the credential.
    pub probe: Option<Probe>,
}

/// A request that changes nothing: GET or HEAD, without a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// GET or HEAD.
    pub method: Method,
    /// Its target, which rules can judge.
    pub target: String,
}

impl FromStr for Probe {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (method, target) = match text.split_once(' ') {
            Some(("GET", target)) => (Method::GET, target),
            Some(("HEAD", target)) => (Method::HEAD, target),
            _ => {
                return Err(format!(
                    "{} is no probe (write GET /api/version, or HEAD)",
                    shown(text)
                ));
            }
        };
        RequestTarget::new(&method, target)
            .map_err(|error| format!("{}: {error}", shown(target)))?;
        Ok(Self {
            method,
            target: target.to_owned(),
        })
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A query may hold what is nobody's business.
        let path = self.target.split('?').next().unwrap_or_default();
        write!(f, "{} {path}", self.method)
    }
}

/// What becomes of an answer whose body holds the credential that the agent injected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnSecretEcho {
    /// It passes, and that is on record.
    #[default]
    Record,
    /// It ends, visibly broken, before the piece that completes the credential.
    Cut,
}

/// TLS towards one origin.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OriginTlsSettings {
    /// The certificate chain to show, and its key, PEM files.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Who vouches for the origin.
    pub trust: OriginTrust,
    /// The name in the origin's certificate, where it is not the origin's own.
    pub server_name: Option<String>,
}

/// Who vouches for an origin.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OriginTrust {
    /// Whoever does for the others.
    Usual,
    /// The authorities in this PEM file alone.
    Only(PathBuf),
    /// Nobody needs to.
    Nobody,
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
            "tls",
            "probe",
            "on-secret-echo",
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
            on_secret_echo: fields
                .get("on-secret-echo")
                .and_then(|node| node.read(on_secret_echo)),
            tls: fields.get("tls").and_then(tls),
            probe: fields.get("probe").and_then(|node| node.read(str::parse)),
        };
        origins.insert(origin, settings);
    }
    origins
}

/// For the operator, at each start, of each origin that need not prove who it is.
pub(crate) fn unverified(origins: &Origins) -> impl Iterator<Item = String> {
    let unverified = origins
        .iter()
        .filter(|(_, settings)| settings.is_unverified());
    unverified.map(|(origin, _)| {
        let (_, origin) = split_userinfo(origin);
        format!(
            "origins.{origin:?}.tls.insecure-skip-verify is on: whoever sits on the way to this origin can read and \
             change what is asked and answered, its credential included"
        )
    })
}

impl OriginSettings {
    /// Whether it need not prove who it is.
    pub(crate) fn is_unverified(&self) -> bool {
        matches!(&self.tls, Some(tls) if tls.trust == OriginTrust::Nobody)
    }
}

fn tls(node: &Node<'_>) -> Option<OriginTlsSettings> {
    let fields = node.fields(&[
        "client-cert",
        "client-key",
        "ca-cert",
        "server-name",
        "insecure-skip-verify",
    ]);
    let path = |name| fields.get(name).and_then(Node::path);
    let identity = match (path("client-cert"), path("client-key")) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) => {
            node.problem("client-cert without its client-key (give both files)");
            return None;
        }
        (None, Some(_)) => {
            node.problem("client-key without its client-cert (give both files)");
            return None;
        }
    };
    let skips = fields
        .get("insecure-skip-verify")
        .and_then(|node| node.read(boolean));
    let trust = match (path("ca-cert"), skips.unwrap_or(false)) {
        (Some(_), true) => {
            node.problem("ca-cert and insecure-skip-verify contradict each other (keep ca-cert)");
            return None;
        }
        (Some(file), false) => OriginTrust::Only(file),
        (None, true) => OriginTrust::Nobody,
        (None, false) => OriginTrust::Usual,
    };
    let server_name = match fields.get("server-name") {
        Some(node) => Some(node.read(server_name)?),
        None => None,
    };
    Some(OriginTlsSettings {
        identity,
        trust,
        server_name,
    })
}

fn server_name(text: &str) -> Result<String, String> {
    match ServerName::try_from(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(format!(
            "{} is no DNS name and no address (write jenkins.corp)",
            shown(text)
        )),
    }
}

pub(super) fn timeouts(settings: &Settings<'_>) -> Timeouts {
    Timeouts {
        connect: settings.value(&table::CONNECT, positive_duration),
        first_byte: settings.value(&table::FIRST_BYTE, positive_duration),
        idle: settings.value(&table::IDLE, positive_duration),
    }
}

pub(super) fn on_secret_echo(text: &str) -> Result<OnSecretEcho, String> {
    match text {
        "record" => Ok(OnSecretEcho::Record),
        "cut" => Ok(OnSecretEcho::Cut),
        _ => Err(format!("unknown value {} (use record or cut)", shown(text))),
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

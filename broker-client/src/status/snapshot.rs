//! What the board shows at one moment, as JSON and as text.

use std::fmt;
use std::time::{Duration, SystemTime};

use broker_protocol::AgentName;
use serde::{Deserialize, Serialize};

use crate::pause::Pause;

/// Longest kept text of a peer or an error, in characters.
const TEXT: usize = 300;

/// Everything on the board at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusSnapshot {
    /// When it was taken, RFC 3339, UTC.
    pub time: String,
    /// Which process this is.
    #[serde(flatten)]
    pub about: About,
    /// Each connection, as the settings order them.
    pub connections: Vec<ConnectionStatus>,
    /// Where credentials come from that can change.
    pub credentials: Vec<CredentialSource>,
    /// The last denials, oldest first.
    pub denials: Vec<Denial>,
    /// The audit log.
    pub audit: AuditStatus,
    /// What the operator should change.
    pub warnings: Vec<String>,
}

/// What `broker-client status` prints.
impl fmt::Display for StatusSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let About {
            instance,
            run_id,
            version,
        } = &self.about;
        let text = format!("{instance}  (version {version}, run {run_id})");
        row(f, "instance", &text)?;
        for connection in &self.connections {
            self.write_connection(f, connection)?;
        }
        self.write_process(f)?;
        self.write_denials(f)
    }
}

impl StatusSnapshot {
    fn write_connection(
        &self,
        f: &mut fmt::Formatter<'_>,
        connection: &ConnectionStatus,
    ) -> fmt::Result {
        if self.are_several() {
            writeln!(f)?;
        }
        row(f, "agent", &connection.agent)?;
        for pause in &connection.paused {
            self.write_pause(f, pause, &connection.accept)?;
        }
        for (place, tunnel) in connection.tunnels.iter().enumerate() {
            let text = self.tunnel_text(tunnel);
            row(f, &format!("tunnel {}", place + 1), &text)?;
            if let Some(error) = &tunnel.last_error {
                let ago = self.ago(&error.time);
                let text = format!("last error {ago} ({}): {}", error.code, error.text);
                row(f, "", &text)?;
            }
        }
        self.write_accept(f, &connection.accept)
    }

    fn write_pause(
        &self,
        f: &mut fmt::Formatter<'_>,
        pause: &Pause,
        accept: &AcceptFile,
    ) -> fmt::Result {
        let what = match pause.rule {
            None => "every request".to_owned(),
            Some(rule) if pause.accept_sha256 == accept.sha256 => format!("private[{rule}]"),
            Some(rule) => format!(
                "private[{rule}] of another accept file, and so every request until `resume --rule {rule}`"
            ),
        };
        let since = self.ago(&rfc3339(pause.since));
        let until = match pause.until {
            None => "until it is resumed".to_owned(),
            Some(until) => format!("until {}", rfc3339(until)),
        };
        let by = pause
            .uid
            .map_or_else(String::new, |uid| format!(" (uid {uid})"));
        let text = format!("{what}, since {since}, {until}: {}{by}", pause.reason);
        row(f, "PAUSED", &text)
    }

    fn write_accept(&self, f: &mut fmt::Formatter<'_>, accept: &AcceptFile) -> fmt::Result {
        match &accept.path {
            None => row(f, "accept file", "none: denies everything")?,
            Some(path) => {
                row(f, "accept file", path)?;
                let loaded = accept.loaded_at.as_deref().unwrap_or_default();
                let rules = format!(
                    "{} private and {} public rules, loaded {}",
                    accept.private_rules,
                    accept.public_rules,
                    self.ago(loaded)
                );
                row(f, "", &rules)?;
                let sha256 = accept.sha256.as_deref().unwrap_or("unknown");
                row(f, "", &format!("sha256 {sha256}"))?;
            }
        }
        match &accept.refused {
            None => Ok(()),
            Some(refused) => {
                let (ago, why) = (self.ago(&refused.time), &refused.text);
                let text = format!("the file as it is now is refused ({ago}): {why}");
                row(f, "", &text)
            }
        }
    }

    fn write_process(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.are_several() {
            writeln!(f)?;
        }
        for CredentialSource {
            source,
            since,
            failing,
            last_error,
            warning,
        } in &self.credentials
        {
            let since = format!("since {since} ({})", self.ago(since));
            let text = match failing {
                None => format!("{source}, the same {since}"),
                Some(why) => format!(
                    "{source} UNAVAILABLE {since}, requests that need it are refused: {why}"
                ),
            };
            row(f, "credential", &text)?;
            if let Some(error) = last_error {
                let ago = self.ago(&error.time);
                row(
                    f,
                    "",
                    &format!("could not be renewed {ago}: {}", error.text),
                )?;
            }
            if let Some(warning) = warning {
                row(f, "", warning)?;
            }
        }
        let AuditStatus { log, seq, failing } = &self.audit;
        row(f, "audit log", &format!("{log}, last line {seq}"))?;
        if let Some(Noted { time, text }) = failing {
            let text = format!("CANNOT BE WRITTEN since {time}, requests are refused: {text}");
            row(f, "", &text)?;
        }
        for warning in &self.warnings {
            row(f, "warning", warning)?;
        }
        Ok(())
    }

    fn write_denials(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.denials.is_empty() {
            return row(f, "denials", "none since the start");
        }
        let text = format!("the last {}, newest first", self.denials.len());
        row(f, "denials", &text)?;
        let width = |of: fn(&Denial) -> usize| self.denials.iter().map(of).max().unwrap_or(0);
        let method_width = width(|denial| denial.method.len());
        let agent_width = width(|denial| denial.agent.len());
        for denial in self.denials.iter().rev() {
            let Denial {
                time,
                agent,
                request_id,
                method,
                path,
                reason,
                nearest,
            } = denial;
            write!(f, "  {time}  {request_id}  ")?;
            if self.are_several() {
                write!(f, "{agent:agent_width$}  ")?;
            }
            writeln!(f, "{method:method_width$}  {path}  {reason}")?;
            if let Some(nearest) = nearest {
                writeln!(f, "    nearest is {nearest}")?;
            }
        }
        Ok(())
    }

    fn tunnel_text(&self, tunnel: &Tunnel) -> String {
        let state = match &tunnel.state {
            TunnelState::Dialling {
                attempt,
                next_attempt_at: None,
            } => format!("dialling, attempt {attempt}"),
            TunnelState::Dialling {
                attempt,
                next_attempt_at: Some(next),
            } => format!("not connected, {attempt} attempts, next at {next}"),
            TunnelState::Connected { since, node } => {
                let ago = self.ago(since);
                format!("connected to node {node} since {since} ({ago})")
            }
            TunnelState::Closed { since } => format!("closed since {since}"),
        };
        format!("{}  {state}", tunnel.server)
    }

    fn are_several(&self) -> bool {
        self.connections.len() > 1
    }

    /// How long before the snapshot `time` was, or `time` itself where that cannot be told.
    fn ago(&self, time: &str) -> String {
        let parse = |text| humantime::parse_rfc3339(text).ok();
        let passed = parse(self.time.as_str())
            .zip(parse(time))
            .and_then(|(now, then)| now.duration_since(then).ok());
        match passed {
            Some(passed) => {
                let seconds = Duration::from_secs(passed.as_secs());
                format!("{} ago", humantime::format_duration(seconds))
            }
            None => time.to_owned(),
        }
    }
}

/// Which process this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The instance's name.
    pub instance: String,
    /// This process's id, new at each start.
    pub run_id: String,
    /// The program's version.
    pub version: String,
}

/// One agent of this process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionStatus {
    /// The agent's name.
    pub agent: String,
    /// Each tunnel, by place.
    pub tunnels: Vec<Tunnel>,
    /// The accept file in force.
    pub accept: AcceptFile,
    /// What its owner has paused.
    pub paused: Vec<Pause>,
}

impl ConnectionStatus {
    /// One with so many tunnels to `server`, none of them up, and no rules yet.
    #[must_use]
    pub fn new(agent: &AgentName, server: &str, tunnels: u8) -> Self {
        let tunnel = Tunnel {
            server: server.to_owned(),
            state: TunnelState::Dialling {
                attempt: 0,
                next_attempt_at: None,
            },
            last_error: None,
        };
        Self {
            agent: agent.to_string(),
            tunnels: vec![tunnel; tunnels.into()],
            accept: AcceptFile::default(),
            paused: Vec::new(),
        }
    }

    /// How many of its tunnels can take a request.
    #[must_use]
    pub fn connected_tunnels(&self) -> usize {
        let is_up = |tunnel: &&Tunnel| matches!(tunnel.state, TunnelState::Connected { .. });
        self.tunnels.iter().filter(is_up).count()
    }
}

/// One of the places that the agent keeps filled with a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// The server as configured, without userinfo.
    pub server: String,
    /// What it is doing.
    #[serde(flatten)]
    pub state: TunnelState,
    /// Why the last attempt failed or the last tunnel ended.
    pub last_error: Option<NotedFailure>,
}

/// What one tunnel is doing. Times are RFC 3339, UTC.
///
/// ```text
/// Dialling ──▶ Connected ──▶ Closed
///    ▲  │          │           ▲ │
///    │  └──────────┼───────────┘ │
///    └─────────────┴─────────────┘
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum TunnelState {
    /// Being connected, or waiting for the next attempt.
    Dialling {
        /// Attempts since the last tunnel, from 1; 0 before the first.
        attempt: u32,
        /// When it is tried next; `None` while it is being tried.
        next_attempt_at: Option<String>,
    },
    /// Up.
    Connected {
        /// Since when.
        since: String,
        /// The server's node, as it names itself.
        node: String,
    },
    /// Down, and not being dialled.
    Closed {
        /// Since when.
        since: String,
    },
}

/// A text and when it was noted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted {
    /// RFC 3339, UTC.
    pub time: String,
    /// What happened.
    pub text: String,
}

/// Why there is no tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelFailure {
    /// For machines; never changes.
    pub code: &'static str,
    /// What is wrong, and what can be done about it.
    pub text: String,
}

/// Why there was no tunnel, and when that was noted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotedFailure {
    /// RFC 3339, UTC.
    pub time: String,
    /// For machines; never changes.
    pub code: String,
    /// What is wrong, and what can be done about it.
    pub text: String,
}

/// The accept file that decides.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptFile {
    /// The file; `None`: there is none, everything is denied.
    pub path: Option<String>,
    /// SHA-256 of its bytes, in hex.
    pub sha256: Option<String>,
    /// Number of `private` rules.
    pub private_rules: usize,
    /// Number of `public` rules.
    pub public_rules: usize,
    /// When it was read, RFC 3339, UTC.
    pub loaded_at: Option<String>,
    /// Why a newer version of the file is not in force.
    pub refused: Option<Noted>,
}

/// Where a credential comes from, if it can change while the agent runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialSource {
    /// The source, such as `file /run/secrets/token`.
    pub source: String,
    /// Since when it is as it is, RFC 3339, UTC.
    pub since: String,
    /// Why there is no value; requests that need it are refused meanwhile.
    pub failing: Option<String>,
    /// Why it could not be renewed, though what there is can still be used.
    #[serde(default)]
    pub last_error: Option<Noted>,
    /// What the operator should change, though it can be used.
    #[serde(default)]
    pub warning: Option<String>,
}

impl CredentialSource {
    pub(crate) fn new(source: &str, since: SystemTime, failing: Option<&str>) -> Self {
        Self {
            source: printable(source),
            since: rfc3339(since),
            failing: failing.map(printable),
            last_error: None,
            warning: None,
        }
    }

    /// The same, with something that the operator should change.
    pub(crate) fn warned(self, warning: Option<&str>) -> Self {
        Self {
            warning: warning.map(printable),
            ..self
        }
    }

    /// The same, whose renewal failed.
    pub(crate) fn not_renewed(self, at: SystemTime, why: &str) -> Self {
        Self {
            last_error: Some(noted(at, why)),
            ..self
        }
    }
}

/// A request that was not allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    /// RFC 3339, UTC.
    pub time: String,
    /// The agent that was asked for.
    pub agent: String,
    /// The id under which the caller and the audit log know it.
    pub request_id: String,
    /// The method.
    pub method: String,
    /// The path, cut.
    pub path: String,
    /// The stable code of the reason.
    pub reason: String,
    /// The rule that came nearest, and what differed first.
    #[serde(default)]
    pub nearest: Option<String>,
}

/// Where the audit log stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditStatus {
    /// The file, or `stdout`.
    pub log: String,
    /// The last written line's number.
    pub seq: u64,
    /// Why and since when nothing can be written; requests are refused meanwhile.
    pub failing: Option<Noted>,
}

pub(super) fn noted(time: SystemTime, text: &str) -> Noted {
    Noted {
        time: rfc3339(time),
        text: printable(text),
    }
}

/// `text` cut, without what would steer a terminal: servers and callers have a say in it.
pub(super) fn printable(text: &str) -> String {
    let kept = text.char_indices().nth(TEXT);
    match kept.and_then(|(end, _)| text.get(..end)) {
        Some(kept) => escaped(kept) + "…",
        None => escaped(text),
    }
}

/// `text` without what would steer a terminal.
pub(crate) fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

pub(super) fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

pub(crate) fn row(f: &mut fmt::Formatter<'_>, name: &str, value: &str) -> fmt::Result {
    writeln!(f, "{name:12} {value}")
}

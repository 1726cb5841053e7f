//! The lines' fields, all but the three that make the chain.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use accept_rules::{Explanation, RequestTarget};
use broker_protocol::{AgentName, ErrorCode, TenantId};
use http::HeaderName;
use serde::{Serialize, Serializer};

use super::DecisionContext;
use crate::config::Connection;
use crate::pause::Pause;
use crate::rules::Rules;

/// Longest recorded form of a refused target, in bytes; hostile targets must not fill the disk.
const REFUSED_TARGET: usize = 2 * 1024;

/// Longest recorded method, caller and request id, in bytes; they come from the server.
const SHORT_TEXT: usize = 128;

/// Longest recorded error of an accept file, in bytes; it may quote the file.
const RULES_ERROR: usize = 512;

/// What stands in every line of one process.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) instance: String,
    pub(super) run_id: String,
}

impl Identity {
    /// A JSON object without `v`, `seq` and `prev`: those are the chain's, known when it is
    /// written.
    pub(super) fn line(
        &self,
        kind: &'static str,
        time: SystemTime,
        fields: impl Serialize,
    ) -> Vec<u8> {
        let line = Line {
            time,
            kind,
            instance: &self.instance,
            run_id: &self.run_id,
            fields,
        };
        let mut bytes = Vec::with_capacity(640);
        serde_json::to_writer(&mut bytes, &line)
            .expect("records have string keys and a Vec takes all");
        bytes
    }
}

#[derive(Serialize)]
struct Line<'a, F> {
    #[serde(serialize_with = "rfc3339")]
    time: SystemTime,
    kind: &'static str,
    instance: &'a str,
    run_id: &'a str,
    #[serde(flatten)]
    fields: F,
}

/// What one connection of the agent begins with.
#[derive(Debug, Clone, Serialize)]
pub struct ConnectionStart {
    /// The agent's name.
    #[serde(serialize_with = "as_text")]
    pub agent: AgentName,
    /// SHA-256 of the accept file in force, in hex; `None` where there is none.
    pub accept_sha256: Option<String>,
}

impl ConnectionStart {
    pub(crate) fn of(connection: &Connection, rules: &Rules) -> Self {
        Self {
            agent: connection.agent.clone(),
            accept_sha256: rules.sha256().map(str::to_owned),
        }
    }
}

/// `start`: a process begins to write.
#[derive(Serialize)]
pub(super) struct StartRecord<'a> {
    pub(super) version: &'a str,
    pub(super) connections: &'a [ConnectionStart],
    /// The chain begins here: there was no file, or an empty one.
    pub(super) new_chain: bool,
}

/// `rules-loaded`: another accept file decides from here on.
#[derive(Debug, Serialize)]
pub struct RulesLoaded<'a> {
    /// The agent whose file it is.
    #[serde(serialize_with = "as_text")]
    pub agent: &'a AgentName,
    /// The file.
    #[serde(serialize_with = "shown")]
    pub path: &'a Path,
    /// SHA-256 of its bytes, in hex.
    pub sha256: &'a str,
    /// Number of `private` rules.
    pub private_rules: usize,
    /// Number of `public` rules.
    pub public_rules: usize,
    /// SHA-256 of the file that decided until now, in hex.
    pub previous_sha256: Option<&'a str>,
}

/// `rules-refused`: the accept file is not what decides, and cannot be.
#[derive(Debug, Serialize)]
pub struct RulesRefused<'a> {
    /// The agent whose file it is.
    #[serde(serialize_with = "as_text")]
    pub agent: &'a AgentName,
    /// The file.
    #[serde(serialize_with = "shown")]
    pub path: &'a Path,
    /// SHA-256 of its bytes, in hex; `None` where it cannot be read.
    pub sha256: Option<&'a str>,
    /// The first thing that is wrong with it; recorded up to 512 bytes.
    #[serde(serialize_with = "rules_error")]
    pub error: &'a str,
    /// SHA-256 of the file that goes on to decide, in hex.
    pub in_force_sha256: Option<&'a str>,
}

/// `paused`: nothing passes from here on, or nothing by one rule.
#[derive(Debug, Serialize)]
pub struct Paused<'a> {
    agent: &'a str,
    rule: Option<usize>,
    accept_sha256: Option<&'a str>,
    reason: &'a str,
    #[serde(with = "crate::pause::rfc3339::optional")]
    until: Option<SystemTime>,
    cause: PauseCause,
    uid: Option<u32>,
}

impl<'a> Paused<'a> {
    /// The record of `pause`.
    #[must_use]
    pub fn of(pause: &'a Pause, cause: PauseCause) -> Self {
        Self {
            agent: &pause.agent,
            rule: pause.rule,
            accept_sha256: pause.accept_sha256.as_deref(),
            reason: &pause.reason,
            until: pause.until,
            cause,
            uid: pause.uid,
        }
    }
}

/// `resumed`: a pause is over.
#[derive(Debug, Serialize)]
pub struct Resumed<'a> {
    agent: &'a str,
    rule: Option<usize>,
    accept_sha256: Option<&'a str>,
    reason: &'a str,
    cause: PauseCause,
    uid: Option<u32>,
}

impl<'a> Resumed<'a> {
    /// The record that `pause` ends.
    #[must_use]
    pub fn of(pause: &'a Pause, cause: PauseCause, uid: Option<u32>) -> Self {
        Self {
            agent: &pause.agent,
            rule: pause.rule,
            accept_sha256: pause.accept_sha256.as_deref(),
            reason: &pause.reason,
            cause,
            uid,
        }
    }
}

/// Who or what pauses or resumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PauseCause {
    /// `broker-client pause` or `resume`.
    Command,
    /// `paused` in the settings.
    Settings,
    /// What was paused before cannot be told.
    StateUnreadable,
    /// The pause had an end.
    Expired,
    /// It had been resumed, and that could not be saved.
    Unsaved,
}

impl Serialize for PauseCause {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl PauseCause {
    /// Its code.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Settings => "settings",
            Self::StateUnreadable => "state-unreadable",
            Self::Expired => "expired",
            Self::Unsaved => "unsaved",
        }
    }
}

/// `stop`: a process ended in order, every outcome is written.
#[derive(Serialize)]
pub(super) struct StopRecord {}

/// `recovered`: the lines right before this one were cut off by a crash or a full disk.
#[derive(Serialize)]
pub(super) struct RecoveredRecord {
    pub(super) lines: u64,
    pub(super) bytes: u64,
}

/// `reopened`: the file was not as this process had left it.
#[derive(Serialize)]
pub(super) struct ReopenedRecord {
    pub(super) found: super::sink::Found,
}

/// The verdict of a decision.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    Allow,
    Deny,
}

/// What was asked and how it was decided.
#[derive(Debug)]
pub(super) struct DecisionFields<'a> {
    /// Empty where the server names none.
    pub(super) caller: &'a str,
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    /// Names of the query's parameters, never their values.
    pub(super) query: Vec<&'a str>,
    pub(super) rule: Option<usize>,
    pub(super) verdict: Verdict,
    pub(super) reason: &'a str,
    /// The header for which it was refused.
    pub(super) header: Option<&'a HeaderName>,
    pub(super) origin: Option<&'a str>,
    /// The rule that came nearest to a denied request.
    pub(super) nearest: Option<&'a Explanation>,
}

impl<'a> DecisionFields<'a> {
    /// The target's part; denied until a rule says otherwise.
    pub(super) fn of(target: &'a RequestTarget, caller: &'a str) -> Self {
        Self {
            caller,
            method: target.method().as_str(),
            path: target.path(),
            query: target.query_names(),
            rule: None,
            verdict: Verdict::Deny,
            reason: "",
            header: None,
            origin: None,
            nearest: None,
        }
    }
}

/// `decision`: what was asked, and the verdict.
#[derive(Serialize)]
pub(super) struct DecisionRecord<'a> {
    request_id: &'a str,
    tenant: Option<&'a str>,
    agent: &'a str,
    caller: Option<&'a str>,
    method: &'a str,
    path: &'a str,
    query: Vec<&'a str>,
    list: &'static str,
    rule: Option<usize>,
    verdict: Verdict,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<&'a str>,
    origin: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nearest: Option<&'a Explanation>,
}

impl<'a> DecisionRecord<'a> {
    pub(super) fn new(fields: DecisionFields<'a>, context: &'a DecisionContext) -> Self {
        Self {
            request_id: cut(&context.request_id, SHORT_TEXT),
            tenant: context.tenant.as_ref().map(TenantId::as_str),
            agent: context.agent.as_str(),
            caller: Some(cut(fields.caller, SHORT_TEXT)).filter(|caller| !caller.is_empty()),
            method: cut(fields.method, SHORT_TEXT),
            path: fields.path,
            query: fields.query,
            list: "private",
            rule: fields.rule,
            verdict: fields.verdict,
            reason: fields.reason,
            header: fields.header.map(HeaderName::as_str),
            origin: fields.origin,
            nearest: fields.nearest,
        }
    }
}

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// The whole answer went into the tunnel.
    Complete,
    /// The stream ended before its answer did. Most callers do that by going away; a tunnel that is lost, a reader
    /// that stalls and a cut at the agent's end look the same from within the exchange.
    CallerGone,
    /// The origin could not be reached, or broke off or broke HTTP.
    OriginFailed,
    /// The origin or the caller took longer than the limits allow.
    TimedOut,
    /// The answer was longer than may pass.
    TooLong,
    /// Nothing was sent to the origin.
    NotSent,
    /// The answer held the injected credential, and was cut off.
    SecretEcho,
    /// The agent's owner paused it, or the rule.
    Paused,
}

/// Whether the body of an answer held the injected credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecretEcho {
    /// What passed of it did not.
    None,
    /// It did.
    Found,
    /// Nobody can say.
    Unscanned,
}

/// Why a body is not looked at for the injected credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unscanned {
    /// It has a content coding.
    Compressed,
    /// It is no text, or not in a coding that has ASCII in it.
    Binary,
    /// The credential signed the request, and was not sent itself.
    Signature,
    /// The credential is so short that it would be found by chance.
    ShortCredential,
}

/// What is known of an exchange after its decision; names, numbers and codes only.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// The origin's status; `None` where it gave none.
    pub status: Option<u16>,
    /// Body bytes from the caller to the origin.
    pub bytes_up: u64,
    /// Body bytes from the origin to the caller.
    pub bytes_down: u64,
    /// How it ended; [`OutcomeSlot::finish`](super::OutcomeSlot::finish) sets it.
    pub(super) ended: Ended,
    /// The failure that the caller saw.
    #[serde(serialize_with = "code")]
    pub error: Option<ErrorCode>,
    /// Names of the headers removed on the way to the origin.
    #[serde(serialize_with = "names")]
    pub removed_request_headers: Vec<HeaderName>,
    /// Names of the headers removed on the way back.
    #[serde(serialize_with = "names")]
    pub removed_response_headers: Vec<HeaderName>,
    /// Names of the headers and trailers in which the credential came back, and was masked.
    #[serde(serialize_with = "names")]
    pub masked_response_headers: Vec<HeaderName>,
    /// Whether it came back in the body; `None` where none was injected.
    pub secret_echo: Option<SecretEcho>,
    /// Why nobody looked.
    pub unscanned: Option<Unscanned>,
    /// Which of `location` and `content-location` passed unchanged although they point elsewhere.
    #[serde(serialize_with = "names")]
    pub location_passed: Vec<HeaderName>,
    /// The agent put its own credential in.
    pub injected: bool,
    /// What tells that credential's version from others, in hex; a keyed hash.
    pub credential: Option<String>,
    /// The origin answered 401, and the request was sent once more with a newer version of the credential.
    pub renewed: bool,
    /// The request was sent a second time, on a fresh connection.
    pub retried: bool,
}

impl Outcome {
    pub(super) fn not_sent() -> Self {
        Self {
            status: None,
            bytes_up: 0,
            bytes_down: 0,
            ended: Ended::NotSent,
            error: None,
            removed_request_headers: Vec::new(),
            removed_response_headers: Vec::new(),
            masked_response_headers: Vec::new(),
            secret_echo: None,
            unscanned: None,
            location_passed: Vec::new(),
            injected: false,
            credential: None,
            renewed: false,
            retried: false,
        }
    }
}

/// `outcome`: how an allowed request ended.
#[derive(Serialize)]
pub(super) struct OutcomeRecord<'a> {
    request_id: &'a str,
    duration_ms: f64,
    #[serde(flatten)]
    outcome: &'a Outcome,
    agent: &'a str,
}

impl<'a> OutcomeRecord<'a> {
    pub(super) fn new(
        request_id: &'a Arc<str>,
        agent: &'a AgentName,
        outcome: &'a Outcome,
        duration: Duration,
    ) -> Self {
        Self {
            request_id: cut(request_id, SHORT_TEXT),
            duration_ms: (duration.as_secs_f64() * 1e6).round() / 1e3,
            outcome,
            agent: agent.as_str(),
        }
    }
}

/// A refused target as it may be recorded: its path, escaped and cut, and the names in its query.
///
/// It was refused because nobody can say for sure what it means, so only what cannot hold a
/// credential is kept: no query value, and no userinfo of an absolute or authority form.
pub(super) fn refused_target(raw: &[u8]) -> (String, Vec<String>) {
    let raw = raw.split(|&byte| byte == b'#').next().unwrap_or_default();
    let (path, query) = split_at_first(raw, b'?');

    let mut shown = String::new();
    let path = if path.starts_with(b"/") {
        path
    } else {
        let (scheme, rest) = match path.windows(3).position(|three| three == b"://") {
            Some(at) => path.split_at(at + 3),
            None => (Default::default(), path),
        };
        let authority = rest.split(|&byte| byte == b'/').next().unwrap_or_default();
        escape(scheme, &mut shown);
        match authority.iter().rposition(|&byte| byte == b'@') {
            Some(at) => {
                shown.push_str("***");
                rest.split_at(at).1
            }
            None => rest,
        }
    };
    escape(path, &mut shown);

    let mut room = REFUSED_TARGET;
    let names = query
        .unwrap_or_default()
        .split(|&byte| byte == b'&')
        .map(|pair| split_at_first(pair, b'=').0)
        .filter(|name| !name.is_empty())
        .map_while(|name| {
            let mut shown = String::new();
            escape(name, &mut shown);
            room = room.checked_sub(shown.len())?;
            Some(shown)
        })
        .collect();
    (shown, names)
}

fn split_at_first(bytes: &[u8], separator: u8) -> (&[u8], Option<&[u8]>) {
    let mut parts = bytes.splitn(2, |&byte| byte == separator);
    (parts.next().unwrap_or_default(), parts.next())
}

/// Appends `bytes` as printable ASCII (`\xNN` and `\\` for the rest), up to the limit; a cut text
/// ends in `…`, which no escaped text holds.
fn escape(bytes: &[u8], out: &mut String) {
    for &byte in bytes {
        let start = out.len();
        match byte {
            b'\\' => out.push_str("\\\\"),
            b' '..=b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("\\x{byte:02x}")),
        }
        if out.len() > REFUSED_TARGET {
            out.truncate(start);
            out.push('…');
            return;
        }
    }
}

fn cut(text: &str, limit: usize) -> &str {
    text.get(..text.floor_char_boundary(limit))
        .unwrap_or_default()
}

fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_millis(*time))
}

fn as_text<S: Serializer>(name: &AgentName, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(name.as_str())
}

fn shown<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

fn rules_error<S: Serializer>(error: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(cut(error, RULES_ERROR))
}

fn code<S: Serializer>(code: &Option<ErrorCode>, serializer: S) -> Result<S::Ok, S::Error> {
    code.map(ErrorCode::as_str).serialize(serializer)
}

fn names<S: Serializer>(names: &[HeaderName], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(names.iter().map(HeaderName::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_names_the_code_that_the_caller_saw() {
        let outcome = Outcome {
            error: Some(ErrorCode::OriginTimeout),
            ..Outcome::not_sent()
        };
        let record = serde_json::to_value(outcome).unwrap();
        assert_eq!(record["error"], "origin-timeout");
    }

    #[test]
    fn a_refused_target_is_escaped() {
        let (path, _) = refused_target(b"/a\\..\x00\xff\"b\n");
        assert_eq!(path, r#"/a\\..\x00\xff"b\x0a"#);
    }

    #[test]
    fn a_refused_target_is_cut_at_2_kib_of_its_escaped_form() {
        let long = [b"/".as_slice(), &[0; 4096]].concat();
        let (path, _) = refused_target(&long);
        let text = path.strip_suffix('…').unwrap();
        assert_eq!(text.len(), 1 + (REFUSED_TARGET - 1) / 4 * 4);

        let exact = "/".repeat(REFUSED_TARGET);
        assert_eq!(refused_target(exact.as_bytes()).0, exact);
    }

    #[test]
    fn a_refused_target_keeps_names_of_the_query_and_no_value() {
        let (path, names) = refused_target(b"/%2e?token=canary&x\\=%zz&&flag#canary");
        assert_eq!(path, "/%2e");
        assert_eq!(names, ["token", "x\\\\", "flag"]);
    }

    #[test]
    fn a_refused_target_loses_its_userinfo() {
        for (raw, shown) in [
            ("http://user:canary@host/a@b", "http://***@host/a@b"),
            ("user:canary@host:443", "***@host:443"),
            ("http://a@canary@host", "http://***@host"),
            ("/a@b", "/a@b"),
            ("*", "*"),
        ] {
            assert_eq!(refused_target(raw.as_bytes()).0, shown);
        }
    }
}

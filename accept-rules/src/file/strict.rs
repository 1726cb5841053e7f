//! Rules of version 2.

use std::str::FromStr;
use std::time::{Duration, SystemTime};

use http::HeaderName;
use http::header::AUTHORIZATION;

use super::path_rule::PATH_KEYS;
use super::reader::{all, comment, field_kind, find};
use super::{Entries, Problem, RuleReader};
use crate::document::Node;
use crate::limits::{RequestLimits, RuleLimits};
use crate::rule::{Rule, RuleTimeouts};

/// Keys of every rule.
pub(super) const SHARED_KEYS: &[&str] = &[
    "kind",
    "origin",
    "auth",
    "callers",
    "callers-signed",
    "expires",
    "timeout",
    "limits",
    "upgrade",
    "keep-cookies",
    "allow-headers",
];
/// Keys of a rule about a Kubernetes API.
pub(super) const KUBERNETES_KEYS: &[&str] = &["verbs", "resources", "namespaces", "names"];
pub(super) const TIMEOUT_KEYS: &[&str] = &["connect", "first-byte", "idle"];
pub(super) const LIMIT_KEYS: &[&str] = &["rate", "concurrency", "response-size", "per-caller"];
pub(super) const REQUEST_LIMIT_KEYS: &[&str] = &["rate", "concurrency"];
const UPGRADES: &[&str] = &["websocket", "spdy"];

/// What `expires` gives its rule until: the end of that day.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Longest time-out: the settings' own.
const MAX_TIMEOUT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Longest name of a caller, in bytes: the server's own limit.
const MAX_CALLER_LEN: usize = 63;

/// What a rule of version 2 is about.
#[derive(Clone, Copy)]
enum Kind {
    Path,
    Kubernetes,
}

impl RuleReader<'_> {
    /// Reads a rule of version 2. Where something is wrong with an optional part, what is returned
    /// does not matter: the file is refused.
    pub(super) fn read_strict(&mut self, entries: &Entries) -> Option<Rule> {
        let kind = self.read_kind(entries)?;
        let own_keys = match kind {
            Kind::Path => PATH_KEYS,
            Kind::Kubernetes => KUBERNETES_KEYS,
        };
        self.refuse_unknown_keys(entries, &[SHARED_KEYS, own_keys].concat());
        self.refuse_not_enforced(entries);
        let matched = match kind {
            Kind::Path => self.read_path_rule(entries),
            Kind::Kubernetes => self.read_kubernetes(entries),
        };
        let auth = self.read_auth(entries);
        let callers = self.read_callers(entries);
        let expires = self.read_expires(entries);
        let timeouts = self.read_timeouts(entries);
        let limits = self.read_limits(entries);
        let keep_cookies = self.flag(entries, "keep-cookies");
        let allow_headers = self.read_allow_headers(entries);
        let (origin, userinfo) = self.read_origin(entries)?;
        let matched = matched?;
        Some(Rule {
            comment: comment(entries),
            methods: matched.methods,
            path: matched.path,
            pattern: matched.pattern,
            conditions: matched.conditions,
            origin,
            auth: auth.or(userinfo),
            encoded_slash: matched.encoded_slash,
            encoded_unreserved: matched.encoded_unreserved,
            callers,
            expires,
            timeouts,
            limits,
            keep_cookies,
            allow_headers,
            disabled: false,
        })
    }

    fn read_kind(&mut self, entries: &Entries) -> Option<Kind> {
        let Some(value) = find(entries, "kind") else {
            return Some(Kind::Path);
        };
        match self.text("kind", value)? {
            "kubernetes" => Some(Kind::Kubernetes),
            other => {
                let write = "\"kubernetes\", or leave the key out for a rule about a path";
                self.refuse_value("kind", other, write, &["kubernetes"]);
                None
            }
        }
    }

    fn read_callers(&mut self, entries: &Entries) -> Option<Box<[Box<str>]>> {
        let names = self.some_texts("callers", find(entries, "callers")?)?;
        let is_in_name = |b: &u8| b.is_ascii_alphanumeric() || b"._-".contains(b);
        let is_name = |name: &str| {
            name.len() <= MAX_CALLER_LEN
                && name.starts_with(|c: char| c.is_ascii_alphanumeric())
                && name.as_bytes().iter().all(is_in_name)
        };
        let write = "the name of a caller, of letters, digits, \".\", \"_\" and \"-\"";
        all(names.into_iter().map(|name| {
            if !is_name(name) {
                self.refuse_value("callers", name, write, &[]);
            }
            Some(name.to_ascii_lowercase().into())
        }))
    }

    fn read_expires(&mut self, entries: &Entries) -> Option<SystemTime> {
        let text = self.text("expires", find(entries, "expires")?)?;
        let end = parse_expiry(text);
        if end.is_none() {
            let write = "a day such as \"2027-01-31\", or a time in UTC such as \
                         \"2027-01-31T18:00:00Z\"";
            self.refuse_value("expires", text, write, &[]);
        }
        end
    }

    fn read_timeouts(&mut self, entries: &Entries) -> RuleTimeouts {
        let mut timeouts = RuleTimeouts::default();
        let fields = find(entries, "timeout").and_then(|value| {
            let expected = "an object with \"connect\", \"first-byte\" or \"idle\"";
            self.fields("timeout", expected, value, TIMEOUT_KEYS)
        });
        if let Some(fields) = fields {
            timeouts.connect = self.read_timeout(fields, "connect");
            timeouts.first_byte = self.read_timeout(fields, "first-byte");
            timeouts.idle = self.read_timeout(fields, "idle");
        }
        timeouts
    }

    fn read_timeout(&mut self, fields: &Entries, field: &'static str) -> Option<Duration> {
        let text = self.text(field, find(fields, field)?)?;
        match humantime::parse_duration(text) {
            Ok(time) if !time.is_zero() && time <= MAX_TIMEOUT => Some(time),
            Ok(_) | Err(_) => {
                let write = "a time such as 500ms, 30s or 5m, of at most 30 days";
                self.refuse_value(field, text, write, &[]);
                None
            }
        }
    }

    fn read_allow_headers(&mut self, entries: &Entries) -> Box<[HeaderName]> {
        let names = find(entries, "allow-headers")
            .and_then(|value| self.some_texts("allow-headers", value))
            .unwrap_or_default();
        let headers = names.into_iter().filter_map(|name| {
            let header = self.header_name(name)?;
            if header == AUTHORIZATION {
                let write = "none that \"auth\" replaces";
                self.refuse_value("allow-headers", name, write, &[]);
            }
            Some(header)
        });
        headers.collect()
    }

    fn flag(&mut self, entries: &Entries, field: &'static str) -> bool {
        match find(entries, field) {
            None => false,
            Some(Node::Boolean(flag)) => *flag,
            Some(other) => {
                self.refuse(field_kind(field, "true or false", other));
                false
            }
        }
    }

    /// Keys that have a form already, so that a file is refused for what is wrong in it at once.
    fn refuse_not_enforced(&mut self, entries: &Entries) {
        if find(entries, "callers-signed").is_some() {
            self.flag(entries, "callers-signed");
            let instead = "use \"callers\", which trusts the server's word for who asks";
            self.refuse(Problem::NotEnforced {
                key: "callers-signed",
                instead,
            });
        }
        if let Some(value) = find(entries, "upgrade") {
            for found in self.some_texts("upgrade", value).unwrap_or_default() {
                if !UPGRADES.contains(&found) {
                    self.refuse_value("upgrade", found, "\"websocket\" or \"spdy\"", UPGRADES);
                }
            }
            let instead = "leave the rule to requests that do not switch protocols";
            self.refuse(Problem::NotEnforced {
                key: "upgrade",
                instead,
            });
        }
    }

    fn read_limits(&mut self, entries: &Entries) -> RuleLimits {
        let mut limits = RuleLimits::default();
        let fields = find(entries, "limits").and_then(|value| {
            let expected =
                "an object with \"rate\", \"concurrency\", \"response-size\" or \"per-caller\"";
            self.fields("limits", expected, value, LIMIT_KEYS)
        });
        let Some(fields) = fields else {
            return limits;
        };
        limits.together = self.read_request_limits(fields);
        limits.response_size = self.read_count(fields, "response-size");
        if let Some(value) = find(fields, "per-caller") {
            let expected = "an object with \"rate\" or \"concurrency\"";
            let fields = self.fields("per-caller", expected, value, REQUEST_LIMIT_KEYS);
            limits.per_caller =
                fields.map_or_else(Default::default, |fields| self.read_request_limits(fields));
        }
        limits
    }

    fn read_request_limits(&mut self, fields: &Entries) -> RequestLimits {
        let rate = find(fields, "rate").and_then(|value| {
            let text = self.text("rate", value)?;
            let rate = text.parse();
            if rate.is_err() {
                self.refuse_value("rate", text, "a number and a time such as \"100/m\"", &[]);
            }
            rate.ok()
        });
        RequestLimits {
            rate,
            concurrency: self.read_count(fields, "concurrency"),
        }
    }

    fn read_count<N: FromStr>(&mut self, fields: &Entries, field: &'static str) -> Option<N> {
        let value = find(fields, field)?;
        let count = match value {
            Node::Number(text) => text.parse().ok(),
            Node::Null | Node::Boolean(_) | Node::Text(_) | Node::List(_) | Node::Map(_) => None,
        };
        if count.is_none() {
            self.refuse(field_kind(field, "a whole number, at least 1", value));
        }
        count
    }
}

/// A day, until its end, or a time; in UTC (RFC 3339 §5.6).
fn parse_expiry(text: &str) -> Option<SystemTime> {
    if text.contains('T') {
        return humantime::parse_rfc3339(text).ok();
    }
    let start = humantime::parse_rfc3339(&format!("{text}T00:00:00Z")).ok()?;
    start.checked_add(DAY)
}

#[cfg(test)]
mod tests;

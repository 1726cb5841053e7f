//! Rules of the form without a version.

use http::Method;

use super::reader::{comment, find};
use super::{Entries, Problem, RuleReader};
use crate::limits::RuleLimits;
use crate::path_pattern::PathPattern;
use crate::rule::{EncodedSlash, EncodedUnreserved, Methods, Pattern, Rule, RuleTimeouts};

pub(super) const RULE_KEYS: &[&str] = &["method", "path", "origin", "auth", "valid", "stream"];

/// Keys with a meaning elsewhere that is not enforced here: to ignore them would allow more.
const UNSUPPORTED_RULE_KEYS: &[&str] = &["headers", "requiredCapabilities"];

impl RuleReader<'_> {
    pub(super) fn read_unversioned(&mut self, entries: &Entries) -> Option<Rule> {
        self.check_keys(entries);
        let methods = self.read_method(entries);
        let path = self.read_path(entries);
        let conditions = self.read_valid(entries);
        let auth = self.read_auth(entries);
        let (origin, userinfo) = self.read_origin(entries)?;
        let (path, pattern) = path?;
        Some(Rule {
            comment: comment(entries),
            methods: methods?,
            path,
            pattern: Pattern::PathToRegexp(pattern),
            conditions: conditions?,
            origin,
            auth: auth.or(userinfo),
            encoded_slash: EncodedSlash::Data,
            encoded_unreserved: EncodedUnreserved::Data,
            callers: None,
            expires: None,
            timeouts: RuleTimeouts::default(),
            limits: RuleLimits::default(),
            keep_cookies: false,
            allow_headers: Box::default(),
            disabled: false,
        })
    }

    fn check_keys(&mut self, entries: &Entries) {
        for (key, _) in entries {
            if let Some(key) = UNSUPPORTED_RULE_KEYS.iter().find(|known| *known == key) {
                self.refuse(Problem::UnsupportedKey { key });
            } else if key != "//" && !RULE_KEYS.contains(&key.as_str()) {
                self.unknown_key(key, RULE_KEYS);
            }
        }
    }

    fn read_method(&mut self, entries: &Entries) -> Option<Methods> {
        let Some(value) = find(entries, "method") else {
            return Some(Methods::Only([Method::GET].into()));
        };
        let text = self.text("method", value)?;
        if text.eq_ignore_ascii_case("any") {
            return Some(Methods::Any);
        }
        self.method(text)
            .map(|method| Methods::Only([method].into()))
    }

    fn read_path(&mut self, entries: &Entries) -> Option<(Box<str>, PathPattern)> {
        let text = match find(entries, "path") {
            Some(value) => self.text("path", value)?,
            None => "",
        };
        let path = if text.starts_with('/') {
            text.to_owned()
        } else {
            format!("/{text}")
        };
        let pattern = self.path_pattern("path", &path)?;
        Some((path.into(), pattern))
    }
}

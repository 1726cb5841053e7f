//! Where a rule leads, and what it puts in there.

use super::error::nearest;
use super::reader::{field_kind, find, report_duplicates};
use super::{Entries, Problem, RuleReader};
use crate::document::Node;
use crate::origin::{OriginTemplate, split_userinfo};
use crate::rule::{Auth, List, SigV4};
use crate::template::{Template, is_name};

pub(super) const AUTH_KEYS: &[&str] = &[
    "scheme", "token", "username", "password", "aws", "service", "region",
];
/// Those of the scheme `sigv4`, and of all others.
const SIGV4_KEYS: &[&str] = &["aws", "service", "region"];
const TOKEN_KEYS: &[&str] = &["token", "username", "password"];
pub(super) const AUTH_SCHEMES: &[&str] = &["token", "bearer", "basic", "raw", "sigv4"];
/// Whose keys sign where a rule does not say.
const DEFAULT_AWS: &str = "default";

impl RuleReader<'_> {
    pub(super) fn read_origin(
        &mut self,
        entries: &Entries,
    ) -> Option<(Option<OriginTemplate>, Option<Auth>)> {
        let text = match find(entries, "origin") {
            Some(value) => self.text("origin", value)?,
            None => "",
        };
        match (text, self.list) {
            ("", List::Public) => return Some((None, None)),
            ("", List::Private) => {
                self.refuse(Problem::MissingOrigin);
                return None;
            }
            _ => {}
        }
        let (userinfo, rest) = split_userinfo(text);
        let auth = userinfo.map(|userinfo| self.read_userinfo(userinfo));
        match OriginTemplate::parse(&rest) {
            Ok(origin) => Some((
                Some(origin),
                auth.map_or(Some(None), |auth| auth.map(Some))?,
            )),
            Err(error) => {
                self.refuse(Problem::Origin(error));
                None
            }
        }
    }

    fn read_userinfo(&mut self, userinfo: &str) -> Option<Auth> {
        if userinfo.is_empty() {
            self.refuse(Problem::EmptyUserinfo);
            return None;
        }
        let userinfo = self.template("origin", userinfo)?;
        Some(match userinfo.split_once(':') {
            Some((username, password)) => Auth::UserinfoBasic { username, password },
            None => Auth::Userinfo(userinfo),
        })
    }

    pub(super) fn read_auth(&mut self, entries: &Entries) -> Option<Auth> {
        let value = find(entries, "auth")?;
        let Node::Map(fields) = value else {
            self.refuse(field_kind("auth", "an object", value));
            return None;
        };
        report_duplicates(fields, self.place(), &mut self.findings.errors);
        for (key, _) in fields {
            if key != "//" && !AUTH_KEYS.contains(&key.as_str()) {
                self.unknown_key(key, AUTH_KEYS);
            }
        }
        let scheme = self.read_scheme(fields)?;
        let has = |keys: &[&str]| keys.iter().any(|key| find(fields, key).is_some());
        let is_mixed = has(if scheme == "sigv4" {
            TOKEN_KEYS
        } else {
            SIGV4_KEYS
        });
        let token = self.credential(fields, "token");
        let username = self.credential(fields, "username");
        let password = self.credential(fields, "password");
        match (scheme, token, username, password) {
            _ if is_mixed => {}
            ("token", Some(token), None, None) => return Some(Auth::Token(token?)),
            ("bearer", Some(token), None, None) => return Some(Auth::Bearer(token?)),
            ("raw", Some(token), None, None) => return Some(Auth::Raw(token?)),
            ("basic", Some(token), None, None) => return Some(Auth::BasicToken(token?)),
            ("basic", None, Some(username), Some(password)) => {
                return Some(Auth::Basic {
                    username: username?,
                    password: password?,
                });
            }
            ("sigv4", ..) if has(&["service"]) => return self.read_sigv4(fields).map(Auth::SigV4),
            _ => {}
        }
        let needs = match scheme {
            "basic" => "either \"token\" or both \"username\" and \"password\"",
            "sigv4" => "\"service\", and may have \"aws\" and \"region\" beside it",
            _ => "\"token\" and nothing else",
        };
        self.refuse(Problem::AuthFields { scheme, needs });
        None
    }

    fn read_sigv4(&mut self, fields: &Entries) -> Option<SigV4> {
        let mut word = |field: &'static str| {
            let Some(value) = find(fields, field) else {
                return Some(None);
            };
            let text = self.text(field, value)?;
            if !is_name(text) {
                self.refuse(Problem::NoWord { field });
                return None;
            }
            Some(Some(Box::<str>::from(text)))
        };
        let (aws, service, region) = (word("aws"), word("service"), word("region"));
        Some(SigV4 {
            aws: aws?.unwrap_or_else(|| DEFAULT_AWS.into()),
            service: service??,
            region: region?,
        })
    }

    fn read_scheme(&mut self, fields: &Entries) -> Option<&'static str> {
        let text = match find(fields, "scheme") {
            Some(value) => self.text("scheme", value)?,
            None => "",
        };
        let known = AUTH_SCHEMES.iter().find(|known| **known == text).copied();
        if known.is_none() {
            let suggestion = nearest(text, AUTH_SCHEMES);
            self.refuse(Problem::UnknownScheme {
                found: text.to_owned(),
                suggestion,
            });
        }
        known
    }

    /// `None` where the field is missing, `Some(None)` where it is refused.
    fn credential(&mut self, fields: &Entries, field: &'static str) -> Option<Option<Template>> {
        let value = find(fields, field)?;
        Some(
            self.text(field, value)
                .and_then(|text| self.template(field, text)),
        )
    }

    fn template(&mut self, field: &'static str, text: &str) -> Option<Template> {
        Template::parse(text)
            .map_err(|error| self.refuse(Problem::Credential { field, error }))
            .ok()
    }
}

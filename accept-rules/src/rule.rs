//! A rule: what it matches, where that goes, and the credential that is put in.

use std::fmt;

use http::Method;

use crate::origin::OriginTemplate;
use crate::path_pattern::PathPattern;
use crate::target::{RequestTarget, has_parameters};
use crate::template::Template;

/// Which list of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum List {
    /// What callers may ask of origins.
    Private,
    /// What local applications may send towards the server.
    Public,
}

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Private => "private",
            Self::Public => "public",
        })
    }
}

/// One rule: what it matches, where that goes, and the credential that is put in.
#[derive(Clone, Debug)]
pub struct Rule {
    pub(crate) method: Option<Method>,
    pub(crate) path: Box<str>,
    pub(crate) pattern: PathPattern,
    pub(crate) origin: Option<OriginTemplate>,
    pub(crate) auth: Option<Auth>,
    pub(crate) encoded_slash: EncodedSlash,
}

impl Rule {
    /// The method that it matches; none for `any`, which is every one but `CONNECT` and `TRACE`.
    pub fn method(&self) -> Option<&Method> {
        self.method.as_ref()
    }

    /// The path as written, with a leading `/`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The origin as written, without userinfo; always there in a private rule.
    pub fn origin(&self) -> Option<&OriginTemplate> {
        self.origin.as_ref()
    }

    /// The credential; none leaves the caller's own.
    pub fn auth(&self) -> Option<&Auth> {
        self.auth.as_ref()
    }

    pub(crate) fn matches(&self, target: &RequestTarget) -> bool {
        let method = target.method();
        let method_matches = match &self.method {
            Some(own) => own == method,
            None => *method != Method::CONNECT && *method != Method::TRACE,
        };
        let slash_is_data = match self.encoded_slash {
            EncodedSlash::Data => true,
            EncodedSlash::Refuse => !target.has_encoded_slash(),
        };
        method_matches && slash_is_data && self.matches_path(target)
    }

    /// Whether the path matches, also as it reads without `;parameters`: `/*.tf` does not mean `/secrets.env;.tf`.
    /// A rule that writes parameters itself means them.
    fn matches_path(&self, target: &RequestTarget) -> bool {
        self.pattern.matches(target.path())
            && (has_parameters(&self.path)
                || target
                    .path_without_parameters()
                    .is_none_or(|path| self.pattern.matches(path)))
    }
}

/// What a `%2F` in a request's path is to an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodedSlash {
    /// Part of a segment, as rules read it.
    Data,
    /// A separator, for an origin that routes on the decoded path: no rule matches such a path.
    Refuse,
}

/// The position of a rule in its list, from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleIndex(pub(crate) usize);

impl RuleIndex {
    /// The position as a number, for [`RuleSet::rules`](crate::RuleSet::rules).
    pub fn as_usize(self) -> usize {
        self.0
    }
}

impl fmt::Display for RuleIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The credential that a rule puts in, not expanded yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    /// `authorization: Token <token>`.
    Token(Template),
    /// `authorization: Bearer <token>`.
    Bearer(Template),
    /// `authorization: Basic <base64 of the token>`.
    BasicToken(Template),
    /// `authorization: Basic <base64 of username:password>`.
    Basic {
        /// The part before the colon.
        username: Template,
        /// The part after it.
        password: Template,
    },
    /// `authorization: <token>`.
    Raw(Template),
    /// From an origin's userinfo without colon: `authorization: token <text>`, in lower case.
    Userinfo(Template),
    /// From an origin's userinfo with a colon: as `Basic`, but percent-encoded like all userinfo
    /// (RFC 3986 §3.2.1), so decoded after expansion.
    UserinfoBasic {
        /// The part before the first colon.
        username: Template,
        /// The part after it.
        password: Template,
    },
}

impl Auth {
    /// The names of its variables.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        let (first, second) = match self {
            Self::Token(text)
            | Self::Bearer(text)
            | Self::BasicToken(text)
            | Self::Raw(text)
            | Self::Userinfo(text) => (text, None),
            Self::Basic { username, password } | Self::UserinfoBasic { username, password } => {
                (username, Some(password))
            }
        };
        first
            .variables()
            .chain(second.into_iter().flat_map(Template::variables))
    }
}

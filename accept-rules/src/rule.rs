//! A rule: what it matches, where that goes, and the credential that is put in.

use std::fmt;

use http::Method;

use crate::condition::{Conditions, Verdict};
use crate::explain::Difference;
use crate::origin::OriginTemplate;
use crate::path_pattern::PathPattern;
use crate::question::Question;
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
    pub(crate) methods: Methods,
    pub(crate) path: Box<str>,
    pub(crate) pattern: PathPattern,
    pub(crate) conditions: Conditions,
    pub(crate) origin: Option<OriginTemplate>,
    pub(crate) auth: Option<Auth>,
    pub(crate) encoded_slash: EncodedSlash,
    pub(crate) disabled: bool,
}

/// The methods that a rule allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Methods {
    /// Every one but `CONNECT` and `TRACE`.
    Any,
    /// These.
    Only(Box<[Method]>),
}

/// How a rule fits a request.
pub(crate) enum Fit {
    Matches,
    /// All but the body is as the rule wants it.
    NeedsBody,
    /// The first thing that differs.
    Differs(Difference),
}

impl Rule {
    /// The methods that it matches.
    pub fn methods(&self) -> &Methods {
        &self.methods
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

    /// Whether it asks for something in the body.
    pub fn needs_body(&self) -> bool {
        self.conditions.need_body()
    }

    pub(crate) fn fit(&self, question: &Question<'_>) -> Fit {
        if self.disabled {
            return Fit::Differs(Difference::Disabled);
        }
        if !self.methods.contain(question.target.method()) {
            return Fit::Differs(Difference::Method);
        }
        if !self.matches_path(question.target) {
            return Fit::Differs(Difference::Path);
        }
        if self.encoded_slash == EncodedSlash::Refuse && question.target.has_encoded_slash() {
            return Fit::Differs(Difference::EncodedSlash);
        }
        match self.conditions.judge(question) {
            Verdict::Hold => Fit::Matches,
            Verdict::NeedBody => Fit::NeedsBody,
            Verdict::Fail(difference) => Fit::Differs(difference),
        }
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

impl Methods {
    /// Whether `method` is one of them.
    pub fn contain(&self, method: &Method) -> bool {
        match self {
            Self::Any => *method != Method::CONNECT && *method != Method::TRACE,
            Self::Only(methods) => methods.contains(method),
        }
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

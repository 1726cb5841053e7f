//! A rule: what it matches, where that goes, and the credential that is put in.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use http::{HeaderName, Method};
use thiserror::Error;

use crate::condition::{Conditions, Verdict};
use crate::explain::{Difference, Segment};
use crate::kubernetes::KubernetesRule;
use crate::limits::RuleLimits;
use crate::origin::OriginTemplate;
use crate::path_glob::PathGlob;
use crate::path_pattern::PathPattern;
use crate::question::Question;
use crate::target::{RequestTarget, has_parameters};
use crate::template::{Source, Template};

/// Which list of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum List {
    /// What callers may ask of origins.
    Private,
    /// What local applications may send towards the server.
    Public,
}

/// A name that no list has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("unknown list (use private or public)")]
pub struct UnknownList;

impl FromStr for List {
    type Err = UnknownList;

    fn from_str(text: &str) -> Result<Self, UnknownList> {
        match text {
            "private" => Ok(Self::Private),
            "public" => Ok(Self::Public),
            _ => Err(UnknownList),
        }
    }
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
    pub(crate) comment: Option<Box<str>>,
    pub(crate) path: Box<str>,
    pub(crate) pattern: Pattern,
    pub(crate) conditions: Conditions,
    pub(crate) origin: Option<OriginTemplate>,
    pub(crate) auth: Option<Auth>,
    pub(crate) encoded_slash: EncodedSlash,
    pub(crate) encoded_unreserved: EncodedUnreserved,
    /// None is whoever the server lets in.
    pub(crate) callers: Option<Box<[Box<str>]>>,
    pub(crate) expires: Option<SystemTime>,
    pub(crate) timeouts: RuleTimeouts,
    pub(crate) limits: RuleLimits,
    pub(crate) keep_cookies: bool,
    pub(crate) allow_headers: Box<[HeaderName]>,
    pub(crate) disabled: bool,
}

/// What a request's path must be.
#[derive(Clone, Debug)]
pub(crate) enum Pattern {
    PathToRegexp(PathPattern),
    Glob(PathGlob),
    Kubernetes(KubernetesRule),
}

/// The methods that a rule allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Methods {
    /// Every one but `CONNECT` and `TRACE`.
    Any,
    /// These.
    Only(Box<[Method]>),
}

/// How a rule fits a request whose method and path it means.
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

    /// What its author says about it, under the key `//`.
    pub fn comment(&self) -> Option<&str> {
        self.comment.as_deref()
    }

    /// The path as written, with a leading `/`; in a Kubernetes rule, what it allows, in words.
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

    /// In which notation its path is written.
    pub fn pattern_kind(&self) -> PatternKind {
        match self.pattern {
            Pattern::PathToRegexp(_) => PatternKind::PathToRegexp,
            Pattern::Glob(_) => PatternKind::Glob,
            Pattern::Kubernetes(_) => PatternKind::Kubernetes,
        }
    }

    /// What it allows of a Kubernetes API, where it is a rule of that kind.
    pub fn kubernetes(&self) -> Option<&KubernetesRule> {
        match &self.pattern {
            Pattern::Kubernetes(rule) => Some(rule),
            Pattern::PathToRegexp(_) | Pattern::Glob(_) => None,
        }
    }

    /// Who may ask; none is whoever the server lets in.
    pub fn callers(&self) -> Option<&[Box<str>]> {
        self.callers.as_deref()
    }

    /// From when on it matches nothing.
    pub fn expires(&self) -> Option<SystemTime> {
        self.expires
    }

    /// How long the origin may take, where the rule says so.
    pub fn timeouts(&self) -> RuleTimeouts {
        self.timeouts
    }

    /// How much of what it allows may happen.
    pub fn limits(&self) -> RuleLimits {
        self.limits
    }

    /// Whether cookies pass beside its credential, in both directions.
    pub fn keep_cookies(&self) -> bool {
        self.keep_cookies
    }

    /// The headers that pass beside its credential, though they may change who or what is asked.
    pub fn allow_headers(&self) -> &[HeaderName] {
        &self.allow_headers
    }

    /// Whether a `%2F` in a path is data to it; as its origin's settings have it, once compiled.
    pub fn encoded_slash(&self) -> EncodedSlash {
        self.encoded_slash
    }

    /// Whether an escape in a path that nothing needs is data to it.
    pub fn encoded_unreserved(&self) -> EncodedUnreserved {
        self.encoded_unreserved
    }

    /// Whether it asks for more than method and path: for something in query, headers or body.
    pub fn has_conditions(&self) -> bool {
        !self.conditions.are_none()
    }

    /// Whether it is in force, and means the method and the path.
    pub(crate) fn covers(&self, target: &RequestTarget) -> bool {
        !self.disabled
            && self.methods.contain(target.method())
            && self.pattern.matches(target)
            && self.matches_without_parameters(target)
    }

    /// How it fits a request beyond method and path.
    pub(crate) fn fit(&self, question: &Question<'_>) -> Fit {
        if self.encoded_slash == EncodedSlash::Refuse && question.target.has_encoded_slash() {
            return Fit::Differs(Difference::EncodedSlash);
        }
        if self.encoded_unreserved == EncodedUnreserved::Refuse
            && question.target.has_encoded_unreserved()
        {
            return Fit::Differs(Difference::EncodedUnreserved);
        }
        if !self.admits(question.caller) {
            return Fit::Differs(Difference::Caller);
        }
        if self.expires.is_some_and(|end| question.now >= end) {
            return Fit::Differs(Difference::Expired);
        }
        match self.conditions.judge(question) {
            Verdict::Hold => Fit::Matches,
            Verdict::NeedBody => Fit::NeedsBody,
            Verdict::Fail(difference) => Fit::Differs(difference),
        }
    }

    /// Whether a path that matches does so without its `;parameters` too: `/*.tf` does not mean
    /// `/secrets.env;.tf`. A rule that writes parameters itself means them, and no path of a
    /// Kubernetes API has any.
    pub(crate) fn matches_without_parameters(&self, target: &RequestTarget) -> bool {
        let Some(path) = target.path_without_parameters() else {
            return true;
        };
        has_parameters(&self.path) || self.pattern.matches_path(path)
    }

    /// What one segment of its path matches by itself.
    pub(crate) fn segment<'s>(&self, text: &'s str) -> Segment<'s> {
        match &self.pattern {
            Pattern::PathToRegexp(_) | Pattern::Kubernetes(_) => PathPattern::segment(text),
            Pattern::Glob(_) => PathGlob::segment(text),
        }
    }

    fn admits(&self, caller: &str) -> bool {
        let named = |callers: &[Box<str>]| callers.iter().any(|name| **name == *caller);
        self.callers().is_none_or(named)
    }
}

impl Pattern {
    /// Whether the path is as it wants it, with its `;parameters`.
    pub(crate) fn matches(&self, target: &RequestTarget) -> bool {
        match self {
            Self::PathToRegexp(_) | Self::Glob(_) => self.matches_path(target.path()),
            Self::Kubernetes(rule) => rule.difference(target).is_none(),
        }
    }

    /// Whether it matches this text as a path; a Kubernetes rule matches none.
    pub(crate) fn matches_path(&self, path: &str) -> bool {
        match self {
            Self::PathToRegexp(pattern) => pattern.matches(path),
            Self::Glob(glob) => glob.matches(path),
            Self::Kubernetes(_) => false,
        }
    }

    /// What every matching path starts with, perhaps in another case.
    pub(crate) fn head(&self) -> &str {
        match self {
            Self::PathToRegexp(pattern) => pattern.head(),
            Self::Glob(glob) => glob.head(),
            Self::Kubernetes(_) => "",
        }
    }

    /// What every matching path ends in, perhaps in another case, and but for one `/`.
    pub(crate) fn ending(&self) -> &str {
        match self {
            Self::PathToRegexp(pattern) => pattern.ending(),
            Self::Glob(glob) => glob.ending(),
            Self::Kubernetes(_) => "",
        }
    }
}

/// In which notation a rule's path is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatternKind {
    /// That of path-to-regexp 1.9.
    PathToRegexp,
    /// A glob of version 2.
    Glob,
    /// None: it is about the resources of a Kubernetes API.
    Kubernetes,
}

/// How long an origin may take; what is absent is as the origin's settings have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RuleTimeouts {
    /// To be connected to.
    pub connect: Option<Duration>,
    /// To begin its answer, from the end of the request.
    pub first_byte: Option<Duration>,
    /// To move anything, in either direction, while a body flows.
    pub idle: Option<Duration>,
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

impl fmt::Display for Methods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::Only(methods) => {
                let names: Vec<_> = methods.iter().map(Method::as_str).collect();
                f.write_str(&names.join(", "))
            }
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

/// What an escape in a request's path is to an origin that nothing needs: `%2D`, `%2E`, `%5F` and
/// `%7E`. Escaped letters and digits are refused in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodedUnreserved {
    /// Other text than the character itself, as rules read it.
    Data,
    /// The character itself, for an origin that routes on the decoded path: no rule matches such a
    /// path.
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
    /// The whole request is signed for Amazon Web Services (Signature Version 4).
    SigV4(SigV4),
}

/// How a request is signed for Amazon Web Services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigV4 {
    /// Whose keys sign: a name that the settings declare.
    pub aws: Box<str>,
    /// The service's name in signatures, such as `execute-api`.
    pub service: Box<str>,
    /// Where it is, if not where the settings say.
    pub region: Option<Box<str>>,
}

impl Auth {
    /// Where its values come from, in the order in which they are put in.
    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        let (first, second) = match self {
            Self::Token(text)
            | Self::Bearer(text)
            | Self::BasicToken(text)
            | Self::Raw(text)
            | Self::Userinfo(text) => (Some(text), None),
            Self::Basic { username, password } | Self::UserinfoBasic { username, password } => {
                (Some(username), Some(password))
            }
            Self::SigV4(_) => (None, None),
        };
        [first, second]
            .into_iter()
            .flatten()
            .flat_map(Template::sources)
    }
}

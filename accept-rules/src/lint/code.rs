//! The kinds of findings: a stable name, what each means, and the way out.

use std::fmt;

/// What a finding is about. The names are stable; `docs/lint.md` has them all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum LintCode {
    /// An earlier rule matches everything that this one does.
    ShadowedRule,
    /// An earlier rule says the same.
    DuplicateRule,
    /// No request can match.
    NeverMatches,
    /// A `*` right behind a name.
    GluedAsterisk,
    /// A `*` with a name, as other routers write a parameter.
    NamedAsterisk,
    /// A parameter behind a dot, which crosses slashes.
    DotParameter,
    /// Every path of an origin.
    CatchAll,
    /// Every request of a local application.
    OpenPublicList,
    /// A path that is known to answer with secrets.
    ReachesSecrets,
    /// A path that is known to open a shell or a port in a container.
    ReachesExec,
    /// A path that is known to pass requests on to other hosts.
    ReachesProxy,
    /// A path that is known to run scripts.
    RunsScripts,
    /// A path that is known to issue tokens.
    IssuesTokens,
    /// GraphQL, all of it.
    OpenGraphql,
    /// A parameter on an origin that takes `%2F` for a slash.
    EncodedSlash,
    /// A method that writes, where the path only reads.
    WriteMethod,
    /// A condition that a missing query parameter meets.
    OptionalQuery,
    /// Conditions on query and body, of which one suffices.
    EitherCondition,
    /// A body value with a `*` that is compared as it stands.
    LiteralAsterisk,
    /// Callers that the server vouches for.
    UnsignedCallers,
    /// A credential in the file itself.
    LiteralCredential,
    /// A credential over a connection without TLS.
    CleartextCredential,
    /// The caller's own `Authorization` reaches the origin.
    PassesAuthorization,
    /// An origin that ends in a slash.
    TrailingSlash,
    /// An origin on the agent's own machine or link.
    LocalAddress,
    /// More findings than are kept.
    TooManyFindings,
}

impl LintCode {
    /// Every one, in the order of the documentation.
    pub const ALL: &'static [Self] = &[
        Self::ShadowedRule,
        Self::DuplicateRule,
        Self::NeverMatches,
        Self::GluedAsterisk,
        Self::NamedAsterisk,
        Self::DotParameter,
        Self::CatchAll,
        Self::OpenPublicList,
        Self::ReachesSecrets,
        Self::ReachesExec,
        Self::ReachesProxy,
        Self::RunsScripts,
        Self::IssuesTokens,
        Self::OpenGraphql,
        Self::EncodedSlash,
        Self::WriteMethod,
        Self::OptionalQuery,
        Self::EitherCondition,
        Self::LiteralAsterisk,
        Self::UnsignedCallers,
        Self::LiteralCredential,
        Self::CleartextCredential,
        Self::PassesAuthorization,
        Self::TrailingSlash,
        Self::LocalAddress,
        Self::TooManyFindings,
    ];

    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ShadowedRule => "shadowed-rule",
            Self::DuplicateRule => "duplicate-rule",
            Self::NeverMatches => "never-matches",
            Self::GluedAsterisk => "glued-asterisk",
            Self::NamedAsterisk => "named-asterisk",
            Self::DotParameter => "dot-parameter",
            Self::CatchAll => "catch-all",
            Self::OpenPublicList => "open-public-list",
            Self::ReachesSecrets => "reaches-secrets",
            Self::ReachesExec => "reaches-exec",
            Self::ReachesProxy => "reaches-proxy",
            Self::RunsScripts => "runs-scripts",
            Self::IssuesTokens => "issues-tokens",
            Self::OpenGraphql => "open-graphql",
            Self::EncodedSlash => "encoded-slash",
            Self::WriteMethod => "write-method",
            Self::OptionalQuery => "optional-query",
            Self::EitherCondition => "either-condition",
            Self::LiteralAsterisk => "literal-asterisk",
            Self::UnsignedCallers => "unsigned-callers",
            Self::LiteralCredential => "literal-credential",
            Self::CleartextCredential => "cleartext-credential",
            Self::PassesAuthorization => "passes-authorization",
            Self::TrailingSlash => "trailing-slash",
            Self::LocalAddress => "local-address",
            Self::TooManyFindings => "too-many-findings",
        }
    }

    /// What it means, in a sentence or two.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::ShadowedRule => {
                "An earlier rule without conditions matches every request that this rule matches. \
                 The first match wins, so this rule never decides: where it names another origin or \
                 credential, that one is never used."
            }
            Self::DuplicateRule => {
                "An earlier rule is the same in methods, path, origin and credential."
            }
            Self::NeverMatches => {
                "No request can match: the path has something that is refused before any rule is \
                 asked, a condition asks for what never arrives, or the rule has expired."
            }
            Self::GluedAsterisk => {
                "`*` matches any text, slashes included, so `/pods*` allows `/podsecurity` and \
                 `/pods/x/exec` too."
            }
            Self::NamedAsterisk => {
                "`*name` is no parameter here: `*` matches any text, and `name` only itself."
            }
            Self::DotParameter => {
                "A parameter after a dot stops at the next dot, not at the next slash, so \
                 `/:file.:type` allows `/a.b/c/d`."
            }
            Self::CatchAll => {
                "The rule allows every path of its origin, those that exist today and those that \
                 a later version adds."
            }
            Self::OpenPublicList => "Every local application may send anything towards the server.",
            Self::ReachesSecrets => {
                "The rule allows a path that is known to answer with secrets, such as Kubernetes \
                 Secrets or the variables of GitLab pipelines."
            }
            Self::ReachesExec => {
                "The rule allows `exec`, `attach` or `portforward` of Kubernetes: with an upgrade, a \
                 shell or a port inside a container."
            }
            Self::ReachesProxy => {
                "The rule allows a path that passes requests on to other hosts, such as `proxy` of \
                 Kubernetes or the data source proxy of Grafana."
            }
            Self::RunsScripts => {
                "The rule allows a path that is known to run scripts on the origin, such as the \
                 script console of Jenkins."
            }
            Self::IssuesTokens => {
                "The rule allows a path that is known to issue tokens. They work without the \
                 agent, and this file does not bound what they do."
            }
            Self::OpenGraphql => {
                "One GraphQL path serves every query and every mutation that the credential may do."
            }
            Self::EncodedSlash => {
                "The origin decodes `%2F` before it routes, so a parameter that holds one reaches \
                 another path: `/namespaces/:name` allows `/namespaces/default%2Fsecrets`."
            }
            Self::WriteMethod => {
                "The path, or the rule's comment, looks like one that is only read, but the rule \
                 allows methods that write."
            }
            Self::OptionalQuery => {
                "A missing query parameter is judged as an empty text, and one of the values \
                 matches that: the condition can be left out."
            }
            Self::EitherCondition => {
                "With `valid`, a rule with conditions on query and body allows a request that meets \
                 those on the query or one of those on the body."
            }
            Self::LiteralAsterisk => {
                "The `value` of a condition on the body is compared as it stands; a `*` in it is \
                 no wildcard."
            }
            Self::UnsignedCallers => {
                "Who asks is what the server says, so `callers` narrows an honest server only."
            }
            Self::LiteralCredential => {
                "A credential stands in the file, where everyone who may read the rules reads it."
            }
            Self::CleartextCredential => {
                "The credential is sent over `http://`, readable on the way."
            }
            Self::PassesAuthorization => {
                "The rule adds no credential, so the caller's own `Authorization` header goes to \
                 the origin. Userinfo in the origin is a credential, too."
            }
            Self::TrailingSlash => {
                "The path is put right behind the origin, so the origin sees a path with `//`."
            }
            Self::LocalAddress => {
                "The origin is the agent's own machine, or an address that only hosts on its link \
                 have. Clouds hand out credentials at such addresses."
            }
            Self::TooManyFindings => "The rest of the file was not looked at.",
        }
    }

    /// The way out.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::ShadowedRule => "Remove the rule, or put it before the earlier one.",
            Self::DuplicateRule => "Remove one of the two.",
            Self::NeverMatches => "Write the path as clients send it, or remove the rule.",
            Self::GluedAsterisk => {
                "Two rules: `/pods` for the list, `/pods/:name` for one of them. `/pods/*` only \
                 where everything below is meant."
            }
            Self::NamedAsterisk => "`:name` for one segment, `:name+` for several.",
            Self::DotParameter => "Say what the last part may be: `/:file.:type([^./]+)`.",
            Self::CatchAll => "One rule for each path that is needed.",
            Self::OpenPublicList => "One rule for each path that local applications call.",
            Self::ReachesSecrets | Self::ReachesExec | Self::ReachesProxy => {
                "Name what is needed: `/api/v1/namespaces/:namespace/pods`."
            }
            Self::RunsScripts => "Name the paths that are needed, or leave out the method.",
            Self::IssuesTokens => {
                "Remove the rule, or name the paths that are needed; let the agent add a \
                 credential instead."
            }
            Self::OpenGraphql => {
                "A condition on the body, such as a `regex` for `query`, or a credential that may \
                 only read."
            }
            Self::EncodedSlash => {
                "In the agent's settings: `origins: {\"…\": {encoded-slash: refuse}}`; in version 2, \
                 the rule without `encoded-slash`."
            }
            Self::WriteMethod => "`\"method\": \"GET\"`; in version 2, `\"methods\": [\"GET\"]`.",
            Self::OptionalQuery => "A pattern that needs text, such as `?*`.",
            Self::EitherCondition => "Two rules, each with one of the conditions.",
            Self::LiteralAsterisk => "`regex` in the place of `value`.",
            Self::UnsignedCallers => {
                "Let the rule, and its credential, allow no more than every caller may do."
            }
            Self::LiteralCredential => {
                "A variable, such as `${TOKEN}`, and a new credential in the place of this one."
            }
            Self::CleartextCredential => "`https://`.",
            Self::PassesAuthorization => {
                "`\"auth\": {\"scheme\": \"bearer\", \"token\": \"${TOKEN}\"}`, unless callers are \
                 meant to bring their own."
            }
            Self::TrailingSlash => "The origin without its last slash.",
            Self::LocalAddress => "The address of the service that is meant.",
            Self::TooManyFindings => "Mend the first ones, and look again.",
        }
    }
}

impl fmt::Display for LintCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

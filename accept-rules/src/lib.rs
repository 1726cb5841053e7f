//! May this request pass? Rules read from `accept.json`, and the verdict that they give.
//!
//! # The rules
//! An accept file is JSON, with comments if need be, or YAML: two lists, `private` for what callers
//! may ask of origins, `public` for what local applications may send towards the server.
//! The first rule that matches allows a request; no match, no list and no file deny it.
//! A file has one of two forms: the one without a version, or the strict one, `"version": 2`.
//!
//! ## Without a version
//! | key | means | default |
//! |---|---|---|
//! | `method` | the method, in either case; `any` is all but `CONNECT` and `TRACE` | `GET` |
//! | `path` | as in path-to-regexp 1.9: `:name`, `:name?`, `:name*`, `:name+`, `:name(regex)`, `(regex)`, and `*` for anything, slashes included; letters match in either case, one slash at the end is optional | `/` |
//! | `origin` | where it goes, such as `https://sonarqube.internal` or `${SONARQUBE_URL}`; the path is put right behind it | required in `private` |
//! | `auth` | the credential that replaces the caller's: `scheme` `token`, `bearer`, `basic` or `raw`, with `token`, or for `basic` with `username` and `password` | the caller's own |
//! | `valid` | conditions on query, headers and body, see below | none |
//! | `//`, `stream` | nothing | |
//!
//! A path that has `;parameters` must match as it is and without them, since servers differ in whether they route
//! on them; a rule that writes a `;` itself is taken at its word.
//!
//! `valid` is a list of conditions. Every one on a header must hold; of the others, either every one
//! on the query or a single one on the body:
//!
//! | condition | holds when |
//! |---|---|
//! | `header`, `values` | the header is there once, with exactly one of the values, and no other is like `x_role` beside `x-role`; the name must be in lower case |
//! | `queryParam`, `values` | one of the values, globs as in minimatch 3, matches the parameter; one that is absent counts as empty |
//! | `path`, `value` | the value at this place of the JSON body is this one; with `*` in the path, one of the values is |
//! | `path`, `regex` | the text at this place has a match; with `*`, one of the texts has |
//!
//! ## Version 2
//! `origin` and `auth` are as above; everything else is narrower unless the rule says otherwise. Keys
//! that are unknown or repeated are refused wherever they stand, and so are
//! `callers-signed` and `upgrade`, which nothing enforces yet. `//` is a comment.
//!
//! | key | means | default |
//! |---|---|---|
//! | `methods` | a list, or `"any"` | `["GET"]` |
//! | `path` | a glob: `*` is within one segment, and not empty where it is all of it; `**`, a segment of its own, is any number of segments; `[a-z]` and `{a,b}`; letters match in the case that they are written in, and a slash at the end is one | this or the next |
//! | `path-to-regexp` | a path with the meaning that it has without a version | |
//! | `query` | `{name: [globs]}`: each parameter, absent ones being empty, matches one of its globs, in which no wildcard stands for `.` or `..` | anything |
//! | `headers` | `{name: [values]}`: each header is there once, with exactly one of its values | anything |
//! | `body` | `{"any": […]}` or `{"all": […]}` of `path` with `value` or `regex` | anything |
//! | `valid` | instead of the last three: as without a version | |
//! | `callers` | the names of the callers that are served | all |
//! | `expires` | until when the rule holds: the end of a day, or a time, in UTC | for ever |
//! | `timeout` | `connect`, `first-byte`, `idle` | the origin's settings |
//! | `encoded-slash` | `data` lets a `%2F` in the path pass, unless the origin's settings refuse it | `refuse` |
//! | `encoded-unreserved` | `data` lets `%2D`, `%2E`, `%5F` and `%7E` in the path pass | `refuse` |
//! | `keep-cookies` | cookies pass beside the rule's credential, in both directions | `false` |
//! | `allow-headers` | names that pass beside it, though they may change who or what is asked | none |
//!
//! A rule of the kind `kubernetes` has, instead of what is about a path:
//!
//! | key | means |
//! |---|---|
//! | `kind` | `kubernetes` |
//! | `verbs` | `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection` |
//! | `resources` | `resource[.group][/subresource]` such as `pods`, `deployments.apps`, `pods/log`; `*` for all resources, groups or subresources |
//! | `namespaces` | globs, or `["*"]` for all, lists over all, and what stands in none |
//! | `names` | globs for objects; a list, a watch or a `deletecollection` then needs the field selector `metadata.name=…` |
//!
//! No `*` means the resources `secrets` and `namespaces`, nor the subresources `exec`, `attach`,
//! `portforward`, `proxy`, `log`, `token`, `ephemeralcontainers`, `approval`, `console` and `vnc`: they
//! are named, or not allowed. A resource without a subresource allows none.
//!
//! ## In both
//! `${NAME}` stands for a variable in `origin` and `auth`. Userinfo in an origin is a credential too,
//! and is never part of the origin's text. A key that is unknown, or whose meaning is not enforced,
//! makes the file refused: to ignore it would allow more than the file says.
//!
//! # Where it differs from the npm packages
//! Rules without a version mean what the npm packages make of them that defined the format; tests
//! compare the two on generated cases. The deliberate differences are these:
//!
//! | package | difference | why |
//! |---|---|---|
//! | path-to-regexp 1.9 | a target that servers read in more than one way matches nothing: dot segments, backslashes, empty segments, escaped letters; in a query, `//` and `..` are data | what is judged must be what an origin routes on |
//! | path-to-regexp 1.9 | a path with `;parameters` must match without them too | Java servers route without them |
//! | path-to-regexp 1.9 | a parameter that only look-ahead could end, as in `/:a--:b`, is refused | expressions run in linear time |
//! | `RegExp` | look-around, backreferences, named groups, `\B`, and what JavaScript only tolerates, such as a `{` that starts no repetition, an empty class or an escaped letter without meaning, are refused by name | linear time, and nothing that is read otherwise here |
//! | `RegExp` | only texts are tested; JavaScript turns numbers, lists and what is missing into texts | a missing value has a match for `undefined` |
//! | qs 6 | a parameter must be there once and under one decoded name: no condition holds if another resembles it, be it in another case, as a list or an object, with space around it, or with `.`, `_`, a space or a bracket in the same place | other servers take it for the same |
//! | qs 6 | nor if it stands in a parameter with a raw `;`, or with a `]=` behind its name | older servers split at `;`, and qs at `]=` |
//! | qs 6 | nor if its value is not UTF-8 or has a zero byte | servers replace, drop, or stop there |
//! | qs 6 | nor if its name is that of a member of all JavaScript objects, such as `constructor`, or empty, or has a bracket | qs drops it |
//! | qs 6 | nor if the body is declared as a form | servers take its fields for the query's |
//! | qs 6 | a query with more than 1,000 parameters, 5 brackets in a name, or 20 elements of a list, or with a name that is not UTF-8, satisfies no condition | qs drops or regroups the rest |
//! | minimatch 3.1 | a `!(…)` that needs look-ahead is refused: in a group, behind a `*` or a group, or a second one in its segment | linear time |
//! | minimatch 3.1 | what it misreads is refused by name: a `[` or `+(` without end, a wildcard right before a `)`, a vertical bar or a `]` that ends nothing, `\@`, and classes that start with `]` or have a range out of order or an escaped letter, digit, `-` or `@` | nobody means what it reads |
//! | minimatch 3.1 | with several `**`, a value matches that 3.1.2 matches and later versions overlook | their search skips places, and 3.1.2 is what rules were written for |
//! | minimatch 3.1 | more than 4,096 bytes, 1,000 alternatives, 64 KiB of them, or 63 segments with a `**` are refused | bounded time and memory |
//! | undefsafe 2 | a `value` is compared, also without a `*` in the path | there the package sets the value instead |
//! | undefsafe 2 | `false`, `0`, the empty text and `null` are values, also behind a `*`: they can equal | a condition that can never hold is no use |
//! | undefsafe 2 | a scalar is not what a longer path reaches, and texts and lists have no `length` | the path says more than is there |
//! | undefsafe 2 | `a[0]`, an empty name, and behind a `*` a quoted name with a `.` are refused | the package looks for something else |
//! | undefsafe 2 | a member is not reached where another differs from it in case, `_` or `-` alone | other servers take the two for the same |
//! | undefsafe 2 | integers beyond 2^53 - 1 equal nothing | servers differ in which number they read |
//! | `JSON.parse` | a body that is no JSON in UTF-8, has a name twice in an object, half a surrogate pair, a number too large for a double, or more than 100 levels, satisfies no condition | servers differ, and an empty object would stand for it otherwise |
//!
//! # The types
//! [`RequestTarget`] is a method and a target that no server can read two ways; [`RuleSet`] decides
//! on it, and nothing else can be asked. A verdict owns the request that it is about, so what is
//! sent is what was judged.
//!
//! # What this crate does not do
//! It opens no file and no socket, reads no clock and no environment variable, and expands nothing
//! by itself: texts with variables go out as they were written, and the caller resolves them by rule.
//!
//! ```
//! use accept_rules::{Decision, EncodedSlash, List, Request, RequestTarget, RuleFile, RuleSet};
//!
//! let file = RuleFile::parse(
//!     r#"{"private": [{"path": "/api/issues/*", "origin": "${SONARQUBE_URL}"}]}"#,
//! )?;
//! let rules = RuleSet::compile(&file, List::Private, |_origin| EncodedSlash::Data);
//! let ask = |path| -> Result<_, accept_rules::TargetError> {
//!     let target = RequestTarget::new(&http::Method::GET, path)?;
//!     let (headers, now) = (http::HeaderMap::new(), std::time::SystemTime::UNIX_EPOCH);
//!     Ok(rules.decide(Request { target, headers, caller: "proxy".into(), now }))
//! };
//! assert!(matches!(ask("/api/issues/search")?, Decision::Allow(_)));
//! assert!(matches!(ask("/api/users")?, Decision::Deny(_)));
//! assert!(ask("/api/issues/..%2fusers").is_err());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![warn(clippy::wildcard_enum_match_arm)]

mod body;
mod candidates;
mod condition;
mod convert;
mod decision;
#[cfg(test)]
mod differential;
mod document;
mod explain;
mod file;
mod glob;
mod js_regex;
mod kubernetes;
mod limits;
mod lint;
mod origin;
mod path_glob;
mod path_pattern;
mod query;
mod question;
mod rule;
mod rule_set;
mod target;
mod template;
mod utf16;
mod weight;

pub use body::{BodyError, BodyPathError};
pub use convert::to_version_2;
pub use decision::{
    Allowed, AllowedParts, BodyRefusal, Decision, Denied, DenyReason, HeldBack, Pending,
};
pub use explain::{Difference, Explanation, Nearest, Part, PathDifference};
pub use file::{
    FileError, FileErrors, FileWarning, MAX_FILE_LEN, Place, Problem, RuleFile, SCHEMA, UnknownKeys,
};
pub use glob::GlobError;
pub use js_regex::JsRegexError;
pub use kubernetes::{KubernetesDifference, KubernetesResource, KubernetesRule, Verb};
pub use limits::{Rate, RateError, RequestLimits, RuleLimits};
pub use lint::{Finding, LintCode, lint};
pub use origin::{Origin, OriginError, OriginTemplate, split_userinfo};
pub use path_glob::PathGlobError;
pub use path_pattern::PathPatternError;
pub use question::UnreadableBody;
pub use rule::{
    Auth, EncodedSlash, EncodedUnreserved, List, Methods, PatternKind, Rule, RuleIndex,
    RuleTimeouts, SigV4, UnknownList,
};
pub use rule_set::{Request, RuleSet};
pub use target::{MAX_TARGET_LEN, RequestTarget, TargetError};
pub use template::{Declared, MissingVariable, Source, Template, TemplateError};

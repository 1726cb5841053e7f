//! Where a rule sends its requests: the text as written, and what it is once expanded.

use std::borrow::Cow;
use std::fmt;

use http::uri::{Authority, PathAndQuery, Scheme};
use thiserror::Error;

use crate::target::find_dot_segment;
use crate::template::{MissingVariable, Source, Template, TemplateError, split_at_source};

/// A rule's origin as written, without userinfo and not expanded yet.
#[derive(Clone, PartialEq, Eq)]
pub struct OriginTemplate {
    text: Box<str>,
    template: Template,
}

impl OriginTemplate {
    /// Reads `text`, from which userinfo was split off, and checks what needs no variables.
    pub(crate) fn parse(text: &str) -> Result<Self, OriginError> {
        let template = Template::parse(text)?;
        let kind = template.sources().find_map(|source| match source {
            Source::Variable(_) => None,
            Source::File(_) => Some("file"),
            Source::Declared(kind, _) => Some(kind.word()),
        });
        if let Some(kind) = kind {
            return Err(TemplateError::NotInOrigin { kind }.into());
        }
        Origin::parse(&stand_in(text, &template)).map_err(|error| error.about(text))?;
        Ok(Self {
            text: text.into(),
            template,
        })
    }

    /// The text as written: the key of per-origin settings, and safe to show.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Puts in the variables. Userinfo may come with a value: [`split_userinfo`] again, then
    /// [`Origin::parse`].
    ///
    /// # Errors
    /// That of `lookup`.
    pub fn expand<V: AsRef<str>, E>(
        &self,
        lookup: impl Fn(&str) -> Result<V, E>,
    ) -> Result<String, E> {
        self.template.expand(|source| match source {
            // `parse` lets in variables alone.
            Source::Variable(name) | Source::File(name) | Source::Declared(_, name) => lookup(name),
        })
    }
}

impl fmt::Display for OriginTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for OriginTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

/// An expanded origin: scheme, authority without the port that the scheme has anyway, and the path that is put literally
/// before a request's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    scheme: Scheme,
    authority: Authority,
    path: Box<str>,
}

impl Origin {
    /// Reads an expanded origin without userinfo; without a scheme it is `https://`.
    ///
    /// # Errors
    /// When it is no `http` or `https` URL, or has userinfo, a query, a fragment or a dot segment.
    pub fn parse(text: &str) -> Result<Self, OriginError> {
        let shown = || shown(text);
        let (scheme, rest) = split_scheme(text);
        let scheme = match scheme.map(str::to_ascii_lowercase).as_deref() {
            None | Some("https") => Scheme::HTTPS,
            Some("http") => Scheme::HTTP,
            Some(_) => return Err(OriginError::Scheme { origin: shown() }),
        };
        if rest.contains('#') {
            return Err(OriginError::Fragment { origin: shown() });
        }
        if rest.contains('?') {
            return Err(OriginError::Query { origin: shown() });
        }
        let (authority, path) = rest.split_at(rest.find(['/', '\\']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(OriginError::Userinfo { origin: shown() });
        }
        let authority =
            parse_authority(authority).ok_or_else(|| OriginError::Authority { origin: shown() })?;
        Ok(Self {
            authority: without_default_port(authority, &scheme),
            scheme,
            path: parse_path(path, text)?,
        })
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    /// Host and port.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Empty, or a path that starts with `/`. A request's path follows it as it is: with a `/` at
    /// its end the origin sees `//`.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.authority, self.path)
    }
}

/// Why an origin cannot be used. What stands before an `@` is never shown.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OriginError {
    /// Something is wrong with a `${…}`.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// A scheme other than `http` and `https`.
    #[error("the origin {origin:?} has an unknown scheme: use \"https://\" or \"http://\"")]
    Scheme {
        /// The origin.
        origin: String,
    },
    /// No host, or a host or port that cannot be.
    #[error("the origin {origin:?} has no valid host and port")]
    Authority {
        /// The origin.
        origin: String,
    },
    /// Userinfo where it has no place any more.
    #[error("the origin {origin:?} has userinfo before its host")]
    Userinfo {
        /// The origin.
        origin: String,
    },
    /// A query.
    #[error("the origin {origin:?} has a query: the request's path is put behind it")]
    Query {
        /// The origin.
        origin: String,
    },
    /// A fragment.
    #[error("the origin {origin:?} has a fragment: the request's path is put behind it")]
    Fragment {
        /// The origin.
        origin: String,
    },
    /// A dot segment.
    #[error("the origin {origin:?} has a dot segment: write the path that is meant")]
    DotSegment {
        /// The origin.
        origin: String,
    },
    /// A character that may not stand in a path, or a malformed escape.
    #[error("the origin {origin:?} has a character in its path that must be percent-encoded")]
    Path {
        /// The origin.
        origin: String,
    },
}

impl OriginError {
    /// The same error about the origin as written: a value of a variable may be a secret in the wrong place.
    #[must_use]
    pub fn about(mut self, written: &str) -> Self {
        match &mut self {
            Self::Template(_) => {}
            Self::Scheme { origin }
            | Self::Authority { origin }
            | Self::Userinfo { origin }
            | Self::Query { origin }
            | Self::Fragment { origin }
            | Self::DotSegment { origin }
            | Self::Path { origin } => *origin = shown(written),
        }
        self
    }
}

/// Splits the userinfo (RFC 3986 §3.2.1) off an origin, with or without scheme, expanded or not.
///
/// Returns the text before the `@`, and the origin without both. In the userinfo, `user:password` is
/// meant for basic authentication, a text without colon for `authorization: token <text>`.
///
/// ```
/// let (userinfo, origin) = accept_rules::split_userinfo("https://${USER}:${PASSWORD}@host/x");
/// assert_eq!(userinfo, Some("${USER}:${PASSWORD}"));
/// assert_eq!(origin, "https://host/x");
/// ```
pub fn split_userinfo(origin: &str) -> (Option<&str>, Cow<'_, str>) {
    let (scheme, rest) = split_scheme(origin);
    let (authority, after) = rest.split_at(authority_len(rest));
    match (authority.rsplit_once('@'), scheme) {
        (None, _) => (None, origin.into()),
        (Some((userinfo, host)), None) => (Some(userinfo), format!("{host}{after}").into()),
        (Some((userinfo, host)), Some(scheme)) => {
            (Some(userinfo), format!("{scheme}://{host}{after}").into())
        }
    }
}

/// Up to the first character that ends an authority; one inside `${…}` does not.
fn authority_len(rest: &str) -> usize {
    let end = |text: &str| text.find(['/', '\\', '?', '#']);
    let mut start = 0;
    while let Some((literal, source, _)) = rest.get(start..).and_then(split_at_source) {
        if let Some(end) = end(literal) {
            return start + end;
        }
        start += literal.len() + "${".len() + source.len() + "}".len();
    }
    let last = rest.get(start..).unwrap_or_default();
    end(last).map_or(rest.len(), |end| start + end)
}

fn split_scheme(origin: &str) -> (Option<&str>, &str) {
    match origin.split_once("://") {
        Some((scheme, rest)) if !scheme.contains(['/', '\\', '?', '#', '@']) => {
            (Some(scheme), rest)
        }
        _ => (None, origin),
    }
}

/// The origin with something plausible for each variable, so that the rest can be checked at once.
fn stand_in(text: &str, template: &Template) -> String {
    let expand = |value| {
        template
            .expand(|_| Ok::<_, MissingVariable>(value))
            .unwrap_or_else(|_| text.to_owned())
    };
    let starts_with_scheme = split_scheme(text)
        .0
        .is_some_and(|scheme| scheme.starts_with("${"));
    let expanded = expand("1");
    match expanded.strip_prefix("1://") {
        Some(rest) if starts_with_scheme => format!("https://{rest}"),
        _ => expanded,
    }
}

fn parse_authority(text: &str) -> Option<Authority> {
    let authority: Authority = text.parse().ok()?;
    let port = authority.as_str().strip_prefix(authority.host())?;
    let port_is_valid = port.is_empty() || authority.port_u16().is_some_and(|port| port != 0);
    (!authority.host().is_empty() && port_is_valid).then_some(authority)
}

/// One origin has one spelling (RFC 9110 §4.2.3): HTTP/1 clients leave such a port out of `Host` and HTTP/2 ones do not,
/// and a signature is of what is sent.
fn without_default_port(authority: Authority, scheme: &Scheme) -> Authority {
    let default = if *scheme == Scheme::HTTPS { 443 } else { 80 };
    if authority.port_u16() != Some(default) {
        return authority;
    }
    authority.host().parse().unwrap_or(authority)
}

fn parse_path(path: &str, origin: &str) -> Result<Box<str>, OriginError> {
    if find_dot_segment(path.as_bytes()).is_some() {
        return Err(OriginError::DotSegment {
            origin: shown(origin),
        });
    }
    let is_plain = path
        .bytes()
        .all(|byte| matches!(byte, 0x21..=0x7e) && byte != b'\\');
    let escapes_are_whole = path.split('%').skip(1).all(|after| {
        let digits = after.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    });
    let is_sendable = path.is_empty() || path.parse::<PathAndQuery>().is_ok();
    if is_plain && escapes_are_whole && is_sendable {
        Ok(path.into())
    } else {
        Err(OriginError::Path {
            origin: shown(origin),
        })
    }
}

/// An origin as an error may show it: what stands before an `@` may be a credential.
fn shown(origin: &str) -> String {
    match origin.rsplit_once('@') {
        Some((_, after)) => format!("…@{after}"),
        None => origin.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_scheme_authority_and_literal_path() {
        for (text, shown) in [
            ("https://host", "https://host"),
            ("HTTP://host:8080", "http://host:8080"),
            ("host", "https://host"),
            ("localhost:9000/x", "https://localhost:9000/x"),
            ("httpbin.org", "https://httpbin.org"),
            ("https://host/", "https://host/"),
            ("https://host:443/x", "https://host/x"),
            ("http://[::1]:80", "http://[::1]"),
            ("http://host:443", "http://host:443"),
            (
                "https://host/artifactory//api/",
                "https://host/artifactory//api/",
            ),
            ("https://[::1]:8443/a%2Fb", "https://[::1]:8443/a%2Fb"),
        ] {
            assert_eq!(Origin::parse(text).unwrap().to_string(), shown, "{text}");
        }
    }

    #[test]
    fn a_bad_origin_is_refused_with_what_is_wrong() {
        for (text, error) in [
            (
                "ftp://host",
                "has an unknown scheme: use \"https://\" or \"http://\"",
            ),
            ("https://", "has no valid host and port"),
            ("", "has no valid host and port"),
            ("/path", "has no valid host and port"),
            ("https:///path", "has no valid host and port"),
            ("https://host:port", "has no valid host and port"),
            ("https://host:99999", "has no valid host and port"),
            ("https://host:", "has no valid host and port"),
            ("https://ho st", "has no valid host and port"),
            ("https://hö.example", "has no valid host and port"),
            ("https://a@host", "has userinfo before its host"),
            (
                "https://host?a=b",
                "has a query: the request's path is put behind it",
            ),
            (
                "https://host/a#b",
                "has a fragment: the request's path is put behind it",
            ),
            (
                "https://host/a/../b",
                "has a dot segment: write the path that is meant",
            ),
            (
                "https://host/a/%2e%2e;x/b",
                "has a dot segment: write the path that is meant",
            ),
            (
                "https://host\\a",
                "has a character in its path that must be percent-encoded",
            ),
            (
                "https://host/a b",
                "has a character in its path that must be percent-encoded",
            ),
            (
                "https://host/%zz",
                "has a character in its path that must be percent-encoded",
            ),
        ] {
            let found = Origin::parse(text).unwrap_err().to_string();
            assert!(found.ends_with(error), "{text}: {found}");
        }
    }

    #[test]
    fn an_unexpanded_origin_is_checked_as_far_as_it_is_known() {
        for text in [
            "${URL}",
            "${URL}/api",
            "https://${HOST}:${PORT}",
            "${SCHEME}://${HOST}",
            "https://${HOST}/${ORG}",
            "${A}${B}",
            "${HOST}:8080",
        ] {
            assert_eq!(OriginTemplate::parse(text).unwrap().as_str(), text);
        }
        for text in [
            "ftp://${HOST}",
            "${URL}?x",
            "${URL}#x",
            "${URL}/../x",
            "https://${H}:p",
            "${X:y}",
        ] {
            assert!(OriginTemplate::parse(text).is_err(), "{text}");
        }
        let error = OriginTemplate::parse("ftp://${HOST}")
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("the origin \"ftp://${HOST}\" has an unknown scheme"),
            "{error}"
        );
    }

    #[test]
    fn userinfo_is_split_off_with_and_without_scheme() {
        for (text, userinfo, rest) in [
            ("https://host/a@b", None, "https://host/a@b"),
            ("${URL}", None, "${URL}"),
            ("https://${TOKEN}@host", Some("${TOKEN}"), "https://host"),
            (
                "https://${U}:${P}@${HOST}/x@y",
                Some("${U}:${P}"),
                "https://${HOST}/x@y",
            ),
            ("${TOKEN}@host/x", Some("${TOKEN}"), "host/x"),
            (
                "http://${file:/a?#@b}@h/x",
                Some("${file:/a?#@b}"),
                "http://h/x",
            ),
            (
                "http://${A}:${file:/a}@${H}/${B}",
                Some("${A}:${file:/a}"),
                "http://${H}/${B}",
            ),
            ("http://h/${file:/a}@h", None, "http://h/${file:/a}@h"),
            ("http://h${/}@h", Some("h${/}"), "http://h"),
            ("http://u:p@ss@host?q", Some("u:p@ss"), "http://host?q"),
            ("https://@host", Some(""), "https://host"),
            ("u:p@host", Some("u:p"), "host"),
        ] {
            let (found, origin) = split_userinfo(text);
            assert_eq!((found, &*origin), (userinfo, rest), "{text}");
        }
    }

    #[test]
    fn an_error_never_shows_what_stands_before_an_at_sign() {
        for text in [
            "https://u:hunter2@host",
            "https://u:hunt/er2@host",
            "hunter2://x@host",
            "u:hunter2@h?q",
        ] {
            let error = Origin::parse(text).unwrap_err().to_string();
            assert!(!error.contains("hunt"), "{error}");
        }
    }
}

//! `RequestTarget`: a method and a request target that has one reading only.

use std::collections::HashSet;

use http::Method;
use thiserror::Error;

/// Longest request target accepted, in bytes; a longer one is answered with 414 (RFC 9110 §15.5.15).
pub const MAX_TARGET_LEN: usize = 16 * 1024;

/// How often a path is decoded in the search for dot segments: origins behind a proxy or two decode
/// that often, and a bound keeps the work linear.
const MAX_DECODINGS: usize = 3;

/// A method and an origin-form target (RFC 9112 §3.2.1) whose path no server can read two ways.
///
/// It is the only thing that rules can be asked about. The bytes are kept as given, so what was
/// judged is what can be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestTarget {
    method: Method,
    text: Box<str>,
    path_len: usize,
    encoded_slash: bool,
    encoded_unreserved: bool,
    /// The path as a server reads it that drops `;parameters`, where that is another path.
    without_parameters: Option<Box<str>>,
}

impl RequestTarget {
    /// Reads `raw`, the path and query exactly as they stand in the request line.
    ///
    /// In the path, `%2F` is data; in the query, every well-formed escape is.
    ///
    /// # Errors
    /// When the target is not origin-form, is too long, or has a path that is ambiguous.
    pub fn new(method: &Method, raw: &str) -> Result<Self, TargetError> {
        if raw.len() > MAX_TARGET_LEN {
            return Err(TargetError::TooLong { len: raw.len() });
        }
        if !raw.starts_with('/') {
            return Err(TargetError::NotOriginForm);
        }
        let (path, query) = match raw.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (raw, None),
        };
        check_path(path)?;
        let without_parameters = drop_parameters(path);
        if without_parameters
            .as_deref()
            .is_some_and(|path| path.contains("//"))
        {
            return Err(TargetError::EmptySegment);
        }
        query.map_or(Ok(()), check_query)?;
        Ok(Self {
            method: method.clone(),
            text: raw.into(),
            path_len: path.len(),
            encoded_slash: contains_escape(path, &["%2f"]),
            encoded_unreserved: contains_escape(path, &["%2d", "%2e", "%5f", "%7e"]),
            without_parameters,
        })
    }

    /// The request method.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The path, with its leading `/`, exactly as given.
    pub fn path(&self) -> &str {
        self.split().0
    }

    /// What follows the first `?`, exactly as given.
    pub fn query(&self) -> Option<&str> {
        self.split().1.strip_prefix('?')
    }

    /// Path and query, byte for byte as given.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The raw names of the query parameters, each once, in the order of their first appearance.
    pub fn query_names(&self) -> Vec<&str> {
        let mut seen = HashSet::new();
        let pairs = self.query().unwrap_or_default().split('&');
        pairs
            .map(|pair| pair.split_once('=').map_or(pair, |(name, _)| name))
            .filter(|name| !name.is_empty() && seen.insert(*name))
            .collect()
    }

    /// Whether the path has a `%2F`, which servers that route on the decoded path take for a `/`.
    pub fn has_encoded_slash(&self) -> bool {
        self.encoded_slash
    }

    /// Whether the path has the escape of a character that needs none (RFC 3986 §2.3): `%2D`, `%2E`,
    /// `%5F` or `%7E`. Letters and digits are never escaped in a target.
    pub fn has_encoded_unreserved(&self) -> bool {
        self.encoded_unreserved
    }

    /// The path without the `;parameters` of its segments, if it has any: Java servers, and others, route on that.
    pub(crate) fn path_without_parameters(&self) -> Option<&str> {
        self.without_parameters.as_deref()
    }

    fn split(&self) -> (&str, &str) {
        self.text.split_at(self.path_len)
    }
}

/// Why a request target is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TargetError {
    /// Longer than [`MAX_TARGET_LEN`].
    #[error("the target has {len} bytes, more than {MAX_TARGET_LEN}")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// Absolute-form, authority-form, asterisk-form or empty (RFC 9112 §3.2).
    #[error("the target does not start with \"/\"")]
    NotOriginForm,
    /// A `#`: origin-form has none, and HTTP libraries silently cut the target there.
    #[error("the target has a \"#\"")]
    Fragment,
    /// A byte that may not stand in a request line unescaped.
    #[error("the target has the raw byte 0x{byte:02x}")]
    RawByte {
        /// The byte.
        byte: u8,
    },
    /// A `%` without two hexadecimal digits.
    #[error("the target has the malformed escape {found:?}")]
    MalformedEscape {
        /// The `%` and up to two characters after it.
        found: String,
    },
    /// A literal or encoded backslash in the path.
    #[error("the path has the backslash {found:?}")]
    Backslash {
        /// As it was written.
        found: String,
    },
    /// An escaped control byte in the path.
    #[error("the path has the control byte {found:?}")]
    ControlByte {
        /// The escape.
        found: String,
    },
    /// An escaped ASCII letter or digit in the path; no client needs one, and it hides names.
    #[error("the path has the escaped letter or digit {found:?}")]
    EscapedAlphanumeric {
        /// The escape.
        found: String,
    },
    /// Escapes in the path that decode to invalid or overlong UTF-8.
    #[error("the path has escapes that are not UTF-8, from {found:?} on")]
    InvalidUtf8 {
        /// The first escape that cannot be read.
        found: String,
    },
    /// An empty segment before the last.
    #[error("the path has the empty segment \"//\"")]
    EmptySegment,
    /// A segment that some server reads as `.` or `..`.
    #[error("the path has the dot segment {found:?}")]
    DotSegment {
        /// The segment as it was written, or as it reads after decoding.
        found: String,
    },
}

impl TargetError {
    /// A stable name for logs and records.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "target-too-long",
            Self::NotOriginForm => "not-origin-form",
            Self::Fragment => "fragment",
            Self::RawByte { .. } => "raw-byte",
            Self::MalformedEscape { .. } => "malformed-escape",
            Self::Backslash { .. } => "backslash",
            Self::ControlByte { .. } => "control-byte",
            Self::EscapedAlphanumeric { .. } => "escaped-alphanumeric",
            Self::InvalidUtf8 { .. } => "invalid-utf8",
            Self::EmptySegment => "empty-segment",
            Self::DotSegment { .. } => "dot-segment",
        }
    }
}

/// Whether a path, or a rule's, has segment parameters (RFC 3986 §3.3), escaped or not.
pub(crate) fn has_parameters(path: &str) -> bool {
    path.contains(';') || path.contains("%3b") || path.contains("%3B")
}

fn drop_parameters(path: &str) -> Option<Box<str>> {
    if !has_parameters(path) {
        return None;
    }
    let name = |segment: &'_ str| -> usize {
        let starts = [";", "%3b", "%3B"]
            .into_iter()
            .filter_map(|start| segment.find(start));
        starts.min().unwrap_or(segment.len())
    };
    let names = path
        .split('/')
        .map(|segment| segment.split_at(name(segment)).0);
    Some(names.collect::<Vec<_>>().join("/").into())
}

/// The first segment of `path` that some server reads as `.` or `..`.
///
/// Servers differ in whether they split, drop `;parameters` or decode first, so the text is split
/// and cut anew after every decoding.
pub(crate) fn find_dot_segment(path: &[u8]) -> Option<String> {
    if let Some(found) = find_plain_dot_segment(path) {
        return Some(found);
    }
    let mut text = path.to_vec();
    for _ in 0..MAX_DECODINGS {
        let decoded = decode(&text);
        if decoded.len() == text.len() {
            return None;
        }
        if let Some(found) = find_plain_dot_segment(&decoded) {
            return Some(found);
        }
        text = decoded;
    }
    None
}

fn check_path(path: &str) -> Result<(), TargetError> {
    for item in items(path) {
        check_path_item(item?)?;
    }
    check_utf8(path)?;
    if path.contains("//") {
        return Err(TargetError::EmptySegment);
    }
    match find_dot_segment(path.as_bytes()) {
        Some(found) => Err(TargetError::DotSegment { found }),
        None => Ok(()),
    }
}

fn check_query(query: &str) -> Result<(), TargetError> {
    items(query).try_for_each(|item| item.map(|_| ()))
}

fn check_path_item(item: Item<'_>) -> Result<(), TargetError> {
    let (byte, found) = match item {
        Item::Raw(b'\\') => return Err(TargetError::Backslash { found: "\\".into() }),
        Item::Raw(_) => return Ok(()),
        Item::Escape { byte, text } => (byte, text.to_owned()),
    };
    match byte {
        b'\\' => Err(TargetError::Backslash { found }),
        b if b.is_ascii_control() => Err(TargetError::ControlByte { found }),
        b if b.is_ascii_alphanumeric() => Err(TargetError::EscapedAlphanumeric { found }),
        _ => Ok(()),
    }
}

fn check_utf8(path: &str) -> Result<(), TargetError> {
    let decoded = decode(path.as_bytes());
    match str::from_utf8(&decoded) {
        Ok(_) => Ok(()),
        // Raw bytes are ASCII here, so what cannot be read came from an escape.
        Err(error) => {
            let byte = decoded
                .get(error.valid_up_to())
                .copied()
                .unwrap_or_default();
            Err(TargetError::InvalidUtf8 {
                found: format!("%{byte:02X}"),
            })
        }
    }
}

/// One byte of a target: as it stands there, or escaped.
enum Item<'a> {
    Raw(u8),
    Escape { byte: u8, text: &'a str },
}

/// Reads a target's bytes, refusing what may stand neither in a path nor in a query.
fn items(text: &str) -> impl Iterator<Item = Result<Item<'_>, TargetError>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at;
        let byte = *text.as_bytes().get(start)?;
        at += 1;
        Some(match byte {
            b'#' => Err(TargetError::Fragment),
            b'%' => match escaped_byte(text.as_bytes(), start) {
                Some(byte) => {
                    at += 2;
                    Ok(Item::Escape {
                        byte,
                        text: text.get(start..at).unwrap_or_default(),
                    })
                }
                None => Err(TargetError::MalformedEscape {
                    found: text
                        .get(start..)
                        .unwrap_or_default()
                        .chars()
                        .take(3)
                        .collect(),
                }),
            },
            0x21..=0x7e => Ok(Item::Raw(byte)),
            _ => Err(TargetError::RawByte { byte }),
        })
    })
}

fn find_plain_dot_segment(text: &[u8]) -> Option<String> {
    let unified = unify_delimiters(text);
    let mut segments = unified.split(|byte| *byte == b'/');
    let found = segments.find(|segment| {
        let name = segment.split(|byte| *byte == b';').next();
        matches!(name, Some(b"." | b".."))
    })?;
    Some(String::from_utf8_lossy(found).into_owned())
}

/// Writes every separator as `/` and every start of segment parameters as `;`.
fn unify_delimiters(text: &[u8]) -> Vec<u8> {
    rewrite_escapes(text, |byte| match byte {
        b'/' | b'\\' => Some(b'/'),
        b';' => Some(b';'),
        _ => None,
    })
    .into_iter()
    .map(|byte| if byte == b'\\' { b'/' } else { byte })
    .collect()
}

/// Decodes once; what is no escape stays as it is.
pub(crate) fn decode(text: &[u8]) -> Vec<u8> {
    rewrite_escapes(text, Some)
}

/// Replaces the escapes for which `rewrite` has a byte.
fn rewrite_escapes(text: &[u8], rewrite: impl Fn(u8) -> Option<u8>) -> Vec<u8> {
    let mut written = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match escaped_byte(text, at).and_then(&rewrite) {
            Some(byte) => {
                written.push(byte);
                at += 3;
            }
            None => {
                written.push(*byte);
                at += 1;
            }
        }
    }
    written
}

/// The byte that the escape at `at` stands for, if there is one.
fn escaped_byte(text: &[u8], at: usize) -> Option<u8> {
    let hex = |byte: &u8| {
        char::from(*byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    match text.get(at..at + 3)? {
        [b'%', high, low] => Some(hex(high)? << 4 | hex(low)?),
        _ => None,
    }
}

fn contains_escape(path: &str, escapes: &[&str]) -> bool {
    let is_one = |found: &[u8]| {
        let mut escapes = escapes.iter();
        escapes.any(|escape| found.eq_ignore_ascii_case(escape.as_bytes()))
    };
    path.contains('%') && path.as_bytes().windows(3).any(is_one)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(raw: &str) -> Result<RequestTarget, TargetError> {
        RequestTarget::new(&Method::GET, raw)
    }

    fn code(raw: &str) -> &'static str {
        parse(raw).map_or_else(|error| error.code(), |_| "accepted")
    }

    #[track_caller]
    fn assert_all(expected: &str, targets: &[&str]) {
        for target in targets {
            assert_eq!(code(target), expected, "{target:?}");
        }
    }

    #[test]
    fn ordinary_targets_are_accepted_and_kept_byte_for_byte() {
        for raw in [
            "/",
            "/?",
            "/a/",
            "/api/v1/pods?labelSelector=app%3Dx&limit=500",
            "/a%2Fb",
            "/a%2fb/c",
            "/...",
            "/.../..a/a../.a/a.",
            "/a/.well-known/x.y",
            "/a;b=..",
            "/;..",
            "/%C3%A9%E2%82%AC/%F0%9F%98%80",
            "/%20%22%3C%3E%60%7B%7D%25%2B%3F%23%5B",
            "/~user/-_.!$&'()*+,;=:@",
            "/a?x=http://foo/../bar//baz&y=%00%ff%5c..%2f..\\",
            "/a?b?c=d",
            "/%2D%5F%7E%2E%2E%2E",
            "/a/%2e%2ex/.%2e.",
        ] {
            let target = parse(raw).unwrap_or_else(|error| panic!("{raw}: {error}"));
            assert_eq!(target.as_str(), raw);
            let query = target
                .query()
                .map_or_else(String::new, |query| format!("?{query}"));
            assert_eq!(format!("{}{query}", target.path()), raw);
        }
    }

    #[test]
    fn a_dot_segment_is_refused_in_every_disguise() {
        assert_all(
            "dot-segment",
            &[
                "/.",
                "/..",
                "/./a",
                "/a/../b",
                "/a/..?q",
                "/a/%2e",
                "/a/%2e%2e/b",
                "/a/.%2E/b",
                "/a/%2E./b",
                "/a/..%2fb",
                "/a%2f..%2Fb",
                "/a%2F%2e%2e",
                "/a/..;/b",
                "/a/..;x=y;z/b",
                "/a/.;/b",
                "/a/..%3bx/b",
                "/a/..%3Bx",
                "/a/%2e%2e;a=b/c",
                "/a/%2e%2e%3ba=b/c",
                "/a/%252e%252e/b",
                "/a/%252e%252e%252fb",
                "/a/.%252e",
                "/a/%2e%252e",
                "/a/..%253b",
                "/a/..%253Bx/b",
                "/a/..%252fb",
                "/a/x%252f..%252fb",
                "/a/x%252f%252e%252e",
                "/a/..%255cb",
                "/a/x%255c..",
                "/a/%25252e%25252e/b",
                "/a/..%25252fb",
                "/a/..%25253bx",
                "/a/%2e%25252e",
                "/%252e./x",
            ],
        );
    }

    #[test]
    fn decoding_stops_after_three_rounds() {
        assert_all("accepted", &["/a/%2525252e%2525252e/b"]);
    }

    #[test]
    fn backslashes_in_the_path_are_refused() {
        assert_all(
            "backslash",
            &["/a\\b", "/a%5cb", "/a%5Cb", "/..\\a", "/..%5c"],
        );
    }

    #[test]
    fn control_bytes_are_refused() {
        let escapes = (0x00..=0x1f).chain([0x7f]);
        for byte in escapes {
            assert_eq!(
                code(&format!("/a%{byte:02x}")),
                "control-byte",
                "%{byte:02x}"
            );
            assert_eq!(
                code(&format!("/a%{byte:02X}")),
                "control-byte",
                "%{byte:02X}"
            );
        }
        assert_all(
            "raw-byte",
            &[
                "/a b", "/a\tb", "/a\r\nb", "/a\0", "/a\x7f", "/a?b c", "/a?\n",
            ],
        );
    }

    #[test]
    fn every_escaped_ascii_letter_and_digit_is_refused() {
        for byte in (0..=0x7fu8).filter(u8::is_ascii_alphanumeric) {
            assert_eq!(
                code(&format!("/{byte:02x}%{byte:02x}")),
                "escaped-alphanumeric"
            );
            assert_eq!(code(&format!("/%{byte:02X}")), "escaped-alphanumeric");
        }
        assert_all("escaped-alphanumeric", &["/api/v1/%73ecrets", "/%25%32%65"]);
    }

    #[test]
    fn bytes_that_are_not_utf8_are_refused() {
        assert_all("raw-byte", &["/é", "/a?é", "/\u{80}", "/．．/x"]);
        assert_all(
            "invalid-utf8",
            &[
                "/%ff",
                "/%80",
                "/%c0%ae%c0%ae/x",
                "/%C0%AF",
                "/%e0%80%af",
                "/%f0%80%80%af",
                "/%ed%a0%80",
                "/%f4%90%80%80",
                "/%c3",
                "/%c3/%a9",
                "/%e2%82x%ac",
            ],
        );
    }

    #[test]
    fn malformed_escapes_are_refused_in_path_and_query() {
        assert_all(
            "malformed-escape",
            &[
                "/%", "/a%2", "/%zz", "/%u002e", "/%+1", "/%é", "/a?%", "/a?x=%g0", "/a?%4",
                "/%%32e",
            ],
        );
    }

    #[test]
    fn an_empty_segment_before_the_last_is_refused() {
        assert_all(
            "empty-segment",
            &["//", "//host/a", "/a//b", "/a//", "/a///"],
        );
        assert_all("accepted", &["/a/", "/a?x//y"]);
    }

    #[test]
    fn only_origin_form_is_accepted() {
        assert_all(
            "not-origin-form",
            &[
                "",
                "*",
                "?a",
                "a/b",
                "http://host/a",
                "host:443",
                "\\a",
                "%2fa",
                " /a",
            ],
        );
        assert_all("fragment", &["/a#b", "/a?b#c"]);
    }

    #[test]
    fn the_longest_target_is_sixteen_kibibytes() {
        let longest = format!("/{}", "a".repeat(MAX_TARGET_LEN - 1));
        assert_eq!(code(&longest), "accepted");
        assert_eq!(
            parse(&format!("{longest}a")),
            Err(TargetError::TooLong { len: 16_385 })
        );
        assert_eq!(code(&format!("/?{longest}")), "target-too-long");
    }

    #[test]
    fn an_error_says_what_was_found() {
        let text = |raw| parse(raw).unwrap_err().to_string();
        assert_eq!(
            text("/a/%2e%2e;v=1/b"),
            "the path has the dot segment \"..;v=1\""
        );
        assert_eq!(text("/%zz"), "the target has the malformed escape \"%zz\"");
        assert_eq!(
            text("/%73"),
            "the path has the escaped letter or digit \"%73\""
        );
        assert_eq!(
            text("/a%c0%ae"),
            "the path has escapes that are not UTF-8, from \"%C0\" on"
        );
        assert_eq!(text("/a b"), "the target has the raw byte 0x20");
    }

    #[test]
    fn query_names_are_raw_and_listed_once() {
        let names = |raw| parse(raw).unwrap().query_names().join(" ");
        assert_eq!(names("/a"), "");
        assert_eq!(names("/a?"), "");
        assert_eq!(names("/a?b=1&c&b=2&&=x&d%5B%5D=e=f"), "b c d%5B%5D");
    }

    #[test]
    fn an_encoded_slash_is_seen_in_the_path_only() {
        assert!(parse("/a%2fb").unwrap().has_encoded_slash());
        assert!(parse("/a%2F").unwrap().has_encoded_slash());
        assert!(!parse("/a?b%2F").unwrap().has_encoded_slash());
        assert!(!parse("/a%252F").unwrap().has_encoded_slash());
    }

    #[test]
    fn an_escape_that_nothing_needs_is_seen_in_the_path_only() {
        for path in ["/a%2Db", "/a%2dc", "/%2Ea", "/%5f", "/%7Ea"] {
            assert!(parse(path).unwrap().has_encoded_unreserved(), "{path}");
        }
        for path in ["/a-b", "/a%2F%20%40", "/a?b%2E", "/a%252E"] {
            assert!(!parse(path).unwrap().has_encoded_unreserved(), "{path}");
        }
    }

    /// Texts made of the pieces that disguises are made of.
    fn hostile_target() -> impl Strategy<Value = String> {
        let pieces = prop::sample::select(vec![
            "/", "\\", ".", "..", ";", "=", "%", "25", "2e", "2E", "2f", "2F", "5c", "3b", "3B",
            "%2e", "%2f", "%3b", "%5c", "%25", "%252e", "%252f", "%253b", "a", "?", "#", "%00",
            "%c3%a9", "%c0", "é", " ", "~", "+",
        ]);
        prop::collection::vec(pieces, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    proptest! {
        #[test]
        fn a_target_parses_to_itself(raw in hostile_target()) {
            if let Ok(target) = parse(&raw) {
                prop_assert_eq!(target.as_str(), &raw);
                prop_assert_eq!(parse(target.as_str()).unwrap(), target);
            }
        }

        #[test]
        fn any_text_is_judged_without_panic(raw in any::<String>()) {
            let _ = parse(&raw);
            let _ = parse(&format!("/{raw}"));
        }

        #[test]
        fn decoding_twice_and_dropping_parameters_never_gives_a_dot_segment(raw in hostile_target()) {
            if let Ok(target) = parse(&raw) {
                let once = decode(target.path().as_bytes());
                let twice = decode(&once);
                for reading in [target.path().as_bytes(), &once, &twice] {
                    for segment in reading.split(|byte| matches!(byte, b'/' | b'\\')) {
                        let name = segment.split(|byte| *byte == b';').next().unwrap();
                        prop_assert!(name != b"." && name != b"..", "{}", raw);
                    }
                }
            }
        }
    }
}

//! A glob for the value of a query parameter, with the meaning of the npm package minimatch 3 and
//! its option `dot`.
//!
//! Value and pattern are split at slashes, and each segment is matched by itself. What minimatch
//! reads in a way that nobody means is refused by name.

use std::collections::HashMap;

use thiserror::Error;

use self::segment::Segment;
use crate::utf16;
use crate::weight::Weigh;

mod brace;
mod segment;

/// Longest pattern, in bytes: far above any in use.
const MAX_LEN: usize = 4096;

/// Most segments of a pattern that has a `**`: one bit each, and one for the end.
const MAX_GLOBSTAR_SEGMENTS: usize = 63;

/// A pattern, ready to be matched.
#[derive(Clone, Debug)]
pub(crate) struct Glob {
    pattern: Box<str>,
    /// A value matches when the rest does not.
    negated: bool,
    matched: Matched,
    weight: usize,
}

#[derive(Clone, Debug)]
enum Matched {
    /// A comment.
    Nothing,
    /// Only the empty value.
    Empty,
    /// What one of these matches: the pattern with its braces expanded.
    Any(Box<[Box<[Segment]>]>),
}

impl Glob {
    /// Reads a pattern as a rule file has it.
    ///
    /// # Errors
    /// When it is too large, needs look-ahead, or has what minimatch misreads.
    pub(crate) fn parse(pattern: &str) -> Result<Self, GlobError> {
        if pattern.len() > MAX_LEN {
            return Err(GlobError::TooLarge);
        }
        let spelled = utf16::spell(pattern);
        let trimmed = spelled.trim_matches(is_space);
        let positive = |matched| Self {
            pattern: pattern.into(),
            negated: false,
            matched,
            weight: 0,
        };
        if spelled.starts_with('#') || trimmed.starts_with('#') {
            return Ok(positive(Matched::Nothing));
        }
        if trimmed.is_empty() {
            return Ok(positive(Matched::Empty));
        }
        let rest = trimmed.trim_start_matches('!');
        let mut known = HashMap::new();
        let alternatives = brace::expand(rest)?
            .iter()
            .map(|alternative| read_segments(alternative, &mut known))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            pattern: pattern.into(),
            negated: (trimmed.len() - rest.len()) % 2 == 1,
            matched: Matched::Any(alternatives),
            weight: known.values().map(Weigh::weight).sum(),
        })
    }

    /// Whether the whole of `value`, decoded, matches.
    pub(crate) fn matches(&self, value: &str) -> bool {
        let matches = match &self.matched {
            Matched::Nothing => false,
            Matched::Empty => value.is_empty(),
            Matched::Any(alternatives) => {
                let value = utf16::spell(value);
                let mut alternatives = alternatives.iter();
                alternatives.any(|segments| match_segments(segments, &value))
            }
        };
        matches != self.negated
    }

    /// The pattern as written.
    pub(crate) fn as_str(&self) -> &str {
        &self.pattern
    }

    /// Whether it is a comment, which no value matches.
    pub(crate) fn is_comment(&self) -> bool {
        matches!(self.matched, Matched::Nothing)
    }
}

impl Weigh for Glob {
    fn weight(&self) -> usize {
        self.weight
    }
}

/// Why a pattern is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum GlobError {
    /// Something that minimatch misreads, or that needs look-ahead.
    #[error("the pattern has {found}")]
    Unsupported {
        /// What it is, and what to write instead.
        found: String,
    },
    /// Longer, or with more alternatives, than is reasonable.
    #[error("the pattern is too large: use fewer braces, or more values")]
    TooLarge,
}

impl GlobError {
    fn unsupported(found: impl Into<String>) -> Self {
        Self::Unsupported {
            found: found.into(),
        }
    }
}

/// What JavaScript trims: Unicode's spaces without U+0085, and U+FEFF.
fn is_space(c: char) -> bool {
    c == '\u{feff}' || (c.is_whitespace() && c != '\u{85}')
}

/// Expanded alternatives have most of their segments in common, so each is compiled once.
fn read_segments(
    pattern: &str,
    known: &mut HashMap<String, Segment>,
) -> Result<Box<[Segment]>, GlobError> {
    let mut segments = Vec::new();
    for text in split(pattern) {
        if let Some(segment) = known.get(text) {
            segments.push(segment.clone());
            continue;
        }
        let segment = Segment::parse(text)?;
        known.insert(text.to_owned(), segment.clone());
        segments.push(segment);
    }
    let has_globstar = segments.iter().any(Segment::is_globstar);
    if has_globstar && segments.len() > MAX_GLOBSTAR_SEGMENTS {
        return Err(GlobError::TooLarge);
    }
    Ok(segments.into())
}

/// Splits where slashes stand, however many: only the first and the last segment can be empty.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut segments = text.split('/').peekable();
    let mut is_first = true;
    std::iter::from_fn(move || {
        let mut segment = segments.next()?;
        while segment.is_empty() && !is_first && segments.peek().is_some() {
            segment = segments.next()?;
        }
        is_first = false;
        Some(segment)
    })
}

/// Whether the segments of `value` are those of one alternative, in order.
fn match_segments(segments: &[Segment], value: &str) -> bool {
    if segments.iter().any(Segment::is_globstar) {
        return match_globstar(segments, value);
    }
    let mut values = split(value);
    for segment in segments {
        if !values.next().is_some_and(|value| segment.matches(value)) {
            return false;
        }
    }
    // `a/*` also matches `a/b/`.
    matches!((values.next(), values.next()), (None | Some(""), None))
}

/// The same with `**`, in one pass over the value: bit `i` is set while the segments before the `i`th
/// have been matched.
fn match_globstar(segments: &[Segment], value: &str) -> bool {
    let end = 1 << segments.len();
    let mut states = skip_globstars(segments, 1);
    let mut values = split(value).peekable();
    while let Some(value) = values.next() {
        // `**/b` also matches `a/b/`.
        if value.is_empty() && values.peek().is_none() && states & end != 0 {
            return true;
        }
        let mut next = 0;
        for (at, segment) in segments.iter().enumerate() {
            if states & 1 << at != 0 && segment.matches(value) {
                next |= 1 << (at + 1);
                if segment.is_globstar() {
                    next |= 1 << at;
                }
            }
        }
        states = skip_globstars(segments, next);
    }
    states & end != 0
}

/// A `**` may stand for no segment, unless it is the last.
fn skip_globstars(segments: &[Segment], mut states: u64) -> u64 {
    for (at, segment) in segments.iter().enumerate() {
        let is_last = at + 1 == segments.len();
        if states & 1 << at != 0 && segment.is_globstar() && !is_last {
            states |= 1 << (at + 1);
        }
    }
    states
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn assert_matches(pattern: &str, yes: &[&str], no: &[&str]) {
        let glob = Glob::parse(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
        for value in yes {
            assert!(glob.matches(value), "{pattern} should match {value:?}");
        }
        for value in no {
            assert!(!glob.matches(value), "{pattern} should not match {value:?}");
        }
    }

    #[test]
    fn an_asterisk_is_one_segment_and_two_are_many() {
        assert_matches("*", &["a", ".a", "a/"], &["", ".", "..", "a/b"]);
        assert_matches("a*", &["a", "a.b"], &["ba", "a/b"]);
        assert_matches("a/*", &["a/b", "a/b/", "a//b"], &["a/", "a", "a/.."]);
        assert_matches("**", &["", "a", "a/b/", "/"], &["..", "a/../b"]);
        assert_matches(
            "**/*req*.txt",
            &["req.txt", "/a/b/my-req-1.txt", "a//req.txt"],
            &["req.txt/a", "a/../req.txt", "req.text"],
        );
        assert_matches("a/**", &["a/b", "a/", "a/b/c"], &["a", "b/a"]);
        assert_matches("a/**/b", &["a/b", "a/x/y/b", "a/b/"], &["ab", "a/x"]);
        assert_matches("**%2Fgo.mod", &["x%2Fgo.mod"], &["a/x%2Fgo.mod", "go.mod"]);
        assert_matches("**/a/**/b", &["a/b", "x/a/y/b", "a/a/b/"], &["a", "b/a"]);
    }

    #[test]
    fn classes_and_question_marks_are_one_character() {
        assert_matches("a?", &["ab", "aé"], &["a", "abc", "a/"]);
        assert_matches("??", &["😀", "ab"], &["é", "😀😀"]);
        assert_matches("[a-c-]", &["a", "b", "-"], &["d", "ab"]);
        assert_matches("[!a]", &["b", "!"], &["a", "", "."]);
        assert_matches("[^a.]x", &["bx"], &["ax", ".x"]);
        assert_matches("[\\]*]", &["]", "*"], &["a"]);
        assert_matches("[[:alpha:]]", &["a]", ":]"], &["b", "x]"]);
        assert_matches("[a", &["[a"], &["a"]);
    }

    #[test]
    fn braces_are_alternatives() {
        assert_matches("{a,b/c}d", &["ad", "b/cd"], &["a", "{a,b/c}d"]);
        assert_matches("{a,{b,c}d}", &["a", "bd", "cd"], &["b", "ad"]);
        assert_matches("v{8..10}", &["v8", "v9", "v10"], &["v7", "v11"]);
        assert_matches("v{08..10..2}", &["v08", "v10"], &["v09", "v8"]);
        assert_matches("{c..a}", &["a", "b", "c"], &["d"]);
        assert_matches("x{,y}", &["x", "xy"], &["y"]);
        assert_matches("{a}", &["{a}"], &["a"]);
        assert_matches("\\{a,b\\}", &["{a,b}"], &["a"]);
        assert_matches("${a,b}", &["${a,b}"], &["$a"]);
    }

    #[test]
    fn groups_repeat_choose_and_exclude() {
        assert_matches("+(a|b)", &["a", "abba"], &["", "c"]);
        assert_matches("*(a|b)c", &["c", "abc"], &["dc"]);
        assert_matches("?(a)b", &["b", "ab"], &["aab"]);
        assert_matches("@(a|b*).txt", &["a.txt", "bcd.txt"], &["ab.txt"]);
        assert_matches("!!(a)", &["(a)"], &["a"]);
        assert_matches("a!(b)", &["a", "ac", "abb"], &["ab", "b"]);
        assert_matches("a!(b|c).txt", &["a.txt", "ad.txt"], &["ab.txt", "ac.txt"]);
        assert_matches("@(..)", &[], &[".."]);
    }

    #[test]
    fn the_start_negates_or_comments() {
        assert_matches("!a", &["b", "", "a/b"], &["a", "a/"]);
        assert_matches("!!a", &["a"], &["b"]);
        assert_matches("!{a,b}", &["c"], &["a", "b"]);
        assert_matches("#a", &[], &["#a", "a", ""]);
        assert_matches("\\#a", &["#a"], &["a"]);
        assert_matches("", &[""], &["a", "/"]);
        assert_matches(" a ", &["a"], &[" a "]);
    }

    #[test]
    fn a_backslash_makes_a_literal() {
        assert_matches("\\*", &["*"], &["a", "\\*"]);
        assert_matches("a\\?b*", &["a?b", "a?bc"], &["axb"]);
        assert_matches("a\\", &["a\\"], &["a"]);
    }

    #[test]
    fn what_minimatch_misreads_is_refused_by_name() {
        let look_ahead = "the pattern has a \"!(\" that needs look-ahead: it may stand once in a \
                          segment, behind a text without \"*\" and groups";
        for (pattern, error) in [
            ("*!(a)", look_ahead),
            ("a!(b)!(c)", look_ahead),
            ("a@(b|!(c))", look_ahead),
            ("a!(b!(c))", look_ahead),
            ("@(a)!(b)", look_ahead),
            (
                "+(a",
                "the pattern has a \"+(\" without \")\" (write \"\\(\")",
            ),
            (
                "*[a",
                "the pattern has a \"[\" without \"]\" (write \"\\[\")",
            ),
            (
                "(*)",
                "the pattern has a wildcard right before \")\" (write \"\\)\")",
            ),
            (
                "*|a",
                "the pattern has a wildcard right before \"|\" (write \"\\|\")",
            ),
            (
                "a?]",
                "the pattern has a wildcard right before \"]\" (write \"\\]\")",
            ),
            ("[z-a]", "the pattern has a range out of order in a class"),
            (
                "[]a]",
                "the pattern has a class that starts with \"]\" (write \"\\]\")",
            ),
            ("[\\d]", "the pattern has the escape \"\\d\" in a class"),
            ("[a\\-z]", "the pattern has the escape \"\\-\" in a class"),
            (
                "\\@(a)",
                "the pattern has a \"\\@\" (write \"@\" or \"[@]\")",
            ),
        ] {
            let refused = Glob::parse(pattern).map(|_| ()).unwrap_err();
            assert_eq!(refused.to_string(), error, "{pattern}");
        }
    }

    #[test]
    fn a_pattern_that_expands_to_too_much_is_refused() {
        let nested = "{a,".repeat(1000) + &"}".repeat(1000);
        let stray = "{a}".to_owned() + &"}".repeat(3000) + ",z}";
        let globstars = "**/a/".repeat(40);
        for pattern in [
            &*"{a,b}".repeat(10),
            &*"{a,b}".repeat(800),
            "{1..1001}",
            "{1..999999999999999}",
            "{1..9999999999999999999}",
            "{0000000000000000001..2}",
            &nested,
            &stray,
            &globstars,
            &*"*a".repeat(2048),
            &*"a".repeat(4097),
            &*"{".repeat(10_000),
        ] {
            assert_eq!(
                Glob::parse(pattern).map(|_| ()),
                Err(GlobError::TooLarge),
                "{pattern}"
            );
        }
        assert!(Glob::parse("{1..1000}").is_ok());
        assert!(Glob::parse(&"{a..a}".repeat(600)).is_ok());
        assert!(Glob::parse(&"{".repeat(4096)).is_ok());
    }

    #[test]
    fn the_longest_value_takes_one_pass() {
        let value = "a/".repeat(1 << 13);
        let long = "a".repeat(1 << 14);
        for pattern in [
            &*"**/*a/".repeat(30),
            "**/*a*a*a*b",
            &*"*a".repeat(100),
            "+(a|aa)b",
        ] {
            let glob = Glob::parse(pattern).unwrap();
            assert!(!glob.matches(&format!("{value}b")), "{pattern}");
            assert!(!glob.matches(&format!("{long}c")), "{pattern}");
        }
    }

    proptest! {
        #[test]
        fn any_pattern_is_read_without_panic(
            pattern in "[ab*?+@!(|)\\[\\]{},./\\\\0-9^$#é😀\n-]{0,24}",
            value in "[ab./é😀\n]{0,16}",
        ) {
            if let Ok(glob) = Glob::parse(&pattern) {
                glob.matches(&value);
            }
        }

        #[test]
        fn an_escaped_value_matches_itself_alone(value in "[a*?+!(|)\\[\\]{},.$é😀-]{1,12}", other: String) {
            let escaped: String = value.chars().flat_map(|c| ['\\', c]).collect();
            let glob = Glob::parse(&escaped).unwrap();
            prop_assert!(glob.matches(&value));
            let is_the_same = other == value || other.strip_suffix('/') == Some(&value);
            prop_assert_eq!(glob.matches(&other), is_the_same);
        }
    }
}

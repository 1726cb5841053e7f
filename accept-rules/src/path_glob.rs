//! Globs of version 2: for paths, query values, and Kubernetes' names. The one place that builds them.

use globset::GlobBuilder;
use regex::bytes;
use thiserror::Error;

use crate::explain::Segment;
use crate::path_pattern::{build_regex, usable_ending};
use crate::target::find_dot_segment;
use crate::weight::Weigh;

/// Longest glob, in bytes: far above any in use, and a bound for what it costs to match a long path.
const MAX_LEN: usize = 1024;

/// A glob: `*` is within one segment, and not empty where it is all of it; `**`, a segment of its
/// own, is any number of segments. Letters match in the case that they are written in.
#[derive(Clone, Debug)]
pub(crate) struct SegmentGlob {
    /// What every matching text starts with.
    head: Box<str>,
    tail: Tail,
    weight: usize,
}

/// What may follow the head.
#[derive(Clone, Debug)]
enum Tail {
    /// Nothing.
    End,
    /// Anything: the glob ends in `/**`.
    Anything,
    /// What the expression, which covers head and tail, says.
    Expression(bytes::Regex),
}

impl SegmentGlob {
    /// Reads a glob as a rule has it.
    pub(crate) fn parse(glob: &str) -> Result<Self, PathGlobError> {
        if glob.len() > MAX_LEN {
            return Err(PathGlobError::TooLarge);
        }
        let is_misplaced = |segment: &str| segment.contains("**") && segment != "**";
        if let Some(segment) = glob.split('/').find(|segment| is_misplaced(segment)) {
            return Err(PathGlobError::Recursive {
                segment: segment.to_owned(),
            });
        }
        let literal_len = glob.find(is_special).unwrap_or(glob.len());
        let (literal, rest) = glob.split_at(literal_len);
        let (tail, weight) = match rest {
            "" => (Tail::End, 0),
            "**" if literal.ends_with('/') => (Tail::Anything, 0),
            _ => {
                let (expression, weight) = compile(glob)?;
                (Tail::Expression(expression), weight)
            }
        };
        Ok(Self {
            head: literal.into(),
            tail,
            weight,
        })
    }

    /// Whether the whole of `text` matches.
    pub(crate) fn matches(&self, text: &str) -> bool {
        let Some(tail) = text.strip_prefix(&*self.head) else {
            return false;
        };
        match &self.tail {
            Tail::End => tail.is_empty(),
            Tail::Anything => true,
            Tail::Expression(expression) => expression.is_match(text.as_bytes()),
        }
    }

    /// Whether the whole of a query value matches. No wildcard stands for a dot segment: `docs/**` does not
    /// mean `docs/../secrets`.
    pub(crate) fn matches_value(&self, value: &str) -> bool {
        let literal_len = match &self.tail {
            Tail::End => return self.matches(value),
            Tail::Anything | Tail::Expression(_) => self.head.rfind('/').map_or(0, |at| at + 1),
        };
        let has_dots = |rest: &str| find_dot_segment(rest.as_bytes()).is_some();
        self.matches(value) && !value.get(literal_len..).is_some_and(has_dots)
    }
}

impl Weigh for SegmentGlob {
    fn weight(&self) -> usize {
        self.weight
    }
}

/// A glob for a whole path, which starts with `/`. A `/` at the end stands for itself.
#[derive(Clone, Debug)]
pub(crate) struct PathGlob {
    glob: SegmentGlob,
    /// What every matching path ends in, but for one `/`.
    ending: Box<str>,
    /// Whether it says something about a `/` at the end.
    may_end_in_slash: bool,
}

impl PathGlob {
    /// Reads a rule's path.
    pub(crate) fn parse(path: &str) -> Result<Self, PathGlobError> {
        let segments = path.strip_prefix('/').ok_or(PathGlobError::NoSlash)?;
        if let Some(found) = path.chars().find(|c| !c.is_ascii_graphic() || *c == '#') {
            return Err(PathGlobError::NeverInPath { found });
        }
        if path.contains('?') {
            return Err(PathGlobError::QuestionMark);
        }
        let mut before_last = segments.rsplit('/').skip(1);
        if before_last.any(str::is_empty) || segments.split('/').any(|s| matches!(s, "." | "..")) {
            return Err(PathGlobError::NeverASegment);
        }
        Ok(Self {
            glob: SegmentGlob::parse(path)?,
            ending: usable_ending(path.rsplit(is_special).next().unwrap_or_default()),
            may_end_in_slash: path.ends_with('/') || path.ends_with("/**"),
        })
    }

    /// Whether `path`, a request target's path, matches as a whole.
    pub(crate) fn matches(&self, path: &str) -> bool {
        // A segment at the end that is empty is none that a `*` means.
        (self.may_end_in_slash || !path.ends_with('/')) && self.glob.matches(path)
    }

    /// What every matching path starts with.
    pub(crate) fn head(&self) -> &str {
        &self.glob.head
    }

    /// What every matching path ends in, but for one `/`.
    pub(crate) fn ending(&self) -> &str {
        &self.ending
    }

    /// What one segment of a rule's path matches by itself.
    pub(crate) fn segment(text: &str) -> Segment<'_> {
        match (text, text.split_once(is_special)) {
            ("**", _) => Segment::Rest,
            ("*", _) => Segment::Any,
            (_, None) => Segment::Exact(text),
            // Braces may go on over slashes.
            (_, Some((start, _))) => Segment::Open(start),
        }
    }
}

impl Weigh for PathGlob {
    fn weight(&self) -> usize {
        self.glob.weight()
    }
}

/// Why a glob cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PathGlobError {
    /// A path that does not start with `/`.
    #[error("a path starts with \"/\"")]
    NoSlash,
    /// A character that no request's path has.
    #[error("no request's path has the character {found:?}: write it percent-encoded")]
    NeverInPath {
        /// The character.
        found: char,
    },
    /// A `?`, which would be any character here, and begins the query in a request.
    #[error(
        "a \"?\" is no part of a path: ask for query parameters in \"query\", and write \"*\" for \
         what varies"
    )]
    QuestionMark,
    /// A segment that no request's path has.
    #[error("no request's path has a segment that is empty, \".\" or \"..\"")]
    NeverASegment,
    /// A `**` beside something else; readers would differ in what it means.
    #[error("the segment {segment:?} has a \"**\" that is not all of it")]
    Recursive {
        /// The segment.
        segment: String,
    },
    /// Something else than a glob for one name.
    #[error("write a name, or a glob within one, without \"/\" and \"**\"")]
    NotOneSegment,
    /// The glob is longer, or compiles to more than is reasonable.
    #[error("the glob is too large: write it as several")]
    TooLarge,
    /// A class of characters of which some take several bytes.
    #[error("a class such as \"[a-z]\" works beside ASCII characters only")]
    Class,
    /// Anything else that the compiler refuses.
    #[error("the glob cannot be compiled: {found}")]
    Syntax {
        /// What the compiler says.
        found: String,
    },
}

/// Whether a character may be other than itself.
fn is_special(c: char) -> bool {
    matches!(c, '*' | '?' | '[' | ']' | '{' | '}' | '\\')
}

fn compile(glob: &str) -> Result<(bytes::Regex, usize), PathGlobError> {
    // What is matched is bytes.
    if !glob.is_ascii() && glob.contains('[') {
        return Err(PathGlobError::Class);
    }
    let segments: Vec<&str> = glob
        .split('/')
        .map(|segment| if segment == "*" { "?*" } else { segment })
        .collect();
    let glob = GlobBuilder::new(&segments.join("/"))
        // Without it a `*`, or a class such as `[!a]`, would match a slash.
        .literal_separator(true)
        .backslash_escape(true)
        .build()
        .map_err(|error| PathGlobError::Syntax {
            found: error.kind().to_string(),
        })?;
    build_regex(glob.regex(), false).map_err(|error| {
        if matches!(error, regex::Error::CompiledTooBig(_)) {
            return PathGlobError::TooLarge;
        }
        PathGlobError::Syntax {
            found: error.to_string(),
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn assert_matches(glob: &str, yes: &[&str], no: &[&str]) {
        let compiled = PathGlob::parse(glob).unwrap_or_else(|error| panic!("{glob}: {error}"));
        for path in yes {
            assert!(compiled.matches(path), "{glob} should match {path}");
        }
        for path in no {
            assert!(!compiled.matches(path), "{glob} should not match {path}");
        }
    }

    #[test]
    fn a_literal_path_matches_itself_alone() {
        assert_matches("/", &["/"], &["/a"]);
        assert_matches("/Api/x", &["/Api/x"], &["/api/x", "/Api/x/", "/Api/xy"]);
        assert_matches("/a/", &["/a/"], &["/a", "/a/b"]);
        assert_matches("/a%2Fb", &["/a%2Fb"], &["/a%2fb", "/a/b"]);
        assert_matches("/a.b+(c)$", &["/a.b+(c)$"], &["/axb+(c)$"]);
    }

    #[test]
    fn an_asterisk_stays_within_one_segment_and_is_not_empty() {
        assert_matches("/*", &["/a", "/.a"], &["/", "/a/", "/a/b"]);
        assert_matches("/a/*", &["/a/b"], &["/a", "/a/", "/a/b/", "/a/b/c"]);
        assert_matches("/a/*/", &["/a/b/"], &["/a/b", "/a/", "/a/b/c/"]);
        assert_matches("/a/*/c", &["/a/b/c"], &["/a/c", "/a/b/b/c"]);
        assert_matches(
            "/pods*",
            &["/pods", "/podsecrets"],
            &["/pods/", "/pods/x", "/pod"],
        );
        assert_matches("/r-*.json", &["/r-1.json"], &["/r-1.json/", "/r-/.json"]);
    }

    #[test]
    fn two_asterisks_are_any_number_of_segments() {
        assert_matches("/**", &["/", "/a", "/a/b/"], &[]);
        assert_matches("/a/**", &["/a/", "/a/b", "/a/b/c/"], &["/a", "/ab", "/A/b"]);
        assert_matches(
            "/a/**/z",
            &["/a/z", "/a/b/z", "/a/b/c/z"],
            &["/az", "/a/bz", "/a/z/"],
        );
        assert_matches("/**/z", &["/z", "/a/b/z"], &["/az"]);
        assert_matches("/a/*/**", &["/a/b/", "/a/b/c"], &["/a/", "/a/b"]);
    }

    #[test]
    fn a_class_or_an_alternative_never_crosses_a_slash_unless_it_writes_one() {
        assert_matches("/a[!x]b", &["/a-b"], &["/a/b", "/axb"]);
        assert_matches("/a[^x]b", &["/a-b"], &["/a/b"]);
        assert_matches("/a[+-9]b", &["/a0b", "/a+b", "/a.b"], &["/a/b"]);
        assert_matches("/a[[:punct:]]b", &["/a-b"], &["/a/b"]);
        assert_matches("/a[/]b", &[], &["/a/b"]);
        assert_matches("/{a,b}/c", &["/a/c", "/b/c"], &["/c/c", "/a,b/c"]);
        assert_matches("/{a/b,c}", &["/a/b", "/c"], &["/a/c", "/a"]);
        assert_matches("/a/{b,*}", &["/a/b", "/a/c"], &["/a/", "/a/c/d"]);
    }

    #[test]
    fn a_backslash_makes_a_literal() {
        assert_matches("/a\\*", &["/a*"], &["/ab"]);
        assert_matches("/\\{a\\}\\[b\\]", &["/{a}[b]"], &["/a"]);
    }

    #[test]
    fn a_path_that_no_request_has_is_refused_by_name() {
        for (glob, error) in [
            ("", "a path starts with \"/\""),
            ("a/b", "a path starts with \"/\""),
            (
                "/a b",
                "no request's path has the character ' ': write it percent-encoded",
            ),
            (
                "/é",
                "no request's path has the character 'é': write it percent-encoded",
            ),
            (
                "/a#b",
                "no request's path has the character '#': write it percent-encoded",
            ),
            (
                "/a?b=c",
                "a \"?\" is no part of a path: ask for query parameters in \"query\", and write \
                 \"*\" for what varies",
            ),
            (
                "/a//b",
                "no request's path has a segment that is empty, \".\" or \"..\"",
            ),
            (
                "/a/..",
                "no request's path has a segment that is empty, \".\" or \"..\"",
            ),
            (
                "/a**",
                "the segment \"a**\" has a \"**\" that is not all of it",
            ),
            (
                "/{**,a}",
                "the segment \"{**,a}\" has a \"**\" that is not all of it",
            ),
            (
                "/[a",
                "the glob cannot be compiled: unclosed character class; missing ']'",
            ),
            (
                "/{a",
                "the glob cannot be compiled: unclosed alternate group; missing '}' (maybe escape \
                 '{' with '[{]'?)",
            ),
        ] {
            let found = PathGlob::parse(glob).unwrap_err().to_string();
            assert_eq!(found, error, "{glob}");
        }
        let long = format!("/{}", "a".repeat(MAX_LEN));
        assert_eq!(PathGlob::parse(&long).unwrap_err(), PathGlobError::TooLarge);
    }

    #[test]
    fn no_wildcard_stands_for_a_dot_segment_of_a_query_value() {
        let matches =
            |glob: &str, value: &str| SegmentGlob::parse(glob).unwrap().matches_value(value);
        for value in [
            "docs/../x",
            "docs/a/..",
            "docs/.",
            "docs/..\\x",
            "docs/%2e%2E/x",
            "docs/..;a/x",
        ] {
            assert!(!matches("docs/**", value), "{value}");
            assert!(!matches("**", value), "{value}");
        }
        assert!(!matches("*", "..") && !matches("docs/.*", "docs/.."));
        assert!(matches("docs/**", "docs/a..b/.c/...") && matches("docs/a*", "docs/a."));
        assert!(matches("../docs/*", "../docs/a") && matches("..", ".."));
    }

    #[test]
    fn a_query_value_is_matched_in_the_same_way() {
        let matches =
            |glob: &str, value: &str| SegmentGlob::parse(glob).unwrap().matches_value(value);
        assert!(matches("main", "main") && !matches("main", "Main"));
        assert!(matches("*", "main") && !matches("*", "") && !matches("*", "a/b"));
        assert!(matches("**", "") && matches("**", "a/b"));
        assert!(matches("**/*.json", "a/b.json") && matches("**/*.json", "b.json"));
        assert!(matches("", "") && !matches("", "a"));
        assert!(matches("?é*", "xé/".trim_end_matches('/')) && !matches("é*", "e"));
        assert_eq!(SegmentGlob::parse("[é]").unwrap_err(), PathGlobError::Class);
    }

    #[test]
    fn a_hostile_glob_is_refused_in_bounds() {
        let depth = MAX_LEN / 2 - 1;
        let nested = format!("/{}a{}", "{".repeat(depth), "}".repeat(depth));
        let error = PathGlob::parse(&nested).unwrap_err().to_string();
        assert!(error.ends_with("nested too deeply"), "{error}");
        let wide = format!("/{}", "{a,b}*".repeat(MAX_LEN / 8));
        let narrow = format!("/{}", "[!a-z]*".repeat(MAX_LEN / 8));
        let path = format!("/{}", "b".repeat(16 * 1024));
        assert!(PathGlob::parse(&wide).unwrap().matches(&path));
        assert!(!PathGlob::parse(&narrow).unwrap().matches(&path));
    }

    proptest! {
        #[test]
        fn only_a_double_asterisk_or_a_written_slash_matches_a_slash(
            glob in "/([ab*.{},!^+9\\[\\]-]|\\[[!^]?[+-9ab]{1,3}\\]){0,8}",
            path in "/[ab.+9]{0,2}/[ab.+9]{0,3}",
        ) {
            if let Ok(glob) = PathGlob::parse(&glob) {
                prop_assert!(!glob.matches(&path));
            }
        }

        #[test]
        fn the_short_cuts_agree_with_the_expression(
            glob in "(/[aA.]{1,2}){1,2}(/|/\\*\\*)?",
            path in "(/[aA.]{1,2}){0,3}/?",
        ) {
            let short = SegmentGlob::parse(&glob).unwrap();
            prop_assert!(!matches!(short.tail, Tail::Expression(_)));
            let (expression, _) = compile(&glob).unwrap();
            prop_assert_eq!(short.matches(&path), expression.is_match(path.as_bytes()));
        }

        #[test]
        fn any_glob_is_read_without_panic(glob in "/?[ -~é]{0,24}", path in "/[ -~]{0,24}") {
            if let Ok(glob) = PathGlob::parse(&glob) {
                glob.matches(&path);
            }
            if let Ok(glob) = SegmentGlob::parse(&glob) {
                glob.matches(&path);
            }
        }
    }
}

//! A rule's path, with the meaning of the npm package path-to-regexp 1.9 and its default options.

use std::sync::LazyLock;

use regex::bytes;
use regex::{Captures, Regex};
use thiserror::Error;

use crate::explain::Segment;
use crate::js_regex::{self, escape_in_class};
use crate::target::MAX_TARGET_LEN;
use crate::weight::{Weigh, weighed};

mod group;

/// Largest compiled pattern, in bytes: far above any path in use, and a file of thousands of rules
/// still fits in memory.
const COMPILED_SIZE_LIMIT: usize = 1 << 20;

/// Cache of one pattern's lazy automaton, in bytes. The default of 2 MiB is for long texts; a path
/// is short, and hundreds of rules each keep a cache.
const AUTOMATON_CACHE_LIMIT: usize = 1 << 16;

/// What segments stand between.
const DELIMITER: char = '/';

/// A rule's path, ready to be matched.
///
/// Letters match in either case, one `/` at the end is optional, and the whole path must match.
#[derive(Clone, Debug)]
pub(crate) struct PathPattern {
    /// What every matching path starts with, in either case.
    head: Box<str>,
    /// What every matching path ends in, in either case, but for one `/`.
    ending: Box<str>,
    tail: Tail,
    weight: usize,
}

/// What may follow the head.
#[derive(Clone, Debug)]
enum Tail {
    /// These, one after the other, and then the rest.
    Parts { parts: Box<[Part]>, rest: Rest },
    /// What the expression, which covers head and tail, says.
    Expression(bytes::Regex),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    /// `/` and one segment that is not empty: `:name`.
    Segment,
}

/// What follows the parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// Nothing, or one `/`.
    Nothing,
    /// Anything: the path ends in a bare `*`.
    Anything,
    /// Segments, or none, and then the ending: `:name*`. Before the ending a `/` may have to stand.
    Segments { slash: bool },
}

impl PathPattern {
    /// Reads a rule's path, which starts with `/`.
    pub(crate) fn parse(path: &str) -> Result<Self, PathPatternError> {
        if path.len() > MAX_TARGET_LEN {
            return Err(PathPatternError::TooLarge);
        }
        let tokens = tokenize(path)?;
        let mut weight = 0;
        let (head, ending, tail) = match Parts::of(&tokens) {
            Some(parts) => parts.split(),
            None => {
                let literal = |token: Option<&Token>| match token {
                    Some(Token::Literal(text)) => text.clone(),
                    Some(Token::Parameter(_)) | None => String::new(),
                };
                let ending = literal(tokens.last());
                let (expression, own_weight) = compile(&tokens)?;
                weight = own_weight;
                (
                    literal(tokens.first()),
                    without_slash(&ending).to_owned(),
                    Tail::Expression(expression),
                )
            }
        };
        Ok(Self {
            head: head.into(),
            ending: usable_ending(&ending),
            tail,
            weight,
        })
    }

    /// Whether `path`, a request target's path, matches as a whole.
    pub(crate) fn matches(&self, path: &str) -> bool {
        let Some(mut rest) = strip(path, &self.head) else {
            return false;
        };
        if !ends_like(path, &self.ending) {
            return false;
        }
        match &self.tail {
            Tail::Parts {
                parts,
                rest: wanted,
            } => {
                for part in parts {
                    match part.strip(rest) {
                        Some(after) => rest = after,
                        None => return false,
                    }
                }
                wanted.matches(rest, &self.ending)
            }
            Tail::Expression(expression) => expression.is_match(path.as_bytes()),
        }
    }

    /// What every matching path starts with, in either case.
    pub(crate) fn head(&self) -> &str {
        &self.head
    }

    /// What every matching path ends in, in either case, but for one `/`.
    pub(crate) fn ending(&self) -> &str {
        &self.ending
    }

    /// What one segment of a rule's path matches by itself.
    pub(crate) fn segment(text: &str) -> Segment<'_> {
        let is_special = |byte| matches!(byte, b':' | b'*' | b'(' | b'\\');
        let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        match text.as_bytes() {
            b"*" => Segment::Rest,
            [b':', name @ ..] if !name.is_empty() && name.iter().all(is_word) => Segment::Any,
            bytes => match bytes.iter().position(|byte| is_special(*byte)) {
                None => Segment::Literal(text),
                Some(end) => {
                    // A dot before a parameter belongs to it, and may be left out with it.
                    let start = text.get(..end).unwrap_or_default();
                    Segment::Open(start.strip_suffix('.').unwrap_or(start))
                }
            },
        }
    }
}

impl Part {
    /// What follows it.
    fn strip<'p>(&self, path: &'p str) -> Option<&'p str> {
        match self {
            Self::Literal(text) => strip(path, text),
            Self::Segment => {
                let path = path.strip_prefix('/')?;
                let end = path.find('/').unwrap_or(path.len());
                path.get(end..).filter(|_| end > 0)
            }
        }
    }
}

impl Rest {
    /// Whether `rest` is as wanted; `ending` is what the whole path ends in.
    fn matches(self, rest: &str, ending: &str) -> bool {
        match self {
            Self::Nothing => matches!(rest, "" | "/"),
            Self::Anything => true,
            Self::Segments { slash } => {
                let rest = without_slash(rest);
                let len = rest.len().checked_sub(ending.len());
                match len.and_then(|len| rest.get(..len)) {
                    Some("") => !slash,
                    Some("/") => slash,
                    Some(segments) => {
                        let is_whole = segments.starts_with('/') && !segments.ends_with('/');
                        is_whole && !segments.contains("//")
                    }
                    None => false,
                }
            }
        }
    }
}

impl Weigh for PathPattern {
    fn weight(&self) -> usize {
        self.weight
    }
}

/// Why a rule's path cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PathPatternError {
    /// A group that the matcher cannot or must not run.
    #[error("the group \"({group})\" has {found}")]
    Group {
        /// The expression between the parentheses.
        group: String,
        /// What is wrong with it.
        found: String,
    },
    /// A parameter glued to a text after another parameter, which needs look-ahead.
    #[error(
        "the parameter after \"{text}\" needs look-ahead, which is not supported: put a \"/\" or a \
         single character before it, or give it an expression such as \":name([^/]+)\""
    )]
    LookAhead {
        /// The text between the two parameters.
        text: String,
    },
    /// The path is longer than any target, or compiles to more than is reasonable.
    #[error("the pattern is too large: use fewer repetitions")]
    TooLarge,
    /// Anything else that the expression compiler refuses.
    #[error("the pattern cannot be compiled: {found}")]
    Other {
        /// The compiler's last line.
        found: String,
    },
}

/// The parts of a path, as path-to-regexp calls them.
#[derive(Clone, Debug)]
pub(crate) enum Token {
    Literal(String),
    Parameter(Parameter),
}

#[derive(Clone, Debug)]
pub(crate) struct Parameter {
    prefix: Option<char>,
    /// Something else than the prefix follows, so that the prefix stays when the value is left out.
    partial: bool,
    pub(crate) optional: bool,
    repeated: bool,
    pub(crate) asterisk: bool,
    /// The value's expression, in the syntax of the `regex` crate.
    value: String,
}

impl Parameter {
    fn is_segment(&self) -> bool {
        let whole = self.prefix == Some(DELIMITER) && !self.partial;
        whole && self.is_within_segment()
    }

    /// Whether it is one segment, or a part of one, whatever stands in it.
    pub(crate) fn is_within_segment(&self) -> bool {
        self.has_default_value(DELIMITER) && !self.optional && !self.repeated
    }

    /// Whether it has no expression of its own and ends at `delimiter`.
    pub(crate) fn has_default_value(&self, delimiter: char) -> bool {
        self.value == without(delimiter)
    }

    pub(crate) fn prefix_text(&self) -> String {
        self.prefix.map_or_else(String::new, String::from)
    }

    fn is_any_segments(&self) -> bool {
        let repeated = self.prefix == Some(DELIMITER) && self.optional && self.repeated;
        repeated && self.has_default_value(DELIMITER)
    }

    fn expression(&self) -> String {
        let prefix = regex::escape(&self.prefix_text());
        let mut value = format!("(?:{})", self.value);
        if self.repeated {
            value = format!("{value}(?:{prefix}{value})*");
        }
        match (self.optional, self.partial) {
            (true, true) => format!("{prefix}(?:{value})?"),
            (true, false) => format!("(?:{prefix}(?:{value}))?"),
            (false, _) => format!("{prefix}(?:{value})"),
        }
    }
}

/// Where a path has an escaped character, or a parameter with the `/` or `.` before it: the
/// expression by which path-to-regexp defines its syntax.
static SYNTAX: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"(?x)
        \\(?<escaped>.)
        | (?<prefix>[/.])?
          (?:
            (?: :(?<name>[A-Za-z0-9_]+) (?: \( (?<capture>(?:\\.|[^\\()])+) \) )?
              | \( (?<group>(?:\\.|[^\\()])+) \)
            ) (?<modifier>[+*?])?
            | (?<asterisk>\*)
          )",
    )
    .expect("the expression is a constant, and a test runs it")
});

pub(crate) fn tokenize(path: &str) -> Result<Vec<Token>, PathPatternError> {
    let mut tokens = Vec::new();
    let mut literal = String::new();
    let mut rest = path;
    while let Some(captures) = SYNTAX.captures(rest) {
        let (before, after) = around(rest, &captures);
        literal.push_str(before);
        match captures.name("escaped") {
            Some(escaped) => literal.push_str(escaped.as_str()),
            None => {
                if !literal.is_empty() {
                    tokens.push(Token::Literal(std::mem::take(&mut literal)));
                }
                tokens.push(Token::Parameter(parameter(
                    &captures,
                    tokens.last(),
                    after,
                )?));
            }
        }
        rest = after;
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        tokens.push(Token::Literal(literal));
    }
    Ok(tokens)
}

fn around<'a>(text: &'a str, captures: &Captures<'_>) -> (&'a str, &'a str) {
    let found = captures.get_match();
    let before = text.get(..found.start()).unwrap_or_default();
    (before, text.get(found.end()..).unwrap_or_default())
}

fn parameter(
    captures: &Captures<'_>,
    before: Option<&Token>,
    after: &str,
) -> Result<Parameter, PathPatternError> {
    let text = |name| captures.name(name).map(|found| found.as_str());
    let prefix = text("prefix").and_then(|prefix| prefix.chars().next());
    let next = after.chars().next();
    let asterisk = text("asterisk").is_some();
    let value = match text("capture").or(text("group")) {
        Some(group) => group::translate(group)?,
        None if asterisk => ".*".to_owned(),
        None => default_value(prefix, before)?,
    };
    Ok(Parameter {
        prefix,
        partial: prefix.is_some() && next.is_some() && next != prefix,
        optional: matches!(text("modifier"), Some("?" | "*")),
        repeated: matches!(text("modifier"), Some("+" | "*")),
        asterisk,
        value,
    })
}

/// The expression of a parameter that has none of its own: no delimiter in it, and, since 1.9.0,
/// where a text stands between two parameters, that text not in it either unless it is all of it.
fn default_value(prefix: Option<char>, before: Option<&Token>) -> Result<String, PathPatternError> {
    let delimiter = prefix.unwrap_or(DELIMITER);
    let text = match (prefix, before) {
        (None, Some(Token::Literal(text))) if !text.contains(delimiter) => text,
        _ => return Ok(without(delimiter)),
    };
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(only), None) if only.is_ascii() => Ok(format!(
            "{}|[^{}{}]+?",
            regex::escape(text),
            escape_in_class(only),
            escape_in_class(delimiter)
        )),
        _ => Err(PathPatternError::LookAhead { text: text.clone() }),
    }
}

/// The expression of what has no `delimiter`.
fn without(delimiter: char) -> String {
    format!("[^{}]+?", escape_in_class(delimiter))
}

/// A path that is made of literals and whole segments alone.
struct Parts {
    parts: Vec<Part>,
    rest: Rest,
    ending: String,
}

impl Parts {
    fn of(tokens: &[Token]) -> Option<Self> {
        let (before, prefix, rest, ending) = match tokens {
            [before @ .., Token::Parameter(last)] if last.asterisk => {
                (before, last.prefix_text(), Rest::Anything, "")
            }
            [before @ .., Token::Parameter(any), Token::Literal(ending)]
                if any.is_any_segments() && !usable_ending(without_slash(ending)).is_empty() =>
            {
                let slash = any.partial;
                (
                    before,
                    String::new(),
                    Rest::Segments { slash },
                    without_slash(ending),
                )
            }
            [before @ .., Token::Literal(last)] => {
                (before, without_slash(last).to_owned(), Rest::Nothing, "")
            }
            _ => (tokens, String::new(), Rest::Nothing, ""),
        };
        let part = |token: &Token| match token {
            Token::Literal(text) => Some(Part::Literal(text.clone())),
            Token::Parameter(parameter) => parameter.is_segment().then_some(Part::Segment),
        };
        let mut parts = before.iter().map(part).collect::<Option<Vec<_>>>()?;
        match parts.last_mut() {
            Some(Part::Literal(text)) => text.push_str(&prefix),
            Some(Part::Segment) | None if prefix.is_empty() => {}
            Some(Part::Segment) | None => parts.push(Part::Literal(prefix)),
        }
        let ending = match (rest, parts.last()) {
            (Rest::Nothing, Some(Part::Literal(text))) => text.clone(),
            _ => ending.to_owned(),
        };
        Some(Self {
            parts,
            rest,
            ending,
        })
    }

    /// Head, ending and tail.
    fn split(mut self) -> (String, String, Tail) {
        let head = match self.parts.first_mut() {
            Some(Part::Literal(text)) => std::mem::take(text),
            Some(Part::Segment) | None => String::new(),
        };
        self.parts
            .retain(|part| *part != Part::Literal(String::new()));
        let parts = self.parts.into();
        let tail = Tail::Parts {
            parts,
            rest: self.rest,
        };
        (head, self.ending, tail)
    }
}

fn compile(tokens: &[Token]) -> Result<(bytes::Regex, usize), PathPatternError> {
    let mut expression = String::from("^");
    for (index, token) in tokens.iter().enumerate() {
        match token {
            Token::Literal(text) if index + 1 == tokens.len() => {
                expression.push_str(&regex::escape(without_slash(text)));
            }
            Token::Literal(text) => expression.push_str(&regex::escape(text)),
            Token::Parameter(parameter) => expression.push_str(&parameter.expression()),
        }
    }
    expression.push_str("/?$");
    build_regex(&expression, true).map_err(refused)
}

/// Compiles an expression for a path, and weighs it. Bytes and no Unicode: in JavaScript `\w`, `\d` and case are
/// ASCII here, and so are targets.
pub(crate) fn build_regex(
    expression: &str,
    ignore_case: bool,
) -> Result<(bytes::Regex, usize), regex::Error> {
    weighed(COMPILED_SIZE_LIMIT, |size| {
        bytes::RegexBuilder::new(expression)
            .unicode(false)
            .case_insensitive(ignore_case)
            .size_limit(size)
            .dfa_size_limit(AUTOMATON_CACHE_LIMIT)
            .build()
    })
}

fn refused(error: regex::Error) -> PathPatternError {
    if matches!(error, regex::Error::CompiledTooBig(_)) {
        return PathPatternError::TooLarge;
    }
    PathPatternError::Other {
        found: js_regex::complaint(&error),
    }
}

/// What follows `start`, in either case.
fn strip<'p>(path: &'p str, start: &str) -> Option<&'p str> {
    let (found, rest) = path.split_at_checked(start.len())?;
    found.eq_ignore_ascii_case(start).then_some(rest)
}

/// An ending that itself ends in a slash says nothing: the slash may be the optional one.
pub(crate) fn usable_ending(text: &str) -> Box<str> {
    if text.ends_with('/') {
        Box::default()
    } else {
        text.into()
    }
}

/// Whether `path` ends so, in either case, but for one `/`.
pub(crate) fn ends_like(path: &str, ending: &str) -> bool {
    let path = without_slash(path).as_bytes();
    let start = path.len().checked_sub(ending.len());
    let found = start.and_then(|start| path.get(start..));
    found.is_some_and(|found| found.eq_ignore_ascii_case(ending.as_bytes()))
}

/// A slash at the end of the pattern is as optional as one at the end of the path.
fn without_slash(text: &str) -> &str {
    text.strip_suffix('/').unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn assert_matches(pattern: &str, yes: &[&str], no: &[&str]) {
        let compiled = PathPattern::parse(pattern).unwrap_or_else(|e| panic!("{pattern}: {e}"));
        for path in yes {
            assert!(compiled.matches(path), "{pattern} should match {path}");
        }
        for path in no {
            assert!(!compiled.matches(path), "{pattern} should not match {path}");
        }
    }

    #[test]
    fn a_literal_path_matches_in_either_case_with_an_optional_slash() {
        assert_matches("/", &["/"], &["/a"]);
        assert_matches(
            "/User",
            &["/user", "/USER", "/User/"],
            &["/users", "/user/a", "/use", "/"],
        );
        assert_matches("/user/", &["/user", "/user/"], &["/user/a"]);
        assert_matches("/a.b+c", &["/a.b+c"], &["/axb+c", "/a.bbc"]);
    }

    #[test]
    fn whole_segments_need_no_expression() {
        for pattern in [
            "/",
            "/a/:b",
            "/:a/:b/c/*",
            "/a/:b/",
            "/:a/b*",
            "/*",
            "/a/:b*/c.json",
            "/:a/:b*%2Fc",
        ] {
            let compiled = PathPattern::parse(pattern).unwrap();
            assert!(matches!(compiled.tail, Tail::Parts { .. }), "{pattern}");
        }
    }

    #[test]
    fn a_bare_asterisk_matches_anything_even_slashes_and_nothing() {
        assert_matches("/*", &["/", "/a", "/a/b/"], &[]);
        assert_matches("/e/*", &["/e/", "/e/a/b", "/E/a"], &["/e", "/ex"]);
        assert_matches(
            "/api/v1/pods*",
            &["/api/v1/pods", "/api/v1/podsecrets", "/api/v1/pods/x/y"],
            &["/api/v1/pod", "/x/api/v1/pods"],
        );
        assert_matches(
            "/browse*/*.tf",
            &["/browse/a.tf", "/browse/a/b/c.tf/"],
            &["/browse.tf"],
        );
        assert_matches(
            "/a/*/c",
            &["/a/b/c", "/a//c", "/a/b/b/c/"],
            &["/a/c", "/a/b/cc"],
        );
    }

    #[test]
    fn a_parameter_is_one_segment_as_it_is_encoded() {
        assert_matches(
            "/a/:b",
            &["/a/x", "/a/x/", "/a/x%2Fy"],
            &["/a/x/y", "/a/", "/a"],
        );
        assert_matches("/:a/b", &["/x/b", "/x/B/"], &["/b", "//b", "/x/y/b"]);
        assert_matches("/a:b", &["/ax", "/ax/"], &["/a", "/a/"]);
        assert_matches("/:a-:b", &["/x-y", "/x-y-z"], &["/x", "/x-y/z"]);
        assert_matches("/:base...:head", &["/x...y"], &["/x..y", "/x...y.z"]);
    }

    #[test]
    fn modifiers_make_a_parameter_optional_or_repeated() {
        assert_matches(
            "/files/:p?",
            &["/files", "/files/", "/files/x"],
            &["/files/x/y"],
        );
        assert_matches("/x/:p*/f", &["/x/f", "/x/a/f", "/x/a/b/f"], &["/x/"]);
        assert_matches("/x/:p+", &["/x/a", "/x/a/b"], &["/x", "/x/"]);
        assert_matches(
            "/branches:filter?",
            &["/branches", "/branchesx"],
            &["/branche"],
        );
        assert_matches(
            "/f/:n.:ext?",
            &["/f/a", "/f/a.b", "/f/."],
            &["/f/", "/f/a/b"],
        );
    }

    #[test]
    fn groups_are_expressions_and_a_backslash_makes_a_literal() {
        assert_matches("/v/:id(\\d+)", &["/v/12"], &["/v/", "/v/a", "/v/1a"]);
        assert_matches("/:x(a|b)/c", &["/a/c", "/B/c"], &["/c/c", "/ab/c"]);
        assert_matches("/(raw|api)/x", &["/raw/x", "/api/x"], &["/rawapi/x"]);
        assert_matches(
            "/:x([^\\/]{2,3})",
            &["/ab", "/abc"],
            &["/a", "/abcd", "/a/b"],
        );
        assert_matches("/a\\*", &["/a*"], &["/a", "/ab"]);
        assert_matches("/a\\:b\\(c\\)", &["/a:b(c)"], &["/ax"]);
        assert_matches("/%2F:x", &["/%2Fx", "/%2fx"], &["/%2F"]);
    }

    #[test]
    fn what_has_no_counterpart_here_is_refused_by_name() {
        for (pattern, error) in [
            (
                "/(a)/(b\\1)",
                "the group \"(b\\1)\" has the backreference \"\\1\"",
            ),
            (
                "/:x(?!a)",
                "the group \"(?!a)\" has nothing to repeat before \"?\"",
            ),
            (
                "/(a**)",
                "the group \"(a**)\" has nothing to repeat before \"*\"",
            ),
            ("/(\\z)", "the group \"(\\z)\" has the escape \"\\z\""),
            ("/(\\pL)", "the group \"(\\pL)\" has the escape \"\\p\""),
            ("/([])", "the group \"([])\" has an empty class \"[]\""),
            (
                "/([a--b])",
                "the group \"([a--b])\" has \"--\" in a class (write \"\\-\")",
            ),
            ("/([a)", "the group \"([a)\" has a class without \"]\""),
            (
                "/(a{,5})",
                "the group \"(a{,5})\" has a \"{\" that starts no repetition (write \"\\{\")",
            ),
            (
                "/(a{1000}{1000})",
                "the group \"(a{1000}{1000})\" has nothing to repeat before \"{1000}\"",
            ),
            (
                "/([z-a])",
                "the pattern cannot be compiled: invalid character class range, the start \
                          must be <= the end",
            ),
            (
                "/(.{100000})",
                "the pattern is too large: use fewer repetitions",
            ),
        ] {
            assert_eq!(
                PathPattern::parse(pattern).unwrap_err().to_string(),
                error,
                "{pattern}"
            );
        }
        let error = PathPattern::parse("/:a--:b").unwrap_err().to_string();
        assert!(
            error.starts_with("the parameter after \"--\" needs look-ahead"),
            "{error}"
        );
    }

    #[test]
    fn set_operators_of_the_regex_crate_are_plain_characters_in_a_class() {
        assert_matches("/([a&&b]+)", &["/a&b"], &["/c"]);
        assert_matches("/([[a~~]+)", &["/[a~"], &["/b"]);
    }

    proptest! {
        #[test]
        fn the_short_cuts_agree_with_the_expression(
            pattern in "(/(a|b|:x)?){1,4}(:y[*])?[ab/]{0,2}\\*?",
            path in "/[abAB/]{0,8}",
        ) {
            let compiled = PathPattern::parse(&pattern).unwrap();
            let tokens = tokenize(&pattern).unwrap();
            prop_assert_eq!(Parts::of(&tokens).is_none(), matches!(compiled.tail, Tail::Expression(_)));
            let (expression, _) = compile(&tokens).unwrap();
            prop_assert_eq!(compiled.matches(&path), expression.is_match(path.as_bytes()));
        }

        #[test]
        fn head_and_ending_are_in_every_matching_path(
            pattern in "/[ab]{0,2}(/|:x|:x[?]|/:x[*]|[*]|a|/b|/){0,4}",
            path in "/[abAB/]{0,6}",
        ) {
            let Ok(tokens) = tokenize(&pattern) else { return Ok(()) };
            let Ok((expression, _)) = compile(&tokens) else { return Ok(()) };
            if expression.is_match(path.as_bytes()) {
                let compiled = PathPattern::parse(&pattern).unwrap();
                prop_assert!(strip(&path, compiled.head()).is_some());
                prop_assert!(ends_like(&path, compiled.ending()));
            }
        }

        #[test]
        fn any_pattern_is_read_without_panic(pattern in "/[ -~é]{0,24}", path in "/[ -~]{0,24}") {
            if let Ok(pattern) = PathPattern::parse(&pattern) {
                pattern.matches(&path);
            }
        }
    }
}

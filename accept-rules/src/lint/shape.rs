//! A rule's path as parts, to be compared with another's or filled in as an example.

use crate::path_pattern::{Token, tokenize};
use crate::rule::{Pattern, Rule};

/// How many steps comparing may take for one list: a thousand rules need some millions, and a
/// hostile one goes on without.
const MAX_STEPS: usize = 20_000_000;

/// What a parameter with an expression of its own is tried with.
const SAMPLES: &[&str] = &["x", "1", "v1", "main"];

/// The parts of a rule's path.
pub(super) struct Shape {
    kind: Kind,
    /// As path-to-regexp reads it, where that is its notation.
    tokens: Vec<Token>,
    parts: Vec<Part>,
    /// How many of the parts at the start are bytes.
    head: usize,
}

/// What the notation says beside the parts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Letters match in either case, and a slash may follow.
    PathToRegexp,
    /// Everything matches as it is written.
    Glob,
    /// There is no path to compare.
    Kubernetes,
}

/// What one part of a path matches.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// This byte.
    Byte(u8),
    /// One or more bytes other than a slash.
    Segment,
    /// Anything.
    Anything,
    /// Something that is not compared.
    Other,
}

/// The steps that are left for comparing.
pub(super) struct Budget(usize);

impl Budget {
    pub(super) fn new() -> Self {
        Self(MAX_STEPS)
    }

    pub(super) fn is_spent(&self) -> bool {
        self.0 == 0
    }

    pub(super) fn take(&mut self, steps: usize) -> bool {
        let left = self.0.checked_sub(steps);
        self.0 = left.unwrap_or_default();
        left.is_some()
    }
}

impl Shape {
    pub(super) fn of(rule: &Rule) -> Self {
        match rule.pattern {
            Pattern::PathToRegexp(_) => Self::of_path(rule.path()),
            Pattern::Glob(_) => Self::new(Kind::Glob, Vec::new(), glob_parts(rule.path())),
            Pattern::Kubernetes(_) => Self::new(Kind::Kubernetes, Vec::new(), vec![Part::Other]),
        }
    }

    /// Of a path that path-to-regexp has read before.
    fn of_path(path: &str) -> Self {
        let tokens = tokenize(path).unwrap_or_default();
        let last = tokens.len().saturating_sub(1);
        let mut parts = Vec::new();
        for (index, token) in tokens.iter().enumerate() {
            match token {
                Token::Literal(text) => {
                    // A slash at the end is optional, with and without it in the rule.
                    let text = match text.strip_suffix('/') {
                        Some(text) if index == last => text,
                        Some(_) | None => text,
                    };
                    parts.extend(bytes(text));
                }
                Token::Parameter(parameter) if parameter.asterisk => {
                    parts.extend(bytes(&parameter.prefix_text()));
                    parts.push(Part::Anything);
                }
                Token::Parameter(parameter) if parameter.is_within_segment() => {
                    parts.extend(bytes(&parameter.prefix_text()));
                    parts.push(Part::Segment);
                }
                Token::Parameter(_) => parts.push(Part::Other),
            }
        }
        if parts.is_empty() {
            // The path of a target is never empty.
            parts.extend(bytes("/"));
        }
        Self::new(Kind::PathToRegexp, tokens, parts)
    }

    fn new(kind: Kind, tokens: Vec<Token>, parts: Vec<Part>) -> Self {
        let is_byte = |part: &&Part| matches!(part, Part::Byte(_));
        let head = parts.iter().take_while(is_byte).count();
        Self {
            kind,
            tokens,
            parts,
            head,
        }
    }

    pub(super) fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// Whether it certainly matches every path that `other` matches.
    pub(super) fn covers(&self, other: &Self, budget: &mut Budget) -> bool {
        let same: fn(&Part, &Part) -> bool = match (self.kind, other.kind) {
            (Kind::PathToRegexp, Kind::PathToRegexp | Kind::Glob) => is_same_letter,
            (Kind::Glob, Kind::Glob) => |own, other| own == other,
            (Kind::Glob, Kind::PathToRegexp) | (Kind::Kubernetes, _) | (_, Kind::Kubernetes) => {
                return false;
            }
        };
        let (own, rest) = self.parts.split_at(self.head);
        let Some((start, others)) = other.parts.split_at_checked(self.head) else {
            return false;
        };
        // Few starts are equal for long.
        budget.take(1 + self.head / 8)
            && own.iter().zip(start).all(|(own, other)| same(own, other))
            && {
                let steps = (rest.len() + 1).saturating_mul(others.len() + 1);
                budget.take(steps) && covers(rest, others, same)
            }
    }

    /// A path that `rule` matches, with `value` in the place of the token `at`.
    pub(super) fn example(&self, rule: &Rule, at: usize, value: &str) -> Option<String> {
        let examples = SAMPLES.iter().map(|sample| {
            self.fill(|index| match index == at {
                true => value,
                false => sample,
            })
        });
        let mut fitting = examples.filter(|example| rule.pattern.matches_path(example));
        fitting.next()
    }

    /// The last segment, where it is written out.
    pub(super) fn last_name<'r>(&'r self, rule: &'r Rule) -> Option<&'r str> {
        let end = match (self.kind, self.tokens.last()) {
            (Kind::PathToRegexp, Some(Token::Literal(end))) => end.as_str(),
            (Kind::Glob, _) => rule.path(),
            (Kind::PathToRegexp, Some(Token::Parameter(_)) | None) | (Kind::Kubernetes, _) => {
                return None;
            }
        };
        let (_, name) = end.trim_end_matches('/').rsplit_once('/')?;
        (!name.contains(SPECIAL)).then_some(name)
    }

    /// The path with a value for each parameter, by the index of its token.
    pub(super) fn fill<'v>(&self, value: impl Fn(usize) -> &'v str) -> String {
        let mut path = String::new();
        for (index, token) in self.tokens.iter().enumerate() {
            match token {
                Token::Literal(text) => path.push_str(text),
                Token::Parameter(parameter) => {
                    path.push_str(&parameter.prefix_text());
                    path.push_str(value(index));
                }
            }
        }
        path
    }
}

/// Whether `rule`'s path matches whatever may stand in a path.
pub(super) fn is_everything(rule: &Rule) -> bool {
    let unlike = ["/", "/a", "/0.q/-_~/y.z", "/%C3%A9/!$&'()+,=:@/x/"];
    unlike.iter().all(|path| rule.pattern.matches_path(path))
}

/// What is more than itself in a glob.
const SPECIAL: &[char] = &['*', '?', '[', ']', '{', '}', '\\', '!'];

fn glob_parts(glob: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut segments = glob.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        parts.extend(bytes("/"));
        match segment {
            "*" => parts.push(Part::Segment),
            "**" if segments.peek().is_none() && !parts.contains(&Part::Segment) => {
                parts.push(Part::Anything);
            }
            _ if segment.contains(SPECIAL) => {
                // Nothing is known of the rest: it may be many segments, and none, at the end even
                // without the slash before it.
                if segment == "**" && segments.peek().is_none() {
                    parts.pop();
                }
                parts.push(Part::Other);
                break;
            }
            _ => parts.extend(bytes(segment)),
        }
    }
    parts
}

fn bytes(text: &str) -> impl Iterator<Item = Part> {
    text.bytes().map(Part::Byte)
}

fn is_same_letter(own: &Part, other: &Part) -> bool {
    match (own, other) {
        (Part::Byte(own), Part::Byte(other)) => own.eq_ignore_ascii_case(other),
        (Part::Byte(_) | Part::Segment | Part::Anything | Part::Other, _) => own == other,
    }
}

/// Whether `own` matches every text that `others` does.
///
/// Row by row from the end: `row[j]` says it of what follows here and of `others[j..]`.
fn covers(own: &[Part], others: &[Part], same: fn(&Part, &Part) -> bool) -> bool {
    let mut below = vec![false; others.len() + 1];
    if let Some(last) = below.last_mut() {
        *last = true;
    }
    for part in own.iter().rev() {
        let mut row = vec![false; others.len() + 1];
        let at = |row: &[bool], index: usize| row.get(index).copied().unwrap_or_default();
        for index in (0..=others.len()).rev() {
            let other = others.get(index);
            let holds = match (part, other) {
                (Part::Anything, None) => at(&below, index),
                (Part::Anything, Some(_)) => at(&below, index) || at(&row, index + 1),
                (Part::Segment, Some(Part::Byte(b'/')) | None) => false,
                (Part::Segment, Some(Part::Byte(_) | Part::Segment)) => {
                    at(&below, index + 1) || at(&row, index + 1)
                }
                (Part::Byte(_), Some(other @ Part::Byte(_))) => {
                    same(part, other) && at(&below, index + 1)
                }
                (Part::Segment | Part::Byte(_) | Part::Other, _) => false,
            };
            if let Some(place) = row.get_mut(index) {
                *place = holds;
            }
        }
        below = row;
    }
    below.first().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use http::Method;
    use proptest::prelude::*;

    use super::*;
    use crate::file::RuleFile;
    use crate::rule::List;
    use crate::target::RequestTarget;

    fn path_covers(own: &str, other: &str) -> bool {
        Shape::of_path(own).covers(&Shape::of_path(other), &mut Budget::new())
    }

    /// A rule with a path of path-to-regexp or, with a `!` before it, a glob.
    fn rule(path: &str) -> Option<Rule> {
        let (key, path) = match path.strip_prefix('!') {
            Some(glob) => ("path", glob),
            None => ("path-to-regexp", path),
        };
        let text = format!(
            r#"{{"version": 2, "private": [{{"origin": "https://host", "{key}": "{path}"}}]}}"#
        );
        Some(
            RuleFile::parse(&text)
                .ok()?
                .rules(List::Private)
                .first()?
                .clone(),
        )
    }

    fn rule_covers(own: &Rule, other: &Rule) -> bool {
        Shape::of(own).covers(&Shape::of(other), &mut Budget::new())
    }

    #[test]
    fn inclusion_is_known_of_plain_globs_in_their_case() {
        let covers = |own, other| rule_covers(&rule(own).unwrap(), &rule(other).unwrap());
        for (own, other) in [
            ("!/**", "!/a/*/{b,c/d}"),
            ("!/a/*", "!/a/b"),
            ("!/a/**", "!/a/**/b"),
            ("/A/:x", "!/a/*"),
            ("/*", "!/a/*.txt"),
        ] {
            assert!(covers(own, other), "{own} covers {other}");
        }
        for (own, other) in [
            ("!/a/*", "!/A/b"),
            ("!/a", "/a"),
            ("!/a/*", "!/a/b*"),
            ("!/a/*", "!/a/**"),
            ("/a/*/b", "!/a/**/b"),
            ("!/a/*/**", "!/a/x/"),
            ("!/a/{b,c}", "!/a/b"),
        ] {
            assert!(!covers(own, other), "{own} does not cover {other}");
        }
    }

    #[test]
    fn inclusion_is_known_of_literals_parameters_and_asterisks() {
        for (own, other) in [
            ("/a", "/A/"),
            ("/*", "/"),
            ("/*", "/a/:b?/(c|d)"),
            ("/a*", "/a/:b/*"),
            ("/a/:b", "/a/:c"),
            ("/a/:b", "/a/b"),
            ("/a/:b/c", "/a/x-:y/c/"),
            ("/a/*/c", "/a/:x/y/c"),
            ("/:a/:b", "/x/y"),
        ] {
            assert!(path_covers(own, other), "{own} covers {other}");
        }
        for (own, other) in [
            ("/a", "/ab"),
            ("/a/*", "/a"),
            ("/a/:b", "/a/*"),
            ("/a/:b", "/a/:b/c"),
            ("/a/:b(\\d+)", "/a/1"),
            ("/a/:b", "/a/:b?"),
            ("/a/:b", "/a/:x.:y"),
            ("/:a/b", "/:a"),
            ("/a/*/c", "/a/*"),
        ] {
            assert!(!path_covers(own, other), "{own} does not cover {other}");
        }
    }

    #[test]
    fn a_spent_budget_makes_nothing_certain() {
        let shape = Shape::of_path("/*");
        assert!(!shape.covers(&shape, &mut Budget(1)));
    }

    fn is_target(path: &str) -> bool {
        RequestTarget::new(&Method::GET, path).is_ok()
    }

    fn some_path() -> impl Strategy<Value = String> {
        let pieces = prop::sample::select(vec![
            "/", "a", "b", "*", ":x", "/:y", "/*", ".", ":z?", "/a", "(a|b)",
        ]);
        let globs = prop::sample::select(vec!["/a", "/b", "/A", "/*", "/**", "/a*", "/{a,b}", "/"]);
        let join = |pieces: Vec<&str>| pieces.concat();
        prop_oneof![
            prop::collection::vec(pieces, 0..5)
                .prop_map(move |pieces| format!("/{}", join(pieces))),
            prop::collection::vec(globs, 1..4).prop_map(move |globs| format!("!{}", join(globs))),
        ]
    }

    proptest! {
        #[test]
        fn what_a_covered_path_matches_the_other_matches(
            own in some_path(),
            other in some_path(),
            paths in prop::collection::vec("/([abA.]{1,2}/){0,2}[ab.]{0,2}", 20),
        ) {
            let (Some(own), Some(other)) = (rule(&own), rule(&other)) else { return Ok(()) };
            if rule_covers(&own, &other) {
                for path in paths.iter().filter(|path| is_target(path)) {
                    let holds = own.pattern.matches_path(path) || !other.pattern.matches_path(path);
                    prop_assert!(holds, "{} covers {} but for {}", own.path(), other.path(), path);
                }
            }
        }
    }
}

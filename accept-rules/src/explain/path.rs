//! Where a path leaves that of a rule.

use crate::file::quoted;
use crate::path_pattern::ends_like;
use crate::rule::Rule;

/// Where a path differs from a rule's. Segments are what stands between slashes, counted from zero; a
/// slash at the end counts for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PathDifference {
    /// A segment is another than the rule's.
    Segment {
        /// Which; those before it are alike.
        index: usize,
    },
    /// The path ends before a segment of the rule's.
    Missing {
        /// Which.
        index: usize,
    },
    /// The path goes on where the rule's ends.
    Beyond {
        /// The first segment that is one too many.
        index: usize,
    },
    /// One of the two ends in a slash, and the other does not.
    EndSlash,
    /// The path does not end in the text that the rule's ends in.
    Ending,
    /// Something from a segment on: the rule may match it with more or fewer of the request's.
    From {
        /// The rule's segment.
        index: usize,
    },
}

/// What a rule's segment matches by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Segment<'a> {
    /// This text, in either case.
    Literal(&'a str),
    /// This text as it is.
    Exact(&'a str),
    /// Any one segment.
    Any,
    /// Any number of segments, but the slash before the first must be there.
    Rest,
    /// What starts with this text, in either case; where that is empty, perhaps nothing at all.
    Open(&'a str),
}

/// How much a path and a rule's have in common.
#[derive(Clone, Copy, Default)]
pub(super) struct Alike {
    /// Leading segments that match, or begin to.
    pub(super) segments: usize,
    /// How many of these the rule writes out.
    pub(super) literals: usize,
}

/// Compares a rule's path with `path`, which it does not match and which has the segments `asked`.
pub(super) fn compare(rule: &Rule, path: &str, asked: &[&str]) -> (Alike, PathDifference) {
    let mut alike = Alike::default();
    let mut asked = asked.iter();
    for own in segments(rule.path()) {
        let index = alike.segments;
        match (rule.segment(own), asked.next()) {
            (Segment::Literal(text), Some(found)) if found.eq_ignore_ascii_case(text) => {
                alike.literals += 1;
            }
            (Segment::Exact(text), Some(found)) if *found == text => alike.literals += 1,
            (Segment::Any, Some(found)) if !found.is_empty() => {}
            (Segment::Rest, Some(_)) | (Segment::Open(""), None) => {
                return (alike, PathDifference::behind(index, rule, path));
            }
            (Segment::Open(start), Some(found)) if starts_with(found, start) => {
                alike.segments += usize::from(!start.is_empty());
                return (alike, PathDifference::behind(index, rule, path));
            }
            (_, Some(_)) => return (alike, PathDifference::Segment { index }),
            (_, None) => return (alike, PathDifference::Missing { index }),
        }
        alike.segments += 1;
    }
    let index = alike.segments;
    let difference = match asked.next() {
        Some(_) => PathDifference::Beyond { index },
        None => PathDifference::EndSlash,
    };
    (alike, difference)
}

impl PathDifference {
    /// Behind what can be compared one by one.
    fn behind(index: usize, rule: &Rule, path: &str) -> Self {
        if ends_like(path, rule.pattern.ending()) {
            Self::From { index }
        } else {
            Self::Ending
        }
    }

    /// The request's segment that it is about.
    pub(super) fn found<'s>(&self, segments: &[&'s str]) -> &'s str {
        match self {
            Self::Segment { index } | Self::Beyond { index } => {
                segments.get(*index).copied().unwrap_or_default()
            }
            Self::Missing { .. } | Self::EndSlash | Self::Ending | Self::From { .. } => "",
        }
    }

    pub(super) fn detail(&self, rule: &Rule, found: &str) -> String {
        let own = |index| quoted(written(rule.path(), index));
        match self {
            Self::Segment { index } => format!(
                "segment {} {} is not {}",
                index + 1,
                quoted(found),
                own(*index)
            ),
            Self::Missing { index } => {
                format!("the path ends before segment {} {}", index + 1, own(*index))
            }
            Self::Beyond { index } => {
                format!("segment {} {} is one too many", index + 1, quoted(found))
            }
            Self::EndSlash => "only one of path and rule ends in a slash".to_owned(),
            Self::Ending => {
                format!("the path does not end in {}", quoted(rule.pattern.ending()))
            }
            Self::From { index } => format!(
                "the path does not match from segment {} {} on",
                index + 1,
                own(*index)
            ),
        }
    }
}

/// The segments of a path; `/` has none.
pub(super) fn segments(path: &str) -> impl Iterator<Item = &str> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let path = path.strip_suffix('/').unwrap_or(path);
    path.split('/').filter(move |_| !path.is_empty())
}

/// A rule's segment as it is written; an expression may go on over slashes, so what has one is shown
/// with all that follows.
fn written(path: &str, index: usize) -> &str {
    let start = path.match_indices('/').nth(index);
    let rest = start.and_then(|(at, slash)| path.get(at + slash.len()..));
    let rest = rest.unwrap_or_default();
    match rest.split('/').next() {
        Some(segment) if !segment.contains('(') => segment,
        Some(_) | None => rest,
    }
}

fn starts_with(text: &str, start: &str) -> bool {
    let head = text.get(..start.len());
    head.is_some_and(|head| head.eq_ignore_ascii_case(start))
}

//! Brace expansion, with the meaning of the npm package brace-expansion 1: `{a,b}`, `{1..9}`.

use std::sync::LazyLock;

use regex::Regex;

use super::GlobError;
use super::segment::is_line_terminator;

/// Most alternatives of a pattern: far above any in use.
const MAX_ALTERNATIVES: usize = 1000;

/// Most bytes of all alternatives together.
const MAX_EXPANDED_LEN: usize = 1 << 16;

/// Deepest nesting, which bounds the recursion.
const MAX_DEPTH: usize = 32;

/// How often a stray `}` may make the search start anew.
const MAX_RESTARTS: usize = 32;

/// Stand-ins for escaped characters: of the plane that spelled texts do not have.
const ESCAPES: &[(&str, char, &str)] = &[
    ("\\\\", '\u{f0000}', "\\"),
    ("\\{", '\u{f0001}', "{"),
    ("\\}", ESCAPED_CLOSE, "}"),
    ("\\,", '\u{f0003}', ","),
    ("\\.", '\u{f0004}', "."),
];
const ESCAPED_CLOSE: char = '\u{f0002}';

/// All alternatives of a pattern, in which `\\` has become `\` if there are any.
pub(super) fn expand(pattern: &str) -> Result<Vec<String>, GlobError> {
    if !has_braces(pattern) {
        return Ok(vec![pattern.to_owned()]);
    }
    // An empty pair at the start stays.
    let mut text = match pattern.strip_prefix("{}") {
        Some(rest) => format!("\\{{\\}}{rest}"),
        None => pattern.to_owned(),
    };
    for (escape, stand_in, _) in ESCAPES {
        text = text.replace(escape, stand_in.encode_utf8(&mut [0; 4]));
    }
    let mut expanded = expand_text(text, true, 0)?;
    for text in &mut expanded {
        for (_, stand_in, meaning) in ESCAPES {
            *text = text.replace(*stand_in, meaning);
        }
    }
    Ok(expanded)
}

/// Whether there is a `{` with a `}` behind it on the same line and no other `{` between.
fn has_braces(pattern: &str) -> bool {
    let mut is_open = false;
    for c in pattern.chars() {
        match c {
            '{' => is_open = true,
            '}' if is_open => return true,
            c if is_line_terminator(c) => is_open = false,
            _ => {}
        }
    }
    false
}

/// A beginning of the results.
struct Beginning {
    text: String,
    /// Its length when the run began in which empty results are dropped.
    base: usize,
}

fn expand_text(mut rest: String, mut is_top: bool, depth: usize) -> Result<Vec<String>, GlobError> {
    if depth > MAX_DEPTH {
        return Err(GlobError::TooLarge);
    }
    let mut results = vec![Beginning {
        text: String::new(),
        base: 0,
    }];
    let mut restarts = 0;
    let mut is_first = true;
    let mut drops_empty = false;
    loop {
        let Some(group) = Group::first_in(&rest).filter(|group| !group.before.ends_with('$'))
        else {
            results = combine(&results, &rest, &[String::new()], drops_empty)?;
            break;
        };
        let is_sequence = SEQUENCE.is_match(group.body);
        if !is_sequence && !group.body.contains(',') {
            if !comma_set_follows(group.after) {
                results = combine(&results, &rest, &[String::new()], drops_empty)?;
                break;
            }
            // `{a},b}` is `a}` and `b`: the first brace that closes is a literal.
            restarts += 1;
            if restarts > MAX_RESTARTS {
                return Err(GlobError::TooLarge);
            }
            for beginning in &mut results {
                beginning.base = beginning.text.len();
            }
            (is_top, is_first, drops_empty) = (true, true, false);
            let Group {
                before,
                body,
                after,
            } = group;
            rest = format!("{before}{{{body}{ESCAPED_CLOSE}{after}");
            continue;
        }
        if is_first {
            drops_empty = is_top && !is_sequence;
            is_first = false;
        }
        let values = if is_sequence {
            expand_sequence(group.body)?
        } else {
            expand_members(group.body, depth)?
        };
        let drops_now = drops_empty && group.after.is_empty();
        results = combine(&results, group.before, &values, drops_now)?;
        if group.after.is_empty() {
            break;
        }
        rest = group.after.to_owned();
    }
    Ok(results
        .into_iter()
        .map(|beginning| beginning.text)
        .collect())
}

fn combine(
    beginnings: &[Beginning],
    before: &str,
    values: &[String],
    drops_empty: bool,
) -> Result<Vec<Beginning>, GlobError> {
    let mut combined = Vec::new();
    let mut len = 0;
    for Beginning { text, base } in beginnings {
        for value in values {
            let text = format!("{text}{before}{value}");
            if drops_empty && text.len() == *base {
                continue;
            }
            len += text.len();
            if combined.len() == MAX_ALTERNATIVES || len > MAX_EXPANDED_LEN {
                return Err(GlobError::TooLarge);
            }
            combined.push(Beginning { text, base: *base });
        }
    }
    Ok(combined)
}

/// `before{body}after`.
struct Group<'a> {
    before: &'a str,
    body: &'a str,
    after: &'a str,
}

impl<'a> Group<'a> {
    /// The first `{` that is closed, with what it encloses.
    fn first_in(text: &'a str) -> Option<Self> {
        let mut open = Vec::new();
        let mut first: Option<(usize, usize)> = None;
        for (at, c) in text.char_indices() {
            match c {
                '{' => open.push(at),
                '}' => {
                    let pair = open.pop().map(|start| (start, at));
                    first = first.into_iter().chain(pair).min();
                    if open.is_empty() && first.is_some() {
                        break;
                    }
                }
                _ => {}
            }
        }
        let (start, end) = first?;
        Some(Self {
            before: text.get(..start)?,
            body: text.get(start + 1..end)?,
            after: text.get(end + 1..)?,
        })
    }
}

/// Whether there is a `,` that no other follows, with a `}` behind it on the same line.
fn comma_set_follows(text: &str) -> bool {
    let mut chars = text.chars().peekable();
    let mut has_comma = false;
    while let Some(c) = chars.next() {
        match c {
            ',' if chars.peek() != Some(&',') => has_comma = true,
            '}' if has_comma => return true,
            c if is_line_terminator(c) => has_comma = false,
            _ => {}
        }
    }
    false
}

fn expand_members(body: &str, depth: usize) -> Result<Vec<String>, GlobError> {
    let mut members = split_members(body);
    if let [only] = members.as_slice() {
        // `x{{a,b}}y` is `x{a}y` and `x{b}y`.
        let inner = expand_text(only.clone(), false, depth + 1)?;
        members = inner.iter().map(|text| format!("{{{text}}}")).collect();
        if members.len() == 1 {
            return Ok(members);
        }
    }
    let mut values = Vec::new();
    for member in members {
        values.extend(expand_text(member, false, depth + 1)?);
        if values.len() > MAX_ALTERNATIVES {
            return Err(GlobError::TooLarge);
        }
    }
    Ok(values)
}

/// Splits at the commas that stand in no inner braces.
fn split_members(body: &str) -> Vec<String> {
    let mut members = vec![];
    let mut member = String::new();
    let mut depth = 0_usize;
    for c in body.chars() {
        match c {
            ',' if depth == 0 => {
                members.push(std::mem::take(&mut member));
                continue;
            }
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        member.push(c);
    }
    members.push(member);
    members
}

static SEQUENCE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^(?:-?[0-9]+\.\.-?[0-9]+(?:\.\.-?[0-9]+)?|[a-zA-Z]\.\.[a-zA-Z](?:\.\.-?[0-9]+)?)$")
        .expect("the expression is a constant, and a test runs it")
});

fn expand_sequence(body: &str) -> Result<Vec<String>, GlobError> {
    let parts: Vec<_> = body.split("..").collect();
    let [first, last, ..] = parts.as_slice() else {
        return Ok(Vec::new());
    };
    let is_letters = first.starts_with(|c: char| c.is_ascii_alphabetic());
    let (from, to) = (end(first)?, end(last)?);
    let step = parts.get(2).map_or(Ok(1), |step| end(step))?;
    let step = step.unsigned_abs().max(1);
    if from.abs_diff(to) / step >= MAX_ALTERNATIVES as u64 {
        return Err(GlobError::TooLarge);
    }
    let width = first.len().max(last.len());
    let is_padded = parts.iter().any(|part| {
        let digits = part.strip_prefix('-').unwrap_or(part);
        digits.len() > 1 && digits.starts_with('0')
    });
    let mut values = Vec::new();
    for index in 0..=from.abs_diff(to) / step {
        let distance = i64::try_from(index * step).map_err(|_| GlobError::TooLarge)?;
        let number = if from <= to {
            from + distance
        } else {
            from - distance
        };
        values.push(match (is_letters, is_padded) {
            (true, _) => letter(number),
            (false, true) => format!("{number:0width$}"),
            (false, false) => number.to_string(),
        });
    }
    Ok(values)
}

/// A number, or a letter's code.
fn end(text: &str) -> Result<i64, GlobError> {
    match text.bytes().next() {
        Some(letter) if letter.is_ascii_alphabetic() => Ok(i64::from(letter)),
        // Beyond 15 digits, numbers are inexact in JavaScript.
        _ if text.len() > 15 => Err(GlobError::TooLarge),
        _ => text.parse().map_err(|_| GlobError::TooLarge),
    }
}

fn letter(code: i64) -> String {
    let letter = u8::try_from(code).ok().filter(|code| *code != b'\\');
    letter.map(char::from).into_iter().collect()
}

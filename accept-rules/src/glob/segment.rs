//! One segment of a pattern: what stands between two slashes.

use std::iter::Peekable;
use std::str::Chars;

use regex::{Regex, RegexBuilder};

use super::GlobError;
use crate::js_regex::{escape_in_class, spelled_range};
use crate::utf16;
use crate::weight::{Weigh, weighed};

/// Largest compiled segment, in bytes: there may be a thousand of them in a pattern.
const COMPILED_SIZE_LIMIT: usize = 1 << 18;

/// Cache of one segment's lazy automaton, in bytes; values are short, and patterns are many.
const AUTOMATON_CACHE_LIMIT: usize = 1 << 16;

/// One segment of a pattern.
#[derive(Clone, Debug)]
pub(super) enum Segment {
    /// `**`: any number of segments.
    Globstar,
    /// A text without wildcards.
    Text(Box<str>),
    /// One with wildcards.
    Wild(Box<Wild>),
}

/// A segment with wildcards; it never matches an empty one.
#[derive(Clone, Debug)]
pub(super) struct Wild {
    /// It starts with a wildcard, which never stands for `.` or `..`.
    starts_wild: bool,
    expression: Regex,
    /// What must not match: minimatch's look-ahead of a `!(…)`.
    exception: Option<Regex>,
    weight: usize,
}

impl Segment {
    /// Reads a segment, spelled in units.
    pub(super) fn parse(text: &str) -> Result<Self, GlobError> {
        if text == "**" {
            return Ok(Self::Globstar);
        }
        let parser = Parser {
            text,
            chars: text.chars().peekable(),
            state: None,
            groups: Vec::new(),
            written: String::new(),
            starts_wild: None,
            is_wild: false,
            is_fixed: true,
            negation: None,
        };
        parser.run()
    }

    pub(super) fn is_globstar(&self) -> bool {
        matches!(self, Self::Globstar)
    }

    /// Whether one segment of a value matches; a `**` does, but for the dots that it never stands for.
    pub(super) fn matches(&self, value: &str) -> bool {
        match self {
            Self::Globstar => !is_dots(value),
            Self::Text(text) => **text == *value,
            Self::Wild(wild) => wild.matches(value),
        }
    }
}

impl Weigh for Segment {
    fn weight(&self) -> usize {
        match self {
            Self::Globstar | Self::Text(_) => 0,
            Self::Wild(wild) => wild.weight,
        }
    }
}

impl Wild {
    fn matches(&self, value: &str) -> bool {
        // minimatch asks for one character that JavaScript's `.` matches.
        let starts_well = value
            .chars()
            .next()
            .is_some_and(|first| !is_line_terminator(first));
        starts_well
            && !(self.starts_wild && is_dots(value))
            && self.expression.is_match(value)
            && !self
                .exception
                .as_ref()
                .is_some_and(|exception| exception.is_match(value))
    }
}

fn is_dots(value: &str) -> bool {
    matches!(value, "." | "..")
}

pub(super) fn is_line_terminator(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\u{2028}' | '\u{2029}')
}

/// Translates a segment into an expression, in the steps of minimatch's own translation.
struct Parser<'a> {
    text: &'a str,
    chars: Peekable<Chars<'a>>,
    /// A `*?+@!` whose meaning the next character decides.
    state: Option<char>,
    /// The kinds of the groups that are open.
    groups: Vec<char>,
    written: String,
    /// Whether the first thing written is a wildcard.
    starts_wild: Option<bool>,
    is_wild: bool,
    /// Whether everything before can be read in one way only.
    is_fixed: bool,
    negation: Option<Negation>,
}

/// The parts before and in the parentheses of a `!(…)`.
struct Negation {
    before: String,
    within: String,
}

impl Parser<'_> {
    fn run(mut self) -> Result<Segment, GlobError> {
        while let Some(c) = self.chars.next() {
            match c {
                '\\' => self.escape()?,
                '*' | '?' | '+' | '@' | '!' => {
                    if !(c == '*' && self.state == Some('*')) {
                        self.settle();
                        self.state = Some(c);
                    }
                }
                '(' => self.open()?,
                ')' if !self.groups.is_empty() => self.close(),
                '|' if !self.groups.is_empty() => {
                    self.settle();
                    self.written.push('|');
                }
                ')' | '|' | ']' if self.state.is_some() => {
                    let found = format!("a wildcard right before \"{c}\" (write \"\\{c}\")");
                    return Err(GlobError::unsupported(found));
                }
                '[' => {
                    self.settle();
                    match self.class()? {
                        Some(class) => self.write_wild(&class),
                        None => return self.unclosed_class(),
                    }
                }
                literal => {
                    self.settle();
                    self.write_literal(literal);
                }
            }
        }
        self.settle();
        match self.groups.last() {
            Some(kind) => {
                let found = format!("a \"{kind}(\" without \")\" (write \"\\(\")");
                Err(GlobError::unsupported(found))
            }
            None => self.finish(),
        }
    }

    /// Writes the wildcard, or the literal, that was held back.
    fn settle(&mut self) {
        match self.state.take() {
            None => {}
            Some('*') => {
                self.write_wild("[^/]*");
                self.is_fixed = false;
            }
            Some('?') => self.write_wild("[^/]"),
            Some(literal) => self.write_literal(literal),
        }
    }

    fn write_literal(&mut self, c: char) {
        self.starts_wild.get_or_insert(false);
        // minimatch counts parentheses in the text before a look-ahead.
        self.is_fixed &= c != '(';
        self.written.push_str(&regex::escape(&c.to_string()));
    }

    fn write_wild(&mut self, text: &str) {
        self.starts_wild.get_or_insert(true);
        self.is_wild = true;
        self.written.push_str(text);
    }

    fn escape(&mut self) -> Result<(), GlobError> {
        self.settle();
        match self.chars.next() {
            Some('@') => Err(GlobError::unsupported("a \"\\@\" (write \"@\" or \"[@]\")")),
            c => {
                self.write_literal(c.unwrap_or('\\'));
                Ok(())
            }
        }
    }

    fn open(&mut self) -> Result<(), GlobError> {
        let Some(kind) = self.state.take() else {
            self.write_literal('(');
            return Ok(());
        };
        if kind == '!' {
            if !self.is_fixed || self.negation.is_some() {
                return Err(GlobError::unsupported(
                    "a \"!(\" that needs look-ahead: it may stand once in a segment, behind a text \
                     without \"*\" and groups",
                ));
            }
            self.starts_wild.get_or_insert(true);
            self.is_wild = true;
            self.negation = Some(Negation {
                before: std::mem::take(&mut self.written),
                within: String::new(),
            });
        } else {
            self.write_wild("(?:");
        }
        self.is_fixed = false;
        self.groups.push(kind);
        Ok(())
    }

    fn close(&mut self) {
        self.settle();
        match (self.groups.pop(), &mut self.negation) {
            (Some('!'), Some(negation)) => negation.within = std::mem::take(&mut self.written),
            (Some('@') | None, _) => self.written.push(')'),
            (Some(quantifier), _) => {
                self.written.push(')');
                self.written.push(quantifier);
            }
        }
    }

    /// A class as it stands in an expression; none when it has no end.
    fn class(&mut self) -> Result<Option<String>, GlobError> {
        let mut atoms = Vec::new();
        let mut first = true;
        loop {
            match self.chars.next() {
                None => return Ok(None),
                Some(']') if first && self.chars.clone().any(|c| c == ']') => {
                    let found = "a class that starts with \"]\" (write \"\\]\")";
                    return Err(GlobError::unsupported(found));
                }
                Some(']') if !first => break,
                Some('\\') => match self.chars.next() {
                    None => return Ok(None),
                    Some(c) if c.is_ascii_alphanumeric() || matches!(c, '-' | '@') => {
                        let found = format!("the escape \"\\{c}\" in a class");
                        return Err(GlobError::unsupported(found));
                    }
                    // An escaped character at the start does not negate.
                    Some(c) => atoms.push((c, true)),
                },
                Some(c) => atoms.push((c, false)),
            }
            first = false;
        }
        translate_class(&atoms).map(Some)
    }

    /// minimatch reads a `[` without `]` as itself, and then loses its way among wildcards.
    fn unclosed_class(self) -> Result<Segment, GlobError> {
        let has_wildcards = self.text.contains(['*', '?', '(']) || self.is_wild;
        if has_wildcards || self.text.matches('[').nth(1).is_some() {
            return Err(GlobError::unsupported(
                "a \"[\" without \"]\" (write \"\\[\")",
            ));
        }
        Ok(Segment::Text(unescape(self.text).into()))
    }

    fn finish(self) -> Result<Segment, GlobError> {
        if !self.is_wild {
            return Ok(Segment::Text(unescape(self.text).into()));
        }
        let (expression, exception, mut weight) = match self.negation {
            None => (self.written, None, 0),
            Some(Negation { before, within }) => {
                let after = self.written;
                // Only a `!(…)` at the end looks for the end of the segment.
                let end = if after.is_empty() { "$" } else { "" };
                let exception = format!("^{before}(?:{within}){after}{end}");
                let (exception, weight) = compile(&exception)?;
                (format!("{before}[^/]*{after}"), Some(exception), weight)
            }
        };
        let (expression, own_weight) = compile(&format!("^(?:{expression})$"))?;
        weight += own_weight;
        Ok(Segment::Wild(Box::new(Wild {
            starts_wild: self.starts_wild.unwrap_or_default(),
            expression,
            exception,
            weight,
        })))
    }
}

/// The text that a segment without wildcards stands for.
fn unescape(text: &str) -> String {
    let mut unescaped = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let escaped = if c == '\\' {
            chars.next_if(|c| !is_line_terminator(*c))
        } else {
            None
        };
        unescaped.push(escaped.unwrap_or(c));
    }
    unescaped
}

/// A class from its characters, and whether each was escaped.
fn translate_class(atoms: &[(char, bool)]) -> Result<String, GlobError> {
    let (negated, atoms) = match atoms {
        [('!' | '^', false), rest @ ..] => {
            // minimatch looks for errors before it knows that a `!` negates.
            if let ['!', '-', last, ..] = *chars(atoms).as_slice() {
                check_range('!', last)?;
            }
            (true, rest)
        }
        all => (false, all),
    };
    if atoms.is_empty() {
        return Ok("[^/]".to_owned());
    }
    let mut class = String::from(if negated { "[^" } else { "[" });
    let chars = chars(atoms);
    let mut rest = chars.as_slice();
    while let [first, after @ ..] = rest {
        rest = match after {
            ['-', last, after @ ..] => {
                check_range(*first, *last)?;
                class.push_str(&spelled_range(utf16::unit(*first), utf16::unit(*last)));
                after
            }
            after => {
                class.push_str(&escape_in_class(*first));
                after
            }
        };
    }
    class.push(']');
    Ok(class)
}

fn chars(atoms: &[(char, bool)]) -> Vec<char> {
    atoms.iter().map(|(c, _)| *c).collect()
}

fn check_range(first: char, last: char) -> Result<(), GlobError> {
    if utf16::unit(first) > utf16::unit(last) {
        return Err(GlobError::unsupported("a range out of order in a class"));
    }
    Ok(())
}

fn compile(expression: &str) -> Result<(Regex, usize), GlobError> {
    let compile = |size| {
        RegexBuilder::new(expression)
            .size_limit(size)
            .dfa_size_limit(AUTOMATON_CACHE_LIMIT)
            .build()
    };
    weighed(COMPILED_SIZE_LIMIT, compile).map_err(|_| GlobError::TooLarge)
}

//! JavaScript's regular expressions, in the syntax of the `regex` crate.
//!
//! Only what both read alike is let through; the rest is refused by name, for an expression that
//! means something else here than where it was written must not guard anything.

use std::iter::Peekable;
use std::str::Chars;

use regex::{Regex, RegexBuilder};
use thiserror::Error;

use crate::utf16;
use crate::weight::{Weigh, weighed};

/// Largest compiled expression, in bytes: ten thousand states or so, which bounds what one byte of a
/// body can cost.
const COMPILED_SIZE_LIMIT: usize = 1 << 20;

/// A JavaScript `RegExp` without flags.
#[derive(Clone, Debug)]
pub(crate) struct JsRegex {
    regex: Regex,
    weight: usize,
}

impl JsRegex {
    /// Reads an expression as it stands between JavaScript's slashes.
    ///
    /// # Errors
    /// When it is none, or has what takes more than linear time or is read in another way here.
    pub(crate) fn parse(source: &str) -> Result<Self, JsRegexError> {
        let translated = translate(&utf16::spell(source), Dialect::Text)
            .map_err(|found| JsRegexError::Unsupported { found })?;
        let compile = |size| RegexBuilder::new(&translated).size_limit(size).build();
        let (regex, weight) = weighed(COMPILED_SIZE_LIMIT, compile).map_err(refused)?;
        Ok(Self { regex, weight })
    }

    /// Whether it matches somewhere in `text`.
    pub(crate) fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(&utf16::spell(text))
    }
}

impl Weigh for JsRegex {
    fn weight(&self) -> usize {
        self.weight
    }
}

/// Why an expression is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum JsRegexError {
    /// Something that has no counterpart here.
    #[error("the expression has {found}")]
    Unsupported {
        /// What it is.
        found: String,
    },
    /// More than is reasonable.
    #[error("the expression is too large: use fewer repetitions")]
    TooLarge,
    /// Anything else that the expression compiler refuses.
    #[error("the expression cannot be compiled: {found}")]
    Other {
        /// The compiler's last line.
        found: String,
    },
}

fn refused(error: regex::Error) -> JsRegexError {
    if matches!(error, regex::Error::CompiledTooBig(_)) {
        return JsRegexError::TooLarge;
    }
    JsRegexError::Other {
        found: complaint(&error),
    }
}

/// What the compiler says is wrong. The lines before the last draw the expression, which is ours.
pub(crate) fn complaint(error: &regex::Error) -> String {
    let text = error.to_string();
    let found = text.lines().last().unwrap_or_default();
    found.trim_start_matches("error: ").to_owned()
}

/// Where an expression stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// In a group of a path, which is ASCII and is matched as bytes in either case: without groups of
    /// its own.
    PathGroup,
    /// By itself, for texts that are spelled as in [`utf16`].
    Text,
}

/// Translates `source`, or says what it has that cannot be translated.
pub(crate) fn translate(source: &str, dialect: Dialect) -> Result<String, String> {
    Translation {
        chars: source.chars().peekable(),
        dialect,
        written: String::new(),
        repeatable: false,
        depth: 0,
    }
    .run()
}

/// Writes a character of a class so that it means itself.
pub(crate) fn escape_in_class(c: char) -> String {
    if c.is_ascii_punctuation() {
        format!("\\{c}")
    } else {
        c.to_string()
    }
}

struct Translation<'a> {
    chars: Peekable<Chars<'a>>,
    dialect: Dialect,
    written: String,
    /// Whether a `*` may stand here; the `regex` crate takes more than JavaScript does.
    repeatable: bool,
    /// How many groups are open.
    depth: usize,
}

/// What an escape stands for in and outside a class alike.
enum Escape {
    /// A set, or a control character, in the syntax of the `regex` crate.
    Set(String),
    /// One character, as it is written in that syntax.
    Character { c: char, text: String },
}

impl Translation<'_> {
    fn run(mut self) -> Result<String, String> {
        while let Some(c) = self.chars.next() {
            match c {
                '\\' => self.escape()?,
                '[' => self.class()?,
                '*' | '+' | '?' => self.quantifier(&c.to_string())?,
                '{' => {
                    let bounds = self.bounds()?;
                    self.quantifier(&bounds)?;
                }
                '|' | '^' | '$' => self.write(&c.to_string(), false),
                '.' => self.write(self.any(), true),
                '(' => self.open()?,
                ')' => self.close()?,
                literal => self.write(&regex::escape(&literal.to_string()), true),
            }
        }
        if self.depth > 0 {
            return Err("a \"(\" without \")\"".to_owned());
        }
        Ok(self.written)
    }

    fn write(&mut self, text: &str, repeatable: bool) {
        self.written.push_str(text);
        self.repeatable = repeatable;
    }

    fn any(&self) -> &'static str {
        match self.dialect {
            Dialect::PathGroup => ".",
            Dialect::Text => r"[^\n\r\u{2028}\u{2029}]",
        }
    }

    fn open(&mut self) -> Result<(), String> {
        if self.dialect == Dialect::PathGroup {
            return Err("an escaped parenthesis".to_owned());
        }
        if self.chars.next_if_eq(&'?').is_some() {
            let kind = match (self.chars.next(), self.chars.peek()) {
                (Some(':'), _) => None,
                (Some(c @ ('=' | '!')), _) => Some(format!("the look-ahead \"(?{c}\"")),
                (Some('<'), Some(c @ ('=' | '!'))) => Some(format!("the look-behind \"(?<{c}\"")),
                (Some('<'), _) => Some("a named group (write \"(?:\")".to_owned()),
                _ => Some("a \"(?\" that starts no group".to_owned()),
            };
            if let Some(kind) = kind {
                return Err(kind);
            }
        }
        self.depth += 1;
        self.write("(?:", false);
        Ok(())
    }

    fn close(&mut self) -> Result<(), String> {
        if self.dialect == Dialect::PathGroup {
            return Err("an escaped parenthesis".to_owned());
        }
        let outer = self.depth.checked_sub(1);
        self.depth = outer.ok_or("a \")\" without \"(\"")?;
        self.write(")", true);
        Ok(())
    }

    fn quantifier(&mut self, text: &str) -> Result<(), String> {
        if !self.repeatable {
            return Err(format!("nothing to repeat before {text:?}"));
        }
        self.write(text, false);
        if self.chars.next_if_eq(&'?').is_some() {
            self.write("?", false);
        }
        Ok(())
    }

    /// `{2}`, `{2,}` or `{2,3}`; JavaScript takes any other brace for a literal.
    fn bounds(&mut self) -> Result<String, String> {
        let mut bounds = String::from("{");
        while let Some(c) = self.chars.next_if(|c| c.is_ascii_digit() || *c == ',') {
            bounds.push(c);
        }
        let digits_first = bounds.chars().nth(1).is_some_and(|c| c.is_ascii_digit());
        let one_comma = bounds.matches(',').count() <= 1;
        if !(self.chars.next_if_eq(&'}').is_some() && digits_first && one_comma) {
            return Err("a \"{\" that starts no repetition (write \"\\{\")".to_owned());
        }
        bounds.push('}');
        Ok(bounds)
    }

    fn escape(&mut self) -> Result<(), String> {
        match (self.chars.next(), self.dialect) {
            (Some(c @ ('b' | 'B')), Dialect::PathGroup) => self.write(&format!("\\{c}"), false),
            (Some('b'), Dialect::Text) => self.write(r"(?-u:\b)", false),
            (Some(c @ '1'..='9'), _) => return Err(format!("the backreference \"\\{c}\"")),
            (c, _) => {
                let text = match self.shared_escape(c)? {
                    Escape::Set(text) => text,
                    Escape::Character { c, .. } if c.is_ascii_punctuation() => {
                        regex::escape(&c.to_string())
                    }
                    Escape::Character { text, .. } => text,
                };
                self.write(&text, true);
            }
        }
        Ok(())
    }

    fn class(&mut self) -> Result<(), String> {
        let mut class = String::from("[");
        if self.chars.next_if_eq(&'^').is_some() {
            class.push('^');
        }
        if self.chars.peek() == Some(&']') {
            return Err("an empty class \"[]\"".to_owned());
        }
        while self.chars.next_if_eq(&']').is_none() {
            let first = self.class_atom()?;
            // A `-` before the end is one itself.
            let mut ahead = self.chars.clone();
            if ahead.next() == Some('-') && !matches!(ahead.next(), Some(']' | '-') | None) {
                self.chars.next();
                let last = self.class_atom()?;
                class.push_str(&self.class_range(&first, &last)?);
            } else {
                class.push_str(first.text());
            }
        }
        class.push(']');
        self.write(&class, true);
        Ok(())
    }

    fn class_atom(&mut self) -> Result<Escape, String> {
        let literal = |c| Escape::Character {
            c,
            text: escape_in_class(c),
        };
        match self.chars.next() {
            None => Err("a class without \"]\"".to_owned()),
            Some('-') if self.chars.peek() == Some(&'-') => {
                Err("\"--\" in a class (write \"\\-\")".to_owned())
            }
            Some('\\') if self.chars.next_if_eq(&'b').is_some() => Ok(Escape::Character {
                c: '\u{8}',
                text: "\\x08".to_owned(),
            }),
            Some('\\') => {
                let next = self.chars.next();
                self.shared_escape(next)
            }
            Some(c) => Ok(literal(c)),
        }
    }

    fn class_range(&self, first: &Escape, last: &Escape) -> Result<String, String> {
        let (Escape::Character { c: low, .. }, Escape::Character { c: high, .. }) = (first, last)
        else {
            return Err("a range from or to a set in a class (write \"\\-\")".to_owned());
        };
        let ends = match self.dialect {
            Dialect::PathGroup => return Ok(format!("{}-{}", first.text(), last.text())),
            Dialect::Text => (utf16::unit(*low), utf16::unit(*high)),
        };
        if ends.0 > ends.1 {
            return Err("a range out of order in a class".to_owned());
        }
        Ok(spelled_range(ends.0, ends.1))
    }

    fn shared_escape(&mut self, c: Option<char>) -> Result<Escape, String> {
        let c = c.ok_or("a \"\\\" at its end")?;
        let control = match c {
            't' => '\t',
            'n' => '\n',
            'r' => '\r',
            'f' => '\u{c}',
            'v' => '\u{b}',
            'x' => {
                let unit = self.hexadecimal(2);
                let unit = unit.ok_or("a \"\\x\" without two hexadecimal digits")?;
                return Ok(self.character(unit));
            }
            'u' if self.dialect == Dialect::Text => {
                let unit = self.hexadecimal(4);
                let unit = unit.ok_or("a \"\\u\" without four hexadecimal digits")?;
                return Ok(self.character(unit));
            }
            _ => {
                if let Some(set) = self.set(c) {
                    return Ok(Escape::Set(set.to_owned()));
                }
                if c.is_ascii_alphanumeric() {
                    return Err(format!("the escape \"\\{c}\""));
                }
                return Ok(Escape::Character {
                    c,
                    text: escape_in_class(c),
                });
            }
        };
        Ok(Escape::Character {
            c: control,
            text: format!("\\{c}"),
        })
    }

    fn character(&self, unit: u16) -> Escape {
        let c = utf16::spell_unit(unit);
        let text = match self.dialect {
            Dialect::PathGroup => format!("\\x{unit:02x}"),
            Dialect::Text => format!("\\u{{{:x}}}", u32::from(c)),
        };
        Escape::Character { c, text }
    }

    fn hexadecimal(&mut self, digits: usize) -> Option<u16> {
        let mut unit = 0;
        for _ in 0..digits {
            let digit = self.chars.next_if(char::is_ascii_hexdigit)?.to_digit(16)?;
            unit = unit * 16 + u16::try_from(digit).ok()?;
        }
        Some(unit)
    }

    /// JavaScript's sets are ASCII, but for its spaces.
    fn set(&self, c: char) -> Option<&'static str> {
        Some(match (c, self.dialect) {
            ('d', Dialect::PathGroup) => "\\d",
            ('D', Dialect::PathGroup) => "\\D",
            ('w', Dialect::PathGroup) => "\\w",
            ('W', Dialect::PathGroup) => "\\W",
            ('s', Dialect::PathGroup) => "\\s",
            ('S', Dialect::PathGroup) => "\\S",
            ('d', Dialect::Text) => "[0-9]",
            ('D', Dialect::Text) => "[^0-9]",
            ('w', Dialect::Text) => "[0-9A-Za-z_]",
            ('W', Dialect::Text) => "[^0-9A-Za-z_]",
            // Unicode's spaces without U+0085, and with U+FEFF.
            ('s', Dialect::Text) => r"[\s\u{feff}--\u{85}]",
            ('S', Dialect::Text) => r"[^\s\u{feff}--\u{85}]",
            _ => return None,
        })
    }
}

impl Escape {
    fn text(&self) -> &str {
        match self {
            Self::Set(text) | Self::Character { text, .. } => text,
        }
    }
}

/// A range of units as it stands in a class.
pub(crate) fn spelled_range(first: u16, last: u16) -> String {
    utf16::spell_range(first, last)
        .map(|(first, last)| format!("\\u{{{:x}}}-\\u{{{:x}}}", u32::from(first), u32::from(last)))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn assert_matches(source: &str, yes: &[&str], no: &[&str]) {
        let regex = JsRegex::parse(source).unwrap_or_else(|error| panic!("{source}: {error}"));
        for text in yes {
            assert!(regex.is_match(text), "{source} should match {text:?}");
        }
        for text in no {
            assert!(!regex.is_match(text), "{source} should not match {text:?}");
        }
    }

    #[test]
    fn an_expression_matches_anywhere_unless_it_is_anchored() {
        assert_matches("b+", &["abbc"], &["ac", ""]);
        assert_matches(
            "^(?:open|(closed))$",
            &["open", "closed"],
            &["opened", "open\n", "x\nopen"],
        );
    }

    #[test]
    fn sets_are_those_of_javascript() {
        assert_matches("^\\d$", &["1"], &["٣"]);
        assert_matches("^\\w$", &["a", "_"], &["é", "\u{212a}"]);
        assert_matches(
            "^[\\s]$",
            &[" ", "\u{a0}", "\u{feff}", "\u{2028}"],
            &["\u{85}", "\u{180e}"],
        );
        assert_matches(
            "^.$",
            &["a", "\u{85}"],
            &["\n", "\r", "\u{2028}", "\u{2029}"],
        );
        assert_matches("a\\b", &["aé", "a"], &["ab"]);
        assert_matches("^[\\b]$", &["\u{8}"], &["b"]);
        assert_matches("k", &["k"], &["K", "\u{212a}"]);
    }

    #[test]
    fn a_character_beyond_the_basic_plane_is_two_units() {
        assert_matches("^..$", &["😀"], &["é", "😀😀"]);
        assert_matches("^[😀]+$", &["😀"], &["😁", "é"]);
        assert_matches("\\ud83d", &["😀"], &["é"]);
        assert_matches("^[a-\\uffff]+$", &["😀é\u{ffff}"], &["A"]);
    }

    #[test]
    fn what_has_no_counterpart_is_refused_by_name() {
        for (source, error) in [
            ("a(?=b)", "the expression has the look-ahead \"(?=\""),
            ("a(?!b)", "the expression has the look-ahead \"(?!\""),
            ("(?<=a)b", "the expression has the look-behind \"(?<=\""),
            ("(?<!a)b", "the expression has the look-behind \"(?<!\""),
            (
                "(?<n>a)",
                "the expression has a named group (write \"(?:\")",
            ),
            ("(?i:a)", "the expression has a \"(?\" that starts no group"),
            ("(a)\\1", "the expression has the backreference \"\\1\""),
            ("\\k<n>", "the expression has the escape \"\\k\""),
            ("\\Ba", "the expression has the escape \"\\B\""),
            (
                "\\u{61}",
                "the expression has a \"\\u\" without four hexadecimal digits",
            ),
            ("(a", "the expression has a \"(\" without \")\""),
            ("a)", "the expression has a \")\" without \"(\""),
            ("^*", "the expression has nothing to repeat before \"*\""),
            (
                "a{",
                "the expression has a \"{\" that starts no repetition (write \"\\{\")",
            ),
            ("[]", "the expression has an empty class \"[]\""),
            (
                "[\\w-z]",
                "the expression has a range from or to a set in a class (write \"\\-\")",
            ),
            (
                "[z-a]",
                "the expression has a range out of order in a class",
            ),
            (
                "a{1000}{2}",
                "the expression has nothing to repeat before \"{2}\"",
            ),
            (
                "(a{999}){999}",
                "the expression is too large: use fewer repetitions",
            ),
            (
                "a{2,1}",
                "the expression cannot be compiled: invalid repetition count range, the start must be \
                 <= the end",
            ),
        ] {
            let refused = JsRegex::parse(source).map(|_| ()).unwrap_err();
            assert_eq!(refused.to_string(), error, "{source}");
        }
        assert!(JsRegex::parse(&"(".repeat(100_000)).is_err());
        let nested = "(".repeat(100_000) + &")".repeat(100_000);
        assert!(JsRegex::parse(&nested).is_err());
    }

    #[test]
    fn an_expression_that_backtracks_elsewhere_takes_linear_time() {
        let regex = JsRegex::parse("^(a+)+$").unwrap();
        assert!(!regex.is_match(&("a".repeat(1 << 20) + "b")));
    }

    #[test]
    fn the_two_dialects_differ_in_sets_and_groups() {
        assert_eq!(translate("a.", Dialect::PathGroup), Ok("a.".to_owned()));
        assert_eq!(
            translate("a.", Dialect::Text),
            Ok(r"a[^\n\r\u{2028}\u{2029}]".to_owned())
        );
        assert!(translate("(a)", Dialect::PathGroup).is_err());
        assert!(translate("(a)", Dialect::Text).is_ok());
    }

    proptest! {
        #[test]
        fn any_expression_is_read_without_panic(source in "[ -~é😀\n]{0,24}", text: String) {
            if let Ok(regex) = JsRegex::parse(&source) {
                regex.is_match(&text);
            }
        }
    }
}

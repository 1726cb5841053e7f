//! The expression in a `(group)`: from JavaScript's syntax into that of the `regex` crate.
//!
//! Only what both read alike is let through; the rest is refused by name, for an expression that
//! means something else here than where it was written must not guard anything.

use std::iter::Peekable;
use std::str::Chars;

use super::{PathPatternError, escape_in_class};

/// Translates what stands between the parentheses.
pub(super) fn translate(group: &str) -> Result<String, PathPatternError> {
    let source = escape_like_path_to_regexp(group);
    Translation {
        chars: source.chars().peekable(),
        written: String::new(),
        repeatable: false,
    }
    .run()
    .map_err(|found| PathPatternError::Group {
        group: group.to_owned(),
        found,
    })
}

/// path-to-regexp takes these characters for literals, and escapes them even after a backslash.
fn escape_like_path_to_regexp(group: &str) -> String {
    let mut escaped = String::with_capacity(group.len());
    for c in group.chars() {
        if matches!(c, '=' | '!' | ':' | '$' | '/' | '(' | ')') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

struct Translation<'a> {
    chars: Peekable<Chars<'a>>,
    written: String,
    /// Whether a `*` may stand here; the `regex` crate takes more than JavaScript does.
    repeatable: bool,
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
                '.' => self.write(".", true),
                '(' | ')' => return Err("an escaped parenthesis".to_owned()),
                literal => self.write(&regex::escape(&literal.to_string()), true),
            }
        }
        Ok(self.written)
    }

    fn write(&mut self, text: &str, repeatable: bool) {
        self.written.push_str(text);
        self.repeatable = repeatable;
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
        match self.chars.next() {
            Some(c @ ('b' | 'B')) => self.write(&format!("\\{c}"), false),
            Some(c @ '1'..='9') => return Err(format!("the backreference \"\\{c}\"")),
            c => {
                let escape = self.shared_escape(c)?;
                let text = escape.unwrap_or_else(|literal| regex::escape(&literal.to_string()));
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
        loop {
            match self.chars.next() {
                None => return Err("a class without \"]\"".to_owned()),
                Some(']') => break,
                Some('-') if self.chars.peek() == Some(&'-') => {
                    return Err("\"--\" in a class (write \"\\-\")".to_owned());
                }
                Some('-') => class.push('-'),
                Some('\\') if self.chars.next_if_eq(&'b').is_some() => class.push_str("\\x08"),
                Some('\\') => {
                    let next = self.chars.next();
                    let escape = self.shared_escape(next)?;
                    class.push_str(&escape.unwrap_or_else(escape_in_class));
                }
                Some(literal) => class.push_str(&escape_in_class(literal)),
            }
        }
        class.push(']');
        self.write(&class, true);
        Ok(())
    }

    /// What `\c` means in and outside a class alike: `Ok` an escape, `Err` a literal character.
    fn shared_escape(&mut self, c: Option<char>) -> Result<Result<String, char>, String> {
        match c {
            Some(c @ ('d' | 'D' | 'w' | 'W' | 's' | 'S' | 't' | 'n' | 'r' | 'f' | 'v')) => {
                Ok(Ok(format!("\\{c}")))
            }
            Some('x') => {
                let mut digit = || self.chars.next_if(char::is_ascii_hexdigit);
                match (digit(), digit()) {
                    (Some(high), Some(low)) => Ok(Ok(format!("\\x{high}{low}"))),
                    _ => Err("a \"\\x\" without two hexadecimal digits".to_owned()),
                }
            }
            Some(c) if c.is_ascii_alphanumeric() => Err(format!("the escape \"\\{c}\"")),
            Some(c) => Ok(Err(c)),
            None => Err("a \"\\\" at its end".to_owned()),
        }
    }
}

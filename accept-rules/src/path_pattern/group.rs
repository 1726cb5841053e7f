//! The expression in a `(group)`: from JavaScript's syntax into that of the `regex` crate.

use super::PathPatternError;
use crate::js_regex::{self, Dialect};

/// Translates what stands between the parentheses.
pub(super) fn translate(group: &str) -> Result<String, PathPatternError> {
    let source = escape_like_path_to_regexp(group);
    js_regex::translate(&source, Dialect::PathGroup).map_err(|found| PathPatternError::Group {
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

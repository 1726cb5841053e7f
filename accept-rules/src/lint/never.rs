//! Rules that no request can match.

use http::header::{CONNECTION, TRANSFER_ENCODING, UPGRADE};
use std::time::SystemTime;

use http::header::{EXPECT, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE};
use http::{HeaderName, Method};

use super::quoted;
use super::shape::Shape;
use crate::condition::{HeaderCondition, ValueGlob};
use crate::path_pattern::Token;
use crate::rule::{EncodedSlash, Rule};
use crate::target::{RequestTarget, TargetError};

/// Headers that are removed from every request before it is judged: they speak of one connection
/// (RFC 9110 §7.6.1), or are between the caller and the server.
static REMOVED: [HeaderName; 11] = [
    CONNECTION,
    EXPECT,
    HOST,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-authentication-info"),
    HeaderName::from_static("proxy-connection"),
];

/// Stands for whatever a parameter may hold.
const VALUE: &str = "x";

/// Why no request can match `rule`, and what to do about it.
pub(super) fn why(rule: &Rule, shape: &Shape, now: SystemTime) -> Option<(String, String)> {
    expired(rule, now)
        .or_else(|| refused_path(rule, shape))
        .or_else(|| refused_slash(rule, shape))
        .or_else(|| impossible_header(rule))
        .or_else(|| impossible_query(rule))
}

fn expired(rule: &Rule, now: SystemTime) -> Option<(String, String)> {
    let end = rule.expires().filter(|end| now >= *end)?;
    let end = humantime::format_rfc3339_seconds(end);
    Some((
        format!("no request can match: \"expires\" was over at {end}"),
        "remove the rule, or give it more time".to_owned(),
    ))
}

/// Something in the path for which a target is refused before any rule is asked.
fn refused_path(rule: &Rule, shape: &Shape) -> Option<(String, String)> {
    let path = quoted(rule.path());
    if literals(shape).any(|text| text.contains('?')) {
        let problem = format!("\"path\" {path} has a \"?\", and a path never does");
        let fix = "leave the query out: \"valid\" with \"queryParam\" judges it";
        return Some((problem, fix.to_owned()));
    }
    let error = refusal(shape)?;
    Some((
        format!("no request can match \"path\" {path}: {error}"),
        "write the path as clients send it, or remove the rule".to_owned(),
    ))
}

/// Why every target that fits is refused, where the reason is in the literal text alone.
fn refusal(shape: &Shape) -> Option<TargetError> {
    let tokens = shape.tokens();
    let has_parameters = tokens
        .iter()
        .any(|token| matches!(token, Token::Parameter(_)));
    // An escape that a value may complete says nothing by itself.
    let splits_escape = |pair: &[Token]| match pair {
        [Token::Literal(text), Token::Parameter(_)] => ends_within_escape(text),
        _ => false,
    };
    if tokens.windows(2).any(splits_escape) {
        return None;
    }
    let error = required_texts(tokens)
        .iter()
        .find_map(|text| RequestTarget::new(&Method::GET, text).err())?;
    // A value may complete a character, too.
    let is_certain = !(has_parameters && matches!(error, TargetError::InvalidUtf8 { .. }));
    is_certain.then_some(error)
}

/// The stretches of the path between optional parameters, each as a path of its own: a value in the
/// place of each required parameter, and of whatever stands before and after.
fn required_texts(tokens: &[Token]) -> Vec<String> {
    let mut texts = vec![String::new()];
    let last = tokens.len().saturating_sub(1);
    for (index, token) in tokens.iter().enumerate() {
        let optional = matches!(token, Token::Parameter(parameter) if parameter.optional);
        if let (Some(text), true) = (texts.last_mut(), optional) {
            text.push_str(VALUE);
            texts.push(format!("/{VALUE}"));
        }
        let Some(text) = texts.last_mut() else {
            continue;
        };
        match token {
            // One slash at the end is optional.
            Token::Literal(literal) if index == last && literal != "/" => {
                text.push_str(literal.strip_suffix('/').unwrap_or(literal));
            }
            Token::Literal(literal) => text.push_str(literal),
            Token::Parameter(_) if optional => {}
            Token::Parameter(parameter) => {
                text.push_str(&parameter.prefix_text());
                text.push_str(VALUE);
            }
        }
    }
    texts.retain(|text| text.starts_with('/'));
    texts
}

fn ends_within_escape(text: &str) -> bool {
    let tail: Vec<_> = text.bytes().rev().take(2).collect();
    matches!(tail.as_slice(), [b'%', ..] | [_, b'%'])
}

fn refused_slash(rule: &Rule, shape: &Shape) -> Option<(String, String)> {
    let has_slash = literals(shape).any(|text| text.to_ascii_lowercase().contains("%2f"));
    (rule.encoded_slash == EncodedSlash::Refuse && has_slash).then(|| {
        let path = quoted(rule.path());
        (
            format!("\"path\" {path} has \"%2F\", which is refused for its origin"),
            "remove the rule, or \"encoded-slash: refuse\" of the origin".to_owned(),
        )
    })
}

fn literals(shape: &Shape) -> impl Iterator<Item = &str> {
    shape.tokens().iter().filter_map(|token| match token {
        Token::Literal(text) => Some(text.as_str()),
        Token::Parameter(_) => None,
    })
}

fn impossible_header(rule: &Rule) -> Option<(String, String)> {
    rule.conditions.headers.iter().find_map(|condition| {
        let name = quoted(&condition.name);
        let problem = |why| format!("no request can match: the header {name} {why}");
        let remove = || "remove the condition, or the rule".to_owned();
        match &condition.header {
            None => Some((
                problem("is looked up as written, and names arrive in lower case"),
                format!("write {}", quoted(&condition.name.to_ascii_lowercase())),
            )),
            Some(_) if condition.values.is_empty() => {
                Some((problem("has no \"values\""), remove()))
            }
            Some(header) if is_removed(header, condition) => {
                Some((problem("is removed before a request is judged"), remove()))
            }
            Some(_) if condition.values.iter().all(|value| !can_arrive(value)) => Some((
                problem("has only values that no header can have"),
                "leave out spaces around a value, and control characters".to_owned(),
            )),
            Some(_) => None,
        }
    })
}

fn is_removed(header: &HeaderName, condition: &HeaderCondition) -> bool {
    let name = header.as_str();
    REMOVED.contains(header)
        || name.starts_with("broker-")
        || name.starts_with("broker_")
        || (*header == TE && condition.values.iter().all(|value| &**value != "trailers"))
}

fn can_arrive(value: &str) -> bool {
    value == value.trim_matches([' ', '\t']) && !value.contains(|c: char| c.is_ascii_control())
}

fn impossible_query(rule: &Rule) -> Option<(String, String)> {
    if rule.conditions.either && rule.needs_body() {
        // One on the body suffices.
        return None;
    }
    rule.conditions.query.iter().find_map(|condition| {
        let name = quoted(&condition.name);
        let Some(first) = condition.values.first() else {
            return Some((
                format!("no request can match: the query parameter {name} has no \"values\""),
                "list the values, or remove the condition".to_owned(),
            ));
        };
        let comment = |value: &ValueGlob| match value {
            ValueGlob::Minimatch(glob) => glob.is_comment().then(|| quoted(glob.as_str())),
            ValueGlob::Segments(_) => None,
        };
        let value = comment(first)?;
        let all_comments = condition
            .values
            .iter()
            .all(|value| comment(value).is_some());
        all_comments.then(|| {
            (
                format!(
                    "no request can match: {value} for the query parameter {name} is a comment"
                ),
                "write \"[#]\" for a \"#\" at the start".to_owned(),
            )
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::file::RuleFile;
    use crate::rule::List;

    fn rule(fields: &str) -> Option<Rule> {
        let text = format!(r#"{{"private": [{{"origin": "https://host", {fields}}}]}}"#);
        Some(
            RuleFile::parse(&text)
                .ok()?
                .rules(List::Private)
                .first()?
                .clone(),
        )
    }

    fn problem(fields: &str) -> Option<String> {
        let rule = rule(fields).unwrap_or_else(|| panic!("{fields} is refused"));
        why(&rule, &Shape::of(&rule), SystemTime::UNIX_EPOCH).map(|(problem, _)| problem)
    }

    #[test]
    fn a_path_that_every_target_is_refused_for_never_matches() {
        for (path, end) in [
            ("/a/%41/:b", "has the escaped letter or digit \"%41\""),
            ("/a/%2e%2e/b", "has the dot segment \"..\""),
            ("/a/./:b", "has the dot segment \".\""),
            ("/:a/..;x/b", "has the dot segment \"..;x\""),
            ("/a//b", "has the empty segment \"//\""),
            ("/a//:b", "has the empty segment \"//\""),
            ("/:a?/b//c", "has the empty segment \"//\""),
            ("/a?b=c", "has a \"?\", and a path never does"),
            ("/a#b", "has a \"#\""),
            ("/a b", "has the raw byte 0x20"),
            ("/%zz/:a", "has the malformed escape \"%zz\""),
            ("/%ff", "has escapes that are not UTF-8, from \"%FF\" on"),
        ] {
            let found = problem(&format!(r#""path": "{path}""#)).unwrap_or_default();
            assert!(found.ends_with(end), "{path}: {found}");
        }
        for path in [
            "/",
            "/a/",
            "/a//",
            "/:a//",
            "/a/..b",
            "/a/.:b?/c",
            "/a//:b?",
            "/a/:b?/c",
            "/%c3:a",
            "/a%:b",
            "/a%2:b",
            "/a/..:b",
            "/a/;x",
            "/*",
        ] {
            assert_eq!(problem(&format!(r#""path": "{path}""#)), None, "{path}");
        }
    }

    #[test]
    fn a_condition_on_what_never_arrives_never_holds() {
        let valid = |condition: &str| problem(&format!(r#""valid": [{condition}]"#));
        for (condition, middle) in [
            (
                r#"{"header": "X-A", "values": ["b"]}"#,
                "is looked up as written",
            ),
            (r#"{"header": "x-a", "values": []}"#, "has no \"values\""),
            (
                r#"{"header": "x-a", "values": [" b", "c\td\n"]}"#,
                "has only values that no header can have",
            ),
            (
                r#"{"header": "upgrade", "values": ["websocket"]}"#,
                "is removed before",
            ),
            (
                r#"{"header": "broker_x", "values": ["b"]}"#,
                "is removed before",
            ),
            (
                r#"{"header": "te", "values": ["gzip"]}"#,
                "is removed before",
            ),
            (
                r##"{"queryParam": "a", "values": ["#b"]}"##,
                "\"#b\" for the query parameter \"a\" is a comment",
            ),
            (
                r#"{"queryParam": "a", "values": []}"#,
                "the query parameter \"a\" has no \"values\"",
            ),
        ] {
            let found = valid(condition).unwrap_or_default();
            assert!(found.contains(middle), "{condition}: {found}");
        }
        for condition in [
            r#"{"header": "x-a", "values": [" b", "b"]}"#,
            r#"{"header": "te", "values": ["trailers"]}"#,
            r#"{"header": "broke", "values": ["b"]}"#,
            r#"{"queryParam": "a", "values": []}, {"path": "b", "value": "c"}"#,
        ] {
            assert_eq!(valid(condition), None, "{condition}");
        }
    }

    #[test]
    fn an_expired_rule_never_matches_from_its_end_on() {
        let text = r#"{"version": 2, "private": [
            {"path": "/a", "origin": "https://host", "expires": "2027-01-31"}]}"#;
        let file = RuleFile::parse(text).unwrap();
        let rule = file.rules(List::Private).first().unwrap();
        let end = rule.expires().unwrap();
        let why = |now| why(rule, &Shape::of(rule), now).map(|(problem, _)| problem);
        assert_eq!(why(end - std::time::Duration::from_secs(1)), None);
        assert_eq!(
            why(end).unwrap_or_default(),
            "no request can match: \"expires\" was over at 2027-02-01T00:00:00Z"
        );
    }

    #[test]
    fn an_encoded_slash_in_the_rule_never_matches_where_it_is_refused() {
        let mut rule = rule(r#""path": "/:a/b%2fc""#).unwrap();
        let shape = Shape::of(&rule);
        assert_eq!(why(&rule, &shape, SystemTime::UNIX_EPOCH), None);
        rule.encoded_slash = EncodedSlash::Refuse;
        assert!(why(&rule, &shape, SystemTime::UNIX_EPOCH).is_some());
    }

    fn some_text() -> impl Strategy<Value = String> {
        let pieces = prop::sample::select(vec![
            "/", "//", "a", ".", "..", ":x", ":y?", "/:z?", "/:w*", "*", "%", "2", "e", "%2e",
            "%c3", "%a9", ";", "%2f", "/",
        ]);
        prop::collection::vec(pieces, 0..6).prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    proptest! {
        #[test]
        fn what_is_said_never_to_match_matches_nothing(
            path in some_text(),
            targets in prop::collection::vec("/([a./;2e]|%c3|%a9|%2f|%){0,6}", 20),
        ) {
            let Some(rule) = rule(&format!(r#""path": "{path}""#)) else { return Ok(()) };
            if why(&rule, &Shape::of(&rule), SystemTime::UNIX_EPOCH).is_some() {
                for target in targets {
                    let Ok(target) = RequestTarget::new(&Method::GET, &target) else { continue };
                    prop_assert!(!rule.covers(&target), "{} matches {}", path, target.as_str());
                }
            }
        }
    }
}

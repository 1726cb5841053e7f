//! Reading one value from its text; every refusal says what would be right.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// Longest value that a message repeats, in characters; enough to recognise it by.
const SHOWN_CHARS: usize = 80;
/// Longest length of time: nothing here waits longer, and the clock can add it to any moment.
const MAX_DURATION: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// `true` or `false`.
///
/// # Errors
/// If it is neither.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(format!("{} is not true or false", shown(text))),
    }
}

/// A whole number within `range`.
pub fn integer<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, String>
where
    T: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    move |text| {
        let fix = format!("(use {} to {})", range.start(), range.end());
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(format!("{} is not a whole number {fix}", shown(text)));
        }
        match text.parse() {
            Ok(number) if range.contains(&number) => Ok(number),
            _ => Err(format!("{} is out of range {fix}", shown(text))),
        }
    }
}

/// A length of time of up to 30 days, such as `30s`, `5m` or `1h 30m`.
///
/// # Errors
/// If it is not one, or longer.
pub fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration <= MAX_DURATION => Ok(duration),
        Ok(_) => Err(format!("{} is too long (use 30d at most)", shown(text))),
        Err(_) => Err(format!(
            "{} is not a length of time (write 500ms, 30s, 5m or 1h)",
            shown(text)
        )),
    }
}

/// A length of time that is not zero.
///
/// # Errors
/// If it is not one.
pub fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err(format!(
            "{} would end at once (write 500ms, 30s, 5m or 1h)",
            shown(text)
        )),
        duration => Ok(duration),
    }
}

/// A path in the file system.
///
/// # Errors
/// If it is empty.
pub fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("the path is empty (name a file or folder)".to_owned());
    }
    Ok(text.into())
}

/// A value as a message may repeat it: quoted, cut, and not at all where it could hold a secret.
#[must_use]
pub fn shown(text: &str) -> String {
    if could_be_secret(text) {
        return "this value (not repeated here, it could hold a secret)".to_owned();
    }
    let cut: String = text.chars().take(SHOWN_CHARS).collect();
    format!("{cut:?}")
}

/// Whether a text reads like one of our own secrets, or like an address with a password in it.
pub(super) fn could_be_secret(text: &str) -> bool {
    text.to_ascii_lowercase().contains("brk_") || text.contains('@')
}

/// The known name that `name` was probably meant to be.
#[must_use]
pub fn nearest<'k>(name: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    known
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .filter(|(distance, known)| *distance <= (known.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_outside_their_range_are_refused_with_the_range() {
        assert_eq!(integer(1..=16)("16"), Ok(16));
        assert_eq!(
            integer(1..=16)("17"),
            Err(r#""17" is out of range (use 1 to 16)"#.into())
        );
        assert_eq!(
            integer(1_u8..=250)("999"),
            Err(r#""999" is out of range (use 1 to 250)"#.into())
        );
        assert_eq!(
            integer(1..=16)("+2"),
            Err(r#""+2" is not a whole number (use 1 to 16)"#.into())
        );
    }

    #[test]
    fn a_length_of_time_needs_its_unit() {
        assert_eq!(duration("1h 30m"), Ok(Duration::from_secs(5400)));
        assert!(
            duration("30")
                .unwrap_err()
                .starts_with(r#""30" is not a length of time"#)
        );
        assert!(positive_duration("0s").is_err());
    }

    #[test]
    fn a_length_of_time_over_30_days_is_refused() {
        assert_eq!(duration("30d"), Ok(MAX_DURATION));
        for text in ["30d 1ms", "18446744073709551615s"] {
            let refusal = format!("{text:?} is too long (use 30d at most)");
            assert_eq!(duration(text), Err(refusal.clone()));
            assert_eq!(positive_duration(text), Err(refusal));
        }
        duration("18446744073709551616s").unwrap_err();
    }

    #[test]
    fn what_could_be_a_secret_is_never_repeated() {
        for text in [
            "brk_agent_0123",
            "BRK_CALLER_1",
            "https://user:pass@host",
            "a brk_ b",
        ] {
            assert!(!shown(text).contains(text), "{text}");
        }
        assert_eq!(shown("1.1"), r#""1.1""#);
    }

    #[test]
    fn a_misspelt_name_is_matched_and_a_strange_one_is_not() {
        let known = ["tls-min", "post-quantum"];
        assert_eq!(nearest("tls-mni", known), Some("tls-min"));
        assert_eq!(nearest("post_quantum", known), Some("post-quantum"));
        assert_eq!(nearest("colour", known), None);
    }
}

//! Finds an injected credential in the origin's answer: as it is, and in base64 at each of the three places where it
//! can begin in a group of bytes (RFC 4648 §4, §5).
//!
//! What is looked for is the secret part alone, since whatever holds the whole header holds that too. One pass for each
//! form; a form is searched in linear time, and never copied into a table that nobody wipes.

use base64::Engine as _;
use base64::alphabet::{Alphabet, STANDARD, URL_SAFE};
use base64::engine::{GeneralPurpose, general_purpose::NO_PAD};
use http::{HeaderMap, HeaderName, HeaderValue};
use memchr::memmem;
use percent_encoding::percent_decode;
use zeroize::Zeroizing;

/// Shortest value that is looked for in a body, in bytes; shorter ones would be found by chance.
const SHORTEST_IN_BODY: usize = 12;
/// The same in a header, of which there is less.
const SHORTEST_IN_HEADER: usize = 8;
/// Longest end of a value that is looked for, in bytes: a token's end tells it from every other, and each piece of a body
/// costs what preparing the search does, which grows with its length.
const LONGEST: usize = 64;
/// What stands in place of a credential.
const MASK: &[u8] = b"***";

/// One credential's secret part, in all forms that are looked for, and the end of the body that has passed.
pub(crate) struct Echo {
    forms: Vec<Form>,
    longest: usize,
    is_too_short: bool,
    /// It is longer than what is looked for.
    is_cut: bool,
    /// Where a form may have begun.
    tail: Zeroizing<Vec<u8>>,
}

type Form = Zeroizing<Box<[u8]>>;

impl Echo {
    /// Of the secret part of a credential.
    pub(super) fn of(secret: &[u8]) -> Self {
        let mut forms: Vec<Form> = Vec::new();
        let end = last(secret, LONGEST);
        if end.len() >= SHORTEST_IN_HEADER {
            forms.push(Zeroizing::new(end.into()));
            for (before, alphabet) in (0..3).flat_map(|at| [(at, &STANDARD), (at, &URL_SAFE)]) {
                let form = in_base64(end, before, alphabet);
                // Most are the same in both alphabets.
                if !forms.contains(&form) {
                    forms.push(form);
                }
            }
        }
        let longest = forms.iter().map(|form| form.len()).max().unwrap_or(1);
        Self {
            forms,
            longest,
            is_too_short: secret.len() < SHORTEST_IN_BODY,
            is_cut: end.len() < secret.len(),
            // A buffer that grows leaves copies.
            tail: Zeroizing::new(Vec::with_capacity(2 * longest)),
        }
    }

    /// Whether it could stand in a body by chance.
    pub(crate) fn is_too_short(&self) -> bool {
        self.is_too_short
    }

    /// Masks what headers hold of it, and gives back the names of those that do.
    pub(crate) fn mask(&self, headers: &mut HeaderMap) -> Vec<HeaderName> {
        let mut masked = Vec::new();
        for (name, value) in headers.iter_mut() {
            if let Some(without) = self.masked(value) {
                *value = without;
                masked.push(name.clone());
            }
        }
        masked.dedup();
        masked
    }

    /// Whether a form ends in this piece of a body, of which the pieces before were looked at and held none.
    pub(crate) fn ends_in(&mut self, piece: &[u8]) -> bool {
        let reach = self.longest - 1;
        // What begins in an earlier piece and ends in this one.
        self.tail.extend_from_slice(first(piece, reach));
        let found = self.is_in(&self.tail) || self.is_in(piece);
        if piece.len() < reach {
            let passed = self.tail.len().saturating_sub(reach);
            self.tail.drain(..passed);
        } else {
            self.tail.clear();
            self.tail.extend_from_slice(last(piece, reach));
        }
        found
    }

    fn masked(&self, value: &HeaderValue) -> Option<HeaderValue> {
        let mut masked = None;
        for form in &self.forms {
            let text = masked.as_deref().unwrap_or(value.as_bytes());
            masked = without(form, text).or(masked);
        }
        let text = masked.as_deref().unwrap_or(value.as_bytes());
        let is_escaped = text.contains(&b'%') && self.is_in(&Vec::from_iter(percent_decode(text)));
        if is_escaped || (masked.is_some() && self.is_cut) {
            // Where in the text it begins and ends is not known.
            masked = Some(MASK.to_vec());
        }
        let mask = HeaderValue::from_static("***");
        masked.map(|text| HeaderValue::from_bytes(&text).unwrap_or(mask))
    }

    fn is_in(&self, text: &[u8]) -> bool {
        let mut forms = self.forms.iter();
        forms.any(|form| memmem::find(text, form).is_some())
    }
}

/// `text` with the mask in place of each `form`; `None` where it has none.
fn without(form: &[u8], text: &[u8]) -> Option<Vec<u8>> {
    if text.len() < form.len() {
        return None;
    }
    let mut masked = Vec::new();
    let mut behind = 0;
    for at in memmem::find_iter(text, form) {
        masked.extend_from_slice(text.get(behind..at).unwrap_or_default());
        masked.extend_from_slice(MASK);
        behind = at + form.len();
    }
    masked.extend_from_slice(text.get(behind..).unwrap_or_default());
    (behind > 0).then_some(masked)
}

fn first(bytes: &[u8], count: usize) -> &[u8] {
    bytes.get(..count).unwrap_or(bytes)
}

fn last(bytes: &[u8], count: usize) -> &[u8] {
    bytes
        .get(bytes.len().saturating_sub(count)..)
        .unwrap_or(bytes)
}

/// What is the same in every base64 text of bytes that hold `secret` behind a multiple of three and `before` bytes.
fn in_base64(secret: &[u8], before: usize, alphabet: &Alphabet) -> Form {
    let mut bytes = Zeroizing::new(vec![0; before]);
    bytes.reserve_exact(secret.len());
    bytes.extend_from_slice(secret);
    let encoded = GeneralPurpose::new(alphabet, NO_PAD).encode(&*bytes);
    let encoded = Zeroizing::new(encoded.into_bytes());
    // Characters that mix in bits of the neighbours: those that cover bytes before, and the last unless it is full.
    let (first, end) = ((before * 8).div_ceil(6), bytes.len() * 8 / 6);
    Zeroizing::new(encoded.get(first..end).unwrap_or_default().into())
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose;
    use proptest::prelude::*;

    use super::*;

    const SECRET: &str = "s3cret+value/of>the?customer";

    fn echo() -> Echo {
        Echo::of(SECRET.as_bytes())
    }

    fn masked(value: &str) -> (Vec<HeaderName>, String) {
        let mut headers = HeaderMap::new();
        headers.insert("x-echo", value.parse().unwrap());
        let names = echo().mask(&mut headers);
        (names, headers["x-echo"].to_str().unwrap().to_owned())
    }

    #[test]
    fn a_header_loses_the_credential_in_each_form_and_keeps_the_rest() {
        let escaped: String = SECRET.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let some = SECRET.replace('/', "%2f").replace('+', "%2B");
        for (value, expected) in [
            (format!("Bearer {SECRET}"), "Bearer ***"),
            (format!("a={SECRET}; b={SECRET}"), "a=***; b=***"),
            (escaped, "***"),
            (format!("/x?token={some}"), "***"),
            // Characters that share bits with what stands beside it stay.
            (general_purpose::STANDARD.encode(SECRET), "***g=="),
            (
                general_purpose::STANDARD.encode(format!("Bearer {SECRET}")),
                "QmVhcmVyIH***I=",
            ),
        ] {
            let (names, without) = masked(&value);
            assert_eq!(names, ["x-echo"], "{value}");
            assert_eq!(without, expected, "{value}");
        }
        for value in ["", "s3cret", "100%", "%zz", "***"] {
            assert_eq!(masked(value), (Vec::new(), value.to_owned()));
        }
    }

    #[test]
    fn of_a_long_credential_the_end_is_looked_for_and_a_header_is_masked_whole() {
        let secret: String = (0..400).map(|number| format!("{number:03}")).collect();
        let mut echo = Echo::of(secret.as_bytes());
        let mut headers = HeaderMap::new();
        headers.insert("x-echo", format!("got {secret}").parse().unwrap());
        echo.mask(&mut headers);
        assert_eq!(headers["x-echo"], "***");
        let (almost, last) = secret.split_at(secret.len() - 1);
        assert!(!echo.ends_in(almost.as_bytes()));
        assert!(echo.ends_in(last.as_bytes()));
    }

    #[test]
    fn a_short_credential_is_masked_from_eight_bytes_on_and_never_looked_for_in_bodies() {
        for (secret, is_masked) in [("1234567", false), ("12345678", true)] {
            let echo = Echo::of(secret.as_bytes());
            let mut headers = HeaderMap::new();
            headers.insert("x-echo", secret.parse().unwrap());
            assert_eq!(echo.mask(&mut headers).len(), usize::from(is_masked));
            assert!(echo.is_too_short());
        }
        assert!(!Echo::of(b"123456789012").is_too_short());
    }

    proptest! {
        #[test]
        fn a_body_that_holds_it_is_known_however_it_is_encoded_and_cut(
            before in proptest::collection::vec(any::<u8>(), 0..100),
            after in proptest::collection::vec(any::<u8>(), 0..100),
            form in 0..3,
            cuts in proptest::collection::vec(1..40_usize, 1..20),
        ) {
            let bytes = [&before, SECRET.as_bytes(), &after].concat();
            let body = match form {
                0 => bytes,
                1 => general_purpose::STANDARD.encode(bytes).into_bytes(),
                _ => general_purpose::URL_SAFE_NO_PAD.encode(bytes).into_bytes(),
            };
            let mut echo = echo();
            let mut rest = &body[..];
            let mut passed = 0;
            let mut cuts = cuts.iter().cycle();
            while !rest.is_empty() {
                let (piece, behind) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                let is_complete = echo.ends_in(piece);
                passed += piece.len();
                rest = behind;
                if form == 0 {
                    let end = before.len() + SECRET.len();
                    prop_assert_eq!(is_complete, passed >= end);
                }
                if is_complete {
                    return Ok(());
                }
            }
            prop_assert!(false, "it was not found");
        }

        #[test]
        fn a_body_without_it_is_never_taken_for_one(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100), 0..20),
        ) {
            let mut echo = echo();
            // All but the last byte, in many pieces.
            let almost = &SECRET.as_bytes()[..SECRET.len() - 1];
            for piece in pieces {
                prop_assert!(!echo.ends_in(&piece));
                prop_assert!(!echo.ends_in(almost));
                prop_assert!(!echo.ends_in(b"!"));
            }
        }
    }
}

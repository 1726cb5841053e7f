//! Text as JavaScript has it: 16-bit units, of which a character beyond U+FFFF takes two.
//!
//! Expressions and globs look at units, so that `?` is half of an emoji. Here each half becomes a
//! character of its own from the end of a private plane, where the whole text is spelled so and has
//! no other character beyond U+FFFF.

use std::borrow::Cow;

const FIRST_SURROGATE: u32 = 0xD800;
const LAST_SURROGATE: u32 = 0xDFFF;

/// U+10F800 to U+10FFFF stand for the 2,048 surrogates, in their order.
const SHIFT: u32 = 0x10_F800 - FIRST_SURROGATE;

/// Spells a text with one character for each unit.
pub(crate) fn spell(text: &str) -> Cow<'_, str> {
    // The first byte of a character beyond U+FFFF, and of no other, is 0xF0 or more.
    if text.bytes().all(|byte| byte < 0xF0) {
        return Cow::Borrowed(text);
    }
    text.encode_utf16().map(spell_unit).collect()
}

/// The character that stands for a unit.
pub(crate) fn spell_unit(unit: u16) -> char {
    let code = u32::from(unit);
    char::from_u32(code)
        .or_else(|| char::from_u32(code + SHIFT))
        .expect("a surrogate plus the shift is a character")
}

/// The unit for which a character of a spelled text stands.
pub(crate) fn unit(c: char) -> u16 {
    let code = u32::from(c);
    u16::try_from(code)
        .or_else(|_| u16::try_from(code - SHIFT))
        .expect("a spelled text has no other characters")
}

/// The characters that stand for the units from `first` to `last`, as ranges.
pub(crate) fn spell_range(first: u16, last: u16) -> impl Iterator<Item = (char, char)> {
    let (first, last) = (u32::from(first), u32::from(last));
    let part = move |from: u32, to: u32, shift: u32| {
        let (from, to) = (first.max(from), last.min(to));
        let ends = char::from_u32(from + shift).zip(char::from_u32(to + shift));
        ends.filter(|_| from <= to)
    };
    [
        part(0, FIRST_SURROGATE - 1, 0),
        part(FIRST_SURROGATE, LAST_SURROGATE, SHIFT),
        part(LAST_SURROGATE + 1, 0xFFFF, 0),
    ]
    .into_iter()
    .flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_text_of_the_basic_plane_is_not_copied() {
        assert!(matches!(spell("aé\u{ffff}"), Cow::Borrowed("aé\u{ffff}")));
        assert_eq!(spell("😀").chars().count(), 2);
    }

    #[test]
    fn a_range_over_the_surrogates_is_in_three_parts() {
        let parts: Vec<_> = spell_range(0x61, 0xffff).collect();
        let [(a, b), (c, d), (e, f)] = parts.as_slice() else {
            panic!("{parts:?}");
        };
        assert_eq!([*a, *b, *e, *f], ['a', '\u{d7ff}', '\u{e000}', '\u{ffff}']);
        assert_eq!([*c, *d], ['\u{10f800}', '\u{10ffff}']);
        assert_eq!(spell_range(0x62, 0x61).count(), 0);
    }

    proptest! {
        #[test]
        fn a_spelled_text_has_the_units_of_the_text(text: String) {
            let units: Vec<_> = spell(&text).chars().map(unit).collect();
            prop_assert_eq!(units, text.encode_utf16().collect::<Vec<_>>());
        }
    }
}

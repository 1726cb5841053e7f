//! Which rules are worth a closer look: found by the method, and by the literals that a rule's path
//! starts and ends with.

use http::Method;

use crate::rule::{Methods, Rule, RuleIndex};
use crate::target::RequestTarget;

/// How much of a literal is compared at once, in bytes: one word.
const WORD: usize = size_of::<u64>();

/// For each rule of a set, what a request must have for the rule to match.
///
/// Hundreds of rules are passed over in a microsecond, since each is one cache line here. Letters are
/// compared without their case, and a few signs with them, so that a rule that passes may still not
/// match; one that does not pass never matches.
#[derive(Clone, Debug)]
pub(crate) struct Candidates {
    sieves: Box<[Sieve]>,
}

#[derive(Clone, Debug)]
struct Sieve {
    /// Bits of [`bit`]; none for a rule that is turned off.
    methods: u8,
    /// Length of the literal that the path starts with.
    head_len: usize,
    head_start: Word,
    /// Its last bytes: longer heads mostly differ there.
    head_end: Word,
    ending: Word,
}

/// Up to eight bytes that must be there.
#[derive(Clone, Copy, Debug, Default)]
struct Word {
    bytes: u64,
    mask: u64,
}

impl Candidates {
    pub(crate) fn among(rules: &[Rule]) -> Self {
        Self {
            sieves: rules.iter().map(Sieve::of).collect(),
        }
    }

    /// Takes out a rule that is turned off.
    pub(crate) fn remove(&mut self, rule: RuleIndex) {
        if let Some(sieve) = self.sieves.get_mut(rule.as_usize()) {
            sieve.methods = 0;
        }
    }

    /// The rules from `from` on that may match, in order.
    pub(crate) fn of(
        &self,
        target: &RequestTarget,
        from: RuleIndex,
    ) -> impl Iterator<Item = RuleIndex> {
        let path = target.path().as_bytes();
        let method = bit(target.method());
        let start = first_word(path);
        let end = last_word(path.strip_suffix(b"/").unwrap_or(path));
        let sieves = self.sieves.iter().enumerate().skip(from.as_usize());
        sieves
            .filter(move |(_, sieve)| {
                sieve.methods & method != 0
                    && sieve.head_start.is_in(start)
                    && sieve.ending.is_in(end)
                    && sieve.fits_end_of_head(path)
            })
            .map(|(index, _)| RuleIndex(index))
    }
}

impl Sieve {
    fn of(rule: &Rule) -> Self {
        let head = rule.pattern.head().as_bytes();
        let ending = rule.pattern.ending().as_bytes();
        Self {
            methods: if rule.disabled {
                0
            } else {
                bits(&rule.methods)
            },
            head_len: head.len(),
            head_start: Word {
                bytes: first_word(head),
                mask: first_mask(head),
            },
            head_end: Word {
                bytes: last_word(head),
                mask: last_mask(head),
            },
            ending: Word {
                bytes: last_word(ending),
                mask: last_mask(ending),
            },
        }
    }

    fn fits_end_of_head(&self, path: &[u8]) -> bool {
        match path.get(..self.head_len) {
            Some(head) => self.head_end.is_in(last_word(head)),
            None => false,
        }
    }
}

impl Word {
    fn is_in(self, found: u64) -> bool {
        (found ^ self.bytes) & self.mask == 0
    }
}

/// The first bytes, without the case of letters; zeros behind a shorter text.
fn first_word(text: &[u8]) -> u64 {
    match text.first_chunk::<WORD>() {
        Some(word) => folded(*word),
        None => folded(padded(text.iter())),
    }
}

/// The last bytes, without the case of letters; zeros before a shorter text.
fn last_word(text: &[u8]) -> u64 {
    match text.last_chunk::<WORD>() {
        Some(word) => folded(*word),
        None => folded(padded(text.iter().rev())).swap_bytes(),
    }
}

fn padded<'t>(text: impl Iterator<Item = &'t u8>) -> [u8; WORD] {
    let mut word = [0; WORD];
    word.iter_mut().zip(text).for_each(|(to, from)| *to = *from);
    word
}

/// As a number, the first byte lowest, with the bit set by which lower-case letters differ.
fn folded(word: [u8; WORD]) -> u64 {
    u64::from_le_bytes(word) | u64::from_le_bytes([0x20; WORD])
}

/// Where [`first_word`] has bytes of the text.
fn first_mask(text: &[u8]) -> u64 {
    u64::from_le_bytes(padded(text.iter().map(|_| &u8::MAX)))
}

/// Where [`last_word`] has bytes of the text.
fn last_mask(text: &[u8]) -> u64 {
    first_mask(text).swap_bytes()
}

/// A bit of its own for each method that is common, and one for all others.
fn bit(method: &Method) -> u8 {
    match method.as_str() {
        "GET" => 1,
        "POST" => 1 << 1,
        "PUT" => 1 << 2,
        "PATCH" => 1 << 3,
        "DELETE" => 1 << 4,
        "HEAD" => 1 << 5,
        "OPTIONS" => 1 << 6,
        _ => 1 << 7,
    }
}

fn bits(methods: &Methods) -> u8 {
    match methods {
        Methods::Any => u8::MAX,
        Methods::Only(methods) => methods.iter().map(bit).fold(0, |bits, bit| bits | bit),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::file::RuleFile;
    use crate::rule::List;

    proptest! {
        #[test]
        fn a_rule_that_is_no_candidate_never_matches(
            method in prop::sample::select(vec!["GET", "POST", "LOCK", "TRACE"]),
            rule_method in prop::sample::select(vec!["GET", "LOCK", "any"]),
            pattern in "/(longer-than-a-word-)?[aB]{0,2}(/|/:x|/:x[*]|[*]|A|/b){0,3}(-as-an-ending)?",
            path in "/(longer-than-a-Word-)?[abAB]{0,2}(/[abAB]{1,2}){0,2}(-as-an-Ending)?/?",
        ) {
            let rule = serde_json::json!({"method": rule_method, "path": pattern, "origin": "https://o"});
            let file = serde_json::json!({"private": [rule]}).to_string();
            let Ok(file) = RuleFile::parse(&file) else { return Ok(()) };
            let rules = file.rules(List::Private);
            let Ok(target) = RequestTarget::new(&method.parse().unwrap(), &path) else { return Ok(()) };
            let found = Candidates::among(rules).of(&target, RuleIndex(0)).count();
            prop_assert!(found == 1 || !rules[0].covers(&target));
        }
    }

    #[test]
    fn rules_of_another_method_beginning_or_end_are_passed_over() {
        let file = RuleFile::parse(
            r#"{"private": [
                {"path": "/api/v1/pods*", "origin": "https://o"},
                {"path": "/api/v1/services*", "origin": "https://o"},
                {"path": "/:any/:path*/Package.json", "origin": "https://o"},
                {"path": "/:any/:path*/pom.xml", "origin": "https://o"},
                {"method": "POST", "path": "/API/v1/Pods", "origin": "https://o"},
                {"method": "any", "path": "/:a/:b", "origin": "https://o"}
            ]}"#,
        )
        .unwrap();
        let rules = file.rules(List::Private);
        let found = |method: &str, path, from| -> Vec<_> {
            let target = RequestTarget::new(&method.parse().unwrap(), path).unwrap();
            let candidates = Candidates::among(rules);
            let found = candidates.of(&target, RuleIndex(from));
            found.map(RuleIndex::as_usize).collect()
        };
        assert_eq!(found("GET", "/api/V1/podsecrets", 0), [0, 5]);
        assert_eq!(found("GET", "/x/package.json/", 0), [2, 5]);
        assert_eq!(found("POST", "/api/v1/pods", 0), [4, 5]);
        assert_eq!(found("POST", "/api/v1/pods", 5), [5]);
        assert_eq!(found("LOCK", "/a", 0), [5]);
    }
}

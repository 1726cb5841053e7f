//! Any text as a request target: what is accepted parses to itself, and has no dot segment however it is decoded.
#![no_main]

use accept_rules::RequestTarget;
use http::Method;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|raw: &str| {
    let Ok(target) = RequestTarget::new(&Method::GET, raw) else {
        return;
    };
    assert_eq!(target.as_str(), raw);
    let query = target
        .query()
        .map_or(String::new(), |query| format!("?{query}"));
    assert_eq!(format!("{}{query}", target.path()), raw);
    assert_eq!(
        RequestTarget::new(&Method::GET, target.as_str()),
        Ok(target.clone())
    );
    let once = decode(target.path());
    for reading in [target.path().to_owned(), once.clone(), decode(&once)] {
        let mut segments = reading.split(['/', '\\']);
        let dots = segments.any(|segment| matches!(segment.split(';').next(), Some("." | "..")));
        assert!(!dots, "{reading}");
    }
});

fn decode(text: &str) -> String {
    let mut decoded = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let value = after
            .split_first_chunk::<2>()
            .filter(|_| byte == b'%')
            .and_then(|(digits, after)| {
                let digits = std::str::from_utf8(digits).ok()?;
                Some((u8::from_str_radix(digits, 16).ok()?, after))
            });
        let (value, after) = value.unwrap_or((byte, after));
        decoded.push(value);
        rest = after;
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

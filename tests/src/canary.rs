//! The search for a secret in everything that was written or answered.

use base64::Engine;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD};
use percent_encoding::percent_decode;

/// Shorter secrets would be found by chance, in base64 above all.
const SHORTEST: usize = 12;

/// Everything that the product wrote or answered during a test, by name: answers, logs, audit
/// records, metrics, and what passed through the tunnel. Whoever adds an output to the product
/// registers it here.
#[derive(Debug, Default)]
pub struct Outputs(Vec<Output>);

#[derive(Debug)]
struct Output {
    name: String,
    bytes: Vec<u8>,
    planted: bool,
}

/// Where a secret was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The output's name.
    pub output: String,
    /// How it stood there.
    pub form: &'static str,
}

impl Outputs {
    /// No outputs yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an output in which no marker was planted.
    pub fn register(&mut self, name: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.0.push(Output {
            name: name.into(),
            bytes: bytes.into(),
            planted: false,
        });
    }

    /// Adds an output in which the test planted the marker that [`Outputs::control`] asks for.
    pub fn register_planted(&mut self, name: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.0.push(Output {
            name: name.into(),
            bytes: bytes.into(),
            planted: true,
        });
    }

    /// All places where the secret stands: raw, in base64 of either alphabet at any alignment, in
    /// hexadecimal of either case, and each of these with any of its bytes percent-encoded.
    pub fn find(&self, secret: &[u8]) -> Vec<Finding> {
        let forms = forms(secret);
        self.0
            .iter()
            .flat_map(|output| output.find(&forms))
            .collect()
    }

    /// # Panics
    /// When the secret stands in an output, naming each and how, or when there is no output at all.
    #[track_caller]
    pub fn assert_absent(&self, secret: &[u8]) {
        assert!(
            !self.0.is_empty(),
            "no output was registered, so nothing was searched"
        );
        let found = self.find(secret);
        assert!(found.is_empty(), "the secret is in {found:?}");
    }

    /// The control of [`Outputs::assert_absent`]: the marker is found wherever one was planted, so
    /// that a secret would have been found there too.
    ///
    /// # Panics
    /// When it is not, naming the outputs, or when none was planted.
    #[track_caller]
    pub fn control(&self, marker: &[u8]) {
        let forms = forms(marker);
        let planted: Vec<&Output> = self.0.iter().filter(|output| output.planted).collect();
        assert!(!planted.is_empty(), "no output has a planted marker");
        let blind: Vec<&str> = planted
            .iter()
            .filter(|output| output.find(&forms).is_empty())
            .map(|output| output.name.as_str())
            .collect();
        assert!(
            blind.is_empty(),
            "the search does not see the marker planted in {blind:?}"
        );
    }
}

impl Output {
    fn find(&self, forms: &[Form]) -> Vec<Finding> {
        // Decoding undoes every mixture of encoded and plain bytes, in either case; what it makes
        // of bytes that were never encoded is searched as well as the bytes themselves.
        let decoded: Vec<u8> = percent_decode(&self.bytes).collect();
        let texts = [(false, &self.bytes), (true, &decoded)];
        let mut found = Vec::new();
        for form in forms {
            let seen = texts.iter().find(|(_, text)| form.stands_in(text));
            if let Some(&(percent, _)) = seen {
                let form = if percent {
                    form.encoded_name
                } else {
                    form.name
                };
                found.push(Finding {
                    output: self.name.clone(),
                    form,
                });
            }
        }
        found
    }
}

/// One way in which a secret may stand in an output.
struct Form {
    name: &'static str,
    encoded_name: &'static str,
    bytes: Vec<u8>,
    any_case: bool,
}

impl Form {
    fn stands_in(&self, text: &[u8]) -> bool {
        let mut windows = text.windows(self.bytes.len());
        if self.any_case {
            windows.any(|window| window.eq_ignore_ascii_case(&self.bytes))
        } else {
            windows.any(|window| window == self.bytes)
        }
    }
}

fn forms(secret: &[u8]) -> Vec<Form> {
    assert!(
        secret.len() >= SHORTEST,
        "a secret to look for has at least {SHORTEST} bytes"
    );
    let hexadecimal: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut forms = vec![
        Form {
            name: "raw",
            encoded_name: "percent",
            bytes: secret.to_vec(),
            any_case: false,
        },
        Form {
            name: "hex",
            encoded_name: "hex in percent",
            bytes: hexadecimal.into_bytes(),
            any_case: true,
        },
    ];
    for alphabet in [STANDARD, URL_SAFE] {
        for before in 0..3 {
            forms.push(Form {
                name: "base64",
                encoded_name: "base64 in percent",
                bytes: base64_inside(secret, &GeneralPurpose::new(&alphabet, NO_PAD), before),
                any_case: false,
            });
        }
    }
    forms
}

/// The characters of base64 that the secret alone decides when `before` bytes (modulo three) stand
/// before it: those that share bits with a neighbour on either side are left out.
fn base64_inside(secret: &[u8], engine: &GeneralPurpose, before: usize) -> Vec<u8> {
    let padded = [vec![0; before], secret.to_vec()].concat();
    let encoded = engine.encode(&padded);
    let first = (before * 8).div_ceil(6);
    let last = padded.len() * 8 / 6;
    encoded.as_bytes()[first..last].to_vec()
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

    use super::*;

    /// Its base64 has `+`, `/` and `=` in some alignment; it has bytes that percent-encoding keeps
    /// and bytes that it does not.
    const SECRET: &[u8] = b"s3cr?t>~\xff\xfe/canary";

    fn forms_found(output: impl Into<Vec<u8>>) -> Vec<&'static str> {
        let mut outputs = Outputs::new();
        outputs.register("log", output);
        outputs
            .find(SECRET)
            .into_iter()
            .map(|finding| finding.form)
            .collect()
    }

    fn with(before: &str, after: &str) -> Vec<u8> {
        [before.as_bytes(), SECRET, after.as_bytes()].concat()
    }

    #[test]
    fn it_is_found_raw() {
        assert_eq!(forms_found(with("level=info ", " done")), ["raw"]);
    }

    #[test]
    fn it_is_found_in_base64_whatever_stands_around_it() {
        for before in ["", "a", "ab", "user:"] {
            for after in ["", "a", "ab"] {
                let text = with(before, after);
                assert_eq!(
                    forms_found(STANDARD.encode(&text)),
                    ["base64"],
                    "{before}/{after}"
                );
                assert_eq!(
                    forms_found(URL_SAFE_NO_PAD.encode(&text)),
                    ["base64"],
                    "{before}/{after}"
                );
            }
        }
    }

    #[test]
    fn it_is_found_percent_encoded_in_full_or_in_part() {
        let all: String = SECRET.iter().map(|byte| format!("%{byte:02x}")).collect();
        assert_eq!(forms_found(all.to_uppercase()), ["percent"]);
        assert_eq!(forms_found(all), ["percent"]);
        assert_eq!(
            forms_found(&b"?q=s3cr%3Ft%3e~%FF%fe%2Fcanary&"[..]),
            ["percent"]
        );
    }

    #[test]
    fn it_is_found_in_base64_that_is_percent_encoded() {
        let encoded = STANDARD
            .encode(SECRET)
            .replace('+', "%2B")
            .replace('/', "%2f");
        assert!(encoded.contains('%'));
        assert_eq!(forms_found(encoded), ["base64 in percent"]);
    }

    #[test]
    fn it_is_found_in_hexadecimal_of_either_case() {
        let hexadecimal: String = SECRET.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(forms_found(hexadecimal.to_uppercase()), ["hex"]);
        assert_eq!(forms_found(hexadecimal), ["hex"]);
    }

    #[test]
    fn what_is_only_alike_is_not_found() {
        assert!(forms_found(SECRET[..SECRET.len() - 1].to_vec()).is_empty());
        assert!(forms_found("").is_empty());
        assert!(forms_found("100%").is_empty());
    }

    #[test]
    #[should_panic(expected = r#"the secret is in [Finding { output: "log", form: "raw" }]"#)]
    fn a_secret_that_is_there_fails_by_name() {
        let mut outputs = Outputs::new();
        outputs.register("answer", "nothing");
        outputs.register("log", SECRET);
        outputs.assert_absent(SECRET);
    }

    #[test]
    #[should_panic(expected = "nothing was searched")]
    fn a_search_of_nothing_fails() {
        Outputs::new().assert_absent(SECRET);
    }

    #[test]
    fn the_control_passes_where_each_planted_marker_is_found() {
        let mut outputs = Outputs::new();
        outputs.register("metrics", "nothing planted here");
        outputs.register_planted("log", with("x=", ""));
        outputs.register_planted("tunnel", STANDARD.encode(SECRET));
        outputs.control(SECRET);
    }

    #[test]
    #[should_panic(expected = r#"does not see the marker planted in ["tunnel"]"#)]
    fn the_control_fails_where_a_planted_marker_is_not_found() {
        let mut outputs = Outputs::new();
        outputs.register_planted("log", SECRET);
        outputs.register_planted("tunnel", "compressed");
        outputs.control(SECRET);
    }
}

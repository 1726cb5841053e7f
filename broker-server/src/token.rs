//! `broker-server token new`: a fresh secret, shown once, and the digest that the server keeps in its place.

use std::io::{self, Write};

use broker_protocol::{AccessToken, TokenKind};
use serde_json::json;

/// How a new token is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenFormat {
    /// With a line for each part that says what it is for.
    Text,
    /// One JSON object.
    Json,
}

/// Makes a token and writes it to `out`. It is kept nowhere: the secret cannot be shown again.
///
/// # Errors
/// If `out` cannot be written.
pub fn write_new(kind: TokenKind, format: TokenFormat, out: &mut impl Write) -> io::Result<()> {
    let token = AccessToken::generate(kind);
    let (secret, digest) = (token.expose(), token.digest());
    match format {
        TokenFormat::Json => writeln!(
            out,
            "{}",
            json!({ "kind": kind_name(kind), "secret": secret, "digest": digest.to_string() })
        ),
        TokenFormat::Text => {
            let (holder, section) = match kind {
                TokenKind::Agent => (
                    "the agent: put it into the file that BROKER_AGENT_SECRET_FILE names",
                    "agents",
                ),
                TokenKind::Caller => (
                    "the caller: it sends it as a bearer token in the header that its entry names",
                    "callers",
                ),
            };
            writeln!(out, "# The secret, shown only now, for {holder}.")?;
            writeln!(out, "{secret}")?;
            writeln!(
                out,
                "# Its digest, for the server's settings: tenants.<tenant>.{section}.<name>.secrets."
            )?;
            writeln!(out, "{digest}")
        }
    }
}

fn kind_name(kind: TokenKind) -> &'static str {
    match kind {
        TokenKind::Agent => "agent",
        TokenKind::Caller => "caller",
    }
}

#[cfg(test)]
mod tests {
    use broker_protocol::TokenDigest;

    use super::*;

    fn written(kind: TokenKind, format: TokenFormat) -> String {
        let mut out = Vec::new();
        write_new(kind, format, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_digest_is_that_of_the_secret() {
        for kind in TokenKind::ALL {
            let text = written(kind, TokenFormat::Text);
            let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
            let token = AccessToken::parse(kind, lines[0]).unwrap();
            assert!(lines[1].parse::<TokenDigest>().unwrap().matches(&token));
        }
    }

    #[test]
    fn json_holds_the_same() {
        let value: serde_json::Value =
            serde_json::from_str(&written(TokenKind::Caller, TokenFormat::Json)).unwrap();
        let token =
            AccessToken::parse(TokenKind::Caller, value["secret"].as_str().unwrap()).unwrap();
        assert_eq!(value["digest"], token.digest().to_string());
        assert_eq!(value["kind"], "caller");
    }
}

//! Where an answer points to: references into the origin are led back through the broker.

use accept_rules::Origin;
use broker_protocol::AgentName;
use http::header::{CONTENT_LOCATION, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Rewrites `Location` and `Content-Location` where they point to what the rule's origin covers, and returns the
/// names of those that point elsewhere and passed unchanged. The request that follows is judged anew.
pub(crate) fn rewrite(
    headers: &mut HeaderMap,
    origin: &Origin,
    agent: &AgentName,
) -> Vec<HeaderName> {
    let mut passed = Vec::new();
    for name in [LOCATION, CONTENT_LOCATION] {
        let Some(value) = headers.get(&name) else {
            continue;
        };
        match value
            .to_str()
            .map_or(Reference::Elsewhere, |text| classify(text, origin))
        {
            Reference::Relative => {}
            Reference::Elsewhere => passed.push(name),
            Reference::Within(rest) => {
                match HeaderValue::from_str(&format!("/broker/{agent}{rest}")) {
                    Ok(value) => drop(headers.insert(name, value)),
                    Err(_) => passed.push(name),
                }
            }
        }
    }
    passed
}

enum Reference<'r> {
    /// Resolved by the caller against its own URL, which is the broker's.
    Relative,
    /// Under the origin's scheme, authority and path: what stands behind them.
    Within(&'r str),
    Elsewhere,
}

fn classify<'r>(reference: &'r str, origin: &Origin) -> Reference<'r> {
    let path = if reference.starts_with("//") {
        return Reference::Elsewhere;
    } else if reference.starts_with('/') {
        reference
    } else if let Some((scheme, rest)) = split_scheme(reference) {
        let Some(rest) = rest.strip_prefix("//") else {
            return Reference::Elsewhere;
        };
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if !scheme.eq_ignore_ascii_case(origin.scheme().as_str())
            || !same_authority(authority, origin)
        {
            return Reference::Elsewhere;
        }
        path
    } else {
        return Reference::Relative;
    };
    // A caller resolves dot segments itself, and would leave `/broker/{agent}`.
    if has_dot_segment(path) {
        return Reference::Elsewhere;
    }
    let behind = |prefix| {
        path.strip_prefix(prefix)
            .filter(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#']))
    };
    match behind(origin.path()).or_else(|| behind(origin.path().trim_end_matches('/'))) {
        Some(rest) => Reference::Within(rest),
        None => Reference::Elsewhere,
    }
}

/// RFC 3986 §3.1: a letter, then letters, digits, `+`, `-` and `.`, before anything else.
fn split_scheme(reference: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = reference.split_once(':')?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    is_scheme.then_some((scheme, rest))
}

fn same_authority(authority: &str, origin: &Origin) -> bool {
    fn with_port(authority: &str, scheme: &str) -> String {
        let has_port = authority
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
        let port = if scheme.eq_ignore_ascii_case("https") {
            ":443"
        } else {
            ":80"
        };
        format!("{authority}{}", if has_port { "" } else { port }).to_ascii_lowercase()
    }
    let scheme = origin.scheme().as_str();
    with_port(authority, scheme) == with_port(origin.authority().as_str(), scheme)
}

fn has_dot_segment(path: &str) -> bool {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let path = path
        .to_ascii_lowercase()
        .replace("%2e", ".")
        .replace("%2f", "/")
        .replace("%5c", "/");
    path.split(['/', '\\']).any(|segment| {
        let segment = segment.split(';').next().unwrap_or_default();
        segment == "." || segment == ".."
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(origin: &str, location: &str) -> (String, bool) {
        let origin = Origin::parse(origin).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(LOCATION, HeaderValue::from_str(location).unwrap());
        let passed = rewrite(&mut headers, &origin, &"a".parse().unwrap());
        (
            headers[LOCATION].to_str().unwrap().to_owned(),
            !passed.is_empty(),
        )
    }

    #[test]
    fn references_into_the_origin_are_led_through_the_broker() {
        for (origin, location, expected) in [
            ("https://sonar.local", "/x/y?z#f", "/broker/a/x/y?z#f"),
            (
                "https://sonar.local",
                "https://sonar.local/x",
                "/broker/a/x",
            ),
            (
                "https://sonar.local",
                "HTTPS://SONAR.local:443/x",
                "/broker/a/x",
            ),
            (
                "https://sonar.local:8443",
                "https://sonar.local:8443",
                "/broker/a",
            ),
            ("https://sonar.local/sonar", "/sonar/x", "/broker/a/x"),
            (
                "https://sonar.local/sonar",
                "https://sonar.local/sonar?x",
                "/broker/a?x",
            ),
            ("https://sonar.local/sonar/", "/sonar/x", "/broker/a/x"),
        ] {
            assert_eq!(
                rewritten(origin, location),
                (expected.into(), false),
                "{origin} {location}"
            );
        }
    }

    #[test]
    fn relative_references_pass() {
        for location in ["x/y", "?page=2", "#top", "../x", ""] {
            assert_eq!(
                rewritten("https://sonar.local/s", location),
                (location.into(), false)
            );
        }
    }

    #[test]
    fn references_elsewhere_pass_and_are_noted() {
        for location in [
            "//sonar.local/s/x",
            "https://other.local/s/x",
            "http://sonar.local/s/x",
            "https://sonar.local:444/s/x",
            "https://sonar.local@evil.example/s/x",
            "https://sonar.local.evil.example/s/x",
            "/other",
            "/sx",
            "mailto:a@b.example",
            "/s/../../b/secret",
            "/s/%2e%2e/b",
        ] {
            assert_eq!(
                rewritten("https://sonar.local/s", location),
                (location.into(), true)
            );
        }
    }
}

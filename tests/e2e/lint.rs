//! What the linter says about headers agrees with what travels.

use std::time::SystemTime;

use accept_rules::{EncodedSlash, LintCode, RuleFile, lint};
use broker_protocol::hop::remove_from_request;
use http::{HeaderMap, HeaderName, HeaderValue};

#[test]
fn a_condition_never_holds_exactly_on_headers_that_do_not_travel() {
    for name in [
        "accept",
        "authorization",
        "broker-authorization",
        "broker_node",
        "brokers",
        "connection",
        "content-length",
        "content-type",
        "cookie",
        "expect",
        "forwarded",
        "host",
        "http2-settings",
        "keep-alive",
        "origin",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
        "x-api-key",
        "x-forwarded-for",
    ] {
        let header = HeaderName::from_static(name);
        let mut headers = HeaderMap::from_iter([(header.clone(), HeaderValue::from_static("x"))]);
        remove_from_request(&mut headers);
        let travels = headers.get(header).is_some_and(|value| value == "x");
        let file = RuleFile::parse(&format!(
            r#"{{"private": [{{"origin": "https://${{HOST}}",
                "valid": [{{"header": "{name}", "values": ["x"]}}]}}]}}"#
        ));
        let findings = lint(&file.unwrap(), SystemTime::UNIX_EPOCH, |_| {
            EncodedSlash::Data
        });
        let mut codes = findings.iter().map(|finding| finding.code());
        assert_eq!(
            codes.any(|code| code == LintCode::NeverMatches),
            !travels,
            "{name}"
        );
    }
}

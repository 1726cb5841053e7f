//! Signatures of Amazon Web Services: Signature Version 4, in headers and in a URL's query.
//!
//! Written from the published specification ("AWS Signature Version 4 for API requests"), and checked against the test
//! suite that AWS publishes.

use std::fmt::Write as _;
use std::time::SystemTime;

use aws_lc_rs::{digest, hmac};
use broker_protocol::header::begins_like;
use broker_protocol::hop::Removed;
use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HOST};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use zeroize::Zeroizing;

use super::AwsKeys;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// What the headers that belong to signatures begin with, as those that ask a service for something do.
const PREFIX: &str = "x-amz-";
const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const CONTENT_SHA256: HeaderName = HeaderName::from_static("x-amz-content-sha256");
const SECURITY_TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");
const TRAILER: HeaderName = HeaderName::from_static("x-amz-trailer");
/// A service's paths are encoded once more in its signatures, unless it is one of these.
const ENCODED_ONCE: [&str; 4] = ["s3", "s3express", "s3-outposts", "s3-object-lambda"];

/// For what a signature is good: one service in one region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scope {
    pub(crate) region: Box<str>,
    pub(crate) service: Box<str>,
}

/// Signs a request as it is: adds the time, the body's hash and the session's token, and signs these, the host, every
/// other `x-amz-` header, and `Content-Type`.
pub(crate) fn sign(
    keys: &AwsKeys,
    scope: &Scope,
    now: SystemTime,
    (method, uri): (&Method, &Uri),
    headers: &mut HeaderMap,
    body: &[u8],
) {
    let time = Time::of(now);
    let hash = hex(digest::digest(&digest::SHA256, body).as_ref());
    headers.insert(DATE, plain_header(&time.0));
    headers.insert(CONTENT_SHA256, plain_header(&hash));
    match &keys.token {
        Some(token) => drop(headers.insert(SECURITY_TOKEN, token.to_header())),
        None => drop(headers.remove(SECURITY_TOKEN)),
    }
    let signed = Signed::of(uri, headers, is_signed);
    let is_encoded_twice = !ENCODED_ONCE.contains(&&*scope.service);
    let canonical = canonical_request(method, uri, uri.query(), &signed, is_encoded_twice, &hash);
    let signature = signature(keys, scope, &time, &canonical);
    let authorization = format!(
        "{ALGORITHM} Credential={}/{}, SignedHeaders={}, Signature={signature}",
        keys.id,
        time.within(scope),
        signed.names
    );
    let mut authorization =
        HeaderValue::try_from(authorization).expect("checked names and hexadecimal digits");
    authorization.set_sensitive(true);
    headers.insert(AUTHORIZATION, authorization);
}

/// Why a request cannot be signed as its caller means it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unsignable {
    #[error(
        "the body is in chunks of its own, each signed or with a checksum behind it, and is signed here in one piece \
         (send it without Content-Encoding: aws-chunked, x-amz-trailer and x-amz-content-sha256: STREAMING-…)"
    )]
    Chunked,
    #[error(
        "the query has a part of a signature, X-Amz-…, and is signed here (send the request unsigned)"
    )]
    Presigned,
}

/// Whether a request, as its caller sent it, means the same once it is signed here.
pub(crate) fn check_signable(uri: &Uri, headers: &HeaderMap) -> Result<(), Unsignable> {
    // Without the headers that say so, a service would store the frames of the chunks as content.
    let is_chunked = words(headers, &CONTENT_ENCODING).any(|word| word == "aws-chunked")
        || words(headers, &CONTENT_SHA256).any(|word| word.starts_with("streaming-"))
        || headers.contains_key(TRAILER);
    if is_chunked {
        return Err(Unsignable::Chunked);
    }
    let is_of_signature = |name: &[u8]| name.to_ascii_lowercase().starts_with(PREFIX.as_bytes());
    if query_pairs(uri.query())
        .iter()
        .any(|(name, _)| is_of_signature(name))
    {
        return Err(Unsignable::Presigned);
    }
    Ok(())
}

/// What a header lists, in lower case.
fn words<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = String> + 'h {
    let values = headers.get_all(name).into_iter();
    let lists = values.map(|value| String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase());
    lists.flat_map(|list| {
        let words = list.split(',').map(|word| word.trim().to_owned());
        words.collect::<Vec<_>>()
    })
}

/// Removes what belongs to a caller's own signature, and whatever else asks a service for something by a header of its
/// own, but for what is `kept`. A spelling that a service could take for one of these names goes in any case: it would
/// not be signed.
pub(crate) fn remove_signature(headers: &mut HeaderMap, kept: &[HeaderName]) -> Removed {
    let is_bad = |name: &&HeaderName| {
        let is_signed_here = kept.contains(name) && is_signed(name);
        begins_like(name.as_str(), PREFIX) && !is_signed_here
    };
    let removed: Removed = headers.keys().filter(is_bad).cloned().collect();
    for name in &removed {
        headers.remove(name);
    }
    removed
}

/// A URL that is its own permission for `expires` seconds, if the request has these headers.
pub(super) fn presigned(
    keys: &AwsKeys,
    scope: &Scope,
    now: SystemTime,
    uri: &Uri,
    headers: &HeaderMap,
    expires: u32,
) -> Zeroizing<String> {
    let time = Time::of(now);
    let signed = Signed::of(uri, headers, |_| true);
    let mut query = Zeroizing::new(String::with_capacity(PRESIGNED));
    let mut add = |name: &str, value: &str| {
        let divider = if query.is_empty() { "" } else { "&" };
        query.extend([
            divider,
            name,
            "=",
            &Zeroizing::new(encoded(value.as_bytes(), b"")),
        ]);
    };
    for (name, value) in query_pairs(uri.query()) {
        add(&encoded(&name, b""), &String::from_utf8_lossy(&value));
    }
    add("X-Amz-Algorithm", ALGORITHM);
    add(
        "X-Amz-Credential",
        &format!("{}/{}", keys.id, time.within(scope)),
    );
    add("X-Amz-Date", &time.0);
    add("X-Amz-Expires", &expires.to_string());
    if let Some(token) = &keys.token {
        add("X-Amz-Security-Token", token.expose());
    }
    add("X-Amz-SignedHeaders", &signed.names);
    let nothing = hex(digest::digest(&digest::SHA256, b"").as_ref());
    let canonical = canonical_request(&Method::GET, uri, Some(&query), &signed, true, &nothing);
    let signature = signature(keys, scope, &time, &canonical);
    let parts = [
        uri.scheme_str().unwrap_or_default(),
        "://",
        uri.authority().map_or("", Authority::as_str),
        uri.path(),
        "?",
        &query,
        "&X-Amz-Signature=",
        &signature,
    ];
    // One allocation: a text that grows leaves copies of secrets behind.
    Zeroizing::new(parts.concat())
}

/// Room for a query with a session's token, in bytes.
const PRESIGNED: usize = 8 * 1024;

/// `20150830T123600Z`.
struct Time(String);

impl Time {
    fn of(now: SystemTime) -> Self {
        let text = humantime::format_rfc3339_seconds(now).to_string();
        Self(text.replace(['-', ':'], ""))
    }

    fn date(&self) -> &str {
        self.0.split('T').next().unwrap_or_default()
    }

    fn within(&self, scope: &Scope) -> String {
        let Scope { region, service } = scope;
        format!("{}/{region}/{service}/aws4_request", self.date())
    }
}

/// The headers that are signed.
struct Signed {
    /// `host;x-amz-date`.
    names: String,
    /// A line for each.
    lines: Zeroizing<String>,
}

impl Signed {
    fn of(uri: &Uri, headers: &HeaderMap, is_signed: fn(&HeaderName) -> bool) -> Self {
        let mut names: Vec<&HeaderName> = headers.keys().filter(|name| is_signed(name)).collect();
        names.push(&HOST);
        names.sort_by_key(|name| name.as_str());
        let mut lines = Zeroizing::new(String::with_capacity(PRESIGNED));
        for name in &names {
            lines.extend([name.as_str(), ":"]);
            if **name == HOST {
                lines.push_str(&host(uri));
            }
            for (index, value) in headers.get_all(*name).iter().enumerate() {
                lines.push_str(if index == 0 { "" } else { "," });
                push_trimmed(&mut lines, value);
            }
            lines.push('\n');
        }
        let names: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
        Self {
            names: names.join(";"),
            lines,
        }
    }
}

/// What is signed of a request to an origin.
fn is_signed(name: &HeaderName) -> bool {
    name == CONTENT_TYPE || name.as_str().starts_with(PREFIX)
}

/// As the client sends it: without the port that the scheme has anyway.
fn host(uri: &Uri) -> String {
    let host = uri.host().unwrap_or_default();
    match (uri.port_u16(), uri.scheme_str()) {
        (None, _) | (Some(443), Some("https")) | (Some(80), Some("http")) => host.to_owned(),
        (Some(port), _) => format!("{host}:{port}"),
    }
}

/// A value's words with one blank between them.
fn push_trimmed(line: &mut String, value: &HeaderValue) {
    let text = String::from_utf8_lossy(value.as_bytes());
    for (index, word) in text.split_ascii_whitespace().enumerate() {
        line.extend([if index == 0 { "" } else { " " }, word]);
    }
}

fn canonical_request(
    method: &Method,
    uri: &Uri,
    query: Option<&str>,
    signed: &Signed,
    is_encoded_twice: bool,
    hash: &str,
) -> Zeroizing<String> {
    let path = canonical_path(uri.path(), is_encoded_twice);
    let query = canonical_query(query);
    let lines = [
        method.as_str(),
        &path,
        &query,
        &signed.lines,
        &signed.names,
        hash,
    ];
    Zeroizing::new(lines.join("\n"))
}

/// What is sent is encoded already. Services encode it once more; the others read what it means, and encode that.
fn canonical_path(path: &str, is_encoded_twice: bool) -> String {
    if is_encoded_twice {
        return encoded(path.as_bytes(), b"/");
    }
    let segments = path.split('/').map(|segment| {
        let meant: Vec<u8> = percent_encoding::percent_decode_str(segment).collect();
        encoded(&meant, b"")
    });
    segments.collect::<Vec<_>>().join("/")
}

fn canonical_query(query: Option<&str>) -> Zeroizing<String> {
    let pairs = query_pairs(query);
    let encode = |(name, value): (Vec<u8>, Zeroizing<Vec<u8>>)| {
        (encoded(&name, b""), Zeroizing::new(encoded(&value, b"")))
    };
    let mut pairs: Vec<_> = pairs.into_iter().map(encode).collect();
    pairs.sort_by(|(a, x), (b, y)| (a, x.as_str()).cmp(&(b, y.as_str())));
    let mut query = Zeroizing::new(String::with_capacity(PRESIGNED));
    for (index, (name, value)) in pairs.iter().enumerate() {
        let divider = if index == 0 { "" } else { "&" };
        query.extend([divider, name, "=", value]);
    }
    query
}

/// Names and values as a service reads them; a plus sign is a blank to them.
fn query_pairs(query: Option<&str>) -> Vec<(Vec<u8>, Zeroizing<Vec<u8>>)> {
    let decode = |text: &str| {
        let text = text.replace('+', " ");
        percent_encoding::percent_decode_str(&text).collect::<Vec<u8>>()
    };
    let pairs = query.unwrap_or_default().split('&');
    pairs
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), Zeroizing::new(decode(value)))
        })
        .collect()
}

/// Percent-encoded but for letters, digits, `-._~` and what is `kept`.
fn encoded(bytes: &[u8], kept: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 3);
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) || kept.contains(byte) {
            text.push(char::from(*byte));
        } else {
            push_formatted(&mut text, format_args!("%{byte:02X}"));
        }
    }
    text
}

fn signature(keys: &AwsKeys, scope: &Scope, time: &Time, canonical: &str) -> String {
    let to_sign = string_to_sign(scope, time, canonical);
    let secret = keys.secret.expose();
    let secret = Zeroizing::new(["AWS4", secret].concat());
    let steps = [time.date(), &scope.region, &scope.service, "aws4_request"];
    let mut key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    for step in steps {
        let tag = hmac::sign(&key, step.as_bytes());
        key = hmac::Key::new(hmac::HMAC_SHA256, tag.as_ref());
    }
    hex(hmac::sign(&key, to_sign.as_bytes()).as_ref())
}

fn string_to_sign(scope: &Scope, time: &Time, canonical: &str) -> String {
    let hash = hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref());
    [ALGORITHM, &time.0, &time.within(scope), &hash].join("\n")
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        push_formatted(&mut text, format_args!("{byte:02x}"));
    }
    text
}

fn push_formatted(text: &mut String, formatted: std::fmt::Arguments<'_>) {
    let written = text.write_fmt(formatted);
    debug_assert!(written.is_ok(), "a String takes everything");
}

fn plain_header(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("digits and letters")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::Value;

    use super::super::tests::keys;
    use super::*;
    use crate::credential::Secret;

    /// Amazon's own vectors, of which tests/sigv4/README.md says where they come from.
    const SUITE: &str = include_str!("../../../tests/sigv4/suite.json");
    /// What no origin gets: targets with dot segments, empty ones, blanks, and bytes beyond ASCII are refused.
    const REFUSED_BEFORE: [&str; 5] = [
        "relative",
        "slash",
        "space-unnormalized",
        "utf8",
        "multiline",
    ];

    struct Case {
        name: String,
        vector: Value,
        keys: AwsKeys,
        scope: Scope,
        time: SystemTime,
        method: Method,
        uri: Uri,
        headers: HeaderMap,
        body: String,
    }

    fn cases() -> Vec<Case> {
        let suite: Vec<Value> = serde_json::from_str(SUITE).unwrap();
        let cases = suite.into_iter().map(case);
        let cases: Vec<_> = cases.flatten().collect();
        assert_eq!(cases.len(), 22);
        cases
    }

    fn case(vector: Value) -> Option<Case> {
        let name = vector["name"].as_str().unwrap().to_owned();
        if REFUSED_BEFORE.iter().any(|what| name.contains(what)) {
            return None;
        }
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let (head, body) = vector["request"]
            .as_str()
            .unwrap()
            .split_once("\n\n")
            .unwrap();
        let mut lines = head.lines();
        let mut line = lines.next().unwrap().split(' ');
        let method = line.next().unwrap().parse().unwrap();
        let target = line.next().unwrap().to_owned();
        let mut headers = HeaderMap::new();
        for line in lines {
            let (name, value) = line.split_once(':').unwrap();
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        let host = headers.remove(HOST).unwrap();
        let uri = format!("https://{}{target}", host.to_str().unwrap());
        let credentials = &vector["context"]["credentials"];
        let time = text(&vector["context"]["timestamp"]);
        Some(Case {
            keys: AwsKeys {
                id: text(&credentials["access_key_id"]),
                secret: Secret::new(text(&credentials["secret_access_key"])),
                token: credentials["token"].as_str().map(Secret::new),
            },
            scope: Scope {
                region: text(&vector["context"]["region"]).into(),
                service: text(&vector["context"]["service"]).into(),
            },
            time: humantime::parse_rfc3339(&time).unwrap(),
            uri: uri.parse().unwrap(),
            body: body.to_owned(),
            name,
            vector,
            method,
            headers,
        })
    }

    #[test]
    fn requests_are_signed_as_the_published_suite_has_it() {
        for Case {
            name,
            vector,
            keys,
            scope,
            time,
            method,
            uri,
            mut headers,
            body,
        } in cases()
        {
            let time = Time::of(time);
            let hash = hex(digest::digest(&digest::SHA256, body.as_bytes()).as_ref());
            headers.insert(DATE, plain_header(&time.0));
            if vector["context"]["sign_body"] == true {
                headers.insert(CONTENT_SHA256, plain_header(&hash));
            }
            if let Some(token) = keys
                .token
                .as_ref()
                .filter(|_| vector["context"]["omit_session_token"] != true)
            {
                headers.insert(SECURITY_TOKEN, token.to_header());
            }
            let signed = Signed::of(&uri, &headers, |_| true);
            // The suite is older than the second encoding.
            let canonical = canonical_request(&method, &uri, uri.query(), &signed, false, &hash);
            assert_eq!(*canonical, vector["canonical"].as_str().unwrap(), "{name}");
            assert_eq!(
                string_to_sign(&scope, &time, &canonical),
                vector["string_to_sign"].as_str().unwrap(),
                "{name}"
            );
            assert_eq!(
                signature(&keys, &scope, &time, &canonical),
                vector["signature"].as_str().unwrap(),
                "{name}"
            );
        }
    }

    #[test]
    fn urls_are_signed_as_the_published_suite_has_it() {
        let is_plain = |case: &Case| {
            case.method == Method::GET
                && case.headers.is_empty()
                // The token service has no other.
                && case.uri.path() == "/"
                && case.vector["query_signature"].is_string()
        };
        let cases: Vec<_> = cases().into_iter().filter(is_plain).collect();
        assert_eq!(cases.len(), 7);
        for Case {
            name,
            vector,
            keys,
            scope,
            time,
            uri,
            ..
        } in cases
        {
            let url = presigned(&keys, &scope, time, &uri, &HeaderMap::new(), 3600);
            let signature = url.rsplit_once("&X-Amz-Signature=").unwrap().1;
            assert_eq!(
                signature,
                vector["query_signature"].as_str().unwrap(),
                "{name}"
            );
        }
    }

    #[test]
    fn a_path_is_encoded_once_more_but_for_storage() {
        let paths = [
            (
                "/test/@connections/JBDvjfGEIAMCERw%3D",
                "/test/%40connections/JBDvjfGEIAMCERw%253D",
                "/test/%40connections/JBDvjfGEIAMCERw%3D",
            ),
            ("/a%3Ab/c@d", "/a%253Ab/c%40d", "/a%3Ab/c%40d"),
            ("/a%2Fb/~.-_/", "/a%252Fb/~.-_/", "/a%2Fb/~.-_/"),
        ];
        for (path, twice, once) in paths {
            assert_eq!(canonical_path(path, true), twice);
            assert_eq!(canonical_path(path, false), once);
        }
    }

    #[test]
    fn whatever_a_caller_sent_of_a_signature_is_replaced_by_ours() {
        let mut headers = HeaderMap::new();
        for name in [AUTHORIZATION, DATE, CONTENT_SHA256, SECURITY_TOKEN] {
            headers.append(name.clone(), HeaderValue::from_static("of-the-caller"));
            headers.append(name, HeaderValue::from_static("of-the-caller"));
        }
        let scope = Scope {
            region: "eu-west-1".into(),
            service: "aps".into(),
        };
        let uri = Uri::from_static("https://aps.example/");
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        sign(
            &keys("AKID"),
            &scope,
            now,
            (&Method::POST, &uri),
            &mut headers,
            b"body",
        );
        assert!(
            headers.values().all(|value| value != "of-the-caller"),
            "{headers:?}"
        );
        assert_eq!(headers.len(), 4);
        assert!(headers[AUTHORIZATION].is_sensitive() && headers[SECURITY_TOKEN].is_sensitive());
        let authorization = headers[AUTHORIZATION].to_str().unwrap();
        assert!(
            authorization.starts_with(
                "AWS4-HMAC-SHA256 Credential=AKID/19700101/eu-west-1/aps/aws4_request, \
             SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-security-token, Signature="
            ),
            "{authorization}"
        );
    }

    #[test]
    fn the_host_is_signed_as_it_is_sent() {
        for (uri, sent) in [
            ("https://a.example/", "a.example"),
            ("https://a.example:443/", "a.example"),
            ("https://a.example:8443/", "a.example:8443"),
            ("http://[::1]:80/", "[::1]"),
        ] {
            assert_eq!(host(&uri.parse().unwrap()), sent);
        }
    }
}

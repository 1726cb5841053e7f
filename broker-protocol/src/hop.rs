//! Which headers do not travel: the one table for requests, answers and trailers, both ways (SPEC.md §7).
//!
//! | removed | from | why |
//! |---|---|---|
//! | `Connection` and what it names, `Keep-Alive`, `Proxy-Connection`, `TE` but for `trailers`, `Transfer-Encoding`, `Upgrade`, `HTTP2-Settings` | everything | they speak of one connection (RFC 9110 §7.6.1) |
//! | `Content-Length` beside `Transfer-Encoding` | everything | the coding counts (RFC 9112 §6.3) |
//! | `Proxy-Authorization`, `Proxy-Authenticate`, `Proxy-Authentication-Info` | everything | they are between the caller and us (RFC 9110 §11.7) |
//! | `Host`, `Expect` | requests | the origin has its own name; we answer expectations ourselves |
//! | `broker-*` | everything | reserved (SPEC.md §6) |
//! | `Authorization: NTLM` and `Negotiate` | requests | they authenticate a connection, and connections are shared (RFC 4559) |
//! | `WWW-Authenticate: NTLM` and `Negotiate` | answers | the same |
//! | `Alt-Svc` | answers | names a host that the caller cannot and must not reach |
//! | `X-HTTP-Method-Override`, `X-Original-URL` and their kin | requests, unless the rule names them | they ask for what was not judged (see [`remove_overrides`]) |
//! | `Cookie`, other credentials, identity, impersonation | requests into which a credential is injected, unless the rule names them | they change who or what is asked (see [`remove_beside_credential`]) |
//! | `Set-Cookie` | answers to such requests, unless the rule keeps cookies | a session made with our credential is our credential |
//! | `Content-Length`, `Content-Type`, `Authorization` and others that frame or route | trailers | they come too late to be judged (RFC 9110 §6.5.1) |

use bytes::Bytes;
use http::header::{
    ALT_SVC, AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, COOKIE, EXPECT, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SET_COOKIE, TE,
    TRAILER, TRANSFER_ENCODING, UPGRADE, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::Frame;

use crate::header::is_reserved;

/// The names that were removed, for the record; never a value.
pub type Removed = Vec<HeaderName>;

/// What speaks of one connection, or is between neighbours, in either direction.
static HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("http2-settings"),
    PROXY_AUTHORIZATION,
    PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-authentication-info"),
];

const SET_COOKIE2: HeaderName = HeaderName::from_static("set-cookie2");

/// Everything by which cookies travel, in either direction.
pub static COOKIES: [HeaderName; 4] = [
    COOKIE,
    HeaderName::from_static("cookie2"),
    SET_COOKIE,
    SET_COOKIE2,
];

/// What `Connection` cannot take away: removing it would change what the message is.
static NOT_BY_CONNECTION: [HeaderName; 8] = [
    HOST,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    CONTENT_ENCODING,
    CONTENT_RANGE,
    AUTHORIZATION,
    COOKIE,
    SET_COOKIE,
];

/// What changes who asks, beside a credential of ours. Compared with `_` as `-`; a `*` ends a prefix.
const IDENTITY: &[&str] = &[
    // Other credentials, which some origins prefer to `Authorization`.
    "cookie",
    "cookie2",
    "private-token",
    "job-token",
    "deploy-token",
    "x-api-key",
    "api-key",
    "apikey",
    "x-auth-token",
    "x-access-token",
    "x-token",
    "x-vault-token",
    "x-jfrog-art-api",
    "x-sonar-passcode",
    "x-amz-security-token",
    // Impersonation (Kubernetes, GitLab).
    "impersonate-*",
    "sudo",
    "x-sudo",
    "x-impersonate-*",
    // Identity that an authenticating proxy would set.
    "remote-*",
    "x-remote-*",
    "x-webauth-*",
    "x-auth-request-*",
    "x-authenticated-*",
    "x-user",
    "x-user-*",
    "x-username",
    "x-email",
    "x-groups",
    "x-redmine-*",
    "x-consul-token",
    "x-nomad-token",
    "x-grafana-*",
    // Where the request came from, which some origins trust.
    "forwarded",
    "x-forwarded-*",
    "x-real-ip",
    "x-client-ip",
    "client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "x-cluster-client-ip",
    "x-goog-authenticated-user-*",
    "x-goog-iap-jwt-assertion",
    "x-ms-client-principal*",
    "x-ms-token-*",
    "x-amzn-oidc-*",
    "cf-access-*",
    "x-client-cert*",
    "x-ssl-*",
    "ssl-client-*",
];

/// What asks for another method or target than the one that was judged. Compared like [`IDENTITY`].
const OVERRIDES: &[&str] = &[
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-url",
    "x-original-uri",
    "x-original-method",
    "x-rewrite-url",
];

/// Whether headers of this name travel at all, so that they can be kept beside a credential.
#[must_use]
pub fn can_travel(name: &HeaderName) -> bool {
    let never = [&HOST, &EXPECT, &TE, &ALT_SVC];
    !(HOP_BY_HOP.contains(name) || is_reserved(name) || never.contains(&name))
}

/// Removes from a request what never travels.
pub fn remove_from_request(headers: &mut HeaderMap) -> Removed {
    let mut removed = Removed::new();
    let trailers_wanted = accepts_trailers(headers);
    remove_hop_by_hop(headers, &mut removed);
    for name in [&HOST, &EXPECT] {
        remove(headers, name, &mut removed);
    }
    if headers
        .get(AUTHORIZATION)
        .is_some_and(authenticates_connection)
    {
        remove(headers, &AUTHORIZATION, &mut removed);
    }
    join_cookies(headers);
    // RFC 9110 §10.1.4: `TE` is for the next hop, and `trailers` is true of ours.
    headers.remove(TE);
    if trailers_wanted {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    removed
}

/// Removes from a request what would have its origin do something else than was judged, but for what is `kept`.
pub fn remove_overrides(headers: &mut HeaderMap, kept: &[HeaderName]) -> Removed {
    let mut removed = Removed::new();
    let is_bad = |name: &HeaderName| is_among(OVERRIDES, name) && !kept.contains(name);
    remove_where(headers, is_bad, &mut removed);
    removed
}

/// Removes from a request what would act beside the credential that we inject, but for what is `kept`.
pub fn remove_beside_credential(headers: &mut HeaderMap, kept: &[HeaderName]) -> Removed {
    let mut removed = Removed::new();
    let is_bad = |name: &HeaderName| is_among(IDENTITY, name) && !kept.contains(name);
    remove_where(headers, is_bad, &mut removed);
    removed
}

/// Removes from an answer what never travels, and cookies where the request carried our credential and not even
/// cookies are kept beside it.
pub fn remove_from_response(
    headers: &mut HeaderMap,
    beside_credential: Option<&[HeaderName]>,
) -> Removed {
    let mut removed = Removed::new();
    remove_hop_by_hop(headers, &mut removed);
    remove(headers, &TE, &mut removed);
    remove(headers, &ALT_SVC, &mut removed);
    if headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .any(authenticates_connection)
    {
        let offers: Vec<HeaderValue> = headers.get_all(WWW_AUTHENTICATE).iter().cloned().collect();
        remove(headers, &WWW_AUTHENTICATE, &mut removed);
        for offer in offers
            .into_iter()
            .filter(|offer| !authenticates_connection(offer))
        {
            headers.append(WWW_AUTHENTICATE, offer);
        }
    }
    if let Some(kept) = beside_credential {
        for name in [SET_COOKIE, SET_COOKIE2] {
            if !kept.contains(&name) {
                remove(headers, &name, &mut removed);
            }
        }
    }
    removed
}

/// Removes from trailers what a header may not be once the body has begun (RFC 9110 §6.5.1).
pub fn remove_from_trailers(trailers: &mut HeaderMap) -> Removed {
    let mut removed = Removed::new();
    remove_hop_by_hop(trailers, &mut removed);
    for name in [&TE, &TRAILER, &EXPECT]
        .into_iter()
        .chain(&NOT_BY_CONNECTION)
    {
        remove(trailers, name, &mut removed);
    }
    for table in [IDENTITY, OVERRIDES] {
        remove_where(trailers, |name| is_among(table, name), &mut removed);
    }
    removed
}

/// The frame of a body as it may travel on: data as it is, trailers without what they may not bring.
#[must_use]
pub fn clean_trailers(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            remove_from_trailers(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(data) => data,
    }
}

fn remove_hop_by_hop(headers: &mut HeaderMap, removed: &mut Removed) {
    // RFC 9112 §6.3: beside a transfer coding a length says nothing of the body, and must not travel as if it did.
    if headers.contains_key(TRANSFER_ENCODING) {
        remove(headers, &CONTENT_LENGTH, removed);
    }
    for name in named_by_connection(headers) {
        if !NOT_BY_CONNECTION.contains(&name) {
            remove(headers, &name, removed);
        }
    }
    for name in &HOP_BY_HOP {
        remove(headers, name, removed);
    }
    remove_where(headers, is_reserved, removed);
}

/// Whether this is of a scheme that authenticates a connection rather than a request: NTLM and Negotiate (RFC 4559).
/// Connections to origins are shared, and the next request on one would be made under this caller's name.
fn authenticates_connection(value: &HeaderValue) -> bool {
    let scheme = value
        .as_bytes()
        .split(|byte| matches!(byte, b' ' | b','))
        .next()
        .unwrap_or_default();
    [&b"ntlm"[..], b"negotiate"]
        .iter()
        .any(|bound| scheme.eq_ignore_ascii_case(bound))
}

/// HTTP/2 may split `Cookie`, HTTP/1 may not (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if crumbs.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        headers.insert(COOKIE, joined);
    }
}

fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers
        .get_all(CONNECTION)
        .into_iter()
        .filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect()
}

fn accepts_trailers(headers: &HeaderMap) -> bool {
    let values = headers
        .get_all(TE)
        .into_iter()
        .filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
}

fn is_among(table: &[&str], name: &HeaderName) -> bool {
    let same = |a: u8, b: u8| a == b || (a == b'_' && b == b'-');
    let name = name.as_str().as_bytes();
    table.iter().any(|entry| {
        let (entry, whole) = match entry.strip_suffix('*') {
            Some(prefix) => (prefix.as_bytes(), false),
            None => (entry.as_bytes(), true),
        };
        (if whole {
            name.len() == entry.len()
        } else {
            name.len() >= entry.len()
        }) && name.iter().zip(entry).all(|(a, b)| same(*a, *b))
    })
}

fn remove(headers: &mut HeaderMap, name: &HeaderName, removed: &mut Removed) {
    if headers.remove(name).is_some() {
        removed.push(name.clone());
    }
}

fn remove_where(
    headers: &mut HeaderMap,
    is_bad: impl Fn(&HeaderName) -> bool,
    removed: &mut Removed,
) {
    let names: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_bad(name))
        .cloned()
        .collect();
    for name in &names {
        remove(headers, name, removed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        map
    }

    fn names(map: &HeaderMap) -> Vec<&str> {
        map.keys().map(HeaderName::as_str).collect()
    }

    #[test]
    fn hop_by_hop_headers_and_what_connection_names_do_not_travel() {
        let mut map = headers(&[
            ("connection", "keep-alive, X-Mine"),
            ("x-mine", "1"),
            ("keep-alive", "timeout=60"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("proxy-authorization", "Basic eA=="),
            ("host", "broker.example"),
            ("expect", "100-continue"),
            ("accept", "*/*"),
        ]);
        let removed = remove_from_request(&mut map);
        assert_eq!(names(&map), ["accept"]);
        assert!(removed.contains(&HeaderName::from_static("x-mine")));
    }

    #[test]
    fn connection_cannot_remove_what_frames_or_authorizes() {
        let mut map = headers(&[
            ("connection", "content-length, authorization, cookie"),
            ("content-length", "3"),
            ("authorization", "Bearer x"),
        ]);
        remove_from_request(&mut map);
        assert_eq!(map["content-length"], "3");
        assert_eq!(map["authorization"], "Bearer x");
    }

    #[test]
    fn a_length_beside_a_transfer_coding_does_not_travel() {
        let mut map = headers(&[("content-length", "3"), ("transfer-encoding", "chunked")]);
        remove_from_response(&mut map, None);
        assert_eq!(names(&map), [] as [&str; 0]);
    }

    #[test]
    fn te_travels_only_as_trailers() {
        let mut map = headers(&[("te", "gzip, Trailers;q=1"), ("connection", "te")]);
        remove_from_request(&mut map);
        assert_eq!(names(&map), [] as [&str; 0]);
        let mut map = headers(&[("te", "gzip, Trailers"), ("connection", "te")]);
        remove_from_request(&mut map);
        assert_eq!(map["te"], "trailers");
    }

    #[test]
    fn identity_headers_do_not_stand_beside_our_credential_in_either_spelling() {
        for name in [
            "cookie",
            "Sudo",
            "Private-Token",
            "Job-Token",
            "Impersonate-User",
            "impersonate-extra-scopes",
            "X-Remote-User",
            "x_remote_user",
            "X-WebAuth-User",
            "X-Forwarded-User",
            "X-Forwarded-For",
            "x_forwarded_host",
            "Forwarded",
            "X-Real-IP",
            "X-Redmine-Switch-User",
            "X-Grafana-Org-Id",
        ] {
            let mut map = headers(&[(name, "admin"), ("accept", "*/*")]);
            let removed = remove_beside_credential(&mut map, &[]);
            assert_eq!(names(&map), ["accept"], "{name}");
            assert_eq!(removed.len(), 1, "{name}");
        }
    }

    #[test]
    fn no_header_asks_for_another_method_or_target_unless_it_is_kept() {
        let overrides = [
            ("x-http-method-override", "DELETE"),
            ("x_http_method_override", "DELETE"),
            ("x-original-url", "/admin"),
            ("accept", "*/*"),
        ];
        let mut map = headers(&overrides);
        assert_eq!(remove_overrides(&mut map, &[]).len(), 3);
        assert_eq!(names(&map), ["accept"]);
        let mut map = headers(&overrides);
        let kept = [HeaderName::from_static("x-original-url")];
        assert_eq!(remove_overrides(&mut map, &kept).len(), 2);
        assert_eq!(names(&map), ["accept", "x-original-url"]);
    }

    #[test]
    fn no_caller_authenticates_a_connection_that_others_share() {
        for value in ["NTLM TlRM", "negotiate YII=", "Negotiate"] {
            let mut map = headers(&[("authorization", value)]);
            assert_eq!(remove_from_request(&mut map), [AUTHORIZATION], "{value}");
            assert!(map.is_empty());
        }
        let mut map = headers(&[("authorization", "Bearer ntlm")]);
        assert!(remove_from_request(&mut map).is_empty());
        let mut map = headers(&[
            ("www-authenticate", "Negotiate"),
            ("www-authenticate", "NTLM"),
            ("www-authenticate", "Basic realm=\"x\""),
        ]);
        assert_eq!(remove_from_response(&mut map, None), [WWW_AUTHENTICATE]);
        assert_eq!(map["www-authenticate"], "Basic realm=\"x\"");
    }

    #[test]
    fn cookies_that_http2_split_are_one_again() {
        let mut map = headers(&[("cookie", "a=1"), ("cookie", "b=2")]);
        assert!(remove_from_request(&mut map).is_empty());
        assert_eq!(
            map.get_all("cookie").iter().collect::<Vec<_>>(),
            ["a=1; b=2"]
        );
    }

    #[test]
    fn cookies_come_back_only_where_no_credential_went_in() {
        let answer = [
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
            ("alt-svc", "h3=\":443\""),
            ("etag", "x"),
        ];
        let mut map = headers(&answer);
        remove_from_response(&mut map, Some(&[]));
        assert_eq!(names(&map), ["etag"]);
        let mut map = headers(&answer);
        remove_from_response(&mut map, None);
        assert_eq!(map.get_all("set-cookie").iter().count(), 2);
    }

    #[test]
    fn what_a_rule_names_is_kept_beside_our_credential() {
        let kept = [
            COOKIE,
            SET_COOKIE,
            HeaderName::from_static("x-forwarded-for"),
        ];
        let mut map = headers(&[
            ("cookie", "a=1"),
            ("x-forwarded-for", "192.0.2.1"),
            ("x_forwarded_for", "192.0.2.2"),
            ("sudo", "root"),
        ]);
        remove_beside_credential(&mut map, &kept);
        assert_eq!(names(&map), ["cookie", "x-forwarded-for"]);
        let mut map = headers(&[
            ("set-cookie", "a=1"),
            ("set-cookie2", "b=2"),
            ("alt-svc", "x"),
        ]);
        remove_from_response(&mut map, Some(&kept));
        assert_eq!(names(&map), ["set-cookie"]);
    }

    #[test]
    fn what_never_travels_is_known_by_name() {
        for name in [
            "Connection",
            "Upgrade",
            "TE",
            "Host",
            "Broker-Caller",
            "Proxy-Authorization",
            "Alt-Svc",
        ] {
            assert!(!can_travel(&name.parse().unwrap()), "{name}");
        }
        for name in ["Cookie", "Set-Cookie", "X-Forwarded-For", "Accept"] {
            assert!(can_travel(&name.parse().unwrap()), "{name}");
        }
    }

    #[test]
    fn trailers_cannot_bring_what_was_removed_from_headers() {
        let mut map = headers(&[
            ("grpc-status", "0"),
            ("authorization", "Bearer x"),
            ("content-length", "9"),
            ("broker-error", "denied"),
            ("cookie", "a=1"),
            ("set-cookie", "a=1"),
            ("x-remote-user", "root"),
            ("x-http-method-override", "DELETE"),
        ]);
        remove_from_trailers(&mut map);
        assert_eq!(names(&map), ["grpc-status"]);
    }
}

//! Which headers travel: the one table for requests, answers and trailers, both ways. SPEC.md §7 is that table, with
//! every name; a test compares the two.
//!
//! Names are compared with everything but letters and digits as `-`: CGI and its heirs (WSGI, Rack, PHP) make one
//! variable of `x-remote-user`, `x_remote_user` and, some of them, `x.remote.user` (RFC 3875 §4.1.18).

use bytes::Bytes;
use http::header::{
    ALT_SVC, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH,
    CONTENT_LOCATION, CONTENT_RANGE, CONTENT_TYPE, COOKIE, DATE, EXPECT, FROM, HOST,
    IF_MODIFIED_SINCE, IF_RANGE, IF_UNMODIFIED_SINCE, MAX_FORWARDS, ORIGIN, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, RANGE, REFERER, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
    USER_AGENT, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::Frame;

use crate::header::{begins_like, is_reserved, same_variable};

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

/// What a request has once: of two, one program reads the first and the next one the last.
static ONCE: [HeaderName; 17] = [
    HOST,
    AUTHORIZATION,
    PROXY_AUTHORIZATION,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    CONTENT_RANGE,
    CONTENT_LOCATION,
    RANGE,
    IF_MODIFIED_SINCE,
    IF_RANGE,
    IF_UNMODIFIED_SINCE,
    DATE,
    FROM,
    MAX_FORWARDS,
    ORIGIN,
    REFERER,
    USER_AGENT,
];

/// What else means the message, and not a connection.
static OF_THE_MESSAGE: [HeaderName; 4] = [CONTENT_ENCODING, CACHE_CONTROL, COOKIE, SET_COOKIE];

/// What changes who asks, beside a credential of ours. A `*` ends a prefix.
const IDENTITY: &[&str] = &[
    // Other credentials, which some origins prefer to `Authorization`.
    "cookie",
    "cookie2",
    "private-token",
    "job-token",
    "deploy-token",
    "x-authorization",
    "x-api-key",
    "api-key",
    "apikey",
    "x-auth-token",
    "x-access-token",
    "x-token",
    "x-vault-token",
    "x-jfrog-art-api",
    "x-sonar-passcode",
    "circle-token",
    "x-octopus-apikey",
    "dd-api-key",
    "dd-application-key",
    "x-amz-security-token",
    // Impersonation (Kubernetes, GitLab).
    "impersonate-*",
    "sudo",
    "x-sudo",
    "x-impersonate-*",
    // Identity that an authenticating proxy would set.
    "remote-*",
    "x-remote-*",
    "x-forwarded-*",
    "x-webauth-*",
    "x-auth-request-*",
    "x-authenticated-*",
    "x-scope-orgid",
    "x-user",
    "x-user-*",
    "x-username",
    "x-email",
    "x-groups",
    "x-redmine-*",
    "x-consul-token",
    "x-nomad-token",
    "x-grafana-*",
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

/// What asks for another method, target or host than the one that was judged.
const OVERRIDES: &[&str] = &[
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-url",
    "x-original-uri",
    "x-original-method",
    "x-original-host",
    "x-rewrite-url",
    "x-http-host-override",
    "x-host",
];

/// What proxies say of where a request came from and by which name it called them; some origins trust it.
const FORWARDED: &[&str] = &[
    "forwarded",
    "x-forwarded-*",
    "x-real-ip",
    "x-client-ip",
    "client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "x-cluster-client-ip",
];

/// What of [`FORWARDED`] speaks of the way alone. The rest of `x-forwarded-*` says who asks.
const OF_THE_WAY: &[&str] = &[
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-forwarded-prefix",
    "x-forwarded-server",
];

/// What of a request travels although it would be removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// What the rule names, exactly so.
    pub names: Box<[HeaderName]>,
    /// `Forwarded`, `X-Forwarded-For` and their kin.
    pub forwarded: bool,
}

/// Whether headers of this name travel at all, so that they can be kept beside a credential.
#[must_use]
pub fn can_travel(name: &HeaderName) -> bool {
    let never = [&HOST, &EXPECT, &TE, &ALT_SVC];
    !(HOP_BY_HOP.contains(name) || is_reserved(name) || never.contains(&name) || is_alias(name))
}

/// The first header of a request that occurs more than once and may not.
#[must_use]
pub fn repeated(headers: &HeaderMap) -> Option<&HeaderName> {
    // Most requests have no header twice, and are done here.
    if headers.len() == headers.keys_len() {
        return None;
    }
    let occurs_again = |name: &&HeaderName| headers.get_all(*name).iter().nth(1).is_some();
    ONCE.iter().find(occurs_again)
}

/// Removes from a request what never travels.
pub fn remove_from_request(headers: &mut HeaderMap) -> Removed {
    let mut removed = Removed::new();
    let trailers_wanted = accepts_trailers(headers);
    remove_hop_by_hop(headers, &mut removed);
    for name in [&HOST, &EXPECT] {
        remove(headers, name, &mut removed);
    }
    remove_where(headers, is_alias, &mut removed);
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

/// Removes from a request that was allowed what would have its origin do something else than was judged, or, beside
/// the credential that we inject, do it for somebody else.
pub fn remove_before_origin(headers: &mut HeaderMap, injects: bool, kept: &Kept) -> Removed {
    let mut removed = Removed::new();
    let is_bad = |name: &HeaderName| {
        let is_kept = kept.forwarded && is_among(OF_THE_WAY, name);
        is_among(OVERRIDES, name)
            || (!kept.forwarded && is_among(FORWARDED, name))
            || (injects && is_among(IDENTITY, name) && !is_kept)
    };
    remove_where(
        headers,
        |name| is_bad(name) && !kept.names.contains(name),
        &mut removed,
    );
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

/// Removes from trailers what a header may not be once the body has begun (RFC 9110 §6.5.1), and what would stand
/// beside a header of `head`, by which the message was judged.
pub fn remove_from_trailers(trailers: &mut HeaderMap, head: &[HeaderName]) -> Removed {
    let mut removed = Removed::new();
    remove_hop_by_hop(trailers, &mut removed);
    let is_bad = |name: &HeaderName| {
        let mut of_heads = ONCE.iter().chain(&OF_THE_MESSAGE).chain(&COOKIES);
        of_heads.any(|other| other == name)
            || [TE, TRAILER, EXPECT].contains(name)
            || is_alias(name)
            || head.iter().any(|other| is_same(name, other))
            || [IDENTITY, OVERRIDES, FORWARDED]
                .iter()
                .any(|table| is_among(table, name))
    };
    remove_where(trailers, is_bad, &mut removed);
    removed
}

/// The frame of a body as it may travel on, and what was removed: data stays as it is, trailers lose what they may not
/// bring.
#[must_use]
pub fn clean_trailers(frame: Frame<Bytes>, head: &[HeaderName]) -> (Frame<Bytes>, Removed) {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            let removed = remove_from_trailers(&mut trailers, head);
            (Frame::trailers(trailers), removed)
        }
        Err(data) => (data, Removed::new()),
    }
}

fn remove_hop_by_hop(headers: &mut HeaderMap, removed: &mut Removed) {
    // RFC 9112 §6.3: beside a transfer coding a length says nothing of the body, and must not travel as if it did.
    if headers.contains_key(TRANSFER_ENCODING) {
        remove(headers, &CONTENT_LENGTH, removed);
    }
    for name in named_by_connection(headers) {
        // What means the message, a connection cannot take away.
        if !ONCE.contains(&name) && !OF_THE_MESSAGE.contains(&name) {
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

/// Whether an origin could take it for a header that frames, routes or authenticates, which it is not.
fn is_alias(name: &HeaderName) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if name.as_str().bytes().all(is_plain) {
        return false;
    }
    let mut meant = HOP_BY_HOP
        .iter()
        .chain(&ONCE)
        .chain(&OF_THE_MESSAGE)
        .chain(&COOKIES)
        .chain([&TE, &TRAILER, &EXPECT]);
    meant.any(|meant| is_same(name, meant))
}

fn is_same(name: &HeaderName, other: &HeaderName) -> bool {
    same_variable(name.as_str(), other.as_str())
}

fn is_among(table: &[&str], name: &HeaderName) -> bool {
    table.iter().any(|entry| match entry.strip_suffix('*') {
        Some(prefix) => begins_like(name.as_str(), prefix),
        None => same_variable(name.as_str(), entry),
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

    fn names_kept(names: &[&'static str]) -> Kept {
        Kept {
            names: names
                .iter()
                .map(|name| HeaderName::from_static(name))
                .collect(),
            forwarded: false,
        }
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
            "X-Forwarded-Access-Token",
            "x.remote.user",
            "X-Auth-Request-Email",
            "Remote-User",
            "X-Redmine-Switch-User",
            "X-Grafana-Org-Id",
        ] {
            let mut map = headers(&[(name, "admin"), ("accept", "*/*")]);
            let removed = remove_before_origin(&mut map, true, &Kept::default());
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
        assert_eq!(
            remove_before_origin(&mut map, false, &Kept::default()).len(),
            3
        );
        assert_eq!(names(&map), ["accept"]);
        let mut map = headers(&overrides);
        let kept = names_kept(&["x-original-url"]);
        assert_eq!(remove_before_origin(&mut map, false, &kept).len(), 2);
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
        let kept = names_kept(&["cookie", "set-cookie", "x-forwarded-for"]);
        let mut map = headers(&[
            ("cookie", "a=1"),
            ("x-forwarded-for", "192.0.2.1"),
            ("x_forwarded_for", "192.0.2.2"),
            ("sudo", "root"),
        ]);
        remove_before_origin(&mut map, true, &kept);
        assert_eq!(names(&map), ["cookie", "x-forwarded-for"]);
        let mut map = headers(&[
            ("set-cookie", "a=1"),
            ("set-cookie2", "b=2"),
            ("alt-svc", "x"),
        ]);
        remove_from_response(&mut map, Some(&kept.names));
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
            ("x-forwarded-for", "192.0.2.1"),
            ("content_type", "text/html"),
            ("range", "bytes=0-1"),
            ("x-role", "admin"),
            ("x_role", "admin"),
        ]);
        let head = [HeaderName::from_static("x-role")];
        assert_eq!(remove_from_trailers(&mut map, &head).len(), 12);
        assert_eq!(names(&map), ["grpc-status"]);
    }

    #[test]
    fn only_what_says_the_way_is_kept_beside_our_credential_where_proxies_are_believed() {
        let lines = [
            ("forwarded", "for=192.0.2.1"),
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-user", "admin"),
            ("x-real-ip", "192.0.2.1"),
        ];
        let believed = Kept {
            forwarded: true,
            ..Kept::default()
        };
        for (injects, kept, expected) in [
            (false, &Kept::default(), &[][..]),
            (true, &Kept::default(), &[]),
            (
                false,
                &believed,
                &[
                    "forwarded",
                    "x-forwarded-for",
                    "x-forwarded-user",
                    "x-real-ip",
                ],
            ),
            (
                true,
                &believed,
                &["forwarded", "x-forwarded-for", "x-real-ip"],
            ),
        ] {
            let mut map = headers(&lines);
            remove_before_origin(&mut map, injects, kept);
            assert_eq!(names(&map), expected, "{injects} {kept:?}");
        }
    }

    #[test]
    fn a_header_that_a_request_has_once_is_not_repeated() {
        for name in &ONCE {
            let mut map = headers(&[("accept", "a"), ("accept", "b")]);
            map.append(name, HeaderValue::from_static("1"));
            assert_eq!(repeated(&map), None, "{name}");
            map.append(name, HeaderValue::from_static("1"));
            assert_eq!(repeated(&map), Some(name));
        }
    }

    #[test]
    fn another_spelling_of_what_frames_or_authenticates_does_not_travel() {
        for name in [
            "content_length",
            "transfer_encoding",
            "content_type",
            "content.type",
            "proxy_authorization",
            "user_agent",
            "keep_alive",
        ] {
            let mut map = headers(&[(name, "1"), ("x_mine", "1"), ("content-type", "text/plain")]);
            assert_eq!(remove_from_request(&mut map).len(), 1, "{name}");
            assert_eq!(names(&map), ["content-type", "x_mine"], "{name}");
        }
    }

    #[test]
    fn the_specification_names_what_the_code_does() {
        let of = |names: &[HeaderName]| names.iter().map(ToString::to_string).collect();
        let texts = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let groups: [(&str, Vec<String>); 8] = [
            ("connection", of(&HOP_BY_HOP)),
            ("cookies", of(&COOKIES)),
            ("once", of(&ONCE)),
            ("message", of(&OF_THE_MESSAGE)),
            ("override", texts(OVERRIDES)),
            ("identity", texts(IDENTITY)),
            ("forwarded", texts(FORWARDED)),
            ("way", texts(OF_THE_WAY)),
        ];
        let specification = include_str!("../SPEC.md");
        let (_, table) = specification
            .split_once("| group | names |\n|---|---|\n")
            .unwrap();
        let (table, _) = table.split_once("\n\n").unwrap();
        let expected =
            groups.map(|(group, names)| format!("| {group} | `{}` |", names.join("`, `")));
        assert_eq!(table.lines().collect::<Vec<_>>(), expected);
    }
}

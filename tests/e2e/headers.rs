//! Which headers travel: the table of `broker_protocol::hop`, both ways; framing, trailers, references and interim
//! answers.

use broker_protocol::ErrorCode;
use broker_tests::broker::{AgentSetup, Server, Site, permissive};
use broker_tests::caller::{Answer, Caller, body};
use broker_tests::origin::{self, Origin, Request};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use serde_json::{Value, json};

const TARGET: &str = "/broker/sonarqube/a";
const VERSIONS: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];

/// One request, answered by an origin behind a rule with or without a credential.
struct Exchange {
    /// As the origin saw it.
    request: Request,
    answer: Answer,
    /// The outcome on record.
    outcome: Value,
    /// Everything on record.
    log: String,
}

/// Which credential the rule has.
#[derive(Clone, Copy)]
enum Auth {
    None,
    Injected,
    /// Injected by a rule that keeps some headers beside it.
    InjectedBeside,
}

impl Auth {
    fn rules(self, origin: &str) -> Value {
        let auth = json!({"scheme": "token", "token": "of-the-customer"});
        let mut rule = json!({"method": "any", "path": "/*", "origin": origin});
        match self {
            Self::None => {}
            Self::Injected => rule["auth"] = auth,
            Self::InjectedBeside => {
                let rule = json!({
                    "path": "/**", "origin": origin, "auth": auth,
                    "keep-cookies": true, "allow-headers": ["X-Remote-User"]
                });
                return json!({"version": 2, "private": [rule]});
            }
        }
        json!({"private": [rule]})
    }
}

/// Sends a request with these headers by this version and has it answered.
async fn exchange(
    auth: Auth,
    version: Version,
    headers: &[(&str, &str)],
    answer: origin::Answer,
) -> Exchange {
    let origin = Origin::answering(move |_| answer.clone()).await;
    let server = Server::start(Site::simple()).await;
    let agent = AgentSetup::with_rules(auth.rules(&origin.url()))
        .start(&server)
        .await;
    let answer = send(
        &server.caller().with_version(version),
        Method::GET,
        TARGET,
        headers,
    )
    .await;
    let request = origin.requests().pop().unwrap();
    let lines = agent.stop().await;
    let outcome = lines[2].clone();
    let log = lines.iter().map(Value::to_string).collect();
    Exchange {
        request,
        answer,
        outcome,
        log,
    }
}

async fn send(caller: &Caller, method: Method, target: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = http::Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    caller.send(request.body(body::empty()).unwrap()).await
}

fn names(list: &Value) -> Vec<&str> {
    let mut names: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn what_the_caller_says_of_its_connection_or_in_our_name_does_not_travel() {
    let headers = [
        (
            "connection",
            "keep-alive, X-Named, Content-Type, Authorization",
        ),
        ("keep-alive", "timeout=60"),
        ("proxy-connection", "keep-alive"),
        ("proxy-authorization", "Basic eDp5"),
        ("te", "gzip"),
        ("http2-settings", "AAMAAABkAAQAoAAAAAIAAAAA"),
        ("x-named", "1"),
        ("broker-caller", "somebody"),
        ("broker-request-id", "mine"),
        ("broker_tenant", "other"),
        ("broker-error", "denied"),
        ("authorization", "Bearer of-the-caller"),
        ("content-type", "text/plain"),
        ("content_length", "5"),
        ("transfer_encoding", "chunked"),
        ("cookie", "a=1"),
        ("x-forwarded-for", "198.51.100.1"),
        ("accept-encoding", "gzip, br"),
    ];
    let Exchange {
        request,
        outcome,
        log,
        ..
    } = exchange(
        Auth::None,
        Version::HTTP_11,
        &headers,
        origin::Answer::json("{}"),
    )
    .await;

    let mut travelled: Vec<_> = request
        .head
        .headers()
        .into_iter()
        .filter(|(name, _)| name != "host")
        .collect();
    travelled.sort();
    let expected = [
        ("accept-encoding", "gzip, br"),
        ("authorization", "Bearer of-the-caller"),
        ("content-type", "text/plain"),
        ("cookie", "a=1"),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(travelled, expected);
    // What the server removed, the agent never saw.
    assert_eq!(
        names(&outcome["removed_request_headers"]),
        ["x-forwarded-for"]
    );
    assert!(!log.contains("of-the-caller"));
}

#[tokio::test]
async fn the_origin_is_called_by_its_own_name() {
    for version in VERSIONS {
        let Exchange { request, .. } =
            exchange(Auth::None, version, &[], origin::Answer::json("{}")).await;
        let hosts = request.head.values("host");
        assert_eq!(hosts.len(), 1);
        assert!(hosts[0].starts_with("127.0.0.1:"), "{hosts:?}");
    }
}

#[tokio::test]
async fn what_the_origin_says_of_its_connection_or_in_our_name_does_not_travel() {
    for version in VERSIONS {
        let headers = [
            ("Connection", "keep-alive, X-Named"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Authenticate", "Basic realm=x"),
            ("Upgrade", "h2c"),
            ("X-Named", "1"),
            ("Alt-Svc", "h3=\":443\""),
            ("Broker-Error", "denied"),
            ("Broker_Error", "denied"),
            ("Broker-Request-Id", "of-the-origin"),
            ("Broker-Anything", "1"),
            ("WWW-Authenticate", "Basic realm=origin"),
            ("Server", "origin"),
            ("ETag", "\"1\""),
        ];
        let Exchange {
            answer, outcome, ..
        } = exchange(
            Auth::None,
            version,
            &[],
            origin::Answer::new(401, &headers, "x"),
        )
        .await;

        assert_eq!(answer.status(), 401);
        let mut travelled: Vec<_> = answer.headers().keys().map(HeaderName::as_str).collect();
        travelled.sort_unstable();
        assert_eq!(
            travelled,
            [
                "broker-request-id",
                "content-length",
                "date",
                "etag",
                "server",
                "www-authenticate"
            ]
        );
        assert_eq!(
            answer.header("broker-request-id"),
            outcome["request_id"].as_str()
        );
        assert_eq!(
            names(&outcome["removed_response_headers"]),
            [
                "alt-svc",
                "broker-anything",
                "broker-error",
                "broker-request-id",
                "broker_error",
                "connection",
                "keep-alive",
                "proxy-authenticate",
                "upgrade",
                "x-named",
            ]
        );
        assert_eq!(answer.bytes().await, "x");
    }
}

#[tokio::test]
async fn beside_our_credential_no_other_identity_travels_and_no_cookie_comes_back() {
    let headers = [
        ("authorization", "Bearer of-the-caller"),
        ("cookie", "session=of-the-caller"),
        ("private-token", "secret-value"),
        ("impersonate-user", "admin"),
        ("x-remote-user", "admin"),
        ("x_forwarded_user", "admin"),
        ("x-http-method-override", "DELETE"),
        ("x-original-url", "/admin"),
        ("accept", "*/*"),
    ];
    let answer = [
        ("Set-Cookie", "session=1"),
        ("Set-Cookie", "other=2"),
        ("X-Kept", "1"),
    ];
    let Exchange {
        request,
        answer,
        outcome,
        log,
    } = exchange(
        Auth::Injected,
        Version::HTTP_11,
        &headers,
        origin::Answer::new(200, &answer, ""),
    )
    .await;

    let mut travelled: Vec<_> = request
        .head
        .headers()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    travelled.sort();
    assert_eq!(travelled, ["accept", "authorization", "host"]);
    assert_eq!(
        request.head.values("authorization"),
        ["Token of-the-customer"]
    );
    assert_eq!(answer.header("set-cookie"), None);
    assert_eq!(answer.header("x-kept"), Some("1"));
    assert_eq!(
        names(&outcome["removed_request_headers"]),
        [
            "cookie",
            "impersonate-user",
            "private-token",
            "x-http-method-override",
            "x-original-url",
            "x-remote-user",
            "x_forwarded_user",
        ]
    );
    assert_eq!(names(&outcome["removed_response_headers"]), ["set-cookie"]);
    assert_eq!(outcome["injected"], true);
    for value in [
        "of-the-caller",
        "of-the-customer",
        "secret-value",
        "session=1",
    ] {
        assert!(!log.contains(value), "{value}");
    }
}

#[tokio::test]
async fn what_a_rule_keeps_beside_its_credential_travels_and_nothing_else_does() {
    let headers = [
        ("authorization", "Bearer of-the-caller"),
        ("cookie", "a=1"),
        ("x-remote-user", "me"),
        ("x_remote_user", "admin"),
        ("private-token", "t"),
    ];
    let answer = [("Set-Cookie", "b=2"), ("Alt-Svc", "h3=\":443\"")];
    let Exchange {
        request,
        answer,
        outcome,
        ..
    } = exchange(
        Auth::InjectedBeside,
        Version::HTTP_11,
        &headers,
        origin::Answer::new(200, &answer, ""),
    )
    .await;

    assert_eq!(
        request.head.values("authorization"),
        ["Token of-the-customer"]
    );
    assert_eq!(request.head.values("cookie"), ["a=1"]);
    assert_eq!(request.head.values("x-remote-user"), ["me"]);
    assert_eq!(
        names(&outcome["removed_request_headers"]),
        ["private-token", "x_remote_user"]
    );
    assert_eq!(answer.header("set-cookie"), Some("b=2"));
    assert_eq!(names(&outcome["removed_response_headers"]), ["alt-svc"]);
}

#[tokio::test]
async fn without_our_credential_too_no_header_asks_for_another_method_or_target() {
    let headers = [
        ("x-http-method-override", "DELETE"),
        ("x-original-url", "/admin"),
        ("x-rewrite-url", "/admin"),
        ("accept", "*/*"),
    ];
    let Exchange {
        request, outcome, ..
    } = exchange(
        Auth::None,
        Version::HTTP_11,
        &headers,
        origin::Answer::new(200, &[], ""),
    )
    .await;

    let headers = request.head.headers();
    let travelled: Vec<_> = headers.iter().map(|(name, _)| &**name).collect();
    assert_eq!(travelled, ["accept", "host"]);
    assert_eq!(
        names(&outcome["removed_request_headers"]),
        ["x-http-method-override", "x-original-url", "x-rewrite-url"]
    );
}

#[tokio::test]
async fn of_a_header_that_a_request_has_once_two_are_refused_by_name_and_recorded() {
    let origin = Origin::answering(|_| origin::Answer::json("{}")).await;
    let (server, agent) = permissive(&origin).await;
    for version in VERSIONS {
        let caller = server.caller().with_version(version);
        for name in ["content-type", "range", "user-agent", "if-range", "referer"] {
            let answer = send(&caller, Method::GET, TARGET, &[(name, "1"), (name, "1")]).await;
            let problem = answer.problem(ErrorCode::BadRequest).await;
            let detail = problem["detail"].as_str().unwrap();
            assert!(detail.contains(name), "{version:?}: {detail}");
            let decision = agent.audit("decision").pop().unwrap();
            assert_eq!(decision["verdict"], "deny");
            assert_eq!(decision["reason"], "repeated-header");
            assert_eq!(decision["header"], name);
        }
        for name in [
            "authorization",
            "proxy-authorization",
            "broker-authorization",
        ] {
            let twice = [(name, "Bearer x"), (name, "Bearer x")];
            let stranger = server.stranger().with_version(version);
            let answer = send(&stranger, Method::GET, TARGET, &twice).await;
            let problem = answer.problem(ErrorCode::BadRequest).await;
            assert!(
                problem["detail"].as_str().unwrap().contains(name),
                "{problem}"
            );
        }
    }
    assert_eq!(origin.connections(), 0);
}

#[tokio::test]
async fn forwarded_headers_travel_where_the_settings_believe_them_and_say_nothing_of_who_asks() {
    let headers = [
        ("forwarded", "for=192.0.2.1"),
        ("x-forwarded-for", "192.0.2.1"),
        ("x-forwarded-user", "admin"),
    ];
    let all = ["forwarded", "x-forwarded-for", "x-forwarded-user"];
    for (remove, auth, expected) in [
        ("true", Auth::None, &[][..]),
        ("false", Auth::None, &all),
        ("false", Auth::Injected, &["forwarded", "x-forwarded-for"]),
    ] {
        let origin = Origin::answering(|_| origin::Answer::json("{}")).await;
        let server = Server::start(Site::simple()).await;
        let _agent = AgentSetup::with_rules(auth.rules(&origin.url()))
            .variable("REMOVE_X_FORWARDED_HEADERS", remove)
            .start(&server)
            .await;
        send(&server.caller(), Method::GET, TARGET, &headers).await;
        let request = origin.requests().pop().unwrap();
        let travelled = all
            .into_iter()
            .filter(|name| request.head.value(name).is_some());
        assert_eq!(travelled.collect::<Vec<_>>(), expected, "{remove}");
    }
}

#[tokio::test]
async fn without_our_credential_identity_and_cookies_are_the_callers_own_affair() {
    let headers = [
        ("cookie", "a=1; b=2"),
        ("private-token", "t"),
        ("x-remote-user", "me"),
    ];
    let cookies = [
        ("Set-Cookie", "b=2"),
        ("X-Between", "1"),
        ("Set-Cookie", "a=1"),
    ];
    let Exchange {
        request, answer, ..
    } = exchange(
        Auth::None,
        Version::HTTP_11,
        &headers,
        origin::Answer::new(200, &cookies, ""),
    )
    .await;
    for (name, value) in headers {
        assert_eq!(request.head.values(name), [value]);
    }
    let cookies: Vec<_> = answer.headers().get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["b=2", "a=1"]);
}

#[tokio::test]
async fn headers_of_one_name_keep_their_order_both_ways() {
    for version in VERSIONS {
        let many = [
            ("X-Many", "3"),
            ("X-Many", "1"),
            ("X-Many", "2"),
            ("X-Many", ""),
        ];
        let Exchange {
            request, answer, ..
        } = exchange(
            Auth::None,
            version,
            &many,
            origin::Answer::new(200, &many, ""),
        )
        .await;
        assert_eq!(request.head.values("x-many"), ["3", "1", "2", ""]);
        let values: Vec<_> = answer.headers().get_all("x-many").iter().collect();
        assert_eq!(values, ["3", "1", "2", ""]);
    }
}

#[tokio::test]
async fn the_origins_trailers_reach_a_caller_that_takes_trailers() {
    let origin = Origin::answering(|_| {
        origin::Answer::raw(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Grpc-Status\r\n\r\n\
             2\r\n{}\r\n0\r\nGrpc-Status: 7\r\nBroker-Error: denied\r\nSet-Cookie: a=1\r\n\
             Content-Length: 9\r\n\r\n",
        )
    })
    .await;
    let (server, agent) = permissive(&origin).await;
    for version in VERSIONS {
        let caller = server.caller().with_version(version);
        let answer = send(&caller, Method::GET, TARGET, &[("te", "trailers")]).await;
        let (bytes, trailers) = answer.bytes_and_trailers().await;
        assert_eq!(bytes, "{}", "{version:?}");
        let expected = HeaderMap::from_iter([(
            HeaderName::from_static("grpc-status"),
            HeaderValue::from_static("7"),
        )]);
        assert_eq!(trailers, expected, "{version:?}");
        assert_eq!(
            origin.requests().pop().unwrap().head.values("te"),
            ["trailers"]
        );
    }
    let (bytes, trailers) = server.caller().get(TARGET).await.bytes_and_trailers().await;
    assert_eq!((bytes, trailers.len()), (Bytes::from("{}"), 0));
    let lines = agent.stop().await;
    let removed = [
        "broker-error",
        "content-length",
        "set-cookie",
        "transfer-encoding",
    ];
    assert_eq!(names(&lines[2]["removed_response_headers"]), removed);
    let ends = lines.iter().filter(|line| line["kind"] == "outcome");
    let ends: Vec<_> = ends.map(|line| &line["ended"]).collect();
    assert_eq!(ends, ["complete"; 3]);
}

#[tokio::test]
async fn the_callers_trailers_reach_the_origin() {
    let origin = Origin::answering(|_| origin::Answer::json("{}")).await;
    let (server, agent) = permissive(&origin).await;
    for version in VERSIONS {
        let (mut sender, upload) = body::channel();
        let play = async move {
            sender.send_data(Bytes::from("data")).await.unwrap();
            let mut trailers = HeaderMap::new();
            for (name, value) in [
                ("x-checksum", "abc"),
                ("authorization", "Bearer late"),
                ("cookie", "late=1"),
                ("broker-caller", "late"),
                ("x-late", "Bearer brk_caller_late"),
                ("x-role", "admin"),
                ("x_role", "admin"),
            ] {
                trailers.insert(
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                );
            }
            sender.send_trailers(trailers).await.unwrap();
        };
        let request = http::Request::post(TARGET)
            .header(
                "trailer",
                "x-checksum, authorization, cookie, broker-caller, x-late, x-role, x_role",
            )
            .header("x-role", "reader")
            .body(upload)
            .unwrap();
        let caller = server.caller().with_version(version);
        let ((), answer) = tokio::join!(play, caller.send(request));
        assert_eq!(answer.status(), 200);
        let request = origin.requests().pop().unwrap();
        let text = String::from_utf8(request.body).unwrap();
        assert_eq!(
            text.to_lowercase(),
            "datax-checksum: abc\r\n",
            "{version:?}"
        );
    }
    // The server removed the rest.
    for line in agent.stop().await {
        if line["kind"] == "outcome" {
            assert_eq!(
                names(&line["removed_request_headers"]),
                ["x-role", "x_role"]
            );
        }
    }
}

#[tokio::test]
async fn references_into_the_origin_are_led_back_through_the_broker() {
    let origin = Origin::answering(|request| {
        let reference = request.head.value("x-reference").unwrap();
        origin::Answer::new(
            302,
            &[("Location", &reference), ("Content-Location", &reference)],
            "",
        )
    })
    .await;
    let server = Server::start(Site::simple()).await;
    let url = format!("{}/base", origin.url());
    let agent = AgentSetup::with_rules(Auth::None.rules(&url))
        .start(&server)
        .await;
    let mut passed = Vec::new();
    for (reference, expected) in [
        (format!("{url}/x?y#z"), Some("/broker/sonarqube/x?y#z")),
        ("/base/x".to_owned(), Some("/broker/sonarqube/x")),
        ("x/y".to_owned(), None),
        ("?page=2".to_owned(), None),
        (format!("{}/other", origin.url()), None),
        ("/other".to_owned(), None),
        ("//elsewhere.example/base/x".to_owned(), None),
        ("https://elsewhere.example/base/x".to_owned(), None),
        ("/base/../other".to_owned(), None),
    ] {
        let headers = [("x-reference", reference.as_str())];
        let answer = send(&server.caller(), Method::GET, TARGET, &headers).await;
        assert_eq!(answer.status(), 302);
        for name in ["location", "content-location"] {
            assert_eq!(
                answer.header(name),
                Some(expected.unwrap_or(&reference)),
                "{name}"
            );
        }
        let is_relative = reference.starts_with(['x', '?']);
        passed.push(expected.is_none() && !is_relative);
    }
    let noted: Vec<_> = agent
        .stop()
        .await
        .iter()
        .filter(|line| line["kind"] == "outcome")
        .map(|line| match names(&line["location_passed"]).as_slice() {
            [] => false,
            ["content-location", "location"] => true,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(noted, passed);
}

#[tokio::test]
async fn a_followed_reference_is_judged_anew() {
    let origin =
        Origin::answering(|_| origin::Answer::new(302, &[("Location", "/secret")], "")).await;
    let server = Server::start(Site::simple()).await;
    let rules = json!({"private": [{"path": "/a", "origin": origin.url()}]});
    let _agent = AgentSetup::with_rules(rules).start(&server).await;
    let answer = server.caller().get(TARGET).await;
    let location = answer.header("location").unwrap();
    assert_eq!(location, "/broker/sonarqube/secret");
    assert_eq!(server.caller().get(location).await.status(), 403);
    assert_eq!(origin.requests().len(), 1);
}

#[tokio::test]
async fn answers_without_a_body_keep_their_headers_and_the_connection() {
    let origin = Origin::answering(|request| {
        let answer = match request.head.target().as_str() {
            "/204" => "HTTP/1.1 204 No Content\r\nX-Kept: 1\r\n\r\n",
            "/304" => "HTTP/1.1 304 Not Modified\r\nContent-Length: 1234\r\nETag: \"1\"\r\nX-Kept: 1\r\n\r\n",
            "/chunked" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Kept: 1\r\n\r\n",
            "/zero" => "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Kept: 1\r\n\r\n",
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\nX-Kept: 1\r\n\r\n",
        };
        origin::Answer::raw(answer)
    })
    .await;
    let (server, _agent) = permissive(&origin).await;
    for version in VERSIONS {
        let connection = server.caller().with_version(version).connect().await;
        // Optional in a 304 (RFC 9110 §8.6); the HTTP/1 server leaves it out.
        let of_304 = (version == Version::HTTP_2).then_some("1234");
        for (method, path, status, length) in [
            (Method::HEAD, "length", 200, Some("1234")),
            (Method::HEAD, "chunked", 200, None),
            (Method::GET, "204", 204, None),
            (Method::HEAD, "204", 204, None),
            (Method::GET, "304", 304, of_304),
            (Method::HEAD, "304", 304, Some("1234")),
            (Method::GET, "zero", 200, Some("0")),
        ] {
            let what = format!("{method} {path} {version:?}");
            let request = http::Request::builder()
                .method(method)
                .uri(format!("/broker/sonarqube/{path}"));
            let answer = connection.send(request.body(body::empty()).unwrap()).await;
            assert_eq!(answer.status(), status, "{what}");
            assert_eq!(answer.header("content-length"), length, "{what}");
            assert_eq!(answer.header("x-kept"), Some("1"), "{what}");
            assert_eq!(answer.bytes().await, "", "{what}");
        }
    }
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn interim_answers_are_passed_over() {
    let origin = Origin::answering(|_| {
        origin::Answer::raw(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
             HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        )
    })
    .await;
    let (server, _agent) = permissive(&origin).await;
    for version in VERSIONS {
        let answer = server.caller().with_version(version).get(TARGET).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.header("link"), None);
        assert_eq!(answer.text().await, "{}");
    }
}

#[tokio::test]
async fn a_caller_that_expects_100_continue_gets_it_from_us() {
    let origin = Origin::answering(|_| origin::Answer::json("{}")).await;
    let (server, _agent) = permissive(&origin).await;
    let lines = "Content-Length: 2\r\nExpect: 100-continue\r\nConnection: close\r\n";
    let mut request = server.raw_head(&format!("POST {TARGET}"), lines);
    request.extend_from_slice(b"{}");
    let answers = server.stranger().raw_until_close(&request).await;
    let answers = String::from_utf8(answers).unwrap();
    assert!(
        answers.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"),
        "{answers}"
    );
    let request = &origin.requests()[0];
    assert_eq!(request.head.value("expect"), None);
    assert_eq!(request.body, b"{}");
}

#[tokio::test]
async fn a_body_that_ends_with_the_connection_arrives_whole() {
    let origin = Origin::scripted().await;
    let (server, agent) = permissive(&origin).await;
    for (version, head) in VERSIONS
        .into_iter()
        .zip(["HTTP/1.0 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"])
    {
        let caller = server.caller().with_version(version);
        let play = async {
            let mut exchange = origin.next().await;
            exchange.send(head.as_bytes()).await;
            exchange.send(b"until the close").await;
        };
        let (answer, ()) = tokio::join!(caller.get(TARGET), play);
        assert_eq!(answer.header("content-length"), None);
        assert_eq!(answer.text().await, "until the close");
    }
    let outcomes = agent.stop().await;
    assert_eq!(outcomes[2]["ended"], "complete");
    assert_eq!(outcomes[2]["bytes_down"], 15);
}

#[tokio::test]
async fn of_two_lengths_in_an_answer_the_chunked_one_counts() {
    let origin = Origin::answering(|_| {
        origin::Answer::raw(
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        )
    })
    .await;
    let (server, _agent) = permissive(&origin).await;
    for version in VERSIONS {
        let answer = server.caller().with_version(version).get(TARGET).await;
        assert_eq!(answer.header("content-length"), None);
        assert_eq!(answer.text().await, "hello");
    }
}

#[tokio::test]
async fn a_compressed_body_is_not_touched() {
    // Not even gzip: whoever tried to decode it would fail.
    let bytes = b"\x1f\x8bnot really gzip\0\xff";
    let headers = [("Content-Encoding", "gzip"), ("Vary", "Accept-Encoding")];
    for version in VERSIONS {
        let Exchange {
            request, answer, ..
        } = exchange(
            Auth::None,
            version,
            &[("accept-encoding", "gzip;q=0.5")],
            origin::Answer::new(200, &headers, bytes),
        )
        .await;
        assert_eq!(request.head.values("accept-encoding"), ["gzip;q=0.5"]);
        assert_eq!(answer.header("content-encoding"), Some("gzip"));
        assert_eq!(answer.header("content-length"), Some("19"));
        assert_eq!(answer.bytes().await.as_ref(), bytes);
    }
}

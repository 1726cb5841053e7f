//! What stands on the wire, byte for byte, as each release made it: this one still does, and reads what older ones
//! made (SPEC.md §1).
//!
//! `BROKER_WRITE_VECTORS=1` writes the files of this version; those of older versions never change.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use broker_protocol::{
    AccessToken, AgentHello, CONTROL_AUTHORITY, CONTROL_DRAIN, CloseCode, ErrorCode, Problem,
    RELAY_AUTHORITY, SUBPROTOCOL, ServerHello, TUNNEL_PATH, TokenKind, header,
};
use http::{HeaderMap, HeaderName, HeaderValue};

const VERSION: &str = env!("CARGO_PKG_VERSION");
const SECRET: &str = "brk_agent_0123456789ab_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors")
}

/// Compares with the file of this version, or writes it.
fn check(name: &str, made: &str) {
    let path = folder().join(VERSION).join(name);
    if std::env::var_os("BROKER_WRITE_VECTORS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, made).unwrap();
    }
    let kept =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(kept, made, "{}: the wire changed", path.display());
}

/// This file of every release.
fn of_every_release(name: &str) -> Vec<(PathBuf, String)> {
    let releases = fs::read_dir(folder()).unwrap();
    let paths = releases.map(|release| release.unwrap().path().join(name));
    let files: Vec<_> = paths
        .filter(|path| path.exists())
        .map(|path| (path.clone(), fs::read_to_string(path).unwrap()))
        .collect();
    assert!(!files.is_empty(), "{name}");
    files
}

fn head(first_line: &str, headers: &HeaderMap) -> String {
    let mut lines: Vec<_> = headers
        .iter()
        .map(|(name, value)| format!("{name}: {}\r\n", value.to_str().unwrap()))
        .collect();
    // The order of headers with different names means nothing (RFC 9110 §5.3).
    lines.sort();
    format!("{first_line}\r\n{}\r\n", lines.concat())
}

fn headers_of(head: &str) -> HeaderMap {
    let lines = head.lines().skip(1).take_while(|line| !line.is_empty());
    lines
        .map(|line| {
            let (name, value) = line.split_once(": ").unwrap();
            (
                name.parse::<HeaderName>().unwrap(),
                HeaderValue::from_str(value).unwrap(),
            )
        })
        .collect()
}

fn agent_hello() -> AgentHello {
    AgentHello {
        agent: "sonarqube".parse().unwrap(),
        secret: Some(AccessToken::parse(TokenKind::Agent, SECRET).unwrap()),
        instance: "default".parse().unwrap(),
        run: "00000000-0000-4000-8000-000000000000".into(),
        version: VERSION.into(),
        is_check: false,
    }
}

fn server_hello() -> ServerHello {
    ServerHello {
        tenant: "default".parse().unwrap(),
        node: "node-1".into(),
        nodes: 1,
        max_streams: 250,
        source: "203.0.113.9".into(),
    }
}

/// What RFC 6455 asks for, with the example key of its §1.3.
fn websocket_headers(mut headers: HeaderMap, own: (&'static str, &'static str)) -> HeaderMap {
    for (name, value) in [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-protocol", SUBPROTOCOL),
        own,
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
}

#[test]
fn the_handshakes_request_is_made_and_read_as_ever() {
    let mut headers = HeaderMap::new();
    agent_hello().write(&mut headers).unwrap();
    let headers = websocket_headers(headers, ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="));
    check(
        "request.http",
        &head(&format!("GET {TUNNEL_PATH} HTTP/1.1"), &headers),
    );
    for (path, text) in of_every_release("request.http") {
        let read = AgentHello::read(&headers_of(&text))
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(read.agent.as_str(), "sonarqube");
        assert_eq!(read.secret.unwrap().expose(), SECRET);
        assert_eq!(read.instance.as_str(), "default");
        assert_eq!(read.run, "00000000-0000-4000-8000-000000000000");
        assert!(path.to_str().unwrap().contains(&read.version));
    }
}

#[test]
fn the_handshakes_answer_is_made_and_read_as_ever() {
    let mut headers = HeaderMap::new();
    server_hello().write(&mut headers).unwrap();
    let headers = websocket_headers(
        headers,
        ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
    );
    check(
        "answer.http",
        &head("HTTP/1.1 101 Switching Protocols", &headers),
    );
    for (path, text) in of_every_release("answer.http") {
        let read = ServerHello::read(&headers_of(&text));
        assert_eq!(read.unwrap(), server_hello(), "{}", path.display());
    }
}

#[test]
fn names_on_the_wire_never_change() {
    let mut names: Vec<String> = [
        header::AUTHORIZATION,
        header::REQUEST_ID,
        header::CALLER,
        header::ERROR,
        header::AGENT,
        header::INSTANCE,
        header::RUN,
        header::VERSION,
        header::TENANT,
        header::NODE,
        header::NODES,
        header::MAX_STREAMS,
        header::CHECK,
        header::SOURCE,
    ]
    .iter()
    .map(|name| format!("header {name}\n"))
    .collect();
    names.sort();
    names.push(format!("authority {RELAY_AUTHORITY}\n"));
    names.push(format!("authority {CONTROL_AUTHORITY}\n"));
    names.push(format!("control POST {CONTROL_DRAIN}\n"));
    check("names.txt", &names.concat());
    for (path, text) in of_every_release("names.txt") {
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("header ") {
                let name: HeaderName = name.parse().unwrap();
                assert!(header::is_reserved(&name), "{}: {name}", path.display());
            }
            assert!(
                names.contains(&format!("{line}\n")),
                "{}: {line} is gone",
                path.display()
            );
        }
    }
}

#[test]
fn close_codes_never_change() {
    let codes = [
        CloseCode::Normal,
        CloseCode::Drain,
        CloseCode::Paused,
        CloseCode::Revoked,
        CloseCode::Version,
    ]
    .map(|code| format!("{} {code:?}\n", code as u16));
    check("close-codes.txt", &codes.concat());
    for (path, text) in of_every_release("close-codes.txt") {
        for line in text.lines() {
            assert!(
                codes.contains(&format!("{line}\n")),
                "{}: {line} is gone",
                path.display()
            );
        }
    }
}

#[test]
fn problem_documents_are_made_as_ever_and_no_code_changes_its_meaning() {
    let mut made = String::new();
    for code in ErrorCode::ALL {
        let problem = Problem::new(*code)
            .detail("what happened")
            .request_id("id-1");
        let response = problem.into_response::<String>();
        let status = response.status().as_u16();
        let head = head(&format!("HTTP/1.1 {status}"), response.headers());
        write!(made, "{head}{}\r\n\r\n", response.body()).unwrap();
    }
    check("problems.http", &made);
    let this = codes_and_statuses(&made);
    assert_eq!(this.len(), ErrorCode::ALL.len());
    for (path, text) in of_every_release("problems.http") {
        for known in codes_and_statuses(&text) {
            assert!(
                this.contains(&known),
                "{}: {known:?} is gone",
                path.display()
            );
        }
    }
}

/// Of each problem document in `text`: its code and its status, which also stand in its head.
fn codes_and_statuses(text: &str) -> Vec<(String, u64)> {
    let mut parts = text.split("\r\n\r\n").filter(|part| !part.is_empty());
    let mut found = Vec::new();
    while let (Some(head), Some(body)) = (parts.next(), parts.next()) {
        let document: serde_json::Value = serde_json::from_str(body).unwrap();
        let code = document["code"].as_str().unwrap().to_owned();
        let status = document["status"].as_u64().unwrap();
        assert_eq!(headers_of(head)["broker-error"], code.as_str());
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status}\r\n")),
            "{head}"
        );
        found.push((code, status));
    }
    found
}

mod any_headers {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn handshakes_read_any_headers_without_a_panic(
            lines in prop::collection::vec((0..9_usize, prop::collection::vec(any::<u8>(), 0..200)), 0..20)
        ) {
            let names = [
                http::header::AUTHORIZATION, header::AGENT, header::INSTANCE, header::RUN, header::VERSION,
                header::TENANT, header::NODE, header::NODES, header::MAX_STREAMS,
            ];
            let mut headers = HeaderMap::new();
            agent_hello().write(&mut headers).unwrap();
            server_hello().write(&mut headers).unwrap();
            for (name, value) in lines {
                if let Ok(value) = HeaderValue::from_bytes(&value) {
                    headers.insert(names[name].clone(), value);
                }
            }
            // What was read can be said again: nothing was taken that cannot stand in a header.
            if let Ok(hello) = AgentHello::read(&headers) {
                hello.write(&mut HeaderMap::new()).unwrap();
            }
            if let Ok(hello) = ServerHello::read(&headers) {
                hello.write(&mut HeaderMap::new()).unwrap();
            }
        }
    }
}

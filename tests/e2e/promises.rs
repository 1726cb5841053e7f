//! The promises of the product that each have a test of their own (SECURITY.md); credentials have `canary.rs`.

use std::collections::HashSet;
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use broker_tests::broker::{AgentSetup, Server, Site, audit_bytes, audit_lines};
use broker_tests::caller::{Caller, body};
use broker_tests::origin::{Answer, Origin};
use broker_tests::programs::{AgentProcess, ServerProcess, Signal};
use futures_util::future::join_all;
use http::Request;
use serde_json::{Value, json};

// By default nothing is reachable.

#[tokio::test]
async fn without_an_accept_file_nothing_is_reachable() {
    everything_is_denied(AgentSetup::without_rules()).await;
}

#[tokio::test]
async fn with_empty_lists_nothing_is_reachable() {
    for accept in [
        json!({}),
        json!({"private": []}),
        json!({"private": [], "public": []}),
    ] {
        everything_is_denied(AgentSetup::with_rules(accept)).await;
    }
}

#[tokio::test]
async fn rules_for_pushes_allow_no_caller_anything() {
    let push = json!({"public": [{"method": "any", "path": "/*"}], "private": []});
    everything_is_denied(AgentSetup::with_rules(push)).await;
}

async fn everything_is_denied(setup: AgentSetup) {
    let server = Server::start(Site::simple()).await;
    let agent = setup.start(&server).await;
    let mut asked = 0;
    for method in [
        "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PROPFIND",
    ] {
        for path in [
            "",
            "/",
            "/healthcheck",
            "/livez",
            "/api/v1/pods",
            "/a%2Fb?c=d",
        ] {
            let request = Request::builder()
                .method(method)
                .uri(format!("/broker/sonarqube{path}"));
            let answer = server
                .caller()
                .send(request.body(body::empty()).unwrap())
                .await;
            assert_eq!(answer.status(), 403, "{method} {path}");
            assert_eq!(answer.header("broker-error"), Some("denied"));
            asked += 1;
        }
    }
    let verdicts: Vec<_> = agent.audit("decision");
    assert_eq!(verdicts.len(), asked);
    assert!(verdicts.iter().all(|line| line["verdict"] == "deny"));
}

// Every access is on record before the origin sees it.

#[tokio::test]
async fn every_access_is_on_record_before_the_origin_sees_it() {
    const REQUESTS: usize = 200;
    let folder = Arc::new(OnceLock::<std::path::PathBuf>::new());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let origin = {
        let (folder, seen) = (Arc::clone(&folder), Arc::clone(&seen));
        Origin::answering(move |request| {
            let path = request.head.target();
            let log = audit_bytes(folder.get().expect("the agent runs"));
            let allowed = audit_lines(&log, "decision");
            let is_recorded = allowed
                .iter()
                .any(|line| line["path"] == path.as_str() && line["verdict"] == "allow");
            seen.lock().unwrap().push((path.clone(), is_recorded));
            // Half of them fail after that.
            if path.ends_with("odd") {
                Answer::raw("this is not HTTP\r\n\r\n")
            } else {
                Answer::json("{}")
            }
        })
        .await
    };
    let server = Server::start(Site::simple()).await;
    let rules = json!({"private": [{"path": "/api/*", "origin": origin.url()}]});
    let agent = AgentSetup::with_rules(rules).start(&server).await;
    folder.set(agent.folder().to_owned()).unwrap();

    let statuses = join_all((0..REQUESTS).map(|i| {
        let caller = server.caller();
        async move {
            let kind = if i % 2 == 0 { "even" } else { "odd" };
            let path = format!("/broker/sonarqube/api/{i}/{kind}");
            caller.get(&path).await.status().as_u16()
        }
    }))
    .await;

    let (even, odd): (Vec<_>, Vec<_>) = statuses.iter().enumerate().partition(|(i, _)| i % 2 == 0);
    assert!(even.iter().all(|(_, status)| **status == 200), "{even:?}");
    assert!(odd.iter().all(|(_, status)| **status == 502), "{odd:?}");
    let seen = seen.lock().unwrap().clone();
    let paths: HashSet<_> = seen.iter().map(|(path, _)| path).collect();
    assert_eq!(paths.len(), REQUESTS);
    let early: Vec<_> = seen.iter().filter(|(_, recorded)| !recorded).collect();
    assert!(early.is_empty(), "not on record yet: {early:?}");
    let lines = agent.stop().await;
    for kind in ["decision", "outcome"] {
        let of_kind = lines.iter().filter(|line| line["kind"] == kind);
        assert_eq!(of_kind.count(), REQUESTS, "{kind}");
    }
}

#[tokio::test]
async fn what_cannot_be_recorded_does_not_happen() {
    let origin = Origin::answering(|_| Answer::json("{}")).await;
    let server = Server::start(Site::simple()).await;
    let rules = json!({"private": [{"path": "/api/*", "origin": origin.url()}]});
    let agent = AgentSetup::with_rules(rules).start(&server).await;
    let status = |path: &'static str| {
        let caller = server.caller();
        async move {
            let answer = caller.get(path).await;
            let code = answer.header("broker-error").unwrap_or_default().to_owned();
            (answer.status().as_u16(), code)
        }
    };
    assert_eq!(status("/broker/sonarqube/api/before").await.0, 200);

    let log = agent.folder().join("data/default/audit.jsonl");
    let unwritable: [fn(&Path); 2] = [
        // Not even root can append to a folder, or to a disk that is full.
        |log| fs::create_dir(log).unwrap(),
        |log| std::os::unix::fs::symlink("/dev/full", log).unwrap(),
    ];
    for (i, make) in unwritable.into_iter().enumerate() {
        let aside = log.with_extension(i.to_string());
        fs::rename(&log, &aside).unwrap();
        make(&log);
        for path in ["/broker/sonarqube/api/x", "/broker/sonarqube/denied"] {
            let refused = (503, "audit-unavailable".to_owned());
            assert_eq!(status(path).await, refused, "{i}: {path}");
        }
        match fs::symlink_metadata(&log).unwrap().is_dir() {
            true => fs::remove_dir(&log).unwrap(),
            false => fs::remove_file(&log).unwrap(),
        }
        fs::rename(&aside, &log).unwrap();
        assert_eq!(status("/broker/sonarqube/api/after").await.0, 200, "{i}");
    }
    let targets: Vec<_> = origin
        .requests()
        .iter()
        .map(|request| request.head.target())
        .collect();
    assert_eq!(targets, ["/api/before", "/api/after", "/api/after"]);
}

// Only the customer opens the connection.

#[tokio::test]
async fn only_the_agent_opens_connections_and_it_listens_on_its_local_port_alone() {
    let origin = Origin::scripted().await;
    let server = ServerProcess::start(Site::simple()).await;
    let rules = json!({"private": [{"path": "/*", "origin": origin.url()}]});
    let agent = AgentProcess::start(&AgentSetup::with_rules(rules), &server).await;
    let caller = server.caller();
    let play = async {
        let mut exchange = origin.next().await;
        let agents = sockets(agent.child().pid());
        let servers = sockets(server.child().pid());
        exchange.answer(Answer::json("{}")).await;
        (agents, servers)
    };
    let (answer, (of_agent, of_server)) = tokio::join!(caller.get("/broker/sonarqube/x"), play);
    assert_eq!(answer.status(), 200);

    let listening: Vec<_> = of_agent.iter().filter(|socket| socket.listens).collect();
    assert_eq!(listening.len(), 1, "{of_agent:?}");
    assert_eq!(listening[0].port, agent.local().port());
    // Two tunnels and the origin.
    assert_eq!(of_agent.len(), 4, "{of_agent:?}");

    let ports = server.ports().map(|address| address.port());
    assert!(of_server.len() > 3, "{of_server:?}");
    for socket in &of_server {
        assert!(
            ports.contains(&socket.port),
            "the server dialled: {socket:?}"
        );
    }
}

#[tokio::test]
async fn an_agent_that_has_ended_is_reached_by_nobody() {
    let origin = Origin::answering(|_| Answer::json("{}")).await;
    let server = ServerProcess::start(Site::simple()).await;
    let rules = json!({"private": [{"path": "/*", "origin": origin.url()}]});
    let mut agent = AgentProcess::start(&AgentSetup::with_rules(rules), &server).await;
    let caller = server.caller();
    assert_eq!(caller.get("/broker/sonarqube/x").await.status(), 200);

    agent.child().signal(Signal::TERM);
    assert_eq!(agent.child_mut().exit().await.code(), Some(0));

    let gone = "agent disconnected";
    server
        .child()
        .stderr()
        .lines(gone, 2, |line| line.contains(gone))
        .await;
    for _ in 0..20 {
        assert_eq!(no_agent(&caller).await["code"], "no-agent");
    }
    assert!(TcpStream::connect(agent.local()).is_err());
    assert_eq!(origin.requests().len(), 1);
}

async fn no_agent(caller: &Caller) -> Value {
    let answer = caller.get("/broker/sonarqube/x").await;
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.header("retry-after"), Some("5"));
    answer.json().await
}

// The promises themselves.

#[test]
fn every_promise_of_security_md_has_a_test_that_exists() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = fs::read_to_string(repository.join("SECURITY.md")).unwrap();
    let (_, promises) = text.split_once("## Promises").unwrap();
    let rows = promises
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| promise |"));
    let mut promised = 0;
    for row in rows {
        let tests = row.trim_end_matches(" |").rsplit_once(" | ").unwrap().1;
        let mut named = 0;
        for of_file in tests.split("; ") {
            // [label](file): `test`, `test`
            let (file, names) = of_file
                .split_once("](")
                .and_then(|(_, rest)| rest.split_once("): "))
                .unwrap_or_else(|| panic!("no test in {row}"));
            let source = fs::read_to_string(repository.join(file)).unwrap();
            for name in names.split(", ") {
                let function = format!("fn {}(", name.trim_matches('`'));
                assert!(source.contains(&function), "{file} has no {name}");
                named += 1;
            }
        }
        assert!(named > 0, "{row}");
        promised += 1;
    }
    assert!(promised > 20, "{promised}");
}

#[derive(Debug)]
struct Socket {
    /// The process's own port.
    port: u16,
    listens: bool,
}

/// The TCP sockets of a process.
fn sockets(pid: u32) -> Vec<Socket> {
    let folder = Path::new("/proc").join(pid.to_string());
    let files = fs::read_dir(folder.join("fd")).unwrap();
    let inodes: HashSet<String> = files
        .filter_map(|file| fs::read_link(file.unwrap().path()).ok())
        .filter_map(|target| {
            let target = target.to_str()?;
            Some(
                target
                    .strip_prefix("socket:[")?
                    .strip_suffix(']')?
                    .to_owned(),
            )
        })
        .collect();
    let tables =
        ["net/tcp", "net/tcp6"].map(|table| fs::read_to_string(folder.join(table)).unwrap());
    let lines = tables.iter().flat_map(|table| table.lines().skip(1));
    // Columns: number, local address, remote address, state, …, inode as the tenth.
    lines
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|columns| inodes.contains(columns[9]))
        .map(|columns| {
            let (_, port) = columns[1].rsplit_once(':').unwrap();
            Socket {
                port: u16::from_str_radix(port, 16).unwrap(),
                listens: columns[3] == "0A",
            }
        })
        .collect()
}

//! Credentials never leave the customer's side, and broker secrets never travel on (SECURITY.md): a canary is looked
//! for in everything that is written or answered, by the programs as they are built.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::Stdio;

use broker_tests::aws::{EXTERNAL_ID, KEY_ID, ROLE, ScriptedAws, denied};
use broker_tests::broker::{AGENT, AgentSetup, CALLER, Site, TENANT};
use broker_tests::caller::{Answer as Answered, Caller, body};
use broker_tests::canary::Outputs;
use broker_tests::certs::rsa_key;
use broker_tests::origin::{Answer, Origin, Request};
use broker_tests::programs::{
    AgentProcess, Child, ServerProcess, Signal, broker_command, free_port,
};
use broker_tests::tap::Tap;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http::Version;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

/// The credential that must not leave.
const CANARY: &str = "canary-Zq7wXKp9LmTr4Vb0";
/// What stands wherever it may: it shows that the search sees an output. Also the agent's name.
const MARKER: &str = "marker-hd83kpw0zt5q";
/// The origin's answers, by the last part of the path, with the statuses that the caller may see.
const ANSWERS: &[(&str, &[u16])] = &[
    ("names", &[200]),
    ("gzip", &[200]),
    ("redirect", &[302]),
    ("unauthorized", &[401]),
    // What breaks at once may take the head with it.
    ("broken", &[200, 502]),
    ("garbage", &[502]),
];

/// What the agent's local port answers, and what it does not.
const LOCAL_PATHS: [&str; 5] = ["/healthcheck", "/livez", "/readyz", "/metrics", "/"];
/// What the server's admin listener answers, and what it does not.
const ADMIN_PATHS: [&str; 4] = ["/healthz", "/readyz", "/metrics", "/"];
/// Every command of the agent that can say something of how it is set up, by words; `ACCEPT` stands for its accept file.
/// What these print are outputs; so are, each registered where it is made: answers to callers, both programs' logs and
/// standard outputs, the agent's log file, the audit log and all else in the data folder, the ports, the tunnel.
const COMMANDS: &[&str] = &[
    "status",
    "status --json",
    "doctor",
    "doctor --json",
    "doctor --egress",
    "doctor --egress --json",
    "pause --rule 0 --reason planned",
    "resume --rule 0",
    "rules check ACCEPT",
    "rules check ACCEPT --json",
    "rules explain ACCEPT GET /bearer/names",
    "rules explain --last-denied",
    "rules explain --last-denied --json",
    "rules suggest --last-denied",
    "rules convert ACCEPT",
    "rules eval ACCEPT",
    "rules test ACCEPT",
];
/// The others: what they print is the same for everybody, or is registered as a log.
const SAY_NOTHING_OF_IT: [&str; 4] = ["run", "settings", "help", "rules schema"];

/// Every way in which a rule can hold a credential; the path's first part names it. `file` holds it too.
fn rules(origin: &Origin, file: &Path) -> Vec<Value> {
    let (address, file) = (origin.address(), file.display());
    let auth = |kind: &str, auth: Value| json!({"path": format!("/{kind}/*"), "origin": origin.url(), "auth": auth});
    let userinfo =
        |kind: &str, origin: String| json!({"path": format!("/{kind}/*"), "origin": origin});
    vec![
        auth("bearer", json!({"scheme": "bearer", "token": "${TOKEN}"})),
        auth("token", json!({"scheme": "token", "token": "${TOKEN}"})),
        auth(
            "basic-token",
            json!({"scheme": "basic", "token": "${TOKEN}:"}),
        ),
        auth(
            "basic",
            json!({"scheme": "basic", "username": "robot", "password": "${TOKEN}"}),
        ),
        auth(
            "raw",
            json!({"scheme": "raw", "token": "Custom key=${TOKEN}"}),
        ),
        userinfo("userinfo", format!("http://${{TOKEN}}@{address}")),
        userinfo(
            "userinfo-basic",
            format!("http://robot:${{TOKEN}}@{address}"),
        ),
        userinfo("userinfo-in-variable", "${ORIGIN_WITH_TOKEN}".to_owned()),
        auth(
            "file",
            json!({"scheme": "bearer", "token": format!("${{file:{file}}}")}),
        ),
        auth(
            "file-of-variable",
            json!({"scheme": "bearer", "token": "${MOUNTED}"}),
        ),
        auth(
            "command",
            json!({"scheme": "bearer", "token": "${exec:good}"}),
        ),
        auth("gcp", json!({"scheme": "bearer", "token": "${gcp:token}"})),
        auth(
            "oauth2",
            json!({"scheme": "bearer", "token": "${oauth2:good}"}),
        ),
        auth(
            "vault",
            json!({"scheme": "bearer", "token": "${vault:good}"}),
        ),
        auth(
            "github-app",
            json!({"scheme": "bearer", "token": "${github-app:good}"}),
        ),
        auth("eks", json!({"scheme": "bearer", "token": "${eks:good}"})),
        auth(
            "sigv4",
            json!({"scheme": "sigv4", "service": "aps", "aws": "good"}),
        ),
        auth("pool", json!({"scheme": "bearer", "token": "${POOLED}"})),
        userinfo(
            "userinfo-file",
            format!("http://robot:${{file:{file}}}@{address}"),
        ),
    ]
}

/// An origin that tells the names of a request's headers and none of their values, but for a cookie.
async fn origin() -> Origin {
    Origin::answering(answer).await
}

/// Services that hand the canary out, or repeat it as their word for a refusal.
fn token_services(request: &Request) -> Answer {
    let target = request.head.target();
    let path = target.split('?').next().unwrap();
    let body = match path {
        "/refuses" => {
            return Answer::new(400, &[], json!({"error": CANARY}).to_string());
        }
        "/v1/secret/data/tool" => json!({"data": {"data": {"token": CANARY}}}),
        "/v1/auth/token/renew-self" => {
            json!({"auth": {"client_token": CANARY, "lease_duration": 60}})
        }
        _ => {
            json!({"access_token": CANARY, "expires_in": 60, "token": CANARY, "expires_at": "2099-01-01T00:00:00Z"})
        }
    };
    Answer::new(200, &[("Metadata-Flavor", "Google")], body.to_string())
}

fn answer(request: &Request) -> Answer {
    let names: Vec<_> = request
        .head
        .headers()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    let body = format!("{MARKER} {}", names.join(" "));
    let session = request.head.value("authorization").unwrap_or_default();
    let cookie = format!("session={session}");
    let target = request.head.target();
    match target.rsplit('/').next().unwrap() {
        "gzip" => {
            let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
            gzip.write_all(body.as_bytes()).unwrap();
            let headers = [("Content-Encoding", "gzip"), ("Set-Cookie", &*cookie)];
            Answer::new(200, &headers, gzip.finish().unwrap())
        }
        "redirect" => {
            let location = format!(
                "http://{}/bearer/names",
                request.head.value("host").unwrap()
            );
            Answer::new(302, &[("Location", &location), ("X-Marker", MARKER)], "")
        }
        "unauthorized" => {
            let headers = [("WWW-Authenticate", "Bearer"), ("Set-Cookie", &*cookie)];
            Answer::new(401, &headers, body)
        }
        "broken" => Answer::raw(format!(
            "HTTP/1.1 200 OK\r\nX-Marker: {MARKER}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345+"
        )),
        "garbage" => Answer::raw("this is not HTTP\r\n\r\n"),
        _ => Answer::raw(format!(
            "HTTP/1.1 200 OK\r\nX-Marker: {MARKER}\r\nSet-Cookie: {cookie}\r\nTrailer: X-End\r\n\
             Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\nX-End: {MARKER}\r\nSet-Cookie: {cookie}\r\n\r\n",
            body.len()
        )),
    }
}

#[tokio::test]
async fn credentials_are_in_nothing_that_is_written_or_answered() {
    let origin = origin().await;
    let silent = Origin::scripted().await;
    let cloud = ScriptedAws::start(CANARY).await;
    let services = Origin::answering(token_services).await;
    let loose_cloud = Origin::answering(|_| denied(CANARY)).await;
    let site = Site::empty()
        .agent(TENANT, MARKER)
        .agent(TENANT, AGENT)
        .agent(TENANT, "nobody")
        .caller_of(
            TENANT,
            CALLER,
            "broker-authorization",
            &format!("[{MARKER}, nobody]"),
        )
        .setting("log: {level: trace}")
        .without_tls();
    let server = ServerProcess::start(site).await;
    let tap = Tap::to(server.agents).await;
    let secrets = tempfile::tempdir().unwrap();
    let secret = |name: &str, content: String| {
        let path = secrets.path().join(name);
        fs::write(&path, content).unwrap();
        path
    };
    let file = secret("good", format!("{CANARY}\n"));
    let two_lines = secret("bad", format!("{CANARY}\n{CANARY}\n"));
    let mut accept = rules(&origin, &file);
    let bearer = json!({"scheme": "bearer", "token": "${TOKEN}"});
    let unreachable = format!("http://${{TOKEN}}@127.0.0.1:{}", free_port());
    accept.push(json!({"path": "/unreachable", "origin": unreachable}));
    accept.push(json!({"path": "/silent", "origin": silent.url(), "auth": bearer}));
    let bad_file = format!("${{file:{}}}", two_lines.display());
    for (path, token) in [
        ("/unavailable", &*bad_file),
        ("/fails", "${exec:bad}"),
        ("/cloud-fails", "${eks:bad}"),
        ("/service-fails", "${oauth2:bad}"),
    ] {
        let bad = json!({"scheme": "bearer", "token": token});
        accept.push(json!({"path": path, "origin": origin.url(), "auth": bad}));
    }
    let kinds = accept.len() - 6;
    let with_token = format!("http://{CANARY}@{}", origin.address());
    let setup = AgentSetup::with_rules(json!({ "private": accept }))
        .named(TENANT, MARKER)
        .setting(&format!(
            "origins: {{\"{}\": {{first-byte-timeout: 200ms}}}}",
            silent.url()
        ))
        .setting(&format!(
            "credentials: {{
               exec: {{good: {{command: [/bin/cat, {0}]}}, bad: {{command: [/bin/sh, -c, \"cat {0} {0} >&2; exit 1\"]}}}},
               aws: {{good: {{assume-role: [{{role: \"{ROLE}\", external-id: {EXTERNAL_ID}}}], endpoint: \"{1}\"}},
                      bad: {{assume-role: [{{role: \"{ROLE}\", external-id: {CANARY}}}], endpoint: \"{2}\"}}}},
               eks: {{good: {{cluster: shop, aws: good}}, bad: {{cluster: shop, aws: bad}}}},
               oauth2: {{good: {{token-url: {3}/token, client-id: broker, client-secret: \"${{TOKEN}}\"}},
                         bad: {{token-url: {3}/refuses, client-id: broker, client-secret: \"${{TOKEN}}\", authentication: post}}}},
               vault: {{good: {{address: {3}, path: tool, field: token, token: \"${{TOKEN}}\"}}}},
               github-app: {{good: {{app-id: 1, installation-id: 2, private-key-file: {4}, api: {3}}}}}}}",
            file.display(),
            cloud.url(),
            loose_cloud.url(),
            services.url(),
            secret("app.pem", rsa_key()).display(),
        ))
        .variable("GCE_METADATA_HOST", &services.address().to_string())
        .variable("AWS_REGION", "eu-west-1")
        .variable("AWS_ACCESS_KEY_ID", KEY_ID)
        .variable("AWS_SECRET_ACCESS_KEY", CANARY)
        .variable("TOKEN", CANARY)
        .variable("ORIGIN_WITH_TOKEN", &with_token)
        .variable("MOUNTED_FILE", file.to_str().unwrap())
        .variable("POOLED_POOL", &format!("{CANARY}, {CANARY}"))
        .variable("LOG_LEVEL", "trace")
        .variable("LOG_FILE", secrets.path().join("agent.log").to_str().unwrap())
        .dialling(&format!("http://{}", tap.address()));
    let mut agent = AgentProcess::start(&setup, &server).await;
    let mut outputs = Outputs::new();

    for version in [Version::HTTP_11, Version::HTTP_2] {
        let caller = server.caller().with_version(version);
        let caller = caller
            .with_header("te", "trailers")
            .with_header("authorization", "Bearer of-the-caller");
        for rule in &accept[..kinds] {
            let kind = rule["path"].as_str().unwrap().trim_matches(['/', '*']);
            for (wanted, statuses) in ANSWERS {
                let target = format!("/broker/{MARKER}/{kind}/{wanted}");
                let request = http::Request::get(&target).body(body::empty()).unwrap();
                let answer = match caller.try_send(request).await {
                    Ok(answer) => answer,
                    // There, a reset may come before the head.
                    Err(_) if *wanted == "broken" && version == Version::HTTP_2 => continue,
                    Err(error) => panic!("{target}: {error:?}"),
                };
                let status = answer.status().as_u16();
                assert!(statuses.contains(&status), "{target}: {status}");
                let bytes = everything_in(answer).await;
                match *wanted {
                    "garbage" | "broken" => outputs.register(target, bytes),
                    _ => outputs.register_planted(target, bytes),
                }
            }
        }
        for (target, status) in refusals() {
            let answer = caller.get(&target).await;
            assert_eq!(answer.status(), status, "{target}");
            outputs.register(target, everything_in(answer).await);
        }
        let denied = caller
            .get(&format!("/broker/{MARKER}/denied/{MARKER}"))
            .await;
        assert_eq!(denied.status(), 403);
        outputs.register_planted("denied", everything_in(denied).await);
    }
    let stranger = server
        .stranger()
        .get(&format!("/broker/{MARKER}/bearer/names"))
        .await;
    assert_eq!(stranger.status(), 401);
    outputs.register("a stranger's answer", everything_in(stranger).await);
    for path in LOCAL_PATHS {
        let answer = Caller::to(agent.local()).get(path).await;
        outputs.register(format!("local port, {path}"), everything_in(answer).await);
    }
    for path in ADMIN_PATHS {
        let answer = Caller::to(server.admin).get(path).await;
        outputs.register(format!("admin port, {path}"), everything_in(answer).await);
    }
    register_commands(&mut outputs, &agent).await;
    for child in [agent.child(), server.child()] {
        let arguments = fs::read(format!("/proc/{}/cmdline", child.pid())).unwrap();
        assert!(arguments.ends_with(b"run\0") || arguments.ends_with(b".yaml\0"));
        outputs.register("arguments", arguments);
    }
    agent.child().signal(Signal::TERM);
    assert_eq!(agent.child_mut().exit().await.code(), Some(0));
    for (name, child) in [("the agent", agent.child()), ("the server", server.child())] {
        outputs.register_planted(format!("{name}'s log"), child.stderr().bytes());
        outputs.register(format!("{name}'s standard output"), child.stdout().bytes());
    }
    outputs.register_planted("audit log", agent.audit_bytes());
    register_files(&mut outputs, &agent.folder().join("data"));
    for entry in fs::read_dir(secrets.path()).unwrap() {
        let path = entry.unwrap().path();
        if path
            .file_name()
            .unwrap()
            .as_encoded_bytes()
            .starts_with(b"agent.log")
        {
            outputs.register_planted("the agent's log file", fs::read(path).unwrap());
        }
    }
    let tunnel = tunnel(&tap);

    // Each kind of rule put it in.
    for rule in &accept[..kinds] {
        let kind = rule["path"].as_str().unwrap().trim_end_matches('*');
        let mut heads = Outputs::new();
        for request in origin.requests() {
            if request.head.target().starts_with(kind) {
                heads.register_planted(kind, request.head.bytes());
            }
        }
        heads.control(CANARY.as_bytes());
    }
    outputs.control(MARKER.as_bytes());
    outputs.assert_absent(CANARY.as_bytes());
    tunnel.control(MARKER.as_bytes());
    tunnel.assert_absent(CANARY.as_bytes());

    // Nor are broker secrets in any of it; the agent's own stands in its handshake alone.
    let of_agent = server.site.agent_token(TENANT, MARKER).expose().as_bytes();
    outputs.assert_absent(of_agent);
    let places: Vec<_> = tunnel
        .find(of_agent)
        .into_iter()
        .map(|found| found.output)
        .collect();
    assert!(!places.is_empty());
    for place in places {
        assert!(place.ends_with("from the agent: wire"), "{place}");
    }
    let of_caller = server.site.caller_token(TENANT, CALLER).expose().as_bytes();
    outputs.assert_absent(of_caller);
    tunnel.assert_absent(of_caller);
}

/// What fails on the way, with its status.
fn refusals() -> Vec<(String, u16)> {
    let to = |path: &str| format!("/broker/{MARKER}{path}");
    vec![
        (to("/bearer/..%2fnames"), 400),
        (to(&format!("/bearer/{}", "x".repeat(16 * 1024))), 414),
        (to("/unreachable"), 502),
        (to("/silent"), 504),
        (to("/unavailable"), 502),
        (to("/fails"), 502),
        (to("/cloud-fails"), 502),
        (to("/service-fails"), 502),
        (format!("/broker/{AGENT}/bearer/names"), 403),
        ("/broker/nobody/bearer/names".to_owned(), 503),
        ("/elsewhere".to_owned(), 404),
    ]
}

#[tokio::test]
async fn a_callers_secret_goes_no_further_than_the_server() {
    let origin = origin().await;
    let places = [
        "broker-authorization",
        "proxy-authorization",
        "authorization",
    ];
    let mut site = Site::empty()
        .agent(TENANT, MARKER)
        .setting("log: {level: trace}")
        .without_tls();
    for place in places {
        site = site.caller(TENANT, place, place);
    }
    let server = ServerProcess::start(site).await;
    let tap = Tap::to(server.agents).await;
    let rules = json!({"private": [{"path": "/names", "origin": origin.url()}]});
    let setup = AgentSetup::with_rules(rules)
        .named(TENANT, MARKER)
        .variable("LOG_LEVEL", "trace")
        .dialling(&format!("http://{}", tap.address()));
    let mut agent = AgentProcess::start(&setup, &server).await;
    let mut outputs = Outputs::new();

    let path = format!("/broker/{MARKER}/names");
    for version in [Version::HTTP_11, Version::HTTP_2] {
        for caller in places {
            let as_caller = |header| {
                server
                    .caller_as(TENANT, caller, header)
                    .with_version(version)
            };
            for header in [
                "broker-authorization",
                "proxy-authorization",
                "authorization",
                "x-own",
            ] {
                let answer = as_caller(header).get(&path).await;
                assert_eq!(
                    answer.status() == 200,
                    caller == header,
                    "{caller} in {header}"
                );
                outputs.register("answer", everything_in(answer).await);
            }
            // Beside a good credential, in another header and in the URL.
            let token = server.site.caller_token(TENANT, caller).expose();
            let twice = as_caller(caller).with_header("x-again", &format!("Bearer {token}"));
            for answer in [
                twice.get(&path).await,
                as_caller(caller)
                    .get(&format!("{path}?token={token}"))
                    .await,
            ] {
                assert_eq!(answer.status(), 400);
                outputs.register("answer", everything_in(answer).await);
            }
        }
    }
    let caller = server.caller_as(TENANT, places[0], places[0]);
    let denied = caller
        .get(&format!("/broker/{MARKER}/denied/{MARKER}"))
        .await;
    assert_eq!(denied.status(), 403);
    agent.child().signal(Signal::TERM);
    assert_eq!(agent.child_mut().exit().await.code(), Some(0));
    for (name, child) in [("the agent", agent.child()), ("the server", server.child())] {
        outputs.register_planted(format!("{name}'s log"), child.stderr().bytes());
    }
    outputs.register_planted("audit log", agent.audit_bytes());
    let requests = origin.requests();
    assert_eq!(requests.len(), 2 * places.len());
    for request in requests {
        outputs.register("what the origin saw", request.head.bytes());
    }
    outputs.control(MARKER.as_bytes());
    let tunnel = tunnel(&tap);
    tunnel.control(MARKER.as_bytes());
    for place in places {
        let token = server.site.caller_token(TENANT, place).expose().as_bytes();
        outputs.assert_absent(token);
        tunnel.assert_absent(token);
        // Nor its secret half alone.
        outputs.assert_absent(&token[token.len() - 43..]);
        tunnel.assert_absent(&token[token.len() - 43..]);
    }
}

#[tokio::test]
async fn a_rule_file_that_is_refused_is_told_without_its_credentials() {
    let server = ServerProcess::start(Site::simple()).await;
    let good = "http://127.0.0.1:1";
    for (rule, named) in [
        (json!({"origin": "http://${TOKEN}@bad host"}), "origin"),
        (
            json!({"origin": "http://u:${TOKEN}@127.0.0.1:1?query"}),
            "origin",
        ),
        (json!({"origin": "${ORIGIN_WITH_TOKEN}"}), "origin"),
        (
            json!({"origin": "${ORIGIN_WITH_QUERY}"}),
            "ORIGIN_WITH_QUERY",
        ),
        (
            json!({"origin": "http://u:%zz${TOKEN}@127.0.0.1:1"}),
            "auth",
        ),
        (
            json!({"origin": good, "auth": {"scheme": "bearer", "token": "${TOKEN}\n"}}),
            "auth",
        ),
        (
            json!({"origin": good, "auth": {"scheme": "basic", "token": "${TOKEN}", "password": "${TOKEN}"}}),
            "auth",
        ),
        (
            json!({"origin": good, "auth": {"scheme": "bearer", "token": format!("{CANARY}${{UNSET}}")}}),
            "UNSET",
        ),
        (
            json!({"origin": good, "auth": {"scheme": "bearer", "tokn": CANARY}}),
            "tokn",
        ),
        (
            json!({"origin": format!("http://{CANARY}@127.0.0.1:1#x")}),
            "origin",
        ),
    ] {
        let mut rule = rule;
        rule["path"] = json!("/*");
        let setup = AgentSetup::with_rules(json!({"private": [rule]}))
            .variable("TOKEN", CANARY)
            .variable("ORIGIN_WITH_TOKEN", &format!("ftp://{CANARY}@127.0.0.1:1"))
            .variable(
                "ORIGIN_WITH_QUERY",
                &format!("http://127.0.0.1:1?token={CANARY}"),
            )
            .variable("LOG_LEVEL", "trace");
        let (variables, folder) = setup.prepare(&server);
        let mut command = broker_command("broker-client");
        command
            .arg("run")
            .envs(variables)
            .current_dir(folder.path());
        let mut child = Child::start("broker-client", command);
        let code = child.exit().await.code();
        let said = child.stderr().text() + &child.stdout().text();
        assert_eq!(code, Some(64), "{rule}: {said}");
        assert!(
            said.contains("private[0]") && said.contains(named),
            "{rule}: {said}"
        );
        let mut outputs = Outputs::new();
        outputs.register(rule.to_string().replace(CANARY, "…"), said);
        outputs.assert_absent(CANARY.as_bytes());
    }
}

/// Head, body and trailers of an answer as its caller sees them; a compressed body also as it was before.
async fn everything_in(mut answer: Answered) -> Vec<u8> {
    let mut all = answer.status().as_str().as_bytes().to_vec();
    let is_gzip = answer.header("content-encoding") == Some("gzip");
    let mut add_headers = |headers: &http::HeaderMap| {
        for (name, value) in headers {
            all.extend([b"\n", name.as_str().as_bytes(), b": ", value.as_bytes()].concat());
        }
    };
    add_headers(answer.headers());
    let mut body = Vec::new();
    while let Some(Ok(frame)) = answer.frame().await {
        match frame.into_data() {
            Ok(data) => body.extend(data),
            Err(trailers) => add_headers(trailers.trailers_ref().expect("data or trailers")),
        }
    }
    if is_gzip {
        GzDecoder::new(&*body).read_to_end(&mut all).unwrap();
    }
    all.extend(body);
    all
}

async fn register_commands(outputs: &mut Outputs, agent: &AgentProcess) {
    let accept = &agent.variables()["ACCEPT"];
    for words in COMMANDS {
        let words_of_it = words
            .split(' ')
            .map(|word| if word == "ACCEPT" { accept } else { word });
        let mut command = broker_command("broker-client");
        command
            .args(words_of_it)
            .envs(agent.variables())
            .stdin(Stdio::null());
        // Doctor asks services that answer within this test.
        let output = spawn_blocking(move || command.output());
        let output = output.await.unwrap().unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(
            !said.is_empty() || *words == "rules eval ACCEPT",
            "{words} says nothing"
        );
        if words.starts_with("rules ") {
            outputs.register(*words, said);
        } else {
            outputs.register_planted(*words, said);
        }
    }
}

#[test]
fn no_command_is_missing_among_the_outputs_that_are_searched() {
    let known = |command: &str| {
        SAY_NOTHING_OF_IT.contains(&command)
            || COMMANDS
                .iter()
                .any(|known| format!("{known} ").starts_with(&format!("{command} ")))
    };
    for command in subcommands(&[]) {
        assert!(
            known(&command),
            "register what `{command}` prints in COMMANDS"
        );
    }
    for command in subcommands(&["rules"]) {
        let command = format!("rules {command}");
        assert!(
            known(&command) || command == "rules help",
            "register what `{command}` prints in COMMANDS"
        );
    }
}

/// The commands that the agent's help lists below these.
fn subcommands(below: &[&str]) -> Vec<String> {
    let output = broker_command("broker-client")
        .args(below)
        .arg("--help")
        .output()
        .unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names = lines.map_while(|line| line.split_whitespace().next());
    let names: Vec<_> = names.map(str::to_owned).collect();
    assert!(names.len() > 1, "{help}");
    names
}

/// Every file below a folder.
fn register_files(outputs: &mut Outputs, folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            register_files(outputs, &path);
        } else if path.is_file() {
            outputs.register(path.display().to_string(), fs::read(path).unwrap());
        }
    }
}

/// All that passed in the tunnels, taken apart; the marker stands in each side's headers and bodies.
fn tunnel(tap: &Tap) -> Outputs {
    let mut outputs = Outputs::new();
    let mut planted: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    for (label, bytes) in tap.everything() {
        for (from, layer) in [
            ("from the server", ", headers"),
            ("from the agent", ", headers"),
            ("from the agent", ", body"),
            ("from the agent", "decompressed"),
        ] {
            if label.contains(from) && label.ends_with(layer) {
                let name = if from == "from the server" {
                    "requests"
                } else {
                    layer
                };
                planted.entry(name).or_default().extend(&bytes);
            }
        }
        outputs.register(label, bytes);
    }
    for (name, bytes) in planted {
        outputs.register_planted(format!("tunnel: {name}"), bytes);
    }
    outputs
}

//! How the programs start, end, and tell how they are: as processes, by signals, exit codes and probes.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use broker_client::audit::verify_lines;
use broker_protocol::{AccessToken, TokenKind};
use broker_tests::broker::{AgentSetup, Server, Site, audit_lines};
use broker_tests::caller::{Caller, body};
use broker_tests::certs::Ca;
use broker_tests::origin::{Answer, Exchange, Origin};
use broker_tests::programs::{
    AgentProcess, Child, ServerProcess, Signal, broker_command, broker_program,
};
use broker_tests::wait::within;
use http::{Request, StatusCode};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// What a program says when it is asked to end.
const ENDING: &str = "SIGTERM: finishing what is in flight";
/// The drain time-out of tests that reach it.
const DRAIN: Duration = Duration::from_secs(1);
/// How much longer than that a program may take to end.
const AFTER_DRAIN: Duration = Duration::from_secs(5);

#[tokio::test]
async fn an_agent_that_is_asked_to_end_finishes_what_is_in_flight() {
    let mut broker = Broker::start().await;
    let (mut exchange, request) = broker.request().await;

    broker.agent.child().signal(Signal::TERM);

    broker.agent.child().stderr().line_with(ENDING).await;
    exchange.answer(Answer::json("[1]")).await;
    assert_eq!(request.outcome().await, (StatusCode::OK, "[1]".to_owned()));
    assert_eq!(broker.agent.child_mut().exit().await.code(), Some(0));
    let lines = broker.agent.audit("");
    assert_eq!(kinds(&lines), ["start", "decision", "outcome", "stop"]);
    assert_eq!(lines[2]["ended"], "complete");
}

#[tokio::test]
async fn an_agent_cuts_what_takes_longer_than_the_drain_time_out() {
    let setup = |setup: AgentSetup| setup.setting("drain-timeout: 1s");
    let mut broker = Broker::start_with(Site::simple(), setup).await;
    let (mut exchange, request) = broker.request().await;

    broker.agent.child().signal(Signal::TERM);
    let asked = Instant::now();

    assert_eq!(broker.agent.child_mut().exit().await.code(), Some(0));
    assert_in_time(asked);
    let (status, problem) = request.outcome().await;
    assert_eq!(status, 502);
    assert!(problem.contains(r#""code":"tunnel-lost""#), "{problem}");
    exchange.client_gone().await;
    let lines = broker.agent.audit("");
    assert_eq!(kinds(&lines), ["start", "decision", "outcome", "stop"]);
    assert_ne!(lines[2]["ended"], "complete");
}

#[tokio::test]
async fn a_server_that_is_asked_to_end_sends_agents_elsewhere_and_finishes_what_is_in_flight() {
    let mut broker = Broker::start().await;
    let (mut exchange, request) = broker.request().await;

    broker.server.child().signal(Signal::TERM);

    let told = "the server goes away; connecting elsewhere";
    broker.agent.child().stderr().line_with(told).await;
    let admin = Caller::to(broker.server.admin);
    assert_eq!(admin.get("/readyz").await.status(), 503);
    assert_eq!(admin.get("/healthz").await.status(), 200);
    exchange.answer(Answer::json("[1]")).await;
    assert_eq!(request.outcome().await, (StatusCode::OK, "[1]".to_owned()));
    assert_eq!(broker.server.child_mut().exit().await.code(), Some(0));
}

#[tokio::test]
async fn a_server_cuts_what_takes_longer_than_the_drain_time_out() {
    let site = Site::simple().setting("drain-timeout: 1s");
    let mut broker = Broker::start_with(site, |setup| setup).await;
    let (mut exchange, request) = broker.request().await;

    broker.server.child().signal(Signal::TERM);
    let asked = Instant::now();

    let (status, problem) = request.outcome().await;
    assert_eq!(status, 502);
    assert!(problem.contains(r#""code":"tunnel-lost""#), "{problem}");
    assert_eq!(broker.server.child_mut().exit().await.code(), Some(0));
    assert_in_time(asked);
    exchange.client_gone().await;
}

#[tokio::test]
async fn a_second_signal_ends_an_agent_at_once() {
    let mut broker = Broker::start().await;
    let _in_flight = broker.request().await;
    ends_at_the_second_signal(broker.agent.child_mut()).await;
}

#[tokio::test]
async fn a_second_signal_ends_a_server_at_once() {
    let mut broker = Broker::start().await;
    let _in_flight = broker.request().await;
    ends_at_the_second_signal(broker.server.child_mut()).await;
}

#[tokio::test]
async fn half_a_request_for_health_does_not_hold_up_a_servers_end() {
    let mut server = Server::start(Site::simple()).await;
    let mut half = TcpStream::connect(server.admin).await.unwrap();
    half.write_all(b"GET /hea").await.unwrap();
    // Connections are taken in turn: the first is served when the second is.
    Caller::to(server.admin).get("/healthz").await;

    server.end();
    let asked = Instant::now();

    server.ended().await;
    assert!(asked.elapsed() < AFTER_DRAIN, "{:?}", asked.elapsed());
}

#[tokio::test]
async fn a_servers_readiness_does_not_depend_on_agents() {
    let server = ServerProcess::start(Site::simple()).await;
    let admin = Caller::to(server.admin);
    assert_eq!(admin.get("/readyz").await.status(), 200);
    assert_eq!(admin.get("/healthz").await.status(), 200);
}

#[tokio::test]
async fn what_a_killed_agent_decided_is_on_record_and_the_chain_goes_on() {
    let broker = Broker::start().await;
    let (_exchange, _request) = broker.request().await;
    broker.agent.child().signal(Signal::KILL);

    let mut agent = broker.agent.again().await;

    let after = agent.audit("");
    assert_eq!(kinds(&after), ["start", "decision", "start"]);
    assert_ne!(after[0]["run_id"], after[2]["run_id"]);
    agent.child().signal(Signal::TERM);
    assert_eq!(agent.child_mut().exit().await.code(), Some(0));
    let log = agent.audit_bytes();
    assert_eq!(
        kinds(&audit_lines(&log, "")),
        ["start", "decision", "start", "stop"]
    );
    let summary = verify_lines(log.as_slice()).unwrap();
    assert_eq!((summary.first_seq, summary.records), (1, 4));
}

#[tokio::test]
async fn a_server_with_wrong_settings_says_what_is_wrong_before_it_opens_a_port() {
    let raw = AccessToken::generate(TokenKind::Agent);
    let ca = Ca::new("another");
    let stranger = ca.loopback("stranger");
    let not_pem = ca.file().with_file_name("not.pem");
    std::fs::write(&not_pem, "hello").unwrap();
    let site = Site::simple();
    let settings = |taken: u16| std::fs::read_to_string(site.settings_file(taken, taken, taken));
    let certificate = site.ca.file().with_file_name("server.pem");
    let key = site.ca.file().with_file_name("server.key");
    let digest = site
        .agent_token("default", "sonarqube")
        .digest()
        .to_string();
    let [certificate, key, not_pem, stranger] =
        [certificate, key, not_pem, stranger.key].map(|path| path.display().to_string());
    for (from, to, said) in [
        (
            "callers-listener:",
            "callers-listner:",
            vec!["callers-listner", "did you mean", "callers-listener"],
        ),
        ("tenants:", "tenants: [", vec!["server.yaml", "line"]),
        (
            &certificate,
            &not_pem,
            vec!["agents-listener.tls", "not.pem", "BEGIN CERTIFICATE"],
        ),
        (
            &certificate,
            "/nowhere.pem",
            vec!["agents-listener.tls", "/nowhere.pem", "cannot be read"],
        ),
        (
            &key,
            &stranger,
            vec!["stranger.key", "is not the key of the certificate in"],
        ),
        (
            &digest,
            raw.expose(),
            vec!["sonarqube", "secret", "sha256:"],
        ),
    ] {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let right = settings(port).unwrap();
        let wrong = right.replacen(from, to, 1);
        assert_ne!(wrong, right, "{from}");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("server.yaml");
        std::fs::write(&file, wrong).unwrap();
        let mut command = broker_command("broker-server");
        command.args(["run", "--config"]).arg(file);
        let message = refusal("broker-server", command).await;
        for part in said {
            assert!(message.contains(part), "no {part:?} in {message}");
        }
        assert!(!message.contains(raw.expose()), "{message}");
    }
}

#[tokio::test]
async fn an_agent_with_wrong_settings_says_what_is_wrong_before_it_opens_a_port() {
    let server = Server::start(Site::simple()).await;
    let caller = AccessToken::generate(TokenKind::Caller);
    let rule = json!({"path": "/x", "origin": "https://${NO_SUCH_HOST}"});
    let typo = json!({"path": "/x", "origin": "https://a.example", "vaild": []});
    let nothing = AgentSetup::without_rules;
    let rules = |rule: Value| AgentSetup::with_rules(json!({"private": [rule]}));
    for (setup, said) in [
        (
            nothing().setting("tunel: {count: 1}"),
            vec!["agent.yaml", "tunel", "did you mean", "tunnel"],
        ),
        (
            nothing().setting("tunnel: {count: 17}"),
            vec!["tunnel.count", "17", "16"],
        ),
        (nothing().setting("tunnel: ["), vec!["agent.yaml", "line"]),
        (
            nothing().variable("ACCEPT", "/nowhere.json"),
            vec!["ACCEPT", "/nowhere.json"],
        ),
        (
            rules(typo),
            vec!["accept.json", "private[0]", "vaild", "valid"],
        ),
        (rules(rule), vec!["private[0]", "NO_SUCH_HOST"]),
        (
            nothing().variable("TUNNEL_CA_CERT", "/nowhere.pem"),
            vec!["TUNNEL_CA_CERT", "/nowhere.pem"],
        ),
        (
            nothing()
                .variable("BROKER_AGENT_SECRET_FILE", "")
                .variable("BROKER_AGENT_SECRET", caller.expose()),
            vec!["BROKER_AGENT_SECRET", "caller"],
        ),
    ] {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let (variables, folder) = setup.prepare(&server);
        let mut command = broker_command("broker-client");
        command
            .arg("run")
            .envs(variables)
            .env(
                "BROKER_LOCAL_LISTEN",
                taken.local_addr().unwrap().to_string(),
            )
            .current_dir(folder.path());
        let message = refusal("broker-client", command).await;
        for part in said {
            assert!(message.contains(part), "no {part:?} in {message}");
        }
        assert!(!message.contains(caller.expose()), "{message}");
    }
}

#[tokio::test]
async fn what_the_development_server_prints_works_as_it_stands() {
    let origin = Origin::answering(|_| Answer::json("[1]")).await;
    let folder = tempfile::tempdir().unwrap();
    let rules = json!({"private": [{"path": "/", "origin": origin.url()}]});
    std::fs::write(folder.path().join("accept.json"), rules.to_string()).unwrap();
    let mut command = broker_command("broker-server");
    command.arg("run").current_dir(folder.path());
    for listener in ["agents", "callers", "admin"] {
        command.args([&format!("--{listener}-listener-listen"), "127.0.0.1:0"]);
    }
    let server = Child::start("broker-server", command);
    server.stdout().line_with("curl ").await;
    let printed = server.stdout().text();
    let commands: Vec<_> = printed
        .split("\n\n")
        .filter(|part| part.starts_with("  "))
        .collect();
    let [agent, curl] = commands[..] else {
        panic!("an agent's command and curl's are printed: {printed}");
    };

    let _agent = Child::start("the agent's command", shell(agent, folder.path()));
    let connected = |line: &str| line.contains("agent connected");
    server.stderr().lines("both tunnels", 2, connected).await;
    let mut curl = Child::start("curl's command", shell(curl, folder.path()));

    assert_eq!(curl.exit().await.code(), Some(0));
    assert_eq!(curl.stdout().text(), "[1]");
}

#[tokio::test]
async fn status_tells_how_the_agent_is_and_that_it_is_gone() {
    let mut broker = Broker::start().await;
    let denied = broker.server.caller().get("/broker/sonarqube/denied").await;
    assert_eq!(denied.status(), 403);
    let accept = broker
        .agent
        .folder()
        .join("accept.json")
        .display()
        .to_string();

    let text = broker.agent.status(&[]).await;
    for part in [
        "sonarqube",
        "tunnel 1",
        "tunnel 2",
        "connected",
        &accept,
        "GET",
        "/denied",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    let json: Value = serde_json::from_str(&broker.agent.status(&["--json"]).await).unwrap();
    let connection = &json["connections"][0];
    assert_eq!(connection["agent"], "sonarqube");
    assert_eq!(connection["tunnels"][1]["state"], "connected");
    assert_eq!(connection["accept"]["path"], accept);
    assert_eq!(json["denials"][0]["path"], "/denied");
    assert_eq!(json["audit"]["seq"], 2);

    broker.agent.child().signal(Signal::KILL);
    broker.agent.child_mut().exit().await;
    let mut gone = broker.agent.start_status(&[]);
    assert_eq!(gone.exit().await.code(), Some(1));
    let message = gone.stderr().text();
    assert!(
        message.contains("no agent is running for instance default"),
        "{message}"
    );
}

#[tokio::test]
async fn the_agents_probes_follow_its_tunnels() {
    let server = Server::start(Site::simple()).await;
    let agent = AgentSetup::without_rules().start(&server).await;
    let local = Caller::to(agent.local);
    for (path, status) in [("/livez", 200), ("/readyz", 200), ("/healthcheck", 200)] {
        assert_eq!(local.get(path).await.status(), status, "{path}");
    }
    server.kill().await;
    agent.disconnected().await;
    for (path, status) in [("/livez", 200), ("/readyz", 503), ("/healthcheck", 500)] {
        assert_eq!(local.get(path).await.status(), status, "{path}");
    }
    let tunnels = local.get("/healthcheck").await.json().await;
    let open: Vec<_> = tunnels
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["ok"])
        .collect();
    assert_eq!(open, [false, false]);
}

/// Server and agent as programs in front of an origin that the test plays, for everything below `/slow`.
struct Broker {
    agent: AgentProcess,
    server: ServerProcess,
    origin: Origin,
}

impl Broker {
    async fn start() -> Self {
        Self::start_with(Site::simple(), |setup| setup).await
    }

    async fn start_with(site: Site, change: impl Fn(AgentSetup) -> AgentSetup) -> Self {
        let origin = Origin::scripted().await;
        let server = ServerProcess::start(site).await;
        let rules = json!({"private": [{"path": "/slow", "origin": origin.url()}]});
        let setup = change(AgentSetup::with_rules(rules));
        let agent = AgentProcess::start(&setup, &server).await;
        Self {
            agent,
            server,
            origin,
        }
    }

    /// A request that is in flight: the origin has it and has not answered.
    async fn request(&self) -> (Exchange, InFlight) {
        let caller = self.server.caller();
        let mut waiting = JoinSet::new();
        waiting.spawn(async move {
            let request = Request::get("/broker/sonarqube/slow");
            let request = request.body(body::empty()).unwrap();
            let answer = caller.try_send(request).await.ok()?;
            Some((answer.status(), answer.text().await))
        });
        (self.origin.next().await, InFlight(waiting))
    }
}

/// A request on its way; it may get no answer.
struct InFlight(JoinSet<Option<(StatusCode, String)>>);

impl InFlight {
    /// The answer's status and body.
    async fn outcome(mut self) -> (StatusCode, String) {
        let ended = within("the request's end", self.0.join_next()).await;
        ended.unwrap().unwrap().unwrap()
    }
}

fn kinds(lines: &[Value]) -> Vec<&str> {
    lines
        .iter()
        .map(|line| line["kind"].as_str().unwrap())
        .collect()
}

async fn ends_at_the_second_signal(program: &mut Child) {
    program.signal(Signal::TERM);
    program.stderr().line_with(ENDING).await;
    program.signal(Signal::TERM);
    assert_eq!(program.exit().await.code(), Some(1));
}

fn assert_in_time(asked: Instant) {
    let after = asked.elapsed();
    assert!(after >= DRAIN && after < DRAIN + AFTER_DRAIN, "{after:?}");
}

/// What a program says that refuses to start.
async fn refusal(name: &str, command: Command) -> String {
    let mut child = Child::start(name, command);
    let code = child.exit().await.code();
    let message = child.stderr().text();
    assert_eq!(code, Some(64), "{message}");
    assert_eq!(child.stdout().text(), "");
    message
}

/// A shell's command, where our programs are found by name; the agent's local port is not a fixed one.
fn shell(script: &str, folder: &Path) -> Command {
    let programs = broker_program("broker-client");
    let programs = programs.parent().unwrap().display().to_string();
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("bash");
    command
        .args(["-c", script])
        .env_clear()
        .env("PATH", format!("{programs}:{path}"))
        .env("BROKER_LOCAL_LISTEN", "127.0.0.1:0")
        .current_dir(folder);
    command
}

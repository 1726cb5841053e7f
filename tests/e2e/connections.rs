//! Several connections in one process: each serves its own rules through its own tunnels, and what befalls one of them
//! leaves the others as they are.

use std::fs;
use std::path::PathBuf;

use broker_client::status::{ConnectionStatus, StatusSnapshot};
use broker_protocol::{AccessToken, TokenKind};
use broker_tests::broker::{Agent, AgentSetup, Reach, Server, Site, TENANT};
use broker_tests::caller::Caller;
use broker_tests::origin::{Answer, Origin};
use broker_tests::programs::{AgentProcess, ServerProcess, Signal, broker_command};
use broker_tests::tap::Tap;
use broker_tests::wait::within;
use http::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;

const TOOLS: [&str; 2] = ["sonarqube", "jenkins"];

#[tokio::test]
async fn tools_that_own_the_same_paths_share_one_process() {
    let tools = Tools::start().await;

    for tool in TOOLS {
        assert_eq!(
            tools.get(tool, "/api/status").await,
            (StatusCode::OK, tool.to_owned())
        );
    }
    // What one of them allows is nothing to the other.
    assert_eq!(tools.get("sonarqube", "/sonarqube").await.0, 200);
    assert_eq!(tools.get("jenkins", "/sonarqube").await.0, 403);

    let log = tools.stop().await;
    let start = lines(&log, "start").remove(0);
    let agents = start["connections"].as_array().unwrap().iter();
    assert!(agents.map(|each| each["agent"].clone()).eq(TOOLS));
    let decisions = lines(&log, "decision");
    let said = decisions
        .iter()
        .map(|line| (&line["agent"], &line["path"], &line["verdict"]));
    let said: Vec<_> = said
        .map(|(agent, path, verdict)| json!([agent, path, verdict]))
        .collect();
    let expected = [
        json!(["sonarqube", "/api/status", "allow"]),
        json!(["jenkins", "/api/status", "allow"]),
        json!(["sonarqube", "/sonarqube", "allow"]),
        json!(["jenkins", "/sonarqube", "deny"]),
    ];
    assert_eq!(said, expected);
    for outcome in lines(&log, "outcome") {
        let decided = decisions
            .iter()
            .find(|line| line["request_id"] == outcome["request_id"]);
        assert_eq!(outcome["agent"], decided.unwrap()["agent"]);
    }
}

#[tokio::test]
async fn connections_with_the_same_origin_share_what_is_open_to_it() {
    let [origin, unused] = answering().await;
    let tools = Tools::run([origin, unused], |_, token| token.to_owned()).await;
    tools.connected().await;
    let both_to = json!({"private": [{"path": "/api/*", "origin": tools.origins[0].url()}]});
    tools.write("jenkins", &both_to.to_string());
    tools
        .until("the rules are in force", |now| {
            now.connections[1].accept.private_rules == 1
        })
        .await;

    for tool in TOOLS {
        assert_eq!(tools.get(tool, "/api/status").await.0, 200);
    }

    assert_eq!(tools.origins[0].requests().len(), 2);
    assert_eq!(tools.origins[0].connections(), 1);
}

#[tokio::test]
async fn status_shows_every_connection_and_names_the_one_of_each_denial() {
    let tools = Tools::start().await;
    assert_eq!(tools.get("jenkins", "/sonarqube").await.0, 403);

    let now = tools.agent.board.snapshot();
    assert_eq!(now.denials[0].agent, "jenkins");
    let text = now.to_string();
    let starting = |word| text.lines().filter(move |line| line.starts_with(word));
    assert!(
        starting("agent").eq(["agent        sonarqube", "agent        jenkins"]),
        "{text}"
    );
    assert_eq!(starting("tunnel").count(), 4, "{text}");
    assert!(
        text.contains("  jenkins  GET  /sonarqube  no-match"),
        "{text}"
    );
}

#[tokio::test]
async fn a_broken_accept_file_of_one_leaves_the_other_as_it_is() {
    let tools = Tools::start().await;
    let before = tools.connection(0);

    tools.write("jenkins", "{");
    tools
        .until("the file is refused", |now| {
            now.connections[1].accept.refused.is_some()
        })
        .await;

    assert_eq!(tools.connection(0), before);
    for tool in TOOLS {
        assert_eq!(tools.get(tool, "/api/status").await.0, 200);
    }
    tools.write("jenkins", "{}");
    tools
        .until("the file is in force", |now| {
            now.connections[1].accept.private_rules == 0
        })
        .await;
    assert_eq!(tools.connection(0), before);
    assert_eq!(tools.get("sonarqube", "/api/status").await.0, 200);
    assert_eq!(tools.get("jenkins", "/api/status").await.0, 403);

    let log = tools.stop().await;
    for kind in ["rules-refused", "rules-loaded"] {
        let agents = lines(&log, kind)
            .into_iter()
            .map(|line| line["agent"].clone());
        assert!(agents.eq(["jenkins"]), "{kind}");
    }
}

#[tokio::test]
async fn a_hangup_has_the_file_of_each_connection_read() {
    let origins = answering().await;
    let server = ServerProcess::start(site()).await;
    let files = tempfile::tempdir().unwrap();
    let agent = AgentProcess::start_alone(&setup(&server, &files, &origins), &server).await;

    agent.child().signal(Signal::HUP);

    for tool in TOOLS {
        let is_read = |line: &str| {
            line.contains("when it was last read") && line.contains(&format!("agent={tool}"))
        };
        agent
            .child()
            .stderr()
            .line("the file is read", is_read)
            .await;
    }
}

#[tokio::test]
async fn a_refused_secret_of_one_leaves_the_other_ready() {
    let other = AccessToken::generate(TokenKind::Agent);
    let tools = Tools::start_with(|tool, token| match tool {
        "jenkins" => other.expose().to_owned(),
        _ => token.to_owned(),
    })
    .await;
    let is_so = |now: &StatusSnapshot| {
        error_code(&now.connections[1]) == "not-admitted"
            && now.connections[0].connected_tunnels() == 2
    };
    tools
        .until("one is refused and the other is up", is_so)
        .await;

    let ready = Caller::to(tools.agent.local).get("/readyz").await;
    assert_eq!(ready.status(), 200);
    assert_eq!(
        ready.json().await["connections"][1],
        json!({"agent": "jenkins", "tunnels": 0})
    );
    assert_eq!(tools.get("sonarqube", "/api/status").await.0, 200);
    assert_eq!(tools.get("jenkins", "/api/status").await.0, 503);
    assert_eq!(error_code(&tools.connection(0)), "");
}

#[tokio::test]
async fn a_cut_tunnel_of_one_leaves_the_others_tunnels_open() {
    let tools = Tools::start().await;
    let before = tools.connection(0);

    // What is dialled meanwhile waits for the tap.
    tools.tap.stall();
    tools.tap.cut();
    tools
        .until("jenkins has no tunnel", |now| {
            now.connections[1].connected_tunnels() == 0
        })
        .await;

    assert_eq!(tools.get("sonarqube", "/api/status").await.0, 200);
    tools.tap.resume();
    tools
        .until("jenkins is back", |now| {
            now.connections[1].connected_tunnels() == 2
        })
        .await;
    assert_eq!(tools.connection(0), before);
    assert_eq!(tools.get("jenkins", "/api/status").await.0, 200);
}

#[tokio::test]
async fn the_end_waits_for_what_is_in_flight_on_every_connection() {
    let origins = [Origin::scripted().await, Origin::scripted().await];
    let mut tools = Tools::run(origins, |_, token| token.to_owned()).await;
    tools.connected().await;
    let mut asked = tokio::task::JoinSet::new();
    let mut exchanges = Vec::new();
    for (tool, origin) in TOOLS.iter().zip(&tools.origins) {
        let (caller, target) = (tools.server.caller(), format!("/broker/{tool}/api/status"));
        asked.spawn(async move { caller.get(&target).await.status() });
        exchanges.push(origin.next().await);
    }

    tools.agent.end();
    for exchange in &mut exchanges {
        exchange.answer(Answer::json("{}")).await;
    }

    while let Some(status) = asked.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    let log = tools.stop().await;
    let ended = lines(&log, "outcome")
        .into_iter()
        .map(|line| line["ended"].clone());
    assert!(ended.eq(["complete", "complete"]));
}

#[tokio::test]
async fn commands_about_rules_ask_which_connection_is_meant_and_take_it_from_a_record() {
    let origins = answering().await;
    let server = ServerProcess::start(site()).await;
    let files = tempfile::tempdir().unwrap();
    let agent = AgentProcess::start_alone(&setup(&server, &files, &origins), &server).await;
    for (tool, path) in [("jenkins", "/sonarqube"), ("sonarqube", "/elsewhere")] {
        server
            .child()
            .stderr()
            .line(tool, |line| {
                line.contains("agent connected") && line.contains(tool)
            })
            .await;
        assert_eq!(get(&server, tool, path).await.0, 403);
    }
    let run = |arguments: &[&str]| {
        let mut command = broker_command("broker-client");
        command.arg("rules").args(arguments);
        let output = command.envs(agent.variables()).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };

    let file = |tool| accept_file(&files, tool).display().to_string();
    let (code, said) = run(&["check", &file("jenkins")]);
    assert_eq!(code, Some(64), "{said}");
    assert!(
        said.contains("--agent with one of sonarqube, jenkins"),
        "{said}"
    );
    let (_, said) = run(&["check", &file("jenkins"), "--agent", "jenkins"]);
    assert!(said.contains("2 private, 0 public"), "{said}");

    for (arguments, tool) in [
        (&["explain", "--last-denied"][..], "sonarqube"),
        (
            &["explain", "--last-denied", "--agent", "jenkins"],
            "jenkins",
        ),
    ] {
        let (code, said) = run(arguments);
        assert_eq!(code, Some(0), "{said}");
        assert!(
            said.contains(&format!("agent {tool}")) && said.contains(&file(tool)),
            "{said}"
        );
    }
}

#[tokio::test]
async fn a_pause_of_one_leaves_the_other_ready_and_one_of_all_leaves_none() {
    let origins = answering().await;
    let server = ServerProcess::start(site()).await;
    let files = tempfile::tempdir().unwrap();
    let agent = AgentProcess::start_alone(&setup(&server, &files, &origins), &server).await;
    let stderr = server.child().stderr();
    let connected = |line: &str| line.contains("agent connected");
    stderr.lines("all tunnels", 4, connected).await;
    let closed = |line: &str| line.contains("is_paused=true");
    let ready = async || Caller::to(agent.local()).get("/readyz").await.status();

    let (_, said) = agent
        .run_command(&["pause", "--rule", "0", "--reason", "x"])
        .await;
    assert!(
        said.contains("--agent with one of sonarqube, jenkins"),
        "{said}"
    );
    let (code, said) = agent
        .run_command(&["pause", "--agent", "jenkins", "--reason", "x"])
        .await;
    assert_eq!(code, Some(0), "{said}");
    stderr.lines("the tunnels of one closed", 2, closed).await;
    assert_eq!(get(&server, "sonarqube", "/api/status").await.0, 200);
    assert!(
        get(&server, "jenkins", "/api/status")
            .await
            .1
            .contains("agent-paused")
    );
    assert_eq!(ready().await, 200);

    let (code, said) = agent.run_command(&["pause", "--reason", "y"]).await;
    assert_eq!(code, Some(0), "{said}");
    stderr.lines("all tunnels closed", 4, closed).await;
    assert_eq!(ready().await, 503);

    let (code, said) = agent.run_command(&["resume", "--agent", "sonarqube"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("still paused: jenkins until it is resumed: y"),
        "{said}"
    );
    stderr.lines("the tunnels of one again", 6, connected).await;
    assert_eq!(get(&server, "sonarqube", "/api/status").await.0, 200);
    assert_eq!(ready().await, 200);
    let records = agent
        .audit("paused")
        .into_iter()
        .map(|line| line["agent"].clone());
    assert!(records.eq(["jenkins", "sonarqube", "jenkins"]));
}

#[tokio::test]
async fn doctor_goes_the_ways_of_each_connection() {
    let origins = answering().await;
    let server = ServerProcess::start(site()).await;
    let files = tempfile::tempdir().unwrap();
    let (variables, _folder) = setup(&server, &files, &origins).prepare(&server);
    let doctor = |arguments: &[&str]| {
        let mut command = broker_command("broker-client");
        command.arg("doctor").args(arguments).envs(&variables);
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };

    let (report, egress) = (doctor(&[]), doctor(&["--egress"]));

    for (tool, origin) in TOOLS.iter().zip(&origins) {
        assert!(report.contains(&format!(" as {tool}\n")), "{report}");
        let to_origin = format!("{tool}: origin {} of private[0]", origin.url());
        assert!(report.contains(&to_origin), "{report}");
        assert!(egress.contains(&format!("server of {tool}\n")), "{egress}");
        assert!(
            egress.contains(&format!("{tool}: origin of private[0]")),
            "{egress}"
        );
    }
    assert!(report.contains("result  PASS"), "{report}");
}

/// An agent with a connection for each of [`TOOLS`]; that of jenkins goes through a tap.
struct Tools {
    agent: Agent,
    server: Server,
    tap: Tap,
    origins: [Origin; 2],
    files: TempDir,
}

impl Tools {
    /// Tools that answer with their name, and all tunnels up.
    async fn start() -> Self {
        let tools = Self::start_with(|_, token| token.to_owned()).await;
        tools.connected().await;
        tools
    }

    /// The same with these secrets, without waiting for a tunnel.
    async fn start_with(secret: impl Fn(&str, &str) -> String) -> Self {
        Self::run(answering().await, secret).await
    }

    async fn run(origins: [Origin; 2], secret: impl Fn(&str, &str) -> String) -> Self {
        let server = Server::start(site()).await;
        let tap = Tap::to(server.agents).await;
        let files = tempfile::tempdir().unwrap();
        let setup = setup(&server, &files, &origins)
            .setting(&format!("  server: 'http://{}'", tap.address()));
        for tool in TOOLS {
            let token = server.site.agent_token(TENANT, tool).expose();
            fs::write(secret_file(&files, tool), secret(tool, token)).unwrap();
        }
        Self {
            agent: setup
                .try_start(&server)
                .await
                .unwrap_or_else(|error| panic!("{error}")),
            server,
            tap,
            origins,
            files,
        }
    }

    async fn connected(&self) {
        within("all tunnels up", self.agent.board.until_connected(4)).await;
    }

    fn connection(&self, place: usize) -> ConnectionStatus {
        self.agent.board.snapshot().connections.remove(place)
    }

    fn write(&self, tool: &str, rules: &str) {
        fs::write(accept_file(&self.files, tool), rules).unwrap();
    }

    async fn get(&self, tool: &str, path: &str) -> (StatusCode, String) {
        get(&self.server, tool, path).await
    }

    async fn until(&self, what: &str, wanted: impl Fn(&StatusSnapshot) -> bool) {
        within(what, self.agent.board.until(wanted)).await;
    }

    async fn stop(self) -> Vec<Value> {
        self.agent.stop().await
    }
}

fn site() -> Site {
    Site::simple().agent(TENANT, "jenkins").without_tls()
}

/// Tools that answer with their name.
async fn answering() -> [Origin; 2] {
    let [sonarqube, jenkins] = TOOLS.map(|tool| Origin::answering(move |_| Answer::json(tool)));
    [sonarqube.await, jenkins.await]
}

/// A connection for each of [`TOOLS`], whose secrets and rules stand in `files`. More lines are of the last one.
fn setup(server: &Reach, files: &TempDir, origins: &[Origin; 2]) -> AgentSetup {
    let mut setup = AgentSetup::without_rules()
        .variable("BROKER_TOKEN", "")
        .variable("BROKER_AGENT_SECRET_FILE", "")
        .setting("connections:");
    for (tool, origin) in TOOLS.iter().zip(origins) {
        let (secret, accept) = (secret_file(files, tool), accept_file(files, tool));
        let token = server.site.agent_token(TENANT, tool).expose();
        fs::write(&secret, token).unwrap();
        // Both tools own `/api/*`, and a path of their own.
        let paths = ["/api/*".to_owned(), format!("/{tool}")];
        let rules =
            paths.map(|path| json!({"method": "any", "path": path, "origin": origin.url()}));
        fs::write(&accept, json!({"private": rules}).to_string()).unwrap();
        let (secret, accept) = (secret.display(), accept.display());
        setup = setup.setting(&format!(
            "- name: {tool}\n  secret-file: {secret}\n  accept: {accept}"
        ));
    }
    setup
}

fn secret_file(files: &TempDir, tool: &str) -> PathBuf {
    files.path().join(format!("{tool}.secret"))
}

fn accept_file(files: &TempDir, tool: &str) -> PathBuf {
    files.path().join(format!("{tool}.json"))
}

async fn get(server: &Reach, tool: &str, path: &str) -> (StatusCode, String) {
    let answer = server.caller().get(&format!("/broker/{tool}{path}")).await;
    (answer.status(), answer.text().await)
}

fn error_code(connection: &ConnectionStatus) -> &str {
    let error = connection.tunnels[0].last_error.as_ref();
    error.map_or("", |error| error.code.as_str())
}

fn lines(log: &[Value], kind: &str) -> Vec<Value> {
    log.iter()
        .filter(|line| line["kind"] == kind)
        .cloned()
        .collect()
}

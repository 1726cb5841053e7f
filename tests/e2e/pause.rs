//! The owner's switch: what it ends and how fast, that nothing but its owner or its own end undoes it, and that what
//! cannot be told is closed.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use broker_tests::broker::{AgentSetup, Site};
use broker_tests::caller::{Answer as CallerAnswer, Caller};
use broker_tests::origin::{Answer, Origin};
use broker_tests::programs::{AgentProcess, ServerProcess, broker_command};
use broker_tests::wait::took;
use http::header::RETRY_AFTER;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How long a pause may take until no tunnel is left.
const PROMISED: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_pause_ends_requests_in_flight_and_closes_the_tunnels_within_a_second() {
    let origin = Origin::scripted().await;
    let broker = Broker::start(&origin).await;
    let mut asked = JoinSet::new();
    let caller = broker.server.caller();
    asked.spawn(async move { refusal(caller.get("/broker/sonarqube/waiting").await).await });
    let mut waiting = origin.next().await;
    let caller = broker.server.caller();
    let mut flowing = JoinSet::new();
    flowing.spawn(async move { caller.get("/broker/sonarqube/flowing").await });
    let mut body = origin.next().await;
    body.start_chunked(200, &[]).await;
    body.send_chunk(b"the first part").await;
    let mut answer = flowing.join_next().await.unwrap().unwrap();
    assert_eq!(answer.chunk().await.unwrap(), "the first part");

    let begun = Instant::now();
    let (code, said) = broker
        .run(&["pause", "--for", "2h", "--reason", "ticket 4711"])
        .await;
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.starts_with("paused sonarqube until ") && said.ends_with(": ticket 4711\n"),
        "{said}"
    );
    broker.closed(2).await;
    took("no tunnel after a pause", begun.elapsed(), PROMISED);

    let refused = asked.join_next().await.unwrap().unwrap();
    assert_eq!(refused.code, "agent-paused");
    assert!((7190..=7200).contains(&refused.retry_after), "{refused:?}");
    assert!(broke_off(answer).await);
    waiting.client_gone().await;
    body.client_gone().await;

    let later = refusal(broker.server.caller().get("/broker/sonarqube/x").await).await;
    assert_eq!((later.status, later.code.as_str()), (503, "agent-paused"));
    let unknown = refusal(broker.server.caller().get("/broker/jenkins/x").await).await;
    assert_eq!(unknown.code, "no-agent");
    let local = Caller::to(broker.agent.local());
    assert_eq!(local.get("/readyz").await.status(), 503);
    assert_eq!(local.get("/livez").await.status(), 200);
    let status = broker.agent.status(&[]).await;
    assert!(
        status.contains("PAUSED       every request") && status.contains("ticket 4711"),
        "{status}"
    );

    let paused = broker.agent.audit("paused").remove(0);
    let own_uid =
        fs::metadata(broker.agent.folder()).map(|it| std::os::unix::fs::MetadataExt::uid(&it));
    assert_eq!(paused["uid"], own_uid.unwrap());
    let expected = json!(["sonarqube", null, "ticket 4711", "command"]);
    let said = ["agent", "rule", "reason", "cause"].map(|field| paused[field].clone());
    assert_eq!(json!(said), expected);
    let outcomes = broker.agent.audit("outcome");
    assert_eq!(outcomes.len(), 2);
    assert!(
        outcomes.iter().all(|outcome| outcome["ended"] == "paused"),
        "{outcomes:?}"
    );
}

#[tokio::test]
async fn a_pause_outlives_the_agent_and_the_server_until_it_is_resumed() {
    let origin = Origin::answering(|_| Answer::json("{}")).await;
    let broker = Broker::start(&origin).await;
    broker.pause(&["--reason", "audit"]).await;
    broker.closed(2).await;

    let Broker { agent, server } = broker;
    let agent = agent.again().await;
    agent.child().stderr().line_with("paused").await;
    let (site, ports) = (Arc::clone(&server.site), server.ports());
    drop(server);
    let server = ServerProcess::start_at(site, ports.map(|address| address.port())).await;
    let broker = Broker { agent, server };
    // The server has forgotten it, and the agent has not.
    let refused = refusal(broker.server.caller().get("/broker/sonarqube/x").await).await;
    assert_eq!(refused.code, "no-agent");
    let status = broker.agent.status(&[]).await;
    assert!(
        status.contains("PAUSED") && status.contains("tunnel 1     http"),
        "{status}"
    );
    broker.assert_no_agent_came();

    let (code, said) = broker.run(&["resume"]).await;
    assert_eq!((code, said.as_str()), (Some(0), "resumed sonarqube\n"));

    broker.server.has_agent(&broker.agent).await;
    assert_eq!(broker.get("/x").await.status(), 200);
    let resumed = broker.agent.audit("resumed").remove(0);
    assert_eq!(
        json!([resumed["reason"], resumed["cause"]]),
        json!(["audit", "command"])
    );
    let agent = broker.agent.again().await;
    broker.server.has_agent(&agent).await;
}

#[tokio::test]
async fn a_pause_with_an_end_ends_by_itself_also_across_a_restart() {
    let origin = Origin::answering(|_| Answer::json("{}")).await;
    let broker = Broker::start(&origin).await;
    broker.pause(&["--reason", "short", "--for", "300ms"]).await;
    broker.connected_again(2).await;
    assert_eq!(broker.get("/x").await.status(), 200);

    broker
        .pause(&["--reason", "over a restart", "--for", "1s"])
        .await;
    let Broker { agent, server } = broker;
    let agent = agent.again().await;
    server.has_agent(&agent).await;

    let broker = Broker { agent, server };
    assert_eq!(broker.get("/x").await.status(), 200);
    let resumed = broker.agent.audit("resumed");
    let causes: Vec<_> = resumed.iter().map(|line| &line["cause"]).collect();
    assert_eq!(causes, ["expired", "expired"]);
    assert!(resumed.iter().all(|line| line["uid"] == Value::Null));
}

#[tokio::test]
async fn a_paused_rule_refuses_what_it_matches_and_leaves_it_to_no_later_rule() {
    let origin = Origin::scripted().await;
    let broker = Broker::with_rules(two_rules(&origin)).await;
    let mut asked = JoinSet::new();
    let caller = broker.server.caller();
    asked.spawn(async move { refusal(caller.get("/broker/sonarqube/a/x").await).await });
    let mut of_paused = origin.next().await;
    let caller = broker.server.caller();
    let mut others = JoinSet::new();
    others.spawn(async move { caller.get("/broker/sonarqube/b").await.status() });
    let mut of_other = origin.next().await;

    broker
        .pause(&["--rule", "0", "--reason", "it writes"])
        .await;

    // What is in flight by the rule ends, and by another one goes on.
    assert_eq!(
        asked.join_next().await.unwrap().unwrap().reason,
        "rule-paused"
    );
    of_paused.client_gone().await;
    of_other.answer(Answer::json("{}")).await;
    assert_eq!(others.join_next().await.unwrap().unwrap(), 200);
    let refused = refusal(broker.get("/a/y").await).await;
    assert_eq!(
        (
            refused.status,
            refused.code.as_str(),
            refused.reason.as_str()
        ),
        (503, "agent-paused", "rule-paused")
    );
    assert_eq!(refused.retry_after, 60);
    let decision = broker.agent.audit("decision").pop().unwrap();
    let said = ["rule", "verdict", "reason", "origin"].map(|field| decision[field].clone());
    assert_eq!(json!(said), json!([0, "deny", "rule-paused", null]));
    let local = Caller::to(broker.agent.local());
    assert_eq!(local.get("/readyz").await.status(), 200);

    for (arguments, expected) in [
        (
            ["pause", "--reason", "x", "--rule", "2"].as_slice(),
            "sonarqube has no rule private[2] (it has 2",
        ),
        (
            &["resume"],
            "that is not paused (paused: private[0] of sonarqube)",
        ),
        (&["resume", "--rule", "1"], "that is not paused"),
        (&["pause", "--reason", " "], "the reason is empty"),
        (
            &["pause", "--reason", "x", "--agent", "jenkins"],
            "this process is no agent \"jenkins\" (it is: sonarqube)",
        ),
    ] {
        let (code, said) = broker.run(arguments).await;
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(expected), "{said}");
    }
}

#[tokio::test]
async fn while_another_accept_file_is_in_force_a_paused_rule_closes_all_of_them() {
    let origin = Origin::answering(|_| Answer::json("{}")).await;
    let rules = two_rules(&origin);
    let broker = Broker::with_rules(rules.clone()).await;
    broker
        .pause(&["--rule", "0", "--reason", "it writes"])
        .await;
    assert_eq!(broker.get("/b").await.status(), 200);

    // The paused rule is another one in this file, if it is there at all.
    let swapped = json!({"private": [rules["private"][1], rules["private"][0]]});
    broker.in_force(&swapped).await;
    for path in ["/a/x", "/b"] {
        let refused = refusal(broker.get(path).await).await;
        assert_eq!(
            (refused.code.as_str(), refused.reason.as_str()),
            ("agent-paused", "paused-rule-unknown")
        );
    }
    let said = "a rule of another accept file is paused, so every request is refused";
    broker.agent.child().stderr().line_with(said).await;
    let status = broker.agent.status(&[]).await;
    assert!(
        status.contains("private[0] of another accept file, and so every request"),
        "{status}"
    );

    broker.in_force(&rules).await;
    assert_eq!(broker.get("/b").await.status(), 200);
    assert_eq!(
        refusal(broker.get("/a/x").await).await.reason,
        "rule-paused"
    );

    broker.in_force(&swapped).await;
    let (code, said) = broker.run(&["resume", "--rule", "0"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(broker.get("/a/x").await.status(), 200);
}

#[tokio::test]
async fn a_state_file_that_cannot_be_read_pauses_everything() {
    let origin = Origin::answering(|_| Answer::json("{}")).await;
    let broker = Broker::start(&origin).await;
    let file = broker.agent.folder().join("data/default/pauses.json");
    fs::write(&file, r#"{"v":1,"pau"#).unwrap();
    let Broker { agent, server } = broker;
    let agent = agent.again().await;
    let line = agent
        .child()
        .stderr()
        .line_with("what was paused before cannot be told, so all is")
        .await;
    assert!(
        line.contains("pauses.json") && line.contains("broker-client resume"),
        "{line}"
    );
    let broker = Broker { agent, server };
    assert!(
        broker
            .agent
            .status(&[])
            .await
            .contains("PAUSED       every request")
    );
    let (code, said) = broker.run(&["resume", "--agent", "sonarqube"]).await;
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(broker.agent.audit("paused")[0]["cause"], "state-unreadable");

    let (code, said) = broker.run(&["resume"]).await;
    assert_eq!(code, Some(0), "{said}");

    broker.server.has_agent(&broker.agent).await;
    let agent = broker.agent.again().await;
    broker.server.has_agent(&agent).await;
}

#[tokio::test]
async fn an_agent_that_is_paused_by_its_settings_opens_no_tunnel_and_no_command_resumes_it() {
    let origin = Origin::answering(|_| Answer::json("{}")).await;
    let server = ServerProcess::start(Site::simple()).await;
    let setup = AgentSetup::allowing_everything(&origin.url()).variable("BROKER_PAUSED", "true");
    let agent = AgentProcess::start_alone(&setup, &server).await;
    let broker = Broker { agent, server };

    let (code, said) = broker.run(&["resume"]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("sonarqube is paused by its settings (set `paused: false`"),
        "{said}"
    );
    let status = broker.agent.status(&[]).await;
    assert!(
        status.contains("`paused` is set in the settings"),
        "{status}"
    );
    let local = Caller::to(broker.agent.local());
    assert_eq!(local.get("/readyz").await.status(), 503);
    broker.assert_no_agent_came();
    assert_eq!(broker.agent.audit("paused")[0]["cause"], "settings");
}

#[tokio::test]
async fn a_log_that_cannot_be_written_stops_no_pause_and_every_resume() {
    let origin = Origin::answering(|_| Answer::json("{}")).await;
    let broker = Broker::start(&origin).await;
    let log = broker.agent.folder().join("data/default/audit.jsonl");
    let aside = log.with_extension("aside");
    fs::rename(&log, &aside).unwrap();
    // Not even root can append to a folder.
    fs::create_dir(&log).unwrap();

    let (code, said) = broker.run(&["pause", "--reason", "now"]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("paused sonarqube") && said.contains("it is not on record: "),
        "{said}"
    );
    broker.closed(2).await;
    let (code, said) = broker.run(&["resume"]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("it stays paused, since that it is resumed cannot be put on record"),
        "{said}"
    );
    assert!(broker.agent.status(&[]).await.contains("PAUSED"));

    fs::remove_dir(&log).unwrap();
    fs::rename(&aside, &log).unwrap();
    assert_eq!(broker.run(&["resume"]).await.0, Some(0));
    broker.connected_again(2).await;
}

#[test]
fn without_a_control_socket_the_command_says_what_to_do_instead() {
    let data = tempfile::tempdir().unwrap();
    let mut command = broker_command("broker-client");
    command
        .args(["pause", "--reason", "x"])
        .env("BROKER_DATA_DIR", data.path());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("no socket at ") && said.contains("BROKER_PAUSED=true, and a restart"),
        "{said}"
    );
}

/// A server and its agent, both as programs.
struct Broker {
    server: ServerProcess,
    agent: AgentProcess,
}

impl Broker {
    async fn start(origin: &Origin) -> Self {
        Self::of(&AgentSetup::allowing_everything(&origin.url())).await
    }

    async fn with_rules(rules: Value) -> Self {
        Self::of(&AgentSetup::with_rules(rules)).await
    }

    async fn of(setup: &AgentSetup) -> Self {
        let server = ServerProcess::start(Site::simple()).await;
        let agent = AgentProcess::start(setup, &server).await;
        Self { server, agent }
    }

    async fn get(&self, path: &str) -> CallerAnswer {
        self.server
            .caller()
            .get(&format!("/broker/sonarqube{path}"))
            .await
    }

    /// No agent has connected to the server, as far as it says.
    fn assert_no_agent_came(&self) {
        let said = self.server.child().stderr().text();
        assert!(!said.contains("agent connected"), "{said}");
    }

    async fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        self.agent.run_command(arguments).await
    }

    async fn pause(&self, arguments: &[&str]) {
        let (code, said) = self.run(&[&["pause"], arguments].concat()).await;
        assert_eq!(code, Some(0), "{said}");
    }

    /// Waits until so many tunnels have been closed by a pause.
    async fn closed(&self, tunnels: usize) {
        let is_one =
            |line: &str| line.contains("agent disconnected") && line.contains("is_paused=true");
        let stderr = self.server.child().stderr();
        stderr
            .lines("tunnels closed by the pause", tunnels, is_one)
            .await;
    }

    /// Waits until the server has seen so many tunnels beyond the first two.
    async fn connected_again(&self, tunnels: usize) {
        let is_one = |line: &str| line.contains("agent connected");
        let stderr = self.server.child().stderr();
        stderr
            .lines("tunnels after the pause", 2 + tunnels, is_one)
            .await;
    }

    /// Writes the accept file, and waits until it decides.
    async fn in_force(&self, rules: &Value) {
        let loaded = self.agent.audit("rules-loaded").len();
        fs::write(self.agent.folder().join("accept.json"), rules.to_string()).unwrap();
        let line = "rules in force";
        let stderr = self.agent.child().stderr();
        stderr
            .lines(line, 2 + loaded, |said| said.contains(line))
            .await;
    }
}

fn two_rules(origin: &Origin) -> Value {
    let rule = |path| json!({"method": "any", "path": path, "origin": origin.url()});
    json!({"private": [rule("/a/*"), rule("/*")]})
}

#[derive(Debug)]
struct Refusal {
    status: u16,
    code: String,
    reason: String,
    retry_after: u64,
}

async fn refusal(answer: CallerAnswer) -> Refusal {
    let status = answer.status().as_u16();
    let retry_after = answer.headers()[RETRY_AFTER]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    let document = answer.json().await;
    let text = |member: &str| document[member].as_str().unwrap_or_default().to_owned();
    Refusal {
        status,
        code: text("code"),
        reason: text("reason"),
        retry_after,
    }
}

/// Whether the rest of a body ends visibly broken.
async fn broke_off(mut answer: CallerAnswer) -> bool {
    loop {
        match answer.try_chunk().await {
            Ok(Some(_)) => {}
            Ok(None) => return false,
            Err(_) => return true,
        }
    }
}

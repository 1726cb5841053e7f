//! The accept file is taken up while requests flow, however it is changed, and a bad one changes nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use broker_client::audit::verify_lines;
use broker_client::status::StatusSnapshot;
use broker_tests::broker::{Agent, AgentSetup, Server, Site};
use broker_tests::caller::Caller;
use broker_tests::digest::Digest;
use broker_tests::origin::{Answer, Origin};
use broker_tests::programs::{AgentProcess, ServerProcess, Signal};
use broker_tests::volume::{kubelet_writes, mounted};
use broker_tests::wait::{took, within};
use http::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How soon a new file is promised to be live.
const LIVE: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_file_that_is_renamed_into_place_is_live_at_once() {
    let broker = Broker::start().await;
    for rules in [2, 3] {
        broker.becomes_live(rules, || broker.rename(rules)).await;
    }
}

#[tokio::test]
async fn a_file_that_is_written_in_place_is_live_at_once() {
    let broker = Broker::start().await;
    for rules in [2, 3] {
        let write = || fs::write(&broker.file, broker.rules(rules)).unwrap();
        broker.becomes_live(rules, write).await;
    }
}

#[tokio::test]
async fn a_file_that_is_deleted_stays_in_force_and_its_successor_is_live_at_once() {
    let broker = Broker::start().await;

    fs::remove_file(&broker.file).unwrap();

    let said = broker.refused_with("cannot be read").await;
    assert_eq!(broker.status_of(1).await, 200, "{said}");
    let write = || fs::write(&broker.file, broker.rules(2)).unwrap();
    broker.becomes_live(2, write).await;
}

#[tokio::test]
async fn a_folder_that_is_replaced_is_live_at_once() {
    let broker = Broker::in_folder(|folder, rules| {
        fs::create_dir(folder.join("rules")).unwrap();
        fs::write(folder.join("rules/accept.json"), rules).unwrap();
        folder.join("rules/accept.json")
    })
    .await;
    let rules = broker.file.parent().unwrap();
    for count in [2, 3] {
        let [new, old] =
            [format!("new{count}"), format!("old{count}")].map(|name| rules.with_file_name(name));
        fs::create_dir(&new).unwrap();
        fs::write(new.join("accept.json"), broker.rules(count)).unwrap();
        let swap = || {
            fs::rename(rules, &old).unwrap();
            fs::rename(&new, rules).unwrap();
        };
        broker.becomes_live(count, swap).await;
    }
}

#[tokio::test]
async fn a_kubernetes_volume_that_is_swapped_is_live_at_once() {
    let broker = Broker::in_folder(|folder, rules| mounted(folder, "accept.json", &rules)).await;
    let mount = broker.file.parent().unwrap();
    for rules in [2, 3, 4] {
        let swap = || kubelet_writes(mount, rules, "accept.json", &broker.rules(rules));
        broker.becomes_live(rules, swap).await;
    }
}

#[tokio::test]
async fn no_request_fails_while_the_rules_change_ten_times() {
    let broker = Broker::start().await;
    let is_over = Arc::new(AtomicBool::new(false));
    let mut workers = JoinSet::new();
    for _ in 0..4 {
        let (caller, is_over) = (broker.server.caller(), Arc::clone(&is_over));
        workers.spawn(async move {
            let mut statuses = Vec::new();
            while statuses.len() < 50 || !is_over.load(Ordering::Relaxed) {
                statuses.push(status(&caller, 1).await);
            }
            statuses
        });
    }

    for rules in 2..12 {
        broker.becomes_live(rules, || broker.rename(rules)).await;
    }

    is_over.store(true, Ordering::Relaxed);
    let statuses = within("the requests' end", workers.join_all())
        .await
        .concat();
    assert!(statuses.len() >= 200, "{}", statuses.len());
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    let lines = broker.agent.stop().await;
    let count = |kind: &str| lines.iter().filter(|line| line["kind"] == kind).count();
    assert_eq!(count("rules-loaded"), 10);
    assert_eq!(count("rules-refused"), 0);
}

#[tokio::test]
async fn connections_to_origins_outlive_the_rules() {
    let broker = Broker::start().await;
    assert_eq!(broker.status_of(1).await, 200);
    for rules in [2, 3] {
        broker.becomes_live(rules, || broker.rename(rules)).await;
    }
    assert_eq!(broker.origin.connections(), 1);
}

#[tokio::test]
async fn a_download_that_began_before_the_rules_changed_is_finished() {
    let origin = Origin::scripted().await;
    let broker = Broker::of(origin, in_own_folder, |setup| setup).await;
    let caller = broker.server.caller();
    let begin = async {
        let mut exchange = broker.origin.next().await;
        exchange.start_chunked(200, &[]).await;
        exchange.send_chunk(b"before ").await;
        exchange
    };
    let path = path(1);
    let (mut answer, mut exchange) = tokio::join!(caller.get(&path), begin);
    assert_eq!(answer.chunk().await.unwrap(), "before ");

    let nothing = || fs::write(&broker.file, r#"{"private": []}"#).unwrap();
    broker.live(0, nothing).await;

    assert_eq!(broker.status_of(1).await, 403);
    exchange.send_chunk(b"after").await;
    exchange.finish_chunked(&[]).await;
    assert_eq!(answer.text().await, "after");
}

#[tokio::test]
async fn a_bad_file_is_told_everywhere_and_leaves_the_last_good_one_in_force() {
    const SECRET: &str = "canary-in-userinfo";
    let broker = Broker::start().await;
    let health = async || {
        let answer = Caller::to(broker.agent.local).get("/healthcheck").await;
        assert_eq!(answer.status(), 200);
        answer.json().await[0]["rulesRefusedSince"].clone()
    };
    assert_eq!(health().await, Value::Null);

    let origin = format!("https://u:{SECRET}@127.0.0.1?no=query");
    let rule = json!({"method": "GTE", "path": "/*", "origin": origin});
    fs::write(&broker.file, json!({"private": [rule]}).to_string()).unwrap();

    let said = broker.refused_with("private[0]").await;
    assert!(said.contains("and 1 more, see the log"), "{said}");
    let snapshot = broker.agent.board.snapshot();
    assert_eq!(snapshot.connections[0].accept.private_rules, 1);
    assert!(snapshot.to_string().contains(&said), "{snapshot}");
    assert_eq!(
        health().await,
        snapshot.connections[0]
            .accept
            .refused
            .as_ref()
            .unwrap()
            .time
    );
    let ready = Caller::to(broker.agent.local).get("/readyz").await;
    assert_eq!(ready.status(), 200);
    assert_eq!(broker.status_of(1).await, 200);

    fs::write(&broker.file, broker.rules(1)).unwrap();
    within(
        "the good file is seen",
        broker.until(|now| now.connections[0].accept.refused.is_none()),
    )
    .await;
    assert_eq!(health().await, Value::Null);
    let log = broker.agent.audit_bytes();
    assert!(!String::from_utf8(log).unwrap().contains(SECRET));
    assert!(!said.contains(SECRET), "{said}");
}

#[tokio::test]
async fn each_change_is_on_record_before_the_first_decision_by_it() {
    let broker = Broker::start().await;
    assert_eq!(broker.status_of(2).await, 403);
    broker.live(2, || broker.rename(2)).await;
    assert_eq!(broker.status_of(2).await, 200);
    fs::write(&broker.file, "{").unwrap();
    broker.refused_with("line 1").await;
    broker.live(3, || broker.rename(3)).await;
    assert_eq!(broker.status_of(3).await, 200);
    let [first, second, third] = [1, 2, 3].map(|count| sha256(&broker.rules(count)));

    let file = broker.file.display().to_string();
    let log = broker.agent.folder().join("data/default/audit.jsonl");
    // An outcome may come after the answer that it is about.
    let mut lines = broker.agent.audit("");
    lines.retain(|line| line["kind"] != "outcome");

    let kinds: Vec<_> = lines
        .iter()
        .map(|line| line["kind"].as_str().unwrap())
        .collect();
    assert_eq!(
        kinds,
        [
            "start",
            "decision",
            "rules-loaded",
            "decision",
            "rules-refused",
            "rules-loaded",
            "decision"
        ]
    );
    assert_eq!(lines[0]["connections"][0]["accept_sha256"], first);
    let loaded = &lines[2];
    assert_eq!(loaded["agent"], "sonarqube");
    assert_eq!(loaded["path"], file);
    assert_eq!(loaded["sha256"], second);
    assert_eq!(loaded["previous_sha256"], first);
    assert_eq!(
        (&loaded["private_rules"], &loaded["public_rules"]),
        (&json!(2), &json!(0))
    );
    assert_eq!(
        (&lines[3]["verdict"], &lines[3]["rule"]),
        (&json!("allow"), &json!(1))
    );
    let refused = &lines[4];
    assert_eq!(refused["path"], file);
    assert_eq!(refused["sha256"], sha256("{"));
    assert_eq!(refused["in_force_sha256"], second);
    assert!(
        refused["error"].as_str().unwrap().contains("line 1"),
        "{refused}"
    );
    assert_eq!(lines[5]["sha256"], third);
    assert_eq!(lines[5]["previous_sha256"], second);
    assert_eq!(
        broker.agent.board.snapshot().connections[0]
            .accept
            .sha256
            .as_deref(),
        Some(third.as_str())
    );
    verify_lines(fs::read(log).unwrap().as_slice()).unwrap();
}

#[tokio::test]
async fn rules_that_cannot_be_put_on_record_do_not_come_into_force() {
    let broker = Broker::start().await;
    let log = broker.agent.folder().join("data/default/audit.jsonl");
    let aside = log.with_extension("aside");
    fs::rename(&log, &aside).unwrap();
    // Not even root can append to a folder.
    fs::create_dir(&log).unwrap();

    broker.rename(2);

    broker.refused_with("cannot be put on record").await;
    assert_eq!(
        broker.agent.board.snapshot().connections[0]
            .accept
            .private_rules,
        1
    );
    let works_again = || {
        fs::remove_dir(&log).unwrap();
        fs::rename(&aside, &log).unwrap();
    };
    broker.live(2, works_again).await;
    assert_eq!(broker.status_of(2).await, 200);
    assert_eq!(broker.agent.audit("rules-loaded").len(), 1);
}

#[tokio::test]
async fn a_hangup_signal_has_the_file_read_and_ends_nothing() {
    let origin = Origin::answering(|_| Answer::json("{}")).await;
    let server = ServerProcess::start(Site::simple()).await;
    let agent = AgentProcess::start(&AgentSetup::with_rules(rules(&origin, 1)), &server).await;

    agent.child().signal(Signal::HUP);

    let said = "the accept file is as it was when it was last read";
    agent.child().stderr().line_with(said).await;
    assert_eq!(status(&server.caller(), 1).await, 200);
}

#[tokio::test]
async fn an_accept_file_that_was_not_there_at_the_start_lets_nothing_through() {
    let origin = Origin::answering(|_| Answer::json("{}")).await;
    let server = ServerProcess::start(Site::simple()).await;
    let agent = AgentProcess::start(&AgentSetup::without_rules(), &server).await;
    fs::write(
        agent.folder().join("accept.json"),
        rules(&origin, 1).to_string(),
    )
    .unwrap();

    agent.child().signal(Signal::HUP);

    let said = "there is no accept file to read again (set ACCEPT and restart)";
    agent.child().stderr().line_with(said).await;
    assert_eq!(status(&server.caller(), 1).await, 403);
}

#[tokio::test]
async fn all_access_can_be_taken_away_also_where_settings_name_origins() {
    let origin = Origin::answering(|_| Answer::json("{}")).await;
    let setting = format!(
        "origins: {{\"{}\": {{encoded-slash: refuse}}}}",
        origin.url()
    );
    let broker = Broker::of(origin, in_own_folder, |setup| setup.setting(&setting)).await;
    assert_eq!(broker.status_of(1).await, 200);

    let elsewhere = json!({"private": [{"path": "/*", "origin": "http://127.0.0.1:1"}]});
    fs::write(&broker.file, elsewhere.to_string()).unwrap();
    broker.refused_with("no rule has the origin").await;
    broker
        .live(0, || fs::write(&broker.file, "{}").unwrap())
        .await;

    assert_eq!(broker.status_of(1).await, 403);
}

/// A server, and an agent whose accept file is the test's to change.
struct Broker {
    origin: Origin,
    server: Server,
    agent: Agent,
    file: PathBuf,
    _folder: TempDir,
}

impl Broker {
    async fn start() -> Self {
        Self::in_folder(in_own_folder).await
    }

    /// With an accept file where `place` puts it.
    async fn in_folder(place: impl FnOnce(&Path, String) -> PathBuf) -> Self {
        let origin = Origin::answering(|_| Answer::json("{}")).await;
        Self::of(origin, place, |setup| setup).await
    }

    async fn of(
        origin: Origin,
        place: impl FnOnce(&Path, String) -> PathBuf,
        adjust: impl FnOnce(AgentSetup) -> AgentSetup,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = place(folder.path(), rules(&origin, 1).to_string());
        let server = Server::start(Site::simple()).await;
        let setup = AgentSetup::without_rules().variable("ACCEPT", &file.display().to_string());
        let agent = adjust(setup).start(&server).await;
        Self {
            origin,
            server,
            agent,
            file,
            _folder: folder,
        }
    }

    /// The text of an accept file with so many rules; the n-th allows [`path`] n.
    fn rules(&self, count: usize) -> String {
        rules(&self.origin, count).to_string()
    }

    /// Puts such a file in place as editors do.
    fn rename(&self, rules: usize) {
        let new = self.file.with_extension("new");
        fs::write(&new, self.rules(rules)).unwrap();
        fs::rename(&new, &self.file).unwrap();
    }

    /// Waits until so many rules are in force after `change`, in the time that is promised.
    async fn live(&self, rules: usize, change: impl FnOnce()) {
        let changed = Instant::now();
        change();
        let live = self.until(|now| now.connections[0].accept.private_rules == rules);
        within("the new rules in force", live).await;
        took("new rules come into force", changed.elapsed(), LIVE);
    }

    /// The same, and asks for what the last of them allows.
    async fn becomes_live(&self, rules: usize, change: impl FnOnce()) {
        assert_eq!(self.status_of(rules).await, 403);
        self.live(rules, change).await;
        assert_eq!(self.status_of(rules).await, 200);
    }

    /// Waits until the file is refused for a reason with this in it, and returns the reason.
    async fn refused_with(&self, part: &str) -> String {
        let reason = |now: &StatusSnapshot| {
            let refused = now.connections[0].accept.refused.as_ref();
            refused
                .map(|refused| refused.text.clone())
                .unwrap_or_default()
        };
        let refused = self.until(|now| reason(now).contains(part));
        within("the file is refused", refused).await;
        reason(&self.agent.board.snapshot())
    }

    async fn until(&self, wanted: impl Fn(&StatusSnapshot) -> bool) {
        self.agent.board.until(wanted).await;
    }

    async fn status_of(&self, rule: usize) -> StatusCode {
        status(&self.server.caller(), rule).await
    }
}

fn in_own_folder(folder: &Path, rules: String) -> PathBuf {
    let file = folder.join("accept.json");
    fs::write(&file, rules).unwrap();
    file
}

fn rules(origin: &Origin, count: usize) -> Value {
    let rule = |number| json!({"path": format!("/api/{number}"), "origin": origin.url()});
    json!({"private": (1..=count).map(rule).collect::<Vec<_>>()})
}

fn path(rule: usize) -> String {
    format!("/broker/sonarqube/api/{rule}")
}

async fn status(caller: &Caller, rule: usize) -> StatusCode {
    caller.get(&path(rule)).await.status()
}

fn sha256(text: &str) -> String {
    Digest::of(text.as_bytes()).sha256
}

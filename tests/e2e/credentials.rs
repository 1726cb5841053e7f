//! Credentials that change while the agent runs (SECURITY.md): what is new is in use soon, and no request fails for it.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use broker_client::status::CredentialSource;
use broker_tests::broker::{Agent, AgentSetup, Server, Site};
use broker_tests::caller::{Caller, body};
use broker_tests::origin::{Answer, Origin};
use broker_tests::volume::{kubelet_writes, mounted};
use broker_tests::wait::{took, within};
use http::{Method, Request};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How soon a new value is promised to be in use.
const IN_USE: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_mounted_token_is_swapped_ten_times_under_load_and_no_request_fails() {
    let folder = tempfile::tempdir().unwrap();
    let token = mounted(folder.path(), "token", "version-1");
    let broker = Broker::start(bearer(&from_file(&token)), |setup| setup).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let mut workers = JoinSet::new();
    for _ in 0..4 {
        let (caller, is_over) = (broker.server.caller(), Arc::clone(&is_over));
        workers.spawn(async move {
            let mut statuses = Vec::new();
            while statuses.len() < 50 || !is_over.load(Ordering::Relaxed) {
                statuses.push(caller.get(PATH).await.status());
            }
            statuses
        });
    }

    for version in 2..12 {
        let swap = || {
            kubelet_writes(
                folder.path(),
                version,
                "token",
                &format!("version-{version}"),
            )
        };
        broker.in_use(swap).await;
        assert_eq!(broker.sent().await, format!("Bearer version-{version}"));
    }

    is_over.store(true, Ordering::Relaxed);
    let statuses = within("the requests' end", workers.join_all())
        .await
        .concat();
    assert!(statuses.len() >= 200, "{}", statuses.len());
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    for request in broker.origin.requests() {
        let value = request.head.value("authorization").unwrap();
        let version = value.strip_prefix("Bearer version-").unwrap();
        assert!((1..12).contains(&version.parse().unwrap()), "{value}");
    }
}

#[tokio::test]
async fn a_file_that_is_written_in_place_is_never_used_half() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    fs::write(&token, "first").unwrap();
    let broker = Broker::start(bearer(&from_file(&token)), |setup| setup).await;

    broker.in_use(|| fs::write(&token, "second").unwrap()).await;

    assert_eq!(broker.sent().await, "Bearer second");
}

#[tokio::test]
async fn a_token_that_ends_as_its_successor_is_mounted_fails_no_request_that_may_be_repeated() {
    let good_from = Arc::new(AtomicUsize::new(1));
    let accepted = Arc::clone(&good_from);
    let origin = Origin::answering(move |request| {
        let value = request.head.value("authorization").unwrap();
        let version: usize = value
            .strip_prefix("Bearer version-")
            .unwrap()
            .parse()
            .unwrap();
        let is_good = version >= accepted.load(Ordering::SeqCst);
        Answer::new(if is_good { 200 } else { 401 }, &[], "")
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let token = mounted(folder.path(), "token", "version-1");
    let rules = rules(&origin, bearer(&from_file(&token)));
    let broker = Broker::of(origin, rules, |setup| setup).await;
    let caller = broker.server.caller();

    for version in 2..6 {
        assert_eq!(caller.get(PATH).await.status(), 200);
        kubelet_writes(
            folder.path(),
            version,
            "token",
            &format!("version-{version}"),
        );
        good_from.store(version, Ordering::SeqCst);
        assert_eq!(caller.get(PATH).await.status(), 200);
    }
}

#[tokio::test]
async fn a_refused_credential_is_renewed_and_a_request_with_a_body_is_not_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    fs::write(&token, "old").unwrap();
    let good = |value: &str| Answer::new(if value == "Bearer new" { 200 } else { 401 }, &[], "");
    let command = format!(
        "credentials: {{exec: {{eks: {{command: [/bin/cat, {}]}}}}}}",
        token.display()
    );

    for (method, statuses) in [(Method::GET, [200, 200]), (Method::POST, [401, 200])] {
        fs::write(&token, "old").unwrap();
        let origin =
            Origin::answering(move |request| good(&request.head.value("authorization").unwrap()))
                .await;
        let rule = json!({"method": "any", "path": "/a", "origin": origin.url(), "auth": bearer("${exec:eks}")});
        let broker = Broker::of(origin, json!({"private": [rule]}), |setup| {
            setup.setting(&command)
        })
        .await;
        broker.until(|sources| sources.len() == 1).await;
        fs::write(&token, "new").unwrap();
        let send = async || {
            let body = if method == Method::POST {
                body::full("once")
            } else {
                body::empty()
            };
            let request = Request::builder()
                .method(&method)
                .uri(PATH)
                .body(body)
                .unwrap();
            broker.server.caller().send(request).await.status()
        };

        let before = broker.sources();
        assert_eq!(send().await, statuses[0]);
        broker
            .until(|sources| sources[0].since != before[0].since)
            .await;
        assert_eq!(send().await, statuses[1]);

        let seen: Vec<_> = broker
            .origin
            .requests()
            .iter()
            .map(|request| request.head.value("authorization").unwrap())
            .collect();
        let expected: &[&str] = match statuses[0] {
            200 => &["Bearer old", "Bearer new", "Bearer new"],
            _ => &["Bearer old", "Bearer new"],
        };
        assert_eq!(seen, expected);
        let outcomes = broker.agent.stop().await;
        let outcomes: Vec<_> = outcomes
            .iter()
            .filter(|line| line["kind"] == "outcome")
            .collect();
        assert_eq!(outcomes[0]["renewed"], statuses[0] == 200);
        assert_eq!(outcomes[0]["status"], statuses[0]);
        assert_eq!(outcomes[1]["renewed"], false);
    }
}

#[tokio::test]
async fn an_origin_that_refuses_every_value_gets_each_request_once() {
    let origin = Origin::answering(|_| Answer::new(401, &[], "")).await;
    let rules = rules(&origin, bearer("${exec:eks}"));
    let command = "credentials: {exec: {eks: {command: [/bin/echo, a]}}}";
    let broker = Broker::of(origin, rules, |setup| setup.setting(command)).await;
    for _ in 0..5 {
        assert_eq!(broker.server.caller().get(PATH).await.status(), 401);
    }
    assert_eq!(broker.origin.requests().len(), 5);
}

#[tokio::test]
async fn the_audit_log_tells_versions_of_a_credential_apart() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    fs::write(&token, "first").unwrap();
    let broker = Broker::start(bearer(&from_file(&token)), |setup| setup).await;
    broker.sent().await;
    broker.sent().await;
    broker.in_use(|| fs::write(&token, "second").unwrap()).await;
    broker.sent().await;
    broker.in_use(|| fs::write(&token, "first").unwrap()).await;
    broker.sent().await;
    assert_eq!(broker.server.caller().get(OTHER_PATH).await.status(), 200);

    let lines = broker.agent.stop().await;
    let outcomes = lines.iter().filter(|line| line["kind"] == "outcome");
    let shown: Vec<_> = outcomes.map(|line| line["credential"].as_str()).collect();
    let [Some(first), again, Some(second), back, None] = shown[..] else {
        panic!("{shown:?}");
    };
    assert_eq!((again, back), (Some(first), Some(first)));
    assert_ne!(first, second);
    assert_eq!(first.len(), 16);
}

#[tokio::test]
async fn a_file_without_a_credential_refuses_its_requests_alone_until_it_has_one() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    fs::write(&token, "first").unwrap();
    let broker = Broker::start(bearer(&from_file(&token)), |setup| setup).await;
    let two_lines = "second\nthird";
    let too_long = "x".repeat(16 * 1024 + 1);

    for (content, why) in [
        ("", "is empty"),
        ("\n", "is empty"),
        (two_lines, "holds a line break"),
        (&too_long, "has more than 16384 bytes"),
    ] {
        fs::write(&token, content).unwrap();
        broker.fails_with(why).await;
        broker.is_unavailable().await;
    }
    fs::remove_file(&token).unwrap();
    broker.fails_with("cannot be read").await;
    broker.is_unavailable().await;
    assert_eq!(broker.server.caller().get(OTHER_PATH).await.status(), 200);
    let status = broker.agent.board.snapshot().to_string();
    assert!(
        status.contains(&format!("file {} UNAVAILABLE", token.display())),
        "{status}"
    );

    broker.in_use(|| fs::write(&token, "fourth").unwrap()).await;
    assert_eq!(broker.sent().await, "Bearer fourth");
    let outcomes = broker.agent.audit("outcome");
    let refused = &outcomes[0];
    assert_eq!(refused["error"], "credential-unavailable");
    assert_eq!(refused["ended"], "not-sent");
    assert_eq!(refused["injected"], false);
}

#[tokio::test]
async fn a_file_that_is_not_there_at_the_start_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    let broker = Broker::start(bearer(&from_file(&token)), |setup| setup).await;
    broker.fails_with("cannot be read").await;
    broker.is_unavailable().await;

    broker.in_use(|| fs::write(&token, "late").unwrap()).await;

    assert_eq!(broker.sent().await, "Bearer late");
}

#[tokio::test]
async fn a_file_can_stand_wherever_a_credential_can_and_loses_one_newline() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let unix = file("unix", "s3cret\n");
    let windows = file("windows", " s3cret \r\n");
    let variable = |setup: AgentSetup| setup.variable("TOKEN_FILE", &unix);
    for (auth, sent) in [
        (bearer("${TOKEN}"), "Bearer s3cret"),
        (bearer(&format!("${{file:{windows}}}:")), "Bearer  s3cret :"),
        (
            json!({"scheme": "basic", "username": "${TOKEN}", "password": format!("${{file:{unix}}}")}),
            // s3cret:s3cret
            "Basic czNjcmV0OnMzY3JldA==",
        ),
    ] {
        let broker = Broker::start(auth, variable).await;
        assert_eq!(broker.sent().await, sent);
    }
    let origin = origin().await;
    let userinfo = format!("http://robot:${{file:{unix}}}@{}", origin.address());
    let rules = json!({"private": [{"path": "/a", "origin": userinfo}]});
    let broker = Broker::of(origin, rules, variable).await;
    // robot:s3cret
    assert_eq!(broker.sent().await, "Basic cm9ib3Q6czNjcmV0");
}

#[tokio::test]
async fn a_pools_values_take_turns_over_all_rules_and_their_changes() {
    let pool = |setup: AgentSetup| {
        let setup = setup.variable("TOKEN", "alone");
        setup.variable("TOKEN_POOL", "first, second,third")
    };
    let broker = Broker::start(bearer("${TOKEN}"), pool).await;
    for value in ["first", "second", "third", "first"] {
        assert_eq!(broker.sent().await, format!("Bearer {value}"));
    }

    let raw = json!({"scheme": "raw", "token": "${TOKEN}"});
    let rule = json!({"path": "/a", "origin": broker.origin.url(), "auth": raw});
    broker.rewrite(&json!({ "private": [rule] }));
    let changed = broker
        .agent
        .board
        .until(|now| now.connections[0].accept.private_rules == 1);
    within("the new rules in force", changed).await;

    for value in ["second", "third", "first"] {
        assert_eq!(broker.sent().await, value);
    }
}

#[tokio::test]
async fn a_commands_output_is_the_credential_and_its_failure_refuses_alone() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    fs::write(&token, "printed\n").unwrap();
    // Expired at once, so that each request is another run.
    let setting = format!(
        "credentials: {{exec: {{eks: {{command: [/bin/cat, \"{}\"], cache: 1ms}}}}}}",
        token.display()
    );
    let broker = Broker::start(bearer("${exec:eks}:"), |setup| setup.setting(&setting)).await;
    assert_eq!(broker.sent().await, "Bearer printed:");

    fs::remove_file(&token).unwrap();
    broker.is_unavailable().await;
    broker.fails_with("failed with exit status: 1").await;

    assert_eq!(broker.server.caller().get(OTHER_PATH).await.status(), 200);
}

#[tokio::test]
async fn sources_stay_when_the_rules_change_and_go_with_the_last_rule() {
    let folder = tempfile::tempdir().unwrap();
    let [first, second] = ["first", "second"].map(|name| {
        let path = folder.path().join(name);
        fs::write(&path, name).unwrap();
        path
    });
    let broker = Broker::start(bearer(&from_file(&first)), |setup| setup).await;
    let [before] = &broker.sources()[..] else {
        panic!("{:?}", broker.sources());
    };
    let rules = |tokens: &[&Path]| {
        let rule = |token: &&Path| json!({"path": "/a", "origin": broker.origin.url(), "auth": bearer(&from_file(token))});
        json!({"private": tokens.iter().map(rule).collect::<Vec<_>>()})
    };

    broker.rewrite(&rules(&[&first, &second]));
    broker.until(|sources| sources.len() == 2).await;
    assert_eq!(broker.sources()[0], *before);
    broker.rewrite(&rules(&[&second]));
    broker.until(|sources| sources.len() == 1).await;

    broker.in_use(|| fs::write(&second, "third").unwrap()).await;
    assert_eq!(broker.sent().await, "Bearer third");
}

#[tokio::test]
async fn a_value_that_could_come_from_two_places_or_a_place_that_depends_stops_the_start() {
    let server = Server::start(Site::simple()).await;
    for (variables, origin, said) in [
        (
            &[][..],
            "http://${exec:eks}@a",
            "auth: \"${exec:eks}\" is not in the settings' \"credentials.exec\" (did you mean \"eks1\"?)",
        ),
        (
            &[("TOKEN", "a"), ("TOKEN_FILE", "/run/token")],
            "http://a",
            "auth: TOKEN and TOKEN_FILE are both set (keep one of the two)",
        ),
        (
            &[("TOKEN_FILE", "hunter2")],
            "http://a",
            "auth: TOKEN_FILE is no absolute path (write /run/secrets/TOKEN)",
        ),
        (
            &[("TOKEN", "a"), ("HOST_FILE", "/run/host")],
            "http://${HOST}",
            "origin: HOST_FILE is set, but an origin has neither pools nor files (set HOST alone)",
        ),
        (
            &[("TOKEN", "a"), ("HOST", "a"), ("HOST_POOL", "a,b")],
            "http://${HOST}",
            "origin: HOST_POOL is set, but an origin has neither pools nor files (set HOST alone)",
        ),
        (
            &[("TOKEN_POOL", "a,b"), ("TOKEN_FILE", "/run/token")],
            "http://a",
            "auth: TOKEN_POOL and TOKEN_FILE are both set (keep one of the two)",
        ),
    ] {
        let mut rule = json!({"path": "/a", "origin": origin});
        if !origin.contains('@') {
            rule["auth"] = bearer("${TOKEN}");
        }
        let mut setup = AgentSetup::with_rules(json!({"private": [rule]}))
            .setting("credentials: {exec: {eks1: {command: [/bin/true]}}}");
        for (name, value) in variables {
            setup = setup.variable(name, value);
        }
        let error = setup.try_start(&server).await.err().unwrap().to_string();
        assert!(
            error.ends_with(&format!("accept.json: private[0]: {said}")),
            "{error}"
        );
    }
}

const PATH: &str = "/broker/sonarqube/a";
/// What needs no credential.
const OTHER_PATH: &str = "/broker/sonarqube/other";

/// A server, and an agent whose rule for [`PATH`] has a credential.
struct Broker {
    origin: Origin,
    server: Server,
    agent: Agent,
}

impl Broker {
    async fn start(auth: Value, adjust: impl FnOnce(AgentSetup) -> AgentSetup) -> Self {
        let origin = origin().await;
        let rules = rules(&origin, auth);
        Self::of(origin, rules, adjust).await
    }

    async fn of(
        origin: Origin,
        rules: Value,
        adjust: impl FnOnce(AgentSetup) -> AgentSetup,
    ) -> Self {
        let server = Server::start(Site::simple()).await;
        let agent = adjust(AgentSetup::with_rules(rules)).start(&server).await;
        Self {
            origin,
            server,
            agent,
        }
    }

    /// What the origin sees as `Authorization` of a request that begins now.
    async fn sent(&self) -> String {
        let id = format!("sent-{}", self.origin.requests().len());
        let caller: Caller = self.server.caller().with_header("x-test", &id);
        assert_eq!(caller.get(PATH).await.status(), 200);
        let requests = self.origin.requests();
        let ours = requests
            .iter()
            .find(|request| request.head.value("x-test").as_ref() == Some(&id));
        ours.unwrap()
            .head
            .value("authorization")
            .unwrap()
            .to_owned()
    }

    async fn is_unavailable(&self) {
        let before = self.origin.requests().len();
        let answer = self.server.caller().get(PATH).await;
        assert_eq!(answer.status(), 502);
        assert_eq!(
            answer.header("broker-error"),
            Some("credential-unavailable")
        );
        assert_eq!(self.origin.requests().len(), before);
    }

    /// Waits until the only source holds something else that is good after `change`, in the time that is promised.
    async fn in_use(&self, change: impl FnOnce()) {
        let [before] = &self.sources()[..] else {
            panic!("{:?}", self.sources());
        };
        let changed = Instant::now();
        change();
        self.until(|now| now[0].failing.is_none() && now[0].since != before.since)
            .await;
        took("a new credential is in use", changed.elapsed(), IN_USE);
    }

    async fn fails_with(&self, why: &str) {
        let fails = |source: &CredentialSource| {
            source
                .failing
                .as_ref()
                .is_some_and(|text| text.contains(why))
        };
        self.until(|sources| sources.iter().any(fails)).await;
    }

    fn sources(&self) -> Vec<CredentialSource> {
        self.agent.board.snapshot().credentials
    }

    async fn until(&self, wanted: impl Fn(&[CredentialSource]) -> bool) {
        let until = self.agent.board.until(|now| wanted(&now.credentials));
        within("the credentials' sources as they are wanted", until).await;
    }

    /// Changes the accept file.
    fn rewrite(&self, rules: &Value) {
        let file = self.agent.folder().join("accept.json");
        let new = file.with_extension("new");
        fs::write(&new, rules.to_string()).unwrap();
        fs::rename(new, file).unwrap();
    }
}

fn rules(origin: &Origin, auth: Value) -> Value {
    json!({"private": [
        {"path": "/a", "origin": origin.url(), "auth": auth},
        {"path": "/other", "origin": origin.url()},
    ]})
}

async fn origin() -> Origin {
    Origin::answering(|_| Answer::json("{}")).await
}

fn bearer(token: &str) -> Value {
    json!({"scheme": "bearer", "token": token})
}

fn from_file(path: &Path) -> String {
    format!("${{file:{}}}", path.display())
}

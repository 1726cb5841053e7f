//! TLS towards origins that have settings of their own: client certificates, authorities, names; and what is told of it.

use std::fs;
use std::time::Duration;

use broker_client::status::CredentialSource;
use broker_protocol::ErrorCode;
use broker_tests::broker::{Agent, AgentSetup, Server, Site};
use broker_tests::certs::{Ca, Leaf};
use broker_tests::origin::{Answer, Origin};
use broker_tests::programs::Nginx;
use broker_tests::wait::{took, within};
use serde_json::json;
use tokio::time::Instant;

/// How soon a new pair of certificate and key is promised to be in use.
const IN_USE: Duration = Duration::from_secs(5);
const PATH: &str = "/broker/sonarqube/small.json";

/// An nginx that demands certificates of `clients`, and an agent that has one in files of its own.
struct Scene {
    server: Server,
    agent: Agent,
    nginx: Nginx,
    ca: Ca,
    clients: Ca,
    files: tempfile::TempDir,
}

impl Scene {
    async fn start(first: impl FnOnce(&Ca) -> Leaf) -> Self {
        let (ca, clients) = (Ca::new("origins"), Ca::new("clients"));
        let nginx = Nginx::tls_origin_demanding(&ca.loopback("nginx"), &clients).await;
        let files = tempfile::tempdir().unwrap();
        let leaf = first(&clients);
        fs::copy(&leaf.certificate, files.path().join("client.pem")).unwrap();
        fs::copy(&leaf.key, files.path().join("client.key")).unwrap();
        let tls = format!(
            "client-cert: {0}/client.pem, client-key: {0}/client.key, ca-cert: {1}",
            files.path().display(),
            ca.file().display()
        );
        let server = Server::start(Site::simple()).await;
        let agent = AgentSetup::allowing_everything(&nginx.url())
            .setting(&settings(&nginx.url(), &tls))
            .start(&server)
            .await;
        Self {
            server,
            agent,
            nginx,
            ca,
            clients,
            files,
        }
    }

    /// Whom nginx took the agent for.
    async fn seen(&self) -> String {
        let answer = self.server.caller().get(PATH).await;
        assert_eq!(answer.status(), 200);
        answer.header("client").unwrap().to_owned()
    }

    /// Replaces certificate and key, one after the other, as nobody should.
    fn replace(&self, with: &Leaf) {
        fs::copy(&with.certificate, self.file("client.pem")).unwrap();
        std::thread::sleep(Duration::from_millis(10));
        fs::copy(&with.key, self.file("client.key")).unwrap();
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.files.path().join(name)
    }

    fn source(&self) -> CredentialSource {
        self.agent.board.snapshot().credentials.remove(0)
    }

    async fn until(&self, wanted: impl Fn(&CredentialSource) -> bool) {
        let wanted = self.agent.board.until(|now| wanted(&now.credentials[0]));
        within("a change of the client certificate's state", wanted).await;
    }
}

fn settings(origin: &str, tls: &str) -> String {
    format!("origins: {{\"{origin}\": {{tls: {{{tls}}}}}}}")
}

fn named(name: &str) -> impl FnOnce(&Ca) -> Leaf {
    move |clients| clients.leaf(name, &[])
}

#[tokio::test]
async fn an_origin_that_demands_a_certificate_is_shown_the_one_of_its_settings() {
    let scene = Scene::start(named("first")).await;
    assert_eq!(scene.seen().await, "CN=first");

    let plain = AgentSetup::allowing_everything(&scene.nginx.url())
        .variable("CA_CERT", scene.ca.file().to_str().unwrap());
    let server = Server::start(Site::simple()).await;
    let _agent = plain.start(&server).await;
    assert_eq!(server.caller().get(PATH).await.status(), 400);
}

#[tokio::test]
async fn a_new_pair_is_in_use_soon_and_no_request_fails() {
    let scene = Scene::start(named("pair-0")).await;
    for pair in 1..4 {
        let name = format!("pair-{pair}");
        let leaf = scene.clients.leaf(&name, &[]);
        let before = scene.source().since;
        let start = Instant::now();
        scene.replace(&leaf);
        // Each of these succeeds, by the old pair or by the new one.
        let asking = async { while scene.seen().await != format!("CN={name}") {} };
        within("the new pair in use", asking).await;
        took("a new pair is in use", start.elapsed(), IN_USE);
        assert_ne!(scene.source().since, before);
        assert_eq!(scene.source().last_error, None);
        // Connections by the old one carry nothing anymore.
        for _ in 0..5 {
            assert_eq!(scene.seen().await, format!("CN={name}"));
        }
    }
}

#[tokio::test]
async fn a_pair_that_is_broken_leaves_the_one_before_in_use_and_says_so() {
    let scene = Scene::start(named("good")).await;
    let other = scene.clients.leaf("other", &[]);
    let whole = fs::read(scene.file("client.key")).unwrap();
    let half = &whole[..whole.len() / 2];
    for (content, why) in [
        (half, "client.key"),
        (
            &fs::read(&other.key).unwrap(),
            "is not the key of the certificate",
        ),
        (b"", "no PEM private key"),
    ] {
        fs::write(scene.file("client.key"), content).unwrap();
        let says = |source: &CredentialSource| {
            let error = source.last_error.as_ref();
            error.is_some_and(|error| error.text.contains(why))
        };
        scene.until(says).await;
        assert_eq!(scene.seen().await, "CN=good");
        assert_eq!(scene.source().failing, None);
    }
    fs::write(scene.file("client.key"), &whole).unwrap();
    scene.until(|source| source.last_error.is_none()).await;
    assert_eq!(scene.seen().await, "CN=good");
}

#[tokio::test]
async fn a_certificate_that_has_ended_is_told_and_the_origin_refuses_it() {
    let scene = Scene::start(|clients| clients.expired_leaf("ended", &[])).await;
    let warning = scene.source().warning.unwrap();
    assert!(warning.ends_with("client.pem: the certificate has expired: peers will refuse it"));
    assert_eq!(scene.server.caller().get(PATH).await.status(), 400);

    scene.replace(&scene.clients.leaf("valid", &[]));
    scene.until(|source| source.warning.is_none()).await;
    assert_eq!(scene.seen().await, "CN=valid");
}

#[tokio::test]
async fn rules_with_different_certificates_share_no_connection() {
    let (ca, clients) = (Ca::new("origins"), Ca::new("clients"));
    let nginx = Nginx::tls_origin_demanding(&ca.loopback("nginx"), &clients).await;
    let origins = ["https://${READER}", "https://${WRITER}"];
    let tls = ["reader", "writer"].map(|name| {
        let leaf = clients.leaf(name, &[]);
        let (certificate, key) = (leaf.certificate.display(), leaf.key.display());
        format!(
            "{{tls: {{client-cert: {certificate}, client-key: {key}, ca-cert: {}}}}}",
            ca.file().display()
        )
    });
    let rule = |methods, origin| json!({"path": "/**", "methods": [methods], "origin": origin});
    let rules =
        json!({"version": 2, "private": [rule("GET", origins[0]), rule("HEAD", origins[1])]});
    let server = Server::start(Site::simple()).await;
    let _agent = AgentSetup::with_rules(rules)
        .variable("READER", &nginx.address().to_string())
        .variable("WRITER", &nginx.address().to_string())
        .setting(&format!(
            "origins: {{\"{}\": {}, \"{}\": {}}}",
            origins[0], tls[0], origins[1], tls[1]
        ))
        .start(&server)
        .await;
    for _ in 0..3 {
        for (method, name) in [("GET", "CN=reader"), ("HEAD", "CN=writer")] {
            let request = http::Request::builder().method(method).uri(PATH);
            let request = request.body(broker_tests::caller::body::empty()).unwrap();
            let answer = server.caller().send(request).await;
            assert_eq!(answer.header("client"), Some(name));
        }
    }
}

#[tokio::test]
async fn beside_the_agents_certificate_nothing_of_the_callers_says_who_asks() {
    let (ca, clients) = (Ca::new("origins"), Ca::new("clients"));
    let origin = Origin::tls_answering(&ca.loopback("origin"), |_| {
        Answer::new(200, &[("set-cookie", "session=1")], "")
    })
    .await;
    let leaf = clients.leaf("agent", &[]);
    let tls = format!(
        "client-cert: {}, client-key: {}, ca-cert: {}",
        leaf.certificate.display(),
        leaf.key.display(),
        ca.file().display()
    );
    let server = Server::start(Site::simple()).await;
    let agent = AgentSetup::allowing_everything(&origin.url())
        .setting(&settings(&origin.url(), &tls))
        .start(&server)
        .await;
    let theirs = [
        "authorization",
        "cookie",
        "impersonate-user",
        "x-remote-user",
    ];
    let mut request = http::Request::get(PATH);
    for name in theirs {
        request = request.header(name, "Bearer of-the-caller");
    }
    let request = request.body(broker_tests::caller::body::empty()).unwrap();

    let answer = server.caller().send(request).await;

    assert_eq!(answer.status(), 200);
    assert_eq!(answer.header("set-cookie"), None);
    let head = &origin.requests()[0].head;
    for name in theirs {
        assert_eq!(head.value(name), None, "{name}");
    }
    let outcome = &agent.stop().await[2];
    let mut removed: Vec<_> = outcome["removed_request_headers"]
        .as_array()
        .unwrap()
        .clone();
    removed.retain(|name| theirs.iter().any(|theirs| name == theirs));
    removed.sort_by_key(|name| name.as_str().unwrap().to_owned());
    assert_eq!(removed, theirs);
}

#[tokio::test]
async fn an_origin_is_vouched_for_by_the_authority_of_its_settings_alone() {
    let (right, wrong) = (Ca::new("right"), Ca::new("wrong"));
    let origin = Origin::tls_answering(&right.loopback("origin"), |_| Answer::json("{}")).await;
    for (own, usual, is_trusted) in [(&right, &wrong, true), (&wrong, &right, false)] {
        let server = Server::start(Site::simple()).await;
        let _agent = AgentSetup::allowing_everything(&origin.url())
            .variable("CA_CERT", usual.file().to_str().unwrap())
            .setting(&settings(
                &origin.url(),
                &format!("ca-cert: {}", own.file().display()),
            ))
            .start(&server)
            .await;
        let answer = server.caller().get(PATH).await;
        if is_trusted {
            assert_eq!(answer.status(), 200);
        } else {
            answer.problem(ErrorCode::OriginUnreachable).await;
        }
    }
}

#[tokio::test]
async fn an_origins_certificate_may_have_another_name_where_the_settings_say_which() {
    let ca = Ca::new("origins");
    let leaf = ca.leaf("tool", &["tool.corp"]);
    let origin = Origin::tls_answering(&leaf, |_| Answer::json("{}")).await;
    for (name, status) in [("tool.corp", 200), ("other.corp", 502)] {
        let tls = format!("ca-cert: {}, server-name: {name}", ca.file().display());
        let server = Server::start(Site::simple()).await;
        let _agent = AgentSetup::allowing_everything(&origin.url())
            .setting(&settings(&origin.url(), &tls))
            .start(&server)
            .await;
        assert_eq!(server.caller().get(PATH).await.status(), status, "{name}");
    }
}

#[tokio::test]
async fn verification_is_off_where_the_settings_say_so_alone_which_is_warned_about() {
    let ca = Ca::new("unknown");
    let leaf = ca.expired_leaf("origin", &["x.test"]);
    let off = Origin::tls_answering(&leaf, |_| Answer::json("{}")).await;
    let on = Origin::tls_answering(&leaf, |_| Answer::json("{}")).await;
    let server = Server::start(Site::simple()).await;
    let rules = json!({"private": [
        {"path": "/off", "origin": off.url()},
        {"path": "/on", "origin": on.url()},
    ]});
    let agent = AgentSetup::with_rules(rules)
        .setting(&settings(&off.url(), "insecure-skip-verify: true"))
        .start(&server)
        .await;
    assert_eq!(
        server.caller().get("/broker/sonarqube/off").await.status(),
        200
    );
    let answer = server.caller().get("/broker/sonarqube/on").await;
    answer.problem(ErrorCode::OriginUnreachable).await;

    let warnings = agent.board.snapshot().warnings;
    let warning = format!("origins.{:?}.tls.insecure-skip-verify is on", off.url());
    assert_eq!(
        warnings
            .iter()
            .filter(|text| text.starts_with(&warning))
            .count(),
        1
    );
    assert!(!warnings.iter().any(|text| text.contains(&on.url())));
}

#[tokio::test]
async fn files_that_cannot_be_used_stop_the_start_and_are_named() {
    let ca = Ca::new("clients");
    let leaf = ca.leaf("client", &[]);
    let (certificate, key) = (leaf.certificate.display(), leaf.key.display());
    let server = Server::start(Site::simple()).await;
    for (origin, tls, expected) in [
        (
            "https://tool.test",
            format!("client-cert: {certificate}, client-key: {certificate}"),
            "holds a certificate where its private key belongs",
        ),
        (
            "https://tool.test",
            "ca-cert: /nowhere/ca.pem".to_owned(),
            "/nowhere/ca.pem: cannot be read",
        ),
        (
            "http://tool.test",
            format!("client-cert: {certificate}, client-key: {key}"),
            "which is http://",
        ),
    ] {
        let setup = AgentSetup::allowing_everything(origin).setting(&settings(origin, &tls));
        let error = setup.try_start(&server).await.err().unwrap().to_string();
        assert!(error.contains("private[0]"), "{error}");
        assert!(error.contains(expected), "{error}");
    }
}

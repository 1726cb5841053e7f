//! Customers' networks: proxies on the way out, their faults, and authorities of their own.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use broker_tests::broker::{Agent, AgentSetup, Server, Site};
use broker_tests::certs::Ca;
use broker_tests::origin::{Answer, Origin};
use broker_tests::programs::{
    AgentProcess, Doctor, ForwardProxy, NAME_BEHIND_PROXY, PROXY_PASSWORD, ServerProcess,
};
use broker_tests::scripted_proxy::{Behaviour, ScriptedProxy};
use broker_tests::wait::within;
use rustls::ServerConfig;
use rustls::version::TLS12;
use serde_json::json;
use tokio_rustls::TlsAcceptor;

/// Every kind of byte that a proxy could be tempted to change, and that rules let through.
const TARGET: &str = "/api/a%2Fb;v=1/c~d/e:f@g!$&'()*+,=/%20?q=%2F..%2F&r=/../x&s[]=%7B%7D";

#[tokio::test]
async fn through_squid_everything_goes_with_its_basic_credential() {
    everything_goes_through(ForwardProxy::squid().await).await;
}

#[tokio::test]
async fn through_tinyproxy_everything_goes_with_its_basic_credential() {
    everything_goes_through(ForwardProxy::tinyproxy().await).await;
}

/// The tunnel, an origin with TLS, and one without.
async fn everything_goes_through(proxy: ForwardProxy) {
    let ca = Ca::new("origins");
    let plain = Origin::answering(|_| Answer::json("[]")).await;
    let tls = Origin::tls_answering(&ca.loopback("origin"), |_| Answer::json("[]")).await;
    let server = Server::start(Site::simple()).await;
    let agent = AgentSetup::with_rules(json!({"private": [
        {"method": "GET", "path": "/api/*", "origin": plain.url()},
        {"method": "GET", "path": "/tls/*", "origin": tls.url()},
    ]}))
    .variable("BROKER_TUNNEL_PROXY", &proxy.url())
    .variable("BROKER_ORIGINS_PROXY", &proxy.url())
    .variable("CA_CERT", &ca.file().display().to_string())
    .start(&server)
    .await;

    let caller = server.caller();
    for target in [TARGET, "/tls/a"] {
        let answer = caller.get(&format!("/broker/sonarqube{target}")).await;
        assert_eq!(answer.status(), 200, "{target}");
    }

    // The proxy takes off what is for itself; the target is the one that was judged.
    let seen = &plain.requests()[0].head;
    assert_eq!(seen.target(), TARGET);
    assert_eq!(seen.value("proxy-authorization"), None);
    assert_eq!(seen.value("host"), Some(plain.address().to_string()));
    assert_eq!(tls.requests()[0].head.target(), "/tls/a");
    assert_password_is_not_shown(&agent);
    agent.stop().await;
    let log = proxy.end().await;
    let connect = |port: u16| format!("CONNECT localhost:{port}");
    assert!(log.contains(&connect(server.agents.port())), "{log}");
    let connect = format!("CONNECT {}", tls.address());
    assert!(log.contains(&connect), "{log}");
    assert!(log.contains(&plain.url()), "{log}");
}

#[tokio::test]
async fn through_squid_behind_tls_everything_goes_once_its_authority_is_trusted() {
    let ca = Ca::new("proxies");
    let proxy = ForwardProxy::squid_with_tls(&ca.loopback("proxy")).await;
    let origin = Origin::answering(|_| Answer::json("[]")).await;
    let server = Server::start(Site::simple()).await;
    let setup = AgentSetup::allowing_everything(&origin.url())
        .variable("BROKER_TUNNEL_PROXY", &proxy.url())
        .variable("BROKER_ORIGINS_PROXY", &proxy.url());

    let refusing = setup.try_start(&server).await.unwrap();
    let error = refusing.error_with("set NODE_EXTRA_CA_CERTS").await;
    assert!(
        error.contains("speaks no TLS that can be trusted"),
        "{error}"
    );
    assert_eq!(code(&refusing), "proxy-tls");
    let doctor = Doctor::of(&setup, &server).await;
    doctor.assert_fails("server ", "proxy", "proxy-tls", "NODE_EXTRA_CA_CERTS");
    drop(refusing);

    let setup = setup.variable("NODE_EXTRA_CA_CERTS", &ca.file().display().to_string());
    let agent = setup.start(&server).await;
    assert_reaches(&server, &origin).await;
    Doctor::of(&setup, &server).await.assert_passes();
    assert_password_is_not_shown(&agent);
}

#[tokio::test]
async fn the_usual_variables_lead_through_the_proxy_which_resolves_the_name() {
    let proxy = ForwardProxy::squid().await;
    let origin = Origin::answering(|_| Answer::json("[]")).await;
    let server = Server::start(Site::simple().without_tls()).await;
    let behind = |port: u16| format!("http://{NAME_BEHIND_PROXY}:{port}");
    let agent = AgentSetup::allowing_everything(&behind(origin.address().port()))
        .dialling(&behind(server.agents.port()))
        .variable("BROKER_TUNNEL_INSECURE_PLAINTEXT", "true")
        .variable("http_proxy", &proxy.url())
        .start(&server)
        .await;

    let answer = server.caller().get("/broker/sonarqube/x").await;

    assert_eq!(answer.status(), 200);
    assert_password_is_not_shown(&agent);
}

#[tokio::test]
async fn a_proxy_that_wants_another_credential_says_so_and_is_asked_again() {
    let proxy = ForwardProxy::squid().await;
    let server = Server::start(Site::simple()).await;
    for (userinfo, expected) in [
        ("", "wants credentials"),
        ("agent:wrong@", "does not accept the user and password"),
    ] {
        let agent = AgentSetup::without_rules()
            .variable("BROKER_TUNNEL_PROXY", &proxy.url_with(userinfo))
            .try_start(&server)
            .await
            .unwrap();

        agent.error_with(expected).await;

        assert_eq!(code(&agent), "proxy-credentials");
    }
}

#[tokio::test]
async fn the_proxys_password_is_in_no_log() {
    let proxy = ForwardProxy::tinyproxy().await;
    let origin = Origin::answering(|_| Answer::json("[]")).await;
    let server = ServerProcess::start(Site::simple()).await;
    let setup = AgentSetup::allowing_everything(&origin.url())
        .variable("BROKER_TUNNEL_PROXY", &proxy.url())
        .variable("BROKER_ORIGINS_PROXY", &proxy.url())
        .variable("LOG_LEVEL", "trace");
    let agent = AgentProcess::start(&setup, &server).await;
    let answer = server.caller().get("/broker/sonarqube/x").await;
    assert_eq!(answer.status(), 200);

    let written = [
        agent.child().stdout().text(),
        agent.child().stderr().text(),
        server.child().stderr().text(),
    ]
    .concat();

    assert!(written.contains("successfully established"), "{written}");
    let basic = STANDARD.encode(format!("agent:{PROXY_PASSWORD}"));
    for secret in [PROXY_PASSWORD, &basic] {
        assert!(!written.contains(secret), "{written}");
    }
}

#[tokio::test]
async fn each_fault_of_a_proxy_has_its_own_name_and_the_agent_comes_back_by_itself() {
    let server = Server::start(Site::simple().without_tls()).await;
    let refusing = |head: &str| Behaviour::Answer(format!("HTTP/1.1 {head}\r\n\r\n"));
    for (behaviour, expected) in [
        (Behaviour::Die, "proxy-broke-off"),
        (refusing("403 Forbidden"), "proxy-refused"),
        (refusing("503 Unavailable"), "proxy-cannot-connect"),
        (
            refusing("407 No\r\nProxy-Authenticate: Basic realm=\"x\""),
            "proxy-credentials",
        ),
        (
            refusing("407 No\r\nProxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM"),
            "proxy-authentication-unsupported",
        ),
        (Behaviour::StripUpgrade, "websocket-blocked"),
        (Behaviour::AnswerInstead, "websocket-blocked"),
        (Behaviour::Cut, "broken"),
    ] {
        fails_then_comes_back(&server, behaviour, expected).await;
    }
}

#[tokio::test]
async fn a_proxy_that_hangs_is_given_up_and_tried_again() {
    let server = Server::start(Site::simple().without_tls()).await;
    fails_then_comes_back(&server, Behaviour::Hang, "proxy-timeout").await;
}

#[tokio::test]
async fn a_proxy_that_holds_the_tunnels_bytes_back_is_named() {
    let server = Server::start(Site::simple().without_tls()).await;
    fails_then_comes_back(&server, Behaviour::HoldBack, "held-back").await;
}

#[tokio::test]
async fn a_proxy_that_cuts_each_tunnel_after_the_same_time_is_named_and_doctor_passes_it_on() {
    let server = ServerProcess::start(Site::simple().without_tls()).await;
    let proxy = ScriptedProxy::start(Behaviour::CutAfter(Duration::from_millis(1200))).await;
    let setup = AgentSetup::without_rules().variable("BROKER_TUNNEL_PROXY", &proxy.url());
    let agent = AgentProcess::start_alone(&setup, &server).await;

    let logged = agent.child().stderr().line_with("cut-regularly").await;

    let expected = "cuts each tunnel after about 1 s";
    assert!(logged.contains(expected), "{logged}");
    let status = agent.status(&[]).await;
    assert!(status.contains("(cut-regularly)"), "{status}");
    let doctor = Doctor::beside(&agent).await;
    let (verdict, _, _) = doctor.found("this machine", "agent");
    assert_eq!(verdict, "warn");
    assert!(doctor.said.contains(expected), "{}", doctor.said);
}

#[tokio::test]
async fn a_proxy_that_opens_tls_is_refused_for_its_authority_or_its_version() {
    let server = Server::start(Site::simple()).await;
    let ca = Ca::new("inspecting");
    let leaf = ca.loopback("localhost");
    let old = leaf.server_config_with(&[&TLS12]);
    for (tls, expected) in [
        (leaf.server_config(&[]), "tls-untrusted"),
        (old, "tls-version"),
    ] {
        let tls: Arc<ServerConfig> = tls;
        let behaviour = Behaviour::OpenTls(TlsAcceptor::from(tls));
        fails_then_comes_back(&server, behaviour, expected).await;
    }
}

#[tokio::test]
async fn a_proxy_that_inspects_is_let_in_by_its_authority_alone() {
    let ca = Ca::new("everything");
    let origin = Origin::tls_answering(&ca.loopback("origin"), |_| Answer::json("[]")).await;
    let proxy = ForwardProxy::mitmproxy(&ca).await;
    let server = Server::start(Site::simple().signed_by(ca)).await;
    let setup = AgentSetup::allowing_everything(&origin.url())
        .variable("BROKER_TUNNEL_PROXY", &proxy.url())
        .variable("BROKER_ORIGINS_PROXY", &proxy.url());

    let refusing = setup.try_start(&server).await.unwrap();
    let error = refusing.error_with("TLS with ").await;
    assert!(error.contains("NODE_EXTRA_CA_CERTS"), "{error}");
    assert_eq!(code(&refusing), "tls-untrusted");
    drop(refusing);

    let authority = proxy.authority().display().to_string();
    let trusting = setup.variable("NODE_EXTRA_CA_CERTS", &authority);
    let _agent = trusting.start(&server).await;
    assert_reaches(&server, &origin).await;
}

/// A request gets to the origin, with the target that it was sent with.
async fn assert_reaches(server: &Server, origin: &Origin) {
    let target = format!("/broker/sonarqube{TARGET}");
    let answer = server.caller().get(&target).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(origin.requests()[0].head.target(), TARGET);
}

/// The agent finds no way through a proxy that behaves so, says so by this code, and has its tunnels as soon as the
/// proxy does better.
async fn fails_then_comes_back(server: &Server, behaviour: Behaviour, expected: &str) {
    let proxy = ScriptedProxy::start(behaviour).await;
    let agent = AgentSetup::without_rules()
        .variable("BROKER_TUNNEL_PROXY", &proxy.url())
        .try_start(server)
        .await
        .unwrap();
    let failed = |now: &broker_client::status::StatusSnapshot| {
        let error = now.connections[0].tunnels[0].last_error.as_ref();
        error.is_some_and(|error| error.code == expected)
    };
    within(expected, agent.board.until(failed)).await;

    proxy.behave(Behaviour::Lead);

    agent.connected().await;
    let to = format!("localhost:{}", server.agents.port());
    assert!(proxy.asked().iter().all(|asked| *asked == to));
}

#[tokio::test]
async fn an_origin_behind_a_proxy_that_gives_no_way_is_unreachable() {
    let origin = Origin::answering(|_| Answer::json("[]")).await;
    let server = Server::start(Site::simple()).await;
    let wanting =
        "HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\r\n";
    for (origin, proxy) in [
        (origin.url(), Behaviour::Answer(wanting.to_owned())),
        (
            "https://tool.test".to_owned(),
            Behaviour::Answer(wanting.to_owned()),
        ),
        ("https://tool.test".to_owned(), Behaviour::Hang),
        ("https://tool.test".to_owned(), Behaviour::Die),
    ] {
        let proxy = ScriptedProxy::start(proxy).await;
        let agent = AgentSetup::allowing_everything(&origin)
            .variable("BROKER_ORIGINS_PROXY", &proxy.url())
            .variable("BROKER_CONNECT_TIMEOUT", "1s")
            .start(&server)
            .await;

        let answer = server.caller().get("/broker/sonarqube/x").await;

        assert_eq!(answer.status(), 502);
        assert_eq!(answer.json().await["code"], "origin-unreachable");
        agent.stop().await;
    }
    assert!(origin.requests().is_empty());
}

#[tokio::test]
async fn an_origin_that_is_written_as_an_address_where_none_may_lead_stops_the_agent() {
    let server = Server::start(Site::simple()).await;
    for (origin, expected) in [
        ("http://169.254.169.254", "is a cloud's metadata service"),
        (
            "http://[::ffff:169.254.169.254]",
            "is a cloud's metadata service",
        ),
        ("http://[64:ff9b::7f00:1]", "is this machine itself"),
        ("http://0.0.0.0:8080", "is no host's address"),
        ("http://2852039166", "is an address that is not written out"),
    ] {
        let setup = AgentSetup::allowing_everything(origin);
        let refused = setup.try_start(&server).await.map(drop);
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("private[0]: origin: "), "{refused}");
        assert!(refused.contains(expected), "{refused}");
    }
    let setup = AgentSetup::allowing_everything("http://169.254.10.1")
        .setting("origin-addresses: {allow: '169.254.10.0/24, fe80::1'}");
    setup.try_start(&server).await.map(drop).unwrap();
}

#[tokio::test]
async fn node_extra_ca_certs_count_for_server_and_origins() {
    let ca = Ca::new("everything");
    let origin = Origin::tls_answering(&ca.loopback("origin"), |_| Answer::json("[]")).await;
    let server = Server::start(Site::simple().signed_by(ca)).await;
    let authority = server.site.ca.file().display().to_string();
    let _agent = AgentSetup::allowing_everything(&origin.url())
        .variable("TUNNEL_CA_CERT", "")
        .variable("NODE_EXTRA_CA_CERTS", &authority)
        .start(&server)
        .await;

    let answer = server.caller().get("/broker/sonarqube/x").await;

    assert_eq!(answer.status(), 200);
}

fn code(agent: &Agent) -> String {
    let snapshot = agent.board.snapshot();
    let error = snapshot.connections[0].tunnels[0].last_error.as_ref();
    error.expect("a tunnel that failed").code.clone()
}

fn assert_password_is_not_shown(agent: &Agent) {
    let status = agent.board.snapshot();
    for shown in [
        status.to_string(),
        serde_json::to_string(&status).unwrap(),
        String::from_utf8(agent.audit_bytes()).unwrap(),
    ] {
        assert!(!shown.contains(PROXY_PASSWORD), "{shown}");
    }
}

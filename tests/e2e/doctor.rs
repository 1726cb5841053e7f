//! `broker-client doctor`, as it is built: each thing that can be wrong on the way has its own words.

use std::collections::BTreeMap;
use std::fs;

use broker_tests::broker::{AgentSetup, Server, Site, TENANT, audit_lines};
use broker_tests::certs::Ca;
use broker_tests::origin::{Answer, Origin};
use broker_tests::programs::{
    AgentProcess, Doctor, ForwardProxy, PROXY_PASSWORD, ServerProcess, free_port,
};
use broker_tests::scripted_proxy::{Behaviour, ScriptedProxy};
use futures_util::future::join_all;
use rustls::version::TLS12;
use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;

/// A server, an origin that has TLS, and an agent's set-up for both.
struct Healthy {
    server: ServerProcess,
    origin: Origin,
    setup: AgentSetup,
    /// Its file is read when the agent starts.
    _ca: Ca,
}

async fn healthy() -> Healthy {
    let ca = Ca::new("origins");
    let origin = Origin::tls_answering(&ca.loopback("origin"), |_| Answer::json("[]")).await;
    let server = ServerProcess::start(Site::simple()).await;
    let setup = AgentSetup::allowing_everything(&origin.url())
        .variable("CA_CERT", &ca.file().display().to_string());
    Healthy {
        server,
        origin,
        setup,
        _ca: ca,
    }
}

#[tokio::test]
async fn where_all_is_well_each_hop_says_so_and_nothing_is_left_behind() {
    let Healthy {
        server,
        origin,
        setup,
        _ca,
    } = healthy().await;

    let doctor = Doctor::of(&setup, &server).await;

    doctor.assert_passes();
    for (way, hop, words) in [
        (
            "this machine",
            "accept file",
            "1 private and 0 public rules",
        ),
        ("this machine", "agent", "no agent is running"),
        ("server ", "dns", "127.0.0.1"),
        ("server ", "proxy", "none on the way"),
        ("server ", "tls", "TLS 1.3, 1 certificate"),
        (
            "server ",
            "server",
            "tenant default, sees this agent come from 127.0.0.1",
        ),
        ("server ", "secret", "the server admits this name"),
        ("server ", "clock", "0 s"),
        ("origin ", "tcp", "connected"),
        ("origin ", "tls", "TLS 1.3"),
    ] {
        let (verdict, _, text) = doctor.found(way, hop);
        assert_eq!(verdict, "pass");
        assert!(text.contains(words), "{way}{hop}: {text}");
    }
    // No folder, no request to the origin, and no tunnel that a caller's request could get into.
    let folder = doctor.folder.as_ref().unwrap().path();
    assert!(!folder.join("data").exists());
    assert!(origin.requests().is_empty());
    server
        .child()
        .stderr()
        .line_with("has checked its way here")
        .await;
    assert!(!server.child().stderr().text().contains("agent connected"));
}

#[tokio::test]
async fn beside_a_running_agent_it_passes_and_disturbs_nothing() {
    let Healthy {
        server,
        setup,
        _ca,
        origin: _origin,
    } = healthy().await;
    let agent = AgentProcess::start(&setup, &server).await;

    let doctor = Doctor::beside(&agent).await;

    doctor.assert_passes();
    let (_, _, folder) = doctor.found("this machine", "data folder");
    assert!(folder.contains("in use by the running agent"), "{folder}");
    let (_, _, running) = doctor.found("this machine", "agent");
    assert!(running.contains("2 of 2 tunnels connected"), "{running}");
    let answer = server.caller().get("/broker/sonarqube/x").await;
    assert_eq!(answer.status(), 200);
    assert!(
        !server
            .child()
            .stderr()
            .text()
            .contains("agent disconnected")
    );
}

#[tokio::test]
async fn each_fault_of_a_proxy_is_named_as_in_the_agents_status() {
    let server = &ServerProcess::start(Site::simple().without_tls()).await;
    let refusing = |head: &str| Behaviour::Answer(format!("HTTP/1.1 {head}\r\n\r\n"));
    let faults = [
        (
            Behaviour::Hang,
            "proxy",
            "proxy-timeout",
            "gave no answer within 10 s",
        ),
        (Behaviour::Die, "proxy", "proxy-broke-off", "broke off"),
        (
            refusing("403 Forbidden"),
            "proxy",
            "proxy-refused",
            "refuses the way",
        ),
        (
            refusing("407 No\r\nProxy-Authenticate: Basic realm=\"x\""),
            "proxy",
            "proxy-credentials",
            "put user:password@ before the host",
        ),
        (
            refusing("407 No\r\nProxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM"),
            "proxy",
            "proxy-authentication-unsupported",
            "offers negotiate and ntlm",
        ),
        (
            Behaviour::StripUpgrade,
            "server",
            "websocket-blocked",
            "got a request without its upgrade",
        ),
        (
            Behaviour::AnswerInstead,
            "server",
            "websocket-blocked",
            "an ordinary answer came instead",
        ),
        (
            Behaviour::HoldBack,
            "server",
            "held-back",
            "nothing came through it",
        ),
        (
            Behaviour::Cut,
            "server",
            "broken",
            "cut as soon as the tunnel was open",
        ),
    ];
    let checks = faults.map(|(behaviour, hop, code, words)| async move {
        let proxy = ScriptedProxy::start(behaviour).await;
        let setup = AgentSetup::without_rules().variable("BROKER_TUNNEL_PROXY", &proxy.url());
        let doctor = Doctor::of(&setup, server).await;
        doctor.assert_fails("server ", hop, code, words);
        assert_eq!(doctor.found("server ", "tcp").0, "pass");
    });
    join_all(checks).await;
}

#[tokio::test]
async fn tls_that_is_too_old_or_not_to_be_trusted_or_over_is_told_apart() {
    let server = ServerProcess::start(Site::simple()).await;
    let (ours, other) = (Ca::new("ours"), Ca::new("other"));
    let names = ["localhost"];
    for (leaf, old, code, words) in [
        (
            ours.leaf("old", &names),
            true,
            "tls-version",
            "tunnel.tls-min: 1.2",
        ),
        (
            other.leaf("other", &names),
            false,
            "tls-untrusted",
            "set TUNNEL_CA_CERT",
        ),
        (
            ours.expired_leaf("ended", &names),
            false,
            "tls-untrusted",
            "its certificate has ended, or this machine's clock is ahead",
        ),
        (
            ours.leaf("elsewhere", &["elsewhere.example"]),
            false,
            "tls-untrusted",
            "not good for this address",
        ),
    ] {
        let tls = if old {
            leaf.server_config_with(&[&TLS12])
        } else {
            leaf.server_config(&[])
        };
        let proxy = ScriptedProxy::start(Behaviour::OpenTls(TlsAcceptor::from(tls))).await;
        let setup = AgentSetup::without_rules()
            .variable("BROKER_TUNNEL_PROXY", &proxy.url())
            .variable("TUNNEL_CA_CERT", &ours.file().display().to_string());
        let doctor = Doctor::of(&setup, &server).await;
        doctor.assert_fails("server ", "tls", code, words);
        assert_eq!(doctor.found("server ", "secret").0, "skip");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_or_does_not_admit_the_agent_is_named() {
    let site = Site::simple().agent_by_network(TENANT, "elsewhere", "203.0.113.0/24");
    let server = ServerProcess::start(site.agent(TENANT, "other")).await;
    let closed = format!("https://localhost:{}", free_port());
    let other = server.site.agent_token(TENANT, "other").expose();
    let simple = AgentSetup::without_rules;
    for (setup, hop, code, words) in [
        (
            simple().dialling(&closed),
            "tcp",
            "unreachable",
            "Connection refused",
        ),
        (
            simple().dialling("https://broker.invalid"),
            "dns",
            "dns",
            "the name broker.invalid cannot be resolved",
        ),
        (
            simple()
                .variable("BROKER_AGENT_SECRET_FILE", "")
                .variable("BROKER_AGENT_SECRET", other),
            "secret",
            "not-admitted",
            "it saw 127.0.0.1",
        ),
        (
            simple()
                .named(TENANT, "elsewhere")
                .variable("BROKER_AGENT_SECRET_FILE", ""),
            "secret",
            "not-admitted",
            "it saw 127.0.0.1",
        ),
    ] {
        let doctor = Doctor::of(&setup, &server).await;
        doctor.assert_fails("server ", hop, code, words);
        assert!(!doctor.said.contains(other));
    }
}

#[tokio::test]
async fn a_clock_that_is_wrong_is_seen_by_the_servers_date() {
    let origin = Origin::answering(|_| {
        let problem = r#"{"code": "overloaded", "status": 503}"#;
        let headers = [("Date", "Sun, 06 Nov 1994 08:49:37 GMT")];
        Answer::new(503, &headers, problem)
    })
    .await;
    let server = ServerProcess::start(Site::simple()).await;
    let setup = AgentSetup::without_rules().dialling(&origin.url());

    let doctor = Doctor::of(&setup, &server).await;

    doctor.assert_fails("server ", "server", "refused", "503");
    doctor.assert_fails("server ", "clock", "", "s ahead of the server");
}

#[tokio::test]
async fn what_is_wrong_with_an_origin_is_told_by_hop() {
    let (ours, other) = (Ca::new("ours"), Ca::new("other"));
    let tls = Origin::tls_answering(&other.loopback("origin"), |_| Answer::json("[]")).await;
    let server = ServerProcess::start(Site::simple()).await;
    let down = format!("http://localhost:{}", free_port());
    let setup = AgentSetup::with_rules(json!({"private": [
        {"path": "/down", "origin": down},
        {"path": "/tls", "origin": tls.url()},
        {"path": "/nowhere", "origin": "https://tool.invalid"},
    ]}))
    .variable("CA_CERT", &ours.file().display().to_string());

    let doctor = Doctor::of(&setup, &server).await;

    let code = "origin-unreachable";
    doctor.assert_fails(&format!("origin {down}"), "tcp", code, "Connection refused");
    doctor.assert_fails(&format!("origin {}", tls.url()), "tls", code, "set CA_CERT");
    doctor.assert_fails(
        "origin https://tool.invalid of private[2]",
        "dns",
        code,
        "lookup",
    );
    assert_eq!(doctor.found("server ", "server").0, "pass");
}

#[tokio::test]
async fn an_origin_that_refuses_the_agents_certificate_is_told_though_tls_was_agreed_on() {
    let (listener, clients, other) = (Ca::new("listener"), Ca::new("clients"), Ca::new("other"));
    // A server of our own is the origin: it judges certificates by TLS 1.3.
    let demanding = Site::simple()
        .callers_tls(listener.loopback("origin"))
        .client_ca(&clients);
    let origin = Server::start(demanding).await;
    let url = format!("https://{}", origin.callers);
    let server = ServerProcess::start(Site::simple()).await;
    for (signed_by, is_good) in [(&clients, true), (&other, false)] {
        let leaf = signed_by.leaf("agent", &[]);
        let setup = AgentSetup::allowing_everything(&url).setting(&format!(
            "origins: {{\"{url}\": {{tls: {{client-cert: {}, client-key: {}, ca-cert: {}}}}}}}",
            leaf.certificate.display(),
            leaf.key.display(),
            listener.file().display()
        ));
        let doctor = Doctor::of(&setup, &server).await;
        let way = format!("origin {url}");
        if is_good {
            assert_eq!(doctor.found(&way, "tls").0, "pass");
        } else {
            let words = "it refuses the client certificate";
            doctor.assert_fails(&way, "tls", "origin-unreachable", words);
        }
    }
}

#[tokio::test]
async fn what_is_wrong_on_this_machine_is_told_and_the_server_is_looked_at_all_the_same() {
    let server = ServerProcess::start(Site::simple()).await;
    let rule = |auth: Value| json!({"private": [{"path": "/x", "origin": "http://localhost:1", "auth": auth}]});
    let bearer = |token: &str| rule(json!({"scheme": "bearer", "token": token}));
    for (rules, hop, code, words) in [
        (
            json!({"private": [{"path": 7}]}),
            "accept file",
            "",
            "private[0]",
        ),
        (
            bearer("${NOT_SET}"),
            "variables",
            "",
            "\"NOT_SET\" is not set",
        ),
        (
            bearer("${file:/nowhere/token}"),
            "credentials",
            "credential-unavailable",
            "/nowhere/token",
        ),
    ] {
        let doctor = Doctor::of(&AgentSetup::with_rules(rules), &server).await;
        doctor.assert_fails("this machine", hop, code, words);
        assert_eq!(doctor.found("server ", "secret").0, "pass");
    }

    let file = tempfile::NamedTempFile::new().unwrap();
    let setup =
        AgentSetup::without_rules().variable("BROKER_DATA_DIR", file.path().to_str().unwrap());
    let doctor = Doctor::of(&setup, &server).await;
    doctor.assert_fails("this machine", "data folder", "", "Not a directory");

    let nameless = AgentSetup::without_rules().variable("BROKER_TOKEN", "");
    let doctor = Doctor::of(&nameless, &server).await;
    doctor.assert_fails("this machine", "settings", "", "this agent has no name");
    let usage = Doctor::run(&["--frist"], &BTreeMap::new()).await;
    assert_eq!(usage.code, 64, "{}", usage.said);
}

#[tokio::test]
async fn through_real_proxies_it_passes_and_shows_no_password() {
    for proxy in [ForwardProxy::squid().await, ForwardProxy::tinyproxy().await] {
        let Healthy {
            server,
            setup,
            _ca,
            origin: _origin,
        } = healthy().await;
        let through = |url: &str| {
            setup
                .clone()
                .variable("BROKER_TUNNEL_PROXY", url)
                .variable("BROKER_ORIGINS_PROXY", url)
        };

        let doctor = Doctor::of(&through(&proxy.url()), &server).await;
        doctor.assert_passes();
        let (_, _, text) = doctor.found("server ", "proxy");
        assert!(text.contains(&format!("leads to localhost:{}", server.agents.port())));
        assert!(!doctor.said.contains(PROXY_PASSWORD));

        let doctor = Doctor::of(&through(&proxy.url_with("agent:wr0ng@")), &server).await;
        let words = "does not accept the user and password";
        doctor.assert_fails("server ", "proxy", "proxy-credentials", words);
        doctor.assert_fails("origin ", "proxy", "origin-unreachable", words);
        assert!(!doctor.said.contains("wr0ng"));
    }
}

#[tokio::test]
async fn a_proxy_that_inspects_is_named_until_its_authority_is_trusted() {
    let server = ServerProcess::start(Site::simple()).await;
    let proxy = ForwardProxy::mitmproxy(&server.site.ca).await;
    let setup = AgentSetup::without_rules().variable("BROKER_TUNNEL_PROXY", &proxy.url());

    let doctor = Doctor::of(&setup, &server).await;
    doctor.assert_fails("server ", "tls", "tls-untrusted", "NODE_EXTRA_CA_CERTS");

    let authority = proxy.authority().display().to_string();
    let setup = setup.variable("NODE_EXTRA_CA_CERTS", &authority);
    let doctor = Doctor::of(&setup, &server).await;
    assert_eq!(
        doctor.found("server ", "server").0,
        "pass",
        "{}",
        doctor.said
    );
}

#[tokio::test]
async fn egress_lists_hosts_and_ports_and_connects_nowhere() {
    let server = ServerProcess::start(Site::simple()).await;
    let setup = AgentSetup::with_rules(json!({"private": [
        {"path": "/a", "origin": "https://user:hunter2@tool.example/base"},
        {"path": "/b", "origin": "http://inside.example:8080"},
    ]}))
    .dialling("https://broker.example:8443")
    .variable("HTTPS_PROXY", "http://agent:hunter2@proxy.example:3128")
    .variable("NO_PROXY", "inside.example");
    let (variables, _folder) = setup.prepare(&server);

    let text = Doctor::run(&["--egress"], &variables).await;
    assert_eq!(text.code, 0);
    assert_eq!(
        text.said,
        "broker.example:8443  server of sonarqube, through http://proxy.example:3128, which resolves the name and must \
         lead there\n\
         inside.example:8080  origin of private[1]\n\
         proxy.example:3128   proxy\n\
         tool.example:443     origin of private[0], through http://proxy.example:3128, which resolves the name and must \
         lead there\n"
    );

    let json = Doctor::run(&["--egress", "--json"], &variables).await;
    let destinations = json.report["destinations"].as_array().unwrap();
    assert_eq!(destinations.len(), 4);
    assert_eq!(
        destinations[0],
        json!({"host": "broker.example", "port": 8443, "through": "http://proxy.example:3128", "purpose": "server of sonarqube"})
    );
}

#[tokio::test]
async fn egress_lists_what_is_called_for_credentials_and_through_which_proxy() {
    let server = ServerProcess::start(Site::simple()).await;
    let setup = AgentSetup::with_rules(json!({"private": [
        {"path": "/a", "origin": "http://inside.example", "auth": {"scheme": "sigv4", "service": "es", "aws": "shop"}},
        {"path": "/b", "origin": "http://inside.example", "auth": {"scheme": "bearer", "token": "${oauth2:idp}"}},
    ]}))
    .setting(
        "credentials: {
           aws: {shop: {region: eu-west-1, assume-role: [{role: \"arn:aws:iam::123456789012:role/broker\"}]}, unused: {region: us-east-1}},
           oauth2: {idp: {token-url: \"https://idp.example/token\", client-id: a, client-secret: \"${A}\"}}}",
    )
    .variable("A", "hunter2")
    .dialling("https://broker.example")
    .variable("HTTPS_PROXY", "http://proxy.example:3128")
    .variable("NO_PROXY", "idp.example,inside.example");
    let (variables, _folder) = setup.prepare(&server);
    let egress = Doctor::run(&["--egress"], &variables).await;
    let lines = egress.said.lines().filter(|it| it.contains("credential "));
    let words = lines.map(|it| it.split_whitespace().collect::<Vec<_>>());
    let lines: Vec<_> = words.map(|it| it.join(" ")).collect();
    assert_eq!(
        lines,
        [
            "169.254.169.254:80 credential aws shop, of this machine: no firewall is between",
            "idp.example:443 credential oauth2 idp",
            "sts.eu-west-1.amazonaws.com:443 credential aws shop, through http://proxy.example:3128, which resolves the \
             name and must lead there",
        ],
        "{}",
        egress.said
    );
}

/// Rules for one origin, which takes `good` for a credential, and a probe of it.
fn probing(origin: &Origin, token: &str, probe: &str) -> AgentSetup {
    AgentSetup::with_rules(json!({"private": [
        {"path": "/api/*", "origin": origin.url(), "auth": {"scheme": "bearer", "token": "${TOKEN}"}},
    ]}))
    .variable("TOKEN", token)
    .setting(&format!("origins: {{\"{}\": {{probe: \"{probe}\"}}}}", origin.url()))
}

async fn guarded() -> Origin {
    Origin::answering(|request| match request.head.value("authorization") {
        Some(token) if token == "Bearer good-c4nary" => Answer::json("{}"),
        _ => Answer::new(401, &[], "who are you?"),
    })
    .await
}

#[tokio::test]
async fn a_probe_asks_the_origin_with_the_credential_and_is_on_record() {
    let server = ServerProcess::start(Site::simple()).await;
    let origin = guarded().await;

    let good = probing(&origin, "good-c4nary", "GET /api/version?key=v4lue");
    let doctor = Doctor::of(&good, &server).await;

    doctor.assert_passes();
    let (_, _, text) = doctor.found("probes", "probe");
    let expected = format!(
        "GET /api/version at {}: 200 OK, with the credential",
        origin.url()
    );
    assert_eq!(text, expected);
    for secret in ["good-c4nary", "v4lue"] {
        assert!(!doctor.said.contains(secret), "{}", doctor.said);
    }
    assert_eq!(origin.requests()[0].head.target(), "/api/version?key=v4lue");
    let audit = fs::read(
        doctor
            .folder
            .as_ref()
            .unwrap()
            .path()
            .join("data/default/audit.jsonl"),
    );
    let lines = audit_lines(&audit.unwrap(), "");
    let kinds: Vec<_> = lines
        .iter()
        .map(|line| line["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["start", "decision", "outcome", "stop"]);
    assert_eq!(lines[1]["caller"], "doctor");
    assert_eq!(lines[1]["tenant"], Value::Null);
    assert_eq!(lines[2]["status"], 200);
    assert_eq!(lines[2]["injected"], true);

    let bad = probing(&origin, "stale", "GET /api/version");
    let doctor = Doctor::of(&bad, &server).await;
    doctor.assert_fails(
        "probes",
        "probe",
        "credential-refused",
        "the credential is refused",
    );
}

#[tokio::test]
async fn a_probe_that_no_rule_allows_or_that_cannot_be_recorded_is_not_sent() {
    let server = ServerProcess::start(Site::simple()).await;
    let origin = guarded().await;

    let doctor = Doctor::of(&probing(&origin, "good-c4nary", "GET /admin"), &server).await;
    let (verdict, code, text) = doctor.found("probes", "probe");
    assert_eq!((&*verdict, &*code), ("warn", "denied"), "{}", doctor.said);
    assert!(
        text.contains("nothing was sent, since no rule allows it"),
        "{text}"
    );

    let file = tempfile::NamedTempFile::new().unwrap();
    let unrecorded = probing(&origin, "good-c4nary", "GET /api/version")
        .variable("BROKER_DATA_DIR", file.path().to_str().unwrap());
    let doctor = Doctor::of(&unrecorded, &server).await;
    let (verdict, _, text) = doctor.found("probes", "probe");
    assert_eq!(verdict, "skip");
    assert!(text.contains("could not be recorded"), "{text}");

    let setup = probing(&origin, "good-c4nary", "GET /api/version");
    let agent = AgentProcess::start(&setup, &server).await;
    let doctor = Doctor::beside(&agent).await;
    let (verdict, _, text) = doctor.found("probes", "probe");
    assert_eq!(verdict, "skip");
    assert!(
        text.contains("the running agent holds the audit log"),
        "{text}"
    );

    for probe in ["POST /api/version", "GET /api/..%2fx", "/api/version"] {
        let doctor = Doctor::of(&probing(&origin, "good-c4nary", probe), &server).await;
        assert_eq!(
            doctor.found("this machine", "settings").0,
            "fail",
            "{probe}"
        );
    }
    assert!(origin.requests().is_empty());
}

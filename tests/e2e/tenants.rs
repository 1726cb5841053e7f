//! Two tenants whose agents and callers have the same names: nothing of one opens anything of the other.

use broker_protocol::ErrorCode;
use broker_tests::broker::{AGENT, Agent, AgentSetup, CALLER, Server, Site};
use broker_tests::caller::{Answer, Caller, RawAnswer, body};
use broker_tests::certs::Ca;
use broker_tests::origin::{self, Origin};
use http::{Request, Version};

const TENANTS: [&str; 2] = ["acme", "globex"];
const PLACE: &str = "broker-authorization";

/// Two tenants on one server, each with an agent, an origin and a caller of the same names; `globex` has one more
/// agent.
struct Scene {
    server: Server,
    origins: [Origin; 2],
    agents: [Agent; 2],
    _globex_only: Agent,
}

impl Scene {
    async fn start(more: &str) -> Self {
        let site = TENANTS.iter().fold(Site::empty(), |site, tenant| {
            site.agent(tenant, AGENT).caller(tenant, CALLER, PLACE)
        });
        let site = site.agent("globex", "globex-only").setting(more);
        let server = Server::start(site).await;
        let origin = || Origin::answering(|_| origin::Answer::json("{}"));
        let origins = [origin().await, origin().await];
        let agent = async |tenant, name, origin: &Origin| {
            AgentSetup::allowing_everything(&origin.url())
                .named(tenant, name)
                .start(&server)
                .await
        };
        let agents = [
            agent("acme", AGENT, &origins[0]).await,
            agent("globex", AGENT, &origins[1]).await,
        ];
        let globex_only = agent("globex", "globex-only", &origins[1]).await;
        Self {
            server,
            origins,
            agents,
            _globex_only: globex_only,
        }
    }

    fn caller(&self, tenant: &str) -> Caller {
        self.server.caller_as(tenant, CALLER, PLACE)
    }

    /// Requests that each tenant's origin has seen.
    fn seen(&self) -> [usize; 2] {
        [0, 1].map(|tenant| self.origins[tenant].requests().len())
    }
}

async fn ask(caller: &Caller, target: &str, header: (&str, &str)) -> Answer {
    let request = Request::get(target).header(header.0, header.1);
    caller.send(request.body(body::empty()).unwrap()).await
}

#[tokio::test]
async fn each_credential_reaches_its_own_tenants_agent_alone() {
    let scene = Scene::start("").await;
    for (tenant, seen) in [("acme", [1, 0]), ("globex", [1, 1])] {
        let answer = scene.caller(tenant).get("/broker/sonarqube/a").await;
        assert_eq!(answer.status(), 200);
        assert_eq!(scene.seen(), seen);
    }
    for (agent, tenant) in scene.agents.iter().zip(TENANTS) {
        assert_eq!(agent.audit("decision")[0]["tenant"], tenant);
    }
}

#[tokio::test]
async fn a_certificate_opens_its_own_tenant_alone() {
    let (listener_ca, callers_ca) = (Ca::new("listener"), Ca::new("callers"));
    let site = TENANTS
        .iter()
        .fold(Site::empty(), |site, tenant| {
            let name = format!("[portal.{tenant}.example]");
            site.agent(tenant, AGENT)
                .caller_by_certificate(tenant, CALLER, &name, "'*'")
        })
        .setting("domain: broker.test")
        .callers_tls(listener_ca.loopback("callers-listener"))
        .client_ca(&callers_ca);
    let server = Server::start(site).await;
    let origin = Origin::answering(|_| origin::Answer::json("{}")).await;
    let setup = AgentSetup::allowing_everything(&origin.url());
    let acme = setup.named("acme", AGENT).start(&server).await;
    let setup = AgentSetup::allowing_everything(&origin.url());
    let globex = setup.named("globex", AGENT).start(&server).await;
    let on_record = || [&acme, &globex].map(|agent| agent.audit("decision").len());

    for (tenant, other, expected) in [("acme", "globex", [1, 0]), ("globex", "acme", [1, 1])] {
        let leaf = callers_ca.leaf("client", &[&format!("portal.{tenant}.example")]);
        let caller = server.stranger().with_certificate(&listener_ca, &leaf);
        assert_eq!(caller.get("/broker/sonarqube/a").await.status(), 200);
        let at_other = caller.with_header("host", &format!("{other}.broker.test"));
        let answer = at_other.get("/broker/sonarqube/a").await;
        answer.problem(ErrorCode::Unauthenticated).await;
        assert_eq!(on_record(), expected);
    }
}

#[tokio::test]
async fn no_header_of_a_caller_leads_to_another_tenant() {
    let scene = Scene::start("").await;
    for header in [
        ("broker-tenant", "globex"),
        ("broker_tenant", "globex"),
        ("broker-agent", "globex-only"),
        ("broker-caller", "somebody"),
        ("broker-request-id", "chosen-by-the-caller"),
        ("x-forwarded-host", "globex.broker.test"),
        ("forwarded", "host=globex.broker.test"),
        ("x-original-url", "/broker/globex-only/a"),
        ("x-rewrite-url", "/broker/globex-only/a"),
        ("host", "globex"),
    ] {
        let answer = ask(&scene.caller("acme"), "/broker/sonarqube/a", header).await;
        assert_eq!(answer.status(), 200, "{header:?}");
        assert_ne!(
            answer.header("broker-request-id"),
            Some("chosen-by-the-caller")
        );
    }
    assert_eq!(scene.seen()[1], 0);
    for line in scene.agents[0].audit("decision") {
        assert_eq!(
            (&line["tenant"], &line["agent"], &line["caller"]),
            (&"acme".into(), &AGENT.into(), &CALLER.into())
        );
    }
}

#[tokio::test]
async fn no_path_of_a_caller_leads_to_another_tenant() {
    let scene = Scene::start("").await;
    for (target, code) in [
        ("/broker/globex-only/a", ErrorCode::NoAgent),
        ("/broker/globex/sonarqube/a", ErrorCode::NoAgent),
        ("/broker/globex.sonarqube/a", ErrorCode::NoAgent),
        ("/broker/globex%2Fsonarqube/a", ErrorCode::NotFound),
        ("/broker/globex:sonarqube/a", ErrorCode::NotFound),
        ("/globex/broker/sonarqube/a", ErrorCode::NotFound),
        ("/broker/sonarqube/../globex-only/a", ErrorCode::BadTarget),
        ("/broker/sonarqube/..%2fglobex-only/a", ErrorCode::BadTarget),
    ] {
        scene.caller("acme").get(target).await.problem(code).await;
    }
    assert_eq!(scene.seen(), [0, 0]);
}

#[tokio::test]
async fn another_tenants_agent_looks_like_one_that_does_not_exist() {
    let scene = Scene::start("").await;
    let mut answers = Vec::new();
    for name in ["globex-only", "no-such-one"] {
        let answer = scene.caller("acme").get(&format!("/broker/{name}/a")).await;
        let mut headers = answer.headers().clone();
        headers.remove("broker-request-id");
        let mut problem = answer.problem(ErrorCode::NoAgent).await;
        problem["request_id"].take();
        answers.push((headers, problem.to_string().replace(name, "…")));
    }
    assert_eq!(answers[0], answers[1]);
}

#[tokio::test]
async fn a_host_name_and_a_credential_of_two_tenants_are_refused() {
    let scene = Scene::start("domain: broker.test").await;
    let hosts = [
        "globex.broker.test",
        "globex.broker.test:8080",
        "GLOBEX.Broker.Test",
        "unknown.broker.test",
    ];
    for host in hosts {
        let answer = ask(&scene.caller("acme"), "/broker/sonarqube/a", ("host", host)).await;
        answer.problem(ErrorCode::Unauthenticated).await;
        let http2 = scene.caller("acme").with_version(Version::HTTP_2);
        let answer = http2
            .get(&format!("http://{host}/broker/sonarqube/a"))
            .await;
        answer.problem(ErrorCode::Unauthenticated).await;
    }
    assert_eq!(scene.seen(), [0, 0]);
}

#[tokio::test]
async fn a_host_name_of_the_credentials_own_tenant_or_of_none_is_fine() {
    let scene = Scene::start("domain: broker.test").await;
    for host in [
        "acme.broker.test",
        "ACME.broker.test:80",
        "broker.test",
        "elsewhere.example",
    ] {
        let answer = ask(&scene.caller("acme"), "/broker/sonarqube/a", ("host", host)).await;
        assert_eq!(answer.status(), 200, "{host}");
        let http2 = scene.caller("acme").with_version(Version::HTTP_2);
        let answer = http2
            .get(&format!("http://{host}/broker/sonarqube/a"))
            .await;
        assert_eq!(answer.status(), 200, "{host}");
    }
    assert_eq!(scene.seen(), [8, 0]);
}

#[tokio::test]
async fn two_host_names_in_one_request_are_refused() {
    let scene = Scene::start("domain: broker.test").await;
    let http2 = scene.caller("acme").with_version(Version::HTTP_2);
    let header = ("host", "globex.broker.test");
    let answer = ask(&http2, "http://acme.broker.test/broker/sonarqube/a", header).await;
    answer.problem(ErrorCode::BadRequest).await;
    assert_eq!(scene.seen(), [0, 0]);
}

#[tokio::test]
async fn an_agent_that_calls_the_server_by_two_names_is_refused() {
    let server = Server::start(agents_site()).await;
    let secret = server.site.agent_token("acme", AGENT).expose();
    let more = "Host: globex.broker.test\r\n";
    let answer = handshake(&server, "acme.broker.test", AGENT, Some(secret), more).await;
    assert_eq!(answer.head.status(), 400);
    assert_eq!(answer.code().unwrap(), "bad-request");
}

/// An agent's handshake by hand; `with` is its secret, if it has one.
async fn handshake(
    server: &Server,
    host: &str,
    agent: &str,
    with: Option<&str>,
    more: &str,
) -> RawAnswer {
    let secret = with
        .map(|secret| format!("Authorization: Bearer {secret}\r\n"))
        .unwrap_or_default();
    let request = format!(
        "GET /tunnel HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
         Sec-WebSocket-Protocol: broker.h2.v1\r\n{secret}Broker-Agent: {agent}\r\n\
         Broker-Instance: default\r\nBroker-Run: r\r\nBroker-Version: 0\r\n{more}\r\n"
    );
    Caller::to(server.agents).raw(request.as_bytes()).await
}

/// The tenant that the server admitted an agent to; `None` where it refused.
fn admitted(answer: &RawAnswer) -> Option<String> {
    match answer.head.status() {
        101 => answer.head.value("broker-tenant"),
        401 => {
            assert_eq!(answer.code().unwrap(), "unauthenticated");
            None
        }
        other => panic!("{other}: {:?}", answer.head),
    }
}

fn agents_site() -> Site {
    Site::empty()
        .without_tls()
        .setting("domain: broker.test")
        .agent("acme", AGENT)
        .agent("acme", "jenkins")
        .agent_by_network("acme", "acme-net", "127.0.0.0/8")
        .caller("acme", CALLER, PLACE)
        .agent("globex", AGENT)
        .agent("globex", "globex-only")
        .agent_by_network("globex", "kube", "127.0.0.0/8")
        .agent_by_network("globex", "far", "203.0.113.0/24")
}

#[tokio::test]
async fn an_agents_secret_opens_its_own_tenant_under_its_own_name_alone() {
    let server = Server::start(agents_site()).await;
    let site = &server.site;
    let acme = site.agent_token("acme", AGENT).expose();
    let caller = site.caller_token("acme", CALLER).expose();
    for (host, agent, secret, more, tenant) in [
        ("localhost", AGENT, acme, "", Some("acme")),
        ("acme.broker.test", AGENT, acme, "", Some("acme")),
        (
            "localhost",
            AGENT,
            acme,
            "Broker-Tenant: globex\r\n",
            Some("acme"),
        ),
        ("globex.broker.test", AGENT, acme, "", None),
        ("GLOBEX.broker.test:443", AGENT, acme, "", None),
        ("localhost", "jenkins", acme, "", None),
        ("localhost", "acme-net", acme, "", None),
        ("localhost", "globex-only", acme, "", None),
        ("globex.broker.test", "globex-only", acme, "", None),
        ("globex.broker.test", "kube", acme, "", None),
        ("localhost", AGENT, caller, "", None),
        (
            "localhost",
            AGENT,
            "brk_agent_0123456789ab_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            "",
            None,
        ),
        ("localhost", AGENT, "sonarqube", "", None),
    ] {
        let answer = handshake(&server, host, agent, Some(secret), more).await;
        assert_eq!(
            admitted(&answer).as_deref(),
            tenant,
            "{host} {agent} {more}"
        );
    }
}

#[tokio::test]
async fn an_agent_without_a_secret_is_admitted_by_name_network_and_host_alone() {
    let server = Server::start(agents_site()).await;
    for (host, agent, tenant) in [
        ("globex.broker.test", "kube", Some("globex")),
        ("acme.broker.test", "acme-net", Some("acme")),
        // The tenant is not known, is another, or the agent has a secret or another network.
        ("localhost", "kube", None),
        ("acme.broker.test", "kube", None),
        ("globex.broker.test", "acme-net", None),
        ("globex.broker.test", AGENT, None),
        ("acme.broker.test", AGENT, None),
        ("globex.broker.test", "far", None),
        ("globex.broker.test", "nobody", None),
    ] {
        let answer = handshake(&server, host, agent, None, "").await;
        assert_eq!(admitted(&answer).as_deref(), tenant, "{host} {agent}");
    }
}

#[tokio::test]
async fn a_callers_credential_is_none_of_an_agents_and_the_other_way_round() {
    let scene = Scene::start("").await;
    for tenant in TENANTS {
        let agent = scene.server.site.agent_token(tenant, AGENT).expose();
        let caller = scene
            .server
            .stranger()
            .with_header(PLACE, &format!("Bearer {agent}"));
        caller
            .get("/broker/sonarqube/a")
            .await
            .problem(ErrorCode::Unauthenticated)
            .await;
    }
    assert_eq!(scene.seen(), [0, 0]);
}

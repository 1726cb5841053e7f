//! Tunnels that are lost, refused or must not be trusted, and how the agent comes back without anyone touching it.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use broker_client::status::{StatusSnapshot, TunnelState};
use broker_protocol::{
    AccessToken, CONTROL_AUTHORITY, CONTROL_DRAIN, Counted, SUBPROTOCOL, ServerEnd, TokenKind,
    WsStream,
};
use broker_tests::broker::{AgentSetup, Server, Site};
use broker_tests::caller::{Caller, body};
use broker_tests::certs::{Ca, Leaf};
use broker_tests::http1::read_head;
use broker_tests::origin::{Answer, Origin};
use broker_tests::programs::{AgentProcess, Nginx, ServerProcess};
use broker_tests::tap::Tap;
use broker_tests::wait::within;
use bytes::Bytes;
use http::{Request, Version};
use http_body_util::Empty;
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::{NamedGroup, ProtocolVersion, ServerConfig, SupportedProtocolVersion};
use serde_json::{Value, json};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_util::task::TaskTracker;

/// Silence after which either end gives its tunnel up (SPEC.md §5.2).
const DEAD_AFTER: Duration = Duration::from_secs(15);
/// Tunnels that one agent may have (SPEC.md §4).
const MOST_TUNNELS: u8 = 16;

#[tokio::test]
async fn a_server_that_was_killed_and_is_back_is_used_again() {
    let origin = Origin::answering(|_| Answer::json("[1]")).await;
    let server = ServerProcess::start(Site::simple()).await;
    let agent = AgentProcess::start(&all_to(&origin), &server).await;
    let (site, ports) = (Arc::clone(&server.site), server.ports());
    drop(server);

    let server = ServerProcess::start_at(site, ports.map(|address| address.port())).await;

    server.has_agent(&agent).await;
    let answer = server.caller().get("/broker/sonarqube/x").await;
    assert_eq!(answer.text().await, "[1]");
}

#[tokio::test]
async fn a_lost_tunnel_fails_what_was_in_flight_in_it_and_nothing_else() {
    let origin = Origin::scripted().await;
    let server = ServerProcess::start(Site::simple().without_tls()).await;
    let tap = Tap::to(server.agents).await;
    let setup = all_to(&origin).dialling(&format!("http://{}", tap.address()));
    let _agent = AgentProcess::start(&setup, &server).await;
    let mut in_flight = JoinSet::new();
    let mut exchanges = Vec::new();
    for _ in 0..10 {
        let caller = server.caller();
        in_flight.spawn(async move { status_and_code(&caller, "/broker/sonarqube/slow").await });
        exchanges.push(origin.next().await);
    }

    tap.cut_link(0);

    server
        .child()
        .stderr()
        .line_with("agent disconnected")
        .await;
    let later = async {
        for _ in 0..50 {
            let answer = server.caller().get("/broker/sonarqube/later").await;
            assert_eq!(answer.status(), 200);
        }
    };
    let play = async {
        for _ in 0..50 {
            origin.next().await.answer(Answer::json("[]")).await;
        }
    };
    tokio::join!(later, play);
    for exchange in &mut exchanges {
        exchange.try_answer(Answer::json("[]")).await;
    }
    let mut ends = in_flight.join_all().await;
    ends.sort();
    ends.dedup();
    let lost = (502, "tunnel-lost".to_owned());
    assert_eq!(ends, [(200, String::new()), lost]);
}

#[tokio::test]
async fn an_answer_whose_tunnel_is_lost_half_way_ends_visibly_broken() {
    let origin = Origin::scripted().await;
    let server = Server::start(Site::simple().without_tls()).await;
    let tap = Tap::to(server.agents).await;
    let setup = all_to(&origin).dialling(&format!("http://{}", tap.address()));
    let agent = setup.start(&server).await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let play = async {
            let mut exchange = origin.next().await;
            exchange.start_events().await;
            exchange.send_chunk(b"data: 1\n\n").await;
            exchange
        };
        let caller = server.caller().with_version(version);
        let (mut exchange, mut answer) = tokio::join!(play, caller.get("/broker/sonarqube/events"));
        assert_eq!(answer.chunk().await.unwrap(), "data: 1\n\n");

        tap.cut();

        answer.try_chunk().await.unwrap_err();
        exchange.client_gone().await;
        agent.connected().await;
    }
}

#[tokio::test]
async fn a_link_that_falls_silent_is_given_up_by_both_ends_and_dialled_again() {
    let origin = Origin::scripted().await;
    let server = Server::start(Site::simple().without_tls()).await;
    let tap = Tap::to(server.agents).await;
    let setup = all_to(&origin).dialling(&format!("http://{}", tap.address()));
    let agent = setup.start(&server).await;
    let caller = server.caller();
    let mut waiting = JoinSet::new();
    waiting.spawn(async move { status_and_code(&caller, "/broker/sonarqube/slow").await });
    let _exchange = origin.next().await;

    tap.stall();
    let stalled = Instant::now();

    agent.disconnected().await;
    let after = stalled.elapsed();
    let lost = within("the request to be lost", waiting.join_next()).await;
    assert_eq!(lost.unwrap().unwrap(), (502, "tunnel-lost".to_owned()));
    // The last bytes may be older than the stall, and a Ping's answer a little younger than the one before.
    let tolerance = Duration::from_secs(6);
    assert!(
        after > DEAD_AFTER - tolerance && after < DEAD_AFTER + tolerance,
        "{after:?}"
    );
    tap.resume();
    agent.connected().await;
    let play = async { origin.next().await.answer(Answer::json("[1]")).await };
    let caller = server.caller();
    let ((), answer) = tokio::join!(play, caller.get("/broker/sonarqube/x"));
    assert_eq!(answer.text().await, "[1]");
}

#[tokio::test]
async fn a_server_that_only_the_origins_authority_vouches_for_is_refused() {
    let server = Server::start(Site::simple()).await;
    let ours = server.site.ca.file().display().to_string();
    let other = Ca::new("other");
    let setup = AgentSetup::without_rules()
        .variable("CA_CERT", &ours)
        .variable("TUNNEL_CA_CERT", &other.file().display().to_string());
    let agent = setup.try_start(&server).await.unwrap();
    let error = agent.error_with("TLS with ").await;
    assert!(error.contains("set TUNNEL_CA_CERT"), "{error}");
    assert_eq!(agent.board.connected_tunnels(), 0);

    let setup = AgentSetup::without_rules().variable("TUNNEL_CA_CERT", &ours);
    setup.start(&server).await;
}

#[tokio::test]
async fn the_agent_prefers_the_post_quantum_key_exchange() {
    let ca = Ca::new("broker");
    for (setting, group) in [
        ("", NamedGroup::X25519MLKEM768),
        ("tunnel: {post-quantum: off}", NamedGroup::X25519),
    ] {
        let server = TlsServer::start(&ca.loopback("server"), rustls::ALL_VERSIONS).await;
        let (_site, _agent) = server.dialled_by(&ca, setting).await;
        let connection = server.accept().await.unwrap();
        let connection = connection.get_ref().1;
        let negotiated = connection.negotiated_key_exchange_group().unwrap();
        assert_eq!(negotiated.name(), group);
        assert_eq!(
            connection.protocol_version(),
            Some(ProtocolVersion::TLSv1_3)
        );
    }
}

#[tokio::test]
async fn the_server_takes_the_post_quantum_key_exchange() {
    let server = Server::start(Site::simple()).await;
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![kx_group::X25519MLKEM768];
    let client = server.site.ca.client_config_with(provider);
    let tcp = TcpStream::connect(server.agents).await.unwrap();
    let name = broker_tests::certs::server_name(server.agents);
    let handshake = TlsConnector::from(client).connect(name, tcp);
    within("a TLS handshake", handshake).await.unwrap();
}

#[tokio::test]
async fn a_server_without_tls_1_3_is_refused_unless_1_2_is_allowed() {
    let ca = Ca::new("broker");
    let old = &[&rustls::version::TLS12];
    let server = TlsServer::start(&ca.loopback("server"), old).await;
    let (_site, agent) = server.dialled_by(&ca, "").await;
    server.accept().await.unwrap_err();
    let error = agent.error_with("TLS with ").await;
    assert!(error.contains("tunnel.tls-min"), "{error}");

    let server = TlsServer::start(&ca.loopback("server"), old).await;
    let (_site, _agent) = server.dialled_by(&ca, "tunnel: {tls-min: '1.2'}").await;
    let connection = server.accept().await.unwrap();
    let version = connection.get_ref().1.protocol_version();
    assert_eq!(version, Some(ProtocolVersion::TLSv1_2));
}

#[tokio::test]
async fn an_agent_that_is_not_admitted_says_so_and_keeps_trying() {
    let server = Server::start(Site::simple()).await;
    let unknown = AccessToken::generate(TokenKind::Agent);
    let setup = AgentSetup::without_rules()
        .variable("BROKER_AGENT_SECRET_FILE", "")
        .variable("BROKER_AGENT_SECRET", unknown.expose());
    let agent = setup.try_start(&server).await.unwrap();
    let error = agent.error_with("401").await;
    let expected = "the server refused the tunnel: 401 Unauthorized unauthenticated: this name and secret are not \
                    admitted here; the server's log says why, under its time and source address (it saw 127.0.0.1: is \
                    BROKER_TOKEN the name, and is this secret's sha256: line under it there?)";
    assert_eq!(error, expected);
    let under_way = |now: &StatusSnapshot| {
        let tunnel = &json!(now.connections[0].tunnels)[0];
        tunnel["attempt"].as_u64() > Some(2) && tunnel["next_attempt_at"].is_null()
    };
    within("a third attempt", agent.board.until(under_way)).await;
}

#[tokio::test]
async fn a_server_that_asks_to_be_left_alone_is_left_alone() {
    let listener = Origin::scripted().await;
    let server = Server::start(Site::simple()).await;
    let setup = AgentSetup::without_rules()
        .setting("tunnel: {count: 1}")
        .dialling(&listener.url());
    let _agent = setup.try_start(&server).await.unwrap();
    let dialled = listener.next().await;
    assert_eq!(dialled.head.first_line(), "GET /tunnel HTTP/1.1");
    let mut dialled = dialled;
    let wait = [("Retry-After", "2"), ("Connection", "close")];
    dialled.answer(Answer::new(503, &wait, "")).await;
    let refused = Instant::now();

    listener.next().await;

    let after = refused.elapsed();
    // What was asked for, and the jitter of the first retry.
    assert!(after >= Duration::from_secs(2), "{after:?}");
    assert!(after < Duration::from_secs(4), "{after:?}");
}

#[tokio::test]
async fn tunnels_that_were_lost_together_do_not_come_back_together() {
    let listener = Origin::scripted().await;
    let server = Server::start(Site::simple()).await;
    let setup = AgentSetup::without_rules()
        .setting(&format!("tunnel: {{count: {MOST_TUNNELS}}}"))
        .dialling(&listener.url());
    let _agent = setup.try_start(&server).await.unwrap();
    let mut dialled = Vec::new();
    for _ in 0..MOST_TUNNELS {
        dialled.push(listener.next().await);
    }
    for exchange in &mut dialled {
        let close = [("Connection", "close")];
        exchange.answer(Answer::new(503, &close, "")).await;
    }

    listener.next().await;
    let first = Instant::now();
    for _ in 1..MOST_TUNNELS {
        listener.next().await;
    }

    // Of sixteen waits that are uniform within a second, not all fall into one quarter of it.
    let spread = first.elapsed();
    assert!(spread > Duration::from_millis(250), "{spread:?}");
}

#[tokio::test]
async fn an_agent_whose_server_only_drains_keeps_a_bounded_number_of_tunnels() {
    let draining = DrainingServer::listen().await;
    let server = Server::start(Site::simple()).await;
    let setup = AgentSetup::without_rules()
        .setting(&format!("tunnel: {{count: {MOST_TUNNELS}}}"))
        .dialling(&draining.url());
    let agent = setup.try_start(&server).await.unwrap();
    let most = 2 * usize::from(MOST_TUNNELS);
    let mut tunnels = Vec::new();
    for _ in 0..most {
        tunnels.push(draining.next().await);
    }

    let waits_for_room = |now: &StatusSnapshot| {
        now.connections[0].tunnels.iter().all(|tunnel| {
            matches!(
                tunnel.state,
                TunnelState::Dialling {
                    next_attempt_at: None,
                    ..
                }
            )
        })
    };
    within("no room left", agent.board.until(waits_for_room)).await;
    assert!(draining.is_left_alone().await);

    drop(tunnels.pop());
    tunnels.push(draining.next().await);
    assert!(draining.is_left_alone().await);
}

#[tokio::test]
async fn an_agent_has_sixteen_tunnels_at_the_most() {
    let server = Server::start(Site::simple()).await;
    let sixteen =
        AgentSetup::without_rules().setting(&format!("tunnel: {{count: {MOST_TUNNELS}}}"));
    let sixteen = sixteen.try_start(&server).await.unwrap();
    let all = sixteen.board.until_connected(MOST_TUNNELS.into());
    within("sixteen tunnels", all).await;

    let another = AgentSetup::without_rules().setting("tunnel: {count: 1}");
    let another = another.try_start(&server).await.unwrap();

    let error = another.error_with("503").await;
    assert!(
        error.contains("this agent has as many tunnels as it may"),
        "{error}"
    );
    assert_eq!(sixteen.board.connected_tunnels(), usize::from(MOST_TUNNELS));
}

#[tokio::test]
async fn a_server_below_a_path_of_a_load_balancer_is_reached() {
    let origin = Origin::answering(|request| Answer::new(200, &[], &request.body)).await;
    let server = Server::start(Site::simple().without_tls()).await;
    let leaf = server.site.ca.loopback("balancer");
    let balancer = Nginx::tunnel_proxy(&leaf, server.agents).await;
    let url = format!("https://localhost:{}/prefix", balancer.address().port());
    let _agent = all_to(&origin).dialling(&url).start(&server).await;

    let sent: Vec<u8> = (0..=255).cycle().take(3_000_000).collect();
    let request = Request::post("/broker/sonarqube/echo");
    let request = request.body(body::full(sent.clone())).unwrap();
    let answer = server.caller().send(request).await;

    assert_eq!(answer.status(), 200);
    assert!(
        answer.bytes().await == sent,
        "what came back is not what was sent"
    );
}

/// A server that asks each tunnel to be drained as soon as it is up, and never closes one by itself.
struct DrainingServer(TcpListener);

impl DrainingServer {
    async fn listen() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Waits for the next tunnel, which lasts until it is dropped.
    async fn next(&self) -> JoinSet<()> {
        let (stream, _) = within("a dial", self.0.accept()).await.unwrap();
        let mut stream = BufReader::new(stream);
        let dialled = read_head(&mut stream).await.unwrap().unwrap();
        let key = dialled.value("sec-websocket-key").unwrap();
        let accept = derive_accept_key(key.as_bytes());
        let hello = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\
             Broker-Tenant: default\r\nBroker-Node: n1\r\nBroker-Nodes: 1\r\nBroker-Max-Streams: 1\r\n\
             Broker-Source: 127.0.0.1\r\n\r\n"
        );
        stream.write_all(hello.as_bytes()).await.unwrap();
        let stream = WsStream::server(Counted::new(stream), &[]).await;
        let opened = ServerEnd::open(stream, TaskTracker::new(), DEAD_AFTER, 1);
        let (end, driver) = opened.await.unwrap();
        let mut tunnel = JoinSet::new();
        tunnel.spawn(async move { driver.await.unwrap_or_default() });
        tunnel.spawn(async move {
            let drain = format!("http://{CONTROL_AUTHORITY}{CONTROL_DRAIN}");
            let request = Request::post(drain).body(Empty::<Bytes>::new()).unwrap();
            drop(end.send(request).await);
            pending::<()>().await;
        });
        tunnel
    }

    /// Whether nobody else waits to be accepted: the first one is the test itself.
    async fn is_left_alone(&self) -> bool {
        let own = TcpStream::connect(self.address()).await.unwrap();
        let accepted = within("the test's own connection", self.0.accept()).await;
        accepted.unwrap().1 == own.local_addr().unwrap()
    }
}

/// An agent whose every request is allowed to this origin.
fn all_to(origin: &Origin) -> AgentSetup {
    let rules = json!({"private": [{"method": "any", "path": "/*", "origin": origin.url()}]});
    AgentSetup::with_rules(rules)
}

/// What a request comes to: its status, and the code of a problem.
async fn status_and_code(caller: &Caller, target: &str) -> (u16, String) {
    let answer = caller.get(target).await;
    let status = answer.status().as_u16();
    let document: Value = serde_json::from_str(&answer.text().await).unwrap();
    let code = document["code"].as_str().unwrap_or_default().to_owned();
    (status, code)
}

/// A listener that speaks TLS and nothing else.
struct TlsServer {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl TlsServer {
    async fn start(leaf: &Leaf, versions: &[&'static SupportedProtocolVersion]) -> Self {
        let config: Arc<ServerConfig> = leaf.server_config_with(versions);
        Self {
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            acceptor: TlsAcceptor::from(config),
        }
    }

    /// An agent that dials it, and the server whose agent it would be.
    async fn dialled_by(&self, ca: &Ca, setting: &str) -> (Server, broker_tests::broker::Agent) {
        let server = Server::start(Site::simple()).await;
        let port = self.listener.local_addr().unwrap().port();
        let setup = AgentSetup::without_rules()
            .setting(setting)
            .variable("BROKER_TUNNEL_COUNT", "1")
            .variable("TUNNEL_CA_CERT", &ca.file().display().to_string())
            .dialling(&format!("https://localhost:{port}"));
        let agent = setup.try_start(&server).await.unwrap();
        (server, agent)
    }

    async fn accept(&self) -> std::io::Result<tokio_rustls::server::TlsStream<TcpStream>> {
        let (tcp, _) = within("a connection", self.listener.accept()).await?;
        within("a TLS handshake", self.acceptor.accept(tcp)).await
    }
}

//! Our own server and agent, run within the test by their real entry points on ports of the system's choice.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use broker_client::status::{StatusBoard, StatusSnapshot};
use broker_client::{Agent as AgentProgram, AgentError, config as agent_config};
use broker_process::settings::Environment;
use broker_protocol::{AccessToken, TokenKind};
use broker_server::{Listeners, Server as ServerProgram, config as server_config};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::{self, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::caller::Caller;
use crate::certs::{Ca, Leaf};
use crate::origin::Origin;
use crate::wait::within;

/// The tenant of tests that need one alone.
pub const TENANT: &str = "default";
/// The agent of tests that need one alone.
pub const AGENT: &str = "sonarqube";
/// The caller of tests that need one alone.
pub const CALLER: &str = "proxy";

/// Tenants, agents and callers, with a secret for each, and the server's files.
pub struct Site {
    /// Signs the server's certificate.
    pub ca: Ca,
    folder: TempDir,
    tenants: BTreeMap<String, Members>,
    /// More lines of the server's settings.
    settings: String,
    tls: bool,
    callers_tls: Option<Leaf>,
    client_ca: Option<PathBuf>,
}

#[derive(Default)]
struct Members {
    agents: BTreeMap<String, Member>,
    callers: BTreeMap<String, Member>,
}

struct Member {
    token: AccessToken,
    entry: String,
}

impl Site {
    /// No tenants yet; the agents listener speaks TLS.
    pub fn empty() -> Self {
        Self {
            ca: Ca::new("broker"),
            folder: tempfile::tempdir().unwrap(),
            tenants: BTreeMap::new(),
            settings: String::new(),
            tls: true,
            callers_tls: None,
            client_ca: None,
        }
    }

    /// With a certificate of this authority for the server.
    #[must_use]
    pub fn signed_by(mut self, ca: Ca) -> Self {
        self.ca = ca;
        self
    }

    /// [`TENANT`] with [`AGENT`], and [`CALLER`] with its credential in `Broker-Authorization`.
    pub fn simple() -> Self {
        Self::empty()
            .agent(TENANT, AGENT)
            .caller(TENANT, CALLER, "broker-authorization")
    }

    /// Adds an agent with a secret.
    #[must_use]
    pub fn agent(mut self, tenant: &str, name: &str) -> Self {
        let token = AccessToken::generate(TokenKind::Agent);
        let entry = format!("{{secrets: [\"{}\"]}}", token.digest());
        self.members(tenant)
            .agents
            .insert(name.to_owned(), Member { token, entry });
        self
    }

    /// Adds an agent that is admitted by the networks that it comes from.
    #[must_use]
    pub fn agent_by_network(mut self, tenant: &str, name: &str, networks: &str) -> Self {
        let token = AccessToken::generate(TokenKind::Agent);
        let entry = format!("{{admit: by-network, networks: [{networks}]}}");
        self.members(tenant)
            .agents
            .insert(name.to_owned(), Member { token, entry });
        self
    }

    /// Adds a caller for all agents of its tenant, with its credential in `place`.
    #[must_use]
    pub fn caller(self, tenant: &str, name: &str, place: &str) -> Self {
        self.caller_of(tenant, name, place, "\"*\"")
    }

    /// Adds a caller for the agents that `agents` says in YAML.
    #[must_use]
    pub fn caller_of(mut self, tenant: &str, name: &str, place: &str, agents: &str) -> Self {
        let token = AccessToken::generate(TokenKind::Caller);
        let entry = format!(
            "{{credential: {place}, secrets: [\"{}\"], agents: {agents}}}",
            token.digest()
        );
        self.members(tenant)
            .callers
            .insert(name.to_owned(), Member { token, entry });
        self
    }

    /// Adds a caller that is known by a certificate with one of these names, a list in YAML, for the agents that
    /// `agents` says.
    #[must_use]
    pub fn caller_by_certificate(
        mut self,
        tenant: &str,
        name: &str,
        names: &str,
        agents: &str,
    ) -> Self {
        let token = AccessToken::generate(TokenKind::Caller);
        let entry = format!("{{credential: mtls, certificate-names: {names}, agents: {agents}}}");
        self.members(tenant)
            .callers
            .insert(name.to_owned(), Member { token, entry });
        self
    }

    /// Adds lines to the server's settings.
    #[must_use]
    pub fn setting(mut self, lines: &str) -> Self {
        self.settings.push_str(lines);
        self.settings.push('\n');
        self
    }

    /// Has the agents listener speak no TLS, so that a tap can read the tunnel.
    #[must_use]
    pub fn without_tls(mut self) -> Self {
        self.tls = false;
        self
    }

    /// Has the callers listener speak TLS with this certificate.
    #[must_use]
    pub fn callers_tls(mut self, leaf: Leaf) -> Self {
        self.callers_tls = Some(leaf);
        self
    }

    /// Has the callers listener ask for certificates of this authority; it must speak TLS.
    #[must_use]
    pub fn client_ca(mut self, ca: &Ca) -> Self {
        self.client_ca = Some(ca.file());
        self
    }

    /// `http` or `https`, as callers speak to it.
    pub fn callers_scheme(&self) -> &'static str {
        if self.callers_tls.is_some() {
            "https"
        } else {
            "http"
        }
    }

    /// An agent's secret.
    pub fn agent_token(&self, tenant: &str, agent: &str) -> &AccessToken {
        &self.tenants[tenant].agents[agent].token
    }

    /// A caller's secret.
    pub fn caller_token(&self, tenant: &str, caller: &str) -> &AccessToken {
        &self.tenants[tenant].callers[caller].token
    }

    /// The server's settings file, with these ports.
    pub fn settings_file(&self, agents: u16, callers: u16, admin: u16) -> PathBuf {
        let agents_tls = self.tls.then(|| self.ca.loopback("server"));
        let mut yaml = String::new();
        let client_ca = self.client_ca.as_deref();
        for (listener, port, tls, client_ca) in [
            ("agents", agents, agents_tls.as_ref(), None),
            ("callers", callers, self.callers_tls.as_ref(), client_ca),
            ("admin", admin, None, None),
        ] {
            let tls = tls.map(|leaf| tls_setting(leaf, client_ca));
            let tls = tls.unwrap_or_default();
            writeln!(
                yaml,
                "{listener}-listener: {{listen: \"127.0.0.1:{port}\"{tls}}}"
            )
            .unwrap();
        }
        yaml.push_str(&self.settings);
        yaml.push_str("tenants:\n");
        for (tenant, members) in &self.tenants {
            writeln!(yaml, "  {tenant}:").unwrap();
            for (kind, members) in [("agents", &members.agents), ("callers", &members.callers)] {
                writeln!(yaml, "    {kind}:").unwrap();
                for (name, member) in members {
                    writeln!(yaml, "      {name}: {}", member.entry).unwrap();
                }
            }
        }
        let path = self.folder.path().join("server.yaml");
        std::fs::write(&path, yaml).unwrap();
        path
    }

    fn members(&mut self, tenant: &str) -> &mut Members {
        self.tenants.entry(tenant.to_owned()).or_default()
    }
}

fn tls_setting(leaf: &Leaf, client_ca: Option<&Path>) -> String {
    let (certificate, key) = (leaf.certificate.display(), leaf.key.display());
    let client_ca = client_ca.map(|file| format!(", client-ca: {}", file.display()));
    let client_ca = client_ca.unwrap_or_default();
    format!(", tls: {{certificate: {certificate}, key: {key}{client_ca}}}")
}

/// A server's set-up, and where it is reached.
#[derive(Clone)]
pub struct Reach {
    /// What it was set up with.
    pub site: Arc<Site>,
    /// Where agents dial in.
    pub agents: SocketAddr,
    /// Where callers send requests.
    pub callers: SocketAddr,
    /// Where health is told.
    pub admin: SocketAddr,
}

impl Reach {
    /// Its three addresses, for [`Server::start_at`].
    pub fn ports(&self) -> [SocketAddr; 3] {
        [self.agents, self.callers, self.admin]
    }

    /// [`CALLER`] of [`TENANT`], with its credential.
    pub fn caller(&self) -> Caller {
        self.caller_as(TENANT, CALLER, "broker-authorization")
    }

    /// A request's head as raw bytes: this method and target, [`CALLER`]'s credential, and further lines, each with
    /// its line end.
    pub fn raw_head(&self, method_and_target: &str, lines: &str) -> Vec<u8> {
        let token = self.site.caller_token(TENANT, CALLER).expose();
        format!(
            "{method_and_target} HTTP/1.1\r\nHost: broker\r\nBroker-Authorization: Bearer {token}\r\n{lines}\r\n"
        )
        .into_bytes()
    }

    /// Another caller, with its credential in this header.
    pub fn caller_as(&self, tenant: &str, caller: &str, header: &str) -> Caller {
        let token = self.site.caller_token(tenant, caller);
        self.stranger()
            .with_header(header, &format!("Bearer {}", token.expose()))
    }

    /// A caller without a credential.
    pub fn stranger(&self) -> Caller {
        Caller::to(self.callers)
    }
}

/// A running server.
pub struct Server {
    reach: Reach,
    life: Life,
}

impl Deref for Server {
    type Target = Reach;

    fn deref(&self) -> &Reach {
        &self.reach
    }
}

impl Server {
    /// Starts a server on ports of the system's choice.
    pub async fn start(site: Site) -> Self {
        Self::start_at(Arc::new(site), ["127.0.0.1:0".parse().unwrap(); 3]).await
    }

    /// Starts a server again where one was before: agents, callers, admin.
    pub async fn start_at(site: Arc<Site>, ports: [SocketAddr; 3]) -> Self {
        let file = site.settings_file(0, 0, 0);
        let arguments = server_config::run_command().get_matches_from([
            "run",
            "--config",
            file.to_str().unwrap(),
        ]);
        let config =
            server_config::Config::load(&arguments, &Environment::default(), Path::new("/"))
                .unwrap_or_else(|error| panic!("{error}"));
        let server = ServerProgram::new(config).unwrap();
        let [agents, callers, admin] = ports;
        let listeners = Listeners {
            agents: TcpListener::bind(agents).await.unwrap(),
            callers: TcpListener::bind(callers).await.unwrap(),
            admin: TcpListener::bind(admin).await.unwrap(),
        };
        let address = |listener: &TcpListener| listener.local_addr().unwrap();
        let [agents, callers, admin] =
            [&listeners.agents, &listeners.callers, &listeners.admin].map(address);
        let life = Life::start(|shutdown| async move {
            server.run(listeners, async { drop(shutdown.await) }).await;
        });
        let reach = Reach {
            site,
            agents,
            callers,
            admin,
        };
        Self { reach, life }
    }

    /// Asks it to end.
    pub fn end(&mut self) {
        self.life.end();
    }

    /// Waits until it has ended.
    pub async fn ended(&mut self) {
        self.life.ended("the server's end").await;
    }

    /// Asks it to end, and waits until it has.
    pub async fn stop(mut self) {
        self.end();
        self.ended().await;
    }

    /// Ends it without a word, as a crash would: every connection breaks.
    pub async fn kill(self) {
        self.life.kill().await;
    }
}

/// A server for [`Site::simple`], and its agent in front of this origin, which may be asked everything.
pub async fn permissive(origin: &Origin) -> (Server, Agent) {
    let server = Server::start(Site::simple()).await;
    let agent = AgentSetup::allowing_everything(&origin.url())
        .start(&server)
        .await;
    (server, agent)
}

/// How an agent is started.
#[derive(Clone)]
pub struct AgentSetup {
    name: String,
    tenant: String,
    accept: Option<Value>,
    variables: BTreeMap<String, String>,
    settings: String,
    server: Option<String>,
}

impl AgentSetup {
    /// [`AGENT`] of [`TENANT`] with these rules.
    pub fn with_rules(accept: Value) -> Self {
        Self {
            accept: Some(accept),
            ..Self::without_rules()
        }
    }

    /// [`AGENT`] of [`TENANT`] with one rule that allows whatever can be allowed.
    pub fn allowing_everything(origin: &str) -> Self {
        Self::with_rules(json!({"private": [{"method": "any", "path": "/*", "origin": origin}]}))
    }

    /// [`AGENT`] of [`TENANT`] without an accept file.
    pub fn without_rules() -> Self {
        Self {
            name: AGENT.to_owned(),
            tenant: TENANT.to_owned(),
            accept: None,
            variables: BTreeMap::new(),
            settings: String::new(),
            server: None,
        }
    }

    /// Another agent.
    #[must_use]
    pub fn named(mut self, tenant: &str, name: &str) -> Self {
        (self.tenant, self.name) = (tenant.to_owned(), name.to_owned());
        self
    }

    /// With this variable; an empty value unsets one that the harness would set.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.to_owned(), value.to_owned());
        self
    }

    /// With these lines in its settings file.
    #[must_use]
    pub fn setting(mut self, lines: &str) -> Self {
        self.settings.push_str(lines);
        self.settings.push('\n');
        self
    }

    /// Dialling this URL in place of the server's own.
    #[must_use]
    pub fn dialling(mut self, url: &str) -> Self {
        self.server = Some(url.to_owned());
        self
    }

    /// The environment and the folder with the files that it names, for an agent of this server.
    pub fn prepare(&self, server: &Reach) -> (BTreeMap<String, String>, TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            path.display().to_string()
        };
        let site = &server.site;
        let scheme = if site.tls { "https" } else { "http" };
        let url = format!("{scheme}://localhost:{}", server.agents.port());
        let secret = site.agent_token(&self.tenant, &self.name).expose();
        let mut variables: BTreeMap<String, String> = [
            ("BROKER_TOKEN", self.name.clone()),
            ("BROKER_SERVER_URL", self.server.clone().unwrap_or(url)),
            ("BROKER_AGENT_SECRET_FILE", file("secret", secret)),
            ("TUNNEL_CA_CERT", site.ca.file().display().to_string()),
            (
                "BROKER_DATA_DIR",
                folder.path().join("data").display().to_string(),
            ),
            (
                "BROKER_CLIENT_CONFIG",
                file("agent.yaml", &format!("{{}}\n{}", self.settings)),
            ),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        if self.settings.is_empty() {
            variables.remove("BROKER_CLIENT_CONFIG");
        } else {
            file("agent.yaml", &self.settings);
        }
        if let Some(accept) = &self.accept {
            variables.insert("ACCEPT".into(), file("accept.json", &accept.to_string()));
        }
        variables.extend(self.variables.clone());
        variables.retain(|_, value| !value.is_empty());
        (variables, folder)
    }

    /// Starts the agent without waiting for a tunnel.
    ///
    /// # Errors
    /// If it refuses to start.
    pub async fn try_start(&self, server: &Server) -> Result<Agent, AgentError> {
        let (variables, folder) = self.prepare(server);
        let arguments = agent_config::run_command().get_matches_from(["run"]);
        let environment: Environment = variables.into_iter().collect();
        let config = agent_config::Config::load(&arguments, environment, folder.path())
            .unwrap_or_else(|error| panic!("{error}"));
        let agent = AgentProgram::new(config)?;
        let board = agent.board();
        let local = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = local.local_addr().unwrap();
        let life = Life::start(|shutdown| async move {
            agent
                .run(local, async { drop(shutdown.await) })
                .await
                .unwrap();
        });
        Ok(Agent {
            local: address,
            board,
            folder,
            life,
        })
    }

    /// Starts the agent and waits until both its tunnels are up.
    pub async fn start(&self, server: &Server) -> Agent {
        let agent = self
            .try_start(server)
            .await
            .unwrap_or_else(|error| panic!("{error}"));
        agent.connected().await;
        agent
    }
}

/// A running agent.
pub struct Agent {
    /// Its local port.
    pub local: SocketAddr,
    /// What it says of itself.
    pub board: StatusBoard,
    folder: TempDir,
    life: Life,
}

impl Agent {
    /// Waits until both tunnels are up.
    pub async fn connected(&self) {
        within("both tunnels up", self.board.until_connected(2)).await;
    }

    /// Waits until no tunnel is up.
    pub async fn disconnected(&self) {
        within("all tunnels down", self.board.until_connected(0)).await;
    }

    /// Waits until its first tunnel's last error holds `part`, and returns that error.
    pub async fn error_with(&self, part: &str) -> String {
        let last_error = |now: &StatusSnapshot| {
            let error = now.connections[0].tunnels[0].last_error.as_ref();
            error.map(|error| error.text.clone()).unwrap_or_default()
        };
        let what = format!("an error with {part:?}");
        within(
            &what,
            self.board.until(|now| last_error(now).contains(part)),
        )
        .await;
        last_error(&self.board.snapshot())
    }

    /// The folder of its files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The audit log's bytes.
    pub fn audit_bytes(&self) -> Vec<u8> {
        audit_bytes(self.folder())
    }

    /// The audit log's lines of one kind.
    pub fn audit(&self, kind: &str) -> Vec<Value> {
        audit_lines(&self.audit_bytes(), kind)
    }

    /// Asks it to end.
    pub fn end(&mut self) {
        self.life.end();
    }

    /// Waits until it has ended.
    pub async fn ended(&mut self) {
        self.life.ended("the agent's end").await;
    }

    /// Asks it to end, waits until it has, and gives the audit log's lines.
    pub async fn stop(mut self) -> Vec<Value> {
        self.end();
        self.ended().await;
        audit_lines(&self.audit_bytes(), "")
    }
}

/// The bytes of the audit log of an agent whose files are in `folder`.
pub fn audit_bytes(folder: &Path) -> Vec<u8> {
    std::fs::read(folder.join("data/default/audit.jsonl")).unwrap()
}

/// The lines of this kind, or of all. What follows the last newline is a line that is being written at this moment.
pub fn audit_lines(log: &[u8], kind: &str) -> Vec<Value> {
    let written = log
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |end| end + 1);
    let text = std::str::from_utf8(&log[..written]).unwrap();
    let lines = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines
        .filter(|line| kind.is_empty() || line["kind"] == kind)
        .collect()
}

/// One of our programs, until it is asked to end or dropped.
struct Life {
    shutdown: Option<oneshot::Sender<()>>,
    running: JoinHandle<()>,
    /// Its own, so that a kill takes all its tasks with it.
    runtime: Option<Runtime>,
}

impl Life {
    fn start<F: Future<Output = ()> + Send + 'static>(
        program: impl FnOnce(oneshot::Receiver<()>) -> F,
    ) -> Self {
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (shutdown, requested) = oneshot::channel();
        let running = runtime.spawn(program(requested));
        Self {
            shutdown: Some(shutdown),
            running,
            runtime: Some(runtime),
        }
    }

    /// Asks it to end.
    fn end(&mut self) {
        if let Some(shutdown) = self.shutdown.take() {
            shutdown.send(()).expect("the program waits for it");
        }
    }

    async fn ended(&mut self, what: &str) {
        within(what, &mut self.running)
            .await
            .expect("the program does not panic");
    }

    async fn kill(mut self) {
        let runtime = self.runtime.take().expect("it runs until it is killed");
        tokio::task::spawn_blocking(|| drop(runtime)).await.unwrap();
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A runtime may not be dropped where it would block another one.
            runtime.shutdown_background();
        }
    }
}

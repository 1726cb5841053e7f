//! Our own two programs as they are built, for what only a process of its own shows: signals, exit codes, memory.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use serde_json::Value;
use tempfile::TempDir;

use crate::broker::{AgentSetup, Reach, Site, audit_bytes, audit_lines};
use crate::programs::Child;

/// Tunnels that an agent keeps unless told otherwise.
const TUNNELS: usize = 2;

/// One of our programs, `broker-server` or `broker-client`, with an environment that holds nothing but `PATH`.
///
/// # Panics
/// When it is not built.
pub fn broker_command(program: &str) -> Command {
    let path = broker_program(program);
    let mut command = Command::new(path);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

/// The file of one of our programs; Cargo puts them beside the folder of the test's own.
///
/// # Panics
/// When it is not built.
pub fn broker_program(program: &str) -> PathBuf {
    let built = profile_folder().join(program);
    assert!(
        built.exists(),
        "{}: run `cargo build --workspace` first, as ./check does",
        built.display()
    );
    built
}

/// Where Cargo puts all that it builds, of every profile.
pub fn target_folder() -> PathBuf {
    profile_folder().parent().unwrap().to_owned()
}

fn profile_folder() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().to_owned()
}

/// A running `broker-server`.
pub struct ServerProcess {
    child: Child,
    reach: Reach,
}

impl ServerProcess {
    /// Starts it on ports of the system's choice and waits until it listens.
    pub async fn start(site: Site) -> Self {
        Self::start_at(Arc::new(site), [0; 3]).await
    }

    /// Starts it where another one was: the ports of agents, callers and admin.
    pub async fn start_at(site: Arc<Site>, ports: [u16; 3]) -> Self {
        let [agents, callers, admin] = ports;
        let file = site.settings_file(agents, callers, admin);
        let mut command = broker_command("broker-server");
        command.args(["run", "--config"]).arg(file);
        let child = Child::start("broker-server", command);
        let line = child.stderr().line_with(" listening ").await;
        let reach = Reach {
            site,
            agents: address(&line, "agents"),
            callers: address(&line, "callers"),
            admin: address(&line, "admin"),
        };
        Self { child, reach }
    }

    /// Waits until all tunnels of this run of an agent take requests.
    pub async fn has_agent(&self, agent: &AgentProcess) {
        let run = agent.run_id();
        self.child
            .stderr()
            .lines("the agent's tunnels at the server", TUNNELS, |line| {
                line.contains("agent connected") && line.contains(&run)
            })
            .await;
    }

    /// The process.
    pub fn child(&self) -> &Child {
        &self.child
    }

    /// The process, to wait for its end.
    pub fn child_mut(&mut self) -> &mut Child {
        &mut self.child
    }
}

impl Deref for ServerProcess {
    type Target = Reach;

    fn deref(&self) -> &Reach {
        &self.reach
    }
}

/// A running `broker-client`.
pub struct AgentProcess {
    child: Child,
    local: SocketAddr,
    variables: BTreeMap<String, String>,
    folder: TempDir,
}

impl AgentProcess {
    /// Starts it, and waits until the server can send requests through all its tunnels.
    pub async fn start(setup: &AgentSetup, server: &ServerProcess) -> Self {
        let agent = Self::start_alone(setup, server).await;
        server.has_agent(&agent).await;
        agent
    }

    /// Starts it without waiting for a tunnel.
    pub async fn start_alone(setup: &AgentSetup, server: &Reach) -> Self {
        let (mut variables, folder) = setup.prepare(server);
        variables
            .entry("BROKER_LOCAL_LISTEN".to_owned())
            .or_insert_with(|| "127.0.0.1:0".to_owned());
        Self::run(variables, folder).await
    }

    /// Kills it where it still runs, and starts it again with the same files, without waiting for a tunnel.
    pub async fn again(self) -> Self {
        let Self {
            child,
            variables,
            folder,
            ..
        } = self;
        drop(child);
        Self::run(variables, folder).await
    }

    async fn run(variables: BTreeMap<String, String>, folder: TempDir) -> Self {
        let mut command = broker_command("broker-client");
        command
            .arg("run")
            .envs(&variables)
            .current_dir(folder.path());
        let child = Child::start("broker-client", command);
        let line = child.stderr().line_with(" listening ").await;
        Self {
            local: address(&line, "local"),
            child,
            variables,
            folder,
        }
    }

    /// Its local port.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// The process.
    pub fn child(&self) -> &Child {
        &self.child
    }

    /// The process, to wait for its end.
    pub fn child_mut(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Its environment.
    pub fn variables(&self) -> &BTreeMap<String, String> {
        &self.variables
    }

    /// The folder of its files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The audit log's bytes.
    pub fn audit_bytes(&self) -> Vec<u8> {
        audit_bytes(self.folder())
    }

    /// What `broker-client status` prints.
    pub async fn status(&self, arguments: &[&str]) -> String {
        let mut status = self.start_status(arguments);
        assert_eq!(status.exit().await.code(), Some(0));
        status.stdout().text()
    }

    /// Starts `broker-client status`.
    pub fn start_status(&self, arguments: &[&str]) -> Child {
        self.start_command(&[&["status"], arguments].concat())
    }

    /// Runs another command of `broker-client` for this agent; gives its exit code and all that it said.
    pub async fn run_command(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let mut command = self.start_command(arguments);
        let code = command.exit().await.code();
        (code, command.stdout().text() + &command.stderr().text())
    }

    fn start_command(&self, arguments: &[&str]) -> Child {
        let mut command = broker_command("broker-client");
        command
            .args(arguments)
            .env("BROKER_DATA_DIR", &self.variables["BROKER_DATA_DIR"]);
        Child::start("broker-client", command)
    }

    /// The audit log's lines of one kind, or all.
    pub fn audit(&self, kind: &str) -> Vec<Value> {
        audit_lines(&self.audit_bytes(), kind)
    }

    /// The id of this run, which stands in everything that it records.
    fn run_id(&self) -> String {
        let starts = self.audit("start");
        let last = starts.last().expect("it listens only with a log");
        last["run_id"].as_str().unwrap().to_owned()
    }
}

/// The address that stands in a log line as `name=address`.
fn address(line: &str, name: &str) -> SocketAddr {
    let prefix = format!("{name}=");
    let mut words = line.split_whitespace();
    words
        .find_map(|word| word.strip_prefix(&prefix))
        .and_then(|address| address.parse().ok())
        .unwrap_or_else(|| panic!("no {prefix}<address> in {line:?}"))
}

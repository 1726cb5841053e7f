//! Our agent and server as an operator would run them: TLS, rules and audit on.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use broker_tests::certs::Ca;
use broker_tests::programs::{Child, Ending, Nginx, free_port};
use broker_tests::wait::LIMIT;
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::contender::{Contender, Process};

const AGENT: &str = "bench";

/// How often the agent is asked whether it is ready.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// Builds both programs as they are released, starts them in front of the origin, and waits until
/// the tunnel is up.
pub(crate) async fn start(origin: &Nginx) -> Result<Contender> {
    let programs = Programs::build()?;
    let files = Files::new()?;
    let agent_secret = programs.new_token("agent")?;
    let caller_secret = programs.new_token("caller")?;
    let ca = Ca::new("bench");
    let leaf = ca.loopback("server");
    let ports = Ports::free();

    let server = files.write(
        "server.yaml",
        &json!({
            "agents-listener": {
                "listen": format!("127.0.0.1:{}", ports.agents),
                "tls": {"certificate": leaf.certificate, "key": leaf.key},
            },
            "callers-listener": {"listen": format!("127.0.0.1:{}", ports.callers)},
            "admin-listener": {"listen": format!("127.0.0.1:{}", ports.admin)},
            "tenants": {"default": {
                "agents": {AGENT: {"secrets": [agent_secret.digest]}},
                "callers": {"load": {
                    "credential": "broker-authorization",
                    "secrets": [caller_secret.digest],
                    "agents": [AGENT],
                }},
            }},
        })
        .to_string(),
    )?;
    let mut command = Command::new(&programs.server);
    command
        .args(["run", "--config"])
        .arg(server)
        .current_dir(files.path());
    let server = Child::start_with("broker-server", command, Ending::Terminate);

    let rule = |method: &str, path: &str| {
        let auth = json!({"scheme": "bearer", "token": "${BENCH_TOKEN}"});
        json!({"method": method, "path": path, "origin": origin.url(), "auth": auth})
    };
    let rules = [
        rule("GET", "/small.json"),
        rule("GET", "/files/*"),
        rule("PUT", "/upload"),
    ];
    let accept = files.write("accept.json", &json!({"private": rules}).to_string())?;
    let secret = files.write("agent-secret", &agent_secret.secret)?;
    let mut command = Command::new(&programs.agent);
    command
        .arg("run")
        .env("BROKER_TOKEN", AGENT)
        .env(
            "BROKER_SERVER_URL",
            format!("https://localhost:{}", ports.agents),
        )
        .env("BROKER_AGENT_SECRET_FILE", secret)
        .env("BROKER_DATA_DIR", files.folder("agent-data")?)
        .env("TUNNEL_CA_CERT", ca.file())
        .env("ACCEPT", accept)
        .env("BENCH_TOKEN", "credential-of-the-origin")
        .env("PORT", ports.local.to_string())
        .current_dir(files.path());
    let agent = Child::start_with("broker-client", command, Ending::Terminate);
    wait_until_ready(ports.local, &agent, &server).await?;

    let base = format!("http://127.0.0.1:{}/broker/{AGENT}", ports.callers);
    let header = (
        "Broker-Authorization",
        format!("Bearer {}", caller_secret.secret),
    );
    let processes = vec![
        Process::new("broker-server", server.pid()),
        Process::new("broker-client", agent.pid()),
    ];
    // The agent goes first, so that it sees no lost server; the files go last.
    Ok(Contender::new(
        "ours",
        base,
        Some(header),
        processes,
        (agent, server, ca, files),
    ))
}

struct Programs {
    agent: PathBuf,
    server: PathBuf,
}

impl Programs {
    /// Cargo has put this program into `<target>/<profile>/`.
    fn build() -> Result<Self> {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args([
            "build",
            "--release",
            "--locked",
            "-p",
            "broker-client",
            "-p",
            "broker-server",
        ]);
        cargo.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        ensure!(cargo.status()?.success(), "cargo build --release failed");
        let this = std::env::current_exe()?;
        let target = this
            .ancestors()
            .nth(2)
            .context("this program is not in a target folder")?;
        let release = target.join("release");
        Ok(Self {
            agent: release.join("broker-client"),
            server: release.join("broker-server"),
        })
    }

    fn new_token(&self, of: &str) -> Result<Token> {
        let output = Command::new(&self.server)
            .args(["token", "new", of])
            .output()?;
        let said = String::from_utf8(output.stdout)?;
        Token::find(of, &said).with_context(|| {
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            format!("`broker-server token new {of}` showed no token: {said}{error}")
        })
    }
}

/// A secret and what the server's settings hold of it.
struct Token {
    secret: String,
    digest: String,
}

impl Token {
    fn find(of: &str, said: &str) -> Option<Self> {
        let is_token = |c: char| c.is_ascii_alphanumeric() || "_-:".contains(c);
        let mut words = said.split(|c| !is_token(c));
        let secret = words
            .clone()
            .find(|word| word.starts_with(&format!("brk_{of}_")))?;
        let digest = words.find(|word| word.starts_with("sha256:"))?;
        Some(Self {
            secret: secret.to_owned(),
            digest: digest.to_owned(),
        })
    }
}

struct Ports {
    agents: u16,
    callers: u16,
    admin: u16,
    local: u16,
}

impl Ports {
    fn free() -> Self {
        Self {
            agents: free_port(),
            callers: free_port(),
            admin: free_port(),
            local: free_port(),
        }
    }
}

/// The settings of both, in a folder that goes with them.
struct Files(TempDir);

impl Files {
    fn new() -> Result<Self> {
        Ok(Self(tempfile::tempdir()?))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.path().join(name);
        fs::create_dir(&path)?;
        Ok(path)
    }

    /// Readable by nobody else: some hold secrets.
    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path().join(name);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        options.open(&path)?.write_all(text.as_bytes())?;
        Ok(path)
    }
}

async fn wait_until_ready(port: u16, agent: &Child, server: &Child) -> Result<()> {
    let ready = async {
        while !is_ready(port).await {
            tokio::time::sleep(ASK_EVERY).await;
        }
    };
    if tokio::time::timeout(LIMIT, ready).await.is_err() {
        let said = |child: &Child| format!("{}{}", child.stdout().text(), child.stderr().text());
        bail!(
            "the agent is not ready; it said:\n{}the server:\n{}",
            said(agent),
            said(server)
        );
    }
    Ok(())
}

async fn is_ready(port: u16) -> bool {
    let asked = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(b"GET /readyz HTTP/1.0\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    // Refused until it listens.
    asked
        .await
        .is_ok_and(|answer| answer.split(' ').nth(1) == Some("200"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_in_what_is_said_about_it() {
        let said =
            "secret (shown once): brk_agent_id1_abc-DEF_9\n  secrets: [\"sha256:id1:00ff\"]\n";
        let token = Token::find("agent", said).unwrap();
        assert_eq!(token.secret, "brk_agent_id1_abc-DEF_9");
        assert_eq!(token.digest, "sha256:id1:00ff");
        assert!(Token::find("caller", said).is_none());
    }
}

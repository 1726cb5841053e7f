//! The program as an operator meets it: what it prints, refuses and exits with.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking, also in the functions that tests share"
)]

mod rules;

use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use broker_client::config::{Accept, Config, run_command};
use broker_protocol::{AccessToken, TokenKind};

/// The program with an environment of its own.
fn program<S: AsRef<OsStr>>(arguments: &[S], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_broker-client"));
    command
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .current_dir(env!("CARGO_TARGET_TMPDIR"));
    command
}

fn broker_client(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    program(arguments, environment).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn docs(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs")
        .join(name);
    fs::read_to_string(path).unwrap()
}

#[test]
fn the_settings_reference_is_what_the_program_prints() {
    let printed = text(&broker_client(&["settings"], &[]).stdout);
    assert!(
        docs("settings.md").contains(&printed),
        "put what `broker-client settings` prints in place of its part of docs/settings.md"
    );
}

#[test]
fn the_example_settings_load() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("agent-example");
    fs::create_dir_all(&folder).unwrap();
    let token = AccessToken::generate(TokenKind::Agent);
    let authority = rcgen::generate_simple_self_signed(["ca".to_owned()])
        .unwrap()
        .cert
        .pem();
    for (name, content) in [
        ("agent.yaml", docs("agent.example.yaml").as_str()),
        ("agent.secret", token.expose()),
        ("accept.json", "{}"),
        ("origins-ca.pem", &authority),
        ("tunnel-ca.pem", &authority),
    ] {
        fs::write(folder.join(name), content).unwrap();
    }
    let arguments = run_command().get_matches_from(["run", "--config", "agent.yaml"]);
    let config = Config::load(&arguments, [("", ""); 0].into(), &folder).unwrap();
    assert_eq!(config.connections[0].agent.as_str(), "sonarqube");
    assert_eq!(
        config.connections[0].accept,
        Accept::File(folder.join("accept.json"))
    );
    assert!(config.connections[0].secret.is_some());
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn bad_usage_and_bad_settings_exit_with_64() {
    let usage = broker_client(&["run", "--no-such-flag"], &[]);
    assert_eq!(usage.status.code(), Some(64));
    let settings = broker_client(&["run"], &[("BROKER_SERVER_URL", "broker.example")]);
    assert_eq!(settings.status.code(), Some(64));
    let stderr = text(&settings.stderr);
    assert!(
        stderr.contains("broker-client: this agent has no name (set BROKER_TOKEN, "),
        "{stderr}"
    );
    assert!(
        stderr.contains(
            r#"broker-client: environment BROKER_SERVER_URL: "broker.example" has no scheme"#
        ),
        "{stderr}"
    );
}

#[test]
fn bad_rules_exit_with_64_before_the_port_opens() {
    let accept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bad-accept.json");
    fs::write(&accept, "{").unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let output = broker_client(
        &["run"],
        &[
            ("BROKER_TOKEN", "demo"),
            ("BROKER_SERVER_URL", "https://broker.example"),
            ("ACCEPT", accept.to_str().unwrap()),
            // Were the port opened first, this would be the error, with exit code 1.
            (
                "BROKER_LOCAL_LISTEN",
                &taken.local_addr().unwrap().to_string(),
            ),
        ],
    );
    assert_eq!(output.status.code(), Some(64), "{}", text(&output.stderr));
    assert!(
        text(&output.stderr).contains("bad-accept.json"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn a_taken_port_is_named_and_exits_with_1() {
    let data = Path::new(env!("CARGO_TARGET_TMPDIR")).join("taken-port");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = broker_client(
        &["run"],
        &[
            ("BROKER_TOKEN", "demo"),
            ("BROKER_SERVER_URL", "ws://127.0.0.1:9"),
            ("BROKER_DATA_DIR", data.to_str().unwrap()),
            ("BROKER_LOCAL_LISTEN", &address),
        ],
    );
    assert_eq!(output.status.code(), Some(1));
    let stderr = text(&output.stderr);
    assert!(
        stderr.contains(&format!("cannot listen on {address} (local.listen, ")),
        "{stderr}"
    );
}

#[test]
fn status_without_an_agent_says_so() {
    let data = Path::new(env!("CARGO_TARGET_TMPDIR")).join("no-agent");
    let output = broker_client(&["status"], &[("BROKER_DATA_DIR", data.to_str().unwrap())]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = text(&output.stderr);
    assert!(
        stderr.starts_with("broker-client: no agent is running for instance default"),
        "{stderr}"
    );
}

//! The program as an operator meets it: what it prints, refuses and exits with.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, also in the functions that tests share"
)]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use broker_process::settings::Environment;
use broker_server::config::{Config, run_command};

/// The program with an environment of its own.
fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_broker-server"));
    command
        .args(arguments)
        .env_clear()
        .current_dir(env!("CARGO_TARGET_TMPDIR"));
    command
}

fn broker_server(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
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
    let printed = text(&broker_server(&["settings"]).stdout);
    assert!(
        docs("settings.md").contains(&printed),
        "put what `broker-server settings` prints in place of its part of docs/settings.md"
    );
}

#[test]
fn the_example_settings_load() {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("server-example");
    fs::create_dir_all(&folder).unwrap();
    let issued = rcgen::generate_simple_self_signed(["broker.example".to_owned()]).unwrap();
    fs::write(folder.join("server.yaml"), docs("server.example.yaml")).unwrap();
    for certificate in ["server.pem", "callers-ca.pem"] {
        fs::write(folder.join(certificate), issued.cert.pem()).unwrap();
    }
    fs::write(
        folder.join("server.key"),
        issued.signing_key.serialize_pem(),
    )
    .unwrap();
    let arguments = run_command().get_matches_from(["run", "--config", "server.yaml"]);
    let config = Config::load(&arguments, &Environment::default(), &folder).unwrap();
    let tenant = &config.tenants[&"acme".parse().unwrap()];
    assert_eq!((tenant.agents.len(), tenant.callers.len()), (2, 3));
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn bad_usage_and_bad_settings_exit_with_64() {
    assert_eq!(
        broker_server(&["token", "new", "admin"]).status.code(),
        Some(64)
    );
    let output = broker_server(&["run", "--config", "nowhere.yaml"]);
    assert_eq!(output.status.code(), Some(64));
    let stderr = text(&output.stderr);
    assert!(
        stderr.starts_with("broker-server: nowhere.yaml: cannot read the settings file: "),
        "{stderr}"
    );
}

#[test]
fn token_new_prints_a_secret_and_its_digest() {
    let output = text(&broker_server(&["token", "new", "caller"]).stdout);
    let lines: Vec<&str> = output
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect();
    assert!(
        lines[0].starts_with("brk_caller_") && lines[1].starts_with("sha256:"),
        "{}",
        lines.len()
    );
}

#[test]
fn a_taken_port_is_named_and_exits_with_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = broker_server(&[
        "run",
        "--dev-dir",
        "dev-taken-port",
        "--agents-listener-listen",
        "127.0.0.1:0",
        "--callers-listener-listen",
        &address,
    ]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = text(&output.stderr);
    assert!(
        stderr.contains(&format!(
            "cannot listen on {address} (callers-listener.listen, "
        )),
        "{stderr}"
    );
}

#[test]
fn a_development_server_prints_what_to_run_and_ends_well_on_a_signal() {
    let mut child = command(&["run", "--dev-dir", "dev-run"])
        .args(["--agents-listener-listen", "127.0.0.1:0"])
        .args(["--callers-listener-listen", "127.0.0.1:0"])
        .args(["--admin-listener-listen", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut printed = String::new();
    for line in lines {
        let line = line.unwrap();
        printed.push_str(&line);
        printed.push('\n');
        if line.contains("curl -H @") {
            break;
        }
    }
    assert!(printed.contains("BROKER_AGENT_SECRET_FILE=/"), "{printed}");
    assert!(!printed.contains("brk_"), "a secret was printed");
    let killed = Command::new("sh")
        .args(["-c", "kill -TERM \"$0\"", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(
        !text(&output.stderr).contains("brk_"),
        "a secret was logged"
    );
}

//! What the two programs need of their system, and what they keep from it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;

use broker_protocol::{AccessToken, TokenKind};
use broker_tests::broker::{AgentSetup, Site};
use broker_tests::origin::{Answer, Origin};
use broker_tests::programs::{AgentProcess, Child, ServerProcess, broker_command, broker_program};

/// A user that no system knows.
const UID: u32 = 54321;

/// In a mount namespace of its own: the data folder stays writable, all else of the root file system does not; then
/// without any capability, and with no way to get one.
const CONFINE: &str = r#"set -e
mount --bind "$DATA" "$DATA"
touch "$FOLDER/program"
mount --bind "$PROGRAM" "$FOLDER/program"
mount -o remount,bind,ro /
exec setpriv --reuid "$USER_ID" --regid "$USER_ID" --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs \
  "$FOLDER/program" run
"#;

#[tokio::test]
async fn the_agent_works_as_any_user_without_capabilities_on_a_read_only_file_system() {
    if !rustix::process::geteuid().is_root() {
        println!("only root can become somebody else: nothing was tested");
        return;
    }
    let origin = Origin::answering(|_| Answer::json("[]")).await;
    let server = ServerProcess::start(Site::simple()).await;
    let setup = AgentSetup::allowing_everything(&origin.url());
    let (mut variables, folder) = setup.prepare(&server);
    let folder = folder.path();
    let authority = folder.join("ca.pem");
    fs::copy(server.site.ca.file(), &authority).unwrap();
    let data = folder.join("data");
    fs::create_dir(&data).unwrap();
    chown(&data, Some(UID), Some(UID)).unwrap();
    fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
    for (name, value) in [
        ("TUNNEL_CA_CERT", authority.as_path()),
        ("DATA", &data),
        ("FOLDER", folder),
        ("PROGRAM", &broker_program("broker-client")),
        ("USER_ID", Path::new(&UID.to_string())),
        ("BROKER_LOCAL_LISTEN", Path::new("127.0.0.1:0")),
    ] {
        variables.insert(name.to_owned(), value.display().to_string());
    }
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", CONFINE])
        .envs(&variables)
        .current_dir(folder);
    let agent = Child::start("broker-client", command);
    agent.stderr().line_with("successfully established").await;

    let answer = server.caller().get("/broker/sonarqube/x").await;

    assert_eq!(answer.status(), 200);
    let process = format!("/proc/{}", agent.pid());
    let status = fs::read_to_string(format!("{process}/status")).unwrap();
    for line in [
        &format!("Uid:\t{UID}\t{UID}\t{UID}\t{UID}"),
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        assert!(status.contains(line), "no {line:?} in {status}");
    }
    let mounts = fs::read_to_string(format!("{process}/mountinfo")).unwrap();
    let root = mounts
        .lines()
        .find(|line| line.split(' ').nth(4) == Some("/"));
    assert!(
        root.unwrap().split(' ').nth(5).unwrap().starts_with("ro"),
        "{mounts}"
    );
    // The kernel gives what is about a process that may not be looked into to root (proc(5)).
    assert_eq!(fs::metadata(format!("{process}/environ")).unwrap().uid(), 0);
}

#[tokio::test]
async fn neither_program_leaves_a_core_dump() {
    let server = ServerProcess::start(Site::simple()).await;
    let agent = AgentProcess::start(&AgentSetup::without_rules(), &server).await;
    for child in [server.child(), agent.child()] {
        let limits = fs::read_to_string(format!("/proc/{}/limits", child.pid())).unwrap();
        let core = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"));
        let words: Vec<&str> = core.unwrap().split_whitespace().collect();
        assert_eq!(words[4..6], ["0", "0"], "{limits}");
    }
}

#[tokio::test]
async fn a_secret_on_the_command_line_is_refused_and_not_repeated() {
    for kind in TokenKind::ALL {
        let token = AccessToken::generate(kind);
        let token = token.expose();
        for (program, arguments) in [
            ("broker-client", ["run", "--agent", token]),
            ("broker-client", ["run", "--secret-file", token]),
            ("broker-client", ["rules", "check", token]),
            ("broker-client", ["doctor", "--config", token]),
            ("broker-server", ["run", "--node", token]),
            ("broker-server", ["token", "new", token]),
        ] {
            let mut command = broker_command(program);
            command.args(arguments);
            let (code, said) = ended(program, command).await;
            assert_eq!(code, Some(64), "{said}");
            assert!(said.contains("holds a broker secret"), "{said}");
            assert!(!said.contains(&token[token.len() - 43..]), "{said}");
        }
    }
    for arguments in [
        ["run", "--secret=hunter2-by-habit"],
        ["run", "--token=hunter2-by-habit"],
        ["run", "--proxy-https=http://u:hunter2-by-habit@proxy"],
    ] {
        let mut command = broker_command("broker-client");
        command.args(arguments);
        let (code, said) = ended("broker-client", command).await;
        assert_eq!(code, Some(64), "{said}");
        assert!(said.contains("put it into a file or a variable"), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}

/// The exit code of a program that ends by itself, and what it has said.
async fn ended(name: &str, command: Command) -> (Option<i32>, String) {
    let mut child = Child::start(name, command);
    let code = child.exit().await.code();
    (code, child.stdout().text() + &child.stderr().text())
}

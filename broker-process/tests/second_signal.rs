//! A process that was asked to end and does not is ended by a second signal.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use broker_process::signals::Shutdown;

#[test]
fn a_second_signal_ends_the_process_at_once() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "work_that_never_ends",
            "--ignored",
            "--nocapture",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for marker in ["listening", "asked to end"] {
        while !lines.next().unwrap().unwrap().contains(marker) {}
        let killed = Command::new("sh")
            .args(["-c", "kill -TERM \"$0\"", &child.id().to_string()])
            .status()
            .unwrap();
        assert!(killed.success());
    }
    // A failed test would exit with 101.
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

#[tokio::test]
#[ignore = "the other test runs it, in a process of its own"]
async fn work_that_never_ends() {
    let shutdown = Shutdown::listen().unwrap();
    println!("listening");
    let work = shutdown.run(|requested| async {
        requested.await;
        println!("asked to end");
        std::future::pending::<()>().await;
    });
    let _ = tokio::time::timeout(Duration::from_secs(60), work).await;
}

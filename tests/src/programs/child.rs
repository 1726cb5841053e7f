//! A child process that cannot outlive its test, and what it prints.

use std::io::Read;
use std::process::{Command, ExitStatus, Stdio};
use std::thread::JoinHandle;

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::watch;

use crate::wait::within;

/// How a child is ended when its guard goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// At once.
    Kill,
    /// By SIGTERM: for a program with processes of its own, which a kill would leave behind.
    Terminate,
}

/// A running program. Dropping it ends the program and waits for the end.
pub struct Child {
    name: String,
    process: std::process::Child,
    ending: Ending,
    exited: Option<ExitStatus>,
    stdout: Output,
    stderr: Output,
}

impl Child {
    /// Starts a program that is killed at the end; `name` stands in failures.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(name: &str, command: Command) -> Self {
        Self::start_with(name, command, Ending::Kill)
    }

    /// Starts a program with the ending that suits it.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_with(name: &str, mut command: Command, ending: Ending) -> Self {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = command.spawn().unwrap_or_else(|error| {
            panic!("{name}: cannot start {:?}: {error}", command.get_program())
        });
        let stdout = Output::capture(process.stdout.take().expect("stdout is piped"));
        let stderr = Output::capture(process.stderr.take().expect("stderr is piped"));
        Self {
            name: name.to_owned(),
            process,
            ending,
            exited: None,
            stdout,
            stderr,
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// What it printed on standard output.
    pub fn stdout(&self) -> &Output {
        &self.stdout
    }

    /// What it printed on standard error.
    pub fn stderr(&self) -> &Output {
        &self.stderr
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When its exit was already awaited: the process id may be another program's by now.
    pub fn signal(&self, signal: Signal) {
        assert!(
            self.exited.is_none(),
            "{}: has ended, cannot be sent {signal:?}",
            self.name
        );
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// Waits until it has ended by itself and all that it printed has been read.
    pub async fn exit(&mut self) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        within(&what, async {
            tokio::join!(self.stdout.end(), self.stderr.end())
        })
        .await;
        self.reap()
    }

    fn reap(&mut self) -> ExitStatus {
        let status = self.process.wait().unwrap();
        self.exited = Some(status);
        status
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.exited.is_none() {
            let signal = match self.ending {
                Ending::Kill => Signal::KILL,
                Ending::Terminate => Signal::TERM,
            };
            // A process that ended and was not waited for still has its id: no one else is hit.
            kill_process(Pid::from_child(&self.process), signal).ok();
            self.process.wait().ok();
        }
        self.stdout.join();
        self.stderr.join();
        if std::thread::panicking() {
            eprintln!(
                "--- {} said:\n{}{}",
                self.name,
                self.stdout.text(),
                self.stderr.text()
            );
        }
    }
}

/// Everything that came out of one of a child's outputs, while it comes.
pub struct Output {
    captured: watch::Receiver<Vec<u8>>,
    reader: Option<JoinHandle<()>>,
}

impl Output {
    /// What came so far.
    pub fn bytes(&self) -> Vec<u8> {
        self.captured.borrow().clone()
    }

    /// What came so far, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.captured.borrow()).into_owned()
    }

    /// Waits for a whole line that holds `part`, and returns the first one.
    ///
    /// # Panics
    /// When the output ends without one, or after [`LIMIT`](crate::wait::LIMIT).
    pub async fn line_with(&self, part: &str) -> String {
        self.line(&format!("a line with {part:?}"), |line| line.contains(part))
            .await
    }

    /// Waits for a whole line that `wanted` accepts, and returns the first one; `what` stands in
    /// failures.
    ///
    /// # Panics
    /// When the output ends without one, or after [`LIMIT`](crate::wait::LIMIT).
    pub async fn line(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        self.lines(what, 1, wanted).await.remove(0)
    }

    /// Waits for so many whole lines that `wanted` accepts, and returns the first ones.
    ///
    /// # Panics
    /// As [`Output::line`].
    pub async fn lines(
        &self,
        what: &str,
        count: usize,
        wanted: impl Fn(&str) -> bool,
    ) -> Vec<String> {
        let mut captured = self.captured.clone();
        let found = |bytes: &Vec<u8>| find(bytes, count, &wanted);
        let ended = within(what, captured.wait_for(|bytes| found(bytes).len() == count)).await;
        match ended {
            Ok(bytes) => found(&bytes),
            Err(_) => panic!("{what}: not among what was printed until the end"),
        }
    }

    fn capture(mut from: impl Read + Send + 'static) -> Self {
        let (sender, captured) = watch::channel(Vec::new());
        let reader = std::thread::spawn(move || {
            let mut chunk = vec![0; 8 * 1024];
            while let Ok(read @ 1..) = from.read(&mut chunk) {
                sender.send_modify(|all| all.extend_from_slice(&chunk[..read]));
            }
        });
        Self {
            captured,
            reader: Some(reader),
        }
    }

    async fn end(&self) {
        // Fails only when the reader has gone, which is the end that is waited for.
        self.captured.clone().wait_for(|_| false).await.ok();
    }

    fn join(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.join().ok();
        }
    }
}

fn find(bytes: &[u8], count: usize, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let lines = text
        .split_inclusive('\n')
        .filter_map(|line| line.strip_suffix('\n'));
    let lines = lines.filter(|line| wanted(line)).take(count);
    lines.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Child {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Child::start("sh", command)
    }

    #[tokio::test]
    async fn a_line_is_found_when_it_comes_and_the_exit_code_is_seen() {
        let mut child = shell("echo first; echo second >&2; exit 64");
        assert_eq!(child.stdout().line_with("fir").await, "first");
        assert_eq!(child.stderr().line_with("sec").await, "second");
        assert_eq!(child.exit().await.code(), Some(64));
    }

    #[tokio::test]
    #[should_panic(expected = "not among what was printed")]
    async fn a_line_that_does_not_come_fails_when_the_program_ends() {
        shell("echo first").stdout().line_with("second").await;
    }

    #[tokio::test]
    async fn a_signal_reaches_the_program() {
        let mut child = shell("trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done");
        child.stdout().line_with("ready").await;
        child.signal(Signal::TERM);
        assert_eq!(child.exit().await.code(), Some(7));
    }

    #[tokio::test]
    async fn a_dropped_child_is_gone() {
        let child = shell("echo ready; exec sleep 1000");
        child.stdout().line_with("ready").await;
        let process = format!("/proc/{}", child.pid());
        drop(child);
        assert!(!std::path::Path::new(&process).exists());
    }
}

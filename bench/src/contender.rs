//! What is measured: a way from the load to the origin, and the processes that it takes.

use std::time::Duration;

use anyhow::{Result, bail};
use broker_tests::caller::Caller;
use broker_tests::certs::Ca;
use broker_tests::memory::{Memory, cpu_time_of_tree};
use broker_tests::programs::{Nginx, SMALL_JSON_LENGTH};

/// A way to the origin.
pub(crate) struct Contender {
    /// What the report calls it.
    pub(crate) name: &'static str,
    /// Where requests go: what stands before `/small.json`.
    pub(crate) base: String,
    /// A header that each request carries, if any.
    pub(crate) header: Option<(&'static str, String)>,
    /// Its processes.
    pub(crate) processes: Vec<Process>,
    /// Whatever must live as long as they run.
    _guards: Box<dyn Send>,
}

/// A program, with the processes that it started itself.
pub(crate) struct Process {
    /// What the report calls it.
    pub(crate) name: &'static str,
    pid: u32,
    idle: Option<(Memory, Duration)>,
}

/// What a program took.
pub(crate) struct Usage {
    /// Bytes resident before any load.
    pub(crate) idle: u64,
    /// The most bytes that were resident.
    pub(crate) peak: u64,
    /// Processor time under load, over all rounds.
    pub(crate) cpu: Duration,
}

impl Contender {
    /// From already running processes; `guards` ends them when it is dropped.
    pub(crate) fn new(
        name: &'static str,
        base: String,
        header: Option<(&'static str, String)>,
        processes: Vec<Process>,
        guards: impl Send + 'static,
    ) -> Self {
        Self {
            name,
            base,
            header,
            processes,
            _guards: Box::new(guards),
        }
    }

    /// Straight to the origin.
    pub(crate) fn direct(origin: &Nginx) -> Self {
        let processes = vec![Process::new("nginx, the origin", origin.pid())];
        Self::new("direct", origin.url(), None, processes, ())
    }

    /// Over two nginx with TLS 1.3 between them: two plain hops, the practical limit for a pair
    /// that understands HTTP.
    pub(crate) async fn pair(origin: &Nginx) -> Self {
        let ca = Ca::new("bench");
        let far = Nginx::tls_proxy(&ca.loopback("far"), origin.address()).await;
        let near = Nginx::proxy_to_tls(&ca, far.address()).await;
        let processes = vec![
            Process::new("nginx, near", near.pid()),
            Process::new("nginx, far", far.pid()),
        ];
        Self::new("nginx pair", near.url(), None, processes, (near, far, ca))
    }

    /// One request, whose answer must be the origin's.
    pub(crate) async fn check(&self) -> Result<()> {
        let Some((address, path)) = self.base.strip_prefix("http://").map(split) else {
            bail!("{} is no http URL", self.base);
        };
        let mut caller = Caller::to(address.parse()?);
        if let Some((name, value)) = &self.header {
            caller = caller.with_header(name, value);
        }
        let answer = caller.get(&format!("{path}/small.json")).await;
        let status = answer.status();
        let body = answer.bytes().await;
        if status != 200 || body.len() != SMALL_JSON_LENGTH {
            bail!("answers {status}: {}", String::from_utf8_lossy(&body));
        }
        Ok(())
    }

    /// Notes what its processes take before the load.
    pub(crate) fn note_idle(&mut self) {
        for process in &mut self.processes {
            process.idle = Some((Memory::of_tree(process.pid), cpu_time_of_tree(process.pid)));
        }
    }
}

impl Process {
    /// A running program.
    pub(crate) fn new(name: &'static str, pid: u32) -> Self {
        Self {
            name,
            pid,
            idle: None,
        }
    }

    /// What it took so far; nothing before [`Contender::note_idle`].
    pub(crate) fn usage(&self) -> Option<Usage> {
        let (idle, before) = self.idle?;
        let peak = Memory::of_tree(self.pid).peak;
        Some(Usage {
            idle: idle.resident,
            peak,
            cpu: cpu_time_of_tree(self.pid) - before,
        })
    }
}

fn split(url: &str) -> (&str, &str) {
    url.split_at(url.find('/').unwrap_or(url.len()))
}

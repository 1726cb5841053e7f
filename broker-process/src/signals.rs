//! How a process is asked to end, and to read its files again.

use std::io;
use std::process;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// SIGTERM and SIGINT: the first asks the work to end, a second one ends the process at once.
#[derive(Debug)]
pub struct Shutdown {
    terminate: Signal,
    interrupt: Signal,
}

impl Shutdown {
    /// Takes over both signals; from here on they no longer end the process by themselves.
    ///
    /// # Errors
    /// If the system refuses the handlers.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Runs `work` to its end. It is given a future that resolves at the first signal, after which it should finish
    /// what it has; a second signal exits with code 1 without waiting for it.
    pub async fn run<T, W>(mut self, work: impl FnOnce(Requested) -> W) -> T
    where
        W: Future<Output = T>,
    {
        let (request, requested) = oneshot::channel();
        let mut work = std::pin::pin!(work(Requested(requested)));
        tokio::select! {
            output = &mut work => return output,
            name = self.next() => tracing::info!("{name}: finishing what is in flight; a second signal ends at once"),
        }
        // The work may have dropped its end, in which case it watches for nothing and just goes on.
        let _ = request.send(());
        tokio::select! {
            output = &mut work => output,
            name = self.next() => {
                tracing::error!("{name} again: ending at once, requests in flight are cut");
                process::exit(1)
            }
        }
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// SIGHUP: asks for files to be read again.
#[derive(Debug)]
pub struct Hangup(Signal);

impl Hangup {
    /// Takes over the signal; from here on it no longer ends the process.
    ///
    /// # Errors
    /// If the system refuses the handler.
    pub fn listen() -> io::Result<Self> {
        Ok(Self(signal(SignalKind::hangup())?))
    }

    /// Calls `act` each time the signal comes, while `work` runs to its end.
    pub async fn during<T>(mut self, act: impl Fn(), work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                output = &mut work => return output,
                _ = self.0.recv() => act(),
            }
        }
    }
}

/// Resolves when the process has been asked to end.
#[derive(Debug)]
pub struct Requested(oneshot::Receiver<()>);

impl Future for Requested {
    type Output = ();

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<()> {
        std::pin::Pin::new(&mut self.0).poll(context).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(signal: &str) {
        let status = process::Command::new("sh")
            .args([
                "-c",
                "kill \"$0\" \"$1\"",
                signal,
                &process::id().to_string(),
            ])
            .status()
            .unwrap();
        assert!(status.success());
    }

    #[tokio::test]
    async fn the_first_signal_lets_the_work_finish() {
        let shutdown = Shutdown::listen().unwrap();
        let outcome = shutdown
            .run(|requested| async {
                send("-TERM");
                requested.await;
                tokio::task::yield_now().await;
                "finished"
            })
            .await;
        assert_eq!(outcome, "finished");
    }

    #[tokio::test]
    async fn a_hangup_is_acted_on_while_the_work_goes_on() {
        let acted = tokio::sync::Notify::new();
        let work = async {
            send("-HUP");
            acted.notified().await;
            "finished"
        };
        let hangup = Hangup::listen().unwrap();
        let outcome = hangup.during(|| acted.notify_one(), work).await;
        assert_eq!(outcome, "finished");
    }

    #[tokio::test]
    async fn work_that_ends_by_itself_needs_no_signal() {
        let shutdown = Shutdown::listen().unwrap();
        assert_eq!(shutdown.run(|_| async { 7 }).await, 7);
    }
}

//! The way to the server, hop by hop, as the agent takes it, up to the answer that would open a tunnel.

use std::time::{Duration, SystemTime};

use broker_process::logging::chain;
use broker_process::tls::TlsError;
use broker_protocol::{AccessToken, AgentHello, CloseCode, ErrorCode, WsStream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;
use uuid::Uuid;

use super::report::{Section, Stop};
use super::{shown_addresses, to_proxy};
use crate::agent::{BROKEN, FIRST_BYTES, held_back};
use crate::config::{Config, Connection, ServerUrl};
use crate::dial::{CONNECT_TIMEOUT, DialError, Dialer};
use crate::proxy::ProxyWay;
use crate::tcp::Transport;

const HOPS: &[&str] = &["dns", "tcp", "proxy", "tls", "server", "secret", "clock"];
/// From here on a clock is worth a warning: its certificates and log lines begin to mislead.
const SKEWED: Duration = Duration::from_secs(30);
/// From here on signed requests and short-lived tokens are refused by those who check them.
const WRONG: Duration = Duration::from_secs(5 * 60);
/// What a proxy does that leads through a WebSocket's handshake alone.
const CUT_AT_ONCE: &str = "the connection was cut as soon as the tunnel was open";
/// How long a good-bye may take.
const GOODBYE: Duration = Duration::from_secs(3);

/// The way of one connection to its server.
pub(super) struct Way<'c> {
    connection: &'c Connection,
    dialer: Result<Dialer, TlsError>,
    has_secret: bool,
}

impl<'c> Way<'c> {
    /// Takes the secret apart from the connection.
    pub(super) fn new(
        config: &Config,
        connection: &'c Connection,
        secret: Option<AccessToken>,
    ) -> Self {
        let has_secret = secret.is_some();
        let hello = AgentHello {
            agent: connection.agent.clone(),
            secret,
            instance: config.instance.clone(),
            run: Uuid::new_v4().to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
            is_check: true,
        };
        Self {
            connection,
            dialer: Dialer::new(config, &connection.server, &hello),
            has_secret,
        }
    }

    /// Goes it. Where the agent of this machine has tunnels, that there is no room for one more is no failure.
    pub(super) async fn check(&self, is_connected: bool) -> Section {
        let Connection { server, agent, .. } = self.connection;
        let subject = format!("server {server} as {agent}");
        let mut section = Section::new(subject, HOPS);
        match &self.dialer {
            Err(error) => drop(section.fail("tls", None, error)),
            Ok(dialer) => {
                // What stopped it stands in the section.
                drop(self.go(dialer, is_connected, &mut section).await);
            }
        }
        section.finish()
    }

    async fn go(
        &self,
        dialer: &Dialer,
        is_connected: bool,
        section: &mut Section,
    ) -> Result<(), Stop> {
        let server = &self.connection.server;
        let connection = match dialer.proxy() {
            Some(way) => through_proxy(server, way, dialer, section).await?,
            None => directly(server, dialer, section).await?,
        };
        let secured = dialer.in_time(dialer.secure(connection)).await;
        let secured = secured.map_err(|error| section.fail("tls", Some(error.code()), &error))?;
        match &secured.peer {
            None => section.pass("tls", "not used, since the server's URL says so"),
            Some(peer) if peer.ends_soon() => section.warn("tls", peer),
            Some(peer) => section.pass("tls", peer),
        }
        let dialled = match dialer.in_time(dialer.upgrade(secured)).await {
            Ok(dialled) => dialled,
            Err(error) => return Err(refused(&error, is_connected, section)),
        };
        let server = &dialled.server;
        let welcome = format!(
            "node {} of {}, tenant {}, sees this agent come from {}",
            server.node, server.nodes, server.tenant, server.source
        );
        match in_use(dialled.stream).await {
            Ok(()) => section.pass("server", welcome),
            Err((code, text)) => drop(section.fail("server", Some(code), text)),
        }
        section.pass(
            "secret",
            if self.has_secret {
                "the server admits this name with this secret"
            } else {
                "none is set, and the server admits this name from this network"
            },
        );
        clock(dialled.date, section);
        Ok(())
    }
}

async fn directly(
    server: &ServerUrl,
    dialer: &Dialer,
    section: &mut Section,
) -> Result<Box<dyn Transport>, Stop> {
    let addresses = dialer.resolve().await;
    let addresses = addresses.map_err(|error| section.fail("dns", Some(error.code()), &error))?;
    section.pass("dns", shown_addresses(&addresses));
    let connection = dialer.connect().await;
    let connection = connection.map_err(|error| section.fail("tcp", Some(error.code()), &error))?;
    section.pass("tcp", server.host_and_port());
    section.pass("proxy", "none on the way");
    Ok(connection)
}

async fn through_proxy(
    server: &ServerUrl,
    way: &ProxyWay,
    dialer: &Dialer,
    section: &mut Section,
) -> Result<Box<dyn Transport>, Stop> {
    to_proxy(way, CONNECT_TIMEOUT, section).await?;
    let connection = dialer.connect().await;
    let connection =
        connection.map_err(|error| section.fail("proxy", Some(error.code()), &error))?;
    let server = server.host_and_port();
    section.pass("proxy", format!("{} leads to {server}", way.proxy));
    Ok(connection)
}

/// Waits until something has come through what looks like a tunnel, and says good-bye.
async fn in_use(mut stream: WsStream<Box<dyn Transport>>) -> Result<(), (&'static str, String)> {
    let close = stream.close_handle();
    let first = timeout(FIRST_BYTES, stream.read(&mut [0])).await;
    let seen = match first {
        Ok(Ok(0)) if close.closed_by_peer().is_none() => Err((BROKEN, CUT_AT_ONCE.to_owned())),
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err((BROKEN, format!("{CUT_AT_ONCE}: {}", chain(&error)))),
        Err(_) => {
            let failure = held_back();
            Err((failure.code, failure.text))
        }
    };
    close.close(CloseCode::Normal);
    // A server that does not read it loses a connection that it does not need.
    drop(timeout(GOODBYE, stream.shutdown()).await);
    seen
}

/// The server, or what is in its place, opens no tunnel.
fn refused(error: &DialError, is_connected: bool, section: &mut Section) -> Stop {
    let code = error.code();
    let DialError::Refused { answer, .. } = error else {
        return section.fail("server", Some(code), error);
    };
    clock(answer.date, section);
    if code == "not-admitted" {
        section.pass("server", "answers, and is a broker");
        return section.fail("secret", Some(code), error);
    }
    let is_full = answer.code.as_deref() == Some(ErrorCode::Overloaded.as_str());
    if is_full && is_connected {
        section.warn("server", error);
        section.pass("secret", "the running agent is admitted");
        return Stop;
    }
    section.fail("server", Some(code), error)
}

fn clock(server: Option<SystemTime>, section: &mut Section) {
    let Some(server) = server else {
        return section.skip("clock", "the server tells no time");
    };
    let here = SystemTime::now();
    let (skew, direction) = match here.duration_since(server) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(behind) => (behind.duration(), "behind"),
    };
    let text = format!(
        "this machine is {} s {direction} the server",
        skew.as_secs()
    );
    if skew >= WRONG {
        let fix = "certificates, tokens and signatures are refused for that: set the clock, by NTP";
        section.fail("clock", None, format!("{text} ({fix})"));
    } else if skew >= SKEWED {
        section.warn("clock", format!("{text} (set the clock, by NTP)"));
    } else {
        section.pass("clock", text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::report::Report;

    fn verdict(skew: i64) -> String {
        let distance = Duration::from_secs(skew.unsigned_abs());
        let now = SystemTime::now();
        let server = if skew < 0 {
            now - distance
        } else {
            now + distance
        };
        let mut section = Section::new(String::new(), HOPS);
        clock(Some(server), &mut section);
        Report::new(vec![section]).to_string()
    }

    #[test]
    fn a_clock_is_warned_about_from_30_s_and_wrong_from_5_min_both_ways() {
        for (skew, expected) in [
            (0, "PASS"),
            (28, "PASS"),
            (-29, "PASS"),
            (32, "WARN"),
            (-31, "WARN"),
            (302, "FAIL"),
            (-301, "FAIL"),
        ] {
            let shown = verdict(skew);
            assert!(
                shown.contains(&format!("{expected}  clock")),
                "{skew}: {shown}"
            );
        }
        assert!(verdict(600).contains("behind the server"));
        assert!(verdict(-600).contains("600 s ahead of the server"));
    }
}

//! `doctor --egress`: what a firewall must let this machine reach, and what its proxies must.

use std::fmt;
use std::sync::Arc;

use http::uri::Scheme;
use serde::Serialize;

use super::whose;
use crate::config::{Config, default_port};
use crate::control_call::Way;
use crate::credential::Call;
use crate::proxy::Proxy;
use crate::rules::Rules;

/// Every host and port, in a stable order.
#[derive(Debug, Serialize)]
pub(super) struct Egress {
    destinations: Vec<Destination>,
}

#[derive(Debug, Serialize, PartialEq, Eq, PartialOrd, Ord)]
struct Destination {
    host: String,
    port: u16,
    /// The proxy that connects there in this machine's place.
    through: Option<String>,
    /// What is there.
    purpose: String,
}

impl Egress {
    /// Of each connection and its rules, and of the services that are called for their credentials.
    pub(super) fn of(config: &Config, rules: &[Arc<Rules>]) -> Self {
        let mut destinations = Vec::new();
        let mut add = |host: &str, port, proxy: Option<&Proxy>, purpose: String| {
            if let Some(proxy) = proxy {
                let url = proxy.url();
                destinations.push(Destination {
                    host: url.host().to_str().into_owned(),
                    port: url.port(),
                    through: None,
                    purpose: "proxy".to_owned(),
                });
            }
            destinations.push(Destination {
                host: host.to_owned(),
                port,
                through: proxy.map(ToString::to_string),
                purpose,
            });
        };
        for (connection, rules) in config.connections.iter().zip(rules) {
            let server = &connection.server;
            let purpose = format!("server of {}", connection.agent);
            let proxy = config.tunnel_proxy(server);
            add(&server.host().to_str(), server.port(), proxy, purpose);
            let whose = whose(&config.connections, connection);
            for destination in rules.destinations() {
                let authority = destination.origin.authority();
                let is_tls = *destination.origin.scheme() == Scheme::HTTPS;
                let port = authority.port_u16().unwrap_or(default_port(is_tls));
                let proxy = destination.client.steps().proxy().map(|way| &way.proxy);
                let purpose = format!("{whose}origin of {}", destination.shown_rules());
                add(authority.host(), port, proxy, purpose);
            }
        }
        let calls = rules.first().map(|rules| rules.sources.calls());
        for Call { source, uri, way } in calls.unwrap_or_default() {
            let host = uri.host().unwrap_or_default();
            let is_tls = uri.scheme() == Some(&Scheme::HTTPS);
            let port = uri.port_u16().unwrap_or(default_port(is_tls));
            let (proxy, local) = match way {
                Way::Usual => (config.proxies.towards(is_tls, host, port), ""),
                Way::Direct => (None, ", of this machine: no firewall is between"),
            };
            add(host, port, proxy, format!("credential {source}{local}"));
        }
        destinations.sort();
        destinations.dedup();
        Self { destinations }
    }
}

/// A line for each: `broker.example:443  server of sonarqube, through http://proxy.example:3128`.
impl fmt::Display for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = |it: &Destination| format!("{}:{}", it.host, it.port);
        let places = self.destinations.iter().map(|it| place(it).len());
        let width = places.max().unwrap_or_default();
        for destination in &self.destinations {
            let Destination {
                through, purpose, ..
            } = destination;
            write!(f, "{:width$}  {purpose}", place(destination))?;
            match through {
                Some(proxy) => writeln!(
                    f,
                    ", through {proxy}, which resolves the name and must lead there"
                )?,
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}

//! What Backstage's proxy is made of, as a caller: Express and http-proxy-middleware 2.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use crate::certs::Ca;
use crate::programs::Child;

/// The path under which the proxy takes requests.
pub const MOUNT: &str = "/api/proxy/it";

/// A running proxy: what it gets under [`MOUNT`] goes to its target with the mount taken off.
pub struct NodeProxy {
    child: Child,
    address: SocketAddr,
}

impl NodeProxy {
    /// A proxy in front of `target` (a URL with a path, where the broker has one) that adds these
    /// headers; `ca` signs the certificate of an https target.
    ///
    /// # Panics
    /// When its packages are not installed.
    pub async fn start(target: &str, headers: &[(&str, &str)], ca: Option<&Ca>) -> Self {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("npm");
        let installed = folder.join("node_modules/http-proxy-middleware").exists();
        assert!(
            installed,
            "{}: run `npm ci` there, or ./check",
            folder.display()
        );
        let headers: serde_json::Map<_, _> = headers
            .iter()
            .map(|&(name, value)| (name.to_owned(), value.into()))
            .collect();
        let settings =
            json!({"target": target, "mount": MOUNT, "headers": headers, "ca": ca.map(Ca::file)});
        let mut command = Command::new("node");
        command
            .arg(folder.join("proxy.js"))
            .env("PROXY_SETTINGS", settings.to_string());
        let child = Child::start("the node proxy", command);
        let line = child.stdout().line_with("listening on ").await;
        let port: u16 = line.trim_start_matches("listening on ").parse().unwrap();
        Self {
            child,
            address: ([127, 0, 0, 1], port).into(),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The process, for what it printed.
    pub fn child(&self) -> &Child {
        &self.child
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::Caller;
    use crate::origin::{Answer, Origin};

    #[tokio::test]
    async fn it_takes_the_mount_off_and_adds_its_headers() {
        let origin = Origin::answering(|_| Answer::json("{}")).await;
        let target = format!("{}/broker/sonarqube", origin.url());
        let proxy = NodeProxy::start(&target, &[("Broker-Authorization", "Bearer x")], None).await;
        let path = format!("{MOUNT}/api/issues?a=%2F");
        let answer = Caller::to(proxy.address()).get(&path).await;
        assert_eq!(answer.status(), 200);
        let seen = origin.requests();
        assert_eq!(
            seen[0].head.first_line(),
            "GET /broker/sonarqube/api/issues?a=%2F HTTP/1.1"
        );
        assert_eq!(
            seen[0].head.value("broker-authorization").as_deref(),
            Some("Bearer x")
        );
        assert_eq!(
            seen[0].head.value("host"),
            Some(origin.address().to_string())
        );
    }
}

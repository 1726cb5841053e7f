//! Proxies that lead out of a company's network, as real programs: squid, also behind
//! TLS, tinyproxy, and mitmproxy, which opens TLS.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::certs::{Ca, Leaf};
use crate::programs::{Child, Ending, Signal, free_port, target_folder};

/// The user whom both let through, by Basic authentication.
const USER: &str = "agent";
/// That user's password.
pub const PROXY_PASSWORD: &str = "hunter2-of-the-proxy";
/// A name that squid knows to be this machine, and no resolver does.
pub const NAME_BEHIND_PROXY: &str = "behind.test";

/// A running proxy that wants Basic authentication and then leads everywhere.
pub struct ForwardProxy {
    // Dropped in this order: the programs first, then their files.
    /// What speaks TLS in front of it, and where.
    front: Option<(Child, SocketAddr)>,
    child: Child,
    folder: TempDir,
    address: SocketAddr,
}

impl ForwardProxy {
    /// squid, which resolves [`NAME_BEHIND_PROXY`].
    pub async fn squid() -> Self {
        let proxy = Self::start(
            "/usr/sbin/squid",
            |folder, port| {
                let file = |name: &str| folder.join(name).display().to_string();
                // One line for each question, `user password`.
                let judge = format!(
                    "while read -r asked; do\n  \
                     if [ \"$asked\" = '{USER} {PROXY_PASSWORD}' ]; then echo OK; else echo ERR; fi\ndone\n"
                );
                fs::write(folder.join("judge.sh"), judge).unwrap();
                fs::write(
                    folder.join("hosts"),
                    format!("127.0.0.1 localhost {NAME_BEHIND_PROXY}\n"),
                )
                .unwrap();
                // Started by root it works as another user, who must get at its files.
                fs::set_permissions(folder, Permissions::from_mode(0o777)).unwrap();
                format!(
                    "http_port 127.0.0.1:{port}
                     visible_hostname squid.test
                     hosts_file {hosts}
                     pid_filename none
                     access_log stdio:{log}
                     cache deny all
                     cache_mem 8 MB
                     netdb_filename none
                     pinger_enable off
                     shutdown_lifetime 0 seconds
                     coredump_dir {folder}
                     auth_param basic program /bin/sh {judge}
                     auth_param basic children 1
                     acl users proxy_auth REQUIRED
                     http_access allow users
                     http_access deny all\n",
                    hosts = file("hosts"),
                    log = file("access.log"),
                    judge = file("judge.sh"),
                    folder = folder.display(),
                )
            },
            |command, file| {
                command.args(["-N", "-d", "1", "-f"]).arg(file);
            },
        );
        proxy
            .child
            .stderr()
            .line_with("Accepting HTTP Socket connections")
            .await;
        proxy
    }

    /// squid behind stunnel, which shows this certificate for `127.0.0.1`: an `https://` proxy.
    pub async fn squid_with_tls(leaf: &Leaf) -> Self {
        let mut squid = Self::squid().await;
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let file = squid.folder.path().join("stunnel.conf");
        let settings = format!(
            "foreground = yes\npid =\n[proxy]\naccept = {address}\nconnect = {}\ncert = {}\nkey = {}\n",
            squid.address,
            leaf.certificate.display(),
            leaf.key.display()
        );
        fs::write(&file, settings).unwrap();
        let mut command = Command::new("/usr/bin/stunnel");
        command.arg(file);
        let child = Child::start_with("stunnel", command, Ending::Terminate);
        child.stderr().line_with("Configuration successful").await;
        squid.front = Some((child, address));
        squid
    }

    /// tinyproxy.
    pub async fn tinyproxy() -> Self {
        let proxy = Self::start(
            "/usr/bin/tinyproxy",
            |_, port| {
                format!(
                    "Port {port}
                     Listen 127.0.0.1
                     Timeout 600
                     MaxClients 100
                     LogLevel Info
                     BasicAuth {USER} {PROXY_PASSWORD}\n"
                )
            },
            |command, file| {
                command.args(["-d", "-c"]).arg(file);
            },
        );
        proxy
            .child
            .stdout()
            .line_with("Accepting connections")
            .await;
        proxy
    }

    /// mitmproxy, which opens TLS with an authority of its own ([`ForwardProxy::authority`]) and trusts `behind` for
    /// what is behind it.
    pub async fn mitmproxy(behind: &Ca) -> Self {
        let program = target_folder().join("mitmproxy/bin/mitmdump");
        assert!(program.exists(), "{}: run ./check", program.display());
        let proxy = Self::start(
            program.to_str().unwrap(),
            |folder, port| {
                format!(
                    "listen_host: 127.0.0.1
listen_port: {port}
confdir: {}
proxyauth: {USER}:{PROXY_PASSWORD}
ssl_verify_upstream_trusted_ca: {}\n",
                    folder.display(),
                    behind.file().display()
                )
            },
            |command, file| {
                let folder = file.parent().unwrap();
                fs::rename(file, folder.join("config.yaml")).unwrap();
                command
                    .arg("--set")
                    .arg(format!("confdir={}", folder.display()));
                command.env("PYTHONUNBUFFERED", "1");
            },
        );
        proxy.child.stdout().line_with("proxy listening at").await;
        proxy
    }

    /// The certificate of the authority with which it opens TLS.
    pub fn authority(&self) -> PathBuf {
        self.folder.path().join("mitmproxy-ca-cert.pem")
    }

    fn start(
        program: &str,
        configuration: impl FnOnce(&Path, u16) -> String,
        arguments: impl FnOnce(&mut Command, &Path),
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let file = folder.path().join("proxy.conf");
        fs::write(&file, configuration(folder.path(), port)).unwrap();
        let mut command = Command::new(program);
        arguments(&mut command, &file);
        Self {
            front: None,
            child: Child::start_with(program, command, Ending::Terminate),
            folder,
            address: ([127, 0, 0, 1], port).into(),
        }
    }

    /// Its URL, with the credential that it wants.
    pub fn url(&self) -> String {
        self.url_with(&format!("{USER}:{PROXY_PASSWORD}@"))
    }

    /// Its URL, with other userinfo and its `@`, or with none.
    pub fn url_with(&self, userinfo: &str) -> String {
        match &self.front {
            Some((_, address)) => format!("https://{userinfo}{address}"),
            None => format!("http://{userinfo}{}", self.address),
        }
    }

    /// Ends it, and gives all that it has logged: squid logs a way only once that has ended.
    pub async fn end(mut self) -> String {
        self.child.signal(Signal::TERM);
        self.child.exit().await;
        let file = fs::read_to_string(self.folder.path().join("access.log")).unwrap_or_default();
        file + &self.child.stdout().text()
    }
}

//! nginx as an origin, and as a proxy to compare with.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::certs::{Ca, Leaf};
use crate::digest::{Digest, Noise};
use crate::programs::{Child, Ending, Output, free_port};
use crate::wait::within;

/// The 200 bytes that `/small.json` answers.
pub const SMALL_JSON_LENGTH: usize = 200;

/// How often another port is tried when the chosen one was taken in between.
const PORTS_TRIED: usize = 10;

/// A running nginx with all its files in a folder of its own.
pub struct Nginx {
    // Dropped in this order: the program first, then its files.
    child: Child,
    folder: TempDir,
    address: SocketAddr,
    scheme: &'static str,
}

impl Nginx {
    /// An origin over HTTP/1.1 that serves `/small.json` (200 bytes), `/files/<size>` for sizes
    /// made by [`Nginx::file`], `/upload`, which keeps each body for [`Nginx::uploads`], and
    /// `/limited`, which answers 413 as soon as it sees that a body is over 1 MiB.
    pub async fn origin() -> Self {
        Self::start("http", |site| {
            origin(site, "", "client_body_in_file_only on;")
        })
        .await
    }

    /// The same origin over TLS, HTTP/2 or HTTP/1.1 as the client asks by ALPN.
    pub async fn tls_origin(leaf: &Leaf) -> Self {
        let tls = tls(leaf);
        Self::start("https", |site| {
            origin(
                site,
                &format!("ssl http2;{tls}"),
                "client_body_in_file_only on;",
            )
        })
        .await
    }

    /// The same origin over TLS, which demands a certificate of `clients`, and says in the header `client` which one it
    /// was shown.
    pub async fn tls_origin_demanding(leaf: &Leaf, clients: &Ca) -> Self {
        let tls = format!(
            "ssl http2;{} ssl_verify_client on; ssl_client_certificate {};
             add_header client $ssl_client_s_dn;",
            tls(leaf),
            clients.file().display()
        );
        Self::start("https", |site| {
            origin(site, &tls, "client_body_in_file_only on;")
        })
        .await
    }

    /// The same origin, for load: all its files are in memory, it keeps no upload once it is
    /// answered, and no access log.
    pub async fn load_origin() -> Self {
        Self::start_in(Path::new("/dev/shm"), "http", |site| {
            origin(site, "", "client_body_in_file_only clean; access_log off;")
        })
        .await
    }

    /// A proxy over TLS 1.3 in front of `origin`, with connections kept and nothing buffered: the
    /// far half of two plain hops.
    pub async fn tls_proxy(leaf: &Leaf, to: SocketAddr) -> Self {
        let tls = format!("ssl; ssl_protocols TLSv1.3;{}", tls(leaf));
        Self::start("https", |site| {
            proxy(site, &tls, to, "proxy_pass http://next;")
        })
        .await
    }

    /// A proxy over cleartext HTTP that goes on to a [`Nginx::tls_proxy`], with connections kept
    /// and nothing buffered: the near half of two plain hops.
    pub async fn proxy_to_tls(ca: &Ca, to: SocketAddr) -> Self {
        let pass = format!(
            "proxy_pass https://next; proxy_ssl_protocols TLSv1.3; proxy_ssl_verify on;
             proxy_ssl_name localhost; proxy_ssl_trusted_certificate {};",
            ca.file().display()
        );
        Self::start("http", |site| proxy(site, ";", to, &pass)).await
    }

    /// A proxy over TLS that takes the tunnels of agents below `/prefix/`, as a load balancer with
    /// several services behind it would, to an agents listener that speaks no TLS.
    pub async fn tunnel_proxy(leaf: &Leaf, to: SocketAddr) -> Self {
        let tls = format!("ssl; ssl_protocols TLSv1.3;{}", tls(leaf));
        Self::start("https", |site| {
            let upgrade = "proxy_set_header Upgrade $http_upgrade;
                 proxy_set_header Connection upgrade;";
            proxy_at(
                site,
                &tls,
                "/prefix/",
                to,
                "proxy_pass http://next/;",
                upgrade,
            )
        })
        .await
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:<port>`, or with https.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// The process id of the master; its workers are its children.
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Puts `length` bytes at `/files/<length>`.
    pub fn file(&self, length: u64) -> Digest {
        let path = self.file_path(length);
        Noise::write_file(length, &path);
        Digest::of_file(&path)
    }

    /// The file behind `/files/<length>`.
    pub fn file_path(&self, length: u64) -> PathBuf {
        self.folder.path().join(format!("www/files/{length}"))
    }

    /// The bodies that `/upload` received, in no particular order. An answer of `/upload` names
    /// its file in the header `upload-file`.
    pub fn uploads(&self) -> Vec<Digest> {
        let mut uploads = Vec::new();
        for folder in fs::read_dir(self.folder.path().join("uploads")).unwrap() {
            uploads.push(Digest::of_file(&folder.unwrap().path()));
        }
        uploads
    }

    /// One line a request, once it is answered: the request line as it came, the status, and the
    /// request's length.
    pub fn access_log(&self) -> &Output {
        self.child.stdout()
    }

    async fn start(scheme: &'static str, configuration: impl Fn(&Site) -> String) -> Self {
        Self::start_in(&std::env::temp_dir(), scheme, configuration).await
    }

    async fn start_in(
        parent: &Path,
        scheme: &'static str,
        configuration: impl Fn(&Site) -> String,
    ) -> Self {
        for _ in 0..PORTS_TRIED {
            let folder = tempfile::tempdir_in(parent).unwrap();
            let site = Site {
                folder: folder.path().to_owned(),
                port: free_port(),
            };
            site.write(&configuration(&site));
            let child = site.run();
            let started = "nginx to start, or to say why not";
            let line = child
                .stderr()
                .line(started, |line| {
                    line.contains("start worker process ") || line.contains("[emerg]")
                })
                .await;
            if line.contains("Address already in use") {
                continue;
            }
            assert!(!line.contains("[emerg]"), "nginx does not start: {line}");
            let address = SocketAddr::from(([127, 0, 0, 1], site.port));
            within("a connection to nginx", TcpStream::connect(address))
                .await
                .unwrap();
            return Self {
                child,
                folder,
                address,
                scheme,
            };
        }
        panic!("nginx: each of {PORTS_TRIED} free ports was taken before it could listen");
    }
}

/// One nginx to be: its folder and its port.
struct Site {
    folder: PathBuf,
    port: u16,
}

impl Site {
    fn write(&self, configuration: &str) {
        for folder in ["www/files", "uploads"] {
            fs::create_dir_all(self.folder.join(folder)).unwrap();
        }
        fs::write(self.folder.join("www/small.json"), small_json()).unwrap();
        fs::write(self.folder.join("nginx.conf"), configuration).unwrap();
    }

    fn run(&self) -> Child {
        let mut command = Command::new(program());
        command
            .arg("-p")
            .arg(&self.folder)
            .args(["-c", "nginx.conf", "-e", "stderr"]);
        Child::start_with("nginx", command, Ending::Terminate)
    }
}

/// Debian installs it where only root's PATH leads.
fn program() -> &'static Path {
    let debian = Path::new("/usr/sbin/nginx");
    if debian.exists() {
        debian
    } else {
        Path::new("nginx")
    }
}

/// Exactly [`SMALL_JSON_LENGTH`] bytes.
fn small_json() -> String {
    let (start, end) = ("{\"ok\":true,\"fill\":\"", "\"}");
    format!(
        "{start}{}{end}",
        "x".repeat(SMALL_JSON_LENGTH - start.len() - end.len())
    )
}

fn origin(site: &Site, tls: &str, upload: &str) -> String {
    let Site { port, folder } = site;
    let listen = if tls.is_empty() { ";" } else { tls };
    // An upload is complete in its file before the inner server answers for it.
    let servers = format!(
        "log_format seen '$request $status $request_length';
         access_log /dev/stdout seen;
         server {{
             listen 127.0.0.1:{port} {listen}
             root www;
             default_type application/octet-stream;
             types {{ application/json json; }}
             location = /upload {{
                 {upload}
                 proxy_pass http://unix:{inner}:/;
                 proxy_pass_request_body off;
                 proxy_set_header Content-Length '';
                 add_header upload-file $request_body_file;
             }}
             location = /limited {{
                 client_max_body_size 1m;
                 proxy_pass http://unix:{inner}:/;
             }}
         }}
         server {{
             listen unix:{inner};
             access_log off;
             default_type text/plain;
             return 200 'received';
         }}",
        inner = folder.join("inner.sock").display(),
    );
    around(&servers)
}

fn proxy(site: &Site, listen: &str, to: SocketAddr, pass: &str) -> String {
    let kept = "proxy_set_header Connection '';";
    proxy_at(site, listen, "/", to, pass, kept)
}

fn proxy_at(
    site: &Site,
    listen: &str,
    location: &str,
    to: SocketAddr,
    pass: &str,
    connection: &str,
) -> String {
    let servers = format!(
        "access_log off;
         upstream next {{ server {to}; keepalive 256; keepalive_requests 1000000000; }}
         server {{
             listen 127.0.0.1:{port} {listen}
             location {location} {{
                 {pass}
                 proxy_http_version 1.1;
                 {connection}
                 proxy_buffering off;
                 proxy_request_buffering off;
             }}
         }}",
        port = site.port,
    );
    around(&servers)
}

fn tls(leaf: &Leaf) -> String {
    let (certificate, key) = (leaf.certificate.display(), leaf.key.display());
    format!(" ssl_certificate {certificate}; ssl_certificate_key {key};")
}

/// What every configuration has: in the foreground, all files in its own folder, no limits that a
/// test could run into. A master that is not root ignores `user`; one that is root would otherwise
/// give its workers an account that cannot read the folder.
fn around(servers: &str) -> String {
    format!(
        "user root;
         daemon off;
         pid nginx.pid;
         error_log stderr notice;
         worker_processes auto;
         events {{ worker_connections 4096; }}
         http {{
             client_body_temp_path uploads;
             proxy_temp_path proxied;
             fastcgi_temp_path fastcgi;
             uwsgi_temp_path uwsgi;
             scgi_temp_path scgi;
             client_max_body_size 0;
             keepalive_requests 1000000000;
             large_client_header_buffers 4 64k;
             sendfile on;
             {servers}
         }}
"
    )
}

#[cfg(test)]
mod tests {
    use http::{Method, Request, Version};

    use super::*;
    use crate::caller::{Caller, body};

    #[tokio::test]
    async fn it_answers_the_small_document() {
        let nginx = Nginx::origin().await;
        let answer = Caller::to(nginx.address()).get("/small.json").await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "application/json");
        assert_eq!(answer.bytes().await.len(), SMALL_JSON_LENGTH);
        nginx
            .access_log()
            .line_with("GET /small.json HTTP/1.1 200 ")
            .await;
    }

    #[tokio::test]
    async fn a_file_arrives_as_it_was_made() {
        let nginx = Nginx::origin().await;
        let made = nginx.file(3_000_000);
        let answer = Caller::to(nginx.address()).get("/files/3000000").await;
        assert_eq!(answer.digest().await, made);
    }

    #[tokio::test]
    async fn an_upload_can_be_checked() {
        let nginx = Nginx::origin().await;
        let request = Request::put("/upload")
            .body(body::noise(3_000_000))
            .unwrap();
        let answer = Caller::to(nginx.address()).send(request).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(nginx.uploads(), [Noise::digest(3_000_000)]);
    }

    #[tokio::test]
    async fn over_tls_it_speaks_both_versions() {
        let ca = Ca::new("tests");
        let nginx = Nginx::tls_origin(&ca.loopback("origin")).await;
        let caller = Caller::to(nginx.address()).with_tls(&ca);
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let answer = caller
                .clone()
                .with_version(version)
                .get("/small.json")
                .await;
            assert_eq!((answer.status().as_u16(), answer.version()), (200, version));
        }
    }

    #[tokio::test]
    async fn two_proxies_pass_everything_on() {
        let ca = Ca::new("tests");
        let origin = Nginx::load_origin().await;
        let made = origin.file(3_000_000);
        let far = Nginx::tls_proxy(&ca.loopback("far"), origin.address()).await;
        let near = Nginx::proxy_to_tls(&ca, far.address()).await;
        let caller = Caller::to(near.address());
        assert_eq!(caller.get("/files/3000000").await.digest().await, made);
        let upload = Request::builder().method(Method::PUT).uri("/upload");
        let answer = caller
            .send(upload.body(body::noise(3_000_000)).unwrap())
            .await;
        assert_eq!(answer.status(), 200);
    }

    #[tokio::test]
    async fn its_workers_end_with_it() {
        let nginx = Nginx::origin().await;
        let address = nginx.address();
        drop(nginx);
        within("a refused connection", TcpStream::connect(address))
            .await
            .unwrap_err();
    }
}

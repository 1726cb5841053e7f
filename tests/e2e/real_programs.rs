//! Real programs at the ends and our own as they are built: large bodies both ways, and refusals that arrive.

use std::path::PathBuf;

use broker_tests::broker::{AgentSetup, Site};
use broker_tests::certs::Ca;
use broker_tests::digest::{Digest, Noise};
use broker_tests::memory::Memory;
use broker_tests::origin::Origin;
use broker_tests::programs::{
    AgentProcess, Curl, CurlAnswer, MOUNT, Nginx, NodeProxy, ServerProcess,
};
use serde_json::json;
use tempfile::TempDir;

/// Bytes of a large body, 100 MiB.
const LARGE: u64 = 100 << 20;
/// The most that either process may ever hold in memory while such a body passes, in bytes.
const MEMORY: u64 = 40 << 20;
/// How often a refusal of a large upload must arrive: each time.
const REFUSALS: usize = 50;

#[tokio::test]
async fn a_large_download_arrives_whole_and_is_kept_by_nobody() {
    let nginx = Nginx::origin().await;
    let broker = Broker::in_front_of(&nginx.url(), Site::simple()).await;
    let made = nginx.file(LARGE);
    let arrived = broker.folder.path().join("arrived");

    let answer = broker
        .curl(&format!("/files/{LARGE}"))
        .output(&arrived)
        .run()
        .await;

    assert_eq!(
        (answer.exit_code, answer.status),
        (Some(0), 200),
        "{answer:?}"
    );
    assert_eq!(Digest::of_file(&arrived), made);
    broker.assert_small("download");
}

#[tokio::test]
async fn a_large_upload_arrives_whole_and_is_kept_by_nobody() {
    let nginx = Nginx::origin().await;
    let broker = Broker::in_front_of(&nginx.url(), Site::simple()).await;

    let answer = broker.upload("/upload").run().await;

    assert_eq!(
        (answer.exit_code, answer.status),
        (Some(0), 200),
        "{answer:?}"
    );
    assert_eq!(nginx.uploads(), [Noise::digest(LARGE)]);
    broker.assert_small("upload");
}

#[tokio::test]
async fn a_denied_large_upload_by_curl_sees_the_refusal_each_time() {
    let origin = Origin::scripted().await;
    let broker = Broker::in_front_of(&origin.url(), Site::simple()).await;
    for attempt in 0..REFUSALS {
        let answer = broker.upload("/denied").run().await;
        assert_heard(&answer, 403, attempt);
    }
    assert_eq!(origin.connections(), 0);
}

#[tokio::test]
async fn a_denied_large_upload_over_tls_sees_the_refusal_each_time() {
    let origin = Origin::scripted().await;
    let ca = Ca::new("callers");
    let broker = Broker::in_front_of(&origin.url(), site_with_tls(&ca)).await;
    for (version, option) in [("1.1", "--http1.1"), ("2", "--http2")] {
        for attempt in 0..REFUSALS {
            let upload = broker.upload("/denied").trusting(&ca).arguments([option]);
            let answer = upload.run().await;
            assert_eq!(answer.version, version);
            assert_heard(&answer, 403, attempt);
        }
    }
    assert_eq!(origin.connections(), 0);
}

#[tokio::test]
async fn a_denied_large_upload_by_the_node_proxy_sees_the_refusal_each_time() {
    let origin = Origin::scripted().await;
    let broker = Broker::in_front_of(&origin.url(), Site::simple()).await;
    let credential = broker.credential();
    let header = ("Broker-Authorization", credential.as_str());
    let proxy = NodeProxy::start(&broker.url(""), &[header], None).await;
    let url = format!("http://{}{MOUNT}/denied", proxy.address());
    for attempt in 0..REFUSALS {
        let answer = Curl::get(&url).upload(&broker.large).run().await;
        assert_heard(&answer, 403, attempt);
    }
    assert_eq!(origin.connections(), 0);
}

#[tokio::test]
async fn an_origin_that_refuses_a_large_upload_early_is_heard_each_time() {
    let nginx = Nginx::origin().await;
    let ca = Ca::new("callers");
    let broker = Broker::in_front_of(&nginx.url(), site_with_tls(&ca)).await;
    for option in ["--http1.1", "--http2"] {
        for attempt in 0..REFUSALS {
            let upload = broker.upload("/limited").trusting(&ca).arguments([option]);
            let answer = upload.run().await;
            assert_heard(&answer, 413, attempt);
        }
    }
}

/// curl has the whole answer, and it is this refusal.
fn assert_heard(answer: &CurlAnswer, status: u16, attempt: usize) {
    assert_eq!(
        (answer.exit_code, answer.status),
        (Some(0), status),
        "{attempt}: {answer:?}"
    );
}

/// Server and agent as programs, a large file to upload, and who may pass.
struct Broker {
    agent: AgentProcess,
    server: ServerProcess,
    folder: TempDir,
    large: PathBuf,
}

impl Broker {
    /// Everything but `/denied` goes to this origin.
    async fn in_front_of(origin: &str, site: Site) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let large = folder.path().join("large");
        Noise::write_file(LARGE, &large);
        let server = ServerProcess::start(site).await;
        let rules = ["/files/*", "/upload", "/limited"]
            .map(|path| json!({"method": "any", "path": path, "origin": origin}));
        let setup = AgentSetup::with_rules(json!({"private": rules}));
        let agent = AgentProcess::start(&setup, &server).await;
        Self {
            agent,
            server,
            folder,
            large,
        }
    }

    fn url(&self, path: &str) -> String {
        format!(
            "{}://localhost:{}/broker/sonarqube{path}",
            self.server.site.callers_scheme(),
            self.server.callers.port()
        )
    }

    fn credential(&self) -> String {
        let token = self.server.site.caller_token("default", "proxy");
        format!("Bearer {}", token.expose())
    }

    fn curl(&self, path: &str) -> Curl {
        Curl::get(&self.url(path)).header("Broker-Authorization", &self.credential())
    }

    fn upload(&self, path: &str) -> Curl {
        self.curl(path).upload(&self.large)
    }

    fn assert_small(&self, what: &str) {
        for (name, pid) in [
            ("broker-server", self.server.child().pid()),
            ("broker-client", self.agent.child().pid()),
        ] {
            let peak = Memory::of(pid).peak;
            println!("{what}: {name} held {} KiB at the most", peak >> 10);
            assert!(peak < MEMORY, "{name} held {peak} bytes");
        }
    }
}

/// A site whose callers speak TLS with a certificate of this authority.
fn site_with_tls(ca: &Ca) -> Site {
    Site::simple().callers_tls(ca.loopback("callers-listener"))
}

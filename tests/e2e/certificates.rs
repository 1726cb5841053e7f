//! Callers that are known by a client certificate: one that verifies, with a name of one caller's.

use broker_protocol::ErrorCode;
use broker_tests::broker::{AGENT, Agent, AgentSetup, Server, Site, TENANT};
use broker_tests::caller::{Caller, body};
use broker_tests::certs::{Ca, Leaf};
use broker_tests::origin::{self, Origin};
use broker_tests::programs::Curl;
use http::{Request, Version};

const PATH: &str = "/broker/sonarqube/a";
const PLACES: [&str; 3] = [
    "broker-authorization",
    "proxy-authorization",
    "authorization",
];
const DNS_NAME: &str = "tech-insights.platform.example";
const URI: &str = "spiffe://platform.example/Kubernetes";

/// A server that asks callers for certificates, and an agent whose one rule has no `auth`.
struct Scene {
    origin: Origin,
    server: Server,
    agent: Agent,
    /// Signs the listener's certificate, and vouches for no caller.
    listener_ca: Ca,
    callers_ca: Ca,
}

impl Scene {
    async fn start() -> Self {
        let (listener_ca, callers_ca) = (Ca::new("listener"), Ca::new("callers"));
        let site = PLACES
            .iter()
            .fold(Site::empty(), |site, place| {
                site.caller(TENANT, place, place)
            })
            .agent(TENANT, AGENT)
            .agent(TENANT, "jenkins")
            .caller_by_certificate(
                TENANT,
                "tech-insights",
                "[Tech-Insights.platform.example]",
                "'*'",
            )
            .caller_by_certificate(TENANT, "kubernetes", &format!("['{URI}']"), "[sonarqube]")
            .callers_tls(listener_ca.loopback("callers-listener"))
            .client_ca(&callers_ca);
        let server = Server::start(site).await;
        let origin = Origin::answering(|_| origin::Answer::json("{}")).await;
        let agent = AgentSetup::allowing_everything(&origin.url())
            .start(&server)
            .await;
        Self {
            origin,
            server,
            agent,
            listener_ca,
            callers_ca,
        }
    }

    /// A caller with a good certificate that has these names.
    fn caller(&self, names: &[&str]) -> Caller {
        self.showing(&self.callers_ca.leaf("client", names))
    }

    fn showing(&self, leaf: &Leaf) -> Caller {
        let stranger = self.server.stranger();
        stranger.with_certificate(&self.listener_ca, leaf)
    }

    fn bearer(&self, caller: &str) -> String {
        let token = self.server.site.caller_token(TENANT, caller);
        format!("Bearer {}", token.expose())
    }

    /// The names of the callers on record.
    fn callers_on_record(&self) -> Vec<String> {
        let decisions = self.agent.audit("decision");
        let caller = |line: &serde_json::Value| line["caller"].as_str().unwrap().to_owned();
        decisions.iter().map(caller).collect()
    }

    /// Nothing reached the agent.
    fn assert_untouched(&self) {
        assert_eq!(self.origin.connections(), 0);
        assert_eq!(self.agent.audit("decision").len(), 0);
    }
}

#[tokio::test]
async fn a_caller_is_known_by_a_name_of_its_certificate_and_stands_on_record() {
    let scene = Scene::start().await;
    let mut expected = Vec::new();
    for version in [Version::HTTP_11, Version::HTTP_2] {
        for (names, caller) in [
            (vec![DNS_NAME], "tech-insights"),
            (vec!["TECH-INSIGHTS.Platform.example"], "tech-insights"),
            (vec!["elsewhere.example", DNS_NAME], "tech-insights"),
            (vec![URI], "kubernetes"),
            (vec!["localhost", URI], "kubernetes"),
        ] {
            let answer = scene.caller(&names).with_version(version).get(PATH).await;
            assert_eq!((answer.status().as_u16(), answer.version()), (200, version));
            expected.push(caller);
        }
    }
    assert_eq!(scene.callers_on_record(), expected);
}

#[tokio::test]
async fn curl_is_known_by_its_certificate() {
    let scene = Scene::start().await;
    let leaf = scene.callers_ca.leaf("client", &[DNS_NAME]);
    let url = format!("https://localhost:{}{PATH}", scene.server.callers.port());
    for (option, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let curl = Curl::get(&url).trusting(&scene.listener_ca);
        let answer = curl.showing(&leaf).arguments([option]).run().await;
        assert_eq!((answer.status, &*answer.version), (200, version));
    }
    assert_eq!(scene.callers_on_record(), ["tech-insights"; 2]);
}

#[tokio::test]
async fn a_certificate_that_does_not_verify_ends_the_handshake_whatever_else_is_sent() {
    let scene = Scene::start().await;
    let names = [DNS_NAME, URI];
    for leaf in [
        Ca::new("other").leaf("client", &names),
        Ca::new("callers").leaf("client", &names),
        scene.listener_ca.leaf("client", &names),
        scene.server.site.ca.leaf("client", &names),
        scene.callers_ca.expired_leaf("client", &names),
    ] {
        let caller = scene.showing(&leaf);
        let request = |with: Option<&str>| {
            let mut request = Request::get(PATH);
            if let Some(place) = with {
                request = request.header(place, scene.bearer(place));
            }
            request.body(body::empty()).unwrap()
        };
        for with in [None, Some(PLACES[0])] {
            let answer = caller.try_send(request(with)).await;
            assert!(answer.is_err(), "{leaf:?}");
        }
    }
    scene.assert_untouched();
}

#[tokio::test]
async fn a_certificate_that_is_no_callers_is_unauthenticated() {
    let scene = Scene::start().await;
    // The common name is no name.
    let by_common_name = scene.callers_ca.leaf(DNS_NAME, &[]);
    let callers = [
        scene.caller(&["platform.example"]),
        scene.caller(&["x.tech-insights.platform.example"]),
        scene.caller(&["*.platform.example"]),
        scene.caller(&["spiffe://platform.example/kubernetes"]),
        scene.caller(&["spiffe://platform.example/Kubernetes/"]),
        scene.showing(&by_common_name),
        scene.server.stranger().with_tls(&scene.listener_ca),
    ];
    for caller in callers {
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let answer = caller.clone().with_version(version).get(PATH).await;
            answer.problem(ErrorCode::Unauthenticated).await;
        }
    }
    scene.assert_untouched();
}

#[tokio::test]
async fn where_the_certificate_is_no_callers_or_is_not_shown_a_good_secret_counts() {
    let scene = Scene::start().await;
    for caller in [
        scene.caller(&["platform.example"]),
        scene.server.stranger().with_tls(&scene.listener_ca),
    ] {
        for place in PLACES {
            let caller = caller.clone().with_header(place, &scene.bearer(place));
            assert_eq!(caller.get(PATH).await.status(), 200, "{place}");
        }
    }
    assert_eq!(scene.callers_on_record(), [PLACES, PLACES].concat());
}

#[tokio::test]
async fn a_callers_certificate_and_a_secret_are_two_credentials() {
    let scene = Scene::start().await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let caller = scene.caller(&[DNS_NAME]).with_version(version);
        for place in PLACES {
            let caller = caller.clone().with_header(place, &scene.bearer(place));
            let problem = caller.get(PATH).await.problem(ErrorCode::BadRequest).await;
            let detail = problem["detail"].as_str().unwrap();
            assert!(detail.contains("two broker credentials"), "{detail}");
        }
    }
    let of_two_callers = scene.caller(&[DNS_NAME, URI]).get(PATH).await;
    of_two_callers.problem(ErrorCode::BadRequest).await;
    scene.assert_untouched();
}

#[tokio::test]
async fn the_callers_own_authorization_travels_beside_its_certificate() {
    let scene = Scene::start().await;
    let caller = scene
        .caller(&[DNS_NAME])
        .with_header("authorization", "Bearer of-the-caller")
        .with_header("proxy-authorization", "Basic eDp5");
    assert_eq!(caller.get(PATH).await.status(), 200);
    let head = &scene.origin.requests()[0].head;
    assert_eq!(head.values("authorization"), ["Bearer of-the-caller"]);
    assert_eq!(head.value("proxy-authorization"), None);
}

#[tokio::test]
async fn each_request_of_a_connection_is_judged_with_its_certificate() {
    let scene = Scene::start().await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let caller = scene.caller(&[DNS_NAME]).with_version(version);
        let connection = caller.connect().await;
        for (with, status) in [(None, 200), (Some(PLACES[0]), 400), (None, 200)] {
            let mut request = Request::get(PATH);
            if let Some(place) = with {
                request = request.header(place, scene.bearer(place));
            }
            let answer = connection.send(request.body(body::empty()).unwrap()).await;
            assert_eq!(answer.status(), status);
            answer.bytes().await;
        }
    }
    assert_eq!(scene.callers_on_record(), ["tech-insights"; 4]);
}

#[tokio::test]
async fn a_certificate_reaches_only_the_agents_that_its_callers_entry_lists() {
    let scene = Scene::start().await;
    let listed = scene.caller(&[URI]);
    let answer = listed.get("/broker/jenkins/a").await;
    answer.problem(ErrorCode::Forbidden).await;
    // It may reach this one, which is not connected.
    let all = scene.caller(&[DNS_NAME]);
    let answer = all.get("/broker/jenkins/a").await;
    answer.problem(ErrorCode::NoAgent).await;
    scene.assert_untouched();
}

//! Who a caller is: one credential in its place, and no broker secret travels.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use broker_protocol::{AccessToken, ErrorCode, TokenKind};
use broker_tests::broker::{AGENT, Agent, AgentSetup, CALLER, Server, Site, TENANT};
use broker_tests::caller::{Answer, Caller, body};
use broker_tests::canary::Outputs;
use broker_tests::origin::{self, Origin};
use http::{Request, Version};
use serde_json::json;

const PLACES: [&str; 3] = [
    "broker-authorization",
    "proxy-authorization",
    "authorization",
];

/// One caller for each place, named for it.
fn site() -> Site {
    PLACES
        .iter()
        .fold(Site::empty().agent(TENANT, AGENT), |site, place| {
            site.caller(TENANT, place, place)
        })
}

/// An origin behind an agent whose one rule has no `auth`, or a bearer token.
struct Scene {
    origin: Origin,
    server: Server,
    agent: Agent,
}

impl Scene {
    async fn start(auth: Option<&str>) -> Self {
        let origin = Origin::answering(|_| origin::Answer::json("{}")).await;
        let server = Server::start(site()).await;
        let mut rule = json!({"method": "any", "path": "/*", "origin": origin.url()});
        if let Some(token) = auth {
            rule["auth"] = json!({"scheme": "bearer", "token": token});
        }
        let agent = AgentSetup::with_rules(json!({"private": [rule]}))
            .start(&server)
            .await;
        Self {
            origin,
            server,
            agent,
        }
    }

    fn bearer(&self, caller: &str) -> String {
        format!(
            "Bearer {}",
            self.server.site.caller_token(TENANT, caller).expose()
        )
    }

    /// The caller whose credential stands in `Broker-Authorization`.
    fn caller(&self) -> Caller {
        self.server.caller_as(TENANT, PLACES[0], PLACES[0])
    }

    async fn ask(&self, headers: &[(&str, String)]) -> Answer {
        ask(&self.server.stranger(), "/broker/sonarqube/a", headers).await
    }

    /// Nothing of this reached the agent.
    fn assert_untouched(&self) {
        assert_eq!(self.origin.connections(), 0);
        assert_eq!(self.agent.audit("decision").len(), 0);
    }
}

async fn ask(caller: &Caller, target: &str, headers: &[(&str, String)]) -> Answer {
    let mut request = Request::get(target);
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    caller.send(request.body(body::empty()).unwrap()).await
}

#[tokio::test]
async fn a_caller_is_known_by_its_credential_in_its_place_which_the_origin_never_sees() {
    let scene = Scene::start(None).await;
    let mut seen = Outputs::new();
    for version in [Version::HTTP_11, Version::HTTP_2] {
        for place in PLACES {
            let caller = scene
                .server
                .caller_as(TENANT, place, place)
                .with_version(version);
            assert_eq!(
                caller.get("/broker/sonarqube/a").await.status(),
                200,
                "{place}"
            );
        }
    }
    for request in scene.origin.requests() {
        for name in [
            "authorization",
            "proxy-authorization",
            "broker-authorization",
        ] {
            assert_eq!(request.head.value(name), None);
        }
        seen.register("the origin", request.head.bytes());
    }
    seen.register("the audit log", scene.agent.audit_bytes());
    for place in PLACES {
        seen.assert_absent(
            scene
                .server
                .site
                .caller_token(TENANT, place)
                .expose()
                .as_bytes(),
        );
    }
    let callers: Vec<_> = scene
        .agent
        .audit("decision")
        .iter()
        .map(|line| line["caller"].clone())
        .collect();
    assert_eq!(callers, [PLACES, PLACES].concat());
}

#[tokio::test]
async fn the_scheme_is_read_without_case() {
    let scene = Scene::start(None).await;
    for scheme in ["bearer", "BEARER"] {
        let credential = scene.bearer(PLACES[0]).replace("Bearer", scheme);
        assert_eq!(
            scene.ask(&[(PLACES[0], credential)]).await.status(),
            200,
            "{scheme}"
        );
    }
}

#[tokio::test]
async fn two_credentials_are_a_bad_request() {
    let scene = Scene::start(None).await;
    let [a, b, c] = PLACES.map(|place| (place, scene.bearer(place)));
    for headers in [
        vec![a.clone(), b.clone()],
        vec![a.clone(), c.clone()],
        vec![b.clone(), c.clone()],
        vec![a.clone(), b.clone(), c.clone()],
        vec![a.clone(), a.clone()],
        vec![a.clone(), (PLACES[0], "Bearer x".to_owned())],
        vec![c.clone(), (PLACES[2], "Bearer x".to_owned())],
    ] {
        scene
            .ask(&headers)
            .await
            .problem(ErrorCode::BadRequest)
            .await;
    }
    scene.assert_untouched();
}

#[tokio::test]
async fn none_an_unknown_or_a_misplaced_credential_is_unauthenticated() {
    let scene = Scene::start(None).await;
    let unknown = format!(
        "Bearer {}",
        AccessToken::generate(TokenKind::Caller).expose()
    );
    let of_agent = format!(
        "Bearer {}",
        scene.server.site.agent_token(TENANT, AGENT).expose()
    );
    let known = scene.bearer(PLACES[0]);
    let altered = format!("{}A", &known[..known.len() - 1]);
    let altered = if altered == known {
        format!("{}B", &known[..known.len() - 1])
    } else {
        altered
    };
    let bare = known.replace("Bearer ", "");
    let mut cases: Vec<Vec<(&str, String)>> = vec![vec![]];
    for place in PLACES {
        for value in [&unknown, &of_agent, &altered, &bare] {
            cases.push(vec![(place, value.clone())]);
        }
        for other in PLACES.into_iter().filter(|other| *other != place) {
            cases.push(vec![(place, scene.bearer(other))]);
        }
    }
    cases.push(vec![("authorization", "Bearer of-the-caller".to_owned())]);
    for headers in cases {
        let answer = scene.ask(&headers).await;
        assert_eq!(
            answer.header("www-authenticate"),
            Some("Bearer realm=\"broker\""),
            "{headers:?}"
        );
        answer.problem(ErrorCode::Unauthenticated).await;
    }
    scene.assert_untouched();
}

#[tokio::test]
async fn an_unknown_broker_authorization_is_refused_even_beside_a_good_credential() {
    let scene = Scene::start(None).await;
    let unknown = format!(
        "Bearer {}",
        AccessToken::generate(TokenKind::Caller).expose()
    );
    for place in [PLACES[1], PLACES[2]] {
        for value in [unknown.as_str(), "Basic eDp5", "", "x"] {
            let headers = [(place, scene.bearer(place)), (PLACES[0], value.to_owned())];
            scene
                .ask(&headers)
                .await
                .problem(ErrorCode::Unauthenticated)
                .await;
        }
    }
    scene.assert_untouched();
}

#[tokio::test]
async fn the_callers_own_authorization_travels_where_the_rule_has_no_auth() {
    let scene = Scene::start(None).await;
    for place in [PLACES[0], PLACES[1]] {
        for value in ["Bearer of-the-caller", "Basic eDp5"] {
            let headers = [
                (place, scene.bearer(place)),
                ("authorization", value.to_owned()),
            ];
            assert_eq!(scene.ask(&headers).await.status(), 200);
            let request = scene.origin.requests().pop().unwrap();
            assert_eq!(request.head.values("authorization"), [value]);
        }
    }
}

#[tokio::test]
async fn the_callers_own_authorization_is_replaced_where_the_rule_has_auth() {
    let scene = Scene::start(Some("of-the-customer")).await;
    for own in [
        vec![],
        vec![("authorization", "Bearer of-the-caller".to_owned())],
    ] {
        let headers = [vec![(PLACES[0], scene.bearer(PLACES[0]))], own].concat();
        assert_eq!(scene.ask(&headers).await.status(), 200);
        let request = scene.origin.requests().pop().unwrap();
        assert_eq!(
            request.head.values("authorization"),
            ["Bearer of-the-customer"]
        );
    }
}

#[tokio::test]
async fn proxy_authorization_never_travels() {
    for auth in [None, Some("of-the-customer")] {
        let scene = Scene::start(auth).await;
        let headers = [
            (PLACES[0], scene.bearer(PLACES[0])),
            (PLACES[1], "Basic eDp5".to_owned()),
        ];
        assert_eq!(scene.ask(&headers).await.status(), 200);
        assert_eq!(
            scene.origin.requests()[0].head.value("proxy-authorization"),
            None
        );
    }
}

#[tokio::test]
async fn a_broker_secret_anywhere_else_is_refused_whether_it_is_still_good_or_not() {
    let scene = Scene::start(None).await;
    let site = &scene.server.site;
    let stale = [TokenKind::Caller, TokenKind::Agent].map(AccessToken::generate);
    let own = site.caller_token(TENANT, PLACES[0]);
    let agent = site.agent_token(TENANT, AGENT);
    for token in [own, agent, &stale[0], &stale[1]] {
        let secret = token.expose();
        let escaped = secret.replace('_', "%5F").replace('-', "%2d");
        for target in [
            format!("/broker/sonarqube/{secret}"),
            format!("/broker/sonarqube/a?token={secret}"),
            format!("/broker/sonarqube/a?{secret}"),
            format!("/broker/sonarqube/a?token={}", secret.to_uppercase()),
            format!("/broker/sonarqube/{escaped}"),
            format!("/broker/sonarqube/a?token={escaped}"),
        ] {
            ask(&scene.caller(), &target, &[])
                .await
                .problem(ErrorCode::BadRequest)
                .await;
        }
        for (name, value) in [
            ("cookie", format!("session={secret}")),
            ("x-token", secret.to_owned()),
            ("x-anything", format!("Bearer {secret}, x")),
            ("referer", format!("https://app.example/?token={escaped}")),
            (
                "authorization",
                format!("Basic {}", STANDARD.encode(format!("x:{secret}"))),
            ),
        ] {
            let answer = ask(&scene.caller(), "/broker/sonarqube/a", &[(name, value)]).await;
            answer.problem(ErrorCode::BadRequest).await;
        }
    }
    let stale = format!("Bearer {}", stale[0].expose());
    let answer = ask(
        &scene.caller(),
        "/broker/sonarqube/a",
        &[("authorization", stale)],
    )
    .await;
    answer.problem(ErrorCode::BadRequest).await;
    scene.assert_untouched();
}

#[tokio::test]
async fn a_caller_reaches_only_the_agents_that_its_entry_lists() {
    let site = Site::empty()
        .agent(TENANT, AGENT)
        .agent(TENANT, "jenkins")
        .caller_of(TENANT, CALLER, PLACES[0], "[jenkins]");
    let server = Server::start(site).await;
    let origin = Origin::answering(|_| origin::Answer::json("{}")).await;
    let sonarqube = AgentSetup::allowing_everything(&origin.url())
        .start(&server)
        .await;
    let jenkins = AgentSetup::allowing_everything(&origin.url()).named(TENANT, "jenkins");
    let _jenkins = jenkins.start(&server).await;

    assert_eq!(server.caller().get("/broker/jenkins/a").await.status(), 200);
    assert_eq!(server.caller().get("/broker/Jenkins/a").await.status(), 200);
    for target in [
        "/broker/sonarqube/a",
        "/broker/SonarQube/a",
        "/broker/nobody/a",
    ] {
        server
            .caller()
            .get(target)
            .await
            .problem(ErrorCode::Forbidden)
            .await;
    }
    assert_eq!(sonarqube.audit("decision").len(), 0);
    assert_eq!(origin.requests().len(), 2);
}

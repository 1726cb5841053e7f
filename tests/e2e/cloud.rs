//! Credentials that a cloud hands out: whose role it is, how it is asked for, and what is made of it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use broker_client::status::CredentialSource;
use broker_tests::aws::{self, EXTERNAL_ID, KEY_ID, PROOF, ROLE, ScriptedAws, denied, key_id};
use broker_tests::broker::{Agent, AgentSetup, Server, Site};
use broker_tests::caller::body;
use broker_tests::origin::{Answer, Origin};
use broker_tests::wait::within;
use http::{Method, Request};
use serde_json::{Value, json};

const SECRET: &str = "hunter2-of-the-cloud";
const PATH: &str = "/broker/sonarqube/a";

/// A role of another account that the agent's own may assume, twice in a row.
fn assumed() -> String {
    format!(
        "credentials: {{
           aws: {{shop: {{region: eu-west-1, assume-role: [
             {{role: \"{ROLE}\", external-id: {EXTERNAL_ID}}},
             {{role: \"{ROLE}\", external-id: {EXTERNAL_ID}, session-name: second, duration: 15m}}]}}}},
           eks: {{shop: {{cluster: shop-production, aws: shop}}}}}}"
    )
}

fn eks() -> Value {
    json!({"scheme": "bearer", "token": "${eks:shop}"})
}

#[tokio::test]
async fn a_cross_account_role_reaches_a_cluster_without_a_stored_token() {
    let aws = ScriptedAws::start(SECRET).await;
    let site = Cloud::start(&aws, eks(), |setup| {
        setup
            .setting(&assumed())
            .variable("AWS_ACCESS_KEY_ID", KEY_ID)
            .variable("AWS_SECRET_ACCESS_KEY", SECRET)
    })
    .await;

    assert_eq!(site.get().await, 200);

    let asked = format!("AssumeRole {ROLE}");
    assert_eq!(aws.asked(), [&*asked, &*asked]);
    let value = site.origin.requests()[0]
        .head
        .value("authorization")
        .unwrap();
    let token = value.strip_prefix("Bearer k8s-aws-v1.").unwrap();
    let url = String::from_utf8(URL_SAFE_NO_PAD.decode(token).unwrap()).unwrap();
    let host = "https://sts.eu-west-1.amazonaws.com/?Action=GetCallerIdentity&Version=2011-06-15&";
    assert!(url.starts_with(host), "{url}");
    // The last role's, and for one cluster.
    assert!(
        url.contains(&format!("X-Amz-Credential={}%2F", key_id(2))),
        "{url}"
    );
    assert!(
        url.contains("&X-Amz-SignedHeaders=host%3Bx-k8s-aws-id&"),
        "{url}"
    );
    let status = site.agent.board.snapshot().to_string();
    for source in ["aws shop, the same since", "eks shop, the same since"] {
        assert!(status.contains(source), "{status}");
    }
}

#[tokio::test]
async fn the_agents_own_role_is_found_where_amazons_programs_find_it_and_in_their_order() {
    let folder = tempfile::tempdir().unwrap();
    let proof = folder.path().join("token");
    std::fs::write(&proof, PROOF).unwrap();
    let proof = proof.to_str().unwrap();
    let aws = ScriptedAws::start(SECRET).await;
    let container = format!("{}/container", aws.url());
    let environment = [
        ("AWS_ACCESS_KEY_ID", KEY_ID),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
    ];
    let web_identity = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", proof),
        ("AWS_ROLE_ARN", ROLE),
    ];
    let pod = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &*container),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", proof),
    ];
    let mut variables: Vec<(&str, &str)> = [environment, web_identity, pod].concat();
    let of_instance = [
        "PUT /latest/api/token",
        "GET /latest/meta-data/iam/security-credentials/",
        "GET /latest/meta-data/iam/security-credentials/role-of-the-instance",
    ];
    let with_web_identity = format!("AssumeRoleWithWebIdentity {ROLE}");

    for asked in [
        &[][..],
        &[&*with_web_identity],
        &["GET /container"],
        &of_instance,
    ] {
        let before = aws.asked().len();
        let site = Cloud::start(&aws, signed(), |setup| {
            variables
                .iter()
                .fold(setup, |setup, (name, value)| setup.variable(name, value))
        })
        .await;
        assert_eq!(site.get().await, 200);
        assert_eq!(aws.asked()[before..], *asked);
        variables.drain(..variables.len().min(2));
    }
}

/// A rule that signs, for a service that shows no key but those that it knows.
fn signed() -> Value {
    json!({"scheme": "sigv4", "service": "execute-api"})
}

#[tokio::test]
async fn a_request_is_signed_as_it_is_sent_whatever_the_caller_signed() {
    let aws = ScriptedAws::start(SECRET).await;
    let site = Cloud::with_keys(&aws, signed()).await;
    let caller = site.server.caller();
    for (name, value) in [
        ("authorization", "AWS4-HMAC-SHA256 Credential=of-the-caller"),
        ("x-amz-date", "20150830T123600Z"),
        ("x-amz-security-token", "of-the-caller"),
        ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
        ("x-amz-target", "Of.TheCaller"),
        ("x_amz_target", "Of.TheCaller"),
        ("x.amz.security.token", "of-the-caller"),
    ] {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{PATH}?a=1&b=2"));
        let request = request
            .header(name, value)
            .header("content-type", "text/plain");
        let answer = caller
            .send(request.body(body::full("the body")).unwrap())
            .await;
        assert_eq!(answer.status(), 200);

        let sent = site.origin.requests().pop().unwrap();
        assert!(aws::is_signed(&sent, KEY_ID, SECRET), "{:?}", sent.head);
        assert_eq!(sent.body, b"the body");
        assert!(
            !String::from_utf8_lossy(sent.head.bytes()).contains(value),
            "{:?}",
            sent.head
        );
    }
    let outcomes = site.outcomes().await;
    assert!(outcomes.iter().all(|outcome| outcome["injected"] == true));
    let removed = outcomes[4]["removed_request_headers"].to_string();
    assert!(removed.contains("x-amz-target"), "{removed}");
}

#[tokio::test]
async fn a_header_that_the_rule_names_is_kept_and_signed() {
    let aws = ScriptedAws::start(SECRET).await;
    let origin = ok().await;
    let rule = json!({"path": "/a", "methods": ["POST"], "origin": origin.url(), "auth": signed(), "allow-headers": ["X-Amz-Target"]});
    let rules = json!({"version": 2, "private": [rule]});
    let site = Cloud::of(&aws, origin, rules, with_keys).await;
    let request = Request::builder().method(Method::POST).uri(PATH);
    let request = request.header("x-amz-target", "Logs_20140328.GetLogEvents");
    site.server
        .caller()
        .send(request.body(body::empty()).unwrap())
        .await;
    let sent = site.origin.requests().pop().unwrap();
    assert_eq!(
        sent.head.value("x-amz-target").as_deref(),
        Some("Logs_20140328.GetLogEvents")
    );
    assert!(aws::is_signed(&sent, KEY_ID, SECRET), "{:?}", sent.head);
}

#[tokio::test]
async fn a_body_that_is_too_long_to_be_signed_is_refused_and_goes_nowhere() {
    let aws = ScriptedAws::start(SECRET).await;
    let site = Cloud::start(&aws, signed(), |setup| {
        with_keys(setup).setting("rules: {body-limit: 1000}")
    })
    .await;
    for (length, status) in [(1000, 200), (1001, 413)] {
        let request = Request::post(PATH)
            .body(body::full(vec![b'x'; length]))
            .unwrap();
        let answer = site.server.caller().send(request).await;
        assert_eq!(answer.status(), status);
        if status == 413 {
            assert_eq!(answer.header("broker-error"), Some("body-too-large"));
        }
    }
    assert_eq!(site.origin.requests().len(), 1);
    let outcomes = site.outcomes().await;
    assert_eq!(
        (&outcomes[1]["error"], &outcomes[1]["ended"]),
        (&json!("body-too-large"), &json!("not-sent"))
    );
}

#[tokio::test]
async fn what_its_caller_signed_in_another_way_is_refused_and_goes_nowhere() {
    let aws = ScriptedAws::start(SECRET).await;
    let site = Cloud::with_keys(&aws, signed()).await;
    for (query, name, value, said) in [
        ("", "content-encoding", "gzip, AWS-Chunked", "in one piece"),
        (
            "",
            "x-amz-content-sha256",
            "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
            "in one piece",
        ),
        ("", "x-amz-trailer", "x-amz-checksum-crc32", "in one piece"),
        (
            "?X-Amz-Signature=a",
            "accept",
            "*/*",
            "send the request unsigned",
        ),
        (
            "?a=1&x-%61mz-credential=a",
            "accept",
            "*/*",
            "send the request unsigned",
        ),
    ] {
        let request = Request::put(format!("{PATH}{query}")).header(name, value);
        let answer = site
            .server
            .caller()
            .send(request.body(body::full("2\r\nok\r\n0\r\n\r\n")).unwrap())
            .await;
        assert_eq!(answer.status(), 400, "{query} {name}");
        assert_eq!(answer.header("broker-error"), Some("bad-request"));
        let text = answer.text().await;
        assert!(text.contains(said), "{text}");
    }
    assert_eq!(site.origin.requests().len(), 0);
    let outcomes = site.outcomes().await;
    assert!(
        outcomes
            .iter()
            .all(|it| it["error"] == "bad-request" && it["ended"] == "not-sent"),
        "{outcomes:?}"
    );
}

#[tokio::test]
async fn keys_that_cannot_be_had_are_told_with_the_reason_and_without_what_was_answered() {
    let giant = "hunter2".repeat(40_000);
    let aws = ScriptedAws::start(SECRET).await;
    let past = r#"{"AccessKeyId": "ASIA0000000000000001", "SecretAccessKey": "hunter2", "Token": "hunter2", "Expiration": "2015-01-01T00:00:00Z"}"#;
    let number = r#"{"AccessKeyId": "ASIA0000000000000001", "SecretAccessKey": 42, "Token": "hunter2", "Expiration": "hunter2"}"#;
    let answers = [
        (
            Answer::new(500, &[], "hunter2"),
            "answered 500 Internal Server Error",
        ),
        (
            Answer::new(302, &[("Location", "http://127.0.0.1:1/")], ""),
            "answered 302 Found",
        ),
        (
            Answer::json("hunter2"),
            "gave an answer that is not what is documented",
        ),
        (
            Answer::json(number),
            "gave an answer that is not what is documented",
        ),
        (
            Answer::json(past),
            "handed out keys that end at 2015-01-01T00:00:00Z, which is now or over (is the clock of this machine right?)",
        ),
        (
            Answer::new(200, &[], &giant),
            "answered with more than 131072 bytes",
        ),
        (Answer::raw("hunter2"), "cannot be called: "),
    ];
    let container = format!("{}/container", aws.url());
    for (answer, said) in answers {
        aws.answer_instead(Some(answer));
        let of_container = |setup: AgentSetup| {
            setup
                .variable("AWS_REGION", "eu-west-1")
                .variable("AWS_CONTAINER_CREDENTIALS_FULL_URI", &container)
        };
        let origin = ok().await;
        let rules = rules(&origin, signed());
        let site = Cloud::of(&aws, origin, rules, of_container).await;
        let why = site.fails().await;
        assert!(
            why.starts_with(&format!("has no keys: the container's role {said}")),
            "{why}"
        );
        assert!(!why.contains("hunter2"), "{why}");
        assert_eq!(site.get().await, 502);
        assert_eq!(site.origin.requests().len(), 0);
    }

    aws.answer_instead(Some(denied("AccessDenied")));
    let site = Cloud::start(&aws, eks(), |setup| with_keys(setup).setting(&assumed())).await;
    let why = site.fails().await;
    assert!(
        why.contains(&format!(
            "asked for {ROLE} answered 403 Forbidden: AccessDenied (does the role's trust policy"
        )),
        "{why}"
    );
    assert!(!why.contains("somebody"), "{why}");
}

#[tokio::test]
async fn a_clock_that_differs_from_the_services_does_not_shorten_the_keys() {
    let aws = ScriptedAws::start(SECRET).await;
    // It is 2015 there, and the keys are good for an hour.
    let json = r#"{"AccessKeyId": "ASIA0000000000000001", "SecretAccessKey": "a", "Token": "b", "Expiration": "2015-01-01T01:00:00Z"}"#;
    let date = [("Date", "Thu, 01 Jan 2015 00:00:00 GMT")];
    aws.answer_instead(Some(Answer::new(200, &date, json)));
    let container = format!("{}/container", aws.url());
    let site = Cloud::start(&aws, signed(), |setup| {
        setup.variable("AWS_CONTAINER_CREDENTIALS_FULL_URI", &container)
    })
    .await;
    assert_eq!(site.get().await, 200);
}

#[tokio::test]
async fn a_token_that_the_cluster_refuses_is_made_anew_with_new_keys() {
    let aws = ScriptedAws::start(SECRET).await;
    let origin = Origin::answering(|request| {
        let value = request.head.value("authorization").unwrap();
        let token = value.strip_prefix("Bearer k8s-aws-v1.").unwrap();
        let url = String::from_utf8(URL_SAFE_NO_PAD.decode(token).unwrap()).unwrap();
        Answer::new(if url.contains(&key_id(2)) { 401 } else { 200 }, &[], "")
    })
    .await;
    let rules = rules(&origin, eks());
    let site = Cloud::of(&aws, origin, rules, |setup| {
        with_keys(setup).setting(&assumed())
    })
    .await;
    assert_eq!(site.get().await, 200);
    assert_eq!(aws.handed_out(), 4);
}

#[tokio::test]
async fn keys_that_a_service_refuses_to_sign_with_are_replaced_soon_and_nothing_is_repeated() {
    let aws = ScriptedAws::start(SECRET).await;
    let origin = Origin::answering(|request| {
        let value = request.head.value("authorization").unwrap();
        let is_revoked = value.contains(&key_id(2));
        Answer::new(if is_revoked { 403 } else { 200 }, &[], "")
    })
    .await;
    let auth = json!({"scheme": "sigv4", "service": "execute-api", "aws": "shop"});
    let rules = rules(&origin, auth);
    let site = Cloud::of(&aws, origin, rules, |setup| {
        with_keys(setup).setting(&assumed())
    })
    .await;
    assert_eq!(site.get().await, 403);
    assert_eq!(site.origin.requests().len(), 1);
    within("newer keys", async { while site.get().await == 403 {} }).await;
    assert_eq!(aws.handed_out(), 4);
}

#[tokio::test]
async fn metadata_is_asked_without_the_proxy_and_the_token_service_through_it() {
    let aws = ScriptedAws::start(SECRET).await;
    let proxy = Origin::answering(|_| Answer::new(502, &[], "")).await;
    let setting = format!(
        "credentials: {{aws: {{shop: {{assume-role: [{{role: \"{ROLE}\"}}], endpoint: \"https://sts.test\"}}}}, eks: {{shop: {{cluster: a, aws: shop}}}}}}"
    );
    let site = Cloud::start(&aws, eks(), |setup| {
        setup
            .setting(&setting)
            .variable("HTTPS_PROXY", &proxy.url())
            .variable("HTTP_PROXY", &proxy.url())
    })
    .await;
    let why = site.fails().await;
    assert!(why.starts_with("has no keys: sts.test asked for "), "{why}");
    assert_eq!(aws.asked().len(), 3);
    let asked: Vec<_> = proxy
        .requests()
        .iter()
        .map(|request| request.head.first_line())
        .collect();
    assert!(
        asked
            .iter()
            .all(|line| line.starts_with("CONNECT sts.test:443 ")),
        "{asked:?}"
    );
}

#[tokio::test]
async fn a_name_that_the_settings_do_not_declare_stops_the_start() {
    let server = Server::start(Site::simple()).await;
    for (auth, said) in [
        (
            eks(),
            "private[0]: auth: \"${eks:shop}\" is not in the settings' \"credentials.eks\" (did you mean \"shap\"?)",
        ),
        (
            signed(),
            "private[0]: auth: \"aws\": no region is known (set AWS_REGION, or declare credentials.aws.default with a region)",
        ),
    ] {
        let rule = json!({"path": "/a", "origin": "http://a", "auth": auth});
        let setup = AgentSetup::with_rules(json!({"private": [rule]})).setting(
            "credentials: {aws: {shop: {region: a}}, eks: {shap: {cluster: a, aws: shop}}}",
        );
        let error = setup.try_start(&server).await.err().unwrap().to_string();
        assert!(error.contains(said), "{error}");
    }
}

fn with_keys(setup: AgentSetup) -> AgentSetup {
    setup
        .variable("AWS_ACCESS_KEY_ID", KEY_ID)
        .variable("AWS_SECRET_ACCESS_KEY", SECRET)
}

async fn ok() -> Origin {
    Origin::answering(|_| Answer::new(200, &[], "")).await
}

fn rules(origin: &Origin, auth: Value) -> Value {
    json!({"private": [{"path": "/a", "method": "any", "origin": origin.url(), "auth": auth}]})
}

/// An agent whose only credential is a cloud's, its server, and the origin that takes it.
struct Cloud {
    origin: Origin,
    server: Server,
    agent: Agent,
}

impl Cloud {
    async fn start(
        aws: &ScriptedAws,
        auth: Value,
        adjust: impl FnOnce(AgentSetup) -> AgentSetup,
    ) -> Self {
        let origin = ok().await;
        let rules = rules(&origin, auth);
        Self::of(aws, origin, rules, adjust).await
    }

    async fn with_keys(aws: &ScriptedAws, auth: Value) -> Self {
        Self::start(aws, auth, with_keys).await
    }

    async fn of(
        aws: &ScriptedAws,
        origin: Origin,
        rules: Value,
        adjust: impl FnOnce(AgentSetup) -> AgentSetup,
    ) -> Self {
        let server = Server::start(Site::simple()).await;
        let setup = AgentSetup::with_rules(rules)
            .variable("AWS_REGION", "eu-west-1")
            .variable("AWS_ENDPOINT_URL_STS", &aws.url())
            .variable("AWS_EC2_METADATA_SERVICE_ENDPOINT", &aws.url());
        let agent = adjust(setup).start(&server).await;
        Self {
            origin,
            server,
            agent,
        }
    }

    /// The status of a request that begins now.
    async fn get(&self) -> u16 {
        self.server.caller().get(PATH).await.status().as_u16()
    }

    /// Stops the agent, and gives the outcomes on record.
    async fn outcomes(self) -> Vec<Value> {
        let lines = self.agent.stop().await;
        let outcomes = lines.into_iter().filter(|line| line["kind"] == "outcome");
        outcomes.collect()
    }

    /// Why the only source has no value, once it is so.
    async fn fails(&self) -> String {
        let failing =
            |sources: &[CredentialSource]| sources.first().is_some_and(|it| it.failing.is_some());
        within(
            "a failure",
            self.agent.board.until(|now| failing(&now.credentials)),
        )
        .await;
        self.agent.board.snapshot().credentials[0]
            .failing
            .clone()
            .unwrap()
    }
}

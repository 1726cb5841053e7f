//! Credentials that services hand out for a while: Google Cloud, OAuth 2.0, Vault, GitHub Apps. No registry has the real
//! ones; scripted origins answer as their documentation says, and refuse what does not fit.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rsa;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use broker_client::status::CredentialSource;
use broker_tests::broker::{Agent, AgentSetup, Server, Site};
use broker_tests::certs::rsa_key;
use broker_tests::http1::form;
use broker_tests::origin::{Answer, Origin, Request};
use broker_tests::wait::within;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::Notify;

const PATH: &str = "/broker/sonarqube/a";

#[tokio::test]
async fn an_oauth2_client_is_known_by_header_or_form_and_gets_what_it_asks_for() {
    let idp = Origin::answering(|request| {
        let form = form(&request.body);
        let field = |name: &str| form.get(name).map(String::as_str);
        // broker:hunter2%2F
        let by_header = request.head.value("authorization").as_deref()
            == Some("Basic YnJva2VyOmh1bnRlcjIlMkY=");
        let by_form =
            (field("client_id"), field("client_secret")) == (Some("broker"), Some("hunter2/"));
        let asked = (
            field("grant_type"),
            field("scope"),
            field("audience"),
            field("resource"),
        );
        let wanted = (
            Some("client_credentials"),
            Some("read write"),
            Some("https://a"),
            None,
        );
        if request.head.first_line() != "POST /oauth2/token HTTP/1.1"
            || by_header == by_form
            || asked != wanted
        {
            return Answer::new(401, &[], r#"{"error": "invalid_client"}"#);
        }
        let kind = if by_header { "header" } else { "form" };
        Answer::json(&format!(
            r#"{{"access_token": "by-{kind}", "token_type": "Bearer", "expires_in": "3600"}}"#
        ))
    })
    .await;
    for (authentication, token) in [("basic", "by-header"), ("post", "by-form")] {
        let site = Tokens::start("${oauth2:idp}", |setup| {
            let setting = format!(
                "credentials: {{oauth2: {{idp: {{token-url: {}/oauth2/token, client-id: broker, client-secret: \"${{IDP}}/\",
                   authentication: {authentication}, scope: read write, audience: https://a}}}}}}",
                idp.url()
            );
            setup.setting(&setting).variable("IDP", "hunter2")
        })
        .await;
        assert_eq!(site.sent().await, format!("Bearer {token}"));
        let status = site.agent.board.snapshot().to_string();
        assert!(status.contains("oauth2 idp, the same since"), "{status}");
    }
}

#[tokio::test]
async fn a_service_that_gives_no_token_is_told_by_its_own_word_and_nothing_else() {
    let answers = [
        (
            Answer::new(
                400,
                &[],
                r#"{"error": "invalid_scope", "error_description": "hunter2"}"#,
            ),
            "answered 400 Bad Request: invalid_scope",
        ),
        (
            Answer::new(503, &[("Retry-After", "60")], "hunter2"),
            "answered 503 Service Unavailable",
        ),
        (
            Answer::json(r#"{"access_token": "hunter2", "token_type": "mac"}"#),
            "hands out tokens that are no bearer's",
        ),
        (
            Answer::json(r#"{"access_token": "hunter2", "expires_in": 0}"#),
            "handed out one that ends at once",
        ),
        (
            Answer::json(r#"{"access_token": "hunter2\n"}"#),
            "gave an answer that is not what is documented",
        ),
        (
            Answer::json(r#"{"access_token": ["hunter2"]}"#),
            "gave an answer that is not what is documented",
        ),
    ];
    for (answer, said) in answers {
        let idp = Origin::answering(move |_| answer.clone()).await;
        let site = Tokens::start("${oauth2:idp}", |setup| {
            setup.setting(&oauth2(&idp)).variable("IDP", "hunter2")
        })
        .await;
        assert_eq!(
            site.fails().await,
            format!("has no token: 127.0.0.1 {said}")
        );
    }
}

#[tokio::test]
async fn a_secret_that_the_service_is_shown_is_taken_from_its_file_each_time() {
    let idp = Origin::answering(|request| {
        let value = request.head.value("authorization").unwrap();
        let basic = STANDARD
            .decode(value.strip_prefix("Basic ").unwrap())
            .unwrap();
        let secret = String::from_utf8(basic).unwrap().replace("broker:", "");
        Answer::json(&format!(r#"{{"access_token": "for-{secret}"}}"#))
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    fs::write(&secret, "first").unwrap();
    let origin = Origin::answering(|request| {
        let is_old = request.head.value("authorization").as_deref() == Some("Bearer for-first");
        Answer::new(if is_old { 401 } else { 200 }, &[], "")
    })
    .await;
    let setting = oauth2(&idp);
    let site = Tokens::of(origin, "${oauth2:idp}", |setup| {
        setup
            .setting(&setting)
            .variable("IDP_FILE", secret.to_str().unwrap())
    })
    .await;
    site.until(|sources| sources.len() == 2).await;
    let before = site.agent.board.snapshot().credentials;
    fs::write(&secret, "second").unwrap();
    site.until(|sources| sources[0].since != before[0].since)
        .await;

    // The 401 has a token asked for with the secret that is there by now.
    assert_eq!(site.get().await, 200);
    assert_eq!(site.origin.requests().len(), 2);
}

#[tokio::test]
async fn google_hands_out_tokens_of_the_machine_or_the_pod() {
    let metadata = Origin::answering(|request| {
        let is_asked = request.head.value("metadata-flavor").as_deref() == Some("Google");
        let target = "/computeMetadata/v1/instance/service-accounts/default/token?scopes=https://www.googleapis.com/auth/cloud-platform";
        if !is_asked || request.head.target() != target {
            return Answer::new(403, &[], "");
        }
        let body = r#"{"access_token": "of-the-machine", "expires_in": 3599, "token_type": "Bearer"}"#;
        Answer::new(200, &[("Metadata-Flavor", "Google")], body)
    })
    .await;
    let host = metadata.address().to_string();
    let site = Tokens::start("${gcp:token}", |setup| {
        setup.variable("GCE_METADATA_HOST", &host)
    })
    .await;
    assert_eq!(site.sent().await, "Bearer of-the-machine");

    // Something else answers under that address.
    let other =
        Origin::answering(|_| Answer::json(r#"{"access_token": "a", "expires_in": 3599}"#)).await;
    let host = other.address().to_string();
    let site = Tokens::start("${gcp:token}", |setup| {
        setup.variable("GCE_METADATA_HOST", &host)
    })
    .await;
    assert_eq!(
        site.fails().await,
        "has no token: the metadata server gave an answer that is not what is documented"
    );
}

#[tokio::test]
async fn google_takes_another_providers_token_and_lets_it_speak_for_a_service_account() {
    let google = Origin::answering(|request| {
        let form = form(&request.body);
        let field = |name: &str| form.get(name).map_or("", String::as_str);
        match request.head.target().as_str() {
            "/subject" if request.head.value("x-proof").as_deref() == Some("of-the-pod") => {
                Answer::json(r#"{"value": "subject-token", "other": "a"}"#)
            }
            "/v1/token"
                if field("grant_type") == "urn:ietf:params:oauth:grant-type:token-exchange"
                    && field("subject_token") == "subject-token"
                    && field("subject_token_type") == "urn:ietf:params:oauth:token-type:jwt"
                    && field("requested_token_type")
                        == "urn:ietf:params:oauth:token-type:access_token"
                    && field("scope") == "https://www.googleapis.com/auth/cloud-platform"
                    && field("audience") == "//iam.googleapis.com/pool" =>
            {
                Answer::json(
                    r#"{"access_token": "federated", "expires_in": 3600, "token_type": "Bearer"}"#,
                )
            }
            "/impersonate"
                if request.head.value("authorization").as_deref() == Some("Bearer federated") =>
            {
                Answer::json(
                    r#"{"accessToken": "of-the-account", "expireTime": "2099-01-01T00:00:00Z"}"#,
                )
            }
            _ => Answer::new(
                403,
                &[],
                r#"{"error": {"code": 403, "status": "PERMISSION_DENIED"}}"#,
            ),
        }
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let subject = folder.path().join("subject");
    fs::write(&subject, "subject-token\n").unwrap();
    let file = folder.path().join("credentials.json");
    let url = google.url();
    let by_file = json!({"file": subject});
    let by_url = json!({"url": format!("{url}/subject"), "headers": {"X-Proof": "of-the-pod"},
                        "format": {"type": "json", "subject_token_field_name": "value"}});
    let impersonate = json!(format!("{url}/impersonate"));
    for (source, impersonated, token) in [
        (&by_file, &Value::Null, "federated"),
        (&by_url, &impersonate, "of-the-account"),
    ] {
        let account = json!({"type": "external_account", "audience": "//iam.googleapis.com/pool",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt", "token_url": format!("{url}/v1/token"),
            "service_account_impersonation_url": impersonated, "credential_source": source});
        fs::write(&file, account.to_string()).unwrap();
        let site = Tokens::with_credentials_of_google(&file).await;
        assert_eq!(site.sent().await, format!("Bearer {token}"));
    }

    for (credentials, said) in [
        ("hunter2".to_owned(), "holds no credentials of the type external_account or service_account"),
        (json!({"type": "authorized_user", "refresh_token": "hunter2"}).to_string(), "holds no credentials of the type external_account or service_account"),
        (
            json!({"type": "external_account", "audience": "a", "subject_token_type": "a", "token_url": "http://elsewhere.example/",
                   "credential_source": by_file}).to_string(),
            "\"token_url\" is http://, which is for this machine alone, since secrets travel here (use https://)",
        ),
        (
            json!({"type": "external_account", "audience": "a", "subject_token_type": "a", "token_url": "https://a/",
                   "credential_source": {"environment_id": "aws1"}}).to_string(),
            "\"credential_source\" needs either \"file\" or \"url\"",
        ),
        (
            json!({"type": "external_account", "audience": "other", "subject_token_type": "a", "token_url": format!("{url}/v1/token"),
                   "credential_source": by_file}).to_string(),
            "127.0.0.1 answered 403 Forbidden: PERMISSION_DENIED",
        ),
    ] {
        fs::write(&file, credentials).unwrap();
        let why = Tokens::with_credentials_of_google(&file).await.fails().await;
        assert!(why.starts_with("has no token: ") && why.contains(said), "{why}");
        assert!(!why.contains("hunter2"), "{why}");
    }
}

#[tokio::test]
async fn a_google_service_account_signs_for_its_token() {
    let google = Origin::answering(|request| {
        let form = form(&request.body);
        let (_, claims, _) = parts(&form["assertion"]);
        let is_right = form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
            && claims["iss"] == "broker@project.iam.gserviceaccount.com"
            && claims["scope"] == "https://www.googleapis.com/auth/cloud-platform"
            && claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap() == 3600;
        match is_right {
            true => Answer::json(
                r#"{"access_token": "of-the-key", "expires_in": 3599, "token_type": "Bearer"}"#,
            ),
            false => Answer::new(400, &[], r#"{"error": "invalid_grant"}"#),
        }
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key.json");
    let account = json!({"type": "service_account", "client_email": "broker@project.iam.gserviceaccount.com",
        "private_key": rsa_key(), "private_key_id": "k1", "token_uri": google.url()});
    fs::write(&file, account.to_string()).unwrap();
    let site = Tokens::with_credentials_of_google(&file).await;
    assert_eq!(site.sent().await, "Bearer of-the-key");
}

#[tokio::test]
async fn a_github_app_signs_for_a_token_that_reaches_no_more_than_the_settings_say() {
    let app = GithubApp::new();
    let public = app.public_key();
    let github = Origin::answering(move |request| {
        let value = request.head.value("authorization").unwrap();
        let jwt = value.strip_prefix("Bearer ").unwrap();
        let (header, claims, signature) = parts(jwt);
        let (signed, _) = jwt.rsplit_once('.').unwrap();
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs();
        let (from, to) = (
            claims["iat"].as_u64().unwrap(),
            claims["exp"].as_u64().unwrap(),
        );
        let is_right = request.head.first_line()
            == "POST /api/v3/app/installations/42/access_tokens HTTP/1.1"
            && public.verify(signed.as_bytes(), &signature).is_ok()
            && header == json!({"alg": "RS256", "typ": "JWT"})
            && claims["iss"] == "123456"
            && from <= now - 60
            && (now + 60..=now + 600).contains(&to)
            && request.head.value("accept").as_deref() == Some("application/vnd.github+json")
            && request.head.value("x-github-api-version").as_deref() == Some("2022-11-28")
            && request.head.value("user-agent").is_some();
        let asked: Value = serde_json::from_slice(&request.body).unwrap();
        let token = match is_right {
            true if asked == json!({}) => "ghs_whole",
            true if asked
                == json!({"repositories": ["shop", "docs"], "permissions": {"contents": "read"}}) =>
            {
                "ghs_narrow"
            }
            _ => return Answer::new(401, &[], r#"{"message": "Bad credentials"}"#),
        };
        let body = json!({"token": token, "expires_at": "2099-01-01T00:00:00Z", "permissions": {}});
        Answer::new(201, &[], body.to_string())
    })
    .await;
    let api = format!("{}/api/v3", github.url());
    let narrowed = "repositories: [shop, docs], permissions: {contents: read}";
    for (more, token) in [("", "ghs_whole"), (narrowed, "ghs_narrow")] {
        assert_eq!(
            app.site(&api, more).await.sent().await,
            format!("Bearer {token}")
        );
    }
}

#[tokio::test]
async fn a_key_of_a_github_app_that_is_replaced_signs_for_the_next_token() {
    let app = GithubApp::new();
    let old = app.public_key();
    let github = Origin::answering(move |request| {
        let value = request.head.value("authorization").unwrap();
        let jwt = value.strip_prefix("Bearer ").unwrap();
        let (signed, _) = jwt.rsplit_once('.').unwrap();
        let is_old = old.verify(signed.as_bytes(), &parts(jwt).2).is_ok();
        let token = if is_old { "old" } else { "new" };
        let body = json!({"token": token, "expires_at": "2099-01-01T00:00:00Z"});
        Answer::new(201, &[], body.to_string())
    })
    .await;
    let origin = Origin::answering(|request| {
        let is_old = request.head.value("authorization").as_deref() == Some("Bearer old");
        Answer::new(if is_old { 401 } else { 200 }, &[], "")
    })
    .await;
    let setting = app.setting(&github.url(), "");
    let site = Tokens::of(origin, "${github-app:ci}", |setup| setup.setting(&setting)).await;
    site.until(|sources| !sources.is_empty()).await;
    fs::write(app.key(), rsa_key()).unwrap();

    // The 401 has a token asked for with the key that is there by now.
    assert_eq!(site.get().await, 200);
    assert_eq!(site.origin.requests().len(), 2);
}

#[tokio::test]
async fn why_a_github_app_has_no_token_is_told_with_what_to_look_at() {
    let app = GithubApp::new();
    for (status, said) in [
        (
            301,
            "(redirects are not followed: name the new address in api)",
        ),
        (
            401,
            "(is private-key-file a key of this app-id, and is the clock of this machine right?)",
        ),
        (
            403,
            "(is the installation suspended, the rate limit used up, or this machine's address not on the organization's list?)",
        ),
        (
            404,
            "(does this app have an installation of this installation-id, at this api?)",
        ),
        (
            422,
            "(does the installation have all of these repositories and permissions?)",
        ),
    ] {
        let elsewhere = Origin::answering(|_| Answer::new(200, &[], "")).await;
        let location = elsewhere.url();
        let github = Origin::answering(move |_| {
            Answer::new(
                status,
                &[("Location", &location)],
                r#"{"message": "hunter2"}"#,
            )
        })
        .await;
        let why = app.site(&github.url(), "").await.fails().await;
        let answered = format!("has no token: {} answered {status} ", github.address());
        assert!(why.starts_with(&answered) && why.ends_with(said), "{why}");
        assert!(!why.contains("hunter2"), "{why}");
        assert_eq!(elsewhere.connections(), 0);
    }
}

#[tokio::test]
async fn a_key_of_a_github_app_that_is_none_is_told_and_nobody_is_asked() {
    let app = GithubApp::new();
    let github = Origin::answering(|_| Answer::new(200, &[], "")).await;
    for (key, said) in [
        (None, "cannot be read: "),
        (Some("hunter2"), "holds no PEM private key "),
        (
            Some("-----BEGIN RSA PRIVATE KEY-----\naHVudGVyMg==\n-----END RSA PRIVATE KEY-----\n"),
            "holds a key that is not RSA",
        ),
    ] {
        match key {
            Some(key) => fs::write(app.key(), key).unwrap(),
            None => fs::remove_file(app.key()).unwrap(),
        }
        let why = app.site(&github.url(), "").await.fails().await;
        let said = format!("has no token: {} {said}", app.key().display());
        assert!(why.starts_with(&said), "{why}");
        assert!(!why.contains("hunter2"), "{why}");
    }
    assert_eq!(github.connections(), 0);
}

/// An app of GitHub, with its key.
struct GithubApp(TempDir);

impl GithubApp {
    fn new() -> Self {
        let app = Self(tempfile::tempdir().unwrap());
        fs::write(app.key(), rsa_key()).unwrap();
        app
    }

    fn key(&self) -> PathBuf {
        self.0.path().join("app.pem")
    }

    fn public_key(&self) -> UnparsedPublicKey<Vec<u8>> {
        let key = PrivatePkcs8KeyDer::from_pem_file(self.key()).unwrap();
        let pair = rsa::KeyPair::from_pkcs8(key.secret_pkcs8_der()).unwrap();
        UnparsedPublicKey::new(
            &RSA_PKCS1_2048_8192_SHA256,
            pair.public_key().as_ref().to_vec(),
        )
    }

    /// An agent that uses it, with `more` in its settings.
    async fn site(&self, api: &str, more: &str) -> Tokens {
        let setting = self.setting(api, more);
        Tokens::start("${github-app:ci}", |setup| setup.setting(&setting)).await
    }

    fn setting(&self, api: &str, more: &str) -> String {
        format!(
            "credentials: {{github-app: {{ci: {{app-id: 123456, installation-id: 42, private-key-file: {}, api: \"{api}\", {more}}}}}}}",
            self.key().display(),
        )
    }
}

/// Vault, as its documentation has it: one role, one secret, sessions that end.
struct Vault {
    origin: Origin,
    logins: Arc<AtomicUsize>,
    /// Sessions from this one on are good.
    good_from: Arc<AtomicUsize>,
    /// A session was renewed.
    renewed: Arc<Notify>,
}

impl Vault {
    async fn start(lease: u64) -> Self {
        let (logins, good_from) = (Arc::<AtomicUsize>::default(), Arc::new(AtomicUsize::new(1)));
        let (counted, good) = (Arc::clone(&logins), Arc::clone(&good_from));
        let renewed = Arc::<Notify>::default();
        let tell = Arc::clone(&renewed);
        let origin = Origin::answering(move |request| {
            let header = |name: &str| request.head.value(name);
            if header("x-vault-request").is_none() || header("x-vault-namespace").as_deref() != Some("platform") {
                return Answer::new(404, &[], r#"{"errors": []}"#);
            }
            let session = |n: usize| Answer::json(&json!({"auth": {"client_token": format!("session-{n}"), "lease_duration": lease, "renewable": true}}).to_string());
            let shown = header("x-vault-token").and_then(|token| token.strip_prefix("session-")?.parse::<usize>().ok());
            let is_good = shown.is_some_and(|n| n >= good.load(Ordering::SeqCst));
            match request.head.target().as_str() {
                "/v1/auth/kubernetes/login" => {
                    let body: Value = serde_json::from_slice(&request.body).unwrap();
                    match body == json!({"jwt": "jwt-of-the-pod", "role": "broker"}) {
                        true => session(counted.fetch_add(1, Ordering::SeqCst) + 1),
                        false => Answer::new(403, &[], r#"{"errors": ["hunter2"]}"#),
                    }
                }
                _ if !is_good => Answer::new(403, &[], r#"{"errors": ["permission denied"]}"#),
                "/v1/auth/token/renew-self" => {
                    tell.notify_one();
                    session(shown.unwrap())
                }
                "/v1/secret/data/tools/sonarqube" => Answer::json(
                    &json!({"data": {"data": {"token": format!("kept-{}", shown.unwrap()), "port": 1, "lines": "a\nb"}, "metadata": {"version": 1}}}).to_string(),
                ),
                _ => Answer::new(404, &[], r#"{"errors": []}"#),
            }
        })
        .await;
        Self {
            origin,
            logins,
            good_from,
            renewed,
        }
    }

    fn setting(&self, login: &str, field: &str) -> String {
        format!(
            "credentials: {{vault: {{sonarqube: {{address: {}, namespace: platform, path: tools/sonarqube, field: {field}, {login}}}}}}}",
            self.origin.url()
        )
    }
}

fn kubernetes(jwt: &Path) -> String {
    format!("kubernetes: {{role: broker, jwt-file: {}}}", jwt.display())
}

#[tokio::test]
async fn a_secret_of_vault_is_read_with_the_pods_account_and_again_once_the_session_is_revoked() {
    let folder = tempfile::tempdir().unwrap();
    let jwt = folder.path().join("token");
    fs::write(&jwt, "jwt-of-the-pod").unwrap();
    let vault = Vault::start(3600).await;
    let good = Arc::clone(&vault.good_from);
    let origin = Origin::answering(move |request| {
        let value = request.head.value("authorization").unwrap();
        let n: usize = value.strip_prefix("Bearer kept-").unwrap().parse().unwrap();
        Answer::new(
            if n >= good.load(Ordering::SeqCst) {
                200
            } else {
                401
            },
            &[],
            "",
        )
    })
    .await;
    let setting = vault.setting(&kubernetes(&jwt), "token");
    let site = Tokens::of(origin, "${vault:sonarqube}", |setup| {
        setup.setting(&setting)
    })
    .await;
    assert_eq!(site.get().await, 200);
    assert_eq!(vault.logins.load(Ordering::SeqCst), 1);

    // Vault revokes the session and changes the secret; the origin's 401 has it read again.
    vault.good_from.store(2, Ordering::SeqCst);
    assert_eq!(site.get().await, 200);
    assert_eq!(vault.logins.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_session_with_vault_is_renewed_before_its_end_though_no_request_comes() {
    let folder = tempfile::tempdir().unwrap();
    let jwt = folder.path().join("token");
    fs::write(&jwt, "jwt-of-the-pod").unwrap();
    // The secret is read after four fifths of it, which is past two thirds.
    let vault = Vault::start(6).await;
    let setting = vault.setting(&kubernetes(&jwt), "token");
    let site = Tokens::start("${vault:sonarqube}", |setup| setup.setting(&setting)).await;
    within("a renewal", vault.renewed.notified()).await;
    assert_eq!(vault.logins.load(Ordering::SeqCst), 1);
    assert_eq!(site.sent().await, "Bearer kept-1");
}

#[tokio::test]
async fn a_token_for_vault_is_taken_as_it_is_and_what_is_no_credential_is_told() {
    let vault = Vault::start(3600).await;
    let token = |setup: AgentSetup| setup.variable("VAULT", "session-1");
    for (field, said) in [
        ("token", ""),
        (
            "tokne",
            "holds no credential: tools/sonarqube has no field \"tokne\"",
        ),
        ("port", "holds no credential: the field \"port\" is no text"),
        (
            "lines",
            "holds no credential: the field \"lines\" holds a line break or another control character",
        ),
    ] {
        let setting = vault.setting("token: \"${VAULT}\"", field);
        let site =
            Tokens::start("${vault:sonarqube}", |setup| token(setup.setting(&setting))).await;
        match said {
            "" => assert_eq!(site.sent().await, "Bearer kept-1"),
            said => assert_eq!(site.fails().await, said),
        }
    }
    vault.good_from.store(2, Ordering::SeqCst);
    let setting = vault.setting("token: \"${VAULT}\"", "token");
    let site = Tokens::start("${vault:sonarqube}", |setup| token(setup.setting(&setting))).await;
    assert_eq!(
        site.fails().await,
        format!(
            "has no token: {} answered 403 Forbidden",
            vault.origin.address()
        )
    );
}

/// Header, claims and signature of a token.
fn parts(token: &str) -> (Value, Value, Vec<u8>) {
    let parts: Vec<_> = token
        .split('.')
        .map(|part| URL_SAFE_NO_PAD.decode(part).unwrap())
        .collect();
    let json = |part: &[u8]| serde_json::from_slice(part).unwrap();
    (json(&parts[0]), json(&parts[1]), parts[2].clone())
}

fn oauth2(idp: &Origin) -> String {
    format!(
        "credentials: {{oauth2: {{idp: {{token-url: {}/, client-id: broker, client-secret: \"${{IDP}}\"}}}}}}",
        idp.url()
    )
}

/// An agent whose only credential is a service's, its server, and the origin that takes it.
struct Tokens {
    origin: Origin,
    server: Server,
    agent: Agent,
}

impl Tokens {
    async fn start(token: &str, adjust: impl FnOnce(AgentSetup) -> AgentSetup) -> Self {
        let origin = Origin::answering(|_: &Request| Answer::new(200, &[], "")).await;
        Self::of(origin, token, adjust).await
    }

    async fn of(
        origin: Origin,
        token: &str,
        adjust: impl FnOnce(AgentSetup) -> AgentSetup,
    ) -> Self {
        let auth = json!({"scheme": "bearer", "token": token});
        let rules = json!({"private": [{"path": "/a", "origin": origin.url(), "auth": auth}]});
        let server = Server::start(Site::simple()).await;
        let agent = adjust(AgentSetup::with_rules(rules)).start(&server).await;
        Self {
            origin,
            server,
            agent,
        }
    }

    async fn with_credentials_of_google(file: &Path) -> Self {
        let file = file.to_str().unwrap();
        Self::start("${gcp:token}", |setup| {
            setup.variable("GOOGLE_APPLICATION_CREDENTIALS", file)
        })
        .await
    }

    async fn get(&self) -> u16 {
        self.server.caller().get(PATH).await.status().as_u16()
    }

    /// What the origin sees as `Authorization` of a request that begins now.
    async fn sent(&self) -> String {
        assert_eq!(self.get().await, 200);
        let request = self.origin.requests().pop().unwrap();
        request.head.value("authorization").unwrap()
    }

    /// Why the only source has no value, once it is so.
    async fn fails(&self) -> String {
        self.until(|sources| sources.first().is_some_and(|it| it.failing.is_some()))
            .await;
        self.agent.board.snapshot().credentials[0]
            .failing
            .clone()
            .unwrap()
    }

    async fn until(&self, wanted: impl Fn(&[CredentialSource]) -> bool) {
        let until = self.agent.board.until(|now| wanted(&now.credentials));
        within("the credentials' sources as they are wanted", until).await;
    }
}

//! What the agent makes of its settings.

mod connections;

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

use broker_process::settings::Setting;
use broker_process::tls::{PostQuantum, TlsMin, TlsPolicy};
use broker_protocol::{AccessToken, TokenKind};

use super::connection::{NO_NAME, NO_SERVER};
use super::*;

/// A working folder that goes away with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("broker-config-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn load(
        &self,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Config, SettingsError> {
        let arguments = ["run"].iter().chain(arguments);
        let arguments = run_command().get_matches_from(arguments);
        Config::load(&arguments, environment.iter().copied().collect(), &self.0)
    }

    /// Loads with name and server set, and more variables.
    fn with(&self, environment: &[(&str, &str)]) -> Result<Config, SettingsError> {
        self.load(&[], &[&BASE, environment].concat())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const BASE: [(&str, &str); 2] = [
    ("BROKER_TOKEN", "SonarQube"),
    ("BROKER_SERVER_URL", "https://broker.example"),
];

#[track_caller]
fn assert_refused(outcome: Result<Config, SettingsError>, expected: &str) {
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
}

#[test]
fn the_environment_customers_set_today_is_enough() {
    let folder = Folder::new();
    let accept = folder.write("accept.json", "{}");
    let config = folder
        .with(&[("PORT", "8000"), ("LOG_LEVEL", "debug")])
        .unwrap();
    assert_eq!(config.connections[0].agent.as_str(), "sonarqube");
    assert_eq!(
        config.connections[0].server.to_string(),
        "https://broker.example"
    );
    assert_eq!(config.connections[0].accept, Accept::File(accept));
    assert_eq!(config.local_listen, "0.0.0.0:8000".parse().unwrap());
    assert_eq!(config.healthcheck_path, "/healthcheck");
    assert_eq!(
        config.data,
        DataFolder::Default("/var/lib/broker-client".into())
    );
    assert_eq!(config.connections[0].tunnels, 2);
    assert_eq!(config.tunnel.tls_policy(), TlsPolicy::STRICT);
    assert!(config.connections[0].secret.is_none());
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn a_missing_name_and_a_missing_server_are_both_told_with_the_fix() {
    let folder = Folder::new();
    let error = folder.load(&[], &[]).unwrap_err();
    assert_eq!(error.problems(), [NO_NAME, NO_SERVER]);
}

#[test]
fn every_default_reads_well() {
    // `Settings::value` would panic on a default that its parser refuses.
    assert!(Folder::new().with(&[]).is_ok());
}

#[test]
fn commands_have_a_program_and_sensible_limits() {
    for (entry, said) in [
        (
            "{}",
            "credentials.exec.eks: no command (write command: [/usr/bin/program, argument])",
        ),
        (
            "{command: []}",
            "credentials.exec.eks.command: an empty list (write [/usr/bin/program, argument])",
        ),
        (
            "{command: [aws]}",
            "credentials.exec.eks.command: the program is no absolute path (write [/usr/bin/program, argument])",
        ),
        (
            "{command: /bin/true}",
            "credentials.exec.eks.command: expected a list, found a text",
        ),
        (
            "{command: [/bin/true], time-out: 1s}",
            "credentials.exec.eks: unknown key \"time-out\" (did you mean \"timeout\"?)",
        ),
        (
            "{command: [/bin/true], cache: 0s}",
            "credentials.exec.eks.cache: ",
        ),
        (
            "{command: [/bin/true], env: ['A=b']}",
            "credentials.exec.eks.env[0]: \"A=b\" is no variable's name (write VAULT_TOKEN, without its value)",
        ),
        (
            "{command: [/bin/true], env: [BROKER_AGENT_SECRET]}",
            "credentials.exec.eks.env[0]: BROKER_AGENT_SECRET is the broker's",
        ),
    ] {
        let folder = Folder::new();
        let settings = format!("credentials: {{exec: {{eks: {entry}}}}}");
        folder.write("agent.yaml", &settings);
        assert_refused(folder.load(&["--config", "agent.yaml"], &BASE), said);
    }
}

#[test]
fn what_is_wrong_with_a_clouds_settings_is_told() {
    for (settings, said) in [
        (
            "aws: {shop: {}}",
            "credentials.aws.shop: no region (write region: eu-west-1, or set AWS_REGION)",
        ),
        (
            "aws: {shop: {region: 'a/b'}}",
            "credentials.aws.shop.region: \"a/b\" is no region (write eu-west-1)",
        ),
        ("aws: {Shop: {region: a}}", "is no name that a rule can use"),
        (
            "aws: {shop: {region: a, endpoint: 'http://sts.test'}}",
            "http:// is for this machine alone",
        ),
        (
            "aws: {shop: {region: a, assume-role: [{role: broker}]}}",
            "\"broker\" is no role's ARN (write arn:aws:iam::123456789012:role/broker)",
        ),
        (
            "aws: {shop: {region: a, assume-role: [{external-id: a}]}}",
            "no role (write role: arn:aws:iam::123456789012:role/broker)",
        ),
        (
            "aws: {shop: {region: a, assume-role: [{role: \"arn:aws:iam::123456789012:role/broker\", duration: 1m}]}}",
            "\"1m\" is not between 15m and 12h",
        ),
        (
            "aws: {shop: {region: a, assume-role: [{role: \"arn:aws:iam::123456789012:role/broker\", session-name: a b}]}}",
            "\"a b\" is no session's name",
        ),
        (
            "aws: {shop: {region: a, roles: []}}",
            "unknown key \"roles\"",
        ),
        (
            "aws: {shop: {region: a}}, eks: {shop: {aws: shop}}",
            "credentials.eks.shop: no cluster (write cluster: shop-production)",
        ),
        (
            "aws: {shop: {region: a}}, eks: {shop: {cluster: a, aws: shap}}",
            "credentials.eks.shop: aws: \"shap\" is no entry of the settings' \"credentials.aws\" (did you mean \"shop\"?)",
        ),
        (
            "eks: {shop: {cluster: a}}",
            "credentials.eks.shop: aws: no region is known (set AWS_REGION, or declare credentials.aws.default with a region)",
        ),
    ] {
        let folder = Folder::new();
        folder.write("agent.yaml", &format!("credentials: {{{settings}}}"));
        assert_refused(folder.load(&["--config", "agent.yaml"], &BASE), said);
    }
}

#[test]
fn what_the_environment_says_of_a_cloud_is_held_to_the_same_as_the_settings() {
    const METADATA: &str = "AWS_EC2_METADATA_SERVICE_ENDPOINT";
    const ALONE: &str = "http:// is for this machine alone";
    for (variable, value, said) in [
        ("AWS_REGION", "eu-west-1\r", "\"eu-west-1\\r\" is no region"),
        ("AWS_DEFAULT_REGION", "eu west 1", "is no region"),
        ("AWS_REGION", "evil.example/x", "is no region"),
        ("AWS_ENDPOINT_URL_STS", "sts.example", "has no scheme"),
        ("AWS_ENDPOINT_URL_STS", "http://sts.example", ALONE),
        ("AWS_ENDPOINT_URL", "http://169.254.169.254", ALONE),
        (METADATA, "169.254.169.254", "has no scheme"),
        (METADATA, "http://169.254.169.254.example", ALONE),
        (METADATA, "http://169.254.1.1", ALONE),
    ] {
        let region = ("AWS_DEFAULT_REGION", "eu-west-1");
        let error = Folder::new()
            .with(&[region, (variable, value)])
            .unwrap_err();
        let problem = error.problems().join("\n");
        assert!(
            problem.starts_with(&format!("environment {variable}: ")) && problem.contains(said),
            "{problem}"
        );
    }
    for (variable, value) in [
        ("AWS_ENDPOINT_URL_STS", "https://sts.example/a"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:4566"),
        (METADATA, "http://[fd00:ec2::254]/"),
        (METADATA, "http://169.254.169.254"),
        (METADATA, "https://metadata.example"),
    ] {
        let region = ("AWS_REGION", "eu-west-1");
        Folder::new().with(&[region, (variable, value)]).unwrap();
    }
}

#[test]
fn a_limit_that_is_none_is_told_with_what_to_write() {
    for (variable, wrong, said) in [
        (
            "BROKER_CALLER_RATE",
            "100",
            ": write a number and a time such as \"100/m\"",
        ),
        (
            "BROKER_CALLER_CONCURRENCY",
            "0",
            " is not a whole number, at least 1",
        ),
        (
            "BROKER_RESPONSE_SIZE",
            "1MiB",
            " is not a whole number, at least 1",
        ),
    ] {
        let outcome = Folder::new().with(&[(variable, wrong)]);
        assert_refused(outcome, &format!("{variable}: \"{wrong}\"{said}"));
    }
}

#[test]
fn what_is_wrong_with_a_services_settings_is_told() {
    for (settings, said) in [
        (
            "oauth2: {idp: {token-url: 'http://a.example/', client-id: a, client-secret: '${A}'}}",
            "credentials.oauth2.idp.token-url: is http://, which is for this machine alone, since secrets travel here (use https://)",
        ),
        (
            "oauth2: {idp: {token-url: 'https://u:hunter2@a.example/', client-id: a, client-secret: '${A}'}}",
            "credentials.oauth2.idp.token-url: is no URL (write https://host/path, without user and password)",
        ),
        (
            "oauth2: {idp: {token-url: 'https://a/', client-id: a, client-secret: hunter2}}",
            "credentials.oauth2.idp.client-secret: a secret stands in the file itself (write ${NAME}, ${file:/path} or ${exec:name})",
        ),
        (
            "oauth2: {idp: {token-url: 'https://a/', client-id: a, client-secret: '${oauth2:idp}'}}",
            "credentials.oauth2.idp.client-secret: ${oauth2:idp} cannot stand here (write ${NAME}, ${file:/path} or ${exec:name})",
        ),
        (
            "oauth2: {idp: {client-id: a, client-secret: '${A}'}}",
            "credentials.oauth2.idp: no token-url (write token-url: https://login.example/oauth2/token)",
        ),
        (
            "oauth2: {idp: {token-url: 'https://a/', client-id: a, client-secret: '${A}', authentication: jwt}}",
            "\"jwt\" is not basic or post",
        ),
        ("gcp: {a: {scope: 'a&b'}}", "\"a&b\" is no scope"),
        (
            "vault: {a: {address: 'https://a', path: a, field: a}}",
            "credentials.vault.a: needs either \"token\" or \"kubernetes\" (write kubernetes: {role: broker})",
        ),
        (
            "vault: {a: {address: 'https://a', path: '../a', field: a, token: '${A}'}}",
            "\"../a\" is no path in Vault",
        ),
        (
            "vault: {a: {address: 'https://a', path: a, field: a, token: '${A}', refresh: 1s}}",
            "\"1s\" is less than 10s",
        ),
        (
            "github-app: {ci: {app-id: 1, installation-id: x, private-key-file: a.pem}}",
            "credentials.github-app.ci.installation-id: \"x\" is not a whole number",
        ),
        (
            "github-app: {ci: {app-id: 1, installation-id: 2}}",
            "credentials.github-app.ci: no private-key-file (write private-key-file: /run/secrets/github-app.pem)",
        ),
        (
            "github-app: {ci: {app-id: my app, installation-id: 2, private-key-file: a.pem}}",
            "credentials.github-app.ci.app-id: \"my app\" is neither an app's id nor its client id (write 123456)",
        ),
        (
            "github-app: {ci: {app-id: 1, installation-id: 0, private-key-file: a.pem}}",
            "credentials.github-app.ci.installation-id: \"0\" is out of range",
        ),
        (
            "github-app: {ci: {app-id: 1, installation-id: 2, private-key-file: a.pem, api: \"http://github.corp/api/v3\"}}",
            "credentials.github-app.ci.api: http:// is for this machine alone",
        ),
        (
            "github-app: {ci: {app-id: 1, installation-id: 2, private-key-file: a.pem, repositories: []}}",
            "credentials.github-app.ci.repositories: names nothing (leave it out for all that the installation has)",
        ),
        (
            "github-app: {ci: {app-id: 1, installation-id: 2, private-key-file: a.pem, repositories: [corp/shop]}}",
            "credentials.github-app.ci.repositories[0]: \"corp/shop\" is no repository's name (write it without its owner)",
        ),
        (
            "github-app: {ci: {app-id: 1, installation-id: 2, private-key-file: a.pem, permissions: {contents: all}}}",
            "credentials.github-app.ci.permissions.contents: \"all\" is not read, write or admin",
        ),
    ] {
        let folder = Folder::new();
        folder.write("agent.yaml", &format!("credentials: {{{settings}}}"));
        let error = folder.load(&["--config", "agent.yaml"], &BASE).unwrap_err();
        let error = error.to_string();
        assert!(error.contains(said), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn every_setting_can_be_set_by_flag_variable_and_file() {
    let lacking: Vec<String> = TABLE
        .settings()
        .filter(|setting| {
            setting.flag_name().is_none()
                || setting.key().is_none()
                || setting.variables().is_empty()
        })
        .map(Setting::places)
        .collect();
    // The file cannot name itself, and has `connections` for what one connection is; a secret stands neither in a
    // command line nor among the settings; a proxy's URL can hold one.
    assert_eq!(
        lacking,
        [
            "BROKER_CLIENT_CONFIG, --config",
            "BROKER_TOKEN, --agent",
            "BROKER_AGENT_SECRET",
            "BROKER_AGENT_SECRET_FILE, --secret-file",
            "ACCEPT, --accept",
            "proxy.https, HTTPS_PROXY, https_proxy",
            "proxy.http, HTTP_PROXY, http_proxy",
            "tunnel.proxy, BROKER_TUNNEL_PROXY",
            "origins-proxy, BROKER_ORIGINS_PROXY"
        ]
    );
}

#[test]
fn without_rules_everything_is_denied() {
    let config = Folder::new().with(&[("ACCEPT", "")]).unwrap();
    assert_eq!(config.connections[0].accept, Accept::DenyAll);
}

#[test]
fn rules_that_were_named_must_be_readable() {
    let folder = Folder::new();
    assert_refused(
        folder.with(&[("ACCEPT", "nowhere.json")]),
        "environment ACCEPT: ",
    );
    assert_refused(folder.with(&[("ACCEPT", ".")]), ": is no regular file");
    // Has no end.
    assert_refused(
        folder.with(&[("ACCEPT", "/dev/zero")]),
        "/dev/zero: is no regular file",
    );
}

#[test]
fn callers_learn_as_much_as_is_set_and_whom_to_ask() {
    let folder = Folder::new();
    let explaining = folder.with(&[]).unwrap().rules.explaining;
    assert_eq!(explaining.to_callers, ExplainToCallers::Part);
    assert_eq!(explaining.contact, None);
    assert_refused(
        folder.with(&[("BROKER_EXPLAIN_TO_CALLERS", "all")]),
        "environment BROKER_EXPLAIN_TO_CALLERS: \"all\" is not none, part or nearest",
    );
    assert_refused(
        folder.with(&[("BROKER_CONTACT", &"x".repeat(201))]),
        "is longer than 200 characters",
    );
    assert_refused(
        folder.with(&[("BROKER_CONTACT", "it@example.org\nx")]),
        "has a control character",
    );
}

#[test]
fn rules_are_not_fetched_from_a_url() {
    assert_refused(
        Folder::new().with(&[("ACCEPT", "https://example.com/accept.json")]),
        "environment ACCEPT: rules are not fetched from a URL (mount the file and name its path)",
    );
}

#[test]
fn the_secret_comes_from_a_variable_or_a_file_and_not_from_both() {
    let folder = Folder::new();
    let token = AccessToken::generate(TokenKind::Agent);
    let file = folder.write("agent.secret", &format!("{}\n", token.expose()));
    let in_file = ("BROKER_AGENT_SECRET_FILE", file.to_str().unwrap());
    let in_variable = ("BROKER_AGENT_SECRET", token.expose());

    for one in [in_file, in_variable] {
        let config = folder.with(&[one]).unwrap();
        assert_eq!(
            config.connections[0].secret.as_ref().unwrap().expose(),
            token.expose()
        );
    }
    let error = folder
        .with(&[in_file, in_variable])
        .unwrap_err()
        .to_string();
    assert!(error.contains("keep one of the two"), "{error}");
}

#[test]
fn a_secret_that_is_none_is_refused_and_not_repeated() {
    let folder = Folder::new();
    let caller = AccessToken::generate(TokenKind::Caller);
    let file = folder.write("agent.secret", "hunter2");
    for environment in [
        ("BROKER_AGENT_SECRET", "hunter2"),
        ("BROKER_AGENT_SECRET", caller.expose()),
        ("BROKER_AGENT_SECRET_FILE", file.to_str().unwrap()),
    ] {
        let error = folder.with(&[environment]).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("environment {}: ", environment.0)),
            "{error}"
        );
        assert!(
            !error.contains("hunter2") && !error.contains(caller.expose()),
            "{error}"
        );
    }
}

#[test]
fn a_secret_in_the_place_of_the_name_is_refused_and_not_repeated() {
    let token = AccessToken::generate(TokenKind::Agent);
    let environment = [BASE[1], ("BROKER_TOKEN", token.expose())];
    let error = Folder::new()
        .load(&[], &environment)
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with(
            "environment BROKER_TOKEN: a broker secret stands where the agent's name belongs"
        ),
        "{error}"
    );
    assert!(!error.contains(token.expose()), "{error}");
}

#[test]
fn plaintext_stays_on_this_machine_unless_it_is_asked_for() {
    let folder = Folder::new();
    let with_server = |url, more: &[(&str, &str)]| {
        folder.load(
            &[],
            &[&[BASE[0], ("BROKER_SERVER_URL", url)], more].concat(),
        )
    };
    assert!(
        with_server("ws://127.0.0.1:8443", &[])
            .unwrap()
            .warnings
            .is_empty()
    );
    assert_refused(
        with_server("http://broker.example", &[]),
        "environment BROKER_SERVER_URL: http:// and ws:// are for this machine alone",
    );
    let asked_for = [("BROKER_TUNNEL_INSECURE_PLAINTEXT", "true")];
    let config = with_server("http://broker.example", &asked_for).unwrap();
    assert!(
        config.warnings[0].contains("not encrypted"),
        "{:?}",
        config.warnings
    );
}

#[test]
fn a_weaker_tunnel_is_warned_about() {
    let weaker = [
        ("BROKER_TUNNEL_TLS_MIN", "1.2"),
        ("BROKER_TUNNEL_POST_QUANTUM", "off"),
    ];
    let config = Folder::new().with(&weaker).unwrap();
    assert_eq!(config.warnings.len(), 2, "{:?}", config.warnings);
    assert_eq!(config.tunnel.tls_min, TlsMin::V1_2);
    assert_eq!(config.tunnel.post_quantum, PostQuantum::Off);
}

#[test]
fn what_another_client_reads_and_this_one_does_not_is_warned_about() {
    let folder = Folder::new();
    for (name, value) in [
        ("ALL_PROXY", "http://proxy.example:3128"),
        ("NODE_TLS_REJECT_UNAUTHORIZED", "0"),
        ("HTTPS_CERT", "/c.pem"),
    ] {
        let warnings = folder.with(&[(name, value)]).unwrap().warnings;
        assert_eq!(warnings.len(), 1, "{name}");
        assert!(
            warnings[0].starts_with(&format!("environment {name}: ")),
            "{warnings:?}"
        );
    }
}

/// The proxies of the server, of an origin that is named in the settings, and of another one.
fn proxies(config: &Config) -> [String; 3] {
    let shown = |proxy: Option<&Proxy>| proxy.map(ToString::to_string).unwrap_or_default();
    let origin = |text: &str| {
        let settings = config.origin(&config.connections[0], text);
        shown(config.origin_proxy(&settings, &Origin::parse(text).unwrap()))
    };
    [
        shown(config.tunnel_proxy(&config.connections[0].server)),
        origin("https://sonar.corp"),
        origin("http://jenkins.corp"),
    ]
}

#[test]
fn the_usual_variables_name_proxies_and_each_direction_can_do_otherwise() {
    let folder = Folder::new();
    let usual = [
        ("HTTPS_PROXY", "http://user:pass@secure:3128"),
        ("http_proxy", "http://plain:3128"),
    ];
    let (secure, plain) = ("http://secure:3128", "http://plain:3128");
    folder.write(
        "none.yaml",
        "origins: {\"https://sonar.corp\": {proxy: none}}",
    );
    for (more, expected) in [
        ([].as_slice(), [secure, secure, plain]),
        (&[("NO_PROXY", ".corp")], [secure, "", ""]),
        (&[("no_proxy", "broker.example:443")], ["", secure, plain]),
        (&[("BROKER_TUNNEL_PROXY", "none")], ["", secure, plain]),
        (&[("BROKER_ORIGINS_PROXY", "none")], [secure, "", ""]),
        (
            &[("BROKER_ORIGINS_PROXY", "http://own:1"), ("NO_PROXY", "*")],
            ["", "http://own:1", "http://own:1"],
        ),
        (
            &[("BROKER_CLIENT_CONFIG", "none.yaml")],
            [secure, "", plain],
        ),
    ] {
        let config = folder.with(&[&usual, more].concat()).unwrap();
        assert_eq!(proxies(&config), expected, "{more:?}");
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    }
}

#[test]
fn what_is_wrong_with_a_proxy_is_told_without_its_password() {
    let folder = Folder::new();
    for name in [
        "HTTPS_PROXY",
        "HTTP_PROXY",
        "BROKER_TUNNEL_PROXY",
        "BROKER_ORIGINS_PROXY",
    ] {
        let refused = folder.with(&[(name, "socks5://u:hunter2@proxy:1080")]);
        let error = refused.unwrap_err().to_string();
        let expected = format!("environment {name}: this proxy is of a kind that is not supported");
        assert!(error.contains(&expected), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    let warned = folder.with(&[("NO_PROXY", "a.corp, 10.0.*")]).unwrap();
    assert_eq!(
        warned.warnings,
        [
            "environment NO_PROXY: \"10.0.*\" is no name, address, network or `*`, and exempts nothing from the proxy"
        ]
    );
}

#[test]
fn addresses_of_origins_are_named_as_networks() {
    let folder = Folder::new();
    let allow = |text| folder.with(&[("BROKER_ORIGIN_ADDRESSES_ALLOW", text)]);
    let named = ["169.254.10.0/24", "fe80::1/128"].map(|network| network.parse().unwrap());
    assert_eq!(
        allow("169.254.10.0/24, fe80::1").unwrap().origin_addresses,
        AddressPolicy::naming(named.into())
    );
    assert_refused(
        allow("169.254.10.0/24,tool.corp"),
        "\"tool.corp\" is neither a network nor an address",
    );
}

#[test]
fn each_file_of_authorities_counts_where_it_says() {
    let folder = Folder::new();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::default()
        .self_signed(&key)
        .unwrap();
    let files = ["ca", "tunnel", "extra"].map(|name| folder.write(name, &certificate.pem()));
    let config = folder
        .with(&[
            ("CA_CERT", "ca"),
            ("TUNNEL_CA_CERT", "tunnel"),
            ("NODE_EXTRA_CA_CERTS", "extra"),
        ])
        .unwrap();
    let [ca, tunnel, extra] = files;
    assert_eq!(config.tunnel_authorities(), [extra.clone(), tunnel]);
    assert_eq!(config.origin_authorities(), [extra, ca]);
}

#[test]
fn a_file_of_authorities_must_hold_certificates() {
    let folder = Folder::new();
    folder.write("ca.pem", "not PEM");
    for name in ["CA_CERT", "TUNNEL_CA_CERT", "NODE_EXTRA_CA_CERTS"] {
        assert_refused(
            folder.with(&[(name, "ca.pem")]),
            "ca.pem: no PEM certificate in it",
        );
    }
}

#[test]
fn the_file_holds_the_connection_and_what_holds_for_one_origin() {
    let folder = Folder::new();
    folder.write("rules.json", "{}");
    folder.write(
        "broker.yaml",
        r#"
connections:
- {name: kube-api, server: "https://broker.example/eu", accept: rules.json}
timeouts: {idle: 2m}
origins:
  "${CLUSTER_ENDPOINT}": {encoded-slash: refuse, first-byte-timeout: 10s}
"#,
    );
    let config = folder.load(&["--config", "broker.yaml"], &[]).unwrap();
    assert_eq!(config.connections[0].agent.as_str(), "kube-api");
    assert_eq!(
        config.connections[0].server.path_below("/tunnel"),
        "/eu/tunnel"
    );
    assert_eq!(
        config.connections[0].accept,
        Accept::File(folder.0.join("rules.json"))
    );
    let timeouts = |first_byte| Timeouts {
        connect: Duration::from_secs(5),
        first_byte: Duration::from_secs(first_byte),
        idle: Duration::from_secs(120),
    };
    let cluster = config.origin(&config.connections[0], "${CLUSTER_ENDPOINT}");
    assert_eq!(cluster.encoded_slash, EncodedSlash::Refuse);
    assert_eq!(cluster.timeouts, timeouts(10));
    let other = config.origin(&config.connections[0], "https://sonarqube.example");
    assert_eq!(other.encoded_slash, EncodedSlash::Data);
    assert_eq!(other.timeouts, timeouts(60));
}

#[test]
fn what_is_wrong_in_the_file_is_named_with_its_path() {
    let folder = Folder::new();
    for (yaml, expected) in [
        (
            "tunnel: {tls-min: 1.1}",
            r#"broker.yaml: tunnel.tls-min: unknown value "1.1" (use 1.2 or 1.3)"#,
        ),
        (
            "tunnel: {count: 17}",
            r#"broker.yaml: tunnel.count: "17" is out of range (use 1 to 16)"#,
        ),
        (
            "origins: {sonar: {encoded-slah: data}}",
            r#"broker.yaml: origins.sonar: unknown key "encoded-slah" (did you mean "encoded-slash"?)"#,
        ),
        (
            "origins: {\"https://a.example\": {encoded-slash: maybe}}",
            r#"broker.yaml: origins."https://a.example".encoded-slash: unknown value "maybe" (use refuse or data)"#,
        ),
        (
            "origins: {sonar: {idle-timeout: 30}}",
            r#"broker.yaml: origins.sonar.idle-timeout: "30" is not a length of time"#,
        ),
        (
            "origins: {sonar: {on-secret-echo: hide}}",
            r#"broker.yaml: origins.sonar.on-secret-echo: unknown value "hide" (use record or cut)"#,
        ),
        (
            "origins: {sonar: {tls: {client-cert: a.pem}}}",
            "broker.yaml: origins.sonar.tls: client-cert without its client-key (give both files)",
        ),
        (
            "origins: {sonar: {tls: {client-key: a.key}}}",
            "broker.yaml: origins.sonar.tls: client-key without its client-cert (give both files)",
        ),
        (
            "origins: {sonar: {tls: {ca-cert: a.pem, insecure-skip-verify: true}}}",
            "broker.yaml: origins.sonar.tls: ca-cert and insecure-skip-verify contradict each other (keep ca-cert)",
        ),
        (
            "origins: {sonar: {tls: {server-name: 'a b'}}}",
            r#"broker.yaml: origins.sonar.tls.server-name: "a b" is no DNS name and no address (write jenkins.corp)"#,
        ),
    ] {
        folder.write("broker.yaml", yaml);
        assert_refused(folder.load(&["--config", "broker.yaml"], &BASE), expected);
    }
}

#[test]
fn a_password_in_an_origin_is_in_no_message() {
    let folder = Folder::new();
    folder.write(
        "broker.yaml",
        "origins: {'https://u:hunter2@a': {x: 1, idle-timeout: 3}}",
    );
    let error = folder
        .load(&["--config", "broker.yaml"], &BASE)
        .unwrap_err();
    assert_eq!(error.problems().len(), 2, "{error}");
    assert!(!error.to_string().contains("hunter2"), "{error}");
}

#[test]
fn the_health_check_hides_no_other_path() {
    assert_refused(
        Folder::new().with(&[("BROKER_HEALTHCHECK_PATH", "/readyz")]),
        "environment BROKER_HEALTHCHECK_PATH: /readyz is taken",
    );
}

#[test]
fn a_named_data_folder_is_told_from_the_usual_one() {
    let config = Folder::new()
        .with(&[("BROKER_DATA_DIR", "/srv/agent")])
        .unwrap();
    assert_eq!(config.data, DataFolder::Named("/srv/agent".into()));
}

#[test]
fn debug_shows_no_password_of_an_origin() {
    let folder = Folder::new();
    folder.write("broker.yaml", "origins: {'https://u:hunter2@a': {}}");
    let config = folder.load(&["--config", "broker.yaml"], &BASE).unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
}

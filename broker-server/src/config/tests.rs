//! What the server makes of its settings.

use std::sync::atomic::{AtomicU32, Ordering};

use broker_protocol::{AccessToken, TokenKind};

use super::*;

/// A folder for the settings file, which goes away with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!(
            "broker-server-config-{}-{number}",
            std::process::id()
        ));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.join(name), text).unwrap();
    }

    fn load(&self, yaml: &str) -> Result<Config, SettingsError> {
        self.load_with(yaml, &[])
    }

    fn load_with(&self, yaml: &str, arguments: &[&str]) -> Result<Config, SettingsError> {
        self.write("server.yaml", yaml);
        let arguments = ["run", "--config", "server.yaml"].iter().chain(arguments);
        let arguments = run_command().get_matches_from(arguments);
        Config::load(&arguments, &Environment::default(), &self.0)
    }

    /// Writes `server.pem` and `server.key`.
    fn write_certificate(&self) {
        let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        self.write("server.pem", &issued.cert.pem());
        self.write("server.key", &issued.signing_key.serialize_pem());
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const LISTENERS: &str =
    "agents-listener: {listen: '127.0.0.1:8443'}\ncallers-listener: {listen: '127.0.0.1:8080'}\n";
const D1: &str =
    "sha256:0123456789ab:0000000000000000000000000000000000000000000000000000000000000000";
const D2: &str =
    "sha256:ba9876543210:1111111111111111111111111111111111111111111111111111111111111111";

fn with_agent(entry: &str) -> String {
    format!("{LISTENERS}tenants: {{default: {{agents: {{sonarqube: {entry}}}}}}}")
}

fn with_caller(entry: &str) -> String {
    format!(
        "{LISTENERS}tenants:\n  default:\n    agents: {{sonarqube: {{secrets: [\"{D1}\"]}}}}\n    callers:\n      \
         proxy: {entry}\n"
    )
}

#[track_caller]
fn assert_refused(yaml: &str, expected: &str) {
    let error = Folder::new().load(yaml).unwrap_err();
    assert_eq!(error.problems().len(), 1, "{error}");
    assert!(error.to_string().contains(expected), "{error}");
}

#[test]
fn the_documented_shape_is_read() {
    let folder = Folder::new();
    folder.write_certificate();
    let yaml = format!(
        r#"
agents-listener: {{listen: "0.0.0.0:8443", tls: {{certificate: server.pem, key: server.key}}}}
callers-listener: {{listen: "127.0.0.1:8080"}}
admin-listener: {{listen: "127.0.0.1:9091"}}
domain: Broker.Example
tenants:
  default:
    agents:
      SonarQube: {{secrets: ["{D1}"]}}
      kube-api: {{admit: by-network, networks: [203.0.113.0/24]}}
    callers:
      proxy: {{credential: broker-authorization, secrets: ["{D2}"], agents: [sonarqube]}}
"#
    );
    let config = folder.load(&yaml).unwrap();
    let tls = config.agents_listener.tls.as_ref().unwrap();
    assert_eq!(tls.certificate, folder.0.join("server.pem"));
    assert_eq!(tls.policy, TlsPolicy::STRICT);
    assert!(
        config
            .agents_listener
            .acceptor(&[b"http/1.1"])
            .unwrap()
            .is_some()
    );
    assert!(config.callers_listener.acceptor(&[]).unwrap().is_none());
    assert_eq!(
        config.admin_listener.listen,
        "127.0.0.1:9091".parse().unwrap()
    );
    assert_eq!(config.domain.as_deref(), Some("broker.example"));
    assert_eq!(config.max_streams, 250);
    assert!(!config.node.is_empty());

    let tenant = &config.tenants[&"default".parse().unwrap()];
    let agent = |name: &str| &tenant.agents[&name.parse().unwrap()].admission;
    assert_eq!(
        *agent("sonarqube"),
        Admission::Secrets(vec![D1.parse().unwrap()])
    );
    assert_eq!(
        *agent("kube-api"),
        Admission::ByNetwork(vec!["203.0.113.0/24".parse().unwrap()])
    );
    let caller = &tenant.callers[&"proxy".parse().unwrap()];
    let secrets = vec![D2.parse().unwrap()];
    assert_eq!(
        caller.credential,
        Credential::Secrets(CredentialPlace::BrokerAuthorization, secrets)
    );
    assert!(caller.agents.contains(&"sonarqube".parse().unwrap()));
    assert!(!caller.agents.contains(&"kube-api".parse().unwrap()));
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
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
    // Both choose the file, so it cannot hold them.
    assert_eq!(
        lacking,
        [
            "BROKER_SERVER_CONFIG, --config",
            "BROKER_SERVER_DEV_DIR, --dev-dir"
        ]
    );
}

#[test]
fn an_agent_that_nothing_admits_is_refused() {
    assert_refused(
        &with_agent("{}"),
        "server.yaml: tenants.default.agents.sonarqube: nothing admits this agent",
    );
    assert_refused(
        &with_agent("{secrets: []}"),
        "server.yaml: tenants.default.agents.sonarqube.secrets: the list is empty",
    );
}

#[test]
fn admission_by_network_is_spelled_out_in_full() {
    assert_refused(
        &with_agent("{networks: [10.0.0.0/8]}"),
        "networks alone do not admit",
    );
    assert_refused(&with_agent("{admit: by-network}"), "says not from where");
    assert_refused(
        &with_agent("{admit: by-network, networks: []}"),
        "agents.sonarqube.networks: no network is listed",
    );
    assert_refused(
        &with_agent("{admit: always, networks: [10.0.0.0/8]}"),
        r#"agents.sonarqube.admit: unknown value "always" (use by-network)"#,
    );
    assert_refused(
        &with_agent(&format!(
            "{{secrets: [\"{D1}\"], admit: by-network, networks: [10.0.0.0/8]}}"
        )),
        "exclude each other",
    );
}

#[test]
fn a_network_is_written_exactly() {
    assert_refused(
        &with_agent("{admit: by-network, networks: [10.0.0.1/8]}"),
        r#"networks[0]: "10.0.0.1/8" has bits behind its prefix (write 10.0.0.0/8)"#,
    );
    assert_refused(
        &with_agent("{admit: by-network, networks: [10.0.0.1]}"),
        r#"networks[0]: "10.0.0.1" is not a network"#,
    );
}

#[test]
fn admitting_the_whole_world_by_name_is_warned_about() {
    let config = Folder::new()
        .load(&with_agent("{admit: by-network, networks: ['0.0.0.0/0']}"))
        .unwrap();
    assert!(
        config.warnings[0].contains("the whole world"),
        "{:?}",
        config.warnings
    );
}

#[test]
fn a_secret_in_the_clear_is_refused_and_not_repeated() {
    let token = AccessToken::generate(TokenKind::Agent);
    let secret = token.expose();
    for yaml in [
        with_agent(&format!("{{secrets: [{secret}]}}")),
        with_agent(&format!("{{secrets: {secret}}}")),
        with_agent(&format!("{{secrets: [\"{D1}\"], {secret}: x}}")),
        with_agent(&format!("{{admit: {secret}, networks: [10.0.0.0/8]}}")),
        with_caller(&format!(
            "{{credential: {secret}, secrets: [\"{D2}\"], agents: '*'}}"
        )),
        with_caller(&format!(
            "{{credential: authorization, secrets: [\"{D2}\"], agents: [{secret}]}}"
        )),
        format!("{LISTENERS}tenants: {{default: {{agents: {{{secret}: {{}}}}}}}}"),
        format!("{LISTENERS}tenants: {{{secret}: {{}}}}"),
        format!("{LISTENERS}{secret}: 1"),
        format!("{LISTENERS}{secret}: 1\n{secret}: 2"),
    ] {
        let error = Folder::new().load(&yaml).unwrap_err().to_string();
        assert!(!error.contains(secret), "{error}");
    }
    assert_refused(
        &with_agent(&format!("{{secrets: [{secret}]}}")),
        "server.yaml: tenants.default.agents.sonarqube.secrets[0]: a secret stands here in the clear",
    );
}

#[test]
fn a_secret_belongs_to_one_entry() {
    assert_refused(
        &with_caller(&format!(
            "{{credential: authorization, secrets: [\"{D1}\"], agents: [sonarqube]}}"
        )),
        "callers.proxy.secrets[0]: the same secret stands at server.yaml: tenants.default.agents.sonarqube.secrets[0]",
    );
    let two_tenants = format!(
        "{LISTENERS}tenants: {{a: {{agents: {{x: {{secrets: [\"{D1}\"]}}}}}}, b: {{agents: {{x: {{secrets: \
         [\"{D1}\"]}}}}}}}}"
    );
    assert_refused(
        &two_tenants,
        "tenants.b.agents.x.secrets[0]: the same secret stands at",
    );
}

#[test]
fn a_caller_says_where_its_credential_stands_and_whom_it_may_reach() {
    assert_refused(
        &with_caller(&format!("{{secrets: [\"{D2}\"], agents: [sonarqube]}}")),
        "callers.proxy: it is not said where the credential stands",
    );
    assert_refused(
        &with_caller(&format!(
            "{{credential: authorization, secrets: [\"{D2}\"]}}"
        )),
        "callers.proxy: it is not said which agents this caller may reach",
    );
    assert_refused(
        &with_caller("{credential: authorization, agents: [sonarqube]}"),
        "callers.proxy: this caller has no secrets",
    );
    assert_refused(
        &with_caller(&format!(
            "{{credential: authorization, secrets: [\"{D2}\"], agents: sonarqube}}"
        )),
        r#"callers.proxy.agents: "sonarqube" is not a list of agents"#,
    );
}

/// Settings with these callers of the tenants `a` and `b`, over TLS that asks for certificates of `ca.pem`.
fn with_certificates(a: &str, b: &str) -> String {
    format!(
        "agents-listener: {{listen: '127.0.0.1:8443'}}\ncallers-listener:\n  listen: '127.0.0.1:8080'\n  \
         tls: {{certificate: server.pem, key: server.key, client-ca: server.pem}}\n\
         tenants: {{a: {{callers: {{{a}}}}}, b: {{callers: {{{b}}}}}}}"
    )
}

#[track_caller]
fn assert_certificates_refused(callers: &str, expected: &str) {
    let folder = Folder::new();
    folder.write_certificate();
    let error = folder.load(&with_certificates(callers, "")).unwrap_err();
    assert_eq!(error.problems().len(), 1, "{error}");
    assert!(error.to_string().contains(expected), "{error}");
}

#[test]
fn a_caller_may_be_known_by_the_names_of_its_certificate() {
    let folder = Folder::new();
    folder.write_certificate();
    let callers = "portal: {credential: mtls, certificate-names: [Portal.example, 'spiffe://example/Portal'], \
                   agents: '*'}";
    let config = folder.load(&with_certificates(callers, "")).unwrap();
    let tls = config.callers_listener.tls.as_ref().unwrap();
    assert_eq!(tls.client_ca, Some(folder.0.join("server.pem")));
    assert!(config.callers_listener.acceptor(&[]).unwrap().is_some());
    let caller = &config.tenants[&"a".parse().unwrap()].callers[&"portal".parse().unwrap()];
    let names = ["portal.example", "spiffe://example/Portal"].map(|name| name.parse().unwrap());
    assert_eq!(caller.credential, Credential::Certificate(names.into()));
}

#[test]
fn a_caller_has_names_of_certificates_or_secrets_as_its_credential_says() {
    let names = "certificate-names: [portal.example]";
    let secrets = format!("secrets: [\"{D2}\"]");
    for (entry, expected) in [
        (
            format!("credential: mtls, {names}, {secrets}"),
            "tenants.a.callers.portal.secrets: a caller with credential: mtls has no secrets",
        ),
        (
            format!("credential: authorization, {names}, {secrets}"),
            "callers.portal.certificate-names: names of certificates are for credential: mtls, and this caller's is \
             authorization",
        ),
        (
            "credential: mtls".to_owned(),
            "callers.portal: no certificate is this caller's (list certificate-names",
        ),
        (
            "credential: mtls, certificate-names: []".to_owned(),
            "callers.portal.certificate-names: the list is empty",
        ),
        (
            "credential: mtls, certificate-names: ['*.example']".to_owned(),
            r#"certificate-names[0]: "*.example" is not a name of a certificate"#,
        ),
        (
            format!("credential: tls, {names}"),
            r#"credential: unknown value "tls" (use broker-authorization, proxy-authorization, authorization or mtls)"#,
        ),
    ] {
        assert_certificates_refused(&format!("portal: {{{entry}, agents: '*'}}"), expected);
    }
}

#[test]
fn a_name_of_a_certificate_belongs_to_one_caller_of_one_tenant() {
    let caller = |name: &str| {
        format!("portal: {{credential: mtls, certificate-names: [{name}], agents: '*'}}")
    };
    let folder = Folder::new();
    folder.write_certificate();
    let yaml = with_certificates(&caller("portal.example"), &caller("Portal.example"));
    let error = folder.load(&yaml).unwrap_err().to_string();
    assert!(
        error.contains(
            "tenants.b.callers.portal.certificate-names[0]: the same name stands at server.yaml: \
             tenants.a.callers.portal.certificate-names[0]"
        ),
        "{error}"
    );
    let yaml = with_certificates(&caller("portal.example"), &caller("portal.b.example"));
    folder.load(&yaml).unwrap();
}

#[test]
fn certificates_of_callers_need_an_authority_and_tls() {
    assert_refused(
        &with_caller("{credential: mtls, certificate-names: [portal.example], agents: '*'}"),
        "callers.proxy.credential: callers are asked for no certificate (set callers-listener.tls.client-ca, ",
    );
    let folder = Folder::new();
    folder.write_certificate();
    let yaml = format!("{LISTENERS}tenants: {{default: {{}}}}");
    for (file, expected) in [
        (
            "server.pem",
            "--callers-listener-tls-client-ca: certificates are shown in TLS alone, which this listener does not \
             speak (set callers-listener.tls.certificate, ",
        ),
        (
            "server.key",
            "server.key: holds a private key where a certificate belongs",
        ),
        ("missing.pem", "missing.pem: cannot be read"),
    ] {
        let error = folder
            .load_with(&yaml, &["--callers-listener-tls-client-ca", file])
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_caller_reaches_all_agents_or_none_only_when_it_says_so() {
    let scope = |agents: &str| {
        let caller =
            format!("{{credential: authorization, secrets: [\"{D2}\"], agents: {agents}}}");
        let config = Folder::new().load(&with_caller(&caller)).unwrap();
        let tenant = &config.tenants[&"default".parse().unwrap()];
        tenant.callers[&"proxy".parse().unwrap()].agents.clone()
    };
    assert_eq!(scope("'*'"), AgentScope::All);
    assert_eq!(
        scope("[]"),
        AgentScope::Listed(std::collections::BTreeSet::new())
    );
}

#[test]
fn a_caller_of_an_agent_that_is_not_there_is_refused() {
    assert_refused(
        &with_caller(&format!(
            "{{credential: authorization, secrets: [\"{D2}\"], agents: [sonarqub]}}"
        )),
        r#"callers.proxy.agents[0]: there is no agent "sonarqub" (did you mean "sonarqube"?)"#,
    );
}

#[test]
fn names_that_differ_in_case_alone_are_one_name() {
    let yaml = format!(
        "{LISTENERS}tenants: {{default: {{agents: {{a: {{secrets: [\"{D1}\"]}}, A: {{secrets: [\"{D2}\"]}}}}}}}}"
    );
    assert_refused(&yaml, "tenants.default.agents.A: this name stands twice");
}

#[test]
fn what_is_missing_is_told_all_at_once() {
    let error = Folder::new().load("").unwrap_err();
    assert_eq!(error.problems().len(), 3, "{error}");
}

#[test]
fn agents_from_other_machines_need_tls_unless_it_is_waived() {
    let with_listener = |more: &str| {
        format!(
            "agents-listener: {{listen: '0.0.0.0:8443'{more}}}\ncallers-listener: {{listen: '127.0.0.1:8080'}}\n\
             tenants: {{default: {{}}}}"
        )
    };
    assert_refused(
        &with_listener(""),
        "server.yaml: agents-listener.listen: without TLS agents are taken from this machine alone",
    );
    let config = Folder::new()
        .load(&with_listener(", insecure-plaintext: true"))
        .unwrap();
    assert!(
        config.warnings[0].contains("speaks no TLS"),
        "{:?}",
        config.warnings
    );
}

#[test]
fn a_certificate_without_its_key_is_refused() {
    let yaml = format!("{LISTENERS}tenants: {{default: {{}}}}");
    let error = Folder::new()
        .load_with(&yaml, &["--callers-listener-tls-certificate", "c.pem"])
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with(
            "--callers-listener-tls-certificate: it is alone (set callers-listener.tls.key, "
        ),
        "{error}"
    );
}

#[test]
fn a_certificate_that_cannot_be_used_is_named_with_its_setting() {
    let folder = Folder::new();
    folder.write_certificate();
    let yaml = "agents-listener: {listen: '0.0.0.0:8443', tls: {certificate: server.key, key: server.key}}\n\
                callers-listener: {listen: '127.0.0.1:8080'}\ntenants: {default: {}}";
    let error = folder.load(yaml).unwrap_err().to_string();
    assert!(
        error.starts_with("server.yaml: agents-listener.tls.certificate: /"),
        "{error}"
    );
    assert!(
        error.contains("server.key: holds a private key where a certificate belongs"),
        "{error}"
    );
}

#[test]
fn weaker_tls_for_agents_is_warned_about() {
    let folder = Folder::new();
    folder.write_certificate();
    let yaml = "agents-listener:\n  listen: '0.0.0.0:8443'\n  tls: {certificate: server.pem, key: server.key}\n  \
                tls-min: 1.2\n  post-quantum: off\ncallers-listener: {listen: '127.0.0.1:8080'}\n\
                tenants: {default: {}}";
    let config = folder.load(yaml).unwrap();
    assert_eq!(config.warnings.len(), 2, "{:?}", config.warnings);
}

#[test]
fn a_flag_is_over_the_file() {
    let yaml = format!("{LISTENERS}tenants: {{default: {{}}}}\ntunnel: {{max-streams: 100}}");
    let folder = Folder::new();
    assert_eq!(folder.load(&yaml).unwrap().max_streams, 100);
    let config = folder
        .load_with(&yaml, &["--tunnel-max-streams", "9"])
        .unwrap();
    assert_eq!(config.max_streams, 9);
    let error = folder
        .load_with(&yaml, &["--tunnel-max-streams", "251"])
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"--tunnel-max-streams: "251" is out of range (use 1 to 250)"#
    );
}

#[test]
fn a_development_server_starts_only_where_no_file_is_named() {
    let folder = Folder::new();
    let environment = Environment::default();
    let none = run_command().get_matches_from(["run"]);
    assert_eq!(
        development_folder(&none, &environment, &folder.0).unwrap(),
        Some(folder.0.join("broker-dev"))
    );
    folder.write("server.yaml", "");
    let named = run_command().get_matches_from(["run", "--config", "server.yaml"]);
    assert_eq!(
        development_folder(&named, &environment, &folder.0).unwrap(),
        None
    );
}

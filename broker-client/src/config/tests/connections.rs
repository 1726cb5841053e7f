//! One connection or several, and what they may not say.

use super::*;

impl Folder {
    /// Loads these settings, with this environment and nothing else.
    fn settings(&self, yaml: &str, environment: &[(&str, &str)]) -> Result<Config, SettingsError> {
        self.write("broker.yaml", yaml);
        self.load(&["--config", "broker.yaml"], environment)
    }

    /// A secret and rules for each of these agents.
    fn with_files_of(self, agents: &[&str]) -> Self {
        for agent in agents {
            let token = AccessToken::generate(TokenKind::Agent);
            self.write(&format!("{agent}.secret"), token.expose());
            self.write(&format!("{agent}.json"), "{}");
        }
        self
    }
}

const TWO: &str = r#"
server: "https://broker.example"
tunnel: {count: 3}
origins: {"https://shared": {encoded-slash: refuse}}
connections:
- {name: SonarQube, secret-file: sonarqube.secret, accept: sonarqube.json}
- name: jenkins
  secret-file: jenkins.secret
  accept: jenkins.json
  server: "https://eu.broker.example/eu"
  tunnel: {count: 1}
  origins: {"https://own": {idle-timeout: 1s}}
"#;

#[test]
fn each_connection_has_its_own_parts_and_the_rest_from_what_holds_for_all() {
    let folder = Folder::new().with_files_of(&["sonarqube", "jenkins"]);
    let config = folder.settings(TWO, &[]).unwrap();
    let [first, second] = &config.connections[..] else {
        panic!("there are two: {config:?}");
    };

    assert_eq!(first.agent.as_str(), "sonarqube");
    assert_eq!(first.server.to_string(), "https://broker.example");
    assert_eq!(first.tunnels, 3);
    assert!(first.origins.contains_key("https://shared"));

    assert_eq!(second.agent.as_str(), "jenkins");
    assert_eq!(second.server.to_string(), "https://eu.broker.example/eu");
    assert_eq!(second.tunnels, 1);
    assert_eq!(second.origins.keys().collect::<Vec<_>>(), ["https://own"]);
    let accept = |name| Accept::File(folder.0.join(name));
    assert_eq!(second.accept, accept("jenkins.json"));
    assert_eq!(first.accept, accept("sonarqube.json"));
    let secrets = [first, second].map(|each| each.secret.as_ref().unwrap().expose());
    assert_ne!(secrets[0], secrets[1]);
}

#[test]
fn the_shared_server_may_come_from_a_variable() {
    let config = Folder::new()
        .settings("connections: [{name: a}, {name: b}]", &[BASE[1]])
        .unwrap();
    let servers = config.connections.iter();
    assert!(
        servers
            .map(|each| each.server.to_string())
            .eq(["https://broker.example"; 2])
    );
}

#[test]
fn a_connection_without_rules_of_its_own_denies_everything() {
    let folder = Folder::new();
    folder.write("accept.json", "{}");
    let config = folder
        .settings("connections: [{name: a}]", &[BASE[1]])
        .unwrap();
    assert_eq!(config.connections[0].accept, Accept::DenyAll);
}

#[test]
fn connections_and_a_connection_of_variables_exclude_each_other() {
    let folder = Folder::new().with_files_of(&["a"]);
    let token = fs::read_to_string(folder.0.join("a.secret")).unwrap();
    for (name, value) in [
        ("BROKER_TOKEN", "a"),
        ("BROKER_AGENT_SECRET", token.as_str()),
        ("BROKER_AGENT_SECRET_FILE", "a.secret"),
        ("ACCEPT", "a.json"),
    ] {
        let refused = folder.settings("connections: [{name: a}]", &[BASE[1], (name, value)]);
        let error = refused.unwrap_err().to_string();
        let expected = format!(
            "environment {name}: broker.yaml: connections are given too, and each of them has its own (remove one of \
             the two)"
        );
        assert_eq!(error, expected);
    }
}

#[test]
fn what_is_wrong_with_a_connection_is_named_with_its_place() {
    for (connections, expected) in [
        (
            "[]",
            "connections: 0 connections (name 1 to 64, each as {name: …",
        ),
        ("a", "connections: expected a list, found a text"),
        ("[a]", "connections[0]: expected a map, found a text"),
        ("[{}]", "connections[0]: no name (write name: "),
        (
            "[{name: a}, {nmae: b}]",
            "connections[1]: unknown key \"nmae\" (did you mean \"name\"?)",
        ),
        (
            "[{name: a, tunnel: {proxy: none}}]",
            "connections[0].tunnel: unknown key \"proxy\" (known: count)",
        ),
        (
            "[{name: a, tunnel: {count: 17}}]",
            "connections[0].tunnel.count: \"17\" is out of range (use 1 to 16)",
        ),
        (
            "[{name: sonar}, {name: Sonar}]",
            "connections[1].name: another connection is called sonar as well (give each its own name)",
        ),
        (
            "[{name: a, accept: gone.json}]",
            "gone.json: cannot be read: No such file",
        ),
        (
            "[{name: a, accept: 'https://rules.example'}]",
            "connections[0].accept: rules are not fetched from a URL",
        ),
        (
            "[{name: a, secret-file: gone.secret}]",
            "gone.secret: cannot be read: No such file",
        ),
        (
            "[{name: a, secret-file: broker.yaml}]",
            "connections[0].secret-file: ",
        ),
        (
            "[{name: a, server: broker.example}]",
            "connections[0].server: \"broker.example\" has no scheme",
        ),
        (
            "[{name: a, server: 'http://broker.example'}]",
            "connections[0].server: http:// and ws:// are for this machine alone",
        ),
        (
            "[{name: a, origins: {x: {idle: 1s}}}]",
            "connections[0].origins.x: unknown key \"idle\"",
        ),
    ] {
        let settings = format!("connections: {connections}");
        let refused = Folder::new().settings(&settings, &[BASE[1]]);
        assert_refused(refused, "broker.yaml: connections");
        let refused = Folder::new().settings(&settings, &[BASE[1]]);
        assert_refused(refused, expected);
    }
    assert_refused(
        Folder::new().settings("connections: [{name: a}, {name: b}]", &[]),
        NO_SERVER,
    );
    let many: String = (0..65).map(|each| format!("- name: a{each}\n")).collect();
    assert_refused(
        Folder::new().settings(&format!("connections:\n{many}"), &[BASE[1]]),
        "65 connections (name 1 to 64",
    );
}

#[test]
fn all_that_is_wrong_with_several_connections_is_told_at_once() {
    let yaml = "connections: [{name: a, accept: gone}, {name: b, secret-file: gone}, {}]";
    let error = Folder::new().settings(yaml, &[]).unwrap_err();
    assert_eq!(error.problems().len(), 4, "{error}");
}

#[test]
fn a_secret_stands_in_no_connection_and_is_not_repeated() {
    let token = AccessToken::generate(TokenKind::Agent);
    for field in ["name", "secret"] {
        let yaml = format!("connections: [{{{field}: {}}}]", token.expose());
        let error = Folder::new()
            .settings(&yaml, &[BASE[1]])
            .unwrap_err()
            .to_string();
        assert!(!error.contains(token.expose()), "{error}");
    }
}

/// What `rules …` with these arguments takes for an accept file's origins.
fn reading(yaml: &str, which: Which<'_>) -> Result<Reading, SettingsError> {
    let folder = Folder::new();
    folder.write("broker.yaml", yaml);
    let arguments = Command::new("check").args(reading_arguments());
    let arguments = arguments.get_matches_from(["check", "--config", "broker.yaml"]);
    Reading::gather(&arguments, &Environment::default(), &folder.0, which)
}

#[test]
fn commands_about_rules_take_the_connection_that_is_meant_and_no_other() {
    let [a, c] = ["A", "c"].map(|name| name.parse().unwrap());
    let yaml = "
connections:
- {name: a, secret-file: not-on-this-machine, origins: {'https://a': {}}}
- {name: b}
";
    let keys = |which| {
        let origins = reading(yaml, which).unwrap().origins;
        origins.into_keys().collect::<Vec<_>>()
    };
    assert_eq!(keys(Which::Named(&a)), ["https://a"]);
    assert!(keys(Which::Recorded("b")).is_empty());

    let refused = |yaml, which| reading(yaml, which).err().unwrap().to_string();
    assert_eq!(
        refused(yaml, Which::Only),
        "the settings name several connections (say which is meant: --agent with one of a, b)"
    );
    for which in [Which::Named(&c), Which::Recorded("c")] {
        assert_eq!(
            refused(yaml, which),
            "no connection is called \"c\" (say which is meant: --agent with one of a, b)"
        );
    }
    assert!(
        refused("{}", Which::Named(&a)).starts_with("--agent: the settings name no `connections`"),
    );
    for which in [Which::Only, Which::Recorded("old-name")] {
        reading("connections: [{name: a}]", which).unwrap();
        reading("{}", which).unwrap();
    }
}

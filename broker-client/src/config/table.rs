//! What the agent can be told: every setting, declared once.

use broker_process::logging;
use broker_process::settings::{Group, Section, Setting, Table};
use broker_process::threads::THREADS;

const CONFIG: Setting =
    Setting::unfiled("config", "FILE", "The settings file, YAML").env(&["BROKER_CLIENT_CONFIG"]);

pub(super) const AGENT: Setting = Setting::unfiled(
    "agent",
    "NAME",
    "This agent's name, under which callers reach it; a name, never a secret",
)
.env(&["BROKER_TOKEN"]);
pub(super) const SERVER: Setting = Setting::new(
    "server",
    "URL",
    "The server to dial: https://host[:port][/prefix]",
)
.env(&["BROKER_SERVER_URL"]);
pub(super) const SECRET: Setting = Setting::secret(
    "secret",
    "The agent's secret, from `broker-server token new agent`; a file is better, since fewer see it",
)
.env(&["BROKER_AGENT_SECRET"]);
pub(super) const SECRET_FILE: Setting = Setting::unfiled(
    "secret-file",
    "FILE",
    "A file that holds the agent's secret and nothing else",
)
.env(&["BROKER_AGENT_SECRET_FILE"]);
pub(super) const ACCEPT: Setting = Setting::unfiled(
    "accept",
    "FILE",
    "The rules; without it ./accept.json where that exists, else everything is denied; changes are taken up while the agent runs",
)
.env(&["ACCEPT"]);
pub(super) const PAUSED: Setting = Setting::new(
    "paused",
    "",
    "Starts paused, with no tunnel: for agents without a control socket, which `broker-client pause` needs",
)
.env(&["BROKER_PAUSED"])
.switch()
.default("false");
pub(super) const CONNECTIONS: Section = Section {
    key: "connections",
    help: "the same in the settings file, in place of the name, the secret and the rules above: one connection or \
           several, each an agent of its own with its own name, secret, rules and tunnels. `server`, `tunnel.count`, \
           `origins` and `paused` of a connection stand in place of those that hold for all; a connection without `accept` denies \
           everything",
    example: r#"connections:
- name: sonarqube
  secret-file: /run/secrets/sonarqube
  accept: sonarqube.json
- name: jenkins
  secret-file: /run/secrets/jenkins
  accept: jenkins.json
  server: "https://eu.broker.example"   # the default is `server`
  tunnel: {count: 4}                    # the default is `tunnel.count`
  origins: {}                           # the default is `origins`
  paused: true                          # the default is `paused`"#,
};

pub(super) const UNKNOWN_KEYS: Setting = Setting::new(
    "rules.unknown-keys",
    "refuse|warn",
    "What becomes of a key in a rule that means nothing: the file is refused, or the key is warned about; \
     what may be `valid`, `auth` or `method`, mistyped, is refused always",
)
.flag("unknown-keys")
.env(&["BROKER_UNKNOWN_KEYS"])
.default("refuse");
pub(super) const MISSING_VARIABLES: Setting = Setting::new(
    "rules.missing-variables",
    "refuse|disable-rule",
    "What becomes of a rule with a variable that is not set: the file is refused, or the rule alone is turned off",
)
.flag("missing-variables")
.env(&["BROKER_MISSING_VARIABLES"])
.default("refuse");
pub(super) const BODY_LIMIT: Setting = Setting::new(
    "rules.body-limit",
    "BYTES",
    "The longest body that is kept to be judged, where a rule asks about it; a longer one is answered with 413",
)
.env(&["BROKER_BODY_LIMIT"])
.default("1048576");
pub(super) const EXPLAIN_TO_CALLERS: Setting = Setting::new(
    "rules.explain-to-callers",
    "none|part|nearest",
    "What the caller of a denied request is told: nothing, which part of the request differs from the nearest rule, \
     or also which rule that is, with its method and path",
)
.flag("explain-to-callers")
.env(&["BROKER_EXPLAIN_TO_CALLERS"])
.default("part");
pub(super) const CONTACT: Setting = Setting::new(
    "rules.contact",
    "TEXT",
    "Whom the caller of a denied request may ask, such as an e-mail address or a URL; it goes into the answer",
)
.env(&["BROKER_CONTACT"]);

pub(super) const CA_CERT: Setting = Setting::new(
    "ca-cert",
    "FILE",
    "PEM certificates of authorities to trust for origins, beside the system's",
)
.env(&["CA_CERT"]);
pub(super) const CONNECT: Setting = Setting::new(
    "timeouts.connect",
    "TIME",
    "How long connecting to an origin may take",
)
.env(&["BROKER_CONNECT_TIMEOUT"])
.default("5s");
pub(super) const FIRST_BYTE: Setting = Setting::new(
    "timeouts.first-byte",
    "TIME",
    "How long an origin may take to begin its answer, from the end of the request",
)
.env(&["BROKER_FIRST_BYTE_TIMEOUT"])
.default("60s");
pub(super) const IDLE: Setting = Setting::new(
    "timeouts.idle",
    "TIME",
    "How long nothing may move, in either direction, while a body flows",
)
.env(&["BROKER_IDLE_TIMEOUT"])
.default("5m");
pub(super) const CALLER_RATE: Setting = Setting::new(
    "limits.caller-rate",
    "NUMBER/TIME",
    "How many requests of each caller pass in a time, over all rules, such as 100/m (s, m or h): so many at once, and \
     back one by one; what is beyond is answered with 429. Rules of version 2 have limits of their own",
)
.env(&["BROKER_CALLER_RATE"]);
pub(super) const CALLER_CONCURRENCY: Setting = Setting::new(
    "limits.caller-concurrency",
    "NUMBER",
    "How many requests of each caller are under way at once, over all rules; what is beyond is answered with 429",
)
.env(&["BROKER_CALLER_CONCURRENCY"]);
pub(super) const RESPONSE_SIZE: Setting = Setting::new(
    "limits.response-size",
    "BYTES",
    "The longest body of an origin's answer; a longer one is answered with 502, or cut where its length was not told",
)
.env(&["BROKER_RESPONSE_SIZE"]);
pub(super) const REMOVE_FORWARDED: Setting = Setting::new(
    "remove-forwarded-headers",
    "true|false",
    "Whether `Forwarded`, `X-Forwarded-*` and their kin are removed from what callers send, but for those that a rule \
     names in `allow-headers`; origins may trust what they say",
)
.env(&["BROKER_REMOVE_FORWARDED_HEADERS", "REMOVE_X_FORWARDED_HEADERS"])
.default("true");
pub(super) const ON_SECRET_ECHO: Setting = Setting::new(
    "on-secret-echo",
    "record|cut",
    "What becomes of an answer whose body holds the credential that was added to its request: it passes and that is on \
     record, or it is cut off before the credential is complete",
)
.env(&["BROKER_ON_SECRET_ECHO"])
.default("record");
pub(super) const ORIGINS: Section = Section {
    key: "origins",
    help: "what holds for one origin alone; the key is the origin as the rule writes it, unexpanded. \
           `encoded-slash: refuse` refuses `%2F` in paths, for servers that route on the decoded path. \
           `proxy` is its proxy's URL, or `none`. \
           `tls` is for an https:// origin: the certificate to show there with its key (PEM files, taken up anew when \
           they change), the authorities that alone vouch for it, the name in its certificate where it is another one, \
           and `insecure-skip-verify: true`, which believes whoever answers. Rules with different certificates for one \
           origin write the origin differently, such as with a variable. \
           `probe` is a request by which `broker-client doctor` asks whether the credential is taken: it is judged and \
           recorded like any other, for the caller `doctor`",
    example: r#"origins:
  "${CLUSTER_ENDPOINT}":
    encoded-slash: refuse       # or data, the default
    connect-timeout: 5s
    first-byte-timeout: 60s
    idle-timeout: 5m
    proxy: none
    probe: GET /api/v1/namespaces?limit=1
    on-secret-echo: cut
    tls:
      client-cert: client.pem
      client-key: client.key
      ca-cert: cluster-ca.pem
      server-name: kubernetes.default.svc"#,
};

/// Proxies have no flags: their URLs can hold passwords, and a command line is readable by every user of the machine.
pub(super) const HTTPS_PROXY: Setting = Setting::new(
    "proxy.https",
    "URL",
    "The proxy for the server and for https:// origins, http://[user:password@]host:port; \
     without it, that of http:// is used",
)
.without_flag()
.env(&["HTTPS_PROXY", "https_proxy"]);
pub(super) const HTTP_PROXY: Setting =
    Setting::new("proxy.http", "URL", "The proxy for http:// origins")
        .without_flag()
        .env(&["HTTP_PROXY", "http_proxy"]);
pub(super) const NO_PROXY: Setting = Setting::new(
    "proxy.except",
    "LIST",
    "What is reached without those two: names with all below them (`corp`, `.corp`, `*.corp`), addresses, networks \
     (`10.0.0.0/8`) and `*`, each with `:port` or without, divided by commas; this machine is always",
)
.env(&["NO_PROXY", "no_proxy"]);
pub(super) const TUNNEL_PROXY: Setting = Setting::new(
    "tunnel.proxy",
    "URL|none",
    "The proxy for the server, or none, whatever the three above say",
)
.without_flag()
.env(&["BROKER_TUNNEL_PROXY"]);
pub(super) const ORIGINS_PROXY: Setting = Setting::new(
    "origins-proxy",
    "URL|none",
    "The proxy for all origins, or none, whatever the first three say",
)
.without_flag()
.env(&["BROKER_ORIGINS_PROXY"]);
pub(super) const ORIGIN_ADDRESSES: Setting = Setting::new(
    "origin-addresses.allow",
    "LIST",
    "Networks, divided by commas, where origins may lead though they are link-local, multicast, unspecified, broadcast, \
     a cloud's metadata service, or this machine under another name than its own",
)
.env(&["BROKER_ORIGIN_ADDRESSES_ALLOW"]);
pub(super) const EXTRA_CA_CERTS: Setting = Setting::new(
    "extra-ca-certs",
    "FILE",
    "PEM certificates of authorities to trust for everything beside the system's: server, origins and proxies, \
     such as that of a proxy that opens TLS",
)
.env(&["NODE_EXTRA_CA_CERTS"]);

pub(super) const COMMANDS: Section = Section {
    key: "credentials.exec",
    help: "commands that print a credential, by the name under which rules use it, here `${exec:eks}`. \
           A command is run without a shell, and must print one line within `timeout`; what it prints is used for \
           `cache`, and asked for anew before that is over. It gets PATH, HOME, USER, LANG, LC_*, TZ, TMPDIR, SSL_CERT_*, \
           the proxies, AWS_*, GOOGLE_*, CLOUDSDK_*, KUBECONFIG, KUBERNETES_SERVICE_*, VAULT_ADDR, VAULT_NAMESPACE, \
           VAULT_CACERT, XDG_CONFIG_HOME and XDG_CACHE_HOME of the agent's environment, and what `env` names",
    example: r#"credentials:
  exec:
    eks:
      command: [/usr/local/bin/eks-token, --cluster, shop]
      env: [SHOP_PROFILE]         # more of the agent's environment
      timeout: 10s                # the default
      cache: 5m                   # the default"#,
};

pub(super) const AWS: Section = Section {
    key: "credentials.aws",
    help: "whose keys of Amazon Web Services, by the name under which rules sign with them (`\"scheme\": \"sigv4\"`) and \
           clusters are reached. Without roles to assume they are those that the agent runs with, in the order of \
           Amazon's own programs: environment, web identity, container, instance. `region` is AWS_REGION where it is \
           left out, and an entry `default` is there without being written",
    example: r#"credentials:
  aws:
    shop:
      region: eu-west-1
      assume-role:                # each with the keys of the one before
      - role: arn:aws:iam::123456789012:role/broker
        external-id: "42"
        session-name: broker-client # the default
        duration: 1h                # the default
      endpoint: https://sts.eu-west-1.amazonaws.com # the region's, the default"#,
};
pub(super) const EKS: Section = Section {
    key: "credentials.eks",
    help: "clusters of Amazon EKS, by the name under which rules use their tokens, here `${eks:shop}`. \
           `aws` is an entry of `credentials.aws`, and `region` that entry's where it is left out",
    example: r#"credentials:
  eks:
    shop:
      cluster: shop-production
      aws: shop                   # or default, the default
      region: eu-west-1"#,
};

pub(super) const GCP: Section = Section {
    key: "credentials.gcp",
    help: "tokens of Google Cloud for the identity that the agent runs with, by the name under which rules use them. \
           The identity is that of GOOGLE_APPLICATION_CREDENTIALS (a workload identity federation, or a service account's \
           key), or else that of the machine or pod. An entry `token` is there without being written, as `${gcp:token}`",
    example: r#"credentials:
  gcp:
    storage:
      scope: https://www.googleapis.com/auth/devstorage.read_only # cloud-platform is the default"#,
};
pub(super) const OAUTH2: Section = Section {
    key: "credentials.oauth2",
    help: "clients of OAuth 2.0 authorization servers (client credentials grant), by the name under which rules use their \
           tokens, here `${oauth2:idp}`",
    example: r#"credentials:
  oauth2:
    idp:
      token-url: https://login.example/oauth2/token
      client-id: broker
      client-secret: ${IDP_SECRET}  # or ${file:/path}, ${exec:name}
      authentication: basic       # the default, or post
      scope: read
      audience: https://tool.example
      resource: https://tool.example"#,
};

pub(super) const VAULT: Section = Section {
    key: "credentials.vault",
    help: "fields of secrets in HashiCorp Vault or OpenBao (KV of version 2), by the name under which rules use them, here \
           `${vault:sonarqube}`. The session is that of `kubernetes`, the pod's service account, or of `token`",
    example: r#"credentials:
  vault:
    sonarqube:
      address: https://vault.example:8200
      namespace: platform
      mount: secret               # the default
      path: tools/sonarqube
      field: token
      kubernetes: {role: broker, mount: kubernetes} # or token: ${VAULT_TOKEN}
      refresh: 5m                 # the default"#,
};
pub(super) const GITHUB_APP: Section = Section {
    key: "credentials.github-app",
    help: "installations of GitHub Apps, by the name under which rules use their tokens, here `${github-app:portal}`. A token \
           can do what the installation can, or less where `repositories` or `permissions` say so",
    example: r#"credentials:
  github-app:
    portal:
      app-id: 123456              # or the client id
      installation-id: 7890123
      private-key-file: /run/secrets/github-app.pem
      api: https://api.github.com # the default; https://HOST/api/v3 for GitHub Enterprise Server
      repositories: [shop, docs]  # without their owner
      permissions: {contents: read, metadata: read}"#,
};

pub(super) const TUNNEL_COUNT: Setting = Setting::new(
    "tunnel.count",
    "N",
    "How many tunnels are kept open, to distinct server nodes where there are several",
)
.env(&["BROKER_TUNNEL_COUNT"])
.default("2");
pub(super) const TUNNEL_CA_CERT: Setting = Setting::new(
    "tunnel.ca-cert",
    "FILE",
    "PEM certificates of authorities to trust for the server, beside the system's",
)
.env(&["TUNNEL_CA_CERT"]);
pub(super) const TUNNEL_TLS_MIN: Setting = Setting::new(
    "tunnel.tls-min",
    "VERSION",
    "The oldest TLS version towards the server: 1.3 or 1.2",
)
.env(&["BROKER_TUNNEL_TLS_MIN"])
.default("1.3");
pub(super) const TUNNEL_POST_QUANTUM: Setting = Setting::new(
    "tunnel.post-quantum",
    "on|off",
    "Whether the post-quantum key exchange is preferred",
)
.env(&["BROKER_TUNNEL_POST_QUANTUM"])
.default("on");
pub(super) const TUNNEL_PLAINTEXT: Setting = Setting::new(
    "tunnel.insecure-plaintext",
    "",
    "Allows http:// and ws:// to a server on another machine: everything is readable on the way",
)
.env(&["BROKER_TUNNEL_INSECURE_PLAINTEXT"])
.switch()
.default("false");

/// The local port's address.
pub const LOCAL_LISTEN: Setting = Setting::new(
    "local.listen",
    "ADDRESS",
    "Where health is told: a port, or address:port",
)
.env(&["BROKER_LOCAL_LISTEN", "PORT"])
.default("0.0.0.0:7341");
pub(super) const HEALTHCHECK_PATH: Setting = Setting::new(
    "local.healthcheck-path",
    "PATH",
    "The path of the health check on the local port",
)
.env(&["BROKER_HEALTHCHECK_PATH"])
.default("/healthcheck");
pub(super) const DATA_DIR: Setting = Setting::new(
    "data-dir",
    "FOLDER",
    "Audit log, keys and control socket; /var/lib/broker-client unless named, where it must then be usable",
)
.env(&["BROKER_DATA_DIR"]);
pub(super) const INSTANCE: Setting = Setting::new(
    "instance",
    "NAME",
    "This process's own sub-folder of the data folder",
)
.env(&["BROKER_INSTANCE"])
.default("default");
pub(super) const DRAIN_TIMEOUT: Setting = Setting::new(
    "drain-timeout",
    "TIME",
    "How long requests in flight may take to finish when the process is asked to end",
)
.env(&["BROKER_DRAIN_TIMEOUT"])
.default("30s");

/// Every setting of the agent.
pub static TABLE: Table = Table {
    config: CONFIG,
    groups: &[
        Group {
            title: "Connections",
            settings: &[AGENT, SERVER, SECRET, SECRET_FILE, ACCEPT, PAUSED],
            sections: &[CONNECTIONS],
        },
        Group {
            title: "Rules",
            settings: &[
                UNKNOWN_KEYS,
                MISSING_VARIABLES,
                BODY_LIMIT,
                EXPLAIN_TO_CALLERS,
                CONTACT,
            ],
            sections: &[],
        },
        Group {
            title: "Origins",
            settings: &[
                CA_CERT,
                CONNECT,
                FIRST_BYTE,
                IDLE,
                CALLER_RATE,
                CALLER_CONCURRENCY,
                RESPONSE_SIZE,
                REMOVE_FORWARDED,
                ON_SECRET_ECHO,
            ],
            sections: &[ORIGINS],
        },
        Group {
            title: "Credentials",
            settings: &[],
            sections: &[COMMANDS, AWS, EKS, GCP, OAUTH2, VAULT, GITHUB_APP],
        },
        Group {
            title: "Tunnel",
            settings: &[
                TUNNEL_COUNT,
                TUNNEL_CA_CERT,
                TUNNEL_TLS_MIN,
                TUNNEL_POST_QUANTUM,
                TUNNEL_PLAINTEXT,
            ],
            sections: &[],
        },
        Group {
            title: "Networks",
            settings: &[
                HTTPS_PROXY,
                HTTP_PROXY,
                NO_PROXY,
                TUNNEL_PROXY,
                ORIGINS_PROXY,
                EXTRA_CA_CERTS,
                ORIGIN_ADDRESSES,
            ],
            sections: &[],
        },
        Group {
            title: "Process",
            settings: &[
                LOCAL_LISTEN,
                HEALTHCHECK_PATH,
                DATA_DIR,
                INSTANCE,
                DRAIN_TIMEOUT,
                THREADS,
            ],
            sections: &[],
        },
        Group {
            title: "Logging",
            settings: logging::SETTINGS,
            sections: &[],
        },
    ],
};

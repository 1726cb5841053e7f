//! What the server can be told: every setting, declared once.

use broker_process::logging;
use broker_process::settings::{Group, Section, Setting, Table};
use broker_process::threads::THREADS;

pub(super) const CONFIG: Setting = Setting::unfiled(
    "config",
    "FILE",
    "The settings file, YAML; without one a development server starts, on this machine alone",
)
.env(&["BROKER_SERVER_CONFIG"]);
pub(super) const DEV_DIR: Setting = Setting::unfiled(
    "dev-dir",
    "FOLDER",
    "Where the development server keeps its certificates and secrets",
)
.env(&["BROKER_SERVER_DEV_DIR"])
.default("broker-dev");

/// The address to which agents dial.
pub const AGENTS_LISTEN: Setting = Setting::new(
    "agents-listener.listen",
    "ADDRESS",
    "Where agents dial in, as address:port",
)
.env(&["BROKER_SERVER_AGENTS_LISTEN"]);
pub(super) const AGENTS_TLS: ListenerTlsSettings = ListenerTlsSettings {
    certificate: Setting::new(
        "agents-listener.tls.certificate",
        "FILE",
        "The certificate that agents see, with its chain, PEM",
    )
    .env(&["BROKER_SERVER_AGENTS_TLS_CERTIFICATE"]),
    key: Setting::new("agents-listener.tls.key", "FILE", "Its private key, PEM")
        .env(&["BROKER_SERVER_AGENTS_TLS_KEY"]),
    min: Setting::new(
        "agents-listener.tls-min",
        "VERSION",
        "The oldest TLS version that agents may speak: 1.3 or 1.2",
    )
    .env(&["BROKER_SERVER_AGENTS_TLS_MIN"])
    .default("1.3"),
    post_quantum: Setting::new(
        "agents-listener.post-quantum",
        "on|off",
        "Whether the post-quantum key exchange is preferred",
    )
    .env(&["BROKER_SERVER_AGENTS_POST_QUANTUM"])
    .default("on"),
};
pub(super) const AGENTS_PLAINTEXT: Setting = Setting::new(
    "agents-listener.insecure-plaintext",
    "",
    "Allows agents from other machines without TLS, as behind a proxy that ends it",
)
.env(&["BROKER_SERVER_AGENTS_INSECURE_PLAINTEXT"])
.switch()
.default("false");
pub(super) const MAX_STREAMS: Setting = Setting::new(
    "tunnel.max-streams",
    "N",
    "Requests in flight at once in one tunnel, at most 250",
)
.env(&["BROKER_SERVER_MAX_STREAMS"])
.default("250");

/// The address to which callers send their requests.
pub const CALLERS_LISTEN: Setting = Setting::new(
    "callers-listener.listen",
    "ADDRESS",
    "Where callers send their requests, as address:port",
)
.env(&["BROKER_SERVER_CALLERS_LISTEN"]);
pub(super) const CALLERS_TLS: ListenerTlsSettings = ListenerTlsSettings {
    certificate: Setting::new(
        "callers-listener.tls.certificate",
        "FILE",
        "The certificate that callers see, with its chain, PEM; without it they speak plain HTTP",
    )
    .env(&["BROKER_SERVER_CALLERS_TLS_CERTIFICATE"]),
    key: Setting::new("callers-listener.tls.key", "FILE", "Its private key, PEM")
        .env(&["BROKER_SERVER_CALLERS_TLS_KEY"]),
    min: Setting::new(
        "callers-listener.tls-min",
        "VERSION",
        "The oldest TLS version that callers may speak: 1.3 or 1.2",
    )
    .env(&["BROKER_SERVER_CALLERS_TLS_MIN"])
    .default("1.2"),
    post_quantum: Setting::new(
        "callers-listener.post-quantum",
        "on|off",
        "Whether the post-quantum key exchange is preferred",
    )
    .env(&["BROKER_SERVER_CALLERS_POST_QUANTUM"])
    .default("on"),
};
pub(super) const CALLERS_CLIENT_CA: Setting = Setting::new(
    "callers-listener.tls.client-ca",
    "FILE",
    "The authorities that vouch for callers' certificates, PEM; with it a caller is asked for one and may show none",
)
.env(&["BROKER_SERVER_CALLERS_TLS_CLIENT_CA"]);
pub(super) const RESPONSE_TIMEOUT: Setting = Setting::new(
    "response-timeout",
    "TIME",
    "The most that any answer may take to begin; the agent's own limits are shorter and per origin",
)
.env(&["BROKER_SERVER_RESPONSE_TIMEOUT"])
.default("10m");
pub(super) const STALL_TIMEOUT: Setting = Setting::new(
    "stall-timeout",
    "TIME",
    "How long a reader may take nothing while bytes wait for it",
)
.env(&["BROKER_SERVER_STALL_TIMEOUT"])
.default("5m");

/// The address of the admin listener.
pub const ADMIN_LISTEN: Setting = Setting::new(
    "admin-listener.listen",
    "ADDRESS",
    "Where health is told, as address:port",
)
.env(&["BROKER_SERVER_ADMIN_LISTEN"])
.default("127.0.0.1:9090");
pub(super) const NODE: Setting = Setting::new(
    "node",
    "NAME",
    "This server's name among several; the machine's host name unless set",
)
.env(&["BROKER_SERVER_NODE"]);
pub(super) const DOMAIN: Setting = Setting::new(
    "domain",
    "NAME",
    "With broker.example, the host name acme.broker.example says the tenant acme; unset, host names say nothing",
)
.env(&["BROKER_SERVER_DOMAIN"]);
pub(super) const DRAIN_TIMEOUT: Setting = Setting::new(
    "drain-timeout",
    "TIME",
    "How long requests in flight may take to finish when the process is asked to end",
)
.env(&["BROKER_SERVER_DRAIN_TIMEOUT"])
.default("30s");

pub(super) const TENANTS: Section = Section {
    key: "tenants",
    help: "whose agents and callers there are; a server for one customer has the tenant `default`. \
           An agent has `secrets`, or `admit: by-network` with `networks`. \
           A caller's `credential` is `broker-authorization`, `proxy-authorization` or `authorization`, the header in \
           which one of its `secrets` stands, or `mtls`: a client certificate with one of its `certificate-names`, \
           DNS names and URIs of `subjectAltName`, compared as a whole. \
           `agents` lists whom it may reach; `\"*\"` is all of them",
    example: r#"tenants:
  default:
    agents:
      sonarqube: {secrets: ["sha256:<id>:<64 hexadecimal digits>"]}
      kube-api: {admit: by-network, networks: [203.0.113.0/24]}
    callers:
      proxy:
        credential: broker-authorization
        secrets: ["sha256:<id>:<64 hexadecimal digits>"]
        agents: [sonarqube]
      tech-insights:
        credential: mtls
        certificate-names: [tech-insights.platform.example, "spiffe://platform.example/tech-insights"]
        agents: [sonarqube]"#,
};

/// The settings of one listener's TLS.
pub(super) struct ListenerTlsSettings {
    pub(super) certificate: Setting,
    pub(super) key: Setting,
    pub(super) min: Setting,
    pub(super) post_quantum: Setting,
}

/// Every setting of the server.
pub static TABLE: Table = Table {
    config: CONFIG,
    groups: &[
        Group {
            title: "Agents",
            settings: &[
                AGENTS_LISTEN,
                AGENTS_TLS.certificate,
                AGENTS_TLS.key,
                AGENTS_TLS.min,
                AGENTS_TLS.post_quantum,
                AGENTS_PLAINTEXT,
                MAX_STREAMS,
            ],
            sections: &[],
        },
        Group {
            title: "Callers",
            settings: &[
                CALLERS_LISTEN,
                CALLERS_TLS.certificate,
                CALLERS_TLS.key,
                CALLERS_CLIENT_CA,
                CALLERS_TLS.min,
                CALLERS_TLS.post_quantum,
                RESPONSE_TIMEOUT,
                STALL_TIMEOUT,
            ],
            sections: &[],
        },
        Group {
            title: "Tenants",
            settings: &[DOMAIN],
            sections: &[TENANTS],
        },
        Group {
            title: "Process",
            settings: &[ADMIN_LISTEN, NODE, DRAIN_TIMEOUT, THREADS, DEV_DIR],
            sections: &[],
        },
        Group {
            title: "Logging",
            settings: logging::SETTINGS,
            sections: &[],
        },
    ],
};

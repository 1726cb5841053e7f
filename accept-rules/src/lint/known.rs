//! What tools answer at: paths that a rule should not reach unnoticed.

use super::LintCode::{self, IssuesTokens, ReachesExec, ReachesProxy, ReachesSecrets, RunsScripts};

/// A tool that rules are written for.
pub(super) struct Tool {
    pub(super) name: &'static str,
    /// What its origin's name has in it: in lower case, with `_` for what is no letter or digit, and
    /// at both ends.
    pub(super) words: &'static [&'static str],
    /// How paths start that no other tool has.
    pub(super) paths: &'static [&'static str],
    /// It decodes `%2F` before it routes.
    pub(super) decodes: bool,
    pub(super) probes: &'static [Probe],
}

/// A request that a rule should not allow unnoticed.
pub(super) struct Probe {
    pub(super) code: LintCode,
    /// Method and path.
    pub(super) request: &'static str,
    pub(super) what: &'static str,
}

const fn probe(code: LintCode, request: &'static str, what: &'static str) -> Probe {
    Probe {
        code,
        request,
        what,
    }
}

/// The tools, each with what its documentation says of such paths.
#[rustfmt::skip] // A row is a line.
pub(super) const TOOLS: &[Tool] = &[
    Tool {
        name: "Kubernetes",
        words: &["_kubernetes_", "_k8s_", "_kube_", "_6443_"],
        paths: &[
            "/api/v1/configmaps", "/api/v1/namespaces", "/api/v1/pods", "/apis/apps/",
            "/apis/autoscaling/", "/apis/batch/", "/apis/metrics.k8s.io/",
            "/apis/networking.k8s.io/", "/apis/rbac.authorization.k8s.io/",
        ],
        decodes: true,
        probes: &[
            probe(ReachesSecrets, "GET /api/v1/namespaces/default/secrets", "Secrets with their values"),
            probe(ReachesSecrets, "GET /api/v1/namespaces/default/secrets/x", "a Secret with its values"),
            probe(ReachesSecrets, "GET /api/v1/secrets", "Secrets of all namespaces"),
            probe(ReachesSecrets, "GET /api/v1/watch/secrets", "Secrets of all namespaces"),
            probe(ReachesSecrets, "GET /api/v1/watch/namespaces/default/secrets", "Secrets with their values"),
            probe(ReachesExec, "POST /api/v1/namespaces/default/pods/x/exec", "with an upgrade, a shell in a container"),
            probe(ReachesExec, "GET /api/v1/namespaces/default/pods/x/exec", "with an upgrade, a shell in a container"),
            probe(ReachesExec, "POST /api/v1/namespaces/default/pods/x/attach", "with an upgrade, the console of a container"),
            probe(ReachesExec, "GET /api/v1/namespaces/default/pods/x/attach", "with an upgrade, the console of a container"),
            probe(ReachesExec, "POST /api/v1/namespaces/default/pods/x/portforward", "with an upgrade, ports of a pod"),
            probe(ReachesExec, "GET /api/v1/namespaces/default/pods/x/portforward", "with an upgrade, ports of a pod"),
            probe(ReachesProxy, "GET /api/v1/namespaces/default/services/x/proxy/", "whatever a service answers"),
            probe(ReachesProxy, "GET /api/v1/namespaces/default/pods/x/proxy/", "whatever a pod answers"),
            probe(ReachesProxy, "GET /api/v1/nodes/x/proxy/", "the kubelet of a node"),
            probe(ReachesProxy, "POST /api/v1/namespaces/default/services/x/proxy/", "whatever a service does"),
            probe(ReachesProxy, "POST /api/v1/namespaces/default/pods/x/proxy/", "whatever a pod does"),
            probe(ReachesProxy, "POST /api/v1/nodes/x/proxy/run/x/y/z", "the kubelet of a node"),
            probe(IssuesTokens, "POST /api/v1/namespaces/default/serviceaccounts/x/token", "a token of a service account"),
            probe(IssuesTokens, "POST /apis/certificates.k8s.io/v1/certificatesigningrequests", "client certificates"),
        ],
    },
    Tool {
        name: "Argo CD",
        words: &["argocd", "_argo_"],
        paths: &["/api/v1/applicationsets", "/api/v1/session"],
        decodes: true,
        probes: &[
            probe(IssuesTokens, "POST /api/v1/session", "a session token"),
            probe(IssuesTokens, "POST /api/v1/account/x/token", "a token of an account"),
            probe(IssuesTokens, "POST /api/v1/projects/x/roles/y/token", "a token of a project's role"),
        ],
    },
    Tool {
        name: "Grafana",
        words: &["grafana"],
        paths: &[
            "/api/dashboards/uid/", "/api/datasources/", "/api/prometheus/grafana/",
            "/api/ruler/grafana/", "/api/serviceaccounts/",
        ],
        decodes: true,
        probes: &[
            probe(IssuesTokens, "POST /api/auth/keys", "API keys"),
            probe(IssuesTokens, "POST /api/serviceaccounts/1/tokens", "a token of a service account"),
            probe(ReachesProxy, "GET /api/datasources/proxy/1/x", "whatever a data source answers"),
            probe(ReachesProxy, "GET /api/datasources/proxy/uid/x/y", "whatever a data source answers"),
            probe(ReachesProxy, "POST /api/datasources/proxy/1/x", "whatever a data source does"),
            probe(ReachesProxy, "POST /api/datasources/proxy/uid/x/y", "whatever a data source does"),
        ],
    },
    Tool {
        name: "GitLab",
        words: &["gitlab"],
        paths: &["/api/v4/", "/api/v3/projects"],
        decodes: false,
        probes: &[
            probe(ReachesSecrets, "GET /api/v4/projects/1/variables", "the variables of a project's pipelines"),
            probe(ReachesSecrets, "GET /api/v4/projects/1/variables/x", "a variable of a project's pipelines"),
            probe(ReachesSecrets, "GET /api/v4/groups/1/variables", "the variables of a group's pipelines"),
            probe(ReachesSecrets, "GET /api/v4/admin/ci/variables", "the variables of all pipelines"),
            probe(IssuesTokens, "POST /api/v4/users/1/personal_access_tokens", "a person's access tokens"),
            probe(IssuesTokens, "POST /api/v4/user/personal_access_tokens", "personal access tokens"),
            probe(IssuesTokens, "POST /api/v4/users/1/impersonation_tokens", "tokens in another's name"),
            probe(IssuesTokens, "POST /api/v4/personal_access_tokens/1/rotate", "a new personal access token"),
            probe(IssuesTokens, "POST /api/v4/projects/1/access_tokens", "access tokens of a project"),
            probe(IssuesTokens, "POST /api/v4/groups/1/access_tokens", "access tokens of a group"),
            probe(IssuesTokens, "POST /api/v4/projects/1/deploy_tokens", "deploy tokens of a project"),
            probe(IssuesTokens, "POST /api/v4/groups/1/deploy_tokens", "deploy tokens of a group"),
            probe(IssuesTokens, "POST /oauth/token", "OAuth tokens"),
        ],
    },
    Tool {
        name: "GitHub",
        words: &["github", "ghes"],
        paths: &["/app/installations", "/repos/"],
        decodes: false,
        probes: &[
            probe(IssuesTokens, "POST /app/installations/1/access_tokens", "a token of an installation"),
            probe(IssuesTokens, "POST /api/v3/app/installations/1/access_tokens", "a token of an installation"),
            probe(IssuesTokens, "POST /repos/x/y/actions/runners/registration-token", "a token that registers runners"),
            probe(IssuesTokens, "POST /orgs/x/actions/runners/registration-token", "a token that registers runners"),
            probe(IssuesTokens, "POST /login/oauth/access_token", "OAuth tokens"),
        ],
    },
    Tool {
        name: "Bitbucket",
        words: &["bitbucket"],
        paths: &["/rest/access-tokens/", "/rest/api/1.0/projects", "/rest/api/latest/projects"],
        decodes: false,
        probes: &[
            probe(IssuesTokens, "PUT /rest/access-tokens/1.0/users/x", "a person's access tokens"),
            probe(IssuesTokens, "PUT /rest/access-tokens/latest/users/x", "a person's access tokens"),
            probe(IssuesTokens, "PUT /rest/access-tokens/latest/projects/x", "access tokens of a project"),
            probe(IssuesTokens, "PUT /rest/access-tokens/latest/projects/x/repos/y", "access tokens of a repository"),
        ],
    },
    Tool {
        name: "SonarQube",
        words: &["sonar"],
        paths: &["/api/hotspots/", "/api/measures/", "/api/qualitygates/", "/api/user_tokens/"],
        decodes: false,
        probes: &[
            probe(IssuesTokens, "POST /api/user_tokens/generate", "a person's tokens"),
        ],
    },
    Tool {
        name: "Jenkins",
        words: &["jenkins"],
        paths: &["/crumbIssuer", "/job/"],
        decodes: false,
        probes: &[
            probe(RunsScripts, "POST /script", "the script console"),
            probe(RunsScripts, "POST /scriptText", "the script console"),
            probe(RunsScripts, "POST /job/x/config.xml", "what a job runs, to be replaced"),
            probe(RunsScripts, "POST /createItem", "new jobs"),
            probe(IssuesTokens, "POST /user/x/descriptorByName/jenkins.security.ApiTokenProperty/generateNewToken", "a person's tokens"),
            probe(IssuesTokens, "POST /me/descriptorByName/jenkins.security.ApiTokenProperty/generateNewToken", "tokens"),
        ],
    },
    Tool {
        name: "Jira",
        words: &["jira"],
        paths: &["/rest/api/2/", "/rest/pat/"],
        decodes: false,
        probes: &[
            probe(IssuesTokens, "POST /rest/pat/latest/tokens", "personal access tokens"),
        ],
    },
    Tool {
        name: "Azure DevOps",
        words: &["azure_repos", "azure_devops"],
        paths: &["/_apis/"],
        decodes: false,
        probes: &[
            probe(IssuesTokens, "POST /_apis/tokens/pats", "personal access tokens"),
        ],
    },
    Tool {
        name: "Artifactory",
        words: &["artifactory", "jfrog"],
        paths: &["/access/api/", "/artifactory/"],
        decodes: false,
        probes: &[
            probe(IssuesTokens, "POST /access/api/v1/tokens", "access tokens"),
            probe(IssuesTokens, "POST /artifactory/api/security/token", "access tokens"),
            probe(IssuesTokens, "POST /api/security/token", "access tokens"),
        ],
    },
    Tool {
        name: "Nexus",
        words: &["nexus"],
        paths: &["/service/rest/"],
        decodes: false,
        probes: &[
            probe(RunsScripts, "POST /service/rest/v1/script", "scripts to be stored and run"),
        ],
    },
    Tool {
        name: "Vault",
        words: &["_vault_addr_", "hashicorp_vault"],
        paths: &["/v1/auth/", "/v1/secret/", "/v1/sys/"],
        decodes: false,
        probes: &[
            probe(ReachesSecrets, "GET /v1/secret/data/x", "secrets"),
            probe(IssuesTokens, "POST /v1/auth/token/create", "tokens"),
        ],
    },
    Tool {
        name: "Keycloak",
        words: &["keycloak"],
        paths: &["/realms/", "/auth/realms/"],
        decodes: false,
        probes: &[
            probe(IssuesTokens, "POST /realms/x/protocol/openid-connect/token", "OAuth tokens"),
            probe(IssuesTokens, "POST /auth/realms/x/protocol/openid-connect/token", "OAuth tokens"),
        ],
    },
    Tool {
        name: "OAuth 2",
        words: &[],
        paths: &["/oauth/", "/oauth2/"],
        decodes: false,
        probes: &[
            probe(IssuesTokens, "POST /oauth/token", "OAuth tokens"),
            probe(IssuesTokens, "POST /oauth/access_token", "OAuth tokens"),
            probe(IssuesTokens, "POST /oauth2/token", "OAuth tokens"),
            probe(IssuesTokens, "POST /oauth2/v1/token", "OAuth tokens"),
        ],
    },
];

//! Which agents may open a tunnel: by a secret, or by the network they come from where their entry says so.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use broker_protocol::{AgentHello, TenantId, TokenDigest};
use ipnet::IpNet;

use crate::agents::AgentKey;
use crate::config::{Admission as Entry, Tenant};
use crate::problem::NotAdmitted;

/// Every agent's way in.
pub(crate) struct Admission {
    secrets: HashMap<Box<str>, (TokenDigest, AgentKey)>,
    networks: HashMap<AgentKey, Vec<IpNet>>,
    /// The tenant of an agent without a secret on a server that has one tenant.
    only_tenant: Option<TenantId>,
}

impl Admission {
    pub(crate) fn new(tenants: &BTreeMap<TenantId, Tenant>) -> Self {
        let (mut secrets, mut networks) = (HashMap::new(), HashMap::new());
        for (tenant, of_tenant) in tenants {
            for (agent, entry) in &of_tenant.agents {
                let key = AgentKey {
                    tenant: tenant.clone(),
                    agent: agent.clone(),
                };
                match &entry.admission {
                    Entry::Secrets(digests) => secrets.extend(
                        digests
                            .iter()
                            .map(|digest| (digest.id().into(), (digest.clone(), key.clone()))),
                    ),
                    Entry::ByNetwork(cidrs) => drop(networks.insert(key, cidrs.clone())),
                }
            }
        }
        let only_tenant = (tenants.len() == 1)
            .then(|| tenants.keys().next().cloned())
            .flatten();
        Self {
            secrets,
            networks,
            only_tenant,
        }
    }

    /// Who the agent is, if it may come in. `host_tenant` is the tenant that the host name says, where it says one.
    pub(crate) fn admit(
        &self,
        hello: &AgentHello,
        host_tenant: Option<TenantId>,
        source: IpAddr,
    ) -> Result<AgentKey, NotAdmitted> {
        let Some(secret) = &hello.secret else {
            let tenant = host_tenant
                .or_else(|| self.only_tenant.clone())
                .ok_or(NotAdmitted::NoTenant)?;
            let key = AgentKey {
                tenant,
                agent: hello.agent.clone(),
            };
            let Some(networks) = self.networks.get(&key) else {
                return Err(NotAdmitted::NotByNetwork(key.tenant));
            };
            let is_inside = networks.iter().any(|network| network.contains(&source));
            return if is_inside {
                Ok(key)
            } else {
                Err(NotAdmitted::OtherNetwork)
            };
        };
        let known = self
            .secrets
            .get(secret.id())
            .filter(|(digest, _)| digest.matches(secret));
        let (_, key) = known.ok_or(NotAdmitted::UnknownSecret)?;
        if key.agent != hello.agent {
            return Err(NotAdmitted::OtherAgent(key.clone()));
        }
        match host_tenant {
            Some(host) if host != key.tenant => Err(NotAdmitted::OtherTenant {
                host,
                secret: key.tenant.clone(),
            }),
            _ => Ok(key.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use broker_protocol::{AccessToken, TokenKind};

    use super::*;
    use crate::config::AgentEntry;

    fn tenants(token: &AccessToken) -> BTreeMap<TenantId, Tenant> {
        let agents = [
            ("by-secret", Entry::Secrets(vec![token.digest()])),
            (
                "by-network",
                Entry::ByNetwork(vec!["203.0.113.0/24".parse().unwrap()]),
            ),
        ];
        let agents =
            agents.map(|(name, admission)| (name.parse().unwrap(), AgentEntry { admission }));
        let tenant = Tenant {
            agents: agents.into(),
            callers: BTreeMap::new(),
        };
        BTreeMap::from([("acme".parse().unwrap(), tenant)])
    }

    fn hello(agent: &str, secret: Option<&AccessToken>) -> AgentHello {
        AgentHello {
            agent: agent.parse().unwrap(),
            secret: secret
                .map(|token| AccessToken::parse(TokenKind::Agent, token.expose()).unwrap()),
            instance: "default".parse().unwrap(),
            run: "r".into(),
            version: "0".into(),
            is_check: false,
        }
    }

    const INSIDE: &str = "203.0.113.9";
    const OUTSIDE: &str = "198.51.100.9";

    fn admit(
        agent: &str,
        secret: Option<&AccessToken>,
        host: Option<&str>,
        source: &str,
    ) -> Option<String> {
        let known = AccessToken::parse(TokenKind::Agent, KNOWN).unwrap();
        let host = host.map(|host| host.parse().unwrap());
        let admitted = Admission::new(&tenants(&known)).admit(
            &hello(agent, secret),
            host,
            source.parse().unwrap(),
        );
        admitted.ok().map(|key| key.to_string())
    }

    const KNOWN: &str = "brk_agent_0123456789ab_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

    #[test]
    fn a_secret_admits_its_own_agent_alone_from_anywhere() {
        let known = AccessToken::parse(TokenKind::Agent, KNOWN).unwrap();
        let other = AccessToken::generate(TokenKind::Agent);
        assert_eq!(
            admit("by-secret", Some(&known), None, OUTSIDE).unwrap(),
            "acme/by-secret"
        );
        assert_eq!(admit("by-network", Some(&known), None, INSIDE), None);
        assert_eq!(admit("by-secret", Some(&other), None, INSIDE), None);
    }

    #[test]
    fn a_name_alone_admits_only_where_the_entry_lists_the_network() {
        assert_eq!(
            admit("by-network", None, None, INSIDE).unwrap(),
            "acme/by-network"
        );
        assert_eq!(admit("by-network", None, None, OUTSIDE), None);
        assert_eq!(admit("by-secret", None, None, INSIDE), None);
        assert_eq!(admit("nobody", None, None, INSIDE), None);
    }

    #[test]
    fn a_host_name_of_another_tenant_admits_nobody() {
        let known = AccessToken::parse(TokenKind::Agent, KNOWN).unwrap();
        assert_eq!(
            admit("by-secret", Some(&known), Some("other"), INSIDE),
            None
        );
        assert_eq!(admit("by-network", None, Some("other"), INSIDE), None);
        assert!(admit("by-secret", Some(&known), Some("acme"), INSIDE).is_some());
    }
}

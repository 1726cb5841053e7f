//! The keys of Amazon Web Services, and what is made of them: signatures of requests, and tokens for clusters.
//!
//! The keys are those that the agent runs with, or those of a role that these may assume, of another account perhaps.
//! None of them is stored.

mod ambient;
mod eks;
mod sigv4;
mod sts;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use broker_process::settings::Environment;
use futures_util::future::BoxFuture;
use http::Uri;
use serde::Deserialize;
use zeroize::Zeroizing;

use self::ambient::Ambient;
use self::sts::Sts;
use super::Secret;
use super::renewed::{Failure, Fetch, Fetched, Occasion};
use crate::config::{AssumedRole, AwsSettings};
use crate::control_call::{Answer, CallError, ControlCalls, Way};

pub(super) use self::eks::EksToken;
pub(super) use self::sigv4::{Scope, sign};
pub(crate) use self::sigv4::{Unsignable, check_signable, remove_signature};

/// What signs.
pub(super) struct AwsKeys {
    id: String,
    secret: Secret,
    /// Of keys that end.
    token: Option<Secret>,
}

impl AwsKeys {
    /// What tells these keys from others, for whoever hashes it.
    pub(super) fn distinct(&self) -> Zeroizing<String> {
        Zeroizing::new([&*self.id, "\n", self.secret.expose()].concat())
    }
}

impl PartialEq for AwsKeys {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.secret == other.secret && self.token == other.token
    }
}

/// The id alone, which is no secret.
impl fmt::Debug for AwsKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AwsKeys({})", self.id)
    }
}

/// Keys of one entry of the settings: those that the agent runs with, and then each role's with the ones before.
#[derive(Debug)]
pub(super) struct AwsIdentity {
    ambient: Ambient,
    sts: Arc<Sts>,
    roles: Vec<AssumedRole>,
}

impl AwsIdentity {
    pub(super) fn new(
        settings: &AwsSettings,
        environment: &Environment,
        calls: &ControlCalls,
    ) -> Self {
        let sts = Arc::new(Sts::new(settings, calls.clone()));
        Self {
            ambient: Ambient::new(
                environment,
                settings.metadata.as_ref(),
                calls.clone(),
                Arc::clone(&sts),
            ),
            sts,
            roles: settings.roles.clone(),
        }
    }
}

impl Fetch<AwsKeys> for AwsIdentity {
    fn fetch(&self, _: Occasion) -> BoxFuture<'_, Result<Fetched<AwsKeys>, Failure>> {
        Box::pin(async {
            let mut keys = self.ambient.keys().await?;
            for role in &self.roles {
                keys = self.sts.assume(&keys.value, role).await?;
            }
            Ok(keys)
        })
    }

    fn calls(&self) -> Vec<(Uri, Way)> {
        let sts = (!self.roles.is_empty()).then(|| self.sts.call());
        self.ambient.call().into_iter().chain(sts).collect()
    }
}

/// Keys as the services hand them out, in JSON or out of XML.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HandedOut {
    access_key_id: String,
    secret_access_key: Secret,
    token: Secret,
    expiration: String,
}

impl HandedOut {
    /// The keys, unless they cannot be keys or are worth nothing any more. `what` handed them out, in `answer`.
    fn keys(self, what: &str, answer: &Answer) -> Result<Fetched<AwsKeys>, Failure> {
        let unreadable = || Failure::from(format!("has no keys: {what} {}", CallError::Unreadable));
        let end = humantime::parse_rfc3339_weak(&self.expiration).map_err(|_| unreadable())?;
        // They become parts of headers.
        let is_id = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let is_good = (16..=128).contains(&self.access_key_id.len())
            && self.access_key_id.bytes().all(is_id)
            && !self.secret_access_key.expose().is_empty()
            && self.token.can_be_header();
        if !is_good {
            return Err(unreadable());
        }
        let lives = answer.until(end);
        if lives < WORTH_USING {
            return Err(format!(
                "has no keys: {what} handed out keys that end at {}, which is now or over (is the clock of this machine right?)",
                humantime::format_rfc3339_seconds(end)
            )
            .into());
        }
        Ok(Fetched {
            value: AwsKeys {
                id: self.access_key_id,
                secret: self.secret_access_key,
                token: Some(self.token),
            },
            lives,
        })
    }
}

/// Keys that end sooner are not used: a request would come too late with them.
const WORTH_USING: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::credential::renewed::{Household, Renewed};

    pub(super) fn keys(id: &str) -> AwsKeys {
        AwsKeys {
            id: id.to_owned(),
            secret: Secret::new("hunter2"),
            token: Some(Secret::new("session+token")),
        }
    }

    #[derive(Debug)]
    struct Fixed(&'static str);

    impl Fetch<AwsKeys> for Fixed {
        fn fetch(&self, _: Occasion) -> BoxFuture<'_, Result<Fetched<AwsKeys>, Failure>> {
            Box::pin(async {
                Ok(Fetched {
                    value: keys(self.0),
                    lives: Duration::from_secs(3600),
                })
            })
        }
    }

    pub(super) fn fixed(id: &'static str) -> Arc<Renewed<AwsKeys>> {
        Renewed::new(
            "aws fixed".to_owned(),
            Box::new(Fixed(id)),
            Household::default(),
        )
    }
}

//! Tokens for clusters of Amazon EKS: a question to the token service, signed and not asked, which the cluster asks to
//! learn whose token it is (aws-iam-authenticator, "API Authorization from Outside a Cluster").

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use super::AwsKeys;
use super::sigv4::{Scope, presigned};
use super::sts::{regional, service_scope};
use crate::config::EksSettings;
use crate::credential::Secret;
use crate::credential::renewed::{Failure, Fetch, Fetched, Occasion, Renewed};

const PREFIX: &str = "k8s-aws-v1.";
/// Binds the token to one cluster.
const CLUSTER: HeaderName = HeaderName::from_static("x-k8s-aws-id");
/// What the signature claims, in seconds; Amazon's own programs say the same.
const EXPIRES: u32 = 60;
/// Clusters take a token for 15 minutes from its date, whatever it claims; a minute is for clocks that differ.
const LIVES: Duration = Duration::from_secs(14 * 60);

/// The tokens of one cluster.
#[derive(Debug)]
pub(in crate::credential) struct EksToken {
    keys: Arc<Renewed<AwsKeys>>,
    scope: Scope,
    /// Always the region's public service: clusters ask no other.
    question: Uri,
    cluster: HeaderValue,
}

impl EksToken {
    /// `region` is that of the keys' entry.
    pub(in crate::credential) fn new(
        settings: &EksSettings,
        region: &str,
        keys: Arc<Renewed<AwsKeys>>,
    ) -> Self {
        let region = settings.region.as_deref().unwrap_or(region);
        let question = format!(
            "https://{}/?Action=GetCallerIdentity&Version=2011-06-15",
            regional(region)
        );
        Self {
            keys,
            scope: service_scope(region),
            question: question.parse().expect("a region is part of a name"),
            cluster: HeaderValue::from_str(&settings.cluster).expect("a name without blanks"),
        }
    }

    fn token(&self, keys: &AwsKeys, now: SystemTime) -> Secret {
        let headers = HeaderMap::from_iter([(CLUSTER, self.cluster.clone())]);
        let url = presigned(keys, &self.scope, now, &self.question, &headers, EXPIRES);
        let length = base64::encoded_len(url.len(), false).unwrap_or(0);
        // One allocation: a text that grows leaves copies of secrets behind.
        let mut token = String::with_capacity(PREFIX.len() + length);
        token.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(url.as_bytes(), &mut token);
        Secret::new(token)
    }
}

impl Fetch<Secret> for EksToken {
    fn fetch(&self, occasion: Occasion) -> BoxFuture<'_, Result<Fetched<Secret>, Failure>> {
        Box::pin(async move {
            if let (Occasion::Refused, Some(attempt)) = (occasion, self.keys.renew()) {
                attempt.await;
            }
            let (keys, left) = self.keys.now_and_end().await?;
            Ok(Fetched {
                value: self.token(&keys, SystemTime::now()),
                lives: left.min(LIVES),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::keys;
    use super::*;

    #[test]
    fn a_token_is_a_signed_question_for_one_cluster() {
        let settings = EksSettings {
            cluster: "shop".to_owned(),
            aws: "default".to_owned(),
            region: Some("cn-north-1".to_owned()),
        };
        let fetch = super::super::tests::fixed("AKIDEXAMPLE");
        let token = EksToken::new(&settings, "eu-west-1", fetch);
        let now = humantime::parse_rfc3339("2015-08-30T12:36:00Z").unwrap();
        let token = token.token(&keys("AKIDEXAMPLE"), now);
        let url = token.expose().strip_prefix("k8s-aws-v1.").unwrap();
        let url = String::from_utf8(URL_SAFE_NO_PAD.decode(url).unwrap()).unwrap();
        let (url, signature) = url.rsplit_once("&X-Amz-Signature=").unwrap();
        assert_eq!(
            url,
            "https://sts.cn-north-1.amazonaws.com.cn/?Action=GetCallerIdentity&Version=2011-06-15\
             &X-Amz-Algorithm=AWS4-HMAC-SHA256\
             &X-Amz-Credential=AKIDEXAMPLE%2F20150830%2Fcn-north-1%2Fsts%2Faws4_request\
             &X-Amz-Date=20150830T123600Z&X-Amz-Expires=60&X-Amz-Security-Token=session%2Btoken\
             &X-Amz-SignedHeaders=host%3Bx-k8s-aws-id"
        );
        assert_eq!(signature.len(), 64);
    }
}

//! Tokens of an OAuth 2.0 authorization server for the agent itself: the client credentials grant (RFC 6749 §4.4).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::BoxFuture;
use http::Uri;
use http::header::AUTHORIZATION;
use zeroize::Zeroizing;

use super::Secret;
use super::handed_out::{AccessToken, ask, form_request, read};
use super::renewed::{Failure, Fetch, Fetched, Occasion};
use super::sources::Composed;
use crate::config::{ClientAuthentication, OAuth2Settings};
use crate::control_call::{ControlCalls, Way, escaped};

/// The tokens of one client.
#[derive(Debug)]
pub(super) struct OAuth2 {
    pub(super) settings: OAuth2Settings,
    pub(super) secret: Composed,
    pub(super) calls: ControlCalls,
}

impl OAuth2 {
    async fn token(&self) -> Result<Fetched<Secret>, Failure> {
        let OAuth2Settings {
            token_url,
            client_id,
            authentication,
            ..
        } = &self.settings;
        let secret = self.secret.now().await?;
        let mut fields = vec![("grant_type", "client_credentials")];
        let optional = [
            ("scope", &self.settings.scope),
            ("audience", &self.settings.audience),
            ("resource", &self.settings.resource),
        ];
        for (name, value) in optional {
            fields.extend(value.as_deref().map(|value| (name, value)));
        }
        if *authentication == ClientAuthentication::Post {
            fields.extend([
                ("client_id", &**client_id),
                ("client_secret", secret.expose()),
            ]);
        }
        let mut request = form_request(token_url, &fields);
        if *authentication == ClientAuthentication::Basic {
            let value = basic(client_id, &secret).to_header();
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        let what = token_url.host().unwrap_or_default();
        let answer = ask(&self.calls, request, Way::Usual, what).await?;
        read::<AccessToken>(&answer, what)?.take(what)
    }
}

/// Both parts are escaped as in a form first (RFC 6749 §2.3.1).
fn basic(client_id: &str, secret: &Secret) -> Secret {
    let (id, secret) = (escaped(client_id), escaped(secret.expose()));
    let plain = Zeroizing::new([&*id, ":", &secret].concat());
    let encoded = Zeroizing::new(STANDARD.encode(plain.as_bytes()));
    Secret::new(["Basic ", &encoded].concat())
}

impl Fetch<Secret> for OAuth2 {
    fn fetch(&self, _: Occasion) -> BoxFuture<'_, Result<Fetched<Secret>, Failure>> {
        Box::pin(self.token())
    }

    fn calls(&self) -> Vec<(Uri, Way)> {
        vec![(self.settings.token_url.clone(), Way::Usual)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_known_by_both_parts_as_a_form_has_them() {
        // a%3Ab:c%2Fd%20%C3%A9
        let value = basic("a:b", &Secret::new("c/d é"));
        assert_eq!(value.expose(), "Basic YSUzQWI6YyUyRmQlMjAlQzMlQTk=");
    }
}

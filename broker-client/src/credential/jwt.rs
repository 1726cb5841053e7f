//! Tokens that the agent signs itself with an RSA key (RFC 7515, RFC 7518 §3.3), to be given another for them.

use std::collections::BTreeMap;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::Secret;

/// Signs `claims` by RS256 with the key in `pem`. What is wrong reads on from the key's name.
pub(super) fn signed(claims: &Value, key_id: Option<&str>, pem: &[u8]) -> Result<Secret, String> {
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| {
        "holds no PEM private key (a block that begins with BEGIN PRIVATE KEY or BEGIN RSA PRIVATE KEY)"
    })?;
    let key = Zeroizing::new(key);
    let pair = match &*key {
        PrivateKeyDer::Pkcs8(der) => KeyPair::from_pkcs8(der.secret_pkcs8_der()),
        PrivateKeyDer::Pkcs1(der) => KeyPair::from_der(der.secret_pkcs1_der()),
        _ => return Err("holds a key that is not RSA".to_owned()),
    };
    let pair = pair.map_err(|_| "holds a key that is not RSA, of 2048 to 8192 bits")?;
    let mut header = BTreeMap::from([("alg", "RS256"), ("typ", "JWT")]);
    header.extend(key_id.map(|id| ("kid", id)));
    let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let text = format!("{}.{}", encode(&json!(header)), encode(claims));
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(
        &RSA_PKCS1_SHA256,
        &SystemRandom::new(),
        text.as_bytes(),
        &mut signature,
    )
    .map_err(|_| "holds a key that cannot sign")?;
    let signature = Zeroizing::new(URL_SAFE_NO_PAD.encode(signature));
    Ok(Secret::new([&*text, ".", &signature].concat()))
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::AsDer as _;
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    fn pem(label: &str, der: &[u8]) -> String {
        let text = STANDARD.encode(der);
        format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
    }

    #[test]
    fn a_token_is_header_claims_and_a_signature_that_verifies() {
        let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let der = pair.as_der().unwrap();
        // What PKCS #8 wraps for a key of this length is the same in PKCS #1.
        let keys = [
            ("PRIVATE KEY", der.as_ref()),
            ("RSA PRIVATE KEY", &der.as_ref()[26..]),
        ];
        for (label, der) in keys {
            let key = pem(label, der);
            let token = signed(&json!({"iss": "12"}), Some("k1"), key.as_bytes()).unwrap();
            let (text, signature) = token.expose().rsplit_once('.').unwrap();
            // {"alg":"RS256","kid":"k1","typ":"JWT"} and {"iss":"12"}
            assert_eq!(
                text,
                "eyJhbGciOiJSUzI1NiIsImtpZCI6ImsxIiwidHlwIjoiSldUIn0.eyJpc3MiOiIxMiJ9"
            );
            let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
            let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public_key());
            public.verify(text.as_bytes(), &signature).unwrap();
        }
    }

    #[test]
    fn what_is_no_rsa_key_is_told_without_being_shown() {
        let certificate = pem("CERTIFICATE", b"hunter2");
        for (key, said) in [
            ("hunter2", "holds no PEM private key"),
            (&*certificate, "holds no PEM private key"),
            (
                &*pem("PRIVATE KEY", b"hunter2"),
                "holds a key that is not RSA",
            ),
            (
                &*pem("EC PRIVATE KEY", b"hunter2"),
                "holds a key that is not RSA",
            ),
        ] {
            let error = signed(&json!({}), None, key.as_bytes()).unwrap_err();
            assert!(error.starts_with(said), "{error}");
        }
    }
}

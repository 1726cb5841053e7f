//! What tells one version of a credential from another in the audit log, and says nothing of its value.

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

/// Length of an instance's key, in bytes: that of HMAC-SHA-256's result (RFC 2104 §3).
pub(crate) const KEY_LEN: usize = 32;
/// Bytes of the HMAC that are shown; enough to tell the versions that one agent ever uses apart.
const SHOWN: usize = 8;

/// Makes fingerprints. Without the key, which stays in the data folder, nobody can try out whether a value that they
/// guess is the one that was used.
pub(crate) struct FingerprintKey(hmac::Key);

impl FingerprintKey {
    pub(crate) fn new(key: &Zeroizing<[u8; KEY_LEN]>) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key.as_slice()))
    }

    /// In hexadecimal.
    pub(super) fn of(&self, value: &[u8]) -> String {
        let tag = hmac::sign(&self.0, value);
        let shown = tag.as_ref().iter().take(SHOWN);
        shown.map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_the_start_of_the_keyed_hash() {
        // RFC 4231 §4.3, whose key is padded with zeros to the length of ours, which HMAC does too.
        let mut key = Zeroizing::new([0; KEY_LEN]);
        key[..4].copy_from_slice(b"Jefe");
        let shown = FingerprintKey::new(&key).of(b"what do ya want for nothing?");
        assert_eq!(shown, "5bdcc146bf60754e");
    }
}

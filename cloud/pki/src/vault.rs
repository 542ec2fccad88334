//! Secrets at rest: node passwords and blob keys are stored sealed, download URLs are signed.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hmac;

use crate::error::PkiError;

/// Seals small secrets with the authority's storage key (AES-256-GCM, random nonce in front).
pub struct Vault {
    key: RandomizedNonceKey,
}

impl Vault {
    pub(crate) fn new(key: &[u8; 32]) -> Result<Self, PkiError> {
        let key = RandomizedNonceKey::new(&AES_256_GCM, key)
            .map_err(|_| PkiError::Crypto("use the storage key"))?;
        Ok(Self { key })
    }

    /// Seals `secret`; `purpose` must be the same when it is opened.
    pub fn seal(&self, purpose: &str, secret: &[u8]) -> Result<Vec<u8>, PkiError> {
        let mut body = secret.to_vec();
        let nonce = self
            .key
            .seal_in_place_append_tag(Aad::from(purpose.as_bytes()), &mut body)
            .map_err(|_| PkiError::Crypto("seal a secret"))?;
        let mut sealed = nonce.as_ref().to_vec();
        sealed.append(&mut body);
        Ok(sealed)
    }

    /// Opens what [`Vault::seal`] made with the same `purpose`.
    pub fn open(&self, purpose: &str, sealed: &[u8]) -> Result<Vec<u8>, PkiError> {
        let (nonce, body) = sealed.split_at_checked(NONCE_LEN).ok_or(PkiError::Sealed)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| PkiError::Sealed)?;
        let mut body = body.to_vec();
        let plain = self
            .key
            .open_in_place(nonce, Aad::from(purpose.as_bytes()), &mut body)
            .map_err(|_| PkiError::Sealed)?;
        Ok(plain.to_vec())
    }
}

/// Signs the expiring tokens of download URLs (HMAC-SHA-256).
#[derive(Clone)]
pub struct UrlKey {
    key: hmac::Key,
}

impl UrlKey {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, key) }
    }

    /// Tag over `text`, 32 bytes.
    pub fn tag(&self, text: &str) -> Vec<u8> {
        hmac::sign(&self.key, text.as_bytes()).as_ref().to_vec()
    }

    /// True when `tag` was made by [`UrlKey::tag`] for `text`; compares in constant time.
    pub fn verify(&self, text: &str, tag: &[u8]) -> bool {
        hmac::verify(&self.key, text.as_bytes(), tag).is_ok()
    }
}

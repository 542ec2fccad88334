//! Download addresses: `/blobs/<hex>?t=<token>`, the token being an end of validity and a signature.

use aos_ids::Digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::Blobs;

/// How long an address works, seconds. A Unit asks again when its download takes longer.
pub const TOKEN_LIFETIME: i64 = 3600;

impl Blobs {
    /// Path and query under which a blob can be fetched from `now` (seconds since 1970 UTC) on. Equal for
    /// equal arguments, so that an interrupted download may go on with the same address.
    pub fn address(&self, digest: &Digest, now: i64) -> String {
        let hex = digest.hex();
        let until = now + TOKEN_LIFETIME;
        let tag = self.inner.pki.url_key().tag(&message(&hex, until));
        format!("/blobs/{hex}?t={until}.{}", URL_SAFE_NO_PAD.encode(tag))
    }

    /// True when `token` belongs to the blob and has not expired.
    pub(crate) fn admits(&self, hex: &str, token: &str, now: i64) -> bool {
        let Some((until, tag)) = token.split_once('.') else { return false };
        let Ok(until) = until.parse::<i64>() else { return false };
        let Ok(tag) = URL_SAFE_NO_PAD.decode(tag) else { return false };
        self.inner.pki.url_key().verify(&message(hex, until), &tag) && now <= until
    }
}

fn message(hex: &str, until: i64) -> String {
    format!("blob {hex} until {until}")
}

//! The announced digest of the bytes as served.
//!
//! Upstream announces SHA3-256 in a field named `sha256`; SHA-256 is accepted as well, in hexadecimal or
//! base64. Which of the two algorithms is meant cannot be told from the text, so both are computed.

use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha3::{Digest as _, Sha3_256};

use crate::CryptoError;

/// A digest of served bytes, 32 bytes of either algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServedDigest([u8; 32]);

impl ServedDigest {
    /// Reads 64 hexadecimal digits of any case, or base64 of 32 bytes.
    pub fn parse(text: &str) -> Result<Self, CryptoError> {
        let bad = || CryptoError::BadServedDigest(text.chars().take(100).collect());
        let bytes = match text.len() {
            64 => hex::decode(text).map_err(|_| bad())?,
            40..=48 => STANDARD.decode(text).map_err(|_| bad())?,
            _ => return Err(bad()),
        };
        bytes.try_into().map(Self).map_err(|_| bad())
    }

    /// The form the cloud sends: SHA3-256 in lower-case hexadecimal.
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }
}

/// Computes the digests of served bytes as they pass.
pub struct ServedHasher {
    sha3: Sha3_256,
    sha2: Context,
}

impl Default for ServedHasher {
    fn default() -> Self {
        Self { sha3: Sha3_256::new(), sha2: Context::new(&SHA256) }
    }
}

impl ServedHasher {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.sha3.update(bytes);
        self.sha2.update(bytes);
    }

    /// True when either digest of all bytes is `announced`.
    pub fn matches(self, announced: &ServedDigest) -> bool {
        let sha3: [u8; 32] = self.sha3.finalize().into();
        sha3 == announced.0 || self.sha2.finish().as_ref() == announced.0
    }

    /// The SHA3-256 of all bytes, as the cloud announces it.
    pub fn finish(self) -> ServedDigest {
        ServedDigest(self.sha3.finalize().into())
    }
}

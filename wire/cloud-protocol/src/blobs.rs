//! `requestBlobUrls` and `blobUrls`: where to fetch content, and how to check and decrypt it.

use aos_ids::Digest;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Base64Bytes, ServedHash};

/// Algorithm of [`DecryptInfo::block_alg`] that every peer knows.
pub const AES256_CBC: &str = "AES256/CBC/pkcs7";
/// Algorithm of [`SignInfo::alg`] that every peer knows.
pub const RSA_SHA256: &str = "RSA/SHA256";
/// Most digests in one request and most blobs in one answer that other peers accept.
pub const MAX_BLOBS: usize = 16;

/// Asks where blobs are. Its `correlationId` must be repeated by the answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestBlobUrls {
    /// The blobs, 1 to 16.
    pub digests: Vec<Digest>,
}

/// Where blobs are. Never more entries than were asked for, in the same order; none means not found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlobUrls {
    /// The blobs.
    pub items: Vec<BlobInfo>,
}

/// One blob.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlobInfo {
    /// SHA-256 of the plain content, as requested.
    pub digest: Digest,
    /// Where the served bytes are, best first; at least one.
    #[serde(deserialize_with = "at_least_one")]
    pub urls: Vec<String>,
    /// Hash of the served bytes (SHA3-256).
    pub sha256: ServedHash,
    /// Number of served bytes.
    pub size: u64,
    /// How to decrypt; absent means the served bytes are plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decrypt_info: Option<DecryptInfo>,
    /// How to verify the plain content; absent means there is no signature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sign_info: Option<SignInfo>,
}

/// How to decrypt a blob. `Debug` shows no key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DecryptInfo {
    /// `algorithm/mode/padding`.
    #[serde(default = "default_block_alg")]
    pub block_alg: String,
    /// Initialisation vector, 16 bytes for CBC.
    pub block_iv: Base64Bytes,
    /// Raw key, 32 bytes for AES-256.
    pub block_key: Base64Bytes,
}

/// How to verify a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SignInfo {
    /// Name of a chain in the present `desiredStatus`.
    pub chain_name: String,
    /// `key type/hash`, optionally `/padding`.
    pub alg: String,
    /// The signature.
    pub value: Base64Bytes,
    /// Time to check the certificates at; absent means now. A cloud always sends it.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::time::optional")]
    pub trusted_timestamp: Option<Timestamp>,
    /// Revocation answers. Read and not used; never written by us because upstream Units refuse real ones.
    #[serde(default, skip_serializing)]
    pub ocsp_values: Vec<String>,
}

fn default_block_alg() -> String {
    AES256_CBC.to_owned()
}

fn at_least_one<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let urls = Vec::<String>::deserialize(deserializer)?;
    if urls.is_empty() { Err(serde::de::Error::custom("no address given")) } else { Ok(urls) }
}

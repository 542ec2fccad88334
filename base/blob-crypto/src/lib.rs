//! Digest, decryption and signature of blobs, as streams.
//!
//! A blob comes as *served* bytes: announced by a digest of those bytes, decrypted to the *plain* bytes, which
//! are signed and named by their SHA-256. [`unpack`] does all of it in one pass with 64 KiB of memory. The
//! other side, for the cloud, is [`encrypt_cbc`] and [`sign_rsa_sha256`]. Nothing here knows message types:
//! callers pass texts and bytes as they received them. Whole messages for one reader are sealed and opened by
//! [`cms`].

mod chain;
mod cipher;
pub mod cms;
mod served;
mod sign;
mod unpack;

pub use chain::{ChainStore, SignerKey};
pub use cipher::{Decryption, encrypt_cbc};
pub use served::{ServedDigest, ServedHasher};
pub use sign::{SignatureAlg, SignatureInfo, sign_rsa_sha256};
pub use unpack::{Recipe, Unpacked, unpack};

use aos_ids::Digest;

/// Why a blob is not what it should be, or could not be processed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CryptoError {
    /// Reading or writing failed.
    #[error("cannot {action} the blob: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The announced digest of the served bytes is neither hex nor base64 of 32 bytes.
    #[error("'{0}' is no digest of served bytes, expected 64 hex digits or base64 of 32 bytes")]
    BadServedDigest(String),
    /// The served bytes are damaged or of another blob.
    #[error("the served bytes do not match the announced digest")]
    ServedMismatch,
    /// The plain bytes are not those of the digest.
    #[error("the content has the digest {found}, expected {expected}")]
    ContentMismatch {
        /// The digest that names the blob.
        expected: Digest,
        /// The digest of the plain bytes.
        found: Digest,
    },
    /// An encryption we do not know.
    #[error("block algorithm '{0}' is not supported, expected e.g. AES256/CBC/pkcs7")]
    UnsupportedCipher(String),
    /// Key or initialisation vector has the wrong length, or cannot be decoded.
    #[error("{0}")]
    BadKey(String),
    /// The bytes are no valid ciphertext under this key.
    #[error("the blob cannot be decrypted: wrong key or damaged")]
    Decrypt,
    /// Authenticated blobs must fit in memory.
    #[error("an authenticated blob of {size} bytes exceeds the limit of {max}")]
    TooLargeForGcm {
        /// Its size, bytes.
        size: u64,
        /// The limit, bytes.
        max: u64,
    },
    /// A signature algorithm we do not know.
    #[error("signature algorithm '{0}' is not supported, expected e.g. RSA/SHA256")]
    UnsupportedSignature(String),
    /// The signature is not the signer's over these bytes.
    #[error("the signature does not match the content")]
    BadSignature,
    /// The certificate chain does not exist, is incomplete, or does not end in a trusted root.
    #[error("certificate chain '{chain}': {reason}")]
    Chain {
        /// Name of the chain.
        chain: String,
        /// What is wrong.
        reason: String,
    },
    /// The time of signing lies in the future.
    #[error("the trusted timestamp of the signature is in the future")]
    FutureTimestamp,
    /// The bytes are no envelope that can be read.
    #[error("the envelope cannot be read: {0}")]
    Envelope(&'static str),
    /// None of the envelope's recipients is known here.
    #[error("the envelope is for somebody else")]
    NotForUs,
    /// The content key or the content is damaged, or not for our key; which of them stays untold.
    #[error("the envelope cannot be decrypted")]
    EnvelopeDecrypt,
    /// Nothing can be sealed for a certificate.
    #[error("cannot seal for a certificate: {0}")]
    Recipient(String),
    /// The signing key cannot be used.
    #[error("the signing key is no usable RSA key: {0}")]
    SigningKey(String),
}

pub(crate) fn io_failed(action: &'static str) -> impl FnOnce(std::io::Error) -> CryptoError {
    move |source| CryptoError::Io { action, source }
}

#[cfg(test)]
mod tests;

//! What can go wrong with blobs.

use std::path::{Path, PathBuf};

use aos_ids::Digest;

/// Errors of the blob store.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The blob folder cannot be used.
    #[error("cannot use the blob folder")]
    Folder(#[from] aos_durable::DurableError),
    /// The store refused.
    #[error("cannot look up a blob")]
    Store(#[from] aos_cloud_store::StoreError),
    /// Sealing, opening or signing failed.
    #[error("cannot protect a blob")]
    Pki(#[from] aos_cloud_pki::PkiError),
    /// Encryption or decryption failed.
    #[error("cannot process a blob")]
    Crypto(#[from] aos_blob_crypto::CryptoError),
    /// The uploaded bytes are not those of the digest.
    #[error("the content has the digest {found}, not {expected}")]
    Mismatch {
        /// The digest in the address.
        expected: Digest,
        /// The digest of the bytes.
        found: Digest,
    },
    /// A blob is larger than allowed.
    #[error("blob {digest} has {size} bytes, at most {max} are allowed")]
    TooLarge {
        /// The blob.
        digest: Digest,
        /// Its size, bytes.
        size: u64,
        /// The limit, bytes.
        max: u64,
    },
    /// The sender stopped in the middle.
    #[error("the upload broke off")]
    BrokenOff,
    /// The worker of an operation is gone.
    #[error("the operation was interrupted")]
    Interrupted,
    /// The blobs of a version are incomplete or malformed. The text is for the publisher.
    #[error("{0}")]
    Tree(String),
}

impl BlobError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// True when the sender is to blame.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Mismatch { .. } | Self::TooLarge { .. } | Self::BrokenOff | Self::Tree(_))
    }
}

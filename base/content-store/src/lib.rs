//! Content-addressed blobs on disk: partial, verified, collected.
//!
//! ```text
//! <root>/blobs/sha256/<hex>      complete blobs, always whole and synced
//! <root>/partial/<hex>           downloads under way, append-only, resumable after a restart
//! <root>/partial/.stage-<unique> files being made (decrypted, imported)
//! ```
//! A blob appears under its name only after its SHA-256 was verified and its bytes were synced. Several
//! processes may use one store: a file being written is locked (`flock`), and the lock dies with its writer.
//! All calls block on the disk; hashing a big blob belongs on a blocking thread.

mod partial;
mod stage;
mod store;

use std::path::PathBuf;

use aos_durable::DurableError;
use aos_ids::Digest;

pub use partial::PartialBlob;
pub use stage::Stage;
pub use store::{Collected, Store, sha256};

/// What could not be done with which blob.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Syncing or renaming failed.
    #[error(transparent)]
    Durable(#[from] DurableError),
    /// There is no such blob.
    #[error("blob {0} is not in the store")]
    Missing(Digest),
    /// The content is not what its digest says. The content has been removed.
    #[error("blob {expected} has the digest {found}")]
    Mismatch {
        /// The digest asked for.
        expected: Digest,
        /// The digest of the bytes.
        found: Digest,
    },
    /// More bytes than were announced.
    #[error("blob {digest} is longer than the announced {size} bytes")]
    TooLong {
        /// The blob.
        digest: Digest,
        /// Its announced size, bytes.
        size: u64,
    },
    /// Fewer bytes than were announced.
    #[error("blob {digest} has {found} of {size} bytes")]
    Incomplete {
        /// The blob.
        digest: Digest,
        /// Bytes so far.
        found: u64,
        /// Its announced size, bytes.
        size: u64,
    },
    /// A blob or source is longer than its reader allows.
    #[error("{} is longer than {max} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit, bytes.
        max: u64,
    },
    /// Another task or process is fetching the same blob.
    #[error("blob {0} is being written by another task or process")]
    Busy(Digest),
}

impl StoreError {
    /// True when the disk has no space or quota left.
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::File { source, .. } => {
                matches!(source.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
            }
            Self::Durable(source) => source.is_no_space(),
            _ => false,
        }
    }
}

pub(crate) fn failed(
    action: &'static str,
    path: &std::path::Path,
) -> impl FnOnce(std::io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::File { action, path, source }
}

#[cfg(test)]
mod tests;

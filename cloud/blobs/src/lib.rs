//! The cloud's blobs: uploads, encryption and signature, downloads.
//!
//! A blob is encrypted while it arrives, with a fresh AES-256 key and IV, and signed with the item signing
//! key; its plain bytes never reach the disk. The file is named by the SHA3-256 of its encrypted bytes, so
//! a row of the store and the file it describes can never disagree: a file without row is left over from a
//! crash and removed at start.
//!
//! Downloads need no certificate but a token that expires; they serve the encrypted bytes with ranges.
//! Limits: 16 GiB a blob, 4 MiB for those that are read back (index, manifest, configurations).

mod counter;
mod download;
mod error;
mod tree;
mod upload;
mod url;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aos_blob_crypto::{Decryption, Recipe};
use aos_cloud_pki::Pki;
use aos_cloud_store::{Blob, Store};
use aos_ids::Digest;

pub use counter::Counter;
pub use error::BlobError;
pub use tree::Tree;
pub use url::TOKEN_LIFETIME;

/// Block algorithm of all blobs.
pub const BLOCK_ALG: &str = "AES256/CBC/pkcs7";
/// Signature algorithm of all blobs.
pub const SIGN_ALG: &str = "RSA/SHA256";
/// Largest blob that is read back, bytes.
pub const MAX_DOCUMENT: u64 = 4 * 1024 * 1024;

const KEY_PURPOSE: &str = "blob key";

/// The blob store. Cheap to clone.
#[derive(Clone)]
pub struct Blobs {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    store: Store,
    pki: Arc<Pki>,
    counter: Counter,
}

impl Blobs {
    /// Opens the blob folder `dir` and removes what an interrupted upload left there.
    pub async fn open(dir: &Path, store: Store, pki: Arc<Pki>, counter: Counter) -> Result<Self, BlobError> {
        aos_durable::create_dir(dir, 0o700)?;
        let known = store.blob_files().await?;
        let entries = std::fs::read_dir(dir).map_err(BlobError::io("list", dir))?;
        for entry in entries {
            let path = entry.map_err(BlobError::io("list", dir))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if !known.contains(name) {
                tracing::info!("removing the left-over blob file {name}");
                std::fs::remove_file(&path).map_err(BlobError::io("remove", &path))?;
            }
        }
        Ok(Self { inner: Arc::new(Inner { dir: dir.to_owned(), store, pki, counter }) })
    }

    /// The blob with this digest.
    pub async fn find(&self, digest: &Digest) -> Result<Option<Blob>, BlobError> {
        Ok(self.inner.store.blob(&digest.to_string()).await?)
    }

    /// The content key of a blob, for the Unit that may have it.
    pub fn content_key(&self, blob: &Blob) -> Result<Vec<u8>, BlobError> {
        Ok(self.inner.pki.vault().open(KEY_PURPOSE, &blob.sealed_key)?)
    }

    /// The plain bytes of a small blob; `None` when there is no such blob.
    pub async fn document(&self, digest: &Digest) -> Result<Option<Vec<u8>>, BlobError> {
        let Some(blob) = self.find(digest).await? else { return Ok(None) };
        if blob.size > MAX_DOCUMENT {
            return Err(BlobError::TooLarge { digest: *digest, size: blob.size, max: MAX_DOCUMENT });
        }
        let key = self.content_key(&blob)?;
        let path = self.path(&blob);
        let digest = *digest;
        let read = move || {
            let file = std::fs::File::open(&path).map_err(BlobError::io("open", &path))?;
            let recipe = Recipe {
                digest,
                served: None,
                decryption: Some(Decryption::new(BLOCK_ALG, &key, &blob.iv)?),
                signature: None,
            };
            let mut plain = Vec::new();
            aos_blob_crypto::unpack(file, &mut plain, &recipe, std::time::SystemTime::now())?;
            Ok(plain)
        };
        tokio::task::spawn_blocking(read).await.map_err(|_| BlobError::Interrupted)?.map(Some)
    }

    /// Waits until all downloads so far are in the store's counters.
    pub async fn flush_counters(&self) {
        self.inner.counter.flush().await;
    }

    fn path(&self, blob: &Blob) -> PathBuf {
        self.inner.dir.join(&blob.sha3)
    }
}

#[cfg(test)]
mod tests;

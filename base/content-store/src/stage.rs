//! Files being made before they become blobs.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use aos_durable::rename_durably;
use aos_ids::Digest;
use rustix::fs::{FlockOperation, flock};

use crate::partial::is_named;
use crate::store::{CHUNK, Hash, hash_all};
use crate::{Store, StoreError, failed};

const PREFIX: &str = ".stage-";

/// A file being made; dropped without [`Stage::commit`] it is removed.
#[derive(Debug)]
pub struct Stage {
    store: Store,
    path: PathBuf,
    file: File,
    published: bool,
}

impl Stage {
    pub(crate) fn new(store: &Store) -> Result<Self, StoreError> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        loop {
            let unique = COUNTER.fetch_add(1, Ordering::Relaxed);
            let path = store.partial_dir().join(format!("{PREFIX}{}-{unique}", std::process::id()));
            match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path) {
                // A left-over of an earlier process with this id, which another one may just be removing.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(failed("create", &path)(e)),
                Ok(file) => {
                    let locked = flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
                    // Before it was locked, another process may have taken it for abandoned.
                    if locked && is_named(&file, &path)? {
                        return Ok(Self { store: store.clone(), path, file, published: false });
                    }
                }
            }
        }
    }

    /// The file to write to, open for reading and writing.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Its path, for programs and calls that want one. Its content must be written in place.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Verifies the SHA-256 of the content and makes it the blob `digest`.
    pub fn commit(mut self, digest: &Digest) -> Result<(), StoreError> {
        self.file.rewind().map_err(failed("read", &self.path))?;
        let (found, _) = hash_all(&self.file).map_err(failed("read", &self.path))?;
        if found != *digest {
            return Err(StoreError::Mismatch { expected: *digest, found });
        }
        self.publish(digest)
    }

    /// Appends all of `source`, at most `max` bytes.
    pub(crate) fn copy_from(&mut self, mut source: impl Read, max: u64) -> Result<(Digest, u64), StoreError> {
        let (mut hash, mut length, mut chunk) = (Hash::new(), 0_u64, vec![0; CHUNK]);
        loop {
            let n = match source.read(&mut chunk) {
                Ok(0) => return Ok((hash.finish(), length)),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(failed("copy into", &self.path)(e)),
            };
            length += n as u64;
            if length > max {
                return Err(StoreError::TooLarge { path: self.path.clone(), max });
            }
            hash.update(&chunk[..n]);
            self.file.write_all(&chunk[..n]).map_err(failed("write", &self.path))?;
        }
    }

    /// Makes content that is known to have `digest` the blob.
    pub(crate) fn publish(mut self, digest: &Digest) -> Result<(), StoreError> {
        self.file.sync_all().map_err(failed("sync", &self.path))?;
        rename_durably(&self.path, &self.store.path(digest))?;
        self.published = true;
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !self.published {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Removes staged files whose writer is dead, that is, which nobody has locked.
pub(crate) fn remove_abandoned(dir: &Path) -> Result<(), StoreError> {
    for entry in std::fs::read_dir(dir).map_err(failed("list", dir))? {
        let path = entry.map_err(failed("list", dir))?.path();
        if !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(PREFIX.as_bytes())) {
            continue;
        }
        let Ok(file) = File::open(&path) else { continue };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = std::fs::remove_file(&path);
        }
    }
    Ok(())
}

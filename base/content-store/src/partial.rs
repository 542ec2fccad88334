//! Downloads under way.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aos_durable::{fsync_dir, remove_durably, rename_durably};
use aos_ids::Digest;
use rustix::fs::{FlockOperation, flock};

use crate::store::hash_all;
use crate::{Store, StoreError, failed};

/// A download that is open for appending. Dropping it keeps what was appended.
///
/// Bytes count as downloaded when they are in the file, not when they are synced: after a power cut the tail
/// may be missing or wrong, which the digest reveals at the end.
#[derive(Debug)]
pub struct PartialBlob {
    store: Store,
    digest: Digest,
    size: u64,
    length: u64,
    path: PathBuf,
    file: File,
}

impl PartialBlob {
    pub(crate) fn open(store: &Store, digest: &Digest, size: u64) -> Result<Self, StoreError> {
        let path = store.partial_dir().join(digest.hex());
        let file = open_locked(&path, true)?.ok_or(StoreError::Busy(*digest))?;
        let length = file.metadata().map_err(failed("examine", &path))?.len();
        let mut partial = Self { store: store.clone(), digest: *digest, size, length, path, file };
        if length > size {
            partial.restart()?;
        }
        Ok(partial)
    }

    /// Bytes that are there; the offset to go on from.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// True when nothing is there yet.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The announced size, bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// True when all announced bytes are there.
    pub fn is_complete(&self) -> bool {
        self.length == self.size
    }

    /// The file, for reading what was downloaded.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends bytes. More than the announced size is refused as a whole.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let length = self.length.saturating_add(bytes.len() as u64);
        if length > self.size {
            return Err(StoreError::TooLong { digest: self.digest, size: self.size });
        }
        if let Err(e) = self.file.write_all(bytes) {
            // A part may have been written, on a full disk for example.
            self.length = self.file.metadata().map_err(failed("examine", &self.path))?.len();
            return Err(failed("write", &self.path)(e));
        }
        self.length = length;
        Ok(())
    }

    /// Throws the bytes away and starts over at 0.
    pub fn restart(&mut self) -> Result<(), StoreError> {
        self.file.set_len(0).map_err(failed("truncate", &self.path))?;
        self.length = 0;
        Ok(())
    }

    /// Removes the download.
    pub fn discard(self) -> Result<(), StoreError> {
        Ok(remove_durably(&self.path)?)
    }

    /// Verifies the SHA-256 of the bytes and makes them the blob. Wrong content is removed.
    pub fn finish(mut self) -> Result<(), StoreError> {
        if !self.is_complete() {
            return Err(StoreError::Incomplete { digest: self.digest, found: self.length, size: self.size });
        }
        self.file.rewind().map_err(failed("read", &self.path))?;
        let (found, _) = hash_all(&self.file).map_err(failed("read", &self.path))?;
        if found != self.digest {
            remove_durably(&self.path)?;
            return Err(StoreError::Mismatch { expected: self.digest, found });
        }
        self.file.sync_all().map_err(failed("sync", &self.path))?;
        Ok(rename_durably(&self.path, &self.store.path(&self.digest))?)
    }
}

/// Opens (and with `create` makes) a file and locks it; `None` when someone else holds the lock.
fn open_locked(path: &Path, create: bool) -> Result<Option<File>, StoreError> {
    loop {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(create)
            .mode(0o600)
            .open(path)
            .map_err(failed("open", path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(e) => return Err(failed("lock", path)(e.into())),
        }
        // Between opening and locking its former owner may have finished or removed it.
        if is_named(&file, path)? {
            if create {
                fsync_dir(path.parent().unwrap_or(path))?;
            }
            return Ok(Some(file));
        }
    }
}

/// True when `path` still names the open `file`.
pub(crate) fn is_named(file: &File, path: &Path) -> Result<bool, StoreError> {
    let open = file.metadata().map_err(failed("examine", path))?;
    match std::fs::metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (open.dev(), open.ino())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(failed("examine", path)(e)),
    }
}

/// Removes a download that nobody has open; answers whether it did.
pub(crate) fn remove_unless_open(store: &Store, digest: &Digest) -> Result<bool, StoreError> {
    let path = store.partial_dir().join(digest.hex());
    match open_locked(&path, false) {
        Ok(Some(_locked)) => {
            remove_durably(&path)?;
            Ok(true)
        }
        Ok(None) => Ok(false),
        Err(StoreError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

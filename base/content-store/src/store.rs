//! The store: complete blobs.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use aos_durable::{create_dir, read_bounded, remove_durably};
use aos_ids::Digest;
use aws_lc_rs::digest::{Context, SHA256};

use crate::{PartialBlob, Stage, StoreError, failed};

/// Bytes hashed or copied at once.
pub(crate) const CHUNK: usize = 64 * 1024;

/// The SHA-256 of bytes in memory.
pub fn sha256(bytes: &[u8]) -> Digest {
    let mut hash = Hash::new();
    hash.update(bytes);
    hash.finish()
}

/// A running SHA-256.
pub(crate) struct Hash(Context);

impl Hash {
    pub(crate) fn new() -> Self {
        Self(Context::new(&SHA256))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> Digest {
        let mut value = [0; 32];
        value.copy_from_slice(self.0.finish().as_ref());
        Digest::from_sha256(value)
    }
}

/// The digest and length of everything `source` yields.
pub(crate) fn hash_all(mut source: impl Read) -> io::Result<(Digest, u64)> {
    let (mut hash, mut length, mut chunk) = (Hash::new(), 0, vec![0; CHUNK]);
    loop {
        match source.read(&mut chunk) {
            Ok(0) => return Ok((hash.finish(), length)),
            Ok(n) => {
                hash.update(&chunk[..n]);
                length += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// What a collection removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Collected {
    /// Complete blobs and partial downloads removed.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// A folder of blobs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Opens or makes the store (directories with mode 0700) and removes what dead writers left unfinished;
    /// partial downloads stay.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let store = Self { root: root.into() };
        create_dir(&store.blob_dir(), 0o700)?;
        create_dir(&store.partial_dir(), 0o700)?;
        crate::stage::remove_abandoned(&store.partial_dir())?;
        Ok(store)
    }

    pub(crate) fn blob_dir(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    pub(crate) fn partial_dir(&self) -> PathBuf {
        self.root.join("partial")
    }

    /// The folder of the store.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the blob lies, or would lie.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.blob_dir().join(digest.hex())
    }

    /// True when the blob is there. Its bytes were verified when it came in, not now.
    pub fn has(&self, digest: &Digest) -> bool {
        self.path(digest).is_file()
    }

    /// Length of the blob, bytes; `None` when it is not there.
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        std::fs::metadata(self.path(digest)).ok().filter(std::fs::Metadata::is_file).map(|found| found.len())
    }

    /// Opens the blob for reading.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, StoreError> {
        let path = self.path(digest);
        match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(StoreError::Missing(*digest)),
            other => other.map_err(failed("open", &path)),
        }
    }

    /// The content of a small blob of at most `max` bytes, verified once more.
    pub fn read(&self, digest: &Digest, max: u64) -> Result<Vec<u8>, StoreError> {
        let content = read_bounded(&self.path(digest), max)?.ok_or(StoreError::Missing(*digest))?;
        let found = sha256(&content);
        if found == *digest {
            return Ok(content);
        }
        self.remove(digest)?;
        Err(StoreError::Mismatch { expected: *digest, found })
    }

    /// Reads the whole blob and compares its digest; `false` when it is missing or damaged.
    pub fn verify(&self, digest: &Digest) -> Result<bool, StoreError> {
        match self.open_blob(digest) {
            Ok(file) => {
                let (found, _) = hash_all(file).map_err(failed("read", &self.path(digest)))?;
                Ok(found == *digest)
            }
            Err(StoreError::Missing(_)) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Opens the download of a blob of `size` bytes: a new one, or the one an earlier run began.
    ///
    /// One that is longer than `size` starts over. [`StoreError::Busy`] when someone else has it open.
    pub fn partial(&self, digest: &Digest, size: u64) -> Result<PartialBlob, StoreError> {
        PartialBlob::open(self, digest, size)
    }

    /// Bytes an earlier run downloaded of this blob; 0 when none.
    pub fn partial_len(&self, digest: &Digest) -> u64 {
        std::fs::metadata(self.partial_dir().join(digest.hex())).map_or(0, |found| found.len())
    }

    /// Begins a file whose content is made here; it becomes a blob by [`Stage::commit`].
    pub fn stage(&self) -> Result<Stage, StoreError> {
        Stage::new(self)
    }

    /// Takes the bytes of `source`, at most `max`, as a blob; answers its digest and length. With `expected`
    /// other content is refused.
    pub fn import(
        &self,
        source: impl Read,
        max: u64,
        expected: Option<&Digest>,
    ) -> Result<(Digest, u64), StoreError> {
        let mut stage = self.stage()?;
        let (digest, length) = stage.copy_from(source, max)?;
        if let Some(expected) = expected.filter(|expected| **expected != digest) {
            return Err(StoreError::Mismatch { expected: *expected, found: digest });
        }
        stage.publish(&digest)?;
        Ok((digest, length))
    }

    /// Copies a file into the store; answers its digest and length.
    pub fn import_file(&self, path: &Path) -> Result<(Digest, u64), StoreError> {
        let source = File::open(path).map_err(failed("open", path))?;
        self.import(source, u64::MAX, None)
    }

    /// Puts bytes into the store; answers their digest.
    pub fn import_bytes(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = sha256(bytes);
        if !self.has(&digest) {
            self.import(bytes, bytes.len() as u64, Some(&digest))?;
        }
        Ok(digest)
    }

    /// Removes a blob; a missing one is no error.
    pub fn remove(&self, digest: &Digest) -> Result<(), StoreError> {
        Ok(remove_durably(&self.path(digest))?)
    }

    /// The digests of all complete blobs, unordered.
    pub fn list(&self) -> Result<Vec<Digest>, StoreError> {
        named_files(&self.blob_dir()).map(|files| files.into_iter().map(|(digest, _)| digest).collect())
    }

    /// Bytes of all complete blobs and partial downloads.
    pub fn total_size(&self) -> Result<u64, StoreError> {
        let sum = |files: Vec<(Digest, u64)>| files.iter().map(|(_, size)| size).sum::<u64>();
        Ok(sum(named_files(&self.blob_dir())?) + sum(named_files(&self.partial_dir())?))
    }

    /// Removes every blob and partial download that `keep` does not name; downloads that are open stay.
    pub fn collect(&self, keep: &HashSet<Digest>) -> Result<Collected, StoreError> {
        let mut collected = Collected::default();
        let mut count = |size| {
            collected.blobs += 1;
            collected.bytes += size;
        };
        for (digest, size) in named_files(&self.blob_dir())? {
            if !keep.contains(&digest) {
                self.remove(&digest)?;
                count(size);
            }
        }
        for (digest, size) in named_files(&self.partial_dir())? {
            if !keep.contains(&digest) && crate::partial::remove_unless_open(self, &digest)? {
                count(size);
            }
        }
        Ok(collected)
    }
}

/// The files of `dir` that are named like a digest, with their sizes.
fn named_files(dir: &Path) -> Result<Vec<(Digest, u64)>, StoreError> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed("list", dir))? {
        let entry = entry.map_err(failed("list", dir))?;
        let Some(digest) = entry.file_name().to_str().and_then(|hex| format!("sha256:{hex}").parse().ok())
        else {
            continue;
        };
        match entry.metadata() {
            Ok(found) if found.is_file() => files.push((digest, found.len())),
            Ok(_) => {}
            // Removed by someone else since.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed("examine", &entry.path())(e)),
        }
    }
    Ok(files)
}

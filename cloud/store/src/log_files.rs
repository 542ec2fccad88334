//! The bytes of received logs: files in a folder beside the database.
//!
//! A file is complete and synced before the row that names it is committed, so a row never points to
//! nothing. A file without row is left over from a crash, or of a message that came twice: it is removed
//! by whoever made it, or when the store opens.

use std::collections::HashSet;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::Connection;
use uuid::Uuid;

use crate::error::StoreError;
use crate::logs::LogPart;
use crate::thread::{Store, Work, sql};

const DIR_MODE: u32 = 0o700;

/// The folder.
#[derive(Debug)]
pub(crate) struct LogFiles {
    dir: PathBuf,
}

impl LogFiles {
    /// Opens the folder and removes what no row of the database names.
    pub(crate) fn open(dir: &Path, connection: &Connection) -> Result<Self, StoreError> {
        aos_durable::create_dir(dir, DIR_MODE)?;
        let known: HashSet<String> = connection
            .prepare("SELECT file FROM log_parts")
            .and_then(|mut statement| statement.query_map([], |row| row.get(0)).and_then(Iterator::collect))
            .map_err(sql("list received logs"))?;
        let failed = |source| StoreError::Folder { path: dir.to_owned(), source };
        for entry in std::fs::read_dir(dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if !known.contains(name) {
                aos_durable::remove_durably(&path)?;
            }
        }
        Ok(Self { dir: dir.to_owned() })
    }

    /// Removes files; what comes back after a crash, or cannot be removed, goes when the store opens next.
    pub(crate) fn remove(&self, names: &[String]) {
        for name in names {
            let path = self.dir.join(name);
            match std::fs::remove_file(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!("a received log stays behind: {}: {error}", path.display()),
            }
        }
    }
}

/// Bytes of a log that are on disk but named by no row yet. Dropped like this they go.
#[derive(Debug)]
pub struct StagedLog {
    files: Arc<LogFiles>,
    name: String,
    bytes: u64,
    file: Option<File>,
    kept: bool,
}

impl StagedLog {
    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends; blocks.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.files.dir.join(&self.name);
        let Some(file) = &mut self.file else { return Err(StoreError::Closed) };
        file.write_all(bytes).map_err(|source| StoreError::Folder { path, source })?;
        self.bytes += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(())
    }

    /// Makes the bytes durable; blocks. Nothing can be appended after it.
    pub fn sync(&mut self) -> Result<(), StoreError> {
        let path = self.files.dir.join(&self.name);
        let Some(file) = self.file.take() else { return Ok(()) };
        file.sync_all().map_err(|source| StoreError::Folder { path, source })?;
        Ok(aos_durable::fsync_dir(&self.files.dir)?)
    }
}

impl Drop for StagedLog {
    fn drop(&mut self) {
        if !self.kept {
            self.files.remove(std::slice::from_ref(&self.name));
        }
    }
}

impl Work<'_> {
    /// Adds a complete file to a request. Older requests of the Unit make room; false, and the file goes, when
    /// that is not enough.
    pub fn add_log_part(
        &mut self,
        unit_id: &str,
        id: &str,
        node_id: &str,
        part: u64,
        mut staged: StagedLog,
    ) -> Result<bool, StoreError> {
        staged.sync()?;
        let (file, bytes) = (staged.name.clone(), staged.bytes);
        let row = LogPart { node_id: node_id.to_owned(), part, file, bytes };
        // When the commit fails after this, the file goes with the next start.
        staged.kept = self.put_log_part(unit_id, id, &row)?;
        Ok(staged.kept)
    }
}

impl Store {
    /// Starts a file for bytes of a log; blocks.
    pub fn stage_log(&self) -> Result<StagedLog, StoreError> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let files = Arc::clone(&self.files);
        let name = Uuid::new_v4().simple().to_string();
        let path = files.dir.join(&name);
        let file = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| StoreError::Folder { path, source })?;
        Ok(StagedLog { files, name, bytes: 0, file: Some(file), kept: false })
    }

    /// Opens the bytes of a part as they arrived; blocks. They may be gone when newer logs needed the room.
    pub fn open_log_part(&self, part: &LogPart) -> Result<Option<File>, StoreError> {
        let path = self.files.dir.join(&part.file);
        match File::open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StoreError::Folder { path, source }),
        }
    }
}

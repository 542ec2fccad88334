//! The bytes of received logs: files in a folder beside the database.
//!
//! A file is complete and synced before the row that names it is committed, so a row never points to
//! nothing. A file without row is left over from a crash, or of a message that came twice: it is removed
//! when the store opens, or by whoever made it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use uuid::Uuid;

use crate::error::StoreError;
use crate::thread::sql;

const FILE_MODE: u32 = 0o600;
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

    /// A name that was never used.
    pub(crate) fn fresh_name() -> String {
        Uuid::new_v4().simple().to_string()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Writes a whole file; on return it is on disk.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        Ok(aos_durable::write_atomic(&self.path(name), bytes, FILE_MODE)?)
    }

    /// Removes files; what cannot be removed goes when the store opens next.
    pub(crate) fn remove(&self, names: &[String]) {
        for name in names {
            if let Err(error) = aos_durable::remove_durably(&self.path(name)) {
                tracing::warn!("a received log stays behind: {error}");
            }
        }
    }
}

//! Durable files and SQLite databases.
//!
//! Everything a component must still know after a power cut goes through here. A file is replaced as a whole:
//! written beside its target, synced, renamed over it, and the directory synced; a reader sees the old or the
//! new content, never a part. Databases run in WAL mode with `synchronous=FULL`, so a committed transaction
//! stays. All calls block; a current-thread runtime should only make them where a short stall is acceptable.

mod database;
mod files;

pub use database::{Database, Migrations, Opened};
pub use files::{
    append_synced, create_dir, fsync_dir, read_bounded, remove_durably, rename_durably, write_atomic,
};
pub use rusqlite;

use std::path::PathBuf;

/// What could not be done, and with which path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DurableError {
    /// A file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried, such as `write`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is longer than its reader allows.
    #[error("{} has {size} bytes, at most {max} are allowed", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size, bytes.
        size: u64,
        /// The limit, bytes.
        max: u64,
    },
    /// SQLite refused.
    #[error("cannot {action} database {}: {source}", path.display())]
    Database {
        /// What was tried, such as `open`.
        action: &'static str,
        /// The database file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// The database is damaged or is no database; its content was left alone.
    #[error("database {} is damaged: {detail}; restore it or move it away", path.display())]
    Corrupt {
        /// The database file.
        path: PathBuf,
        /// SQLite's finding.
        detail: String,
    },
    /// The schema could not be brought to the present version.
    #[error("cannot migrate database {}: {source}", path.display())]
    Migration {
        /// The database file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<rusqlite_migration::Error>,
    },
}

impl DurableError {
    /// True when the disk has no space or quota left.
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::File { source, .. } => {
                matches!(source.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
            }
            Self::Database { source, .. } => {
                source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;

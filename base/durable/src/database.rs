//! Opening of SQLite databases.
//!
//! One connection per database and process, owned by one task. The page cache is 64 KiB and empty after opening:
//! the databases of a Unit are small, the system caches their files anyway, and a page kept here as well only
//! costs memory. A transaction that changes more than the cache holds writes the rest to the WAL before its end.

use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};
use rusqlite_migration::M;

use crate::DurableError;
use crate::files::create_dir;

/// Largest file that is checked as a whole when opened, bytes: the check reads everything.
const MAX_CHECKED: u64 = 16 * 1024 * 1024;

/// The schema as an ordered list of SQL scripts. Entries are only ever appended: the number of applied ones
/// is the database's version.
#[derive(Debug, Clone, Copy)]
pub struct Migrations(&'static [&'static str]);

impl Migrations {
    /// Wraps the scripts, oldest first.
    pub const fn new(scripts: &'static [&'static str]) -> Self {
        Self(scripts)
    }
}

/// An opened database and what had to be done for it.
#[derive(Debug)]
pub struct Opened {
    /// The connection, migrated and configured.
    pub connection: Connection,
    /// Where a damaged predecessor was moved to.
    pub set_aside: Option<PathBuf>,
}

/// Opens databases.
#[derive(Debug)]
pub struct Database;

impl Database {
    /// Opens or makes the database (mode 0600, its directory 0700) and brings its schema up to date.
    ///
    /// A damaged file is left alone and reported as [`DurableError::Corrupt`]. So is a database of a newer
    /// program version, as [`DurableError::Migration`].
    pub fn open(path: &Path, migrations: &Migrations) -> Result<Connection, DurableError> {
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            create_dir(dir, 0o700)?;
        }
        // SQLite would make the file with the umask's mode, and its WAL and SHM files with the file's mode.
        std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
            .map_err(|source| DurableError::File { action: "create", path: path.to_owned(), source })?;
        let mut connection = configured(path)?;
        let steps = migrations.0.iter().copied().map(M::up).collect();
        rusqlite_migration::Migrations::new(steps).to_latest(&mut connection).map_err(
            |source| match source {
                rusqlite_migration::Error::RusqliteError { err, .. } if is_corrupt(&err) => {
                    corrupt(path, &err)
                }
                other => DurableError::Migration { path: path.to_owned(), source: Box::new(other) },
            },
        )?;
        Self::shrink(&connection).map_err(failed("configure", path))?;
        Ok(connection)
    }

    /// Gives back the memory of cached pages; they are read again when they are needed. For after much work.
    pub fn shrink(connection: &Connection) -> rusqlite::Result<()> {
        connection.execute_batch("PRAGMA shrink_memory")
    }

    /// Like [`Database::open`], but moves a damaged file (with its WAL) to `<path>.corrupt-<n>` and starts
    /// with an empty database. Only for content that can be asked for again.
    pub fn open_or_set_aside(path: &Path, migrations: &Migrations) -> Result<Opened, DurableError> {
        match Self::open(path, migrations) {
            Ok(connection) => Ok(Opened { connection, set_aside: None }),
            Err(DurableError::Corrupt { detail, .. }) => {
                let aside = set_aside(path)?;
                tracing::warn!(
                    "database {} is damaged ({detail}): moved to {}, starting empty",
                    path.display(),
                    aside.display()
                );
                let connection = Self::open(path, migrations)?;
                Ok(Opened { connection, set_aside: Some(aside) })
            }
            Err(e) => Err(e),
        }
    }

    /// A database in memory with the same schema and settings, for tests and for what need not last.
    pub fn in_memory(migrations: &Migrations) -> Result<Connection, DurableError> {
        let path = Path::new(":memory:");
        let mut connection = Connection::open_in_memory().map_err(failed("open", path))?;
        connection.pragma_update(None, "foreign_keys", true).map_err(failed("configure", path))?;
        let steps = migrations.0.iter().copied().map(M::up).collect();
        rusqlite_migration::Migrations::new(steps)
            .to_latest(&mut connection)
            .map_err(|source| DurableError::Migration { path: path.to_owned(), source: Box::new(source) })?;
        Ok(connection)
    }
}

fn configured(path: &Path) -> Result<Connection, DurableError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(failed("open", path))?;
    let configure = || -> rusqlite::Result<()> {
        connection.busy_timeout(Duration::from_secs(5))?;
        // Answers with the mode in force, so it is a query and not an update.
        connection.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(()))?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.pragma_update(None, "cache_size", -64)?;
        // A WAL that grew once is cut back at the next checkpoint.
        connection.query_row("PRAGMA journal_size_limit=1048576", [], |_| Ok(()))?;
        Ok(())
    };
    configure().map_err(failed("configure", path))?;
    if std::fs::metadata(path).map_or(0, |found| found.len()) > MAX_CHECKED {
        return Ok(connection);
    }
    let finding: String =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed("check", path))?;
    if finding == "ok" {
        return Ok(connection);
    }
    Err(DurableError::Corrupt { path: path.to_owned(), detail: finding })
}

fn is_corrupt(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

fn corrupt(path: &Path, error: &rusqlite::Error) -> DurableError {
    DurableError::Corrupt { path: path.to_owned(), detail: error.to_string() }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(rusqlite::Error) -> DurableError {
    let path = path.to_owned();
    move |source| {
        if is_corrupt(&source) {
            corrupt(&path, &source)
        } else {
            DurableError::Database { action, path, source }
        }
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn set_aside(path: &Path) -> Result<PathBuf, DurableError> {
    /// Damaged files kept; more than a few only fill the disk, so the last slot is reused.
    const KEPT: u32 = 8;
    let slot = |n: u32| with_suffix(path, &format!(".corrupt-{n}"));
    let aside = (1..KEPT).map(slot).find(|aside| !aside.exists()).unwrap_or_else(|| slot(KEPT));
    crate::files::rename_durably(path, &aside)?;
    for suffix in ["-wal", "-shm"] {
        let side_file = with_suffix(path, suffix);
        if side_file.exists() {
            crate::files::rename_durably(&side_file, &with_suffix(&aside, suffix))?;
        }
    }
    Ok(aside)
}

//! The database `<workingDir>/cm.db`: its schema, and the one-row documents in it.
//!
//! Everything here is written before it is acted on. Tables of a module are read and written by that module's
//! store; each module has a connection of its own to the same file. A document that cannot be read is
//! reported as absent and logged: the cloud sends it again, and an empty wish must never be made of it.

use std::path::Path;

use aos_cloud_protocol::MessageType;
use aos_durable::{Database, DurableError, Migrations};
use rusqlite::{Connection, OptionalExtension};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The schema; scripts are only ever appended.
const MIGRATIONS: Migrations = Migrations::new(&[
    include_str!("database/001_first.sql"),
    include_str!("database/002_link.sql"),
    include_str!("database/003_states.sql"),
]);

/// The update's position and wish.
pub const UPDATE: &str = "update";
/// The Unit's identity, as IAM told it last.
pub const SYSTEM_ID: &str = "system_id";
/// What the launcher was asked to run.
pub const REQUESTS: &str = "requests";

/// Why something could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database could not be opened.
    #[error("opening the database")]
    Open(#[from] DurableError),
    /// SQLite refused.
    #[error("using the database")]
    Sql(#[from] rusqlite::Error),
    /// A value could not be written as JSON.
    #[error("writing a record as JSON")]
    Json(#[from] serde_json::Error),
    /// A message to the cloud cannot be written.
    #[error("writing a {kind} for the cloud")]
    Message {
        /// Its kind.
        kind: MessageType,
        /// Why.
        #[source]
        source: aos_cloud_protocol::WriteError,
    },
    /// The cloud has not acknowledged what is kept for it, and there is no room for more.
    #[error("no room for another {0} until the cloud has acknowledged earlier messages")]
    OutboxFull(MessageType),
}

/// Opens the database; a damaged one is put aside, since everything in it is asked for again by the cloud or
/// told again by the nodes.
pub fn open(path: &Path) -> Result<Connection, StoreError> {
    Ok(Database::open_or_set_aside(path, &MIGRATIONS)?.connection)
}

/// Reads a document; an unreadable one counts as absent.
pub fn document<T: DeserializeOwned>(db: &Connection, name: &str) -> Result<Option<T>, StoreError> {
    let text: Option<String> =
        db.query_row("SELECT content FROM documents WHERE name = ?1", [name], |row| row.get(0)).optional()?;
    Ok(text.and_then(|text| match serde_json::from_str(&text) {
        Ok(value) => Some(value),
        Err(error) => {
            tracing::error!("stored document '{name}' is unreadable and ignored: {error}");
            None
        }
    }))
}

/// Writes a document; durable when this returns.
pub fn put_document<T: Serialize>(db: &Connection, name: &str, value: &T) -> Result<(), StoreError> {
    let text = serde_json::to_string(value)?;
    let sql = "INSERT INTO documents (name, content) VALUES (?1, ?2)
               ON CONFLICT (name) DO UPDATE SET content = excluded.content";
    db.prepare_cached(sql)?.execute((name, text))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::updatemanager::machine::{Machine, Stored, UpdateState};

    // An unreadable stored wish must not become "remove everything" (CM-11).
    #[test]
    fn an_unreadable_update_is_no_update() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cm.db");
        let db = open(&path).unwrap();
        let stored = Stored { state: UpdateState::Finalizing, desired: Some(Default::default()), applied: 3 };
        put_document(&db, UPDATE, &stored).unwrap();
        assert_eq!(document::<Stored>(&db, UPDATE).unwrap(), Some(stored));
        db.execute("UPDATE documents SET content = substr(content, 1, 40)", []).unwrap();
        let again = open(&path).unwrap();
        let machine = Machine::new(document(&again, UPDATE).unwrap());
        assert_eq!(machine.state(), UpdateState::None);
        assert_eq!(machine.desired(), None);
    }
}

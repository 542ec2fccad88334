//! Table `instances`.

use rusqlite::Connection;

use super::records::{Change, Key, Record};
use crate::database::StoreError;

/// Stores all changes or none, as part of a transaction when there is one.
pub fn apply(db: &mut Connection, changes: &[Change]) -> Result<(), StoreError> {
    if changes.is_empty() {
        return Ok(());
    }
    let transaction = db.savepoint()?;
    for ((ident, version), record) in changes {
        let ident = serde_json::to_string(ident)?;
        match record {
            Some(record) => transaction.execute(
                "INSERT OR REPLACE INTO instances (ident, version, content) VALUES (?1, ?2, ?3)",
                (ident, version, serde_json::to_string(record)?),
            )?,
            None => transaction
                .execute("DELETE FROM instances WHERE ident = ?1 AND version = ?2", (ident, version))?,
        };
    }
    transaction.commit()?;
    Ok(())
}

/// Reads all records. Rows that cannot be read are left out: the next wish makes them anew.
pub fn load(db: &Connection) -> Result<Vec<(Key, Record)>, StoreError> {
    let mut rows = db.prepare("SELECT ident, version, content FROM instances")?;
    let rows = rows.query_map([], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?))
    })?;
    let mut records = Vec::new();
    for row in rows {
        let (ident, version, content) = row?;
        if let (Ok(ident), Ok(record)) = (serde_json::from_str(&ident), serde_json::from_str(&content)) {
            records.push(((ident, version), record));
        } else {
            tracing::warn!("stored instance {ident} is unreadable and left out");
        }
    }
    Ok(records)
}

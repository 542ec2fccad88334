//! Audit trail and Unit events: append-only, bounded.

use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::params;

use crate::error::StoreError;
use crate::thread::{Store, Work, sql};

/// Entries of the audit trail that are kept.
const AUDIT_KEPT: i64 = 100_000;
/// Events of one kind that are kept per Unit.
const EVENTS_KEPT: i64 = 256;

/// Now, microseconds since 1970 UTC.
pub fn now_micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// Who did what to what.
#[derive(Debug, Clone)]
pub struct AuditEntry {
    /// Account or component.
    pub actor: String,
    /// A short verb phrase.
    pub action: &'static str,
    /// What it was done to.
    pub object: String,
    /// More, without secrets.
    pub detail: String,
}

pub(crate) fn audit(work: &Work<'_>, entry: &AuditEntry) -> Result<(), StoreError> {
    work.sql
        .prepare_cached("INSERT INTO audit (at, actor, action, object, detail) VALUES (?1, ?2, ?3, ?4, ?5)")
        .and_then(|mut statement| {
            statement.execute(params![now_micros(), entry.actor, entry.action, entry.object, entry.detail])
        })
        .map_err(sql("write the audit trail"))?;
    let newest = work.sql.last_insert_rowid();
    work.sql
        .prepare_cached("DELETE FROM audit WHERE id <= ?1")
        .and_then(|mut statement| statement.execute([newest - AUDIT_KEPT]))
        .map_err(sql("shorten the audit trail"))?;
    Ok(())
}

impl Store {
    /// Appends to the audit trail.
    pub async fn audit(&self, entry: AuditEntry) -> Result<(), StoreError> {
        self.transact(move |work| audit(work, &entry)).await
    }

    /// Keeps a message of a Unit among the newest of its kind (256 are kept).
    pub async fn add_event(&self, unit_id: &str, kind: &str, body: String) -> Result<(), StoreError> {
        let (unit_id, kind) = (unit_id.to_owned(), kind.to_owned());
        self.transact(move |work| {
            work.sql
                .prepare_cached("INSERT INTO unit_events (unit_id, kind, at, body) VALUES (?1, ?2, ?3, ?4)")
                .and_then(|mut statement| statement.execute(params![unit_id, kind, now_micros(), body]))
                .map_err(sql("keep an event"))?;
            work.sql
                .prepare_cached(
                    "DELETE FROM unit_events WHERE unit_id = ?1 AND kind = ?2 AND id <= \
                     (SELECT id FROM unit_events WHERE unit_id = ?1 AND kind = ?2 \
                      ORDER BY id DESC LIMIT 1 OFFSET ?3)",
                )
                .and_then(|mut statement| statement.execute(params![unit_id, kind, EVENTS_KEPT]))
                .map_err(sql("drop old events"))?;
            Ok(())
        })
        .await
    }

    /// The newest messages of a kind, newest first: (time, body).
    pub async fn events(
        &self,
        unit_id: &str,
        kind: &str,
        limit: u32,
    ) -> Result<Vec<(i64, String)>, StoreError> {
        let (unit_id, kind) = (unit_id.to_owned(), kind.to_owned());
        self.transact(move |work| {
            let mut statement = work
                .sql
                .prepare_cached(
                    "SELECT at, body FROM unit_events WHERE unit_id = ?1 AND kind = ?2 \
                     ORDER BY id DESC LIMIT ?3",
                )
                .map_err(sql("read events"))?;
            let rows = statement
                .query_map(params![unit_id, kind, limit], |row| Ok((row.get(0)?, row.get(1)?)))
                .and_then(Iterator::collect)
                .map_err(sql("read events"))?;
            Ok(rows)
        })
        .await
    }
}

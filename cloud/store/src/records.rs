//! Audit trail and Unit events: append-only, bounded.

use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::params;

use crate::error::StoreError;
use crate::thread::{Store, Work, sql};

/// Entries of the audit trail that are kept.
const AUDIT_KEPT: i64 = 100_000;
/// Events of one kind that are kept per Unit.
pub const EVENTS_KEPT: i64 = 256;
/// Bytes of events of one kind that are kept per Unit, when some of them are large.
pub const EVENT_BYTES_KEPT: i64 = 4 * 1024 * 1024;
/// Events up to this size need not be counted: all that are kept make [`EVENT_BYTES_KEPT`] at most.
const SMALL: usize = 16 * 1024;
/// Kind of the events about messages that could not be used.
pub const INVALID: &str = "invalid";

/// A message of a Unit that was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRow {
    /// Counts events of all Units.
    pub id: i64,
    /// When it was stored, microseconds.
    pub at: i64,
    /// Its content, JSON.
    pub body: String,
}

/// Longest text in a Unit's own words that is kept or logged, characters.
const BRIEF: usize = 500;

/// A text of a Unit, fit for a log and a row: cut, and on one line.
pub fn brief(text: &str) -> String {
    let mut characters = text.chars();
    let visible = |character: char| if character.is_control() { ' ' } else { character };
    let mut brief: String = characters.by_ref().take(BRIEF).map(visible).collect();
    if characters.next().is_some() {
        brief.push('…');
    }
    brief
}

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

    /// Keeps a message of a Unit among the newest of its kind ([`EVENTS_KEPT`] are kept).
    pub async fn add_event(&self, unit_id: &str, kind: &str, body: String) -> Result<(), StoreError> {
        let (unit_id, kind) = (unit_id.to_owned(), kind.to_owned());
        self.transact(move |work| work.add_events(&unit_id, &kind, std::slice::from_ref(&body))).await
    }

    /// Keeps that a Unit sent something that cannot be used: `kind` is the word for it on the wire, or
    /// `frame`.
    pub async fn note_invalid(&self, unit_id: &str, kind: &str, reason: &str) -> Result<(), StoreError> {
        let (unit_id, kind, reason) = (unit_id.to_owned(), kind.to_owned(), reason.to_owned());
        self.transact(move |work| work.note_invalid(&unit_id, &kind, &reason)).await
    }

    /// Messages of a kind with a number above `after`, oldest first.
    pub async fn events_after(
        &self,
        unit_id: &str,
        kind: &str,
        after: i64,
        limit: u32,
    ) -> Result<Vec<EventRow>, StoreError> {
        self.read_events(unit_id, kind, after, limit, "ASC").await
    }

    /// The newest `limit` messages of a kind, oldest first.
    pub async fn events_latest(
        &self,
        unit_id: &str,
        kind: &str,
        limit: u32,
    ) -> Result<Vec<EventRow>, StoreError> {
        let mut rows = self.read_events(unit_id, kind, 0, limit, "DESC").await?;
        rows.reverse();
        Ok(rows)
    }

    async fn read_events(
        &self,
        unit_id: &str,
        kind: &str,
        after: i64,
        limit: u32,
        order: &'static str,
    ) -> Result<Vec<EventRow>, StoreError> {
        let (unit_id, kind) = (unit_id.to_owned(), kind.to_owned());
        self.transact(move |work| {
            let query = format!(
                "SELECT id, at, body FROM unit_events WHERE unit_id = ?1 AND kind = ?2 AND id > ?3 \
                 ORDER BY id {order} LIMIT ?4"
            );
            let mut statement = work.sql.prepare_cached(&query).map_err(sql("read events"))?;
            statement
                .query_map(params![unit_id, kind, after, limit], |row| {
                    Ok(EventRow { id: row.get(0)?, at: row.get(1)?, body: row.get(2)? })
                })
                .and_then(Iterator::collect)
                .map_err(sql("read events"))
        })
        .await
    }
}

impl Work<'_> {
    /// Keeps messages of a Unit among the newest of their kind ([`EVENTS_KEPT`] are kept).
    pub fn add_events(&mut self, unit_id: &str, kind: &str, bodies: &[String]) -> Result<(), StoreError> {
        // What would be dropped again at once need not be written.
        let kept = usize::try_from(EVENTS_KEPT).unwrap_or(usize::MAX);
        let bodies = &bodies[bodies.len().saturating_sub(kept)..];
        if bodies.is_empty() {
            return Ok(());
        }
        for body in bodies {
            self.sql
                .prepare_cached("INSERT INTO unit_events (unit_id, kind, at, body) VALUES (?1, ?2, ?3, ?4)")
                .and_then(|mut statement| statement.execute(params![unit_id, kind, now_micros(), body]))
                .map_err(sql("keep an event"))?;
        }
        self.sql
            .prepare_cached(
                "DELETE FROM unit_events WHERE unit_id = ?1 AND kind = ?2 AND id <= \
                 (SELECT id FROM unit_events WHERE unit_id = ?1 AND kind = ?2 \
                  ORDER BY id DESC LIMIT 1 OFFSET ?3)",
            )
            .and_then(|mut statement| statement.execute(params![unit_id, kind, EVENTS_KEPT]))
            .map_err(sql("drop old events"))?;
        if bodies.iter().all(|body| body.len() <= SMALL) {
            return Ok(());
        }
        self.sql
            .prepare_cached(
                "DELETE FROM unit_events WHERE id IN (SELECT id FROM (SELECT id, \
                 sum(octet_length(body)) OVER (ORDER BY id DESC) AS total FROM unit_events \
                 WHERE unit_id = ?1 AND kind = ?2) WHERE total > ?3)",
            )
            .and_then(|mut statement| statement.execute(params![unit_id, kind, EVENT_BYTES_KEPT]))
            .map(|_| ())
            .map_err(sql("drop large old events"))
    }

    /// Keeps that a message of a Unit could not be used; see [`Store::note_invalid`].
    pub fn note_invalid(&mut self, unit_id: &str, kind: &str, reason: &str) -> Result<(), StoreError> {
        self.note_all_invalid(unit_id, kind, &[reason])
    }

    /// Keeps that parts of a message of a Unit could not be used, each with its reason.
    pub fn note_all_invalid(
        &mut self,
        unit_id: &str,
        kind: &str,
        reasons: &[impl AsRef<str>],
    ) -> Result<(), StoreError> {
        let body = |reason: &str| serde_json::json!({"kind": kind, "reason": brief(reason)}).to_string();
        let bodies: Vec<String> = reasons.iter().map(|reason| body(reason.as_ref())).collect();
        self.add_events(unit_id, INVALID, &bodies)
    }
}

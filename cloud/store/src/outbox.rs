//! Messages to Units that must not be lost.
//!
//! A row lives from the change that causes it until the Unit has acknowledged it, whatever happens to
//! sessions and to the cloud meanwhile; it is sent under the same transaction every time, so a Unit that
//! remembers transactions lets it take effect once. Limits per Unit: 256 rows, 8 MiB.

use aos_ids::Txn;
use rusqlite::{OptionalExtension as _, Row, params};

use crate::error::StoreError;
use crate::records::now_micros;
use crate::thread::{Store, Work, sql};

/// Rows that may wait for one Unit.
pub const MAX_ROWS: i64 = 256;
/// Bytes that may wait for one Unit.
pub const MAX_BYTES: i64 = 8 * 1024 * 1024;

/// A message to keep.
#[derive(Clone)]
pub struct NewOutgoing {
    /// Its transaction.
    pub txn: Txn,
    /// The word for its kind on the wire.
    pub kind: &'static str,
    /// The exchange it belongs to.
    pub correlation_id: Option<String>,
    /// A newer message with the same slot replaces this one.
    pub slot: Option<String>,
    /// Body as JSON, sealed when `sealed`.
    pub body: Vec<u8>,
    /// True when the body holds secrets and is sealed.
    pub sealed: bool,
}

/// A message that waits.
#[derive(Clone, PartialEq, Eq)]
pub struct OutboxRow {
    /// Counts messages of the cloud; a Unit's rows are sent in this order.
    pub seq: i64,
    /// Its transaction, the same for every attempt.
    pub txn: Txn,
    /// The word for its kind on the wire.
    pub kind: String,
    /// The exchange it belongs to.
    pub correlation_id: Option<String>,
    /// Body as JSON, sealed when `sealed`.
    pub body: Vec<u8>,
    /// True when the body is sealed.
    pub sealed: bool,
    /// When it was made, microseconds.
    pub created_at: i64,
    /// When it was handed to a session last, microseconds.
    pub sent_at: Option<i64>,
}

impl std::fmt::Debug for OutboxRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} ({} bytes)", self.kind, self.txn, self.body.len())
    }
}

impl Work<'_> {
    /// Puts a message into a Unit's outbox; sessions hear of it after the commit. A full outbox is a
    /// conflict.
    pub fn push(&mut self, unit_id: &str, new: &NewOutgoing) -> Result<(), StoreError> {
        let failed = sql("keep a message for a Unit");
        if let Some(slot) = &new.slot {
            self.sql
                .prepare_cached("DELETE FROM outbox WHERE unit_id = ?1 AND slot = ?2")
                .and_then(|mut statement| statement.execute([unit_id, slot]))
                .map_err(&failed)?;
        }
        let (rows, bytes): (i64, i64) = self
            .sql
            .prepare_cached("SELECT count(*), coalesce(sum(length(body)), 0) FROM outbox WHERE unit_id = ?1")
            .and_then(|mut statement| statement.query_row([unit_id], |row| Ok((row.get(0)?, row.get(1)?))))
            .map_err(&failed)?;
        let length = i64::try_from(new.body.len()).unwrap_or(i64::MAX);
        if rows >= MAX_ROWS || bytes.saturating_add(length) > MAX_BYTES {
            return Err(StoreError::Conflict("too many messages wait for the Unit".to_owned()));
        }
        self.sql
            .prepare_cached(
                "INSERT INTO outbox (unit_id, txn, kind, correlation_id, slot, body, sealed, created_at, \
                 state) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 'waiting')",
            )
            .and_then(|mut statement| {
                statement.execute(params![
                    unit_id,
                    new.txn.as_str(),
                    new.kind,
                    new.correlation_id,
                    new.slot,
                    new.body,
                    new.sealed,
                    now_micros()
                ])
            })
            .map_err(&failed)?;
        let seq = self.sql.last_insert_rowid();
        self.sql
            .prepare_cached("UPDATE units SET outbox = ?2 WHERE id = ?1")
            .and_then(|mut statement| statement.execute(params![unit_id, seq]))
            .map_err(&failed)?;
        self.touch(unit_id)
    }

    /// Takes the messages of an exchange back; what was sent already cannot be called back.
    pub fn withdraw(&mut self, unit_id: &str, correlation_id: &str) -> Result<(), StoreError> {
        self.sql
            .prepare_cached("DELETE FROM outbox WHERE unit_id = ?1 AND correlation_id = ?2")
            .and_then(|mut statement| statement.execute([unit_id, correlation_id]))
            .map(|_| ())
            .map_err(sql("take back a message for a Unit"))
    }
}

const COLUMNS: &str = "seq, txn, kind, correlation_id, body, sealed, created_at, sent_at";

fn outgoing(row: &Row<'_>) -> rusqlite::Result<Option<OutboxRow>> {
    // Written by `push` only, so it is always a transaction.
    let Ok(txn) = Txn::new(row.get::<_, String>(1)?) else { return Ok(None) };
    Ok(Some(OutboxRow {
        seq: row.get(0)?,
        txn,
        kind: row.get(2)?,
        correlation_id: row.get(3)?,
        body: row.get(4)?,
        sealed: row.get(5)?,
        created_at: row.get(6)?,
        sent_at: row.get(7)?,
    }))
}

impl Store {
    /// The messages that wait for a Unit and are newer than `after`, in order.
    pub async fn outbox(&self, unit_id: &str, after: i64) -> Result<Vec<OutboxRow>, StoreError> {
        let unit_id = unit_id.to_owned();
        self.transact(move |work| {
            let query = format!("SELECT {COLUMNS} FROM outbox WHERE unit_id = ?1 AND seq > ?2 ORDER BY seq");
            let failed = sql("read the messages for a Unit");
            let mut statement = work.sql.prepare_cached(&query).map_err(&failed)?;
            let rows: Vec<Option<OutboxRow>> = statement
                .query_map(params![unit_id, after], outgoing)
                .and_then(Iterator::collect)
                .map_err(&failed)?;
            Ok(rows.into_iter().flatten().collect())
        })
        .await
    }

    /// The Unit has acknowledged a message: it is not sent again, and its flow goes on.
    pub async fn outbox_acked(&self, unit_id: &str, txn: &Txn) -> Result<(), StoreError> {
        self.settle(unit_id, txn, None, true).await
    }

    /// A message is given up: its flow ends with `reason`.
    pub async fn outbox_failed(&self, unit_id: &str, txn: &Txn, reason: &str) -> Result<(), StoreError> {
        self.settle(unit_id, txn, Some(reason), true).await
    }

    /// A message got no acknowledgement on a live link: it stays for the next connection, and its flow shows
    /// `reason`.
    pub async fn outbox_parked(&self, unit_id: &str, txn: &Txn, reason: &str) -> Result<(), StoreError> {
        self.settle(unit_id, txn, Some(reason), false).await
    }

    async fn settle(
        &self,
        unit_id: &str,
        txn: &Txn,
        reason: Option<&str>,
        done: bool,
    ) -> Result<(), StoreError> {
        let (unit_id, txn, reason) = (unit_id.to_owned(), txn.clone(), reason.map(str::to_owned));
        self.transact(move |work| {
            let failed = sql("settle a message for a Unit");
            let query = format!("SELECT {COLUMNS} FROM outbox WHERE unit_id = ?1 AND txn = ?2");
            let row = work
                .sql
                .prepare_cached(&query)
                .and_then(|mut statement| {
                    statement.query_row([unit_id.as_str(), txn.as_str()], outgoing).optional()
                })
                .map_err(&failed)?;
            // A message that was replaced or taken back is settled already.
            let Some(row) = row.flatten() else { return Ok(()) };
            let settled = if done {
                work.sql
                    .prepare_cached("DELETE FROM outbox WHERE seq = ?1")
                    .and_then(|mut statement| statement.execute([row.seq]))
            } else {
                work.sql
                    .prepare_cached("UPDATE outbox SET state = 'parked', reason = ?2 WHERE seq = ?1")
                    .and_then(|mut statement| statement.execute(params![row.seq, reason]))
            };
            settled.map_err(&failed)?;
            crate::flows::settled(work, &unit_id, &row, reason.as_deref(), done)?;
            work.touch(&unit_id)
        })
        .await
    }

    /// Notes that messages up to `seq` were handed to a session of the Unit.
    pub async fn outbox_sent(&self, unit_id: &str, seq: i64) -> Result<(), StoreError> {
        let unit_id = unit_id.to_owned();
        self.transact(move |work| {
            work.sql
                .prepare_cached("UPDATE outbox SET sent_at = ?3 WHERE unit_id = ?1 AND seq <= ?2")
                .and_then(|mut statement| statement.execute(params![unit_id, seq, now_micros()]))
                .map(|_| ())
                .map_err(sql("note that messages were sent"))
        })
        .await
    }
}

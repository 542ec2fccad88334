//! States of instances: the newest of each, the one before it, and whether an update has arrived.
//!
//! A Unit names its instances itself, so it may name ever new ones. Limits per Unit: 4096 states and 128 MiB;
//! of more the ones go that changed longest ago.

use rusqlite::{OptionalExtension as _, Row, params};

use crate::error::StoreError;
use crate::records::now_micros;
use crate::thread::{Store, Work, sql};

/// States kept for one Unit.
pub const MAX_STATES: i64 = 4096;
/// Bytes of states kept for one Unit, those before the present ones included.
pub const MAX_STATE_BYTES: i64 = 128 * 1024 * 1024;

/// Names an instance of a Unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateKey {
    /// The item.
    pub item: String,
    /// The subject.
    pub subject: String,
    /// Number of the instance.
    pub instance: u64,
}

/// Who made a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateSource {
    /// The Unit told of it.
    Unit,
    /// It was set here and goes to the Unit.
    Cloud,
}

/// A state to keep.
#[derive(Clone)]
pub struct NewState {
    /// Checksum text.
    pub checksum: String,
    /// Content.
    pub content: String,
    /// Who made it.
    pub source: StateSource,
}

/// The state of an instance. `Debug` does not show the content.
#[derive(Clone, PartialEq, Eq)]
pub struct StateRow {
    /// The instance.
    pub key: StateKey,
    /// Checksum text.
    pub checksum: String,
    /// Content.
    pub content: String,
    /// When it became the present one, microseconds.
    pub changed_at: i64,
    /// Who made it.
    pub source: StateSource,
    /// Checksum and time of the one before.
    pub previous: Option<(String, i64)>,
    /// Delivery of an update: `none`, `waiting`, `delivered` or `failed`.
    pub delivery: String,
    /// Why the delivery failed, or what delays it.
    pub reason: Option<String>,
    /// When a state of the Unit was rejected last, and why.
    pub rejected: Option<(i64, String)>,
}

impl std::fmt::Debug for StateRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateRow")
            .field("key", &self.key)
            .field("checksum", &self.checksum)
            .field("bytes", &self.content.len())
            .field("delivery", &self.delivery)
            .finish_non_exhaustive()
    }
}

const COLUMNS: &str = "item, subject, instance, checksum, content, changed_at, source, previous_checksum, \
     previous_at, delivery, reason, rejected_at, rejected";

fn state(row: &Row<'_>) -> rusqlite::Result<StateRow> {
    let source: String = row.get(6)?;
    let pair = |first: Option<String>, at: Option<i64>| first.zip(at);
    Ok(StateRow {
        key: StateKey {
            item: row.get(0)?,
            subject: row.get(1)?,
            instance: row.get::<_, i64>(2)?.unsigned_abs(),
        },
        checksum: row.get(3)?,
        content: row.get(4)?,
        changed_at: row.get(5)?,
        source: if source == "cloud" { StateSource::Cloud } else { StateSource::Unit },
        previous: pair(row.get(7)?, row.get(8)?),
        delivery: row.get(9)?,
        reason: row.get(10)?,
        rejected: pair(row.get(12)?, row.get(11)?).map(|(reason, at)| (at, reason)),
    })
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Work<'_> {
    /// The state of an instance.
    pub fn state(&self, unit_id: &str, key: &StateKey) -> Result<Option<StateRow>, StoreError> {
        let query = format!(
            "SELECT {COLUMNS} FROM states WHERE unit_id = ?1 AND item = ?2 AND subject = ?3 AND instance = ?4"
        );
        self.sql
            .prepare_cached(&query)
            .and_then(|mut statement| {
                statement
                    .query_row(params![unit_id, key.item, key.subject, number(key.instance)], state)
                    .optional()
            })
            .map_err(sql("read a state"))
    }

    /// Keeps a state; the present one becomes the previous one. A state of the cloud waits for delivery.
    pub fn put_state(&mut self, unit_id: &str, key: &StateKey, new: &NewState) -> Result<(), StoreError> {
        let (source, delivery) = match new.source {
            StateSource::Unit => ("unit", "none"),
            StateSource::Cloud => ("cloud", "waiting"),
        };
        self.sql
            .prepare_cached(
                "INSERT INTO states (unit_id, item, subject, instance, checksum, content, changed_at, \
                 source, delivery) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) \
                 ON CONFLICT (unit_id, item, subject, instance) DO UPDATE SET \
                 previous_checksum = checksum, previous = content, previous_at = changed_at, \
                 checksum = excluded.checksum, content = excluded.content, \
                 changed_at = excluded.changed_at, source = excluded.source, \
                 delivery = excluded.delivery, reason = NULL",
            )
            .and_then(|mut statement| {
                statement.execute(params![
                    unit_id,
                    key.item,
                    key.subject,
                    number(key.instance),
                    new.checksum,
                    new.content,
                    now_micros(),
                    source,
                    delivery
                ])
            })
            .map_err(sql("keep a state"))?;
        self.sql
            .prepare_cached(
                "DELETE FROM states WHERE rowid IN (SELECT row FROM (SELECT rowid AS row, \
                 row_number() OVER newest AS number, \
                 sum(octet_length(content) + coalesce(octet_length(previous), 0)) OVER newest AS total \
                 FROM states WHERE unit_id = ?1 WINDOW newest AS (ORDER BY changed_at DESC, rowid DESC)) \
                 WHERE number > ?2 OR total > ?3)",
            )
            .and_then(|mut statement| statement.execute(params![unit_id, MAX_STATES, MAX_STATE_BYTES]))
            .map_err(sql("drop old states"))?;
        self.touch(unit_id)
    }

    /// Notes that a state of the Unit was not accepted.
    pub fn reject_state(&mut self, unit_id: &str, key: &StateKey, reason: &str) -> Result<(), StoreError> {
        self.sql
            .prepare_cached(
                "UPDATE states SET rejected_at = ?5, rejected = ?6 \
                 WHERE unit_id = ?1 AND item = ?2 AND subject = ?3 AND instance = ?4",
            )
            .and_then(|mut statement| {
                let (instance, now) = (number(key.instance), now_micros());
                statement.execute(params![unit_id, key.item, key.subject, instance, now, reason])
            })
            .map_err(sql("note a rejected state"))?;
        self.touch(unit_id)
    }

    /// Ties the delivery of a state to the message that carries it.
    pub fn state_sent_as(&mut self, unit_id: &str, key: &StateKey, txn: &str) -> Result<(), StoreError> {
        self.sql
            .prepare_cached(
                "UPDATE states SET txn = ?5 \
                 WHERE unit_id = ?1 AND item = ?2 AND subject = ?3 AND instance = ?4",
            )
            .and_then(|mut statement| {
                statement.execute(params![unit_id, key.item, key.subject, number(key.instance), txn])
            })
            .map(|_| ())
            .map_err(sql("note the delivery of a state"))
    }

    /// What became of the message that carries a state.
    pub(crate) fn state_settled(
        &mut self,
        unit_id: &str,
        txn: &str,
        delivery: &str,
        reason: Option<&str>,
    ) -> Result<(), StoreError> {
        self.sql
            .prepare_cached(
                "UPDATE states SET delivery = ?3, reason = ?4 WHERE unit_id = ?1 AND txn = ?2 \
                 AND delivery = 'waiting'",
            )
            .and_then(|mut statement| statement.execute(params![unit_id, txn, delivery, reason]))
            .map(|_| ())
            .map_err(sql("note the delivery of a state"))
    }
}

impl Store {
    /// The state of an instance.
    pub async fn state(&self, unit_id: &str, key: &StateKey) -> Result<Option<StateRow>, StoreError> {
        let (unit_id, key) = (unit_id.to_owned(), key.clone());
        self.transact(move |work| work.state(&unit_id, &key)).await
    }

    /// The states of all instances of a Unit.
    pub async fn states(&self, unit_id: &str) -> Result<Vec<StateRow>, StoreError> {
        let unit_id = unit_id.to_owned();
        self.transact(move |work| {
            let query =
                format!("SELECT {COLUMNS} FROM states WHERE unit_id = ?1 ORDER BY item, subject, instance");
            let failed = sql("read states");
            let mut statement = work.sql.prepare_cached(&query).map_err(&failed)?;
            statement.query_map([unit_id], state).and_then(Iterator::collect).map_err(&failed)
        })
        .await
    }
}

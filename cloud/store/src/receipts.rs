//! Messages of Units that have taken effect.
//!
//! A Unit repeats what it saw no acknowledgement for, also after a crash of either end. The transaction of a
//! message is therefore kept in the same commit as its effect, and a message that is known has no second
//! effect. The newest [`REMEMBERED`] of each Unit are kept: a Unit never has more messages unacknowledged.

use aos_ids::Txn;
use rusqlite::params;

use crate::error::StoreError;
use crate::thread::{Store, Work, sql};

/// Messages remembered for each Unit.
pub const REMEMBERED: i64 = 1024;

/// Names a message that is about to take effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The Unit that sent it.
    pub unit_id: String,
    /// Its transaction.
    pub txn: Txn,
}

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received<T> {
    /// It took effect now.
    Now(T),
    /// It took effect before; nothing was done.
    AlreadyDone,
}

impl Store {
    /// Lets a message take effect: `effect` and the memory of it are one atomic step. A message that took
    /// effect before is left alone. One of a Unit that was deprovisioned meanwhile is refused: what it tells
    /// belongs to a life that was forgotten.
    pub async fn receive<T, E>(
        &self,
        receipt: Receipt,
        effect: impl FnOnce(&mut Work<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<Received<T>, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        self.transact(move |work| {
            if !remember(work, &receipt)? {
                return Ok(Received::AlreadyDone);
            }
            effect(work).map(Received::Now)
        })
        .await
    }

    /// The newest messages of a Unit that took effect, oldest first.
    pub async fn remembered(&self, unit_id: &str) -> Result<Vec<Txn>, StoreError> {
        let unit_id = unit_id.to_owned();
        self.transact(move |work| {
            let failed = sql("read the messages that took effect");
            let mut statement = work
                .sql
                .prepare_cached("SELECT txn FROM received_txns WHERE unit_id = ?1 ORDER BY seq")
                .map_err(&failed)?;
            let rows: Vec<String> = statement
                .query_map([unit_id], |row| row.get(0))
                .and_then(Iterator::collect)
                .map_err(&failed)?;
            Ok(rows.into_iter().filter_map(|txn| Txn::new(txn).ok()).collect())
        })
        .await
    }
}

/// Notes that a message takes effect; false when it did before.
fn remember(work: &Work<'_>, receipt: &Receipt) -> Result<bool, StoreError> {
    let failed = sql("remember a message");
    let unit = receipt.unit_id.as_str();
    let served = work
        .sql
        .prepare_cached("SELECT 1 FROM units WHERE id = ?1 AND status = 'provisioned'")
        .and_then(|mut statement| statement.exists([unit]))
        .map_err(&failed)?;
    if !served {
        return Err(StoreError::NotFound("provisioned Unit"));
    }
    let newest: i64 = work
        .sql
        .prepare_cached("SELECT coalesce(max(seq), 0) FROM received_txns WHERE unit_id = ?1")
        .and_then(|mut statement| statement.query_row([unit], |row| row.get(0)))
        .map_err(&failed)?;
    let added = work
        .sql
        .prepare_cached(
            "INSERT INTO received_txns (unit_id, txn, seq) VALUES (?1, ?2, ?3) \
             ON CONFLICT (unit_id, txn) DO NOTHING",
        )
        .and_then(|mut statement| statement.execute(params![unit, receipt.txn.as_str(), newest + 1]))
        .map_err(&failed)?;
    if added == 0 {
        return Ok(false);
    }
    work.sql
        .prepare_cached("DELETE FROM received_txns WHERE unit_id = ?1 AND seq <= ?2")
        .and_then(|mut statement| statement.execute(params![unit, newest + 1 - REMEMBERED]))
        .map_err(&failed)?;
    Ok(true)
}

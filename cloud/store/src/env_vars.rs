//! Overridden environment variables: one set per Unit, and what became of it on each instance.

use rusqlite::{OptionalExtension as _, Row, params};

use crate::error::StoreError;
use crate::records::now_micros;
use crate::thread::{Store, Work, sql};

/// Statuses kept for one Unit.
pub const MAX_ENV_STATUSES: i64 = 4096;

/// The set of a Unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvOverrides {
    /// The filters with their variables, JSON as in `overrideEnvVars.items`.
    pub items: String,
    /// The exchange that carries the set.
    pub correlation_id: String,
    /// `waiting`, `delivered` or `failed`.
    pub state: String,
    /// Why it failed, or what delays it.
    pub reason: Option<String>,
    /// When it was set, microseconds.
    pub set_at: i64,
    /// What the Unit reported.
    pub statuses: Vec<EnvStatus>,
}

/// What became of one variable of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvStatus {
    /// The item.
    pub item: String,
    /// The subject.
    pub subject: String,
    /// Number of the instance.
    pub instance: u64,
    /// Name of the variable.
    pub name: String,
    /// Why it failed, JSON; none on success.
    pub error: Option<String>,
    /// When it was reported, microseconds.
    pub at: i64,
}

impl Work<'_> {
    /// Replaces the set of a Unit; what was reported about the last one goes.
    pub fn set_env(&mut self, unit_id: &str, items: &str, correlation_id: &str) -> Result<(), StoreError> {
        let failed = sql("keep overridden variables");
        self.sql
            .execute(
                "INSERT INTO env_overrides (unit_id, items, correlation_id, state, set_at) \
                 VALUES (?1, ?2, ?3, 'waiting', ?4) ON CONFLICT (unit_id) DO UPDATE SET \
                 items = excluded.items, correlation_id = excluded.correlation_id, \
                 state = excluded.state, reason = NULL, set_at = excluded.set_at",
                params![unit_id, items, correlation_id, now_micros()],
            )
            .map_err(&failed)?;
        self.sql.execute("DELETE FROM env_statuses WHERE unit_id = ?1", [unit_id]).map_err(&failed)?;
        self.touch(unit_id)
    }

    /// The exchange of the present set.
    pub fn env_exchange(&self, unit_id: &str) -> Result<Option<String>, StoreError> {
        self.sql
            .prepare_cached("SELECT correlation_id FROM env_overrides WHERE unit_id = ?1")
            .and_then(|mut statement| statement.query_row([unit_id], |row| row.get(0)).optional())
            .map_err(sql("read overridden variables"))
    }

    /// Keeps what the Unit reported; false when there is no room for one of them.
    pub fn put_env_statuses(&mut self, unit_id: &str, statuses: &[EnvStatus]) -> Result<bool, StoreError> {
        let failed = sql("keep the status of a variable");
        for status in statuses {
            self.sql
                .prepare_cached(
                    "INSERT INTO env_statuses (unit_id, item, subject, instance, name, error, at) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) \
                     ON CONFLICT (unit_id, item, subject, instance, name) DO UPDATE SET \
                     error = excluded.error, at = excluded.at",
                )
                .and_then(|mut statement| {
                    statement.execute(params![
                        unit_id,
                        status.item,
                        status.subject,
                        i64::try_from(status.instance).unwrap_or(i64::MAX),
                        status.name,
                        status.error,
                        status.at
                    ])
                })
                .map_err(&failed)?;
        }
        // Rows of one message share their time, so a tie goes to the order of storing.
        let dropped = self
            .sql
            .execute(
                "DELETE FROM env_statuses WHERE rowid IN (SELECT rowid FROM env_statuses \
                 WHERE unit_id = ?1 ORDER BY at DESC, rowid DESC LIMIT -1 OFFSET ?2)",
                params![unit_id, MAX_ENV_STATUSES],
            )
            .map_err(&failed)?;
        self.touch(unit_id)?;
        Ok(dropped == 0)
    }

    pub(crate) fn env_settled(
        &mut self,
        unit_id: &str,
        correlation_id: &str,
        state: &str,
        reason: Option<&str>,
    ) -> Result<(), StoreError> {
        self.sql
            .execute(
                "UPDATE env_overrides SET state = ?3, reason = ?4 \
                 WHERE unit_id = ?1 AND correlation_id = ?2",
                params![unit_id, correlation_id, state, reason],
            )
            .map(|_| ())
            .map_err(sql("note the delivery of variables"))
    }
}

fn status(row: &Row<'_>) -> rusqlite::Result<EnvStatus> {
    Ok(EnvStatus {
        item: row.get(0)?,
        subject: row.get(1)?,
        instance: row.get::<_, i64>(2)?.unsigned_abs(),
        name: row.get(3)?,
        error: row.get(4)?,
        at: row.get(5)?,
    })
}

impl Store {
    /// The set of a Unit with all that was reported about it.
    pub async fn env_overrides(&self, unit_id: &str) -> Result<Option<EnvOverrides>, StoreError> {
        let unit_id = unit_id.to_owned();
        self.transact(move |work| {
            let failed = sql("read overridden variables");
            let found = work
                .sql
                .query_row(
                    "SELECT items, correlation_id, state, reason, set_at FROM env_overrides \
                     WHERE unit_id = ?1",
                    [&unit_id],
                    |row| {
                        Ok(EnvOverrides {
                            items: row.get(0)?,
                            correlation_id: row.get(1)?,
                            state: row.get(2)?,
                            reason: row.get(3)?,
                            set_at: row.get(4)?,
                            statuses: Vec::new(),
                        })
                    },
                )
                .optional()
                .map_err(&failed)?;
            let Some(mut found) = found else { return Ok(None) };
            let mut statement = work
                .sql
                .prepare_cached(
                    "SELECT item, subject, instance, name, error, at FROM env_statuses \
                     WHERE unit_id = ?1 ORDER BY item, subject, instance, name",
                )
                .map_err(&failed)?;
            found.statuses =
                statement.query_map([&unit_id], status).and_then(Iterator::collect).map_err(&failed)?;
            Ok(Some(found))
        })
        .await
    }
}

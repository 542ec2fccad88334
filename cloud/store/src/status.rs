//! Reported status and desired status of Units.

use rusqlite::{OptionalExtension as _, params};

use crate::assignments::{AssignedItem, assigned};
use crate::error::StoreError;
use crate::node_tasks::NodeWish;
use crate::records::now_micros;
use crate::sessions::mark_online;
use crate::thread::{Store, Work, sql};
use crate::unit_configs::UnitConfigRow;
use crate::units::{Unit, find};

/// Merged status of a Unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusRow {
    /// Merged state, JSON.
    pub merged: String,
    /// When the cloud stored it, microseconds.
    pub observed_at: i64,
}

/// The desired status that was made last for a Unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredRow {
    /// Counts different desired statuses of the Unit, from 1.
    pub revision: i64,
    /// The message body, JSON.
    pub payload: String,
    /// When it was sent last, microseconds.
    pub sent_at: Option<i64>,
    /// When the Unit acknowledged it, microseconds.
    pub acked_at: Option<i64>,
}

/// All that a status page shows, read at one moment.
#[derive(Debug, Clone)]
pub struct UnitView {
    /// The Unit.
    pub unit: Unit,
    /// Its merged status.
    pub status: Option<StatusRow>,
    /// Its desired status.
    pub desired: Option<DesiredRow>,
    /// What is assigned to it.
    pub assigned: Vec<AssignedItem>,
}

fn status(work: &Work<'_>, unit_id: &str) -> Result<Option<StatusRow>, StoreError> {
    work.sql
        .prepare_cached("SELECT merged, observed_at FROM unit_status WHERE unit_id = ?1")
        .and_then(|mut statement| {
            statement
                .query_row([unit_id], |row| Ok(StatusRow { merged: row.get(0)?, observed_at: row.get(1)? }))
                .optional()
        })
        .map_err(sql("read a status"))
}

fn desired(work: &Work<'_>, unit_id: &str) -> Result<Option<DesiredRow>, StoreError> {
    work.sql
        .prepare_cached("SELECT revision, payload, sent_at, acked_at FROM desired WHERE unit_id = ?1")
        .and_then(|mut statement| {
            statement
                .query_row([unit_id], |row| {
                    Ok(DesiredRow {
                        revision: row.get(0)?,
                        payload: row.get(1)?,
                        sent_at: row.get(2)?,
                        acked_at: row.get(3)?,
                    })
                })
                .optional()
        })
        .map_err(sql("read a desired status"))
}

/// What a desired status is computed from.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The Unit.
    pub unit: Unit,
    /// What is assigned to it.
    pub assigned: Vec<AssignedItem>,
    /// The configuration set last.
    pub unit_config: Option<UnitConfigRow>,
    /// What its nodes shall be.
    pub nodes: Vec<NodeWish>,
    /// What it reported.
    pub status: Option<StatusRow>,
}

impl Work<'_> {
    /// Merged status of a Unit.
    pub fn status(&self, unit_id: &str) -> Result<Option<StatusRow>, StoreError> {
        status(self, unit_id)
    }

    /// What is assigned to a Unit, and its own subject.
    pub fn assigned(&self, unit_id: &str) -> Result<(String, Vec<AssignedItem>), StoreError> {
        let unit = find(self, unit_id)?.ok_or(StoreError::NotFound("Unit"))?;
        Ok((unit.subject_id, assigned(self, &unit.id)?))
    }

    /// Replaces the merged status of a Unit. With `known_in` it is known in that session: then the Unit is
    /// online, if the session is still its newest one.
    pub fn put_status(
        &mut self,
        unit_id: &str,
        merged: &str,
        known_in: Option<i64>,
    ) -> Result<(), StoreError> {
        self.sql
            .prepare_cached(
                "INSERT INTO unit_status (unit_id, merged, observed_at) VALUES (?1, ?2, ?3) \
                 ON CONFLICT (unit_id) DO UPDATE SET merged = excluded.merged, \
                 observed_at = excluded.observed_at",
            )
            .and_then(|mut statement| statement.execute(params![unit_id, merged, now_micros()]))
            .map_err(sql("store a status"))?;
        self.touch(unit_id)?;
        known_in.map_or(Ok(()), |session| mark_online(self, unit_id, session))
    }
}

impl Store {
    /// Makes the desired status current that `build` computes from what is wanted; a new revision when it
    /// differs from the last one. Returns the current row.
    pub async fn renew_desired<E: Send + 'static>(
        &self,
        unit_id: &str,
        build: impl FnOnce(&Wanted) -> Result<String, E> + Send + 'static,
    ) -> Result<Result<DesiredRow, E>, StoreError> {
        let unit_id = unit_id.to_owned();
        self.transact(move |work| {
            let unit = find(work, &unit_id)?.ok_or(StoreError::NotFound("Unit"))?;
            let wanted = Wanted {
                assigned: assigned(work, &unit.id)?,
                unit_config: work.unit_config(&unit.id)?,
                nodes: work.wishes(&unit.id)?,
                status: status(work, &unit.id)?,
                unit,
            };
            let unit = &wanted.unit;
            let payload = match build(&wanted) {
                Ok(payload) => payload,
                Err(error) => return Ok(Err(error)),
            };
            let old = desired(work, &unit.id)?;
            if let Some(old) = &old
                && old.payload == payload
            {
                return Ok(Ok(old.clone()));
            }
            let row = DesiredRow {
                revision: old.map_or(1, |row| row.revision + 1),
                payload,
                sent_at: None,
                acked_at: None,
            };
            work.sql
                .execute(
                    "INSERT INTO desired (unit_id, revision, payload) VALUES (?1, ?2, ?3) \
                     ON CONFLICT (unit_id) DO UPDATE SET revision = excluded.revision, \
                     payload = excluded.payload, sent_at = NULL, acked_at = NULL",
                    params![unit.id, row.revision, row.payload],
                )
                .map_err(sql("store a desired status"))?;
            work.touch(&unit.id)?;
            Ok(Ok(row))
        })
        .await
    }

    /// Notes that a desired status went out.
    pub async fn desired_sent(&self, unit_id: &str, revision: i64) -> Result<(), StoreError> {
        self.stamp(unit_id, revision, "UPDATE desired SET sent_at = ?3 WHERE unit_id = ?1 AND revision = ?2")
            .await
    }

    /// Notes that the Unit acknowledged a desired status.
    pub async fn desired_acked(&self, unit_id: &str, revision: i64) -> Result<(), StoreError> {
        self.stamp(unit_id, revision, "UPDATE desired SET acked_at = ?3 WHERE unit_id = ?1 AND revision = ?2")
            .await
    }

    async fn stamp(&self, unit_id: &str, revision: i64, update: &'static str) -> Result<(), StoreError> {
        let unit_id = unit_id.to_owned();
        self.transact(move |work| {
            let changed = work
                .sql
                .execute(update, params![unit_id, revision, now_micros()])
                .map_err(sql("note the delivery of a desired status"))?;
            if changed > 0 {
                work.touch(&unit_id)?;
            }
            Ok(())
        })
        .await
    }

    /// Everything about a Unit at one moment.
    pub async fn unit_view(&self, unit_id: &str) -> Result<Option<UnitView>, StoreError> {
        let unit_id = unit_id.to_owned();
        self.transact(move |work| {
            let Some(unit) = find(work, &unit_id)? else { return Ok(None) };
            Ok(Some(UnitView {
                status: status(work, &unit.id)?,
                desired: desired(work, &unit.id)?,
                assigned: assigned(work, &unit.id)?,
                unit,
            }))
        })
        .await
    }
}

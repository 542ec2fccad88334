//! Unit configurations that operators set.

use rusqlite::{OptionalExtension as _, params};

use crate::error::StoreError;
use crate::records::now_micros;
use crate::thread::{Store, Work, sql};
use crate::units::retarget;

/// The configuration set last for a Unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitConfigRow {
    /// Its version.
    pub version: String,
    /// The document as JSON, as in `desiredStatus.unitConfig`.
    pub document: String,
    /// When it was set, microseconds.
    pub set_at: i64,
}

impl Work<'_> {
    /// The configuration set last for a Unit.
    pub fn unit_config(&self, unit_id: &str) -> Result<Option<UnitConfigRow>, StoreError> {
        self.sql
            .prepare_cached("SELECT version, document, set_at FROM unit_configs WHERE unit_id = ?1")
            .and_then(|mut statement| {
                statement
                    .query_row([unit_id], |row| {
                        Ok(UnitConfigRow { version: row.get(0)?, document: row.get(1)?, set_at: row.get(2)? })
                    })
                    .optional()
            })
            .map_err(sql("read a Unit configuration"))
    }

    /// Sets the configuration of a Unit, which gets a new desired status.
    pub fn set_unit_config(
        &mut self,
        unit_id: &str,
        version: &str,
        document: &str,
    ) -> Result<(), StoreError> {
        self.sql
            .execute(
                "INSERT INTO unit_configs (unit_id, version, document, set_at) VALUES (?1, ?2, ?3, ?4) \
                 ON CONFLICT (unit_id) DO UPDATE SET version = excluded.version, \
                 document = excluded.document, set_at = excluded.set_at",
                params![unit_id, version, document, now_micros()],
            )
            .map_err(sql("keep a Unit configuration"))?;
        retarget(self, unit_id)
    }

    /// Has the desired status of a Unit computed again.
    pub fn retarget(&mut self, unit_id: &str) -> Result<(), StoreError> {
        retarget(self, unit_id)
    }
}

impl Store {
    /// The configuration set last for a Unit.
    pub async fn unit_config(&self, unit_id: &str) -> Result<Option<UnitConfigRow>, StoreError> {
        let unit_id = unit_id.to_owned();
        self.transact(move |work| work.unit_config(&unit_id)).await
    }

    /// Sets whether sensitive messages go to the Unit as envelopes for its offline key. Needs a good offline
    /// certificate; open sessions follow at once.
    pub async fn set_enveloped(&self, unit_id: &str, enveloped: bool) -> Result<(), StoreError> {
        let unit_id = unit_id.to_owned();
        self.transact(move |work| {
            let now = now_micros() / 1_000_000;
            let held = crate::certificates::of_unit(work, &unit_id)?;
            let usable = held.iter().any(|one| one.cert_type == "offline" && one.is_good(now));
            if enveloped && !usable {
                return Err(StoreError::Conflict("the Unit has no offline certificate".to_owned()));
            }
            let changed = work
                .sql
                .execute("UPDATE units SET enveloped = ?2 WHERE id = ?1", params![unit_id, enveloped])
                .map_err(sql("keep how messages go to a Unit"))?;
            if changed == 0 {
                return Err(StoreError::NotFound("Unit"));
            }
            work.touch(&unit_id)
        })
        .await
    }
}

//! Renewals of Unit certificates: what was asked for, issued, installed.

use rusqlite::{OptionalExtension as _, Row, params};

use crate::certificates::{self, Certificate, NewCertificate};
use crate::error::StoreError;
use crate::records::now_micros;
use crate::thread::{Store, Work, sql};

/// Ended renewals kept per Unit.
const ENDED_KEPT: i64 = 16;

/// A renewal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewal {
    /// Names the renewal; the correlation of its messages.
    pub id: String,
    /// `waiting`, `done` or `failed`.
    pub state: String,
    /// Why it failed, or what delays it.
    pub reason: Option<String>,
    /// When it was made, microseconds.
    pub created_at: i64,
    /// When it fails without an answer, microseconds; none once it has ended.
    pub deadline: Option<i64>,
    /// When it ended, microseconds.
    pub finished_at: Option<i64>,
    /// Its certificates, by node and type.
    pub certificates: Vec<RenewalCertificate>,
}

/// One certificate of a renewal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenewalCertificate {
    /// The node that holds the key.
    pub node_id: String,
    /// Type of the certificate.
    pub cert_type: String,
    /// Serial number of the certificate to be replaced.
    pub old_serial: Option<String>,
    /// Serial number of the new one, once it is issued.
    pub new_serial: Option<String>,
    /// `asked`, `issued`, `installed`, `refused` or `failed`.
    pub state: String,
    /// Why it was refused or failed.
    pub reason: Option<String>,
}

const COLUMNS: &str = "id, state, reason, created_at, deadline, finished_at";

fn renewal(row: &Row<'_>) -> rusqlite::Result<Renewal> {
    Ok(Renewal {
        id: row.get(0)?,
        state: row.get(1)?,
        reason: row.get(2)?,
        created_at: row.get(3)?,
        deadline: row.get(4)?,
        finished_at: row.get(5)?,
        certificates: Vec::new(),
    })
}

impl Work<'_> {
    /// Keeps a renewal with its certificates, new or changed. One without deadline has ended.
    pub fn put_renewal(&mut self, unit_id: &str, renewal: &Renewal) -> Result<(), StoreError> {
        let failed = sql("keep a renewal");
        self.sql
            .execute(
                "INSERT INTO renewals (id, unit_id, state, reason, created_at, deadline, finished_at) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (id) DO UPDATE SET \
                 state = excluded.state, reason = excluded.reason, deadline = excluded.deadline, \
                 finished_at = excluded.finished_at",
                params![
                    renewal.id,
                    unit_id,
                    renewal.state,
                    renewal.reason,
                    renewal.created_at,
                    renewal.deadline,
                    renewal.finished_at
                ],
            )
            .map_err(&failed)?;
        for one in &renewal.certificates {
            self.sql
                .prepare_cached(
                    "INSERT OR REPLACE INTO renewal_certificates \
                     (renewal_id, node_id, cert_type, old_serial, new_serial, state, reason) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                )
                .and_then(|mut statement| {
                    statement.execute(params![
                        renewal.id,
                        one.node_id,
                        one.cert_type,
                        one.old_serial,
                        one.new_serial,
                        one.state,
                        one.reason
                    ])
                })
                .map_err(&failed)?;
        }
        self.sql
            .execute(
                "DELETE FROM renewals WHERE id IN (SELECT id FROM renewals WHERE unit_id = ?1 \
                 AND deadline IS NULL ORDER BY created_at DESC LIMIT -1 OFFSET ?2)",
                params![unit_id, ENDED_KEPT],
            )
            .map_err(&failed)?;
        if let Some(deadline) = renewal.deadline {
            self.wake_at(deadline);
        }
        self.touch(unit_id)
    }

    /// The renewal that is under way; there is at most one per Unit.
    pub fn open_renewal(&self, unit_id: &str) -> Result<Option<Renewal>, StoreError> {
        let query = format!(
            "SELECT {COLUMNS} FROM renewals WHERE unit_id = ?1 AND deadline IS NOT NULL \
             ORDER BY created_at DESC LIMIT 1"
        );
        let found =
            self.sql.query_row(&query, [unit_id], renewal).optional().map_err(sql("find a renewal"))?;
        found.map(|found| self.with_certificates(found)).transpose()
    }

    fn with_certificates(&self, mut renewal: Renewal) -> Result<Renewal, StoreError> {
        let failed = sql("read a renewal");
        let mut statement = self
            .sql
            .prepare_cached(
                "SELECT node_id, cert_type, old_serial, new_serial, state, reason \
                 FROM renewal_certificates WHERE renewal_id = ?1 ORDER BY node_id, cert_type",
            )
            .map_err(&failed)?;
        let certificate = |row: &Row<'_>| {
            Ok(RenewalCertificate {
                node_id: row.get(0)?,
                cert_type: row.get(1)?,
                old_serial: row.get(2)?,
                new_serial: row.get(3)?,
                state: row.get(4)?,
                reason: row.get(5)?,
            })
        };
        renewal.certificates =
            statement.query_map([&renewal.id], certificate).and_then(Iterator::collect).map_err(&failed)?;
        Ok(renewal)
    }

    /// Certificates of a Unit that are not revoked, by node, type and age.
    pub fn certificates(&self, unit_id: &str) -> Result<Vec<Certificate>, StoreError> {
        certificates::of_unit(self, unit_id)
    }

    /// How many certificates of a type were issued for a node since `since` (microseconds), revoked ones
    /// included.
    pub fn issued_since(
        &self,
        unit_id: &str,
        node_id: &str,
        cert_type: &str,
        since: i64,
    ) -> Result<i64, StoreError> {
        self.sql
            .prepare_cached(
                "SELECT count(*) FROM certificates WHERE unit_id = ?1 AND node_id = ?2 AND cert_type = ?3 \
                 AND issued_at >= ?4",
            )
            .and_then(|mut statement| {
                statement.query_row(params![unit_id, node_id, cert_type, since], |row| row.get(0))
            })
            .map_err(sql("count issued certificates"))
    }

    /// Records a certificate that was issued.
    pub fn add_certificate(&mut self, new: &NewCertificate) -> Result<(), StoreError> {
        certificates::insert(self, new)
    }

    /// Revokes a certificate of a Unit that was never used.
    pub fn revoke_serial(&mut self, unit_id: &str, serial: &str) -> Result<(), StoreError> {
        self.sql
            .execute(
                "UPDATE certificates SET revoked_at = ?3 \
                 WHERE unit_id = ?1 AND serial = ?2 AND revoked_at IS NULL",
                params![unit_id, serial, now_micros()],
            )
            .map(|_| ())
            .map_err(sql("revoke a certificate"))
    }

    /// The certificate `serial` is installed: others of its type and node are revoked at `revoke_at` at the
    /// latest.
    pub fn supersede(
        &mut self,
        unit_id: &str,
        node_id: &str,
        cert_type: &str,
        serial: &str,
        revoke_at: i64,
    ) -> Result<(), StoreError> {
        let failed = sql("replace a certificate");
        self.sql
            .execute(
                "UPDATE certificates SET revoke_at = NULL WHERE unit_id = ?1 AND serial = ?2",
                [unit_id, serial],
            )
            .map_err(&failed)?;
        self.sql
            .execute(
                "UPDATE certificates SET revoke_at = ?5 WHERE unit_id = ?1 AND node_id = ?2 \
                 AND cert_type = ?3 AND serial <> ?4 AND revoked_at IS NULL AND revoke_at IS NULL",
                params![unit_id, node_id, cert_type, serial, revoke_at],
            )
            .map_err(&failed)?;
        self.wake_at(revoke_at);
        Ok(())
    }

    /// Revokes all certificates of one node of a Unit.
    pub fn revoke_of_node(&mut self, unit_id: &str, node_id: &str) -> Result<(), StoreError> {
        self.sql
            .execute(
                "UPDATE certificates SET revoked_at = ?3 \
                 WHERE unit_id = ?1 AND node_id = ?2 AND revoked_at IS NULL",
                params![unit_id, node_id, now_micros()],
            )
            .map(|_| ())
            .map_err(sql("revoke the certificates of a node"))
    }
}

impl Store {
    /// A renewal of the Unit.
    pub async fn renewal(&self, unit_id: &str, id: &str) -> Result<Option<Renewal>, StoreError> {
        let id = id.to_owned();
        Ok(self.renewals(unit_id).await?.into_iter().find(|renewal| renewal.id == id))
    }

    /// Renewals of the Unit, newest first.
    pub async fn renewals(&self, unit_id: &str) -> Result<Vec<Renewal>, StoreError> {
        let unit_id = unit_id.to_owned();
        self.transact(move |work| {
            let query = format!("SELECT {COLUMNS} FROM renewals WHERE unit_id = ?1 ORDER BY created_at DESC");
            let failed = sql("list renewals");
            let rows: Vec<Renewal> = {
                let mut statement = work.sql.prepare_cached(&query).map_err(&failed)?;
                statement.query_map([unit_id], renewal).and_then(Iterator::collect).map_err(&failed)?
            };
            rows.into_iter().map(|row| work.with_certificates(row)).collect()
        })
        .await
    }

    /// A session was opened with the certificate `serial`: the ones that it replaces are not needed any
    /// more.
    pub async fn certificate_used(&self, unit_id: &str, serial: &str) -> Result<(), StoreError> {
        let (unit_id, serial) = (unit_id.to_owned(), serial.to_owned());
        self.transact(move |work| {
            let revoked = work
                .sql
                .execute(
                    "UPDATE certificates SET revoked_at = ?3, revoke_at = NULL WHERE unit_id = ?1 \
                     AND serial <> ?2 AND revoke_at IS NOT NULL AND revoked_at IS NULL \
                     AND (node_id, cert_type) = (SELECT node_id, cert_type FROM certificates \
                      WHERE unit_id = ?1 AND serial = ?2 AND revoke_at IS NULL AND revoked_at IS NULL)",
                    params![unit_id, serial, now_micros()],
                )
                .map_err(sql("revoke a certificate that was replaced"))?;
            if revoked > 0 { work.touch(&unit_id) } else { Ok(()) }
        })
        .await
    }
}

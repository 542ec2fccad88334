//! The record of issued certificates.

use rusqlite::{OptionalExtension as _, Row, params};

use crate::error::StoreError;
use crate::records::now_micros;
use crate::thread::{Store, Work, sql};

/// Whose certificate it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A user, by id.
    User(String),
    /// A Unit, by id.
    Unit(String),
    /// Its holder was deleted.
    Nobody,
}

/// A certificate to record. Times are seconds since 1970 UTC.
#[derive(Debug, Clone)]
pub struct NewCertificate {
    /// Whose it is.
    pub holder: Holder,
    /// `user`, or a Unit certificate type such as `online`.
    pub cert_type: String,
    /// Node that holds the key; empty for users.
    pub node_id: String,
    /// DER of the issuer's name.
    pub issuer: Vec<u8>,
    /// Serial number, lower-case hex without leading zeros.
    pub serial: String,
    /// SHA-256 of the public key.
    pub key_hash: [u8; 32],
    /// PEM chain, leaf first.
    pub chain: String,
    /// Start of validity.
    pub not_before: i64,
    /// End of validity.
    pub not_after: i64,
}

/// A recorded certificate. Validity in seconds since 1970 UTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Whose it is.
    pub holder: Holder,
    /// `user`, or a Unit certificate type.
    pub cert_type: String,
    /// Node that holds the key; empty for users.
    pub node_id: String,
    /// Serial number, lower-case hex.
    pub serial: String,
    /// SHA-256 of the public key.
    pub key_hash: [u8; 32],
    /// PEM chain, leaf first.
    pub chain: String,
    /// Start of validity.
    pub not_before: i64,
    /// End of validity.
    pub not_after: i64,
    /// When it was revoked, microseconds.
    pub revoked_at: Option<i64>,
}

impl Certificate {
    /// The user it was issued to.
    pub fn user_id(&self) -> Option<&str> {
        match &self.holder {
            Holder::User(id) => Some(id),
            _ => None,
        }
    }

    /// The Unit it was issued to.
    pub fn unit_id(&self) -> Option<&str> {
        match &self.holder {
            Holder::Unit(id) => Some(id),
            _ => None,
        }
    }

    /// True when it is neither revoked nor expired at `now` (seconds since 1970).
    pub fn is_good(&self, now: i64) -> bool {
        self.revoked_at.is_none() && now <= self.not_after
    }
}

const COLUMNS: &str =
    "user_id, unit_id, cert_type, node_id, serial, key_hash, chain, not_before, not_after, revoked_at";

fn certificate(row: &Row<'_>) -> rusqlite::Result<Certificate> {
    let holder = match (row.get(0)?, row.get(1)?) {
        (Some(user), _) => Holder::User(user),
        (None, Some(unit)) => Holder::Unit(unit),
        (None, None) => Holder::Nobody,
    };
    Ok(Certificate {
        holder,
        cert_type: row.get(2)?,
        node_id: row.get(3)?,
        serial: row.get(4)?,
        key_hash: row.get(5)?,
        chain: row.get(6)?,
        not_before: row.get(7)?,
        not_after: row.get(8)?,
        revoked_at: row.get(9)?,
    })
}

pub(crate) fn insert(work: &Work<'_>, new: &NewCertificate) -> Result<(), StoreError> {
    let (user, unit) = match &new.holder {
        Holder::User(id) => (Some(id), None),
        Holder::Unit(id) => (None, Some(id)),
        Holder::Nobody => (None, None),
    };
    work.sql
        .execute(
            "INSERT INTO certificates (issuer, serial, user_id, unit_id, cert_type, node_id, key_hash, \
             chain, not_before, not_after, issued_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            params![
                new.issuer,
                new.serial,
                user,
                unit,
                new.cert_type,
                new.node_id,
                new.key_hash.as_slice(),
                new.chain,
                new.not_before,
                new.not_after,
                now_micros()
            ],
        )
        .map_err(sql("record a certificate"))?;
    Ok(())
}

pub(crate) fn of_unit(work: &Work<'_>, unit_id: &str) -> Result<Vec<Certificate>, StoreError> {
    let query = format!(
        "SELECT {COLUMNS} FROM certificates WHERE unit_id = ?1 AND revoked_at IS NULL \
         ORDER BY node_id, cert_type, issued_at"
    );
    let mut statement = work.sql.prepare_cached(&query).map_err(sql("read certificates"))?;
    let rows = statement.query_map([unit_id], certificate).and_then(Iterator::collect);
    rows.map_err(sql("read certificates"))
}

pub(crate) fn revoke_of_unit(work: &Work<'_>, unit_id: &str) -> Result<(), StoreError> {
    work.sql
        .execute(
            "UPDATE certificates SET revoked_at = ?2 WHERE unit_id = ?1 AND revoked_at IS NULL",
            params![unit_id, now_micros()],
        )
        .map_err(sql("revoke certificates"))?;
    Ok(())
}

impl Store {
    /// The certificate with this issuer and serial number, if this cloud issued it.
    pub async fn certificate(&self, issuer: &[u8], serial: &str) -> Result<Option<Certificate>, StoreError> {
        let (issuer, serial) = (issuer.to_vec(), serial.to_owned());
        self.transact(move |work| {
            let query = format!("SELECT {COLUMNS} FROM certificates WHERE issuer = ?1 AND serial = ?2");
            work.sql
                .prepare_cached(&query)
                .and_then(|mut statement| {
                    statement.query_row(params![issuer, serial], certificate).optional()
                })
                .map_err(sql("find a certificate"))
        })
        .await
    }

    /// Certificates of a Unit that are not revoked.
    pub async fn unit_certificates(&self, unit_id: &str) -> Result<Vec<Certificate>, StoreError> {
        let unit_id = unit_id.to_owned();
        self.transact(move |work| of_unit(work, &unit_id)).await
    }

    /// Revokes one certificate. Returns whether it was known and not revoked before. A session that it
    /// opened ends.
    pub async fn revoke(&self, issuer: &[u8], serial: &str) -> Result<bool, StoreError> {
        let (issuer, serial) = (issuer.to_vec(), serial.to_owned());
        self.transact(move |work| {
            let failed = sql("revoke a certificate");
            let changed = work
                .sql
                .execute(
                    "UPDATE certificates SET revoked_at = ?3 \
                     WHERE issuer = ?1 AND serial = ?2 AND revoked_at IS NULL",
                    params![issuer, serial, now_micros()],
                )
                .map_err(&failed)?;
            if changed == 0 {
                return Ok(false);
            }
            let unit_id: Option<String> = work
                .sql
                .query_row(
                    "SELECT unit_id FROM certificates WHERE issuer = ?1 AND serial = ?2",
                    params![issuer, serial],
                    |row| row.get(0),
                )
                .optional()
                .map_err(&failed)?
                .flatten();
            if let Some(unit_id) = unit_id {
                // A higher number ends the present session; the Unit may come back with a good certificate.
                work.sql
                    .execute(
                        "UPDATE units SET session = session + 1, online_status = 'Offline' \
                         WHERE id = ?1 AND session > 0",
                        [&unit_id],
                    )
                    .map_err(&failed)?;
                work.touch(&unit_id)?;
            }
            Ok(true)
        })
        .await
    }
}

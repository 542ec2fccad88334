//! Certificates by age: who needs new ones, who gets them without a session.

use rusqlite::{OptionalExtension as _, Row, params};

use crate::error::StoreError;
use crate::records::{AuditEntry, audit, now_micros};
use crate::thread::{Store, Work, sql};

/// Certificates that one look tells; the rest follows in the next.
const LOOK: i64 = 4096;

/// A certificate with its life, revoked or not. Validity in seconds since 1970 UTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedLife {
    /// The node that holds the key.
    pub node_id: String,
    /// Its type.
    pub cert_type: String,
    /// Begin of validity.
    pub not_before: i64,
    /// End of validity.
    pub not_after: i64,
    /// When it was issued, microseconds.
    pub issued_at: i64,
    /// Whether it was revoked.
    pub revoked: bool,
}

/// A certificate that is due, the newest of its Unit, node and type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueCertificate {
    /// The Unit, cloud id.
    pub unit_id: String,
    /// The node.
    pub node_id: String,
    /// Its type.
    pub cert_type: String,
    /// Begin of validity, seconds.
    pub not_before: i64,
    /// End of validity, seconds.
    pub not_after: i64,
    /// When the last renewal of the Unit was started, microseconds; none when there was none.
    pub last_renewal: Option<i64>,
}

/// The token of an operator for one recovery of a Unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveryToken {
    /// Until when it may be used, microseconds.
    pub expires_at: i64,
    /// What it was used for; it may be used for the same again.
    pub used_for: Option<Vec<u8>>,
}

impl Work<'_> {
    /// All certificates ever issued to a Unit, also revoked ones.
    pub fn recorded_lives(&self, unit_id: &str) -> Result<Vec<RecordedLife>, StoreError> {
        let life = |row: &Row<'_>| {
            Ok(RecordedLife {
                node_id: row.get(0)?,
                cert_type: row.get(1)?,
                not_before: row.get(2)?,
                not_after: row.get(3)?,
                issued_at: row.get(4)?,
                revoked: row.get(5)?,
            })
        };
        self.sql
            .prepare_cached(
                "SELECT node_id, cert_type, not_before, not_after, issued_at, revoked_at IS NOT NULL \
                 FROM certificates WHERE unit_id = ?1",
            )
            .and_then(|mut statement| statement.query_map([unit_id], life)?.collect())
            .map_err(sql("read the lives of certificates"))
    }

    /// The token with this hash, if it is the Unit's.
    pub fn recovery_token(&self, unit_id: &str, hash: &[u8]) -> Result<Option<RecoveryToken>, StoreError> {
        self.sql
            .query_row(
                "SELECT expires_at, used_for FROM recovery_tokens WHERE unit_id = ?1 AND hash = ?2",
                params![unit_id, hash],
                |row| Ok(RecoveryToken { expires_at: row.get(0)?, used_for: row.get(1)? }),
            )
            .optional()
            .map_err(sql("find a recovery token"))
    }

    /// The Unit's token is used, for `what`.
    pub fn use_recovery_token(&mut self, unit_id: &str, what: &[u8]) -> Result<(), StoreError> {
        self.sql
            .execute(
                "UPDATE recovery_tokens SET used_for = ?2 WHERE unit_id = ?1 AND used_for IS NULL",
                params![unit_id, what],
            )
            .map(|_| ())
            .map_err(sql("use a recovery token"))
    }

    /// Appends to the audit trail.
    pub fn audit(&mut self, entry: &AuditEntry) -> Result<(), StoreError> {
        audit(self, entry)
    }
}

impl Store {
    /// Keeps the hash of a token for one recovery of a Unit; an older one of the Unit is worth nothing any
    /// more. `expires_at` in microseconds.
    pub async fn set_recovery_token(
        &self,
        unit_id: &str,
        hash: [u8; 32],
        expires_at: i64,
    ) -> Result<(), StoreError> {
        let unit_id = unit_id.to_owned();
        self.transact(move |work| {
            work.sql
                .execute(
                    "INSERT OR REPLACE INTO recovery_tokens (unit_id, hash, expires_at) VALUES (?1, ?2, ?3)",
                    params![unit_id, hash.as_slice(), expires_at],
                )
                .map(|_| ())
                .map_err(sql("keep a recovery token"))
        })
        .await
    }

    /// Certificates of provisioned Units of whose life `percent` is over at `now` (seconds), soonest end
    /// first, at most 4096. Left out are those of Units with a renewal under way, and those that have ended
    /// while the Unit is away: it cannot come for them.
    pub async fn due_certificates(&self, percent: u8, now: i64) -> Result<Vec<DueCertificate>, StoreError> {
        let due = |row: &Row<'_>| {
            Ok(DueCertificate {
                unit_id: row.get(0)?,
                node_id: row.get(1)?,
                cert_type: row.get(2)?,
                not_before: row.get(3)?,
                not_after: row.get(4)?,
                last_renewal: row.get(5)?,
            })
        };
        self.transact(move |work| {
            // SQLite takes the other columns from the row that has the maximum.
            work.sql
                .prepare_cached(
                    "SELECT c.unit_id, c.node_id, c.cert_type, c.not_before, max(c.not_after) AS ends, \
                     (SELECT max(r.created_at) FROM renewals r WHERE r.unit_id = c.unit_id) \
                     FROM certificates c JOIN units u ON u.id = c.unit_id \
                     WHERE c.revoked_at IS NULL AND u.status = 'provisioned' AND NOT EXISTS \
                     (SELECT 1 FROM renewals r WHERE r.unit_id = c.unit_id AND r.deadline IS NOT NULL) \
                     GROUP BY c.unit_id, c.node_id, c.cert_type \
                     HAVING c.not_before + (ends - c.not_before) * ?1 / 100 <= ?2 \
                     AND (ends > ?2 OR u.online_status <> 'Offline') \
                     ORDER BY ends LIMIT ?3",
                )
                .and_then(|mut statement| statement.query_map(params![percent, now, LOOK], due)?.collect())
                .map_err(sql("look for certificates that end"))
        })
        .await
    }

    /// Forgets recovery tokens that have expired.
    pub async fn drop_recovery_tokens(&self) -> Result<(), StoreError> {
        self.transact(move |work| {
            work.sql
                .execute("DELETE FROM recovery_tokens WHERE expires_at < ?1", [now_micros()])
                .map(|_| ())
                .map_err(sql("forget recovery tokens"))
        })
        .await
    }
}

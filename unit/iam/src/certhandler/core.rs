//! The decisions about certificates, without token and database.

use std::collections::BTreeSet;
use std::sync::Arc;

/// CKA_ID of a key and its certificate.
pub type KeyId = Vec<u8>;

/// A certificate as stored in the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertRecord {
    /// Certificate type.
    pub cert_type: String,
    /// Issuer name, DER.
    pub issuer: Vec<u8>,
    /// Serial number, big endian without leading zeros.
    pub serial: Vec<u8>,
    /// Where the certificate is.
    pub cert_url: String,
    /// Where its key is.
    pub key_url: String,
    /// End of validity, Unix nanoseconds.
    pub not_after: i64,
}

/// All certificates, by type, in the order of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Certificates {
    types: Vec<(String, Vec<CertRecord>)>,
}

impl Certificates {
    /// Sorts `records` by the known types; others are left out.
    pub fn new<'a>(types: impl IntoIterator<Item = &'a str>, records: &[CertRecord]) -> Self {
        let of = |cert_type: &str| records.iter().filter(|r| r.cert_type == cert_type).cloned().collect();
        Self { types: types.into_iter().map(|name| (name.to_owned(), of(name))).collect() }
    }

    /// Whether certificates of this type are handled here.
    pub fn knows(&self, cert_type: &str) -> bool {
        self.types.iter().any(|(name, _)| name == cert_type)
    }

    /// Certificates of one type.
    pub fn of(&self, cert_type: &str) -> &[CertRecord] {
        self.types.iter().find(|(name, _)| name == cert_type).map_or(&[], |(_, records)| records)
    }

    /// All certificates.
    pub fn all(&self) -> impl Iterator<Item = &CertRecord> {
        self.types.iter().flat_map(|(_, records)| records)
    }

    /// The certificate of a type that stays valid longest; of equals the one stored last.
    pub fn latest(&self, cert_type: &str) -> Option<&CertRecord> {
        self.of(cert_type).iter().max_by_key(|record| record.not_after)
    }

    /// Certificates of one type, the one that stays valid longest first.
    pub fn newest_first(&self, cert_type: &str) -> Vec<&CertRecord> {
        let mut records: Vec<&CertRecord> = self.of(cert_type).iter().rev().collect();
        records.sort_by_key(|record| std::cmp::Reverse(record.not_after));
        records
    }

    /// The certificate with this issuer and serial number, whatever its type.
    pub fn find(&self, issuer: &[u8], serial: &[u8]) -> Option<&CertRecord> {
        let serial = significant(serial);
        self.all().find(|record| record.issuer == issuer && significant(&record.serial) == serial)
    }
}

/// A snapshot that many may look at.
pub type Snapshot = Arc<Certificates>;

/// A number without its leading zero bytes.
pub fn significant(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

/// The certificates to give up so that `new` fits: the ones that end first, never `new` itself. A certificate that
/// has ended at `now` (Unix nanoseconds) takes the place of none that has not: it is one too many instead, and the
/// next one's first victim.
pub fn surplus<'a>(
    records: &'a [CertRecord],
    new: &CertRecord,
    max_items: usize,
    now: i64,
) -> Vec<&'a CertRecord> {
    let mut others: Vec<_> =
        records.iter().filter(|r| (&r.issuer, &r.serial) != (&new.issuer, &new.serial)).collect();
    others.sort_by_key(|record| record.not_after);
    let keep = max_items.saturating_sub(1);
    let excess = others.len().saturating_sub(keep);
    others.truncate(excess);
    if new.not_after <= now {
        others.retain(|record| record.not_after <= now);
    }
    others
}

/// What the token holds for one certificate type.
#[derive(Debug, Clone, Default)]
pub struct Scan {
    /// Identities of private keys.
    pub private_keys: BTreeSet<KeyId>,
    /// Identities of public keys.
    pub public_keys: BTreeSet<KeyId>,
    /// Certificates; `None` for one that cannot be read.
    pub certificates: Vec<(KeyId, Option<CertRecord>)>,
}

/// What makes database and token agree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Rows to add: the token has the complete certificate.
    pub add: Vec<CertRecord>,
    /// Rows to remove: the token does not have the certificate as the row says.
    pub remove: Vec<CertRecord>,
    /// Objects that belong to nothing; destroyed before the next key is made.
    pub orphans: BTreeSet<KeyId>,
    /// Keys that no longer wait: they have a certificate, or are gone.
    pub settled: Vec<KeyId>,
}

/// Compares token, rows and waiting keys of one type. The token is right about certificates, the
/// database about which keys wait for one.
pub fn reconcile(scan: &Scan, rows: &[CertRecord], pending: &[KeyId]) -> Plan {
    let complete = |id: &KeyId| scan.private_keys.contains(id) && scan.public_keys.contains(id);
    let valid: Vec<(&KeyId, &CertRecord)> = scan
        .certificates
        .iter()
        .filter_map(|(id, record)| Some((id, record.as_ref()?)))
        .filter(|(id, _)| complete(id))
        .collect();
    let certified: BTreeSet<&KeyId> = valid.iter().map(|(id, _)| *id).collect();
    let waiting: BTreeSet<&KeyId> =
        pending.iter().filter(|id| complete(id) && !certified.contains(id)).collect();

    let mut add: Vec<CertRecord> = Vec::new();
    let kept: Vec<&CertRecord> =
        rows.iter().filter(|row| valid.iter().any(|(_, record)| record == row)).collect();
    for (_, record) in &valid {
        let same = |other: &CertRecord| other.issuer == record.issuer && other.serial == record.serial;
        if !kept.iter().any(|row| same(row)) && !add.iter().any(same) {
            add.push((*record).clone());
        }
    }
    let remove = rows.iter().filter(|row| !valid.iter().any(|(_, record)| record == row)).cloned().collect();
    let orphans = scan
        .private_keys
        .iter()
        .chain(&scan.public_keys)
        .chain(scan.certificates.iter().map(|(id, _)| id))
        .filter(|id| !certified.contains(id) && !waiting.contains(id))
        .cloned()
        .collect();
    let settled = pending.iter().filter(|id| !waiting.contains(id)).cloned().collect();
    Plan { add, remove, orphans, settled }
}

/// The oldest waiting keys that must go so that one more fits into `max`.
pub fn evicted(pending: &[KeyId], max: usize) -> &[KeyId] {
    &pending[..(pending.len() + 1).saturating_sub(max).min(pending.len())]
}

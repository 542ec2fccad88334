//! Blobs: what is known about the encrypted files, and how often they were served.

use std::collections::HashSet;

use rusqlite::{OptionalExtension as _, Row, params};

use crate::error::StoreError;
use crate::thread::{Store, sql};

/// A blob. The file itself lies in the blob folder, encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// `sha256:<hex>` of the plain content.
    pub digest: String,
    /// Plain size, bytes.
    pub size: u64,
    /// Encrypted size, bytes.
    pub served_size: u64,
    /// SHA3-256 of the encrypted bytes, lower-case hex.
    pub sha3: String,
    /// Content key, sealed.
    pub sealed_key: Vec<u8>,
    /// Initialisation vector, 16 bytes.
    pub iv: Vec<u8>,
    /// Signature over the plain content.
    pub signature: Vec<u8>,
    /// Certificate chain of the signature.
    pub chain_name: String,
    /// When it was signed, seconds since 1970 UTC.
    pub signed_at: i64,
}

/// How often a blob was served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Served {
    /// GET requests answered with content.
    pub requests: u64,
    /// Bytes handed to clients.
    pub bytes: u64,
}

const COLUMNS: &str = "digest, size, served_size, sha3, sealed_key, iv, signature, chain_name, signed_at";

fn blob(row: &Row<'_>) -> rusqlite::Result<Blob> {
    Ok(Blob {
        digest: row.get(0)?,
        size: row.get::<_, i64>(1)?.unsigned_abs(),
        served_size: row.get::<_, i64>(2)?.unsigned_abs(),
        sha3: row.get(3)?,
        sealed_key: row.get(4)?,
        iv: row.get(5)?,
        signature: row.get(6)?,
        chain_name: row.get(7)?,
        signed_at: row.get(8)?,
    })
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Store {
    /// The blob with this digest.
    pub async fn blob(&self, digest: &str) -> Result<Option<Blob>, StoreError> {
        let digest = digest.to_owned();
        self.transact(move |work| {
            let query = format!("SELECT {COLUMNS} FROM blobs WHERE digest = ?1");
            work.sql
                .prepare_cached(&query)
                .and_then(|mut statement| statement.query_row([digest], blob).optional())
                .map_err(sql("find a blob"))
        })
        .await
    }

    /// Records a blob whose file is in place. Returns false, and changes nothing, when another upload of
    /// the same content was first.
    pub async fn add_blob(&self, new: Blob) -> Result<bool, StoreError> {
        self.transact(move |work| {
            let made = work
                .sql
                .execute(
                    "INSERT INTO blobs (digest, size, served_size, sha3, sealed_key, iv, signature, \
                     chain_name, signed_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) \
                     ON CONFLICT (digest) DO NOTHING",
                    params![
                        new.digest,
                        number(new.size),
                        number(new.served_size),
                        new.sha3,
                        new.sealed_key,
                        new.iv,
                        new.signature,
                        new.chain_name,
                        new.signed_at
                    ],
                )
                .map_err(sql("record a blob"))?;
            Ok(made > 0)
        })
        .await
    }

    /// SHA3-256 of all blobs: the names of the files that belong to the store.
    pub async fn blob_files(&self) -> Result<HashSet<String>, StoreError> {
        self.transact(|work| {
            let mut statement =
                work.sql.prepare_cached("SELECT sha3 FROM blobs").map_err(sql("list blobs"))?;
            let rows = statement.query_map([], |row| row.get(0)).and_then(Iterator::collect);
            rows.map_err(sql("list blobs"))
        })
        .await
    }

    /// True when a version that is assigned to the Unit contains the blob.
    pub async fn unit_may_fetch(&self, unit_id: &str, digest: &str) -> Result<bool, StoreError> {
        let (unit_id, digest) = (unit_id.to_owned(), digest.to_owned());
        self.transact(move |work| {
            work.sql
                .prepare_cached(
                    "SELECT EXISTS (SELECT 1 FROM version_blobs v \
                     JOIN assignments a ON a.item_id = v.item_id \
                     WHERE a.unit_id = ?1 AND v.digest = ?2)",
                )
                .and_then(|mut statement| statement.query_row([unit_id, digest], |row| row.get(0)))
                .map_err(sql("check who may fetch a blob"))
        })
        .await
    }

    /// Adds to the counters of served blobs, all in one transaction.
    pub async fn count_served(&self, served: Vec<(String, Served)>) -> Result<(), StoreError> {
        self.transact(move |work| {
            for (digest, served) in &served {
                work.sql
                    .prepare_cached(
                        "UPDATE blobs SET requests = requests + ?2, bytes = bytes + ?3 WHERE digest = ?1",
                    )
                    .and_then(|mut statement| {
                        statement.execute(params![digest, number(served.requests), number(served.bytes)])
                    })
                    .map_err(sql("count a download"))?;
            }
            Ok(())
        })
        .await
    }

    /// Counters of a blob.
    pub async fn served(&self, digest: &str) -> Result<Option<Served>, StoreError> {
        let digest = digest.to_owned();
        self.transact(move |work| {
            work.sql
                .query_row("SELECT requests, bytes FROM blobs WHERE digest = ?1", [digest], |row| {
                    Ok(Served {
                        requests: row.get::<_, i64>(0)?.unsigned_abs(),
                        bytes: row.get::<_, i64>(1)?.unsigned_abs(),
                    })
                })
                .optional()
                .map_err(sql("read the counters of a blob"))
        })
        .await
    }
}

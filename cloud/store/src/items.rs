//! Items and their versions.

use std::collections::{BTreeSet, HashMap};

use rusqlite::{OptionalExtension as _, Row, params};
use uuid::Uuid;

use crate::error::StoreError;
use crate::records::now_micros;
use crate::thread::{Store, sql};
use crate::units::retarget;

/// An item: service, component or layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// UUIDv4.
    pub id: String,
    /// Company that owns it, UUIDv4.
    pub company_id: String,
    /// `sp` or `oem`.
    pub company_kind: String,
    /// `service`, `component` or `layer`.
    pub kind: String,
    /// Unique per company and type.
    pub codename: String,
    /// For people.
    pub title: String,
    /// When it was made, microseconds.
    pub created_at: i64,
}

/// An item to make.
#[derive(Debug, Clone)]
pub struct NewItem {
    /// Company that owns it.
    pub company_id: String,
    /// `service`, `component` or `layer`.
    pub kind: String,
    /// Unique per company and type.
    pub codename: String,
    /// For people; absent = the codename.
    pub title: Option<String>,
}

/// A version of an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionRow {
    /// Semantic version.
    pub version: String,
    /// Digest of its index, `sha256:<hex>`.
    pub index_digest: String,
    /// When it was added, microseconds.
    pub created_at: i64,
}

/// A version to add.
#[derive(Debug, Clone)]
pub struct NewVersion {
    /// Semantic version.
    pub version: String,
    /// Digest of its index.
    pub index_digest: String,
    /// Digests of all blobs of the tree, the index included.
    pub blobs: Vec<String>,
}

/// What adding a version did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VersionAdded {
    /// It is new.
    New(VersionRow),
    /// The same version with the same content was there.
    Same(VersionRow),
}

const COLUMNS: &str = "i.id, i.company_id, c.kind, i.type, i.codename, i.title, i.created_at";
const SOURCE: &str = "items i JOIN companies c ON c.id = i.company_id";

fn item(row: &Row<'_>) -> rusqlite::Result<Item> {
    Ok(Item {
        id: row.get(0)?,
        company_id: row.get(1)?,
        company_kind: row.get(2)?,
        kind: row.get(3)?,
        codename: row.get(4)?,
        title: row.get(5)?,
        created_at: row.get(6)?,
    })
}

fn version(row: &Row<'_>) -> rusqlite::Result<VersionRow> {
    Ok(VersionRow { version: row.get(0)?, index_digest: row.get(1)?, created_at: row.get(2)? })
}

impl Store {
    /// Makes an item, or finds the one with the same company, type and codename. The flag tells whether it
    /// is new.
    pub async fn ensure_item(&self, new: NewItem) -> Result<(Item, bool), StoreError> {
        self.transact(move |work| {
            let failed = sql("store an item");
            let title = new.title.as_deref().unwrap_or(&new.codename);
            let made = work
                .sql
                .execute(
                    "INSERT INTO items (id, company_id, type, codename, title, created_at) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING",
                    params![
                        Uuid::new_v4().to_string(),
                        new.company_id,
                        new.kind,
                        new.codename,
                        title,
                        now_micros()
                    ],
                )
                .map_err(&failed)?;
            let query = format!(
                "SELECT {COLUMNS} FROM {SOURCE} WHERE i.company_id = ?1 AND i.type = ?2 AND i.codename = ?3"
            );
            let found = work
                .sql
                .query_row(&query, params![new.company_id, new.kind, new.codename], item)
                .map_err(&failed)?;
            Ok((found, made > 0))
        })
        .await
    }

    /// Items by id or codename; a codename may belong to several companies.
    pub async fn items_named(&self, key: &str) -> Result<Vec<Item>, StoreError> {
        let key = key.to_owned();
        self.transact(move |work| {
            let query = format!(
                "SELECT {COLUMNS} FROM {SOURCE} WHERE i.id = ?1 OR i.codename = ?1 ORDER BY i.created_at"
            );
            let mut statement = work.sql.prepare_cached(&query).map_err(sql("find an item"))?;
            let rows = statement.query_map([key], item).and_then(Iterator::collect);
            rows.map_err(sql("find an item"))
        })
        .await
    }

    /// Codename and type of the items with these ids; unknown ids are left out.
    pub async fn item_names(
        &self,
        ids: BTreeSet<String>,
    ) -> Result<HashMap<String, (String, String)>, StoreError> {
        self.transact(move |work| {
            let failed = sql("name items");
            let mut statement =
                work.sql.prepare_cached("SELECT codename, type FROM items WHERE id = ?1").map_err(&failed)?;
            let mut names = HashMap::new();
            for id in ids {
                let name = statement.query_row([&id], |row| Ok((row.get(0)?, row.get(1)?))).optional();
                if let Some(name) = name.map_err(&failed)? {
                    names.insert(id, name);
                }
            }
            Ok(names)
        })
        .await
    }

    /// Versions of several items, in the order of `item_ids`, each oldest first.
    pub async fn versions_of(&self, item_ids: Vec<String>) -> Result<Vec<Vec<VersionRow>>, StoreError> {
        self.transact(move |work| {
            let failed = sql("list versions");
            let mut statement = work
                .sql
                .prepare_cached(
                    "SELECT version, index_digest, created_at FROM versions WHERE item_id = ?1 \
                     ORDER BY created_at, version",
                )
                .map_err(&failed)?;
            let mut rows = |id: &String| statement.query_map([id], version).and_then(Iterator::collect);
            item_ids.iter().map(|id| rows(id).map_err(&failed)).collect()
        })
        .await
    }

    /// Items by age, optionally of one company, with the number of all that match.
    pub async fn items(
        &self,
        company: Option<String>,
        limit: u32,
        offset: u32,
    ) -> Result<(Vec<Item>, i64), StoreError> {
        self.transact(move |work| {
            let failed = sql("list items");
            let total = work
                .sql
                .query_row(
                    "SELECT count(*) FROM items WHERE ?1 IS NULL OR company_id = ?1",
                    [&company],
                    |row| row.get(0),
                )
                .map_err(&failed)?;
            let query = format!(
                "SELECT {COLUMNS} FROM {SOURCE} WHERE ?1 IS NULL OR i.company_id = ?1 \
                 ORDER BY i.created_at, i.id LIMIT ?2 OFFSET ?3"
            );
            let mut statement = work.sql.prepare_cached(&query).map_err(&failed)?;
            let rows = statement
                .query_map(params![company, limit, offset], item)
                .and_then(Iterator::collect)
                .map_err(&failed)?;
            Ok((rows, total))
        })
        .await
    }

    /// Adds a version. The same content again is no change; other content under the same version is a
    /// conflict. Units that follow the latest version get a new target.
    pub async fn add_version(&self, item_id: &str, new: NewVersion) -> Result<VersionAdded, StoreError> {
        let item_id = item_id.to_owned();
        self.transact(move |work| {
            let failed = sql("add a version");
            let present = work
                .sql
                .query_row(
                    "SELECT version, index_digest, created_at FROM versions \
                     WHERE item_id = ?1 AND version = ?2",
                    [&item_id, &new.version],
                    version,
                )
                .optional()
                .map_err(&failed)?;
            if let Some(present) = present {
                if present.index_digest == new.index_digest {
                    return Ok(VersionAdded::Same(present));
                }
                return Err(StoreError::Conflict(format!(
                    "version {} exists with other content",
                    new.version
                )));
            }
            let row =
                VersionRow { version: new.version, index_digest: new.index_digest, created_at: now_micros() };
            work.sql
                .execute(
                    "INSERT INTO versions (item_id, version, index_digest, created_at) \
                     VALUES (?1, ?2, ?3, ?4)",
                    params![item_id, row.version, row.index_digest, row.created_at],
                )
                .map_err(&failed)?;
            for digest in &new.blobs {
                work.sql
                    .execute(
                        "INSERT INTO version_blobs (item_id, version, digest) VALUES (?1, ?2, ?3) \
                         ON CONFLICT DO NOTHING",
                        [&item_id, &row.version, digest],
                    )
                    .map_err(&failed)?;
            }
            let followers: Vec<String> = {
                let mut statement = work
                    .sql
                    .prepare_cached(
                        "SELECT unit_id FROM assignments WHERE item_id = ?1 AND version = 'latest'",
                    )
                    .map_err(&failed)?;
                let rows = statement.query_map([&item_id], |row| row.get(0)).and_then(Iterator::collect);
                rows.map_err(&failed)?
            };
            for unit_id in followers {
                retarget(work, &unit_id)?;
            }
            Ok(VersionAdded::New(row))
        })
        .await
    }

    /// Versions of an item, oldest first.
    pub async fn versions(&self, item_id: &str) -> Result<Vec<VersionRow>, StoreError> {
        let item_id = item_id.to_owned();
        self.transact(move |work| {
            let mut statement = work
                .sql
                .prepare_cached(
                    "SELECT version, index_digest, created_at FROM versions WHERE item_id = ?1 \
                     ORDER BY created_at, version",
                )
                .map_err(sql("list versions"))?;
            let rows = statement.query_map([item_id], version).and_then(Iterator::collect);
            rows.map_err(sql("list versions"))
        })
        .await
    }
}

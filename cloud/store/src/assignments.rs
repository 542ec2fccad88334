//! What is assigned to a Unit.

use rusqlite::{Row, params};

use crate::error::StoreError;
use crate::items::VersionRow;
use crate::thread::{Store, Work, sql};
use crate::units::{find, retarget};

/// An item assigned to a Unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The item.
    pub item_id: String,
    /// Its codename.
    pub codename: String,
    /// Its type.
    pub kind: String,
    /// `latest` or a semantic version.
    pub version: String,
    /// Instances wanted.
    pub num_instances: u64,
    /// Priority, higher first.
    pub priority: u64,
    /// Labels that a node must have.
    pub labels: Vec<String>,
}

/// An assignment to store; replaces one of the same item.
#[derive(Debug, Clone)]
pub struct NewAssignment {
    /// `latest` or a semantic version.
    pub version: String,
    /// Instances wanted.
    pub num_instances: u64,
    /// Priority, higher first.
    pub priority: u64,
    /// Labels that a node must have.
    pub labels: Vec<String>,
}

/// An assignment with all that a desired status needs.
#[derive(Debug, Clone)]
pub struct AssignedItem {
    /// The assignment.
    pub assignment: Assignment,
    /// Company that owns the item, UUIDv4.
    pub owner_id: String,
    /// `sp` or `oem`.
    pub owner_kind: String,
    /// All versions of the item.
    pub versions: Vec<VersionRow>,
}

const QUERY: &str = "SELECT a.item_id, i.codename, i.type, a.version, a.num_instances, a.priority, a.labels, \
     i.company_id, c.kind FROM assignments a JOIN items i ON i.id = a.item_id \
     JOIN companies c ON c.id = i.company_id WHERE a.unit_id = ?1 ORDER BY a.priority DESC, a.item_id";

struct Raw {
    assignment: Assignment,
    labels: String,
    owner_id: String,
    owner_kind: String,
}

fn raw(row: &Row<'_>) -> rusqlite::Result<Raw> {
    Ok(Raw {
        assignment: Assignment {
            item_id: row.get(0)?,
            codename: row.get(1)?,
            kind: row.get(2)?,
            version: row.get(3)?,
            num_instances: row.get::<_, i64>(4)?.unsigned_abs(),
            priority: row.get::<_, i64>(5)?.unsigned_abs(),
            labels: Vec::new(),
        },
        labels: row.get(6)?,
        owner_id: row.get(7)?,
        owner_kind: row.get(8)?,
    })
}

pub(crate) fn assigned(work: &Work<'_>, unit_id: &str) -> Result<Vec<AssignedItem>, StoreError> {
    let failed = sql("read assignments");
    let rows: Vec<Raw> = {
        let mut statement = work.sql.prepare_cached(QUERY).map_err(&failed)?;
        statement.query_map([unit_id], raw).and_then(Iterator::collect).map_err(&failed)?
    };
    let mut items = Vec::with_capacity(rows.len());
    for row in rows {
        let mut assignment = row.assignment;
        assignment.labels = serde_json::from_str(&row.labels)
            .map_err(|source| StoreError::Damaged { what: "assignment", source })?;
        let mut statement = work
            .sql
            .prepare_cached("SELECT version, index_digest, created_at FROM versions WHERE item_id = ?1")
            .map_err(&failed)?;
        let versions = statement
            .query_map([&assignment.item_id], |row| {
                Ok(VersionRow { version: row.get(0)?, index_digest: row.get(1)?, created_at: row.get(2)? })
            })
            .and_then(Iterator::collect)
            .map_err(&failed)?;
        items.push(AssignedItem { assignment, owner_id: row.owner_id, owner_kind: row.owner_kind, versions });
    }
    Ok(items)
}

impl Store {
    /// Assigns an item to a Unit, replacing an earlier assignment of it. The flag tells whether something
    /// changed.
    pub async fn assign(&self, unit_id: &str, item_id: &str, new: NewAssignment) -> Result<bool, StoreError> {
        let (unit_id, item_id) = (unit_id.to_owned(), item_id.to_owned());
        self.transact(move |work| {
            let failed = sql("assign an item");
            let unit = find(work, &unit_id)?.ok_or(StoreError::NotFound("Unit"))?;
            let labels = serde_json::to_string(&new.labels)
                .map_err(|source| StoreError::Damaged { what: "label list", source })?;
            let bounded = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
            let changed = work
                .sql
                .execute(
                    "INSERT INTO assignments (unit_id, item_id, version, num_instances, priority, labels) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (unit_id, item_id) DO UPDATE SET \
                     version = excluded.version, num_instances = excluded.num_instances, \
                     priority = excluded.priority, labels = excluded.labels \
                     WHERE (version, num_instances, priority, labels) IS NOT \
                     (excluded.version, excluded.num_instances, excluded.priority, excluded.labels)",
                    params![
                        unit.id,
                        item_id,
                        new.version,
                        bounded(new.num_instances),
                        bounded(new.priority),
                        labels
                    ],
                )
                .map_err(&failed)?;
            if changed > 0 {
                retarget(work, &unit.id)?;
            }
            Ok(changed > 0)
        })
        .await
    }

    /// Ends an assignment. The flag tells whether there was one.
    pub async fn unassign(&self, unit_id: &str, item_id: &str) -> Result<bool, StoreError> {
        let (unit_id, item_id) = (unit_id.to_owned(), item_id.to_owned());
        self.transact(move |work| {
            let changed = work
                .sql
                .execute("DELETE FROM assignments WHERE unit_id = ?1 AND item_id = ?2", [&unit_id, &item_id])
                .map_err(sql("end an assignment"))?;
            if changed > 0 {
                retarget(work, &unit_id)?;
            }
            Ok(changed > 0)
        })
        .await
    }

    /// What is assigned to a Unit, with all versions of each item.
    pub async fn assigned(&self, unit_id: &str) -> Result<Vec<AssignedItem>, StoreError> {
        let unit_id = unit_id.to_owned();
        self.transact(move |work| assigned(work, &unit_id)).await
    }
}

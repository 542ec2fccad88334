//! Provisioning and deprovisioning of single nodes, and wishes to pause them.
//!
//! The state machine is the fleet's; here are the rows. 16 ended tasks are kept per Unit.

use rusqlite::{OptionalExtension as _, Row, params};

use crate::error::StoreError;
use crate::records::now_micros;
use crate::thread::{Store, Work, sql};
use crate::units::{find, retarget};

const ENDED_KEPT: i64 = 16;

/// A task on a node.
#[derive(Clone, PartialEq, Eq)]
pub struct NodeTask {
    /// Names the task; the correlation of its messages.
    pub id: String,
    /// The node.
    pub node_id: String,
    /// `provision` or `deprovision`.
    pub kind: String,
    /// `starting`, `finishing`, `deprovisioning`, `done` or `failed`.
    pub state: String,
    /// Why it failed, or what delays it.
    pub reason: Option<String>,
    /// Owner password of the node's token, sealed; none once the task has ended.
    pub sealed_password: Option<Vec<u8>>,
    /// When it was made, microseconds.
    pub created_at: i64,
    /// When it fails without an answer, microseconds; none once it has ended.
    pub deadline: Option<i64>,
    /// When it ended, microseconds.
    pub finished_at: Option<i64>,
}

impl std::fmt::Debug for NodeTask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeTask")
            .field("id", &self.id)
            .field("node_id", &self.node_id)
            .field("kind", &self.kind)
            .field("state", &self.state)
            .field("reason", &self.reason)
            .finish_non_exhaustive()
    }
}

/// What a node shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeWish {
    /// The node.
    pub node_id: String,
    /// `paused` or `provisioned`.
    pub state: String,
    /// When it was wished, microseconds.
    pub set_at: i64,
}

const COLUMNS: &str = "id, node_id, kind, state, reason, sealed_password, created_at, deadline, finished_at";

fn task(row: &Row<'_>) -> rusqlite::Result<NodeTask> {
    Ok(NodeTask {
        id: row.get(0)?,
        node_id: row.get(1)?,
        kind: row.get(2)?,
        state: row.get(3)?,
        reason: row.get(4)?,
        sealed_password: row.get(5)?,
        created_at: row.get(6)?,
        deadline: row.get(7)?,
        finished_at: row.get(8)?,
    })
}

impl Work<'_> {
    /// Keeps a task, new or changed. A task without deadline has ended.
    pub fn put_node_task(&mut self, unit_id: &str, task: &NodeTask) -> Result<(), StoreError> {
        let failed = sql("keep a task of a node");
        self.sql
            .execute(
                "INSERT INTO node_tasks (id, unit_id, node_id, kind, state, reason, sealed_password, \
                 created_at, deadline, finished_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) \
                 ON CONFLICT (id) DO UPDATE SET state = excluded.state, reason = excluded.reason, \
                 sealed_password = excluded.sealed_password, deadline = excluded.deadline, \
                 finished_at = excluded.finished_at",
                params![
                    task.id,
                    unit_id,
                    task.node_id,
                    task.kind,
                    task.state,
                    task.reason,
                    task.sealed_password,
                    task.created_at,
                    task.deadline,
                    task.finished_at
                ],
            )
            .map_err(&failed)?;
        self.sql
            .execute(
                "DELETE FROM node_tasks WHERE id IN (SELECT id FROM node_tasks WHERE unit_id = ?1 \
                 AND deadline IS NULL ORDER BY created_at DESC LIMIT -1 OFFSET ?2)",
                params![unit_id, ENDED_KEPT],
            )
            .map_err(&failed)?;
        if let Some(deadline) = task.deadline {
            self.wake_at(deadline);
        }
        self.touch(unit_id)
    }

    /// The task that is under way on a node.
    pub fn open_node_task(&self, unit_id: &str, node_id: &str) -> Result<Option<NodeTask>, StoreError> {
        let query = format!(
            "SELECT {COLUMNS} FROM node_tasks WHERE unit_id = ?1 AND node_id = ?2 AND deadline IS NOT NULL"
        );
        self.sql.query_row(&query, [unit_id, node_id], task).optional().map_err(sql("find a task of a node"))
    }

    /// The nodes of a Unit that are registered: (node, is main).
    pub fn registered_nodes(&self, unit_id: &str) -> Result<Vec<(String, bool)>, StoreError> {
        let failed = sql("read nodes");
        let mut statement = self
            .sql
            .prepare_cached(
                "SELECT node_id, is_main FROM nodes WHERE unit_id = ?1 ORDER BY is_main DESC, node_id",
            )
            .map_err(&failed)?;
        statement
            .query_map([unit_id], |row| Ok((row.get(0)?, row.get(1)?)))
            .and_then(Iterator::collect)
            .map_err(&failed)
    }

    /// Registers a node, or only its state when it is registered.
    pub fn register_node(
        &mut self,
        unit_id: &str,
        node_id: &str,
        node_type: &str,
        status: &str,
    ) -> Result<(), StoreError> {
        self.sql
            .execute(
                "INSERT INTO nodes (unit_id, node_id, node_type, name, is_main, status, info) \
                 VALUES (?1, ?2, ?3, ?2, 0, ?4, '{}') \
                 ON CONFLICT (unit_id, node_id) DO UPDATE SET status = excluded.status",
                [unit_id, node_id, node_type, status],
            )
            .map_err(sql("register a node"))?;
        self.touch(unit_id)
    }

    pub(crate) fn wishes(&self, unit_id: &str) -> Result<Vec<NodeWish>, StoreError> {
        let failed = sql("read wishes for nodes");
        let mut statement = self
            .sql
            .prepare_cached(
                "SELECT node_id, state, set_at FROM node_wishes WHERE unit_id = ?1 ORDER BY node_id",
            )
            .map_err(&failed)?;
        statement
            .query_map([unit_id], |row| {
                Ok(NodeWish { node_id: row.get(0)?, state: row.get(1)?, set_at: row.get(2)? })
            })
            .and_then(Iterator::collect)
            .map_err(&failed)
    }

    /// Sets what a node shall be; the Unit gets a new desired status.
    pub fn wish(&mut self, unit_id: &str, node_id: &str, paused: bool) -> Result<(), StoreError> {
        let state = if paused { "paused" } else { "provisioned" };
        let changed = self
            .sql
            .execute(
                "INSERT INTO node_wishes (unit_id, node_id, state, set_at) VALUES (?1, ?2, ?3, ?4) \
                 ON CONFLICT (unit_id, node_id) DO UPDATE SET state = excluded.state, \
                 set_at = excluded.set_at WHERE state <> excluded.state",
                params![unit_id, node_id, state, now_micros()],
            )
            .map_err(sql("keep a wish for a node"))?;
        if changed > 0 { retarget(self, unit_id) } else { Ok(()) }
    }

    /// Forgets what a node shall be.
    pub fn forget_wish(&mut self, unit_id: &str, node_id: &str) -> Result<(), StoreError> {
        let changed = self
            .sql
            .execute("DELETE FROM node_wishes WHERE unit_id = ?1 AND node_id = ?2", [unit_id, node_id])
            .map_err(sql("forget a wish for a node"))?;
        if changed > 0 { retarget(self, unit_id) } else { Ok(()) }
    }

    /// Node passwords as sealed at registration.
    pub fn sealed_secrets(&self, unit_id: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.sql
            .query_row("SELECT sealed_secrets FROM units WHERE id = ?1", [unit_id], |row| row.get(0))
            .optional()
            .map(Option::flatten)
            .map_err(sql("read the secrets of a Unit"))
    }

    /// Replaces the sealed node passwords.
    pub fn set_sealed_secrets(&mut self, unit_id: &str, sealed: &[u8]) -> Result<(), StoreError> {
        self.sql
            .execute("UPDATE units SET sealed_secrets = ?2 WHERE id = ?1", params![unit_id, sealed])
            .map(|_| ())
            .map_err(sql("keep the secrets of a Unit"))
    }
}

impl Store {
    /// The tasks of a Unit's nodes, newest first.
    pub async fn node_tasks(&self, unit_id: &str) -> Result<Vec<NodeTask>, StoreError> {
        let unit_id = unit_id.to_owned();
        self.transact(move |work| {
            let query = format!(
                "SELECT {COLUMNS} FROM node_tasks WHERE unit_id = ?1 ORDER BY created_at DESC, rowid DESC"
            );
            let failed = sql("list tasks of nodes");
            let mut statement = work.sql.prepare_cached(&query).map_err(&failed)?;
            statement.query_map([unit_id], task).and_then(Iterator::collect).map_err(&failed)
        })
        .await
    }

    /// Sets whether a registered node shall be paused.
    pub async fn set_node_wish(&self, unit_id: &str, node_id: &str, paused: bool) -> Result<(), StoreError> {
        let (unit_id, node_id) = (unit_id.to_owned(), node_id.to_owned());
        self.transact(move |work| {
            let unit = find(work, &unit_id)?.ok_or(StoreError::NotFound("Unit"))?;
            if !work.registered_nodes(&unit.id)?.iter().any(|(known, _)| *known == node_id) {
                return Err(StoreError::NotFound("node"));
            }
            work.wish(&unit.id, &node_id, paused)
        })
        .await
    }

    /// What the nodes of a Unit shall be, as far as that was wished.
    pub async fn node_wishes(&self, unit_id: &str) -> Result<Vec<NodeWish>, StoreError> {
        let unit_id = unit_id.to_owned();
        self.transact(move |work| work.wishes(&unit_id)).await
    }
}

//! Requests for logs of Units, and what came back.
//!
//! The rules of completeness are the fleet's; here are the rows. Limits per Unit: 64 requests and 256 MiB of
//! content; of more the oldest requests go, with their files.

use rusqlite::{OptionalExtension as _, Row, params};

use crate::error::StoreError;
use crate::thread::{Store, Work, sql};

/// Requests kept for one Unit.
pub const MAX_LOG_REQUESTS: i64 = 64;
/// Bytes of received logs kept for one Unit, as they arrived.
pub const MAX_LOG_BYTES: i64 = 256 * 1024 * 1024;

/// A request to keep.
#[derive(Debug, Clone)]
pub struct NewLog {
    /// Names the request; the correlation of its messages.
    pub id: String,
    /// `systemLog`, `instanceLog` or `crashLog`.
    pub log_type: String,
    /// The filter as JSON.
    pub filter: String,
    /// `wss` or `https`.
    pub upload: String,
    /// SHA-256 of the token for uploads.
    pub token_hash: Option<[u8; 32]>,
    /// Nodes that are asked.
    pub nodes: Vec<String>,
    /// When it ends without an answer, microseconds.
    pub deadline: i64,
}

/// A request for logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRequest {
    /// Names the request.
    pub id: String,
    /// The Unit that is asked.
    pub unit_id: String,
    /// `systemLog`, `instanceLog` or `crashLog`.
    pub log_type: String,
    /// The filter as JSON.
    pub filter: String,
    /// `wss` or `https`.
    pub upload: String,
    /// SHA-256 of the token for uploads.
    pub token_hash: Option<[u8; 32]>,
    /// `waiting`, `partial`, `done`, `failed`, `empty` or `absent`.
    pub state: String,
    /// Why it failed, or what delays it.
    pub reason: Option<String>,
    /// Bytes received, as they arrived.
    pub bytes: u64,
    /// When it was made, microseconds.
    pub created_at: i64,
    /// When it ends without an answer, microseconds; none once it has ended.
    pub deadline: Option<i64>,
    /// When it ended, microseconds.
    pub finished_at: Option<i64>,
    /// What each node sent, by node.
    pub nodes: Vec<LogNode>,
}

/// What one node sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogNode {
    /// The node.
    pub node_id: String,
    /// As of a request.
    pub state: String,
    /// Parts announced; 0 before the first.
    pub parts_count: u64,
    /// Numbers of the parts received, ascending.
    pub parts: Vec<u64>,
    /// Why it failed.
    pub reason: Option<String>,
}

/// One received part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPart {
    /// Where it came from.
    pub node_id: String,
    /// Its number.
    pub part: u64,
    /// Name of its file.
    pub(crate) file: String,
    /// Length as it arrived.
    pub bytes: u64,
}

const COLUMNS: &str = "id, unit_id, log_type, filter, upload, token_hash, state, reason, bytes, created_at, \
     deadline, finished_at";

fn request(row: &Row<'_>) -> rusqlite::Result<LogRequest> {
    Ok(LogRequest {
        id: row.get(0)?,
        unit_id: row.get(1)?,
        log_type: row.get(2)?,
        filter: row.get(3)?,
        upload: row.get(4)?,
        token_hash: row.get(5)?,
        state: row.get(6)?,
        reason: row.get(7)?,
        bytes: row.get::<_, i64>(8)?.unsigned_abs(),
        created_at: row.get(9)?,
        deadline: row.get(10)?,
        finished_at: row.get(11)?,
        nodes: Vec::new(),
    })
}

impl Work<'_> {
    /// A request of the Unit with what its nodes sent.
    pub fn log(&self, unit_id: &str, id: &str) -> Result<Option<LogRequest>, StoreError> {
        let failed = sql("read a log request");
        let query = format!("SELECT {COLUMNS} FROM log_requests WHERE unit_id = ?1 AND id = ?2");
        let found = self
            .sql
            .prepare_cached(&query)
            .and_then(|mut statement| statement.query_row([unit_id, id], request).optional())
            .map_err(&failed)?;
        found.map(|request| self.with_nodes(request)).transpose()
    }

    fn with_nodes(&self, mut request: LogRequest) -> Result<LogRequest, StoreError> {
        let failed = sql("read a log request");
        let mut statement = self
            .sql
            .prepare_cached(
                "SELECT node_id, state, parts_count, reason FROM log_nodes WHERE request_id = ?1 \
                 ORDER BY node_id",
            )
            .map_err(&failed)?;
        let node = |row: &Row<'_>| {
            Ok(LogNode {
                node_id: row.get(0)?,
                state: row.get(1)?,
                parts_count: row.get::<_, i64>(2)?.unsigned_abs(),
                parts: Vec::new(),
                reason: row.get(3)?,
            })
        };
        request.nodes =
            statement.query_map([&request.id], node).and_then(Iterator::collect).map_err(&failed)?;
        for part in self.log_parts(&request.id)? {
            if let Some(node) = request.nodes.iter_mut().find(|node| node.node_id == part.node_id) {
                node.parts.push(part.part);
            }
        }
        Ok(request)
    }

    pub(crate) fn log_parts(&self, id: &str) -> Result<Vec<LogPart>, StoreError> {
        let failed = sql("read parts of a log");
        let mut statement = self
            .sql
            .prepare_cached(
                "SELECT node_id, part, file, bytes FROM log_parts WHERE request_id = ?1 \
                 ORDER BY node_id, part",
            )
            .map_err(&failed)?;
        let part = |row: &Row<'_>| {
            Ok(LogPart {
                node_id: row.get(0)?,
                part: row.get::<_, i64>(1)?.unsigned_abs(),
                file: row.get(2)?,
                bytes: row.get::<_, i64>(3)?.unsigned_abs(),
            })
        };
        statement.query_map([id], part).and_then(Iterator::collect).map_err(&failed)
    }
}

impl Store {
    /// A request of the Unit.
    pub async fn log_request(&self, unit_id: &str, id: &str) -> Result<Option<LogRequest>, StoreError> {
        let (unit_id, id) = (unit_id.to_owned(), id.to_owned());
        self.transact(move |work| work.log(&unit_id, &id)).await
    }

    /// Drops a request of the Unit and what came for it; false when there is none.
    pub async fn drop_log_request(&self, unit_id: &str, id: &str) -> Result<bool, StoreError> {
        let (unit_id, id) = (unit_id.to_owned(), id.to_owned());
        self.transact(move |work| {
            let known = work.log(&unit_id, &id)?.is_some();
            if known {
                work.drop_log(&unit_id, &id)?;
            }
            Ok(known)
        })
        .await
    }

    /// Requests of the Unit, newest first, with the number of all.
    pub async fn log_requests(
        &self,
        unit_id: &str,
        limit: u32,
        offset: u32,
    ) -> Result<(Vec<LogRequest>, i64), StoreError> {
        let unit_id = unit_id.to_owned();
        self.transact(move |work| {
            let failed = sql("list log requests");
            let total = work
                .sql
                .query_row("SELECT count(*) FROM log_requests WHERE unit_id = ?1", [&unit_id], |row| {
                    row.get(0)
                })
                .map_err(&failed)?;
            let query = format!(
                "SELECT {COLUMNS} FROM log_requests WHERE unit_id = ?1 ORDER BY seq DESC LIMIT ?2 OFFSET ?3"
            );
            let rows: Vec<LogRequest> = {
                let mut statement = work.sql.prepare_cached(&query).map_err(&failed)?;
                statement
                    .query_map(params![unit_id, limit, offset], request)
                    .and_then(Iterator::collect)
                    .map_err(&failed)?
            };
            let rows = rows.into_iter().map(|row| work.with_nodes(row)).collect::<Result<_, _>>()?;
            Ok((rows, total))
        })
        .await
    }

    /// The request with this id, of whatever Unit.
    pub async fn log_by_id(&self, id: &str) -> Result<Option<LogRequest>, StoreError> {
        let id = id.to_owned();
        self.transact(move |work| {
            let query = format!("SELECT {COLUMNS} FROM log_requests WHERE id = ?1");
            let found = work
                .sql
                .prepare_cached(&query)
                .and_then(|mut statement| statement.query_row([id], request).optional())
                .map_err(sql("find a log request"))?;
            found.map(|request| work.with_nodes(request)).transpose()
        })
        .await
    }

    /// The parts of a request that were received, by node and number.
    pub async fn log_parts(&self, id: &str) -> Result<Vec<LogPart>, StoreError> {
        let id = id.to_owned();
        self.transact(move |work| work.log_parts(&id)).await
    }
}

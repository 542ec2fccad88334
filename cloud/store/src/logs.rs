//! Requests for logs of Units, and what came back.
//!
//! The rules of completeness are the fleet's; here are the rows. Limits per Unit: 64 requests and 256 MiB of
//! content; of more the oldest requests go, with their files.

use rusqlite::{OptionalExtension as _, Row, params};

use crate::error::StoreError;
use crate::records::now_micros;
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

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Work<'_> {
    /// Keeps a request. The oldest ones of the Unit go when there are too many.
    pub fn add_log(&mut self, unit_id: &str, new: &NewLog) -> Result<(), StoreError> {
        let failed = sql("keep a log request");
        let seq: i64 = self
            .sql
            .query_row(
                "SELECT coalesce(max(seq), 0) + 1 FROM log_requests WHERE unit_id = ?1",
                [unit_id],
                |row| row.get(0),
            )
            .map_err(&failed)?;
        self.sql
            .execute(
                "INSERT INTO log_requests (id, unit_id, seq, log_type, filter, upload, token_hash, state, \
                 created_at, deadline) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 'waiting', ?8, ?9)",
                params![
                    new.id,
                    unit_id,
                    seq,
                    new.log_type,
                    new.filter,
                    new.upload,
                    new.token_hash,
                    now_micros(),
                    new.deadline
                ],
            )
            .map_err(&failed)?;
        for node in &new.nodes {
            self.sql
                .execute(
                    "INSERT INTO log_nodes (request_id, node_id, state) VALUES (?1, ?2, 'waiting')",
                    [&new.id, node],
                )
                .map_err(&failed)?;
        }
        let surplus: Vec<String> = {
            let mut statement = self
                .sql
                .prepare_cached("SELECT id FROM log_requests WHERE unit_id = ?1 AND seq <= ?2")
                .map_err(&failed)?;
            statement
                .query_map(params![unit_id, seq - MAX_LOG_REQUESTS], |row| row.get(0))
                .and_then(Iterator::collect)
                .map_err(&failed)?
        };
        for id in surplus {
            self.drop_log(unit_id, &id)?;
        }
        self.wake_at(new.deadline);
        self.touch(unit_id)
    }

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

    fn log_parts(&self, id: &str) -> Result<Vec<LogPart>, StoreError> {
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

    /// Keeps what is known of one node.
    pub fn put_log_node(&mut self, id: &str, node: &LogNode) -> Result<(), StoreError> {
        self.sql
            .prepare_cached(
                "UPDATE log_nodes SET state = ?3, parts_count = ?4, reason = ?5 \
                 WHERE request_id = ?1 AND node_id = ?2",
            )
            .and_then(|mut statement| {
                let parts = number(node.parts_count);
                statement.execute(params![id, node.node_id, node.state, parts, node.reason])
            })
            .map(|_| ())
            .map_err(sql("keep the state of a log"))
    }

    /// Names the file of a part. Older requests of the Unit make room; false when that is not enough.
    pub(crate) fn put_log_part(
        &mut self,
        unit_id: &str,
        id: &str,
        part: &LogPart,
    ) -> Result<bool, StoreError> {
        let failed = sql("keep a part of a log");
        self.drop_log_part(id, part)?;
        loop {
            let held: i64 = self
                .sql
                .prepare_cached("SELECT coalesce(sum(bytes), 0) FROM log_requests WHERE unit_id = ?1")
                .and_then(|mut statement| statement.query_row([unit_id], |row| row.get(0)))
                .map_err(&failed)?;
            if held.saturating_add(number(part.bytes)) <= MAX_LOG_BYTES {
                break;
            }
            let oldest: Option<String> = self
                .sql
                .query_row(
                    "SELECT id FROM log_requests WHERE unit_id = ?1 AND id <> ?2 AND bytes > 0 \
                     ORDER BY seq LIMIT 1",
                    [unit_id, id],
                    |row| row.get(0),
                )
                .optional()
                .map_err(&failed)?;
            let Some(oldest) = oldest else { return Ok(false) };
            self.drop_log(unit_id, &oldest)?;
        }
        self.sql
            .prepare_cached(
                "INSERT INTO log_parts (request_id, node_id, part, file, bytes) VALUES (?1, ?2, ?3, ?4, ?5)",
            )
            .and_then(|mut statement| {
                let (of, bytes) = (number(part.part), number(part.bytes));
                statement.execute(params![id, part.node_id, of, part.file, bytes])
            })
            .map_err(&failed)?;
        self.sql
            .prepare_cached("UPDATE log_requests SET bytes = bytes + ?2 WHERE id = ?1")
            .and_then(|mut statement| statement.execute(params![id, number(part.bytes)]))
            .map_err(&failed)?;
        Ok(true)
    }

    /// Drops what a part replaces.
    fn drop_log_part(&mut self, id: &str, part: &LogPart) -> Result<(), StoreError> {
        let failed = sql("replace a part of a log");
        let old: Option<(String, i64)> = self
            .sql
            .prepare_cached(
                "DELETE FROM log_parts WHERE request_id = ?1 AND node_id = ?2 AND part = ?3 \
                 RETURNING file, bytes",
            )
            .and_then(|mut statement| {
                let key = params![id, part.node_id, number(part.part)];
                statement.query_row(key, |row| Ok((row.get(0)?, row.get(1)?))).optional()
            })
            .map_err(&failed)?;
        let Some((file, bytes)) = old else { return Ok(()) };
        self.discard_files(vec![file]);
        self.sql
            .execute("UPDATE log_requests SET bytes = bytes - ?2 WHERE id = ?1", params![id, bytes])
            .map(|_| ())
            .map_err(&failed)
    }

    /// Sets the state of a request; with `ended` nothing more is waited for.
    pub fn set_log_state(
        &mut self,
        unit_id: &str,
        id: &str,
        state: &str,
        reason: Option<&str>,
        ended: bool,
    ) -> Result<(), StoreError> {
        let statement = if ended {
            "UPDATE log_requests SET state = ?2, reason = ?3, finished_at = ?4, deadline = NULL WHERE id = ?1"
        } else {
            "UPDATE log_requests SET state = ?2, reason = ?3 WHERE id = ?1 AND ?4 IS ?4"
        };
        self.sql
            .prepare_cached(statement)
            .and_then(|mut statement| statement.execute(params![id, state, reason, now_micros()]))
            .map_err(sql("keep the state of a log request"))?;
        self.touch(unit_id)
    }

    /// Adds a node to a request that was not asked by name.
    pub fn add_log_node(&mut self, id: &str, node_id: &str) -> Result<(), StoreError> {
        self.sql
            .execute(
                "INSERT OR IGNORE INTO log_nodes (request_id, node_id, state) VALUES (?1, ?2, 'waiting')",
                [id, node_id],
            )
            .map(|_| ())
            .map_err(sql("keep the state of a log"))
    }

    fn drop_log(&mut self, unit_id: &str, id: &str) -> Result<(), StoreError> {
        let files: Vec<String> = self.log_parts(id)?.into_iter().map(|part| part.file).collect();
        self.discard_files(files);
        self.withdraw(unit_id, id)?;
        self.sql
            .execute("DELETE FROM log_requests WHERE id = ?1", [id])
            .map(|_| ())
            .map_err(sql("drop an old log"))
    }

    /// Drops all logs of a Unit with their files.
    pub(crate) fn drop_logs(&mut self, unit_id: &str) -> Result<(), StoreError> {
        let failed = sql("drop the logs of a Unit");
        let ids: Vec<String> = {
            let mut statement =
                self.sql.prepare_cached("SELECT id FROM log_requests WHERE unit_id = ?1").map_err(&failed)?;
            statement.query_map([unit_id], |row| row.get(0)).and_then(Iterator::collect).map_err(&failed)?
        };
        ids.iter().try_for_each(|id| self.drop_log(unit_id, id))
    }
}

impl Store {
    /// A request of the Unit.
    pub async fn log_request(&self, unit_id: &str, id: &str) -> Result<Option<LogRequest>, StoreError> {
        let (unit_id, id) = (unit_id.to_owned(), id.to_owned());
        self.transact(move |work| work.log(&unit_id, &id)).await
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

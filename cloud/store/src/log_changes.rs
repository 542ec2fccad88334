//! Changes of log requests and of what came for them.

use rusqlite::{OptionalExtension as _, params};

use crate::error::StoreError;
use crate::logs::{LogNode, LogPart, MAX_LOG_BYTES, MAX_LOG_REQUESTS, NewLog};
use crate::records::now_micros;
use crate::thread::{Work, sql};

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
        let changed = if ended {
            let statement = "UPDATE log_requests SET state = ?2, reason = ?3, finished_at = ?4, deadline = NULL WHERE id = ?1";
            self.sql
                .prepare_cached(statement)
                .and_then(|mut statement| statement.execute(params![id, state, reason, now_micros()]))
        } else {
            self.sql
                .prepare_cached("UPDATE log_requests SET state = ?2, reason = ?3 WHERE id = ?1")
                .and_then(|mut statement| statement.execute(params![id, state, reason]))
        };
        changed.map_err(sql("keep the state of a log request"))?;
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

    /// Drops a request with its files; what has not been asked is not asked any more.
    pub(crate) fn drop_log(&mut self, unit_id: &str, id: &str) -> Result<(), StoreError> {
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

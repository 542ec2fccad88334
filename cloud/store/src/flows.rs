//! What the fate of a message, or time, means for the flow that a message belongs to.
//!
//! Every flow that waits for a Unit has a deadline in its row. Nobody sleeps for a single one: whoever runs
//! [`Store::sweep`] learns the next deadline from it and of new ones through [`Store::watch_deadlines`].

use rusqlite::{OptionalExtension as _, params};

use crate::error::StoreError;
use crate::outbox::OutboxRow;
use crate::records::now_micros;
use crate::thread::{Store, Work, sql};

/// Flows that one sweep ends; the rest follows in the next.
const SWEEP: i64 = 256;
const SILENCE: &str = "the Unit did not answer in time";

/// A message was acknowledged (`done` without reason), given up (`done` with one) or parked.
pub(crate) fn settled(
    work: &mut Work<'_>,
    unit_id: &str,
    row: &OutboxRow,
    reason: Option<&str>,
    done: bool,
) -> Result<(), StoreError> {
    let correlation = row.correlation_id.as_deref().unwrap_or_default();
    let delivery = match (done, reason) {
        (true, None) => "delivered",
        (true, Some(_)) => "failed",
        (false, _) => "waiting",
    };
    match row.kind.as_str() {
        "overrideEnvVars" => work.env_settled(unit_id, correlation, delivery, reason),
        "updateState" => work.state_settled(unit_id, row.txn.as_str(), delivery, reason),
        "requestLog" => note(work, "log_requests", correlation, reason, done),
        "renewCertificatesNotification" | "issuedUnitCertificates" => {
            note(work, "renewals", correlation, reason, done)
        }
        "startProvisioningRequest" | "finishProvisioningRequest" | "deprovisioningRequest" => {
            note(work, "node_tasks", correlation, reason, done)
        }
        _ => Ok(()),
    }
}

/// Shows a reason with a flow that is under way, and ends it when its message was given up.
fn note(
    work: &mut Work<'_>,
    table: &'static str,
    id: &str,
    reason: Option<&str>,
    done: bool,
) -> Result<(), StoreError> {
    let Some(reason) = reason else { return Ok(()) };
    if done {
        return end(work, table, id, reason);
    }
    work.sql
        .execute(
            &format!("UPDATE {table} SET reason = ?2 WHERE id = ?1 AND deadline IS NOT NULL"),
            [id, reason],
        )
        .map(|_| ())
        .map_err(sql("note why a flow waits"))
}

/// Ends a flow that is under way as failed.
fn end(work: &mut Work<'_>, table: &'static str, id: &str, reason: &str) -> Result<(), StoreError> {
    let failed = sql("end a flow");
    let forget = if table == "node_tasks" { ", sealed_password = NULL" } else { "" };
    let unit_id: Option<String> = work
        .sql
        .query_row(
            &format!(
                "UPDATE {table} SET state = 'failed', reason = ?2, finished_at = ?3, deadline = NULL{forget} \
                 WHERE id = ?1 AND deadline IS NOT NULL RETURNING unit_id"
            ),
            params![id, reason, now_micros()],
            |row| row.get(0),
        )
        .optional()
        .map_err(&failed)?;
    let Some(unit_id) = unit_id else { return Ok(()) };
    let open_parts = match table {
        "log_requests" => {
            "UPDATE log_nodes SET state = 'failed', reason = ?2 \
             WHERE request_id = ?1 AND state IN ('waiting', 'partial')"
        }
        "renewals" => {
            "UPDATE renewal_certificates SET state = 'failed', reason = ?2 \
             WHERE renewal_id = ?1 AND state IN ('asked', 'issued')"
        }
        _ => "",
    };
    if !open_parts.is_empty() {
        work.sql.execute(open_parts, [id, reason]).map_err(&failed)?;
    }
    // A request that nobody waits for any more must not reach the Unit later.
    work.withdraw(&unit_id, id)?;
    work.touch(&unit_id)
}

impl Work<'_> {
    /// Ends a log request, a renewal or a task of a node as failed, if it is under way.
    pub fn end_flow(&mut self, id: &str, reason: &str) -> Result<(), StoreError> {
        ["log_requests", "renewals", "node_tasks"]
            .into_iter()
            .try_for_each(|table| end(self, table, id, reason))
    }
}

impl Store {
    /// Ends what has waited beyond its deadline at `now` (microseconds since 1970 UTC) and revokes
    /// certificates whose grace is over. Returns when to sweep next.
    pub async fn sweep(&self, now: i64) -> Result<Option<i64>, StoreError> {
        self.transact(move |work| {
            let failed = sql("look for deadlines");
            for table in ["log_requests", "renewals", "node_tasks"] {
                let due: Vec<(String, Option<String>)> = {
                    let mut statement = work
                        .sql
                        .prepare_cached(&format!(
                            "SELECT id, reason FROM {table} WHERE deadline <= ?1 ORDER BY deadline LIMIT ?2"
                        ))
                        .map_err(&failed)?;
                    statement
                        .query_map(params![now, SWEEP], |row| Ok((row.get(0)?, row.get(1)?)))
                        .and_then(Iterator::collect)
                        .map_err(&failed)?
                };
                for (id, reason) in due {
                    let reason = reason.map_or(SILENCE.to_owned(), |noted| format!("{SILENCE}: {noted}"));
                    end(work, table, &id, &reason)?;
                }
            }
            revoke_replaced(work, now)?;
            work.sql
                .query_row(
                    "SELECT min(at) FROM (SELECT min(deadline) AS at FROM log_requests UNION ALL \
                     SELECT min(deadline) FROM renewals UNION ALL SELECT min(deadline) FROM node_tasks \
                     UNION ALL SELECT min(revoke_at) FROM certificates WHERE revoke_at IS NOT NULL)",
                    [],
                    |row| row.get(0),
                )
                .map_err(&failed)
        })
        .await
    }
}

/// The successor was installed and the grace is over. A session by such an online certificate ends.
fn revoke_replaced(work: &mut Work<'_>, now: i64) -> Result<(), StoreError> {
    let failed = sql("revoke certificates that were replaced");
    let due: Vec<(i64, Option<String>, String)> = {
        let mut statement = work
            .sql
            .prepare_cached(
                "SELECT rowid, unit_id, cert_type FROM certificates WHERE revoke_at <= ?1 \
                 ORDER BY revoke_at LIMIT ?2",
            )
            .map_err(&failed)?;
        statement
            .query_map(params![now, SWEEP], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .and_then(Iterator::collect)
            .map_err(&failed)?
    };
    for (row, unit_id, cert_type) in due {
        work.sql
            .execute(
                "UPDATE certificates SET revoked_at = coalesce(revoked_at, ?2), revoke_at = NULL \
                 WHERE rowid = ?1",
                params![row, now_micros()],
            )
            .map_err(&failed)?;
        let Some(unit_id) = unit_id else { continue };
        if cert_type == "online" {
            work.sql
                .execute(
                    "UPDATE units SET session = session + 1, online_status = 'Offline' \
                     WHERE id = ?1 AND session > 0",
                    [&unit_id],
                )
                .map_err(&failed)?;
        }
        work.touch(&unit_id)?;
    }
    Ok(())
}

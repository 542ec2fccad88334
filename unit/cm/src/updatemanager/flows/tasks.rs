//! Requests whose work takes long: provisioning of nodes and certificates.
//!
//! A request is kept in table `tasks` by the transaction that accepts it. Its work is done beside this task;
//! the answers and the end of the row are one transaction again, so every accepted request is answered
//! exactly once, however often the process dies in between: open work begins anew at the next start.
//!
//! The rows hold owner passwords until the work is done; deleted rows are overwritten.

use std::collections::{BTreeMap, BTreeSet};

use aos_cloud_protocol::Body;
use aos_ids::Txn;
use aos_status::{AosCode, ErrorInfo};
use rusqlite::Connection;
use tokio::task::JoinSet;

use super::super::coordinator::{Coordinator, CoordinatorError};
use crate::database::StoreError;
use crate::iamclient::{IamClient, Work};

/// Requests that may be open; more are refused.
const MAX_OPEN: usize = 64;
/// Pieces of work at the same time.
const WORKERS: usize = 4;

/// Outcome of one piece of work: its number and the answers.
pub struct Done(i64, Vec<Body>);

struct Open {
    work: Work,
    correlation: Option<String>,
    running: bool,
}

/// All open requests.
pub struct Tasks {
    open: BTreeMap<i64, Open>,
    workers: JoinSet<Done>,
}

impl Tasks {
    /// Takes up what earlier runs left.
    pub fn load(db: &Connection) -> Result<Self, StoreError> {
        db.pragma_update(None, "secure_delete", true)?;
        let sql = "SELECT seq, correlation_id, body, kind FROM tasks WHERE kind <> ?1 ORDER BY seq";
        let mut rows = db.prepare(sql)?;
        let rows = rows.query_map([super::logs::KIND], |row| {
            Ok((row.get::<_, i64>(0)?, row.get(1)?, row.get::<_, String>(2)?, row.get::<_, String>(3)?))
        })?;
        let (mut open, mut unreadable) = (BTreeMap::new(), Vec::new());
        for row in rows {
            let (number, correlation, body, kind) = row?;
            if let Ok(work) = serde_json::from_str(&body) {
                tracing::info!("{kind} of the cloud is taken up again");
                open.insert(number, Open { work, correlation, running: false });
            } else {
                // The text may hold a secret, so the reason is not told.
                tracing::error!("stored {kind} is unreadable and left out");
                unreadable.push(number);
            }
        }
        for number in unreadable {
            db.execute("DELETE FROM tasks WHERE seq = ?1", [number])?;
        }
        Ok(Self { open, workers: JoinSet::new() })
    }

    /// The next piece of work that is done; `None` while none is under way.
    pub async fn done(&mut self) -> Option<Done> {
        loop {
            match self.workers.join_next().await? {
                Ok(done) => return Some(done),
                Err(error) => tracing::error!("a piece of work for the cloud broke: {error}"),
            }
        }
    }

    /// Whether certificates are being installed.
    fn installs(&self) -> bool {
        self.open.values().any(|open| matches!(open.work, Work::Install(_)))
    }

    fn next(&mut self) -> Option<(i64, Work)> {
        let mut busy: BTreeSet<&str> =
            self.open.values().filter(|open| open.running).map(|open| open.work.lane()).collect();
        if busy.len() >= WORKERS {
            return None;
        }
        let next = self.open.iter().find(|(_, open)| !open.running && busy.insert(open.work.lane()))?;
        let number = *next.0;
        let open = self.open.get_mut(&number)?;
        open.running = true;
        Some((number, open.work.clone()))
    }
}

impl Coordinator {
    /// Accepts a request, within the transaction of its message.
    pub(in super::super) fn accept_task(
        &mut self,
        txn: &Txn,
        correlation: Option<String>,
        work: Work,
    ) -> Result<(), CoordinatorError> {
        if self.tasks.open.len() >= MAX_OPEN {
            let error = ErrorInfo::new(AosCode::NoMemory, "too many requests are open");
            for answer in work.refused(&error) {
                self.answer(answer, correlation.clone())?;
            }
            return Ok(());
        }
        let body = serde_json::to_string(&work).map_err(StoreError::from)?;
        let sql = "INSERT OR IGNORE INTO tasks (txn, kind, correlation_id, body) VALUES (?1, ?2, ?3, ?4)";
        let row = (txn.as_str(), work.kind().as_str(), &correlation, body);
        let inserted = self.parts.db.prepare_cached(sql).and_then(|mut insert| insert.execute(row));
        if inserted.map_err(StoreError::from)? == 0 {
            // It came again after its transaction was forgotten, and is still open.
            return Ok(());
        }
        let number = self.parts.db.last_insert_rowid();
        self.tasks.open.insert(number, Open { work, correlation, running: false });
        Ok(())
    }

    /// Begins what can be begun; needs the Unit's identities, which IAM tells.
    pub(in super::super) fn start_tasks(&mut self) {
        // Told before the first certificate changes, and taken back after the confirmation is kept.
        let installs = self.tasks.installs();
        self.parts.installing.send_if_modified(|told| std::mem::replace(told, installs) != installs);
        let known = self.parts.system_id.borrow().is_some();
        let Some(main) = self.parts.main_node.borrow().clone().filter(|_| known) else { return };
        while let Some((number, work)) = self.tasks.next() {
            let client = IamClient {
                link: self.parts.iam.clone(),
                orders: self.parts.iam.orders(&self.certificate),
                main: main.clone(),
            };
            tracing::info!("{} of the cloud is being carried out", work.kind());
            self.tasks.workers.spawn(async move { Done(number, client.perform(work).await) });
        }
    }

    /// Answers a request that is done.
    pub(in super::super) fn on_task_done(&mut self, done: Done) -> Result<(), CoordinatorError> {
        let Done(number, answers) = done;
        let Some(open) = self.tasks.open.remove(&number) else { return Ok(()) };
        tracing::info!("{} of the cloud is done", open.work.kind());
        self.transaction(|this| {
            for answer in answers {
                this.report_failures(&answer);
                this.answer(answer, open.correlation.clone())?;
            }
            let deleted = this.parts.db.execute("DELETE FROM tasks WHERE seq = ?1", [number]);
            deleted.map_err(StoreError::from)?;
            Ok(())
        })?;
        self.forget_secrets();
        Ok(())
    }

    /// The log of the database still has the secrets of rows that are gone; another connection that reads now
    /// only delays this.
    pub(super) fn forget_secrets(&self) {
        if let Err(error) = self.parts.db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())) {
            tracing::debug!("the log of the database stays: {error}");
        }
    }
}

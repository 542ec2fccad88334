//! The thread that owns the connection, and the handle that gives it work.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use aos_durable::{Database, Migrations};
use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot, watch};

use crate::error::StoreError;
use crate::schema::SCRIPTS;
use crate::units::{UnitSignal, signal};

/// Jobs that may wait; who comes later waits for room.
const QUEUE: usize = 256;
/// Watched Units after which watches that nobody holds any more are dropped.
const SWEEP_AT: usize = 1024;

type Job = Box<dyn FnOnce(&mut Owner) + Send>;

/// Handle to the store. Clones share one connection; the database closes with the last one.
#[derive(Clone)]
pub struct Store {
    jobs: mpsc::Sender<Job>,
}

/// What the thread owns.
struct Owner {
    connection: Connection,
    watched: HashMap<String, watch::Sender<UnitSignal>>,
}

/// One transaction: the connection, and which Units it changes.
pub(crate) struct Work<'a> {
    pub(crate) sql: Transaction<'a>,
    touched: HashSet<String>,
}

impl Work<'_> {
    /// Marks a visible change of a Unit; its watchers hear of it after the commit.
    pub(crate) fn touch(&mut self, unit_id: &str) -> Result<(), StoreError> {
        if self.touched.insert(unit_id.to_owned()) {
            self.sql
                .prepare_cached("UPDATE units SET revision = revision + 1 WHERE id = ?1")
                .and_then(|mut statement| statement.execute([unit_id]))
                .map_err(sql("count a change"))?;
        }
        Ok(())
    }
}

/// Turns an SQLite error into ours, saying what was tried.
pub(crate) fn sql(what: &'static str) -> impl Fn(rusqlite::Error) -> StoreError {
    move |source| StoreError::Sql { what, source }
}

impl Store {
    /// Opens the database at `path`, bringing its schema up to date, and starts the owning thread.
    /// All Units are offline until their sessions open again.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = Database::open(path, &Migrations::new(SCRIPTS)).map_err(StoreError::Open)?;
        connection.set_prepared_statement_cache_capacity(64);
        connection
            .execute("UPDATE units SET online_status = 'Offline' WHERE online_status <> 'Offline'", [])
            .map_err(sql("reset sessions"))?;
        let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE);
        let mut owner = Owner { connection, watched: HashMap::new() };
        std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || {
                while let Some(job) = queue.blocking_recv() {
                    job(&mut owner);
                }
            })
            .map_err(StoreError::Thread)?;
        Ok(Self { jobs })
    }

    /// Runs `work` as one transaction on the owning thread; rolled back when it returns an error.
    pub(crate) async fn transact<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Work<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, result) = oneshot::channel();
        let job: Job = Box::new(move |owner| {
            // The caller may have gone; what it asked for is done all the same.
            let _ = answer.send(owner.transact(work));
        });
        self.jobs.send(job).await.map_err(|_| StoreError::Closed)?;
        result.await.map_err(|_| StoreError::Closed)?
    }

    /// Follows the changes of a Unit. The first value is the present one.
    pub async fn watch_unit(&self, unit_id: &str) -> Result<watch::Receiver<UnitSignal>, StoreError> {
        let (answer, result) = oneshot::channel();
        let unit_id = unit_id.to_owned();
        let job: Job = Box::new(move |owner| {
            let _ = answer.send(owner.watch(unit_id));
        });
        self.jobs.send(job).await.map_err(|_| StoreError::Closed)?;
        result.await.map_err(|_| StoreError::Closed)?
    }
}

impl Owner {
    fn transact<T>(
        &mut self,
        work: impl FnOnce(&mut Work<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let (value, touched) = {
            let sql = self
                .connection
                .transaction_with_behavior(TransactionBehavior::Immediate)
                .map_err(sql("begin a transaction"))?;
            let mut unit_of_work = Work { sql, touched: HashSet::new() };
            // Dropping an uncommitted transaction rolls it back.
            let value = work(&mut unit_of_work)?;
            let Work { sql: transaction, touched } = unit_of_work;
            transaction.commit().map_err(|source| StoreError::Sql { what: "commit", source })?;
            (value, touched)
        };
        for unit_id in touched {
            self.notify(&unit_id);
        }
        Ok(value)
    }

    fn notify(&mut self, unit_id: &str) {
        let Some(sender) = self.watched.get(unit_id) else { return };
        if sender.receiver_count() == 0 {
            self.watched.remove(unit_id);
            return;
        }
        match signal(&self.connection, unit_id) {
            Ok(signal) => {
                sender.send_replace(signal);
            }
            Err(error) => tracing::error!("cannot tell watchers of a Unit about its change: {error}"),
        }
    }

    fn watch(&mut self, unit_id: String) -> Result<watch::Receiver<UnitSignal>, StoreError> {
        if self.watched.len() >= SWEEP_AT {
            self.watched.retain(|_, sender| sender.receiver_count() > 0);
        }
        if let Some(sender) = self.watched.get(&unit_id) {
            return Ok(sender.subscribe());
        }
        let (sender, receiver) = watch::channel(signal(&self.connection, &unit_id)?);
        self.watched.insert(unit_id, sender);
        Ok(receiver)
    }
}

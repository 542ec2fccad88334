//! The thread that owns the connection, and the handle that gives it work.
//!
//! Jobs that wait are run together: each in a savepoint of its own, all in one transaction, so that they
//! share one sync of the disk. A job that fails undoes only itself. Callers are answered and watchers told
//! after the commit, never before; when the commit fails, every job of the batch has failed.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aos_durable::{Database, Migrations};
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot, watch};

use crate::error::StoreError;
use crate::log_files::LogFiles;
use crate::schema::SCRIPTS;
use crate::units::{UnitSignal, signal};

/// Jobs that may wait; who comes later waits for room.
const QUEUE: usize = 1024;
/// Jobs that share one commit. More would only make the first of them wait.
const BATCH: usize = 256;
/// Watched Units before watches that nobody holds any more are dropped for the first time; after that when
/// they have doubled.
const FIRST_SWEEP: usize = 1024;

/// Runs inside a transaction, or only learns why there is none.
type Job = Box<dyn FnOnce(Result<&Connection, Arc<StoreError>>, &mut Touched) -> Answer + Send>;
/// Answers the caller of a job, knowing how the commit went.
type Answer = Box<dyn FnOnce(&Result<(), Arc<StoreError>>)>;

enum Order {
    Work(Job),
    Watch(String, oneshot::Sender<Result<watch::Receiver<UnitSignal>, StoreError>>),
}

/// Handle to the store. Clones share one connection; the database closes with the last one.
#[derive(Clone)]
pub struct Store {
    orders: mpsc::Sender<Order>,
    deadline: watch::Receiver<i64>,
    pub(crate) files: Arc<LogFiles>,
}

/// What a job changed that others wait for.
#[derive(Default)]
struct Touched {
    units: HashSet<String>,
    deadline: Option<i64>,
    /// Files that no row names any more.
    files: Vec<String>,
}

/// One job inside a transaction: the connection, and which Units it changes.
pub struct Work<'a> {
    pub(crate) sql: &'a Connection,
    touched: Touched,
}

impl Work<'_> {
    /// Marks a visible change of a Unit; its watchers hear of it after the commit.
    pub(crate) fn touch(&mut self, unit_id: &str) -> Result<(), StoreError> {
        if self.touched.units.insert(unit_id.to_owned()) {
            self.sql
                .prepare_cached("UPDATE units SET revision = revision + 1 WHERE id = ?1")
                .and_then(|mut statement| statement.execute([unit_id]))
                .map_err(sql("count a change"))?;
        }
        Ok(())
    }

    /// Something has to be looked at again at `deadline` (microseconds since 1970 UTC).
    pub(crate) fn wake_at(&mut self, deadline: i64) {
        let earliest = self.touched.deadline.map_or(deadline, |known| known.min(deadline));
        self.touched.deadline = Some(earliest);
    }

    /// Files to remove once the rows that named them are gone for good.
    pub(crate) fn discard_files(&mut self, names: Vec<String>) {
        self.touched.files.extend(names);
    }
}

/// Turns an SQLite error into ours, saying what was tried.
pub(crate) fn sql(what: &'static str) -> impl Fn(rusqlite::Error) -> StoreError {
    move |source| StoreError::Sql { what, source }
}

impl Store {
    /// Opens the database at `path`, bringing its schema up to date, and starts the owning thread. Received
    /// logs lie in the folder `logs` beside it. All Units are offline until their sessions open again.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_observed(path, |_, _| {})
    }

    /// Like [`Store::open`]; `on_commit` learns of every commit how long it took, with the jobs in it, and how
    /// many these were. It runs on the owning thread.
    pub fn open_observed(
        path: &Path,
        on_commit: impl Fn(Duration, usize) + Send + 'static,
    ) -> Result<Self, StoreError> {
        let connection = Database::open(path, &Migrations::new(SCRIPTS)).map_err(StoreError::Open)?;
        connection.set_prepared_statement_cache_capacity(128);
        tune(&connection).map_err(sql("set up the database"))?;
        connection
            .execute("UPDATE units SET online_status = 'Offline' WHERE online_status <> 'Offline'", [])
            .map_err(sql("reset sessions"))?;
        let files = Arc::new(LogFiles::open(&path.with_file_name("logs"), &connection)?);
        let (wake, deadline) = watch::channel(i64::MAX);
        let (orders, queue) = mpsc::channel(QUEUE);
        let owner = Owner {
            connection,
            watched: HashMap::new(),
            sweep_at: FIRST_SWEEP,
            wake,
            files: Arc::clone(&files),
            on_commit: Box::new(on_commit),
        };
        std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || owner.run(queue))
            .map_err(StoreError::Thread)?;
        Ok(Self { orders, deadline, files })
    }

    /// Runs `work` as one atomic step on the owning thread; undone when it returns an error. On return it is
    /// on disk.
    pub async fn transact<T, E>(
        &self,
        work: impl FnOnce(&mut Work<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let (caller, result) = oneshot::channel();
        let job: Job = Box::new(move |connection, touched| {
            let outcome = match connection {
                Ok(connection) => in_savepoint(connection, touched, work),
                Err(error) => Err(StoreError::Commit(error).into()),
            };
            Box::new(move |commit| {
                let outcome = match (outcome, commit) {
                    (Ok(_), Err(error)) => Err(StoreError::Commit(Arc::clone(error)).into()),
                    (outcome, _) => outcome,
                };
                // The caller may have gone; what it asked for is done all the same.
                let _ = caller.send(outcome);
            })
        });
        self.orders.send(Order::Work(job)).await.map_err(|_| StoreError::Closed)?;
        result.await.map_err(|_| StoreError::Closed)?
    }

    /// Follows the changes of a Unit. The first value is the present one.
    pub async fn watch_unit(&self, unit_id: &str) -> Result<watch::Receiver<UnitSignal>, StoreError> {
        let (caller, result) = oneshot::channel();
        let order = Order::Watch(unit_id.to_owned(), caller);
        self.orders.send(order).await.map_err(|_| StoreError::Closed)?;
        result.await.map_err(|_| StoreError::Closed)?
    }

    /// Follows the deadlines that new work sets: each value is one of them, microseconds since 1970 UTC.
    pub fn watch_deadlines(&self) -> watch::Receiver<i64> {
        self.deadline.clone()
    }
}

/// More memory and a longer log than on a Unit: thousands of Units share this database.
fn tune(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "cache_size", -4096)?;
    connection.query_row("PRAGMA wal_autocheckpoint=4096", [], |_| Ok(()))?;
    connection.query_row("PRAGMA journal_size_limit=33554432", [], |_| Ok(()))
}

/// Runs one job; what it did is undone when it fails.
fn in_savepoint<T, E: From<StoreError>>(
    connection: &Connection,
    touched: &mut Touched,
    work: impl FnOnce(&mut Work<'_>) -> Result<T, E>,
) -> Result<T, E> {
    step(connection, "SAVEPOINT job", "begin a job")?;
    let mut unit_of_work = Work { sql: connection, touched: Touched::default() };
    match work(&mut unit_of_work) {
        Ok(value) => {
            let Work { touched: own, .. } = unit_of_work;
            step(connection, "RELEASE job", "end a job")?;
            touched.units.extend(own.units);
            touched.files.extend(own.files);
            touched.deadline = touched.deadline.into_iter().chain(own.deadline).min();
            Ok(value)
        }
        Err(error) => {
            // SQLite ends the transaction by itself after some errors; then there is nothing to undo.
            if !connection.is_autocommit() {
                step(connection, "ROLLBACK TO job", "undo a job")?;
                step(connection, "RELEASE job", "undo a job")?;
            }
            Err(error)
        }
    }
}

fn step(connection: &Connection, statement: &str, what: &'static str) -> Result<(), StoreError> {
    connection
        .prepare_cached(statement)
        .and_then(|mut statement| statement.execute([]))
        .map(|_| ())
        .map_err(sql(what))
}

/// What the thread owns.
struct Owner {
    connection: Connection,
    watched: HashMap<String, watch::Sender<UnitSignal>>,
    /// Watched Units at which unused watches are dropped next.
    sweep_at: usize,
    wake: watch::Sender<i64>,
    files: Arc<LogFiles>,
    on_commit: Box<dyn Fn(Duration, usize) + Send>,
}

impl Owner {
    fn run(mut self, mut queue: mpsc::Receiver<Order>) {
        let mut next = None;
        while let Some(order) = next.take().or_else(|| queue.blocking_recv()) {
            match order {
                Order::Watch(unit_id, caller) => {
                    let _ = caller.send(self.watch(unit_id));
                }
                Order::Work(first) => {
                    let mut batch = vec![first];
                    while batch.len() < BATCH {
                        match queue.try_recv() {
                            Ok(Order::Work(job)) => batch.push(job),
                            // A watch sees what was committed: the batch ends before it.
                            Ok(watch) => {
                                next = Some(watch);
                                break;
                            }
                            Err(_) => break,
                        }
                    }
                    self.commit(batch);
                }
            }
        }
    }

    /// Runs a batch. A job that makes SQLite give up the whole transaction takes those before it along;
    /// those after it start anew.
    fn commit(&mut self, batch: Vec<Job>) {
        let mut jobs = batch.into_iter().peekable();
        while jobs.peek().is_some() {
            let begin = Instant::now();
            let mut answers = Vec::new();
            let mut touched = Touched::default();
            let mut outcome =
                step(&self.connection, "BEGIN IMMEDIATE", "begin a transaction").map_err(Arc::new);
            for job in jobs.by_ref() {
                let connection = outcome.as_ref().map(|()| &self.connection).map_err(Arc::clone);
                answers.push(job(connection, &mut touched));
                if outcome.is_ok() && self.connection.is_autocommit() {
                    outcome = Err(Arc::new(StoreError::Undone));
                    break;
                }
            }
            if outcome.is_ok() {
                outcome = step(&self.connection, "COMMIT", "commit").map_err(Arc::new);
                if outcome.is_err()
                    && !self.connection.is_autocommit()
                    && let Err(error) = step(&self.connection, "ROLLBACK", "roll back")
                {
                    tracing::error!("the database is left in a broken transaction: {error}");
                }
            }
            if outcome.is_ok() {
                (self.on_commit)(begin.elapsed(), answers.len());
                self.tell(touched);
            }
            for answer in answers {
                answer(&outcome);
            }
        }
    }

    fn tell(&mut self, touched: Touched) {
        for unit_id in touched.units {
            self.notify(&unit_id);
        }
        self.files.remove(&touched.files);
        if let Some(deadline) = touched.deadline {
            self.wake.send_replace(deadline);
        }
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
        if self.watched.len() >= self.sweep_at {
            self.watched.retain(|_, sender| sender.receiver_count() > 0);
            self.sweep_at = FIRST_SWEEP.max(self.watched.len() * 2);
        }
        if let Some(sender) = self.watched.get(&unit_id) {
            return Ok(sender.subscribe());
        }
        let (sender, receiver) = watch::channel(signal(&self.connection, &unit_id)?);
        self.watched.insert(unit_id, sender);
        Ok(receiver)
    }
}

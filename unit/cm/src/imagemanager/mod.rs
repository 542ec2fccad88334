//! Image manager: fetches and verifies items, keeps the book of them, removes what nobody wants any more.
//!
//! One task owns the [`book::Book`]; fetching runs beside it, so a new wish can cancel it at any moment.
//! Records are stored before they are told. Blobs lie in `installPath`, served bytes under way in
//! `downloadPath`; a fetch that was killed goes on from the bytes that are there.

pub mod book;
mod download;
mod fetch;
mod progress;
mod store;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aos_blob_crypto::ChainStore;
use aos_cloud_protocol::DownloadProgressAlert;
use aos_content_store::Store;
use aos_ids::ItemId;
use aos_status::{AosCode, ErrorInfo};
use aos_supervise::Shutdown;
use rusqlite::Connection;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use self::book::{Book, Change};
use self::fetch::{FetchError, Fetcher};
use crate::communication::Communication;
use crate::config::Config;
use crate::database::StoreError;
use crate::transport::Dialer;
use crate::updatemanager::desired::{DesiredItem, Trust};

/// Commands that may wait.
const COMMANDS: usize = 16;
/// Events that may wait for the coordinator.
const EVENTS: usize = 64;

/// What the image manager is told. `None` items mean: leave everything as it is.
#[derive(Debug)]
pub enum Command {
    /// Fetch what is missing; replaces a fetch that runs.
    Download(u64, Option<Vec<DesiredItem>>, Trust),
    /// Stop fetching.
    Cancel,
    /// Make what was fetched current and drop the rest.
    Finalize(u64, Option<Vec<DesiredItem>>),
}

/// What the image manager says.
#[derive(Debug)]
pub enum Event {
    /// Records changed.
    Changed(Vec<Change>),
    /// The command with this number is done.
    Done(u64),
    /// Word of a download.
    Progress(DownloadProgressAlert),
}

/// Way to the task.
#[derive(Debug, Clone)]
pub struct ImageManager(mpsc::Sender<Command>);

impl ImageManager {
    /// Sends a command; false when the task is gone or does not take commands.
    pub fn send(&self, command: Command) -> bool {
        self.0.try_send(command).is_ok()
    }
}

/// Result of fetching one item, or of all of them.
enum Fetched {
    Item(ItemId, String, Result<(), ErrorInfo>),
    All(u64),
}

struct Job {
    cancel: CancellationToken,
    /// Ends with us.
    task: AbortOnDropHandle<()>,
}

/// The task.
pub struct Task {
    db: Connection,
    book: Book,
    installed: Store,
    downloads: Store,
    dialer: Dialer,
    roots: Vec<Vec<u8>>,
    cloud: Communication,
    commands: mpsc::Receiver<Command>,
    events: mpsc::Sender<Event>,
    fetched: (mpsc::Sender<Fetched>, mpsc::Receiver<Fetched>),
    job: Option<Job>,
    ttl: Duration,
    period: Duration,
}

/// What the image manager works with.
pub struct Parts {
    /// Its own connection.
    pub db: Connection,
    /// Verified blobs.
    pub installed: Store,
    /// Served bytes under way.
    pub downloads: Store,
    /// Connections without an identity.
    pub dialer: Dialer,
    /// Certificates that signatures must lead to, DER.
    pub roots: Vec<Vec<u8>>,
    /// The cloud.
    pub cloud: Communication,
}

/// Opens the stored book. The coordinator gets a copy of it and hears of changes.
pub fn open(
    config: &Config,
    parts: Parts,
) -> Result<(ImageManager, Book, mpsc::Receiver<Event>, Task), StoreError> {
    let book = store::load(&parts.db)?;
    let (sender, commands) = mpsc::channel(COMMANDS);
    let (events, receiver) = mpsc::channel(EVENTS);
    let task = Task {
        db: parts.db,
        book: book.clone(),
        installed: parts.installed,
        downloads: parts.downloads,
        dialer: parts.dialer,
        roots: parts.roots,
        cloud: parts.cloud,
        commands,
        events,
        fetched: mpsc::channel(EVENTS),
        job: None,
        ttl: config.update_item_ttl,
        period: config.remove_outdated_period,
    };
    Ok((ImageManager(sender), book, receiver, task))
}

impl Task {
    /// Runs until told to stop. Fails only when records cannot be stored.
    pub async fn run(mut self, stop: Shutdown) -> Result<(), StoreError> {
        let mut check = Instant::now();
        loop {
            tokio::select! {
                () = stop.wait() => return Ok(()),
                () = tokio::time::sleep_until(check) => {
                    check = Instant::now() + self.period;
                    let changes = self.book.expire(SystemTime::now(), self.ttl);
                    if !changes.is_empty() {
                        self.changed(changes).await?;
                        store::collect(&self.installed, &self.downloads, &self.book);
                    }
                }
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command).await?,
                    None => return Ok(()),
                },
                Some(fetched) = self.fetched.1.recv() => self.fetched(fetched).await?,
            }
        }
    }

    async fn obey(&mut self, command: Command) -> Result<(), StoreError> {
        match command {
            Command::Cancel => self.cancel().await,
            Command::Download(number, None, _) => self.tell(Event::Done(number)).await,
            Command::Download(number, Some(items), trust) => {
                self.cancel().await;
                let changes = self.book.begin(&items);
                self.changed(changes).await?;
                self.start(number, items, trust);
            }
            Command::Finalize(number, items) => {
                if let Some(items) = items {
                    let changes = self.book.finalize(&items, SystemTime::now());
                    self.changed(changes).await?;
                    store::collect(&self.installed, &self.downloads, &self.book);
                }
                self.tell(Event::Done(number)).await;
            }
        }
        Ok(())
    }

    /// Ends the running fetch and forgets what it still had to say.
    async fn cancel(&mut self) {
        if let Some(job) = self.job.take() {
            job.cancel.cancel();
            // Its last words may fill the queue.
            let mut task = job.task;
            loop {
                tokio::select! {
                    _ = &mut task => break,
                    Some(_) = self.fetched.1.recv() => {}
                }
            }
            while self.fetched.1.try_recv().is_ok() {}
        }
    }

    fn start(&mut self, number: u64, items: Vec<DesiredItem>, trust: Trust) {
        let certificates = trust.certificates.into_iter().map(|one| (one.fingerprint, one.der));
        let chains = trust.chains.into_iter().map(|chain| (chain.name, chain.fingerprints));
        let cancel = CancellationToken::new();
        let fetcher = Fetcher {
            installed: self.installed.clone(),
            downloads: self.downloads.clone(),
            cloud: self.cloud.clone(),
            dialer: self.dialer.clone(),
            trust: Arc::new(ChainStore::new(certificates, chains, self.roots.iter().cloned())),
            events: self.events.clone(),
            cancel: cancel.clone(),
        };
        let results = self.fetched.0.clone();
        let task = tokio::spawn(async move {
            for item in items {
                let result = match fetcher.item(&item.index).await {
                    Ok(()) => Ok(()),
                    Err(FetchError::Canceled) => return,
                    Err(FetchError::Failed(error)) => Err(error),
                };
                let _ = results.send(Fetched::Item(item.id, item.version, result)).await;
            }
            let _ = results.send(Fetched::All(number)).await;
        });
        self.job = Some(Job { cancel, task: AbortOnDropHandle::new(task) });
    }

    async fn fetched(&mut self, fetched: Fetched) -> Result<(), StoreError> {
        match fetched {
            Fetched::Item(id, version, result) => {
                if let Err(error) = &result {
                    tracing::error!("item {id} {version} cannot be had: {error}");
                }
                let change = self.book.fetched(&id, &version, result);
                self.changed(change.into_iter().collect()).await
            }
            Fetched::All(number) => {
                self.job = None;
                self.tell(Event::Done(number)).await;
                Ok(())
            }
        }
    }

    async fn changed(&mut self, changes: Vec<Change>) -> Result<(), StoreError> {
        store::apply(&mut self.db, &changes)?;
        if !changes.is_empty() {
            self.tell(Event::Changed(changes)).await;
        }
        Ok(())
    }

    async fn tell(&mut self, event: Event) {
        // Without the coordinator there is nobody to tell: the process stops.
        let _ = self.events.send(event).await;
    }
}

/// The error of an item that the book does not know.
pub fn not_here(id: &ItemId, version: &str) -> ErrorInfo {
    ErrorInfo::new(AosCode::NotFound, format!("item {id} {version} is not on the Unit"))
}

//! Alerts of this node on their way to the Communication Manager.
//!
//! One task keeps those that wait: at most 64, the newest, each once. Any module hands alerts in through an
//! [`AlertSender`], which never waits. While CM is away they stay here and go out, oldest first, with the next
//! connection. What the journal says is read from where it was left: only what CM has been told counts as
//! read, so that a restart loses none of it. Without a journal the log files of core components are read.

mod brake;
mod journal;
mod judge;
mod ownlog;
mod waiting;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aos_ids::InstanceIdent;
use aos_supervise::Shutdown;
use aos_unit_api::common::v2;
use aos_unit_api::servicemanager::v5 as wire;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use wire::alert::AlertItem;

use crate::database::Database;
use crate::journal::Entry;
use crate::launcher::Watched;
use brake::Brake;
use journal::Follower;
use judge::judge;
use ownlog::OwnLogs;
use waiting::Waiting;

pub use judge::Settings;

/// Alerts that may wait for the task; it empties them at once.
const QUEUE: usize = 64;
/// Longest text peers take, bytes.
const MAX_MESSAGE: usize = 255;
/// How often it is stored how far the journal has been read, when that has changed.
const SAVE_PERIOD: Duration = Duration::from_secs(10);
/// Name of that in the database.
const PLACE: &str = "journal-place";

/// A core component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Core {
    /// Communication Manager.
    Cm,
    /// Service Manager.
    Sm,
    /// Identity and Access Manager.
    Iam,
    /// Message Proxy.
    Mp,
}

impl Core {
    /// Its name as peers have it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Cm => "CM",
            Self::Sm => "SM",
            Self::Iam => "IAM",
            Self::Mp => "MP",
        }
    }
}

/// What a quota alert tells about its rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotaStatus {
    /// The value has been too high for the rule's time.
    Raise,
    /// It still is.
    Continue,
    /// It has been low for the rule's time.
    Fall,
}

impl QuotaStatus {
    /// Its name as peers have it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Raise => "raise",
            Self::Continue => "continue",
            Self::Fall => "fall",
        }
    }
}

/// Hands alerts in. Never waits and never fails: with a full queue the alert is counted as lost.
#[derive(Debug, Clone)]
pub struct AlertSender {
    queue: mpsc::Sender<wire::Alert>,
}

impl AlertSender {
    /// A sender and the other end of its queue.
    pub fn channel() -> (Self, mpsc::Receiver<wire::Alert>) {
        let (queue, receiver) = mpsc::channel(QUEUE);
        (Self { queue }, receiver)
    }

    /// A resource could not be given to an instance.
    pub fn resource(&self, ident: &InstanceIdent, resource: &str, message: &str) {
        self.put(AlertItem::ResourceAllocateAlert(wire::ResourceAllocateAlert {
            instance: Some(ident.into()),
            resource: resource.to_owned(),
            message: short(message),
        }));
    }

    /// An error or event of an instance.
    pub fn instance(&self, ident: &InstanceIdent, version: &str, message: &str) {
        self.put(instance_item(ident.into(), version, message));
    }

    /// The node is over a threshold; `parameter` is `cpu`, `ram`, `download`, `upload` or a partition.
    pub fn system_quota(&self, parameter: &str, value: u64, status: QuotaStatus) {
        self.put(AlertItem::SystemQuotaAlert(wire::SystemQuotaAlert {
            parameter: parameter.to_owned(),
            value,
            status: status.word().to_owned(),
        }));
    }

    /// An instance is over a threshold.
    pub fn instance_quota(&self, ident: &InstanceIdent, parameter: &str, value: u64, status: QuotaStatus) {
        self.put(AlertItem::InstanceQuotaAlert(wire::InstanceQuotaAlert {
            instance: Some(ident.into()),
            parameter: parameter.to_owned(),
            value,
            status: status.word().to_owned(),
        }));
    }

    fn put(&self, item: AlertItem) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let micros = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        if self.queue.try_send(alert(item, micros)).is_err() {
            tracing::debug!("an alert is lost: too many at once");
        }
    }
}

/// An alert with its time, microseconds since 1970.
fn alert(item: AlertItem, micros: u64) -> wire::Alert {
    let timestamp = prost_types::Timestamp {
        seconds: i64::try_from(micros / 1_000_000).unwrap_or(i64::MAX),
        nanos: i32::try_from(micros % 1_000_000 * 1000).unwrap_or(0),
    };
    wire::Alert { timestamp: Some(timestamp), alert_item: Some(item) }
}

fn instance_item(ident: v2::InstanceIdent, version: &str, message: &str) -> AlertItem {
    let (service_version, message) = (version.to_owned(), short(message));
    AlertItem::InstanceAlert(wire::InstanceAlert { instance: Some(ident), service_version, message })
}

fn core_item(component: Core, message: &str) -> AlertItem {
    let core_component = component.word().to_owned();
    AlertItem::CoreAlert(wire::CoreAlert { core_component, message: short(message) })
}

fn system_item(message: &str) -> AlertItem {
    AlertItem::SystemAlert(wire::SystemAlert { message: short(message) })
}

/// Cut to what peers take, at a character.
fn short(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_MESSAGE)].to_owned()
}

/// What the task works with.
pub struct Links {
    /// Alerts of other modules.
    pub queue: mpsc::Receiver<wire::Alert>,
    /// Where alerts go; its other end is read only while CM is connected.
    pub out: mpsc::Sender<wire::Alert>,
    /// The instances.
    pub watched: watch::Receiver<Arc<Vec<Watched>>>,
    /// Keeps how far the journal has been read.
    pub database: Database,
}

/// The task that keeps alerts until CM takes them.
pub struct Alerts {
    waiting: Waiting,
    links: Links,
    settings: Settings,
    brake: Brake,
    /// Log files of core components.
    dir: PathBuf,
    /// Where reading would go on after a restart, as it is stored and as it should be.
    stored: Option<String>,
    reached: Option<String>,
    safe: Option<String>,
}

/// Where alerts of the system come from.
enum Source {
    Journal(Box<Follower>),
    Files(OwnLogs),
    /// This node keeps neither a journal nor files.
    Nothing,
}

/// What a source found.
enum Found {
    Entry(Entry),
    Errors(Vec<(u64, AlertItem)>),
}

impl Source {
    async fn next(&mut self, settings: &Settings) -> Found {
        match self {
            Self::Journal(follower) => Found::Entry(follower.next().await),
            Self::Files(logs) => Found::Errors(logs.next(settings).await),
            Self::Nothing => std::future::pending().await,
        }
    }
}

impl Alerts {
    /// Alerts by these settings; log files of core components are in `dir`.
    pub async fn open(settings: Settings, dir: PathBuf, links: Links) -> Self {
        let stored = match links.database.fact(PLACE).await {
            Ok(value) => value.and_then(|value| String::from_utf8(value).ok()),
            Err(error) => {
                tracing::warn!("how far the journal was read is not known: {}", error.info().message);
                None
            }
        };
        let (waiting, brake) = (Waiting::default(), Brake::new(Instant::now()));
        Self { waiting, links, settings, brake, dir, stored, reached: None, safe: None }
    }

    /// Works until told to stop; how far the journal has been read is stored then, and every ten seconds.
    pub async fn run(mut self, stop: Shutdown) {
        let mut source = self.source();
        let out = self.links.out.clone();
        let mut save = tokio::time::interval(SAVE_PERIOD);
        save.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // An idle node is not woken: there is a deadline only while there is something to store.
            let dirty = self.safe.is_some() && self.safe != self.stored;
            tokio::select! {
                Some(alert) = self.links.queue.recv() => self.waiting.add(alert, None),
                Ok(place) = out.reserve(), if !self.waiting.is_empty() => {
                    if let Some((alert, cursor)) = self.waiting.take() {
                        place.send(alert);
                        self.delivered(cursor);
                    }
                }
                found = source.next(&self.settings) => {
                    match found {
                        Found::Entry(entry) => self.entry(&entry),
                        Found::Errors(errors) => self.errors(errors, &source),
                    }
                }
                _ = save.tick(), if dirty => self.save().await,
                () = stop.wait() => break,
            }
        }
        self.save().await;
    }

    fn source(&mut self) -> Source {
        let stored = self.stored.clone();
        if crate::journal::is_there() {
            // What was stored may be of a time without journal.
            let cursor = stored.filter(|cursor| !cursor.starts_with('{'));
            let follower = Follower::new(&self.settings, cursor);
            self.safe = Some(follower.place().to_owned());
            return Source::Journal(Box::new(follower));
        }
        match OwnLogs::open(self.dir.clone(), stored.as_deref()) {
            Ok(logs) => {
                self.safe = Some(logs.places());
                Source::Files(logs)
            }
            Err(error) => {
                tracing::debug!("no journal and no log files to alert about: {}", error.info().message);
                Source::Nothing
            }
        }
    }

    fn entry(&mut self, entry: &Entry) {
        let item = {
            let instances = self.links.watched.borrow();
            judge(entry, &self.settings, &instances)
        };
        self.reached = Some(entry.cursor.clone());
        if let Some(item) = item {
            self.admit(item, entry.micros, Some(entry.cursor.clone()));
        }
        if self.waiting.none_of_journal() {
            self.safe.clone_from(&self.reached);
        }
    }

    fn errors(&mut self, errors: Vec<(u64, AlertItem)>, source: &Source) {
        for (micros, item) in errors {
            self.admit(item, micros, None);
        }
        if let Source::Files(logs) = source {
            self.safe = Some(logs.places());
        }
    }

    fn admit(&mut self, item: AlertItem, micros: u64, cursor: Option<String>) {
        if !self.brake.admits(Instant::now(), &item) {
            return;
        }
        let left_out = self.brake.left_out();
        if left_out > 0 {
            let text = format!("{left_out} more messages of the system were no alerts of their own");
            self.waiting.add(alert(system_item(&text), micros), None);
        }
        self.waiting.add(alert(item, micros), cursor);
    }

    /// An alert has gone out. What still waits was read later and is read again after a restart.
    fn delivered(&mut self, cursor: Option<String>) {
        if self.waiting.none_of_journal() && self.reached.is_some() {
            self.safe.clone_from(&self.reached);
        } else if cursor.is_some() {
            self.safe = cursor;
        }
    }

    async fn save(&mut self) {
        let Some(place) = self.safe.clone().filter(|place| Some(place) != self.stored.as_ref()) else {
            return;
        };
        match self.links.database.set_fact(PLACE, place.clone().into_bytes()).await {
            Ok(()) => self.stored = Some(place),
            Err(error) => {
                tracing::debug!("how far the journal is read is not stored: {}", error.info().message);
            }
        }
    }
}

#[cfg(test)]
mod tests;

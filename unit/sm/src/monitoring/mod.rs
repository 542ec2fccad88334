//! Load figures of this node and of its instances: samples for CM, averages on request, alerts by rules.
//!
//! One task reads everything each poll period in one pass over files that stay open (`readers`); no program is
//! run. What the figures mean is decided by pure parts: `sample` (averages, sums), `rules` (alerts) and `book`.
//! Measured are instances that run and have monitoring parameters; one that cannot be read is left out of that
//! sample. Traffic comes from the packet filter's counters, disk usage from those of quotas. At most 256
//! instances.

mod book;
mod limits;
mod readers;
mod rules;
mod sample;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aos_status::InstanceState;
use aos_unit_api::servicemanager::v5 as wire;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use wire::sm_outgoing_messages::SmOutgoingMessage as Wire;

use crate::Error;
use crate::alerts::AlertSender;
use crate::launcher::Watched;
use crate::networkmanager::{NetworkManager, Traffic};
use crate::nodeconfig::NodeConfigFile;
use crate::resourcemanager::quotas::Quotas;
use crate::smclient::Outgoing;
use book::{Book, Subject};
use limits::Limits;
use readers::{InstanceReader, NodeReader};
use rules::Totals;
use sample::Sample;

pub use limits::reached_processes;
pub use readers::oom_kills;

/// Most partitions told; peers have room for no more.
const MAX_PARTITIONS: usize = 4;
/// Most instances measured.
const MAX_INSTANCES: usize = 256;
/// Names under which an instance's storage and state are told.
const STORAGES: &str = "storages";
const STATES: &str = "states";
/// What a failure of the traffic counters is noted as.
const TRAFFIC: &str = "traffic";
/// Requests that may wait.
const QUEUE: usize = 8;

/// A partition of this node.
#[derive(Debug, Clone)]
pub struct Partition {
    /// Its name.
    pub name: String,
    /// A folder in it.
    pub path: PathBuf,
    /// Its size, bytes; 0 when nobody knows.
    pub size: u64,
}

/// What this node is and how it is measured.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Computing power, DMIPS.
    pub dmips: u64,
    /// Memory, bytes.
    pub ram: u64,
    /// Partitions.
    pub partitions: Vec<Partition>,
    /// Between two samples.
    pub period: Duration,
    /// Samples the average goes over.
    pub average_samples: u32,
}

/// What is asked of the monitoring.
#[derive(Debug)]
enum Ask {
    Average,
    Rules,
}

/// Handle of the monitoring.
#[derive(Debug, Clone)]
pub struct Monitoring {
    asks: mpsc::Sender<Ask>,
}

/// What the monitoring works with.
pub struct Links {
    /// The instances, told anew after each change.
    pub watched: watch::Receiver<Arc<Vec<Watched>>>,
    /// The node's rules.
    pub node_config: NodeConfigFile,
    /// Messages to CM.
    pub outgoing: mpsc::Sender<Outgoing>,
    /// True while somebody takes them.
    pub connected: watch::Receiver<bool>,
    /// Alerts.
    pub alerts: AlertSender,
    /// Who counts traffic.
    pub networks: Option<NetworkManager>,
    /// Who counts what instances take on disk.
    pub quotas: Quotas,
}

impl Monitoring {
    /// The handle and the task.
    pub fn open(settings: Settings, links: Links) -> Result<(Self, impl Future<Output = ()> + Send), Error> {
        let (asks, queue) = mpsc::channel(QUEUE);
        let task = Task::open(settings, links)?;
        Ok((Self { asks }, task.run(queue)))
    }

    /// Puts the averages into the queue to CM.
    pub fn average(&self) {
        self.ask(Ask::Average);
    }

    /// The node's configuration has changed.
    pub fn rules_changed(&self) {
        self.ask(Ask::Rules);
    }

    fn ask(&self, ask: Ask) {
        if self.asks.try_send(ask).is_err() {
            tracing::warn!("a request to the monitoring is dropped: too many wait");
        }
    }
}

struct Task {
    settings: Settings,
    links: Links,
    book: Book,
    node: NodeReader,
    threads: u32,
    /// Readers of running instances, each with the process it was opened for.
    readers: BTreeMap<String, (Option<i32>, InstanceReader)>,
    watched: Arc<Vec<Watched>>,
    limits: Limits,
    /// Instances and partitions whose failure has been told.
    noted: BTreeSet<String>,
}

impl Task {
    fn open(mut settings: Settings, links: Links) -> Result<Self, Error> {
        settings.partitions.truncate(MAX_PARTITIONS);
        let sizes = settings.partitions.iter().filter_map(|one| {
            let size =
                if one.size > 0 { Some(one.size) } else { readers::space(&one.path).ok().map(|s| s.1) };
            Some((one.name.clone(), size?))
        });
        let totals = Totals { dmips: settings.dmips, ram: settings.ram, partitions: sizes.collect() };
        let book = Book::new(totals, settings.average_samples);
        let node = NodeReader::open(settings.dmips)?;
        let mut task = Self {
            settings,
            links,
            book,
            node,
            threads: readers::threads(),
            readers: BTreeMap::new(),
            watched: Arc::default(),
            limits: Limits::default(),
            noted: BTreeSet::new(),
        };
        task.take_rules();
        Ok(task)
    }

    async fn run(mut self, mut asks: mpsc::Receiver<Ask>) {
        let start = tokio::time::Instant::now() + self.settings.period;
        let mut poll = tokio::time::interval_at(start, self.settings.period);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.take_instances();
        loop {
            tokio::select! {
                _ = poll.tick() => self.poll().await,
                Ok(()) = self.links.watched.changed() => self.take_instances(),
                Some(ask) = asks.recv() => match ask {
                    Ask::Average => self.tell_average().await,
                    Ask::Rules => self.take_rules(),
                },
            }
        }
    }

    fn take_rules(&mut self) {
        self.book.set_rules(&self.links.node_config.alert_rules());
    }

    fn take_instances(&mut self) {
        self.watched = Arc::clone(&self.links.watched.borrow_and_update());
        let subjects: BTreeMap<String, Subject> = measured(&self.watched)
            .filter_map(|one| {
                let (ident, runtime) = (one.ident.clone(), one.runtime.clone());
                Some((one.id.clone(), Subject { ident, runtime, params: one.params.clone()? }))
            })
            .collect();
        self.readers.retain(|id, _| subjects.contains_key(id));
        let partitions = &self.settings.partitions;
        let lasts =
            |name: &str| matches!(name, "" | TRAFFIC) || partitions.iter().any(|one| one.name == name);
        self.noted.retain(|name| subjects.contains_key(name) || lasts(name));
        self.book.set_instances(subjects);
    }

    async fn poll(&mut self) {
        let (node, instances) = self.read().await;
        self.limits.look(Instant::now(), &self.watched, &instances, &self.links.alerts);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let time = prost_types::Timestamp {
            seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
        };
        let message = self.book.on(Instant::now(), time, node, &instances, &self.links.alerts);
        if *self.links.connected.borrow() {
            // A full queue drops the sample: the next one is as good.
            let _ = self.links.outgoing.try_send(Outgoing::Message(Wire::InstantMonitoring(message)));
        }
    }

    async fn tell_average(&mut self) {
        // CM places instances by this answer; before the first poll the figures of now are the average.
        if self.book.average().is_none() {
            self.poll().await;
        }
        let average = self.book.average().unwrap_or_default();
        if self.links.outgoing.send(Outgoing::Message(Wire::AverageMonitoring(average))).await.is_err() {
            tracing::debug!("the average is asked for by nobody any more");
        }
    }

    /// All figures, in one pass.
    async fn read(&mut self) -> (Sample, BTreeMap<String, Sample>) {
        let mut node = Sample::default();
        match self.node.read() {
            Ok((cpu, ram)) => (node.cpu, node.ram) = (cpu, ram),
            Err(error) => self.note("", &error),
        }
        for index in 0..self.settings.partitions.len() {
            let Some(Partition { name, path, .. }) = self.settings.partitions.get(index) else { break };
            match readers::space(path) {
                Ok((used, _)) => {
                    node.partitions.insert(name.clone(), used);
                }
                Err(error) => self.note(&name.clone(), &error),
            }
        }
        let traffic = self.traffic().await;
        node.traffic = traffic.as_ref().map(|all| (all.system.download, all.system.upload));
        let watched = Arc::clone(&self.watched);
        let mut instances = BTreeMap::new();
        for one in measured(&watched) {
            match self.read_instance(one) {
                Ok(Some(mut sample)) => {
                    let counted = traffic.as_ref().and_then(|all| all.instances.get(&one.id));
                    sample.traffic = counted.map(|one| (one.download, one.upload));
                    instances.insert(one.id.clone(), sample);
                }
                Ok(None) => {}
                Err(error) => {
                    self.readers.remove(&one.id);
                    self.note(&one.id, &error);
                }
            }
        }
        (node, instances)
    }

    /// Bytes of the present period; `None` when nobody counts.
    async fn traffic(&mut self) -> Option<Traffic> {
        let networks = self.links.networks.clone()?;
        match networks.traffic().await {
            Ok(traffic) => Some(traffic),
            Err(error) => {
                self.note(TRAFFIC, &error);
                None
            }
        }
    }

    fn read_instance(&mut self, one: &Watched) -> Result<Option<Sample>, Error> {
        let known = self.readers.get(&one.id).is_some_and(|(pid, _)| *pid == one.pid);
        if !known {
            self.readers.insert(one.id.clone(), (one.pid, InstanceReader::open(&one.cgroups)?));
        }
        let Some((_, reader)) = self.readers.get_mut(&one.id) else { return Ok(None) };
        let (load, ram) = reader.read(Instant::now())?;
        let Some(load) = load else { return Ok(None) };
        #[allow(clippy::cast_precision_loss, reason = "DMIPS are far below 2^53")]
        let cpu = load * self.settings.dmips as f64 / f64::from(self.threads);
        let usage = self.links.quotas.usage(one.uid, one.storage.as_deref(), one.state_file.as_deref());
        let on_disk = [(STORAGES, usage.storage), (STATES, usage.state)];
        let partitions = on_disk.into_iter().filter_map(|(name, used)| Some((name.to_owned(), used?)));
        Ok(Some(Sample { cpu, ram, traffic: None, partitions: partitions.collect() }))
    }

    /// Once for each, until it works again or is gone.
    fn note(&mut self, name: &str, error: &Error) {
        if self.noted.insert(name.to_owned()) {
            tracing::info!("load figures are missing: {}", error.info().message);
        }
    }
}

/// The instances to be measured.
fn measured(watched: &[Watched]) -> impl Iterator<Item = &Watched> {
    let runs = |one: &&Watched| {
        one.params.is_some() && matches!(one.state, InstanceState::Activating | InstanceState::Active)
    };
    watched.iter().filter(runs).take(MAX_INSTANCES)
}

#[cfg(test)]
mod tests;

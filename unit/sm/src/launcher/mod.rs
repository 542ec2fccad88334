//! Starts and stops instances as the Communication Manager wishes, and goes on doing so without it.
//!
//! The rules are in `core` (pure) and `restart`; this file is the task that carries their orders out: it
//! stores wishes before it acts on them, runs up to four orders side by side, and feeds results, exits and
//! the clock back in. What is running when it starts is taken up, what nobody wants is removed.

mod core;
mod entry;
mod events;
mod restart;
mod watched;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aos_ids::InstanceIdent;
use aos_keep::protocol::Exit;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::Error;
use crate::database::{Database, ident_key};
use crate::imagemanager::{Image, ImageManager};
use crate::instance::InstanceInfo;
use crate::networkmanager::{NetworkManager, Wishes};
use crate::resourcemanager::ResourceManager;
use crate::runtimes::keeper::{Keeper, Known};
use crate::runtimes::{Grace, Runtime, StartJob};
use crate::smclient::Outgoing;
use core::Core;
use events::{Action, Ended, Event, Facts, Failure, Found};
use restart::RunParameters;

pub use events::Status;
pub use watched::Watched;

/// Orders carried out at a time.
const WORKERS: usize = 4;

/// What other modules tell the launcher.
#[derive(Debug)]
pub enum Command {
    /// CM's wish.
    Update {
        /// To be run.
        start: Vec<InstanceInfo>,
        /// Not to be run any more.
        stop: Vec<InstanceIdent>,
    },
    /// A new connection to CM: put the list of all statuses into the outgoing queue.
    Announce,
    /// The connection stands and can be asked.
    CmConnected,
    /// The cloud is there, or not.
    Cloud(bool),
    /// The local status is asked for.
    Describe(oneshot::Sender<Value>),
    /// Log files of instances that fit a filter: item, subject (any when empty), instance (any when negative).
    Logs(String, String, i64, oneshot::Sender<Vec<PathBuf>>),
}

/// A runtime and the keeper behind it.
pub struct RuntimeEntry {
    /// The runtime.
    pub runtime: Box<dyn Runtime>,
    /// Its keeper.
    pub keeper: Keeper,
    /// What the keeper knew at start.
    pub known: Known,
}

/// What the launcher works with.
pub struct Parts {
    /// Runtimes by identifier.
    pub runtimes: BTreeMap<String, RuntimeEntry>,
    /// Images.
    pub images: ImageManager,
    /// Networks.
    pub networks: NetworkManager,
    /// Resources.
    pub resources: ResourceManager,
    /// Storage.
    pub database: Database,
    /// Messages to CM.
    pub outgoing: mpsc::Sender<Outgoing>,
    /// Exits from the keepers.
    pub exits: mpsc::Receiver<Exit>,
}

/// The launcher before its task runs.
pub struct Launcher {
    core: Core,
    workshop: Arc<Workshop>,
    first: Vec<Found>,
    starts: BTreeMap<String, u64>,
    outgoing: mpsc::Sender<Outgoing>,
    /// The list of all statuses waits for room in the queue.
    backlog: bool,
    exits: mpsc::Receiver<Exit>,
    watched: watch::Sender<Arc<Vec<Watched>>>,
}

/// What orders are carried out with.
struct Workshop {
    runtimes: BTreeMap<String, (Box<dyn Runtime>, Keeper)>,
    images: ImageManager,
    networks: NetworkManager,
    resources: ResourceManager,
    database: Database,
    places: Semaphore,
}

impl Launcher {
    /// Takes up what runs and removes what nobody wants; needs neither CM nor cloud.
    pub async fn open(parts: Parts) -> Result<Self, Error> {
        let Parts { runtimes, images, networks, resources, database, outgoing, exits } = parts;
        let stored = database.instances().await?;
        let starts = database.starts().await?;
        let wanted: BTreeSet<String> = stored.iter().map(InstanceInfo::id).collect();
        let mut running = BTreeMap::new();
        let mut missed = BTreeMap::new();
        let mut ready = BTreeMap::new();
        for (name, RuntimeEntry { runtime, keeper, known }) in runtimes {
            for alive in runtime.attach(&wanted, &known).await {
                running.insert(alive.info.id(), (alive.info, alive.pid));
            }
            for (id, exit) in known.exits {
                // Not acknowledged, it comes again with the keeper's next list.
                if let Err(error) = keeper.acknowledge(id.clone(), exit.pid).await {
                    tracing::warn!("the end of {id} is not acknowledged: {}", error.info().message);
                }
                missed.insert(id, Ended { code: exit.code, signal: exit.signal });
            }
            ready.insert(name, (runtime, keeper));
        }
        for id in networks.addresses().into_keys() {
            let cleaned = if !wanted.contains(&id) {
                networks.release(id.clone()).await
            } else if !running.contains_key(&id) {
                networks.stop(id.clone()).await
            } else {
                Ok(())
            };
            // What is left is in nobody's way: a start makes it anew, a release is tried again at the next start.
            if let Err(error) = cleaned {
                tracing::error!("the network of {id} is not taken down: {}", error.info().message);
            }
        }
        for id in running.keys() {
            if let Err(error) = networks.adopt(id.clone()).await {
                tracing::error!("the network of {id} is not complete: {}", error.info().message);
            }
        }
        let mut first = Vec::new();
        for info in stored {
            let id = info.id();
            let running = running.remove(&id);
            let present =
                images.present(running.as_ref().map_or(&info.manifest, |(actual, _)| &actual.manifest));
            let facts = present.map(|image| facts_of(&image));
            first.push(Found { info, running, missed: missed.remove(&id), facts });
        }
        let core = Core::new(ready.keys().cloned().collect(), Instant::now());
        let places = Semaphore::new(WORKERS);
        let workshop = Arc::new(Workshop { runtimes: ready, images, networks, resources, database, places });
        let watched = watch::Sender::new(Arc::new(Vec::new()));
        Ok(Self { core, workshop, first, starts, outgoing, backlog: false, exits, watched })
    }

    /// What there is to be measured, told anew after each change.
    #[allow(dead_code, reason = "the measuring of instances follows")]
    pub fn watched(&self) -> watch::Receiver<Arc<Vec<Watched>>> {
        self.watched.subscribe()
    }

    /// Works until the commands end.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut jobs: JoinSet<Event> = JoinSet::new();
        let outgoing = self.outgoing.clone();
        let first = std::mem::take(&mut self.first);
        self.take(Event::Begin(first), &mut jobs).await;
        loop {
            let deadline = self.core.next_deadline();
            let sleep = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            let event = tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => match self.on_command(command) {
                        Some(event) => event,
                        None => continue,
                    },
                    None => return,
                },
                Some(exit) = self.exits.recv() => {
                    let Exit { id, pid, code, signal, .. } = exit;
                    Event::Exited { id, pid, ended: Ended { code, signal } }
                }
                Some(done) = jobs.join_next() => match done {
                    Ok(event) => event,
                    Err(error) => {
                        tracing::error!("an order of the launcher broke: {error}");
                        continue;
                    }
                },
                room = outgoing.reserve(), if self.backlog => {
                    if let Ok(room) = room {
                        room.send(Outgoing::AllInstances(self.core.statuses()));
                    }
                    self.backlog = false;
                    continue;
                }
                () = sleep => Event::Tick,
            };
            self.take(event, &mut jobs).await;
        }
    }

    fn on_command(&mut self, command: Command) -> Option<Event> {
        match command {
            Command::Update { start, stop } => Some(Event::Update { start, stop }),
            Command::CmConnected => Some(Event::CmConnected),
            Command::Cloud(connected) => Some(Event::Cloud(connected)),
            Command::Announce => {
                self.backlog = true;
                None
            }
            Command::Describe(answer) => {
                let addresses = self.workshop.networks.addresses();
                let instances: Vec<Value> =
                    self.core.statuses().iter().map(|status| self.describe(status, &addresses)).collect();
                let _ = answer.send(json!(instances));
                None
            }
            Command::Logs(item, subject, instance, answer) => {
                let fits = |ident: &InstanceIdent| {
                    ident.item.as_str() == item
                        && (subject.is_empty() || ident.subject.as_str() == subject)
                        && u64::try_from(instance).map_or(true, |number| number == ident.instance)
                };
                let statuses = self.core.statuses();
                let paths = statuses.iter().filter(|status| fits(&status.info.ident)).filter_map(|status| {
                    let (runtime, _) = self.workshop.runtimes.get(&status.info.runtime)?;
                    Some(runtime.log_path(&status.info.id()))
                });
                let _ = answer.send(paths.collect());
                None
            }
        }
    }

    fn describe(&self, status: &Status, addresses: &BTreeMap<String, String>) -> Value {
        let id = status.info.id();
        json!({
            "id": id,
            "item": status.info.ident.item,
            "subject": status.info.ident.subject,
            "instance": status.info.ident.instance,
            "version": status.info.version,
            "runtime": status.info.runtime,
            "state": status.state,
            "pid": status.pid,
            "starts": self.starts.get(&id).copied().unwrap_or(0),
            "error": status.error,
            "ip": addresses.get(&id),
        })
    }

    async fn take(&mut self, event: Event, jobs: &mut JoinSet<Event>) {
        let stopped = if let Event::Stopped(ident, _) = &event { Some(ident.clone()) } else { None };
        let mut changed = false;
        for action in self.core.on(Instant::now(), event) {
            match action {
                Action::Store { put, remove } => self.store(put, remove).await,
                Action::Prepare(info) => self.order(jobs, Workshop::prepare, info),
                Action::Start(info) => {
                    // Counted before it happens: a crash in between may count one too many, never one too few.
                    match self.workshop.database.count_start(info.id()).await {
                        Ok(count) => {
                            self.starts.insert(info.id(), count);
                        }
                        Err(error) => tracing::error!("{}", error.info().message),
                    }
                    self.order(jobs, Workshop::start, info);
                }
                Action::Stop { ident, forget } => {
                    let workshop = Arc::clone(&self.workshop);
                    jobs.spawn(async move { workshop.stop(ident, forget).await });
                }
                Action::Acknowledge { id, pid } => {
                    let workshop = Arc::clone(&self.workshop);
                    tokio::spawn(async move { workshop.acknowledge(id, pid).await });
                }
                Action::Report(statuses) => {
                    changed = true;
                    for Status { info, state, error, .. } in &statuses {
                        let reason = error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
                        tracing::info!("instance {} {} is {state}{reason}", info.ident, info.version);
                    }
                    // With a full queue the list of all statuses follows as soon as there is room.
                    if !self.backlog && self.outgoing.try_send(Outgoing::Instances(statuses)).is_err() {
                        self.backlog = true;
                    }
                }
                Action::ReportAll => self.backlog = true,
                Action::InUse(items) => self.workshop.images.in_use(items),
            }
        }
        if changed {
            self.publish();
        }
        if let Some(ident) = stopped.filter(|ident| !self.core.knows(ident)) {
            self.starts.remove(&ident.instance_id());
        }
    }

    fn publish(&self) {
        let statuses = self.core.statuses();
        let watched = statuses.into_iter().filter_map(|status| {
            let (runtime, _) = self.workshop.runtimes.get(&status.info.runtime)?;
            Some(Watched::of(status, runtime.as_ref()))
        });
        self.watched.send_replace(Arc::new(watched.collect()));
    }

    /// A wish that cannot be stored is carried out all the same: the disk may be full, the service matters.
    async fn store(&self, put: Vec<InstanceInfo>, remove: Vec<InstanceIdent>) {
        let remove = remove.iter().map(ident_key).collect();
        if let Err(error) = self.workshop.database.change_instances(put, remove).await {
            tracing::error!("wishes are not stored, a restart will not know them: {}", error.info().message);
        }
    }

    fn order<F: Future<Output = Event> + Send + 'static>(
        &self,
        jobs: &mut JoinSet<Event>,
        work: impl FnOnce(Arc<Workshop>, Box<InstanceInfo>) -> F,
        info: Box<InstanceInfo>,
    ) {
        jobs.spawn(work(Arc::clone(&self.workshop), info));
    }
}

fn failure(error: &Error) -> Failure {
    Failure { error: error.info(), passing: error.is_passing() }
}

fn facts_of(image: &Image) -> Facts {
    let run = &image.item.run_parameters;
    Facts {
        run: RunParameters {
            start_interval: run.start_interval.get(),
            start_burst: u32::try_from(run.start_burst.max(0)).unwrap_or(u32::MAX),
            restart_interval: run.restart_interval.get(),
        },
        offline_ttl: image
            .item
            .offline_ttl
            .map(aos_duration_text::DurationText::get)
            .filter(|ttl| *ttl > Duration::ZERO),
    }
}

impl Workshop {
    async fn image(&self, info: &InstanceInfo) -> Result<Arc<Image>, Error> {
        self.images.install(info.ident.item.to_string(), info.version.clone(), info.manifest).await
    }

    async fn prepare(self: Arc<Self>, info: Box<InstanceInfo>) -> Event {
        let _place = self.places.acquire().await;
        let result = self.image(&info).await;
        Event::Prepared(info, result.map(|image| facts_of(&image)).map_err(|error| failure(&error)))
    }

    async fn start(self: Arc<Self>, info: Box<InstanceInfo>) -> Event {
        let _place = self.places.acquire().await;
        let result = self.try_start(&info).await;
        Event::Started(info, result.map_err(|error| failure(&error)))
    }

    async fn try_start(&self, info: &InstanceInfo) -> Result<i32, Error> {
        let (runtime, _) =
            self.runtimes.get(&info.runtime).ok_or_else(|| Error::NotFound("runtime".to_owned()))?;
        let image = self.image(info).await?;
        let attached = self.resources.attach(&image.item.resources)?;
        let wishes = Wishes {
            hostname: image.item.hostname.clone(),
            exposed_ports: image.config.config.exposed_ports.keys().cloned().collect(),
            allowed_connections: image.item.allowed_connections.iter().map(ToString::to_string).collect(),
            hosts: attached.hosts.clone(),
        };
        let network = self.networks.prepare(info, wishes).await?;
        let data = runtime.places(info)?.make(info)?;
        let job =
            StartJob { info: info.clone(), image, attached, network: Some(network), secret: None, data };
        runtime.start(&job).await
    }

    async fn stop(self: Arc<Self>, ident: InstanceIdent, forget: bool) -> Event {
        let _place = self.places.acquire().await;
        let id = ident.instance_id();
        let mut result = Ok(());
        // All steps run whatever fails; the first failure is reported.
        for (runtime, _) in self.runtimes.values() {
            result = result.and(runtime.stop(&id, Grace::Configured).await);
        }
        if forget {
            result = result.and(self.networks.release(id.clone()).await);
            for (runtime, _) in self.runtimes.values() {
                result = result.and(runtime.remove_log(&id));
            }
            result = result.and(self.database.forget_starts(id).await);
        } else {
            result = result.and(self.networks.stop(id).await);
        }
        Event::Stopped(ident, result.map_err(|error| failure(&error)))
    }

    async fn acknowledge(&self, id: String, pid: i32) {
        for (_, keeper) in self.runtimes.values() {
            if let Err(error) = keeper.acknowledge(id.clone(), pid).await {
                tracing::debug!("{}", error.info().message);
            }
        }
    }
}

//! Starts and stops instances as the Communication Manager wishes, and goes on doing so without it.
//!
//! The rules are in `core` (pure), with `entry`, `health` and `restart`; this file is the task that has their
//! orders carried out (`workshop`), the most important ones first (`queue`), and feeds results, exits and the
//! clock back in. It stores wishes before it acts on them. What is running when it starts is taken up, what
//! nobody wants is removed (`opening`).

mod core;
mod entry;
mod events;
mod health;
mod offline;
mod opening;
mod probe;
mod queue;
mod restart;
mod settling;
mod watched;
mod workshop;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use aos_ids::InstanceIdent;
use aos_keep::protocol::Exit;
use aos_status::{AosCode, ErrorInfo, InstanceState};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, Id, JoinSet};

use crate::Error;
use crate::database::ident_key;
use crate::imagemanager::Image;
use crate::instance::InstanceInfo;
use crate::runtimes::head_start::HeadStart;
use crate::smclient::Outgoing;
use core::Core;
use events::{Action, Ended, Event, Failure, FailureKind, Found};
use health::Question;
use queue::{Pool, Queue};
use settling::Settling;
use workshop::{Done, Workshop, facts_of};

pub use events::Status;
pub use health::{ProbeError, Unhealthy};
pub use opening::{Parts, RuntimeEntry};
pub use probe::judge as judge_http;
pub use watched::Watched;

/// Exit status of a shell whose command was killed by SIGKILL.
const KILLED: i32 = 137;

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

/// The launcher before its task runs.
pub struct Launcher {
    core: Core,
    workshop: Arc<Workshop>,
    head_start: HeadStart,
    first: Vec<Found>,
    queue: Queue<Order, Done>,
    /// What is being done, so that an order that breaks is known.
    open: BTreeMap<Id, (Order, AbortHandle)>,
    /// Images that were prepared, until their start.
    images: BTreeMap<InstanceIdent, Arc<Image>>,
    starts: BTreeMap<String, u64>,
    /// When CM asked for what is not active yet, and for which version.
    asked: BTreeMap<InstanceIdent, (Instant, String)>,
    /// Time from the request to active, milliseconds.
    start_times: BTreeMap<InstanceIdent, f64>,
    outgoing: mpsc::Sender<Outgoing>,
    /// The list of all statuses waits for room in the queue.
    backlog: bool,
    exits: mpsc::Receiver<Exit>,
    watched: watch::Sender<Arc<Vec<Watched>>>,
}

/// An order, without what is needed for it.
enum Order {
    Prepare(Box<InstanceInfo>),
    Start(Box<InstanceInfo>),
    Stop(InstanceIdent),
    Probe(InstanceIdent, i32, Question),
}

impl Order {
    /// What the rules are told when the order broke.
    fn broken(self) -> Event {
        let error = ErrorInfo::new(AosCode::Failed, "an order of the launcher broke");
        let failure = Failure { error, kind: FailureKind::Lasting };
        match self {
            Self::Prepare(info) => Event::Prepared(info, Err(failure)),
            Self::Start(info) => Event::Started(info, Err(failure)),
            Self::Stop(ident) => Event::Stopped(ident, Err(failure)),
            Self::Probe(ident, pid, question) => {
                Event::Probed { ident, pid, question, result: Err(ProbeError::Broken) }
            }
        }
    }
}

type Jobs = JoinSet<Done>;

impl Launcher {
    /// What there is to be measured, told anew after each change.
    pub fn watched(&self) -> watch::Receiver<Arc<Vec<Watched>>> {
        self.watched.subscribe()
    }

    /// Works until the commands end.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut jobs = Jobs::new();
        let outgoing = self.outgoing.clone();
        let first = std::mem::take(&mut self.first);
        self.take(Event::Begin(first)).await;
        let mut settling = Settling::default();
        loop {
            let deadline = self.core.next_deadline();
            let sleep = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            self.dispatch(&mut jobs);
            settling.observe(Instant::now(), jobs.is_empty());
            let event = tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => match self.on_command(command) {
                        Some(event) => event,
                        None => continue,
                    },
                    None => return,
                },
                Some(exit) = self.exits.recv() => self.on_exit(exit),
                Some(done) = jobs.join_next_with_id() => match done {
                    Ok((id, done)) => {
                        self.open.remove(&id);
                        match self.on_done(done) {
                            Some(event) => event,
                            None => continue,
                        }
                    }
                    Err(error) => {
                        if !error.is_cancelled() {
                            tracing::error!("an order of the launcher broke: {error}");
                        }
                        match self.open.remove(&error.id()) {
                            Some((order, _)) => order.broken(),
                            None => continue,
                        }
                    }
                },
                room = outgoing.reserve(), if self.backlog => {
                    if let Ok(room) = room {
                        room.send(Outgoing::AllInstances(self.core.statuses()));
                    }
                    self.backlog = false;
                    continue;
                }
                () = self.queue.freed() => continue,
                () = settling.over() => {
                    settling = Settling::default();
                    tokio::task::spawn_blocking(aos_footprint::give_back);
                    continue;
                }
                () = sleep => Event::Tick,
            };
            self.take(event).await;
        }
    }

    fn dispatch(&mut self, jobs: &mut Jobs) {
        for (order, work) in self.queue.take() {
            let handle = jobs.spawn(work);
            self.open.insert(handle.id(), (order, handle));
        }
    }

    fn on_exit(&self, exit: Exit) -> Event {
        let Exit { id, pid, code, signal, .. } = exit;
        let killed = signal == Some(nix::libc::SIGKILL) || code == Some(KILLED);
        let runtime = self.core.runtime_of(&id, pid).and_then(|name| self.workshop.runtime(name).ok());
        let groups = runtime.map(|runtime| runtime.cgroups(&id)).unwrap_or_default();
        let kills = || crate::monitoring::oom_kills(&groups).is_some_and(|count| count > 0);
        let out_of_memory = killed && kills();
        // One that ended well did without.
        let out_of_processes = code != Some(0) && crate::monitoring::reached_processes(&groups);
        Event::Exited { id, pid, ended: Ended { code, signal, out_of_memory, out_of_processes } }
    }

    /// The event of an order that is through; none when its second half follows.
    fn on_done(&mut self, done: Done) -> Option<Event> {
        match done {
            Done::Event(event) => Some(event),
            Done::Prepared(info, image) => {
                let facts = facts_of(&image);
                self.images.insert(info.ident.clone(), image);
                Some(Event::Prepared(info, Ok(facts)))
            }
            Done::Provided(job, count) => {
                self.head_start.give();
                let info = Box::new(job.info.clone());
                if let Some(count) = count {
                    self.starts.insert(info.id(), count);
                }
                let (pool, rank) = (Pool::Start(info.runtime.clone()), u64::MAX - info.priority);
                let work = Arc::clone(&self.workshop).start(job);
                self.queue.push(pool, rank, Order::Start(info), Box::pin(work));
                None
            }
        }
    }

    fn on_command(&mut self, command: Command) -> Option<Event> {
        match command {
            Command::Update { start, stop } => {
                tracing::info!("{} to start, {} to stop", start.len(), stop.len());
                self.note_arrival(&start);
                Some(Event::Update { start, stop })
            }
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

    fn note_arrival(&mut self, start: &[InstanceInfo]) {
        let now = Instant::now();
        let statuses = self.core.statuses();
        for info in start {
            let active =
                |status: &Status| status.state == InstanceState::Active && status.info.same_process(info);
            if !statuses.iter().any(active) {
                self.asked.insert(info.ident.clone(), (now, info.version.clone()));
            }
        }
    }

    fn note_report(&mut self, status: &Status) {
        let ident = &status.info.ident;
        match status.state {
            InstanceState::Active => {
                let asked = self.asked.get(ident).filter(|(_, version)| *version == status.info.version);
                let time = asked.map(|(at, _)| at.elapsed().as_secs_f64() * 1000.0);
                match time {
                    Some(time) => {
                        self.asked.remove(ident);
                        self.start_times.insert(ident.clone(), time);
                    }
                    None => {
                        self.start_times.remove(ident);
                    }
                }
            }
            InstanceState::Activating => {}
            _ => {
                self.start_times.remove(ident);
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
            "startMs": self.start_times.get(&status.info.ident),
            "error": status.error,
            "ip": addresses.get(&id),
            "log": self.workshop.runtime(&status.info.runtime).ok().map(|runtime| runtime.log_path(&id)),
        })
    }

    async fn take(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            self.take_one(event, &mut events).await;
        }
    }

    /// Carries out what follows from an event; `more` gets the events that follow at once.
    async fn take_one(&mut self, event: Event, more: &mut Vec<Event>) {
        let stopped = if let Event::Stopped(ident, _) = &event { Some(ident.clone()) } else { None };
        let mut changed = false;
        for action in self.core.on(Instant::now(), event) {
            match action {
                Action::Store { put, remove } => self.store(put, remove).await,
                Action::Prepare(info) => {
                    self.head_start.give();
                    let (rank, work) =
                        (u64::MAX - info.priority, Arc::clone(&self.workshop).prepare(info.clone()));
                    self.queue.push(Pool::Prepare, rank, Order::Prepare(info), Box::pin(work));
                }
                Action::Abandon(ident) => more.extend(self.abandon(&ident)),
                Action::Start(info) => {
                    self.head_start.give();
                    let (rank, image) = (u64::MAX - info.priority, self.images.remove(&info.ident));
                    let work = Arc::clone(&self.workshop).provide(info.clone(), image);
                    self.queue.push(Pool::Provide, rank, Order::Start(info), Box::pin(work));
                }
                Action::Stop { info, why, runtimes } => {
                    let (rank, order) = (info.priority, Order::Stop(info.ident.clone()));
                    let work = Arc::clone(&self.workshop).stop(info, why, runtimes);
                    self.queue.push(Pool::Stop, rank, order, Box::pin(work));
                }
                Action::Probe { info, pid, question, probe } => {
                    let order = Order::Probe(info.ident.clone(), pid, question);
                    let work = Arc::clone(&self.workshop).probe(info, pid, question, probe);
                    self.queue.push(Pool::Probe, 0, order, Box::pin(work));
                }
                Action::Ready { id, pid } => {
                    if let Err(error) = self.workshop.database.set_ready(id, pid).await {
                        tracing::error!("{}", error.info().message);
                    }
                }
                Action::Offline(away) => offline::remember(&self.workshop.database, away).await,
                Action::Acknowledge { id, pid } => {
                    let workshop = Arc::clone(&self.workshop);
                    tokio::spawn(async move { workshop.acknowledge(id, pid).await });
                }
                Action::Report(statuses) => {
                    changed = true;
                    self.report(statuses);
                }
                Action::ReportAll => self.backlog = true,
                Action::InUse(items) => self.workshop.images.in_use(items),
            }
        }
        if let Some(ident) = stopped.filter(|ident| !self.core.knows(ident)) {
            self.starts.remove(&ident.instance_id());
            self.images.remove(&ident);
            self.asked.remove(&ident);
            self.start_times.remove(&ident);
            changed = true;
        }
        if changed {
            self.publish();
        }
    }

    /// Ends the fetching of an image; the order's end is told at once, or by the job.
    fn abandon(&mut self, ident: &InstanceIdent) -> Option<Event> {
        let is_it = |order: &Order| matches!(order, Order::Prepare(info) if info.ident == *ident);
        if let Some((_, handle)) = self.open.values().find(|(order, _)| is_it(order)) {
            handle.abort();
            return None;
        }
        self.queue.withdraw(&Pool::Prepare, is_it).map(Order::broken)
    }

    fn report(&mut self, statuses: Vec<Status>) {
        for status in &statuses {
            let Status { info, state, error, .. } = status;
            let reason = error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
            tracing::info!("instance {} {} is {state}{reason}", info.ident, info.version);
            if let Some(error) = error {
                self.workshop.alerts.instance(&info.ident, &info.version, &error.message);
            }
            self.note_report(status);
        }
        // With a full queue the list of all statuses follows as soon as there is room.
        if !self.backlog && self.outgoing.try_send(Outgoing::Instances(statuses)).is_err() {
            self.backlog = true;
        }
    }

    fn publish(&self) {
        let statuses = self.core.statuses();
        let watched = statuses.into_iter().filter_map(|status| {
            let (runtime, _) = self.workshop.runtimes.get(&status.info.runtime)?;
            let facts = self.core.facts(&status.info.ident);
            Some(Watched::of(status, runtime.as_ref(), facts))
        });
        self.watched.send_replace(Arc::new(watched.collect()));
    }

    /// A wish that cannot be stored is carried out all the same: the disk may be full, the service matters.
    /// Of what does not run yet the disk is not waited for: the database keeps its order, and a start is counted
    /// there, durably, before its process is started.
    async fn store(&mut self, put: Vec<InstanceInfo>, remove: Vec<InstanceIdent>) {
        let runs =
            |status: &Status| status.pid.is_some() && put.iter().any(|info| info.ident == status.info.ident);
        let only_starts = remove.is_empty() && !self.core.statuses().iter().any(runs);
        let remove = remove.iter().map(ident_key).collect();
        let told = |error: Error| {
            tracing::error!("wishes are not stored, a restart will not know them: {}", error.info().message);
        };
        match self.workshop.database.submit_instances(put, remove).await {
            Ok(stored) if only_starts => {
                tokio::spawn(async move { stored.await.unwrap_or_else(told) });
            }
            Ok(stored) => stored.await.unwrap_or_else(told),
            Err(error) => told(error),
        }
    }
}

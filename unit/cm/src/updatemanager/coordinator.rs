//! The task that owns the cores.

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aos_cloud_protocol::{Alert, Body};
use aos_content_store::Store;
use aos_iam_link::IamLink;
use aos_ids::{NodeId, SubjectId, SystemId};
use aos_supervise::Shutdown;
use rusqlite::Connection;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use super::configuring::Configured;
use super::flows::{EnvironmentFlow, LogFlow, Tasks};
use super::keeping::AfterCommit;
use super::machine::{Action, Event, Machine, UpdateState};
use super::status::Reporter;
use crate::communication::{self, Communication};
use crate::config::Config;
use crate::database::{self, StoreError};
use crate::imagemanager::book::Book;
use crate::imagemanager::{self, ImageManager};
use crate::launcher::core::Launcher;
use crate::launcher::links::Links;
use crate::launcher::records::RunRequest;
use crate::launcher::store;
use crate::nodeinfoprovider::Nodes;
use crate::smcontroller::{self, SmController};
use crate::storagestate::StorageState;
use crate::storagestate::states::States;
use crate::transport::Dialer;
use crate::unitconfig::UnitConfigs;
use crate::{alerts, monitoring};

/// How often unwanted instances are looked for.
const EXPIRE_PERIOD: Duration = Duration::from_hours(24);

/// Why the coordinator cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum CoordinatorError {
    /// What must survive could not be stored.
    #[error("keeping the state of the Unit")]
    Store(#[from] StoreError),
    /// A module does not take commands any more.
    #[error("module {0} does not take commands")]
    Stuck(&'static str),
}

/// What the coordinator works with.
pub struct Parts {
    /// Its own connection.
    pub db: Connection,
    /// The cloud.
    pub cloud: Communication,
    /// What the cloud says.
    pub cloud_events: mpsc::Receiver<communication::Event>,
    /// Items.
    pub images: ImageManager,
    /// The book as it was at start.
    pub book: Book,
    /// What the image manager says.
    pub image_events: mpsc::Receiver<imagemanager::Event>,
    /// Nodes.
    pub controller: SmController,
    /// What the nodes say.
    pub sm_events: mpsc::Receiver<smcontroller::Event>,
    /// IAM.
    pub iam: IamLink,
    /// Told whether certificates are being installed.
    pub installing: watch::Sender<bool>,
    /// Connections for the upload of logs.
    pub dialer: Dialer,
    /// Verified blobs.
    pub store: Store,
    /// Identity of the Unit, once known.
    pub system_id: watch::Receiver<Option<SystemId>>,
    /// The node we run on, once known.
    pub main_node: watch::Receiver<Option<NodeId>>,
    /// Identity for the cloud, for its date of expiry.
    pub online: watch::Receiver<Option<Arc<aos_token::Identity>>>,
    /// Our own identity on the Unit.
    pub own: watch::Receiver<Option<Arc<aos_token::Identity>>>,
    /// Questions for the local status.
    pub questions: mpsc::Receiver<oneshot::Sender<Value>>,
}

/// The task.
pub struct Coordinator {
    pub(super) parts: Parts,
    pub(super) machine: Machine,
    pub(super) launcher: Launcher,
    pub(super) nodes: Nodes,
    pub(super) configs: UnitConfigs,
    pub(super) reporter: Reporter,
    pub(super) links: Links,
    pub(super) data: StorageState,
    pub(super) states: States,
    pub(super) environment: EnvironmentFlow,
    pub(super) logs: LogFlow,
    pub(super) tasks: Tasks,
    pub(super) subjects: BTreeSet<SubjectId>,
    pub(super) patience: Duration,
    pub(super) alerts: alerts::Waiting,
    pub(super) samples: monitoring::Waiting,
    /// Nodes that the last balancing could use.
    pub(super) placed_on: BTreeSet<NodeId>,
    /// Nodes that could be used when they were last looked at.
    pub(super) seen: BTreeSet<NodeId>,
    /// The stage `launching` waits for nodes.
    launching: Option<u64>,
    pub(super) configured: (mpsc::Sender<Configured>, mpsc::Receiver<Configured>),
    pub(super) certificate: String,
    pub(super) unit_config_file: PathBuf,
    /// See [`Coordinator::address`].
    pub(super) system_id: Option<SystemId>,
    /// What the link is told when the open transaction is committed.
    pub(super) after_commit: AfterCommit,
    machine_timer: Option<Instant>,
    /// Instances that are starting since the start of the process are given up then.
    start_timer: Option<Instant>,
    expire_timer: Instant,
    instance_ttl: Duration,
}

impl Coordinator {
    /// Takes up everything that is stored.
    pub fn open(config: &Config, parts: Parts) -> Result<Self, StoreError> {
        let machine = Machine::new(database::document(&parts.db, database::UPDATE)?);
        let requests: Option<Vec<RunRequest>> = database::document(&parts.db, database::REQUESTS)?;
        let launcher = Launcher::new(requests.unwrap_or_default(), store::load(&parts.db)?);
        let states = States::load(&parts.db, &config.state_dir, config.state_change_delay)?;
        let environment = EnvironmentFlow::load(&parts.db)?;
        let logs = LogFlow::load(&parts.db)?;
        let tasks = Tasks::load(&parts.db)?;
        let system_id = database::document(&parts.db, database::SYSTEM_ID)?.flatten();
        let now = Instant::now();
        Ok(Self {
            parts,
            machine,
            launcher,
            nodes: Nodes::new(config.sm_connection_timeout),
            configs: UnitConfigs::load(&config.unit_config_file),
            reporter: Reporter::new(config.unit_status_send_timeout),
            links: Links::default(),
            data: StorageState::new(&config.storage_dir, &config.state_dir),
            states,
            environment,
            logs,
            tasks,
            subjects: BTreeSet::new(),
            patience: config.nodes_connection_timeout,
            alerts: alerts::Waiting::new(config.alerts_send_period),
            samples: monitoring::Waiting::new(config.monitoring_send_period),
            placed_on: BTreeSet::new(),
            seen: BTreeSet::new(),
            launching: None,
            configured: mpsc::channel(4),
            certificate: config.cert_storage.clone(),
            unit_config_file: config.unit_config_file.clone(),
            system_id,
            after_commit: AfterCommit::default(),
            machine_timer: None,
            start_timer: Some(now + config.nodes_connection_timeout),
            expire_timer: now,
            instance_ttl: config.instance_ttl,
        })
    }

    /// Runs until told to stop.
    pub async fn run(mut self, stop: Shutdown) -> Result<(), CoordinatorError> {
        let mut iam_nodes = self.parts.iam.watch_nodes();
        let mut iam_subjects = self.parts.iam.watch_subjects();
        let started = self.machine.on(Instant::now(), Event::Started);
        if self.machine.state() != UpdateState::None {
            tracing::info!("the update goes on at '{}'", self.machine.state().as_str());
        }
        self.act(started)?;
        self.data.clear_away();
        self.take_up_states()?;
        self.set_environments()?;
        loop {
            self.start_tasks();
            let deadline = self.deadline();
            tokio::select! {
                () = stop.wait() => return Ok(()),
                Some(event) = self.parts.cloud_events.recv() => self.on_cloud(event)?,
                Some(event) = self.parts.image_events.recv() => self.on_images(event)?,
                Some(event) = self.parts.sm_events.recv() => self.on_node(event)?,
                Some(done) = self.configured.1.recv() => self.on_configured(done)?,
                Some(done) = self.tasks.done() => self.on_task_done(done)?,
                Some(event) = self.logs.event() => self.on_log_event(event)?,
                () = self.states.written() => {}
                Ok(()) = self.parts.main_node.changed() => {}
                Ok(()) = self.parts.system_id.changed() => {}
                Some(node) = iam_nodes.recv() => {
                    self.nodes.iam_says(node, Instant::now());
                    self.reporter.touch(Instant::now());
                    self.nodes_changed()?;
                }
                Some(subjects) = iam_subjects.recv() => {
                    self.subjects = subjects.into_iter().filter_map(|subject| subject.parse().ok()).collect();
                    self.rebalance_for_subjects()?;
                    self.reporter.touch(Instant::now());
                }
                Some(question) = self.parts.questions.recv() => {
                    let _ = question.send(self.document());
                }
                () = sleep_until(deadline) => self.on_time()?,
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let connected = *self.parts.cloud.connected().borrow();
        let telemetry =
            if connected { [self.alerts.deadline(), self.samples.deadline()] } else { [None, None] };
        [
            self.machine_timer,
            self.start_timer,
            Some(self.expire_timer),
            self.reporter.deadline(),
            self.links.deadline(),
            self.nodes.next_deadline(Instant::now()),
            self.launching.and_then(|_| self.nodes.ready_deadline(Instant::now(), self.patience)),
            self.states_deadline(),
            self.environment.deadline(),
            self.logs.deadline(),
        ]
        .into_iter()
        .chain(telemetry)
        .flatten()
        .min()
    }

    fn on_time(&mut self) -> Result<(), CoordinatorError> {
        let now = Instant::now();
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(self.machine_timer) {
            self.machine_timer = None;
            let actions = self.machine.on(now, Event::Tick);
            if self.machine.state() == UpdateState::Finalizing {
                self.launcher.fail_starting();
            }
            self.act(actions)?;
        }
        if due(self.start_timer) {
            self.start_timer = None;
            if self.machine.state() == UpdateState::None {
                self.launcher.fail_starting();
                self.reporter.touch(now);
            }
        }
        if due(Some(self.expire_timer)) {
            self.expire_timer = now + EXPIRE_PERIOD;
            let changes = self.launcher.expire(SystemTime::now(), self.instance_ttl);
            self.keep_instances(&changes)?;
        }
        if due(self.reporter.deadline()) {
            let snapshot = self.snapshot();
            if let Some(delta) = self.reporter.delta(snapshot) {
                self.send(Body::UnitStatus(delta), None);
            }
        }
        if *self.parts.cloud.connected().borrow() {
            if due(self.alerts.deadline()) {
                for message in self.alerts.take() {
                    self.send(Body::Alerts(message), None);
                }
            }
            if due(self.samples.deadline()) {
                let samples = self.samples.take();
                self.send(Body::MonitoringData(samples), None);
            }
        }
        self.look_at_states()?;
        self.on_env_time()?;
        self.on_log_time()?;
        for node in self.links.nodes() {
            self.command(&node);
        }
        self.nodes_changed()
    }

    fn on_cloud(&mut self, event: communication::Event) -> Result<(), CoordinatorError> {
        match event {
            communication::Event::Connected(answer) => {
                self.address()?;
                let snapshot = self.snapshot();
                if let Err(full) = answer.send(self.reporter.full(snapshot)) {
                    // Asked too long ago: the link went on without it, and later ones build on it.
                    self.send(Body::UnitStatus(full), None);
                }
            }
            communication::Event::Disconnected => self.reporter.disconnected(),
            communication::Event::Message(envelope) => {
                self.on_message(*envelope)?;
                self.write_states()?;
            }
            communication::Event::Refused(why) => self.report_refused(&why),
            communication::Event::Acknowledged(txns) => self.acknowledged(&txns)?,
            communication::Event::Parked(what) => self.report(&what),
            communication::Event::StatusLost => self.send_full_status(),
        }
        Ok(())
    }

    fn on_images(&mut self, event: imagemanager::Event) -> Result<(), CoordinatorError> {
        match event {
            imagemanager::Event::Changed(changes) => {
                self.parts.book.follow(changes);
                self.reporter.touch(Instant::now());
                Ok(())
            }
            imagemanager::Event::Progress(alert) => {
                self.alerts.add(Alert::DownloadProgressAlert(alert), Instant::now());
                Ok(())
            }
            imagemanager::Event::Done(cycle) => {
                let actions = self.machine.on(Instant::now(), Event::StageDone(cycle));
                self.act(actions)
            }
        }
    }

    /// Carries out what the machine wants, and what follows from it.
    pub(super) fn act(&mut self, actions: Vec<Action>) -> Result<(), CoordinatorError> {
        let mut actions = VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            let now = Instant::now();
            match action {
                Action::Store => {
                    database::put_document(&self.parts.db, database::UPDATE, self.machine.stored())?;
                    tracing::debug!("update is at '{}'", self.machine.state().as_str());
                }
                Action::Ignored(reason) => tracing::info!("the wish of the cloud changes nothing: {reason}"),
                Action::CancelDownload => self.tell_images(imagemanager::Command::Cancel)?,
                Action::Download(cycle) => {
                    tracing::info!("update {}: fetching what is missing", self.machine.stored().applied);
                    self.launching = None;
                    let desired = self.machine.desired().cloned().unwrap_or_default();
                    self.tell_images(imagemanager::Command::Download(cycle, desired.items, desired.trust))?;
                }
                Action::Configure(cycle) => self.configure(cycle),
                Action::Launch(cycle) => {
                    self.launching = Some(cycle);
                    self.try_launch()?;
                }
                Action::Watch => {
                    let starting = self.launcher.starting();
                    actions.extend(self.machine.on(now, Event::Instances { starting }));
                }
                Action::Finalize(cycle) => {
                    let items = self.machine.desired().and_then(|desired| desired.items.clone());
                    self.tell_images(imagemanager::Command::Finalize(cycle, items))?;
                }
                Action::Timer(at) => self.machine_timer = Some(at),
                Action::FullStatus => {
                    tracing::info!("update {} is done", self.machine.stored().applied);
                    self.machine_timer = None;
                    self.send_full_status();
                }
            }
        }
        Ok(())
    }

    fn tell_images(&self, command: imagemanager::Command) -> Result<(), CoordinatorError> {
        if self.parts.images.send(command) { Ok(()) } else { Err(CoordinatorError::Stuck("imagemanager")) }
    }

    /// The stage `launching` goes on when the nodes are there or have been waited for long enough.
    pub(super) fn try_launch(&mut self) -> Result<(), CoordinatorError> {
        let Some(cycle) = self.launching else { return Ok(()) };
        if !self.nodes.ready(Instant::now(), self.patience) {
            return Ok(());
        }
        self.launching = None;
        self.take_requests()?;
        self.balance()?;
        let actions = self.machine.on(Instant::now(), Event::StageDone(cycle));
        self.act(actions)
    }

    /// True while instances are about to be placed anyway.
    pub(super) fn is_launching(&self) -> bool {
        self.launching.is_some()
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

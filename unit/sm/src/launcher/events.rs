//! What the launcher's rules are told and what they order.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use aos_ids::InstanceIdent;
use aos_item_format::{Probe, Probes};
use aos_status::{ErrorInfo, InstanceState};

use super::health::{ProbeError, Question};
use super::restart::RunParameters;
use crate::instance::InstanceInfo;

/// Why an order failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What CM is told.
    pub error: ErrorInfo,
    /// Whether and when it is worth another try.
    pub kind: FailureKind,
}

/// When an order that failed may succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// When somebody asks for it again.
    Lasting,
    /// By itself: when CM is connected again, or a little later.
    Passing,
    /// When another instance gives something back.
    Conflict,
}

/// What preparing found out about an item.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Restart policy.
    pub run: RunParameters,
    /// How long the item runs without the cloud.
    pub offline_ttl: Option<Duration>,
    /// How its health is found out; `None` when the state of the process alone counts.
    pub probes: Option<Arc<Probes>>,
    /// Bytes its storage may take.
    pub storage_limit: Option<u64>,
    /// Bytes its state may take.
    pub state_limit: Option<u64>,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ended {
    /// Exit status.
    pub code: Option<i32>,
    /// Signal.
    pub signal: Option<i32>,
    /// The kernel killed one of its processes for want of memory.
    pub out_of_memory: bool,
    /// It has had as many processes as it may have.
    pub out_of_processes: bool,
}

/// A stored instance as it was found at start.
#[derive(Debug, Clone)]
pub struct Found {
    /// The stored wish.
    pub info: InstanceInfo,
    /// What runs, and its process.
    pub running: Option<(InstanceInfo, i32)>,
    /// Its process was found ready before.
    pub ready: bool,
    /// An exit nobody has dealt with.
    pub missed: Option<Ended>,
    /// What the item says, when its image is here.
    pub facts: Option<Facts>,
}

/// Why an instance is stopped, which is what happens afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It is not wanted any more: network, counters and logs go too.
    Remove,
    /// It is wanted differently, or anew.
    Replace,
    /// The cloud has been away for too long.
    Suspend,
    /// It is not healthy: started again as after an exit.
    Unhealthy,
    /// It has ended too often: stays down.
    GivenUp,
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// The state at start.
    Begin(Vec<Found>),
    /// CM's wish; what it does not name stays.
    Update {
        /// To be run like this.
        start: Vec<InstanceInfo>,
        /// Not to be run any more.
        stop: Vec<InstanceIdent>,
    },
    /// The image is here, or not.
    Prepared(Box<InstanceInfo>, Result<Facts, Failure>),
    /// The container runs, or not.
    Started(Box<InstanceInfo>, Result<i32, Failure>),
    /// The container is gone and cleaned up.
    Stopped(InstanceIdent, Result<(), Failure>),
    /// A container's process ended.
    Exited {
        /// Instance ID.
        id: String,
        /// Its process.
        pid: i32,
        /// How.
        ended: Ended,
    },
    /// A question about the health of an instance is answered.
    Probed {
        /// Which.
        ident: InstanceIdent,
        /// The process that was asked.
        pid: i32,
        /// What was asked.
        question: Question,
        /// The answer.
        result: Result<(), ProbeError>,
    },
    /// CM can be asked again.
    CmConnected,
    /// The cloud is there, or not.
    Cloud(bool),
    /// Time has passed.
    Tick,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Store the changed wishes before anything else.
    Store {
        /// New or changed.
        put: Vec<InstanceInfo>,
        /// Gone.
        remove: Vec<InstanceIdent>,
    },
    /// Get the image.
    Prepare(Box<InstanceInfo>),
    /// The image being fetched for an instance is not wanted any more.
    Abandon(InstanceIdent),
    /// Set up the network and run the container.
    Start(Box<InstanceInfo>),
    /// Stop and clean up whatever there is.
    Stop {
        /// The last wish, or what runs.
        info: Box<InstanceInfo>,
        /// What for.
        why: Why,
        /// Runtimes that may have something of it.
        runtimes: BTreeSet<String>,
    },
    /// Ask about the health of an instance.
    Probe {
        /// Which, as it runs.
        info: Box<InstanceInfo>,
        /// Its process.
        pid: i32,
        /// What to ask.
        question: Question,
        /// How.
        probe: Box<Probe>,
    },
    /// A process has been found ready: to be remembered.
    Ready {
        /// Instance ID.
        id: String,
        /// Its process.
        pid: i32,
    },
    /// The cloud is away from now on, or there again: to be remembered.
    Offline(bool),
    /// The exit is dealt with.
    Acknowledge {
        /// Instance ID.
        id: String,
        /// Its process.
        pid: i32,
    },
    /// Statuses that changed.
    Report(Vec<Status>),
    /// An update is through: every status is to be listed.
    ReportAll,
    /// Items and versions that are in use; all others are not.
    InUse(BTreeSet<(String, String)>),
}

/// Status of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// What it is about.
    pub info: InstanceInfo,
    /// Its state.
    pub state: InstanceState,
    /// Why it is not as wished.
    pub error: Option<ErrorInfo>,
    /// Its process, while one runs.
    pub pid: Option<i32>,
}

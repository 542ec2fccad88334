//! What the launcher's rules are told and what they order.

use std::collections::BTreeSet;
use std::time::Duration;

use aos_ids::InstanceIdent;
use aos_status::{ErrorInfo, InstanceState};

use super::restart::RunParameters;
use crate::instance::InstanceInfo;

/// Why an order failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What CM is told.
    pub error: ErrorInfo,
    /// Worth another try when CM is connected again.
    pub passing: bool,
}

/// What preparing found out about an item.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Facts {
    /// Restart policy.
    pub run: RunParameters,
    /// How long the item runs without the cloud.
    pub offline_ttl: Option<Duration>,
}

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// Exit status.
    pub code: Option<i32>,
    /// Signal.
    pub signal: Option<i32>,
}

/// A stored instance as it was found at start.
#[derive(Debug, Clone)]
pub struct Found {
    /// The stored wish.
    pub info: InstanceInfo,
    /// What runs, and its process.
    pub running: Option<(InstanceInfo, i32)>,
    /// An exit nobody has dealt with.
    pub missed: Option<Ended>,
    /// What the item says, when its image is here.
    pub facts: Option<Facts>,
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
    /// Set up the network and run the container.
    Start(Box<InstanceInfo>),
    /// Stop and clean up whatever there is.
    Stop {
        /// Which.
        ident: InstanceIdent,
        /// For good: network, counters and logs go too.
        forget: bool,
    },
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

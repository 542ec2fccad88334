//! What the launcher keeps of every instance, and what it was asked to run.

use std::time::SystemTime;

use aos_ids::{Digest, InstanceIdent, ItemId, ItemKind, NodeId, OwnerId, RuntimeId, SubjectId};
use aos_status::{ErrorInfo, InstanceState};
use serde::{Deserialize, Serialize};

/// One line of the wish: instances of one item for one subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRequest {
    /// Item.
    pub item: ItemId,
    /// Service or component.
    pub kind: ItemKind,
    /// Version to run.
    pub version: String,
    /// Provider; also the network.
    pub owner: OwnerId,
    /// For whom.
    pub subject: SubjectId,
    /// Runs only while the Unit has the subject.
    pub unit_subject: bool,
    /// Higher is placed first.
    pub priority: u64,
    /// How many; 0 for a component = one on every fitting runtime.
    pub count: u64,
    /// Labels the node must carry.
    pub labels: Vec<String>,
}

/// Identity and version: the key of a record.
pub type Key = (InstanceIdent, String);

/// Why a record exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// Should run.
    Active,
    /// Not wanted now; keeps its numbers and data for a time.
    Cached,
    /// Wanted, but its subject is not on the Unit.
    Disabled,
}

/// Threshold of an alert in percent, or in bytes for traffic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Threshold {
    /// Name of the partition, empty for others.
    pub name: String,
    /// How long it must last, milliseconds.
    pub millis: u64,
    /// Lower threshold.
    pub min: f64,
    /// Upper threshold.
    pub max: f64,
}

/// Alert rules of an instance.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AlertRules {
    /// Percent of the quota.
    pub ram: Option<Threshold>,
    /// Percent of the quota.
    pub cpu: Option<Threshold>,
    /// Percent of the partition.
    pub partitions: Vec<Threshold>,
    /// Bytes.
    pub download: Option<Threshold>,
    /// Bytes.
    pub upload: Option<Threshold>,
}

/// What the item's configuration says beyond placement.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Extras {
    /// Storage quota, bytes; 0 = no storage.
    pub storage: u64,
    /// State quota, bytes; 0 = no state.
    pub state: u64,
    /// Alert rules, sent to the Service Manager.
    pub alerts: Option<AlertRules>,
}

/// What is kept of one instance in one version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Why it exists.
    pub standing: Standing,
    /// Manifest that runs.
    pub manifest: Option<Digest>,
    /// Node it is on.
    pub node: Option<NodeId>,
    /// Runtime it is in.
    pub runtime: Option<RuntimeId>,
    /// User number.
    pub uid: u32,
    /// Group number.
    pub gid: u32,
    /// Provider.
    pub owner: OwnerId,
    /// See [`RunRequest::unit_subject`].
    pub unit_subject: bool,
    /// See [`RunRequest::priority`].
    pub priority: u64,
    /// Labels asked for.
    pub labels: Vec<String>,
    /// May only run where it is.
    pub pinned: bool,
    /// When it became what it is.
    pub since: SystemTime,
    /// From the item's configuration.
    pub extras: Extras,
    /// Variables that the cloud overrides, name and value.
    #[serde(default)]
    pub environment: Vec<(String, String)>,
    /// The node has not been told these variables yet.
    #[serde(default)]
    pub environment_untold: bool,
}

/// A record to store, or to drop when `None`.
pub type Change = (Key, Option<Record>);

/// What a Service Manager said of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Which.
    pub ident: InstanceIdent,
    /// Version.
    pub version: String,
    /// Runtime.
    pub runtime: Option<RuntimeId>,
    /// Manifest, when said.
    pub manifest: Option<Digest>,
    /// State.
    pub state: InstanceState,
    /// Reason of a failure.
    pub error: Option<ErrorInfo>,
    /// Overridden variables that could not be applied: name and reason.
    pub env_errors: Vec<(String, ErrorInfo)>,
}

/// Status of one instance for the cloud.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Which.
    pub ident: InstanceIdent,
    /// Version.
    pub version: String,
    /// Node, when it has one.
    pub node: Option<NodeId>,
    /// Runtime, when it has one.
    pub runtime: Option<RuntimeId>,
    /// State.
    pub state: InstanceState,
    /// Reason of a failure.
    pub error: Option<ErrorInfo>,
}

//! `unitStatus`: what a Unit is, in full or as changes.
//!
//! A full status has all five lists. A status with `isDeltaInfo` true has only lists, and in them only
//! entries, that changed.

use std::collections::BTreeMap;

use aos_status::{ConfigState, ErrorInfo, InstanceState, ItemState, NodeState};
use serde::{Deserialize, Serialize, Serializer};

use crate::encoded::{error_info, no_error, optional_checksum};
use crate::{AosIdentity, ArchInfo, OsInfo, StateChecksum};

/// State of a Unit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnitStatus {
    /// True: only changes are listed. Always written.
    #[serde(default)]
    pub is_delta_info: bool,
    /// Installed Unit configuration, and the last attempt when that is another version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit_config: Option<Vec<UnitConfigStatus>>,
    /// Nodes; an entry is always complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<NodeInfo>>,
    /// Items.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<Vec<ItemStatus>>,
    /// Instances, grouped by item, subject and version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances: Option<Vec<InstancesInfo>>,
    /// Subjects present on the Unit, by codename.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subjects: Option<Vec<AosIdentity>>,
}

/// State of a Unit configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnitConfigStatus {
    /// Version; absent when none is installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Its state.
    pub state: ConfigState,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "no_error", deserialize_with = "error_info")]
    pub error_info: Option<ErrorInfo>,
}

/// A node with its capacity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeInfo {
    /// Codename and title.
    pub identity: AosIdentity,
    /// Node type, by codename.
    pub node_group_subject: AosIdentity,
    /// Processing power of all processors, DMIPS.
    pub max_dmips: u64,
    /// Memory without swap, bytes.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub physical_ram: Option<u64>,
    /// Memory with swap, bytes.
    pub total_ram: u64,
    /// Operating system.
    pub os_info: OsInfo,
    /// Processors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<Vec<CpuInfo>>,
    /// Free attributes, for instance `MainNode` and `AosComponents`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attrs: Option<BTreeMap<String, String>>,
    /// Partitions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<Vec<PartitionInfo>>,
    /// Runtimes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtimes: Option<Vec<RuntimeInfo>>,
    /// Devices and other shared resources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Vec<ResourceInfo>>,
    /// True while the node has a link to the main node.
    pub is_connected: bool,
    /// Its state.
    pub state: NodeState,
    /// Why the state is `error`.
    #[serde(default, skip_serializing_if = "no_error", deserialize_with = "error_info")]
    pub error_info: Option<ErrorInfo>,
}

/// A processor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CpuInfo {
    /// Name of the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_name: Option<String>,
    /// Cores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_num_cores: Option<u64>,
    /// Hardware threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_num_threads: Option<u64>,
    /// Architecture.
    pub arch_info: ArchInfo,
    /// Processing power, DMIPS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_dmips: Option<u64>,
}

/// A partition.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartitionInfo {
    /// Name.
    pub name: String,
    /// What it is used for: `storages`, `states`, ...
    #[serde(default)]
    pub types: Vec<String>,
    /// Where it is mounted; peers may ignore it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Bytes.
    pub total_size: u64,
}

/// A runtime of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeInfo {
    /// The runtime, by codename.
    pub identity: AosIdentity,
    /// Kind, for instance `crun`. Written as `unknown` when empty, which other peers refuse.
    #[serde(default, serialize_with = "runtime_type")]
    pub runtime_type: String,
    /// Architecture of what it runs.
    pub arch_info: ArchInfo,
    /// System of what it runs.
    pub os_info: OsInfo,
    /// Processing power it could give, DMIPS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_dmips: Option<u64>,
    /// Processing power it may give, DMIPS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_dmips: Option<u64>,
    /// Memory it could give, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_ram: Option<u64>,
    /// Memory it may give, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_ram: Option<u64>,
    /// Most instances; 0 is no limit.
    #[serde(default)]
    pub max_instances: u64,
}

/// A device or other resource that instances may ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceInfo {
    /// Name.
    pub name: String,
    /// How many instances may share it; 0 is no limit.
    #[serde(default)]
    pub shared_count: u64,
}

/// State of one version of an item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ItemStatus {
    /// The item by id, or by codename when it came with the Unit; with type.
    pub item: AosIdentity,
    /// Version.
    pub version: String,
    /// State.
    pub state: ItemState,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "no_error", deserialize_with = "error_info")]
    pub error_info: Option<ErrorInfo>,
}

/// Instances of one item, subject and version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstancesInfo {
    /// The item.
    pub item: AosIdentity,
    /// The subject.
    pub subject: AosIdentity,
    /// Version of the item.
    pub version: String,
    /// The instances.
    pub instances: Vec<InstanceInfo>,
}

/// One instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceInfo {
    /// Node it is placed on, by codename. May be empty when it could not be placed.
    #[serde(default)]
    pub node: AosIdentity,
    /// Runtime it is placed on, by codename.
    #[serde(default)]
    pub runtime: AosIdentity,
    /// Number, from 0.
    pub instance: u64,
    /// Checksum of its state.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "optional_checksum")]
    pub state_checksum: Option<StateChecksum>,
    /// State.
    pub state: InstanceState,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "no_error", deserialize_with = "error_info")]
    pub error_info: Option<ErrorInfo>,
}

#[allow(clippy::ref_option, reason = "serde calls it with a reference to the field")]
fn is_zero(number: &Option<u64>) -> bool {
    number.unwrap_or_default() == 0
}

fn runtime_type<S: Serializer>(kind: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(if kind.is_empty() { "unknown" } else { kind })
}

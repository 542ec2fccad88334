//! The description of a node, as kept in the database and told to peers.

use std::collections::BTreeMap;

use aos_status::{ErrorInfo, NodeState};

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInfo {
    /// Identity, at most 64 bytes.
    pub node_id: String,
    /// Group of equal nodes.
    pub node_type: String,
    /// For people.
    pub title: String,
    /// Computing power.
    pub max_dmips: u64,
    /// Memory that the kernel manages, bytes.
    pub total_ram: u64,
    /// Memory built in, bytes.
    pub physical_ram: Option<u64>,
    /// Operating system.
    pub os: OsInfo,
    /// Processors, by socket.
    pub cpus: Vec<Cpu>,
    /// Partitions reported and monitored.
    pub partitions: Vec<Partition>,
    /// Free attributes.
    pub attrs: BTreeMap<String, String>,
    /// Provisioning state.
    pub state: NodeState,
    /// Why the state is `error`.
    pub error: Option<ErrorInfo>,
}

/// An operating system.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OsInfo {
    /// Name, as in `linux`.
    pub os: String,
    /// Version.
    pub version: Option<String>,
    /// Features.
    pub features: Vec<String>,
}

/// A processor in its socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cpu {
    /// Name given by its maker.
    pub model_name: String,
    /// Cores of the socket.
    pub cores: u64,
    /// Threads of the socket.
    pub threads: u64,
    /// Architecture by its OCI name, as in `arm64`.
    pub architecture: String,
    /// Variant by its OCI name, as in `v8`.
    pub variant: Option<String>,
    /// Computing power.
    pub max_dmips: Option<u64>,
}

/// A disk partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Name in reports.
    pub name: String,
    /// Where it is mounted.
    pub path: String,
    /// What it is used for.
    pub types: Vec<String>,
    /// Bytes; 0 when unknown.
    pub total_size: u64,
}

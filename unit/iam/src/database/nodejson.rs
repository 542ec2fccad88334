//! The JSON form of a node in the database.

use std::collections::BTreeMap;

use aos_status::{ErrorInfo, NodeState};
use serde::{Deserialize, Serialize};

use crate::currentnode::{Cpu, NodeInfo, OsInfo, Partition};

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::struct_field_names, reason = "names of the stored form")]
struct Node {
    identity: Identity,
    node_group_subject: Group,
    #[serde(default)]
    max_dmips: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    physical_ram: Option<u64>,
    #[serde(default)]
    total_ram: u64,
    #[serde(default)]
    os_info: Os,
    #[serde(default)]
    cpus: Vec<CpuJson>,
    #[serde(default)]
    attrs: BTreeMap<String, String>,
    #[serde(default)]
    partitions: Vec<PartitionJson>,
    state: NodeState,
    #[serde(default)]
    is_connected: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error_info: Option<ErrorInfo>,
}

#[derive(Serialize, Deserialize)]
struct Identity {
    #[serde(default)]
    codename: String,
    #[serde(default)]
    title: String,
}

#[derive(Serialize, Deserialize)]
struct Group {
    #[serde(default)]
    codename: String,
}

#[derive(Serialize, Deserialize, Default)]
#[allow(clippy::struct_field_names, reason = "names of the stored form")]
struct Os {
    #[serde(default)]
    os: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    features: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CpuJson {
    #[serde(default)]
    model_name: String,
    #[serde(default)]
    total_num_cores: u64,
    #[serde(default)]
    total_num_threads: u64,
    arch_info: Arch,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_dmips: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct Arch {
    architecture: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    variant: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PartitionJson {
    name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    path: String,
    #[serde(default)]
    types: Vec<String>,
    #[serde(default)]
    total_size: u64,
}

/// A node as JSON; stored nodes are never connected.
pub(super) fn write(info: &NodeInfo) -> String {
    let node = Node {
        identity: Identity { codename: info.node_id.clone(), title: info.title.clone() },
        node_group_subject: Group { codename: info.node_type.clone() },
        max_dmips: info.max_dmips,
        physical_ram: info.physical_ram,
        total_ram: info.total_ram,
        os_info: Os {
            os: info.os.os.clone(),
            version: info.os.version.clone(),
            features: info.os.features.clone(),
        },
        cpus: info
            .cpus
            .iter()
            .map(|cpu| CpuJson {
                model_name: cpu.model_name.clone(),
                total_num_cores: cpu.cores,
                total_num_threads: cpu.threads,
                arch_info: Arch { architecture: cpu.architecture.clone(), variant: cpu.variant.clone() },
                max_dmips: cpu.max_dmips,
            })
            .collect(),
        attrs: info.attrs.clone(),
        partitions: info
            .partitions
            .iter()
            .map(|partition| PartitionJson {
                name: partition.name.clone(),
                path: partition.path.clone(),
                types: partition.types.clone(),
                total_size: partition.total_size,
            })
            .collect(),
        state: info.state,
        is_connected: false,
        error_info: info.error.clone(),
    };
    serde_json::to_string(&node).unwrap_or_default()
}

/// The node `id` from its JSON.
pub(super) fn read(id: &str, text: &str) -> Result<NodeInfo, serde_json::Error> {
    let node: Node = serde_json::from_str(text)?;
    Ok(NodeInfo {
        node_id: id.to_owned(),
        node_type: node.node_group_subject.codename,
        title: node.identity.title,
        max_dmips: node.max_dmips,
        total_ram: node.total_ram,
        physical_ram: node.physical_ram,
        os: OsInfo { os: node.os_info.os, version: node.os_info.version, features: node.os_info.features },
        cpus: node
            .cpus
            .into_iter()
            .map(|cpu| Cpu {
                model_name: cpu.model_name,
                cores: cpu.total_num_cores,
                threads: cpu.total_num_threads,
                architecture: cpu.arch_info.architecture,
                variant: cpu.arch_info.variant,
                max_dmips: cpu.max_dmips,
            })
            .collect(),
        partitions: node
            .partitions
            .into_iter()
            .map(|partition| Partition {
                name: partition.name,
                path: partition.path,
                types: partition.types,
                total_size: partition.total_size,
            })
            .collect(),
        attrs: node.attrs,
        state: node.state,
        error: node.error_info,
    })
}

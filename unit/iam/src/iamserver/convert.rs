//! Between our types and `iamanager.v6`.

use aos_ids::NodeId;
use aos_status::NodeState;
use aos_unit_api::common::v2::{ArchInfo, OsInfo as WireOs};
use aos_unit_api::convert::{error_from_wire, error_to_wire};
use aos_unit_api::iamanager::v6;

use crate::currentnode::{Cpu, NodeInfo, OsInfo, Partition};

const MAX_TEXT: usize = 64;
const MAX_SHORT: usize = 16;
const MAX_PATH: usize = 4096;
const MAX_CPUS: usize = 8;
const MAX_PARTITIONS: usize = 4;
const MAX_ATTRIBUTES: usize = 16;
const MAX_FEATURES: usize = 16;

/// Why a node's description cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The node ID is none.
    #[error("node describes itself with a wrong ID")]
    Id(#[from] aos_ids::IdError),
    /// The state is none.
    #[error("node describes itself with a wrong state")]
    State(#[from] aos_status::UnknownState),
    /// Something is longer than any peer accepts.
    #[error("node describes itself with too long or too many {0}")]
    TooLong(&'static str),
}

/// A node on the wire.
pub fn node_to_wire(info: &NodeInfo) -> v6::NodeInfo {
    v6::NodeInfo {
        node_id: info.node_id.clone(),
        node_type: info.node_type.clone(),
        title: info.title.clone(),
        max_dmips: info.max_dmips,
        total_ram: info.total_ram,
        physical_ram: info.physical_ram.unwrap_or_default(),
        os_info: Some(WireOs {
            os: info.os.os.clone(),
            version: info.os.version.clone().unwrap_or_default(),
            features: info.os.features.clone(),
        }),
        cpus: info
            .cpus
            .iter()
            .map(|cpu| v6::CpuInfo {
                model_name: cpu.model_name.clone(),
                num_cores: cpu.cores,
                num_threads: cpu.threads,
                arch_info: Some(ArchInfo {
                    architecture: cpu.architecture.clone(),
                    variant: cpu.variant.clone().unwrap_or_default(),
                }),
                max_dmips: cpu.max_dmips.unwrap_or_default(),
            })
            .collect(),
        partitions: info
            .partitions
            .iter()
            .map(|partition| v6::PartitionInfo {
                name: partition.name.clone(),
                types: partition.types.clone(),
                total_size: partition.total_size,
                path: partition.path.clone(),
            })
            .collect(),
        attrs: info
            .attrs
            .iter()
            .map(|(name, value)| v6::NodeAttribute { name: name.clone(), value: value.clone() })
            .collect(),
        state: info.state.as_str().to_owned(),
        error: error_to_wire(info.error.clone()),
    }
}

/// A node from the wire, checked.
pub fn node_from_wire(wire: v6::NodeInfo) -> Result<NodeInfo, NodeError> {
    let at_most = |what, found: usize, max| if found > max { Err(NodeError::TooLong(what)) } else { Ok(()) };
    at_most("texts", wire.node_type.len().max(wire.title.len()), MAX_TEXT)?;
    at_most("processors", wire.cpus.len(), MAX_CPUS)?;
    at_most("partitions", wire.partitions.len(), MAX_PARTITIONS)?;
    at_most("attributes", wire.attrs.len(), MAX_ATTRIBUTES)?;
    let os = wire.os_info.unwrap_or_default();
    at_most("features", os.features.len(), MAX_FEATURES)?;
    at_most("texts", os.os.len(), MAX_SHORT)?;
    at_most("texts", os.features.iter().map(String::len).max().unwrap_or(0).max(os.version.len()), MAX_TEXT)?;
    for attr in &wire.attrs {
        at_most("attributes", attr.name.len().max(attr.value.len()), MAX_TEXT)?;
    }
    for partition in &wire.partitions {
        at_most("partitions", partition.types.len(), MAX_PARTITIONS)?;
        let longest = partition.types.iter().map(String::len).max().unwrap_or(0);
        at_most("partitions", longest.max(partition.name.len()), MAX_TEXT)?;
        at_most("partitions", partition.path.len(), MAX_PATH)?;
    }
    let mut cpus = Vec::new();
    for cpu in wire.cpus {
        let arch = cpu.arch_info.unwrap_or_default();
        at_most("processors", cpu.model_name.len(), MAX_TEXT)?;
        at_most("processors", arch.architecture.len().max(arch.variant.len()), MAX_SHORT)?;
        cpus.push(Cpu {
            model_name: cpu.model_name,
            cores: cpu.num_cores,
            threads: cpu.num_threads,
            architecture: arch.architecture,
            variant: text(arch.variant),
            max_dmips: number(cpu.max_dmips),
        });
    }
    Ok(NodeInfo {
        node_id: NodeId::new(wire.node_id)?.into(),
        node_type: wire.node_type,
        title: wire.title,
        max_dmips: wire.max_dmips,
        total_ram: wire.total_ram,
        physical_ram: number(wire.physical_ram),
        os: OsInfo { os: os.os, version: text(os.version), features: os.features },
        cpus,
        partitions: wire
            .partitions
            .into_iter()
            .map(|partition| Partition {
                name: partition.name,
                path: partition.path,
                types: partition.types,
                total_size: partition.total_size,
            })
            .collect(),
        attrs: wire.attrs.into_iter().map(|attr| (attr.name, attr.value)).collect(),
        state: wire.state.parse::<NodeState>()?,
        error: error_from_wire(wire.error),
    })
}

/// Proto3 cannot tell an unset value from an empty one.
fn text(wire: String) -> Option<String> {
    (!wire.is_empty()).then_some(wire)
}

fn number(wire: u64) -> Option<u64> {
    (wire != 0).then_some(wire)
}

//! What this node is: identity, processors, memory, partitions, attributes and state.
//!
//! Hardware is read once at start; the state changes while the program runs. One owner (the
//! provisioning task) holds [`CurrentNode`] and writes the state file; everybody else looks at the
//! newest description through a `watch` channel, so no reader ever sees an old state.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use aos_status::{ErrorInfo, NodeState};
use tokio::sync::watch;

use crate::Error;
use crate::config::NodeInfoConfig;

mod cpuinfo;
mod info;
mod statefile;
#[cfg(test)]
mod tests;

pub use info::{Cpu, NodeInfo, OsInfo, Partition};

use statefile::StateFile;

const MAX_NODE_ID: usize = 64;

/// This node; the only writer of its state.
#[derive(Debug)]
pub struct CurrentNode {
    file: StateFile,
    info: watch::Sender<NodeInfo>,
}

impl CurrentNode {
    /// Reads everything that describes the node.
    pub fn open(config: &NodeInfoConfig) -> Result<Self, Error> {
        let file = StateFile::new(config.provisioning_state_path.clone());
        let (state, error) = file.read()?;
        let info = describe(config, state, error)?;
        Ok(Self { file, info: watch::Sender::new(info) })
    }

    /// The newest description.
    pub fn watch(&self) -> watch::Receiver<NodeInfo> {
        self.info.subscribe()
    }

    /// Present state.
    pub fn state(&self) -> NodeState {
        self.info.borrow().state
    }

    /// Makes `state` durable and tells the watchers. The present state again does nothing.
    pub fn set_state(&self, state: NodeState) -> Result<(), Error> {
        if self.state() == state {
            return Ok(());
        }
        self.file.write(state)?;
        self.info.send_modify(|info| {
            info.state = state;
            info.error = None;
        });
        Ok(())
    }
}

fn describe(config: &NodeInfoConfig, state: NodeState, error: Option<ErrorInfo>) -> Result<NodeInfo, Error> {
    let machine = rustix::system::uname().machine().to_string_lossy().into_owned();
    let cpu_text = fs::read_to_string(&config.cpu_info_path).unwrap_or_default();
    let cpus = cpuinfo::parse(&cpu_text, cpuinfo::oci_architecture(&machine))
        .into_iter()
        .map(|cpu| Cpu {
            architecture: config.architecture.clone().unwrap_or(cpu.architecture),
            variant: config.architecture_variant.clone(),
            ..cpu
        })
        .collect();
    Ok(NodeInfo {
        node_id: node_id(&config.node_id_path)?,
        node_type: config.node_type.clone(),
        title: config.node_name.clone(),
        max_dmips: config.max_dmips,
        total_ram: total_ram(&config.mem_info_path)?,
        physical_ram: None,
        os: OsInfo {
            os: config.os.clone().unwrap_or_default(),
            version: config.os_version.clone(),
            features: Vec::new(),
        },
        cpus,
        partitions: config
            .partitions
            .iter()
            .map(|partition| Partition {
                name: partition.name.clone(),
                path: partition.path.to_string_lossy().into_owned(),
                types: partition.types.clone(),
                total_size: partition_size(&partition.path),
            })
            .collect(),
        attrs: config.attrs.clone(),
        state,
        error,
    })
}

fn node_id(path: &Path) -> Result<String, Error> {
    let text = fs::read_to_string(path).map_err(|source| Error::File {
        doing: "read the node ID from",
        path: path.to_owned(),
        source,
    })?;
    let id = text.lines().next().unwrap_or_default().trim();
    if id.is_empty() || id.len() > MAX_NODE_ID {
        return Err(Error::Failed(format!(
            "{} has no node ID of 1 to {MAX_NODE_ID} bytes in its first line",
            path.display()
        )));
    }
    Ok(id.to_owned())
}

fn total_ram(path: &Path) -> Result<u64, Error> {
    let text = fs::read_to_string(path).map_err(|source| Error::File {
        doing: "read the size of memory from",
        path: path.to_owned(),
        source,
    })?;
    text.lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse::<u64>().ok())
        .and_then(|kib| kib.checked_mul(1024))
        .ok_or_else(|| Error::Failed(format!("{} has no readable MemTotal", path.display())))
}

/// Bytes of the file system at `path`; 0 when it cannot be asked.
fn partition_size(path: &Path) -> u64 {
    match rustix::fs::statvfs(path) {
        Ok(stat) => stat.f_blocks.saturating_mul(stat.f_frsize),
        Err(error) => {
            let error = std::io::Error::from(error);
            let hint = if error.kind() == ErrorKind::NotFound { " (does it exist?)" } else { "" };
            tracing::warn!("cannot find the size of partition {}{hint}: {error}", path.display());
            0
        }
    }
}

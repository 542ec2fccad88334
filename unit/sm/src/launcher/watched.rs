//! What other modules are told about instances, to measure them and to alert about them.

use std::path::PathBuf;

use aos_ids::InstanceIdent;
use aos_status::InstanceState;
use aos_unit_api::servicemanager::v5::MonitoringParameters;
use prost::Message;

use super::events::{Facts, Status};
use crate::runtimes::{CgroupPaths, Runtime};

/// One instance of this node.
#[derive(Debug, Clone, PartialEq)]
pub struct Watched {
    /// Which.
    pub ident: InstanceIdent,
    /// Its instance ID.
    pub id: String,
    /// Version of its item.
    pub version: String,
    /// Identifier of its runtime.
    pub runtime: String,
    /// Its state.
    pub state: InstanceState,
    /// Its first process, while it runs.
    pub pid: Option<i32>,
    /// Its cgroups; they exist while it runs.
    pub cgroups: CgroupPaths,
    /// Its monitoring parameters; `None` when it is not to be measured.
    pub params: Option<MonitoringParameters>,
    /// Its storage folder on the host.
    pub storage: Option<PathBuf>,
    /// Its state file on the host.
    pub state_file: Option<PathBuf>,
    /// Bytes its storage may take.
    pub storage_limit: Option<u64>,
    /// Bytes its state may take.
    pub state_limit: Option<u64>,
    /// The user its processes and files belong to.
    pub uid: u32,
    /// Its log file.
    pub log: PathBuf,
}

impl Watched {
    pub(super) fn of(status: Status, runtime: &dyn Runtime, facts: Option<&Facts>) -> Self {
        let Status { info, state, pid, .. } = status;
        let id = info.id();
        let data = runtime.places(&info).unwrap_or_default();
        Self {
            state,
            pid,
            cgroups: runtime.cgroups(&id),
            params: info.monitoring.as_deref().and_then(|bytes| MonitoringParameters::decode(bytes).ok()),
            storage: data.storage,
            state_file: data.state,
            storage_limit: facts.and_then(|facts| facts.storage_limit),
            state_limit: facts.and_then(|facts| facts.state_limit),
            uid: info.uid,
            log: runtime.log_path(&id),
            version: info.version,
            runtime: info.runtime,
            ident: info.ident,
            id,
        }
    }
}

//! The configuration of a native runtime: plugin `native`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use aos_duration_text::DurationText;
use serde::Deserialize;

/// One native runtime.
#[derive(Debug, Clone)]
pub struct NativeConfig {
    /// Type reported to CM; part of the runtime's identifier.
    pub runtime_type: String,
    /// One bundle for each instance, and the keeper's socket; every folder above it must be passable.
    pub runtime_dir: PathBuf,
    /// Prefix of storage paths.
    pub storage_dir: PathBuf,
    /// Prefix of state paths.
    pub state_dir: PathBuf,
    /// Parent of the instances' cgroups.
    pub cgroup_parent: String,
    /// Log files of instances.
    pub log_dir: PathBuf,
    /// Cap of one log file, bytes.
    pub log_max_bytes: u64,
    /// Time between SIGTERM and SIGKILL.
    pub stop_grace: Duration,
    /// Each instance has a network of its own, as a container has; else it uses the host's.
    pub own_network: bool,
}

/// The keys.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub(super) struct Keys {
    runtime_dir: Option<PathBuf>,
    storage_dir: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    cgroup_parent: Option<String>,
    log_dir: Option<PathBuf>,
    log_max_bytes: Option<u64>,
    stop_grace: Option<DurationText>,
    own_network: Option<bool>,
}

impl Keys {
    pub(super) fn complete(self, working_dir: &Path, runtime_type: String) -> NativeConfig {
        let parent = self
            .cgroup_parent
            .unwrap_or_else(|| "/system.slice/system-aos.slice/system-aos-native.slice".to_owned());
        NativeConfig {
            runtime_type,
            runtime_dir: self.runtime_dir.unwrap_or_else(|| PathBuf::from("/run/aos-native")),
            storage_dir: self.storage_dir.unwrap_or_else(|| working_dir.join("storages")),
            state_dir: self.state_dir.unwrap_or_else(|| working_dir.join("states")),
            cgroup_parent: parent.trim_end_matches('/').to_owned(),
            log_dir: self.log_dir.unwrap_or_else(|| working_dir.join("logs")),
            log_max_bytes: self.log_max_bytes.unwrap_or(1024 * 1024).max(4096),
            stop_grace: self.stop_grace.map_or(Duration::from_secs(10), DurationText::get),
            own_network: self.own_network.unwrap_or(false),
        }
    }
}

//! What the Communication Manager wants of one instance, in checked types.

use aos_ids::{Digest, InstanceIdent};
use serde::{Deserialize, Serialize};

/// The complete wish for one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceInfo {
    /// Which instance.
    pub ident: InstanceIdent,
    /// Version of the item.
    pub version: String,
    /// Manifest of the image.
    pub manifest: Digest,
    /// Owner of the item; names the network.
    pub owner: String,
    /// Runtime that is to run it.
    pub runtime: String,
    /// User the process runs as.
    pub uid: u32,
    /// Group the process runs as.
    pub gid: u32,
    /// Higher ones are started first.
    pub priority: u64,
    /// Storage folder below the runtime's storage folder; empty for none.
    pub storage_path: String,
    /// State file below the runtime's state folder; empty for none.
    pub state_path: String,
    /// Variables the cloud overrides, name and value; each name once, sorted.
    pub env: Vec<(String, String)>,
    /// Variables that cannot be set: name and reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused_env: Vec<(String, String)>,
    /// Monitoring parameters as they came, encoded; only compared.
    pub monitoring: Option<Vec<u8>>,
}

impl InstanceInfo {
    /// True when a process started for this wish does for the other one as well. What only says how the
    /// process is looked at, its priority and its monitoring, needs no other process.
    pub fn same_process(&self, other: &Self) -> bool {
        let Self {
            ident, version, manifest, owner, runtime, uid, gid, storage_path, state_path, env, ..
        } = self;
        (ident, version, manifest, owner, runtime)
            == (&other.ident, &other.version, &other.manifest, &other.owner, &other.runtime)
            && (uid, gid, storage_path, state_path, env)
                == (&other.uid, &other.gid, &other.storage_path, &other.state_path, &other.env)
    }

    /// The instance ID (UUID) that names container, cgroup and network namespace.
    pub fn id(&self) -> String {
        self.ident.instance_id()
    }
}

//! Disk quotas of instances: storage and state.

use std::path::PathBuf;

use crate::Error;

/// What an instance may use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Owner of its files.
    pub uid: u32,
    /// Group of its files.
    pub gid: u32,
    /// Storage folder and its limit, bytes.
    pub storage: Option<(PathBuf, u64)>,
    /// State file and its limit, bytes.
    pub state: Option<(PathBuf, u64)>,
}

/// What an instance uses, bytes; `None` where nobody counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// In its storage folder.
    pub storage: Option<u64>,
    /// In its state file.
    pub state: Option<u64>,
}

/// Disk quotas of this node.
#[derive(Debug, Clone, Default)]
pub struct Quotas {}

impl Quotas {
    /// Makes folders and limits hold; the same limits again change nothing.
    #[allow(clippy::unused_async, reason = "mechanisms follow")]
    pub async fn apply(&self, _limits: Limits) -> Result<(), Error> {
        Ok(())
    }

    /// What an instance uses. Quick: asks the kernel's own counters, walks through no folder.
    pub fn usage(&self, _limits: &Limits) -> Usage {
        Usage::default()
    }

    /// Ends the limits of an instance that is not wanted any more; its data stays.
    #[allow(clippy::unused_async, reason = "mechanisms follow")]
    pub async fn remove(&self, _limits: Limits) -> Result<(), Error> {
        Ok(())
    }
}

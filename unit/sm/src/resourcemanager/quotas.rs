//! Disk quotas of this node's instances: storage folders and state files.
//!
//! What keeps a limit is found out for each folder (crate `aos-disk-quota`). Where nothing does, that is said once
//! for each reason, and the configuration decides whether the instance runs all the same. The work is a few kernel
//! calls, on a thread for blocking work because an image may have to be made or resized.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::Error;

pub use aos_disk_quota::{Limits, Policy, Usage};

/// Disk quotas of this node.
#[derive(Debug, Clone, Default)]
pub struct Quotas {
    policy: Policy,
    roots: Vec<PathBuf>,
    told: Arc<Mutex<BTreeSet<String>>>,
}

impl Quotas {
    /// Keeps limits as `policy` says; all storages are below `roots`.
    pub fn new(policy: Policy, roots: Vec<PathBuf>) -> Self {
        Self { policy, roots, told: Arc::default() }
    }

    /// Makes folders, gives them to the instance's user and has the limits kept; the same again changes nothing.
    pub async fn apply(&self, limits: Limits) -> Result<(), Error> {
        if limits.storage.is_none() && limits.state.is_none() {
            return Ok(());
        }
        let policy = self.policy;
        let applied = blocking(move || aos_disk_quota::apply(&limits, policy)).await?;
        for (what, kept) in [("storage", applied.storage), ("state", applied.state)] {
            if let Some(Err(reason)) = kept {
                self.tell(format!("limits of the {what} of instances are not kept: {reason}"));
            }
        }
        Ok(())
    }

    fn tell(&self, text: String) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if !told.contains(&text) {
            tracing::warn!("{text}");
            told.insert(text);
        }
    }

    /// What an instance takes on disk. Quick: asks the kernel's own counters, walks through no folder.
    #[allow(clippy::unused_self, reason = "callers need not know that the kernel alone keeps the count")]
    pub fn usage(&self, uid: u32, storage: Option<&Path>, state: Option<&Path>) -> Usage {
        aos_disk_quota::usage(uid, storage, state)
    }

    /// Ends the limits of an instance that is not wanted any more; its data stays.
    pub async fn remove(&self, limits: Limits) -> Result<(), Error> {
        blocking(move || aos_disk_quota::remove(&limits)).await
    }

    /// After a start of ours: of all storage images only those of the folders `wanted` stay mounted.
    pub async fn retain(&self, wanted: Vec<PathBuf>) -> Result<(), Error> {
        let roots = self.roots.clone();
        let count = blocking(move || {
            roots.iter().map(|root| aos_disk_quota::reconcile(root, &wanted)).sum::<Result<u32, _>>()
        })
        .await?;
        if count > 0 {
            tracing::info!("{count} storage images of instances that are gone were unmounted");
        }
        Ok(())
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, aos_disk_quota::QuotaError> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|_| Error::Ended("setting disk quotas"))?;
    Ok(done?)
}

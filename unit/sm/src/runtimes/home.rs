//! Where a runtime has its instances: each with a bundle, cgroups and a log, all named by the instance ID.
//!
//! What happens to their processes is the same whatever started them: they are found again after a restart of
//! ours, taken up or ended, and ended when they shall stop.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aos_keep::process;
use serde::{Deserialize, Serialize};

use super::cgroup::{CgroupPaths, Hierarchies};
use super::container::{bundle, ending};
use super::keeper::{Keeper, Known};
use super::{Alive, Grace};
use crate::Error;
use crate::instance::InstanceInfo;

/// A process, told from a later one with the same number.
#[derive(Debug, Serialize, Deserialize, Clone, Copy)]
pub struct Identity {
    pub pid: i32,
    pub start_time: u64,
}

/// The places of one runtime's instances.
pub struct Home {
    /// Folder of the bundles.
    pub bundles: PathBuf,
    /// Folder of the logs.
    pub logs: PathBuf,
    /// Cgroup above those of the instances.
    pub cgroup_parent: String,
    /// Time between SIGTERM and SIGKILL, unless told otherwise.
    pub stop_grace: Duration,
    /// Parent of the processes.
    pub keeper: Keeper,
    /// The cgroup file systems of this node.
    pub hierarchies: Hierarchies,
}

impl Home {
    pub fn bundle(&self, id: &str) -> PathBuf {
        self.bundles.join(id)
    }

    pub fn cgroups_path(&self, id: &str) -> String {
        format!("{}/{id}", self.cgroup_parent)
    }

    pub fn cgroups(&self, id: &str) -> CgroupPaths {
        self.hierarchies.paths(&self.cgroups_path(id))
    }

    pub fn log_path(&self, id: &str) -> PathBuf {
        self.logs.join(format!("{id}.log"))
    }

    pub fn remove_log(&self, id: &str) -> Result<(), Error> {
        for path in aos_keep::files_of(&self.log_path(id)) {
            aos_durable::remove_durably(&path)?;
        }
        Ok(())
    }

    /// Notes in the bundle which process is the instance's.
    pub fn note(&self, id: &str, identity: Identity) -> Result<(), Error> {
        bundle::write(&self.bundle(id).join("process.json"), "a process", &identity)
    }

    /// The process noted in the bundle.
    pub fn noted(&self, id: &str) -> Option<Identity> {
        bundle::read(&self.bundle(id).join("process.json"))
    }

    /// IDs of all instances of which something may be here: watched by the keeper, or with an entry in the
    /// folder of the bundles or in `more`.
    pub fn present(&self, known: &Known, more: Option<&Path>) -> BTreeSet<String> {
        let folders = [Some(self.bundles.as_path()), more].into_iter().flatten();
        let entries = folders.flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let is_id = |name: &String| uuid::Uuid::try_parse(name).is_ok();
        known.watched.keys().cloned().chain(names).filter(is_id).collect()
    }

    /// Lets an instance go on that a predecessor of ours froze, and answers its process if the keeper has it.
    pub fn wake(&self, id: &str, known: &Known) -> Option<Identity> {
        ending::thaw(&self.cgroups(id));
        known.watched.get(id).map(|watched| Identity { pid: watched.pid, start_time: watched.start_time })
    }

    /// Takes up the process `found` of a wanted instance, or ends it; `watched` when the keeper has it already.
    pub async fn take_up(
        &self,
        id: &str,
        wanted: bool,
        found: Option<Identity>,
        watched: bool,
    ) -> Result<Option<Alive>, Error> {
        let info: Option<InstanceInfo> = bundle::read(&self.bundle(id).join("instance.json"));
        let running = found.filter(|it| process::is_running(it.pid, it.start_time));
        if let (true, Some(info), Some(it)) = (wanted, info, running) {
            self.note(id, it)?;
            if watched || self.keeper.adopt(id.to_owned(), it.pid, it.start_time).await? {
                tracing::info!("{} runs as process {}, taken up", info.ident, it.pid);
                return Ok(Some(Alive { info, pid: it.pid }));
            }
        }
        tracing::info!("removing what is left of {id}");
        if running.is_some() {
            self.end(id, running, self.stop_grace).await?;
        }
        Ok(None)
    }

    /// Ends a process that shall stop, and everything in the instance's cgroups.
    pub async fn stop(&self, id: &str, identity: Identity, grace: Grace) -> Result<(), Error> {
        self.keeper.stopping(id).await;
        let grace = match grace {
            Grace::Configured => self.stop_grace,
            Grace::Of(time) => time,
        };
        self.end(id, Some(identity), grace).await
    }

    async fn end(&self, id: &str, identity: Option<Identity>, grace: Duration) -> Result<(), Error> {
        let ended = ending::end(identity, grace, self.cgroups(id)).await;
        ended.map_err(Error::system(format!("end the processes of {id}")))
    }

    /// Removes the cgroups with all that still runs in them.
    pub async fn remove_cgroups(&self, id: &str) -> Result<(), Error> {
        let groups = self.cgroups(id);
        if !groups.all.iter().any(|group| group.exists()) {
            return Ok(());
        }
        let work = move || ending::kill_all(&groups).and_then(|()| ending::remove(&groups));
        let removed =
            tokio::task::spawn_blocking(work).await.map_err(|_| Error::Ended("a thread of a runtime"))?;
        removed.map_err(Error::system(format!("remove the cgroups of {id}")))
    }
}

//! A head start for the kernel: the grace period that it lets pass before it moves a process into a cgroup.
//!
//! Whoever moves a process waits 10 to 30 ms for that period, unless another has moved one just before; the OCI
//! runtime does so for each container. So at the beginning of a start, while image, network and secret are still
//! being fetched, this process is moved to where it is. That changes nothing, and the period has passed (or most
//! of it) when the runtime needs it. On a thread that waits; one at a time; nothing happens when nothing starts.

use std::fs;
use std::path::PathBuf;

use tokio::task::JoinHandle;

use super::cgroup::Hierarchies;

/// Gives head starts.
#[derive(Debug, Default)]
pub struct HeadStart {
    /// Processes of the cgroup that this one is in; `None` where it is not to be seen.
    list: Option<PathBuf>,
    under_way: Option<JoinHandle<()>>,
}

impl HeadStart {
    /// For the cgroup that this process is in.
    pub fn open() -> Self {
        let memberships = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let list = Hierarchies::find().ok().and_then(|found| found.own_list(&memberships));
        Self { list, under_way: None }
    }

    /// Begins one, unless one is under way.
    pub fn give(&mut self) {
        if self.under_way.as_ref().is_some_and(|work| !work.is_finished()) {
            return;
        }
        let Some(list) = self.list.clone() else { return };
        // 0 is whoever writes it. Where it is not allowed the start just takes a little longer.
        self.under_way = Some(tokio::task::spawn_blocking(move || drop(fs::write(list, "0"))));
    }
}

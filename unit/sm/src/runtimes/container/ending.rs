//! The end of everything that runs in an instance's cgroups.
//!
//! The first process is asked (SIGTERM) and given time; then all that is in the cgroups is killed, also what
//! has left the container's process tree. With cgroup v2 the kernel does that at once; with v1 the cgroup is
//! frozen first, so that nothing forks away in between.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aos_keep::process;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use tokio::io::unix::AsyncFd;

use crate::runtimes::CgroupPaths;
use crate::runtimes::home::Identity;

/// Time that what was killed may take to be gone.
pub const KILL_LIMIT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(5);
/// Deepest nesting looked at below an instance's cgroup.
const MAX_DEPTH: usize = 8;

/// Asks the process to end, then ends it and all others of its cgroups. Waits without a thread.
pub async fn end(identity: Option<Identity>, grace: Duration, groups: CgroupPaths) -> io::Result<()> {
    let handle = match identity {
        Some(identity) => open(identity)?,
        None => None,
    };
    #[allow(deprecated, reason = "the replacement is unsafe; an owned descriptor is all it asks for")]
    let handle = handle.map(AsyncFd::new).transpose()?;
    if let Some(handle) = &handle {
        signal(handle.get_ref(), Signal::TERM)?;
        let _ = tokio::time::timeout(grace, handle.readable()).await;
        signal(handle.get_ref(), Signal::KILL)?;
    }
    tokio::task::spawn_blocking(move || kill_all(&groups)).await.map_err(io::Error::other)??;
    if let Some(handle) = &handle {
        let _ended = tokio::time::timeout(KILL_LIMIT, handle.readable()).await??;
    }
    Ok(())
}

fn open(Identity { pid, start_time }: Identity) -> io::Result<Option<OwnedFd>> {
    let Some(number) = Pid::from_raw(pid) else { return Ok(None) };
    let handle = match pidfd_open(number, PidfdFlags::empty()) {
        Err(Errno::SRCH) => return Ok(None),
        other => other?,
    };
    // The handle is on whatever has the number now; the start time tells whether that is ours.
    Ok(process::is_running(pid, start_time).then_some(handle))
}

fn signal(handle: &OwnedFd, signal: Signal) -> io::Result<()> {
    match pidfd_send_signal(handle, signal) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Kills every process of the cgroups and returns when none is left; blocking.
pub fn kill_all(groups: &CgroupPaths) -> io::Result<()> {
    let deadline = Instant::now() + KILL_LIMIT;
    let mut frozen = Frozen(Vec::new());
    loop {
        let folders: Vec<PathBuf> = groups.all.iter().flat_map(|group| tree(group)).collect();
        let mut pids: Vec<i32> = folders.iter().flat_map(|folder| members(folder)).collect();
        pids.sort_unstable();
        pids.dedup();
        if pids.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let at_once = groups.all.iter().any(|group| fs::write(group.join("cgroup.kill"), "1").is_ok());
        if !at_once {
            frozen.freeze(&folders);
            let pids = folders.iter().flat_map(|folder| members(folder));
            for pid in pids.filter_map(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
            frozen.thaw();
        }
        pause();
    }
}

/// Lets go on what a Service Manager froze that died before it could kill or thaw it.
pub fn thaw(groups: &CgroupPaths) {
    for folder in groups.all.iter().flat_map(|group| tree(group)) {
        // Only one of the two is there.
        let _ = fs::write(folder.join("cgroup.freeze"), "0");
        let _ = fs::write(folder.join("freezer.state"), "THAWED");
    }
}

/// Removes the cgroups, which have to be empty by now; blocking.
pub fn remove(groups: &CgroupPaths) -> io::Result<()> {
    let deadline = Instant::now() + KILL_LIMIT;
    for group in &groups.all {
        loop {
            let mut last = Ok(());
            for folder in tree(group).into_iter().rev() {
                match fs::remove_dir(&folder) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => last = Err(error),
                    _ => {}
                }
            }
            match last {
                Ok(()) => break,
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => pause(),
            }
        }
    }
    Ok(())
}

/// Version 1 tells nobody that a cgroup has become empty.
#[allow(clippy::disallowed_methods, reason = "on a thread that may wait, each time for a condition")]
fn pause() {
    std::thread::sleep(PAUSE);
}

/// Frozen cgroups of version 1; thawed at the latest when this goes, whatever happened.
struct Frozen(Vec<PathBuf>);

impl Frozen {
    fn freeze(&mut self, folders: &[PathBuf]) {
        for folder in folders {
            // Version 2 without `cgroup.kill`, before Linux 5.14; what is frozen there dies frozen.
            let _ = fs::write(folder.join("cgroup.freeze"), "1");
            let state = folder.join("freezer.state");
            if fs::write(&state, "FROZEN").is_ok() {
                self.0.push(state);
            }
        }
    }

    fn thaw(&mut self) {
        for state in self.0.drain(..) {
            let _ = fs::write(state, "THAWED");
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.thaw();
    }
}

/// The cgroup and those below it, parents first.
fn tree(group: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![(group.to_owned(), 0)];
    while let Some((folder, depth)) = open.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        if depth < MAX_DEPTH {
            let folders = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            open.extend(folders.map(|entry| (entry.path(), depth + 1)));
        }
        found.push(folder);
    }
    found
}

fn members(folder: &Path) -> Vec<i32> {
    let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    // 0 stands for a process of another process namespace, which is none of ours.
    text.lines().filter_map(|line| line.parse().ok()).filter(|&pid| pid > 1).collect()
}

/// Kills one process if it is in one of these cgroups.
pub fn kill_member(pid: Option<i32>, groups: &CgroupPaths) {
    let Some(number) = pid.filter(|&pid| pid > 1) else { return };
    let is_member = || groups.all.iter().flat_map(|group| tree(group)).any(|f| members(&f).contains(&number));
    let Some(handle) = Pid::from_raw(number).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else {
        return;
    };
    if is_member() {
        let _ = signal(&handle, Signal::KILL);
    }
}

//! Instances that run into their limits, told as alerts while they go on.
//!
//! A service at its limit is refused what it asks for and mostly lives on, so that nothing else would say it. The
//! kernel remembers how many processes there were at most and counts those killed for want of memory; open files
//! of the first process and a full `/tmp` are seen while they last. Looked at with every sample, with a system
//! call or two for each limit, for every instance that runs, whatever its monitoring parameters; storage and
//! state only of those that are measured. Processes are told once, every other limit not again for a while.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use super::readers::field;
use super::sample::Sample;
use super::{STATES, STORAGES};
use crate::alerts::AlertSender;
use crate::launcher::Watched;
use crate::runtimes::CgroupPaths;

/// Time in which a limit that is met again is not told again.
const QUIET: Duration = Duration::from_mins(5);
/// Most that is read of a file, bytes.
const MOST: usize = 1024;

/// What an instance may run into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Limit {
    Processes,
    Memory,
    Files,
    Temporary,
    Storage,
    State,
}

impl Limit {
    /// What is told; `count` is the limit, how often the kernel said no, or how much is in use.
    fn words(self, count: u64) -> String {
        match self {
            Self::Processes => format!("its limit of {count} processes is reached"),
            Self::Memory => {
                format!("its limit of memory is reached: {count} of its processes were killed")
            }
            Self::Files => format!("its limit of open files is reached: it has {count}"),
            Self::Temporary => format!("its /tmp is full: {count} bytes"),
            Self::Storage => format!("its storage is nearly full: {count} bytes"),
            Self::State => format!("its state is nearly full: {count} bytes"),
        }
    }
}

/// When each limit was told last.
#[derive(Debug, Default)]
struct Told([Option<Instant>; 6]);

impl Told {
    /// True when something that is so now has to be told.
    fn tell(&mut self, now: Instant, limit: Limit, is_so: bool) -> bool {
        let Some(last) = self.0.get_mut(limit as usize) else { return false };
        let due = is_so && last.is_none_or(|told| now.saturating_duration_since(told) >= QUIET);
        if due {
            *last = Some(now);
        }
        due
    }
}

/// The limits of one process of an instance.
#[derive(Debug)]
struct Looked {
    pid: i32,
    /// Until it is told.
    processes: Option<Processes>,
    memory: Option<File>,
    killed: u64,
    files: Option<u64>,
    /// Its `/tmp` is a file system of its own.
    tmp: bool,
    told: Told,
}

impl Looked {
    fn open(pid: i32, cgroups: &CgroupPaths) -> Self {
        let memory =
            cgroups.memory.as_ref().and_then(|group| File::open(group.join(memory_file(cgroups))).ok());
        Self {
            pid,
            processes: cgroups.pids.as_deref().and_then(Processes::open),
            memory,
            killed: 0,
            files: most_files(pid),
            tmp: temporary(pid).is_some(),
            told: Told::default(),
        }
    }

    /// What is met and has to be told; `disk` are the bytes in use and allowed of storage and state, as far as
    /// they are known.
    fn look(&mut self, now: Instant, disk: [(Limit, Option<(u64, u64)>); 2]) -> Vec<String> {
        let mut words = Vec::new();
        let told = &mut self.told;
        let mut tell = |limit: Limit, count: u64, is_so: bool| {
            if told.tell(now, limit, is_so) {
                words.push(limit.words(count));
            }
        };
        if let Some(processes) = self.processes.take_if(|processes| processes.are_all()) {
            tell(Limit::Processes, processes.limit, true);
        }
        if let Some(events) = &self.memory {
            let killed = field(&first_bytes(events, &mut [0; MOST]), "oom_kill").unwrap_or_default();
            let before = std::mem::replace(&mut self.killed, killed);
            tell(Limit::Memory, killed, killed > before);
        }
        if let Some(most) = self.files {
            let open = open_files(self.pid, most);
            tell(Limit::Files, open, open >= most);
        }
        if self.tmp
            && let Some((size, free)) = temporary(self.pid)
        {
            tell(Limit::Temporary, size, free == 0);
        }
        for (limit, used) in disk {
            let Some((used, allowed)) = used else { continue };
            tell(limit, used, used.saturating_add(slack(allowed)) >= allowed);
        }
        words
    }
}

/// How near to its limit a storage or state is as good as full: what file systems need for themselves counts in
/// different ways.
fn slack(allowed: u64) -> u64 {
    (allowed / 16).max(2 << 20).min(allowed / 4)
}

/// What a file of the kernel says now.
fn first_bytes<'a>(file: &File, buffer: &'a mut [u8; MOST]) -> std::borrow::Cow<'a, str> {
    let size = file.read_at(buffer, 0).unwrap_or_default();
    String::from_utf8_lossy(buffer.get(..size).unwrap_or_default())
}

/// The number of processes of an instance against its limit. Refusals alone do not tell: the limit of the user is
/// the same number, and whichever is met first refuses.
#[derive(Debug)]
struct Processes {
    limit: u64,
    /// The most there were; before Linux 6.1 how often one was refused.
    file: File,
    is_most: bool,
}

impl Processes {
    fn open(group: &Path) -> Option<Self> {
        let limit = std::fs::read_to_string(group.join("pids.max")).ok()?.trim().parse().ok()?;
        let open = |name: &str| File::open(group.join(name)).ok();
        let (file, is_most) = match open("pids.peak") {
            Some(file) => (file, true),
            None => (open("pids.events")?, false),
        };
        Some(Self { limit, file, is_most })
    }

    /// True when there have been as many as allowed.
    fn are_all(&self) -> bool {
        let mut buffer = [0; MOST];
        let text = first_bytes(&self.file, &mut buffer);
        if self.is_most {
            text.trim().parse::<u64>().is_ok_and(|most| most >= self.limit)
        } else {
            field(&text, "max").is_some_and(|refused| refused > 0)
        }
    }
}

fn memory_file(cgroups: &CgroupPaths) -> &'static str {
    if cgroups.unified { "memory.events" } else { "memory.oom_control" }
}

/// How many files the process may have open.
fn most_files(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// How many files the process has open, at most `most` of them counted.
fn open_files(pid: i32, most: u64) -> u64 {
    let folder = format!("/proc/{pid}/fd");
    // Since Linux 6.2 the size of the folder says it; a process of ours always has some.
    let told = std::fs::metadata(&folder).map_or(0, |facts| facts.size());
    if told > 0 {
        return told;
    }
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let entries = std::fs::read_dir(&folder).map_or(0, |entries| entries.take(most).count());
    u64::try_from(entries).unwrap_or(u64::MAX)
}

/// Size and free space of the temporary file system of a process's own on `/tmp`, bytes.
fn temporary(pid: i32) -> Option<(u64, u64)> {
    let facts = rustix::fs::statfs(format!("/proc/{pid}/root/tmp")).ok()?;
    let size = u64::try_from(facts.f_bsize).ok()?;
    let own = facts.f_type == TMPFS && facts.f_blocks > 0;
    own.then(|| (facts.f_blocks.saturating_mul(size), facts.f_bavail.saturating_mul(size)))
}

/// How the kernel numbers file systems in memory.
const TMPFS: rustix::fs::FsWord = 0x0102_1994;

/// True when an instance has had as many processes as it may have. To be asked before the cgroups are removed.
pub fn reached_processes(cgroups: &CgroupPaths) -> bool {
    cgroups.pids.as_deref().and_then(Processes::open).is_some_and(|processes| processes.are_all())
}

/// The limits of all instances.
#[derive(Debug, Default)]
pub struct Limits(BTreeMap<String, Looked>);

impl Limits {
    /// Looks at every instance that runs and tells what it has run into.
    /// What storage and state of those measured take is in `samples`.
    pub fn look(
        &mut self,
        now: Instant,
        watched: &[Watched],
        samples: &BTreeMap<String, Sample>,
        alerts: &AlertSender,
    ) {
        self.0.retain(|id, looked| watched.iter().any(|one| one.id == *id && one.pid == Some(looked.pid)));
        for one in watched {
            let Some(pid) = one.pid else { continue };
            let looked = self.0.entry(one.id.clone()).or_insert_with(|| Looked::open(pid, &one.cgroups));
            let used = |name: &str| samples.get(&one.id)?.partitions.get(name).copied();
            let disk = [
                (Limit::Storage, used(STORAGES).zip(one.storage_limit)),
                (Limit::State, used(STATES).zip(one.state_limit)),
            ];
            for words in looked.look(now, disk) {
                alerts.instance(&one.ident, &one.version, &words);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_so_is_told_and_then_not_for_a_while() {
        let mut told = Told::default();
        let now = Instant::now();
        assert!(!told.tell(now, Limit::State, false));
        assert!(told.tell(now, Limit::State, true));
        assert!(told.tell(now, Limit::Files, true), "each limit for itself");
        assert!(!told.tell(now + QUIET / 2, Limit::State, true));
        assert!(!told.tell(now + QUIET, Limit::State, false));
        assert!(told.tell(now + QUIET, Limit::State, true));
    }

    #[test]
    fn processes_killed_for_memory_are_told_when_they_become_more() {
        let folder = tempfile::tempdir().unwrap();
        let events = |killed: u32| {
            std::fs::write(folder.path().join("memory.events"), format!("max 5\noom_kill {killed}\n"))
                .unwrap();
        };
        events(0);
        let memory = Some(folder.path().to_owned());
        let mut looked = Looked::open(1, &CgroupPaths { unified: true, memory, ..CgroupPaths::default() });
        let now = Instant::now();
        let mut told = |now| looked.look(now, NONE).iter().any(|words| words.contains("were killed"));
        assert!(!told(now));
        events(3);
        assert!(told(now) && !told(now + QUIET), "no more since");
        events(4);
        assert!(told(now + QUIET));
    }

    // This process: the limit and the files it has are known to it.
    #[test]
    fn open_files_are_counted_against_their_limit() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let most = most_files(pid).unwrap();
        assert_eq!(Some(most), rustix::process::getrlimit(rustix::process::Resource::Nofile).current);
        let before = open_files(pid, most);
        let kept: Vec<File> = (0..20).map(|_| File::open("/dev/null").unwrap()).collect();
        // Other tests of this process open and close files meanwhile.
        assert!(open_files(pid, most) >= 20 && before < most);
        drop(kept);
        let counted = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().take(3).count();
        assert_eq!(counted, 3);
    }

    const NONE: [(Limit, Option<(u64, u64)>); 2] = [(Limit::Storage, None), (Limit::State, None)];

    #[test]
    fn a_storage_is_told_when_it_is_nearly_full() {
        let (_folder, paths) = group(&[]);
        let mut looked = Looked::open(1, &paths);
        let now = Instant::now();
        let mut told = |used: u64, allowed: u64| {
            let disk = [(Limit::Storage, Some((used, allowed))), (Limit::State, None)];
            looked.look(now, disk).iter().any(|words| words.contains("storage is nearly full"))
        };
        assert!(!told(900 << 20, 1 << 30));
        assert!(!told(5 << 20, 8 << 20));
        assert!(told(7 << 20, 8 << 20));
        assert!(!told(8 << 20, 8 << 20), "it has been told");
    }

    fn group(files: &[(&str, &str)]) -> (tempfile::TempDir, CgroupPaths) {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let paths = CgroupPaths { pids: Some(folder.path().to_owned()), ..CgroupPaths::default() };
        (folder, paths)
    }

    #[test]
    fn a_limit_of_processes_is_reached_by_their_number_or_by_refusals() {
        let now = Instant::now();
        let cases = [
            ("pids.events", "max 0\n", "max 17\n", true),
            ("pids.peak", "3\n", "64\n", true),
            ("pids.peak", "3\n", "63\n", false),
        ];
        for (file, before, after, reached) in cases {
            let (folder, paths) = group(&[("pids.max", "64\n"), (file, before)]);
            let mut looked = Looked::open(1, &paths);
            let mut told =
                || looked.look(now, NONE).iter().any(|words| words.contains("64 processes is reached"));
            assert!(!told() && !reached_processes(&paths));
            std::fs::write(folder.path().join(file), after).unwrap();
            assert_eq!((told(), reached_processes(&paths)), (reached, reached), "{file} {after}");
            assert!(!told(), "once");
        }
        let (_folder, paths) = group(&[("pids.max", "max\n"), ("pids.peak", "9\n")]);
        assert!(!reached_processes(&paths) && !reached_processes(&CgroupPaths::default()));
    }
}

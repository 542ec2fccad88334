//! Instances that run into their limits, told as alerts while they go on.
//!
//! A service at its limit is refused what it asks for and mostly lives on, so that nothing else would say it.
//! The kernel counts processes killed for want of memory and, unless the limit of the user is met first, those
//! refused; most processes there were at a time, open files and a full `/tmp` are compared with their limits.
//! Looked at with every sample, for every instance that runs, whatever its monitoring
//! parameters. Each limit of an instance is told when it is met and not again for a while.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
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

/// One limit of one instance.
#[derive(Debug, Default)]
struct Met {
    count: u64,
    told: Option<Instant>,
}

impl Met {
    /// True when a count that grows has to be told now.
    fn grew(&mut self, now: Instant, count: u64) -> bool {
        let more = count > std::mem::replace(&mut self.count, count);
        self.tell(now, more)
    }

    /// True when something that is so now has to be told.
    fn tell(&mut self, now: Instant, is_so: bool) -> bool {
        let quiet = self.told.is_some_and(|told| now.saturating_duration_since(told) < QUIET);
        if is_so && !quiet {
            self.told = Some(now);
        }
        is_so && !quiet
    }
}

/// The limits of one process of an instance.
#[derive(Debug)]
struct Looked {
    pid: i32,
    processes: Option<PathBuf>,
    memory: Option<File>,
    files: Option<u64>,
    tmp: PathBuf,
    met: BTreeMap<Limit, Met>,
}

impl Looked {
    fn open(pid: i32, cgroups: &CgroupPaths) -> Self {
        let open = |folder: &Option<PathBuf>, file: &str| File::open(folder.as_ref()?.join(file)).ok();
        Self {
            pid,
            processes: cgroups.pids.clone(),
            memory: open(&cgroups.memory, memory_file(cgroups)),
            files: most_files(pid),
            tmp: PathBuf::from(format!("/proc/{pid}/root/tmp")),
            met: BTreeMap::new(),
        }
    }

    /// What is met and has to be told; `disk` are the bytes in use and allowed of storage and state, as far as
    /// they are known.
    fn look(&mut self, now: Instant, disk: [(Limit, Option<(u64, u64)>); 2]) -> Vec<String> {
        let mut told = Vec::new();
        let mut tell = |limit: Limit, count: u64, due: bool| {
            if due {
                told.push(limit.words(count));
            }
        };
        if let Some(found) = self.processes.as_deref().and_then(Processes::read)
            && let Some(limit) = found.limit
        {
            let met = self.met.entry(Limit::Processes).or_default();
            let is_so = found.present >= limit || (met.told.is_none() && found.was_reached());
            tell(Limit::Processes, limit, met.tell(now, is_so));
        }
        if let Some(events) = &self.memory {
            let count = killed(events);
            tell(Limit::Memory, count, self.met.entry(Limit::Memory).or_default().grew(now, count));
        }
        if let Some(most) = self.files {
            let open = open_files(self.pid, most);
            tell(Limit::Files, open, self.met.entry(Limit::Files).or_default().tell(now, open >= most));
        }
        if let Some(size) = full(&self.tmp) {
            let met = self.met.entry(Limit::Temporary).or_default();
            tell(Limit::Temporary, size, met.tell(now, true));
        }
        for (limit, used) in disk {
            let Some((used, allowed)) = used else { continue };
            let met = self.met.entry(limit).or_default();
            tell(limit, used, met.tell(now, used.saturating_add(slack(allowed)) >= allowed));
        }
        told
    }
}

/// How near to its limit a storage or state is as good as full: what file systems need for themselves counts in
/// different ways.
fn slack(allowed: u64) -> u64 {
    (allowed / 16).max(2 << 20).min(allowed / 4)
}

/// Processes the kernel has killed for want of memory.
fn killed(events: &File) -> u64 {
    let mut buffer = [0; MOST];
    let size = events.read_at(&mut buffer, 0).unwrap_or_default();
    let text = buffer.get(..size).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default();
    field(text, "oom_kill").unwrap_or_default()
}

/// The processes of an instance.
#[derive(Debug)]
struct Processes {
    /// How many it may have; `None` for any number.
    limit: Option<u64>,
    /// How many it has.
    present: u64,
    /// The most it has had, where the kernel remembers that.
    most: u64,
    /// How often it was refused one.
    refused: u64,
}

impl Processes {
    fn read(group: &Path) -> Option<Self> {
        let number = |file: &str| std::fs::read_to_string(group.join(file)).ok()?.trim().parse().ok();
        let events = std::fs::read_to_string(group.join("pids.events")).unwrap_or_default();
        Some(Self {
            limit: number("pids.max"),
            present: number("pids.current")?,
            most: number("pids.peak").unwrap_or_default(),
            refused: field(&events, "max").unwrap_or_default(),
        })
    }

    /// The user's limit is the same number and may be what was met, so that the refusals alone do not tell.
    fn was_reached(&self) -> bool {
        self.refused > 0 || self.limit.is_some_and(|limit| self.most >= limit)
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

/// Size of a temporary file system of the instance's own in which nothing is free, bytes.
fn full(tmp: &Path) -> Option<u64> {
    let facts = rustix::fs::statfs(tmp).ok()?;
    let own = facts.f_type == TMPFS && facts.f_blocks > 0 && facts.f_bavail == 0;
    own.then(|| facts.f_blocks.saturating_mul(u64::try_from(facts.f_bsize).unwrap_or_default()))
}

/// How the kernel numbers file systems in memory.
const TMPFS: rustix::fs::FsWord = 0x0102_1994;

/// True when an instance has had as many processes as it may have. To be asked before the cgroups are removed.
pub fn reached_processes(cgroups: &CgroupPaths) -> bool {
    cgroups.pids.as_deref().and_then(Processes::read).is_some_and(|found| found.was_reached())
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
    fn what_grows_is_told_and_then_not_for_a_while() {
        let mut met = Met::default();
        let now = Instant::now();
        assert!(!met.grew(now, 0));
        assert!(met.grew(now, 3));
        assert!(!met.grew(now + Duration::from_secs(1), 9));
        assert!(!met.grew(now + QUIET, 9), "it has not grown since");
        assert!(met.grew(now + QUIET, 10));
        let mut met = Met::default();
        assert!(met.tell(now, true));
        assert!(!met.tell(now + Duration::from_secs(1), true));
        assert!(met.tell(now + QUIET, true));
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
    fn a_limit_of_processes_is_reached_by_refusals_or_by_their_number() {
        let quiet = [("pids.max", "64\n"), ("pids.current", "3\n"), ("pids.events", "max 0\n")];
        let now = Instant::now();
        for (file, text, reached) in
            [("pids.events", "max 17\n", true), ("pids.peak", "64\n", true), ("pids.peak", "63\n", false)]
        {
            let (folder, paths) = group(&quiet);
            let mut looked = Looked::open(1, &paths);
            assert!(!looked.look(now, NONE).iter().any(|words| words.contains("processes is")));
            assert!(!reached_processes(&paths));
            std::fs::write(folder.path().join(file), text).unwrap();
            assert_eq!(reached_processes(&paths), reached, "{file} {text}");
            let told = |looked: &mut Looked, now| {
                looked.look(now, NONE).iter().any(|words| words.contains("64 processes is reached"))
            };
            assert_eq!(told(&mut looked, now), reached);
            assert!(!told(&mut looked, now));
            assert!(!told(&mut looked, now + QUIET), "it was once, and is not now");
            std::fs::write(folder.path().join("pids.current"), "64\n").unwrap();
            assert!(told(&mut looked, now + QUIET));
        }
        let (_folder, paths) = group(&[("pids.max", "max\n"), ("pids.current", "3\n"), ("pids.peak", "9\n")]);
        assert!(!reached_processes(&paths) && !reached_processes(&CgroupPaths::default()));
    }
}

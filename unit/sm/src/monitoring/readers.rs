//! Reads load figures where the kernel shows them: `/proc` for the node, cgroup files for instances.
//!
//! Files are opened once and read again from their start, so a sample costs one system call for each.
//! cgroup v1 and v2 are read.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::Error;
use crate::runtimes::CgroupPaths;

/// Most that is read of a file, bytes; what is looked for stands at its start.
const MOST: usize = 4096;

/// A file that is read again and again.
#[derive(Debug)]
struct Figures {
    path: PathBuf,
    file: File,
}

impl Figures {
    fn open(path: PathBuf) -> Result<Self, Error> {
        let file = File::open(&path).map_err(Error::file("open", &path))?;
        Ok(Self { path, file })
    }

    /// What it says now.
    fn read<'a>(&self, buffer: &'a mut [u8; MOST]) -> Result<&'a str, Error> {
        let size = self.file.read_at(buffer, 0).map_err(Error::file("read", &self.path))?;
        let text = buffer.get(..size).unwrap_or_default();
        // Numbers and names of the kernel are ASCII; a cut does not matter before the end.
        Ok(std::str::from_utf8(text).unwrap_or_default())
    }

    fn wrong(&self) -> Error {
        Error::invalid(self.path.display().to_string(), "it does not have the expected form")
    }
}

/// CPU time since the node's start, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Ticks {
    idle: u64,
    total: u64,
}

/// Reads the node's CPU and memory.
#[derive(Debug)]
pub struct NodeReader {
    stat: Figures,
    memory: Figures,
    dmips: u64,
    before: Ticks,
}

impl NodeReader {
    /// For a node of this computing power. The first reading covers the time since its start.
    pub fn open(dmips: u64) -> Result<Self, Error> {
        let stat = Figures::open(PathBuf::from("/proc/stat"))?;
        let memory = Figures::open(PathBuf::from("/proc/meminfo"))?;
        Ok(Self { stat, memory, dmips, before: Ticks::default() })
    }

    /// DMIPS in use since the reading before, and bytes of memory in use now.
    pub fn read(&mut self) -> Result<(f64, u64), Error> {
        let mut buffer = [0; MOST];
        let now = ticks(self.stat.read(&mut buffer)?).ok_or_else(|| self.stat.wrong())?;
        let total = now.total.saturating_sub(self.before.total);
        let idle = now.idle.saturating_sub(self.before.idle).min(total);
        self.before = now;
        let busy = if total == 0 { 0.0 } else { ratio(total - idle, total) };
        let used = used_memory(self.memory.read(&mut buffer)?).ok_or_else(|| self.memory.wrong())?;
        Ok((busy * ratio(self.dmips, 1), used))
    }
}

/// Number of hardware threads of this machine.
pub fn threads() -> u32 {
    let Ok(text) = std::fs::read_to_string("/proc/stat") else { return 1 };
    let each = text.lines().filter(|line| {
        line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
    });
    u32::try_from(each.count()).unwrap_or(1).max(1)
}

/// Bytes of a partition, by a folder in it: in use and altogether.
pub fn space(folder: &Path) -> Result<(u64, u64), Error> {
    let facts = rustix::fs::statvfs(folder).map_err(|error| Error::file("look at", folder)(error.into()))?;
    let bytes = |blocks: u64| blocks.saturating_mul(facts.f_frsize);
    Ok((bytes(facts.f_blocks.saturating_sub(facts.f_bfree)), bytes(facts.f_blocks)))
}

/// Reads CPU and memory of one instance's cgroups.
#[derive(Debug)]
pub struct InstanceReader {
    cpu: Figures,
    memory: Figures,
    unified: bool,
    /// CPU time in microseconds at the reading before, and when that was.
    before: Option<(u64, Instant)>,
}

impl InstanceReader {
    /// Opens the files; they are gone with the instance, and another start has others.
    pub fn open(cgroups: &CgroupPaths) -> Result<Self, Error> {
        let (cpu, memory) = if cgroups.unified {
            ("cpu.stat", "memory.current")
        } else {
            ("cpuacct.usage", "memory.usage_in_bytes")
        };
        let open = |folder: &Option<PathBuf>, file: &str, what: &str| match folder {
            Some(folder) => Figures::open(folder.join(file)),
            None => Err(Error::NotFound(format!("the cgroup controller for {what}"))),
        };
        Ok(Self {
            cpu: open(&cgroups.cpuacct, cpu, "CPU time")?,
            memory: open(&cgroups.memory, memory, "memory")?,
            unified: cgroups.unified,
            before: None,
        })
    }

    /// CPU seconds used for each second since the reading before (`None` at the first: what was used before
    /// this program looked says nothing about now), and bytes of memory in use.
    pub fn read(&mut self, now: Instant) -> Result<(Option<f64>, u64), Error> {
        let mut buffer = [0; MOST];
        let text = self.cpu.read(&mut buffer)?;
        let micros = if self.unified { field(text, "usage_usec") } else { number(text).map(|n| n / 1000) };
        let micros = micros.ok_or_else(|| self.cpu.wrong())?;
        let used = number(self.memory.read(&mut buffer)?).ok_or_else(|| self.memory.wrong())?;
        let before = self.before.replace((micros, now));
        let load = before.and_then(|(then, since)| {
            let passed = now.saturating_duration_since(since).as_micros();
            let passed = u64::try_from(passed).unwrap_or(u64::MAX);
            (passed > 0).then(|| ratio(micros.saturating_sub(then), passed))
        });
        Ok((load, used))
    }
}

/// How many processes the kernel has killed in these cgroups because the memory limit was reached; `None`
/// when it does not say. To be asked before the cgroups are removed.
pub fn oom_kills(cgroups: &CgroupPaths) -> Option<u64> {
    let file = if cgroups.unified { "memory.events" } else { "memory.oom_control" };
    let text = std::fs::read_to_string(cgroups.memory.as_ref()?.join(file)).ok()?;
    field(&text, "oom_kill")
}

#[allow(clippy::cast_precision_loss, reason = "a share; the last digits of a u64 do not matter")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

fn number(text: &str) -> Option<u64> {
    text.trim_end().parse().ok()
}

/// `name value` on a line of its own.
pub fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    number(line)
}

fn ticks(stat: &str) -> Option<Ticks> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let mut ticks = Ticks::default();
    for (index, word) in line.split_ascii_whitespace().enumerate() {
        let count: u64 = word.parse().ok()?;
        ticks.total = ticks.total.saturating_add(count);
        if index == 3 {
            ticks.idle = count;
        }
    }
    Some(ticks)
}

fn used_memory(meminfo: &str) -> Option<u64> {
    let (mut total, mut free) = (None, 0u64);
    for line in meminfo.lines() {
        let Some((name, rest)) = line.split_once(':') else { continue };
        let value = || rest.split_ascii_whitespace().next()?.parse::<u64>().ok();
        match name {
            "MemTotal" => total = value(),
            "MemFree" | "Buffers" | "Cached" | "SReclaimable" => free = free.saturating_add(value()?),
            _ => {}
        }
    }
    Some(total?.saturating_sub(free).saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn figures_are_read_as_the_kernel_writes_them() {
        let ticks = ticks("cpu  10 0 10 70 10 0 0 0 0 0\ncpu0 1\n").unwrap();
        assert_eq!((ticks.idle, ticks.total), (70, 100));
        let text = "MemTotal: 1000 kB\nMemFree: 200 kB\nBuffers: 50 kB\nCached: 100 kB\nSwapCached: 5 kB\nSReclaimable: 50 kB\n";
        assert_eq!(used_memory(text), Some(600 * 1024));
        assert_eq!(field("usage_usec 17\nuser_usec 5\n", "usage_usec"), Some(17));
        assert_eq!(field("usage_usecs 17\n", "usage_usec"), None);
        for wrong in ["", "cpu", "cpu 1 x 2 3\n"] {
            assert_eq!(super::ticks(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn kills_for_memory_are_counted() {
        let v1 = [("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), ("x", "")];
        let (_place, paths) = folder(v1, false);
        assert_eq!(oom_kills(&paths), Some(3));
        let (_place, paths) = folder([("memory.events", "low 0\noom 2\noom_kill 1\n"), ("x", "")], true);
        assert_eq!(oom_kills(&paths), Some(1));
        assert_eq!(oom_kills(&CgroupPaths::default()), None);
    }

    // SM-07
    #[test]
    fn the_node_is_read() {
        let mut reader = NodeReader::open(10_000).unwrap();
        let (cpu, ram) = reader.read().unwrap();
        assert!((0.0..=10_000.0).contains(&cpu), "{cpu}");
        assert!(ram > 1024 * 1024, "{ram}");
        let (cpu, _) = reader.read().unwrap();
        assert!((0.0..=10_000.0).contains(&cpu), "{cpu} right after the reading before");
        assert!(threads() >= 1);
        let (used, all) = space(Path::new("/")).unwrap();
        assert!(0 < used && used <= all);
        assert!(space(Path::new("/no/such/folder")).is_err());
    }

    fn folder(files: [(&str, &str); 2], unified: bool) -> (tempfile::TempDir, CgroupPaths) {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let path = Some(folder.path().to_owned());
        (folder, CgroupPaths { unified, memory: path.clone(), cpuacct: path, ..CgroupPaths::default() })
    }

    // SM-07: both forms of cgroups; what was used before the first look is not counted.
    #[test]
    fn an_instance_is_read_in_both_forms_of_cgroups() {
        let start = Instant::now();
        let v2 = [("cpu.stat", "usage_usec 90000000\nuser_usec 1\n"), ("memory.current", "4096\n")];
        let v1 = [("cpuacct.usage", "90000000000\n"), ("memory.usage_in_bytes", "4096\n")];
        for (files, unified, later) in
            [(v2, true, "usage_usec 90500000\nuser_usec 1\n"), (v1, false, "90500000000\n")]
        {
            let (place, paths) = folder(files, unified);
            let mut reader = InstanceReader::open(&paths).unwrap();
            assert_eq!(reader.read(start).unwrap(), (None, 4096), "the first reading tells no load");
            std::fs::write(place.path().join(files[0].0), later).unwrap();
            let (load, _) = reader.read(start + Duration::from_secs(2)).unwrap();
            assert!((load.unwrap() - 0.25).abs() < 1e-9, "{load:?}");
            std::fs::write(place.path().join(files[1].0), "much\n").unwrap();
            assert!(reader.read(start + Duration::from_secs(3)).is_err());
        }
        assert!(InstanceReader::open(&CgroupPaths::default()).is_err());
    }
}

//! The list of what a site has on this host, written before each thing comes to life.
//!
//! It is a text file in the site's folder, so that whoever comes later can clear up after a test bed whose
//! processes were all killed: lines `owner PID START`, `pid PID START` and `cgroup DIR`. START is the
//! kernel's start time of the process, which tells it from a later process with the same number.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cgroups;
use crate::error::{Result, Tried};

/// File name inside the site's folder.
pub const FILE: &str = "registry";

/// A process, told apart from others that get the same number later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessId {
    /// Process number.
    pub pid: i32,
    /// Start time, clock ticks after boot.
    pub start: u64,
}

impl ProcessId {
    /// The process `pid` as it is now; none when there is no such process.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything; fields are counted after it. Start time is field 22.
        let after = stat.rsplit_once(')')?.1;
        let start = after.split_whitespace().nth(19)?.parse().ok()?;
        Some(Self { pid, start })
    }

    /// Whether it still exists, be it as a zombie.
    pub fn exists(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    fn kill(self) {
        if self.exists() {
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        }
    }
}

/// What was read from a registry file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// The process that runs the site.
    pub owner: Option<ProcessId>,
    /// Processes outside boxes.
    pub processes: Vec<ProcessId>,
    /// Folders of the boxes' cgroups.
    pub cgroups: Vec<PathBuf>,
}

/// Opens the registry of the site in `dir` for appending.
pub fn open(dir: &Path) -> Result<File> {
    let path = dir.join(FILE);
    OpenOptions::new()
        .create(true)
        .append(true)
        .read(true)
        .open(&path)
        .tried(|| format!("cannot open {}", path.display()))
}

/// Adds one line.
pub fn add(file: &mut File, line: &str) -> Result<()> {
    file.write_all(format!("{line}\n").as_bytes()).tried(|| "cannot write the site's registry".to_owned())
}

/// Reads what the site in `dir` has; an unreadable file has nothing.
pub fn read(dir: &Path) -> Contents {
    parse(&fs::read_to_string(dir.join(FILE)).unwrap_or_default())
}

fn parse(text: &str) -> Contents {
    let mut contents = Contents::default();
    for line in text.lines() {
        let Some((word, rest)) = line.split_once(' ') else { continue };
        let process = || {
            let (pid, start) = rest.split_once(' ')?;
            Some(ProcessId { pid: pid.parse().ok()?, start: start.parse().ok()? })
        };
        match word {
            "owner" => contents.owner = process(),
            "pid" => contents.processes.extend(process()),
            "cgroup" => contents.cgroups.push(PathBuf::from(rest)),
            _ => {}
        }
    }
    contents
}

/// Ends everything that the site in `dir` has on this host and removes the folder.
pub fn clear(dir: &Path) -> Result<()> {
    let contents = read(dir);
    for process in &contents.processes {
        process.kill();
    }
    cgroups::destroy(&contents.cgroups, Duration::from_secs(10))?;
    contents.cgroups.iter().for_each(|dir| forget_scope(dir));
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).tried(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// systemd notices by and by that a scope of its has ended; told so, it forgets it before we go on.
fn forget_scope(dir: &Path) {
    if dir.extension().is_some_and(|kind| kind == "scope")
        && let Some(name) = dir.file_name()
    {
        let _ = Command::new("systemctl").args(["stop", "--quiet"]).arg(name).stderr(Stdio::null()).status();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_its_own_lines_and_ignores_others() {
        let contents = parse("owner 7 99\npid 8 100\ncgroup /sys/fs/cgroup/a b\nrubbish\npid x 1\n");
        assert_eq!(contents.owner, Some(ProcessId { pid: 7, start: 99 }));
        assert_eq!(contents.processes, [ProcessId { pid: 8, start: 100 }]);
        assert_eq!(contents.cgroups, [PathBuf::from("/sys/fs/cgroup/a b")]);
    }

    #[test]
    fn tells_processes_with_one_number_apart() {
        let me = ProcessId::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(me.exists());
        assert!(!ProcessId { start: me.start + 1, ..me }.exists());
    }
}

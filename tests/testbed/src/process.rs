//! Processes under test: start, kill, memory, log file.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::{Error, Result, Tried};
use crate::wait::wait_for;

/// A running program with its log file.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; what it prints is appended to `log`.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .tried(|| format!("cannot open {}", log.display()))?;
        let errors: File = file.try_clone().tried(|| format!("cannot open {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            .spawn()
            .tried(|| format!("cannot start {name}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_path_buf() })
    }

    /// The child process.
    pub fn child(&self) -> &Child {
        &self.child
    }

    /// Process number.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// The log file.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Whether the program has not ended yet.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait().tried(|| format!("cannot look at {}", self.name))?.is_none())
    }

    /// Fails with the end of its log when the program has ended.
    pub fn check_running(&mut self) -> Result<()> {
        match self.child.try_wait().tried(|| format!("cannot look at {}", self.name))? {
            None => Ok(()),
            Some(status) => Err(Error::Program {
                program: self.name.clone(),
                status: status.to_string(),
                output: tail(&self.log, 20),
            }),
        }
    }

    /// Kills it without warning, as `kill -9` does, and reaps it.
    pub fn kill_9(&mut self) -> Result<()> {
        self.child.kill().tried(|| format!("cannot kill {}", self.name))?;
        self.child.wait().tried(|| format!("cannot wait for {}", self.name))?;
        Ok(())
    }

    /// Asks it to end by SIGTERM and waits.
    pub fn stop(&mut self, limit: Duration) -> Result<ExitStatus> {
        if let Ok(Some(status)) = self.child.try_wait() {
            return Ok(status);
        }
        kill(Pid::from_raw(self.pid()), Signal::SIGTERM).tried(|| format!("cannot stop {}", self.name))?;
        let child = &mut self.child;
        wait_for(&format!("{} to end after SIGTERM", self.name), limit, || child.try_wait().ok().flatten())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Memory of one process in bytes, from the kernel's own sum over its mappings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Proportional set size: shared pages count by share.
    pub pss: u64,
    /// Pages that only this process has and that were written.
    pub private_dirty: u64,
}

/// Memory of the process `pid`; none when it is gone.
pub fn memory(pid: i32) -> Option<Memory> {
    parse_memory(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?)
}

fn parse_memory(text: &str) -> Option<Memory> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
    };
    Some(Memory { pss: field("Pss")?, private_dirty: field("Private_Dirty")? })
}

/// Processor time of a process so far, of all its threads.
pub fn processor_time(pid: i32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).tried(|| format!("cannot read {path}"))?;
    // The name in brackets may hold anything; the state follows it as field 3.
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3).and_then(|text| text.parse::<u64>().ok());
    let (Some(user), Some(system)) = (ticks(14), ticks(15)) else {
        return Err(Error::Unexpected(format!("{path} says '{text}'")));
    };
    // The unit of these fields is 1/100 s on every Linux.
    Ok(Duration::from_millis((user + system) * 10))
}

/// The arguments of process `pid`.
pub fn arguments(pid: i32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect()
}

/// The last `lines` lines of a log.
pub fn tail(log: &Path, lines: usize) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_rollup() {
        let text = "55-7f ---p 00000000 00:00 0 [rollup]\nRss: 900 kB\nPss:    512 kB\nPss_Dirty: 3 kB\nPrivate_Dirty:  64 kB\n";
        assert_eq!(parse_memory(text), Some(Memory { pss: 512 * 1024, private_dirty: 64 * 1024 }));
        assert_eq!(parse_memory(""), None);
    }
}

//! The runtime commands that run, and the children that end meanwhile.
//!
//! A command leads a process group of its own and is killed with it when it takes too long. What had moved to
//! a session of its own by then is left to the one who ordered it.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::protocol::{MAX_WATCHED, Start};
use crate::setup::spawn;

/// A child that has ended.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// Its process ID.
    pub pid: i32,
    /// Its exit status.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
}

/// A command that runs.
pub struct Pending {
    /// Number of the request that the answer carries.
    pub seq: u64,
    /// Who asked.
    pub client: u64,
    /// What was asked for.
    pub start: Start,
    deadline: Instant,
}

/// All commands that run.
pub struct Commands {
    limit: Duration,
    running: BTreeMap<i32, Pending>,
    /// Children that ended while a command was running: one of them may be the process it leaves behind,
    /// which can be orphaned and end before the command itself does.
    early: BTreeMap<i32, Ended>,
}

impl Commands {
    /// None yet; each will be killed after `limit`.
    pub fn new(limit: Duration) -> Self {
        Self { limit, running: BTreeMap::new(), early: BTreeMap::new() }
    }

    /// True when no command runs.
    pub fn is_empty(&self) -> bool {
        self.running.is_empty()
    }

    /// True while a command for `id` runs.
    pub fn is_starting(&self, id: &str) -> bool {
        self.running.values().any(|pending| pending.start.id == id)
    }

    /// True when `pid` is a command.
    pub fn contains(&self, pid: i32) -> bool {
        self.running.contains_key(&pid)
    }

    /// Runs a command.
    pub fn run(&mut self, client: u64, seq: u64, start: Start, now: Instant) -> io::Result<()> {
        let pid = spawn(&start)?;
        self.running.insert(pid, Pending { seq, client, start, deadline: now + self.limit });
        Ok(())
    }

    /// Takes a command that has ended.
    pub fn take(&mut self, pid: i32) -> Option<Pending> {
        self.running.remove(&pid)
    }

    /// Remembers a child that nobody knows yet for as long as commands run.
    pub fn remember(&mut self, ended: Ended) {
        if !self.is_empty() && self.early.len() < MAX_WATCHED {
            self.early.insert(ended.pid, ended);
        }
    }

    /// How `pid`, which a command has just named, ended before.
    pub fn take_early(&mut self, pid: i32) -> Option<Ended> {
        self.early.remove(&pid)
    }

    /// Forgets ended children that no command can name any more.
    pub fn tidy(&mut self) {
        if self.is_empty() {
            self.early = BTreeMap::new();
        }
    }

    /// When a command has to be killed.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.running.values().map(|pending| pending.deadline).min()
    }

    /// Kills the commands that take too long.
    pub fn stop_overdue(&mut self, now: Instant) {
        for (pid, pending) in &mut self.running {
            if pending.deadline <= now {
                crate::note(&format!("the runtime command of {} takes too long, killed", pending.start.id));
                // It leads a group of its own, with whatever it has started and not yet let go.
                let _ = killpg(Pid::from_raw(*pid), Signal::SIGKILL);
                pending.deadline = now + self.limit;
            }
        }
    }
}

/// Collects every ended child.
pub fn collect_ended() -> Vec<Ended> {
    let mut ended = Vec::new();
    loop {
        match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => {
                ended.push(Ended { pid: pid.as_raw(), code: Some(code), signal: None });
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) => {
                ended.push(Ended { pid: pid.as_raw(), code: None, signal: Some(signal as i32) });
            }
            Ok(WaitStatus::StillAlive) => break,
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(_) => break,
        }
    }
    ended
}

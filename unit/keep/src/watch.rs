//! Which process ended how: turns reaped children, closed pidfds and ended runtime commands into exits.
//!
//! Pure bookkeeping on top of the durable records; the loop in `server` brings the events.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::Error;
use crate::process;
use crate::protocol::{Exit, Log, MAX_WATCHED, Watched};
use crate::records::Records;

/// A process under watch.
pub struct Entry {
    /// What is stored about it.
    pub watched: Watched,
    /// Set for a process that is not our child: becomes readable when it ends.
    pub pidfd: Option<OwnedFd>,
}

/// All watched processes and all stored exits.
pub struct Table {
    records: Records,
    entries: BTreeMap<String, Entry>,
    exits: BTreeMap<String, Exit>,
}

impl Table {
    /// Reads the exits of an earlier keeper; its watch records are returned, to be taken up again.
    pub fn load(records: Records) -> (Self, Vec<Watched>) {
        let exits = records.load_exits();
        let earlier = records.load_watched().into_values().collect();
        (Self { records, entries: BTreeMap::new(), exits }, earlier)
    }

    /// True when no further process can be taken.
    pub fn is_full(&self) -> bool {
        self.entries.len() + self.exits.len() >= MAX_WATCHED
    }

    /// Process watched under `id`.
    pub fn get(&self, id: &str) -> Option<&Entry> {
        self.entries.get(id)
    }

    /// Everything watched.
    pub fn watched(&self) -> Vec<Watched> {
        self.entries.values().map(|entry| entry.watched.clone()).collect()
    }

    /// Every exit not acknowledged.
    pub fn exits(&self) -> Vec<Exit> {
        self.exits.values().cloned().collect()
    }

    /// Starts to watch; a stored exit of the same name is superseded.
    pub fn insert(&mut self, watched: Watched, pidfd: Option<OwnedFd>) -> Result<(), Error> {
        self.records.save_watched(&watched)?;
        if self.exits.remove(&watched.id).is_some() {
            self.records.remove_exit(&watched.id)?;
        }
        self.entries.insert(watched.id.clone(), Entry { watched, pidfd });
        Ok(())
    }

    /// The name under which `pid` is watched.
    pub fn id_of(&self, pid: i32) -> Option<String> {
        self.entries.values().find(|e| e.watched.pid == pid).map(|e| e.watched.id.clone())
    }

    /// Records that the process of `id` ended; `None` when it was not watched.
    pub fn ended(&mut self, id: &str, code: Option<i32>, signal: Option<i32>) -> Option<Exit> {
        let entry = self.entries.remove(id)?;
        let exit = Exit { id: id.to_owned(), pid: entry.watched.pid, code, signal, at_ms: now_ms() };
        Some(self.keep(exit))
    }

    /// Records that a process somebody asked about is gone. Keeps what is stored about the same process.
    pub fn gone(&mut self, id: &str, pid: i32) -> Option<Exit> {
        if self.exits.get(id).is_some_and(|exit| exit.pid == pid) {
            return None;
        }
        Some(self.keep(Exit { id: id.to_owned(), pid, code: None, signal: None, at_ms: now_ms() }))
    }

    /// Forgets an exit.
    pub fn ack(&mut self, id: &str, pid: i32) -> Result<(), Error> {
        if self.exits.get(id).is_some_and(|exit| exit.pid == pid) {
            self.exits.remove(id);
            self.records.remove_exit(id)?;
        }
        Ok(())
    }

    /// A full disk must not hide an exit from the clients that are connected.
    fn keep(&mut self, exit: Exit) -> Exit {
        if let Err(error) = self.records.save_exit(&exit) {
            crate::note(&format!("exit of {} is not stored: {error}", exit.id));
        }
        self.exits.insert(exit.id.clone(), exit.clone());
        exit
    }
}

/// A watch record for a process that runs now.
pub fn describe(id: &str, pid: i32, log: Option<Log>) -> Watched {
    Watched { id: id.to_owned(), pid, start_time: process::start_time(pid).unwrap_or(0), log }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

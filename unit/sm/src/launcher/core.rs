//! The launcher's rules, without clock, disk or container: wishes and events in, orders out.
//!
//! Each instance has a wish (what CM wants) and a truth (what runs). `drive` looks at both and gives the one
//! next order; while an order is being carried out nothing else is ordered for that instance, so a wish that
//! changes meanwhile is simply found when the order is done: merged, never dropped. An instance whose wish
//! equals its truth is never touched.
//!
//! A new image is prepared while the old version still runs; when that fails the old one stays.

mod results;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use aos_ids::InstanceIdent;

use super::entry::{Entry, Phase, error_of};
use super::events::{Action, Event, Facts, FailureKind, Found, Status, Why};
use super::health::Health;
use crate::instance::InstanceInfo;

/// Most instances of a node, as all peers have it.
pub const MAX_INSTANCES: usize = 256;

/// The state machine of all instances.
#[derive(Debug)]
pub struct Core {
    entries: BTreeMap<InstanceIdent, Entry>,
    runtimes: BTreeSet<String>,
    offline_since: Option<Instant>,
    update_open: bool,
}

impl Core {
    /// No instances yet; `runtimes` are the identifiers of this node's. The cloud counts as away since
    /// `offline_since`, `None` would mean that it is there.
    pub fn new(runtimes: BTreeSet<String>, offline_since: Option<Instant>) -> Self {
        Self { entries: BTreeMap::new(), runtimes, offline_since, update_open: false }
    }

    /// Status of every instance.
    pub fn statuses(&self) -> Vec<Status> {
        self.entries.values().map(Entry::status).collect()
    }

    /// What is known of the item of an instance.
    pub fn facts(&self, ident: &InstanceIdent) -> Option<&Facts> {
        self.entries.get(ident).map(|entry| &entry.facts)
    }

    /// True for an instance that is wished for, runs or is being stopped.
    pub fn knows(&self, ident: &InstanceIdent) -> bool {
        self.entries.contains_key(ident)
    }

    /// The runtime in which a process of ours runs, or is being started: its end may be told before its start.
    pub fn runtime_of(&self, id: &str, pid: i32) -> Option<&str> {
        let entry = self.entries.iter().find(|(ident, _)| ident.instance_id() == id)?.1;
        match &entry.running {
            Some((info, running)) => (*running == pid).then_some(&info.runtime),
            None => (entry.phase == Phase::Starting).then_some(&entry.last.runtime),
        }
    }

    /// When a [`Event::Tick`] is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        let waits = self.entries.values().filter_map(|entry| match entry.phase {
            Phase::Waiting(until) => Some(until),
            _ => None,
        });
        let expiries = self.entries.values().filter_map(|entry| {
            let live = matches!(entry.phase, Phase::Up | Phase::Waiting(_));
            entry.facts.offline_ttl.filter(|_| live).zip(self.offline_since).map(|(ttl, since)| since + ttl)
        });
        let retries = self.entries.values().filter_map(Entry::retry_due);
        let probes = self.entries.values().filter(|entry| entry.phase == Phase::Up);
        let probes = probes.filter_map(|entry| entry.health.as_ref()?.due());
        waits.chain(expiries).chain(retries).chain(probes).min()
    }

    /// Takes an event and answers what follows from it, in order.
    pub fn on(&mut self, now: Instant, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        let mut reports = Vec::new();
        match event {
            Event::Begin(found) => self.begin(now, found, &mut actions),
            Event::Update { start, stop } => self.update(now, start, stop, &mut actions),
            Event::Prepared(info, result) => self.prepared(now, &info, result, &mut actions),
            Event::Started(info, result) => self.started(now, &info, result, &mut actions),
            Event::Stopped(ident, result) => self.stopped(now, &ident, result, &mut actions, &mut reports),
            Event::Exited { id, pid, ended } => self.exited(now, &id, pid, ended, &mut actions),
            Event::Probed { ident, pid, question, result } => {
                self.probed(now, &ident, pid, question, result, &mut actions);
            }
            Event::CmConnected => {
                let passing = |entry: &Entry| {
                    entry.failure.as_ref().is_some_and(|failure| failure.kind == FailureKind::Passing)
                };
                self.drive_where(now, passing, true, &mut actions);
            }
            Event::Cloud(connected) => {
                if connected == self.offline_since.is_some() {
                    actions.push(Action::Offline(!connected));
                    self.offline_since = (!connected).then_some(now);
                    self.drive_where(now, |_| true, false, &mut actions);
                }
            }
            Event::Tick => {
                let due = |entry: &Entry| entry.retry_due().is_some_and(|at| at <= now);
                self.drive_where(now, due, true, &mut actions);
                self.drive_where(now, |_| true, false, &mut actions);
            }
        }
        for entry in self.entries.values_mut() {
            let status = entry.status();
            if entry.reported.as_ref() != Some(&status) {
                entry.reported = Some(status.clone());
                reports.push(status);
            }
        }
        if !reports.is_empty() {
            actions.push(Action::Report(reports));
        }
        if self.update_open && !self.entries.values().any(Entry::is_busy) {
            self.update_open = false;
            actions.push(Action::ReportAll);
            actions.push(Action::InUse(self.in_use()));
        }
        actions
    }

    fn in_use(&self) -> BTreeSet<(String, String)> {
        let wished = self.entries.values().filter_map(|entry| entry.wish.as_ref());
        let running = self.entries.values().filter_map(|entry| entry.running.as_ref().map(|(info, _)| info));
        wished.chain(running).map(|info| (info.ident.item.to_string(), info.version.clone())).collect()
    }

    fn begin(&mut self, now: Instant, found: Vec<Found>, actions: &mut Vec<Action>) {
        for Found { info, running, ready, missed, facts } in found {
            let ident = info.ident.clone();
            let mut entry = Entry::new(info);
            entry.facts = facts.unwrap_or_default();
            entry.traces.insert(entry.last.runtime.clone());
            if let Some(running) = running {
                entry.phase = Phase::Up;
                entry.traces.insert(running.0.runtime.clone());
                entry.health = entry.facts.probes.clone().map(|probes| Health::new(probes, now, ready));
                entry.running = Some(running);
                entry.window.started(now);
            } else if let Some(ended) = missed {
                entry.window.started(now);
                entry.ended(now, error_of(ended), actions);
            }
            self.entries.insert(ident, entry);
        }
        self.update_open = true;
        self.drive_where(now, |_| true, false, actions);
    }

    fn update(
        &mut self,
        now: Instant,
        start: Vec<InstanceInfo>,
        stop: Vec<InstanceIdent>,
        actions: &mut Vec<Action>,
    ) {
        let mut put = Vec::new();
        let mut remove = Vec::new();
        let stopped: BTreeSet<InstanceIdent> = stop.into_iter().collect();
        let mut touched: BTreeSet<InstanceIdent> = BTreeSet::new();
        for ident in &stopped {
            if let Some(entry) = self.entries.get_mut(ident) {
                entry.wish = None;
                touched.insert(ident.clone());
                if !start.iter().any(|info| info.ident == *ident) {
                    remove.push(ident.clone());
                }
            }
        }
        for info in start {
            let ident = info.ident.clone();
            if !self.entries.contains_key(&ident) && self.entries.len() >= MAX_INSTANCES {
                continue;
            }
            touched.insert(ident.clone());
            let entry = self.entries.entry(ident.clone()).or_insert_with(|| Entry::new(info.clone()));
            if entry.wish.as_ref() != Some(&info) || entry.reported.is_none() {
                put.push(info.clone());
            }
            let other = entry.wish.as_ref().is_none_or(|wish| !wish.same_process(&info));
            if other && matches!(entry.phase, Phase::Waiting(_)) {
                // The pause is for what has just ended, not for what is to come.
                entry.phase = Phase::Down;
            }
            entry.restart_asked |= stopped.contains(&ident) && entry.running.is_some();
            entry.last = info.clone();
            entry.wish = Some(info);
        }
        if !put.is_empty() || !remove.is_empty() {
            actions.push(Action::Store { put, remove });
        }
        for ident in &touched {
            if let Some(entry) = self.entries.get_mut(ident) {
                // Asking again is asking for another try.
                entry.rejected = None;
                if entry.phase == Phase::Preparing
                    && entry.preparing.is_some_and(|manifest| {
                        entry.wish.as_ref().is_none_or(|wish| wish.manifest != manifest)
                    })
                {
                    actions.push(Action::Abandon(ident.clone()));
                }
                if matches!(entry.phase, Phase::Stopping(Why::Unhealthy | Why::GivenUp)) {
                    entry.phase = Phase::Stopping(Why::Replace);
                    entry.failure = None;
                }
                if !entry.is_busy() && entry.failure.is_some() {
                    entry.window.clear();
                    if !matches!(entry.phase, Phase::Waiting(_)) {
                        entry.failure = None;
                    }
                }
            }
        }
        self.update_open = true;
        self.drive_where(now, |_| true, false, actions);
    }

    fn drive_where(
        &mut self,
        now: Instant,
        which: impl Fn(&Entry) -> bool,
        again: bool,
        actions: &mut Vec<Action>,
    ) {
        let mut due: Vec<(bool, u64, InstanceIdent)> = Vec::new();
        for (ident, entry) in &mut self.entries {
            if which(entry) {
                if again && !entry.is_busy() && !matches!(entry.phase, Phase::Waiting(_)) {
                    entry.failure = None;
                    entry.rejected = None;
                }
                let stays = entry.wish.is_some();
                let priority = entry.last.priority;
                due.push((stays, if stays { u64::MAX - priority } else { priority }, ident.clone()));
            }
        }
        // What goes makes room first, the least important at once; what comes follows by importance.
        due.sort();
        for (_, _, ident) in due {
            self.drive(now, &ident, actions);
        }
    }

    /// Gives the next order for one instance, if there is one to give.
    fn drive(&mut self, now: Instant, ident: &InstanceIdent, actions: &mut Vec<Action>) {
        let expired = |ttl: Option<Duration>| {
            ttl.zip(self.offline_since).is_some_and(|(ttl, since)| now >= since + ttl)
        };
        let runtimes = &self.runtimes;
        let Some(entry) = self.entries.get_mut(ident).filter(|entry| !entry.is_busy()) else { return };
        let suspended = expired(entry.facts.offline_ttl);
        let Some(wish) = entry.wish.clone() else {
            if entry.failed_stops == 0 || entry.failure.is_none() {
                entry.stop(Why::Remove, actions);
            }
            return;
        };
        match entry.phase {
            Phase::Up => {
                let fits = entry.running.as_ref().is_some_and(|(running, _)| running.same_process(&wish));
                if suspended {
                    entry.stop(Why::Suspend, actions);
                } else if fits && entry.restart_asked {
                    entry.restart_asked = false;
                    entry.stop(Why::Replace, actions);
                } else if !fits && entry.rejected.as_ref() != Some(&wish) {
                    entry.restart_asked = false;
                    entry.prepare(&wish, runtimes, actions);
                } else {
                    if let Some((running, _)) = entry.running.as_mut().filter(|_| fits) {
                        *running = wish;
                    }
                    entry.watch_health(now, actions);
                }
            }
            Phase::Waiting(until) => {
                if suspended {
                    entry.stop(Why::Suspend, actions);
                } else if now >= until {
                    entry.phase = Phase::Down;
                    entry.failure = None;
                    entry.prepare(&wish, runtimes, actions);
                }
            }
            Phase::Down if entry.failure.is_none() && entry.failed_stops > 0 => {
                entry.stop(if suspended { Why::Suspend } else { Why::Replace }, actions);
            }
            Phase::Down if entry.failure.is_none() && !suspended => {
                entry.restart_asked = false;
                entry.prepare(&wish, runtimes, actions);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;

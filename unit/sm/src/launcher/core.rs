//! The launcher's rules, without clock, disk or container: wishes and events in, orders out.
//!
//! Each instance has a wish (what CM wants) and a truth (what runs). `drive` looks at both and gives the one
//! next order; while an order is being carried out nothing else is ordered for that instance, so a wish that
//! changes meanwhile is simply found when the order is done: merged, never dropped. An instance whose wish
//! equals its truth is never touched.
//!
//! A new image is prepared while the old version still runs; when that fails the old one stays.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use aos_ids::InstanceIdent;

use super::entry::{Entry, Phase};
use super::events::{Action, Ended, Event, Facts, Failure, Found, Status};
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
    /// No instances yet; `runtimes` are the identifiers of this node's. Counts as offline from `now` on.
    pub fn new(runtimes: BTreeSet<String>, now: Instant) -> Self {
        Self { entries: BTreeMap::new(), runtimes, offline_since: Some(now), update_open: false }
    }

    /// Status of every instance.
    pub fn statuses(&self) -> Vec<Status> {
        self.entries.values().map(Entry::status).collect()
    }

    /// True for an instance that is wished for, runs or is being stopped.
    pub fn knows(&self, ident: &InstanceIdent) -> bool {
        self.entries.contains_key(ident)
    }

    /// When a [`Event::Tick`] is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        let waits = self.entries.values().filter_map(|entry| match entry.phase {
            Phase::Waiting(until) => Some(until),
            _ => None,
        });
        let expiries = self.entries.values().filter_map(|entry| {
            let live = entry.running.is_some() || matches!(entry.phase, Phase::Waiting(_));
            entry.facts.offline_ttl.filter(|_| live).zip(self.offline_since).map(|(ttl, since)| since + ttl)
        });
        let retries = self.entries.values().filter_map(Entry::retry_due);
        waits.chain(expiries).chain(retries).min()
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
            Event::CmConnected => {
                let passing = |entry: &Entry| entry.failure.as_ref().is_some_and(|failure| failure.passing);
                self.drive_where(now, passing, true, &mut actions);
            }
            Event::Cloud(connected) => {
                self.offline_since = if connected { None } else { self.offline_since.or(Some(now)) };
                self.drive_where(now, |_| true, false, &mut actions);
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
        for Found { info, running, missed, facts } in found {
            let ident = info.ident.clone();
            let mut entry = Entry::new(info);
            entry.facts = facts.unwrap_or_default();
            if let Some(running) = running {
                entry.phase = Phase::Up;
                entry.running = Some(running);
                entry.window.started(now);
            } else if let Some(ended) = missed {
                entry.window.started(now);
                entry.ended(now, ended);
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

    fn prepared(
        &mut self,
        now: Instant,
        info: &InstanceInfo,
        result: Result<Facts, Failure>,
        actions: &mut Vec<Action>,
    ) {
        let Some(entry) = self.entries.get_mut(&info.ident).filter(|entry| entry.phase == Phase::Preparing)
        else {
            return;
        };
        entry.phase = if entry.running.is_some() { Phase::Up } else { Phase::Down };
        if entry.wish.as_ref() == Some(info) {
            match result {
                Ok(facts) => {
                    entry.facts = facts;
                    entry.failure = None;
                    if entry.running.is_some() {
                        entry.phase = Phase::Stopping;
                        actions.push(Action::Stop { ident: info.ident.clone(), forget: false });
                    } else {
                        entry.start(now, actions);
                    }
                    return;
                }
                Err(failure) => entry.fail(now, failure),
            }
        }
        self.drive(now, &info.ident, actions);
    }

    fn started(
        &mut self,
        now: Instant,
        info: &InstanceInfo,
        result: Result<i32, Failure>,
        actions: &mut Vec<Action>,
    ) {
        let Some(entry) = self.entries.get_mut(&info.ident).filter(|entry| entry.phase == Phase::Starting)
        else {
            return;
        };
        let early = entry.early_exit.take();
        match result {
            Ok(pid) => {
                entry.phase = Phase::Up;
                entry.running = Some((info.clone(), pid));
                entry.failure = None;
                if let Some((_, ended)) = early.filter(|(early_pid, _)| *early_pid == pid) {
                    return self.exited(now, &info.id(), pid, ended, actions);
                }
            }
            Err(failure) => {
                entry.phase = Phase::Down;
                // The failure of a wish nobody has any more concerns nobody.
                if entry.wish.as_ref() == Some(info) {
                    entry.fail(now, failure);
                }
            }
        }
        self.drive(now, &info.ident, actions);
    }

    fn stopped(
        &mut self,
        now: Instant,
        ident: &InstanceIdent,
        result: Result<(), Failure>,
        actions: &mut Vec<Action>,
        reports: &mut Vec<Status>,
    ) {
        let Some(entry) = self.entries.get_mut(ident).filter(|entry| entry.phase == Phase::Stopping) else {
            return;
        };
        entry.phase = Phase::Down;
        entry.running = None;
        entry.early_exit = None;
        entry.window.clear();
        match result {
            Ok(()) if entry.wish.is_none() => {
                entry.failure = None;
                reports.push(entry.status());
                self.entries.remove(ident);
            }
            Ok(()) => {
                entry.failure = None;
                self.drive(now, ident, actions);
            }
            Err(failure) => entry.fail(now, failure),
        }
    }

    fn exited(&mut self, now: Instant, id: &str, pid: i32, ended: Ended, actions: &mut Vec<Action>) {
        actions.push(Action::Acknowledge { id: id.to_owned(), pid });
        let found = self.entries.iter_mut().find(|(ident, _)| ident.instance_id() == id);
        let Some((ident, entry)) = found else { return };
        let ident = ident.clone();
        if entry.running.as_ref().is_none_or(|(_, running)| *running != pid) {
            if entry.phase == Phase::Starting {
                entry.early_exit = Some((pid, ended));
            }
            return;
        }
        entry.running = None;
        if entry.phase == Phase::Up {
            entry.ended(now, ended);
            self.drive(now, &ident, actions);
        }
    }

    fn drive_where(
        &mut self,
        now: Instant,
        which: impl Fn(&Entry) -> bool,
        again: bool,
        actions: &mut Vec<Action>,
    ) {
        let mut due: Vec<(u64, InstanceIdent)> = Vec::new();
        for (ident, entry) in &mut self.entries {
            if which(entry) {
                if again && !entry.is_busy() && !matches!(entry.phase, Phase::Waiting(_)) {
                    entry.failure = None;
                    entry.rejected = None;
                }
                due.push((entry.last.priority, ident.clone()));
            }
        }
        due.sort_by(|(a, ident_a), (b, ident_b)| b.cmp(a).then_with(|| ident_a.cmp(ident_b)));
        for (_, ident) in due {
            self.drive(now, &ident, actions);
        }
    }

    /// Gives the next order for one instance, if there is one to give.
    fn drive(&mut self, now: Instant, ident: &InstanceIdent, actions: &mut Vec<Action>) {
        let expired = |ttl: Option<Duration>| {
            ttl.zip(self.offline_since).is_some_and(|(ttl, since)| now >= since + ttl)
        };
        let runtimes = &self.runtimes;
        let Some(entry) = self.entries.get_mut(ident) else { return };
        if entry.is_busy() {
            return;
        }
        let suspended = expired(entry.facts.offline_ttl);
        let Some(wish) = entry.wish.clone() else {
            // A stop that failed is tried again by the next request only, not in a circle.
            if entry.failure.is_none() || entry.running.is_some() || matches!(entry.phase, Phase::Waiting(_))
            {
                entry.stop(ident, true, actions);
            }
            return;
        };
        match entry.phase {
            Phase::Up => {
                let fits = entry.running.as_ref().is_some_and(|(running, _)| *running == wish);
                if suspended {
                    entry.stop(ident, false, actions);
                } else if fits && entry.restart_asked {
                    entry.restart_asked = false;
                    entry.stop(ident, false, actions);
                } else if !fits && entry.rejected.as_ref() != Some(&wish) {
                    entry.restart_asked = false;
                    entry.prepare(&wish, runtimes, actions);
                }
            }
            Phase::Waiting(until) => {
                if suspended {
                    entry.failure = None;
                    entry.stop(ident, false, actions);
                } else if now >= until {
                    entry.phase = Phase::Down;
                    entry.failure = None;
                    entry.prepare(&wish, runtimes, actions);
                }
            }
            Phase::Down if !suspended && entry.failure.is_none() => {
                entry.restart_asked = false;
                entry.prepare(&wish, runtimes, actions);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;

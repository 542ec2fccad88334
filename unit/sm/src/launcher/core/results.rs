//! What follows from the results of orders and from what processes do by themselves.

use std::time::{Duration, Instant};

use aos_ids::InstanceIdent;

use super::super::entry::{Phase, error_of};
use super::super::events::{Action, Ended, Facts, Failure, FailureKind, Status, Why};
use super::super::health::{Health, ProbeError, Question};
use super::Core;
use crate::instance::InstanceInfo;

impl Core {
    pub(super) fn prepared(
        &mut self,
        now: Instant,
        info: &InstanceInfo,
        result: Result<Facts, Failure>,
        actions: &mut Vec<Action>,
    ) {
        let since = self.offline_since;
        let suspended = |ttl: Option<Duration>| ttl.zip(since).is_some_and(|(ttl, since)| now >= since + ttl);
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
                        entry.stop(Why::Replace, actions);
                        return;
                    }
                    // Only now it may be known how long it may run without the cloud.
                    if !suspended(entry.facts.offline_ttl) {
                        entry.start(now, actions);
                        return;
                    }
                }
                Err(failure) => entry.fail(now, failure),
            }
        }
        self.drive(now, &info.ident, actions);
    }

    pub(super) fn started(
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
                entry.health = entry.facts.probes.clone().map(|probes| Health::new(probes, now, false));
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
                self.await_release(&info.ident);
            }
        }
        self.drive(now, &info.ident, actions);
    }

    /// What an instance being stopped still has is waited for, and no failure yet.
    fn await_release(&mut self, ident: &InstanceIdent) {
        if !self.entries.values().any(|entry| matches!(entry.phase, Phase::Stopping(_))) {
            return;
        }
        if let Some(entry) = self.entries.get_mut(ident)
            && let Some(failure) = entry.failure.as_mut().filter(|_| entry.conflict)
        {
            failure.kind = FailureKind::Passing;
        }
    }

    pub(super) fn stopped(
        &mut self,
        now: Instant,
        ident: &InstanceIdent,
        result: Result<(), Failure>,
        actions: &mut Vec<Action>,
        reports: &mut Vec<Status>,
    ) {
        let Some(entry) = self.entries.get_mut(ident) else { return };
        let Phase::Stopping(why) = entry.phase else { return };
        let before = entry.running.take();
        entry.phase = Phase::Down;
        entry.early_exit = None;
        entry.health = None;
        if let Err(failure) = result {
            entry.fail_to_stop(now, failure);
            return;
        }
        entry.failed_stops = 0;
        entry.retry_at = None;
        entry.traces.clear();
        let Some(wish) = entry.wish.clone() else {
            entry.failure = None;
            reports.push(entry.status());
            self.entries.remove(ident);
            return self.released(now, actions);
        };
        let unchanged = before.is_none_or(|(running, _)| running.same_process(&wish));
        match why {
            Why::Unhealthy if unchanged => {
                if let Some(until) = entry.window.next_start(now, &entry.facts.run) {
                    entry.phase = Phase::Waiting(until);
                }
            }
            Why::GivenUp if unchanged => {}
            _ => {
                entry.window.clear();
                entry.failure = None;
                entry.rejected = None;
            }
        }
        self.drive(now, ident, actions);
        self.released(now, actions);
    }

    /// Something has been given back: whoever failed for want of it tries again.
    fn released(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.drive_where(now, |entry| entry.conflict && entry.failure.is_some(), true, actions);
    }

    pub(super) fn probed(
        &mut self,
        now: Instant,
        ident: &InstanceIdent,
        pid: i32,
        question: Question,
        result: Result<(), ProbeError>,
        actions: &mut Vec<Action>,
    ) {
        let Some(entry) = self.entries.get_mut(ident) else { return };
        if entry.running.as_ref().is_none_or(|(_, running)| *running != pid) {
            return;
        }
        if entry.health.as_mut().is_some_and(|health| health.answer(now, question, result)) {
            actions.push(Action::Ready { id: ident.instance_id(), pid });
        }
        self.drive(now, ident, actions);
    }

    pub(super) fn exited(
        &mut self,
        now: Instant,
        id: &str,
        pid: i32,
        ended: Ended,
        actions: &mut Vec<Action>,
    ) {
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
        entry.health = None;
        if entry.phase == Phase::Up {
            entry.ended(now, error_of(ended), actions);
            self.drive(now, &ident, actions);
        }
    }
}

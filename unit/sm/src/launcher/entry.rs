//! One instance in the launcher: its wish, its truth, and how it gets from one to the other.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use aos_ids::{Digest, ItemKind};
use aos_status::{AosCode, ErrorInfo, InstanceState};

use super::events::{Action, Ended, Facts, Failure, FailureKind, Status, Why};
use super::health::Health;
use super::restart::Window;
use crate::Error;
use crate::instance::InstanceInfo;

/// Pause before a passing failure is tried again without being told.
const RETRY: Duration = Duration::from_secs(5);
/// Longest pause before a stop that failed is tried again.
const MAX_RETRY: Duration = Duration::from_mins(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nothing runs, nothing is ordered.
    Down,
    /// The image is being prepared; an older version may run.
    Preparing,
    /// The process is being started.
    Starting,
    /// The process runs.
    Up,
    /// What there is of the instance is being stopped and removed.
    Stopping(Why),
    /// Waiting to start again.
    Waiting(Instant),
}

#[derive(Debug)]
pub struct Entry {
    /// The wish; `None` when it has to go.
    pub wish: Option<InstanceInfo>,
    /// The last wish, for reports.
    pub last: InstanceInfo,
    pub phase: Phase,
    /// The image that is being fetched, or was last.
    pub preparing: Option<Digest>,
    /// What runs, and its process.
    pub running: Option<(InstanceInfo, i32)>,
    /// A wish that did not work while something else runs or nothing does.
    pub rejected: Option<InstanceInfo>,
    pub failure: Option<Failure>,
    /// When a failure is tried again at the latest.
    pub retry_at: Option<Instant>,
    pub facts: Facts,
    pub window: Window,
    pub health: Option<Health>,
    pub early_exit: Option<(i32, Ended)>,
    pub restart_asked: bool,
    /// The failure is that another instance has what this one needs.
    pub conflict: bool,
    /// Runtimes that may have something of it.
    pub traces: BTreeSet<String>,
    /// Stops that failed in a row; what they left may still run.
    pub failed_stops: u32,
    pub reported: Option<Status>,
}

impl Entry {
    pub fn new(info: InstanceInfo) -> Self {
        Self {
            wish: Some(info.clone()),
            last: info,
            phase: Phase::Down,
            preparing: None,
            running: None,
            rejected: None,
            failure: None,
            retry_at: None,
            facts: Facts::default(),
            window: Window::default(),
            health: None,
            early_exit: None,
            restart_asked: false,
            conflict: false,
            traces: BTreeSet::new(),
            failed_stops: 0,
            reported: None,
        }
    }

    pub fn is_busy(&self) -> bool {
        matches!(self.phase, Phase::Preparing | Phase::Starting | Phase::Stopping(_))
    }

    fn is_ready(&self) -> bool {
        self.health.as_ref().is_none_or(Health::is_ready)
    }

    pub fn status(&self) -> Status {
        let pid = self.running.as_ref().map(|(_, pid)| *pid);
        // A passing failure is a wait, and nobody is bothered with it.
        let failure = self.failure.as_ref().filter(|failure| failure.kind != FailureKind::Passing);
        let waits = self.failure.is_some() && failure.is_none();
        let error = failure.map(|failure| failure.error.clone());
        let up = if self.is_ready() { InstanceState::Active } else { InstanceState::Activating };
        let (info, state) = match (self.phase, &self.running) {
            (_, Some(_)) if failure.is_some() => (&self.last, InstanceState::Failed),
            (
                Phase::Up | Phase::Preparing | Phase::Stopping(Why::Remove | Why::Suspend),
                Some((running, _)),
            ) => (running, up),
            (Phase::Preparing | Phase::Starting | Phase::Up | Phase::Stopping(Why::Replace), _) => {
                (&self.last, InstanceState::Activating)
            }
            _ if failure.is_some() => (&self.last, InstanceState::Failed),
            _ if waits => (&self.last, InstanceState::Activating),
            _ => (&self.last, InstanceState::Inactive),
        };
        Status { info: info.clone(), state, error: error.filter(|_| state == InstanceState::Failed), pid }
    }

    pub fn prepare(&mut self, wish: &InstanceInfo, runtimes: &BTreeSet<String>, actions: &mut Vec<Action>) {
        let refusal = if wish.ident.kind != ItemKind::Service {
            Some(ErrorInfo::new(
                AosCode::NotSupported,
                format!("a {} cannot run in a container", wish.ident.kind),
            ))
        } else if !runtimes.contains(&wish.runtime) {
            Some(ErrorInfo::new(AosCode::NotFound, format!("runtime {} is not on this node", wish.runtime)))
        } else {
            None
        };
        if let Some(error) = refusal {
            self.rejected.clone_from(&self.wish);
            self.failure = Some(Failure { error, kind: FailureKind::Lasting });
            return;
        }
        self.phase = Phase::Preparing;
        self.preparing = Some(wish.manifest);
        actions.push(Action::Prepare(Box::new(wish.clone())));
    }

    pub fn start(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if let Some(wish) = self.wish.clone() {
            self.phase = Phase::Starting;
            self.window.started(now);
            self.traces.insert(wish.runtime.clone());
            actions.push(Action::Start(Box::new(wish)));
        }
    }

    pub fn stop(&mut self, why: Why, actions: &mut Vec<Action>) {
        self.phase = Phase::Stopping(why);
        if !matches!(why, Why::Unhealthy | Why::GivenUp) {
            self.failure = None;
        }
        let info = self.running.as_ref().map_or(&self.last, |(running, _)| running);
        let (info, runtimes) = (Box::new(info.clone()), self.traces.clone());
        actions.push(Action::Stop { info, why, runtimes });
    }

    pub fn fail(&mut self, now: Instant, failure: Failure) {
        self.conflict = failure.kind == FailureKind::Conflict;
        self.retry_at = (failure.kind == FailureKind::Passing).then_some(now + RETRY);
        self.rejected.clone_from(&self.wish);
        self.failure = Some(failure);
    }

    /// What there was may still run: tried again after a growing pause.
    pub fn fail_to_stop(&mut self, now: Instant, failure: Failure) {
        let pause = RETRY * 2u32.saturating_pow(self.failed_stops.min(6));
        self.failed_stops = self.failed_stops.saturating_add(1);
        self.retry_at = Some(now + pause.min(MAX_RETRY));
        self.rejected.clone_from(&self.wish);
        self.failure = Some(Failure { kind: FailureKind::Lasting, ..failure });
    }

    /// When to try again what failed.
    pub fn retry_due(&self) -> Option<Instant> {
        let worth = |failure: &Failure| failure.kind == FailureKind::Passing || self.failed_stops > 0;
        self.retry_at.filter(|_| !self.is_busy() && self.failure.as_ref().is_some_and(worth))
    }

    /// Ends what is not healthy and asks the question that is due.
    pub fn watch_health(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let (Some(health), Some((info, pid))) = (self.health.as_mut(), self.running.as_ref()) else { return };
        if let Some(verdict) = health.verdict(now) {
            let error = Error::from(verdict).info();
            self.failure = Some(Failure { error, kind: FailureKind::Lasting });
            self.stop(Why::Unhealthy, actions);
        } else if let Some((question, probe)) = health.ask(now) {
            let (info, pid) = (Box::new(info.clone()), *pid);
            actions.push(Action::Probe { info, pid, question, probe: Box::new(probe) });
        }
    }

    /// A process of ours has ended: again later, or never.
    pub fn ended(&mut self, now: Instant, error: ErrorInfo, actions: &mut Vec<Action>) {
        self.failure = Some(Failure { error, kind: FailureKind::Lasting });
        match self.window.next_start(now, &self.facts.run) {
            Some(until) => self.phase = Phase::Waiting(until),
            // Whatever it holds, devices say, is for others now.
            None => self.stop(Why::GivenUp, actions),
        }
    }
}

/// How an end is told to peers.
pub fn error_of(ended: Ended) -> ErrorInfo {
    let why = match ended {
        Ended { out_of_memory: true, .. } => ": it was out of memory",
        Ended { out_of_processes: true, .. } => ": it had reached its limit of processes",
        _ => "",
    };
    match ended {
        Ended { code: Some(code), .. } => {
            ErrorInfo::runtime(code, format!("the service ended with status {code}{why}"))
        }
        Ended { signal: Some(signal), .. } => {
            ErrorInfo::runtime(128 + signal, format!("the service was ended by signal {signal}{why}"))
        }
        _ => ErrorInfo::new(AosCode::Runtime, "the service ended, its status is not known"),
    }
}

//! One instance in the launcher: its wish, its truth, and how it gets from one to the other.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use aos_ids::{InstanceIdent, ItemKind};
use aos_status::{AosCode, ErrorInfo, InstanceState};

use super::events::{Action, Ended, Facts, Failure, Status};
use super::restart::Window;
use crate::instance::InstanceInfo;

/// Pause before a passing failure is tried again without being told.
const RETRY: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nothing runs, nothing is ordered.
    Down,
    /// The image is being prepared; an older version may run.
    Preparing,
    /// The container is being started.
    Starting,
    /// The container runs.
    Up,
    /// The container is being stopped.
    Stopping,
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
    /// What runs, and its process.
    pub running: Option<(InstanceInfo, i32)>,
    /// A wish that did not work while something else runs or nothing does.
    pub rejected: Option<InstanceInfo>,
    pub failure: Option<Failure>,
    /// When a passing failure is tried again at the latest.
    pub retry_at: Option<Instant>,
    pub facts: Facts,
    pub window: Window,
    pub early_exit: Option<(i32, Ended)>,
    pub restart_asked: bool,
    pub reported: Option<Status>,
}

impl Entry {
    pub fn new(info: InstanceInfo) -> Self {
        Self {
            wish: Some(info.clone()),
            last: info,
            phase: Phase::Down,
            running: None,
            rejected: None,
            failure: None,
            retry_at: None,
            facts: Facts::default(),
            window: Window::default(),
            early_exit: None,
            restart_asked: false,
            reported: None,
        }
    }

    pub fn is_busy(&self) -> bool {
        matches!(self.phase, Phase::Preparing | Phase::Starting | Phase::Stopping)
    }

    pub fn status(&self) -> Status {
        let pid = self.running.as_ref().map(|(_, pid)| *pid);
        // A passing failure is a wait, and nobody is bothered with it.
        let failure = self.failure.as_ref().filter(|failure| !failure.passing);
        let waits = self.failure.is_some() && failure.is_none();
        let error = failure.map(|failure| failure.error.clone());
        let (info, state) = match (self.phase, &self.running) {
            (_, Some(_)) if failure.is_some() => (&self.last, InstanceState::Failed),
            (Phase::Up | Phase::Preparing, Some((running, _))) => (running, InstanceState::Active),
            (Phase::Preparing | Phase::Starting | Phase::Up, _) => (&self.last, InstanceState::Activating),
            (Phase::Stopping, _) if self.wish.is_some() => (&self.last, InstanceState::Activating),
            _ if failure.is_some() => (&self.last, InstanceState::Failed),
            _ if waits => (&self.last, InstanceState::Activating),
            (Phase::Stopping, Some((running, _))) => (running, InstanceState::Active),
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
            self.failure = Some(Failure { error, passing: false });
            return;
        }
        self.phase = Phase::Preparing;
        actions.push(Action::Prepare(Box::new(wish.clone())));
    }

    pub fn start(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if let Some(wish) = self.wish.clone() {
            self.phase = Phase::Starting;
            self.window.started(now);
            actions.push(Action::Start(Box::new(wish)));
        }
    }

    pub fn stop(&mut self, ident: &InstanceIdent, forget: bool, actions: &mut Vec<Action>) {
        self.phase = Phase::Stopping;
        self.failure = None;
        actions.push(Action::Stop { ident: ident.clone(), forget });
    }

    pub fn fail(&mut self, now: Instant, failure: Failure) {
        self.retry_at = failure.passing.then_some(now + RETRY);
        self.rejected.clone_from(&self.wish);
        self.failure = Some(failure);
    }

    /// When to try again what failed for a passing reason.
    pub fn retry_due(&self) -> Option<Instant> {
        self.retry_at
            .filter(|_| !self.is_busy() && self.failure.as_ref().is_some_and(|failure| failure.passing))
    }

    /// A container of ours has ended: again later, or never.
    pub fn ended(&mut self, now: Instant, ended: Ended) {
        let error = match ended {
            Ended { code: Some(code), .. } => {
                ErrorInfo::runtime(code, format!("the service ended with status {code}"))
            }
            Ended { signal: Some(signal), .. } => {
                ErrorInfo::runtime(128 + signal, format!("the service was ended by signal {signal}"))
            }
            _ => ErrorInfo::new(AosCode::Runtime, "the service ended, its status is not known"),
        };
        self.failure = Some(Failure { error, passing: false });
        self.phase = match self.window.next_start(now, &self.facts.run) {
            Some(until) => Phase::Waiting(until),
            None => Phase::Down,
        };
    }
}

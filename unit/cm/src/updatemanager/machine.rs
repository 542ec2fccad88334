//! The update state machine: one wish at a time, from `downloading` to `none`.
//!
//! Pure. Position and wish are stored before anything is done for them, so an update goes on after a crash
//! where it was; every stage can be repeated. A different wish replaces the running one at once: results of
//! the replaced cycle are recognised by its number and dropped, so no wish is ever lost.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::desired::Desired;

/// How long an update waits for instances when no status changes.
pub const ACTIVATION_TIMEOUT: Duration = Duration::from_mins(10);

/// Where an update is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UpdateState {
    /// No update.
    None,
    /// Items are fetched.
    Downloading,
    /// Everything is here.
    Pending,
    /// Node states and Unit configuration are applied.
    Installing,
    /// Instances are placed and sent to the nodes.
    Launching,
    /// Instances start.
    Activating,
    /// Old versions are dropped.
    Finalizing,
}

impl UpdateState {
    /// The word for people, files and wires.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Downloading => "downloading",
            Self::Pending => "pending",
            Self::Installing => "installing",
            Self::Launching => "launching",
            Self::Activating => "activating",
            Self::Finalizing => "finalizing",
        }
    }
}

/// What is kept on disk, as one JSON text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stored {
    /// Position.
    pub state: UpdateState,
    /// The last accepted wish.
    pub desired: Option<Desired>,
    /// Update cycles started so far.
    pub applied: u64,
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// The process started; an update that was under way goes on.
    Started,
    /// The cloud wishes; `differs` says whether the Unit is not like that already.
    Desired(Box<Desired>, bool),
    /// The stage that was asked for with this cycle number is done.
    StageDone(u64),
    /// A status of an instance changed; `starting` = some instance is still `activating`.
    Instances {
        /// Some instance has not settled yet.
        starting: bool,
    },
    /// The time asked for has come.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Keep [`Machine::stored`] durably before going on.
    Store,
    /// The wish changes nothing.
    Ignored(&'static str),
    /// Stop fetching for the replaced wish.
    CancelDownload,
    /// Fetch the items; answer with [`Event::StageDone`].
    Download(u64),
    /// Apply node states and Unit configuration; answer with [`Event::StageDone`].
    Configure(u64),
    /// Place and send the instances; answer with [`Event::StageDone`].
    Launch(u64),
    /// Tell whether instances are starting, now and at each change, by [`Event::Instances`].
    Watch,
    /// Drop old versions; answer with [`Event::StageDone`].
    Finalize(u64),
    /// Send [`Event::Tick`] then.
    Timer(Instant),
    /// Tell the cloud everything.
    FullStatus,
}

/// The machine.
#[derive(Debug)]
pub struct Machine {
    stored: Stored,
    cycle: u64,
    deadline: Option<Instant>,
}

impl Machine {
    /// A machine that goes on from what was stored; `None` on first start or when it could not be read.
    pub fn new(stored: Option<Stored>) -> Self {
        let stored = stored.unwrap_or(Stored { state: UpdateState::None, desired: None, applied: 0 });
        Self { stored, cycle: 0, deadline: None }
    }

    /// What is to be kept.
    pub fn stored(&self) -> &Stored {
        &self.stored
    }

    /// Where it is.
    pub fn state(&self) -> UpdateState {
        self.stored.state
    }

    /// The wish in force.
    pub fn desired(&self) -> Option<&Desired> {
        self.stored.desired.as_ref()
    }

    /// Handles one event.
    pub fn on(&mut self, now: Instant, event: Event) -> Vec<Action> {
        use UpdateState as S;
        match event {
            Event::Started if self.state() == S::None => Vec::new(),
            Event::Started if self.stored.desired.is_none() => self.enter(S::None, now),
            Event::Started if self.state() == S::Pending => self.enter(S::Installing, now),
            Event::Started => self.enter(self.state(), now),
            Event::Desired(desired, differs) => self.desire(*desired, differs, now),
            Event::StageDone(cycle) if cycle == self.cycle => match self.state() {
                // Nothing makes an update wait in `pending` yet.
                S::Downloading => self.enter(S::Installing, now),
                S::Installing => self.enter(S::Launching, now),
                S::Launching => self.enter(S::Activating, now),
                S::Finalizing => self.enter(S::None, now),
                S::None | S::Pending | S::Activating => Vec::new(),
            },
            Event::Instances { starting: false } if self.state() == S::Activating => {
                self.enter(S::Finalizing, now)
            }
            Event::Instances { .. } if self.state() == S::Activating => self.arm(now),
            Event::StageDone(_) | Event::Instances { .. } => Vec::new(),
            Event::Tick => match self.deadline {
                Some(deadline) if self.state() == S::Activating && now >= deadline => {
                    self.enter(S::Finalizing, now)
                }
                Some(deadline) if self.state() == S::Activating => vec![Action::Timer(deadline)],
                _ => Vec::new(),
            },
        }
    }

    fn desire(&mut self, desired: Desired, differs: bool, now: Instant) -> Vec<Action> {
        let desired = desired.over(self.stored.desired.as_ref());
        let same = self.stored.desired.as_ref().is_some_and(|known| known.asks_the_same(&desired));
        let idle = self.state() == UpdateState::None;
        if same && !idle || idle && !differs {
            let changed = self.stored.desired.as_ref() != Some(&desired);
            self.stored.desired = Some(desired);
            let reason = if idle { "the Unit is like that already" } else { "this update is running" };
            let store = changed.then_some(Action::Store);
            return store.into_iter().chain([Action::Ignored(reason)]).collect();
        }
        let cancel = matches!(self.state(), UpdateState::Downloading).then_some(Action::CancelDownload);
        self.stored.desired = Some(desired);
        self.stored.applied += 1;
        let start = self.enter(UpdateState::Downloading, now);
        cancel.into_iter().chain(start).collect()
    }

    fn enter(&mut self, state: UpdateState, now: Instant) -> Vec<Action> {
        self.stored.state = state;
        self.cycle += 1;
        self.deadline = None;
        let work = match state {
            UpdateState::None => Action::FullStatus,
            UpdateState::Downloading => Action::Download(self.cycle),
            UpdateState::Pending => return vec![Action::Store],
            UpdateState::Installing => Action::Configure(self.cycle),
            UpdateState::Launching => Action::Launch(self.cycle),
            UpdateState::Activating => {
                let mut actions = vec![Action::Store, Action::Watch];
                actions.extend(self.arm(now));
                return actions;
            }
            UpdateState::Finalizing => Action::Finalize(self.cycle),
        };
        vec![Action::Store, work]
    }

    fn arm(&mut self, now: Instant) -> Vec<Action> {
        let deadline = now + ACTIVATION_TIMEOUT;
        self.deadline = Some(deadline);
        vec![Action::Timer(deadline)]
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;

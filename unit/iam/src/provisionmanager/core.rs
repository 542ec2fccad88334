//! Which orders a node takes in which state.

use aos_status::NodeState;

use crate::Error;

/// Orders that depend on the node's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Erase tokens and set owners.
    StartProvisioning,
    /// Become part of the Unit.
    FinishProvisioning,
    /// Leave the Unit.
    Deprovision,
    /// Go out of service.
    Pause,
    /// Come back into service.
    Resume,
}

/// What an order means in the present state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is to be carried out and leads to this state.
    Do(NodeState),
    /// It has been carried out before; a repeated order succeeds without effect.
    Done,
}

impl Order {
    /// Its name for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::StartProvisioning => "start of provisioning",
            Self::FinishProvisioning => "end of provisioning",
            Self::Deprovision => "deprovisioning",
            Self::Pause => "pausing",
            Self::Resume => "resuming",
        }
    }

    /// What to do in `state`. In particular a provisioned node is never erased by a start.
    pub fn check(self, state: NodeState) -> Result<Verdict, Error> {
        use NodeState::{Paused, Provisioned, Unprovisioned};
        match (self, state) {
            (Self::StartProvisioning, Unprovisioned) | (Self::Deprovision, Provisioned | Paused) => {
                Ok(Verdict::Do(Unprovisioned))
            }
            (Self::FinishProvisioning, Unprovisioned) | (Self::Resume, Paused) => {
                Ok(Verdict::Do(Provisioned))
            }
            // A client that lost our answer asks again.
            (Self::FinishProvisioning, Provisioned) | (Self::Deprovision, Unprovisioned) => Ok(Verdict::Done),
            (Self::Pause, Provisioned) => Ok(Verdict::Do(Paused)),
            _ => Err(Error::WrongState { order: self.name(), state }),
        }
    }
}

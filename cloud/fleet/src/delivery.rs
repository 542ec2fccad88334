//! When a desired status is sent.
//!
//! A new revision goes out at once. On a new connection the current one goes out when the Unit never
//! acknowledged it; otherwise the Unit's first clear full status decides: when it differs from what is
//! desired, the Unit has lost its target and gets it again. That happens once per connection, so that a Unit
//! that cannot reach its target is not driven in a circle.

use crate::Comparison;

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Wait,
    /// Send the current desired status.
    Send,
}

/// Delivery of desired statuses over one connection.
#[derive(Debug, Clone, Default)]
pub struct Delivery {
    sent: Option<i64>,
    compared: bool,
}

impl Delivery {
    /// The desired status `revision` is current; `acked` when the Unit acknowledged it, on whatever
    /// connection. Called when the connection opens and after every change of the target.
    pub fn on_desired(&mut self, revision: i64, acked: bool) -> Step {
        if acked || self.sent == Some(revision) {
            return Step::Wait;
        }
        self.sent = Some(revision);
        Step::Send
    }

    /// A full status was stored. `acked` tells about the current desired status `revision`.
    pub fn on_full_status(&mut self, revision: i64, acked: bool, found: Comparison) -> Step {
        if self.compared || found == Comparison::Unclear {
            return Step::Wait;
        }
        self.compared = true;
        if found == Comparison::Same || !acked || self.sent == Some(revision) {
            return Step::Wait;
        }
        self.sent = Some(revision);
        Step::Send
    }

    /// True until a full status of the connection was clear.
    pub fn waits_for_full_status(&self) -> bool {
        !self.compared
    }
}

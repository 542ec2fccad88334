//! When a desired status is sent.
//!
//! A new revision goes out at once. On a new connection the current one goes out when the Unit never
//! acknowledged it; otherwise the Unit's first full status decides: when it differs from what is desired and
//! no update is under way, the Unit has lost its target and gets it again. That happens once per connection,
//! so that a Unit that cannot reach its target is not driven in a circle.

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
    full_seen: bool,
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

    /// A full status was stored. `acked` tells about the current desired status `revision`, `lost` is true
    /// when the Unit differs from it without an update under way.
    pub fn on_full_status(&mut self, revision: i64, acked: bool, lost: bool) -> Step {
        let first = !std::mem::replace(&mut self.full_seen, true);
        if !first || !acked || !lost || self.sent == Some(revision) {
            return Step::Wait;
        }
        self.sent = Some(revision);
        Step::Send
    }

    /// True until the first full status of the connection was seen.
    pub fn waits_for_full_status(&self) -> bool {
        !self.full_seen
    }
}

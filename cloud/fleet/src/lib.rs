//! The rules of a fleet, without IO: what a Unit shall be, what it is, and when to tell it again.
//!
//! * [`UnitState`] merges full and delta statuses, whatever order they arrive in.
//! * [`desired_status`] computes the complete target of a Unit from its assignments.
//! * [`Delivery`] decides when a desired status is sent.

mod delivery;
mod desired;
mod divergence;
mod state;
mod versions;

pub use delivery::{Delivery, Step};
pub use desired::{Assigned, OwnerKind, Signing, Skipped, Target, desired_status};
pub use divergence::{Comparison, compare};
pub use state::{Instance, InstanceKey, ItemKey, Merged, Stamped, UnitState};
pub use versions::{LATEST, resolve};

#[cfg(test)]
mod tests;

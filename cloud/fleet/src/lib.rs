//! The rules of a fleet, without IO: what a Unit shall be, what it is, and when to tell it again.
//!
//! * [`UnitState`] merges full and delta statuses, whatever order they arrive in.
//! * [`desired_status`] computes the complete target of a Unit from its assignments.
//! * [`Delivery`] decides when a desired status is sent.
//! * The flows: when logs are complete ([`NodeLog`]), whether a state is accepted ([`accept_state`]), who may
//!   have a certificate renewed ([`may_renew`]), how a node is provisioned ([`node_task`]), which Unit
//!   configuration may follow which ([`check_config`]).

mod certificate_life;
mod delivery;
mod desired;
mod divergence;
mod instance_state;
mod logs;
mod node_task;
mod renewal;
mod state;
mod unit_config;
mod versions;

pub use certificate_life::{
    MAX_ISSUED, Recorded, TOKEN_LIFE, also_due, may_recover, renewal_due_at, renewal_pause, window,
};
pub use delivery::{Delivery, Step};
pub use desired::{Assigned, OwnerKind, Signing, Skipped, Target, desired_status};
pub use divergence::{Comparison, compare};
pub use instance_state::{KnownInstance, StateRefusal, Told, accept_state};
pub use logs::{LogState, MAX_LOG_PART, MAX_LOG_PARTS, NodeLog, log_state};
pub use node_task::{NodeTaskEvent, NodeTaskKind, NodeTaskState, NodeTaskStep, Reason, node_task};
pub use renewal::{CertificateRefusal, Held, RenewalState, SELF_RENEWAL, may_renew, renewal_over};
pub use state::{Instance, InstanceKey, ItemKey, MAX_KNOWN, MAX_KNOWN_NODES, Merged, Stamped, UnitState};
pub use unit_config::{UnitConfigRefusal, check_config, installed_config, wanted_config};
pub use versions::{LATEST, resolve};

#[cfg(test)]
mod flow_tests;
#[cfg(test)]
mod tests;

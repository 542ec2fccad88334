//! What the cloud remembers: accounts, issued certificates, Units, items, assignments, status, desired
//! state, blobs and an audit trail.
//!
//! One thread owns the SQLite connection; [`Store`] is a cheap handle that sends it jobs through a bounded
//! queue, so every method is one atomic step and all of them are in one order. Jobs that wait share a commit;
//! a method returns only after its effects are on disk. Whoever wants to know when a Unit changed watches
//! its [`UnitSignal`]; there is no polling. Times are microseconds since 1970 UTC unless a name says
//! otherwise.
//!
//! A message of a Unit takes effect through [`Store::receive`], which keeps its transaction in the same
//! step; a message to a Unit that must not be lost is put into the outbox ([`Work::push`]) in the step that
//! causes it.
//!
//! Secrets (node passwords, blob keys) arrive here already sealed; enrolment tokens are stored as hashes.

mod accounts;
mod assignments;
mod blobs;
mod certificates;
mod env_vars;
mod error;
mod flows;
mod items;
mod log_changes;
mod log_files;
mod logs;
mod node_tasks;
mod outbox;
mod receipts;
mod records;
mod recovery;
mod renewals;
mod schema;
mod sessions;
mod states;
mod status;
mod thread;
mod unit_configs;
mod units;

pub use accounts::{Account, NewAccount, Role, Token};
pub use assignments::{AssignedItem, Assignment, NewAssignment};
pub use blobs::{Blob, Served};
pub use certificates::{Certificate, Holder, NewCertificate};
pub use env_vars::{EnvOverrides, EnvStatus, MAX_ENV_STATUSES};
pub use error::StoreError;
pub use items::{Item, NewItem, NewVersion, VersionAdded, VersionRow};
pub use log_files::StagedLog;
pub use logs::{LogNode, LogPart, LogRequest, MAX_LOG_BYTES, MAX_LOG_REQUESTS, NewLog};
pub use node_tasks::{NodeTask, NodeWish};
pub use outbox::{MAX_BYTES, MAX_ROWS, NewOutgoing, OutboxRow};
pub use receipts::{REMEMBERED, Receipt, Received};
pub use records::{AuditEntry, EVENT_BYTES_KEPT, EVENTS_KEPT, EventRow, INVALID, brief, now_micros};
pub use recovery::{DueCertificate, RecordedLife, RecoveryToken};
pub use renewals::{Renewal, RenewalCertificate};
pub use sessions::OnlineStatus;
pub use states::{MAX_STATE_BYTES, MAX_STATES, NewState, StateKey, StateRow, StateSource};
pub use status::{DesiredRow, StatusRow, UnitView, Wanted};
pub use thread::{Store, Work};
pub use unit_configs::UnitConfigRow;
pub use units::{NewNode, NewUnit, Node, Unit, UnitSignal};

#[cfg(test)]
mod flow_store_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod thread_tests;

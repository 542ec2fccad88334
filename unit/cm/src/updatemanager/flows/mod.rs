//! Messages of the cloud beyond the wish, one file for each flow.
//!
//! Everything here runs in the coordinator's task, inside the transaction of the message at hand.

mod certificates;
mod envvars;
mod logs;
mod parts;
mod states;
mod tasks;

pub(super) use envvars::EnvironmentFlow;
pub(super) use logs::LogFlow;
pub(super) use tasks::Tasks;

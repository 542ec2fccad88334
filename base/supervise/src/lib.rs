//! Task tree, orderly stop, readiness.
//!
//! A program is a list of named tasks. [`Shutdown`] tells them to stop, [`TaskTree`] runs them: when the
//! program is asked to stop, tasks are stopped one after the other in reverse order of their start; when a
//! task ends that should not, or panics, the program stops the same way and ends with that task's name.
//! Works on tokio's current-thread runtime.

mod notify;
mod shutdown;
mod tree;

pub use notify::{NOTIFY_VARIABLES, child_env_without_notify, notify_ready, notify_status, notify_stopping};
pub use shutdown::Shutdown;
pub use tree::{TaskEnd, TaskError, TaskTree};

#[cfg(test)]
mod tests;

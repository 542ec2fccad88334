//! What can go wrong on a test host.

use std::io;
use std::time::Duration;

/// Failure of the test bed itself or of a process that it runs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An operation on the host failed.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A condition did not become true in time.
    #[error("waited {} s for {what}{}", .after.as_secs(), detail(.last))]
    Timeout {
        /// The condition.
        what: String,
        /// How long was waited.
        after: Duration,
        /// What was seen last; empty when there is nothing to tell.
        last: String,
    },
    /// A program ended with an error.
    #[error("{program} failed ({status}): {output}")]
    Program {
        /// Name and arguments.
        program: String,
        /// Exit status.
        status: String,
        /// What it printed, cut.
        output: String,
    },
    /// Something is not as the test bed needs it.
    #[error("{0}")]
    Unexpected(String),
    /// A document is not JSON or not the one expected.
    #[error("{what} is not the JSON document expected")]
    Json {
        /// Which document.
        what: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// Result of the test bed.
pub type Result<T> = std::result::Result<T, Error>;

fn detail(last: &str) -> String {
    if last.is_empty() { String::new() } else { format!("; last seen: {last}") }
}

/// Adds to an I/O error what was tried.
pub trait Tried<T> {
    /// Wraps the error with `what` was tried.
    fn tried(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Tried<T> for io::Result<T> {
    fn tried(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Io { what: what(), source })
    }
}

impl<T> Tried<T> for nix::Result<T> {
    fn tried(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|errno| Error::Io { what: what(), source: errno.into() })
    }
}

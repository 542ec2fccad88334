//! Child subreaper of a node: keeps exit statuses and caps log files while managers restart.

use std::path::PathBuf;

/// Command line of `aos keep`.
#[derive(Debug, Clone)]
pub struct Args {
    /// Folder that holds the socket, the watch records and the kept exit statuses.
    pub dir: PathBuf,
}

/// Why the keeper could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not there yet.
    #[error("the keeper is not implemented yet")]
    NotImplemented,
}

/// Runs until SIGTERM; blocking.
pub fn run(args: Args) -> Result<(), Error> {
    let _ = args;
    Err(Error::NotImplemented)
}

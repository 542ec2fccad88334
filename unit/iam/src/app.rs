//! Composition root.

use std::path::PathBuf;

use crate::Error;

/// What the command line says.
#[derive(Debug, Clone)]
pub struct Args {
    /// Configuration file.
    pub config: PathBuf,
    /// Serve in plain text and allow the node to be provisioned.
    pub provisioning: bool,
}

/// Runs until SIGTERM; blocks the calling thread.
pub fn run(args: Args) -> Result<(), Error> {
    Err(Error::NotReady(args.config))
}

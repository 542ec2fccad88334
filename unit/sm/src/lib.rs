//! Service Manager: installs images and runs service instances on one node.

use std::path::PathBuf;

/// Command line of `aos sm`.
#[derive(Debug, Clone)]
pub struct Args {
    /// Configuration file in upstream's `sm.cfg` format.
    pub config: PathBuf,
}

/// Why the Service Manager ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not there yet.
    #[error("the service manager is not implemented yet")]
    NotImplemented,
}

/// Runs the Service Manager until SIGTERM; blocking.
pub fn run(args: Args) -> Result<(), Error> {
    let _ = args;
    Err(Error::NotImplemented)
}

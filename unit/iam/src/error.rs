//! Why the program cannot start or go on.

use std::path::PathBuf;

/// Why the program ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not built yet.
    #[error("cannot start with '{0}' yet")]
    NotReady(PathBuf),
}

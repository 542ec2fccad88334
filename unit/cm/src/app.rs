//! Composition root.

use std::path::Path;

use crate::Error;
use crate::config::ConfigError;

pub fn run(_config: &Path) -> Result<(), Error> {
    Err(ConfigError.into())
}

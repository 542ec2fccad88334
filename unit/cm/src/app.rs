//! Composition root.

use std::path::Path;

use crate::Error;

pub fn run(config: &Path) -> Result<(), Error> {
    let _ = crate::Config::load(config)?;
    Ok(())
}

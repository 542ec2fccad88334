//! The cloud's gateway: memory, handshakes, acknowledgements.

use crate::Result;
use crate::bench::Rows;

/// Runs the group.
pub fn run(_rows: &mut Rows) -> Result<()> {
    Ok(())
}

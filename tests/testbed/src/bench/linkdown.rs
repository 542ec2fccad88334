//! What a Communication Manager costs while its cloud is away.

use crate::Result;
use crate::bench::Rows;

/// Runs the group.
pub fn run(_rows: &mut Rows) -> Result<()> {
    Ok(())
}

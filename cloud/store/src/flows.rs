//! What the fate of a message to a Unit means for the flow it belongs to.

use crate::error::StoreError;
use crate::outbox::OutboxRow;
use crate::thread::Work;

/// A message was acknowledged (`done` without reason), given up (`done` with one) or parked.
pub(crate) fn settled(
    _work: &mut Work<'_>,
    _unit_id: &str,
    _row: &OutboxRow,
    _reason: Option<&str>,
    _done: bool,
) -> Result<(), StoreError> {
    Ok(())
}

//! What becomes of the messages of Units, and the flows that operators start.
//!
//! [`Handlers`] take messages from the broker. Each message takes effect in one step of the store, together
//! with the memory of its transaction and with the answers, which go into the Unit's outbox: whatever
//! crashes in between, an effect happens once and its answer is not lost. [`Flows`] is the side of the
//! operators: requests for logs, overridden variables, states, renewals, nodes, Unit configurations. What
//! goes to a Unit is checked first against what Units accept.
//!
//! Rules are the fleet's, rows the store's; here they meet. Flows that wait for a Unit end at their
//! deadline. Messages of one Unit are handled in order, of different Units together.

mod blobs;
mod certificates;
mod env_vars;
mod error;
mod flows;
mod handlers;
mod lanes;
mod log_content;
mod logs;
mod nodes;
mod recovery;
mod renewals;
mod renewing;
mod secrets;
mod states;
mod status;
mod sweeper;
mod unit_config;
mod uploads;

pub use error::FlowError;
pub use flows::{Addresses, Flows, Patience};
pub use handlers::Handlers;
pub use log_content::LogContent;
pub use logs::NewLogRequest;
pub use renewals::{Due, NewRenewal};
pub use uploads::{LogUpload, MAX_UPLOAD};

#[cfg(test)]
mod tests;

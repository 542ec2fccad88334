//! Virtual Units: light clients that speak the whole protocol over mTLS, thousands in one process.
//!
//! A [`Fleet`] is registered straight in the data of a stopped cloud, with certificates of its authority, so
//! that ten thousand Units take seconds instead of an hour of provisioning. A [`Unit`] is one connection with
//! the same session core as a real Unit's; a [`Swarm`] holds many. They run no services: their status is made
//! up. For tests and benchmarks only: all Units of a fleet share one private key.

mod bare;
mod error;
mod fleet;
mod messages;
mod swarm;
mod unit;

pub use bare::serve_bare;
pub use error::SimError;
pub use fleet::{Fleet, Identity};
pub use messages::{full_status, monitoring};
pub use swarm::{Connected, Sent, Swarm};
pub use unit::{Target, Unit};

//! When a Unit asks for new certificates, and what it believes of the time.
//!
//! Two values without clock, disk or network: [`Clock`] tells what time it is at least, however wrong the
//! system's clock is, and [`Keeper`] decides when to ask the cloud for which certificates. The shell around
//! them is in the Identity and Access Manager; the same values live a thousand lives in a simulation.
//!
//! All times are whole seconds: of the wall since 1970 UTC, monotonic since any fixed moment of this run.

mod clock;
mod keeper;

pub use clock::{Clock, Reading, SAVE_INTERVAL, Time};
pub use keeper::{Event, Keeper, LONGEST_PAUSE, LONGEST_WAIT, Life, Order, Settings};

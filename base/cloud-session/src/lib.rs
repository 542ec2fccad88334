//! Acknowledged message session of the cloud protocol, as a pure state machine.
//!
//! Both ends of the link use it, the Unit and the cloud. It owns what the protocol says about
//! acknowledging, repeating, pausing, ordering and recognising repetitions; it has no socket, no clock and
//! no task. The shell feeds [`Event`]s with the time and does the [`Action`]s it gets back:
//!
//! ```
//! use aos_cloud_protocol::{Body, Envelope, UnitStatus};
//! use aos_cloud_session::{Action, Config, Event, Now, Session};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let socket = |_bytes| {};
//! # let process = |_message| {};
//! let now = || Now { instant: std::time::Instant::now(), wall: jiff::Timestamp::now() };
//! let system_id: aos_ids::SystemId = "unit-1".parse()?;
//! let mut session = Session::new(Config::unit(system_id.clone()), []);
//!
//! // The socket is open. The greeting goes out first, before anything queued.
//! let full = Envelope::new(system_id, now().wall, Body::UnitStatus(UnitStatus::default()));
//! for action in session.on(now(), Event::connected(Some(full))) {
//!     match action {
//!         Action::Transmit(bytes) => socket(bytes),          // one binary frame
//!         Action::Ping => {}                                  // WebSocket ping
//!         Action::Deliver(message) => process(message),       // later: Event::Accepted(txn)
//!         Action::Acknowledged(_about) => {}                  // remove from a durable outbox
//!         Action::Parked(_about, _reason) => {}               // log, report; stays in the outbox
//!         Action::Dropped(_about, _reason) => {}              // log, report, remove from the outbox
//!         Action::Rejected(_what) => {}                       // log
//!         Action::Reconnect => {}                             // close the socket
//!     }
//! }
//! // Sleep until the first of: a frame (Event::Frame), a control frame (Event::PeerAlive), a command
//! // (Event::send), or this time (Event::Tick).
//! let _wake = session.next_deadline();
//! # Ok(())
//! # }
//! ```
//!
//! Rules a shell has to know:
//!
//! * [`Action::Deliver`] comes once per message. The message is acknowledged when the shell says
//!   [`Event::Accepted`], which it does after the effect is durable. To be exact across restarts, store the
//!   transaction together with the effect, and hand the last [`Config::remembered`] of them to
//!   [`Session::new`]; a shell whose store tells repetitions itself may remember fewer here. What comes again
//!   after that many others were accepted is delivered again. Between our ends 1024 are enough: a sender keeps
//!   at most 1000 messages, and on a new connection repeats the ones it had sent before it sends newer ones.
//! * Tries are counted only while connected. Whatever was in flight when a connection broke is sent again on
//!   the next one, byte for byte.
//! * A durable message that is out of tries on a live connection is parked ([`Action::Parked`], once): most
//!   likely the peer cannot read it. It is sent again, after all others and without holding them up, on the
//!   next connection, or after 10 minutes on the same one (requests that make keys: on the next connection
//!   only). A newer state, verdict or status about the same instance replaces it. Other messages are dropped
//!   ([`Action::Dropped`]); a shell whose delta of a `unitStatus` was dropped sends a full one.
//! * A full `unitStatus`, a `desiredStatus` and an `overrideEnvVars` replace earlier ones of their kind that
//!   are still queued or unacknowledged ([`DropReason::Superseded`]).
//! * Kinds whose order matters are in flight one at a time; samples, alerts, log parts and blob addresses
//!   share a window of 32.
//! * The queue holds at most 1000 messages and 16 MiB. Monitoring gives way first, then alerts; any other
//!   message that finds no room is refused and said so ([`DropReason::QueueFull`]).
//! * An idle session takes half a kilobyte, queue and lists included, and 16 bytes for each remembered
//!   transaction ([`Session::memory_bytes`]): 17 KiB with 1024 of them.
//! * A tick before [`Session::next_deadline`] does nothing, and every due tick moves the deadline on.

mod config;
mod event;
mod incoming;
mod kinds;
mod memory;
mod outgoing;
mod session;

pub use config::{Config, Now, REMEMBERED, Read};
pub use event::{Action, DropReason, Event, Outgoing, Rejection};
pub use kinds::Class;
pub use session::Session;

//! Answers the name questions of service instances, one table for each network.
//!
//! An instance asks at its bridge, port 53, over UDP or TCP. Names of its network are answered from the table
//! with a lifetime of 0, an address of the network with its name; what cannot be a name of the world outside
//! does not exist; everything else goes to the next servers and comes back as they said it. Tables lie on disk
//! and are taken up again. A network knows nothing of another one, and who is outside of it gets no answer.
//!
//! [`packet`], [`Zone`] and `relay` are pure; [`Server`] owns the sockets. It is one descriptor in the loop
//! of whoever runs it, has no thread, and does nothing while nobody asks.
//!
//! Limits: 64 networks of 4096 names, questions of 1024 bytes, 128 questions under way (32 a network), 16
//! connections (4 a network), 1000 questions in 100 ms a network (more wait in the kernel or are lost).

mod host;
pub mod packet;
mod relay;
mod server;
mod sockets;
mod store;
mod streams;
mod zone;

pub use server::{Server, Settings};
pub use store::Error;
pub use zone::{MAX_NAMES, MAX_ZONES, Zone};

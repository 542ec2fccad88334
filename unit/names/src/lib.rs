//! Answers the name questions of service instances, one table for each network.

mod zone;

pub use zone::Zone;

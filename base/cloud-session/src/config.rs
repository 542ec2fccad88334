//! Settings of a session. The defaults are those of the protocol sheet.

use std::time::{Duration, Instant};

use aos_cloud_protocol::{Direction, Envelope, ReadError};
use aos_ids::SystemId;
use jiff::Timestamp;

/// The two clocks a session needs: a steady one for timeouts, the wall clock for `createdAt` of
/// acknowledgements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Steady time; never goes back.
    pub instant: Instant,
    /// Wall clock.
    pub wall: Timestamp,
}

/// Default of [`Config::remembered`]. More than a queue holds: whatever its sender still has was accepted more
/// recently than that.
pub const REMEMBERED: usize = 1024;

/// How a frame becomes a message: [`aos_cloud_protocol::read`] or [`aos_cloud_protocol::read_small`].
pub type Read = fn(&[u8], Direction) -> Result<Envelope, ReadError>;

/// Settings of a session.
#[derive(Debug, Clone)]
pub struct Config {
    /// The Unit at one end of the link.
    pub system_id: SystemId,
    /// Which way the frames travel that this end reads: `CloudToUnit` on a Unit, `UnitToCloud` in a cloud.
    pub reads: Direction,
    /// How they are read. A device takes the small reader, a cloud the quick one; the results are the same.
    pub read: Read,
    /// How long an acknowledgement may take before the message is sent again. Counted only while connected.
    pub ack_timeout: Duration,
    /// How often a message is sent again before it is parked or dropped.
    pub resends: u32,
    /// How many nacks a message gets before each further one counts as a lost try.
    pub free_nacks: u32,
    /// How long a message stays parked before it is tried again on the same connection.
    pub parked: Duration,
    /// Most messages sent and not yet acknowledged.
    pub window: usize,
    /// Most messages kept, in flight or waiting.
    pub queue_messages: usize,
    /// Most bytes of those messages. A single longer message is taken when there is no other.
    pub queue_bytes: usize,
    /// How many accepted transactions are remembered to recognise repetitions. A message that comes again
    /// after that many others were accepted is taken for a new one.
    pub remembered: usize,
    /// Most messages delivered and not yet accepted; more are turned away.
    pub undecided: usize,
    /// Time between pings.
    pub ping_interval: Duration,
    /// The peer is dead when nothing at all arrived for this long.
    pub dead_after: Duration,
}

impl Config {
    /// Settings for a Unit.
    pub fn unit(system_id: SystemId) -> Self {
        Self {
            system_id,
            reads: Direction::CloudToUnit,
            read: aos_cloud_protocol::read_small,
            ack_timeout: Duration::from_secs(10),
            resends: 3,
            free_nacks: 10,
            parked: Duration::from_mins(10),
            window: 32,
            queue_messages: 1000,
            queue_bytes: 16 * 1024 * 1024,
            remembered: REMEMBERED,
            undecided: 256,
            ping_interval: Duration::from_secs(30),
            dead_after: Duration::from_secs(90),
        }
    }

    /// Settings for the cloud's end of the link to one Unit.
    pub fn cloud(system_id: SystemId) -> Self {
        Self { reads: Direction::UnitToCloud, read: aos_cloud_protocol::read, ..Self::unit(system_id) }
    }
}

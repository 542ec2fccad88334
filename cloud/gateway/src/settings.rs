//! What a gateway allows. The defaults suit a fleet of real Units; upstream's and ours stay far below them.

use std::time::Duration;

/// How much one Unit may send. Both buckets refill all the time; one is empty after its burst.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateLimits {
    /// Frames in a second, on average. Above 0.
    pub messages_per_second: f64,
    /// Frames at once.
    pub message_burst: f64,
    /// Bytes in a second, on average. Above 0.
    pub bytes_per_second: f64,
    /// Bytes at once; a longer frame is taken too and paid for afterwards.
    pub byte_burst: f64,
    /// How long a Unit that sends too much is only read more slowly, before it gets nacks.
    pub patience: Duration,
    /// How long it gets nacks, before it is cut.
    pub abuse: Duration,
}

impl Default for RateLimits {
    fn default() -> Self {
        Self {
            messages_per_second: 100.0,
            message_burst: 2000.0,
            bytes_per_second: 2.0 * 1024.0 * 1024.0,
            byte_burst: 64.0 * 1024.0 * 1024.0,
            patience: Duration::from_secs(10),
            abuse: Duration::from_mins(1),
        }
    }
}

/// Settings of a gateway.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// What one Unit may send.
    pub rate: RateLimits,
    /// Sessions that may be opened in a second, on average. Above 0.
    pub admissions_per_second: f64,
    /// Sessions that may be opened at once.
    pub admission_burst: f64,
    /// Sessions at the same time.
    pub max_sessions: usize,
    /// Frames of more than 64 KiB that are being read or handled may take this many bytes together; when
    /// they do, further ones are not read until there is room.
    pub large_frames: usize,
    /// Time a Unit has to take a frame; longer frames get a second more for each 8 KiB. The same holds for
    /// frames that it sends, once their first byte has come.
    pub frame_time: Duration,
    /// Time for messages that handlers have when a session is closed in order.
    pub finish_time: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rate: RateLimits::default(),
            admissions_per_second: 200.0,
            admission_burst: 1000.0,
            max_sessions: 16 * 1024,
            large_frames: 256 * 1024 * 1024,
            frame_time: Duration::from_secs(20),
            finish_time: Duration::from_secs(5),
        }
    }
}

impl Settings {
    /// Time that a frame of `bytes` may take.
    pub(crate) fn time_for(&self, bytes: usize) -> Duration {
        self.frame_time + Duration::from_secs((bytes / (8 * 1024)) as u64)
    }
}

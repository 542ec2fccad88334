//! The network: frames under way.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

/// What the network does to a frame: copies (none: it is lost), each with its delay in milliseconds.
pub type Fate = Vec<u32>;

pub fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        6 => (0..200_u32).prop_map(|delay| vec![delay]),
        2 => Just(vec![]),
        1 => (0..15_000_u32).prop_map(|delay| vec![delay]),
        1 => prop::collection::vec(0..12_000_u32, 2..4),
    ]
}

pub struct Frame {
    pub due: Duration,
    number: usize,
    pub to: usize,
    pub connection: usize,
    pub bytes: Bytes,
}

/// Frames under way, with counts of all there ever were.
pub struct Network {
    pub fates: Vec<Fate>,
    /// Frames of a connection keep their order, as over TCP.
    in_order: bool,
    frames: Vec<Frame>,
    number: usize,
    /// Sent, by content.
    pub sent: HashMap<Bytes, usize>,
    pub transmissions: usize,
}

impl Network {
    pub fn new(fates: Vec<Fate>, in_order: bool) -> Self {
        Self { fates, in_order, frames: Vec::new(), number: 0, sent: HashMap::new(), transmissions: 0 }
    }

    pub fn send(&mut self, now: Duration, to: usize, connection: usize, bytes: &Bytes, passes: bool) {
        self.transmissions += 1;
        *self.sent.entry(bytes.clone()).or_default() += 1;
        let fate = match self.fates.len() {
            0 => vec![10],
            count => self.fates[self.transmissions % count].clone(),
        };
        for delay in fate.into_iter().filter(|_| passes) {
            let mut due = now + Duration::from_millis(delay.into());
            if self.in_order {
                let earlier =
                    self.frames.iter().filter(|frame| (frame.to, frame.connection) == (to, connection));
                due = earlier.map(|frame| frame.due).fold(due, Duration::max);
            }
            self.number += 1;
            self.frames.push(Frame { due, number: self.number, to, connection, bytes: bytes.clone() });
        }
    }

    pub fn next_due(&self) -> Option<Duration> {
        self.frames.iter().map(|frame| frame.due).min()
    }

    pub fn take_due(&mut self, now: Duration) -> Option<Frame> {
        let due = self.frames.iter().enumerate().filter(|(_, frame)| frame.due <= now);
        let (at, _) = due.min_by_key(|(_, frame)| (frame.due, frame.number))?;
        Some(self.frames.remove(at))
    }

    pub fn lose(&mut self, lost: impl Fn(&Frame) -> bool) {
        self.frames.retain(|frame| !lost(frame));
    }
}

//! How much one Unit may send: two buckets, and what happens when one is empty. Pure.
//!
//! First the Unit is read more slowly, which its TCP connection passes on to it. When that goes on, it is
//! asked to come again later, and not read until half of what may come at once may come again: else what
//! comes again would use up all there is. When that changes nothing, it is cut. A Unit whose buckets are
//! full again starts anew.

use std::time::{Duration, Instant};

use crate::settings::RateLimits;

/// Longest pause that is asked for.
const MAX_RETRY: Duration = Duration::from_mins(1);
/// A bucket counts as full from this part of its burst on.
const FULL: f64 = 0.95;
/// What has to be there again after something was turned away, as a part of the burst.
const HALF: f64 = 0.5;

/// What to do with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Handle it.
    Take,
    /// Turn it away; it may come again after this time.
    Later(Duration),
    /// Close the connection.
    Cut,
}

#[derive(Debug)]
pub(crate) struct Rate {
    messages: f64,
    bytes: f64,
    at: Instant,
    /// Since when a bucket has been empty, without both being full again.
    pressed: Option<Instant>,
    /// What has to be there before anything is read, as a part of the burst.
    wanted: f64,
}

impl Rate {
    pub(crate) fn new(limits: &RateLimits, now: Instant) -> Self {
        Self { messages: limits.message_burst, bytes: limits.byte_burst, at: now, pressed: None, wanted: 0.0 }
    }

    /// A frame of `bytes` has come.
    pub(crate) fn on_frame(&mut self, limits: &RateLimits, now: Instant, bytes: usize) -> Verdict {
        self.refill(limits, now);
        // It was read, so the pause is over.
        self.wanted = 0.0;
        self.messages -= 1.0;
        // Frames are bounded far below what an f64 counts exactly.
        self.bytes -= u32::try_from(bytes).map_or(f64::from(u32::MAX), f64::from);
        if self.messages >= 0.0 && self.bytes >= 0.0 {
            return Verdict::Take;
        }
        let since = now.saturating_duration_since(*self.pressed.get_or_insert(now));
        if since < limits.patience {
            Verdict::Take
        } else if since < limits.patience + limits.abuse {
            self.wanted = HALF;
            Verdict::Later(self.time_until(limits, HALF).min(MAX_RETRY))
        } else {
            Verdict::Cut
        }
    }

    /// How long nothing may be read. Nothing is owed: no time.
    pub(crate) fn pause(&mut self, limits: &RateLimits, now: Instant) -> Option<Duration> {
        self.refill(limits, now);
        let pause = self.time_until(limits, self.wanted);
        if pause.is_zero() {
            self.wanted = 0.0;
            return None;
        }
        Some(pause)
    }

    fn refill(&mut self, limits: &RateLimits, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.messages = (self.messages + passed * limits.messages_per_second).min(limits.message_burst);
        self.bytes = (self.bytes + passed * limits.bytes_per_second).min(limits.byte_burst);
        if self.messages >= limits.message_burst * FULL && self.bytes >= limits.byte_burst * FULL {
            self.pressed = None;
        }
    }

    /// Time until both buckets hold this part of their burst.
    fn time_until(&self, limits: &RateLimits, part: f64) -> Duration {
        let messages = (limits.message_burst * part - self.messages) / limits.messages_per_second;
        let bytes = (limits.byte_burst * part - self.bytes) / limits.bytes_per_second;
        let seconds = messages.max(bytes);
        // A sleep is at least a millisecond; less would only spin.
        let time = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(MAX_RETRY);
        if time.is_zero() { time } else { time.max(Duration::from_millis(1)) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: RateLimits = RateLimits {
        messages_per_second: 10.0,
        message_burst: 20.0,
        bytes_per_second: 1000.0,
        byte_burst: 5000.0,
        patience: Duration::from_secs(5),
        abuse: Duration::from_secs(30),
    };

    /// Sends as fast as it is read for `time`; returns (taken, turned away, when it was cut).
    fn flood(rate: &mut Rate, start: Instant, time: Duration) -> (u32, u32, Option<Duration>) {
        let (mut now, mut taken, mut later) = (start, 0, 0);
        while now < start + time {
            match rate.on_frame(&LIMITS, now, 10) {
                Verdict::Take => taken += 1,
                Verdict::Later(pause) => {
                    assert!(pause >= Duration::from_millis(1) && pause <= MAX_RETRY);
                    later += 1;
                }
                Verdict::Cut => return (taken, later, Some(now - start)),
            }
            now += rate.pause(&LIMITS, now).unwrap_or_default();
        }
        (taken, later, None)
    }

    #[test]
    fn pressure_first_then_nacks_then_the_end() {
        let start = Instant::now();
        let (taken, later, cut) = flood(&mut Rate::new(&LIMITS, start), start, Duration::from_mins(2));
        // The burst, and what came back meanwhile; one is turned away for each half of the burst.
        assert!((330..=360).contains(&taken), "{taken}");
        assert!((25..=30).contains(&later), "{later}");
        assert!(cut.unwrap() >= Duration::from_secs(35) && cut.unwrap() < Duration::from_secs(37));
    }

    #[test]
    fn who_recovers_starts_anew() {
        let start = Instant::now();
        let mut rate = Rate::new(&LIMITS, start);
        for round in 0..20 {
            let start = start + Duration::from_secs(10) * round;
            let (taken, later, cut) = flood(&mut rate, start, Duration::from_secs(4));
            assert!(taken > 40 && later == 0 && cut.is_none(), "round {round}: {taken} {later} {cut:?}");
        }
    }

    #[test]
    fn a_frame_longer_than_the_burst_is_paid_for_afterwards() {
        let now = Instant::now();
        let mut rate = Rate::new(&LIMITS, now);
        assert_eq!(rate.on_frame(&LIMITS, now, 15_000), Verdict::Take);
        assert_eq!(rate.pause(&LIMITS, now), Some(Duration::from_secs(10)));
        assert_eq!(rate.pause(&LIMITS, now + Duration::from_secs(10)), None);
    }

    proptest! {
        #[test]
        fn never_more_than_burst_and_rate(steps in proptest::collection::vec((0_u64..3000, 0_usize..4000), 1..300)) {
            let start = Instant::now();
            let mut rate = Rate::new(&LIMITS, start);
            let (mut now, mut frames, mut bytes, mut last) = (start, 0.0, 0.0, 0.0);
            for (wait, length) in steps {
                now += Duration::from_millis(wait);
                now += rate.pause(&LIMITS, now).unwrap_or_default();
                rate.on_frame(&LIMITS, now, length);
                frames += 1.0;
                bytes += f64::from(u32::try_from(length).unwrap());
                last = f64::max(last, f64::from(u32::try_from(length).unwrap()));
                let passed = (now - start).as_secs_f64();
                // One frame each may overdraw, and a pause ends within a millisecond.
                prop_assert!(frames <= 21.1 + passed * 10.0);
                prop_assert!(bytes <= 5002.0 + last + passed * 1000.0);
            }
        }
    }
}

//! Sending Units away in order: all at once when the cloud stops, spread over time when they shall move.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, Instant};

/// What the gateway is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Phase {
    /// Units are welcome.
    #[default]
    Open,
    /// No new sessions; the present ones end.
    Leaving(Leaving),
}

/// How sessions end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leaving {
    /// When it began.
    pub(crate) since: Instant,
    /// The sessions end one after another over this time.
    pub(crate) spread: Duration,
    /// Time for what is being handled when the turn of a session has come.
    pub(crate) finish: Duration,
    /// True when the process ends, false when Units only move.
    pub(crate) stop: bool,
}

impl Leaving {
    /// The turn of a Unit: even over the spread, the same whenever it is asked for.
    pub(crate) fn turn(&self, unit_id: &str) -> Instant {
        let mut hasher = DefaultHasher::new();
        (unit_id, self.spread).hash(&mut hasher);
        // 32 bits are even enough, and an f64 holds them.
        let part = u32::try_from(hasher.finish() >> 32).map_or(0.0, f64::from) / f64::from(u32::MAX);
        self.since + self.spread.mul_f64(part)
    }

    /// When a Unit that asks now should come back: after all have left, spread as they were.
    pub(crate) fn come_back(&self, now: Instant, jitter: f64) -> Duration {
        let rest = (self.since + self.spread).saturating_duration_since(now);
        let wait = rest + Duration::from_secs(1) + Duration::from_secs(9).mul_f64(jitter);
        wait.clamp(Duration::from_secs(1), Duration::from_mins(10))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_even_over_the_spread() {
        let since = Instant::now();
        let leaving = Leaving { since, spread: Duration::from_secs(10), finish: Duration::ZERO, stop: false };
        let mut seconds = [0_u32; 10];
        for number in 0..10_000 {
            let turn = leaving.turn(&format!("unit-{number}"));
            seconds[usize::try_from((turn - since).as_secs().min(9)).unwrap()] += 1;
        }
        assert!(seconds.iter().all(|count| (850..1150).contains(count)), "{seconds:?}");
        let at_once = Leaving { spread: Duration::ZERO, ..leaving };
        assert_eq!(at_once.turn("unit-1"), since);
    }

    #[test]
    fn units_come_back_after_the_last_has_left() {
        let since = Instant::now();
        let leaving = Leaving { since, spread: Duration::from_secs(30), finish: Duration::ZERO, stop: false };
        assert_eq!(leaving.come_back(since, 0.0), Duration::from_secs(31));
        assert_eq!(leaving.come_back(since + Duration::from_mins(1), 1.0), Duration::from_secs(10));
        let long = Leaving { spread: Duration::from_hours(2), ..leaving };
        assert_eq!(long.come_back(since, 0.5), Duration::from_mins(10));
    }
}

//! What time it is at least.
//!
//! A device may start in 1970, or in the future. What it can know: a certificate signed by an authority it
//! trusts was made after the beginning of its validity, and the time it has been running since then has
//! passed. That lower bound (the floor) only grows and is kept on disk. The system's clock never raises the
//! floor: a clock that was once ten years ahead would otherwise be believed for ten years.

/// Time between two writes of a floor that grows by running alone, seconds.
pub const SAVE_INTERVAL: i64 = 3600;

/// What the clocks of the system show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// The wall clock, perhaps wrong; seconds since 1970 UTC.
    pub system: i64,
    /// Seconds since some fixed moment, also while the device slept.
    pub monotonic: i64,
}

/// What is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time {
    /// The later one of wall clock and floor.
    pub now: i64,
    /// It is not earlier than this.
    pub floor: i64,
    /// The floor comes from something made just now, in this run: the truth is little later.
    pub exact: bool,
    /// Monotonic seconds.
    pub monotonic: i64,
}

/// The floor of time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clock {
    floor: i64,
    /// Monotonic time at which `floor` was the floor.
    at: i64,
    exact: bool,
    saved: i64,
}

impl Clock {
    /// A clock with the floor that was stored last, seconds since 1970 UTC; 0 for none.
    pub fn new(stored: i64, reading: Reading) -> Self {
        let stored = stored.max(0);
        Self { floor: stored, at: reading.monotonic, exact: false, saved: stored }
    }

    /// What is believed now.
    pub fn time(&self, reading: Reading) -> Time {
        let floor = self.floor_at(reading.monotonic);
        Time { now: reading.system.max(floor), floor, exact: self.exact, monotonic: reading.monotonic }
    }

    /// A certificate of a trusted authority is valid from `not_before`.
    pub fn proved(&mut self, not_before: i64, reading: Reading) {
        if not_before > self.floor_at(reading.monotonic) {
            self.floor = not_before;
            self.at = reading.monotonic;
        }
    }

    /// An authority has just signed something of ours that did not exist before, valid from `not_before`.
    pub fn proved_now(&mut self, not_before: i64, reading: Reading) {
        self.proved(not_before, reading);
        self.exact = true;
    }

    /// The floor, when it is worth writing: it was raised by proof, or an hour has passed.
    pub fn to_save(&mut self, reading: Reading) -> Option<i64> {
        let floor = self.floor_at(reading.monotonic);
        if self.floor <= self.saved && floor - self.saved < SAVE_INTERVAL {
            return None;
        }
        // What running added is part of the next beginning.
        self.floor = floor;
        self.at = reading.monotonic;
        self.saved = floor;
        Some(floor)
    }

    /// The write of [`Clock::to_save`] failed: it is due again.
    pub fn not_saved(&mut self) {
        self.saved = 0;
    }

    fn floor_at(&self, monotonic: i64) -> i64 {
        self.floor.saturating_add(monotonic.saturating_sub(self.at).max(0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const T: i64 = 1_700_000_000;

    fn at(system: i64, monotonic: i64) -> Reading {
        Reading { system, monotonic }
    }

    #[test]
    fn a_clock_of_1970_is_lifted_and_a_good_one_believed() {
        let mut clock = Clock::new(T, at(0, 5));
        assert_eq!(clock.time(at(7, 12)).now, T + 7, "running time counts");
        assert_eq!(clock.time(at(T + 100, 12)).now, T + 100);
        clock.proved(T + 5000, at(7, 12));
        assert_eq!(clock.time(at(8, 13)).now, T + 5001);
        clock.proved(T, at(8, 13));
        assert_eq!(clock.time(at(8, 13)).floor, T + 5001, "the floor never sinks");
    }

    #[test]
    fn a_clock_ahead_leaves_no_trace() {
        let mut clock = Clock::new(T, at(T, 0));
        let far = T + 10 * 365 * 86_400;
        assert_eq!(clock.time(at(far, 10)).now, far);
        assert_eq!(clock.to_save(at(far, 10)), None);
        assert_eq!(clock.to_save(at(far, 4000)), Some(T + 4000));
        assert_eq!(clock.time(at(T, 4001)).now, T + 4001);
    }

    #[test]
    fn it_is_written_seldom() {
        let mut clock = Clock::new(0, at(0, 0));
        clock.proved_now(T, at(0, 1));
        assert_eq!(clock.to_save(at(0, 1)), Some(T));
        assert_eq!(clock.to_save(at(0, 3599)), None);
        assert_eq!(clock.to_save(at(0, 3601)), Some(T + 3600));
        clock.not_saved();
        assert_eq!(clock.to_save(at(0, 3602)), Some(T + 3601));
    }

    proptest! {
        /// Whatever the wall shows and whenever it restarts, the floor grows and never passes the truth.
        #[test]
        fn the_floor_grows_and_is_true(
            steps in prop::collection::vec((0_i64..100_000, any::<i32>(), 0_u8..4), 1..60),
        ) {
            let (mut truth, mut began, mut stored) = (T, T, T);
            let mut clock = Clock::new(stored, at(0, 0));
            let mut last = 0;
            for (passed, wall, what) in steps {
                truth += passed;
                let reading = at(wall.into(), truth - began);
                match what {
                    0 => clock.proved(truth - 3600, reading),
                    1 => clock.proved_now(truth, reading),
                    2 => { began = truth; clock = Clock::new(stored, at(wall.into(), 0)); last = stored; }
                    _ => {}
                }
                let reading = at(wall.into(), truth - began);
                let floor = clock.time(reading).floor;
                prop_assert!(floor >= last && floor <= truth);
                last = floor;
                if let Some(save) = clock.to_save(reading) { stored = save; }
                prop_assert!(floor - stored <= SAVE_INTERVAL);
            }
        }
    }
}

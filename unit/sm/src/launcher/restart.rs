//! When an ended container is started again: at most `burst` starts within any `interval`, each after a pause.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Run parameters of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunParameters {
    /// Length of the sliding window.
    pub start_interval: Duration,
    /// Starts allowed within it; 0 for any number.
    pub start_burst: u32,
    /// Pause before a restart.
    pub restart_interval: Duration,
}

impl Default for RunParameters {
    fn default() -> Self {
        Self {
            start_interval: Duration::from_secs(5),
            start_burst: 3,
            restart_interval: Duration::from_secs(1),
        }
    }
}

/// The starts that still count.
#[derive(Debug, Default)]
pub struct Window(VecDeque<Instant>);

impl Window {
    /// Notes a start.
    pub fn started(&mut self, now: Instant) {
        // Only the newest `burst` starts can matter; a bound keeps "any number" from growing.
        if self.0.len() >= 64 {
            self.0.pop_front();
        }
        self.0.push_back(now);
    }

    /// When to start again after an exit at `now`; `None` to give up.
    pub fn next_start(&self, now: Instant, rules: &RunParameters) -> Option<Instant> {
        let due = now + rules.restart_interval;
        let burst = usize::try_from(rules.start_burst.min(64)).unwrap_or(64);
        let counted = self.0.iter().filter(|&&at| at + rules.start_interval > due).count();
        (burst == 0 || counted < burst).then_some(due)
    }

    /// Forgets everything: whoever asks for a new start gets the full number again.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules(interval: u64, burst: u32, pause: u64) -> RunParameters {
        RunParameters {
            start_interval: Duration::from_millis(interval),
            start_burst: burst,
            restart_interval: Duration::from_millis(pause),
        }
    }

    #[test]
    fn a_crash_loop_ends_and_a_late_crash_restarts() {
        let rules = rules(5000, 3, 1000);
        let mut window = Window::default();
        let start = Instant::now();
        window.started(start);
        let second = window.next_start(start, &rules).unwrap();
        assert_eq!(second, start + Duration::from_secs(1));
        window.started(second);
        let third = window.next_start(second, &rules).unwrap();
        window.started(third);
        assert_eq!(window.next_start(third, &rules), None);
        assert!(window.next_start(third + Duration::from_mins(1), &rules).is_some());
    }

    proptest! {
        // However an instance crashes, no window holds more starts than allowed.
        #[test]
        fn no_window_holds_more_than_the_burst(
            lives in proptest::collection::vec(0u64..3000, 1..40), burst in 1u32..6, interval in 1u64..8000, pause in 0u64..2000,
        ) {
            let rules = rules(interval, burst, pause);
            let mut window = Window::default();
            let mut now = Instant::now();
            let mut starts = vec![now];
            window.started(now);
            for life in lives {
                now += Duration::from_millis(life);
                let Some(next) = window.next_start(now, &rules) else { break };
                now = next;
                window.started(now);
                starts.push(now);
            }
            for (index, &last) in starts.iter().enumerate() {
                let inside = starts.iter().take(index + 1).filter(|&&at| at + rules.start_interval > last).count();
                prop_assert!(inside <= burst as usize);
            }
        }
    }
}

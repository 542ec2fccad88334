//! Keeps a flood of journal entries, and our own errors about alerts, from becoming a flood of alerts. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use aos_unit_api::servicemanager::v5::alert::AlertItem;

/// Alerts that may come at once.
const BURST: u32 = 30;
/// After that, one for each of these.
const PAUSE: Duration = Duration::from_secs(2);
/// How long an alert is not told again.
const MEMORY: Duration = Duration::from_secs(30);
/// Alerts that are remembered for that.
const REMEMBERED: usize = 16;

/// Lets alerts through, or not.
#[derive(Debug)]
pub struct Brake {
    places: u32,
    filled: Instant,
    left_out: u64,
    recent: VecDeque<(Instant, AlertItem)>,
}

impl Brake {
    /// With all places free.
    pub fn new(now: Instant) -> Self {
        Self { places: BURST, filled: now, left_out: 0, recent: VecDeque::new() }
    }

    /// True when the alert may go: it has not been told just now, and not too many have.
    pub fn admits(&mut self, now: Instant, item: &AlertItem) -> bool {
        let passed = now.saturating_duration_since(self.filled);
        let more = u32::try_from(passed.as_millis() / PAUSE.as_millis()).unwrap_or(u32::MAX);
        self.places = self.places.saturating_add(more).min(BURST);
        self.filled += PAUSE * more.min(1 << 16);
        if self.places == BURST {
            self.filled = now;
        }
        self.recent.retain(|(told, _)| now.saturating_duration_since(*told) < MEMORY);
        if self.recent.iter().any(|(_, known)| known == item) {
            return false;
        }
        if self.places == 0 {
            self.left_out += 1;
            return false;
        }
        self.places -= 1;
        if self.recent.len() >= REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back((now, item.clone()));
        true
    }

    /// How many were left out since the last question, because there were too many.
    pub fn left_out(&mut self) -> u64 {
        std::mem::take(&mut self.left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::super::system_item;
    use super::*;

    // SM-64: an error that alerting itself makes the system log must not go round for ever.
    #[test]
    fn what_repeats_or_floods_is_held_back() {
        let start = Instant::now();
        let mut brake = Brake::new(start);
        assert!(brake.admits(start, &system_item("one")));
        assert!(!brake.admits(start + MEMORY / 2, &system_item("one")));
        assert_eq!(brake.left_out(), 0, "it has been told");
        assert!(brake.admits(start + MEMORY, &system_item("one")));

        let mut brake = Brake::new(start);
        let mut admitted = 0;
        for number in 0..3000u32 {
            let now = start + Duration::from_millis(10) * number;
            admitted += u32::from(brake.admits(now, &system_item(&number.to_string())));
        }
        assert_eq!(admitted, BURST + 30 / 2 - 1, "thirty seconds of it");
        assert_eq!(brake.left_out(), u64::from(3000 - admitted));
        let later = start + Duration::from_hours(1);
        let burst = (0..100).filter(|n| brake.admits(later, &system_item(&format!("later {n}")))).count();
        assert_eq!(burst, BURST as usize);
    }
}

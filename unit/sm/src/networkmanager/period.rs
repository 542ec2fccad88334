//! The period traffic is counted in: a day of the calendar, UTC. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Counters, Traffic};

const DAY: u64 = 24 * 3600;
/// First day a clock can show that somebody has set: 2024-01-01.
const FIRST_SET: u64 = 19_723;

/// What is remembered of the traffic, on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Days since 1970.
    pub day: u64,
    /// The node itself.
    pub system: Counters,
    /// Instances by instance ID, also those that do not run now.
    pub instances: BTreeMap<String, Counters>,
}

/// The day of a time in seconds since 1970.
pub const fn day_of(seconds: u64) -> u64 {
    seconds / DAY
}

/// True when `today` is in another period than `day`. A clock that nobody has set since the machine started
/// tells no day: the present period goes on.
pub const fn is_over(day: u64, today: u64) -> bool {
    today != day && today >= FIRST_SET
}

impl Ledger {
    /// Begins a new period when the day is another one; true when it is.
    pub fn turn(&mut self, today: u64) -> bool {
        if !is_over(self.day, today) {
            return false;
        }
        *self = Self { day: today, ..Self::default() };
        true
    }

    /// Takes over what the kernel counted; true when something changed.
    pub fn note(&mut self, traffic: &Traffic) -> bool {
        let before = self.clone();
        self.system = traffic.system;
        self.instances.extend(traffic.instances.iter().map(|(id, counters)| (id.clone(), *counters)));
        *self != before
    }

    /// What an instance had in this period.
    pub fn of(&self, id: &str) -> Counters {
        self.instances.get(id).copied().unwrap_or_default()
    }

    /// Forgets an instance.
    pub fn forget(&mut self, id: &str) -> bool {
        self.instances.remove(id).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic(bytes: u64) -> Traffic {
        let counters = Counters { download: bytes, upload: bytes + 1 };
        Traffic { system: counters, instances: BTreeMap::from([("a".to_owned(), counters)]) }
    }

    #[test]
    fn a_new_day_begins_at_zero() {
        let mut ledger = Ledger { day: 20_000, ..Ledger::default() };
        assert!(ledger.note(&traffic(5)));
        assert!(!ledger.note(&traffic(5)));
        assert!(!ledger.turn(day_of(20_000 * DAY + DAY - 1)));
        assert_eq!(ledger.of("a"), Counters { download: 5, upload: 6 });
        assert!(ledger.turn(day_of(20_001 * DAY)));
        assert_eq!(ledger, Ledger { day: 20_001, ..Ledger::default() });
        assert_eq!(ledger.of("a"), Counters::default());
    }

    #[test]
    fn a_clock_that_is_not_set_ends_no_period() {
        let mut ledger = Ledger { day: 20_000, ..Ledger::default() };
        ledger.note(&traffic(5));
        assert!(!ledger.turn(0));
        assert!(!ledger.turn(20_000));
        assert_eq!(ledger.of("a").download, 5);
        // A day in the past is believed when the clock is set: else a wrong future would last.
        assert!(ledger.turn(19_900));
    }

    #[test]
    fn instances_are_forgotten_one_by_one() {
        let mut ledger = Ledger::default();
        ledger.note(&traffic(5));
        assert!(ledger.forget("a"));
        assert!(!ledger.forget("a"));
        let text = serde_json::to_vec(&ledger).unwrap();
        assert_eq!(serde_json::from_slice::<Ledger>(&text).unwrap(), ledger);
    }
}

//! When a Unit may open a session: spreads what comes at once. Pure.
//!
//! After an outage thousands of Units come back together. Sessions are opened at a bounded rate, with a
//! burst for ordinary days. Who comes beyond that gets the next free place in time, is told to come back
//! then (`RepeatLater`), and finds the place kept. So the storm passes at the rate that was set, nobody is
//! put off twice, and nobody waits longer than the storm takes, or ten minutes.
//!
//! Limit: 65,536 kept places. Who gets none then comes back after ten minutes and tries again.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use aos_ids::SystemId;

use crate::settings::Settings;

/// Bounds of the first delay of a Unit's back-off on ordinary days.
const MIN_DELAY: Duration = Duration::from_secs(1);
const MAX_DELAY: Duration = Duration::from_secs(10);
/// Longest time a Unit is sent away for.
const MAX_LATER: Duration = Duration::from_mins(10);
const MAX_PLACES: usize = 64 * 1024;
/// How long a place is kept for a Unit that does not come. Upstream doubles its delays.
const KEPT: Duration = Duration::from_mins(5);
/// How long a Unit that was welcomed may take to open its session.
const TAKEN: Duration = Duration::from_mins(1);
/// How early a Unit may take its place: clocks and jitter differ.
const EARLY: Duration = Duration::from_millis(500);

/// What a Unit is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Connect; this is the first delay of its reconnect back-off.
    Welcome(Duration),
    /// Come back after this time.
    Later(Duration),
}

/// A place in time that is kept.
#[derive(Debug, Clone, Copy)]
struct Place {
    from: Instant,
    until: Instant,
}

#[derive(Debug)]
pub(crate) struct Arrivals {
    interval: Duration,
    burst: Duration,
    /// When the next session would be due, were all evenly spaced. More than the burst ahead: full.
    next: Instant,
    places: HashMap<SystemId, Place>,
    /// The same in the order in which they were given, to forget them.
    order: VecDeque<(SystemId, Instant)>,
}

impl Arrivals {
    pub(crate) fn new(settings: &Settings, now: Instant) -> Self {
        let interval = Duration::from_secs_f64(1.0 / settings.admissions_per_second.max(0.001));
        let burst = interval.mul_f64(settings.admission_burst.max(1.0));
        Self { interval, burst, next: now, places: HashMap::new(), order: VecDeque::new() }
    }

    /// A Unit asks where to connect. `jitter` is drawn evenly from 0..1.
    pub(crate) fn discover(&mut self, now: Instant, unit: &SystemId, jitter: f64) -> Arrival {
        self.forget(now);
        if let Some(place) = self.places.get(unit).filter(|place| place.until > now) {
            if place.from <= now + EARLY {
                return Arrival::Welcome(self.delay(now, jitter));
            }
            return Arrival::Later(later(place.from - now));
        }
        if self.take(now) {
            // What it was admitted for: its upgrade needs no second place.
            self.keep(unit, now, now + TAKEN);
            return Arrival::Welcome(self.delay(now, jitter));
        }
        let from = (self.next + self.interval).checked_sub(self.burst).unwrap_or(now).max(now);
        if from > now + MAX_LATER || self.places.len() >= MAX_PLACES {
            return Arrival::Later(MAX_LATER.mul_f64(0.8 + 0.2 * jitter));
        }
        self.next += self.interval;
        self.keep(unit, from, from + KEPT);
        Arrival::Later(later(from - now))
    }

    /// A Unit wants to open a session: may it? A place is used up by that.
    pub(crate) fn upgrade(&mut self, now: Instant, unit: &SystemId) -> bool {
        self.forget(now);
        match self.places.get(unit) {
            Some(place) if place.until <= now => self.take(now),
            Some(place) if place.from <= now + EARLY => {
                self.places.remove(unit);
                true
            }
            Some(_) => false,
            None => self.take(now),
        }
    }

    /// First delay of a Unit's back-off: longer the more have come, so that the next outage ends spread.
    fn delay(&self, now: Instant, jitter: f64) -> Duration {
        let used = self.next.saturating_duration_since(now).as_secs_f64() / self.burst.as_secs_f64();
        let (least, most) = (MIN_DELAY.as_secs_f64(), MAX_DELAY.as_secs_f64());
        let span = least + used.min(1.0) * (most - 2.0 * least);
        Duration::from_secs_f64(least + jitter * span)
    }

    fn take(&mut self, now: Instant) -> bool {
        let free = self.next + self.interval <= now + self.burst;
        if free {
            self.next = self.next.max(now) + self.interval;
        }
        free
    }

    fn keep(&mut self, unit: &SystemId, from: Instant, until: Instant) {
        if self.places.len() < MAX_PLACES {
            self.places.insert(unit.clone(), Place { from, until });
            self.order.push_back((unit.clone(), until));
        }
    }

    fn forget(&mut self, now: Instant) {
        // Places end nearly in the order in which they were given; one that ended is not looked at anyway.
        while let Some((unit, until)) = self.order.front() {
            if *until > now && self.order.len() <= 2 * MAX_PLACES {
                break;
            }
            if self.places.get(unit).is_some_and(|place| place.until == *until) {
                self.places.remove(unit);
            }
            self.order.pop_front();
        }
    }
}

fn later(time: Duration) -> Duration {
    time.clamp(MIN_DELAY, MAX_LATER)
}

#[cfg(test)]
mod tests;

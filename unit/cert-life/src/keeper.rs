//! Which certificates to ask the cloud for, and when.
//!
//! A certificate is due when a share of its life is over. Whatever is due is asked for in one go; after a
//! failure again after a pause that doubles, with jitter, from minutes to a day, and shrinks towards the end
//! of the certificate. An expired certificate is asked for at least once an hour, for ever: the cloud is the
//! judge of what has ended, our clock may be wrong. Pauses are scaled to the life, so that certificates that
//! live for seconds are kept as well.

use crate::Time;

/// Longest pause between two tries, seconds.
pub const LONGEST_PAUSE: i64 = 24 * 3600;
/// Longest time between two looks at the clock, which may be set at any time; seconds.
pub const LONGEST_WAIT: i64 = 3600;
const FIRST_PAUSE: i64 = 300;
/// Longest pause while something has ended.
const EXPIRED_PAUSE: i64 = 3600;
/// Many Units become due together; their first tries are spread over at most this time.
const SPREAD: i64 = 3600;
const EXPIRED_SPREAD: i64 = 60;
const JITTER: f64 = 0.2;

/// How the certificates are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Share of a life after which a certificate is due, per cent, 1 to 99.
    pub renew_at_percent: u8,
}

impl Default for Settings {
    fn default() -> Self {
        // The cloud asks for renewals at two thirds; we come after it.
        Self { renew_at_percent: 75 }
    }
}

/// Life of the newest certificate of a type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    /// Its type.
    pub cert_type: String,
    /// Begin of validity.
    pub not_before: i64,
    /// End of validity.
    pub not_after: i64,
}

impl Life {
    fn length(&self) -> i64 {
        self.not_after.saturating_sub(self.not_before).max(1)
    }

    /// When it is due.
    fn due_at(&self, settings: Settings) -> i64 {
        let percent = i64::from(settings.renew_at_percent.clamp(1, 99));
        self.not_before.saturating_add(self.length() / 100 * percent + self.length() % 100 * percent / 100)
    }
}

/// What happens to a keeper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The newest certificates, one for each type.
    Lives(Vec<Life>),
    /// Time has passed.
    Wake,
    /// The cloud answered the order; what it gave comes as [`Event::Lives`].
    Done,
    /// The order failed.
    Failed,
}

/// Ask the cloud for certificates of these types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The types, at least one.
    pub types: Vec<String>,
}

/// The decisions. One order is under way at a time: it ends with [`Event::Done`] or [`Event::Failed`].
#[derive(Debug, Clone)]
pub struct Keeper {
    settings: Settings,
    lives: Vec<Life>,
    tries: u32,
    /// Monotonic time of the next try; none while nothing is due.
    next: Option<i64>,
    /// Not before this monotonic time, because the cloud has just answered.
    rest: i64,
    busy: bool,
}

impl Keeper {
    /// A keeper that knows no certificates yet.
    pub fn new(settings: Settings) -> Self {
        Self { settings, lives: Vec::new(), tries: 0, next: None, rest: i64::MIN, busy: false }
    }

    /// Takes note of an event. `random` in 0..1 chooses the jitter.
    pub fn on(&mut self, time: Time, random: f64, event: Event) -> Option<Order> {
        match event {
            Event::Lives(lives) => self.lives = lives,
            Event::Wake => {}
            Event::Done => {
                self.busy = false;
                self.tries = 0;
                self.next = None;
                self.rest = time.monotonic.saturating_add(self.rest_after(time));
            }
            Event::Failed => {
                self.busy = false;
                if let Some(pause) = self.pause(time, random) {
                    self.tries = self.tries.saturating_add(1);
                    self.next = Some(time.monotonic.saturating_add(pause));
                }
            }
        }
        if self.busy {
            return None;
        }
        let types: Vec<String> = self.due(time.now).map(|life| life.cert_type.clone()).collect();
        if types.is_empty() {
            self.tries = 0;
            self.next = None;
            return None;
        }
        let spread = self.spread(time);
        let next = *self.next.get_or_insert_with(|| time.monotonic.saturating_add(part(spread, random)));
        if next.max(self.rest) > time.monotonic {
            return None;
        }
        self.busy = true;
        Some(Order { types })
    }

    /// Seconds until [`Event::Wake`] is to come, 1 to [`LONGEST_WAIT`]; none while an order is under way or
    /// nothing is known.
    pub fn wait(&self, time: Time) -> Option<i64> {
        if self.busy || self.lives.is_empty() {
            return None;
        }
        let wait = if let Some(next) = self.next {
            next.max(self.rest).saturating_sub(time.monotonic)
        } else {
            let due = self.lives.iter().map(|life| life.due_at(self.settings));
            due.min().unwrap_or(i64::MAX).saturating_sub(time.now)
        };
        Some(wait.clamp(1, LONGEST_WAIT))
    }

    /// Whether anything has ended, as far as we know.
    pub fn is_expired(&self, time: Time) -> bool {
        self.lives.iter().any(|life| life.not_after < time.now)
    }

    fn due(&self, now: i64) -> impl Iterator<Item = &Life> {
        self.lives.iter().filter(move |life| life.due_at(self.settings) <= now)
    }

    /// The shortest life among what is due, and the time left to the first end.
    fn pressing(&self, now: i64) -> Option<(i64, i64)> {
        let length = self.due(now).map(Life::length).min()?;
        let left = self.due(now).map(|life| life.not_after.saturating_sub(now)).min()?;
        Some((length, left))
    }

    fn spread(&self, time: Time) -> i64 {
        let Some((length, left)) = self.pressing(time.now) else { return 0 };
        // What has ended is urgent, but a thousand Units may find that together when they are switched on.
        if left <= 0 { (length / 20).min(EXPIRED_SPREAD) } else { (left / 10).min(SPREAD) }
    }

    fn pause(&self, time: Time, random: f64) -> Option<i64> {
        let (length, left) = self.pressing(time.now)?;
        let first = (length / 1000).clamp(1, FIRST_PAUSE);
        let longest = if left <= 0 {
            (length / 100).clamp(first, EXPIRED_PAUSE)
        } else {
            (length / 20).clamp(first, LONGEST_PAUSE).min((left / 4).max(first))
        };
        let doubled = first.saturating_mul(1_i64 << self.tries.min(40)).min(longest);
        Some((doubled - part(doubled, JITTER * random)).max(1))
    }

    /// What is still due although the cloud answered was refused, or only seems due to a wrong clock.
    fn rest_after(&self, time: Time) -> i64 {
        let Some((length, _)) = self.pressing(time.now) else { return 0 };
        let honest = !time.exact || self.due(time.floor).next().is_some();
        if honest { (length / 20).clamp(1, LONGEST_PAUSE) } else { LONGEST_PAUSE }
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "a share of a short time")]
fn part(whole: i64, share: f64) -> i64 {
    let share = if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 };
    (whole as f64 * share) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: i64 = 1_700_000_000;
    const DAY: i64 = 86_400;

    fn time(now: i64) -> Time {
        Time { now, floor: T, exact: false, monotonic: now - T }
    }

    fn life(cert_type: &str, length: i64) -> Life {
        Life { cert_type: cert_type.into(), not_before: T, not_after: T + length }
    }

    fn keeper(lives: &[Life]) -> Keeper {
        let mut keeper = Keeper::new(Settings::default());
        assert_eq!(keeper.on(time(T), 0.0, Event::Lives(lives.to_vec())), None);
        keeper
    }

    #[test]
    fn asks_for_what_is_due_and_nothing_else() {
        let mut keeper = keeper(&[life("online", 100 * DAY), life("offline", 1000 * DAY)]);
        assert_eq!(keeper.on(time(T + 75 * DAY - 1), 0.0, Event::Wake), None);
        assert_eq!(keeper.wait(time(T + 75 * DAY - 1)), Some(1));
        assert_eq!(keeper.wait(time(T)), Some(LONGEST_WAIT), "the clock may be set");
        let order = keeper.on(time(T + 75 * DAY), 0.0, Event::Wake).unwrap();
        assert_eq!(order.types, ["online"]);
        assert_eq!(keeper.on(time(T + 76 * DAY), 0.0, Event::Wake), None, "one at a time");
        assert_eq!(keeper.wait(time(T + 76 * DAY)), None);
    }

    #[test]
    fn tries_again_more_and_more_rarely_and_more_often_towards_the_end() {
        let mut keeper = keeper(&[life("online", 100 * DAY)]);
        let mut now = T + 75 * DAY;
        assert!(keeper.on(time(now), 0.0, Event::Wake).is_some());
        let mut pauses = Vec::new();
        while now < T + 101 * DAY {
            assert_eq!(keeper.on(time(now), 0.5, Event::Failed), None);
            let mut pause = 0;
            loop {
                let wait = keeper.wait(time(now)).unwrap();
                now += wait;
                pause += wait;
                if keeper.on(time(now), 0.5, Event::Wake).is_some() {
                    break;
                }
            }
            pauses.push((now, pause));
        }
        let longest = pauses.iter().map(|(_, pause)| *pause).max().unwrap();
        assert_eq!(pauses[0].1, 270);
        assert!(longest <= LONGEST_PAUSE && longest > DAY / 2);
        let late = |(at, _): &&(i64, i64)| (T + 99 * DAY..T + 100 * DAY).contains(at);
        assert!(pauses.iter().filter(late).count() > 8, "hurries at the end");
        let after: Vec<_> = pauses.iter().filter(|(at, _)| *at > T + 100 * DAY + EXPIRED_PAUSE).collect();
        assert!(after.len() > 20 && after.iter().all(|(_, pause)| *pause <= EXPIRED_PAUSE));
    }

    #[test]
    fn a_renewal_ends_the_hurry() {
        let mut keeper = keeper(&[life("online", 100 * DAY)]);
        let at = T + 90 * DAY;
        assert!(keeper.on(time(at), 0.0, Event::Wake).is_some());
        let new = Life { cert_type: "online".into(), not_before: at, not_after: at + 100 * DAY };
        assert_eq!(keeper.on(time(at), 0.0, Event::Lives(vec![new])), None);
        assert_eq!(keeper.on(time(at), 0.0, Event::Done), None);
        assert_eq!(keeper.on(time(at + 74 * DAY), 0.0, Event::Wake), None);
        assert!(keeper.on(time(at + 75 * DAY), 0.0, Event::Wake).is_some());
    }

    #[test]
    fn a_clock_far_ahead_asks_once_a_day_when_the_floor_is_exact() {
        let far = T + 4000 * DAY;
        let at = |monotonic| Time { now: far + monotonic, floor: T + monotonic, exact: true, monotonic };
        let mut keeper = keeper(&[life("online", 100 * DAY)]);
        assert!(keeper.on(at(60), 0.0, Event::Wake).is_some());
        let new = Life { cert_type: "online".into(), not_before: T + 60, not_after: T + 100 * DAY };
        assert_eq!(keeper.on(at(61), 0.0, Event::Lives(vec![new])), None);
        assert_eq!(keeper.on(at(61), 0.0, Event::Done), None);
        assert_eq!(keeper.on(at(DAY), 0.0, Event::Wake), None);
        assert!(keeper.on(at(DAY + 61), 0.0, Event::Wake).is_some());
    }

    #[test]
    fn lives_of_seconds_are_kept() {
        let mut keeper = keeper(&[life("online", 20)]);
        assert!(keeper.on(time(T + 15), 0.0, Event::Wake).is_some());
        assert_eq!(keeper.on(time(T + 15), 0.0, Event::Failed), None);
        assert_eq!(keeper.wait(time(T + 15)), Some(1));
    }
}

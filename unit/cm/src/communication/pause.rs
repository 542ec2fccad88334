//! Pauses between attempts to reach the cloud, as a pure value.
//!
//! They double from 1 s, or from what the cloud wishes, up to 10 min, over as many addresses and discoveries
//! as it takes; only a link that proved good starts them anew. A fifth is added or taken away at random, so
//! that Units that lost the same cloud do not come back together.

use std::time::Duration;

/// Shortest first pause.
const FIRST: Duration = Duration::from_secs(1);
/// Longest pause, with what is added at random.
const LONGEST: Duration = Duration::from_mins(10);
/// Share of a pause that may be added or taken away.
const JITTER: f64 = 0.2;

/// Where the next pause stands.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pauses {
    next: Option<Duration>,
}

impl Pauses {
    /// The next pause. `first` is the cloud's wish for the first one, `random` a number in 0..1.
    pub fn next(&mut self, first: Option<Duration>, random: f64) -> Duration {
        let longest = LONGEST.div_f64(1.0 + JITTER);
        let base = self.next.unwrap_or_else(|| first.unwrap_or(FIRST)).clamp(FIRST, longest);
        self.next = Some(base.saturating_mul(2).min(longest));
        base.mul_f64(1.0 - JITTER + 2.0 * JITTER * random.clamp(0.0, 1.0))
    }

    /// The next pause is a first one again.
    pub fn reset(&mut self) {
        self.next = None;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: Duration = Duration::from_secs(1);

    // CM-22, PRO-28, DIS-11: from 1 s to 10 min, without an end of the round.
    // PRO-29: rounds have no end of their own (D9)
    #[test]
    fn pauses_double_up_to_ten_minutes() {
        let mut pauses = Pauses::default();
        let middle: Vec<u64> = (0..12).map(|_| pauses.next(None, 0.5).as_secs()).collect();
        assert_eq!(middle, [1, 2, 4, 8, 16, 32, 64, 128, 256, 500, 500, 500]);
        assert_eq!(pauses.next(None, 1.0), LONGEST);
        pauses.reset();
        assert_eq!(pauses.next(None, 0.5), S);
    }

    // PRO-09, D6
    #[test]
    fn the_cloud_chooses_the_first_pause() {
        let mut pauses = Pauses::default();
        assert_eq!(pauses.next(Some(5 * S), 0.5), 5 * S);
        assert_eq!(pauses.next(Some(7 * S), 0.5), 10 * S, "only the first");
        pauses.reset();
        assert_eq!(pauses.next(Some(Duration::from_millis(1)), 0.5), S, "at least 1 s");
        pauses.reset();
        assert_eq!(pauses.next(Some(Duration::MAX), 1.0), LONGEST, "at most 10 min");
    }

    #[test]
    fn a_fifth_is_added_or_taken_away() {
        let all = [0.0, 0.25, 0.75, 1.0].map(|random| Pauses::default().next(Some(10 * S), random).as_secs());
        assert_eq!(all, [8, 9, 11, 12]);
    }

    proptest! {
        #[test]
        fn every_pause_is_within_its_bounds(first: Option<u64>, randoms in prop::collection::vec(any::<f64>(), 1..60)) {
            let mut pauses = Pauses::default();
            for random in randoms.into_iter().filter(|random| random.is_finite()) {
                let pause = pauses.next(first.map(Duration::from_millis), random);
                prop_assert!(pause >= FIRST.mul_f64(0.8) && pause <= LONGEST, "{pause:?}");
            }
        }
    }
}

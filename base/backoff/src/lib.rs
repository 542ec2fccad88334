//! Exponential back-off with jitter, as a pure value.
//!
//! The delay doubles from `min` to `max`. Jitter takes away up to a given fraction of a delay, never adds to
//! it, so `max` is a true upper bound and many Units that lost the same peer do not come back at once.
//! The value holds no clock and no source of randomness: the caller passes a random number and waits.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// State of one retry loop.
#[derive(Debug, Clone, PartialEq)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    jitter: f64,
    delay: Duration,
}

impl Backoff {
    /// A back-off from `min` to `max`; of each delay up to `jitter_fraction` (0..=1, clamped) is taken away.
    ///
    /// A `max` below `min` counts as `min`.
    pub fn new(min: Duration, max: Duration, jitter_fraction: f64) -> Self {
        let jitter = if jitter_fraction.is_finite() { jitter_fraction.clamp(0.0, 1.0) } else { 0.0 };
        Self { min, max: max.max(min), jitter, delay: min }
    }

    /// The delay to wait before the next try; `random` in 0..1 chooses the jitter (clamped).
    pub fn next(&mut self, random: f64) -> Duration {
        let base = self.delay;
        self.delay = base.saturating_mul(2).min(self.max);
        let random = if random.is_finite() { random.clamp(0.0, 1.0) } else { 0.0 };
        base.mul_f64(1.0 - self.jitter * random)
    }

    /// Starts over at `min`, to be called after a success.
    pub fn reset(&mut self) {
        self.delay = self.min;
    }
}

/// A random number in 0..1 for [`Backoff::next`]. Good enough to spread retries, not for secrets.
pub fn random_fraction() -> f64 {
    // Each RandomState is keyed differently; hashing nothing yields a value of that key.
    let bits = RandomState::new().build_hasher().finish();
    #[allow(clippy::cast_precision_loss)]
    let fraction = (bits >> 11) as f64 / (1_u64 << 53) as f64;
    fraction
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn doubles_up_to_the_limit_and_starts_over() {
        let mut backoff = Backoff::new(S, 5 * S, 0.5);
        let delays: Vec<_> = (0..5).map(|_| backoff.next(0.0)).collect();
        assert_eq!(delays, [S, 2 * S, 4 * S, 5 * S, 5 * S]);
        backoff.reset();
        assert_eq!(backoff.next(0.0), S);
    }

    #[test]
    fn jitter_shortens() {
        assert_eq!(Backoff::new(10 * S, 10 * S, 0.5).next(1.0), 5 * S);
    }

    #[test]
    fn random_numbers_differ() {
        assert_ne!(random_fraction().to_bits(), random_fraction().to_bits());
    }

    proptest! {
        #[test]
        fn every_delay_is_within_its_bounds(
            min in 0_u64..1_000_000, max in 0_u64..100_000_000, jitter in -1.0..2.0_f64,
            randoms in proptest::collection::vec(-0.5..1.5_f64, 1..80),
        ) {
            let (min, max) = (Duration::from_millis(min), Duration::from_millis(max));
            let mut backoff = Backoff::new(min, max, jitter);
            let least = min.mul_f64(1.0 - jitter.clamp(0.0, 1.0));
            for random in randoms {
                let delay = backoff.next(random);
                prop_assert!(delay >= least && delay <= max.max(min));
            }
        }

        #[test]
        fn hostile_numbers_never_panic(min: u64, max: u64, jitter: f64, random: f64) {
            let mut backoff = Backoff::new(Duration::from_secs(min), Duration::from_secs(max), jitter);
            for _ in 0..70 {
                backoff.next(random);
            }
        }
    }
}

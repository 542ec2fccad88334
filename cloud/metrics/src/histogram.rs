//! Counts of observations up to fixed bounds.

use std::sync::atomic::{AtomicU64, Ordering};

/// A histogram with fixed bounds.
#[derive(Debug)]
pub(crate) struct Histogram {
    bounds: &'static [f64],
    /// Observations up to each bound and above the one before; the last is above all.
    buckets: Vec<AtomicU64>,
    /// In millionths, which keeps it in an integer.
    sum_millionths: AtomicU64,
}

/// A histogram at one moment: counts up to each bound, then of all, and the sum.
pub(crate) struct Reading {
    pub(crate) up_to: Vec<(f64, u64)>,
    pub(crate) count: u64,
    pub(crate) sum: f64,
}

impl Histogram {
    pub(crate) fn new(bounds: &'static [f64]) -> Self {
        let buckets = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, buckets, sum_millionths: AtomicU64::new(0) }
    }

    pub(crate) fn observe(&self, value: f64) {
        let at = self.bounds.iter().position(|bound| value <= *bound).unwrap_or(self.bounds.len());
        if let Some(bucket) = self.buckets.get(at) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, as wanted")]
        let millionths = (value * 1e6) as u64;
        self.sum_millionths.fetch_add(millionths, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Reading {
        let mut count = 0;
        let mut up_to = Vec::with_capacity(self.bounds.len());
        for (at, bucket) in self.buckets.iter().enumerate() {
            count += bucket.load(Ordering::Relaxed);
            up_to.extend(self.bounds.get(at).map(|bound| (*bound, count)));
        }
        #[expect(clippy::cast_precision_loss, reason = "a sum of seconds needs no more than 52 bits")]
        let sum = self.sum_millionths.load(Ordering::Relaxed) as f64 / 1e6;
        Reading { up_to, count, sum }
    }
}

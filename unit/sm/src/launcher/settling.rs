//! When the launcher has come to rest after it had something to do.
//!
//! Starts and stops touch code and memory that an idle Service Manager never uses; some time after the last one
//! both go back to the system. An idle launcher is not woken for it again.

use std::time::{Duration, Instant};

/// Time without orders after which memory goes back.
const SETTLED: Duration = Duration::from_secs(10);

/// The rest that follows work.
#[derive(Debug, Default)]
pub struct Settling {
    was_busy: bool,
    at: Option<Instant>,
}

impl Settling {
    /// Takes note of whether there is work now.
    pub fn observe(&mut self, now: Instant, is_idle: bool) {
        match (is_idle, self.was_busy) {
            (false, _) => *self = Self { was_busy: true, at: None },
            (true, true) => *self = Self { was_busy: false, at: Some(now + SETTLED) },
            (true, false) => {}
        }
    }

    /// Waits until there has been no work for long enough; for ever when there was none.
    pub async fn over(&self) {
        match self.at {
            Some(at) => tokio::time::sleep_until(at.into()).await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rest_follows_work_once_and_new_work_puts_it_off() {
        let now = Instant::now();
        let mut settling = Settling::default();
        settling.observe(now, true);
        assert_eq!(settling.at, None);
        settling.observe(now, false);
        settling.observe(now, true);
        assert_eq!(settling.at, Some(now + SETTLED));
        settling.observe(now + SETTLED / 2, true);
        assert_eq!(settling.at, Some(now + SETTLED));
        settling.observe(now + SETTLED / 2, false);
        assert_eq!(settling.at, None);
        settling.observe(now + SETTLED, true);
        assert_eq!(settling.at, Some(now + SETTLED * 2));
    }
}

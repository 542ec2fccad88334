//! Waiting for conditions with a deadline.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// Asks `condition` again and again until it gives a value; fails after `limit`.
///
/// `what` completes the sentence "waited 10 s for ...".
pub fn wait_for<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> Result<T> {
    wait_for_or_last(what, limit, || condition().ok_or_else(String::new))
}

/// As [`wait_for`]; the condition tells what it saw instead, and the last such text goes into the error.
pub fn wait_for_or_last<T>(
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> std::result::Result<T, String>,
) -> Result<T> {
    let (start, limit) = (Instant::now(), limit * patience());
    loop {
        let last = match condition() {
            Ok(value) => return Ok(value),
            Err(last) => last,
        };
        if start.elapsed() >= limit {
            return Err(Error::Timeout { what: what.to_owned(), after: limit, last });
        }
        pause(Duration::from_millis(20));
    }
}

/// Factor on all limits, for slow machines: the environment variable `DEMO_PATIENCE`, else 1.
pub fn patience() -> u32 {
    std::env::var("DEMO_PATIENCE").ok().and_then(|text| text.parse().ok()).unwrap_or(1).clamp(1, 100)
}

/// Lets time pass. For pollers of things that cannot wake us, never in place of a condition.
#[allow(clippy::disallowed_methods, reason = "the one place that polls")]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_what_was_seen_last() {
        let error = wait_for_or_last::<()>("rain", Duration::ZERO, || Err("sun".to_owned())).unwrap_err();
        assert_eq!(error.to_string(), "waited 0 s for rain; last seen: sun");
    }
}

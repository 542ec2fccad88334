//! Waiting for work that the cloud does with a Unit: shows each step, can be interrupted and taken up again.
//!
//! The work lives in the cloud, so an interrupted command loses nothing; what to run to look again is told when
//! the waiting begins.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::args::Wait;
use crate::cloud::{Cloud, Refused};
use crate::output::{Output, text};

/// Longest time that the cloud is asked to hold one question, seconds.
const ONE_POLL: u64 = 20;
/// Between two attempts while the cloud does not answer.
const RETRY_PAUSE: Duration = Duration::from_secs(2);

/// What to wait for and what to tell meanwhile.
pub struct Follow<'a> {
    /// Document in the cloud, without parameters.
    pub path: String,
    /// What is waited for, as `the logs`.
    pub what: &'a str,
    /// Command that takes the waiting up again.
    pub again: String,
    /// States that are no end.
    pub open: &'a [&'a str],
}

impl Follow<'_> {
    /// Whether `document` is in a state that will not change any more.
    pub fn is_over(&self, document: &Value) -> bool {
        !self.open.contains(&text(document, "/state").as_str())
    }

    /// Follows the document until it is over; `progress` puts a state into words.
    pub async fn until_over(
        &self,
        cloud: &Cloud,
        wait: &Wait,
        out: &Output,
        progress: impl Fn(&Value) -> String,
    ) -> Result<Value> {
        out.progress(&format!(
            "waiting for {}; interrupt with Ctrl-C, take up again with: {}",
            self.what, self.again
        ));
        let until = Instant::now() + Duration::from_secs(wait.timeout);
        let mut told = String::new();
        let mut seen = String::new();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let hold = left.as_secs().min(ONE_POLL);
            let after = if seen.is_empty() { String::new() } else { format!("&after={seen}") };
            let path = format!("{}?wait={hold}{after}", self.path);
            let document = match cloud.get(&path).await {
                Ok(document) => document,
                Err(error) if error.downcast_ref::<Refused>().is_some() || left.is_zero() => {
                    return Err(error);
                }
                // A cloud that restarts is worth waiting for.
                Err(error) => {
                    out.progress(&format!("{error:#}; trying again"));
                    tokio::time::sleep(RETRY_PAUSE).await;
                    continue;
                }
            };
            if self.is_over(&document) {
                return Ok(document);
            }
            let line = progress(&document);
            if line != told {
                out.progress(&format!("  {line}"));
                told = line;
            }
            if left.is_zero() {
                bail!(
                    "{} did not come within {} s ({told}); it goes on in the cloud, look again with: {}",
                    self.what,
                    wait.timeout,
                    self.again
                );
            }
            seen = text(&document, "/revision");
        }
    }
}

/// A time given as RFC 3339 or as a duration before now, in RFC 3339.
pub fn past_time(given: &str) -> Result<String> {
    relative(given, -1)
}

/// A time given as RFC 3339 or as a duration after now, in RFC 3339.
pub fn future_time(given: &str) -> Result<String> {
    relative(given, 1)
}

fn relative(given: &str, sign: i64) -> Result<String> {
    if let Ok(time) = given.parse::<jiff::Timestamp>() {
        return Ok(time.to_string());
    }
    let length = aos_duration_text::parse(given).with_context(|| {
        format!("'{given}' is neither a time such as 2026-01-31T12:00:00Z nor a duration such as 30m")
    })?;
    let millis = i64::try_from(length.as_millis()).context("the duration is too long")?;
    let time = jiff::Timestamp::now()
        .checked_add(jiff::SignedDuration::from_millis(sign * millis))
        .context("the duration is too long")?;
    Ok(time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_points_or_distances() {
        assert_eq!(past_time("2026-01-31T12:00:00Z").unwrap(), "2026-01-31T12:00:00Z");
        let read = |text: String| text.parse::<jiff::Timestamp>().unwrap();
        let now = jiff::Timestamp::now();
        let ago = now.duration_since(read(past_time("30m").unwrap())).as_secs();
        let ahead = read(future_time("1h").unwrap()).duration_since(now).as_secs();
        assert!((1799..=1800).contains(&ago), "{ago}");
        assert!((3599..=3601).contains(&ahead), "{ahead}");
        assert!(past_time("soon").unwrap_err().to_string().contains("30m"));
    }
}

//! Long poll: an answer waits until its Unit changes.

use std::time::Duration;

use aos_cloud_store::UnitSignal;
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::Api;
use crate::error::ApiError;

/// Longest wait of one call, seconds.
const MAX_WAIT: f64 = 60.0;
/// What is asked for may change without the Unit's revision: then it is looked at this often.
const LOOK: Duration = Duration::from_secs(1);

/// `after`: a revision or an entry that is known already; `wait`: seconds, 0 to 60.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Poll {
    #[serde(default)]
    pub(crate) after: Option<i64>,
    #[serde(default)]
    wait: Option<f64>,
}

impl Poll {
    pub(crate) const fn new(after: Option<i64>, wait: Option<f64>) -> Self {
        Self { after, wait }
    }

    fn end(&self) -> Instant {
        let wait = self.wait.filter(|wait| wait.is_finite()).unwrap_or(0.0).clamp(0.0, MAX_WAIT);
        Instant::now() + Duration::from_secs_f64(wait)
    }

    /// Returns at once when the Unit's revision is not `after`, else as soon as it changes or `wait` is over.
    pub(crate) async fn changed(&self, api: &Api, unit_id: &str) -> Result<(), ApiError> {
        let Some(after) = self.after else { return Ok(()) };
        let mut signal = api.store.watch_unit(unit_id).await?;
        let changed = signal.wait_for(|signal| signal.revision != after);
        // No change is an answer too.
        let _ = tokio::time::timeout_at(self.end(), changed).await;
        Ok(())
    }

    /// Looking again and again for something that counts no revision.
    pub(crate) async fn looks(&self, api: &Api, unit_id: &str) -> Result<Looks, ApiError> {
        Ok(Looks { signal: api.store.watch_unit(unit_id).await?, end: self.end() })
    }
}

/// When to look again.
pub(crate) struct Looks {
    signal: watch::Receiver<UnitSignal>,
    end: Instant,
}

impl Looks {
    /// Waits for the next look; false when the time is over.
    pub(crate) async fn again(&mut self) -> bool {
        let now = Instant::now();
        if now >= self.end {
            return false;
        }
        let _ = tokio::time::timeout_at(self.end.min(now + LOOK), self.signal.changed()).await;
        true
    }
}

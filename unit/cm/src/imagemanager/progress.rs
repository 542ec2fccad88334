//! What the operator hears of the download of one blob.
//!
//! A big download is told when it begins and every 30 s after that; one that breaks off is told with the
//! reason, at most every 30 s; the end is told of those that were told of before. Small blobs that just
//! arrive are nobody's concern. A word that finds no room is left out.

use std::time::{Duration, Instant};

use aos_cloud_protocol::{DownloadProgressAlert, DownloadState};
use aos_ids::Digest;
use aos_status::ErrorInfo;
use tokio::sync::mpsc;

use super::Event;

/// Time between two words about the same download.
const PERIOD: Duration = Duration::from_secs(30);
/// Smallest download that is told of from the beginning, bytes.
const BIG: u64 = 1024 * 1024;
/// Longest reason, characters.
const MAX_REASON: usize = 256;

/// The words about one blob.
pub struct Progress {
    events: mpsc::Sender<Event>,
    digest: Digest,
    total: u64,
    running: Option<Instant>,
    broken: Option<Instant>,
}

fn is_due(last: Option<Instant>, now: Instant) -> bool {
    last.is_none_or(|last| now.duration_since(last) >= PERIOD)
}

impl Progress {
    /// Nothing told yet.
    pub fn new(events: mpsc::Sender<Event>, digest: &Digest) -> Self {
        Self { events, digest: *digest, total: 0, running: None, broken: None }
    }

    /// How many bytes there are in all, as the cloud says.
    pub fn set_total(&mut self, total: u64) {
        self.total = total;
    }

    /// `here` bytes have arrived.
    pub fn running(&mut self, url: &str, here: u64, now: Instant) {
        if (self.total >= BIG || self.broken.is_some()) && is_due(self.running, now) {
            self.running = Some(now);
            self.tell(DownloadState::Started, Some(url), here, None);
        }
    }

    /// It broke off.
    pub fn interrupted(&mut self, here: u64, error: ErrorInfo, now: Instant) {
        if is_due(self.broken, now) {
            self.broken = Some(now);
            self.tell(DownloadState::Interrupted, None, here, Some(error));
        }
    }

    /// It is complete.
    pub fn finished(&self) {
        if self.running.or(self.broken).is_some() {
            self.tell(DownloadState::Finished, None, self.total, None);
        }
    }

    fn tell(&self, state: DownloadState, url: Option<&str>, here: u64, error: Option<ErrorInfo>) {
        let reason = error.as_ref().map(|error| error.message.chars().take(MAX_REASON).collect());
        let alert = DownloadProgressAlert {
            timestamp: jiff::Timestamp::now(),
            digest: self.digest.to_string(),
            // What follows the question mark gives access.
            url: url.map(|url| url.split('?').next().unwrap_or_default().to_owned()),
            downloaded_bytes: here,
            total_bytes: self.total,
            state,
            reason,
            error_info: error,
        };
        let _ = self.events.try_send(Event::Progress(alert));
    }
}

#[cfg(test)]
mod tests {
    use aos_status::AosCode;

    use super::*;

    // PRO-77: what is told of a big and of a small download.
    #[test]
    fn only_what_matters_is_told() {
        let (events, mut told) = mpsc::channel(16);
        let digest = Digest::from_sha256([1; 32]);
        let mut states = || {
            let mut states = Vec::new();
            while let Ok(Event::Progress(alert)) = told.try_recv() {
                assert!(alert.url.as_deref().is_none_or(|url| url == "https://a/b"));
                states.push((alert.state, alert.downloaded_bytes));
            }
            states
        };
        let (start, error) = (Instant::now(), || ErrorInfo::new(AosCode::Failed, "cut"));
        let url = "https://a/b?secret";
        let mut small = Progress::new(events.clone(), &digest);
        small.set_total(BIG - 1);
        small.running(url, 5, start);
        small.finished();
        assert_eq!(states(), []);
        small.interrupted(5, error(), start);
        small.interrupted(6, error(), start + PERIOD / 2);
        small.running(url, 7, start);
        small.finished();
        assert_eq!(
            states(),
            [
                (DownloadState::Interrupted, 5),
                (DownloadState::Started, 7),
                (DownloadState::Finished, BIG - 1)
            ]
        );
        let mut big = Progress::new(events, &digest);
        big.set_total(BIG);
        for second in 0..=30 {
            big.running(url, second, start + Duration::from_secs(second));
        }
        big.finished();
        assert_eq!(
            states(),
            [(DownloadState::Started, 0), (DownloadState::Started, 30), (DownloadState::Finished, BIG)]
        );
    }
}

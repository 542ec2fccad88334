//! Questions about blobs that wait for the cloud's answer.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use aos_cloud_protocol::BlobInfo;
use aos_ids::Digest;
use tokio::sync::oneshot;

use super::BlobUrlError;

/// Where the answer goes.
pub(super) type Answer = oneshot::Sender<Result<BlobInfo, BlobUrlError>>;

/// All of them, by exchange. Bounded by those who ask: each fetch asks one question at a time.
pub(super) struct Questions {
    patience: Duration,
    waiting: HashMap<String, (Digest, Answer, Instant)>,
}

impl Questions {
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience, waiting: HashMap::new() }
    }

    /// A new question; answers its exchange.
    pub(super) fn ask(&mut self, digest: Digest, answer: Answer) -> String {
        let exchange = uuid::Uuid::new_v4().to_string();
        self.waiting.insert(exchange.clone(), (digest, answer, Instant::now() + self.patience));
        exchange
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.waiting.values().map(|(_, _, deadline)| *deadline).min()
    }

    /// Gives up what has waited too long.
    pub(super) fn expire(&mut self) {
        let now = Instant::now();
        for (_, (_, answer, _)) in self.waiting.extract_if(|_, (_, _, deadline)| *deadline <= now) {
            let _ = answer.send(Err(BlobUrlError::Timeout));
        }
    }

    /// Takes the cloud's answer.
    pub(super) fn answered(&mut self, exchange: Option<&str>, items: Vec<BlobInfo>) {
        let Some((digest, answer, _)) = exchange.and_then(|exchange| self.waiting.remove(exchange)) else {
            tracing::debug!("blob addresses that nobody waits for are ignored");
            return;
        };
        let found = items.into_iter().find(|item| item.digest == digest);
        let _ = answer.send(found.ok_or(BlobUrlError::NotFound(digest)));
    }

    /// The link is gone: no answer will come.
    pub(super) fn fail_all(&mut self) {
        for (_, (_, answer, _)) in self.waiting.drain() {
            let _ = answer.send(Err(BlobUrlError::Offline));
        }
    }
}

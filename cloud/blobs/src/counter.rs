//! Counting downloads cheaply: events are gathered and written in batches by one task.

use std::collections::HashMap;
use std::time::Duration;

use aos_cloud_store::{Served, Store, StoreError};
use tokio::sync::{mpsc, oneshot};

/// Events that may wait; more are counted in the log only.
const QUEUE: usize = 4096;
/// Longest time that an event waits for company.
const GATHER: Duration = Duration::from_millis(100);

enum Event {
    Served(String, Served),
    Flush(oneshot::Sender<()>),
}

/// Handle for reporting what was served.
#[derive(Clone)]
pub struct Counter {
    events: mpsc::Sender<Event>,
}

impl Counter {
    /// A handle, and the task that must run for it. The task ends when all handles are gone.
    pub fn new(store: Store) -> (Self, impl Future<Output = Result<(), StoreError>> + Send) {
        let (events, mut queue) = mpsc::channel::<Event>(QUEUE);
        let task = async move {
            while let Some(event) = queue.recv().await {
                let mut totals: HashMap<String, Served> = HashMap::new();
                let mut flushed = Vec::new();
                let mut take = |event| match event {
                    Event::Served(digest, served) => {
                        let total = totals.entry(digest).or_default();
                        total.requests += served.requests;
                        total.bytes += served.bytes;
                    }
                    Event::Flush(done) => flushed.push(done),
                };
                take(event);
                let gather = async {
                    while let Some(event) = queue.recv().await {
                        let flush = matches!(event, Event::Flush(_));
                        take(event);
                        if flush {
                            break;
                        }
                    }
                };
                // The end of the time is the normal case.
                let _ = tokio::time::timeout(GATHER, gather).await;
                store.count_served(totals.into_iter().collect()).await?;
                for done in flushed {
                    let _ = done.send(());
                }
            }
            Ok(())
        };
        (Self { events }, task)
    }

    pub(crate) fn add(&self, digest: &str, served: Served) {
        if self.events.try_send(Event::Served(digest.to_owned(), served)).is_err() {
            tracing::warn!("a download of {digest} was not counted");
        }
    }

    /// Waits until everything reported so far is stored.
    pub async fn flush(&self) {
        let (done, stored) = oneshot::channel();
        if self.events.send(Event::Flush(done)).await.is_ok() {
            // An error means that the task has ended; nothing is left to wait for.
            let _ = stored.await;
        }
    }
}

//! Ends flows whose time is over.

use std::time::Duration;

use aos_cloud_store::{Store, now_micros};

/// Pause after the store failed.
const RETRY: Duration = Duration::from_secs(30);
/// The clock may be set: a far deadline is looked at again after this time.
const LONGEST: Duration = Duration::from_hours(1);

/// Runs for ever.
pub(crate) async fn run(store: &Store) {
    let mut deadlines = store.watch_deadlines();
    loop {
        deadlines.mark_unchanged();
        let pause = match store.sweep(now_micros()).await {
            Ok(None) => LONGEST,
            Ok(Some(at)) => {
                let micros = u64::try_from(at - now_micros()).unwrap_or_default();
                Duration::from_micros(micros).min(LONGEST)
            }
            Err(error) => {
                tracing::error!(
                    "cannot look for flows whose time is over: {}",
                    aos_logging::with_causes(&error)
                );
                RETRY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = deadlines.changed() => {
                if changed.is_err() {
                    return std::future::pending().await;
                }
            }
        }
    }
}

//! Composition of the cloud: how its crates meet in one process. No logic.
//!
//! A library, so that tests can run the cloud in their own process; the program is `main.rs`.

mod cloud;
mod endpoints;
mod metrics;
mod options;

use std::time::Duration;

use anyhow::Context as _;
use aos_supervise::Shutdown;

pub use cloud::Cloud;
pub use endpoints::Endpoints;
pub use options::{Command, Options, RunOptions, UnitCertificates, UnitLimits};

/// Time that all tasks together have for an orderly stop.
const STOP_TIME: Duration = Duration::from_millis(1800);

/// Time for the last Unit of a drain.
const LAST_UNIT: Duration = Duration::from_secs(10);

/// Runs the cloud until SIGTERM or SIGINT.
pub fn run(options: &RunOptions) -> anyhow::Result<()> {
    aos_logging::init("aos-cloud", options.log_level, aos_logging::Output::Stdout)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(usize::from(options.workers))
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let outcome = runtime.block_on(async {
        let shutdown = Shutdown::on_signals().context("cannot listen for signals")?;
        let cloud = Cloud::start(options, shutdown).await?;
        aos_supervise::notify_ready();
        // Who is moved last still has time to finish what it said and to hang up.
        let drain = if options.drain_time > 0 { LAST_UNIT } else { Duration::ZERO };
        cloud.run(STOP_TIME + Duration::from_secs(options.drain_time) + drain).await
    });
    aos_supervise::notify_stopping();
    // Blocking work that is still under way is not waited for: everything durable is atomic.
    runtime.shutdown_background();
    outcome
}

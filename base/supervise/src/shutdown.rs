//! The wish to stop, passed down to tasks.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Exit status after a second signal, as shells use it for an interrupted program.
const EXIT_INTERRUPTED: i32 = 130;

/// A cheap, cloneable token: triggered once, it stays triggered, for itself and all its children.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
}

impl Shutdown {
    /// A token that only [`Shutdown::trigger`] triggers.
    pub fn new() -> Self {
        Self::default()
    }

    /// A token that SIGTERM and SIGINT trigger. A second signal ends the process at once with status 130.
    ///
    /// Must be called within a tokio runtime with IO and signals enabled, once per program.
    pub fn on_signals() -> io::Result<Self> {
        let shutdown = Self::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let token = shutdown.token.clone();
        tokio::spawn(async move {
            let mut received = async || {
                tokio::select! {
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                }
            };
            let name = received().await;
            tracing::info!("{name} received, stopping");
            token.cancel();
            let name = received().await;
            tracing::warn!("{name} received again, leaving at once");
            std::process::exit(EXIT_INTERRUPTED);
        });
        Ok(shutdown)
    }

    /// Asks to stop.
    pub fn trigger(&self) {
        self.token.cancel();
    }

    /// True once asked to stop.
    pub fn is_triggered(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits until asked to stop; returns at once when that has happened already. Cancel safe.
    pub async fn wait(&self) {
        self.token.cancelled().await;
    }

    /// A token that is triggered with this one, or alone.
    pub fn child(&self) -> Self {
        Self { token: self.token.child_token() }
    }
}

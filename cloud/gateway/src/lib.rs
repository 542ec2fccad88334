//! The Units' side of the cloud: service discovery and the WebSocket sessions.
//!
//! The listener has verified that the client's certificate comes from the Units' intermediate and is valid;
//! [`admission`] finds it in the record of issued certificates, where only type `online` opens a session.
//! Each session is one task that owns its socket and its protocol core; messages go through the broker to
//! the handlers, and a Unit gets its acknowledgement only after the handler has stored what it had to.
//! Sessions learn of new targets, newer sessions and deprovisioning by watching their Unit in the store.
//!
//! Limits for one session: frames of 16 MiB, 32 messages or 32 MiB being handled, buffers of 4 KiB.

mod admission;
mod desired;
mod discovery;
mod error;
mod handlers;
mod memory;
mod session;
mod socket;

use std::sync::Arc;
use std::time::Duration;

use aos_cloud_blobs::Blobs;
use aos_cloud_broker::Broker;
use aos_cloud_fleet::Signing;
use aos_cloud_pki::Pki;
use aos_cloud_store::Store;
use aos_supervise::Shutdown;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use tokio_util::task::TaskTracker;

pub use error::GatewayError;
pub use handlers::Handlers;

/// Largest body of a discovery request, bytes.
const MAX_DISCOVERY: usize = 64 * 1024;

/// The gateway. Cheap to clone.
#[derive(Clone)]
pub struct Gateway {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    broker: Broker,
    signing: Signing,
    web_socket_url: String,
    memory: memory::Memory,
    sessions: TaskTracker,
    stop: Shutdown,
}

impl Gateway {
    /// A gateway whose Units reach their WebSocket at `web_socket_url` and blobs under `blob_url`
    /// (`https://host:port`). The handlers must be run for it. Sessions end when `stop` is triggered.
    pub fn new(
        store: Store,
        blobs: Blobs,
        pki: &Pki,
        web_socket_url: String,
        blob_url: String,
        stop: Shutdown,
    ) -> (Self, Handlers) {
        let (broker, handlers) = Handlers::new(store.clone(), blobs, blob_url);
        let signing = Signing {
            chain_name: pki.signer().chain_name().to_owned(),
            certificates: pki.signer().certificates().map(|(der, label)| (der.to_vec(), label)).collect(),
        };
        let inner = Inner {
            store,
            broker,
            signing,
            web_socket_url,
            memory: memory::Memory::default(),
            sessions: TaskTracker::new(),
            stop,
        };
        (Self { inner: Arc::new(inner) }, handlers)
    }

    /// The routes of the Units' listener.
    pub fn routes(&self) -> Router {
        Router::new()
            .route("/sd/v7/", post(discovery::discover))
            .route("/sd/v7", post(discovery::discover))
            .route("/ws/v7/", get(socket::upgrade))
            .route("/ws/v7", get(socket::upgrade))
            .layer(DefaultBodyLimit::max(MAX_DISCOVERY))
            .with_state(self.clone())
    }

    /// Waits until all sessions have ended, at most `time`. To be called after the stop was triggered.
    pub async fn drain(&self, time: Duration) {
        self.inner.sessions.close();
        if tokio::time::timeout(time, self.inner.sessions.wait()).await.is_err() {
            tracing::warn!("{} sessions were cut to stop in time", self.inner.sessions.len());
        }
    }
}

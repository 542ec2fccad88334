//! The Units' side of the cloud: service discovery and the WebSocket sessions.
//!
//! The listener has verified that the client's certificate comes from the Units' intermediate and is valid;
//! [`admission`] finds it in the record of issued certificates, where only type `online` opens a session.
//! Each session is one task that owns its socket and its protocol core; messages go through the broker to
//! the handlers, and a Unit gets its acknowledgement only after the handler has stored what it had to.
//! Sessions learn of new targets, newer sessions and deprovisioning by watching their Unit in the store.
//!
//!
//! Limits for one session: frames of 16 MiB, 32 messages or 32 MiB being handled, the rates of
//! [`RateLimits`]. A Unit whose messages find no room at their handler is not read until they do; one that
//! does not take our bytes, or does not complete its own frames, is cut. [`Settings`] says what all sessions
//! together may take. Sessions are opened at a bounded rate; who comes beyond it is told when to come back.

mod admission;
mod arrivals;
mod desired;
mod discovery;
mod error;
mod leaving;
mod rate;
mod sealing;
mod session;
mod settings;
mod socket;
mod tap;
mod upgrade;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aos_cloud_broker::Broker;
use aos_cloud_fleet::Signing;
use aos_cloud_handlers::Flows;
use aos_cloud_metrics::{Metrics, Refused};
use aos_cloud_pki::Pki;
use aos_cloud_store::Store;
use aos_ids::SystemId;
use axum::Router;
use axum::routing::{get, post};
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

use arrivals::{Arrival, Arrivals};
pub use error::GatewayError;
use leaving::{Leaving, Phase};
pub use settings::{RateLimits, Settings};
pub use tap::{Recorded, Recording, TooManyRecordings};

/// Largest message of a Unit in shares of the memory for large ones.
const MAX_SHARES: usize = aos_cloud_protocol::MAX_FRAME.div_ceil(socket::SHARE);
/// Longest goodbye of a session.
const GOODBYE: Duration = Duration::from_secs(4);

/// The gateway. Cheap to clone.
#[derive(Clone)]
pub struct Gateway {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    broker: Broker,
    flows: Flows,
    signing: Signing,
    web_socket_url: String,
    settings: Settings,
    metrics: Metrics,
    arrivals: Mutex<Arrivals>,
    shares: Arc<Semaphore>,
    taps: tap::Taps,
    sessions: TaskTracker,
    phase: watch::Sender<Phase>,
}

impl Gateway {
    /// A gateway whose Units reach their WebSocket at `web_socket_url`. Their messages go to `broker`, what
    /// waits for them comes from `flows`.
    pub fn new(
        store: Store,
        flows: Flows,
        broker: Broker,
        pki: &Pki,
        web_socket_url: String,
        settings: Settings,
        metrics: Metrics,
    ) -> Self {
        let signing = Signing {
            chain_name: pki.signer().chain_name().to_owned(),
            certificates: pki.signer().certificates().map(|(der, label)| (der.to_vec(), label)).collect(),
        };
        let shares = (settings.large_frames / socket::SHARE).clamp(MAX_SHARES, Semaphore::MAX_PERMITS);
        let inner = Inner {
            store,
            broker,
            flows,
            signing,
            web_socket_url,
            arrivals: Mutex::new(Arrivals::new(&settings, Instant::now())),
            settings,
            metrics,
            shares: Arc::new(Semaphore::new(shares)),
            taps: tap::Taps::default(),
            sessions: TaskTracker::new(),
            phase: watch::Sender::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The routes of the Units' listener.
    pub fn routes(&self) -> Router {
        Router::new()
            .route("/sd/v7/", post(discovery::discover))
            .route("/sd/v7", post(discovery::discover))
            .route("/ws/v7/", get(upgrade::upgrade))
            .route("/ws/v7", get(upgrade::upgrade))
            .with_state(self.clone())
    }

    /// What it counts.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// Moves all Units away: no new session is opened, discovery tells Units to come back later, and the
    /// sessions are closed with code 1012 one after another over `spread`, each after what its Unit sent was
    /// handled and acknowledged. Returns when the last one has ended. [`Gateway::resume`] ends it.
    pub async fn drain(&self, spread: Duration) {
        let finish = self.inner.settings.finish_time;
        let leaving = Leaving { since: Instant::now(), spread, finish, stop: false };
        tracing::info!("moving {} sessions over {spread:?}", self.inner.sessions.len());
        self.inner.phase.send_replace(Phase::Leaving(leaving));
        self.wait_for_sessions(spread + finish + self.inner.settings.frame_time + GOODBYE).await;
    }

    /// Opens sessions again after a drain.
    pub fn resume(&self) {
        self.inner.phase.send_replace(Phase::Open);
    }

    /// True between [`Gateway::drain`] and [`Gateway::resume`].
    pub fn is_draining(&self) -> bool {
        *self.inner.phase.borrow() != Phase::Open
    }

    /// Ends all sessions at once with code 1001, each after what is being handled was acknowledged. Takes
    /// `limit` at most.
    pub async fn stop(&self, limit: Duration) {
        let since = Instant::now();
        let leaving = Leaving { since, spread: Duration::ZERO, finish: limit / 2, stop: true };
        self.inner.phase.send_replace(Phase::Leaving(leaving));
        self.wait_for_sessions(limit).await;
    }

    /// Whether messages can be sealed for the Unit (its id in the cloud): [`GatewayError::NoSealing`] says what is
    /// missing.
    pub async fn can_seal(&self, unit_id: &str) -> Result<(), GatewayError> {
        sealing::Sealer::open(&self.inner.store, unit_id).await.map(drop)
    }

    /// Starts or ends recording the messages of a Unit (its id in the cloud); see [`Recorded`]. Ending
    /// forgets what was recorded. At most 16 Units are recorded at a time.
    pub fn record(&self, unit_id: &str, on: bool) -> Result<(), TooManyRecordings> {
        self.inner.taps.switch(unit_id, on)
    }

    /// Recorded frames of a Unit after number `after`, oldest first, at most `limit`; waits up to `wait` for
    /// the first one. `None` when the Unit is not being recorded. The newest 8 MiB and 4096 frames are kept.
    pub async fn recorded(
        &self,
        unit_id: &str,
        after: u64,
        limit: usize,
        wait: Duration,
    ) -> Option<Recording> {
        self.inner.taps.read(unit_id, after, limit, wait).await
    }

    async fn wait_for_sessions(&self, limit: Duration) {
        let sessions = &self.inner.sessions;
        sessions.close();
        if tokio::time::timeout(limit, sessions.wait()).await.is_err() {
            tracing::warn!("{} sessions have not ended in time", sessions.len());
        }
        sessions.reopen();
    }

    /// A Unit asks where to connect.
    fn arrival(&self, unit: &SystemId, now: Instant) -> Arrival {
        let jitter = jitter();
        if let Phase::Leaving(leaving) = *self.inner.phase.borrow() {
            return Arrival::Later(leaving.come_back(now, jitter));
        }
        self.arrivals(|arrivals| arrivals.discover(now, unit, jitter))
    }

    /// True when the Unit may open a session now.
    fn may_open(&self, unit: &SystemId) -> bool {
        let open = *self.inner.phase.borrow() == Phase::Open
            && self.inner.sessions.len() < self.inner.settings.max_sessions
            && self.arrivals(|arrivals| arrivals.upgrade(Instant::now(), unit));
        if !open {
            self.inner.metrics.refused(Refused::Admission);
            tracing::debug!(unit = unit.as_str(), "no new sessions now");
        }
        open
    }

    fn arrivals<T>(&self, ask: impl FnOnce(&mut Arrivals) -> T) -> T {
        ask(&mut self.inner.arrivals.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// An even number in 0..1.
fn jitter() -> f64 {
    let mut bytes = [0; 4];
    // Without random numbers nobody is spread, and nothing else goes wrong.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
}

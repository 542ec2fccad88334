//! What the cloud counts, and how it is shown: Prometheus' text format, version 0.0.4.
//!
//! The set is fixed and lives in atomics, so that counting costs no lock and no allocation and a scrape
//! disturbs nobody. Label values come from enums, never from input: the number of series is bounded. A
//! counter that nobody raised is shown as 0, so that a rate over it works from the first event on.

mod histogram;
mod labels;
mod text;

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aos_cloud_protocol::MessageType;
use aos_tls::ListenerCounts;

use histogram::Histogram;
pub use labels::{Closed, Refused};
use text::Text;

/// Content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Bounds of the time that acknowledgements take, seconds.
const ACK_BOUNDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Bounds of the time that a commit takes, seconds.
const COMMIT_BOUNDS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0];
/// Bounds of the number of jobs that share a commit.
const JOBS_BOUNDS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `amount`.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// What was counted so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Adds `amount`, which may be negative.
    pub fn add(&self, amount: i64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// The present value.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One counter per message type.
#[derive(Debug)]
struct ByKind(Vec<Counter>);

impl Default for ByKind {
    fn default() -> Self {
        Self(MessageType::ALL.iter().map(|_| Counter::default()).collect())
    }
}

impl ByKind {
    fn get(&self, kind: MessageType) -> Option<&Counter> {
        MessageType::ALL.iter().position(|known| *known == kind).and_then(|at| self.0.get(at))
    }

    fn values(&self) -> impl Iterator<Item = (&'static str, u64)> {
        MessageType::ALL.iter().zip(&self.0).map(|(kind, counter)| (kind.as_str(), counter.get()))
    }
}

#[derive(Debug)]
struct Inner {
    listener: OnceLock<Arc<ListenerCounts>>,
    sessions: Gauge,
    sessions_opened: Counter,
    received: ByKind,
    sent: ByKind,
    bytes_in: Counter,
    bytes_out: Counter,
    acks: Counter,
    nacks: Counter,
    resends: Counter,
    given_up: Counter,
    beyond_limits: Counter,
    duplicates: Counter,
    deferred: Counter,
    refused: [Counter; Refused::ALL.len()],
    closed: [Counter; Closed::ALL.len()],
    handling: Gauge,
    handling_bytes: Gauge,
    ack_time: Histogram,
    commit_time: Histogram,
    commit_jobs: Histogram,
}

/// All that is counted. Cheap to clone; clones count together.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Inner>);

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Everything at 0.
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            listener: OnceLock::new(),
            sessions: Gauge::default(),
            sessions_opened: Counter::default(),
            received: ByKind::default(),
            sent: ByKind::default(),
            bytes_in: Counter::default(),
            bytes_out: Counter::default(),
            acks: Counter::default(),
            nacks: Counter::default(),
            resends: Counter::default(),
            given_up: Counter::default(),
            beyond_limits: Counter::default(),
            duplicates: Counter::default(),
            deferred: Counter::default(),
            refused: Default::default(),
            closed: Default::default(),
            handling: Gauge::default(),
            handling_bytes: Gauge::default(),
            ack_time: Histogram::new(ACK_BOUNDS),
            commit_time: Histogram::new(COMMIT_BOUNDS),
            commit_jobs: Histogram::new(JOBS_BOUNDS),
        }))
    }

    /// Shows what the Units' listener counts. The first one counts; there is one such listener.
    pub fn show_listener(&self, counts: Arc<ListenerCounts>) {
        // A second listener would be a second gateway, which has metrics of its own.
        let _ = self.0.listener.set(counts);
    }

    /// A session was opened.
    pub fn session_opened(&self) {
        self.0.sessions.add(1);
        self.0.sessions_opened.inc();
    }

    /// A session has ended.
    pub fn session_closed(&self, why: Closed) {
        self.0.sessions.add(-1);
        if let Some(counter) = self.0.closed.get(why.index()) {
            counter.inc();
        }
    }

    /// Sessions that are open now.
    pub fn sessions(&self) -> i64 {
        self.0.sessions.get()
    }

    /// A message of a Unit was read.
    pub fn received(&self, kind: MessageType) {
        if let Some(counter) = self.0.received.get(kind) {
            counter.inc();
        }
    }

    /// A message was queued for a Unit.
    pub fn sent(&self, kind: MessageType) {
        if let Some(counter) = self.0.sent.get(kind) {
            counter.inc();
        }
    }

    /// Data frames of this many bytes came in.
    pub fn bytes_in(&self, bytes: usize) {
        self.0.bytes_in.add(bytes as u64);
    }

    /// Data frames of this many bytes went out.
    pub fn bytes_out(&self, bytes: usize) {
        self.0.bytes_out.add(bytes as u64);
    }

    /// A message of a Unit was acknowledged, this long after it came.
    pub fn acked(&self, after: Duration) {
        self.0.acks.inc();
        self.0.ack_time.observe(after.as_secs_f64());
    }

    /// A message of a Unit was turned away for now.
    pub fn nacked(&self) {
        self.0.nacks.inc();
    }

    /// A message was sent again, because no acknowledgement came.
    pub fn resent(&self) {
        self.0.resends.inc();
    }

    /// A message to a Unit was given up.
    pub fn given_up(&self) {
        self.0.given_up.inc();
    }

    /// A message to a Unit exceeds what upstream's Units take.
    pub fn beyond_limits(&self) {
        self.0.beyond_limits.inc();
    }

    /// A repeated message of a Unit had no effect.
    pub fn duplicate(&self) {
        self.0.duplicates.inc();
    }

    /// A Unit was asked to come later.
    pub fn deferred(&self) {
        self.0.deferred.inc();
    }

    /// Something of a peer was refused.
    pub fn refused(&self, why: Refused) {
        if let Some(counter) = self.0.refused.get(why.index()) {
            counter.inc();
        }
    }

    /// How often something was refused for this reason.
    pub fn refusals(&self, why: Refused) -> u64 {
        self.0.refused.get(why.index()).map_or(0, Counter::get)
    }

    /// Messages (or bytes of them) went to handlers, or with negative numbers came back.
    pub fn handling(&self, messages: i64, bytes: i64) {
        self.0.handling.add(messages);
        self.0.handling_bytes.add(bytes);
    }

    /// The store committed `jobs` jobs together in `time`.
    pub fn committed(&self, time: Duration, jobs: usize) {
        self.0.commit_time.observe(time.as_secs_f64());
        self.0.commit_jobs.observe(u32::try_from(jobs).map_or(f64::MAX, f64::from));
    }

    /// Everything as text.
    pub fn render(&self) -> String {
        let all = &*self.0;
        let mut text = Text::default();
        if let Some(listener) = all.listener.get() {
            text.gauge("aos_gateway_connections", "Open connections of Units", listener.open());
            text.one("aos_gateway_handshakes_total", "TLS handshakes that succeeded", listener.accepted());
            text.labelled(
                "aos_gateway_handshakes_failed_total",
                "TLS handshakes that failed",
                "reason",
                listener.failures(),
            );
        }
        text.gauge("aos_gateway_sessions", "Open sessions", all.sessions.get());
        text.one("aos_gateway_sessions_total", "Sessions opened", all.sessions_opened.get());
        let closes = Closed::ALL.iter().zip(&all.closed).map(|(why, counter)| (why.as_str(), counter.get()));
        text.labelled("aos_gateway_closed_total", "Sessions ended", "reason", closes);
        text.labelled(
            "aos_gateway_messages_in_total",
            "Messages read from Units",
            "type",
            all.received.values(),
        );
        text.labelled(
            "aos_gateway_messages_out_total",
            "Messages queued for Units",
            "type",
            all.sent.values(),
        );
        text.one("aos_gateway_bytes_in_total", "Bytes of data frames from Units", all.bytes_in.get());
        text.one("aos_gateway_bytes_out_total", "Bytes of data frames to Units", all.bytes_out.get());
        text.one("aos_gateway_acks_total", "Messages of Units acknowledged", all.acks.get());
        text.one("aos_gateway_nacks_total", "Messages of Units turned away for now", all.nacks.get());
        text.one("aos_gateway_resends_total", "Messages sent again to Units", all.resends.get());
        text.one("aos_gateway_given_up_total", "Messages to Units that were given up", all.given_up.get());
        text.one(
            "aos_gateway_beyond_limits_total",
            "Messages to Units beyond what upstream's take",
            all.beyond_limits.get(),
        );
        text.one(
            "aos_gateway_duplicates_total",
            "Repeated messages without further effect",
            all.duplicates.get(),
        );
        text.one("aos_gateway_deferred_total", "Units asked to come later", all.deferred.get());
        let refused =
            Refused::ALL.iter().zip(&all.refused).map(|(why, counter)| (why.as_str(), counter.get()));
        text.labelled("aos_gateway_refused_total", "Input refused", "reason", refused);
        text.gauge("aos_gateway_handling", "Messages at handlers", all.handling.get());
        text.gauge("aos_gateway_handling_bytes", "Bytes of messages at handlers", all.handling_bytes.get());
        text.histogram("aos_gateway_ack_seconds", "Time from a frame to its acknowledgement", &all.ack_time);
        text.histogram("aos_store_commit_seconds", "Time of a commit", &all.commit_time);
        text.histogram("aos_store_commit_jobs", "Jobs that shared a commit", &all.commit_jobs);
        text.finish()
    }
}

#[cfg(test)]
mod tests;

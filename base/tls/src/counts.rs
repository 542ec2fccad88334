//! What a listener counts about connections and handshakes, for whoever shows it.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Why a handshake failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// TLS said no: no certificate, a bad one, no common version, garbage.
    Tls,
    /// It took too long.
    Time,
    /// The client certificate verified but cannot be read.
    Certificate,
    /// The address has too many handshakes under way, or too many connections.
    Address,
}

/// Counters of one listener. They only grow, except the number of open connections.
#[derive(Debug, Default)]
pub struct ListenerCounts {
    open: AtomicI64,
    accepted: AtomicU64,
    tls: AtomicU64,
    time: AtomicU64,
    certificate: AtomicU64,
    address: AtomicU64,
}

impl ListenerCounts {
    /// Connections given out and not yet closed.
    pub fn open(&self) -> i64 {
        self.open.load(Ordering::Relaxed)
    }

    /// Connections given out so far.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Failed handshakes by reason.
    pub fn failures(&self) -> [(&'static str, u64); 4] {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("tls", read(&self.tls)),
            ("time", read(&self.time)),
            ("certificate", read(&self.certificate)),
            ("address", read(&self.address)),
        ]
    }

    pub(crate) fn failed(&self, why: Failure) {
        let counter = match why {
            Failure::Tls => &self.tls,
            Failure::Time => &self.time,
            Failure::Certificate => &self.certificate,
            Failure::Address => &self.address,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn opened(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn closed(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

//! The time at which certificates are checked.
//!
//! A device may start with a clock of 1970 or 2036. Behind the truth, everything would be not yet valid: so no
//! check happens before the floor (what this process knows to be past: its own certificates were made then)
//! nor before the beginning of the very certificate that is checked, for an authority does not sign ahead of
//! its time. Ahead of the truth, everything would have ended: who can do without the clock checks at the
//! floor alone ([`TimeBasis::Floor`]).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls::time_provider::TimeProvider;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

static FLOOR: AtomicU64 = AtomicU64::new(0);

/// It is not earlier than this, seconds since 1970 UTC; 0 while nothing is known.
pub fn time_floor() -> u64 {
    FLOOR.load(Ordering::Relaxed)
}

/// It is not earlier than `seconds` since 1970 UTC, whatever the clock shows. The floor never sinks.
pub fn raise_time_floor(seconds: u64) {
    FLOOR.fetch_max(seconds, Ordering::Relaxed);
}

/// Which time certificates of a server are checked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimeBasis {
    /// The later one of clock and floor.
    #[default]
    Clock,
    /// The floor alone: a certificate that ended since may be accepted. For exchanges that give nothing away
    /// and check what they get.
    Floor,
}

impl TimeProvider for TimeBasis {
    fn current_time(&self) -> Option<UnixTime> {
        let floor = UnixTime::since_unix_epoch(Duration::from_secs(time_floor()));
        match self {
            Self::Clock => Some(UnixTime::now().max(floor)),
            Self::Floor => Some(floor),
        }
    }
}

/// Begin of a certificate's validity, seconds since 1970 UTC; 0 when it cannot be read.
pub(crate) fn not_before(certificate: &CertificateDer<'_>) -> u64 {
    let parsed = X509Certificate::from_der(certificate).ok();
    parsed.and_then(|(_, parsed)| u64::try_from(parsed.validity().not_before.timestamp()).ok()).unwrap_or(0)
}

/// When a certificate is checked at `now`: not before its own beginning.
pub(crate) fn not_earlier(now: UnixTime, leaf: &CertificateDer<'_>) -> UnixTime {
    now.max(UnixTime::since_unix_epoch(Duration::from_secs(not_before(leaf))))
}

//! The time at which certificates are checked.
//!
//! A device may start with a clock of 1970 or 2036. Behind the truth, everything would be not yet valid: so no
//! check happens before the floor (what this process knows to be past: its own certificates were made then)
//! nor before the beginning of the very certificate that is checked, for an authority does not sign ahead of
//! its time. Ahead of the truth, everything would have ended: who can do without the clock checks at the
//! floor alone ([`TimeBasis::Floor`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
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

pub(crate) fn not_earlier(now: UnixTime, leaf: &CertificateDer<'_>) -> UnixTime {
    now.max(UnixTime::since_unix_epoch(Duration::from_secs(not_before(leaf))))
}

/// A verifier that checks no certificate before its own beginning.
#[derive(Debug)]
pub(crate) struct NotEarlier<V: ?Sized>(pub(crate) Arc<V>);

impl<V: ServerCertVerifier + ?Sized> ServerCertVerifier for NotEarlier<V> {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.0.verify_server_cert(leaf, intermediates, name, ocsp, not_earlier(now, leaf))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, leaf, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// The same for the certificates of clients.
#[derive(Debug)]
pub(crate) struct ClientsNotEarlier(pub(crate) Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for ClientsNotEarlier {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.0.verify_client_cert(leaf, intermediates, not_earlier(now, leaf))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, leaf, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

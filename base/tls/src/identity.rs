//! Who we are and who the peer is.
//!
//! [`IdentitySlot`] holds the certificate and key that new handshakes present; setting it needs no restart
//! and leaves standing connections alone. [`PeerIdentity`] is what a verified client certificate tells.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CommonState, SignatureScheme};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::TlsError;

/// The present certificate and key of this process, shared by servers and clients. Cheap to clone; all
/// clones are the same slot. While it is empty, servers fail handshakes and clients present nothing.
#[derive(Debug, Clone, Default)]
pub struct IdentitySlot(Arc<RwLock<Option<Arc<CertifiedKey>>>>);

impl IdentitySlot {
    /// An empty slot.
    pub fn new() -> Self {
        Self::default()
    }

    /// A slot that holds `key`.
    pub fn holding(key: Arc<CertifiedKey>) -> Self {
        let slot = Self::new();
        slot.set(key);
        slot
    }

    /// Presents `key` in all handshakes from now on. It was certified in the past, so the floor of time is
    /// not before the beginning of its certificate.
    pub fn set(&self, key: Arc<CertifiedKey>) {
        if let Some(leaf) = key.cert.first() {
            crate::raise_time_floor(crate::time::not_before(leaf));
        }
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(key);
    }

    /// Presents nothing from now on.
    pub fn clear(&self) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// What is presented now.
    pub fn get(&self) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ResolvesServerCert for IdentitySlot {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.get()
    }
}

impl ResolvesClientCert for IdentitySlot {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.get()
    }

    fn has_certs(&self) -> bool {
        self.get().is_some()
    }
}

/// A client certificate that the handshake has verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The whole certificate.
    pub leaf: CertificateDer<'static>,
    /// Name of the issuer, DER.
    pub issuer_der: Vec<u8>,
    /// Serial number, big-endian without leading zeros.
    pub serial: Vec<u8>,
    /// First common name of the subject.
    pub common_name: Option<String>,
    /// End of validity.
    pub not_after: SystemTime,
}

impl PeerIdentity {
    /// Reads a certificate. It is not verified here.
    pub fn from_certificate(leaf: &CertificateDer<'_>) -> Result<Self, TlsError> {
        let (_, parsed) = X509Certificate::from_der(leaf)
            .map_err(|error| TlsError::PeerCertificate { reason: error.to_string() })?;
        let common_name = parsed.subject().iter_common_name().find_map(|name| name.as_str().ok());
        let not_after = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
        Ok(Self {
            issuer_der: parsed.issuer().as_raw().to_vec(),
            serial: parsed.serial.to_bytes_be(),
            common_name: common_name.map(str::to_owned),
            not_after: UNIX_EPOCH + Duration::from_secs(not_after),
            leaf: leaf.clone().into_owned(),
        })
    }

    /// The identity a finished server handshake has verified; `None` when the client presented nothing.
    pub fn from_session(session: &CommonState) -> Result<Option<Self>, TlsError> {
        session.peer_certificates().and_then(|chain| chain.first()).map(Self::from_certificate).transpose()
    }
}

/// Where a connection comes from; found in the extensions of every request of our gRPC servers.
#[derive(Debug, Clone)]
pub struct ConnectionPeer {
    /// Address of the client.
    pub address: SocketAddr,
    /// Its verified certificate; `None` on plaintext and where the client presented nothing.
    pub identity: Option<Arc<PeerIdentity>>,
}

/// The verified identity behind a gRPC request.
pub fn peer_of<T>(request: &tonic::Request<T>) -> Option<&PeerIdentity> {
    request.extensions().get::<ConnectionPeer>()?.identity.as_deref()
}

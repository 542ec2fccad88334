//! Verification of peers: chains without names, and roots that may change.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::roots::Made;
use crate::time::not_earlier;
use crate::{HostCheck, Roots};

/// Whether a certificate of a component (leaf first, then its issuers) was signed under one of `roots`, for use
/// by clients or servers. It is checked at the beginning of its validity: whether it has ended is not asked.
pub fn chains_to(roots: &Arc<RootCertStore>, chain: &[CertificateDer<'_>]) -> bool {
    let Some((leaf, intermediates)) = chain.split_first() else { return false };
    let now = not_earlier(UnixTime::since_unix_epoch(Duration::ZERO), leaf);
    let provider = crate::provider();
    let algorithms = provider.signature_verification_algorithms.all;
    let Ok(parsed) = ParsedCertificate::try_from(leaf) else { return false };
    verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms).is_ok()
        || WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), provider)
            .build()
            .is_ok_and(|verifier| verifier.verify_client_cert(leaf, intermediates, now).is_ok())
}

/// Checks the chain of servers against the present roots, and their names if so wanted.
#[derive(Debug)]
pub(crate) struct ServerVerifier {
    /// Where names are checked too.
    made: Option<Made<WebPkiServerVerifier>>,
    roots: Roots,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerVerifier {
    pub(crate) fn new(roots: Roots, check: HostCheck) -> Result<Self, VerifierBuilderError> {
        let algorithms = crate::provider().signature_verification_algorithms;
        let made = match check {
            HostCheck::Verify => Some(Made::new(roots.clone(), for_servers)?),
            HostCheck::ChainOnly => None,
        };
        Ok(Self { made, roots, algorithms })
    }
}

fn for_servers(roots: Arc<RootCertStore>) -> Result<Arc<WebPkiServerVerifier>, VerifierBuilderError> {
    WebPkiServerVerifier::builder_with_provider(roots, crate::provider()).build()
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let now = not_earlier(now, leaf);
        if let Some(made) = &self.made {
            return made.get(for_servers).verify_server_cert(leaf, intermediates, name, ocsp, now);
        }
        let leaf = ParsedCertificate::try_from(leaf)?;
        let (roots, algorithms) = (self.roots.get(), self.algorithms.all);
        verify_server_cert_signed_by_trust_anchor(&leaf, &roots, intermediates, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

type MakeForClients = fn(Arc<RootCertStore>) -> Result<Arc<dyn ClientCertVerifier>, VerifierBuilderError>;

/// Checks certificates of clients against the present roots.
#[derive(Debug)]
pub(crate) struct ClientVerifier {
    make: MakeForClients,
    made: Made<dyn ClientCertVerifier>,
    first: Arc<dyn ClientCertVerifier>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientVerifier {
    /// Every client has to show one.
    pub(crate) fn required(roots: Roots) -> Result<Self, VerifierBuilderError> {
        Self::new(roots, for_clients)
    }

    /// A client may show none.
    pub(crate) fn optional(roots: Roots) -> Result<Self, VerifierBuilderError> {
        Self::new(roots, for_some_clients)
    }

    fn new(roots: Roots, make: MakeForClients) -> Result<Self, VerifierBuilderError> {
        let made = Made::new(roots, make)?;
        let first = made.get(make);
        Ok(Self { make, made, first, algorithms: crate::provider().signature_verification_algorithms })
    }
}

fn for_clients(roots: Arc<RootCertStore>) -> Result<Arc<dyn ClientCertVerifier>, VerifierBuilderError> {
    WebPkiClientVerifier::builder_with_provider(roots, crate::provider()).build()
}

fn for_some_clients(roots: Arc<RootCertStore>) -> Result<Arc<dyn ClientCertVerifier>, VerifierBuilderError> {
    WebPkiClientVerifier::builder_with_provider(roots, crate::provider()).allow_unauthenticated().build()
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.first.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Names of other roots than those at the beginning cannot be lent; without any, a client shows what it has.
        let present = self.made.get(self.make);
        if Arc::ptr_eq(&present, &self.first) { self.first.root_hint_subjects() } else { &[] }
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.made.get(self.make).verify_client_cert(leaf, intermediates, not_earlier(now, leaf))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

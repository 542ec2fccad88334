//! Client and server configurations from roots and identities.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, ServerConfig, WantsVerifier, version};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::verify::{ClientVerifier, ServerVerifier};
use crate::{IdentitySlot, Roots, TimeBasis, TlsError};

/// Largest file of root certificates that is read, bytes.
const MAX_ROOTS_FILE: u64 = 1024 * 1024;

static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();

/// The cryptography of this process (aws-lc-rs). The first call also makes it the default of rustls, for
/// libraries that ask for it there.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::clone(PROVIDER.get_or_init(|| {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        // Refused only when a default is there already, which is then the caller's own choice.
        let _ = provider.clone().install_default();
        Arc::new(provider)
    }))
}

/// What a client checks of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostCheck {
    /// Chain, validity and host name.
    Verify,
    /// Chain and validity only: for peers inside a Unit, whose certificates name no hosts.
    ChainOnly,
}

/// What a server asks of a client.
#[derive(Debug, Clone)]
pub enum ClientAuth {
    /// No certificate is asked for.
    None,
    /// A client may come without; a certificate that does not verify fails the handshake all the same.
    Optional(Arc<RootCertStore>),
    /// A handshake without a certificate that chains to these roots and is valid now fails.
    Required(Arc<RootCertStore>),
    /// The same, with roots that may change.
    RequiredNow(Roots),
}

/// What a server presents.
#[derive(Debug, Clone)]
pub enum ServerIdentity {
    /// One certificate for the life of the server.
    Fixed(Arc<CertifiedKey>),
    /// Whatever the slot holds when a handshake comes.
    Slot(IdentitySlot),
}

impl From<Arc<CertifiedKey>> for ServerIdentity {
    fn from(key: Arc<CertifiedKey>) -> Self {
        Self::Fixed(key)
    }
}

impl From<IdentitySlot> for ServerIdentity {
    fn from(slot: IdentitySlot) -> Self {
        Self::Slot(slot)
    }
}

/// The root certificates of a PEM file, at most 1 MiB.
pub fn roots_from_pem_file(path: &Path) -> Result<Arc<RootCertStore>, TlsError> {
    use std::io::Read;

    let read = || {
        let mut text = Vec::new();
        std::fs::File::open(path)?.take(MAX_ROOTS_FILE).read_to_end(&mut text)?;
        Ok(text)
    };
    roots_from_pem(&read().map_err(|source| TlsError::ReadRoots { path: path.to_owned(), source })?)
}

/// The root certificates of a PEM text; other PEM sections are skipped, none at all is an error.
pub fn roots_from_pem(text: &[u8]) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(text) {
        let certificate = certificate.map_err(|error| TlsError::Roots { reason: error.to_string() })?;
        roots.add(certificate).map_err(|error| TlsError::Roots { reason: error.to_string() })?;
    }
    if roots.is_empty() { Err(TlsError::NoRoots) } else { Ok(Arc::new(roots)) }
}

/// Configuration of a client that presents `identity`, or nothing. It offers no application protocol:
/// [`grpc_channel`](crate::grpc_channel) adds its own, HTTP/1.1 and WebSocket need none.
pub fn client_config(
    roots: impl Into<Roots>,
    identity: Option<Arc<CertifiedKey>>,
    check: HostCheck,
) -> Result<Arc<ClientConfig>, TlsError> {
    client_config_hot(roots, identity.map(IdentitySlot::holding).unwrap_or_default(), check)
}

/// Configuration of a client that presents what `slot` holds when it connects.
pub fn client_config_hot(
    roots: impl Into<Roots>,
    slot: IdentitySlot,
    check: HostCheck,
) -> Result<Arc<ClientConfig>, TlsError> {
    client_config_at(TimeBasis::Clock, roots, slot, check)
}

/// The same, where the server's certificate is checked at the time of `basis`.
pub fn client_config_at(
    basis: TimeBasis,
    roots: impl Into<Roots>,
    slot: IdentitySlot,
    check: HostCheck,
) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_details(provider(), Arc::new(basis));
    let verifier = ServerVerifier::new(roots.into(), check).map_err(TlsError::Verifier)?;
    let builder = versions(builder)?.dangerous();
    let builder = builder.with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = builder.with_client_cert_resolver(Arc::new(slot));
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Configuration of a server. Its application protocol is set where it listens
/// ([`Protocol`](crate::Protocol)).
pub fn server_config(
    identity: impl Into<ServerIdentity>,
    clients: ClientAuth,
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = provider();
    let verifier: Arc<dyn ClientCertVerifier> = match clients {
        ClientAuth::None => WebPkiClientVerifier::no_client_auth(),
        ClientAuth::Optional(roots) => {
            Arc::new(ClientVerifier::optional(roots.into()).map_err(TlsError::Verifier)?)
        }
        ClientAuth::Required(roots) => {
            Arc::new(ClientVerifier::required(roots.into()).map_err(TlsError::Verifier)?)
        }
        ClientAuth::RequiredNow(roots) => {
            Arc::new(ClientVerifier::required(roots).map_err(TlsError::Verifier)?)
        }
    };
    let slot = match identity.into() {
        ServerIdentity::Fixed(key) => IdentitySlot::holding(key),
        ServerIdentity::Slot(slot) => slot,
    };
    let mut config = versions(ServerConfig::builder_with_details(provider, Arc::new(TimeBasis::Clock)))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(slot));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn versions<S: rustls::ConfigSide>(
    builder: ConfigBuilder<S, rustls::WantsVersions>,
) -> Result<ConfigBuilder<S, WantsVerifier>, TlsError> {
    builder.with_protocol_versions(&[&version::TLS13, &version::TLS12]).map_err(TlsError::Config)
}

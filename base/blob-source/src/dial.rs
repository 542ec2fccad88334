//! Connections to servers of blobs: TCP, and TLS for `https` where there are root certificates.

use aos_tls::{DialError, DialedStream, IdentitySlot, Roots, TlsError};
use http::Uri;

use crate::SourceError;

/// Makes connections with one set of roots.
#[derive(Clone, Default)]
pub struct Dialer {
    tls: Option<aos_tls::Dialer>,
}

impl Dialer {
    /// Connections to servers that chain to `roots`, presenting what `identity` holds; an empty slot presents
    /// nothing.
    pub fn new(roots: impl Into<Roots>, identity: &IdentitySlot) -> Result<Self, TlsError> {
        Ok(Self { tls: Some(aos_tls::Dialer::new(roots, identity)?) })
    }

    pub(crate) async fn dial(&self, uri: &Uri, address: &str) -> Result<DialedStream, SourceError> {
        let secure = uri.scheme_str() == Some("https");
        let host = uri.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let dialed = match &self.tls {
            Some(tls) if secure => tls.connect(host, port).await,
            None if secure => return Err(SourceError::NoRoots(address.to_owned())),
            _ => aos_tls::connect_plain(host, port).await,
        };
        dialed.map_err(|error| match error {
            DialError::Tls(error) => SourceError::Tls(error),
            error => SourceError::Connect { address: address.to_owned(), source: error },
        })
    }
}

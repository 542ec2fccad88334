//! Connections to servers that are named: TCP, with TLS on demand.
//!
//! Trust is what the caller gives. The host name is verified too, except for servers on this very host: a name
//! that resolves to loopback addresses only proves nothing.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio_util::either::Either;

use crate::{ClientTlsStream, HostCheck, IdentitySlot, Roots, TlsError, client_config_hot, connect_tcp_tls};

/// Time for name resolution and a plain connection; TLS connections have their own.
const CONNECT_TIME: Duration = Duration::from_secs(10);

/// A connection, plain or with TLS.
pub type DialedStream = Either<TcpStream, Box<ClientTlsStream>>;

/// Why no connection stands.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The name is unknown, or nobody listens.
    #[error("cannot connect to {address}")]
    Tcp {
        /// Host and port.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The handshake failed.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Makes TLS connections with one set of roots and one identity.
#[derive(Clone)]
pub struct Dialer {
    verified: Arc<ClientConfig>,
    loopback: Arc<ClientConfig>,
}

impl Dialer {
    /// Connections to servers that chain to `roots`, presenting what `identity` holds; an empty slot presents
    /// nothing.
    pub fn new(roots: impl Into<Roots>, identity: &IdentitySlot) -> Result<Self, TlsError> {
        let roots = roots.into();
        let config = |check| client_config_hot(roots.clone(), identity.clone(), check);
        Ok(Self { verified: config(HostCheck::Verify)?, loopback: config(HostCheck::ChainOnly)? })
    }

    /// Connects with TLS. `host` is a name or an address without brackets.
    pub async fn connect(&self, host: &str, port: u16) -> Result<DialedStream, DialError> {
        let found = resolve(host, port).await?;
        let here = !found.is_empty() && found.iter().all(|address| address.ip().is_loopback());
        let config = if here { &self.loopback } else { &self.verified };
        Ok(Either::Right(Box::new(connect_tcp_tls(host, port, Arc::clone(config), host).await?)))
    }
}

/// Connects without TLS. `host` is a name or an address without brackets.
pub async fn connect_plain(host: &str, port: u16) -> Result<DialedStream, DialError> {
    let found = resolve(host, port).await?;
    in_time(host, port, TcpStream::connect(found.as_slice())).await.map(Either::Left)
}

async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, DialError> {
    Ok(in_time(host, port, tokio::net::lookup_host((host, port))).await?.collect())
}

async fn in_time<T>(
    host: &str,
    port: u16,
    work: impl Future<Output = io::Result<T>>,
) -> Result<T, DialError> {
    let done = tokio::time::timeout(CONNECT_TIME, work).await;
    let done = done.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    done.map_err(|source| DialError::Tcp { address: format!("{host}:{port}"), source })
}

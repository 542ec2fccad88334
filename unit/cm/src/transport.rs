//! Connections to the cloud: TCP, and TLS for `https` and `wss`.
//!
//! Trust is `caCert` only. The host name is verified too, except for peers on this very host: a name that
//! resolves to loopback addresses only proves nothing.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use aos_tls::{ClientTlsStream, HostCheck, IdentitySlot, Roots, TlsError};
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use url::{Host, Url};

/// Time for name resolution and a plain connection; TLS connections have their own.
const CONNECT_TIME: Duration = Duration::from_secs(10);

/// Why no connection stands.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The URL has no host, or a scheme that is none of http, https, ws, wss.
    #[error("'{0}' is no URL that can be connected to")]
    Url(String),
    /// The name is unknown, or nobody listens.
    #[error("cannot connect to {address}")]
    Tcp {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The handshake failed.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Makes connections with one set of roots and one identity.
#[derive(Clone)]
pub struct Dialer {
    verified: Arc<ClientConfig>,
    loopback: Arc<ClientConfig>,
}

impl Dialer {
    /// Connections that present what `identity` holds; an empty slot presents nothing.
    pub fn new(roots: &Roots, identity: &IdentitySlot) -> Result<Self, TlsError> {
        let config = |check| aos_tls::client_config_hot(roots.clone(), identity.clone(), check);
        Ok(Self { verified: config(HostCheck::Verify)?, loopback: config(HostCheck::ChainOnly)? })
    }

    /// Connects to the host of `url`.
    pub async fn dial(&self, url: &Url) -> Result<Stream, DialError> {
        let wrong = || DialError::Url(url.as_str().chars().take(200).collect());
        let secure = match url.scheme() {
            "https" | "wss" => true,
            "http" | "ws" => false,
            _ => return Err(wrong()),
        };
        let host = match url.host().ok_or_else(wrong)? {
            Host::Domain(name) => name.to_owned(),
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => address.to_string(),
        };
        let port =
            url.port_or_known_default().or(if secure { Some(443) } else { Some(80) }).ok_or_else(wrong)?;
        let address = format!("{host}:{port}");
        let timed_out = || io::Error::from(io::ErrorKind::TimedOut);
        let failed = |source| DialError::Tcp { address: address.clone(), source };
        let resolve = tokio::net::lookup_host((host.as_str(), port));
        let addresses: Vec<_> = tokio::time::timeout(CONNECT_TIME, resolve)
            .await
            .map_err(|_| failed(timed_out()))?
            .map_err(failed)?
            .collect();
        if !secure {
            let connect = TcpStream::connect(addresses.as_slice());
            let stream =
                tokio::time::timeout(CONNECT_TIME, connect).await.map_err(|_| failed(timed_out()))?;
            return Ok(Stream::Plain(stream.map_err(failed)?));
        }
        let here = !addresses.is_empty() && addresses.iter().all(|address| address.ip().is_loopback());
        let config = if here { &self.loopback } else { &self.verified };
        let stream = aos_tls::connect_tcp_tls(&host, port, Arc::clone(config), &host).await?;
        Ok(Stream::Tls(Box::new(stream)))
    }
}

/// A connection.
pub enum Stream {
    /// Without TLS.
    Plain(TcpStream),
    /// With TLS.
    Tls(Box<ClientTlsStream>),
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

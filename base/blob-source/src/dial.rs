//! Connections to servers of blobs: TCP, and TLS for `https`.
//!
//! Trust is what the caller gives. The host name is verified too, except for servers on this very host: a name
//! that resolves to loopback addresses only proves nothing.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use aos_tls::{ClientTlsStream, HostCheck, IdentitySlot, TlsError};
use http::Uri;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::SourceError;

/// Time for name resolution and a plain connection; TLS connections have their own.
const CONNECT_TIME: Duration = Duration::from_secs(10);

/// Makes connections with one set of roots.
#[derive(Clone, Default)]
pub struct Dialer {
    tls: Option<Configs>,
}

#[derive(Clone)]
struct Configs {
    verified: Arc<ClientConfig>,
    loopback: Arc<ClientConfig>,
}

impl Dialer {
    /// Connections to servers that chain to `roots`, presenting what `identity` holds; an empty slot presents
    /// nothing.
    pub fn new(roots: &Arc<RootCertStore>, identity: &IdentitySlot) -> Result<Self, TlsError> {
        let config = |check| aos_tls::client_config_hot(Arc::clone(roots), identity.clone(), check);
        let tls = Configs { verified: config(HostCheck::Verify)?, loopback: config(HostCheck::ChainOnly)? };
        Ok(Self { tls: Some(tls) })
    }

    pub(crate) async fn dial(&self, uri: &Uri, address: &str) -> Result<Stream, SourceError> {
        let secure = uri.scheme_str() == Some("https");
        let host = uri.host().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let failed = |source| SourceError::Connect { address: address.to_owned(), source };
        let late = |_| failed(io::ErrorKind::TimedOut.into());
        let resolve = tokio::net::lookup_host((host, port));
        let found = tokio::time::timeout(CONNECT_TIME, resolve).await.map_err(late)?.map_err(failed)?;
        let found: Vec<_> = found.collect();
        if !secure {
            let connect = TcpStream::connect(found.as_slice());
            let stream = tokio::time::timeout(CONNECT_TIME, connect).await.map_err(late)?;
            return Ok(Stream::Plain(stream.map_err(failed)?));
        }
        let tls = self.tls.as_ref().ok_or_else(|| SourceError::NoRoots(address.to_owned()))?;
        let here = !found.is_empty() && found.iter().all(|address| address.ip().is_loopback());
        let config = if here { &tls.loopback } else { &tls.verified };
        Ok(Stream::Tls(Box::new(aos_tls::connect_tcp_tls(host, port, Arc::clone(config), host).await?)))
    }
}

/// A connection.
pub(crate) enum Stream {
    Plain(TcpStream),
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

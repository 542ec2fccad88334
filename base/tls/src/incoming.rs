//! Listeners that give out finished connections.
//!
//! Handshakes run beside one another, bounded in number and time, and a failing one only costs a log line.
//! The number of open connections is bounded too; what comes beyond waits in the kernel's queue.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::{ConnectionPeer, PeerIdentity, TlsError};

/// Pause after a failed accept (for example no file descriptors left), so that it cannot spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// What is spoken inside TLS; clients that negotiate must offer it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2 (`h2`).
    Grpc,
    /// HTTP/1.1, also for WebSocket.
    Http1,
}

/// Bounds of a listener.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Handshakes at the same time.
    pub handshakes: usize,
    /// Connections at the same time, those in the handshake included.
    pub connections: usize,
    /// Time a handshake may take.
    pub handshake_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { handshakes: 16, connections: 256, handshake_time: Duration::from_secs(10) }
    }
}

/// A listening socket, TLS or plaintext, that gives out ready connections.
pub struct Incoming {
    listener: TcpListener,
    local: SocketAddr,
    tls: Option<TlsAcceptor>,
    limits: Limits,
    open: Arc<Semaphore>,
    handshakes: JoinSet<Option<ServerConnection>>,
}

impl Incoming {
    /// Listens for TLS. `address` is `host:port`, or `:port` for all IPv4 interfaces; port 0 lets the system
    /// choose.
    pub async fn bind_tls(
        address: &str,
        config: &Arc<ServerConfig>,
        protocol: Protocol,
    ) -> Result<Self, TlsError> {
        let mut config = ServerConfig::clone(config);
        config.alpn_protocols = vec![match protocol {
            Protocol::Grpc => b"h2".to_vec(),
            Protocol::Http1 => b"http/1.1".to_vec(),
        }];
        Self::bind(address, Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    /// Listens without TLS: for provisioning mode and local tests.
    pub async fn bind_plain(address: &str) -> Result<Self, TlsError> {
        Self::bind(address, None).await
    }

    async fn bind(address: &str, tls: Option<TlsAcceptor>) -> Result<Self, TlsError> {
        let full = if address.starts_with(':') { format!("0.0.0.0{address}") } else { address.to_owned() };
        if full.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
            return Err(TlsError::Address { address: address.to_owned() });
        }
        let failed = |source| TlsError::Listen { address: full.clone(), source };
        let listener = TcpListener::bind(&full).await.map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        let limits = Limits::default();
        let open = Arc::new(Semaphore::new(limits.connections));
        Ok(Self { listener, local, tls, limits, open, handshakes: JoinSet::new() })
    }

    /// Other bounds than the default ones.
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self.open = Arc::new(Semaphore::new(limits.connections));
        self
    }

    /// Where it listens, with the port that the system chose.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The next ready connection. Never fails and may be cancelled at any time without losing one.
    pub async fn accept(&mut self) -> ServerConnection {
        loop {
            tokio::select! {
                Some(done) = self.handshakes.join_next() => {
                    if let Ok(Some(connection)) = done {
                        return connection;
                    }
                }
                (stream, address, permit) = next_stream(&self.listener, &self.open),
                    if self.handshakes.len() < self.limits.handshakes =>
                {
                    let Some(tls) = &self.tls else {
                        return ServerConnection::plain(stream, address, permit);
                    };
                    let handshake = handshake(tls.clone(), stream, address, permit, self.limits.handshake_time);
                    self.handshakes.spawn(handshake);
                }
            }
        }
    }

    /// The connections as a stream that never ends, for tonic's `serve_with_incoming`.
    pub fn into_stream(self) -> impl Stream<Item = io::Result<ServerConnection>> {
        futures_util::stream::unfold(self, |mut incoming| async move {
            let connection = incoming.accept().await;
            Some((Ok(connection), incoming))
        })
    }
}

async fn next_stream(
    listener: &TcpListener,
    open: &Arc<Semaphore>,
) -> (TcpStream, SocketAddr, Option<OwnedSemaphorePermit>) {
    // Acquiring fails only on a closed semaphore, and nobody closes it.
    let permit = Arc::clone(open).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                // Latency only; a socket that is dead already shows in the next read.
                let _ = stream.set_nodelay(true);
                return (stream, address, permit);
            }
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn handshake(
    tls: TlsAcceptor,
    stream: TcpStream,
    address: SocketAddr,
    permit: Option<OwnedSemaphorePermit>,
    time: Duration,
) -> Option<ServerConnection> {
    match tokio::time::timeout(time, tls.accept(stream)).await {
        Ok(Ok(stream)) => match PeerIdentity::from_session(stream.get_ref().1) {
            Ok(identity) => {
                let peer = ConnectionPeer { address, identity: identity.map(Arc::new) };
                Some(ServerConnection { stream: Stage::Tls(Box::new(stream)), peer, _permit: permit })
            }
            Err(error) => {
                tracing::warn!("connection from {address} refused: {error}");
                None
            }
        },
        Ok(Err(error)) => {
            tracing::warn!("TLS handshake with {address} failed: {error}");
            None
        }
        Err(_) => {
            tracing::warn!("TLS handshake with {address} took too long");
            None
        }
    }
}

enum Stage {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// An accepted connection, ready for HTTP.
pub struct ServerConnection {
    stream: Stage,
    peer: ConnectionPeer,
    _permit: Option<OwnedSemaphorePermit>,
}

impl ServerConnection {
    fn plain(stream: TcpStream, address: SocketAddr, permit: Option<OwnedSemaphorePermit>) -> Self {
        let peer = ConnectionPeer { address, identity: None };
        Self { stream: Stage::Plain(stream), peer, _permit: permit }
    }

    /// Where it comes from.
    pub fn peer(&self) -> &ConnectionPeer {
        &self.peer
    }
}

impl Connected for ServerConnection {
    type ConnectInfo = ConnectionPeer;

    fn connect_info(&self) -> ConnectionPeer {
        self.peer.clone()
    }
}

impl AsyncRead for ServerConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stage::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stage::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for ServerConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stage::Plain(stream) => Pin::new(stream).poll_write(cx, data),
            Stage::Tls(stream) => Pin::new(stream).poll_write(cx, data),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stage::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stage::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stage::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stage::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

//! Listeners that give out finished connections.
//!
//! Handshakes run beside one another, bounded in number and time, and a failing one only costs a log line.
//! One address may hold only a part of them: who comes beyond that from there is turned away, so that a few
//! hosts which never finish their handshakes keep nobody else out. The number of open connections is bounded
//! too, on demand also by address; what comes beyond the whole waits in the kernel's queue. [`ListenerCounts`] tells how it goes.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{Id, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use crate::connection::Connection;
use crate::counts::{Failure, ListenerCounts};
use crate::lean::LeanTls;
use crate::opening::Opening;
use crate::places::{Place, Places, source};
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
    /// Handshakes at the same time from one IPv4 address or one IPv6 network of 64 bits.
    pub handshakes_per_address: usize,
    /// Connections at the same time, those in the handshake included.
    pub connections: usize,
    /// The same from one IPv4 address or one IPv6 network of 64 bits; what comes beyond is turned away.
    pub connections_per_address: usize,
    /// Time a handshake may take.
    pub handshake_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshakes: 16,
            handshakes_per_address: 16,
            connections: 256,
            connections_per_address: usize::MAX,
            handshake_time: Duration::from_secs(10),
        }
    }
}

/// Who shakes hands.
#[derive(Clone)]
enum Tls {
    /// For connections that are busy.
    Usual(TlsAcceptor),
    /// For very many that are idle.
    Lean(Arc<ServerConfig>),
}

/// A listening socket, TLS or plaintext, that gives out ready connections.
pub struct Incoming {
    listener: TcpListener,
    local: SocketAddr,
    tls: Option<Tls>,
    limits: Limits,
    open: Arc<Semaphore>,
    handshakes: JoinSet<Option<ServerConnection>>,
    /// Where the handshakes under way come from.
    shaking: HashMap<Id, IpAddr>,
    places: Places,
    counts: Arc<ListenerCounts>,
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
        let config = Arc::new(config);
        let tls = match protocol {
            Protocol::Grpc => Tls::Usual(TlsAcceptor::from(config)),
            Protocol::Http1 => Tls::Lean(config),
        };
        Self::bind(address, Some(tls)).await
    }

    /// Listens without TLS: for provisioning mode and local tests.
    pub async fn bind_plain(address: &str) -> Result<Self, TlsError> {
        Self::bind(address, None).await
    }

    async fn bind(address: &str, tls: Option<Tls>) -> Result<Self, TlsError> {
        let full = if address.starts_with(':') { format!("0.0.0.0{address}") } else { address.to_owned() };
        if full.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
            return Err(TlsError::Address { address: address.to_owned() });
        }
        let failed = |source| TlsError::Listen { address: full.clone(), source };
        let listener = TcpListener::bind(&full).await.map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        let limits = Limits::default();
        let open = Arc::new(Semaphore::new(limits.connections));
        let (handshakes, shaking, counts) = (JoinSet::new(), HashMap::new(), Arc::default());
        let places = Places::default();
        Ok(Self { listener, local, tls, limits, open, handshakes, shaking, places, counts })
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

    /// What it counts.
    pub fn counts(&self) -> Arc<ListenerCounts> {
        Arc::clone(&self.counts)
    }

    /// The next ready connection. Never fails and may be cancelled at any time without losing one.
    pub async fn accept(&mut self) -> ServerConnection {
        loop {
            tokio::select! {
                Some(done) = self.handshakes.join_next_with_id() => {
                    let (id, connection) = match done {
                        Ok((id, connection)) => (id, connection),
                        Err(error) => (error.id(), None),
                    };
                    self.shaking.remove(&id);
                    if let Some(connection) = connection {
                        return connection;
                    }
                }
                (stream, address, permit) = next_stream(&self.listener, &self.open),
                    if self.handshakes.len() < self.limits.handshakes =>
                {
                    let source = source(address.ip());
                    let Ok(place) = self.place(source) else {
                        self.counts.failed(Failure::Address);
                        tracing::debug!("connection from {address} refused: too many from there");
                        continue;
                    };
                    let slot = Slot::new(permit, place, Arc::clone(&self.counts));
                    let Some(tls) = &self.tls else {
                        let peer = ConnectionPeer { address, identity: None };
                        return ServerConnection::new(Either::Left(stream), peer, slot.taken());
                    };
                    let under_way = self.shaking.values().filter(|from| **from == source).count();
                    if under_way >= self.limits.handshakes_per_address {
                        self.counts.failed(Failure::Address);
                        tracing::debug!("connection from {address} refused: too many handshakes from there");
                        continue;
                    }
                    let handshake = handshake(tls.clone(), stream, address, slot, self.limits.handshake_time);
                    let id = self.handshakes.spawn(handshake).id();
                    self.shaking.insert(id, source);
                }
            }
        }
    }

    /// A place for a connection from `source`; none is needed where addresses are not counted.
    fn place(&self, source: IpAddr) -> Result<Option<Place>, Crowded> {
        let most = self.limits.connections_per_address;
        if most >= self.limits.connections {
            return Ok(None);
        }
        self.places.take(source, most).map(Some).ok_or(Crowded)
    }

    /// The connections as a stream that never ends, for tonic's `serve_with_incoming`.
    pub fn into_stream(self) -> impl Stream<Item = io::Result<Opening<ServerConnection>>> {
        futures_util::stream::unfold(self, |mut incoming| async move {
            let connection = incoming.accept().await;
            Some((Ok(Opening::new(connection)), incoming))
        })
    }
}

/// An address has too many connections.
struct Crowded;

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
    tls: Tls,
    stream: TcpStream,
    address: SocketAddr,
    slot: Slot,
    time: Duration,
) -> Option<ServerConnection> {
    let counts = Arc::clone(&slot.counts);
    match tokio::time::timeout(time, shake_hands(tls, stream)).await {
        Ok(Ok((stream, Ok(identity)))) => {
            let peer = ConnectionPeer { address, identity: identity.map(Arc::new) };
            Some(ServerConnection::new(stream, peer, slot.taken()))
        }
        Ok(Ok((_, Err(error)))) => {
            counts.failed(Failure::Certificate);
            tracing::warn!("connection from {address} refused: {error}");
            None
        }
        Ok(Err(error)) => {
            counts.failed(Failure::Tls);
            tracing::warn!("TLS handshake with {address} failed: {error}");
            None
        }
        Err(_) => {
            counts.failed(Failure::Time);
            tracing::warn!("TLS handshake with {address} took too long");
            None
        }
    }
}

type Identity = Result<Option<PeerIdentity>, TlsError>;

async fn shake_hands(tls: Tls, stream: TcpStream) -> io::Result<(Stage, Identity)> {
    match tls {
        Tls::Usual(acceptor) => {
            let stream = Box::new(acceptor.accept(stream).await?);
            let identity = PeerIdentity::from_session(stream.get_ref().1);
            Ok((Either::Right(Either::Left(stream)), identity))
        }
        Tls::Lean(config) => {
            let stream = LeanTls::accept(config, stream).await?;
            let identity = PeerIdentity::from_session(stream.state());
            Ok((Either::Right(Either::Right(stream)), identity))
        }
    }
}

/// The place of a connection among those that may be open; free again when it is dropped.
pub struct Slot {
    _permit: Option<OwnedSemaphorePermit>,
    _place: Option<Place>,
    counts: Arc<ListenerCounts>,
    taken: bool,
}

impl Slot {
    fn new(permit: Option<OwnedSemaphorePermit>, place: Option<Place>, counts: Arc<ListenerCounts>) -> Self {
        Self { _permit: permit, _place: place, counts, taken: false }
    }

    /// The connection is ready and given out.
    fn taken(mut self) -> Self {
        self.taken = true;
        self.counts.opened();
        self
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.taken {
            self.counts.closed();
        }
    }
}

/// Plain, or TLS for connections that are busy, or for those that are idle.
type Stage = Either<TcpStream, Either<Box<TlsStream<TcpStream>>, LeanTls>>;

/// An accepted TCP connection, ready for HTTP.
pub type ServerConnection = Connection<Stage, Slot>;

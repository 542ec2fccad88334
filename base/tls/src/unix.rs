//! Unix domain sockets in place of TCP: for components on the same machine.
//!
//! Written `unix:/path` or `unix:///path`, as gRPC names them. TLS runs over them just as over TCP, so that both
//! ends stay who they are. The peer's network address is that of nobody.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::Stream;
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::either::Either;
use tonic::transport::{Channel, Endpoint};

use crate::connection::Connection;
use crate::opening::Opening;
use crate::{ConnectionPeer, Limits, PeerIdentity, TlsError};

const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(500);
/// The name that clients send; servers of components do not look at it.
const SERVER_NAME: &str = "localhost";

/// The path in an address of this kind; `None` for any other.
pub fn unix_path(address: &str) -> Option<&Path> {
    let path = address.strip_prefix("unix:")?;
    Some(Path::new(path.strip_prefix("//").unwrap_or(path)))
}

/// A listening Unix socket that gives out ready gRPC connections. The socket file goes when this is dropped.
pub struct UnixIncoming {
    listener: UnixListener,
    path: PathBuf,
    tls: Option<TlsAcceptor>,
    limits: Limits,
    open: Arc<Semaphore>,
    handshakes: JoinSet<Option<UnixConnection>>,
}

impl UnixIncoming {
    /// Listens at `path`, with TLS if there is a configuration. A socket that nobody serves any more is
    /// replaced. `mode` says who may connect.
    pub async fn bind(path: &Path, tls: Option<&Arc<ServerConfig>>, mode: u32) -> Result<Self, TlsError> {
        let failed = |source| TlsError::Listen { address: format!("unix:{}", path.display()), source };
        if UnixStream::connect(path)
            .await
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
        {
            std::fs::remove_file(path).map_err(failed)?;
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
        let limits = Limits::default();
        Ok(Self {
            listener,
            path: path.to_owned(),
            tls: tls.map(|config| {
                let mut config = ServerConfig::clone(config);
                config.alpn_protocols = vec![b"h2".to_vec()];
                TlsAcceptor::from(Arc::new(config))
            }),
            limits,
            open: Arc::new(Semaphore::new(limits.connections)),
            handshakes: JoinSet::new(),
        })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    async fn accept(&mut self) -> UnixConnection {
        loop {
            tokio::select! {
                Some(done) = self.handshakes.join_next() => {
                    if let Ok(Some(connection)) = done {
                        return connection;
                    }
                }
                (stream, permit) = next_stream(&self.listener, &self.open),
                    if self.handshakes.len() < self.limits.handshakes =>
                {
                    let Some(tls) = self.tls.clone() else {
                        return UnixConnection::new(Either::Left(stream), peer(None), permit);
                    };
                    let time = self.limits.handshake_time;
                    self.handshakes.spawn(async move {
                        tokio::time::timeout(time, handshake(tls, stream, permit)).await.unwrap_or_else(|_| {
                            tracing::warn!("TLS handshake on a Unix socket took too long");
                            None
                        })
                    });
                }
            }
        }
    }

    /// The connections as a stream that never ends, for tonic's `serve_with_incoming`.
    pub fn into_stream(self) -> impl Stream<Item = io::Result<Opening<UnixConnection>>> {
        futures_util::stream::unfold(self, |mut incoming| async move {
            let connection = incoming.accept().await;
            Some((Ok(Opening::new(connection)), incoming))
        })
    }
}

impl Drop for UnixIncoming {
    fn drop(&mut self) {
        // A file that stays is replaced by the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn next_stream(
    listener: &UnixListener,
    open: &Arc<Semaphore>,
) -> (UnixStream, Option<OwnedSemaphorePermit>) {
    // Acquiring fails only on a closed semaphore, and nobody closes it.
    let permit = Arc::clone(open).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, permit),
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn handshake(
    tls: TlsAcceptor,
    stream: UnixStream,
    permit: Option<OwnedSemaphorePermit>,
) -> Option<UnixConnection> {
    let stream = match tls.accept(stream).await {
        Ok(stream) => stream,
        Err(error) => {
            tracing::warn!("TLS handshake on a Unix socket failed: {error}");
            return None;
        }
    };
    match PeerIdentity::from_session(stream.get_ref().1) {
        Ok(identity) => Some(UnixConnection::new(Either::Right(Box::new(stream)), peer(identity), permit)),
        Err(error) => {
            tracing::warn!("connection on a Unix socket refused: {error}");
            None
        }
    }
}

fn peer(identity: Option<PeerIdentity>) -> ConnectionPeer {
    ConnectionPeer { address: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), identity: identity.map(Arc::new) }
}

type Stage = Either<UnixStream, Box<TlsStream<UnixStream>>>;

/// An accepted connection over a Unix socket, ready for HTTP.
pub type UnixConnection = Connection<Stage, Option<OwnedSemaphorePermit>>;

/// A channel over the socket, with TLS if there is a configuration; `settings` is the endpoint to use.
pub(crate) fn channel(path: &Path, tls: Option<&Arc<ClientConfig>>, settings: &Endpoint) -> Channel {
    let path = path.to_owned();
    match tls {
        None => settings.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let connecting = UnixStream::connect(path.clone());
            async move { connecting.await.map(TokioIo::new) }
        })),
        Some(config) => {
            let mut config = ClientConfig::clone(config);
            config.alpn_protocols = vec![b"h2".to_vec()];
            let connector = TlsConnector::from(Arc::new(config));
            settings.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
                let (path, connector) = (path.clone(), connector.clone());
                async move {
                    let name = ServerName::try_from(SERVER_NAME).map_err(io::Error::other)?;
                    let stream = UnixStream::connect(path).await?;
                    Ok::<_, io::Error>(TokioIo::new(connector.connect(name, stream).await?))
                }
            }))
        }
    }
}

//! HTTP/1.1 over TLS, as all three listeners of the cloud speak it.
//!
//! A request carries a [`ConnectionPeer`] extension: who the handshake has verified. Header names are
//! written in title case, because upstream Units look for the literal text `Accept-Ranges: bytes`. Limits:
//! 64 KiB of headers in at most 20 s; connections and handshakes as [`Limits`] says. On stop, requests under
//! way may finish within the given time; upgraded connections belong to whoever took them over.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aos_supervise::Shutdown;
pub use aos_tls::{ConnectionPeer, Limits, ListenerCounts, ServerConnection, TlsError};
use aos_tls::{Incoming, Protocol};
use axum::Router;
use axum::body::Body;
use hyper::Request;
use hyper::body::Incoming as IncomingBody;
pub use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use rustls::ServerConfig;
use tokio::task::JoinSet;
use tower::ServiceExt as _;

const MAX_HEADERS: usize = 64 * 1024;
const HEADER_TIME: Duration = Duration::from_secs(20);

/// A bound listener that does not answer yet.
pub struct Listener {
    incoming: Incoming,
    name: &'static str,
    header_time: Duration,
}

impl Listener {
    /// Listens on `address` (`host:port`, port 0 lets the system choose).
    pub async fn bind(
        name: &'static str,
        address: &str,
        config: &Arc<ServerConfig>,
        limits: Limits,
    ) -> Result<Self, TlsError> {
        let incoming = Incoming::bind_tls(address, config, Protocol::Http1).await?;
        Ok(Self { incoming: incoming.with_limits(limits), name, header_time: HEADER_TIME })
    }

    /// Listens without TLS, for what only this machine may see.
    pub async fn bind_plain(name: &'static str, address: &str, limits: Limits) -> Result<Self, TlsError> {
        let incoming = Incoming::bind_plain(address).await?;
        Ok(Self { incoming: incoming.with_limits(limits), name, header_time: HEADER_TIME })
    }

    /// Another time for the headers of a request than 20 s; it also ends connections that ask nothing.
    pub fn with_header_time(mut self, time: Duration) -> Self {
        self.header_time = time;
        self
    }

    /// What it counts about connections and handshakes.
    pub fn counts(&self) -> Arc<ListenerCounts> {
        self.incoming.counts()
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.incoming.local_addr()
    }

    /// Serves `router` until `stop`; requests under way then have `drain` to finish.
    pub async fn serve(mut self, router: Router, stop: Shutdown, drain: Duration) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.wait() => break,
                connection = self.incoming.accept() => {
                    let work = serve_connection(
                        connection,
                        router.clone(),
                        stop.clone(),
                        self.name,
                        self.header_time,
                    );
                    connections.spawn(work);
                }
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
            }
        }
        drop(self.incoming);
        let finish = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(drain, finish).await.is_err() {
            tracing::info!("{}: connections were cut to stop in time", self.name);
        }
    }
}

async fn serve_connection(
    connection: ServerConnection,
    router: Router,
    stop: Shutdown,
    name: &'static str,
    header_time: Duration,
) {
    let peer = connection.peer().clone();
    let address = peer.address;
    let service = hyper::service::service_fn(move |mut request: Request<IncomingBody>| {
        request.extensions_mut().insert(peer.clone());
        router.clone().oneshot(request.map(Body::new))
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(header_time)
        .max_buf_size(MAX_HEADERS)
        .title_case_headers(true);
    let work = builder.serve_connection(TokioIo::new(connection), service).with_upgrades();
    tokio::pin!(work);
    let outcome = tokio::select! {
        outcome = &mut work => outcome,
        () = stop.wait() => {
            work.as_mut().graceful_shutdown();
            work.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!("{name}: connection from {address} ended: {error}");
    }
}

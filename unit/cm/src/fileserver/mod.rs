//! File server: verified blobs for the Service Managers of other nodes.
//!
//! HTTP/1.1 over TLS 1.3 or 1.2 with a certificate on both sides, as on our gRPC server: blobs are plain here,
//! and what the cloud sent encrypted must not cross the Unit's network in the clear. It answers
//! `GET` and `HEAD` of `/blobs/sha256/<64 digits>` with ranges, so that a broken download goes on at its byte;
//! no other name is looked at, so none can lead out of the store. It runs where `fileServerUrl` is set, on
//! loopback only when that names this host as seen from itself.
//!
//! Limits: 64 connections, one request at a time on each, 16 KiB of headers; a connection on which nothing
//! moved for 30 s is cut. Nothing runs while nobody is connected.

mod answer;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aos_content_store::Store;
use aos_ids::Digest;
use aos_tls::{ClientAuth, IdentitySlot, Incoming, Limits, Protocol, Roots, ServerConnection, TlsError};
use hyper::Request;
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;

/// Connections at the same time: a few for each of 16 nodes.
const CONNECTIONS: usize = 64;
/// Largest head of a request, bytes.
const MAX_HEAD: usize = 16 * 1024;
/// Longest time in which nothing moves on a connection.
const SILENCE: Duration = Duration::from_secs(30);
/// Port that upstream's server has without one in the address.
const DEFAULT_PORT: u16 = 8080;

/// Where other nodes find the server: `fileServerUrl` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Name or address by which the other nodes know this one; IPv6 in brackets.
    host: String,
    port: u16,
}

impl Address {
    /// Reads `host:port`. A missing host is `localhost`, a missing port 8080; `None` when it is neither.
    pub fn read(text: &str) -> Option<Self> {
        let bracket = text.rfind(']').map_or(0, |end| end + 1);
        let (host, port) = match text.get(bracket..)?.rfind(':') {
            Some(colon) => (text.get(..bracket + colon)?, text.get(bracket + colon + 1..)?.parse().ok()?),
            None => (text, DEFAULT_PORT),
        };
        let host = if host.is_empty() { "localhost" } else { host };
        let named = url::Host::parse(host).is_ok();
        (named && port != 0).then(|| Self { host: host.to_owned(), port })
    }

    /// Where a blob is for another node.
    pub fn url(&self, digest: &Digest) -> String {
        format!("https://{}:{}/blobs/sha256/{}", self.host, self.port, digest.hex())
    }

    /// Where to listen: everywhere, but for a name that only this host has for itself.
    fn listen(&self) -> String {
        let plain = self.host.trim_start_matches('[').trim_end_matches(']');
        match plain.parse::<IpAddr>() {
            Ok(address) if address.is_loopback() => format!("{}:{}", self.host, self.port),
            Ok(IpAddr::V6(_)) => format!("[::]:{}", self.port),
            Err(_) if plain.eq_ignore_ascii_case("localhost") => format!("127.0.0.1:{}", self.port),
            _ => format!(":{}", self.port),
        }
    }
}

/// The server before it runs.
pub struct Server {
    incoming: Incoming,
    store: Store,
    silence: Duration,
}

/// Listens. Clients need a certificate that chains to `roots`.
pub async fn open(
    address: &Address,
    roots: Roots,
    identity: IdentitySlot,
    store: Store,
) -> Result<Server, TlsError> {
    let config = aos_tls::server_config(identity, ClientAuth::RequiredNow(roots))?;
    let incoming = Incoming::bind_tls(&address.listen(), &config, Protocol::Http1).await?;
    let limits = Limits { connections: CONNECTIONS, ..Limits::default() };
    Ok(Server { incoming: incoming.with_limits(limits), store, silence: SILENCE })
}

impl Server {
    /// Where it listens.
    pub fn address(&self) -> std::net::SocketAddr {
        self.incoming.local_addr()
    }

    /// Serves until dropped; so do its connections.
    pub async fn run(mut self) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                connection = self.incoming.accept() => {
                    connections.spawn(serve(connection, self.store.clone(), self.silence));
                }
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
            }
        }
    }
}

async fn serve(connection: ServerConnection, store: Store, silence: Duration) {
    let peer = connection.peer().address;
    let moved = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&moved);
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        counter.fetch_add(1, Ordering::Relaxed);
        answer::answer(store.clone(), request.into_parts().0, Arc::clone(&counter))
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    // Upstream's nodes look for the literal text "Accept-Ranges".
    builder.max_buf_size(MAX_HEAD).title_case_headers(true);
    let mut work = std::pin::pin!(builder.serve_connection(TokioIo::new(connection), service));
    loop {
        let before = moved.load(Ordering::Relaxed);
        match tokio::time::timeout(silence, &mut work).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => {
                tracing::debug!("file server: connection from {peer} ended: {error}");
                return;
            }
            Err(_) if moved.load(Ordering::Relaxed) == before => {
                tracing::debug!("file server: connection from {peer} is cut, nothing moves on it");
                return;
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests;

//! Where a server listens: TCP (`host:port`, `:port`, `[v6]:port`) or a Unix socket (`unix:/path`).

use std::sync::Arc;

use aos_tls::{Incoming, Limits, Protocol, TlsError, UnixIncoming};
use rustls::ServerConfig;

/// Components run as several users and prove themselves by certificates, not by file rights.
const SOCKET_MODE: u32 = 0o666;

/// Handshakes at the same time. More than one address may hold: who never finishes keeps only those out that come
/// from where it comes from.
const HANDSHAKES: usize = 64;

/// Connections that one address may hold of the 256; the components of a node share theirs and need a dozen.
const CONNECTIONS_PER_ADDRESS: usize = 128;

/// A listening server socket.
pub enum Listener {
    /// TCP.
    Tcp(Box<Incoming>),
    /// A Unix socket.
    Unix(Box<UnixIncoming>),
}

impl Listener {
    /// Listens; without `tls` in plain text.
    pub async fn bind(address: &str, tls: Option<&Arc<ServerConfig>>) -> Result<Self, TlsError> {
        if let Some(path) = aos_tls::unix_path(address) {
            return Ok(Self::Unix(Box::new(UnixIncoming::bind(path, tls, SOCKET_MODE).await?)));
        }
        let incoming = match tls {
            Some(tls) => Incoming::bind_tls(address, tls, Protocol::Grpc).await?,
            None => Incoming::bind_plain(address).await?,
        };
        let limits = Limits {
            handshakes: HANDSHAKES,
            connections_per_address: CONNECTIONS_PER_ADDRESS,
            ..Limits::default()
        };
        Ok(Self::Tcp(Box::new(incoming.with_limits(limits))))
    }

    /// Where it listens, with the port that the system chose.
    pub fn address(&self) -> String {
        match self {
            Self::Tcp(incoming) => incoming.local_addr().to_string(),
            Self::Unix(incoming) => format!("unix:{}", incoming.path().display()),
        }
    }
}

//! TLS as all components use it: configurations, hot-swapped identities, who the peer is, listeners and
//! gRPC channels.
//!
//! Trust is the certificate chain to the given roots, never the system's store. Where a peer's certificates
//! carry no names ([`HostCheck::ChainOnly`]) its host name is not looked at. Sessions are not resumed: every
//! connection proves the present identity and is checked against the present time, and no ticket store
//! costs memory. TLS 1.2 and 1.3, aws-lc-rs underneath. No HTTP client lives here.

mod config;
mod connection;
mod counts;
mod dial;
mod error;
mod grpc;
mod identity;
mod incoming;
mod lean;
mod opening;
mod places;
mod roots;
mod time;
mod unix;
mod verify;

pub use config::{
    ClientAuth, HostCheck, ServerIdentity, client_config, client_config_at, client_config_hot, provider,
    roots_from_pem, roots_from_pem_file, server_config,
};
pub use connection::Connection;
pub use counts::ListenerCounts;
pub use dial::{DialError, DialedStream, Dialer, connect_plain};
pub use error::TlsError;
pub use grpc::{ClientTlsStream, connect_tcp_tls, grpc_channel, grpc_server, plain_grpc_channel};
pub use identity::{ConnectionPeer, IdentitySlot, PeerIdentity, peer_of};
pub use incoming::{Incoming, Limits, Protocol, ServerConnection};
pub use opening::Opening;
pub use roots::Roots;
pub use time::{TimeBasis, raise_time_floor, time_floor};
pub use unix::{UnixConnection, UnixIncoming, unix_path};
pub use verify::chains_to;

#[cfg(test)]
mod tests;

//! What can go wrong before a connection stands.

use std::io;
use std::path::PathBuf;

/// Failure to make a configuration, to listen or to connect.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file with certificates could not be read.
    #[error("cannot read the root certificates of {path}")]
    ReadRoots {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The text is no PEM, or one of its certificates is damaged.
    #[error("root certificates are no valid PEM: {reason}")]
    Roots {
        /// What the parser found.
        reason: String,
    },
    /// PEM without any certificate.
    #[error("no certificate found where root certificates were expected")]
    NoRoots,
    /// The TLS library refused a configuration.
    #[error("cannot make a TLS configuration")]
    Config(#[source] rustls::Error),
    /// The client certificate verifier could not be made.
    #[error("cannot make the verifier of client certificates")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
    /// An address is not `host:port`.
    #[error("'{address}' is no address of the form host:port")]
    Address {
        /// The text found.
        address: String,
    },
    /// A host name that no certificate can carry.
    #[error("'{name}' is no valid host name")]
    HostName {
        /// The text found.
        name: String,
    },
    /// The listening socket could not be opened.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// TCP connection or handshake failed.
    #[error("cannot connect to {address}")]
    Connect {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No connection in time.
    #[error("no TLS connection to {address} within {seconds} s")]
    ConnectTimeout {
        /// Where.
        address: String,
        /// Time allowed, seconds.
        seconds: u64,
    },
    /// A certificate of a peer cannot be read.
    #[error("certificate of the peer cannot be read: {reason}")]
    PeerCertificate {
        /// What the parser found.
        reason: String,
    },
}

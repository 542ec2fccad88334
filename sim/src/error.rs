//! What can go wrong with virtual Units.

use std::path::PathBuf;

/// Errors of virtual Units.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// A file of the fleet cannot be read.
    #[error("cannot use {path}")]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The fleet cannot be kept.
    #[error("cannot keep the fleet")]
    Keep(#[from] aos_durable::DurableError),
    /// The fleet's file is damaged.
    #[error("the fleet's file is damaged: {0}")]
    Fleet(&'static str),
    /// No certificates for the fleet.
    #[error("cannot make certificates for the fleet")]
    Certificates(#[from] aos_cloud_pki::PkiError),
    /// No keys for the fleet.
    #[error("cannot make a key for the fleet")]
    Key(#[from] rcgen::Error),
    /// The cloud's store refused the fleet.
    #[error("cannot register the fleet")]
    Register(#[from] aos_cloud_store::StoreError),
    /// No TLS.
    #[error("cannot open a TLS connection")]
    Tls(#[from] aos_tls::TlsError),
    /// The connection broke.
    #[error("the connection broke")]
    Connection(#[source] std::io::Error),
    /// The cloud did not do as expected.
    #[error("the cloud {0}")]
    Unexpected(String),
    /// It took too long.
    #[error("nothing came in time: {0}")]
    Late(&'static str),
}

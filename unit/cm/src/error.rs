//! What ends the Communication Manager.

use std::path::PathBuf;

/// Why the process cannot start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration file is missing or wrong; the message names file, key and reason.
    #[error(transparent)]
    Config(Box<crate::config::ConfigError>),
    /// The runtime could not be built.
    #[error("starting the asynchronous runtime")]
    Runtime(#[source] std::io::Error),
    /// A directory of ours cannot be made.
    #[error("making directory {}", dir.display())]
    Directory {
        /// Which.
        dir: PathBuf,
        /// Why.
        #[source]
        source: Box<aos_durable::DurableError>,
    },
    /// The database cannot be used.
    #[error("opening what is stored")]
    Database(#[source] Box<crate::database::StoreError>),
    /// The folders of blobs cannot be used.
    #[error("opening the stored items")]
    Blobs(#[source] Box<aos_content_store::StoreError>),
    /// The root certificates cannot be read.
    #[error("reading the root certificates {}", path.display())]
    Roots {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<aos_durable::DurableError>,
    },
    /// TLS cannot be set up, or the address cannot be listened on.
    #[error("setting up secure connections")]
    Tls(#[from] aos_tls::TlsError),
    /// The link to IAM cannot be made.
    #[error("setting up the link to IAM")]
    Iam(#[source] Box<aos_iam_link::LinkError>),
    /// A task ended that should not.
    #[error(transparent)]
    Task(#[from] aos_supervise::TaskError),
}

impl From<crate::config::ConfigError> for Error {
    fn from(error: crate::config::ConfigError) -> Self {
        Self::Config(Box::new(error))
    }
}

impl From<crate::database::StoreError> for Error {
    fn from(error: crate::database::StoreError) -> Self {
        Self::Database(Box::new(error))
    }
}

impl From<aos_content_store::StoreError> for Error {
    fn from(error: aos_content_store::StoreError) -> Self {
        Self::Blobs(Box::new(error))
    }
}

impl From<aos_iam_link::LinkError> for Error {
    fn from(error: aos_iam_link::LinkError) -> Self {
        Self::Iam(Box::new(error))
    }
}

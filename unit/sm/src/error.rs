//! What can go wrong here, and what peers are told about it.

use std::io;
use std::path::PathBuf;

use aos_config_file::ConfigError;
use aos_durable::DurableError;
use aos_status::{AosCode, ErrorInfo};

/// Longest error text peers accept, bytes.
const MAX_MESSAGE: usize = 255;

/// Why something did not work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file or database cannot be kept.
    #[error(transparent)]
    Durable(#[from] DurableError),
    /// A statement failed.
    #[error("cannot {action} in the database")]
    Database {
        /// What was tried.
        action: &'static str,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A kernel call failed.
    #[error("cannot {action}")]
    System {
        /// What was tried.
        action: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What the probes of an instance found.
    #[error(transparent)]
    Unhealthy(#[from] crate::launcher::Unhealthy),
    /// A remote call failed.
    #[error("{call} failed: {}", source.message())]
    Call {
        /// The method.
        call: &'static str,
        /// Why.
        #[source]
        source: Box<tonic::Status>,
    },
    /// The other side answered with an error of its own.
    #[error("{call} was answered with: {info}")]
    Answer {
        /// The method.
        call: &'static str,
        /// What it said.
        info: ErrorInfo,
    },
    /// There is no connection to the Communication Manager now.
    #[error("{call} is not possible: the communication manager is not connected")]
    NotConnected {
        /// The method.
        call: &'static str,
    },
    /// A connection cannot be prepared.
    #[error("cannot prepare the connection to {peer}")]
    Tls {
        /// The other side.
        peer: String,
        /// Why.
        #[source]
        source: aos_tls::TlsError,
    },
    /// Content does not match what was announced.
    #[error("{what} has digest {found}, expected {expected}")]
    Checksum {
        /// The content.
        what: String,
        /// Digest announced.
        expected: String,
        /// Digest found.
        found: String,
    },
    /// Content is refused.
    #[error("{what}: {reason}")]
    Invalid {
        /// The content.
        what: String,
        /// Why.
        reason: String,
    },
    /// Something addressed is not there.
    #[error("{0} is not there")]
    NotFound(String),
    /// Something belongs to somebody else.
    #[error("{what} is taken by instance {by}")]
    Taken {
        /// What was asked for.
        what: String,
        /// Who has it.
        by: String,
    },
    /// A shared resource has no room for another user.
    #[error("resource '{resource}' is for {shared_count} instance{} at a time and in use by {users}", if *shared_count == 1 { "" } else { "s" })]
    ResourceTaken {
        /// Its name.
        resource: String,
        /// How many instances may use it at once.
        shared_count: u64,
        /// Instance IDs of those that do.
        users: String,
    },
    /// A disk quota cannot be kept.
    #[error(transparent)]
    Quota(#[from] aos_disk_quota::QuotaError),
    /// Something is not built yet.
    #[error("{0} is not supported")]
    NotSupported(String),
    /// A layer was not installed.
    #[error(transparent)]
    Layer(#[from] aos_image_layers::LayerError),
    /// A blob cannot be kept.
    #[error(transparent)]
    Blob(#[from] aos_content_store::StoreError),
    /// The bytes of a blob cannot be had.
    #[error("cannot fetch blob {blob}")]
    Source {
        /// Its digest.
        blob: String,
        /// Why.
        #[source]
        source: aos_blob_source::SourceError,
    },
    /// Something several had asked for failed.
    #[error(transparent)]
    Shared(std::sync::Arc<Self>),
    /// A bound was exceeded.
    #[error("{what} is limited to {limit}")]
    Limit {
        /// What is bounded.
        what: String,
        /// The bound.
        limit: u64,
    },
    /// The OCI runtime failed.
    #[error("{action} failed with status {status}: {message}")]
    Runtime {
        /// Command and container.
        action: String,
        /// Exit status of the command.
        status: i32,
        /// What it said.
        message: String,
    },
    /// The keeper cannot be used.
    #[error("the keeper {0}")]
    Keeper(String),
    /// The keeper went away in the middle of a request; another one is started.
    #[error("the keeper went away")]
    KeeperGone,
    /// A document cannot be written.
    #[error("cannot encode {what}")]
    Encode {
        /// The document.
        what: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A module of ours has ended.
    #[error("{0} has ended")]
    Ended(&'static str),
    /// The task tree stopped with an error.
    #[error("a task ended the program")]
    Task(#[source] aos_supervise::TaskError),
}

impl Error {
    /// Shorthand for file operations.
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }

    /// Shorthand for the sources of blobs.
    pub(crate) fn source(blob: &aos_ids::Digest) -> impl FnOnce(aos_blob_source::SourceError) -> Self {
        let blob = blob.to_string();
        move |source| Self::Source { blob, source }
    }

    /// True when more free space on the disk may help.
    pub(crate) fn is_no_space(&self) -> bool {
        match self {
            Self::Shared(error) => error.is_no_space(),
            Self::Layer(error) => error.is_no_space(),
            Self::Blob(error) => error.is_no_space(),
            Self::Durable(error) => error.is_no_space(),
            Self::File { source, .. } | Self::System { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            _ => false,
        }
    }

    /// Shorthand for kernel calls.
    pub(crate) fn system<E: Into<io::Error>>(action: impl Into<String>) -> impl FnOnce(E) -> Self {
        let action = action.into();
        move |source| Self::System { action, source: source.into() }
    }

    /// Shorthand for refused content.
    pub(crate) fn invalid(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { what: what.into(), reason: reason.into() }
    }

    /// True when the peer does not know such a call: it is older than we are.
    pub fn is_unknown_call(&self) -> bool {
        matches!(self, Self::Call { source, .. } if source.code() == tonic::Code::Unimplemented)
    }

    /// True when the same request may succeed once the Communication Manager or the keeper is there again.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::NotConnected { .. } | Self::KeeperGone => true,
            Self::Shared(error) => error.is_passing(),
            Self::Call { source, .. } => matches!(
                source.code(),
                tonic::Code::Unavailable
                    | tonic::Code::Cancelled
                    | tonic::Code::DeadlineExceeded
                    | tonic::Code::Unknown
            ),
            _ => false,
        }
    }

    /// What peers are told: the kind and the whole chain of reasons.
    pub(crate) fn info(&self) -> ErrorInfo {
        let mut message = self.to_string();
        // A status prints all of its causes, which its message has named already.
        let mut next = std::error::Error::source(self).filter(|_| !matches!(self, Self::Call { .. }));
        while let Some(cause) = next {
            let text = cause.to_string();
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            next = cause.source();
        }
        while message.len() > MAX_MESSAGE {
            message.pop();
        }
        let exit_code = match self {
            Self::File { source, .. } | Self::System { source, .. } => source.raw_os_error().unwrap_or(0),
            Self::Runtime { status, .. } => *status,
            Self::Answer { info, .. } => info.exit_code,
            Self::Quota(error) => error.errno(),
            _ => 0,
        };
        ErrorInfo { aos_code: self.code().number(), exit_code, message }
    }

    fn code(&self) -> AosCode {
        match self {
            Self::Shared(error) => error.code(),
            _ if self.is_no_space() => AosCode::NoMemory,
            Self::Layer(error) => layer_code(error),
            Self::Checksum { .. } | Self::Blob(aos_content_store::StoreError::Mismatch { .. }) => {
                AosCode::InvalidChecksum
            }
            Self::Invalid { .. } | Self::Config(_) => AosCode::InvalidArgument,
            Self::NotFound(_) => AosCode::NotFound,
            Self::NotSupported(_) | Self::Quota(aos_disk_quota::QuotaError::Unavailable { .. }) => {
                AosCode::NotSupported
            }
            Self::Taken { .. } => AosCode::AlreadyExists,
            Self::Limit { .. } | Self::ResourceTaken { .. } => AosCode::NoMemory,
            Self::NotConnected { .. } | Self::Call { .. } => AosCode::Timeout,
            Self::Answer { info, .. } => info.code(),
            Self::Durable(error) if error.is_no_space() => AosCode::NoMemory,
            Self::Quota(error) if error.is_no_space() => AosCode::NoMemory,
            Self::File { source, .. } if source.kind() == io::ErrorKind::StorageFull => AosCode::NoMemory,
            Self::Blob(_)
            | Self::Source { .. }
            | Self::File { .. }
            | Self::System { .. }
            | Self::Unhealthy(_)
            | Self::Runtime { .. } => AosCode::Runtime,
            _ => AosCode::Failed,
        }
    }
}

fn layer_code(error: &aos_image_layers::LayerError) -> AosCode {
    use aos_image_layers::LayerError;
    match error {
        LayerError::Checksum { .. } => AosCode::InvalidChecksum,
        LayerError::Program { .. } => AosCode::NotSupported,
        error if error.is_content() => AosCode::InvalidArgument,
        _ => AosCode::Runtime,
    }
}

//! What can go wrong in the Identity and Access Manager, and which code a peer is told.

use std::path::PathBuf;

use aos_logging::with_causes;
use aos_status::{AosCode, ErrorInfo, NodeState};

use crate::config::ConfigError;

/// Why a start, an order or a question failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(Box<ConfigError>),
    /// A file cannot be read or written.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// What was tried, as in `read the node ID from`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A durable file or the database file cannot be handled.
    #[error("cannot {doing} {}", path.display())]
    Durable {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Box<aos_durable::DurableError>,
    },
    /// A statement on the database failed.
    #[error("cannot {doing} in the database")]
    Sql {
        /// What was tried.
        doing: &'static str,
        /// Why not.
        #[source]
        source: rusqlite::Error,
    },
    /// The token refused.
    #[error("cannot {doing} for certificate type '{cert_type}'")]
    Token {
        /// What was tried.
        doing: &'static str,
        /// The certificate type it was for.
        cert_type: String,
        /// Why not.
        #[source]
        source: Box<aos_token::TokenError>,
    },
    /// The token does not take the stored PIN, or none at all.
    #[error("cannot open the token for certificate type '{cert_type}'; {next}")]
    TokenShut {
        /// The certificate type it was for.
        cert_type: String,
        /// What somebody has to do.
        next: &'static str,
        /// Why not.
        #[source]
        source: Box<aos_token::TokenError>,
    },
    /// A TLS configuration or a listener cannot be made.
    #[error("cannot {doing}")]
    Tls {
        /// What was tried.
        doing: String,
        /// Why not.
        #[source]
        source: Box<aos_tls::TlsError>,
    },
    /// A certificate or a request for one cannot be built.
    #[error("cannot {doing}")]
    Build {
        /// What was tried.
        doing: &'static str,
        /// Why not.
        #[source]
        source: rcgen::Error,
    },
    /// Something addressed does not exist.
    #[error("{0}")]
    NotFound(String),
    /// An argument or a configured value is wrong.
    #[error("{0}")]
    InvalidArgument(String),
    /// The node is in a state that does not allow the order.
    #[error("{order} is not possible while the node is {state}")]
    WrongState {
        /// The order.
        order: &'static str,
        /// State of the node.
        state: NodeState,
    },
    /// A limit is reached.
    #[error("{0}")]
    TooMany(String),
    /// Something is not part of this version.
    #[error("{0}")]
    NotSupported(String),
    /// An external program failed.
    #[error("{program} ended with status {status}: {output}")]
    Command {
        /// The program.
        program: String,
        /// Exit status; 128 + signal number for a killed one.
        status: i32,
        /// Begin of what it wrote.
        output: String,
    },
    /// An external program could not be started or waited for.
    #[error("cannot run {program}")]
    Spawn {
        /// The program.
        program: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Somebody does not prove what they have to.
    #[error("{0}")]
    Refused(&'static str),
    /// No answer in time.
    #[error("{0}")]
    Timeout(String),
    /// The program is stopping.
    #[error("the identity and access manager is stopping")]
    Stopping,
    /// Anything else.
    #[error("{0}")]
    Failed(String),
    /// A part of the program ended when it should not.
    #[error("the program cannot go on")]
    Supervise(#[from] aos_supervise::TaskError),
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        Self::Config(Box::new(error))
    }
}

impl Error {
    /// The code a peer is told.
    pub fn code(&self) -> AosCode {
        match self {
            Self::Config(error) => error.code(),
            Self::TooMany(_) => AosCode::NoMemory,
            Self::InvalidArgument(_) => AosCode::InvalidArgument,
            Self::File { source, .. } if source.kind() == std::io::ErrorKind::NotFound => AosCode::NotFound,
            Self::NotFound(_) => AosCode::NotFound,
            Self::WrongState { .. } => AosCode::WrongState,
            Self::NotSupported(_) => AosCode::NotSupported,
            Self::Command { .. } | Self::Spawn { .. } => AosCode::Runtime,
            Self::Timeout(_) => AosCode::Timeout,
            Self::Stopping => AosCode::Canceled,
            _ => AosCode::Failed,
        }
    }

    /// The error with its causes, for a peer.
    pub fn info(&self) -> ErrorInfo {
        let message = with_causes(self);
        match self {
            Self::Command { status, .. } => ErrorInfo::runtime(*status, message),
            Self::Spawn { source, .. } => ErrorInfo::runtime(source.raw_os_error().unwrap_or(0), message),
            _ => ErrorInfo::new(self.code(), message),
        }
    }
}

//! Local status documents of running components over a Unix socket.
//!
//! Each component listens on `<dir>/<component>.sock` (mode 0600: the owner only). Whoever connects gets one
//! JSON document and the end of the stream; nothing is read from the client. The socket is made under a
//! temporary name and renamed, so that the socket of a killed predecessor is replaced without a gap.

mod client;
mod server;

use std::path::{Path, PathBuf};

pub use client::read;
pub use server::serve;

/// Longest document, bytes.
pub const MAX_DOCUMENT: usize = 1024 * 1024;

/// Environment variable that moves the directory of the sockets.
pub const RUN_DIR_VARIABLE: &str = "AOS_RUN_DIR";

/// Directory of the sockets: `AOS_RUN_DIR` when set, else `/run/aos`.
pub fn run_dir() -> PathBuf {
    std::env::var_os(RUN_DIR_VARIABLE)
        .filter(|dir| !dir.is_empty())
        .map_or_else(|| PathBuf::from("/run/aos"), PathBuf::from)
}

/// The socket of one component.
pub fn socket_path(dir: &Path, component: &str) -> PathBuf {
    dir.join(format!("{component}.sock"))
}

/// Why a status document could not be served or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StatusError {
    /// The socket could not be made.
    #[error("cannot serve the local status on {}: {source}", path.display())]
    Serve {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No such component runs here.
    #[error("{component} does not run here (nothing answers on {})", path.display())]
    NotRunning {
        /// The component asked for.
        component: String,
        /// The socket.
        path: PathBuf,
    },
    /// The document did not arrive.
    #[error("cannot read the status of {component}: {source}")]
    Read {
        /// The component asked for.
        component: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The document is longer than [`MAX_DOCUMENT`].
    #[error("the status of {component} is longer than {MAX_DOCUMENT} bytes")]
    TooLarge {
        /// The component asked for.
        component: String,
    },
    /// The document is no JSON.
    #[error("the status of {component} is no JSON: {source}")]
    NotJson {
        /// The component asked for.
        component: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

#[cfg(test)]
mod tests;

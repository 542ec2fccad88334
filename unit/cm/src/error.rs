//! What ends the Communication Manager.

/// Why the process cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration file is missing or wrong.
    #[error("reading the configuration")]
    Config(#[from] crate::config::ConfigError),
    /// The runtime could not be built.
    #[error("starting the asynchronous runtime")]
    Runtime(#[source] std::io::Error),
}

//! Configuration.

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("not read yet")]
pub struct ConfigError;

/// The configuration.
#[derive(Debug, Clone)]
pub struct Config {}

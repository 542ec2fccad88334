//! JSON configuration files with case-insensitive keys and errors that name the key.
//!
//! A file is at most 1 MiB. Keys of structures match without regard to case, at every level; `null` and `""`
//! count as absent; unknown keys are logged as a warning with their path, so that a misspelt key is seen. A
//! configuration is read once, at start: whatever is wrong ends the program with file, key and reason.
//!
//! Derive `Deserialize` with `#[serde(rename_all = "camelCase")]` and defaults. Avoid `flatten` and
//! `untagged`: inside them keys are matched exactly. Free-form parts stay `serde_json::Value` and are read by
//! their module with [`read_part`].

use std::path::{Path, PathBuf};

use aos_durable::DurableError;
use aos_loose_json::{LooseError, Rules};
use serde::de::DeserializeOwned;

pub use aos_loose_json::KeyError;

/// Longest accepted file, bytes.
pub const MAX_SIZE: u64 = 1024 * 1024;

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// There is no such file.
    #[error("{}: no such configuration file", path.display())]
    NotFound {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be read, or is too long.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<DurableError>,
    },
    /// It is no JSON.
    #[error("{}: no valid JSON: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Why, with line and column.
        #[source]
        source: serde_json::Error,
    },
    /// A key is missing or has a wrong value.
    #[error("{}: {source}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// Which key and why.
        #[source]
        source: KeyError,
    },
}

impl ConfigError {
    /// An error found by a component's own checks, such as a value out of range.
    pub fn key(path: &Path, key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Key { path: path.to_owned(), source: KeyError::new(key, reason) }
    }

    /// True when the file does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

/// Reads a configuration file and logs a warning for each unknown key.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let (value, unknown) = load_with_unknown(path)?;
    for key in unknown {
        tracing::warn!("{}: unknown key {key} is ignored", path.display());
    }
    Ok(value)
}

/// Reads a configuration file; also answers the paths of unknown keys, without logging them.
pub fn load_with_unknown<T: DeserializeOwned>(path: &Path) -> Result<(T, Vec<String>), ConfigError> {
    let text = aos_durable::read_bounded(path, MAX_SIZE)
        .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source: Box::new(source) })?
        .ok_or_else(|| ConfigError::NotFound { path: path.to_owned() })?;
    parse(path, &text)
}

/// Reads a configuration from text; `path` only serves messages.
pub fn parse<T: DeserializeOwned>(path: &Path, text: &[u8]) -> Result<(T, Vec<String>), ConfigError> {
    match aos_loose_json::from_slice(text, Rules::CONFIG) {
        Ok(read) => Ok((read.value, read.unknown)),
        Err(LooseError::Syntax(source)) => Err(ConfigError::Json { path: path.to_owned(), source }),
        Err(LooseError::Key(source)) => Err(ConfigError::Key { path: path.to_owned(), source }),
        Err(other) => Err(ConfigError::key(path, "", other.to_string())),
    }
}

/// Reads a free-form part of a configuration, such as a module's `params`. `key` is its path in the file and
/// precedes the path in errors and warnings.
pub fn read_part<T: DeserializeOwned>(
    path: &Path,
    key: &str,
    part: serde_json::Value,
) -> Result<T, ConfigError> {
    let join = |inner: &str| if inner.is_empty() { key.to_owned() } else { format!("{key}.{inner}") };
    let read = aos_loose_json::from_value(part, Rules::CONFIG)
        .map_err(|e| ConfigError::key(path, join(e.path()), e.reason()))?;
    for inner in read.unknown {
        tracing::warn!("{}: unknown key {} is ignored", path.display(), join(&inner));
    }
    Ok(read.value)
}

#[cfg(test)]
mod tests;

//! The bytes of a blob from the addresses it is said to have, in order and once.
//!
//! A blob is read as one stream, whatever happens to connections meanwhile: a broken one is taken up where it
//! ended (`Range`; from a server without ranges the known bytes are skipped), the addresses are tried in order,
//! and after all have failed there is a pause. How often is bounded, progress starts the count anew. Addresses
//! are `http`, `https` and `file`; redirections are not followed. What is read is not verified here: the reader
//! knows its digest.
//!
//! Limits: 16 pieces of at most 64 KiB wait for the reader; connecting takes at most 10 s, a server may be
//! silent for 30 s.

mod attempts;
mod dial;
mod http_blob;
mod reader;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aos_tls::TlsError;
use http::{StatusCode, Uri};

pub use attempts::{Attempts, Failure, Next};
pub use dial::Dialer;
pub use reader::{BlobReader, Stop};

/// Most addresses of a blob that are looked at.
pub const MAX_ADDRESSES: usize = 8;

/// Why the bytes did not come.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// No http, https or file URL.
    #[error("'{0}' is no address of a blob")]
    Address(String),
    /// The file cannot be opened.
    #[error("cannot open {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another number of bytes than announced.
    #[error("{address} offers {found} bytes, expected {expected}")]
    Length {
        /// Where.
        address: String,
        /// Bytes there.
        found: u64,
        /// Bytes announced.
        expected: u64,
    },
    /// Nobody listens.
    #[error("cannot connect to {address}")]
    Connect {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: aos_tls::DialError,
    },
    /// The handshake failed, or there are no root certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// An `https` address, and nothing to check its server with.
    #[error("'{0}' cannot be trusted: there are no root certificates")]
    NoRoots(String),
    /// The exchange broke.
    #[error("the connection to {address} broke")]
    Http {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: hyper::Error,
    },
    /// The server refuses.
    #[error("{address} answered with HTTP status {status}")]
    Status {
        /// Where.
        address: String,
        /// Its answer.
        status: StatusCode,
    },
    /// Nothing arrived for too long.
    #[error("{0} is silent")]
    Silent(String),
    /// The connection ended early.
    #[error("the connection to {address} ended after {found} of {expected} bytes")]
    Short {
        /// Where.
        address: String,
        /// Bytes so far.
        found: u64,
        /// Bytes announced.
        expected: u64,
    },
    /// Longer than the reader takes.
    #[error("{address} offers more than {limit} bytes")]
    TooLong {
        /// Where.
        address: String,
        /// The limit, bytes.
        limit: u64,
    },
    /// No address was given.
    #[error("there is no address to read it from")]
    NoAddress,
}

/// An address that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A file on this machine.
    File(PathBuf),
    /// On a server; `http` or `https`.
    Web(Uri),
}

impl Address {
    /// Reads a URL.
    pub fn read(url: &str) -> Result<Self, SourceError> {
        let wrong = || SourceError::Address(shown(url));
        if let Some(path) = url.strip_prefix("file://") {
            return if path.starts_with('/') { Ok(Self::File(unescaped(path))) } else { Err(wrong()) };
        }
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let known = matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some();
        if known { Ok(Self::Web(uri)) } else { Err(wrong()) }
    }
}

/// What may be told of a URL: what follows the question mark gives access.
fn shown(url: &str) -> String {
    url.split('?').next().unwrap_or_default().chars().take(200).flat_map(char::escape_debug).collect()
}

/// Peers write paths as they are; where an escaped one exists under its plain name, that is meant.
fn unescaped(path: &str) -> PathBuf {
    let plain = PathBuf::from(path);
    if !path.contains('%') || plain.exists() {
        return plain;
    }
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let code = (first == b'%').then(|| tail.get(..2)).flatten();
        let code = code.and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok());
        if let Some(code) = code {
            bytes.push(code);
            rest = tail.get(2..).unwrap_or_default();
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}

/// Opens a blob's file: a real file of the announced length, no link, no device.
fn open_file(path: &Path, size: Option<u64>) -> Result<File, SourceError> {
    let failed = |source| SourceError::File { path: path.to_owned(), source };
    // Without NONBLOCK, opening a named pipe would wait for its writer.
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file =
        OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() {
        return Err(failed(io::Error::other("it is no plain file")));
    }
    match size {
        Some(expected) if expected != meta.len() => {
            Err(SourceError::Length { address: path.display().to_string(), found: meta.len(), expected })
        }
        _ => Ok(file),
    }
}

#[cfg(test)]
mod tests;

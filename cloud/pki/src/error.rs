//! What can go wrong while issuing.

use std::path::PathBuf;

/// Errors of the certificate authority.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file of the authority cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file or folder of the authority cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A durable write failed.
    #[error("cannot store a file of the certificate authority")]
    Store(#[from] aos_durable::DurableError),
    /// A file of the authority does not hold what it should.
    #[error("{} does not hold a usable {what}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What was expected.
        what: &'static str,
    },
    /// Making or signing a certificate failed.
    #[error("cannot make the {what} certificate")]
    Make {
        /// Which one.
        what: &'static str,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// A cryptographic operation failed (random numbers, key generation, signing).
    #[error("cannot {0}")]
    Crypto(&'static str),
    /// A certificate signing request breaks a rule. The text is for the person who sent it.
    #[error("certificate request refused: {0}")]
    Refused(String),
    /// Sealed data were changed or sealed by another authority.
    #[error("sealed data cannot be opened with this authority's storage key")]
    Sealed,
}

impl PkiError {
    /// True when the request is to blame, not the authority.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_))
    }
}

//! What can go wrong with tokens, keys and certificates.

use std::io;
use std::path::PathBuf;

use cryptoki::error::{Error, RvError};

/// Failure of an operation on a token or on an identity loaded from one.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The PKCS#11 module cannot be loaded or initialised.
    #[error("cannot load the PKCS#11 module {path}")]
    Load {
        /// The library.
        path: PathBuf,
        /// Why.
        #[source]
        source: Error,
    },
    /// The token refused an operation.
    #[error("token operation failed: {action}")]
    Call {
        /// What was tried.
        action: &'static str,
        /// Why.
        #[source]
        source: Error,
    },
    /// No token of that name, and none that could be given it.
    #[error("no token '{label}' found")]
    NoToken {
        /// Label asked for.
        label: String,
    },
    /// A slot index or number that the module does not have.
    #[error("the PKCS#11 module has no slot {slot}")]
    NoSlot {
        /// Number asked for.
        slot: u64,
    },
    /// The object is not on the token.
    #[error("the token has no {what} with id {id}")]
    NotFound {
        /// Kind of the object.
        what: &'static str,
        /// CKA_ID asked for, hexadecimal.
        id: String,
    },
    /// The handle belongs to a token that was initialised anew since.
    #[error("the token was initialised anew; its former keys are gone")]
    Reinitialised,
    /// The token has refused a PIN since the last login; another try could lock it.
    #[error("the token refused a PIN before, and the stored one is not tried again")]
    RefusedBefore,
    /// The token was locked at the last login.
    #[error("the token was found locked before and is not tried again yet")]
    LockedBefore,
    /// An attribute is missing or has a form that no token should use.
    #[error("the token describes {what} in a form that cannot be read")]
    Attribute {
        /// What was read.
        what: &'static str,
    },
    /// A key of a kind that is not supported here, or an operation that its kind cannot do.
    #[error("a {kind} key cannot {action}")]
    Unsupported {
        /// Kind of the key.
        kind: &'static str,
        /// What was asked.
        action: &'static str,
    },
    /// A label, id or PIN longer than tokens accept, or empty.
    #[error("{what} has {length} bytes; 1 to {max} are allowed")]
    Length {
        /// Which argument.
        what: &'static str,
        /// Bytes found.
        length: usize,
        /// Most bytes allowed.
        max: usize,
    },
    /// A certificate or key URL has a wrong form. The text is not shown: it may carry a PIN.
    #[error("certificate or key URL is invalid: {reason}")]
    Url {
        /// What is wrong.
        reason: &'static str,
    },
    /// A file named by a URL cannot be read.
    #[error("cannot read {path}")]
    ReadFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A certificate cannot be parsed.
    #[error("certificate cannot be read: {reason}")]
    Certificate {
        /// What the parser found.
        reason: String,
    },
    /// A private key file cannot be used.
    #[error("private key of a file cannot be used: {reason}")]
    KeyFile {
        /// What the parser found.
        reason: String,
    },
}

impl TokenError {
    /// Whether the token refused the PIN. Tokens count such refusals and may lock, so do not try on.
    pub fn is_pin_refused(&self) -> bool {
        matches!(
            self,
            Self::RefusedBefore
                | Self::Call { source: Error::Pkcs11(RvError::PinIncorrect | RvError::PinLocked, _), .. }
        )
    }

    /// Whether the token takes no PIN at all at present.
    pub fn is_locked(&self) -> bool {
        matches!(self, Self::LockedBefore | Self::Call { source: Error::Pkcs11(RvError::PinLocked, _), .. })
    }
}

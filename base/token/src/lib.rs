//! Keys that never leave a PKCS#11 token, and the certificates beside them.
//!
//! [`Library`] loads a module once per process, [`Token`] is one of its slots, [`TokenSession`] a logged-in
//! session: one per token and process, shared by all keys, serialised by a lock. Every operation blocks
//! (about 1 ms on SoftHSM, several on a TPM). A session that the token lost is opened and logged in again
//! once per operation. [`load_identity`] turns certificate URLs into what TLS needs.

mod der;
mod description;
mod error;
mod identity;
mod key;
mod library;
mod object;
mod probe;
mod session;
mod shared;
mod tls_key;
mod url;

pub use cryptoki::types::AuthPin;

pub use description::{Description, PinState};
pub use error::TokenError;
pub use identity::{Identity, load_identity, load_key};
pub use key::{KeyKind, TokenKey};
pub use library::{Library, SlotChoice, Token};
pub use object::{ObjectInfo, ObjectKind};
#[cfg(feature = "probe")]
pub use probe::set_probe;
pub use session::TokenSession;
pub use url::{CertUrl, DEFAULT_MODULE, Pin, Pkcs11Url, read_pin_file, same_pin};

#[cfg(test)]
mod tests;

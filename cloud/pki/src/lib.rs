//! The cloud's own certificate authority.
//!
//! At first start it makes a root (EC P-384, 20 years) and four intermediates, one for each trust domain:
//! servers, users, Units and item signing. A listener trusts only the intermediate of the domain it
//! serves, so that no certificate is accepted in the place of another kind. The root key signs nothing
//! after the first start; it lies in a file of its own (`root.key`) that may be taken offline.
//!
//! The folder holds PKCS#8 keys with mode 0600. It is made beside its final place and renamed, so a crash
//! leaves either no authority or a complete one. Issued certificates are *not* recorded here: callers
//! store [`Issued`] and decide by that record who may do what.

mod authority;
mod csr;
mod error;
mod extension;
mod issue;
mod pem;
mod proof;
mod signer;
mod vault;

pub use authority::{Domain, Pki};
pub use csr::{CertType, Request};
pub use error::PkiError;
pub use issue::{Issued, ServerCertificate, UnitLives, UserSubject};
pub use pem::{certificate_to_pem, pem_certificates};
pub use proof::signed_by;
pub use signer::CodeSigner;
pub use vault::{UrlKey, Vault};

/// Canonical text of a certificate's serial number: lower-case hex of the bytes without leading zeros.
pub fn serial_text(serial: &[u8]) -> String {
    let first = serial.iter().position(|byte| *byte != 0).unwrap_or(serial.len());
    hex::encode(&serial[first..])
}

#[cfg(test)]
mod tests;

//! A token key as rustls uses it.
//!
//! The signature is made inside the handshake, on the thread that drives it: 0.1 to 0.5 ms on SoftHSM, up
//! to 5 ms on a TPM.

use std::sync::Arc;

use rustls::sign::{Signer, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};

use crate::{KeyKind, TokenKey};

impl TokenKey {
    /// The key for TLS.
    pub fn rustls_key(&self) -> Arc<dyn SigningKey> {
        Arc::new(TlsKey { schemes: self.schemes(), key: self.clone() })
    }
}

#[derive(Debug)]
struct TlsKey {
    key: TokenKey,
    schemes: Vec<SignatureScheme>,
}

impl SigningKey for TlsKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let scheme = *self.schemes.iter().find(|scheme| offered.contains(scheme))?;
        Some(Box::new(TlsSigner { key: self.key.clone(), scheme }))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        match self.key.kind() {
            KeyKind::EcP256 | KeyKind::EcP384 => SignatureAlgorithm::ECDSA,
            KeyKind::Rsa2048 => SignatureAlgorithm::RSA,
        }
    }
}

#[derive(Debug)]
struct TlsSigner {
    key: TokenKey,
    scheme: SignatureScheme,
}

impl Signer for TlsSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        self.key.sign_with(self.scheme, message).map_err(|error| {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            rustls::Error::General(format!("{error}{}", cause.unwrap_or_default()))
        })
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme
    }
}

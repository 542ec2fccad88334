//! A key that was just made, in a token or in a file: it can sign a request for its certificate.

use aos_token::TokenKey;
use rcgen::{KeyPair, PublicKeyData, SignatureAlgorithm, SigningKey};

/// A new key.
pub(super) enum Key {
    Token(TokenKey),
    File(Box<KeyPair>),
}

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        match self {
            Self::Token(key) => key.der_bytes(),
            Self::File(key) => key.der_bytes(),
        }
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match self {
            Self::Token(key) => key.algorithm(),
            Self::File(key) => PublicKeyData::algorithm(&**key),
        }
    }
}

impl SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        match self {
            Self::Token(key) => SigningKey::sign(key, message),
            Self::File(key) => key.sign(message),
        }
    }
}

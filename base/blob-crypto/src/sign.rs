//! Signatures over plain bytes.

use std::io::Read;
use std::time::SystemTime;

use aws_lc_rs::digest::{self, Context, Digest};
use aws_lc_rs::signature::{self, RsaKeyPair, UnparsedPublicKey, VerificationAlgorithm};

use crate::chain::SignerKey;
use crate::cipher::{CHUNK, read_some};
use crate::{ChainStore, CryptoError};

/// The signature of a blob as the cloud describes it, decoded.
#[derive(Debug, Clone)]
pub struct SignatureInfo {
    /// Name of the certificate chain, matched exactly.
    pub chain_name: String,
    /// Algorithm, such as `RSA/SHA256`, `RSA/SHA512/PSS` or `EC/SHA256`.
    pub alg: String,
    /// The raw signature; for EC in ASN.1 DER.
    pub value: Vec<u8>,
    /// Time at which the certificates had to be valid; `None` means now.
    pub trusted_timestamp: Option<SystemTime>,
}

/// Key type, hash and padding of a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignatureAlg {
    key: KeyType,
    hash: Hash,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyType {
    RsaPkcs1,
    RsaPss,
    Ec,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

impl SignatureAlg {
    /// Reads `<RSA|EC>[/<SHA256|SHA384|SHA512>[/<PKCS1v1_5|PSS>]]` of any case; defaults are SHA256 and
    /// PKCS1v1_5.
    pub fn parse(text: &str) -> Result<Self, CryptoError> {
        let unsupported = || CryptoError::UnsupportedSignature(text.chars().take(40).collect());
        let upper = text.to_ascii_uppercase();
        let parts: Vec<_> = upper.split('/').map(str::trim).collect();
        let part = |n: usize| parts.get(n).copied().unwrap_or_default();
        let key = match (part(0), part(2)) {
            ("RSA", "" | "PKCS1V1_5" | "PKCS1") => KeyType::RsaPkcs1,
            ("RSA", "PSS") => KeyType::RsaPss,
            ("EC" | "ECDSA", "") => KeyType::Ec,
            _ => return Err(unsupported()),
        };
        let hash = match part(1) {
            "" | "SHA256" => Hash::Sha256,
            "SHA384" => Hash::Sha384,
            "SHA512" => Hash::Sha512,
            _ => return Err(unsupported()),
        };
        if parts.len() > 3 { Err(unsupported()) } else { Ok(Self { key, hash }) }
    }

    fn hasher(self) -> Context {
        Context::new(match self.hash {
            Hash::Sha256 => &digest::SHA256,
            Hash::Sha384 => &digest::SHA384,
            Hash::Sha512 => &digest::SHA512,
        })
    }

    fn verification(self, key: &SignerKey) -> Option<&'static dyn VerificationAlgorithm> {
        Some(match (self.key, self.hash, key) {
            (KeyType::RsaPkcs1, Hash::Sha256, SignerKey::Rsa(_)) => &signature::RSA_PKCS1_2048_8192_SHA256,
            (KeyType::RsaPkcs1, Hash::Sha384, SignerKey::Rsa(_)) => &signature::RSA_PKCS1_2048_8192_SHA384,
            (KeyType::RsaPkcs1, Hash::Sha512, SignerKey::Rsa(_)) => &signature::RSA_PKCS1_2048_8192_SHA512,
            (KeyType::RsaPss, Hash::Sha256, SignerKey::Rsa(_)) => &signature::RSA_PSS_2048_8192_SHA256,
            (KeyType::RsaPss, Hash::Sha384, SignerKey::Rsa(_)) => &signature::RSA_PSS_2048_8192_SHA384,
            (KeyType::RsaPss, Hash::Sha512, SignerKey::Rsa(_)) => &signature::RSA_PSS_2048_8192_SHA512,
            (KeyType::Ec, Hash::Sha256, SignerKey::P256(_)) => &signature::ECDSA_P256_SHA256_ASN1,
            (KeyType::Ec, Hash::Sha384, SignerKey::P256(_)) => &signature::ECDSA_P256_SHA384_ASN1,
            (KeyType::Ec, Hash::Sha512, SignerKey::P256(_)) => &signature::ECDSA_P256_SHA512_ASN1,
            (KeyType::Ec, Hash::Sha256, SignerKey::P384(_)) => &signature::ECDSA_P384_SHA256_ASN1,
            (KeyType::Ec, Hash::Sha384, SignerKey::P384(_)) => &signature::ECDSA_P384_SHA384_ASN1,
            (KeyType::Ec, Hash::Sha512, SignerKey::P384(_)) => &signature::ECDSA_P384_SHA512_ASN1,
            (KeyType::Ec, Hash::Sha256, SignerKey::P521(_)) => &signature::ECDSA_P521_SHA256_ASN1,
            (KeyType::Ec, Hash::Sha384, SignerKey::P521(_)) => &signature::ECDSA_P521_SHA384_ASN1,
            (KeyType::Ec, Hash::Sha512, SignerKey::P521(_)) => &signature::ECDSA_P521_SHA512_ASN1,
            _ => return None,
        })
    }
}

/// A verification under way: the chain has been accepted, the bytes are being hashed.
pub(crate) struct Verifier {
    alg: SignatureAlg,
    key: SignerKey,
    hasher: Context,
    value: Vec<u8>,
}

impl Verifier {
    pub(crate) fn start(
        info: &SignatureInfo,
        chains: &ChainStore,
        now: SystemTime,
    ) -> Result<Self, CryptoError> {
        let alg = SignatureAlg::parse(&info.alg)?;
        let key = chains.signer(&info.chain_name, info.trusted_timestamp, now)?;
        Ok(Self { alg, key, hasher: alg.hasher(), value: info.value.clone() })
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    pub(crate) fn finish(self) -> Result<(), CryptoError> {
        let algorithm = self.alg.verification(&self.key).ok_or(CryptoError::BadSignature)?;
        let hash: Digest = self.hasher.finish();
        UnparsedPublicKey::new(algorithm, self.key.spki())
            .verify_digest(&hash, &self.value)
            .map_err(|_| CryptoError::BadSignature)
    }
}

/// Signs everything `reader` yields with RSASSA-PKCS1-v1_5 and SHA-256 (`RSA/SHA256`); answers the raw
/// signature. `pkcs8` is the private key in PKCS#8 DER, 2048 to 8192 bits.
pub fn sign_rsa_sha256(pkcs8: &[u8], mut reader: impl Read) -> Result<Vec<u8>, CryptoError> {
    let key = RsaKeyPair::from_pkcs8(pkcs8).map_err(|e| CryptoError::SigningKey(e.to_string()))?;
    let (mut hasher, mut chunk) = (Context::new(&digest::SHA256), vec![0; CHUNK]);
    loop {
        match read_some(&mut reader, &mut chunk)? {
            0 => break,
            n => hasher.update(&chunk[..n]),
        }
    }
    let mut value = vec![0; key.public_modulus_len()];
    key.sign_digest(&signature::RSA_PKCS1_SHA256, &hasher.finish(), &mut value)
        .map_err(|_| CryptoError::SigningKey("signing failed".to_owned()))?;
    Ok(value)
}

//! Code signing of blobs: RSA-2048, because Units of the original verify nothing else.

use aws_lc_rs::digest::Digest;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use rustls_pki_types::CertificateDer;

use crate::error::PkiError;

/// The item signing key with its chain (signer first, root left out).
pub struct CodeSigner {
    key: KeyPair,
    chain: Vec<CertificateDer<'static>>,
    name: String,
}

impl CodeSigner {
    pub(crate) fn new(pkcs8: &[u8], chain: Vec<CertificateDer<'static>>) -> Result<Self, PkiError> {
        let key = KeyPair::from_pkcs8(pkcs8).map_err(|_| PkiError::Crypto("use the item signing key"))?;
        let leaf = chain.first().ok_or(PkiError::Crypto("find the item signing certificate"))?;
        let name = format!("items-{}", &fingerprint(leaf)[..16].to_ascii_lowercase());
        Ok(Self { key, chain, name })
    }

    /// Name of the chain in `certificateChains` and `signInfo.chainName`; changes with the certificate.
    pub fn chain_name(&self) -> &str {
        &self.name
    }

    /// Certificates with their fingerprints (upper-case hex SHA-256), signer first, without the root.
    pub fn certificates(&self) -> impl Iterator<Item = (&CertificateDer<'static>, String)> {
        self.chain.iter().map(|der| (der, fingerprint(der)))
    }

    /// Signs a finished SHA-256 digest as RSASSA-PKCS1-v1_5 (`RSA/SHA256`).
    pub fn sign(&self, digest: &Digest) -> Result<Vec<u8>, PkiError> {
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key
            .sign_digest(&RSA_PKCS1_SHA256, digest, &mut signature)
            .map_err(|_| PkiError::Crypto("sign a blob"))?;
        Ok(signature)
    }
}

fn fingerprint(der: &[u8]) -> String {
    hex::encode_upper(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der))
}

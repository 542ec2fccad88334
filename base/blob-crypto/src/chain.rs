//! Certificate chains of signers.
//!
//! Certificates and chains come with the desired status; fingerprints are opaque labels there, compared in
//! upper case. Trust comes from the given roots alone. Any (extended) key usage is accepted, except that a key
//! usage extension must allow digital signatures. There is no revocation.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter, anchor_from_trusted_cert};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::CryptoError;

/// What is wrong with a chain, for [`CryptoError::Chain`].
type Reason = std::borrow::Cow<'static, str>;

/// How far a trusted timestamp may lie in the future: clocks of Units drift.
const MAX_AHEAD: Duration = Duration::from_mins(5);

/// Public key of an accepted signer, as SubjectPublicKeyInfo in DER.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignerKey {
    /// RSA.
    Rsa(Vec<u8>),
    /// EC on P-256.
    P256(Vec<u8>),
    /// EC on P-384.
    P384(Vec<u8>),
    /// EC on P-521.
    P521(Vec<u8>),
}

impl SignerKey {
    /// The key in DER.
    pub fn spki(&self) -> &[u8] {
        match self {
            Self::Rsa(der) | Self::P256(der) | Self::P384(der) | Self::P521(der) => der,
        }
    }
}

/// The certificates, chains and roots that signatures are checked with.
#[derive(Debug, Clone, Default)]
pub struct ChainStore {
    certificates: HashMap<String, CertificateDer<'static>>,
    chains: HashMap<String, Vec<String>>,
    roots: Vec<TrustAnchor<'static>>,
}

impl ChainStore {
    /// Takes `(fingerprint, DER)` pairs, `(chain name, fingerprints)` pairs with the signer first, and trusted
    /// root certificates in DER. Of duplicates the first counts; roots that cannot be read are left out.
    pub fn new(
        certificates: impl IntoIterator<Item = (String, Vec<u8>)>,
        chains: impl IntoIterator<Item = (String, Vec<String>)>,
        roots: impl IntoIterator<Item = Vec<u8>>,
    ) -> Self {
        let mut store = Self::default();
        for (fingerprint, der) in certificates {
            store.certificates.entry(fingerprint.to_ascii_uppercase()).or_insert_with(|| der.into());
        }
        for (name, fingerprints) in chains {
            store.chains.entry(name).or_insert(fingerprints);
        }
        for root in roots {
            if let Ok(anchor) = anchor_from_trusted_cert(&CertificateDer::from(root)) {
                store.roots.push(anchor.to_owned());
            }
        }
        store
    }

    /// The key of the signer of chain `name`, after its path to a trusted root was found valid at the time
    /// `trusted` (now when `None`).
    pub fn signer(
        &self,
        name: &str,
        trusted: Option<SystemTime>,
        now: SystemTime,
    ) -> Result<SignerKey, CryptoError> {
        if trusted.is_some_and(|trusted| trusted > now + MAX_AHEAD) {
            return Err(CryptoError::FutureTimestamp);
        }
        self.validate(name, trusted.unwrap_or(now)).map_err(|reason| CryptoError::Chain {
            chain: name.chars().take(100).collect(),
            reason: reason.into_owned(),
        })
    }

    fn validate(&self, name: &str, at: SystemTime) -> Result<SignerKey, Reason> {
        let fingerprints = self.chains.get(name).ok_or("no chain of that name")?;
        let certificates = fingerprints
            .iter()
            .map(|fingerprint| {
                self.certificates
                    .get(&fingerprint.to_ascii_uppercase())
                    .ok_or_else(|| format!("no certificate with the fingerprint {fingerprint}").into())
            })
            .collect::<Result<Vec<_>, Reason>>()?;
        let Some((leaf, intermediates)) = certificates.split_first() else {
            return Err("no certificates".into());
        };
        let intermediates: Vec<_> = intermediates.iter().map(|der| (*der).clone()).collect();
        let since_epoch = at.duration_since(UNIX_EPOCH).map_err(|_| "a timestamp before 1970")?;
        EndEntityCert::try_from(*leaf)
            .map_err(|e| format!("the signer's certificate cannot be read: {e}"))?
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &self.roots,
                &intermediates,
                UnixTime::since_unix_epoch(since_epoch),
                AnyUsage,
                None,
                None,
            )
            .map_err(|e| format!("the path to a trusted root is not valid: {e}"))?;
        signer_key(leaf)
    }
}

fn signer_key(leaf: &CertificateDer<'_>) -> Result<SignerKey, Reason> {
    let (_, certificate) = X509Certificate::from_der(leaf)
        .map_err(|e| format!("the signer's certificate cannot be read: {e}"))?;
    let usage = certificate.key_usage().map_err(|e| format!("the key usage cannot be read: {e}"))?;
    if usage.is_some_and(|usage| !usage.value.digital_signature()) {
        return Err("the signer's certificate is not for signatures".into());
    }
    let spki = certificate.public_key();
    let der = spki.raw.to_vec();
    let parameters = spki.algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
    let curve = parameters.map(|oid| oid.to_id_string());
    match (spki.algorithm.algorithm.to_id_string().as_str(), curve.as_deref()) {
        ("1.2.840.113549.1.1.1", _) => Ok(SignerKey::Rsa(der)),
        ("1.2.840.10045.2.1", Some("1.2.840.10045.3.1.7")) => Ok(SignerKey::P256(der)),
        ("1.2.840.10045.2.1", Some("1.3.132.0.34")) => Ok(SignerKey::P384(der)),
        ("1.2.840.10045.2.1", Some("1.3.132.0.35")) => Ok(SignerKey::P521(der)),
        _ => Err("the signer's key is neither RSA nor EC on a known curve".into()),
    }
}

struct AnyUsage;

impl ExtendedKeyUsageValidator for AnyUsage {
    fn validate(&self, _: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        Ok(())
    }
}

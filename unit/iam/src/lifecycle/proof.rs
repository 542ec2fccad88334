//! Signatures that prove who asks, and the look at what is given.

use std::sync::Arc;

use aos_tls::Roots;
use rustls::SignatureScheme;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::Error;
use crate::certhandler::CertRecord;

/// As the other end verifies them.
const SCHEMES: [SignatureScheme; 3] = [
    SignatureScheme::RSA_PKCS1_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::ECDSA_NISTP256_SHA256,
];

/// A certificate whose key is at hand, valid or not.
#[derive(Debug, Clone)]
pub struct Prover(Arc<aos_token::Identity>);

impl Prover {
    /// Loads certificate and key.
    pub async fn load(record: CertRecord) -> Result<Self, Error> {
        let loading = tokio::task::spawn_blocking(move || {
            aos_token::load_identity(&record.cert_url, &record.key_url).map_err(|source| Error::Token {
                doing: "load certificate and key",
                cert_type: record.cert_type,
                source: Box::new(source),
            })
        });
        Ok(Self(Arc::new(loading.await.map_err(|_| Error::Stopping)??)))
    }

    /// The certificate and its issuers, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        self.0.chain()
    }

    /// The signature over `text`.
    pub async fn sign(&self, text: Vec<u8>) -> Result<Vec<u8>, Error> {
        let identity = Arc::clone(&self.0);
        let signing = tokio::task::spawn_blocking(move || {
            let signer = identity.key().choose_scheme(&SCHEMES);
            let signer =
                signer.ok_or_else(|| Error::NotSupported("the key cannot sign a challenge".to_owned()))?;
            signer.sign(&text).map_err(|error| Error::Failed(format!("the key does not sign: {error}")))
        });
        signing.await.map_err(|_| Error::Stopping)?
    }
}

/// Checks that an issued certificate (PEM chain) leads to our roots; returns the begin of its validity. Who
/// gave it was perhaps verified at an old time.
pub fn check_given(roots: &Roots, pem: &str) -> Result<i64, Error> {
    let chain: Result<Vec<CertificateDer<'static>>, _> =
        CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let chain = chain.map_err(|_| Error::InvalidArgument("the chain is no PEM text".to_owned()))?;
    if !aos_tls::chains_to(&roots.get(), &chain) {
        return Err(Error::InvalidArgument("the certificate does not lead to our roots".to_owned()));
    }
    Ok(chain.first().and_then(|leaf| super::validity(leaf)).map_or(0, |(from, _)| from))
}

//! Reading of issued certificates: PEM text from a peer, and the structure of a chain.
//!
//! Signatures and validity are not checked here: whoever uses the certificate checks them, and a wrong
//! clock on a fresh device must not make provisioning fail. The key must match, which is checked where
//! the keys are.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::core::significant;
use crate::Error;

const MAX_CHAIN: usize = 4;
/// Characters in a line of PEM text.
const LINE: usize = 64;

/// What we need to know of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// The certificate.
    pub der: Vec<u8>,
    /// Issuer name, DER.
    pub issuer: Vec<u8>,
    /// Subject name, DER.
    pub subject: Vec<u8>,
    /// Issuer name for people.
    pub issuer_text: String,
    /// Serial number, big endian without leading zeros.
    pub serial: Vec<u8>,
    /// End of validity, Unix nanoseconds.
    pub not_after: i64,
    /// The bits of the public key.
    pub public_key: Vec<u8>,
    subject_key_id: Option<Vec<u8>>,
    authority_key_id: Option<Vec<u8>>,
}

/// Reads one DER certificate.
pub fn parse(der: &[u8]) -> Result<Parsed, Error> {
    let (rest, certificate) = X509Certificate::from_der(der)
        .map_err(|error| Error::InvalidArgument(format!("certificate cannot be read: {error}")))?;
    if !rest.is_empty() {
        return Err(Error::InvalidArgument("certificate is followed by other bytes".into()));
    }
    let mut subject_key_id = None;
    let mut authority_key_id = None;
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => subject_key_id = Some(id.0.to_vec()),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                authority_key_id = id.key_identifier.as_ref().map(|id| id.0.to_vec());
            }
            _ => {}
        }
    }
    let seconds = certificate.validity().not_after.timestamp();
    Ok(Parsed {
        issuer: certificate.issuer().as_raw().to_vec(),
        subject: certificate.subject().as_raw().to_vec(),
        issuer_text: certificate.issuer().to_string(),
        serial: significant(certificate.raw_serial()).to_vec(),
        not_after: seconds.saturating_mul(1_000_000_000),
        public_key: certificate.public_key().subject_public_key.data.to_vec(),
        subject_key_id,
        authority_key_id,
        der: der.to_vec(),
    })
}

/// Reads a PEM chain, leaf first, and checks that it leads to a root that is part of it.
pub fn parse_chain(pem: &str) -> Result<Vec<Parsed>, Error> {
    let mut chain = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let der = certificate
            .map_err(|error| Error::InvalidArgument(format!("certificate chain is no PEM text: {error}")))?;
        if chain.len() == MAX_CHAIN {
            return Err(Error::TooMany(format!("certificate chain is longer than {MAX_CHAIN}")));
        }
        chain.push(parse(&der)?);
    }
    check_chain(&chain)?;
    Ok(chain)
}

fn check_chain(chain: &[Parsed]) -> Result<(), Error> {
    let Some(mut current) = chain.first() else {
        return Err(Error::NotFound("certificate chain is empty".into()));
    };
    // A chain of n certificates has its root after at most n - 1 steps; more means a circle.
    for _ in 0..chain.len() {
        if current.issuer == current.subject {
            return Ok(());
        }
        current = chain.iter().find(|other| *other != current && other.issued(current)).ok_or_else(|| {
            Error::NotFound(format!("certificate chain lacks the issuer '{}'", current.issuer_text))
        })?;
    }
    Err(Error::NotFound("certificate chain has no root".into()))
}

impl Parsed {
    fn issued(&self, other: &Self) -> bool {
        self.subject == other.issuer
            || (self.subject_key_id.is_some() && self.subject_key_id == other.authority_key_id)
    }
}

/// A certificate as PEM text.
pub fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(LINE).map(|line| std::str::from_utf8(line).unwrap_or_default()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

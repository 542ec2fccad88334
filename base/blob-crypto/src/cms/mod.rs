//! CMS EnvelopedData: a message that only the holder of a certificate's key can read.
//!
//! A cloud that was asked to seals its frames for the Unit's offline certificate; the key stays in the token,
//! which is why [`open`] asks its caller to unwrap the content key. Read: DER of definite length, key
//! transport with RSA (PKCS#1 v1.5, or OAEP with SHA-1 or SHA-256), content in AES-CBC of any key length.
//! Written: PKCS#1 v1.5 and AES-256-CBC, the one combination that every known peer reads.
//!
//! Limits: [`MAX_CONTENT`] bytes, [`MAX_RECIPIENTS`] recipients. The envelope hides, it proves nothing about
//! the sender: that is the business of the connection it travels on.

mod der;
mod read;
mod write;

use aws_lc_rs::rand;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::cipher::{CHUNK, Decryption, Decryptor};
use crate::{CryptoError, cipher};

/// Longest content of an envelope, bytes.
pub const MAX_CONTENT: usize = 16 * 1024 * 1024;
/// Most recipients of an envelope.
pub const MAX_RECIPIENTS: usize = 64;
/// What headers and recipients may add to the content, bytes.
const MAX_OVERHEAD: usize = 1024 * 1024;

/// Whom a copy of the content key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recipient<'a> {
    /// Name of the certificate's issuer, DER.
    pub issuer: &'a [u8],
    /// Serial number of the certificate, big-endian with a leading zero where DER wants one.
    pub serial: &'a [u8],
}

impl Recipient<'_> {
    /// True when the certificate (DER) is the one meant.
    pub fn is(&self, certificate: &[u8]) -> bool {
        X509Certificate::from_der(certificate).is_ok_and(|(_, certificate)| {
            certificate.issuer().as_raw() == self.issuer && certificate.raw_serial() == self.serial
        })
    }
}

/// How a content key is wrapped with RSA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyTransport {
    /// PKCS#1 v1.5.
    Pkcs1,
    /// OAEP with SHA-1 for both hash and mask.
    OaepSha1,
    /// OAEP with SHA-256 for both hash and mask.
    OaepSha256,
}

/// Opens an envelope.
///
/// `find` is asked for each recipient until it answers with the private half of that certificate's key: a
/// function that unwraps a content key, or answers `None` when it cannot. What is wrong with a wrapped key
/// must not be seen from outside, for whoever can tell can decrypt: a random key takes its place then, and
/// the failure is the same [`CryptoError::EnvelopeDecrypt`] as for damaged content. In one of 256 such cases
/// the padding looks right and the content is noise.
pub fn open<K>(envelope: &[u8], find: impl FnMut(&Recipient<'_>) -> Option<K>) -> Result<Vec<u8>, CryptoError>
where
    K: FnOnce(KeyTransport, &[u8]) -> Option<Vec<u8>>,
{
    if envelope.len() > MAX_CONTENT + MAX_OVERHEAD {
        return Err(CryptoError::Envelope("it is longer than 17 MiB"));
    }
    let enveloped = read::parse(envelope)?;
    if enveloped.content.len() > MAX_CONTENT + 16 {
        return Err(CryptoError::Envelope("its content is longer than 16 MiB"));
    }
    let mut find = find;
    let ours = enveloped.recipients.iter().find_map(|copy| find(&copy.recipient).map(|key| (copy, key)));
    let (copy, unwrap) = ours.ok_or(CryptoError::NotForUs)?;
    let mut key = vec![0; enveloped.key_length];
    rand::fill(&mut key).map_err(|_| CryptoError::EnvelopeDecrypt)?;
    if let Some(unwrapped) = unwrap(copy.transport, copy.wrapped)
        && unwrapped.len() == key.len()
    {
        key = unwrapped;
    }
    let decryption = Decryption::new(enveloped.cipher, &key, enveloped.iv)?;
    decrypt(&decryption, enveloped.content).map_err(|_| CryptoError::EnvelopeDecrypt)
}

fn decrypt(decryption: &Decryption, content: &[u8]) -> Result<Vec<u8>, CryptoError> {
    let mut decryptor: Decryptor = decryption.start()?;
    let mut plain = Vec::with_capacity(content.len());
    for chunk in content.chunks(CHUNK) {
        plain.extend_from_slice(decryptor.update(chunk)?);
    }
    plain.extend_from_slice(&decryptor.finish()?);
    Ok(plain)
}

/// Seals `content` for the holders of `certificates` (DER, RSA keys of 2048 to 8192 bits).
pub fn seal<C: AsRef<[u8]>>(content: &[u8], certificates: &[C]) -> Result<Vec<u8>, CryptoError> {
    if content.len() > MAX_CONTENT {
        return Err(CryptoError::Envelope("its content is longer than 16 MiB"));
    }
    if certificates.is_empty() || certificates.len() > MAX_RECIPIENTS {
        return Err(CryptoError::Envelope("it must have 1 to 64 recipients"));
    }
    let (mut key, mut iv) = ([0; 32], [0; 16]);
    let failed = |_| CryptoError::Recipient("there is no randomness".to_owned());
    rand::fill(&mut key).map_err(failed)?;
    rand::fill(&mut iv).map_err(failed)?;
    let copies = certificates
        .iter()
        .map(|certificate| write::copy_for(certificate.as_ref(), &key))
        .collect::<Result<Vec<_>, _>>()?;
    let mut sealed = Vec::with_capacity(content.len() + 16);
    cipher::encrypt_cbc(content, &mut sealed, &key, &iv)?;
    Ok(write::enveloped(&copies, &iv, &sealed))
}

#[cfg(test)]
mod tests;

//! Putting an envelope together.

use aws_lc_rs::rsa::{Pkcs1PublicEncryptingKey, PublicEncryptingKey};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::der::{INTEGER, OCTET_STRING, OID, SEQUENCE, SET, tagged};
use super::read::{AES256_CBC, DATA, ENVELOPED_DATA, RSA_ENCRYPTION};
use crate::CryptoError;

/// The content key, wrapped for the holder of a certificate.
pub(super) fn copy_for(certificate: &[u8], key: &[u8]) -> Result<Vec<u8>, CryptoError> {
    let bad = |reason: String| CryptoError::Recipient(reason);
    let (_, certificate) =
        X509Certificate::from_der(certificate).map_err(|e| bad(format!("it cannot be read: {e}")))?;
    let no_rsa = |_| bad("its key is no RSA key of 2048 to 8192 bits".to_owned());
    let public = PublicEncryptingKey::from_der(certificate.public_key().raw).map_err(no_rsa)?;
    let public =
        Pkcs1PublicEncryptingKey::new(public).map_err(|_| bad("its key cannot encrypt".to_owned()))?;
    let mut wrapped = vec![0; public.ciphertext_size()];
    let wrapped =
        public.encrypt(key, &mut wrapped).map_err(|_| bad("wrapping the content key failed".to_owned()))?;
    let serial = tagged(INTEGER, &[certificate.raw_serial()]);
    let name = tagged(SEQUENCE, &[certificate.issuer().as_raw(), &serial]);
    let algorithm = tagged(SEQUENCE, &[&tagged(OID, &[RSA_ENCRYPTION]), &[0x05, 0x00]]);
    Ok(tagged(SEQUENCE, &[&VERSION_0, &name, &algorithm, &tagged(OCTET_STRING, &[wrapped])]))
}

/// Version 0: all recipients go by issuer and serial number.
const VERSION_0: [u8; 3] = [INTEGER, 1, 0];

pub(super) fn enveloped(copies: &[Vec<u8>], iv: &[u8], sealed: &[u8]) -> Vec<u8> {
    // The elements of a SET are in the order of their encodings in DER.
    let mut copies: Vec<&[u8]> = copies.iter().map(Vec::as_slice).collect();
    copies.sort_unstable();
    let cipher = tagged(SEQUENCE, &[&tagged(OID, &[AES256_CBC]), &tagged(OCTET_STRING, &[iv])]);
    let content = tagged(SEQUENCE, &[&tagged(OID, &[DATA]), &cipher, &tagged(0x80, &[sealed])]);
    let data = tagged(SEQUENCE, &[&VERSION_0, &tagged(SET, &copies), &content]);
    tagged(SEQUENCE, &[&tagged(OID, &[ENVELOPED_DATA]), &tagged(0xa0, &[&data])])
}

//! Who made a signature, and over what.

use aws_lc_rs::digest;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey,
    VerificationAlgorithm,
};
use x509_parser::public_key::PublicKey;

use crate::{CsrOf, listing, statement};

/// Whether `signature` over `message` was made with the key of the certificate `leaf` (DER): RSA PKCS#1 v1.5 with
/// SHA-256, ECDSA on P-256 with SHA-256, on P-384 with SHA-384. Validity is not looked at.
pub fn signed_by(leaf: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(leaf) else { return false };
    let key = parsed.public_key();
    let algorithm: &'static dyn VerificationAlgorithm = match key.parsed() {
        Ok(PublicKey::RSA(_)) => &RSA_PKCS1_2048_8192_SHA256,
        Ok(PublicKey::EC(point)) if point.key_size() == 256 => &ECDSA_P256_SHA256_ASN1,
        Ok(PublicKey::EC(point)) if point.key_size() == 384 => &ECDSA_P384_SHA384_ASN1,
        _ => return false,
    };
    UnparsedPublicKey::new(algorithm, &key.subject_public_key.data).verify(message, signature).is_ok()
}

/// SHA-256 of the [`listing`].
pub fn listed(requests: &[CsrOf]) -> [u8; 32] {
    let mut short = [0; 32];
    short.copy_from_slice(digest::digest(&digest::SHA256, &listing(requests)).as_ref());
    short
}

/// The [`statement`] about these requests.
pub fn stated(challenge: &str, system_id: &str, requests: &[CsrOf]) -> Vec<u8> {
    statement(challenge, system_id, &listed(requests))
}

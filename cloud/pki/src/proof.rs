//! Proof that somebody holds the key of a certificate.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey,
    VerificationAlgorithm,
};
use x509_parser::public_key::PublicKey;

use crate::pem::pem_certificates;

/// Whether `signature` over `message` was made with the key of the first certificate of `chain_pem`: RSA
/// PKCS#1 v1.5 with SHA-256, ECDSA on P-256 with SHA-256, on P-384 with SHA-384. Validity is not looked at.
pub fn signed_by(chain_pem: &str, message: &[u8], signature: &[u8]) -> bool {
    let chain = pem_certificates(chain_pem);
    let Some(leaf) = chain.first() else { return false };
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

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SigningKey as _};

    use super::signed_by;

    #[test]
    fn only_the_holder_of_the_key_signs() {
        for algorithm in
            [&rcgen::PKCS_RSA_SHA256, &rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384]
        {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let pem = CertificateParams::default().self_signed(&key).unwrap().pem();
            let mut signature = key.sign(b"statement").unwrap();
            assert!(signed_by(&pem, b"statement", &signature));
            assert!(!signed_by(&pem, b"another", &signature));
            assert!(!signed_by("", b"statement", &signature));
            let last = signature.len() - 1;
            signature[last] ^= 1;
            assert!(!signed_by(&pem, b"statement", &signature));
        }
    }
}

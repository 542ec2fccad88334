//! Proof that somebody holds the key of a certificate.

use crate::pem::pem_certificates;

/// Whether `signature` over `message` was made with the key of the first certificate of `chain_pem`: RSA
/// PKCS#1 v1.5 with SHA-256, ECDSA on P-256 with SHA-256, on P-384 with SHA-384. Validity is not looked at.
pub fn signed_by(chain_pem: &str, message: &[u8], signature: &[u8]) -> bool {
    let chain = pem_certificates(chain_pem);
    chain.first().is_some_and(|leaf| aos_recovery_protocol::signed_by(leaf, message, signature))
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

//! Key pairs: attributes, signatures, requests, decryption.

use aws_lc_rs::rsa::{Pkcs1PublicEncryptingKey, PublicEncryptingKey};
use aws_lc_rs::signature::{self, UnparsedPublicKey, VerificationAlgorithm};
use cryptoki::object::{Attribute, AttributeType, ObjectClass};
use rcgen::{CertificateParams, CertificateSigningRequestParams, DnType, PublicKeyData};
use rustls::SignatureScheme as Scheme;
use x509_parser::prelude::{FromDer, X509CertificationRequest};

use super::{library, new_session, with_softhsm};
use crate::{KeyKind, ObjectKind, TokenError};

const KINDS: [KeyKind; 3] = [KeyKind::EcP256, KeyKind::EcP384, KeyKind::Rsa2048];

fn verifier(scheme: Scheme) -> &'static dyn VerificationAlgorithm {
    match scheme {
        Scheme::ECDSA_NISTP256_SHA256 => &signature::ECDSA_P256_SHA256_ASN1,
        Scheme::ECDSA_NISTP384_SHA384 => &signature::ECDSA_P384_SHA384_ASN1,
        Scheme::RSA_PKCS1_SHA256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        Scheme::RSA_PKCS1_SHA384 => &signature::RSA_PKCS1_2048_8192_SHA384,
        Scheme::RSA_PKCS1_SHA512 => &signature::RSA_PKCS1_2048_8192_SHA512,
        Scheme::RSA_PSS_SHA256 => &signature::RSA_PSS_2048_8192_SHA256,
        Scheme::RSA_PSS_SHA384 => &signature::RSA_PSS_2048_8192_SHA384,
        _ => &signature::RSA_PSS_2048_8192_SHA512,
    }
}

#[test]
fn signatures_of_every_scheme_verify() {
    with_softhsm("tests::keys::signatures_of_every_scheme_verify", |_| {
        let session = new_session();
        for (number, kind) in (1..).zip(KINDS) {
            let made = session.generate_key(kind, [number; 16], "online").unwrap();
            let found = session.private_key(&[number; 16], "online").unwrap();
            assert_eq!((found.kind(), found.der_bytes()), (kind, made.der_bytes()));
            for scheme in kind.schemes() {
                // ECDSA numbers vary in length; several rounds meet the short ones.
                for round in 0..20_u8 {
                    let signature = found.sign_with(*scheme, &[round; 100]).unwrap();
                    UnparsedPublicKey::new(verifier(*scheme), made.der_bytes())
                        .verify(&[round; 100], &signature)
                        .unwrap();
                }
            }
            assert!(matches!(found.sign_with(Scheme::ED25519, b"text"), Err(TokenError::Unsupported { .. })));
        }
    });
}

#[test]
fn private_keys_stay_inside_and_have_the_agreed_names() {
    with_softhsm("tests::keys::private_keys_stay_inside_and_have_the_agreed_names", |_| {
        let session = new_session();
        for (number, kind) in (1..).zip(KINDS) {
            session.generate_key(kind, [number; 16], "iam").unwrap();
            let mut kinds: Vec<_> = session.list_objects(Some("iam")).unwrap();
            kinds.retain(|object| object.id == [number; 16]);
            let kinds: Vec<_> = kinds.iter().map(|object| object.kind).collect();
            assert!(kinds.contains(&ObjectKind::PrivateKey) && kinds.contains(&ObjectKind::PublicKey));
        }
        let pkcs11 = &library().pkcs11;
        let slot = pkcs11.get_slots_with_initialized_token().unwrap()[0];
        let direct = pkcs11.open_ro_session(slot).unwrap();
        let keys = direct.find_objects(&[Attribute::Class(ObjectClass::PRIVATE_KEY)]).unwrap();
        assert_eq!(keys.len(), 3);
        for key in keys {
            let asked = [
                AttributeType::Sensitive,
                AttributeType::Extractable,
                AttributeType::Token,
                AttributeType::Value,
                AttributeType::PrivateExponent,
            ];
            let told = direct.get_attributes(key, &asked).unwrap();
            assert_eq!(
                told,
                [Attribute::Sensitive(true), Attribute::Extractable(false), Attribute::Token(true)]
            );
        }
    });
}

// IAM-23
#[test]
fn requests_are_signed_by_the_token() {
    with_softhsm("tests::keys::requests_are_signed_by_the_token", |_| {
        let session = new_session();
        for (number, kind) in (1..).zip(KINDS) {
            let key = session.generate_key(kind, [number; 16], "online").unwrap();
            let mut params = CertificateParams::new(vec!["aosiam".into()]).unwrap();
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, "unit-1");
            let request = params.serialize_request(&key).unwrap();
            // Parsing for issuance verifies the signature.
            CertificateSigningRequestParams::from_der(request.der()).unwrap();
            let (_, parsed) = X509CertificationRequest::from_der(request.der()).unwrap();
            let info = &parsed.certification_request_info;
            assert_eq!(info.subject.to_string(), "CN=unit-1");
            assert_eq!(info.subject_pki.subject_public_key.data, key.der_bytes());
        }
    });
}

#[test]
fn rsa_keys_decrypt_and_others_refuse() {
    with_softhsm("tests::keys::rsa_keys_decrypt_and_others_refuse", |_| {
        let session = new_session();
        let key = session.generate_key(KeyKind::Rsa2048, [1; 16], "offline").unwrap();
        let public = PublicEncryptingKey::from_der(&key.subject_public_key_info()).unwrap();
        let public = Pkcs1PublicEncryptingKey::new(public).unwrap();
        let mut buffer = vec![0; public.ciphertext_size()];
        let ciphertext = public.encrypt(b"block key", &mut buffer).unwrap();
        assert_eq!(key.decrypt_rsa_pkcs1(ciphertext).unwrap(), b"block key");

        let key = session.generate_key(KeyKind::EcP384, [2; 16], "offline").unwrap();
        assert!(matches!(key.decrypt_rsa_pkcs1(b"x"), Err(TokenError::Unsupported { .. })));
    });
}

#[test]
fn destroyed_keys_are_gone() {
    with_softhsm("tests::keys::destroyed_keys_are_gone", |_| {
        let session = new_session();
        let key = session.generate_key(KeyKind::EcP256, [1; 16], "sm").unwrap();
        session.generate_key(KeyKind::EcP256, [2; 16], "sm").unwrap();
        session.destroy_key_pair(&[1; 16], "sm").unwrap();
        session.destroy_key_pair(&[1; 16], "sm").unwrap();
        assert!(matches!(session.private_key(&[1; 16], "sm"), Err(TokenError::NotFound { .. })));
        assert!(matches!(session.private_key(&[2; 16], "cm"), Err(TokenError::NotFound { .. })));
        assert!(key.sign_with(Scheme::ECDSA_NISTP256_SHA256, b"text").is_err());
        session.private_key(&[2; 16], "sm").unwrap();
        for label in ["", "a label that is longer than a token takes"] {
            let refused = session.generate_key(KeyKind::EcP256, [3; 16], label);
            assert!(matches!(refused, Err(TokenError::Length { .. })));
        }
    });
}

#[test]
fn signatures_do_not_wait_for_key_generation() {
    with_softhsm("tests::keys::signatures_do_not_wait_for_key_generation", |_| {
        let session = new_session();
        let key = session.generate_key(KeyKind::EcP256, [0; 16], "sm").unwrap();
        let generating = {
            let session = session.clone();
            std::thread::spawn(move || {
                for number in 1..=5 {
                    session.generate_key(KeyKind::Rsa2048, [number; 16], "sm").unwrap();
                }
            })
        };
        let mut signatures = 0;
        while !generating.is_finished() {
            key.sign_with(Scheme::ECDSA_NISTP256_SHA256, b"text").unwrap();
            signatures += 1;
        }
        generating.join().unwrap();
        assert!(signatures > 10, "{signatures}");
        library().refresh().unwrap();
        for number in 1..=5 {
            let key = session.private_key(&[number; 16], "sm").unwrap();
            key.sign_with(Scheme::RSA_PSS_SHA256, b"text").unwrap();
        }
    });
}

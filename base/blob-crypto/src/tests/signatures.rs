//! Signatures and the certificates that signers show.

use std::time::{Duration, SystemTime};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{self as lc, EcdsaKeyPair, RsaKeyPair};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};

use super::*;

/// A root, an intermediate and a signer, valid from 2020 to 2030.
struct Pki {
    root: Vec<u8>,
    intermediate: Vec<u8>,
    signer: Vec<u8>,
    pkcs8: Vec<u8>,
}

fn params(name: &str, ca: bool, usage: KeyUsagePurpose) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2030, 1, 1);
    params.key_usages = vec![usage];
    if ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    params
}

fn pki(algorithm: &'static rcgen::SignatureAlgorithm, usage: KeyUsagePurpose) -> Pki {
    let ca_key = || KeyPair::generate().unwrap();
    let sign = KeyUsagePurpose::KeyCertSign;
    let root = CertifiedIssuer::self_signed(params("root", true, sign), ca_key()).unwrap();
    let middle = CertifiedIssuer::signed_by(params("middle", true, sign), ca_key(), &root).unwrap();
    let key = KeyPair::generate_for(algorithm).unwrap();
    let signer = params("signer", false, usage).signed_by(&key, &middle).unwrap();
    Pki {
        root: root.der().to_vec(),
        intermediate: middle.der().to_vec(),
        signer: signer.der().to_vec(),
        pkcs8: key.serialize_der(),
    }
}

impl Pki {
    fn chains(&self) -> ChainStore {
        let certificates =
            [("aa".to_owned(), self.signer.clone()), ("BB".to_owned(), self.intermediate.clone())];
        let labels = |labels: &[&str]| labels.iter().map(|label| (*label).to_owned()).collect();
        let chains = [
            ("good".to_owned(), labels(&["AA", "bb"])),
            ("no-middle".to_owned(), labels(&["AA"])),
            ("unknown-label".to_owned(), labels(&["AA", "CC"])),
            ("empty".to_owned(), Vec::new()),
        ];
        ChainStore::new(certificates, chains, [b"rubbish".to_vec(), self.root.clone()])
    }
}

fn info(alg: &str, chain: &str, value: Vec<u8>) -> SignatureInfo {
    SignatureInfo {
        chain_name: chain.to_owned(),
        alg: alg.to_owned(),
        value,
        // 2025-06-15
        trusted_timestamp: Some(SystemTime::UNIX_EPOCH + Duration::from_hours(486_096)),
    }
}

fn verify(plain: &[u8], info: SignatureInfo, chains: &ChainStore) -> Result<(), CryptoError> {
    run(plain, &Recipe { signature: Some((info, chains)), ..recipe(plain) }).map(|_| ())
}

#[test]
fn rsa_signatures_of_all_kinds() {
    let pki = pki(&rcgen::PKCS_RSA_SHA256, KeyUsagePurpose::DigitalSignature);
    let (chains, plain) = (pki.chains(), vec![1; 100_000]);
    let value = sign_rsa_sha256(&pki.pkcs8, &plain[..]).unwrap();
    for alg in ["RSA/SHA256", "rsa/sha256/pkcs1v1_5", "RSA"] {
        verify(&plain, info(alg, "good", value.clone()), &chains).unwrap();
    }
    let key = RsaKeyPair::from_pkcs8(&pki.pkcs8).unwrap();
    let kinds: [(&str, &'static dyn lc::RsaEncoding); 5] = [
        ("RSA/SHA384", &lc::RSA_PKCS1_SHA384),
        ("RSA/SHA512", &lc::RSA_PKCS1_SHA512),
        ("RSA/SHA256/PSS", &lc::RSA_PSS_SHA256),
        ("RSA/SHA384/PSS", &lc::RSA_PSS_SHA384),
        ("RSA/SHA512/PSS", &lc::RSA_PSS_SHA512),
    ];
    for (alg, encoding) in kinds {
        let mut value = vec![0; key.public_modulus_len()];
        key.sign(encoding, &SystemRandom::new(), &plain, &mut value).unwrap();
        verify(&plain, info(alg, "good", value.clone()), &chains).unwrap();
        let wrong = verify(&plain, info("RSA/SHA256", "good", value), &chains);
        assert!(matches!(wrong, Err(CryptoError::BadSignature)), "{alg}");
    }
    let mut other = plain.clone();
    other[0] ^= 1;
    assert!(matches!(
        verify(&other, info("RSA", "good", value.clone()), &chains),
        Err(CryptoError::BadSignature)
    ));
    assert!(matches!(
        verify(&plain, info("EC/SHA256", "good", value), &chains),
        Err(CryptoError::BadSignature)
    ));
    assert!(matches!(sign_rsa_sha256(b"no key", &plain[..]), Err(CryptoError::SigningKey(_))));
}

#[test]
fn ec_signatures() {
    let pki = pki(&rcgen::PKCS_ECDSA_P256_SHA256, KeyUsagePurpose::DigitalSignature);
    let (chains, plain) = (pki.chains(), b"content".to_vec());
    let key = EcdsaKeyPair::from_pkcs8(&lc::ECDSA_P256_SHA256_ASN1_SIGNING, &pki.pkcs8).unwrap();
    let value = key.sign(&SystemRandom::new(), &plain).unwrap().as_ref().to_vec();
    verify(&plain, info("EC/SHA256", "good", value.clone()), &chains).unwrap();
    for alg in ["EC/SHA384", "RSA/SHA256"] {
        let wrong = verify(&plain, info(alg, "good", value.clone()), &chains);
        assert!(matches!(wrong, Err(CryptoError::BadSignature)), "{alg}");
    }
    for alg in ["", "EC/SHA1", "EC/SHA256/PSS", "DSA", "RSA/SHA256/OAEP", "RSA/SHA256/PSS/x"] {
        let unknown = verify(&plain, info(alg, "good", value.clone()), &chains);
        assert!(matches!(unknown, Err(CryptoError::UnsupportedSignature(_))), "{alg}");
    }
}

/// D53: curves other than P-256, each with a hash of its own choice.
#[test]
fn ec_signatures_on_larger_curves() {
    for (curve, signing, alg) in [
        (&rcgen::PKCS_ECDSA_P384_SHA384, &lc::ECDSA_P384_SHA384_ASN1_SIGNING, "EC/SHA384"),
        (&rcgen::PKCS_ECDSA_P521_SHA512, &lc::ECDSA_P521_SHA512_ASN1_SIGNING, "EC/SHA512"),
    ] {
        let pki = pki(curve, KeyUsagePurpose::DigitalSignature);
        let (chains, plain) = (pki.chains(), b"content".to_vec());
        let key = EcdsaKeyPair::from_pkcs8(signing, &pki.pkcs8).unwrap();
        let value = key.sign(&SystemRandom::new(), &plain).unwrap().as_ref().to_vec();
        verify(&plain, info(alg, "good", value.clone()), &chains).unwrap();
        let wrong = verify(&plain, info("EC/SHA256", "good", value), &chains);
        assert!(matches!(wrong, Err(CryptoError::BadSignature)), "{alg}");
    }
}

// PRO-46, PRO-47
#[test]
fn chains_must_lead_to_a_given_root_at_the_time_of_signing() {
    let pki = pki(&rcgen::PKCS_ECDSA_P256_SHA256, KeyUsagePurpose::DigitalSignature);
    let chains = pki.chains();
    let now = SystemTime::now();
    let year = |years: u64| Some(SystemTime::UNIX_EPOCH + Duration::from_hours(years * 365 * 24));
    assert!(chains.signer("good", year(51), now).is_ok());
    let chain_error = |chains: &ChainStore, name: &str, at| {
        let error = chains.signer(name, at, now).unwrap_err();
        assert!(matches!(&error, CryptoError::Chain { chain, .. } if chain == name), "{error}");
        error.to_string()
    };
    assert!(chain_error(&chains, "good", year(49)).contains("not valid"));
    assert!(chain_error(&chains, "no-middle", None).contains("not valid"));
    assert!(chain_error(&chains, "unknown-label", None).contains("fingerprint CC"));
    assert!(chain_error(&chains, "empty", None).contains("no certificates"));
    assert!(chain_error(&chains, "nowhere", None).contains("no chain of that name"));
    // The root may be sent along, but is not trusted for that.
    let untrusting = ChainStore::new(
        [
            ("A".into(), pki.signer.clone()),
            ("B".into(), pki.intermediate.clone()),
            ("C".into(), pki.root.clone()),
        ],
        [("good".to_owned(), vec!["A".to_owned(), "B".to_owned(), "C".to_owned()])],
        [],
    );
    assert!(chain_error(&untrusting, "good", None).contains("not valid"));
    let rubbish = ChainStore::new(
        [("A".to_owned(), b"rubbish".to_vec())],
        [("good".to_owned(), vec!["A".to_owned()])],
        [pki.root.clone()],
    );
    assert!(chain_error(&rubbish, "good", None).contains("cannot be read"));
}

#[test]
fn a_timestamp_in_the_future_is_refused() {
    let pki = pki(&rcgen::PKCS_ECDSA_P256_SHA256, KeyUsagePurpose::DigitalSignature);
    let chains = pki.chains();
    let now = SystemTime::UNIX_EPOCH + Duration::from_hours(486_096);
    assert!(chains.signer("good", Some(now + Duration::from_mins(5)), now).is_ok());
    let future = chains.signer("good", Some(now + Duration::from_secs(301)), now);
    assert!(matches!(future, Err(CryptoError::FutureTimestamp)));
}

#[test]
fn a_certificate_for_other_purposes_does_not_sign() {
    let pki = pki(&rcgen::PKCS_ECDSA_P256_SHA256, KeyUsagePurpose::KeyEncipherment);
    let error = pki.chains().signer("good", None, SystemTime::now()).unwrap_err();
    assert!(error.to_string().contains("not for signatures"), "{error}");
}

use std::time::{Duration, SystemTime};

use aos_ids::Digest;
use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{self as lc, EcdsaKeyPair, RsaKeyPair};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};

use super::*;

fn sha256(bytes: &[u8]) -> Digest {
    Digest::from_sha256(digest(&SHA256, bytes).as_ref().try_into().unwrap())
}

fn recipe<'a>(plain: &[u8]) -> Recipe<'a> {
    Recipe { digest: sha256(plain), served: None, decryption: None, signature: None }
}

fn run(served: &[u8], recipe: &Recipe<'_>) -> Result<Vec<u8>, CryptoError> {
    let mut plain = Vec::new();
    let unpacked = unpack(served, &mut plain, recipe, SystemTime::now())?;
    assert_eq!((unpacked.served_bytes, unpacked.plain_bytes), (served.len() as u64, plain.len() as u64));
    Ok(plain)
}

/// A reader that gives bytes out in pieces of every size up to `0`.
struct Pieces<'a>(usize, &'a [u8]);

impl std::io::Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.0.min(self.1.len()).min(buffer.len());
        buffer[..n].copy_from_slice(&self.1[..n]);
        self.1 = &self.1[n..];
        self.0 = self.0 % 97 + 1;
        Ok(n)
    }
}

// CLO-30
#[test]
fn what_is_encrypted_is_decrypted() {
    for length in [0, 1, 15, 16, 17, 65_535, 65_536, 65_537, 300_000] {
        let plain: Vec<u8> = (0..length).map(|n: u32| n.to_le_bytes()[0]).collect();
        for key_len in [16, 24, 32] {
            let (key, iv) = (vec![9; key_len], [3; 16]);
            let mut served = Vec::new();
            let written = encrypt_cbc(Pieces(50, &plain), &mut served, &key, &iv).unwrap();
            assert_eq!((written, served.len() % 16), (served.len() as u64, 0));
            let alg = format!("aes{}/cbc/PKCS7", key_len * 8);
            let decryption = Some(Decryption::new(&alg, &key, &iv).unwrap());
            let recipe = Recipe { decryption, ..recipe(&plain) };
            let mut found = Vec::new();
            unpack(Pieces(1, &served), &mut found, &recipe, SystemTime::now()).unwrap();
            assert_eq!(found, plain);
        }
    }
}

#[test]
fn damaged_or_truncated_ciphertext_fails() {
    let (key, iv) = ([1; 32], [2; 16]);
    let plain = vec![5; 1000];
    let mut served = Vec::new();
    encrypt_cbc(&plain[..], &mut served, &key, &iv).unwrap();
    let decryption = Decryption::new("AES256/CBC/pkcs7", &key, &iv).unwrap();
    let recipe = Recipe { decryption: Some(decryption), ..recipe(&plain) };
    for cut in [0, 16, served.len() - 16, served.len() - 1] {
        assert!(run(&served[..cut], &recipe).is_err(), "{cut}");
    }
    served[100] ^= 1;
    assert!(matches!(run(&served, &recipe), Err(CryptoError::ContentMismatch { .. })));
}

// PRO-106, D52
#[test]
fn authenticated_mode_works_and_is_checked() {
    let mut last = None;
    for (algorithm, name) in [
        (&aead::AES_128_GCM, "AES128/GCM"),
        (&aead::AES_192_GCM, "aes192/gcm/"),
        (&aead::AES_256_GCM, "AES256/GCM/"),
    ] {
        let (key, iv, plain) = (vec![1; algorithm.key_len()], [2; 12], b"authenticated".to_vec());
        let sealing = LessSafeKey::new(UnboundKey::new(algorithm, &key).unwrap());
        let mut served = plain.clone();
        let nonce = Nonce::assume_unique_for_key(iv);
        sealing.seal_in_place_append_tag(nonce, Aad::empty(), &mut served).unwrap();
        let decryption = Decryption::new(name, &key, &iv).unwrap();
        let recipe = Recipe { decryption: Some(decryption), ..recipe(&plain) };
        assert_eq!(run(&served, &recipe).unwrap(), plain);
        served[3] ^= 1;
        assert!(matches!(run(&served, &recipe), Err(CryptoError::Decrypt)));
        last = Some(recipe);
    }
    let recipe = last.unwrap();
    let huge = vec![0; 16 * 1024 * 1024 + 1];
    assert!(matches!(run(&huge, &recipe), Err(CryptoError::TooLargeForGcm { .. })));
}

#[test]
fn block_algorithms_are_checked_against_key_and_iv() {
    assert!(Decryption::new("AES256", &[0; 32], &[0; 16]).is_ok());
    assert!(Decryption::new("aes192/", &[0; 24], &[0; 16]).is_ok());
    for unknown in ["", "AES512/CBC", "DES/CBC", "AES256/CTR", "AES256/CBC/a/b"] {
        let result = Decryption::new(unknown, &[0; 32], &[0; 16]);
        assert!(matches!(result, Err(CryptoError::UnsupportedCipher(_))), "{unknown}");
    }
    assert!(matches!(Decryption::new("AES256", &[0; 16], &[0; 16]), Err(CryptoError::BadKey(_))));
    assert!(matches!(Decryption::new("AES256", &[0; 32], &[0; 12]), Err(CryptoError::BadKey(_))));
    assert!(matches!(Decryption::new("AES256/GCM", &[0; 32], &[0; 16]), Err(CryptoError::BadKey(_))));
    let shown = format!("{:?}", Decryption::new("AES256", &[77; 32], &[0; 16]).unwrap());
    assert_eq!(shown, "Decryption(AES256/CBC)");
}

// PRO-105, D46, D47
#[test]
fn the_served_digest_is_sha3_or_sha2_in_hex_or_base64() {
    use base64::Engine;
    let bytes = b"served".to_vec();
    let mut hasher = ServedHasher::default();
    hasher.update(&bytes);
    let sha3 = hasher.finish().to_hex();
    let sha2 = sha256(&bytes).hex();
    let base64 = |text: &str| base64::engine::general_purpose::STANDARD.encode(hex::decode(text).unwrap());
    for text in [sha3.clone(), sha3.to_uppercase(), base64(&sha3), sha2.clone(), base64(&sha2)] {
        let served = Some(ServedDigest::parse(&text).unwrap());
        assert!(run(&bytes, &Recipe { served, ..recipe(&bytes) }).is_ok(), "{text}");
    }
    let served = Some(ServedDigest::parse(&sha3).unwrap());
    assert!(matches!(
        run(b"other", &Recipe { served, ..recipe(b"other") }),
        Err(CryptoError::ServedMismatch)
    ));
    for bad in ["", "abc", &"x".repeat(64), &"A".repeat(44)] {
        assert!(ServedDigest::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn damage_on_the_way_is_told_from_a_wrong_key() {
    let (key, iv, plain) = ([1; 32], [2; 16], vec![5; 100]);
    let mut served_bytes = Vec::new();
    encrypt_cbc(&plain[..], &mut served_bytes, &key, &iv).unwrap();
    let mut hasher = ServedHasher::default();
    hasher.update(&served_bytes);
    let decryption = Some(Decryption::new("AES256", &key, &iv).unwrap());
    let served = Some(hasher.finish());
    let recipe = Recipe { served, decryption, ..recipe(&plain) };
    assert!(matches!(run(&served_bytes[..50], &recipe), Err(CryptoError::ServedMismatch)));
    let decryption = Some(Decryption::new("AES256", &[8; 32], &iv).unwrap());
    let wrong_key = run(&served_bytes, &Recipe { decryption, ..recipe.clone() });
    assert!(matches!(wrong_key, Err(CryptoError::Decrypt | CryptoError::ContentMismatch { .. })));
    assert_eq!(run(&served_bytes, &recipe).unwrap(), plain);
}

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

/// The published vector: blob, desired status and root of one made-up cloud.
mod vector {
    use std::path::PathBuf;

    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::Value;

    use super::*;

    fn folder() -> Option<PathBuf> {
        let shared = std::env::var_os("AOS_SHARED")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
        Some(shared.join("spec/examples/v7")).filter(|folder| folder.is_dir())
    }

    // PRO-46, PRO-47, PRO-105, PRO-106, CLO-30
    #[test]
    fn the_published_vector_unpacks() {
        let Some(folder) = folder() else {
            eprintln!("skipped: no folder of published vectors (AOS_SHARED)");
            return;
        };
        let json = |name: &str| -> Value {
            serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap()
        };
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let bytes = |value: &Value| STANDARD.decode(value.as_str().unwrap()).unwrap();
        let blob = json("cloud-to-unit-blobUrls.json")["data"]["items"][0].clone();
        let desired = json("cloud-to-unit-desiredStatus.json")["data"].clone();
        let list = |value: &Value| value.as_array().unwrap().clone();
        let root = std::fs::read(folder.join("crypto/ca.pem")).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(&root).unwrap();
        let chains = ChainStore::new(
            list(&desired["certificates"])
                .iter()
                .map(|c| (text(&c["fingerprint"]), bytes(&c["certificate"]))),
            list(&desired["certificateChains"])
                .iter()
                .map(|c| (text(&c["name"]), list(&c["fingerprints"]).iter().map(text).collect())),
            [pem.contents],
        );
        let sign = &blob["signInfo"];
        let timestamp: jiff::Timestamp = text(&sign["trustedTimestamp"]).parse().unwrap();
        let decrypt = &blob["decryptInfo"];
        let digest: Digest = text(&blob["digest"]).parse().unwrap();
        let recipe = Recipe {
            digest,
            served: Some(ServedDigest::parse(&text(&blob["sha256"])).unwrap()),
            decryption: Some(
                Decryption::new(
                    &text(&decrypt["blockAlg"]),
                    &bytes(&decrypt["blockKey"]),
                    &bytes(&decrypt["blockIv"]),
                )
                .unwrap(),
            ),
            signature: Some((
                SignatureInfo {
                    chain_name: text(&sign["chainName"]),
                    alg: text(&sign["alg"]),
                    value: bytes(&sign["value"]),
                    trusted_timestamp: Some(timestamp.into()),
                },
                &chains,
            )),
        };
        let served = std::fs::read(folder.join(format!("crypto/{}.enc", digest.hex()))).unwrap();
        let plain = std::fs::read(folder.join(format!("crypto/{}.dec", digest.hex()))).unwrap();
        assert_eq!(run(&served, &recipe).unwrap(), plain);
    }
}

//! Recipes of encrypted blobs, and who signed them.

mod signatures;
mod vector;

use std::time::SystemTime;

use aos_ids::Digest;
use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::digest::{SHA256, digest};

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

use std::process::Command;

use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256};
use aws_lc_rs::rsa::{OaepPrivateDecryptingKey, Pkcs1PrivateDecryptingKey, PrivateDecryptingKey};
use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256};

use super::*;

/// A certificate with an RSA key.
struct Holder {
    certificate: Vec<u8>,
    key: KeyPair,
}

fn holder(serial: u64) -> Holder {
    let key = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    let mut params = CertificateParams::new([]).unwrap();
    params.serial_number = Some(serial.into());
    let certificate = params.self_signed(&key).unwrap().der().to_vec();
    Holder { certificate, key }
}

impl Holder {
    fn unwrap(&self, transport: KeyTransport, wrapped: &[u8]) -> Option<Vec<u8>> {
        let key = PrivateDecryptingKey::from_pkcs8(&self.key.serialize_der()).unwrap();
        let mut room = vec![0; 512];
        let plain = match transport {
            KeyTransport::Pkcs1 => Pkcs1PrivateDecryptingKey::new(key).unwrap().decrypt(wrapped, &mut room),
            oaep => {
                let algorithm = if oaep == KeyTransport::OaepSha1 {
                    &OAEP_SHA1_MGF1SHA1
                } else {
                    &OAEP_SHA256_MGF1SHA256
                };
                OaepPrivateDecryptingKey::new(key).unwrap().decrypt(algorithm, wrapped, &mut room, None)
            }
        };
        plain.ok().map(|plain| plain.to_vec())
    }

    fn open(&self, envelope: &[u8]) -> Result<Vec<u8>, CryptoError> {
        open(envelope, |recipient| {
            recipient
                .is(&self.certificate)
                .then_some(|transport, wrapped: &[u8]| self.unwrap(transport, wrapped))
        })
    }
}

/// D11: any length up to the limit, far above upstream's 1024 bytes; each recipient opens its own copy.
#[test]
fn what_is_sealed_is_opened() {
    let (one, two, other) = (holder(1), holder(0x80), holder(3));
    for length in [0, 1, 15, 16, 1024, 65_536, 65_537, 1_000_000] {
        let content: Vec<u8> = (0..length).map(|n: u32| n.to_le_bytes()[0]).collect();
        let envelope = seal(&content, &[&one.certificate, &two.certificate]).unwrap();
        assert_eq!(envelope[0], 0x30);
        assert_eq!(one.open(&envelope).unwrap(), content);
        assert_eq!(two.open(&envelope).unwrap(), content);
        assert!(matches!(other.open(&envelope), Err(CryptoError::NotForUs)));
    }
    let none: [&[u8]; 0] = [];
    assert!(matches!(seal(b"x", &none), Err(CryptoError::Envelope(_))));
    assert!(matches!(seal(&vec![0; MAX_CONTENT + 1], &[&one.certificate]), Err(CryptoError::Envelope(_))));
    let longest = vec![7; MAX_CONTENT];
    assert_eq!(one.open(&seal(&longest, &[&one.certificate]).unwrap()).unwrap(), longest);
    assert!(matches!(seal(b"x", &[b"no certificate"]), Err(CryptoError::Recipient(_))));
    let ec = KeyPair::generate().unwrap();
    let ec = CertificateParams::new([]).unwrap().self_signed(&ec).unwrap();
    assert!(matches!(seal(b"x", &[ec.der()]), Err(CryptoError::Recipient(_))));
}

/// A wrapped key that cannot be unwrapped, is too short, or is another key looks like damaged content.
#[test]
fn failures_of_the_key_look_alike() {
    let one = holder(1);
    let envelope = seal(&[5; 100], &[&one.certificate]).unwrap();
    for answer in [None, Some(vec![1; 16]), Some(Vec::new()), Some(vec![9; 32])] {
        let answer = &answer;
        match open(&envelope, |_| Some(|_, _: &[u8]| answer.clone())) {
            // One random key in 256 yields padding that looks right.
            Ok(noise) => assert_ne!(noise, [5; 100]),
            Err(error) => assert!(matches!(error, CryptoError::EnvelopeDecrypt), "{error}"),
        }
    }
}

/// No cut and no changed byte of an envelope makes anything but an error or other content.
#[test]
fn damaged_envelopes_are_refused() {
    let one = holder(1);
    let envelope = seal(b"{}", &[&one.certificate]).unwrap();
    for length in 0..envelope.len() {
        assert!(matches!(one.open(&envelope[..length]), Err(CryptoError::Envelope(_))), "{length}");
    }
    for at in 0..envelope.len() {
        let mut damaged = envelope.clone();
        damaged[at] ^= 0x41;
        let _ = open(&damaged, |_| Some(|_, _: &[u8]| Some(vec![0; 32])));
    }
    let mut longer = envelope.clone();
    longer.push(0);
    assert!(matches!(one.open(&longer), Err(CryptoError::Envelope(_))));
    for text in [&b"{}"[..], &[0x30, 0x80, 0, 0], &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff], &[0x30, 0x81, 1, 0]]
    {
        assert!(matches!(one.open(text), Err(CryptoError::Envelope(_))));
    }
}

/// More recipients than anybody needs are not looked at.
#[test]
fn recipients_are_limited() {
    let one = holder(1);
    let full = vec![one.certificate.clone(); MAX_RECIPIENTS];
    assert!(one.open(&seal(b"x", &full).unwrap()).is_ok());
    let copies = vec![write::copy_for(&one.certificate, &[1; 32]).unwrap(); MAX_RECIPIENTS + 1];
    let envelope = write::enveloped(&copies, &[0; 16], &[0; 16]);
    assert!(matches!(one.open(&envelope), Err(CryptoError::Envelope(_))));
}

/// Envelopes of the OpenSSL command line are opened, and ours are opened by it.
#[test]
fn openssl_understands_us_and_we_it() {
    if Command::new("openssl").arg("version").output().is_err() {
        println!("skipped: there is no openssl command");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let one = holder(0x00c0_ffee);
    let pem = pem_of(&one.certificate);
    std::fs::write(path("certificate.pem"), pem).unwrap();
    std::fs::write(path("key.pem"), one.key.serialize_pem()).unwrap();
    let content: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    std::fs::write(path("content"), &content).unwrap();
    let run = |arguments: &[&str]| {
        let output = Command::new("openssl").arg("cms").args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };

    let (plain, certificate, sealed) = (path("content"), path("certificate.pem"), path("sealed"));
    let encrypt = ["-encrypt", "-binary", "-outform", "DER", "-in", &plain, "-out", &sealed];
    let oaep = ["-keyopt", "rsa_padding_mode:oaep"];
    let oaep_sha256 = ["-keyopt", "rsa_padding_mode:oaep", "-keyopt", "rsa_oaep_md:sha256"];
    for (cipher, padding) in [
        ("-aes256", &[][..]),
        ("-aes192", &[]),
        ("-aes128", &[]),
        ("-aes256", &oaep[..]),
        ("-aes256", &oaep_sha256[..]),
    ] {
        run(&[&encrypt[..], &[cipher, "-recip", &certificate], padding].concat());
        let envelope = std::fs::read(&sealed).unwrap();
        assert_eq!(one.open(&envelope).unwrap(), content, "{cipher} {padding:?}");
    }

    std::fs::write(&sealed, seal(&content, &[&holder(1).certificate, &one.certificate]).unwrap()).unwrap();
    let (key, opened) = (path("key.pem"), path("opened"));
    run(&[
        "-decrypt",
        "-binary",
        "-inform",
        "DER",
        "-in",
        &sealed,
        "-recip",
        &certificate,
        "-inkey",
        &key,
        "-out",
        &opened,
    ]);
    assert_eq!(std::fs::read(&opened).unwrap(), content);
}

fn pem_of(certificate: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}

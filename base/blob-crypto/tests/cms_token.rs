//! An envelope opened with a key that never leaves its token. The SoftHSM module takes its configuration from
//! the environment when it is initialised, so the test proper runs in a process of its own.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::process::Command;

use aos_blob_crypto::cms::{self, KeyTransport};
use aos_token::{AuthPin, DEFAULT_MODULE, KeyKind, Library, SlotChoice};
use rcgen::CertificateParams;

const MARK: &str = "AOS_CMS_TEST_INSIDE";
const NAME: &str = "a_key_in_a_token_opens_envelopes";

/// D11: the opt-in of the sheet, section 5.5, with an RSA key of type `offline` in SoftHSM.
#[test]
fn a_key_in_a_token_opens_envelopes() {
    if std::env::var_os(MARK).is_some() {
        return inside();
    }
    let dir = tempfile::tempdir().unwrap();
    let tokens = dir.path().join("tokens");
    std::fs::create_dir(&tokens).unwrap();
    let configuration = dir.path().join("softhsm2.conf");
    let text = format!("directories.tokendir = {}\nlog.level = ERROR\n", tokens.display());
    std::fs::write(&configuration, text).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env("SOFTHSM2_CONF", &configuration)
        .env(MARK, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

fn inside() {
    let pin = |text: &str| AuthPin::from(text.to_owned());
    let library = Library::open(DEFAULT_MODULE).unwrap();
    let token = library.find_token(&SlotChoice::Label("aos".into())).unwrap().unwrap();
    let session = token.init(&pin("owner"), "aos", &pin("4711")).unwrap().open(&pin("4711")).unwrap();
    let key = session.generate_key(KeyKind::Rsa2048, [1; 16], "offline").unwrap();
    let certificate = CertificateParams::new([]).unwrap().self_signed(&key).unwrap();
    let certificate = certificate.der().to_vec();

    let content = vec![b'x'; 300_000];
    let envelope = cms::seal(&content, &[&certificate]).unwrap();
    let unwrap = |transport, wrapped: &[u8]| match transport {
        KeyTransport::Pkcs1 => key.decrypt_rsa_pkcs1(wrapped).ok(),
        KeyTransport::OaepSha1 | KeyTransport::OaepSha256 => None,
    };
    let opened = cms::open(&envelope, |recipient| recipient.is(&certificate).then_some(unwrap)).unwrap();
    assert_eq!(opened, content);

    // A content key that was wrapped for another key is no other failure than damaged content.
    let other = session.generate_key(KeyKind::Rsa2048, [2; 16], "offline").unwrap();
    let wrong = |_, wrapped: &[u8]| other.decrypt_rsa_pkcs1(wrapped).ok();
    match cms::open(&envelope, |_| Some(wrong)) {
        Ok(noise) => assert_ne!(noise, content),
        Err(error) => assert_eq!(error.to_string(), "the envelope cannot be decrypted"),
    }
}

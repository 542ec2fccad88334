//! Enveloped frames, with the key in SoftHSM. The module takes its configuration from the environment when it
//! is initialised, so the test proper runs in a process of its own.

use std::process::Command as Process;

use aos_blob_crypto::cms;
use aos_token::{AuthPin, DEFAULT_MODULE, KeyKind, Library, SlotChoice};
use serde_json::json;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;
use crate::app::tests::iam::Iam;

const MARK: &str = "AOS_CM_TEST_INSIDE";
const NAME: &str = "communication::tests::sealed::enveloped_frames_are_opened_with_a_key_in_the_token";

// D11, DIS-10, IAM-21
#[test]
fn enveloped_frames_are_opened_with_a_key_in_the_token() {
    if std::env::var_os(MARK).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(inside());
    }
    let dir = tempfile::tempdir().unwrap();
    let tokens = dir.path().join("tokens");
    std::fs::create_dir(&tokens).unwrap();
    let configuration = dir.path().join("softhsm2.conf");
    let text = format!("directories.tokendir = {}\nlog.level = ERROR\n", tokens.display());
    std::fs::write(&configuration, text).unwrap();
    let output = Process::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env("SOFTHSM2_CONF", &configuration)
        .env(MARK, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// A certificate of type `offline` with its key in the token; answers it and the URL of the key.
fn offline(session: &aos_token::TokenSession, id: u8) -> (Vec<u8>, String) {
    let key = session.generate_key(KeyKind::Rsa2048, [id; 16], "offline").unwrap();
    let mut params = rcgen::CertificateParams::new([]).unwrap();
    params.serial_number = Some(vec![0xa0, id].into());
    let certificate = params.self_signed(&key).unwrap().der().to_vec();
    let id = format!("%{id:02x}").repeat(16);
    let url = format!("pkcs11:token=aos;object=offline;id={id}?module-path={DEFAULT_MODULE}&pin-value=4711");
    (certificate, url)
}

async fn inside() {
    let pin = |text: &str| AuthPin::from(text.to_owned());
    let library = Library::open(DEFAULT_MODULE).unwrap();
    let token = library.find_token(&SlotChoice::Label("aos".into())).unwrap().unwrap();
    let session = token.init(&pin("owner"), "aos", &pin("4711")).unwrap().open(&pin("4711")).unwrap();
    let (certificate, url) = offline(&session, 1);
    let (unknown, _) = offline(&session, 2);
    drop(session);

    let (discovery, sockets) = cloud().await;
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::new(dir.path());
    let (iam, address) = Iam::start(&pki, "127.0.0.1:0").await;
    let keys = json!({"openEnvelopedMessages": true});
    let iam_of = Some((address, pki.root_file()));
    let setup = Setup { discovery: discovery.url(), keys, iam: iam_of, ..Setup::default() };
    let mut rig = Rig::new(setup);
    let (_, parsed) = X509Certificate::from_der(&certificate).unwrap();
    iam.put_offline(parsed.issuer().as_raw(), parsed.raw_serial(), &url);
    let (mut peer, ()) = tokio::join!(sockets.accept(), rig.greet());
    peer.greeted().await;

    let wish = || {
        let body = Body::DesiredStatus(aos_cloud_protocol::DesiredStatus::default());
        Envelope::new(unit(), jiff::Timestamp::now(), body)
    };
    // In the order in which they were sent, in the open and sealed, also far beyond 1024 bytes.
    for n in 0..4 {
        let message = wish();
        let mut frame = aos_cloud_protocol::write(&message).unwrap();
        if n % 2 == 1 {
            frame.resize(frame.len() + 200_000, b' ');
            frame = cms::seal(&frame, &[&unknown, &certificate]).unwrap();
        }
        peer.send_raw(frame).await;
        let Event::Message(delivered) = rig.event().await else { panic!() };
        assert_eq!(delivered.header.txn, message.header.txn);
    }
    // Not for us, damaged, and something else in disguise: counted, and the link goes on.
    let frame = aos_cloud_protocol::write(&wish()).unwrap();
    let mut damaged = cms::seal(&frame, &[&certificate]).unwrap();
    damaged.truncate(damaged.len() - 20);
    peer.send_raw(cms::seal(&frame, &[&unknown]).unwrap()).await;
    peer.send_raw(damaged).await;
    peer.send_raw(b"0 is no envelope".to_vec()).await;
    // Sealed, but no message inside.
    peer.send_raw(cms::seal(b"no json", &[&certificate]).unwrap()).await;
    let last = wish();
    peer.send(&last).await;
    let Event::Message(delivered) = rig.event().await else { panic!() };
    assert_eq!(delivered.header.txn, last.header.txn);
    let refused = rig.way.state().counters.refused;
    assert_eq!((refused.enveloped, refused.unreadable), (3, 1));
    rig.stop().await;
}

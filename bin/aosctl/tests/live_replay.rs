//! `aosctl protocol replay --to-cloud`: the real program against a WebSocket server with mutual TLS that answers
//! as a cloud does.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::path::Path;
use std::sync::Arc;

use aos_cloud_protocol::{Body, DesiredStatus, Direction, Envelope, MessageType, read, write};
use futures_util::{SinkExt as _, StreamExt as _};
use jiff::Timestamp;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::Message;

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn root() -> Issuer {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Writes certificate and key of a Unit.
fn identity(dir: &Path, root: &Issuer) -> String {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([]).unwrap().signed_by(&key, root).unwrap();
    let (chain, private) = (dir.join("unit.pem"), dir.join("unit.key"));
    std::fs::write(&chain, certificate.pem()).unwrap();
    std::fs::write(&private, key.serialize_pem()).unwrap();
    format!("{},{}", chain.display(), private.display())
}

fn server(root: &Issuer) -> TlsAcceptor {
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&key, root).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(root.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let clients =
        WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build().unwrap();
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config =
        config.with_client_cert_verifier(clients).with_single_cert(vec![certificate.der().clone()], key);
    TlsAcceptor::from(Arc::new(config.unwrap()))
}

/// Takes one connection and acknowledges what comes; answers all that came.
async fn cloud(listener: TcpListener, acceptor: TlsAcceptor) -> Vec<Envelope> {
    let (tcp, _) = listener.accept().await.unwrap();
    let mut socket = tokio_tungstenite::accept_async(acceptor.accept(tcp).await.unwrap()).await.unwrap();
    let now = Timestamp::now();
    let wish = Envelope::new("unit-1".parse().unwrap(), now, Body::DesiredStatus(DesiredStatus::default()));
    socket.send(Message::Binary(write(&wish).unwrap().into())).await.unwrap();
    let mut received = Vec::new();
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Binary(bytes) = message {
            let envelope = read(&bytes, Direction::UnitToCloud).unwrap();
            if envelope.body.message_type().is_acknowledged() {
                let ack = Envelope::ack(envelope.header.system_id.clone(), now, &envelope.header.txn);
                socket.send(Message::Binary(write(&ack).unwrap().into())).await.unwrap();
            }
            received.push(envelope);
        }
    }
    received
}

#[tokio::test]
async fn messages_of_the_unit_are_sent_once_with_fresh_transactions() {
    let dir = tempfile::tempdir().unwrap();
    let root = root();
    let identity = identity(dir.path(), &root);
    let ca = dir.path().join("root.pem");
    std::fs::write(&ca, root.pem()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("wss://localhost:{}/ws/v7/", listener.local_addr().unwrap().port());
    let cloud = tokio::spawn(cloud(listener, server(&root)));

    let message = |txn: &str, data: Value| {
        let header =
            json!({"version": 7, "systemId": "unit-1", "createdAt": "2026-03-04T08:02:10Z", "txn": txn});
        json!({"header": header, "data": data}).to_string()
    };
    let status =
        message("t-1", json!({"messageType": "unitStatus", "isDeltaInfo": false, "correlationId": "c"}));
    let request = json!({"messageType": "stateRequest", "item": {"id": "i"}, "subject": {"id": "s"}, "instance": 0,
        "default": false});
    let lines = [
        format!("TX: {status}"),
        format!("RX: {}", message("t-1", json!({"messageType": "ack"}))),
        format!("TX: {status}"),
        format!("TX: {}", message("c-9", json!({"messageType": "ack"}))),
        format!("TX: {}", message("t-2", request)),
    ];
    let recording = dir.path().join("recording");
    std::fs::write(&recording, lines.join("\n")).unwrap();

    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_aosctl"));
    command.args(["--output", "json", "protocol", "replay"]).arg(&recording);
    command.args(["--to-cloud", &url, "--identity", &identity, "--ca"]).arg(&ca);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&shown["total"], &shown["notAcknowledged"]), (&json!(2), &json!(0)), "{shown}");

    let received = cloud.await.unwrap();
    let kinds: Vec<_> = received.iter().map(|envelope| envelope.body.message_type()).collect();
    // The cloud's wish is left unacknowledged: it is for the true Unit.
    assert_eq!(kinds, [MessageType::UnitStatus, MessageType::StateRequest]);
    assert!(received.iter().all(|envelope| envelope.header.txn.as_str().len() == 36));
    assert_eq!(received[0].correlation_id.as_deref(), Some("c"));
    assert_eq!(shown["items"][0]["txn"], received[0].header.txn.as_str());
}

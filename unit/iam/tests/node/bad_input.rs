//! What a peer should not send: a clear refusal, and nothing changed.

use aos_token::{AuthPin, KeyKind, Library, SlotChoice};
use aos_unit_api::iamanager::v6;
use aos_unit_api::iamanager::v6::iam_outgoing_messages::IamOutgoingMessage as Message;
use aos_unit_api::iamanager::v6::iam_public_nodes_service_client::IamPublicNodesServiceClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::authority::Authority;
use crate::rig::{MODULE, PASSWORD, plain_channel, start, tls_channel, with_softhsm};

fn get(cert_type: &str) -> v6::GetCertRequest {
    v6::GetCertRequest { r#type: cert_type.into(), ..Default::default() }
}

/// Sends bytes and waits until the server has had enough of them.
async fn throw(address: &str, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The server may hang up in the middle of it.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
}

#[test]
fn garbage_on_the_ports_costs_nobody_else() {
    with_softhsm("bad_input::garbage_on_the_ports_costs_nobody_else", async |rig| {
        rig.prepare(|_| {});
        let authority = Authority::new("Unit CA");
        let garbage: Vec<Vec<u8>> = vec![
            Vec::new(),
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            vec![0xff; 100_000],
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\xff\xff\x01\x25\x00\x00\x00\x01garbage".to_vec(),
            vec![0x16, 3, 1, 0xff, 0xff, 1, 0, 0],
        ];
        let daemon = rig.start("provisioning").await;
        for bytes in &garbage {
            throw(&daemon.public, bytes).await;
            throw(&daemon.protected, bytes).await;
        }
        daemon.provisioning().get_cert_types(v6::GetCertTypesRequest::default()).await.unwrap();
        daemon.stop().await;
        rig.provision(&authority).await;
        let daemon = rig.start("normal").await;
        for bytes in &garbage {
            throw(&daemon.public, bytes).await;
            throw(&daemon.protected, bytes).await;
        }
        let channel = tls_channel(&daemon.protected, &rig.path("root.pem"), Some(authority.client()));
        v6::iam_provisioning_service_client::IamProvisioningServiceClient::new(channel)
            .get_cert_types(v6::GetCertTypesRequest::default())
            .await
            .unwrap();
        daemon.stop().await;
    });
}

#[test]
fn unfit_certificates_and_requests_change_nothing() {
    with_softhsm("bad_input::unfit_certificates_and_requests_change_nothing", async |rig| {
        rig.prepare(|_| {});
        let authority = Authority::new("Unit CA");
        let daemon = rig.start("provisioning").await;
        let unowned = v6::CreateKeyRequest { r#type: "online".into(), ..Default::default() };
        let refused = daemon.certificates().create_key(unowned.clone()).await.unwrap().into_inner();
        assert!(refused.error.unwrap().message.contains("no owner yet"));
        assert_eq!(
            daemon.provisioning().start_provisioning(start(PASSWORD)).await.unwrap().get_ref().error,
            None
        );

        // Objects of somebody else in the token are left alone, named like ours or not.
        let pin = AuthPin::from(std::fs::read_to_string(rig.path("pins/user")).unwrap());
        let library = Library::open(MODULE).unwrap();
        library.refresh().unwrap();
        let token = library.find_token(&SlotChoice::Label("aoscloud".into())).unwrap().unwrap();
        let session = token.open(&pin).unwrap();
        session.generate_key(KeyKind::EcP256, [9; 16], "somebody").unwrap();
        let before = daemon.issue(&authority, "online", 2100).await;
        let csr = daemon.create_key("online").await;

        let huge = "x".repeat(10 * 1024 * 1024);
        let apply = |cert: &str| v6::ApplyCertRequest {
            r#type: "online".into(),
            cert: cert.into(),
            ..Default::default()
        };
        let status = daemon.certificates().apply_cert(apply(&huge)).await.unwrap_err();
        assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted), "{status}");
        let half = authority.sign(&csr, 2100);
        for (cert, code) in [(&half[..half.len() / 3], 6), ("\0\0\0", 5), (&"x".repeat(200_000), 5)] {
            let error = daemon.apply("online", cert).await.error.unwrap();
            assert_eq!(error.aos_code, code, "{}", error.message);
        }
        let long = v6::CreateKeyRequest { subject: "x".repeat(200), ..unowned.clone() };
        let refused = daemon.certificates().create_key(long).await.unwrap().into_inner();
        assert_eq!((refused.error.unwrap().aos_code, refused.csr.as_str()), (6, ""));
        let unknown = v6::CreateKeyRequest { r#type: "unknown".into(), ..Default::default() };
        let refused = daemon.certificates().create_key(unknown).await.unwrap().into_inner();
        assert_eq!(refused.error.unwrap().aos_code, 5);
        assert_eq!(daemon.certs().get_cert(get("online")).await.unwrap().into_inner(), before);

        // Validity is for those who use a certificate: our clock may be wrong.
        let expired = daemon.apply("online", &authority.sign(&csr, 2021)).await;
        assert_eq!(expired.error, None);
        assert_eq!(
            daemon.certs().get_cert(get("online")).await.unwrap().into_inner(),
            before,
            "not the newest"
        );
        // With as many as there is room for, what has ended pushes out none that has not.
        let second = daemon.issue(&authority, "online", 2101).await;
        let csr = daemon.create_key("online").await;
        assert_eq!(daemon.apply("online", &authority.sign(&csr, 2022)).await.error, None);
        for kept in [&before, &second] {
            let exact = v6::GetCertRequest {
                r#type: "online".into(),
                issuer: kept.issuer.clone(),
                serial: String::from_utf8(kept.serial.clone()).unwrap(),
            };
            assert_eq!(daemon.certs().get_cert(exact).await.unwrap().get_ref(), kept);
        }
        library.refresh().unwrap();
        let foreign = token.open(&pin).unwrap().list_objects(Some("somebody")).unwrap();
        assert_eq!(foreign.len(), 2);
        daemon.stop().await;
    });
}

#[test]
fn unknown_and_false_nodes_are_refused() {
    with_softhsm("bad_input::unknown_and_false_nodes_are_refused", async |rig| {
        rig.prepare(|_| {});
        let daemon = rig.start("provisioning").await;
        let channel = plain_channel(&daemon.protected);
        let mut nodes = IamPublicNodesServiceClient::new(channel.clone());
        let unknown = nodes.get_node_info(v6::GetNodeInfoRequest { node_id: "nobody".into() }).await;
        assert_eq!(unknown.unwrap_err().code(), Code::Internal);
        for (id, state) in [
            ("node-main", "provisioned"),
            ("", "provisioned"),
            ("node", "unknown"),
            (&*"x".repeat(65), "paused"),
        ] {
            let info = v6::NodeInfo { node_id: id.into(), state: state.into(), ..Default::default() };
            let message = v6::IamOutgoingMessages { iam_outgoing_message: Some(Message::NodeInfo(info)) };
            let (out, messages) = tokio::sync::mpsc::channel(1);
            out.send(message).await.unwrap();
            let mut client = IamPublicNodesServiceClient::new(channel.clone());
            let mut requests =
                client.register_node(ReceiverStream::new(messages)).await.unwrap().into_inner();
            assert!(requests.message().await.is_err(), "'{id}' {state}");
        }
        assert_eq!(nodes.get_all_node_i_ds(()).await.unwrap().get_ref().ids, ["node-main"]);
        daemon.stop().await;
    });
}

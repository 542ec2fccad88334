//! Old and new clients side by side, and the kinds of addresses.

use aos_unit_api::common::v1;
use aos_unit_api::iamanager::version::iam_version_service_client::IamVersionServiceClient;
use aos_unit_api::iamanager::{v5, v6, v7};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use crate::authority::Authority;
use crate::rig::{PASSWORD, Rig, eventually, plain_channel, tls_channel, with_softhsm};

const NOT_SUPPORTED: i32 = 12;

async fn version(channel: Channel) -> u64 {
    IamVersionServiceClient::new(channel).get_api_version(()).await.unwrap().into_inner().version
}

/// Provisions everything with a client of generation 5, in the order of an external tool.
async fn provision_as_v5(protected: Channel, authority: &Authority) -> Vec<v5::ApplyCertResponse> {
    let identity =
        v5::iam_public_identity_service_client::IamPublicIdentityServiceClient::new(protected.clone())
            .get_system_info(())
            .await
            .unwrap()
            .into_inner();
    assert_eq!((&*identity.system_id, &*identity.unit_model), ("unit-under-test", "model;1.0"));
    let mut nodes = v5::iam_public_nodes_service_client::IamPublicNodesServiceClient::new(protected.clone());
    let ids = nodes.get_all_node_i_ds(()).await.unwrap().into_inner().ids;
    assert_eq!(ids, ["node-main"]);
    let node =
        nodes.get_node_info(v6::GetNodeInfoRequest { node_id: ids[0].clone() }).await.unwrap().into_inner();
    assert_eq!((&*node.name, &*node.status), ("gateway", "unprovisioned"));
    assert!(node.attrs.iter().any(|attr| attr.name == "MainNode"));
    assert!(!node.cpus.is_empty() && !node.cpus[0].arch.is_empty());

    let mut client =
        v5::iam_provisioning_service_client::IamProvisioningServiceClient::new(protected.clone());
    let start = v6::StartProvisioningRequest { node_id: ids[0].clone(), password: PASSWORD.into() };
    assert_eq!(client.start_provisioning(start).await.unwrap().into_inner().error, None);
    let types = client.get_cert_types(v6::GetCertTypesRequest { node_id: ids[0].clone() }).await.unwrap();
    let mut certificates = v5::iam_certificate_service_client::IamCertificateServiceClient::new(protected);
    let mut applied = Vec::new();
    for cert_type in types.into_inner().types {
        let request = v6::CreateKeyRequest { r#type: cert_type.clone(), ..Default::default() };
        let made = certificates.create_key(request).await.unwrap().into_inner();
        assert_eq!(made.error, None);
        let cert = authority.sign(&made.csr, 2100);
        let request = v6::ApplyCertRequest { r#type: cert_type.clone(), cert, ..Default::default() };
        let answer = certificates.apply_cert(request).await.unwrap().into_inner();
        assert_eq!((answer.error.clone(), &answer.r#type), (None, &cert_type));
        assert!(hex::decode(&answer.serial).is_ok_and(|serial| !serial.is_empty()));
        applied.push(answer);
    }
    let unknown = v6::CreateKeyRequest { r#type: "unknown".into(), ..Default::default() };
    let error = certificates.create_key(unknown).await.unwrap().into_inner().error;
    assert_eq!(error.unwrap().aos_code, 5);
    let finish = v6::FinishProvisioningRequest::default();
    assert_eq!(client.finish_provisioning(finish).await.unwrap().into_inner().error, None);
    applied
}

// IAM-15. An old tool provisions, and clients of all generations see the same Unit over TLS.
// ARC-08, DIS-30
#[test]
fn all_generations_see_one_unit() {
    with_softhsm("generations::all_generations_see_one_unit", async |rig| {
        rig.prepare(|config| config["apiVersion"] = json!(5));
        let authority = Authority::new("Unit CA");
        std::fs::write(rig.path("root.pem"), authority.pem()).unwrap();
        let daemon = rig.start("provisioning").await;
        assert_eq!(version(plain_channel(&daemon.public)).await, 5, "as configured");
        assert_eq!(version(plain_channel(&daemon.protected)).await, 5);
        let applied = provision_as_v5(plain_channel(&daemon.protected), &authority).await;
        daemon.stop().await;

        rig.prepare(|_| {});
        let daemon = rig.start("normal").await;
        let root = rig.path("root.pem");
        let public = tls_channel(&daemon.public, &root, None);
        assert_eq!(version(public.clone()).await, 7, "the newest unless configured");
        let online = &applied[0];
        let mut old = v5::iam_public_service_client::IamPublicServiceClient::new(public.clone());
        let mut middle = v6::iam_public_cert_service_client::IamPublicCertServiceClient::new(public.clone());
        let mut new = v7::iam_public_cert_service_client::IamPublicCertServiceClient::new(public.clone());
        let get = || v6::GetCertRequest { r#type: "online".into(), ..Default::default() };
        assert_eq!(old.get_cert(get()).await.unwrap().get_ref().cert_url, online.cert_url);
        let from_middle = middle.get_cert(get()).await.unwrap().into_inner();
        assert_eq!(from_middle.cert_url, online.cert_url);
        assert_eq!(new.get_cert(get()).await.unwrap().into_inner(), from_middle);
        assert_eq!(old.get_node_info(()).await.unwrap().get_ref().status, "provisioned");
        let node = v7::iam_public_current_node_service_client::IamPublicCurrentNodeServiceClient::new(public)
            .get_current_node_info(())
            .await
            .unwrap();
        assert_eq!(node.get_ref().state, "provisioned");
        let cm = aos_token::load_identity(&applied[3].cert_url, &applied[3].cert_url).unwrap();
        let protected = tls_channel(&daemon.protected, &root, Some(cm.certified_key()));
        let types = |channel| async {
            v7::iam_provisioning_service_client::IamProvisioningServiceClient::new(channel)
                .get_cert_types(v6::GetCertTypesRequest::default())
                .await
        };
        assert_eq!(types(protected).await.unwrap().get_ref().types.len(), 4);
        let on_public = types(tls_channel(&daemon.public, &root, None)).await.unwrap_err();
        assert_eq!(on_public.code(), Code::Unimplemented, "no protected service of any generation there");
        daemon.stop().await;
    });
}

#[test]
fn generation_7_lists_certificates_and_takes_roots() {
    with_softhsm("generations::generation_7_lists_certificates_and_takes_roots", async |rig| {
        rig.prepare(|_| {});
        let authority = Authority::new("Unit CA");
        let daemon = rig.start("provisioning").await;
        let protected = plain_channel(&daemon.protected);
        let mut certs =
            v7::iam_public_cert_service_client::IamPublicCertServiceClient::new(protected.clone());
        let mut orders = v7::iam_certificate_service_client::IamCertificateServiceClient::new(protected);
        let start = crate::rig::start(PASSWORD);
        assert_eq!(daemon.provisioning().start_provisioning(start).await.unwrap().get_ref().error, None);

        let roots = |certs: &[String]| v7::UpdateRootCertsRequest {
            node_id: "node-main".into(),
            root_certs: certs.to_vec(),
        };
        let answer = orders.update_root_certs(roots(&[])).await.unwrap().into_inner();
        assert_eq!(answer.error.unwrap().aos_code, 6, "none given");
        assert!(!rig.path("root.pem").exists());
        let answer = orders.update_root_certs(roots(&[authority.pem()])).await.unwrap().into_inner();
        assert_eq!((answer.node_id.as_str(), answer.error), ("node-main", None));

        let all = |cert_type: &str| v6::GetCertRequest { r#type: cert_type.into(), ..Default::default() };
        assert!(certs.get_all_certs(all("unknown")).await.is_err());
        assert!(certs.get_all_certs(all("online")).await.unwrap().get_ref().certs.is_empty());
        let watch = |cert_type: &str| v7::SubscribeCertsChangedRequest { r#type: cert_type.into() };
        assert!(certs.subscribe_certs_changed(watch("unknown")).await.is_err());
        let mut changes = certs.subscribe_certs_changed(watch("online")).await.unwrap().into_inner();
        let newer = daemon.issue(&authority, "online", 2101).await;
        assert_eq!(changes.message().await.unwrap().unwrap().certs, std::slice::from_ref(&newer));
        let older = daemon.issue(&authority, "online", 2100).await;
        assert_eq!(changes.message().await.unwrap().unwrap().certs, [newer.clone(), older.clone()]);
        daemon.issue(&authority, "offline", 2100).await;
        let third = daemon.issue(&authority, "online", 2102).await;
        let listed = changes.message().await.unwrap().unwrap().certs;
        assert_eq!(listed, [third.clone(), newer.clone()], "other types are not told, the oldest is gone");
        assert_eq!(certs.get_all_certs(all("online")).await.unwrap().into_inner().certs, listed);
        let one = v6::GetCertRequest {
            r#type: "online".into(),
            issuer: newer.issuer.clone(),
            serial: String::from_utf8(newer.serial.clone()).unwrap(),
        };
        assert_eq!(certs.get_all_certs(one).await.unwrap().into_inner().certs, [newer]);

        for cert_type in ["iam", "cm"] {
            daemon.issue(&authority, cert_type, 2100).await;
        }
        let finish = v6::FinishProvisioningRequest::default();
        daemon.provisioning().finish_provisioning(finish).await.unwrap();
        let second = Authority::new("Second CA");
        let answer = orders.update_root_certs(roots(&[second.pem()])).await.unwrap().into_inner();
        assert_eq!(answer.error, None);
        let roots = aos_tls::roots_from_pem_file(&rig.path("root.pem")).unwrap();
        assert_eq!(roots.len(), 2, "a provisioned node keeps the root of its certificates");
        daemon.stop().await;
        let daemon = rig.start("normal").await;
        let protected = tls_channel(&daemon.protected, &rig.path("root.pem"), Some(second.client()));
        assert_eq!(version(protected).await, 7, "clients of the new root are let in");
        daemon.stop().await;
    });
}

struct OldNode {
    out: mpsc::Sender<v5::IamOutgoingMessages>,
    requests: Streaming<v6::IamIncomingMessages>,
}

impl OldNode {
    async fn connect(channel: Channel, id: &str) -> Self {
        let (out, messages) = mpsc::channel(8);
        let mut client = v5::iam_public_nodes_service_client::IamPublicNodesServiceClient::new(channel);
        let requests = client.register_node(ReceiverStream::new(messages)).await.unwrap().into_inner();
        let node = Self { out, requests };
        let info = v5::NodeInfo {
            node_id: id.into(),
            status: "unprovisioned".into(),
            os_type: "zephyr".into(),
            cpus: vec![v5::CpuInfo { arch: "aarch64".into(), num_cores: 1, ..Default::default() }],
            ..Default::default()
        };
        node.send(v5::iam_outgoing_messages::IamOutgoingMessage::NodeInfo(info)).await;
        node
    }

    async fn send(&self, message: v5::iam_outgoing_messages::IamOutgoingMessage) {
        let message = v5::IamOutgoingMessages { iam_outgoing_message: Some(message) };
        self.out.send(message).await.unwrap();
    }
}

// A node of an older generation takes the orders of a newer client, and what it cannot know is answered for it.
#[test]
fn an_old_node_serves_new_clients() {
    with_softhsm("generations::an_old_node_serves_new_clients", async |rig| {
        use v5::iam_outgoing_messages::IamOutgoingMessage as Out;
        use v6::iam_incoming_messages::IamIncomingMessage as In;

        rig.prepare(|_| {});
        let daemon = rig.start("provisioning").await;
        let protected = plain_channel(&daemon.protected);
        let mut old = OldNode::connect(plain_channel(&daemon.public), "zephyr-1").await;
        let mut nodes =
            v7::iam_public_nodes_service_client::IamPublicNodesServiceClient::new(protected.clone());
        let info = eventually("old node is listed", async || {
            let request = v6::GetNodeInfoRequest { node_id: "zephyr-1".into() };
            nodes.get_node_info(request).await.ok().map(tonic::Response::into_inner)
        })
        .await;
        assert_eq!((&*info.state, &*info.os_info.unwrap().os), ("unprovisioned", "zephyr"));
        assert_eq!(info.cpus[0].arch_info.as_ref().unwrap().architecture, "aarch64");

        let mut orders =
            v7::iam_certificate_service_client::IamCertificateServiceClient::new(protected.clone());
        let create =
            v6::CreateKeyRequest { node_id: "zephyr-1".into(), r#type: "iam".into(), ..Default::default() };
        let asked = tokio::spawn(async move { (orders.create_key(create).await, orders) });
        let request = old.requests.message().await.unwrap().unwrap().iam_incoming_message.unwrap();
        let In::CreateKeyRequest(request) = request else { panic!("{request:?}") };
        assert_eq!(request.subject, "unit-under-test", "filled in before it is forwarded");
        let made =
            v5::CreateKeyResponse { node_id: "zephyr-1".into(), csr: "CSR".into(), ..Default::default() };
        old.send(Out::CreateKeyResponse(made)).await;
        let (answer, mut orders) = asked.await.unwrap();
        assert_eq!(answer.unwrap().into_inner().csr, "CSR");

        let apply =
            v6::ApplyCertRequest { node_id: "zephyr-1".into(), r#type: "iam".into(), cert: "PEM".into() };
        let asked = tokio::spawn(async move { (orders.apply_cert(apply).await, orders) });
        assert!(matches!(
            old.requests.message().await.unwrap().unwrap().iam_incoming_message,
            Some(In::ApplyCertRequest(_))
        ));
        let bad = v1::ErrorInfo { aos_code: 5, exit_code: 0, message: "no key".into() };
        let applied = v5::ApplyCertResponse {
            r#type: "iam".into(),
            serial: "0a".into(),
            error: Some(bad),
            ..Default::default()
        };
        old.send(Out::ApplyCertResponse(applied)).await;
        let (answer, mut orders) = asked.await.unwrap();
        let answer = answer.unwrap().into_inner();
        assert_eq!(answer.error.unwrap().message, "no key");
        assert_eq!(answer.cert_info.unwrap().serial, b"0a");

        let roots = v7::UpdateRootCertsRequest { node_id: "zephyr-1".into(), root_certs: vec!["PEM".into()] };
        let answer = orders.update_root_certs(roots).await.unwrap().into_inner();
        assert_eq!(answer.error.unwrap().aos_code, NOT_SUPPORTED);
        daemon.stop().await;
    });
}

fn serves_at(rig: &Rig, public: &str, protected: &str) {
    let addresses = json!([public, protected]);
    rig.prepare(|config| {
        config["iamPublicServerUrl"] = addresses[0].clone();
        config["iamProtectedServerUrl"] = addresses[1].clone();
    });
}

#[test]
fn servers_listen_on_unix_sockets_and_ipv6() {
    with_softhsm("generations::servers_listen_on_unix_sockets_and_ipv6", async |rig| {
        let socket = |name: &str| format!("unix:{}", rig.path(name).display());
        let (public, protected) = (socket("public.sock"), socket("protected.sock"));
        serves_at(&rig, &public, &protected);
        let authority = Authority::new("Unit CA");
        rig.provision(&authority).await;
        let daemon = rig.start("normal").await;
        assert_eq!((&daemon.public, &daemon.protected), (&public, &protected));
        let root = rig.path("root.pem");
        assert_eq!(version(tls_channel(&public, &root, None)).await, 7);
        assert_eq!(version(tls_channel(&protected, &root, Some(authority.client()))).await, 7);
        let nobody =
            IamVersionServiceClient::new(tls_channel(&protected, &root, None)).get_api_version(()).await;
        assert!(nobody.is_err(), "mutual TLS holds on a socket too");
        daemon.kill();
        assert!(rig.path("public.sock").exists());
        let daemon = rig.start("normal").await;
        assert_eq!(version(tls_channel(&public, &root, None)).await, 7, "a left-over socket is replaced");
        daemon.stop().await;
        assert!(!rig.path("public.sock").exists());

        serves_at(&rig, "[::1]:0", "[::1]:0");
        let daemon = rig.start("normal").await;
        assert!(daemon.public.starts_with("[::1]:"), "{}", daemon.public);
        assert_eq!(version(tls_channel(&daemon.public, &root, None)).await, 7);
        daemon.stop().await;
    });
}

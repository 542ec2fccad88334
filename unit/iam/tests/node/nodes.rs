//! Secondary nodes as the main node sees them, and permissions of instances.

use aos_unit_api::common::v2;
use aos_unit_api::iamanager::v6;
use aos_unit_api::iamanager::v6::iam_incoming_messages::IamIncomingMessage as Request;
use aos_unit_api::iamanager::v6::iam_nodes_service_client::IamNodesServiceClient;
use aos_unit_api::iamanager::v6::iam_outgoing_messages::IamOutgoingMessage as Message;
use aos_unit_api::iamanager::v6::iam_permissions_service_client::IamPermissionsServiceClient;
use aos_unit_api::iamanager::v6::iam_public_nodes_service_client::IamPublicNodesServiceClient;
use aos_unit_api::iamanager::v6::iam_public_permissions_service_client::IamPublicPermissionsServiceClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use crate::rig::{eventually, plain_channel, with_softhsm};

struct Node {
    out: mpsc::Sender<v6::IamOutgoingMessages>,
    requests: Streaming<v6::IamIncomingMessages>,
}

impl Node {
    async fn connect(channel: Channel, id: &str, state: &str) -> Self {
        let (out, messages) = mpsc::channel(8);
        let mut client = IamPublicNodesServiceClient::new(channel);
        let requests = client.register_node(ReceiverStream::new(messages)).await.unwrap().into_inner();
        let node = Self { out, requests };
        node.describe(id, state).await;
        node
    }

    async fn describe(&self, id: &str, state: &str) {
        let info = v6::NodeInfo { node_id: id.into(), state: state.into(), ..Default::default() };
        self.send(Message::NodeInfo(info)).await;
    }

    async fn send(&self, message: Message) {
        let message = v6::IamOutgoingMessages { iam_outgoing_message: Some(message) };
        self.out.send(message).await.unwrap();
    }

    async fn request(&mut self) -> Request {
        self.requests.message().await.unwrap().unwrap().iam_incoming_message.unwrap()
    }
}

async fn state_of(channel: &Channel, id: &str) -> Option<String> {
    let mut client = IamPublicNodesServiceClient::new(channel.clone());
    let request = v6::GetNodeInfoRequest { node_id: id.into() };
    client.get_node_info(request).await.ok().map(|node| node.into_inner().state)
}

async fn becomes(channel: &Channel, id: &str, state: &str) {
    eventually(&format!("{id} {state}"), async || {
        (state_of(channel, id).await.as_deref() == Some(state)).then_some(())
    })
    .await;
}

// IAM-11, IAM-13
// IAM 26.11, IAM 26.12, IAM 26.16
#[test]
fn secondary_nodes_register_and_take_orders() {
    with_softhsm("nodes::secondary_nodes_register_and_take_orders", async |rig| {
        rig.prepare(|_| {});
        let daemon = rig.start("provisioning").await;
        let (public, protected) = (plain_channel(&daemon.public), plain_channel(&daemon.protected));
        let mut changes = IamPublicNodesServiceClient::new(public.clone())
            .subscribe_node_changed(())
            .await
            .unwrap()
            .into_inner();

        let _wrong = Node::connect(public.clone(), "wrong-side", "provisioned").await;
        let fresh = Node::connect(public.clone(), "fresh", "unprovisioned").await;
        assert_eq!(changes.message().await.unwrap().unwrap().node_id, "fresh");
        let mut node = Node::connect(protected.clone(), "second", "provisioned").await;
        assert_eq!(changes.message().await.unwrap().unwrap().node_id, "second");
        assert_eq!(state_of(&public, "wrong-side").await, None, "never listed");

        let mut nodes = IamNodesServiceClient::new(protected.clone());
        let pause = v6::PauseNodeRequest { node_id: "second".into() };
        let (answer, ()) = tokio::join!(nodes.pause_node(pause.clone()), async {
            assert!(matches!(node.request().await, Request::PauseNodeRequest(_)));
            let error = Some(v2::ErrorInfo { aos_code: 1, exit_code: 0, message: "no".into() });
            node.send(Message::PauseNodeResponse(v6::PauseNodeResponse { error })).await;
        });
        assert_eq!(answer.unwrap().into_inner().error.unwrap().message, "no");
        assert_eq!(state_of(&public, "second").await.unwrap(), "provisioned", "a refusal changes nothing");
        let (answer, ()) = tokio::join!(nodes.pause_node(pause), async {
            assert!(matches!(node.request().await, Request::PauseNodeRequest(_)));
            node.send(Message::PauseNodeResponse(v6::PauseNodeResponse::default())).await;
        });
        assert_eq!(answer.unwrap().into_inner().error, None);
        assert_eq!(state_of(&public, "second").await.unwrap(), "paused");

        // A new stream takes over; the end of the old one must not count as the node's.
        let mut again = Node::connect(protected.clone(), "second", "provisioned").await;
        becomes(&public, "second", "provisioned").await;
        drop(node);
        let mut certificates =
            v6::iam_certificate_service_client::IamCertificateServiceClient::new(protected.clone());
        let request =
            v6::CreateKeyRequest { node_id: "second".into(), r#type: "sm".into(), ..Default::default() };
        let (answer, ()) = tokio::join!(certificates.create_key(request), async {
            let Request::CreateKeyRequest(request) = again.request().await else { panic!("wrong request") };
            assert_eq!(request.subject, "unit-under-test", "the main node knows the subject");
            let csr = v6::CreateKeyResponse { csr: "csr".into(), ..Default::default() };
            again.send(Message::CreateKeyResponse(csr)).await;
        });
        assert_eq!(answer.unwrap().into_inner().csr, "csr");

        let bad = Node::connect(protected.clone(), "bad", "provisoned").await;
        let mut requests = bad.requests;
        assert!(requests.message().await.is_err(), "an unknown state ends the stream");
        drop(fresh);
        daemon.kill();

        let daemon = rig.start("provisioning").await;
        let public = plain_channel(&daemon.public);
        assert_eq!(state_of(&public, "second").await.as_deref(), Some("provisioned"), "stored");
        assert_eq!(state_of(&public, "fresh").await, None, "an unprovisioned node is not stored");
        daemon.stop().await;
    });
}

// IAM 26.15
#[test]
fn instances_keep_their_secret_over_a_kill() {
    with_softhsm("nodes::instances_keep_their_secret_over_a_kill", async |rig| {
        rig.prepare(|_| {});
        let daemon = rig.start("provisioning").await;
        let instance = v2::InstanceIdent {
            item_id: "item".into(),
            subject_id: "subject".into(),
            instance: 1,
            ..Default::default()
        };
        let functions = v6::Permissions { permissions: [("signal.*".to_owned(), "rw".to_owned())].into() };
        let register = v6::RegisterInstanceRequest {
            instance: Some(instance.clone()),
            permissions: [("vis".to_owned(), functions.clone())].into(),
        };
        let mut client = IamPermissionsServiceClient::new(plain_channel(&daemon.protected));
        let secret = client.register_instance(register.clone()).await.unwrap().into_inner().secret;
        daemon.kill();

        let daemon = rig.start("provisioning").await;
        let mut client = IamPermissionsServiceClient::new(plain_channel(&daemon.protected));
        assert_eq!(client.register_instance(register).await.unwrap().into_inner().secret, secret);
        let mut public = IamPublicPermissionsServiceClient::new(plain_channel(&daemon.public));
        let ask = |secret: &str, server: &str| v6::PermissionsRequest {
            secret: secret.into(),
            functional_server_id: server.into(),
        };
        let answer = public.get_permissions(ask(&secret, "vis")).await.unwrap().into_inner();
        assert_eq!((answer.instance, answer.permissions), (Some(instance.clone()), Some(functions)));
        for wrong in [ask("guess", "vis"), ask(&secret, "other")] {
            assert_eq!(public.get_permissions(wrong).await.unwrap_err().code(), Code::Internal);
        }
        let request = v6::UnregisterInstanceRequest { instance: Some(instance) };
        client.unregister_instance(request.clone()).await.unwrap();
        assert_eq!(client.unregister_instance(request).await.unwrap_err().code(), Code::Internal);
        daemon.stop().await;
    });
}

// A node that is not the main one has neither identity nor orders.
// IAM 26.12
#[test]
fn an_order_for_an_unknown_node_fails_after_three_tries() {
    with_softhsm("nodes::an_order_for_an_unknown_node_fails_after_three_tries", async |rig| {
        rig.prepare(|_| {});
        let daemon = rig.start("provisioning").await;
        let begun = std::time::Instant::now();
        let mut nodes = IamNodesServiceClient::new(plain_channel(&daemon.protected));
        let refused = nodes.pause_node(v6::PauseNodeRequest { node_id: "nobody".into() }).await.unwrap_err();
        assert_eq!(refused.code(), Code::Internal);
        assert!(refused.message().contains("'nobody' is not connected"), "{refused}");
        let seconds = begun.elapsed().as_secs();
        assert!((20..28).contains(&seconds), "two pauses of 10 s and none after the last try: {seconds} s");
        daemon.stop().await;
    });
}

#[test]
fn services_of_the_main_node_are_absent_elsewhere() {
    with_softhsm("nodes::services_of_the_main_node_are_absent_elsewhere", async |rig| {
        rig.prepare(|config| {
            config["nodeInfo"]["attrs"] = serde_json::json!({});
            config["identifier"] = serde_json::json!(null);
            config["enablePermissionsHandler"] = serde_json::json!(false);
        });
        let daemon = rig.start("provisioning").await;
        let protected = plain_channel(&daemon.protected);
        let mut ids = IamPublicNodesServiceClient::new(protected.clone());
        assert_eq!(ids.get_all_node_i_ds(()).await.unwrap_err().code(), Code::Unimplemented);
        let types = daemon.provisioning().get_cert_types(v6::GetCertTypesRequest::default()).await;
        assert_eq!(types.unwrap_err().code(), Code::Unimplemented);
        let permissions = v6::PermissionsRequest::default();
        let asked = IamPublicPermissionsServiceClient::new(protected).get_permissions(permissions).await;
        assert_eq!(asked.unwrap_err().code(), Code::Unimplemented);
        daemon.stop().await;
    });
}

//! Who may call which protected service.

use std::path::Path;
use std::sync::Arc;

use aos_unit_api::common::v2;
use aos_unit_api::iamanager::{v5, v6, v7};
use rustls::sign::CertifiedKey;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::authority::Authority;
use crate::rig::{Daemon, Rig, tls_channel, with_softhsm};

type Key = Option<Arc<CertifiedKey>>;

async fn identity(daemon: &Daemon, root: &Path, cert_type: &str) -> Key {
    let public = tls_channel(&daemon.public, root, None);
    let request = v6::GetCertRequest { r#type: cert_type.into(), ..Default::default() };
    let mut client = v6::iam_public_cert_service_client::IamPublicCertServiceClient::new(public);
    let cert = client.get_cert(request).await.unwrap().into_inner();
    Some(aos_token::load_identity(&cert.cert_url, &cert.key_url).unwrap().certified_key())
}

async fn cert_types(channel: Channel) -> Result<(), Status> {
    v6::iam_provisioning_service_client::IamProvisioningServiceClient::new(channel)
        .get_cert_types(v6::GetCertTypesRequest::default())
        .await
        .map(drop)
}

async fn old_cert_types(channel: Channel) -> Result<(), Status> {
    v5::iam_provisioning_service_client::IamProvisioningServiceClient::new(channel)
        .get_cert_types(v6::GetCertTypesRequest::default())
        .await
        .map(drop)
}

async fn instance(channel: Channel) -> Result<(), Status> {
    let ident = v2::InstanceIdent { item_id: "i".into(), subject_id: "s".into(), ..Default::default() };
    v7::iam_permissions_service_client::IamPermissionsServiceClient::new(channel)
        .register_instance(v6::RegisterInstanceRequest { instance: Some(ident), ..Default::default() })
        .await
        .map(drop)
}

async fn register(channel: Channel) -> Result<(), Status> {
    let (_out, messages) = mpsc::channel(1);
    v7::iam_public_nodes_service_client::IamPublicNodesServiceClient::new(channel)
        .register_node(ReceiverStream::new(messages))
        .await
        .map(drop)
}

fn refused(result: Result<(), Status>) -> String {
    let status = result.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    status.message().to_owned()
}

fn with_sm(rig: &Rig, more: impl FnOnce(&mut serde_json::Value)) {
    rig.prepare(|config| {
        let modules = config["certModules"].as_array_mut().unwrap();
        let mut sm = modules[3].clone();
        sm["id"] = json!("sm");
        modules.push(sm);
        more(config);
    });
}

#[test]
fn protected_services_are_for_their_components() {
    with_softhsm("access::protected_services_are_for_their_components", async |rig| {
        with_sm(&rig, |_| {});
        let authority = Authority::new("Unit CA");
        rig.provision(&authority).await;
        let root = rig.path("root.pem");
        let daemon = rig.start("normal").await;
        let channel = |daemon: &Daemon, key: Key| tls_channel(&daemon.protected, &root, key);
        let foreign = || Some(authority.client());
        cert_types(channel(&daemon, foreign())).await.unwrap();
        daemon.stop().await;

        with_sm(&rig, |config| config["authorizeCallers"] = json!(true));
        let daemon = rig.start("normal").await;
        let (cm, sm) = (identity(&daemon, &root, "cm").await, identity(&daemon, &root, "sm").await);
        cert_types(channel(&daemon, cm.clone())).await.unwrap();
        old_cert_types(channel(&daemon, cm.clone())).await.unwrap();
        instance(channel(&daemon, sm.clone())).await.unwrap();
        register(channel(&daemon, sm.clone())).await.unwrap();
        let reason = refused(cert_types(channel(&daemon, sm.clone())).await);
        assert!(reason.contains("IAMProvisioningService") && reason.contains("type sm"), "{reason}");
        refused(old_cert_types(channel(&daemon, sm)).await);
        refused(instance(channel(&daemon, cm)).await);
        let reason = refused(cert_types(channel(&daemon, foreign())).await);
        assert!(reason.contains("does not belong to this Unit"), "{reason}");
        refused(register(channel(&daemon, foreign())).await);
        let other_node = || Some(authority.client_of("unit-under-test"));
        register(channel(&daemon, other_node())).await.unwrap();
        let reason = refused(cert_types(channel(&daemon, other_node())).await);
        assert!(reason.contains("another node"), "{reason}");
        let cert = v6::GetCertRequest { r#type: "cm".into(), ..Default::default() };
        v6::iam_public_cert_service_client::IamPublicCertServiceClient::new(channel(&daemon, foreign()))
            .get_cert(cert)
            .await
            .expect("public services are public on the protected server too");
        daemon.stop().await;

        with_sm(&rig, |config| {
            config["authorizeCallers"] = json!(true);
            config["callers"] = json!({"IAMProvisioningService": ["sm", "unit"], "RegisterNode": ["*"]});
        });
        let daemon = rig.start("normal").await;
        let (cm, sm) = (identity(&daemon, &root, "cm").await, identity(&daemon, &root, "sm").await);
        for allowed in [cm, sm, other_node()] {
            cert_types(channel(&daemon, allowed)).await.unwrap();
        }
        refused(cert_types(channel(&daemon, foreign())).await);
        register(channel(&daemon, foreign())).await.unwrap();
        daemon.stop().await;

        with_sm(&rig, |config| config["callers"] = json!({"NoService": []}));
        let error = rig.start_refused("normal").await;
        assert!(error.contains("callers.NoService"), "{error}");
    });
}

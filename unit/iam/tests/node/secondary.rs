//! Two nodes: a secondary one is provisioned through the main one and stays linked to it.

use aos_unit_api::iamanager::v6::iam_certificate_service_client::IamCertificateServiceClient;
use aos_unit_api::iamanager::v6::iam_nodes_service_client::IamNodesServiceClient;
use aos_unit_api::iamanager::v6::iam_provisioning_service_client::IamProvisioningServiceClient;
use aos_unit_api::iamanager::v6::iam_public_nodes_service_client::IamPublicNodesServiceClient;
use aos_unit_api::iamanager::{v6, v7};
use serde_json::json;
use tonic::transport::Channel;

use crate::authority::Authority;
use crate::rig::{Daemon, PASSWORD, Rig, eventually, plain_channel, tls_channel, with_softhsm};

pub const ID: &str = "node-second";

fn prepare(rig: &Rig, main: &Daemon) {
    prepare_for(rig, &main.public, &main.protected, |_| {});
}

/// A secondary node whose main node listens there.
pub fn prepare_for(rig: &Rig, public: &str, protected: &str, change: impl FnOnce(&mut serde_json::Value)) {
    rig.prepare(|config| {
        config["identifier"] = json!(null);
        config["nodeInfo"]["attrs"] = json!({"AosComponents": "iam,sm"});
        config["nodeReconnectInterval"] = json!("50ms");
        config["mainIAMPublicServerURL"] = json!(public);
        config["mainIAMProtectedServerURL"] = json!(protected);
        let mut modules = config["certModules"].as_array().unwrap()[2..4].to_vec();
        modules[1]["id"] = json!("sm");
        for module in &mut modules {
            module["params"]["tokenLabel"] = json!("second");
        }
        config["certModules"] = json!(modules);
        change(config);
    });
    std::fs::write(rig.path("machine-id"), ID).unwrap();
}

/// The second node as the main one knows it.
pub async fn node_info(channel: &Channel) -> Result<v6::NodeInfo, tonic::Status> {
    let mut client = IamPublicNodesServiceClient::new(channel.clone());
    Ok(client.get_node_info(v6::GetNodeInfoRequest { node_id: ID.into() }).await?.into_inner())
}

pub async fn becomes(channel: &Channel, state: &str) {
    eventually(&format!("{ID} {state}"), async || {
        let node = node_info(channel).await.ok()?;
        (node.state == state).then_some(())
    })
    .await;
}

/// Provisions the second node through the main one.
async fn provision(main: &Channel, authority: &Authority) {
    provision_with(main, &authority.pem(), |csr| authority.sign(csr, 2100)).await;
}

/// As [`provision`], with certificates that `sign` makes.
pub async fn provision_with(main: &Channel, roots: &str, mut sign: impl FnMut(&str) -> String) {
    let mut client = IamProvisioningServiceClient::new(main.clone());
    let start = v6::StartProvisioningRequest { node_id: ID.into(), password: PASSWORD.into() };
    assert_eq!(client.start_provisioning(start).await.unwrap().into_inner().error, None);
    let roots = v7::UpdateRootCertsRequest { node_id: ID.into(), root_certs: vec![roots.to_owned()] };
    let updated = v7::iam_certificate_service_client::IamCertificateServiceClient::new(main.clone())
        .update_root_certs(roots)
        .await
        .unwrap()
        .into_inner();
    assert_eq!((updated.error, updated.node_id.as_str()), (None, ID));
    let types = client.get_cert_types(v6::GetCertTypesRequest { node_id: ID.into() }).await.unwrap();
    assert_eq!(types.get_ref().types, ["iam", "sm"]);
    for cert_type in types.into_inner().types {
        let request =
            v6::CreateKeyRequest { node_id: ID.into(), r#type: cert_type.clone(), ..Default::default() };
        let mut certificates = IamCertificateServiceClient::new(main.clone());
        let made = certificates.create_key(request).await.unwrap().into_inner();
        assert_eq!((made.error, made.node_id.as_str()), (None, ID));
        let cert = sign(&made.csr);
        let request = v6::ApplyCertRequest { node_id: ID.into(), r#type: cert_type, cert };
        let applied = certificates.apply_cert(request).await.unwrap().into_inner();
        assert_eq!(applied.error, None);
    }
    let finish = v6::FinishProvisioningRequest { node_id: ID.into(), ..Default::default() };
    assert_eq!(client.finish_provisioning(finish).await.unwrap().into_inner().error, None);
}

// IAM-01, IAM-05, IAM-14
#[test]
fn a_secondary_node_joins_and_takes_orders() {
    with_softhsm("secondary::a_secondary_node_joins_and_takes_orders", async |rig| {
        rig.prepare(|_| {});
        let authority = Authority::new("Unit CA");
        let second = rig.beside("second");
        std::fs::write(second.path("root.pem"), authority.pem()).unwrap();

        let main = rig.start("provisioning").await;
        prepare(&second, &main);
        let node = second.start("provisioning").await;
        let public = plain_channel(&main.public);
        becomes(&public, "unprovisioned").await;
        provision(&plain_channel(&main.protected), &authority).await;
        becomes(&public, "provisioned").await;
        node.stop().await;
        main.stop().await;

        rig.provision(&authority).await;
        let main = rig.start("normal").await;
        prepare(&second, &main);
        let protected = tls_channel(&main.protected, &rig.path("root.pem"), Some(authority.client()));
        let mut public = IamPublicNodesServiceClient::new(protected.clone());
        let mut changes = public.subscribe_node_changed(()).await.unwrap().into_inner();
        let node = second.start("normal").await;
        assert_eq!(changes.message().await.unwrap().unwrap().node_id, ID, "linked again");
        let mut nodes = IamNodesServiceClient::new(protected.clone());
        let pause = v6::PauseNodeRequest { node_id: ID.into() };
        assert_eq!(nodes.pause_node(pause).await.unwrap().into_inner().error, None);
        becomes(&protected, "paused").await;
        assert_eq!(std::fs::read_to_string(second.path("state")).unwrap(), "paused");
        let error = nodes.pause_node(v6::PauseNodeRequest { node_id: ID.into() }).await.unwrap();
        assert_eq!(error.into_inner().error.unwrap().aos_code, 9, "the node's own refusal comes through");
        let resume = v6::ResumeNodeRequest { node_id: ID.into() };
        assert_eq!(nodes.resume_node(resume).await.unwrap().into_inner().error, None);
        becomes(&protected, "provisioned").await;
        // Who is there, and until when it can prove it.
        let shown = aos_local_status::read(&rig.path("run"), "iam").unwrap()["nodes"].clone();
        let of_second = shown.as_array().unwrap().iter().find(|one| one["id"] == ID).unwrap();
        assert_eq!(of_second["connected"], true, "{shown}");
        assert_eq!(of_second["certificate"]["notAfter"], "2100-01-01T00:00:00Z", "{shown}");
        node.stop().await;
        eventually("a node that is gone", async || {
            let shown = aos_local_status::read(&rig.path("run"), "iam").unwrap()["nodes"].clone();
            let of_second = shown.as_array().unwrap().iter().find(|one| one["id"] == ID).unwrap().clone();
            (of_second["connected"] == false).then_some(of_second)
        })
        .await;
        main.stop().await;
    });
}

// A fresh node joins a main node that is provisioned already: plain text fails, TLS does it.
// IAM 26.13
#[test]
fn a_fresh_node_joins_a_provisioned_main_node() {
    with_softhsm("secondary::a_fresh_node_joins_a_provisioned_main_node", async |rig| {
        rig.prepare(|_| {});
        let authority = Authority::new("Unit CA");
        rig.provision(&authority).await;
        let main = rig.start("normal").await;
        let second = rig.beside("second");
        std::fs::write(second.path("root.pem"), authority.pem()).unwrap();
        prepare(&second, &main);
        let node = second.start("provisioning").await;
        let protected = tls_channel(&main.protected, &rig.path("root.pem"), Some(authority.client()));
        becomes(&protected, "unprovisioned").await;
        provision(&protected, &authority).await;
        node.stop().await;
        let node = second.start("normal").await;
        becomes(&protected, "provisioned").await;
        node.kill();
        main.stop().await;
    });
}

//! What is where: services by server, kind of node and generation, and certificate types.

use aos_unit_api::iamanager::v6;
use aos_unit_api::iamanager::v6::iam_provisioning_service_client::IamProvisioningServiceClient;
use aos_unit_api::iamanager::v6::iam_public_cert_service_client::IamPublicCertServiceClient;
use serde_json::json;
use tonic::transport::Channel;
use tonic::{Code, Request};
use tonic_prost::ProstCodec;

use crate::authority::Authority;
use crate::rig::{Rig, plain_channel, tls_channel, with_softhsm};

/// One call of each service: generations, service and method, on the public server too, on main nodes only, where
/// permissions are enabled only.
const CALLS: &[(&[&str], &str, bool, bool, bool)] = &[
    (&[""], "IAMVersionService/GetAPIVersion", true, false, false),
    (&["v5."], "IAMPublicService/GetNodeInfo", true, false, false),
    (&["v6.", "v7."], "IAMPublicCurrentNodeService/GetCurrentNodeInfo", true, false, false),
    (&["v6.", "v7."], "IAMPublicCertService/GetCert", true, false, false),
    (&["v7."], "IAMPublicCertService/GetAllCerts", true, false, false),
    (&["v5.", "v6.", "v7."], "IAMPublicPermissionsService/GetPermissions", true, false, true),
    (&["v5.", "v6.", "v7."], "IAMPublicIdentityService/GetSystemInfo", true, true, false),
    (&["v5.", "v6.", "v7."], "IAMPublicNodesService/GetAllNodeIDs", true, true, false),
    (&["v5.", "v6.", "v7."], "IAMPermissionsService/UnregisterInstance", false, false, true),
    (&["v5.", "v6.", "v7."], "IAMCertificateService/CreateKey", false, true, false),
    (&["v7."], "IAMCertificateService/UpdateRootCerts", false, true, false),
    (&["v5.", "v6.", "v7."], "IAMProvisioningService/GetCertTypes", false, true, false),
    (&["v5.", "v6.", "v7."], "IAMNodesService/ResumeNode", false, true, false),
];

/// Whether the method is there, whatever it answers to an empty request.
async fn is_there(channel: &Channel, path: &str) -> bool {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let path = path.parse().unwrap();
    let answer = client.unary::<(), (), _>(Request::new(()), path, ProstCodec::default()).await;
    answer.err().is_none_or(|status| status.code() != Code::Unimplemented)
}

// IAM-04
#[test]
fn each_service_is_where_it_belongs() {
    with_softhsm("offered::each_service_is_where_it_belongs", async |rig| {
        for (main, permissions) in [(true, true), (true, false), (false, true), (false, false)] {
            rig.prepare(|config| {
                config["enablePermissionsHandler"] = json!(permissions);
                if !main {
                    config["identifier"] = json!(null);
                    config["nodeInfo"]["attrs"] = json!({"AosComponents": "iam,sm"});
                }
            });
            let daemon = rig.start("provisioning").await;
            let (public, protected) = (plain_channel(&daemon.public), plain_channel(&daemon.protected));
            for (generations, call, is_public, of_main, of_permissions) in CALLS {
                for generation in *generations {
                    let path = format!("/iamanager.{generation}{call}");
                    let here = (main || !of_main) && (permissions || !of_permissions);
                    let what = format!("{path}, main node {main}, permissions {permissions}");
                    assert_eq!(is_there(&protected, &path).await, here, "protected: {what}");
                    assert_eq!(is_there(&public, &path).await, here && *is_public, "public: {what}");
                }
            }
            for stranger in ["/iamanager.v4.IAMPublicService/GetNodeInfo", "/iamanager.v6.Nothing/Nothing"] {
                assert!(!is_there(&protected, stranger).await, "{stranger}");
            }
            daemon.stop().await;
        }
    });
}

/// The types that the cloud may name, and the one of the transport between nodes, on two nodes: one has at most 8.
const TYPES: [&[&str]; 2] = [
    &["offline", "online", "um", "sm", "cm", "iam", "mp"],
    &["iam", "host-device", "remote-device", "azure-iot"],
];

// Whatever a configuration names is served: also to the proxy between nodes, whose connections are mutual TLS as well.
// IAM-19, IAM-22
#[test]
fn every_type_of_certificate_is_served() {
    with_softhsm("offered::every_type_of_certificate_is_served", async |rig| {
        for (node, types) in ["one", "other"].into_iter().zip(TYPES) {
            served(&rig.beside(node), types).await;
        }
    });
}

async fn served(rig: &Rig, types: &[&str]) {
    rig.prepare(|config| {
        let sample = config["certModules"][2].clone();
        let module = |id: &&str| {
            let mut module = sample.clone();
            module["id"] = json!(id);
            module
        };
        config["certModules"] = types.iter().map(module).collect();
    });
    let authority = Authority::new("Unit CA");
    rig.provision(&authority).await;
    let daemon = rig.start("normal").await;
    let root = rig.path("root.pem");
    let public = tls_channel(&daemon.public, &root, None);
    for cert_type in types {
        let mut client = IamPublicCertServiceClient::new(public.clone());
        let request = v6::GetCertRequest { r#type: (*cert_type).into(), ..Default::default() };
        let found = client.get_cert(request).await.unwrap().into_inner();
        assert_eq!(found.r#type, *cert_type);
        let identity = aos_token::load_identity(&found.cert_url, &found.key_url).unwrap();
        let protected = tls_channel(&daemon.protected, &root, Some(identity.certified_key()));
        let mut orders = IamProvisioningServiceClient::new(protected);
        let told = orders.get_cert_types(v6::GetCertTypesRequest::default()).await.unwrap();
        assert_eq!(told.get_ref().types, types);
    }
    // A type that no module is for is told by its name and changes nothing.
    let mut client = IamPublicCertServiceClient::new(public);
    let request = v6::GetCertRequest { r#type: "of-the-future".into(), ..Default::default() };
    let refused = client.get_cert(request).await.unwrap_err();
    assert!(refused.message().contains("of-the-future"), "{refused}");
    daemon.stop().await;
}

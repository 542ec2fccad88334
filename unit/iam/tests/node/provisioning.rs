//! First provisioning of a main node by a scripted client, and what the node is afterwards.

use std::os::unix::fs::PermissionsExt;

use crate::authority::Authority;
use crate::rig::{PASSWORD, Rig, eventually, plain_channel, start, tls_channel, with_softhsm};
use aos_unit_api::iamanager::v6;
use aos_unit_api::iamanager::v6::iam_provisioning_service_client::IamProvisioningServiceClient;
use aos_unit_api::iamanager::v6::iam_public_cert_service_client::IamPublicCertServiceClient;
use aos_unit_api::iamanager::v6::iam_public_current_node_service_client::IamPublicCurrentNodeServiceClient;
use aos_unit_api::iamanager::v6::iam_public_identity_service_client::IamPublicIdentityServiceClient;
use aos_unit_api::iamanager::v6::iam_public_nodes_service_client::IamPublicNodesServiceClient;
use aos_unit_api::iamanager::version::iam_version_service_client::IamVersionServiceClient;
use tonic::Code;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

const WRONG_STATE: i32 = 9;

async fn node_state(channel: tonic::transport::Channel) -> String {
    let mut client = IamPublicCurrentNodeServiceClient::new(channel);
    client.get_current_node_info(()).await.unwrap().into_inner().state
}

/// Subject, DNS names, extended key usages and signature algorithm of a request.
fn read_csr(pem: &str) -> (String, Vec<String>, Vec<String>, String) {
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
    assert_eq!(block.label, "CERTIFICATE REQUEST");
    let (_, request) = X509CertificationRequest::from_der(&block.contents).unwrap();
    let (mut names, mut usages) = (Vec::new(), Vec::new());
    for extension in request.requested_extensions().into_iter().flatten() {
        match extension {
            ParsedExtension::SubjectAlternativeName(found) => {
                for name in &found.general_names {
                    let GeneralName::DNSName(name) = name else { panic!("{name}") };
                    names.push((*name).to_owned());
                }
            }
            ParsedExtension::ExtendedKeyUsage(found) => {
                // The parser sorts the usages; their order is looked at in the bytes.
                usages.extend(found.server_auth.then(|| "serverAuth".to_owned()));
                usages.extend(found.client_auth.then(|| "clientAuth".to_owned()));
                let oid = |last: u8| [0x2b, 6, 1, 5, 5, 7, 3, last];
                let place = |last| block.contents.windows(8).position(|bytes| bytes == oid(last));
                if place(2) < place(1) {
                    usages.reverse();
                }
            }
            other => panic!("unexpected {other:?}"),
        }
    }
    let info = &request.certification_request_info;
    assert_eq!(info.subject.iter_rdn().count(), 1);
    let algorithm = request.signature_algorithm.algorithm.to_id_string();
    (info.subject.to_string(), names, usages, algorithm)
}

async fn provision_with_every_check(rig: &Rig, authority: &Authority) {
    std::fs::write(rig.path("root.pem"), authority.pem()).unwrap();
    let daemon = rig.start("provisioning").await;
    let public = || plain_channel(&daemon.public);

    let version = IamVersionServiceClient::new(public()).get_api_version(()).await.unwrap().into_inner();
    assert_eq!(version.version, 7);
    let system = IamPublicIdentityServiceClient::new(public()).get_system_info(()).await.unwrap();
    assert_eq!(system.get_ref().system_id, "unit-under-test");
    assert_eq!((&*system.get_ref().unit_model, &*system.get_ref().version), ("model", "1.0"));
    let subjects = IamPublicIdentityServiceClient::new(public()).get_subjects(()).await.unwrap();
    assert_eq!(subjects.get_ref().subjects, ["subject-1", "subject-2"]);
    let ids = IamPublicNodesServiceClient::new(public()).get_all_node_i_ds(()).await.unwrap();
    assert_eq!(ids.get_ref().ids, ["node-main"]);
    let mut nodes = IamPublicNodesServiceClient::new(public());
    let request = v6::GetNodeInfoRequest { node_id: "node-main".into() };
    let node = nodes.get_node_info(request).await.unwrap().into_inner();
    assert_eq!((&*node.state, &*node.title, &*node.node_type), ("unprovisioned", "gateway", "main-type"));
    assert!(node.attrs.iter().any(|attr| attr.name == "MainNode" && attr.value.is_empty()));
    let mut changes = nodes.subscribe_node_changed(()).await.unwrap().into_inner();

    let mut client = daemon.provisioning();
    let refused = daemon.certs().get_cert(get("iam")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Internal);
    let answer = client.start_provisioning(start(PASSWORD)).await.unwrap().into_inner();
    assert_eq!(answer.error, None);
    let pin = rig.path("pins/user");
    assert_eq!(std::fs::metadata(&pin).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_to_string(&pin).unwrap().len(), 30);

    let request = v6::GetCertTypesRequest { node_id: "node-main".into() };
    let types = client.get_cert_types(request).await.unwrap().into_inner().types;
    assert_eq!(types, ["online", "offline", "iam", "cm"], "self-signed types are not told");
    for cert_type in &types {
        let csr = daemon.create_key(cert_type).await;
        let (subject, names, usages, algorithm) = read_csr(&csr);
        assert_eq!(subject, "CN=unit-under-test");
        match cert_type.as_str() {
            "iam" => {
                assert_eq!(names, ["gateway", "localhost"]);
                assert_eq!(usages, ["serverAuth", "clientAuth"]);
            }
            "cm" => assert_eq!(usages, ["clientAuth", "serverAuth"]),
            _ => assert_eq!((names.len(), usages.len()), (0, 0)),
        }
        let ecdsa_sha384 = "1.2.840.10045.4.3.3";
        let rsa_sha256 = "1.2.840.113549.1.1.11";
        assert_eq!(algorithm, if cert_type == "offline" { rsa_sha256 } else { ecdsa_sha384 });

        let chain = authority.sign(&csr, 2100);
        let answer = daemon.apply(cert_type, &chain).await;
        assert_eq!(answer.error, None);
        let info = answer.cert_info.unwrap();
        let applied_again = daemon.apply(cert_type, &chain).await;
        assert_eq!(applied_again.cert_info.as_ref(), Some(&info), "a repeated order is confirmed");
        let (_, block) = x509_parser::pem::parse_x509_pem(chain.as_bytes()).unwrap();
        let (_, leaf) = X509Certificate::from_der(&block.contents).unwrap();
        assert_eq!(info.serial, hex::encode(leaf.serial.to_bytes_be()).into_bytes());
        assert!(info.cert_url.starts_with("pkcs11:token=aos"), "{}", info.cert_url);
        let exact = v6::GetCertRequest {
            r#type: cert_type.clone(),
            issuer: leaf.issuer().as_raw().to_vec(),
            serial: String::from_utf8(info.serial.clone()).unwrap(),
        };
        let found = daemon.certs().get_cert(exact).await.unwrap().into_inner();
        assert_eq!(found, daemon.certs().get_cert(get(cert_type)).await.unwrap().into_inner());
        assert_eq!(found.cert_url, found.key_url);
        let identity = aos_token::load_identity(&found.cert_url, &found.key_url).unwrap();
        assert_eq!(identity.leaf().unwrap().as_ref(), block.contents);
    }
    let disk = daemon.certs().get_cert(get("diskencryption")).await.unwrap().into_inner();
    let identity = aos_token::load_identity(&disk.cert_url, &disk.key_url).unwrap();
    let (_, disk) = X509Certificate::from_der(identity.leaf().unwrap()).unwrap();
    assert_eq!(disk.subject().to_string(), "CN=Aos Core");
    assert_eq!(
        disk.validity().not_after.to_datetime().year() - disk.validity().not_before.to_datetime().year(),
        100
    );

    let finish = v6::FinishProvisioningRequest::default;
    assert_eq!(client.finish_provisioning(finish()).await.unwrap().into_inner().error, None);
    assert_eq!(std::fs::read_to_string(rig.path("state")).unwrap(), "provisioned");
    assert_eq!(node_state(public()).await, "provisioned", "descriptions are live");
    assert_eq!(changes.message().await.unwrap().unwrap().state, "provisioned");
    assert_eq!(client.finish_provisioning(finish()).await.unwrap().into_inner().error, None);
    let error = client.start_provisioning(start(PASSWORD)).await.unwrap().into_inner().error;
    assert_eq!(error.unwrap().aos_code, WRONG_STATE);
    daemon.stop().await;
    assert!(changes.message().await.map_or(true, |end| end.is_none()));
}

fn get(cert_type: &str) -> v6::GetCertRequest {
    v6::GetCertRequest { r#type: cert_type.into(), ..Default::default() }
}

// IAM-10, IAM-12, IAM-16, IAM-18, IAM-20, IAM-23, IAM-24, DIS-18, DIS-19
// IAM 26.5, IAM 26.6, IAM 26.14
#[test]
fn a_main_node_is_provisioned_and_then_serves_over_tls() {
    with_softhsm("provisioning::a_main_node_is_provisioned_and_then_serves_over_tls", async |rig| {
        rig.prepare(|_| {});
        let authority = Authority::new("Unit CA");
        provision_with_every_check(&rig, &authority).await;

        let daemon = rig.start("normal").await;
        let root = rig.path("root.pem");
        let public = tls_channel(&daemon.public, &root, None);
        assert_eq!(node_state(public.clone()).await, "provisioned");
        let mut certs = IamPublicCertServiceClient::new(public);
        let cm = certs.get_cert(get("cm")).await.unwrap().into_inner();
        let plain = IamPublicCertServiceClient::new(plain_channel(&daemon.public)).get_cert(get("cm")).await;
        assert!(plain.is_err(), "no plain text in normal mode");

        let identity = aos_token::load_identity(&cm.cert_url, &cm.key_url).unwrap();
        let types = async |identity| {
            IamProvisioningServiceClient::new(tls_channel(&daemon.protected, &root, identity))
                .get_cert_types(v6::GetCertTypesRequest::default())
                .await
        };
        assert_eq!(types(Some(identity.certified_key())).await.unwrap().get_ref().types.len(), 4);
        assert!(types(None).await.is_err(), "a client without certificate is refused");
        let foreign = Authority::new("Another CA").client();
        assert!(types(Some(foreign)).await.is_err(), "a certificate of another CA is refused");
        let on_public = IamProvisioningServiceClient::new(tls_channel(&daemon.public, &root, None))
            .get_cert_types(v6::GetCertTypesRequest::default())
            .await
            .unwrap_err();
        assert_eq!(on_public.code(), Code::Unimplemented);

        let run_dir = rig.path("run");
        let status = tokio::task::spawn_blocking(move || aos_local_status::read(&run_dir, "iam").unwrap())
            .await
            .unwrap();
        assert_eq!(status["nodeId"], "node-main");
        assert_eq!(status["state"], "provisioned");
        assert_eq!(status["systemId"], "unit-under-test");
        let shown = status["certificates"].as_array().unwrap();
        assert_eq!(shown.len(), 5);
        assert!(!status.to_string().contains("pin-"), "{status}");
        let online = shown.iter().find(|cert| cert["type"] == "online").unwrap();
        assert_eq!(online["notAfter"], "2100-01-01T00:00:00Z");
        assert_eq!(online["issuer"], "CN=Unit CA");
        daemon.stop().await;
    });
}

// A start of the program never erases what is provisioned.
#[test]
fn provisioning_mode_on_a_provisioned_node_erases_nothing() {
    with_softhsm("provisioning::provisioning_mode_on_a_provisioned_node_erases_nothing", async |rig| {
        rig.prepare(|_| {});
        rig.provision(&Authority::new("Unit CA")).await;
        let daemon = rig.start("provisioning").await;
        let before = daemon.certs().get_cert(get("online")).await.unwrap().into_inner();
        let error =
            daemon.provisioning().start_provisioning(start(PASSWORD)).await.unwrap().into_inner().error;
        assert_eq!(error.unwrap().aos_code, WRONG_STATE);
        daemon.stop().await;
        let daemon = rig.start("provisioning").await;
        assert_eq!(daemon.certs().get_cert(get("online")).await.unwrap().into_inner(), before);
        aos_token::load_identity(&before.cert_url, &before.key_url).unwrap();
        daemon.stop().await;
    });
}

// A client that repeats its order after our death goes on where it was.
#[test]
fn a_key_waits_for_its_certificate_over_a_kill() {
    with_softhsm("provisioning::a_key_waits_for_its_certificate_over_a_kill", async |rig| {
        rig.prepare(|_| {});
        let authority = Authority::new("Unit CA");
        let daemon = rig.start("provisioning").await;
        assert_eq!(
            daemon.provisioning().start_provisioning(start(PASSWORD)).await.unwrap().into_inner().error,
            None
        );
        let disk = daemon.certs().get_cert(get("diskencryption")).await.unwrap().into_inner();
        let csr = daemon.create_key("online").await;
        daemon.kill();

        let daemon = rig.start("provisioning").await;
        let chain = authority.sign(&csr, 2100);
        let answer = daemon.apply("online", &chain).await;
        assert_eq!(answer.error, None);
        daemon.kill();

        let daemon = rig.start("provisioning").await;
        let online = daemon.certs().get_cert(get("online")).await.unwrap().into_inner();
        assert_eq!(online.serial, answer.cert_info.unwrap().serial);
        assert_eq!(daemon.certs().get_cert(get("diskencryption")).await.unwrap().into_inner(), disk);
        assert_eq!(daemon.apply("online", &chain).await.error, None);
        daemon.stop().await;
    });
}

// IAM-27
// IAM 26.18
#[test]
fn deprovisioning_runs_its_command_and_opens_the_way_for_another_start() {
    with_softhsm(
        "provisioning::deprovisioning_runs_its_command_and_opens_the_way_for_another_start",
        async |rig| {
            let marker = rig.path("deprovisioned").to_string_lossy().into_owned();
            rig.prepare(|config| {
                config["deprovisionCmdArgs"] = serde_json::json!(["touch", marker]);
                config["finishProvisioningCmdArgs"] =
                    serde_json::json!(["sh", "-c", "test -z \"$NOTIFY_SOCKET\" && test ! -e /nowhere"]);
            });
            let authority = Authority::new("Unit CA");
            rig.provision(&authority).await;
            let daemon = rig.start("provisioning").await;
            let mut client = daemon.provisioning();
            let deprovision = v6::DeprovisionRequest::default;
            assert_eq!(client.deprovision(deprovision()).await.unwrap().into_inner().error, None);
            assert!(rig.path("deprovisioned").exists());
            assert!(!rig.path("state").exists());
            std::fs::remove_file(rig.path("deprovisioned")).unwrap();
            let repeated = client.deprovision(deprovision()).await.unwrap().into_inner();
            assert_eq!(repeated.error, None, "whoever lost our answer may ask again");
            assert!(!rig.path("deprovisioned").exists(), "nothing is done twice");

            let error = client.start_provisioning(start("wrong password")).await.unwrap().into_inner().error;
            assert!(error.is_some(), "the tokens have an owner");
            assert!(daemon.certs().get_cert(get("online")).await.is_ok(), "a wrong password erases nothing");
            assert_eq!(client.start_provisioning(start(PASSWORD)).await.unwrap().into_inner().error, None);
            assert!(daemon.certs().get_cert(get("online")).await.is_err(), "tokens are empty again");
            daemon.issue(&authority, "online", 2100).await;
            daemon.stop().await;
        },
    );
}

// IAM 26.18
#[test]
fn failing_commands_are_reported_and_change_nothing() {
    with_softhsm("provisioning::failing_commands_are_reported_and_change_nothing", async |rig| {
        rig.prepare(|config| {
            config["startProvisioningCmdArgs"] =
                serde_json::json!(["sh", "-c", "printf '%0200d' 7 >&2; exit 3"]);
            config["finishProvisioningCmdArgs"] = serde_json::json!(["/nowhere/program"]);
        });
        let daemon = rig.start("provisioning").await;
        let mut client = daemon.provisioning();
        let error = client.start_provisioning(start(PASSWORD)).await.unwrap().into_inner().error.unwrap();
        assert_eq!((error.aos_code, error.exit_code), (2, 3));
        assert!(error.message.ends_with(&"0".repeat(128)), "{}", error.message);
        assert!(!error.message.contains(&"0".repeat(129)));
        assert!(!rig.path("pins/user").exists(), "the sequence stopped at the first error");
        let request = v6::FinishProvisioningRequest::default();
        let error = client.finish_provisioning(request).await.unwrap().into_inner().error.unwrap();
        assert_eq!((error.aos_code, error.exit_code), (2, 2));
        assert!(!rig.path("state").exists());
        daemon.stop().await;
    });
}

// A state file says what no state is; scripts may be cut while writing it.
// IAM 26.2
#[test]
fn state_file_decides_what_the_node_is() {
    with_softhsm("provisioning::state_file_decides_what_the_node_is", async |rig| {
        rig.prepare(|_| {});
        for (content, state) in [("provisioned", "provisioned"), ("paused\n", "paused"), ("x", "error")] {
            std::fs::write(rig.path("state"), content).unwrap();
            let daemon = rig.start("provisioning").await;
            assert_eq!(node_state(plain_channel(&daemon.public)).await, state);
            daemon.kill();
        }
        let daemon = rig.start("provisioning").await;
        let mut client = IamPublicCurrentNodeServiceClient::new(plain_channel(&daemon.public));
        let node = client.get_current_node_info(()).await.unwrap().into_inner();
        assert!(node.error.is_some());
        let mut nodes =
            v6::iam_nodes_service_client::IamNodesServiceClient::new(plain_channel(&daemon.protected));
        let error = nodes.pause_node(v6::PauseNodeRequest::default()).await.unwrap().into_inner().error;
        assert_eq!(error.unwrap().aos_code, WRONG_STATE);
        daemon.kill();

        std::fs::write(rig.path("state"), "provisioned").unwrap();
        let daemon = rig.start("provisioning").await;
        let mut client = IamPublicCurrentNodeServiceClient::new(plain_channel(&daemon.public));
        let mut changes = client.subscribe_current_node_changed(()).await.unwrap().into_inner();
        let mut nodes =
            v6::iam_nodes_service_client::IamNodesServiceClient::new(plain_channel(&daemon.protected));
        let pause = v6::PauseNodeRequest { node_id: "node-main".into() };
        assert_eq!(nodes.pause_node(pause).await.unwrap().into_inner().error, None);
        assert_eq!(changes.message().await.unwrap().unwrap().state, "paused");
        let resume = v6::ResumeNodeRequest::default();
        assert_eq!(nodes.resume_node(resume).await.unwrap().into_inner().error, None);
        assert_eq!(changes.message().await.unwrap().unwrap().state, "provisioned");
        let mut late = client.subscribe_current_node_changed(()).await.unwrap().into_inner();
        assert_eq!(late.message().await.unwrap().unwrap().state, "provisioned", "the last change at once");
        eventually("state on disk", async || {
            (std::fs::read_to_string(rig.path("state")).unwrap() == "provisioned").then_some(())
        })
        .await;
        daemon.stop().await;
    });
}

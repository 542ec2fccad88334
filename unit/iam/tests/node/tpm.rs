//! Keys in a TPM 2.0, through tpm2-pkcs11.

use aos_unit_api::iamanager::v6;
use aos_unit_api::iamanager::v6::iam_certificate_service_client::IamCertificateServiceClient;
use aos_unit_api::iamanager::v6::iam_provisioning_service_client::IamProvisioningServiceClient;
use aos_unit_api::iamanager::v6::iam_public_cert_service_client::IamPublicCertServiceClient;
use serde_json::json;

use crate::rig::{Authority, PASSWORD, apply_on, start, tls_channel, tpm_module, with_tpm};

const FAILED: i32 = 1;

// IAM-28
#[test]
fn a_unit_lives_with_a_tpm() {
    with_tpm("tpm::a_unit_lives_with_a_tpm", async |rig| {
        rig.prepare(|config| {
            for module in config["certModules"].as_array_mut().unwrap() {
                module["params"]["library"] = json!(tpm_module());
            }
        });
        let authority = Authority::new("Unit CA");
        rig.provision(&authority).await;
        let root = rig.path("root.pem");

        let daemon = rig.start("normal").await;
        let public = tls_channel(&daemon.public, &root, None);
        let get = async |cert_type: &str| {
            let request = v6::GetCertRequest { r#type: cert_type.into(), ..Default::default() };
            IamPublicCertServiceClient::new(public.clone()).get_cert(request).await.unwrap().into_inner()
        };
        let cm = get("cm").await;
        assert!(cm.cert_url.contains("libtpm2_pkcs11"), "{}", cm.cert_url);
        // A key of the TPM opens the door that a key of the TPM guards.
        let identity = aos_token::load_identity(&cm.cert_url, &cm.key_url).unwrap();
        let protected = tls_channel(&daemon.protected, &root, Some(identity.certified_key()));
        let mut orders = IamProvisioningServiceClient::new(protected.clone());
        let types = orders.get_cert_types(v6::GetCertTypesRequest::default()).await.unwrap().into_inner();
        assert_eq!(types.types, ["online", "offline", "iam", "cm"]);
        let mut certificates = IamCertificateServiceClient::new(protected.clone());
        for cert_type in ["offline", "iam"] {
            let request = v6::CreateKeyRequest { r#type: cert_type.into(), ..Default::default() };
            let made = certificates.create_key(request).await.unwrap().into_inner();
            assert_eq!(made.error, None);
            let answer = apply_on(protected.clone(), cert_type, &authority.sign(&made.csr, 2200)).await;
            assert_eq!(answer.error, None);
            assert_eq!(get(cert_type).await.serial, answer.cert_info.unwrap().serial);
        }
        // What was encrypted to the self-signed RSA certificate can be read only here.
        let disk = get("diskencryption").await;
        let key = aos_token::load_key(&disk.key_url).unwrap();
        assert!(key.decrypt_rsa_pkcs1(&[1; 256]).is_err());
        let deprovision = v6::DeprovisionRequest::default();
        assert_eq!(orders.deprovision(deprovision).await.unwrap().into_inner().error, None);
        daemon.stop().await;

        // The module does not initialise a token twice: its owner empties it.
        let daemon = rig.start("provisioning").await;
        let refused = daemon.provisioning().start_provisioning(start("not the password")).await.unwrap();
        assert_eq!(refused.into_inner().error.unwrap().aos_code, FAILED);
        let kept =
            daemon.certs().get_cert(v6::GetCertRequest { r#type: "cm".into(), ..Default::default() }).await;
        assert_eq!(kept.unwrap().get_ref().serial, cm.serial, "nothing was erased");
        let started = daemon.provisioning().start_provisioning(start(PASSWORD)).await.unwrap();
        assert_eq!(started.into_inner().error, None);
        let gone =
            daemon.certs().get_cert(v6::GetCertRequest { r#type: "cm".into(), ..Default::default() }).await;
        assert!(gone.is_err());
        daemon.issue(&authority, "cm", 2100).await;
        daemon.stop().await;
    });
}

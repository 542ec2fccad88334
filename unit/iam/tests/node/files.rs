//! Keys in files, for development machines.

use std::os::unix::fs::PermissionsExt;

use aos_unit_api::iamanager::v6;
use aos_unit_api::iamanager::v6::iam_public_cert_service_client::IamPublicCertServiceClient;
use serde_json::json;

use crate::authority::Authority;
use crate::rig::{PASSWORD, Rig, start, tls_channel, with_softhsm};

fn prepare(rig: &Rig, allowed: bool) {
    let dir = rig.path("keys");
    rig.prepare(|config| {
        for module in config["certModules"].as_array_mut().unwrap() {
            module["plugin"] = json!("filemodule");
            module["params"] = json!({"keyDir": dir});
        }
        config["allowFileKeys"] = json!(allowed);
    });
}

fn files(rig: &Rig, cert_type: &str) -> usize {
    std::fs::read_dir(rig.path("keys").join(cert_type)).unwrap().count()
}

#[test]
fn keys_in_files_work_where_they_are_allowed() {
    with_softhsm("files::keys_in_files_work_where_they_are_allowed", async |rig| {
        prepare(&rig, false);
        let error = rig.start_refused("provisioning").await;
        assert!(error.contains("certModules[0].plugin") && error.contains("allowFileKeys"), "{error}");

        prepare(&rig, true);
        let authority = Authority::new("Unit CA");
        rig.provision(&authority).await;
        let key = std::fs::read_dir(rig.path("keys/iam"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.extension().is_some_and(|extension| extension == "key"))
            .unwrap();
        assert_eq!(std::fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);

        let daemon = rig.start("normal").await;
        let root = rig.path("root.pem");
        let public = tls_channel(&daemon.public, &root, None);
        let get = async |cert_type: &str| {
            let request = v6::GetCertRequest { r#type: cert_type.into(), ..Default::default() };
            IamPublicCertServiceClient::new(public.clone()).get_cert(request).await.unwrap().into_inner()
        };
        for cert_type in ["online", "offline", "iam", "cm", "diskencryption"] {
            let cert = get(cert_type).await;
            assert!(cert.cert_url.starts_with("file:") && cert.cert_url != cert.key_url, "{}", cert.cert_url);
            aos_token::load_identity(&cert.cert_url, &cert.key_url).unwrap();
        }
        daemon.stop().await;

        // A lost row, a left-over key and room for two certificates, as with a token.
        let database = rusqlite::Connection::open(rig.path("work/iamanager.db")).unwrap();
        database.execute("DELETE FROM certificates", []).unwrap();
        drop(database);
        std::fs::write(rig.path("keys/online/0badcafe.key"), "left over").unwrap();
        std::fs::remove_file(rig.path("state")).unwrap();
        let daemon = rig.start("provisioning").await;
        let csr = daemon.create_key("online").await;
        assert_eq!(files(&rig, "online"), 3, "the left-over went with the next key");
        daemon.kill();
        let daemon = rig.start("provisioning").await;
        assert_eq!(daemon.apply("online", &authority.sign(&csr, 2101)).await.error, None);
        let other = daemon.create_key("offline").await;
        let refused = daemon.apply("online", &authority.sign(&other, 2101)).await.error.unwrap();
        assert_eq!(refused.aos_code, 5);
        daemon.issue(&authority, "online", 2102).await;
        assert_eq!(files(&rig, "online"), 4, "two certificates with their keys");
        let again = daemon.provisioning().start_provisioning(start(PASSWORD)).await.unwrap();
        assert_eq!(again.into_inner().error, None);
        assert_eq!(files(&rig, "online"), 0);
        daemon.stop().await;
    });
}

//! Tokens that move, leave and come back, and how they are chosen.

use aos_unit_api::iamanager::v6;
use aos_unit_api::iamanager::v6::iam_public_cert_service_client::IamPublicCertServiceClient;

use crate::authority::Authority;
use crate::certificates::{get, owned};
use crate::rig::{apply_on, tls_channel, with_softhsm};

// IAM 26.16. Older releases wrote the PIN itself into their URLs.
#[test]
fn urls_of_older_releases_lose_their_pin() {
    with_softhsm("tokens::urls_of_older_releases_lose_their_pin", async |rig| {
        rig.prepare(|_| {});
        let authority = Authority::new("Unit CA");
        let daemon = owned(&rig).await;
        let now = daemon.issue(&authority, "online", 2101).await;
        daemon.stop().await;
        let pin = std::fs::read_to_string(rig.path("pins/user")).unwrap();
        let (kept, _) = now.cert_url.split_once("pin-source=").unwrap();
        let old = format!("{kept}pin-value={pin}");
        let urls = |database: &rusqlite::Connection| -> String {
            database.query_row("SELECT certURL || keyURL FROM certificates", [], |row| row.get(0)).unwrap()
        };
        let database = rusqlite::Connection::open(rig.path("work/iamanager.db")).unwrap();
        database.execute("UPDATE certificates SET certURL = ?1, keyURL = ?1", [&old]).unwrap();
        assert!(urls(&database).contains(&pin));
        drop(database);
        let daemon = rig.start("provisioning").await;
        assert_eq!(daemon.certs().get_cert(get("online")).await.unwrap().into_inner(), now);
        daemon.stop().await;
        let database = rusqlite::Connection::open(rig.path("work/iamanager.db")).unwrap();
        assert!(!urls(&database).contains(&pin));
    });
}

// IAM 26.5, IAM 26.8. The module sees the token leave and come back, as with a reset or a lost bus.
#[test]
fn a_token_that_goes_away_is_used_again_when_it_is_back() {
    with_softhsm("tokens::a_token_that_goes_away_is_used_again_when_it_is_back", async |rig| {
        rig.prepare(|_| {});
        let authority = Authority::new("Unit CA");
        let daemon = owned(&rig).await;
        let kept = daemon.issue(&authority, "online", 2101).await;
        let csr = daemon.create_key("online").await;
        let (tokens, away) = (rig.path("tokens"), rig.path("away"));
        std::fs::rename(&tokens, &away).unwrap();
        std::fs::create_dir(&tokens).unwrap();
        let request = v6::CreateKeyRequest { r#type: "online".into(), ..Default::default() };
        let refused = daemon.certificates().create_key(request).await.unwrap().into_inner();
        let message = refused.error.unwrap().message;
        assert!(message.contains("online"), "{message}");
        assert_eq!(daemon.certs().get_cert(get("online")).await.unwrap().into_inner(), kept);
        std::fs::remove_dir_all(&tokens).unwrap();
        std::fs::rename(&away, &tokens).unwrap();
        let answer = daemon.apply("online", &authority.sign(&csr, 2102)).await;
        assert_eq!(answer.error, None, "the waiting key is still there");
        daemon.issue(&authority, "online", 2103).await;
        daemon.stop().await;
    });
}

// IAM 26.5
#[test]
fn slots_are_chosen_by_index_and_by_number() {
    with_softhsm("tokens::slots_are_chosen_by_index_and_by_number", async |rig| {
        let with = |choice: (&str, Option<u64>)| {
            let choice = (choice.0.to_owned(), choice.1);
            rig.prepare(|config| {
                for module in config["certModules"].as_array_mut().unwrap() {
                    let params = module["params"].as_object_mut().unwrap();
                    params.remove("tokenLabel");
                    if let Some(number) = choice.1 {
                        params.insert(choice.0.clone(), serde_json::json!(number));
                    }
                }
            });
        };
        let authority = Authority::new("Unit CA");
        with(("slotIndex", Some(0)));
        let daemon = owned(&rig).await;
        let first = daemon.issue(&authority, "online", 2101).await;
        assert!(
            first.cert_url.starts_with("pkcs11:token=aos;"),
            "the label is the built-in one: {}",
            first.cert_url
        );
        daemon.stop().await;
        let output = std::process::Command::new("softhsm2-util").arg("--show-slots").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let slot =
            text.lines().find_map(|line| line.strip_prefix("Slot ")?.trim().parse::<u64>().ok()).unwrap();
        with(("slotID", Some(slot)));
        let daemon = rig.start("provisioning").await;
        assert_eq!(daemon.certs().get_cert(get("online")).await.unwrap().into_inner(), first);
        daemon.issue(&authority, "online", 2102).await;
        daemon.stop().await;
        with(("", None));
        let daemon = rig.start("provisioning").await;
        daemon.issue(&authority, "online", 2103).await;
        daemon.stop().await;
        with(("slotIndex", Some(17)));
        let daemon = rig.start("provisioning").await;
        let request = v6::CreateKeyRequest { r#type: "online".into(), ..Default::default() };
        let refused = daemon.certificates().create_key(request).await.unwrap().into_inner().error.unwrap();
        assert!(refused.message.contains("slot 17"), "{}", refused.message);
        daemon.stop().await;
    });
}

// The keys themselves cannot leave their token, so a Unit moves by renewing (docs/identity-and-access.md).
#[test]
fn a_unit_moves_to_another_token_by_renewal() {
    with_softhsm("tokens::a_unit_moves_to_another_token_by_renewal", async |rig| {
        rig.prepare(|_| {});
        let authority = Authority::new("Unit CA");
        rig.provision(&authority).await;
        let pin = std::fs::read_to_string(rig.path("pins/user")).unwrap();
        let made = std::process::Command::new("softhsm2-util")
            .args(["--init-token", "--free", "--label", "moved", "--so-pin", "owner", "--pin", &pin])
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let move_to = |skip: bool| {
            rig.prepare(|config| {
                for module in config["certModules"].as_array_mut().unwrap() {
                    module["params"]["tokenLabel"] = serde_json::json!("moved");
                    module["skipValidation"] = serde_json::json!(skip);
                }
            });
        };
        let types = ["online", "offline", "iam", "cm"];
        let root = rig.path("root.pem");
        move_to(true);
        let daemon = rig.start("normal").await;
        let protected = tls_channel(&daemon.protected, &root, Some(authority.client()));
        let mut certs = IamPublicCertServiceClient::new(protected.clone());
        let mut orders =
            v6::iam_certificate_service_client::IamCertificateServiceClient::new(protected.clone());
        for cert_type in types {
            let old = certs.get_cert(get(cert_type)).await.unwrap().into_inner();
            assert!(!old.cert_url.contains("token=moved"));
            aos_token::load_identity(&old.cert_url, &old.key_url).unwrap();
            let request = v6::CreateKeyRequest { r#type: cert_type.into(), ..Default::default() };
            let csr = orders.create_key(request).await.unwrap().into_inner().csr;
            let answer = apply_on(protected.clone(), cert_type, &authority.sign(&csr, 2200)).await;
            assert_eq!(answer.error, None);
            assert!(answer.cert_info.unwrap().cert_url.contains("token=moved"));
        }
        daemon.stop().await;

        for label in ["aoscore", "aoscloud"] {
            let gone = std::process::Command::new("softhsm2-util")
                .args(["--delete-token", "--token", label])
                .output()
                .unwrap();
            assert!(gone.status.success(), "{gone:?}");
        }
        move_to(false);
        let daemon = rig.start("normal").await;
        let public = tls_channel(&daemon.public, &root, None);
        for cert_type in types {
            let cert = IamPublicCertServiceClient::new(public.clone())
                .get_cert(get(cert_type))
                .await
                .unwrap()
                .into_inner();
            assert!(cert.cert_url.contains("token=moved"));
            aos_token::load_identity(&cert.cert_url, &cert.key_url).unwrap();
        }
        daemon.stop().await;
    });
}

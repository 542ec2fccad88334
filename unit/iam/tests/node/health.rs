//! What the daemon tells its owner of nodes, certificates and tokens.

use aos_token::{AuthPin, KeyKind, Library, SlotChoice, TokenSession};
use aos_unit_api::iamanager::v6;
use aos_unit_api::iamanager::v6::iam_certificate_service_client::IamCertificateServiceClient;
use serde_json::{Value, json};

use crate::authority::Authority;
use crate::rig::{MODULE, Rig, eventually, tls_channel, with_softhsm};

async fn asked(rig: &Rig, component: &'static str) -> Value {
    let dir = rig.path("run");
    eventually("status", async || {
        let dir = dir.clone();
        tokio::task::spawn_blocking(move || aos_local_status::read(&dir, component).ok()).await.unwrap()
    })
    .await
}

async fn looked(rig: &Rig) -> Value {
    let config = rig.path("iam.cfg");
    tokio::task::spawn_blocking(move || aos_iam::look_at_tokens(&config).unwrap()).await.unwrap()
}

fn token<'a>(report: &'a Value, label: &str) -> &'a Value {
    report["tokens"].as_array().unwrap().iter().find(|token| token["label"] == label).unwrap()
}

fn session(rig: &Rig, label: &str) -> TokenSession {
    let pin = AuthPin::from(std::fs::read_to_string(rig.path("pins/user")).unwrap());
    let library = Library::open(MODULE).unwrap();
    library.refresh().unwrap();
    library.find_token(&SlotChoice::Label(label.into())).unwrap().unwrap().open(&pin).unwrap()
}

#[test]
fn tokens_nodes_and_certificates_are_told() {
    with_softhsm("health::tokens_nodes_and_certificates_are_told", async |rig| {
        rig.prepare(|_| {});
        let authority = Authority::new("Unit CA");
        rig.provision(&authority).await;
        let daemon = rig.start("normal").await;

        let own = asked(&rig, "iam").await;
        assert_eq!(own["nodes"].as_array().unwrap().len(), 1);
        let node = &own["nodes"][0];
        assert_eq!(
            (&node["id"], &node["type"], &node["state"], &node["connected"]),
            (&json!("node-main"), &json!("main-type"), &json!("provisioned"), &json!(true))
        );

        let protected = tls_channel(&daemon.protected, &rig.path("root.pem"), Some(authority.client()));
        let request = v6::CreateKeyRequest { r#type: "online".into(), ..Default::default() };
        let made = IamCertificateServiceClient::new(protected).create_key(request).await.unwrap();
        assert_eq!(made.get_ref().error, None);
        let cloud = session(&rig, "aoscloud");
        cloud.generate_key(KeyKind::EcP256, [9; 16], "somebody").unwrap();
        cloud.generate_key(KeyKind::EcP384, [7; 16], "offline").unwrap();

        let report = asked(&rig, "iam-token").await;
        let cloud = token(&report, "aoscloud");
        assert_eq!(cloud["types"], json!(["online", "offline"]));
        assert_eq!((&cloud["library"], &cloud["session"]), (&json!(MODULE), &json!("open")));
        assert_eq!((&cloud["initialised"], &cloud["pin"]), (&json!(true), &json!("good")));
        assert_eq!(
            (&cloud["certified"], &cloud["waiting"], &cloud["orphans"], &cloud["foreign"]),
            (&json!(2), &json!(1), &json!(1), &json!(2))
        );
        // Two certificates with their keys and one of the authority, one waiting key, and what was just made.
        assert_eq!(cloud["objects"]["total"], json!(2 * 3 + 1 + 2 + 2 + 2));
        assert_eq!(token(&report, "aoscore")["certified"], json!(3));
        let online = report["certificates"].as_array().unwrap();
        let online = online.iter().find(|one| one["type"] == "online").unwrap();
        assert_eq!(online["notBefore"], "2020-01-01T00:00:00Z");
        let of_status = own["certificates"].as_array().unwrap();
        let of_status = of_status.iter().find(|one| one["type"] == "online").unwrap();
        for key in ["serial", "notAfter", "issuer"] {
            assert_eq!(online[key], of_status[key]);
        }
        let pin = std::fs::read_to_string(rig.path("pins/user")).unwrap();
        let text = format!("{own} {report}");
        assert!(!text.contains(&pin) && !text.contains("pin-source"), "{text}");
        daemon.stop().await;

        let direct = looked(&rig).await;
        assert_eq!(direct["certificates"], report["certificates"]);
        assert_eq!(token(&direct, "aoscloud")["waitingOrOrphans"], json!(2));
    });
}

#[test]
fn a_sick_token_is_told_with_the_next_step() {
    with_softhsm("health::a_sick_token_is_told_with_the_next_step", async |rig| {
        rig.prepare(|_| {});
        let fresh = looked(&rig).await;
        let fresh = &fresh["tokens"][0];
        assert_eq!((&fresh["initialised"], &fresh["error"]), (&json!(false), &Value::Null));
        assert!(fresh["hint"].as_str().unwrap().contains("provision"), "{fresh}");

        rig.provision(&Authority::new("Unit CA")).await;
        Library::open(MODULE).unwrap().refresh().unwrap();
        let pin = std::fs::read(rig.path("pins/user")).unwrap();
        std::fs::write(rig.path("pins/user"), "another PIN").unwrap();
        let wrong = looked(&rig).await;
        let wrong = token(&wrong, "aoscloud");
        assert_eq!(wrong["session"], "not opened");
        assert!(wrong["hint"].as_str().unwrap().contains("PIN file"), "{wrong}");
        // Tokens count: the second look does not try again.
        let again = looked(&rig).await;
        let again = token(&again, "aoscloud");
        assert_eq!(again["pin"], "refused");
        assert!(again["error"].as_str().unwrap().contains("not tried again"), "{again}");
        std::fs::write(rig.path("pins/user"), pin).unwrap();

        let daemon = rig.start("normal").await;
        Library::open(MODULE).unwrap().refresh().unwrap();
        let good = looked(&rig).await;
        assert_eq!(
            token(&good, "aoscloud")["session"],
            "open",
            "the login of the daemon has reset the count"
        );
        daemon.stop().await;
        rig.prepare(|config| {
            for module in config["certModules"].as_array_mut().unwrap() {
                module["params"]["tokenLabel"] = json!("gone");
                module["params"]["slotIndex"] = Value::Null;
            }
        });
        std::fs::rename(rig.path("tokens"), rig.path("away")).unwrap();
        std::fs::write(rig.path("tokens"), "no folder").unwrap();
        let gone = looked(&rig).await;
        let gone = &gone["tokens"][0];
        assert!(gone["error"].is_string() || gone["initialised"] == json!(false), "{gone}");
        assert!(gone["hint"].is_string(), "{gone}");
    });
}

//! What ends a start at once, and with which words.

use serde_json::json;

use crate::authority::Authority;
use crate::rig::{eventually, with_softhsm};

#[test]
fn normal_mode_needs_a_certificate_and_a_root() {
    with_softhsm("start::normal_mode_needs_a_certificate_and_a_root", async |rig| {
        rig.prepare(|_| {});
        let error = rig.start_refused("normal").await;
        assert!(error.contains("root.pem"), "{error}");
        std::fs::write(rig.path("root.pem"), "").unwrap();
        let error = rig.start_refused("normal").await;
        assert!(error.contains("caCert"), "{error}");
        std::fs::write(rig.path("root.pem"), Authority::new("Unit CA").pem()).unwrap();
        let error = rig.start_refused("normal").await;
        assert!(error.contains("no certificate of type 'iam'"), "{error}");
    });
}

#[test]
fn a_busy_port_ends_the_start() {
    with_softhsm("start::a_busy_port_ends_the_start", async |rig| {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        rig.prepare(|config| config["iamProtectedServerUrl"] = json!(address));
        let error = rig.start_refused("provisioning").await;
        assert!(error.contains("protected server") && error.contains(&address), "{error}");
    });
}

// IAM-08, ARC-20, REL-09
#[test]
fn wrong_configurations_are_refused_with_file_key_and_reason() {
    with_softhsm("start::wrong_configurations_are_refused_with_file_key_and_reason", async |rig| {
        let error = rig.start_refused("provisioning").await;
        assert!(error.contains("iam.cfg"), "{error}");
        rig.prepare(|config| config["certModules"][1]["maxItems"] = json!("two"));
        let error = rig.start_refused("provisioning").await;
        assert!(error.contains("iam.cfg") && error.contains("certModules[1].maxItems"), "{error}");
        rig.prepare(|config| config["identifier"]["plugin"] = json!("visidentifier"));
        assert!(rig.start_refused("provisioning").await.contains("visServer"));
        rig.prepare(|config| config["identifier"] = json!(null));
        assert!(rig.start_refused("provisioning").await.contains("main node needs an 'identifier'"));
        rig.prepare(|config| config["certModules"][0]["params"]["library"] = json!("/nowhere/lib.so"));
        assert!(rig.start_refused("provisioning").await.contains("/nowhere/lib.so"));
    });
}

// Whoever takes the token's PIN away must not make the node forget that it is provisioned.
#[test]
fn a_lost_pin_ends_a_normal_start_and_is_healed_by_provisioning() {
    with_softhsm("start::a_lost_pin_ends_a_normal_start_and_is_healed_by_provisioning", async |rig| {
        rig.prepare(|_| {});
        let authority = Authority::new("Unit CA");
        rig.provision(&authority).await;
        std::fs::remove_file(rig.path("pins/user")).unwrap();
        let error = rig.start_refused("normal").await;
        assert!(error.contains("pins/user"), "{error}");
        std::fs::remove_file(rig.path("state")).unwrap();
        rig.provision(&authority).await;
        let daemon = rig.start("normal").await;
        let run_dir = rig.path("run");
        let status = eventually("status", async || {
            let dir = run_dir.clone();
            tokio::task::spawn_blocking(move || aos_local_status::read(&dir, "iam").ok()).await.unwrap()
        })
        .await;
        assert_eq!(status["provisioning"], false);
        daemon.stop().await;
    });
}

// IAM 26.1
#[test]
fn an_address_without_a_host_is_every_interface() {
    with_softhsm("start::an_address_without_a_host_is_every_interface", async |rig| {
        rig.prepare(|config| {
            config["iamPublicServerUrl"] = json!(":0");
            config["IAMPROTECTEDSERVERURL"] = config["iamProtectedServerUrl"].take();
            config.as_object_mut().unwrap().remove("iamProtectedServerUrl");
        });
        let daemon = rig.start("provisioning").await;
        assert!(daemon.public.starts_with("0.0.0.0:"), "{}", daemon.public);
        assert!(daemon.protected.starts_with("127.0.0.1:"), "keys are read in any case");
        daemon.stop().await;
    });
}

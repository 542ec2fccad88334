//! Keys in a TPM 2.0, through tpm2-pkcs11.

use aos_unit_api::iamanager::v6;
use aos_unit_api::iamanager::v6::iam_certificate_service_client::IamCertificateServiceClient;
use aos_unit_api::iamanager::v6::iam_provisioning_service_client::IamProvisioningServiceClient;
use aos_unit_api::iamanager::v6::iam_public_cert_service_client::IamPublicCertServiceClient;
use serde_json::json;

use crate::authority::Authority;
use crate::emulator::{tpm_module, with_tpm};
use crate::rig::{Daemon, MODULE, PASSWORD, Rig, apply_on, eventually, start, tls_channel};

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

/// The commands of the documentation on moving to another token, in order.
fn documented() -> Vec<String> {
    let text = include_str!("../../../../docs/identity-and-access.md");
    let section = text.split("\n## ").find(|section| section.starts_with("Moving a Unit's keys")).unwrap();
    let blocks = section.split("```sh\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap().to_owned()).collect()
}

/// Runs commands of the documentation on this node's files.
fn run(rig: &Rig, commands: &str) {
    let pin = rig.path("pins/user").display().to_string();
    let done = std::process::Command::new("sh")
        .args(["-e", "-c", &commands.replace("/var/aos/iam/.usrpin", &pin)])
        .env("LIBRARY", tpm_module())
        .env("OWNER", PASSWORD)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout) + String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{commands}\n{said}");
}

/// Gives all modules but the self-signed one the TPM's library.
fn move_modules(rig: &Rig, skip_validation: bool) {
    rig.prepare(|config| {
        for module in config["certModules"].as_array_mut().unwrap() {
            if module["selfSigned"] != json!(true) {
                module["params"]["library"] = json!(tpm_module());
                module["skipValidation"] = json!(skip_validation);
            }
        }
    });
}

async fn url(rig: &Rig, daemon: &Daemon, cert_type: &str) -> String {
    let public = tls_channel(&daemon.public, &rig.path("root.pem"), None);
    let request = v6::GetCertRequest { r#type: cert_type.into(), ..Default::default() };
    IamPublicCertServiceClient::new(public).get_cert(request).await.unwrap().into_inner().cert_url
}

// IAM-28
#[test]
fn a_unit_moves_from_softhsm_to_a_tpm_as_documented() {
    with_tpm("tpm::a_unit_moves_from_softhsm_to_a_tpm_as_documented", async |rig| {
        let [make, remove] = documented().try_into().unwrap();
        rig.prepare(|_| {});
        let authority = Authority::new("Unit CA");
        rig.provision(&authority).await;
        run(&rig, &make);
        move_modules(&rig, true);
        let types = ["online", "offline", "cm", "iam"];
        let daemon = rig.start("normal").await;
        for cert_type in types {
            assert!(url(&rig, &daemon, cert_type).await.contains(MODULE), "{cert_type} is served on");
        }
        let orders = tls_channel(&daemon.protected, &rig.path("root.pem"), Some(authority.client()));
        for cert_type in types {
            let request = v6::CreateKeyRequest { r#type: cert_type.into(), ..Default::default() };
            let made = IamCertificateServiceClient::new(orders.clone()).create_key(request).await.unwrap();
            let made = made.into_inner();
            assert_eq!(made.error, None);
            let answer = apply_on(orders.clone(), cert_type, &authority.sign(&made.csr, 2101)).await;
            assert_eq!(answer.error, None);
            assert!(
                url(&rig, &daemon, cert_type).await.contains("libtpm2_pkcs11"),
                "{cert_type} is in the TPM"
            );
        }
        daemon.stop().await;

        move_modules(&rig, false);
        let daemon = rig.start("normal").await;
        run(&rig, &remove);
        for cert_type in types {
            let url = url(&rig, &daemon, cert_type).await;
            aos_token::load_identity(&url, &url).unwrap();
        }
        // Nothing of the old token is left; the self-signed certificate stays there.
        assert_eq!(crate::kills::rows(&rig, "certificates"), types.len() + 1);
        assert!(url(&rig, &daemon, "diskencryption").await.contains(MODULE));
        daemon.stop().await;
    });
}

/// A resource manager in place of the one that the test began with.
struct Manager(std::process::Child);

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn restart_manager() -> Manager {
    let old: i32 = std::env::var("TPM_MANAGER").unwrap().parse().unwrap();
    let old = rustix::process::Pid::from_raw(old).unwrap();
    rustix::process::kill_process(old, rustix::process::Signal::KILL).unwrap();
    let port = std::env::var("TPM_PORT").unwrap();
    let manager = std::process::Command::new("tpm2-abrmd")
        .args(["--session", "--allow-root", &format!("--tcti=swtpm:host=127.0.0.1,port={port}")])
        .spawn()
        .unwrap();
    Manager(manager)
}

#[test]
fn a_resource_manager_may_be_restarted_under_the_daemon() {
    with_tpm("tpm::a_resource_manager_may_be_restarted_under_the_daemon", async |rig| {
        rig.prepare(|_| {});
        move_modules(&rig, false);
        let authority = Authority::new("Unit CA");
        rig.provision(&authority).await;
        let daemon = rig.start("normal").await;
        let kept = url(&rig, &daemon, "cm").await;
        let orders = || tls_channel(&daemon.protected, &rig.path("root.pem"), Some(authority.client()));
        let standing = orders();
        let ask = async |channel: tonic::transport::Channel| {
            let request = v6::CreateKeyRequest { r#type: "cm".into(), ..Default::default() };
            let made = IamCertificateServiceClient::new(channel).create_key(request).await.ok()?.into_inner();
            made.error.is_none().then_some(made.csr)
        };
        ask(standing.clone()).await.unwrap();

        let _manager = restart_manager();
        let csr = eventually("a key by the new manager", async || ask(standing.clone()).await).await;
        let answer = apply_on(standing, "cm", &authority.sign(&csr, 2101)).await;
        assert_eq!(answer.error, None);
        // New connections: the servers sign with a key that they opened under the old one.
        eventually("a new connection", async || ask(orders()).await).await;
        assert_ne!(url(&rig, &daemon, "cm").await, kept);
        daemon.stop().await;
    });
}

/// A command of the TPM's tools.
fn tool(words: &[&str]) -> String {
    let done = std::process::Command::new(words[0])
        .args(&words[1..])
        .args(["-T", "tabrmd:bus_type=session"])
        .output()
        .unwrap();
    assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

// Wrong PINs of anybody lock the whole TPM, for the right one too.
#[test]
fn a_tpm_that_has_locked_itself_is_waited_for() {
    with_tpm("tpm::a_tpm_that_has_locked_itself_is_waited_for", async |rig| {
        rig.prepare(|_| {});
        move_modules(&rig, false);
        let authority = Authority::new("Unit CA");
        rig.provision(&authority).await;
        let library = aos_token::Library::open(tpm_module()).unwrap();
        let token = library.find_token(&aos_token::SlotChoice::Label("aoscore".into())).unwrap().unwrap();
        let locked = (0..40).any(|_| token.open(&"wrong".to_owned().into()).unwrap_err().is_locked());
        assert!(locked, "{}", tool(&["tpm2_getcap", "properties-variable"]));

        let daemon = rig.start("normal").await;
        let health = async |open: bool| {
            eventually("health of the token", async || {
                let dir = rig.path("run");
                let read = tokio::task::spawn_blocking(move || aos_local_status::read(&dir, "iam-token"));
                let report = read.await.unwrap().ok()?;
                let core = report["tokens"].as_array()?.iter().find(|one| one["label"] == "aoscore")?.clone();
                ((core["session"] == "open") == open).then_some(core)
            })
            .await
        };
        let shut = health(false).await;
        assert!(shut["error"].as_str().unwrap().contains("locked"), "{shut}");
        assert!(shut["hint"].as_str().unwrap().contains("unlock"), "{shut}");
        let channel = tls_channel(&daemon.public, &rig.path("root.pem"), None);
        let request = || v6::GetCertRequest { r#type: "cm".into(), ..Default::default() };
        IamPublicCertServiceClient::new(channel.clone()).get_cert(request()).await.unwrap_err();

        tool(&["tpm2_dictionarylockout", "--clear-lockout"]);
        eventually("servers that show their certificate", async || {
            IamPublicCertServiceClient::new(channel.clone()).get_cert(request()).await.ok()
        })
        .await;
        health(true).await;
        let orders = tls_channel(&daemon.protected, &rig.path("root.pem"), Some(authority.client()));
        let request = v6::CreateKeyRequest { r#type: "online".into(), ..Default::default() };
        let made = IamCertificateServiceClient::new(orders).create_key(request).await.unwrap().into_inner();
        assert_eq!(made.error, None);
        daemon.stop().await;
    });
}

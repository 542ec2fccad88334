//! A TPM that dies and comes back while the daemon runs.

use std::process::{Child, Command, Stdio};

use aos_unit_api::iamanager::v6;
use serde_json::json;

use crate::authority::Authority;
use crate::emulator::{tpm_module, two_ports};
use crate::rig::{PASSWORD, Rig, eventually, start, with_softhsm_under};

const PORTS: &str = "AOS_IAM_TEST_TPM_PORTS";

/// A running emulator; dies as a TPM does that loses its power when dropped.
struct Tpm(Child);

impl Drop for Tpm {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn run_tpm(rig: &Rig) -> Tpm {
    let ports = std::env::var(PORTS).unwrap();
    let (port, control) = ports.split_once(' ').unwrap();
    let state = rig.path("tpm");
    std::fs::create_dir_all(&state).unwrap();
    let tpm = Command::new("swtpm")
        .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear", "--tpmstate"])
        .arg(format!("dir={}", state.display()))
        .args(["--server", &format!("type=tcp,bindaddr=127.0.0.1,port={port}")])
        .args(["--ctrl", &format!("type=tcp,bindaddr=127.0.0.1,port={control}")])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the TPM", async || listens().then_some(())).await;
    Tpm(tpm)
}

fn listens() -> bool {
    let ports = std::env::var(PORTS).unwrap();
    let control = ports.split_once(' ').unwrap().1.parse::<u16>().unwrap();
    std::net::TcpStream::connect(("127.0.0.1", control)).is_ok()
}

#[test]
fn a_tpm_that_is_restarted_is_used_again() {
    let name = "tpm_restart::a_tpm_that_is_restarted_is_used_again";
    let there = |program: &str| {
        let paths = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
        paths.split(':').any(|dir| std::path::Path::new(dir).join(program).exists())
    };
    if !std::path::Path::new(&tpm_module()).exists() || !there("swtpm") {
        println!("SKIPPED: no emulated TPM here; packaging/setup-host.sh installs it");
        return;
    }
    let (port, control) = two_ports();
    let ports = format!("{PORTS}={port} {control}");
    let tcti = format!("TPM2_PKCS11_TCTI=swtpm:host=127.0.0.1,port={port}");
    // Only the daemon uses this TPM, so that no resource manager is needed, which would die with it.
    let script = "mkdir -p \"$AOS_IAM_TEST_DIR/store\"; export TPM2_PKCS11_STORE=\"$AOS_IAM_TEST_DIR/store\"; exec \"$@\"";
    with_softhsm_under(name, &["env", &ports, &tcti, "sh", "-c", script, "sh"], async |rig| {
        rig.prepare(|config| {
            let modules = config["certModules"].as_array_mut().unwrap();
            modules.retain(|module| module["id"] == "online");
            for module in modules {
                module["params"]["library"] = json!(tpm_module());
            }
        });
        let tpm = run_tpm(&rig).await;
        let authority = Authority::new("Unit CA");
        let daemon = rig.start("provisioning").await;
        let answer = daemon.provisioning().start_provisioning(start(PASSWORD)).await.unwrap().into_inner();
        assert_eq!(answer.error, None);
        let kept = daemon.issue(&authority, "online", 2100).await;
        let csr = daemon.create_key("online").await;

        drop(tpm);
        let request = v6::CreateKeyRequest { r#type: "online".into(), ..Default::default() };
        let refused = daemon.certificates().create_key(request.clone()).await.unwrap().into_inner();
        let error = refused.error.unwrap();
        assert!(error.message.contains("'online'"), "{}", error.message);
        let get = v6::GetCertRequest { r#type: "online".into(), ..Default::default() };
        assert_eq!(daemon.certs().get_cert(get).await.unwrap().into_inner().serial, kept.serial);

        let tpm = run_tpm(&rig).await;
        let made = daemon.certificates().create_key(request).await.unwrap().into_inner();
        assert_eq!(made.error, None);
        assert_eq!(daemon.apply("online", &authority.sign(&csr, 2101)).await.error, None, "the waiting key");
        daemon.issue(&authority, "online", 2102).await;
        daemon.stop().await;
        drop(tpm);
    });
}

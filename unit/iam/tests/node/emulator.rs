//! An emulated TPM 2.0 behind a resource manager, as devices have.

use std::path::Path;
use std::process::Command;

use crate::rig::{DAEMON, DIR, Rig, softhsm};

/// The PKCS#11 module of TPMs, and what emulates one.
pub fn tpm_module() -> String {
    format!("/usr/lib/{}-linux-gnu/libtpm2_pkcs11.so.1", std::env::consts::ARCH)
}

const TPM_PROGRAMS: [&str; 5] = ["swtpm", "tpm2-abrmd", "dbus-run-session", "tpm2_getcap", "pkcs11-tool"];
/// Runs the resource manager and, once it answers, the test.
const WITH_RESOURCE_MANAGER: &str = "
    tpm2-abrmd --session --allow-root --tcti=swtpm:host=127.0.0.1,port=$TPM_PORT & manager=$!
    tries=0
    until tpm2_getcap -T tabrmd:bus_type=session properties-fixed >/dev/null 2>&1; do
        tries=$((tries + 1)); [ $tries -lt 300 ] || exit 9
    done
    export TPM_MANAGER=$manager
    \"$@\"; status=$?
    kill $manager; wait $manager; exit $status
";

/// As [`with_softhsm`], with an emulated TPM 2.0 behind a resource manager, as devices have. Says so and does
/// nothing where the packages are missing.
pub fn with_tpm<F: Future<Output = ()>>(name: &str, body: impl FnOnce(Rig) -> F) {
    if std::env::var_os(DAEMON).is_some() {
        return;
    }
    if let Some(dir) = std::env::var_os(DIR) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(body(Rig { dir: dir.into() }));
        return;
    }
    let paths = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin";
    let there = |program: &&str| paths.split(':').any(|dir| Path::new(dir).join(program).exists());
    if !Path::new(&tpm_module()).exists() || !TPM_PROGRAMS.iter().all(there) {
        println!("SKIPPED: no emulated TPM here; packaging/setup-host.sh installs it");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for name in ["tpm", "store", "tokens"] {
        std::fs::create_dir(dir.path().join(name)).unwrap();
    }
    let configuration = softhsm(dir.path());
    let (port, control) = two_ports();
    let mut tpm = Command::new("swtpm")
        .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear", "--tpmstate"])
        .arg(format!("dir={}", dir.path().join("tpm").display()))
        .args(["--server", &format!("type=tcp,bindaddr=127.0.0.1,port={port}")])
        .args(["--ctrl", &format!("type=tcp,bindaddr=127.0.0.1,port={control}")])
        .spawn()
        .unwrap();
    let output = Command::new("dbus-run-session")
        .args(["--", "sh", "-c", WITH_RESOURCE_MANAGER, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env("PATH", paths)
        .env("TPM_PORT", port.to_string())
        .env("TPM2_PKCS11_TCTI", "tabrmd:bus_type=session")
        .env("TPM2_PKCS11_STORE", dir.path().join("store"))
        .env("SOFTHSM2_CONF", configuration)
        .env(DIR, dir.path())
        .output()
        .unwrap();
    let _ = tpm.kill();
    tpm.wait().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// A free port whose follower is free too: the second is where the emulator is controlled.
pub fn two_ports() -> (u16, u16) {
    loop {
        let first = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if let Some(second) = first.checked_add(1)
            && std::net::TcpListener::bind(("127.0.0.1", second)).is_ok()
        {
            return (first, second);
        }
    }
}

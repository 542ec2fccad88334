//! The Service Manager as a process of its own, and what can be seen of it from outside.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::sync::Arc;

use aos_sm::{Config, Surroundings, runtime_id};
use aos_unit_api::common::v2::{ArchInfo, OsInfo};
use aos_unit_api::iamanager::v6::{CpuInfo, NodeInfo};
use aos_unit_api::servicemanager::v5::sm_outgoing_messages::SmOutgoingMessage as FromSm;
use serde_json::{Value, json};

use crate::cm::{Cm, wait_for};
use crate::image::Blobs;

/// Set where the kernel has no packet filter.
pub const NO_FIREWALL: &str = "AOS_TEST_FIREWALL_OFF";

/// Node the tests describe.
pub const NODE: &str = "node1";

/// A running Service Manager with its folders.
pub struct Sm {
    pub folder: tempfile::TempDir,
    pub blobs: Blobs,
    pub cm: Cm,
    child: Option<Child>,
    /// Identifier of the runtime.
    pub runtime: String,
}

/// Body of the child process.
pub fn run_here(config: &str) -> ExitCode {
    let level = if std::env::var_os("AOS_TEST_VERBOSE").is_some() {
        aos_logging::Level::Debug
    } else {
        aos_logging::Level::Warning
    };
    aos_logging::init("sm", level, aos_logging::Output::Stdout).unwrap();
    // Nothing of this machine: it is told as IAM has it.
    let arch = ArchInfo { architecture: "arm64".into(), ..Default::default() };
    let node = NodeInfo {
        node_id: NODE.into(),
        max_dmips: 10_000,
        total_ram: 1 << 30,
        cpus: vec![CpuInfo { num_cores: 2, arch_info: Some(arch), ..Default::default() }],
        os_info: Some(OsInfo { os: "linux".into(), ..Default::default() }),
        ..Default::default()
    };
    let config = Config::load(Path::new(config)).unwrap();
    let surroundings = Surroundings {
        // Where there are roots there is an IAM, which describes the node.
        plain_node: config.ca_cert.is_none().then_some(node),
        keeper: std::env::current_exe().unwrap(),
        status_dir: PathBuf::from("/run/aos-status"),
    };
    match aos_sm::run_with(config, surroundings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sm: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Sm {
    /// Starts CM and SM with the given OCI runtime.
    pub async fn start(runtime: &str) -> Self {
        Self::start_with(runtime, |_| {}).await
    }

    /// The same with changes to the configuration.
    pub async fn start_with(runtime: &str, change: impl FnOnce(&mut Value)) -> Self {
        let mut sm = Self::prepare(runtime, None, change).await;
        sm.launch();
        sm.cm.wait_connected().await;
        sm
    }

    /// CM, over TLS if it has a configuration for it, and everything for an SM that is not launched yet.
    pub async fn prepare(
        runtime: &str,
        tls: Option<&Arc<rustls::ServerConfig>>,
        change: impl FnOnce(&mut Value),
    ) -> Self {
        let folder = tempfile::Builder::new().prefix("aos-sm-").tempdir_in("/var/tmp").unwrap();
        let dir = folder.path().join("blobs");
        fs::create_dir(&dir).unwrap();
        let cm = match tls {
            Some(tls) => Cm::start_secure(dir.clone(), tls).await,
            None => Cm::start(dir.clone()).await,
        };
        let program = ["/usr/bin", "/usr/sbin"]
            .iter()
            .map(|dir| format!("{dir}/{runtime}"))
            .find(|p| Path::new(p).exists());
        let mut config = json!({
            "workingDir": folder.path().join("work"), "cmServerURL": cm.url, "iamPublicServerURL": "unused:1",
            "cmReconnectTimeout": "200ms", "resourcesConfigFile": folder.path().join("resources.cfg"),
            "runtimes": [{"plugin": "container", "type": runtime, "config": {
                "runtimeDir": "/run/aos/runtime", "crunStateRoot": "/run/oci", "crunExecutable": program.expect("no OCI runtime"),
                "cgroupParent": "/aos-test", "stopGrace": "1s", "logMaxBytes": 65536}}],
        });
        if std::env::var_os(NO_FIREWALL).is_some() {
            config["network"] = json!({"firewall": "off"});
        }
        change(&mut config);
        fs::write(folder.path().join("sm.cfg"), config.to_string()).unwrap();
        Self { folder, blobs: Blobs { dir }, cm, child: None, runtime: runtime_id(runtime, NODE) }
    }

    pub fn launch(&mut self) {
        assert!(self.child.is_none());
        let program = std::env::current_exe().unwrap();
        let child = Command::new(program).arg("sm").arg(self.folder.path().join("sm.cfg")).spawn().unwrap();
        self.child = Some(child);
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGKILL and a new one, which has connected when this returns.
    pub async fn restart(&mut self) {
        self.kill();
        self.cm.clear();
        self.launch();
        self.cm.wait_message(|message| matches!(message, FromSm::SmInfo(_)).then_some(())).await;
    }

    /// SIGTERM and an orderly end.
    pub fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        assert!(child.wait().unwrap().success());
    }

    /// The local status.
    pub async fn status(&self) -> Value {
        wait_for("the local status", || aos_local_status::read(Path::new("/run/aos-status"), "sm").ok()).await
    }

    /// One instance in the local status.
    pub async fn instance(&self, instance: u64) -> Value {
        let status = self.status().await;
        let list = status["instances"].as_array().unwrap();
        list.iter().find(|entry| entry["instance"] == instance).cloned().unwrap_or(Value::Null)
    }

    pub fn log(&self, id: &str) -> String {
        fs::read_to_string(self.folder.path().join("work/logs").join(format!("{id}.log"))).unwrap_or_default()
    }
}

impl Drop for Sm {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let logs = fs::read_dir(self.folder.path().join("work/logs")).into_iter().flatten().flatten();
            for log in logs {
                eprintln!(
                    "{}:\n{}",
                    log.path().display(),
                    fs::read_to_string(log.path()).unwrap_or_default()
                );
            }
        }
        // Overlays still mounted would keep the folder busy; the box takes them down anyway.
        for entry in fs::read_dir("/run/aos/runtime").into_iter().flatten().flatten() {
            let _ = nix::mount::umount2(&entry.path().join("rootfs"), nix::mount::MntFlags::MNT_DETACH);
        }
    }
}

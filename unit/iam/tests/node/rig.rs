//! A node to test on: files, an empty SoftHSM, a certificate authority, and the daemon as a process of
//! its own that can be stopped or killed at any time.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aos_iam::{App, Args};
use aos_supervise::Shutdown;
use aos_tls::HostCheck;
use aos_unit_api::iamanager::v6;
use aos_unit_api::iamanager::v6::iam_certificate_service_client::IamCertificateServiceClient;
use aos_unit_api::iamanager::v6::iam_provisioning_service_client::IamProvisioningServiceClient;
use aos_unit_api::iamanager::v6::iam_public_cert_service_client::IamPublicCertServiceClient;
use rustls::sign::CertifiedKey;
use serde_json::{Value, json};
use tonic::transport::Channel;

use crate::authority::Authority;

pub const PASSWORD: &str = "so-pin-1";
pub const MODULE: &str = aos_token::DEFAULT_MODULE;
pub const DIR: &str = "AOS_IAM_TEST_DIR";
pub const DAEMON: &str = "AOS_IAM_TEST_DAEMON";
const DEADLINE: Duration = Duration::from_secs(30);
/// A life after which a node asks for new certificates at once, and again every second.
pub const SHORT: Duration = Duration::from_secs(6);

/// Runs `body` in a process of its own with an empty SoftHSM. `name` is the test's name.
pub fn with_softhsm<F: Future<Output = ()>>(name: &str, body: impl FnOnce(Rig) -> F) {
    with_softhsm_under(name, &[], body);
}

/// As [`with_softhsm`]; `wrapper` is a command that runs the one given to it.
pub fn with_softhsm_under<F: Future<Output = ()>>(name: &str, wrapper: &[&str], body: impl FnOnce(Rig) -> F) {
    if std::env::var_os(DAEMON).is_some() {
        return;
    }
    if let Some(dir) = std::env::var_os(DIR) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(body(Rig { dir: dir.into() }));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("tokens")).unwrap();
    let configuration = softhsm(dir.path());
    let own = std::env::current_exe().unwrap();
    let mut line = wrapper.iter().map(std::ffi::OsStr::new).chain([own.as_os_str()]);
    let output = Command::new(line.next().unwrap())
        .args(line)
        .args(["--exact", name, "--nocapture"])
        .env("SOFTHSM2_CONF", &configuration)
        .env(DIR, dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// The configuration of a SoftHSM in this folder.
pub fn softhsm(dir: &Path) -> PathBuf {
    let (configuration, tokens) = (dir.join("softhsm2.conf"), dir.join("tokens"));
    std::fs::write(&configuration, format!("directories.tokendir = {}\n", tokens.display())).unwrap();
    configuration
}

/// The daemon's side: every test binary has a test of this name that calls it.
pub fn be_daemon() {
    let Some(mode) = std::env::var_os(DAEMON) else { return };
    let dir = PathBuf::from(std::env::var_os(DIR).unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let result = runtime.block_on(async {
        let args = Args { config: dir.join("iam.cfg"), provisioning: mode == "provisioning" };
        let shutdown = Shutdown::on_signals().unwrap();
        let app = App::start(args, dir.join("run"), shutdown)
            .await
            .map_err(|error| aos_logging::with_causes(&error))?;
        let addresses = format!("{} {}", app.public_addr(), app.protected_addr());
        aos_durable::write_atomic(&dir.join("addresses"), addresses.as_bytes(), 0o600).unwrap();
        app.run().await.map_err(|error| aos_logging::with_causes(&error))
    });
    if let Err(error) = result {
        std::fs::write(dir.join("error"), &error).unwrap();
        std::process::exit(1);
    }
}

/// Waits for a condition.
pub async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < end, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The node's files.
pub struct Rig {
    pub dir: PathBuf,
}

impl Rig {
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Another node beside this one, with the same SoftHSM.
    pub fn beside(&self, name: &str) -> Self {
        let dir = self.path(name);
        std::fs::create_dir(&dir).unwrap();
        Self { dir }
    }

    /// Writes what every node has; `change` may alter the configuration.
    pub fn prepare(&self, change: impl FnOnce(&mut Value)) {
        let text = |name: &str| self.path(name).to_string_lossy().into_owned();
        std::fs::write(self.path("machine-id"), "node-main\n").unwrap();
        std::fs::write(self.path("system-id"), "unit-under-test\n").unwrap();
        std::fs::write(self.path("model"), "model;1.0\n").unwrap();
        std::fs::write(self.path("subjects"), "subject-1\nsubject-2\n").unwrap();
        let module = |id: &str, algorithm: &str, token: &str, max: u32| {
            json!({
                "id": id, "plugin": "pkcs11module", "algorithm": algorithm, "maxItems": max,
                "params": {
                    "library": MODULE, "tokenLabel": token, "userPinPath": text("pins/user"),
                    "modulePathInUrl": true,
                },
            })
        };
        let mut iam = module("iam", "ecc", "aoscore", 2);
        iam["extendedKeyUsage"] = json!(["serverAuth", "clientAuth"]);
        iam["alternativeNames"] = json!(["gateway", "localhost"]);
        let mut cm = module("cm", "ecc", "aoscore", 2);
        cm["extendedKeyUsage"] = json!(["clientAuth", "serverAuth"]);
        let mut disk = module("diskencryption", "rsa", "aoscore", 1);
        disk["selfSigned"] = json!(true);
        let mut config = json!({
            "caCert": text("root.pem"),
            "certStorage": "iam",
            "iamPublicServerUrl": "127.0.0.1:0",
            "iamProtectedServerUrl": "127.0.0.1:0",
            "workingDir": text("work"),
            "migration": {"migrationPath": "/nowhere", "mergedMigrationPath": "/nowhere"},
            "enablePermissionsHandler": true,
            "nodeInfo": {
                "provisioningStatePath": text("state"), "nodeIdPath": text("machine-id"),
                "nodeName": "gateway", "nodeType": "main-type", "maxDmips": 1000,
                "attrs": {"MainNode": "", "AosComponents": "cm,iam,sm"},
            },
            "identifier": {"plugin": "fileidentifier", "params": {
                "systemIdPath": text("system-id"), "unitModelPath": text("model"),
                "subjectsPath": text("subjects"),
            }},
            "certModules": [
                module("online", "ecc", "aoscloud", 2), module("offline", "rsa", "aoscloud", 5),
                iam, cm, disk,
            ],
        });
        change(&mut config);
        std::fs::write(self.path("iam.cfg"), config.to_string()).unwrap();
    }

    /// Starts the daemon and waits until it listens.
    pub async fn start(&self, mode: &str) -> Daemon {
        let mut child = self.spawn(mode);
        let file = self.path("addresses");
        let addresses = eventually("start of the daemon", async || {
            if let Some(status) = child.try_wait().unwrap() {
                let error = std::fs::read_to_string(self.path("error")).unwrap_or_default();
                panic!("daemon ended with {status}: {error}");
            }
            std::fs::read_to_string(&file).ok()
        })
        .await;
        let (public, protected) = addresses.split_once(' ').unwrap();
        Daemon { child, public: public.into(), protected: protected.into() }
    }

    /// Starts the daemon, which must refuse; returns why.
    pub async fn start_refused(&self, mode: &str) -> String {
        let mut child = self.spawn(mode);
        let status = eventually("end of the daemon", async || child.try_wait().unwrap()).await;
        assert!(!status.success(), "daemon should have refused");
        std::fs::read_to_string(self.path("error")).unwrap()
    }

    /// Starts the daemon so that it dies at step `die_at` (never at 0) and writes the names of its steps to
    /// `steps`. `None` when it died before it listened.
    pub async fn start_mortal(&self, mode: &str, die_at: u64) -> Option<Daemon> {
        let mut child = self.spawn_with(
            mode,
            &[("AOS_IAM_DIE_AT", die_at.to_string().into()), ("AOS_IAM_STEPS", self.path("steps").into())],
        );
        let file = self.path("addresses");
        let addresses = eventually("start or death of the daemon", async || {
            if let Some(status) = child.try_wait().unwrap() {
                let error = std::fs::read_to_string(self.path("error")).unwrap_or_default();
                assert!(status.code().is_none(), "daemon ended with {status}: {error}");
                return Some(String::new());
            }
            std::fs::read_to_string(&file).ok()
        })
        .await;
        let (public, protected) = addresses.split_once(' ')?;
        Some(Daemon { child, public: public.into(), protected: protected.into() })
    }

    fn spawn(&self, mode: &str) -> Child {
        self.spawn_with(mode, &[])
    }

    fn spawn_with(&self, mode: &str, environment: &[(&str, std::ffi::OsString)]) -> Child {
        let _ = std::fs::remove_file(self.path("addresses"));
        let _ = std::fs::remove_file(self.path("error"));
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "daemon", "--nocapture"])
            .env(DAEMON, mode)
            // Must not reach the programs that the daemon runs.
            .env("NOTIFY_SOCKET", "/nowhere/notify")
            .env(DIR, &self.dir)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// Provisions the node over plain text, as an external tool does.
    pub async fn provision(&self, authority: &Authority) {
        std::fs::write(self.path("root.pem"), authority.pem()).unwrap();
        let daemon = self.start("provisioning").await;
        let mut client = daemon.provisioning();
        let answer = client.start_provisioning(start(PASSWORD)).await.unwrap().into_inner();
        assert_eq!(answer.error, None);
        let types = client.get_cert_types(v6::GetCertTypesRequest::default()).await.unwrap().into_inner();
        for cert_type in types.types {
            daemon.issue(authority, &cert_type, 2100).await;
        }
        let answer = client.finish_provisioning(v6::FinishProvisioningRequest::default()).await.unwrap();
        assert_eq!(answer.into_inner().error, None);
        daemon.stop().await;
    }
}

pub fn start(password: &str) -> v6::StartProvisioningRequest {
    v6::StartProvisioningRequest { node_id: String::new(), password: password.into() }
}

/// A running daemon; killed when dropped.
pub struct Daemon {
    child: Child,
    pub public: String,
    pub protected: String,
}

impl Daemon {
    pub fn provisioning(&self) -> IamProvisioningServiceClient<Channel> {
        IamProvisioningServiceClient::new(plain_channel(&self.protected))
    }

    pub fn certificates(&self) -> IamCertificateServiceClient<Channel> {
        IamCertificateServiceClient::new(plain_channel(&self.protected))
    }

    pub fn certs(&self) -> IamPublicCertServiceClient<Channel> {
        IamPublicCertServiceClient::new(plain_channel(&self.public))
    }

    pub async fn create_key(&self, cert_type: &str) -> String {
        let request = v6::CreateKeyRequest { r#type: cert_type.into(), ..Default::default() };
        let answer = self.certificates().create_key(request).await.unwrap().into_inner();
        assert_eq!(answer.error, None);
        assert_eq!(answer.r#type, cert_type);
        answer.csr
    }

    pub async fn apply(&self, cert_type: &str, chain: &str) -> v6::ApplyCertResponse {
        apply_on(plain_channel(&self.protected), cert_type, chain).await
    }

    /// Key, certificate valid until `year`, all applied.
    pub async fn issue(&self, authority: &Authority, cert_type: &str, year: i32) -> v6::CertInfo {
        let csr = self.create_key(cert_type).await;
        let answer = self.apply(cert_type, &authority.sign(&csr, year)).await;
        assert_eq!(answer.error, None);
        answer.cert_info.unwrap()
    }

    /// SIGTERM, and the end in order.
    pub async fn stop(self) {
        assert!(self.stopped().await, "killed");
    }

    /// As [`Self::stop`]; `false` when it was dead already.
    pub async fn stopped(mut self) -> bool {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = eventually("orderly stop", async || self.child.try_wait().unwrap()).await;
        assert!(status.success() || status.code().is_none(), "stopped with {status}");
        status.success()
    }

    /// Waits for the end that the daemon brings itself.
    pub async fn dead(mut self) {
        let status = eventually("death of the daemon", async || self.child.try_wait().unwrap()).await;
        assert!(status.code().is_none(), "ended with {status}");
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub async fn apply_on(channel: Channel, cert_type: &str, chain: &str) -> v6::ApplyCertResponse {
    let request = v6::ApplyCertRequest { r#type: cert_type.into(), cert: chain.into(), ..Default::default() };
    IamCertificateServiceClient::new(channel).apply_cert(request).await.unwrap().into_inner()
}

/// A channel without TLS.
pub fn plain_channel(address: &str) -> Channel {
    aos_tls::plain_grpc_channel(address).unwrap()
}

/// A channel over TLS that trusts the root in `roots`.
pub fn tls_channel(address: &str, roots: &Path, identity: Option<Arc<CertifiedKey>>) -> Channel {
    let roots = aos_tls::roots_from_pem_file(roots).unwrap();
    let config = aos_tls::client_config(roots, identity, HostCheck::ChainOnly).unwrap();
    aos_tls::grpc_channel(address, &config).unwrap()
}

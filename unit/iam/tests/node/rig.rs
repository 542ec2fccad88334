//! A node to test on: files, an empty SoftHSM, a certificate authority, and the daemon as a process of
//! its own that can be stopped or killed at any time.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

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

pub const PASSWORD: &str = "so-pin-1";
pub const MODULE: &str = aos_token::DEFAULT_MODULE;
const DIR: &str = "AOS_IAM_TEST_DIR";
const DAEMON: &str = "AOS_IAM_TEST_DAEMON";
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
fn softhsm(dir: &Path) -> PathBuf {
    let (configuration, tokens) = (dir.join("softhsm2.conf"), dir.join("tokens"));
    std::fs::write(&configuration, format!("directories.tokendir = {}\n", tokens.display())).unwrap();
    configuration
}

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
    dir: PathBuf,
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

/// A certificate authority with its key in memory.
pub struct Authority {
    certificate: rcgen::Certificate,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self { certificate, issuer: rcgen::Issuer::new(params, key) }
    }

    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// The certificate for a request, with the root: the chain to apply.
    pub fn sign(&self, csr: &str, year: i32) -> String {
        self.sign_leaf(csr, year) + &self.pem()
    }

    pub fn sign_leaf(&self, csr: &str, year: i32) -> String {
        self.sign_from(csr, rcgen::date_time_ymd(2020, 1, 1).into(), rcgen::date_time_ymd(year, 1, 1).into())
    }

    /// The certificate alone, valid in this time.
    pub fn sign_from(&self, csr: &str, from: SystemTime, until: SystemTime) -> String {
        let mut request = rcgen::CertificateSigningRequestParams::from_pem(csr).unwrap();
        request.params.not_before = from.into();
        request.params.not_after = until.into();
        request.signed_by(&self.issuer).unwrap().pem()
    }

    /// The chain to apply, of a certificate that names the address of its cloud.
    pub fn sign_for_cloud(&self, csr: &str, address: &str) -> String {
        let mut request = rcgen::CertificateSigningRequestParams::from_pem(csr).unwrap();
        request.params.not_after = rcgen::date_time_ymd(2100, 1, 1);
        let length = u8::try_from(address.len()).unwrap();
        let names = [&[0x30, length + 2, 0x86, length], address.as_bytes()].concat();
        let issuer_names = rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 18], names);
        request.params.custom_extensions.push(issuer_names);
        request.signed_by(&self.issuer).unwrap().pem() + &self.pem()
    }

    /// The chain to apply, of a certificate that lived for [`SHORT`] and has ended.
    pub fn sign_ended(&self, csr: &str) -> String {
        let end = SystemTime::from(rcgen::date_time_ymd(2021, 1, 1));
        self.sign_from(csr, end - SHORT, end) + &self.pem()
    }

    /// A client with a key in memory.
    pub fn client(&self) -> Arc<CertifiedKey> {
        self.client_of("a client of nobody")
    }

    /// As [`Self::client`], with this common name.
    pub fn client_of(&self, name: &str) -> Arc<CertifiedKey> {
        self.key_of(name, rcgen::ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// A server with a key in memory.
    pub fn server(&self, name: &str) -> Arc<CertifiedKey> {
        self.key_of(name, rcgen::ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// As [`Self::client_of`], valid in this time.
    pub fn client_valid(&self, name: &str, from: SystemTime, until: SystemTime) -> Arc<CertifiedKey> {
        self.key_with(name, rcgen::ExtendedKeyUsagePurpose::ClientAuth, |params| {
            params.not_before = from.into();
            params.not_after = until.into();
        })
    }

    fn key_of(&self, name: &str, usage: rcgen::ExtendedKeyUsagePurpose) -> Arc<CertifiedKey> {
        self.key_with(name, usage, |_| {})
    }

    fn key_with(
        &self,
        name: &str,
        usage: rcgen::ExtendedKeyUsagePurpose,
        change: impl FnOnce(&mut rcgen::CertificateParams),
    ) -> Arc<CertifiedKey> {
        let key = rcgen::KeyPair::generate().unwrap();
        let named =
            if usage == rcgen::ExtendedKeyUsagePurpose::ServerAuth { vec![name.to_owned()] } else { vec![] };
        let mut params = rcgen::CertificateParams::new(named).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let der = rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let key = aos_tls::provider().key_provider.load_private_key(der).unwrap();
        Arc::new(CertifiedKey::new(vec![certificate.der().clone()], key))
    }
}

//! The connection to CM over TLS: whose certificate is shown, and when another one is.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use aos_tls::{ClientAuth, Incoming, Protocol, grpc_server, server_config};
use aos_token::load_identity;
use aos_unit_api::iamanager::v6;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};
use v6::iam_public_cert_service_server::{IamPublicCertService, IamPublicCertServiceServer};
use v6::iam_public_current_node_service_server::{
    IamPublicCurrentNodeService, IamPublicCurrentNodeServiceServer,
};

use crate::cm::wait_for;
use crate::image::wish;
use crate::sm::{NODE, Sm};
use crate::tests::{number, with_tmp};

/// An authority that keeps certificates and keys in files.
struct Pki {
    dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap();
        std::fs::write(dir.path().join("root.pem"), root.pem()).unwrap();
        Self { dir, issuer: Issuer::new(params, key) }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root.pem")
    }

    fn issue(&self, name: &str) -> v6::CertInfo {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let file = |ending: &str| self.dir.path().join(format!("{name}.{ending}"));
        std::fs::write(file("pem"), certificate.pem()).unwrap();
        std::fs::write(file("key"), key.serialize_pem()).unwrap();
        let url = |path: &Path| format!("file:{}", path.display());
        v6::CertInfo {
            r#type: "sm".into(),
            cert_url: url(&file("pem")),
            key_url: url(&file("key")),
            ..Default::default()
        }
    }

    /// Configuration of a server of ours that wants certificates, or takes whoever comes.
    fn server(&self, name: &str, wants_certificates: bool) -> Arc<rustls::ServerConfig> {
        let info = self.issue(name);
        let identity = load_identity(&info.cert_url, &info.key_url).unwrap();
        let roots = aos_tls::roots_from_pem_file(&self.root()).unwrap();
        let clients = if wants_certificates { ClientAuth::Required(roots) } else { ClientAuth::None };
        server_config(identity.certified_key(), clients).unwrap()
    }
}

/// The public side of an IAM: the description of the node, and a certificate that can be changed.
#[derive(Clone)]
struct Iam {
    certificate: Arc<watch::Sender<Option<v6::CertInfo>>>,
    server: Arc<Mutex<Option<AbortHandle>>>,
}

impl Iam {
    async fn start(pki: &Pki) -> (Self, String) {
        let iam = Self { certificate: Arc::new(watch::Sender::new(None)), server: Arc::default() };
        let config = pki.server("iam", false);
        let incoming = Incoming::bind_tls("127.0.0.1:0", &config, Protocol::Grpc).await.unwrap();
        let address = incoming.local_addr().to_string();
        let server = grpc_server()
            .add_service(IamPublicCertServiceServer::new(iam.clone()))
            .add_service(IamPublicCurrentNodeServiceServer::new(iam.clone()));
        let task = tokio::spawn(server.serve_with_incoming(incoming.into_stream()));
        *iam.server.lock().unwrap() = Some(task.abort_handle());
        (iam, address)
    }

    /// Nobody can connect any more.
    fn go_away(&self) {
        self.server.lock().unwrap().take().unwrap().abort();
    }
}

#[tonic::async_trait]
impl IamPublicCertService for Iam {
    async fn get_cert(&self, _: Request<v6::GetCertRequest>) -> Result<Response<v6::CertInfo>, Status> {
        let info = self.certificate.borrow().clone();
        info.map(Response::new).ok_or_else(|| Status::internal("not found"))
    }

    type SubscribeCertChangedStream = BoxStream<'static, Result<v6::CertInfo, Status>>;

    async fn subscribe_cert_changed(
        &self,
        _: Request<v6::SubscribeCertChangedRequest>,
    ) -> Result<Response<Self::SubscribeCertChangedStream>, Status> {
        let stream = WatchStream::from_changes(self.certificate.subscribe());
        Ok(Response::new(stream.map(|info| Ok(info.unwrap_or_default())).boxed()))
    }
}

#[tonic::async_trait]
impl IamPublicCurrentNodeService for Iam {
    async fn get_current_node_info(&self, _: Request<()>) -> Result<Response<v6::NodeInfo>, Status> {
        let cpus = vec![v6::CpuInfo { num_cores: 2, ..Default::default() }];
        let (node_id, total_ram) = (NODE.to_owned(), 1 << 30);
        Ok(Response::new(v6::NodeInfo { node_id, max_dmips: 10_000, total_ram, cpus, ..Default::default() }))
    }

    type SubscribeCurrentNodeChangedStream = BoxStream<'static, Result<v6::NodeInfo, Status>>;

    async fn subscribe_current_node_changed(
        &self,
        _: Request<()>,
    ) -> Result<Response<Self::SubscribeCurrentNodeChangedStream>, Status> {
        Ok(Response::new(futures_util::stream::pending().boxed()))
    }
}

/// CM that wants certificates or does not, IAM without any yet, and an SM that is not launched.
async fn scene(pki: &Pki, wants_certificates: bool, insecure: bool) -> (Sm, Iam) {
    let (iam, address) = Iam::start(pki).await;
    let tls = pki.server("cm", wants_certificates);
    let sm = Sm::prepare("crun", Some(&tls), |config| {
        config["caCert"] = json!(pki.root());
        config["iamPublicServerURL"] = json!(address);
        config["iamProtectedServerURL"] = json!(address);
        config["certStorage"] = json!("sm");
        if insecure {
            config["insecure"] = json!(true);
        }
    });
    (sm.await, iam)
}

// SM-11, SM-22, SM-25, SM-26, SM-79: another certificate is another stream, which shows it; services notice nothing.
pub async fn a_new_certificate_is_shown_on_a_new_stream() {
    let pki = Pki::new();
    let (mut sm, iam) = scene(&pki, true, false).await;
    sm.launch();
    // Without a certificate there is nothing to begin with.
    wait_for("the local status", || aos_local_status::read(Path::new("/run/aos-status"), "sm").ok()).await;
    assert_eq!(sm.cm.peers(), Vec::<String>::new());
    iam.certificate.send_replace(Some(pki.issue("first")));
    sm.cm.wait_connected().await;
    let image = sm.blobs.simple("exec /bin/busybox sleep 1000", with_tmp());
    sm.cm.update(vec![wish(0, "1.0.0", &image, &sm.runtime)], vec![]).await;
    sm.cm.wait_state(0, "active").await;
    let pid = sm.instance(0).await["pid"].clone();

    let changed = Instant::now();
    iam.certificate.send_replace(Some(pki.issue("second")));
    wait_for("a stream with the second", || (sm.cm.peers() == ["first", "second"]).then_some(())).await;
    let (began, _) = *sm.cm.sequence().iter().rfind(|(_, kind)| *kind == "RegisterSM").unwrap();
    assert!(began > changed);
    // The same one told again is no change: what CM asks for next goes over the same stream.
    let present = iam.certificate.borrow().clone();
    iam.certificate.send_replace(present);
    sm.cm
        .update(vec![wish(0, "1.0.0", &image, &sm.runtime), wish(1, "1.0.0", &image, &sm.runtime)], vec![])
        .await;
    sm.cm.wait_state(1, "active").await;
    assert_eq!(sm.cm.peers(), ["first", "second"]);
    assert_eq!(sm.instance(0).await["pid"], pid);
}

// SM-27: a development mode without a certificate of ours, only where the configuration asks for it; whoever
// wants certificates does not take it.
pub async fn without_a_certificate_only_where_it_is_asked_for() {
    let pki = Pki::new();
    let (mut sm, _iam) = scene(&pki, false, true).await;
    sm.launch();
    sm.cm.wait_connected().await;
    assert_eq!(sm.cm.peers(), [""]);
    let image = sm.blobs.simple("exec /bin/busybox sleep 1000", with_tmp());
    sm.cm.update(vec![wish(0, "1.0.0", &image, &sm.runtime)], vec![]).await;
    sm.cm.wait_state(0, "active").await;
    sm.stop();

    // The same mode against one that wants certificates: no stream, however often it is tried.
    let config = sm.folder.path().join("sm.cfg");
    let tls = pki.server("strict", true);
    let strict = crate::cm::Cm::start_secure(sm.blobs.dir.clone(), &tls).await;
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace(&sm.cm.url, &strict.url)).unwrap();
    sm.launch();
    wait_for("a refused try", || (strict.refusals() >= 2).then_some(())).await;
    assert_eq!(strict.peers(), Vec::<String>::new());
    assert_eq!(sm.status().await["cm"]["connected"], false);
}

// REL-02: a cold boot needs IAM as little as CM: the node is what IAM said last, and what is stored runs.
pub async fn a_start_without_iam_goes_by_what_it_said_last() {
    let pki = Pki::new();
    let (mut sm, iam) = scene(&pki, true, false).await;
    iam.certificate.send_replace(Some(pki.issue("first")));
    sm.launch();
    sm.cm.wait_connected().await;
    let image = sm.blobs.simple("exec /bin/busybox sleep 1000", with_tmp());
    sm.cm.update(vec![wish(0, "1.0.0", &image, &sm.runtime)], vec![]).await;
    sm.cm.wait_state(0, "active").await;
    let before = sm.instance(0).await;
    sm.stop();
    iam.go_away();
    let pid = nix::unistd::Pid::from_raw(number(&before["pid"]));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    sm.launch();
    let after = loop {
        let now = sm.instance(0).await;
        if now["state"] == "active" && now["pid"] != before["pid"] {
            break now;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    };
    assert_eq!(after["starts"], 2);
    let status = sm.status().await;
    assert_eq!((&status["node"], &status["cm"]["connected"]), (&json!(NODE), &json!(false)));
    assert_eq!(sm.cm.peers(), ["first"], "CM is not talked to without a certificate");
}

//! A small IAM. It runs in a thread and runtime of its own, so that killing it takes its connections along.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use aos_tls::{ClientAuth, Incoming, Protocol, grpc_server, peer_of, server_config};
use aos_token::{Identity, load_identity};
use aos_unit_api::iamanager::v6::iam_public_cert_service_server::{
    IamPublicCertService, IamPublicCertServiceServer,
};
use aos_unit_api::iamanager::v6::iam_public_current_node_service_server::{
    IamPublicCurrentNodeService, IamPublicCurrentNodeServiceServer,
};
use aos_unit_api::iamanager::v6::iam_public_identity_service_server::{
    IamPublicIdentityService, IamPublicIdentityServiceServer,
};
use aos_unit_api::iamanager::v6::iam_public_nodes_service_server::{
    IamPublicNodesService, IamPublicNodesServiceServer,
};
use aos_unit_api::iamanager::v6::{
    CertInfo, GetCertRequest, GetNodeInfoRequest, IamIncomingMessages, IamOutgoingMessages, NodeInfo,
    NodesId, Subjects, SubscribeCertChangedRequest, SystemInfo,
};
use aos_unit_api::iamanager::version::ApiVersion;
use aos_unit_api::iamanager::version::iam_version_service_server::{
    IamVersionService, IamVersionServiceServer,
};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use tokio::sync::{oneshot, watch};
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status, Streaming};

type Answer<T> = Result<Response<T>, Status>;

/// What IAM knows; it survives the process.
struct State {
    nodes: watch::Sender<NodeInfo>,
    node_states: Mutex<Vec<NodeInfo>>,
    subjects: watch::Sender<Vec<String>>,
    cert: watch::Sender<Option<CertInfo>>,
    silent: AtomicBool,
}

struct Secrets {
    identity: Identity,
    roots: Arc<RootCertStore>,
}

pub(super) struct Iam {
    process: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
    state: Arc<State>,
    secrets: Option<Arc<Secrets>>,
    pub(super) public: String,
    pub(super) protected: String,
}

fn node(id: &str, state: &str) -> NodeInfo {
    NodeInfo { node_id: id.into(), state: state.into(), ..NodeInfo::default() }
}

impl Iam {
    pub(super) fn plain() -> Self {
        Self::new(None)
    }

    pub(super) fn secure(pki: &Pki) -> Self {
        let info = pki.issue("iam");
        let identity = load_identity(&info.cert_url, &info.key_url).unwrap();
        let roots = aos_tls::roots_from_pem_file(&pki.root_file()).unwrap();
        Self::new(Some(Arc::new(Secrets { identity, roots })))
    }

    fn new(secrets: Option<Arc<Secrets>>) -> Self {
        let state = State {
            nodes: watch::Sender::new(NodeInfo::default()),
            node_states: Mutex::new(vec![node("main", "provisioned"), node("second", "provisioned")]),
            subjects: watch::Sender::new(vec!["driver".into()]),
            cert: watch::Sender::new(None),
            silent: AtomicBool::new(false),
        };
        let free = || "127.0.0.1:0".to_owned();
        Self { process: None, state: Arc::new(state), secrets, public: free(), protected: free() }.start()
    }

    /// Serves, on the same ports as before.
    pub(super) fn start(mut self) -> Self {
        let (state, secrets) = (Arc::clone(&self.state), self.secrets.clone());
        let (public, protected) = (self.public.clone(), self.protected.clone());
        let (ready, addresses) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let public = serve(&public, Arc::clone(&state), secrets.as_deref(), false).await;
                let protected = serve(&protected, state, secrets.as_deref(), true).await;
                ready.send((public, protected)).unwrap();
                // Dropping the other half stops as well.
                let _ = stopped.await;
            });
        });
        (self.public, self.protected) = addresses.recv().unwrap();
        self.process = Some((stop, thread));
        self
    }

    pub(super) fn kill(mut self) -> Self {
        let (stop, thread) = self.process.take().unwrap();
        drop(stop);
        thread.join().unwrap();
        self
    }

    pub(super) fn be_silent(&self) {
        self.state.silent.store(true, Ordering::Relaxed);
    }

    pub(super) fn change_cert(&self, info: CertInfo) {
        self.state.cert.send_replace(Some(info));
    }

    pub(super) fn change_node(&self, id: &str, state: &str) {
        let mut nodes = self.state.node_states.lock().unwrap();
        nodes.iter_mut().find(|node| node.node_id == id).unwrap().state = state.into();
        drop(nodes);
        self.state.nodes.send_replace(node(id, state));
    }

    pub(super) fn change_subjects(&self, subjects: &[&str]) {
        self.state.subjects.send_replace(subjects.iter().map(ToString::to_string).collect());
    }
}

async fn serve(address: &str, state: Arc<State>, secrets: Option<&Secrets>, protected: bool) -> String {
    let incoming = match secrets {
        None => Incoming::bind_plain(address).await.unwrap(),
        Some(secrets) => {
            let clients =
                if protected { ClientAuth::Required(Arc::clone(&secrets.roots)) } else { ClientAuth::None };
            let config = server_config(secrets.identity.certified_key(), clients).unwrap();
            Incoming::bind_tls(address, &config, Protocol::Grpc).await.unwrap()
        }
    };
    let address = incoming.local_addr().to_string();
    let services = Services(state);
    let server = grpc_server()
        .add_service(IamVersionServiceServer::new(services.clone()))
        .add_service(IamPublicCertServiceServer::new(services.clone()))
        .add_service(IamPublicCurrentNodeServiceServer::new(services.clone()))
        .add_service(IamPublicIdentityServiceServer::new(services.clone()))
        .add_service(IamPublicNodesServiceServer::new(services));
    tokio::spawn(server.serve_with_incoming(incoming.into_stream()));
    address
}

#[derive(Clone)]
struct Services(Arc<State>);

impl Services {
    /// Some servers answer a subscription with nothing before the first message.
    async fn acknowledge(&self) {
        if self.0.silent.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }
}

fn changes<T: Clone + Send + Sync + 'static, U: 'static>(
    sender: &watch::Sender<T>,
    message: impl Fn(T) -> U + Send + 'static,
) -> Response<BoxStream<'static, Result<U, Status>>> {
    let stream = WatchStream::from_changes(sender.subscribe());
    Response::new(stream.map(move |value| Ok(message(value))).boxed())
}

#[tonic::async_trait]
impl IamVersionService for Services {
    async fn get_api_version(&self, request: Request<()>) -> Answer<ApiVersion> {
        let name = peer_of(&request).and_then(|peer| peer.common_name.clone()).unwrap_or_default();
        let mut response = Response::new(ApiVersion { version: 6 });
        response.metadata_mut().insert("known-as", name.parse().unwrap());
        Ok(response)
    }
}

#[tonic::async_trait]
impl IamPublicCertService for Services {
    async fn get_cert(&self, _request: Request<GetCertRequest>) -> Answer<CertInfo> {
        let info = self.0.cert.borrow().clone();
        info.map(Response::new).ok_or_else(|| Status::internal("not found"))
    }

    type SubscribeCertChangedStream = BoxStream<'static, Result<CertInfo, Status>>;

    async fn subscribe_cert_changed(
        &self,
        _request: Request<SubscribeCertChangedRequest>,
    ) -> Answer<Self::SubscribeCertChangedStream> {
        self.acknowledge().await;
        if self.0.cert.borrow().is_none() {
            return Err(Status::internal("no certificate"));
        }
        Ok(changes(&self.0.cert, Option::unwrap_or_default))
    }
}

#[tonic::async_trait]
impl IamPublicCurrentNodeService for Services {
    async fn get_current_node_info(&self, _request: Request<()>) -> Answer<NodeInfo> {
        Ok(Response::new(node("main", "provisioned")))
    }

    type SubscribeCurrentNodeChangedStream = BoxStream<'static, Result<NodeInfo, Status>>;

    async fn subscribe_current_node_changed(
        &self,
        _request: Request<()>,
    ) -> Answer<Self::SubscribeCurrentNodeChangedStream> {
        Ok(changes(&self.0.nodes, |node| node))
    }
}

#[tonic::async_trait]
impl IamPublicIdentityService for Services {
    async fn get_system_info(&self, _request: Request<()>) -> Answer<SystemInfo> {
        Ok(Response::new(SystemInfo { system_id: "unit-1".into(), ..SystemInfo::default() }))
    }

    async fn get_subjects(&self, _request: Request<()>) -> Answer<Subjects> {
        Ok(Response::new(Subjects { subjects: self.0.subjects.borrow().clone() }))
    }

    type SubscribeSubjectsChangedStream = BoxStream<'static, Result<Subjects, Status>>;

    async fn subscribe_subjects_changed(
        &self,
        _request: Request<()>,
    ) -> Answer<Self::SubscribeSubjectsChangedStream> {
        self.acknowledge().await;
        Ok(changes(&self.0.subjects, |subjects| Subjects { subjects }))
    }
}

#[tonic::async_trait]
impl IamPublicNodesService for Services {
    async fn get_all_node_i_ds(&self, _request: Request<()>) -> Answer<NodesId> {
        let nodes = self.0.node_states.lock().unwrap();
        Ok(Response::new(NodesId { ids: nodes.iter().map(|node| node.node_id.clone()).collect() }))
    }

    async fn get_node_info(&self, request: Request<GetNodeInfoRequest>) -> Answer<NodeInfo> {
        let nodes = self.0.node_states.lock().unwrap();
        let found = nodes.iter().find(|node| node.node_id == request.get_ref().node_id);
        found.cloned().map(Response::new).ok_or_else(|| Status::internal("not found"))
    }

    type SubscribeNodeChangedStream = BoxStream<'static, Result<NodeInfo, Status>>;

    async fn subscribe_node_changed(
        &self,
        _request: Request<()>,
    ) -> Answer<Self::SubscribeNodeChangedStream> {
        self.acknowledge().await;
        Ok(changes(&self.0.nodes, |node| node))
    }

    type RegisterNodeStream = BoxStream<'static, Result<IamIncomingMessages, Status>>;

    async fn register_node(
        &self,
        _request: Request<Streaming<IamOutgoingMessages>>,
    ) -> Answer<Self::RegisterNodeStream> {
        Err(Status::unimplemented("no secondary nodes here"))
    }
}

/// Certificates in files, all from one authority.
pub(super) struct Pki {
    dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
    leaves: Mutex<HashMap<String, CertificateDer<'static>>>,
}

impl Pki {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap();
        std::fs::write(dir.path().join("root.pem"), root.pem()).unwrap();
        Self { dir, issuer: Issuer::new(params, key), leaves: Mutex::default() }
    }

    pub(super) fn root_file(&self) -> PathBuf {
        self.dir.path().join("root.pem")
    }

    pub(super) fn leaf(&self, name: &str) -> CertificateDer<'static> {
        self.leaves.lock().unwrap()[name].clone()
    }

    pub(super) fn issue(&self, name: &str) -> CertInfo {
        let (info, file, content) = self.issue_but_hide(name);
        std::fs::write(file, content).unwrap();
        info
    }

    /// The certificate file is not written: its path and content are returned.
    pub(super) fn issue_but_hide(&self, name: &str) -> (CertInfo, PathBuf, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = self.certificate(name, &key);
        self.leaves.lock().unwrap().insert(name.to_owned(), certificate.der().clone());
        let file = |ending: &str| self.dir.path().join(format!("{name}.{ending}"));
        std::fs::write(file("key"), key.serialize_pem()).unwrap();
        let url = |path: &Path| format!("file:{}", path.display());
        let info = CertInfo {
            r#type: "sm".into(),
            cert_url: url(&file("pem")),
            key_url: url(&file("key")),
            ..CertInfo::default()
        };
        (info, file("pem"), certificate.pem())
    }

    fn certificate(&self, name: &str, key: &KeyPair) -> Certificate {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.signed_by(key, &self.issuer).unwrap()
    }
}

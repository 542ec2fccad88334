//! A scripted IAM over real gRPC.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use aos_tls::{ClientAuth, Incoming, Protocol};
use aos_unit_api::iamanager::v6::iam_certificate_service_server::IamCertificateServiceServer;
use aos_unit_api::iamanager::v6::iam_nodes_service_server::IamNodesServiceServer;
use aos_unit_api::iamanager::v6::iam_provisioning_service_server::IamProvisioningServiceServer;
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
    CertInfo, GetCertRequest, GetNodeInfoRequest, IamIncomingMessages, IamOutgoingMessages, NodeAttribute,
    NodeInfo, NodesId, Subjects, SubscribeCertChangedRequest, SystemInfo,
};
use futures_util::{Stream, StreamExt};
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tonic::{Request, Response, Status, Streaming};

use super::pki::Pki;

type Stream_<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[derive(Clone)]
pub struct Iam {
    pub orders: super::iam_orders::Given,
    certs: Arc<Mutex<BTreeMap<String, CertInfo>>>,
    changed: broadcast::Sender<CertInfo>,
}

fn info(kind: &str, urls: (String, String), serial: u8) -> CertInfo {
    CertInfo { r#type: kind.into(), cert_url: urls.0, key_url: urls.1, serial: vec![serial], issuer: vec![1] }
}

pub fn node() -> NodeInfo {
    NodeInfo {
        node_id: "main".into(),
        node_type: "gateway".into(),
        max_dmips: 1000,
        total_ram: 1 << 30,
        state: "provisioned".into(),
        attrs: vec![NodeAttribute { name: "AosComponents".into(), value: "cm,iam,sm".into() }],
        ..NodeInfo::default()
    }
}

impl Iam {
    /// Serves at an own port; answers it too.
    pub async fn start(pki: &Pki, address: &str) -> (Self, String) {
        let certs = ["online", "cm"].map(|kind| (kind.to_owned(), info(kind, pki.issue(kind), 1)));
        let iam = Self {
            orders: super::iam_orders::Given::default(),
            certs: Arc::new(Mutex::new(certs.into())),
            changed: broadcast::channel(8).0,
        };
        let config = aos_tls::server_config(pki.identity("iam"), ClientAuth::None).unwrap();
        let incoming = Incoming::bind_tls(address, &config, Protocol::Grpc).await.unwrap();
        let port = incoming.local_addr().port();
        let server = aos_tls::grpc_server()
            .add_service(IamPublicIdentityServiceServer::new(iam.clone()))
            .add_service(IamPublicCurrentNodeServiceServer::new(iam.clone()))
            .add_service(IamPublicCertServiceServer::new(iam.clone()))
            .add_service(IamPublicNodesServiceServer::new(iam.clone()))
            .add_service(IamProvisioningServiceServer::new(iam.clone()))
            .add_service(IamCertificateServiceServer::new(iam.clone()))
            .add_service(IamNodesServiceServer::new(iam.clone()))
            .serve_with_incoming(incoming.into_stream());
        tokio::spawn(server);
        (iam, format!("localhost:{port}"))
    }

    /// A certificate of type `offline`, found by issuer and serial number only.
    pub fn put_offline(&self, issuer: &[u8], serial: &[u8], key_url: &str) {
        let info = CertInfo {
            r#type: "offline".into(),
            key_url: key_url.into(),
            serial: serial.to_vec(),
            issuer: issuer.to_vec(),
            ..CertInfo::default()
        };
        self.certs.lock().unwrap().insert("offline".to_owned(), info);
    }

    /// A new certificate, told to all.
    pub fn renew(&self, pki: &Pki, kind: &str) {
        let new = info(kind, pki.issue(&format!("{kind}-new")), 2);
        self.certs.lock().unwrap().insert(kind.to_owned(), new.clone());
        self.changed.send(new).unwrap();
    }
}

#[tonic::async_trait]
impl IamPublicIdentityService for Iam {
    type SubscribeSubjectsChangedStream = Stream_<Subjects>;

    async fn get_system_info(&self, _: Request<()>) -> Result<Response<SystemInfo>, Status> {
        Ok(Response::new(SystemInfo { system_id: "unit-1".into(), ..SystemInfo::default() }))
    }

    async fn get_subjects(&self, _: Request<()>) -> Result<Response<Subjects>, Status> {
        Ok(Response::new(Subjects { subjects: vec!["own-subject".into()] }))
    }

    async fn subscribe_subjects_changed(
        &self,
        _: Request<()>,
    ) -> Result<Response<Self::SubscribeSubjectsChangedStream>, Status> {
        Ok(Response::new(Box::pin(futures_util::stream::pending())))
    }
}

#[tonic::async_trait]
impl IamPublicCurrentNodeService for Iam {
    type SubscribeCurrentNodeChangedStream = Stream_<NodeInfo>;

    async fn get_current_node_info(&self, _: Request<()>) -> Result<Response<NodeInfo>, Status> {
        Ok(Response::new(node()))
    }

    async fn subscribe_current_node_changed(
        &self,
        _: Request<()>,
    ) -> Result<Response<Self::SubscribeCurrentNodeChangedStream>, Status> {
        Ok(Response::new(Box::pin(futures_util::stream::pending())))
    }
}

#[tonic::async_trait]
impl IamPublicCertService for Iam {
    type SubscribeCertChangedStream = Stream_<CertInfo>;

    async fn get_cert(&self, request: Request<GetCertRequest>) -> Result<Response<CertInfo>, Status> {
        let request = request.into_inner();
        let wanted = |info: &CertInfo| {
            let serial = hex::encode_upper(&info.serial);
            request.issuer.is_empty() || (request.issuer == info.issuer && request.serial == serial)
        };
        let found = self.certs.lock().unwrap().get(&request.r#type).cloned().filter(wanted);
        found.map(Response::new).ok_or_else(|| Status::not_found("no such certificate"))
    }

    async fn subscribe_cert_changed(
        &self,
        request: Request<SubscribeCertChangedRequest>,
    ) -> Result<Response<Self::SubscribeCertChangedStream>, Status> {
        let kind = request.into_inner().r#type;
        let changes = BroadcastStream::new(self.changed.subscribe()).filter_map(move |change| {
            let wanted = change.ok().filter(|change| change.r#type == kind);
            async move { wanted.map(Ok) }
        });
        Ok(Response::new(Box::pin(changes)))
    }
}

#[tonic::async_trait]
impl IamPublicNodesService for Iam {
    type SubscribeNodeChangedStream = Stream_<NodeInfo>;
    type RegisterNodeStream = Stream_<IamIncomingMessages>;

    async fn get_all_node_i_ds(&self, _: Request<()>) -> Result<Response<NodesId>, Status> {
        let ids = ["main".to_owned()].into_iter().chain(self.orders.secondary().map(|node| node.node_id));
        Ok(Response::new(NodesId { ids: ids.collect() }))
    }

    async fn get_node_info(
        &self,
        request: Request<GetNodeInfoRequest>,
    ) -> Result<Response<NodeInfo>, Status> {
        let id = request.into_inner().node_id;
        let found = Some(self.orders.main(node())).filter(|node| node.node_id == id);
        let found = found.or_else(|| self.orders.secondary().filter(|node| node.node_id == id));
        found.map(Response::new).ok_or_else(|| Status::internal("node not found"))
    }

    async fn subscribe_node_changed(
        &self,
        _: Request<()>,
    ) -> Result<Response<Self::SubscribeNodeChangedStream>, Status> {
        let changes = BroadcastStream::new(self.orders.changes.subscribe());
        Ok(Response::new(Box::pin(changes.filter_map(|change| async move { change.ok().map(Ok) }))))
    }

    async fn register_node(
        &self,
        _: Request<Streaming<IamOutgoingMessages>>,
    ) -> Result<Response<Self::RegisterNodeStream>, Status> {
        Err(Status::unimplemented("one node only"))
    }
}

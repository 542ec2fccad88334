//! Questions that everybody on the Unit may ask.

use aos_unit_api::convert::instance;
use aos_unit_api::iamanager::v6;
use aos_unit_api::iamanager::v6::iam_public_cert_service_server::IamPublicCertService;
use aos_unit_api::iamanager::v6::iam_public_current_node_service_server::IamPublicCurrentNodeService;
use aos_unit_api::iamanager::v6::iam_public_identity_service_server::IamPublicIdentityService;
use aos_unit_api::iamanager::v6::iam_public_nodes_service_server::IamPublicNodesService;
use aos_unit_api::iamanager::v6::iam_public_permissions_service_server::IamPublicPermissionsService;
use aos_unit_api::iamanager::version::ApiVersion;
use aos_unit_api::iamanager::version::iam_version_service_server::IamVersionService;
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::convert::node_to_wire;
use super::dialect::{self, Requests, V6};
use super::streams::{self, Answers};
use super::{Api, failed};
use crate::Error;
use crate::certhandler::CertRecord;
use crate::nodemanager::{NodeManager, Side};

/// The public services, as one server offers them.
#[derive(Clone)]
pub struct Public {
    api: Api,
    side: Side,
}

impl Public {
    /// The services for the server on `side`.
    pub fn new(api: Api, side: Side) -> Self {
        Self { api, side }
    }

    /// What the services stand on.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// The server that these services are on.
    pub fn side(&self) -> Side {
        self.side
    }

    /// The nodes; fails on a secondary node.
    pub fn nodes(&self) -> Result<&NodeManager, Status> {
        self.api.nodes.as_ref().ok_or_else(|| Status::unimplemented("only the main node knows the nodes"))
    }

    /// Room for one more subscription of certificates.
    pub fn subscription(&self) -> Result<OwnedSemaphorePermit, Status> {
        let permit = self.api.subscriptions.clone().try_acquire_owned();
        permit.map_err(|_| failed(&Error::TooMany("too many subscriptions of certificates".into())))
    }
}

/// A certificate on the wire.
pub fn cert_to_wire(record: &CertRecord) -> v6::CertInfo {
    v6::CertInfo {
        r#type: record.cert_type.clone(),
        cert_url: record.cert_url.clone(),
        key_url: record.key_url.clone(),
        // Peers expect the text of the number in this field of bytes.
        serial: hex::encode(&record.serial).into_bytes(),
        issuer: record.issuer.clone(),
    }
}

#[async_trait]
impl IamVersionService for Public {
    async fn get_api_version(&self, _: Request<()>) -> Result<Response<ApiVersion>, Status> {
        Ok(Response::new(ApiVersion { version: self.api.version }))
    }
}

#[async_trait]
impl IamPublicCurrentNodeService for Public {
    async fn get_current_node_info(&self, _: Request<()>) -> Result<Response<v6::NodeInfo>, Status> {
        Ok(Response::new(node_to_wire(&self.api.own.borrow())))
    }

    type SubscribeCurrentNodeChangedStream = Answers<v6::NodeInfo>;

    async fn subscribe_current_node_changed(
        &self,
        _: Request<()>,
    ) -> Result<Response<Answers<v6::NodeInfo>>, Status> {
        Ok(Response::new(streams::own_node(self.api.own.clone(), self.api.stop.clone())))
    }
}

#[async_trait]
impl IamPublicCertService for Public {
    async fn get_cert(&self, request: Request<v6::GetCertRequest>) -> Result<Response<v6::CertInfo>, Status> {
        let request = request.into_inner();
        let certificates = self.api.certs.certificates();
        let known = certificates.knows(&request.r#type);
        let found = if request.serial.is_empty() {
            certificates.latest(&request.r#type)
        } else {
            let serial = hex::decode(&request.serial).map_err(|error| {
                Status::internal(format!("serial number is no hexadecimal text: {error}"))
            })?;
            certificates.find(&request.issuer, &serial).filter(|_| known)
        };
        let record = found.ok_or_else(|| {
            failed(&Error::NotFound(format!("no such certificate of type '{}'", request.r#type)))
        })?;
        Ok(Response::new(v6::CertInfo { r#type: request.r#type, ..cert_to_wire(record) }))
    }

    type SubscribeCertChangedStream = Answers<v6::CertInfo>;

    async fn subscribe_cert_changed(
        &self,
        request: Request<v6::SubscribeCertChangedRequest>,
    ) -> Result<Response<Answers<v6::CertInfo>>, Status> {
        let cert_type = request.into_inner().r#type;
        let mut watch = self.api.certs.watch();
        let known = watch.borrow_and_update().latest(&cert_type).cloned();
        let known = known.ok_or_else(|| {
            failed(&Error::NotFound(format!("there is no certificate of type '{cert_type}' to follow")))
        })?;
        let permit = self.subscription()?;
        Ok(Response::new(streams::certificate(watch, known, permit, self.api.stop.clone())))
    }
}

#[async_trait]
impl IamPublicPermissionsService for Public {
    async fn get_permissions(
        &self,
        request: Request<v6::PermissionsRequest>,
    ) -> Result<Response<v6::PermissionsResponse>, Status> {
        let request = request.into_inner();
        let handler = self.api.permissions()?;
        let (ident, functions) = handler
            .permissions(request.secret, request.functional_server_id)
            .await
            .map_err(|error| failed(&error))?;
        Ok(Response::new(v6::PermissionsResponse {
            instance: Some((&ident).into()),
            permissions: Some(v6::Permissions { permissions: functions.into_iter().collect() }),
        }))
    }
}

#[async_trait]
impl IamPublicIdentityService for Public {
    async fn get_system_info(&self, _: Request<()>) -> Result<Response<v6::SystemInfo>, Status> {
        let system = self.api.identity()?.system().await.map_err(|error| failed(&error))?;
        Ok(Response::new(v6::SystemInfo {
            system_id: system.system_id,
            unit_model: system.unit_model,
            version: system.version,
        }))
    }

    async fn get_subjects(&self, _: Request<()>) -> Result<Response<v6::Subjects>, Status> {
        let subjects = self.api.identity()?.subjects().await.map_err(|error| failed(&error))?;
        Ok(Response::new(v6::Subjects { subjects }))
    }

    type SubscribeSubjectsChangedStream = Answers<v6::Subjects>;

    async fn subscribe_subjects_changed(
        &self,
        _: Request<()>,
    ) -> Result<Response<Answers<v6::Subjects>>, Status> {
        let changes = self.api.identity()?.changes();
        Ok(Response::new(streams::subjects(changes, self.api.stop.clone())))
    }
}

#[async_trait]
impl IamPublicNodesService for Public {
    async fn get_all_node_i_ds(&self, _: Request<()>) -> Result<Response<v6::NodesId>, Status> {
        Ok(Response::new(v6::NodesId { ids: self.nodes()?.nodes().ids() }))
    }

    async fn get_node_info(
        &self,
        request: Request<v6::GetNodeInfoRequest>,
    ) -> Result<Response<v6::NodeInfo>, Status> {
        let nodes = self.nodes()?.nodes();
        let entry = nodes.get(&request.get_ref().node_id).map_err(|error| failed(&error))?;
        Ok(Response::new(node_to_wire(&entry.info)))
    }

    type SubscribeNodeChangedStream = Answers<v6::NodeInfo>;

    async fn subscribe_node_changed(
        &self,
        _: Request<()>,
    ) -> Result<Response<Answers<v6::NodeInfo>>, Status> {
        Ok(Response::new(streams::nodes(self.nodes()?.watch(), self.api.stop.clone())))
    }

    type RegisterNodeStream = Requests<V6>;

    async fn register_node(
        &self,
        request: Request<Streaming<v6::IamOutgoingMessages>>,
    ) -> Result<Response<Self::RegisterNodeStream>, Status> {
        dialect::register::<V6>(self, request).await
    }
}

/// The instance in a request.
pub fn instance_of(
    wire: Option<aos_unit_api::common::v2::InstanceIdent>,
) -> Result<aos_ids::InstanceIdent, Status> {
    instance(wire).map_err(|error| Status::internal(aos_logging::with_causes(&error)))
}

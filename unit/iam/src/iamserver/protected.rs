//! Orders, for holders of a certificate of this Unit.
//!
//! An order names a node: this one (or nobody) is served here, others through their streams. Failures of
//! the node come in the answer's `error`; that a node cannot be reached is the call's status.

use aos_status::{ErrorInfo, NodeState};
use aos_unit_api::convert::{error_from_wire, error_to_wire};
use aos_unit_api::iamanager::v6::iam_certificate_service_server::IamCertificateService;
use aos_unit_api::iamanager::v6::iam_nodes_service_server::IamNodesService;
use aos_unit_api::iamanager::v6::iam_permissions_service_server::IamPermissionsService;
use aos_unit_api::iamanager::v6::iam_provisioning_service_server::IamProvisioningService;
use aos_unit_api::iamanager::v6::{
    ApplyCertRequest, ApplyCertResponse, CertInfo, CertTypes, CreateKeyRequest, CreateKeyResponse,
    DeprovisionRequest, DeprovisionResponse, FinishProvisioningRequest, FinishProvisioningResponse,
    GetCertTypesRequest, PauseNodeRequest, PauseNodeResponse, RegisterInstanceRequest,
    RegisterInstanceResponse, ResumeNodeRequest, ResumeNodeResponse, StartProvisioningRequest,
    StartProvisioningResponse, UnregisterInstanceRequest,
};
use aos_unit_api::iamanager::v7::iam_incoming_messages::IamIncomingMessage as ToNode;
use aos_unit_api::iamanager::v7::iam_outgoing_messages::IamOutgoingMessage as FromNode;
use tonic::{Request, Response, Status, async_trait};

use super::public::{cert_to_wire, instance_of};
use super::{Api, failed};
use crate::Error;
use crate::provisionmanager::Order;

/// The protected services.
#[derive(Clone)]
pub struct Protected {
    api: Api,
}

type WireError = aos_unit_api::common::v2::ErrorInfo;

/// How a failure is told in an answer.
pub fn to_wire(result: Result<(), Error>) -> Option<WireError> {
    result.err().map(|error| error.info().into())
}

/// The answer of a node has a kind that does not fit its request.
pub fn wrong_kind() -> Status {
    Status::cancelled("the node answered something else")
}

impl Protected {
    /// The services.
    pub fn new(api: Api) -> Self {
        Self { api }
    }

    /// What the services stand on.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// Whether a request that names this node is for us.
    pub fn is_local(&self, node_id: &str) -> bool {
        node_id.is_empty() || node_id == self.api.own.borrow().node_id
    }

    /// Asks another node.
    pub async fn remote(&self, node_id: &str, request: ToNode) -> Result<FromNode, Status> {
        let nodes =
            self.api.nodes.as_ref().ok_or_else(|| Status::unimplemented("only the main node knows nodes"))?;
        nodes.call(node_id, request).await.map_err(|error| failed(&error))
    }

    /// What a node's answer means: its error, or the new state, which then is ours too.
    pub async fn settled(
        &self,
        node_id: &str,
        error: Option<WireError>,
        state: Option<NodeState>,
    ) -> Option<WireError> {
        let error: Option<ErrorInfo> = error_from_wire(error);
        if error.is_none()
            && let (Some(state), Some(nodes)) = (state, &self.api.nodes)
            && let Err(error) = nodes.set_state(node_id, state).await
        {
            tracing::warn!(
                "the new state of node {node_id} is not noted: {}",
                aos_logging::with_causes(&error)
            );
        }
        error_to_wire(error)
    }

    async fn local(&self, order: Order, password: String) -> Option<WireError> {
        to_wire(self.api.provisioning.order(order, password).await)
    }
}

#[async_trait]
impl IamProvisioningService for Protected {
    async fn get_cert_types(
        &self,
        request: Request<GetCertTypesRequest>,
    ) -> Result<Response<CertTypes>, Status> {
        let request = request.into_inner();
        if self.is_local(&request.node_id) {
            let types = self.api.provisioning.cert_types().await.map_err(|error| failed(&error))?;
            return Ok(Response::new(CertTypes { types }));
        }
        let node_id = request.node_id.clone();
        match self.remote(&node_id, ToNode::GetCertTypesRequest(request)).await? {
            FromNode::CertTypesResponse(types) => Ok(Response::new(types)),
            _ => Err(wrong_kind()),
        }
    }

    async fn start_provisioning(
        &self,
        request: Request<StartProvisioningRequest>,
    ) -> Result<Response<StartProvisioningResponse>, Status> {
        let request = request.into_inner();
        if self.is_local(&request.node_id) {
            let error = self.local(Order::StartProvisioning, request.password).await;
            return Ok(Response::new(StartProvisioningResponse { error }));
        }
        let node_id = request.node_id.clone();
        match self.remote(&node_id, ToNode::StartProvisioningRequest(request)).await? {
            FromNode::StartProvisioningResponse(answer) => {
                let error = self.settled(&node_id, answer.error, None).await;
                Ok(Response::new(StartProvisioningResponse { error }))
            }
            _ => Err(wrong_kind()),
        }
    }

    async fn finish_provisioning(
        &self,
        request: Request<FinishProvisioningRequest>,
    ) -> Result<Response<FinishProvisioningResponse>, Status> {
        let request = request.into_inner();
        if self.is_local(&request.node_id) {
            let error = self.local(Order::FinishProvisioning, request.password).await;
            return Ok(Response::new(FinishProvisioningResponse { error }));
        }
        let node_id = request.node_id.clone();
        match self.remote(&node_id, ToNode::FinishProvisioningRequest(request)).await? {
            FromNode::FinishProvisioningResponse(answer) => {
                let error = self.settled(&node_id, answer.error, Some(NodeState::Provisioned)).await;
                Ok(Response::new(FinishProvisioningResponse { error }))
            }
            _ => Err(wrong_kind()),
        }
    }

    async fn deprovision(
        &self,
        request: Request<DeprovisionRequest>,
    ) -> Result<Response<DeprovisionResponse>, Status> {
        let request = request.into_inner();
        if self.is_local(&request.node_id) {
            let error = self.local(Order::Deprovision, request.password).await;
            return Ok(Response::new(DeprovisionResponse { error }));
        }
        let node_id = request.node_id.clone();
        match self.remote(&node_id, ToNode::DeprovisionRequest(request)).await? {
            FromNode::DeprovisionResponse(answer) => {
                let error = self.settled(&node_id, answer.error, Some(NodeState::Unprovisioned)).await;
                Ok(Response::new(DeprovisionResponse { error }))
            }
            _ => Err(wrong_kind()),
        }
    }
}

#[async_trait]
impl IamNodesService for Protected {
    async fn pause_node(
        &self,
        request: Request<PauseNodeRequest>,
    ) -> Result<Response<PauseNodeResponse>, Status> {
        let request = request.into_inner();
        if self.is_local(&request.node_id) {
            let error = self.local(Order::Pause, String::new()).await;
            return Ok(Response::new(PauseNodeResponse { error }));
        }
        let node_id = request.node_id.clone();
        match self.remote(&node_id, ToNode::PauseNodeRequest(request)).await? {
            FromNode::PauseNodeResponse(answer) => {
                let error = self.settled(&node_id, answer.error, Some(NodeState::Paused)).await;
                Ok(Response::new(PauseNodeResponse { error }))
            }
            _ => Err(wrong_kind()),
        }
    }

    async fn resume_node(
        &self,
        request: Request<ResumeNodeRequest>,
    ) -> Result<Response<ResumeNodeResponse>, Status> {
        let request = request.into_inner();
        if self.is_local(&request.node_id) {
            let error = self.local(Order::Resume, String::new()).await;
            return Ok(Response::new(ResumeNodeResponse { error }));
        }
        let node_id = request.node_id.clone();
        match self.remote(&node_id, ToNode::ResumeNodeRequest(request)).await? {
            FromNode::ResumeNodeResponse(answer) => {
                let error = self.settled(&node_id, answer.error, Some(NodeState::Provisioned)).await;
                Ok(Response::new(ResumeNodeResponse { error }))
            }
            _ => Err(wrong_kind()),
        }
    }
}

#[async_trait]
impl IamCertificateService for Protected {
    async fn create_key(
        &self,
        request: Request<CreateKeyRequest>,
    ) -> Result<Response<CreateKeyResponse>, Status> {
        let request = request.into_inner();
        let refused = |error: Error, request: &CreateKeyRequest| CreateKeyResponse {
            node_id: request.node_id.clone(),
            r#type: request.r#type.clone(),
            csr: String::new(),
            error: Some(error.info().into()),
        };
        if self.is_local(&request.node_id) {
            let csr = self.api.provisioning.create_key(request.r#type.clone(), &request.subject).await;
            return Ok(Response::new(match csr {
                Ok(csr) => {
                    CreateKeyResponse { node_id: request.node_id, r#type: request.r#type, csr, error: None }
                }
                Err(error) => refused(error, &request),
            }));
        }
        let subject = match self.api.provisioning.subject(&request.subject).await {
            Ok(subject) => subject,
            Err(error) => return Ok(Response::new(refused(error, &request))),
        };
        let node_id = request.node_id.clone();
        match self.remote(&node_id, ToNode::CreateKeyRequest(CreateKeyRequest { subject, ..request })).await?
        {
            FromNode::CreateKeyResponse(answer) => {
                let error = self.settled(&node_id, answer.error, None).await;
                Ok(Response::new(CreateKeyResponse { error, ..answer }))
            }
            _ => Err(wrong_kind()),
        }
    }

    async fn apply_cert(
        &self,
        request: Request<ApplyCertRequest>,
    ) -> Result<Response<ApplyCertResponse>, Status> {
        let request = request.into_inner();
        if self.is_local(&request.node_id) {
            let applied = self.api.provisioning.apply_cert(request.r#type.clone(), request.cert).await;
            let (cert_info, error) = match applied {
                Ok(record) => (cert_to_wire(&record), None),
                Err(error) => {
                    (CertInfo { r#type: request.r#type, ..CertInfo::default() }, Some(error.info().into()))
                }
            };
            let answer = ApplyCertResponse { node_id: request.node_id, cert_info: Some(cert_info), error };
            return Ok(Response::new(answer));
        }
        let node_id = request.node_id.clone();
        match self.remote(&node_id, ToNode::ApplyCertRequest(request)).await? {
            FromNode::ApplyCertResponse(answer) => {
                let error = self.settled(&node_id, answer.error, None).await;
                Ok(Response::new(ApplyCertResponse { error, ..answer }))
            }
            _ => Err(wrong_kind()),
        }
    }
}

#[async_trait]
impl IamPermissionsService for Protected {
    async fn register_instance(
        &self,
        request: Request<RegisterInstanceRequest>,
    ) -> Result<Response<RegisterInstanceResponse>, Status> {
        let request = request.into_inner();
        let ident = instance_of(request.instance)?;
        let permissions = request
            .permissions
            .into_iter()
            .map(|(server, functions)| (server, functions.permissions.into_iter().collect()))
            .collect();
        let secret =
            self.api.permissions()?.register(ident, permissions).await.map_err(|error| failed(&error))?;
        Ok(Response::new(RegisterInstanceResponse { secret }))
    }

    async fn unregister_instance(
        &self,
        request: Request<UnregisterInstanceRequest>,
    ) -> Result<Response<()>, Status> {
        let ident = instance_of(request.into_inner().instance)?;
        self.api.permissions()?.unregister(ident).await.map_err(|error| failed(&error))?;
        Ok(Response::new(()))
    }
}

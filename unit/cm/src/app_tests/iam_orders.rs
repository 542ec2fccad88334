//! The scripted IAM's protected services: they note every order, and can be told to hang or to refuse.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use aos_status::ErrorInfo;
use aos_unit_api::iamanager::v6::iam_certificate_service_server::IamCertificateService;
use aos_unit_api::iamanager::v6::iam_nodes_service_server::IamNodesService;
use aos_unit_api::iamanager::v6::iam_provisioning_service_server::IamProvisioningService;
use aos_unit_api::iamanager::v6::{
    ApplyCertRequest, ApplyCertResponse, CertInfo, CertTypes, CreateKeyRequest, CreateKeyResponse,
    DeprovisionRequest, DeprovisionResponse, FinishProvisioningRequest, FinishProvisioningResponse,
    GetCertTypesRequest, NodeInfo, PauseNodeRequest, PauseNodeResponse, ResumeNodeRequest,
    ResumeNodeResponse, StartProvisioningRequest, StartProvisioningResponse,
};
use tokio::sync::broadcast;
use tonic::{Request, Response, Status};

use super::iam::{Iam, node};

/// Orders given, and what becomes of the next ones.
#[derive(Clone)]
pub struct Given {
    all: Arc<Mutex<Vec<String>>>,
    hanging: Arc<Mutex<Option<String>>>,
    refused: Arc<Mutex<BTreeMap<String, ErrorInfo>>>,
    /// State of the node `rear`; none = there is no such node.
    rear: Arc<Mutex<Option<String>>>,
    paused: Arc<Mutex<bool>>,
    pub changes: broadcast::Sender<NodeInfo>,
}

impl Default for Given {
    fn default() -> Self {
        Self {
            all: Arc::default(),
            hanging: Arc::default(),
            refused: Arc::default(),
            rear: Arc::default(),
            paused: Arc::default(),
            changes: broadcast::channel(8).0,
        }
    }
}

impl Given {
    /// Orders so far, forgotten with this.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.all.lock().unwrap())
    }

    /// Waits until this order is given.
    pub async fn wait_for(&self, order: &str) {
        while !self.all.lock().unwrap().iter().any(|known| known == order) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// This order gets no answer; none lets all be answered again.
    pub fn hang(&self, order: Option<&str>) {
        *self.hanging.lock().unwrap() = order.map(str::to_owned);
    }

    /// This order is refused.
    pub fn refuse(&self, order: &str, error: ErrorInfo) {
        self.refused.lock().unwrap().insert(order.to_owned(), error);
    }

    /// There is a node `rear`.
    pub fn with_rear(&self, state: &str) {
        *self.rear.lock().unwrap() = Some(state.to_owned());
    }

    pub fn secondary(&self) -> Option<NodeInfo> {
        let state = self.rear.lock().unwrap().clone()?;
        Some(NodeInfo { node_id: "rear".into(), state, attrs: vec![], ..node() })
    }

    pub fn main(&self, node: NodeInfo) -> NodeInfo {
        let state = if *self.paused.lock().unwrap() { "paused".to_owned() } else { node.state.clone() };
        NodeInfo { state, ..node }
    }

    async fn given(&self, order: String) -> Option<aos_unit_api::common::v2::ErrorInfo> {
        self.all.lock().unwrap().push(order.clone());
        while self.hanging.lock().unwrap().as_ref() == Some(&order) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        self.refused.lock().unwrap().get(&order).cloned().map(Into::into)
    }
}

#[tonic::async_trait]
impl IamProvisioningService for Iam {
    async fn get_cert_types(
        &self,
        request: Request<GetCertTypesRequest>,
    ) -> Result<Response<CertTypes>, Status> {
        self.orders.given(format!("types {}", request.into_inner().node_id)).await;
        Ok(Response::new(CertTypes { types: vec!["iam".into(), "sm".into()] }))
    }

    async fn start_provisioning(
        &self,
        request: Request<StartProvisioningRequest>,
    ) -> Result<Response<StartProvisioningResponse>, Status> {
        let StartProvisioningRequest { node_id, password } = request.into_inner();
        if self.orders.secondary().is_none_or(|node| node.node_id != node_id) {
            return Err(Status::internal("node not found"));
        }
        let error = self.orders.given(format!("start {node_id} {password}")).await;
        Ok(Response::new(StartProvisioningResponse { error }))
    }

    async fn finish_provisioning(
        &self,
        request: Request<FinishProvisioningRequest>,
    ) -> Result<Response<FinishProvisioningResponse>, Status> {
        let FinishProvisioningRequest { node_id, password } = request.into_inner();
        let error = self.orders.given(format!("finish {node_id} {password}")).await;
        self.orders.with_rear("provisioned");
        Ok(Response::new(FinishProvisioningResponse { error }))
    }

    async fn deprovision(
        &self,
        request: Request<DeprovisionRequest>,
    ) -> Result<Response<DeprovisionResponse>, Status> {
        let DeprovisionRequest { node_id, password } = request.into_inner();
        self.orders.with_rear("unprovisioned");
        let error = self.orders.given(format!("leave {node_id} {password}")).await;
        Ok(Response::new(DeprovisionResponse { error }))
    }
}

#[tonic::async_trait]
impl IamCertificateService for Iam {
    async fn create_key(
        &self,
        request: Request<CreateKeyRequest>,
    ) -> Result<Response<CreateKeyResponse>, Status> {
        let CreateKeyRequest { node_id, subject, r#type, password } = request.into_inner();
        assert_eq!(subject, "", "IAM names the subject");
        let error = self.orders.given(format!("key {node_id} {type} {password}")).await;
        let csr = format!("csr of {node_id} {type}");
        Ok(Response::new(CreateKeyResponse { node_id, r#type, csr, error }))
    }

    async fn apply_cert(
        &self,
        request: Request<ApplyCertRequest>,
    ) -> Result<Response<ApplyCertResponse>, Status> {
        let ApplyCertRequest { node_id, r#type, cert } = request.into_inner();
        let error = self.orders.given(format!("apply {node_id} {type} {cert}")).await;
        let cert_info = CertInfo { r#type: r#type.clone(), serial: vec![0x0a, 0xbc], ..CertInfo::default() };
        Ok(Response::new(ApplyCertResponse { node_id, cert_info: Some(cert_info), error }))
    }
}

#[tonic::async_trait]
impl IamNodesService for Iam {
    async fn pause_node(
        &self,
        request: Request<PauseNodeRequest>,
    ) -> Result<Response<PauseNodeResponse>, Status> {
        let error = self.orders.given(format!("pause {}", request.into_inner().node_id)).await;
        *self.orders.paused.lock().unwrap() = error.is_none();
        let _ = self.orders.changes.send(self.orders.main(node()));
        Ok(Response::new(PauseNodeResponse { error }))
    }

    async fn resume_node(
        &self,
        request: Request<ResumeNodeRequest>,
    ) -> Result<Response<ResumeNodeResponse>, Status> {
        let error = self.orders.given(format!("resume {}", request.into_inner().node_id)).await;
        *self.orders.paused.lock().unwrap() = false;
        let _ = self.orders.changes.send(self.orders.main(node()));
        Ok(Response::new(ResumeNodeResponse { error }))
    }
}

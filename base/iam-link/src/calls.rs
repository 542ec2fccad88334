//! Questions with one answer, each within 10 s.

use std::time::Duration;

use aos_unit_api::iamanager::v6::iam_public_cert_service_client::IamPublicCertServiceClient;
use aos_unit_api::iamanager::v6::iam_public_current_node_service_client::IamPublicCurrentNodeServiceClient;
use aos_unit_api::iamanager::v6::iam_public_identity_service_client::IamPublicIdentityServiceClient;
use aos_unit_api::iamanager::v6::iam_public_nodes_service_client::IamPublicNodesServiceClient;
use aos_unit_api::iamanager::v6::{CertInfo, GetCertRequest, GetNodeInfoRequest, NodeInfo, SystemInfo};
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::{IamLink, LinkError};

const CALL_TIME: Duration = Duration::from_secs(10);

impl IamLink {
    /// URLs of the newest certificate of a type.
    pub async fn get_cert(&self, cert_type: &str) -> Result<CertInfo, LinkError> {
        newest_cert(&mut self.certs(), cert_type).await
    }

    /// URLs of the certificate with this issuer (name, DER) and serial number (big-endian bytes).
    pub async fn get_cert_of(
        &self,
        cert_type: &str,
        issuer: &[u8],
        serial: &[u8],
    ) -> Result<CertInfo, LinkError> {
        use std::fmt::Write;
        let serial = serial.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02X}");
            text
        });
        let request = GetCertRequest { r#type: cert_type.to_owned(), issuer: issuer.to_vec(), serial };
        answer("GetCert", self.certs().get_cert(request)).await
    }

    /// Identity, model and version of the Unit.
    pub async fn system_info(&self) -> Result<SystemInfo, LinkError> {
        answer("GetSystemInfo", self.unit().get_system_info(())).await
    }

    /// Subjects that the Unit itself names.
    pub async fn subjects(&self) -> Result<Vec<String>, LinkError> {
        Ok(answer("GetSubjects", self.unit().get_subjects(())).await?.subjects)
    }

    /// What this node is.
    pub async fn current_node_info(&self) -> Result<NodeInfo, LinkError> {
        let mut client = IamPublicCurrentNodeServiceClient::new(self.0.public.clone());
        answer("GetCurrentNodeInfo", client.get_current_node_info(())).await
    }

    /// All nodes that the main node knows, itself included.
    pub async fn node_ids(&self) -> Result<Vec<String>, LinkError> {
        Ok(answer("GetAllNodeIDs", self.nodes().get_all_node_i_ds(())).await?.ids)
    }

    /// What a node is.
    pub async fn node_info(&self, node_id: &str) -> Result<NodeInfo, LinkError> {
        let request = GetNodeInfoRequest { node_id: node_id.to_owned() };
        answer("GetNodeInfo", self.nodes().get_node_info(request)).await
    }

    pub(crate) fn certs(&self) -> IamPublicCertServiceClient<Channel> {
        IamPublicCertServiceClient::new(self.0.public.clone())
    }

    pub(crate) fn unit(&self) -> IamPublicIdentityServiceClient<Channel> {
        IamPublicIdentityServiceClient::new(self.0.public.clone())
    }

    pub(crate) fn nodes(&self) -> IamPublicNodesServiceClient<Channel> {
        IamPublicNodesServiceClient::new(self.0.public.clone())
    }
}

pub(crate) async fn newest_cert(
    client: &mut IamPublicCertServiceClient<Channel>,
    cert_type: &str,
) -> Result<CertInfo, LinkError> {
    let request = GetCertRequest { r#type: cert_type.to_owned(), ..GetCertRequest::default() };
    answer("GetCert", client.get_cert(request)).await
}

async fn answer<T>(
    call: &'static str,
    asking: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, LinkError> {
    answer_within(CALL_TIME, call, asking).await
}

pub(crate) async fn answer_within<T>(
    time: Duration,
    call: &'static str,
    asking: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, LinkError> {
    match tokio::time::timeout(time, asking).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(LinkError::Call { call, source: Box::new(status) }),
        Err(_) => Err(LinkError::Deadline { call, seconds: time.as_secs() }),
    }
}

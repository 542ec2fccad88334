//! Orders to IAM about nodes and certificates, over its protected server.
//!
//! Every order may be given again: IAM answers a repeated one as it answered the first. What the node itself
//! refuses and what keeps IAM from reaching it are told apart, since only the latter passes.

use std::time::Duration;

use aos_unit_api::common::v2::ErrorInfo;
use aos_unit_api::iamanager::v6;
use aos_unit_api::iamanager::v6::iam_certificate_service_client::IamCertificateServiceClient;
use aos_unit_api::iamanager::v6::iam_nodes_service_client::IamNodesServiceClient;
use aos_unit_api::iamanager::v6::iam_provisioning_service_client::IamProvisioningServiceClient;
use tonic::transport::Channel;

use crate::calls::answer_within;
use crate::{IamLink, LinkError};

/// Longest time of an order that only changes a state or makes one key.
const SHORT: Duration = Duration::from_mins(1);
/// Longest time of a step of provisioning: programs of the node run in it.
const LONG: Duration = Duration::from_mins(10);

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// IAM is away, or cannot reach the node.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The node refuses.
    #[error("{call} is refused by the node: {}", .info.message)]
    Refused {
        /// The method called.
        call: &'static str,
        /// What the node says.
        info: ErrorInfo,
    },
}

/// The orders, given under the identity of one certificate type. Cheap to clone.
#[derive(Clone)]
pub struct Orders {
    link: IamLink,
    cert_type: String,
}

impl IamLink {
    /// Orders under the identity of `cert_type`.
    pub fn orders(&self, cert_type: &str) -> Orders {
        Orders { link: self.clone(), cert_type: cert_type.to_owned() }
    }
}

fn checked(call: &'static str, error: Option<ErrorInfo>) -> Result<(), OrderError> {
    match error.filter(|info| info.aos_code != 0) {
        Some(info) => Err(OrderError::Refused { call, info }),
        None => Ok(()),
    }
}

impl Orders {
    fn channel(&self) -> Result<Channel, LinkError> {
        self.link.protected(&self.cert_type)
    }

    /// Takes a node out of service.
    pub async fn pause(&self, node_id: &str) -> Result<(), OrderError> {
        let call = "PauseNode";
        let mut client = IamNodesServiceClient::new(self.channel()?);
        let request = v6::PauseNodeRequest { node_id: node_id.to_owned() };
        let response = answer_within(SHORT, call, client.pause_node(request)).await?;
        checked(call, response.error)
    }

    /// Brings a node back into service.
    pub async fn resume(&self, node_id: &str) -> Result<(), OrderError> {
        let call = "ResumeNode";
        let mut client = IamNodesServiceClient::new(self.channel()?);
        let request = v6::ResumeNodeRequest { node_id: node_id.to_owned() };
        let response = answer_within(SHORT, call, client.resume_node(request)).await?;
        checked(call, response.error)
    }

    /// Erases a node's tokens and sets `password` as their owner's.
    pub async fn start_provisioning(&self, node_id: &str, password: &str) -> Result<(), OrderError> {
        let call = "StartProvisioning";
        let mut client = IamProvisioningServiceClient::new(self.channel()?);
        let request =
            v6::StartProvisioningRequest { node_id: node_id.to_owned(), password: password.to_owned() };
        let response = answer_within(LONG, call, client.start_provisioning(request)).await?;
        checked(call, response.error)
    }

    /// Makes a node part of the Unit.
    pub async fn finish_provisioning(&self, node_id: &str, password: &str) -> Result<(), OrderError> {
        let call = "FinishProvisioning";
        let mut client = IamProvisioningServiceClient::new(self.channel()?);
        let request =
            v6::FinishProvisioningRequest { node_id: node_id.to_owned(), password: password.to_owned() };
        let response = answer_within(LONG, call, client.finish_provisioning(request)).await?;
        checked(call, response.error)
    }

    /// Takes a node out of the Unit.
    pub async fn deprovision(&self, node_id: &str, password: &str) -> Result<(), OrderError> {
        let call = "Deprovision";
        let mut client = IamProvisioningServiceClient::new(self.channel()?);
        let request = v6::DeprovisionRequest { node_id: node_id.to_owned(), password: password.to_owned() };
        let response = answer_within(LONG, call, client.deprovision(request)).await?;
        checked(call, response.error)
    }

    /// Types of certificates that a node has; those it signs itself are not among them.
    pub async fn cert_types(&self, node_id: &str) -> Result<Vec<String>, OrderError> {
        let mut client = IamProvisioningServiceClient::new(self.channel()?);
        let request = v6::GetCertTypesRequest { node_id: node_id.to_owned() };
        Ok(answer_within(SHORT, "GetCertTypes", client.get_cert_types(request)).await?.types)
    }

    /// Makes a key; answers the request for its certificate, PEM. The subject is the Unit's.
    pub async fn create_key(
        &self,
        node_id: &str,
        cert_type: &str,
        password: &str,
    ) -> Result<String, OrderError> {
        let call = "CreateKey";
        let mut client = IamCertificateServiceClient::new(self.channel()?);
        let request = v6::CreateKeyRequest {
            node_id: node_id.to_owned(),
            subject: String::new(),
            r#type: cert_type.to_owned(),
            password: password.to_owned(),
        };
        let response = answer_within(SHORT, call, client.create_key(request)).await?;
        checked(call, response.error)?;
        Ok(response.csr)
    }

    /// Installs a certificate, PEM with the leaf first; answers its serial number, big-endian bytes.
    pub async fn apply_cert(
        &self,
        node_id: &str,
        cert_type: &str,
        cert: &str,
    ) -> Result<Vec<u8>, OrderError> {
        let call = "ApplyCert";
        let mut client = IamCertificateServiceClient::new(self.channel()?);
        let request = v6::ApplyCertRequest {
            node_id: node_id.to_owned(),
            r#type: cert_type.to_owned(),
            cert: cert.to_owned(),
        };
        let response = answer_within(SHORT, call, client.apply_cert(request)).await?;
        checked(call, response.error)?;
        Ok(serial_of(response.cert_info.unwrap_or_default().serial))
    }
}

/// Serial number as bytes. The field carries hexadecimal text, upstream's as well as ours; bytes that are no
/// such text are taken as they are.
fn serial_of(told: Vec<u8>) -> Vec<u8> {
    hex::decode(&told).unwrap_or(told)
}

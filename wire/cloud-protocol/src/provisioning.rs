//! Provisioning and deprovisioning of secondary nodes. Answers repeat the `correlationId` of the request.

use aos_status::ErrorInfo;
use serde::{Deserialize, Serialize};

use crate::encoded::{error_info, no_error};
use crate::{AosIdentity, CertificateType, Secret};

/// Asks a node for keys and certificate requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StartProvisioningRequest {
    /// The node, by codename.
    pub node: AosIdentity,
    /// Owner password of the node's token.
    #[serde(default)]
    pub password: Secret,
}

/// Certificate requests of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StartProvisioningResponse {
    /// The node, by codename.
    pub node: AosIdentity,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "no_error", deserialize_with = "error_info")]
    pub error_info: Option<ErrorInfo>,
    /// The requests; possibly incomplete after a failure, always written.
    #[serde(default)]
    pub csrs: Vec<NodeCsr>,
}

/// A certificate request of one type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeCsr {
    /// Certificate type.
    #[serde(rename = "type")]
    pub kind: CertificateType,
    /// PEM, at most 4096 bytes; may be empty in the last entry after a failure.
    #[serde(default)]
    pub csr: String,
}

/// Certificates for a node; it ends its provisioning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FinishProvisioningRequest {
    /// The node, by codename.
    pub node: AosIdentity,
    /// Certificates in the order of installation.
    pub certificates: Vec<NodeCertificate>,
    /// Owner password of the node's token.
    #[serde(default)]
    pub password: Secret,
}

/// A certificate of one type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeCertificate {
    /// Certificate type.
    #[serde(rename = "type")]
    pub kind: CertificateType,
    /// PEM chain, at most 16384 bytes.
    pub chain: String,
}

/// Asks to take a node out of the Unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeprovisioningRequest {
    /// The node, by codename.
    pub node: AosIdentity,
    /// Owner password of the node's token.
    #[serde(default)]
    pub password: Secret,
}

/// Outcome of the end of provisioning (`finishProvisioningResponse`) or of deprovisioning
/// (`deprovisioningResponse`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeOutcome {
    /// The node, by codename.
    pub node: AosIdentity,
    /// Why it failed; absent on success.
    #[serde(default, skip_serializing_if = "no_error", deserialize_with = "error_info")]
    pub error_info: Option<ErrorInfo>,
}

//! Renewal of certificates: `renewCertificatesNotification`, `issueUnitCertificates`,
//! `issuedUnitCertificates`, `installUnitCertificatesConfirmation`.

use std::fmt;

use aos_status::ErrorInfo;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::Value;

use crate::encoded::{error_info, no_error};
use crate::{AosIdentity, Secret, lenient};

/// Type of a certificate. Towards other peers use only the five that every Unit knows: `Offline`,
/// `Online`, `Sm`, `Cm`, `Iam`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum CertificateType {
    /// For content encrypted for the Unit.
    Offline,
    /// For the link to the cloud.
    Online,
    /// Update manager of older Units.
    Um,
    /// Service manager.
    Sm,
    /// Communication manager.
    Cm,
    /// Identity and access manager.
    Iam,
    /// Host device.
    HostDevice,
    /// Remote device.
    RemoteDevice,
    /// Azure IoT.
    AzureIot,
    /// Any other word; entries with it are ignored.
    Other(String),
}

impl CertificateType {
    /// The word on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Offline => "offline",
            Self::Online => "online",
            Self::Um => "um",
            Self::Sm => "sm",
            Self::Cm => "cm",
            Self::Iam => "iam",
            Self::HostDevice => "host-device",
            Self::RemoteDevice => "remote-device",
            Self::AzureIot => "azure-iot",
            Self::Other(word) => word,
        }
    }
}

impl fmt::Display for CertificateType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<String> for CertificateType {
    fn from(word: String) -> Self {
        match word.to_ascii_lowercase().as_str() {
            "offline" => Self::Offline,
            "online" => Self::Online,
            "um" => Self::Um,
            "sm" => Self::Sm,
            "cm" => Self::Cm,
            "iam" => Self::Iam,
            "host-device" => Self::HostDevice,
            "remote-device" => Self::RemoteDevice,
            "azure-iot" => Self::AzureIot,
            _ => Self::Other(word),
        }
    }
}

impl From<CertificateType> for String {
    fn from(kind: CertificateType) -> String {
        kind.as_str().to_owned()
    }
}

/// Certificates to be renewed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RenewCertificatesNotification {
    /// The certificates.
    #[serde(default)]
    pub certificates: Vec<CertificateToRenew>,
    /// Owner secrets of the nodes' tokens.
    #[serde(default)]
    pub unit_secrets: UnitSecrets,
}

/// A certificate to be renewed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateToRenew {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: CertificateType,
    /// Its node, by codename.
    pub node: AosIdentity,
    /// Its serial number, hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::time::optional")]
    pub valid_till: Option<Timestamp>,
}

/// Owner secrets. Written as an array of nodes, the only form that every Unit reads (the published schema
/// has a single object); read from an array, a single object, a map of node to secret, or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnitSecrets {
    /// Always 7 when written, not looked at when read.
    #[serde(default = "seven", deserialize_with = "any_version")]
    pub version: u32,
    /// One entry per node.
    #[serde(default, deserialize_with = "node_secrets")]
    pub nodes: Vec<NodeSecret>,
}

impl Default for UnitSecrets {
    fn default() -> Self {
        Self { version: seven(), nodes: Vec::new() }
    }
}

/// Owner secret of a node's token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSecret {
    /// The node, by codename.
    pub node: AosIdentity,
    /// The secret.
    pub secret: Secret,
}

/// Requests for certificates.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IssueUnitCertificates {
    /// The requests.
    pub requests: Vec<CertificateRequest>,
}

/// Request for one certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateRequest {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: CertificateType,
    /// Its node, by codename.
    pub node: AosIdentity,
    /// PEM, at most 4096 bytes.
    pub csr: String,
}

/// New certificates.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IssuedUnitCertificates {
    /// The certificates.
    pub certificates: Vec<IssuedCertificate>,
}

/// One new certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IssuedCertificate {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: CertificateType,
    /// Its node, by codename.
    pub node: AosIdentity,
    /// PEM: leaf, intermediates, root; at most 16384 bytes and 4 certificates.
    pub certificate_chain: String,
}

/// What became of new certificates.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstallUnitCertificatesConfirmation {
    /// In the order of installation.
    pub certificates: Vec<InstalledCertificate>,
}

/// What became of one new certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstalledCertificate {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: CertificateType,
    /// Its node, by codename.
    pub node: AosIdentity,
    /// Serial number, lower-case hexadecimal digits; empty on failure.
    #[serde(default)]
    pub serial: String,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "no_error", deserialize_with = "error_info")]
    pub error_info: Option<ErrorInfo>,
}

const fn seven() -> u32 {
    7
}

fn any_version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    de::IgnoredAny::deserialize(deserializer).map(|_| seven())
}

fn node_secrets<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<NodeSecret>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let read = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Array(_) => lenient::from_value(value),
        Value::Object(members) => {
            let single =
                members.iter().any(|(key, node)| key.eq_ignore_ascii_case("node") && node.is_object());
            if single {
                lenient::from_value(Value::Object(members)).map(|secret| vec![secret])
            } else {
                let by_node = members.into_iter().filter(|(_, secret)| !secret.is_null());
                let read = by_node.map(|(node, secret)| {
                    let secret = lenient::from_value(secret)?;
                    Ok(NodeSecret { node: AosIdentity::by_codename(node), secret })
                });
                read.collect()
            }
        }
        _ => return Err(de::Error::custom("neither a list nor an object")),
    };
    read.map_err(de::Error::custom)
}

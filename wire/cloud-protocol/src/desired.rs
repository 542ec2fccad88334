//! `desiredStatus`: what the cloud wants a Unit to be.
//!
//! Each list is optional and its absence differs from an empty list: absent leaves that part of the Unit
//! as it is, empty removes all of it. A cloud always sends all lists, because upstream Units read an absent
//! list as an empty one.

use aos_ids::Digest;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{AosIdentity, Base64Bytes, UnitConfig};

/// Highest instance priority.
pub const MAX_INSTANCE_PRIORITY: u32 = 999_999;
/// Most instances of one item and subject that a message may ask for.
pub const MAX_NUM_INSTANCES: u32 = 4096;

/// Target state of a Unit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DesiredStatus {
    /// Nodes to take out of or back into service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<NodeDesiredState>>,
    /// Unit configuration; absent leaves it as it is. Its version must rise with every change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit_config: Option<UnitConfig>,
    /// Items to have installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<Vec<DesiredItem>>,
    /// Instances to run.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "wanted_instances")]
    pub instances: Option<Vec<DesiredInstance>>,
    /// Subjects that the instances belong to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subjects: Option<Vec<Subject>>,
    /// Certificates that sign the items listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificates: Option<Vec<CertificateInfo>>,
    /// Chains of those certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_chains: Option<Vec<CertificateChain>>,
}

/// Target state of one node. Also read with `node` in place of `item`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeDesiredState {
    /// The node, by codename.
    pub item: AosIdentity,
    /// What it shall be.
    pub state: DesiredNodeState,
}

/// What the cloud may want a node to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DesiredNodeState {
    /// In service.
    Provisioned,
    /// Out of service.
    Paused,
}

/// An item to have installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DesiredItem {
    /// The item, by id; without a type it is a service.
    pub item: AosIdentity,
    /// SemVer text, at most 32 bytes for a Unit.
    pub version: String,
    /// Who owns it, by id. May be empty when read.
    #[serde(default)]
    pub owner: AosIdentity,
    /// Digest of the OCI index.
    pub index_digest: Digest,
}

/// Instances of one item for one subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DesiredInstance {
    /// The item, by id.
    pub item: AosIdentity,
    /// The subject, by id.
    pub subject: AosIdentity,
    /// 0 to 999999, higher is placed first.
    #[serde(default, serialize_with = "write_priority", deserialize_with = "read_priority")]
    pub priority: u32,
    /// How many; 1 when absent. 0 asks for none and is not written.
    #[serde(default = "one", deserialize_with = "read_num_instances")]
    pub num_instances: u32,
    /// Nodes must carry all of these labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
}

/// A group or user that instances run for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Subject {
    /// The subject, by id.
    pub identity: AosIdentity,
    /// Group or user.
    #[serde(rename = "type")]
    pub kind: SubjectType,
    /// True: its instances run only while the Unit itself lists the subject.
    #[serde(default)]
    pub is_reported_from_unit: bool,
}

/// Kind of a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SubjectType {
    /// Many people or units.
    Group,
    /// One person.
    User,
}

/// A certificate that signatures may refer to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateInfo {
    /// The certificate as DER, at most 2048 bytes for a Unit.
    pub certificate: Base64Bytes,
    /// Label of the certificate, at most 64 bytes for a Unit; compared without regard to letter case.
    pub fingerprint: String,
}

/// A named chain of certificates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateChain {
    /// Name that signatures refer to.
    pub name: String,
    /// Labels: first the signer, then its intermediates.
    pub fingerprints: Vec<String>,
}

const fn one() -> u32 {
    1
}

fn bounded<'de, D: Deserializer<'de>>(deserializer: D, max: u32) -> Result<u32, D::Error> {
    let number = u32::deserialize(deserializer)?;
    if number > max {
        return Err(de::Error::custom(format_args!("{number} is above {max}")));
    }
    Ok(number)
}

fn read_priority<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    bounded(deserializer, MAX_INSTANCE_PRIORITY)
}

fn read_num_instances<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    bounded(deserializer, MAX_NUM_INSTANCES)
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference to the field")]
fn write_priority<S: Serializer>(priority: &u32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u32((*priority).min(MAX_INSTANCE_PRIORITY))
}

#[allow(clippy::ref_option, reason = "serde calls it with a reference to the field")]
fn wanted_instances<S: Serializer>(
    instances: &Option<Vec<DesiredInstance>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let wanted = instances.iter().flatten().filter(|instance| instance.num_instances > 0);
    serializer.collect_seq(wanted)
}

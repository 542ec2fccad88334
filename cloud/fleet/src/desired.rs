//! The complete target of a Unit.
//!
//! All lists are always written, because Units of the original take an absent list for an empty one. A
//! version that does not exist leaves its item out and is reported: an unknown version must not stop the
//! rest. The result depends on the arguments only, so that equal targets are equal messages.

use aos_cloud_protocol::{
    AosIdentity, Base64Bytes, CertificateChain, CertificateInfo, DesiredInstance, DesiredItem,
    DesiredNodeState, DesiredStatus, IdentityType, MAX_INSTANCE_PRIORITY, MAX_NUM_INSTANCES,
    NodeDesiredState, Subject, SubjectType, UnitConfig,
};
use aos_ids::{Digest, ItemKind};

use crate::versions::resolve;

/// Kind of company that owns an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnerKind {
    /// Service provider.
    ServiceProvider,
    /// Vehicle or device maker.
    Oem,
}

/// An item assigned to a Unit.
#[derive(Debug, Clone)]
pub struct Assigned {
    /// The item, UUIDv4.
    pub item_id: String,
    /// Its kind.
    pub kind: ItemKind,
    /// Its owner, UUIDv4.
    pub owner_id: String,
    /// What its owner is.
    pub owner_kind: OwnerKind,
    /// `latest` or a semantic version.
    pub version: String,
    /// Versions that exist, with the digests of their indexes.
    pub known: Vec<(String, Digest)>,
    /// Instances wanted.
    pub num_instances: u64,
    /// Priority, higher first.
    pub priority: u64,
    /// Labels that a node must have.
    pub labels: Vec<String>,
}

/// Certificates that verify the blobs: (DER, fingerprint), signer first, without the root.
#[derive(Debug, Clone)]
pub struct Signing {
    /// Name of the chain.
    pub chain_name: String,
    /// The certificates.
    pub certificates: Vec<(Vec<u8>, String)>,
}

/// Everything that a desired status is made of.
#[derive(Debug, Clone)]
pub struct Target {
    /// The Unit's own default subject, UUIDv4.
    pub subject_id: String,
    /// What is assigned to it.
    pub assigned: Vec<Assigned>,
    /// How blobs are verified.
    pub signing: Signing,
    /// A configuration that the Unit does not have yet.
    pub unit_config: Option<UnitConfig>,
    /// Nodes that someone paused (true) or took back into service, by node id.
    pub nodes: Vec<(String, bool)>,
}

/// An assignment that could not be part of the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The item.
    pub item_id: String,
    /// The version that does not exist.
    pub version: String,
}

/// The desired status of a Unit, and what had to be left out.
pub fn desired_status(target: &Target) -> (DesiredStatus, Vec<Skipped>) {
    let (mut items, mut instances, mut skipped) = (Vec::new(), Vec::new(), Vec::new());
    for assigned in &target.assigned {
        let versions = assigned.known.iter().map(|(version, _)| version.as_str());
        let found = resolve(&assigned.version, versions)
            .and_then(|version| assigned.known.iter().find(|(known, _)| known == version));
        let Some((version, index_digest)) = found else {
            let skip = Skipped { item_id: assigned.item_id.clone(), version: assigned.version.clone() };
            skipped.push(skip);
            continue;
        };
        let owner = match assigned.owner_kind {
            OwnerKind::ServiceProvider => IdentityType::Sp,
            OwnerKind::Oem => IdentityType::Oem,
        };
        items.push(DesiredItem {
            item: AosIdentity::by_id(&assigned.item_id).with_type(identity_type(assigned.kind)),
            version: version.clone(),
            owner: AosIdentity::by_id(&assigned.owner_id).with_type(owner),
            index_digest: *index_digest,
        });
        // Layers are never started.
        if assigned.kind != ItemKind::Layer && assigned.num_instances > 0 {
            instances.push(DesiredInstance {
                item: AosIdentity::by_id(&assigned.item_id),
                subject: AosIdentity::by_id(&target.subject_id),
                priority: bounded(assigned.priority, MAX_INSTANCE_PRIORITY),
                num_instances: bounded(assigned.num_instances, MAX_NUM_INSTANCES),
                labels: assigned.labels.clone(),
            });
        }
    }
    let status = DesiredStatus {
        nodes: Some(target.nodes.iter().map(|(node, paused)| wished(node, *paused)).collect()),
        unit_config: target.unit_config.clone(),
        items: Some(items),
        instances: Some(instances),
        subjects: Some(vec![Subject {
            identity: AosIdentity::by_id(&target.subject_id),
            kind: SubjectType::Group,
            is_reported_from_unit: false,
        }]),
        certificates: Some(certificates(&target.signing)),
        certificate_chains: Some(vec![CertificateChain {
            name: target.signing.chain_name.clone(),
            fingerprints: target.signing.certificates.iter().map(|(_, label)| label.clone()).collect(),
        }]),
    };
    (status, skipped)
}

fn wished(node: &str, paused: bool) -> NodeDesiredState {
    NodeDesiredState {
        item: AosIdentity::by_codename(node).with_type(IdentityType::Node),
        state: if paused { DesiredNodeState::Paused } else { DesiredNodeState::Provisioned },
    }
}

fn identity_type(kind: ItemKind) -> IdentityType {
    match kind {
        ItemKind::Service => IdentityType::Service,
        ItemKind::Component => IdentityType::Component,
        ItemKind::Layer => IdentityType::Layer,
    }
}

fn bounded(number: u64, max: u32) -> u32 {
    u32::try_from(number).unwrap_or(max).min(max)
}

fn certificates(signing: &Signing) -> Vec<CertificateInfo> {
    let info = |(der, label): &(Vec<u8>, String)| CertificateInfo {
        certificate: Base64Bytes(der.clone()),
        fingerprint: label.clone(),
    };
    signing.certificates.iter().map(info).collect()
}

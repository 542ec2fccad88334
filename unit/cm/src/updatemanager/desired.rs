//! The wish of the cloud in the form we keep: checked once when it arrives, trusted afterwards.
//!
//! A list that the cloud left out means "unchanged", an empty one means "none of these". The stored form is
//! JSON of its own format; reading an unreadable one is an error, never an empty wish.

use aos_ids::{Digest, ItemId, ItemKind, NodeId, OwnerId, SubjectId};
use serde::{Deserialize, Serialize};

/// An item that should be on the Unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredItem {
    /// Which item.
    pub id: ItemId,
    /// Service, component or layer.
    pub kind: ItemKind,
    /// Version text, up to 32 bytes.
    pub version: String,
    /// Its provider.
    pub owner: OwnerId,
    /// Digest of its OCI index.
    pub index: Digest,
}

/// Instances that should run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredInstance {
    /// Which item.
    pub item: ItemId,
    /// For whom.
    pub subject: SubjectId,
    /// Higher is placed first.
    pub priority: u64,
    /// How many; 0 for a component means one on each fitting runtime.
    pub count: u64,
    /// Labels that the node must carry.
    pub labels: Vec<String>,
}

/// A subject that instances run for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredSubject {
    /// Its identifier.
    pub id: SubjectId,
    /// True for a user, false for a group.
    pub user: bool,
    /// Its instances run only while the Unit itself reports the subject.
    pub reported_from_unit: bool,
}

/// State that a node should be brought to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredNode {
    /// Which node.
    pub id: NodeId,
    /// True = paused, false = provisioned.
    pub paused: bool,
}

/// A certificate that signatures of blobs are checked with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Label of it, compared without regard to case.
    pub fingerprint: String,
    /// DER bytes.
    #[serde(with = "der_text")]
    pub der: Vec<u8>,
}

/// A named chain: signer first, then intermediates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Name that signatures refer to.
    pub name: String,
    /// Labels of its certificates.
    pub fingerprints: Vec<String>,
}

/// Certificates and chains of one desired status.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// All certificates.
    pub certificates: Vec<Certificate>,
    /// All chains.
    pub chains: Vec<Chain>,
}

/// Everything one `desiredStatus` asks for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Desired {
    /// Nodes to pause or resume.
    pub nodes: Vec<DesiredNode>,
    /// New Unit configuration.
    pub unit_config: Option<serde_json::Value>,
    /// Wanted items, or unchanged.
    pub items: Option<Vec<DesiredItem>>,
    /// Wanted instances, or unchanged.
    pub instances: Option<Vec<DesiredInstance>>,
    /// Subjects, or unchanged.
    pub subjects: Option<Vec<DesiredSubject>>,
    /// For signatures; not part of the comparison.
    pub trust: Trust,
}

impl Desired {
    /// True when both ask for the same; certificates do not count.
    pub fn asks_the_same(&self, other: &Self) -> bool {
        self.nodes == other.nodes
            && self.unit_config == other.unit_config
            && self.items == other.items
            && self.instances == other.instances
            && self.subjects == other.subjects
    }

    /// Fills the lists that were left out from what was asked before.
    pub fn over(mut self, before: Option<&Self>) -> Self {
        if let Some(before) = before {
            let missing = self.items.is_none();
            self.items = self.items.or_else(|| before.items.clone());
            self.instances = self.instances.or_else(|| before.instances.clone());
            self.subjects = self.subjects.or_else(|| before.subjects.clone());
            if missing && self.trust.certificates.is_empty() {
                self.trust = before.trust.clone();
            }
        }
        self
    }
}

/// An instance as far as the comparison needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HaveInstance {
    /// Its item.
    pub item: ItemId,
    /// Its subject.
    pub subject: SubjectId,
    /// Its number.
    pub instance: u64,
    /// Service or component.
    pub kind: ItemKind,
    /// Its version.
    pub version: String,
    /// Whether it is `active`.
    pub active: bool,
}

/// Whether the Unit differs from the wish, so that an update is needed. `installed` are the items in state
/// installed as (id, kind, version).
pub fn differs(
    desired: &Desired,
    installed: &[(ItemId, ItemKind, String)],
    instances: &[HaveInstance],
) -> bool {
    if !desired.nodes.is_empty() || desired.unit_config.is_some() {
        return true;
    }
    let wanted = |item: &ItemId| desired.items.iter().flatten().find(|known| known.id == *item);
    if let Some(items) = &desired.items {
        let missing = items.iter().any(|want| {
            !installed
                .iter()
                .any(|(id, kind, version)| *id == want.id && *kind == want.kind && *version == want.version)
        });
        let surplus = installed.iter().any(|(id, kind, version)| {
            !items.iter().any(|want| want.id == *id && want.kind == *kind && want.version == *version)
        });
        if missing || surplus {
            return true;
        }
    }
    let Some(wishes) = &desired.instances else { return false };
    let missing = wishes.iter().any(|wish| {
        (0..wish.count).any(|number| {
            !instances
                .iter()
                .any(|have| have.item == wish.item && have.subject == wish.subject && have.instance == number)
        })
    });
    missing
        || instances.iter().any(|have| {
            let wish = wishes.iter().find(|wish| wish.item == have.item && wish.subject == have.subject);
            match (have.kind, wish) {
                (ItemKind::Component, None) => false,
                (ItemKind::Component, Some(_)) => {
                    !have.active || wanted(&have.item).is_none_or(|item| item.version != have.version)
                }
                (_, wish) => wish.is_none_or(|wish| have.instance >= wish.count),
            }
        })
}

mod der_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(der: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(der))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        hex::decode(text).map_err(D::Error::custom)
    }
}

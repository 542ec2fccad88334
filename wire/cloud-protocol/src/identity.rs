//! Identities and descriptions shared by many messages.
//!
//! One structure, [`AosIdentity`], names nodes, items, subjects, owners and runtimes. Which member carries
//! the name depends on the object: nodes and runtimes go by `codename`, what the cloud delivers goes by
//! `id`, what a Unit came with goes by `codename`. The accessors here hold that rule once.

use std::fmt;

use aos_ids::{IdError, ItemId, NodeId, OwnerId, SubjectId};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize};

/// What an identity is. Only the first eight are ever written: other peers refuse the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IdentityType {
    /// Firmware item.
    Component,
    /// Service item.
    Service,
    /// Layer item.
    Layer,
    /// Group or user.
    Subject,
    /// Manufacturer.
    Oem,
    /// Service provider.
    Sp,
    /// Node of a Unit.
    Node,
    /// Runtime of a node.
    Runtime,
    /// Fleet; read only.
    Fleet,
    /// Subject made of nodes; read only.
    #[serde(rename = "node-subject")]
    NodeSubject,
}

impl IdentityType {
    /// Reads a word in any letter case, also in the form `AosService`; unknown words are `None`.
    pub fn parse(word: &str) -> Option<Self> {
        Self::exactly(word).or_else(|| {
            let lower = word.to_ascii_lowercase();
            Self::exactly(lower.strip_prefix("aos").unwrap_or(&lower))
        })
    }

    fn exactly(word: &str) -> Option<Self> {
        Some(match word {
            "component" => Self::Component,
            "service" => Self::Service,
            "layer" => Self::Layer,
            "subject" => Self::Subject,
            "oem" => Self::Oem,
            "sp" => Self::Sp,
            "node" => Self::Node,
            "runtime" => Self::Runtime,
            "fleet" => Self::Fleet,
            "node-subject" | "nodesubject" => Self::NodeSubject,
            _ => return None,
        })
    }
}

impl From<aos_ids::ItemKind> for IdentityType {
    fn from(kind: aos_ids::ItemKind) -> Self {
        match kind {
            aos_ids::ItemKind::Service => Self::Service,
            aos_ids::ItemKind::Component => Self::Component,
            aos_ids::ItemKind::Layer => Self::Layer,
        }
    }
}

/// Identity of a node, item, subject, owner or runtime. Every member is optional on the wire.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AosIdentity {
    /// Identifier given by the cloud, a UUIDv4 when the cloud is strict; at most 64 bytes for a Unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What the identity is. Unknown words are read as absent.
    #[serde(rename = "type", default, skip_serializing_if = "not_written", deserialize_with = "known_type")]
    pub kind: Option<IdentityType>,
    /// Name given by whoever made the object; at most 64 bytes for a Unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codename: Option<String>,
    /// Text for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Longer text for people; no peer reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Name as URN; no peer reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub urn: Option<String>,
}

impl AosIdentity {
    /// An identity that goes by `id`.
    pub fn by_id(id: impl Into<String>) -> Self {
        Self { id: Some(id.into()), ..Self::default() }
    }

    /// An identity that goes by `codename`.
    pub fn by_codename(codename: impl Into<String>) -> Self {
        Self { codename: Some(codename.into()), ..Self::default() }
    }

    /// A node as the cloud writes it: codename and type.
    pub fn node(id: &NodeId) -> Self {
        Self::by_codename(id.as_str()).with_type(IdentityType::Node)
    }

    /// The same identity with a type.
    pub fn with_type(self, kind: IdentityType) -> Self {
        Self { kind: Some(kind), ..self }
    }

    /// The same identity with a title.
    pub fn with_title(self, title: impl Into<String>) -> Self {
        Self { title: Some(title.into()), ..self }
    }

    /// The name to look the object up by: `id` when it is there and not empty, else `codename`.
    pub fn key(&self) -> Option<&str> {
        [&self.id, &self.codename].into_iter().flatten().map(String::as_str).find(|text| !text.is_empty())
    }

    /// True when the object goes by `codename` only: it came with the Unit.
    pub fn is_preinstalled(&self) -> bool {
        self.id.as_deref().unwrap_or_default().is_empty() && self.key().is_some()
    }

    /// The node meant: `codename`, else `id`.
    pub fn node_id(&self) -> Result<NodeId, IdError> {
        let codename = self.codename.as_deref().filter(|text| !text.is_empty());
        NodeId::new(codename.or(self.id.as_deref()).unwrap_or_default())
    }

    /// The item meant: `id`, else `codename`.
    pub fn item_id(&self) -> Result<ItemId, IdError> {
        ItemId::new(self.key().unwrap_or_default())
    }

    /// The subject meant: `id`, else `codename`.
    pub fn subject_id(&self) -> Result<SubjectId, IdError> {
        SubjectId::new(self.key().unwrap_or_default())
    }

    /// The owner meant: `id`, else `codename`.
    pub fn owner_id(&self) -> Result<OwnerId, IdError> {
        OwnerId::new(self.key().unwrap_or_default())
    }
}

#[allow(clippy::ref_option, clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn not_written(kind: &Option<IdentityType>) -> bool {
    matches!(kind, None | Some(IdentityType::Fleet | IdentityType::NodeSubject))
}

fn known_type<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IdentityType>, D::Error> {
    let word = Option::<TypeWord>::deserialize(deserializer)?;
    Ok(word.and_then(|word| word.0))
}

/// A word that may be the name of a type.
struct TypeWord(Option<IdentityType>);

impl<'de> Deserialize<'de> for TypeWord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Word;
        impl Visitor<'_> for Word {
            type Value = TypeWord;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a word")
            }
            fn visit_str<E>(self, word: &str) -> Result<TypeWord, E> {
                Ok(TypeWord(IdentityType::parse(word)))
            }
        }
        deserializer.deserialize_str(Word)
    }
}

/// Operating system of a node or runtime.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OsInfo {
    /// Name such as `linux`; at most 16 bytes for a Unit.
    pub os: String,
    /// Version of the system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What it offers, for instance `cgroupv2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<Vec<String>>,
}

/// Processor architecture in OCI words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArchInfo {
    /// `amd64`, `arm64`, ...
    pub architecture: String,
    /// `v8` and the like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

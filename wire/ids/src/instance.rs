//! Identity of one running instance of an item.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{ItemId, SubjectId};

/// A word that is no item kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no item type; known are service, component and layer")]
pub struct UnknownItemKind(pub String);

/// What an item is. Only services and components can be instantiated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ItemKind {
    /// Runs as a container or process.
    Service,
    /// Firmware: boot image, root file system.
    Component,
    /// File system layer shared by services.
    Layer,
}

impl ItemKind {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Component => "component",
            Self::Layer => "layer",
        }
    }
}

impl fmt::Display for ItemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ItemKind {
    type Err = UnknownItemKind;

    /// Accepts any letter case, and the documents' `AosService` form.
    fn from_str(text: &str) -> Result<Self, UnknownItemKind> {
        let word = text.to_ascii_lowercase();
        match word.strip_prefix("aos").unwrap_or(&word) {
            "service" => Ok(Self::Service),
            "component" => Ok(Self::Component),
            "layer" => Ok(Self::Layer),
            _ => Err(UnknownItemKind(text.chars().take(40).collect())),
        }
    }
}

/// Identity of one instance: the five values that all peers use as its key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct InstanceIdent {
    /// The item it is an instance of.
    pub item: ItemId,
    /// The subject it runs for.
    pub subject: SubjectId,
    /// Number of the instance, from 0.
    pub instance: u64,
    /// Service or component.
    pub kind: ItemKind,
    /// True for what the node came with and the cloud never asked for.
    pub preinstalled: bool,
}

impl InstanceIdent {
    /// A service instance that the cloud asked for.
    pub fn service(item: ItemId, subject: SubjectId, instance: u64) -> Self {
        Self { item, subject, instance, kind: ItemKind::Service, preinstalled: false }
    }

    /// The instance ID: UUIDv3 in the OID name space over `<item>:<subject>:<instance>`, as upstream
    /// derives it; it names the container, its cgroup and its network namespace.
    pub fn instance_id(&self) -> String {
        let name = format!("{}:{}:{}", self.item, self.subject, self.instance);
        uuid::Uuid::new_v3(&uuid::Uuid::NAMESPACE_OID, name.as_bytes()).to_string()
    }
}

impl fmt::Display for InstanceIdent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.item, self.subject, self.instance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instance_id_matches_the_upstream_vector() {
        let ident =
            InstanceIdent::service(ItemId::new("item0").unwrap(), SubjectId::new("subject0").unwrap(), 0);
        assert_eq!(ident.instance_id(), "33299ef5-ca7c-369d-aa0f-ddf797046b3b");
    }

    #[test]
    fn item_kinds_of_documents_and_wire() {
        assert_eq!("AosService".parse(), Ok(ItemKind::Service));
        assert_eq!("component".parse(), Ok(ItemKind::Component));
        assert!("fleet".parse::<ItemKind>().is_err());
    }
}

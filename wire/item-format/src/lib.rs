//! OCI index, manifest, image and item configuration, unit and node configuration.
//!
//! Reading is tolerant as the Units of all versions are: keys without case, `null` is absent, unknown keys are
//! ignored, older forms are understood. Writing is strict: the newest form, keys in a fixed order, so that the
//! same content has the same digest. Limits of a document: 1 MiB, 32 levels, 64 manifests, 128 layers. No file
//! is opened and nothing is fetched here.

mod alert_rules;
mod connection;
mod image_config;
mod item_config;
mod oci;
mod percent;
mod probes;
mod resource_file;
mod several_forms;
mod tree;
mod unit_config;

use aos_loose_json::{LooseError, Rules};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use alert_rules::{AlertRules, PartitionRule, PercentRule, PointsRule, STORAGES_PARTITION};
pub use aos_loose_json::KeyError;
pub use connection::{AllowedConnection, BadConnection, Protocol};
pub use image_config::{ContainerConfig, ExposedPort, ImageConfig, RootFs};
pub use item_config::{
    BalancingPolicy, Dependency, Identity, ItemConfig, Quotas, RequestedResources, ResourceRequest,
    RunParameters,
};
pub use oci::{Descriptor, Index, Manifest, Platform, media_type, normalised_architecture};
pub use probes::{HttpProbe, Probe, Probes, TcpProbe};
pub use resource_file::{DeviceMapping, HostEntry, NodeResource, ResourceMount, read_resources};
pub use tree::{BlobRole, ImageTree, TreeBlob, TreeError, TreeManifest};
pub use unit_config::{NodeConfig, ResourceRatios, UnitConfig};

/// Longest accepted document, bytes.
pub const MAX_DOCUMENT: usize = 1024 * 1024;
/// Most manifests of an index.
pub const MAX_MANIFESTS: usize = 64;
/// Most layers of a manifest.
pub const MAX_LAYERS: usize = 128;

/// Why a document cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// Longer than [`MAX_DOCUMENT`].
    #[error("the {document} has {size} bytes, at most {MAX_DOCUMENT} are allowed")]
    TooLarge {
        /// Kind of document.
        document: &'static str,
        /// Its size, bytes.
        size: usize,
    },
    /// No JSON, or a key has a wrong value.
    #[error("the {document} is not valid: {source}")]
    Invalid {
        /// Kind of document.
        document: &'static str,
        /// What is wrong, with the path of the key.
        #[source]
        source: LooseError,
    },
}

/// Rules beyond the types of the fields.
trait Document: DeserializeOwned + Serialize {
    const NAME: &'static str;

    fn check(&self) -> Result<(), KeyError> {
        Ok(())
    }
}

fn invalid<D: Document>(source: impl Into<LooseError>) -> FormatError {
    FormatError::Invalid { document: D::NAME, source: source.into() }
}

fn read<D: Document>(bytes: &[u8]) -> Result<D, FormatError> {
    if bytes.len() > MAX_DOCUMENT {
        return Err(FormatError::TooLarge { document: D::NAME, size: bytes.len() });
    }
    let document: D = aos_loose_json::from_slice(bytes, Rules::DOCUMENT).map_err(invalid::<D>)?.value;
    document.check().map_err(invalid::<D>)?;
    Ok(document)
}

fn from_value<D: Document>(value: serde_json::Value) -> Result<D, FormatError> {
    let document: D = aos_loose_json::from_value(value, Rules::DOCUMENT).map_err(invalid::<D>)?.value;
    document.check().map_err(invalid::<D>)?;
    Ok(document)
}

/// Our document types have text keys and serialise without conditions, which cannot fail.
fn write<D: Document>(document: &D) -> Vec<u8> {
    serde_json::to_vec(document).unwrap_or_default()
}

macro_rules! document {
    ($type:ident) => {
        impl $type {
            /// Reads and checks a document.
            pub fn read(bytes: &[u8]) -> Result<Self, crate::FormatError> {
                crate::read(bytes)
            }

            /// Reads and checks a document that is parsed already.
            pub fn from_value(value: serde_json::Value) -> Result<Self, crate::FormatError> {
                crate::from_value(value)
            }

            /// Writes the document: compact JSON, always the same for the same content.
            pub fn write(&self) -> Vec<u8> {
                crate::write(self)
            }
        }
    };
}
use document;

#[cfg(test)]
mod tests;

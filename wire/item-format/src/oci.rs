//! Image index and manifest.

use std::collections::BTreeMap;

use aos_ids::Digest;
use aos_loose_json::KeyError;
use serde::{Deserialize, Serialize};

use crate::{Document, MAX_LAYERS, MAX_MANIFESTS, document};

/// Media types of blobs.
pub mod media_type {
    /// Image index.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// Image manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// Image configuration.
    pub const IMAGE_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// The empty configuration `{}` of items that never run.
    pub const EMPTY: &str = "application/vnd.oci.empty.v1+json";
    /// Item configuration.
    pub const ITEM_CONFIG: &str = "application/vnd.aos.item.config.v1+json";
    /// Item configuration in images of older tools.
    pub const SERVICE_CONFIG: &str = "application/vnd.aos.service.config.v1+json";
    /// Layer: tar.
    pub const LAYER_TAR: &str = "application/vnd.oci.image.layer.v1.tar";
    /// Layer: tar, compressed by gzip.
    pub const LAYER_TAR_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// Layer: tar, compressed by zstd.
    pub const LAYER_TAR_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// Component: complete partition image, compressed by gzip.
    pub const COMPONENT_FULL_GZIP: &str = "application/vnd.aos.image.component.full.v1+gzip";
    /// Component: complete root file system.
    pub const COMPONENT_FULL_SQUASHFS: &str = "application/vnd.aos.image.component.full.v1+squashfs";
    /// Component: increment to a root file system.
    pub const COMPONENT_INC_SQUASHFS: &str = "application/vnd.aos.image.component.inc.v1+squashfs";
}

/// What an image was built for, or what a runtime offers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Platform {
    /// CPU architecture, such as `amd64`; kernel names such as `x86_64` mean the same.
    pub architecture: String,
    /// Variant of the architecture, such as `v7`; empty when there is none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub variant: String,
    /// Operating system, such as `linux`.
    pub os: String,
    /// Version of the operating system.
    #[serde(rename = "os.version", skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// Features of the operating system.
    #[serde(rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
}

impl Platform {
    /// True when an image for this platform runs on `offered`: same architecture; variant, operating system
    /// and version equal where this one names them; every feature offered. Letter case does not matter for
    /// architecture, variant and operating system.
    pub fn runs_on(&self, offered: &Self) -> bool {
        let any_or = |wanted: &str, has: &str| wanted.is_empty() || wanted.eq_ignore_ascii_case(has);
        !self.architecture.is_empty()
            && normalised_architecture(&self.architecture) == normalised_architecture(&offered.architecture)
            && (any_or(&self.variant, &offered.variant) || self.variant_is_implied(&offered.variant))
            && any_or(&self.os, &offered.os)
            && (self.os_version.is_empty() || self.os_version == offered.os_version)
            && self.os_features.iter().all(|feature| offered.os_features.contains(feature))
    }

    /// Every 64-bit ARM is at least `v8`, which some tools write and some leave out.
    fn variant_is_implied(&self, offered: &str) -> bool {
        offered.is_empty()
            && self.variant.eq_ignore_ascii_case("v8")
            && normalised_architecture(&self.architecture) == "arm64"
    }
}

/// The OCI name of an architecture: `x86_64` is `amd64`, `aarch64` is `arm64`, others in lower case.
pub fn normalised_architecture(name: &str) -> String {
    let lower = name.to_ascii_lowercase();
    match lower.as_str() {
        "x86_64" | "x86-64" => "amd64".to_owned(),
        "aarch64" => "arm64".to_owned(),
        "i386" | "i486" | "i586" | "i686" => "386".to_owned(),
        "armv6l" | "armv7l" | "armhf" => "arm".to_owned(),
        _ => lower,
    }
}

/// Reference to a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Kind of content.
    #[serde(default)]
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its length, bytes.
    pub size: u64,
    /// What the manifest's image was built for; only in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Free notes, such as `org.opencontainers.image.ref.name`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// A reference without platform and notes.
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self { media_type: media_type.into(), digest, size, platform: None, annotations: BTreeMap::new() }
    }
}

fn check_version(version: u32) -> Result<(), KeyError> {
    match version {
        2 => Ok(()),
        other => Err(KeyError::new("schemaVersion", format!("{other} is not supported, expected 2"))),
    }
}

fn check_count(key: &str, count: usize, max: usize) -> Result<(), KeyError> {
    if count > max {
        return Err(KeyError::new(key, format!("{count} entries, at most {max} are allowed")));
    }
    Ok(())
}

const fn two() -> u32 {
    2
}

/// Image index: the manifests of one version of an item, in order of preference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    #[serde(default = "two")]
    pub schema_version: u32,
    /// [`media_type::INDEX`] when given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Kind of artefact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// References to manifests.
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
    /// Free notes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Index {
    /// An index of `manifests`.
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(media_type::INDEX.to_owned()),
            artifact_type: None,
            manifests,
            annotations: BTreeMap::new(),
        }
    }
}

impl Document for Index {
    const NAME: &'static str = "image index";

    fn check(&self) -> Result<(), KeyError> {
        check_version(self.schema_version)?;
        check_count("manifests", self.manifests.len(), MAX_MANIFESTS)
    }
}
document!(Index);

/// Image manifest: what one image consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", from = "ManifestForms")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// [`media_type::MANIFEST`] when given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Kind of artefact.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The image configuration.
    pub config: Descriptor,
    /// The item configuration; needed by everything that runs. Read from `aosItemConfig`, or else `aosService`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aos_item_config: Option<Descriptor>,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// Free notes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Manifest {
    /// A manifest of these parts.
    pub fn new(config: Descriptor, aos_item_config: Option<Descriptor>, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(media_type::MANIFEST.to_owned()),
            artifact_type: None,
            config,
            aos_item_config,
            layers,
            annotations: BTreeMap::new(),
        }
    }

    /// All blobs the manifest names: configuration, item configuration, layers.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        std::iter::once(&self.config).chain(&self.aos_item_config).chain(&self.layers)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ManifestForms {
    #[serde(default = "two")]
    schema_version: u32,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Descriptor,
    aos_item_config: Option<Descriptor>,
    aos_service: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl From<ManifestForms> for Manifest {
    fn from(forms: ManifestForms) -> Self {
        Self {
            schema_version: forms.schema_version,
            media_type: forms.media_type,
            artifact_type: forms.artifact_type,
            config: forms.config,
            aos_item_config: forms.aos_item_config.or(forms.aos_service),
            layers: forms.layers,
            annotations: forms.annotations,
        }
    }
}

impl Document for Manifest {
    const NAME: &'static str = "image manifest";

    fn check(&self) -> Result<(), KeyError> {
        check_version(self.schema_version)?;
        check_count("layers", self.layers.len(), MAX_LAYERS)
    }
}
document!(Manifest);

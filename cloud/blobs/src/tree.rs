//! Checking a version before it is published: index, manifests, configurations and layers.
//!
//! Every blob that a Unit will ask for must be there with the announced size, and every document must be one
//! that a Unit reads: the same readers decide here. Units of the original take 8 manifests and 16 layers;
//! more is published with a warning.

use std::collections::BTreeMap;

use aos_ids::Digest;
use aos_item_format::{Descriptor, FormatError, ImageConfig, Index, ItemConfig, Manifest};

use crate::{BlobError, Blobs};

const COMMON_MANIFESTS: usize = 8;
const COMMON_LAYERS: usize = 16;

/// All blobs of a version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    /// Digests of all blobs, the index included.
    pub blobs: Vec<Digest>,
    /// Sum of their plain sizes, bytes.
    pub size: u64,
}

/// The blobs seen so far with their plain sizes.
type Seen = BTreeMap<Digest, u64>;

impl Blobs {
    /// Checks the tree under `index`. `runs` tells whether the item is to run (service, component), in
    /// which case each manifest needs an item configuration and an image configuration.
    pub async fn check_tree(&self, index: Digest, runs: bool) -> Result<Tree, BlobError> {
        let mut seen = Seen::new();
        let bytes = self.bytes(&index, "index", &mut seen).await?;
        let document = Index::read(&bytes).map_err(malformed("index", index))?;
        if document.manifests.is_empty() {
            return Err(refused("the index lists no manifest".to_owned()));
        }
        if document.manifests.len() > COMMON_MANIFESTS {
            tracing::warn!("index {index} lists {} manifests; some Units take 8", document.manifests.len());
        }
        for descriptor in &document.manifests {
            self.present(descriptor, "manifest", &mut seen).await?;
            let bytes = self.bytes(&descriptor.digest, "manifest", &mut seen).await?;
            let manifest = Manifest::read(&bytes).map_err(malformed("manifest", descriptor.digest))?;
            self.manifest(&manifest, runs, &mut seen).await?;
        }
        Ok(Tree { size: seen.values().sum(), blobs: seen.into_keys().collect() })
    }

    async fn manifest(&self, manifest: &Manifest, runs: bool, seen: &mut Seen) -> Result<(), BlobError> {
        let layers = manifest.layers.len();
        if layers > COMMON_LAYERS {
            tracing::warn!("a manifest lists {layers} layers; some Units take 16");
        }
        self.present(&manifest.config, "image configuration", seen).await?;
        for layer in &manifest.layers {
            self.present(layer, "layer", seen).await?;
        }
        match &manifest.aos_item_config {
            Some(descriptor) => {
                self.present(descriptor, "item configuration", seen).await?;
                let bytes = self.bytes(&descriptor.digest, "item configuration", seen).await?;
                ItemConfig::read(&bytes).map_err(malformed("item configuration", descriptor.digest))?;
            }
            None if runs => {
                return Err(refused("a manifest has no aosItemConfig; it could not be started".to_owned()));
            }
            None => {}
        }
        if !runs {
            return Ok(());
        }
        let digest = manifest.config.digest;
        let bytes = self.bytes(&digest, "image configuration", seen).await?;
        let image = ImageConfig::read(&bytes).map_err(malformed("image configuration", digest))?;
        if image.architecture.is_empty() || image.os.is_empty() {
            return Err(refused(format!("image configuration {digest} names no architecture or no os")));
        }
        let ids = image.rootfs.diff_ids.len();
        if ids != layers {
            return Err(refused(format!(
                "image configuration {digest} has {ids} rootfs.diff_ids for {layers} layers"
            )));
        }
        Ok(())
    }

    /// Checks that the blob of a descriptor is there with the announced size.
    async fn present(&self, descriptor: &Descriptor, what: &str, seen: &mut Seen) -> Result<(), BlobError> {
        let Descriptor { digest, size, .. } = descriptor;
        let blob = self.find(digest).await?.ok_or_else(|| missing(what, digest))?;
        if *size != blob.size {
            return Err(refused(format!("{what} {digest} has {} bytes, not {size}", blob.size)));
        }
        seen.insert(*digest, blob.size);
        Ok(())
    }

    async fn bytes(&self, digest: &Digest, what: &str, seen: &mut Seen) -> Result<Vec<u8>, BlobError> {
        let bytes = self.document(digest).await?.ok_or_else(|| missing(what, digest))?;
        seen.insert(*digest, bytes.len() as u64);
        Ok(bytes)
    }
}

fn malformed(what: &'static str, digest: Digest) -> impl FnOnce(FormatError) -> BlobError {
    move |error| {
        let mut text = format!("{what} {digest}: {error}");
        if let Some(cause) = std::error::Error::source(&error).map(ToString::to_string)
            && !text.contains(&cause)
        {
            text = format!("{text}: {cause}");
        }
        BlobError::Tree(text)
    }
}

fn missing(what: &str, digest: &Digest) -> BlobError {
    refused(format!("{what} {digest} has not been uploaded"))
}

fn refused(text: String) -> BlobError {
    BlobError::Tree(text)
}

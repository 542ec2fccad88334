//! Checking a version before it is published: index, manifests, configurations and layers.
//!
//! Every blob that a Unit will ask for must be there, and every document must be one that a Unit can read.
//! Limits are those of the Units: 8 manifests, 16 layers each.

use std::collections::BTreeMap;

use aos_ids::Digest;
use serde_json::Value;

use crate::{BlobError, Blobs};

const MAX_MANIFESTS: usize = 8;
const MAX_LAYERS: usize = 16;

/// All blobs of a version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    /// Digests of all blobs, the index included.
    pub blobs: Vec<Digest>,
    /// Sum of their plain sizes, bytes.
    pub size: u64,
}

impl Blobs {
    /// Checks the tree under `index`. `runs` tells whether the item is to run (service, component), in
    /// which case each manifest needs an item configuration and an image configuration.
    pub async fn check_tree(&self, index: Digest, runs: bool) -> Result<Tree, BlobError> {
        let mut found = BTreeMap::new();
        let document = self.object(&index, "index", &mut found).await?;
        let manifests = array(&document, "manifests", "index")?;
        if manifests.is_empty() || manifests.len() > MAX_MANIFESTS {
            return Err(refused(format!("the index must list 1 to {MAX_MANIFESTS} manifests")));
        }
        for descriptor in manifests {
            let digest = self.descriptor(descriptor, "manifest", &mut found).await?;
            let manifest = self.object(&digest, "manifest", &mut found).await?;
            self.manifest(&manifest, runs, &mut found).await?;
        }
        Ok(Tree { size: found.values().sum(), blobs: found.into_keys().collect() })
    }

    async fn manifest(
        &self,
        manifest: &Value,
        runs: bool,
        found: &mut BTreeMap<Digest, u64>,
    ) -> Result<(), BlobError> {
        let config = manifest.get("config").ok_or_else(|| refused("a manifest has no config".to_owned()))?;
        let config = self.descriptor(config, "image configuration", found).await?;
        let image = self.object(&config, "image configuration", found).await?;
        let layers = array(manifest, "layers", "manifest")?;
        if layers.len() > MAX_LAYERS {
            return Err(refused(format!("a manifest lists more than {MAX_LAYERS} layers")));
        }
        for layer in layers {
            self.descriptor(layer, "layer", found).await?;
        }
        let item = manifest.get("aosItemConfig").or_else(|| manifest.get("aosService"));
        match item.filter(|item| !item.is_null()) {
            Some(item) => {
                let digest = self.descriptor(item, "item configuration", found).await?;
                self.object(&digest, "item configuration", found).await?;
            }
            None if runs => {
                return Err(refused("a manifest has no aosItemConfig; it could not be started".to_owned()));
            }
            None => {}
        }
        if runs {
            for key in ["architecture", "os"] {
                if !image.get(key).is_some_and(Value::is_string) {
                    return Err(refused(format!("an image configuration has no '{key}'")));
                }
            }
            let ids = image.pointer("/rootfs/diff_ids").and_then(Value::as_array).map_or(0, Vec::len);
            if ids != layers.len() {
                return Err(refused(format!(
                    "an image configuration has {ids} rootfs.diff_ids for {} layers",
                    layers.len()
                )));
            }
        }
        Ok(())
    }

    /// The digest that a descriptor names, after checking that the blob is there with the announced size.
    async fn descriptor(
        &self,
        descriptor: &Value,
        what: &str,
        found: &mut BTreeMap<Digest, u64>,
    ) -> Result<Digest, BlobError> {
        let text = descriptor.get("digest").and_then(Value::as_str).unwrap_or_default();
        let digest: Digest = text.parse().map_err(|error| refused(format!("{what}: {error}")))?;
        let blob = self.find(&digest).await?.ok_or_else(|| missing(what, &digest))?;
        if let Some(size) = descriptor.get("size").and_then(Value::as_u64)
            && size != blob.size
        {
            return Err(refused(format!("{what} {digest} has {} bytes, not {size}", blob.size)));
        }
        found.insert(digest, blob.size);
        Ok(digest)
    }

    async fn object(
        &self,
        digest: &Digest,
        what: &str,
        found: &mut BTreeMap<Digest, u64>,
    ) -> Result<Value, BlobError> {
        let bytes = self.document(digest).await?.ok_or_else(|| missing(what, digest))?;
        found.insert(*digest, bytes.len() as u64);
        let value: Value = serde_json::from_slice(&bytes)
            .map_err(|error| refused(format!("{what} {digest} is no JSON: {error}")))?;
        if value.is_object() { Ok(value) } else { Err(refused(format!("{what} {digest} is no object"))) }
    }
}

fn array<'a>(object: &'a Value, key: &str, what: &str) -> Result<&'a Vec<Value>, BlobError> {
    object
        .get(key)
        .and_then(Value::as_array)
        .ok_or_else(|| refused(format!("the {what} has no list '{key}'")))
}

fn missing(what: &str, digest: &Digest) -> BlobError {
    refused(format!("{what} {digest} has not been uploaded"))
}

fn refused(text: String) -> BlobError {
    BlobError::Tree(text)
}

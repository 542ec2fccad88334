//! Manifests and configurations: read from disk, checked, and put together to an image.

use std::path::{Path, PathBuf};

use aos_ids::Digest;
use aos_image_layers::{Layer, LayerStore, Packing, sha256};
use aos_item_format::{
    Descriptor, ImageConfig, Index, ItemConfig, MAX_DOCUMENT, Manifest, Platform, normalised_architecture,
};

use super::{Image, RawBlob};
use crate::Error;

/// Media types of components begin so.
const COMPONENT: &str = "application/vnd.aos.image.component.";

pub fn blob_path(folder: &Path, digest: &Digest) -> PathBuf {
    folder.join("blobs/sha256").join(digest.hex())
}

/// A small blob, checked once more.
pub fn read_blob(folder: &Path, digest: &Digest) -> Result<Vec<u8>, Error> {
    let content = aos_durable::read_bounded(&blob_path(folder, digest), MAX_DOCUMENT as u64)?
        .ok_or_else(|| Error::NotFound(format!("blob {digest}")))?;
    check(&content, digest)?;
    Ok(content)
}

pub fn check(content: &[u8], digest: &Digest) -> Result<(), Error> {
    let found = sha256(content);
    if found == *digest {
        return Ok(());
    }
    Err(Error::Checksum { what: "blob".to_owned(), expected: digest.to_string(), found: found.to_string() })
}

/// What a digest leads to.
#[derive(Debug)]
pub enum Top {
    /// The manifest itself.
    Manifest(Box<Parts>),
    /// An index, and the manifest in it that is for this node.
    Index(Descriptor),
}

/// A manifest with what it must have.
#[derive(Debug)]
pub struct Parts {
    pub manifest: Manifest,
    pub what: Kind,
}

/// What kind of item it is the manifest of.
#[derive(Debug)]
pub enum Kind {
    /// It runs in a container or as a process.
    Service { item_config: Descriptor },
    /// Its layers are files for a runtime of components.
    Component { item_config: Option<Descriptor> },
}

/// Understands the document behind the digest an item is named by.
pub fn read_top(content: &[u8], digest: &Digest) -> Result<Top, Error> {
    let refused = |reason: String| Error::invalid(format!("index {digest}"), reason);
    let index = Index::read(content).ok().filter(|index| !index.manifests.is_empty());
    let Some(index) = index else { return parse_manifest(content, digest).map(Box::new).map(Top::Manifest) };
    let here = Platform {
        architecture: normalised_architecture(std::env::consts::ARCH),
        os: std::env::consts::OS.to_owned(),
        ..Default::default()
    };
    let fits = |one: &&Descriptor| one.platform.as_ref().is_some_and(|platform| platform.runs_on(&here));
    let chosen = index.manifests.iter().find(fits);
    // A single manifest without a platform is for whoever is asked to run it.
    let single =
        || index.manifests.first().filter(|one| index.manifests.len() == 1 && one.platform.is_none());
    let chosen = chosen.or_else(single).cloned();
    chosen.map(Top::Index).ok_or_else(|| refused(format!("it has no image for {}", here.architecture)))
}

/// Reads a manifest and finds out what it is of.
pub fn parse_manifest(content: &[u8], digest: &Digest) -> Result<Parts, Error> {
    let refused = |reason: String| Error::invalid(format!("manifest {digest}"), reason);
    let manifest = Manifest::read(content).map_err(|error| refused(error.to_string()))?;
    if manifest.layers.is_empty() {
        return Err(refused("it has no layers".into()));
    }
    let item_config = manifest.aos_item_config.clone();
    let components = manifest.layers.iter().filter(|layer| layer.media_type.starts_with(COMPONENT)).count();
    let what = if components == manifest.layers.len() {
        Kind::Component { item_config }
    } else if components == 0 {
        let item_config = item_config.ok_or_else(|| refused("it has no item configuration".into()))?;
        Kind::Service { item_config }
    } else {
        return Err(refused("it mixes layers of a service and of a component".into()));
    };
    Ok(Parts { manifest, what })
}

/// The layers of a service, from the texts of its two configurations.
pub fn parse_configs(
    parts: &Parts,
    item_config: &Descriptor,
    config: &[u8],
    item: &[u8],
) -> Result<(ImageConfig, ItemConfig, Vec<Layer>), Error> {
    let refused =
        |what: &Descriptor, reason: String| Error::invalid(format!("document {}", what.digest), reason);
    let config_of = &parts.manifest.config;
    let config = ImageConfig::read(config).map_err(|error| refused(config_of, error.to_string()))?;
    let item = ItemConfig::read(item).map_err(|error| refused(item_config, error.to_string()))?;
    if config.rootfs.diff_ids.len() != parts.manifest.layers.len() {
        let (ids, layers) = (config.rootfs.diff_ids.len(), parts.manifest.layers.len());
        return Err(refused(config_of, format!("it has {ids} diff_ids for {layers} layers")));
    }
    let mut layers = Vec::new();
    for (described, diff_id) in parts.manifest.layers.iter().zip(&config.rootfs.diff_ids) {
        let packing = Packing::of(&described.media_type).ok_or_else(|| {
            Error::NotSupported(format!("layer type '{}'", described.media_type.escape_debug()))
        })?;
        layers.push(Layer { digest: described.digest, size: described.size, packing, diff_id: *diff_id });
    }
    Ok((config, item, layers))
}

/// The item of a digest from what is on disk. Layers are not looked into.
pub fn load(folder: &Path, store: &LayerStore, digest: &Digest) -> Result<Image, Error> {
    let parts = match read_top(&read_blob(folder, digest)?, digest)? {
        Top::Manifest(parts) => *parts,
        Top::Index(chosen) => parse_manifest(&read_blob(folder, &chosen.digest)?, &chosen.digest)?,
    };
    match &parts.what {
        Kind::Service { item_config } => {
            let config = read_blob(folder, &parts.manifest.config.digest)?;
            let item = read_blob(folder, &item_config.digest)?;
            let (config, item, described) = parse_configs(&parts, item_config, &config, &item)?;
            let mut layers = Vec::new();
            for layer in &described {
                let tree = store.tree(&layer.diff_id);
                if !tree.is_dir() {
                    return Err(Error::NotFound(format!("layer {}", layer.digest)));
                }
                layers.push(tree);
            }
            Ok(Image { config, item, layers, blobs: Vec::new() })
        }
        Kind::Component { item_config } => {
            let content = match item_config {
                Some(described) => read_blob(folder, &described.digest)?,
                None => b"{}".to_vec(),
            };
            let item = ItemConfig::read(&content).map_err(|error| {
                Error::invalid(format!("item configuration of {digest}"), error.to_string())
            })?;
            let mut blobs = Vec::new();
            for layer in &parts.manifest.layers {
                let path = blob_path(folder, &layer.digest);
                let found = std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_file);
                if found.map(|found| found.len()) != Some(layer.size) {
                    return Err(Error::NotFound(format!("blob {}", layer.digest)));
                }
                blobs.push(RawBlob { media_type: layer.media_type.clone(), path });
            }
            Ok(Image { config: ImageConfig::default(), item, layers: Vec::new(), blobs })
        }
    }
}

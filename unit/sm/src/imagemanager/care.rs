//! Looking after what is stored: which items were damaged, and what nobody names any more. Blocking.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use aos_content_store::Store;
use aos_ids::Digest;
use aos_image_layers::{Condition, Depth, LayerStore};
use aos_item_format::ImageConfig;

use super::documents::{Kind, Top, blob_path, parse_manifest, read_blob, read_top};
use crate::Error;

/// What an item names, as far as its documents can be read.
#[derive(Debug, Default)]
pub struct Named {
    /// Documents, raw blobs, marks of layers.
    pub blobs: Vec<Digest>,
    /// Trees.
    pub trees: Vec<Digest>,
    /// Raw blobs and their sizes, bytes.
    pub raw: Vec<(Digest, u64)>,
    /// False when a document is missing or wrong.
    pub readable: bool,
}

/// Follows the documents of an item.
pub fn named(folder: &Path, digest: &Digest) -> Named {
    let mut named = Named::default();
    named.readable = follow(folder, digest, &mut named).is_ok();
    named
}

fn follow(folder: &Path, digest: &Digest, named: &mut Named) -> Result<(), Error> {
    named.blobs.push(*digest);
    let parts = match read_top(&read_blob(folder, digest)?, digest)? {
        Top::Manifest(parts) => *parts,
        Top::Index(chosen) => {
            named.blobs.push(chosen.digest);
            parse_manifest(&read_blob(folder, &chosen.digest)?, &chosen.digest)?
        }
    };
    named.blobs.extend(parts.manifest.blobs().map(|blob| blob.digest));
    if let Some(item_config) = &parts.manifest.aos_item_config {
        read_blob(folder, &item_config.digest)?;
    }
    match parts.what {
        Kind::Component { .. } => {
            named.raw.extend(parts.manifest.layers.iter().map(|layer| (layer.digest, layer.size)));
        }
        Kind::Service { .. } => {
            let config = &parts.manifest.config.digest;
            let config = ImageConfig::read(&read_blob(folder, config)?)
                .map_err(|error| Error::invalid(format!("document {config}"), error.to_string()))?;
            named.trees.extend(config.rootfs.diff_ids);
        }
    }
    Ok(())
}

/// What a look at some items found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Items of which something is missing or wrong.
    pub damaged: Vec<Digest>,
    /// Trees and raw blobs that have to be fetched anew.
    pub contents: HashSet<Digest>,
}

/// Looks at everything the items name; each content once.
pub fn examine(
    folder: &Path,
    layers: &LayerStore,
    store: &Store,
    items: &[Digest],
    depth: Depth,
) -> Findings {
    let mut findings = Findings::default();
    let mut good: HashSet<Digest> = HashSet::new();
    for item in items {
        let named = named(folder, item);
        let mut whole = named.readable;
        for tree in &named.trees {
            if good.contains(tree) {
                continue;
            }
            if matches!(layers.check(tree, depth), Ok(Condition::Whole)) {
                good.insert(*tree);
            } else {
                findings.contents.insert(*tree);
                whole = false;
            }
        }
        for (blob, size) in &named.raw {
            let right = store.size(blob) == Some(*size)
                && (depth == Depth::Quick || store.verify(blob).unwrap_or(false));
            if !right {
                findings.contents.insert(*blob);
                whole = false;
            }
        }
        if !whole {
            findings.damaged.push(*item);
        }
    }
    findings
}

/// Takes everything away that neither the items nor `held` name; what is returned removes it when dropped.
pub fn take_orphans(
    folder: &Path,
    layers: &LayerStore,
    items: &[Digest],
    held: &HashSet<Digest>,
) -> Result<Vec<Box<dyn Send>>, Error> {
    let mut keep = held.clone();
    for item in items {
        let named = named(folder, item);
        keep.extend(named.blobs);
        keep.extend(named.trees);
    }
    let mut removed: Vec<Box<dyn Send>> = Vec::new();
    for tree in layers.list()?.iter().filter(|tree| !keep.contains(tree)) {
        if let Some(guard) = layers.take_out(tree)? {
            removed.push(Box::new(guard));
        }
    }
    for place in ["blobs/sha256", "partial"] {
        let place = folder.join(place);
        for entry in fs::read_dir(&place).map_err(Error::file("read", &place))?.flatten() {
            let name = entry.file_name();
            let digest = name.to_str().and_then(|hex| format!("sha256:{hex}").parse::<Digest>().ok());
            if digest.is_some_and(|digest| !keep.contains(&digest)) {
                fs::remove_file(entry.path()).map_err(Error::file("remove", entry.path()))?;
            }
        }
    }
    Ok(removed)
}

/// Removes documents that are not what their names say, so that they are fetched anew.
pub fn drop_wrong_documents(folder: &Path, item: &Digest) {
    for blob in named(folder, item).blobs {
        if matches!(read_blob(folder, &blob), Err(Error::Checksum { .. })) {
            let path = blob_path(folder, &blob);
            // The marks of layers are no content: they are written anew anyway.
            tracing::warn!("blob {blob} was changed, it is fetched anew");
            let _ = fs::remove_file(path);
        }
    }
}

//! Everything an image consists of.

use std::collections::HashMap;

use aos_ids::Digest;

use crate::{Descriptor, FormatError, Index, MAX_DOCUMENT, Manifest};

/// What a blob is in its image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BlobRole {
    /// The image index.
    Index,
    /// A manifest.
    Manifest,
    /// An image configuration.
    Config,
    /// An item configuration.
    ItemConfig,
    /// A layer or component payload.
    Layer,
}

/// One blob of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeBlob {
    /// Its digest.
    pub digest: Digest,
    /// Its length, bytes.
    pub size: u64,
    /// What it is; of several roles the first met.
    pub role: BlobRole,
    /// Its media type.
    pub media_type: String,
}

/// One manifest of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeManifest {
    /// As the index refers to it.
    pub descriptor: Descriptor,
    /// Its content.
    pub manifest: Manifest,
}

/// An index with its manifests and the list of all blobs reachable from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageTree {
    /// The manifests in the order of the index.
    pub manifests: Vec<TreeManifest>,
    /// All blobs, each once, parents before children; the first is the index.
    pub blobs: Vec<TreeBlob>,
}

/// Why an image cannot be walked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError<E: std::error::Error + 'static> {
    /// A document is not there.
    #[error("cannot get the {role:?} {digest}: {source}")]
    Get {
        /// Its digest.
        digest: Digest,
        /// What it is.
        role: BlobRole,
        /// Why.
        #[source]
        source: E,
    },
    /// A document is not valid.
    #[error("blob {digest}: {source}")]
    Format {
        /// Its digest.
        digest: Digest,
        /// Why.
        #[source]
        source: FormatError,
    },
    /// A blob's size is not what its parent says, or two parents differ.
    #[error("blob {digest} has {found} bytes, its descriptor says {stated}")]
    Size {
        /// The blob.
        digest: Digest,
        /// Its real size, or another parent's, bytes.
        found: u64,
        /// The size stated, bytes.
        stated: u64,
    },
}

impl ImageTree {
    /// Reads the index and its manifests through `get`, which answers the bytes of a digest (at most 1 MiB
    /// each, already verified against the digest). Configurations and layers are listed, not read.
    pub fn walk<E: std::error::Error + 'static>(
        index: &Digest,
        mut get: impl FnMut(&Digest) -> Result<Vec<u8>, E>,
    ) -> Result<Self, TreeError<E>> {
        let mut fetch = |digest: &Digest, role| {
            let bytes = get(digest).map_err(|source| TreeError::Get { digest: *digest, role, source })?;
            if bytes.len() > MAX_DOCUMENT {
                let source = FormatError::TooLarge { document: "image document", size: bytes.len() };
                return Err(TreeError::Format { digest: *digest, source });
            }
            Ok(bytes)
        };
        let format = |digest: &Digest| {
            let digest = *digest;
            move |source| TreeError::Format { digest, source }
        };
        let bytes = fetch(index, BlobRole::Index)?;
        let mut list = List::default();
        let root = Descriptor::new(crate::media_type::INDEX, *index, bytes.len() as u64);
        list.add(&root, BlobRole::Index)?;
        let mut manifests = Vec::new();
        for descriptor in Index::read(&bytes).map_err(format(index))?.manifests {
            let bytes = fetch(&descriptor.digest, BlobRole::Manifest)?;
            let (found, stated) = (bytes.len() as u64, descriptor.size);
            if found != stated {
                return Err(TreeError::Size { digest: descriptor.digest, found, stated });
            }
            let manifest = Manifest::read(&bytes).map_err(format(&descriptor.digest))?;
            list.add(&descriptor, BlobRole::Manifest)?;
            list.add(&manifest.config, BlobRole::Config)?;
            if let Some(item_config) = &manifest.aos_item_config {
                list.add(item_config, BlobRole::ItemConfig)?;
            }
            for layer in &manifest.layers {
                list.add(layer, BlobRole::Layer)?;
            }
            manifests.push(TreeManifest { descriptor, manifest });
        }
        Ok(Self { manifests, blobs: list.blobs })
    }

    /// Bytes of all blobs.
    pub fn total_size(&self) -> u64 {
        self.blobs.iter().fold(0, |sum, blob| sum.saturating_add(blob.size))
    }

    /// The digests of all blobs.
    pub fn digests(&self) -> impl Iterator<Item = &Digest> {
        self.blobs.iter().map(|blob| &blob.digest)
    }
}

#[derive(Default)]
struct List {
    blobs: Vec<TreeBlob>,
    sizes: HashMap<Digest, u64>,
}

impl List {
    fn add<E: std::error::Error>(&mut self, part: &Descriptor, role: BlobRole) -> Result<(), TreeError<E>> {
        let Descriptor { digest, size, .. } = *part;
        match self.sizes.insert(digest, size) {
            None => {
                let media_type = part.media_type.clone();
                self.blobs.push(TreeBlob { digest, size, role, media_type });
                Ok(())
            }
            Some(found) if found == size => Ok(()),
            Some(found) => Err(TreeError::Size { digest, found, stated: size }),
        }
    }
}

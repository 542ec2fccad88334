//! Layers of images: from a packed stream to a verified tree on disk.
//!
//! ```text
//! <images>/layers/sha256/<hex of the diff ID>/layer/   the unpacked tree
//! <images>/layers/sha256/<hex of the diff ID>/digest   digest of the tree, for `Depth::Full`
//! <images>/layers/sha256/<hex of the diff ID>/size     bytes of its files
//! <images>/layers/sha256/<hex of the diff ID>/stamp    digest of what the file system says of it, for `Depth::Quick`
//! <images>/tmp/                                        what is not finished; emptied at start
//! ```
//! A stream is read once: digest of the packed bytes, decompression, digest of the plain bytes and unpacking go
//! on together, and the packed bytes are never stored. Only when both digests agree is the tree synced and given
//! its place, so a layer folder that exists is complete. Everything a layer says is taken for hostile: its names,
//! sizes and links are checked, and the disk, the number of entries and the time it may take are bounded.
//!
//! All calls block. Unpacking needs root: owners and whiteouts.

mod entries;
mod extended;
mod names;
mod packing;
mod seal;
mod squashfs;
mod store;
mod stream;
mod tree;

use std::io;
use std::path::PathBuf;

use aos_durable::DurableError;
use aos_ids::Digest;

pub use packing::Packing;
pub use seal::{TreeDigest, tree_digest};
pub use store::{Condition, Depth, LayerStore, Staged};
pub use stream::sha256;
pub use tree::{Contents, Limits, TreeError, unpack};

/// What an image says about a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Digest of the packed bytes.
    pub digest: Digest,
    /// Number of packed bytes.
    pub size: u64,
    /// How it is packed.
    pub packing: Packing,
    /// Digest of the plain bytes; its name on disk.
    pub diff_id: Digest,
}

/// Why a layer was not installed, or cannot be looked at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Syncing or renaming failed.
    #[error(transparent)]
    Durable(#[from] DurableError),
    /// The packed bytes could not be had.
    #[error("cannot read layer {layer}")]
    Source {
        /// The layer.
        layer: Digest,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The bytes are not what was announced.
    #[error("{what} has digest {found}, expected {expected}")]
    Checksum {
        /// Packed or unpacked layer.
        what: &'static str,
        /// Announced.
        expected: Digest,
        /// Found.
        found: Digest,
    },
    /// More or fewer packed bytes than announced.
    #[error("layer {layer} has {found} bytes, expected {expected}")]
    Length {
        /// The layer.
        layer: Digest,
        /// Bytes found; when there are more than expected, those read until this was noticed.
        found: u64,
        /// Bytes announced.
        expected: u64,
    },
    /// It grows more than any honest layer does.
    #[error("layer {layer} unpacks to more than the {limit} bytes allowed for {packed} packed ones")]
    Bomb {
        /// The layer.
        layer: Digest,
        /// Most plain bytes.
        limit: u64,
        /// Its packed bytes.
        packed: u64,
    },
    /// The disk or the share of it for images is full.
    #[error("not enough space for layer {layer}")]
    NoSpace {
        /// The layer.
        layer: Digest,
        /// What the kernel said, when it was the disk.
        #[source]
        source: Option<io::Error>,
    },
    /// Its content is refused.
    #[error("layer {layer} is refused: {source}")]
    Refused {
        /// The layer.
        layer: Digest,
        /// Why.
        #[source]
        source: TreeError,
    },
    /// A program this needs is missing or failed.
    #[error("layer {layer}: {reason}")]
    Program {
        /// The layer.
        layer: Digest,
        /// Which, and why.
        reason: String,
    },
}

impl LayerError {
    /// True when more free space may help.
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::NoSpace { .. } => true,
            Self::File { source, .. } => stream::is_full(source),
            Self::Durable(error) => error.is_no_space(),
            _ => false,
        }
    }

    /// True when the bytes were wrong and not their transport.
    pub fn is_content(&self) -> bool {
        matches!(self, Self::Checksum { .. } | Self::Length { .. } | Self::Bomb { .. } | Self::Refused { .. })
    }

    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}

#[cfg(test)]
mod tests;

//! Blobs: content with its digest and media type.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use aos_ids::Digest;
use aws_lc_rs::digest::{Context as Hash, SHA256};
use serde_json::{Value, json};

/// One blob.
#[derive(Debug, Clone)]
pub struct Blob {
    /// SHA-256 of the content.
    pub digest: Digest,
    /// Length, bytes.
    pub size: u64,
    /// Media type in descriptors.
    pub media_type: String,
    /// Where the content is.
    pub content: Content,
}

/// Content of a blob.
#[derive(Debug, Clone)]
pub enum Content {
    /// In a file that nobody changes.
    File(PathBuf),
    /// In memory: the small documents.
    Bytes(Vec<u8>),
}

impl Blob {
    /// A document.
    pub fn json(media_type: &str, document: &Value) -> Result<Self> {
        Ok(Self::bytes(media_type, serde_json::to_vec(document)?))
    }

    /// Bytes in memory.
    pub fn bytes(media_type: &str, bytes: Vec<u8>) -> Self {
        let mut hash = Hash::new(&SHA256);
        hash.update(&bytes);
        Self {
            digest: finish(hash),
            size: bytes.len() as u64,
            media_type: media_type.to_owned(),
            content: Content::Bytes(bytes),
        }
    }

    /// A file, whose digest is computed.
    pub fn file(media_type: &str, path: &Path) -> Result<Self> {
        let (digest, size) = digest_of(path)?;
        Ok(Self { digest, size, media_type: media_type.to_owned(), content: Content::File(path.to_path_buf()) })
    }

    /// How other documents name it.
    pub fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": self.digest.to_string(), "size": self.size})
    }

    /// For progress lines.
    pub fn short_name(&self) -> String {
        let hex = self.digest.hex();
        let kind = match self.media_type.as_str() {
            super::INDEX => "index",
            super::MANIFEST => "manifest",
            super::ITEM_CONFIG => "item configuration",
            super::image::CONFIG => "image configuration",
            _ => "layer",
        };
        format!("{kind} {} ({} bytes)", hex.get(..12).unwrap_or_default(), self.size)
    }
}

fn digest_of(path: &Path) -> Result<(Digest, u64)> {
    let what = || format!("cannot read {}", path.display());
    let mut file = File::open(path).with_context(what)?;
    let mut hash = Hash::new(&SHA256);
    let mut buffer = vec![0; 64 * 1024];
    let mut size = 0;
    loop {
        let length = file.read(&mut buffer).with_context(what)?;
        if length == 0 {
            return Ok((finish(hash), size));
        }
        hash.update(buffer.get(..length).unwrap_or_default());
        size += length as u64;
    }
}

fn finish(hash: Hash) -> Digest {
    let value = hash.finish();
    let mut bytes = [0; 32];
    bytes.iter_mut().zip(value.as_ref()).for_each(|(to, from)| *to = *from);
    Digest::from_sha256(bytes)
}

/// Passes bytes on and computes their digest.
pub struct Hashing<W> {
    inner: W,
    hash: Hash,
    size: u64,
}

impl<W: Write> Hashing<W> {
    /// In front of `inner`.
    pub fn new(inner: W) -> Self {
        Self { inner, hash: Hash::new(&SHA256), size: 0 }
    }

    /// The writer behind, the digest of all that passed, and its length.
    pub fn finish(self) -> (W, Digest, u64) {
        (self.inner, finish(self.hash), self.size)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.inner.write(bytes)?;
        self.hash.update(bytes.get(..length).unwrap_or_default());
        self.size += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

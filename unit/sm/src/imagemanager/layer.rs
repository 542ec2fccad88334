//! One layer from its packed file to its place on disk.
//!
//! The packed file is read once, where it lies: digest and length of the packed bytes, decompression, digest
//! of the plain bytes and unpacking go on together. Only when all agree is the tree synced and renamed to
//! `layers/sha256/<hex of the plain digest>`; until then it lives in `tmp/` and is removed on any failure.
//! So a layer folder that exists is complete.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use aos_ids::Digest;
use aws_lc_rs::digest::{Context, SHA256};

use super::tree::{TreeError, unpack};
use crate::Error;

/// Largest unpacked layer, bytes.
const MAX_UNPACKED: u64 = 8 << 30;
/// Space unpacking leaves free on the disk, bytes.
const RESERVE: u64 = 32 << 20;

/// How a layer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// A plain tar stream.
    Tar,
    /// A tar stream in gzip.
    Gzip,
}

impl Packing {
    /// Packing named by a layer's media type, OCI's and Docker's spelling.
    pub fn of(media_type: &str) -> Result<Self, Error> {
        match media_type {
            "application/vnd.oci.image.layer.v1.tar" => Ok(Self::Tar),
            "application/vnd.oci.image.layer.v1.tar+gzip"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip" => Ok(Self::Gzip),
            other => Err(Error::NotSupported(format!("layer type '{}'", other.escape_debug()))),
        }
    }
}

/// What the image says about a layer.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Digest of the packed bytes.
    pub digest: Digest,
    /// Number of packed bytes.
    pub size: u64,
    /// How it is packed.
    pub packing: Packing,
    /// Digest of the plain bytes.
    pub diff_id: Digest,
}

/// Folder of a layer below the image folder.
pub fn folder_of(images: &Path, diff_id: &Digest) -> PathBuf {
    images.join("layers/sha256").join(diff_id.hex())
}

/// The unpacked tree of a layer.
pub fn tree_of(images: &Path, diff_id: &Digest) -> PathBuf {
    folder_of(images, diff_id).join("layer")
}

/// Installs a layer from its packed file; blocking.
pub fn install(images: &Path, layer: &Layer, packed: &Path) -> Result<(), Error> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let temporary =
        images.join("tmp").join(format!("{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed)));
    let result = install_through(images, layer, packed, &temporary);
    if result.is_err()
        && let Err(error) = fs::remove_dir_all(&temporary)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!("cannot remove {}: {error}", temporary.display());
    }
    result
}

fn install_through(images: &Path, layer: &Layer, packed: &Path, temporary: &Path) -> Result<(), Error> {
    let tree = temporary.join("layer");
    aos_durable::create_dir(&tree, 0o755)?;
    let root: OwnedFd = File::open(&tree).map_err(Error::file("open", &tree))?.into();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(packed)
        .map_err(Error::file("open layer", packed))?;
    let found = file.metadata().map_err(Error::file("look at layer", packed))?.len();
    if found != layer.size {
        return Err(Error::invalid(
            format!("layer {}", layer.digest),
            format!("it has {found} bytes, expected {}", layer.size),
        ));
    }
    let plain = read_layer(file, layer, &root)?;
    let size = tree_bytes(&tree).to_string();
    aos_durable::write_atomic(&temporary.join("size"), size.as_bytes(), 0o600)?;
    rustix::fs::syncfs(&root).map_err(Error::system(format!("sync layer {}", layer.diff_id)))?;
    tracing::debug!("layer {} unpacked, {plain} bytes", layer.diff_id);
    let place = folder_of(images, &layer.diff_id);
    if let Some(parent) = place.parent() {
        aos_durable::create_dir(parent, 0o700)?;
    }
    match aos_durable::rename_durably(temporary, &place) {
        Err(_) if place.join("layer").is_dir() => {
            fs::remove_dir_all(temporary).map_err(Error::file("remove", temporary))
        }
        other => Ok(other?),
    }
}

/// Unpacks and checks; answers the number of plain bytes.
fn read_layer(file: File, layer: &Layer, root: &OwnedFd) -> Result<u64, Error> {
    let mut packed = Metered::new(BufReader::with_capacity(64 * 1024, file), layer.size);
    let budget = budget(root)?;
    let (unpacked, plain_digest, plain_bytes, exceeded) = {
        let decoded: Box<dyn Read + '_> = match layer.packing {
            Packing::Tar => Box::new(&mut packed),
            Packing::Gzip => Box::new(flate2::read::MultiGzDecoder::new(&mut packed)),
        };
        let mut plain = Metered::new(decoded, budget);
        let unpacked = unpack(&mut plain, root).and_then(|()| plain.drain().map_err(TreeError::Read));
        let (exceeded, bytes) = (plain.exceeded, plain.bytes);
        (unpacked, plain.digest(), bytes, exceeded)
    };
    // A wrong packed digest explains every other trouble.
    packed.drain().map_err(Error::system(format!("read layer {}", layer.digest)))?;
    let packed_digest = packed.digest();
    if packed_digest != layer.digest {
        return Err(checksum("layer", &layer.digest, &packed_digest));
    }
    if exceeded {
        return Err(Error::Limit { what: format!("unpacked size of layer {}", layer.digest), limit: budget });
    }
    unpacked.map_err(|error| match error {
        TreeError::Write { name, source } => {
            Error::System { action: format!("write entry '{name}' of layer {}", layer.digest), source }
        }
        TreeError::Read(source) => {
            Error::invalid(format!("layer {}", layer.digest), format!("not readable: {source}"))
        }
        refused @ TreeError::Refused { .. } => {
            Error::invalid(format!("layer {}", layer.digest), refused.to_string())
        }
    })?;
    if plain_digest != layer.diff_id {
        return Err(checksum("unpacked layer", &layer.diff_id, &plain_digest));
    }
    Ok(plain_bytes)
}

fn checksum(what: &str, expected: &Digest, found: &Digest) -> Error {
    Error::Checksum { what: what.to_owned(), expected: expected.to_string(), found: found.to_string() }
}

fn budget(root: &OwnedFd) -> Result<u64, Error> {
    let disk =
        rustix::fs::fstatvfs(root).map_err(Error::system("read the free space of the image folder"))?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize).saturating_sub(RESERVE).min(MAX_UNPACKED))
}

fn tree_bytes(folder: &Path) -> u64 {
    let mut bytes = 0u64;
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => open.push(entry.path()),
                Ok(meta) if meta.is_file() => bytes = bytes.saturating_add(meta.len()),
                _ => {}
            }
        }
    }
    bytes
}

/// SHA-256 of a whole small content.
pub fn digest_of(content: &[u8]) -> Digest {
    let mut context = Context::new(&SHA256);
    context.update(content);
    finish(context)
}

fn finish(context: Context) -> Digest {
    let mut value = [0u8; 32];
    for (to, from) in value.iter_mut().zip(context.finish().as_ref()) {
        *to = *from;
    }
    Digest::from_sha256(value)
}

/// Counts and hashes what passes, up to a limit.
struct Metered<R> {
    inner: R,
    context: Context,
    bytes: u64,
    limit: u64,
    exceeded: bool,
}

impl<R: Read> Metered<R> {
    fn new(inner: R, limit: u64) -> Self {
        Self { inner, context: Context::new(&SHA256), bytes: 0, limit, exceeded: false }
    }

    fn drain(&mut self) -> io::Result<()> {
        let mut chunk = [0u8; 8192];
        while self.read(&mut chunk)? > 0 {}
        Ok(())
    }

    fn digest(self) -> Digest {
        finish(self.context)
    }
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.context.update(buffer.get(..count).unwrap_or_default());
        self.bytes += count as u64;
        if self.bytes > self.limit {
            self.exceeded = true;
            return Err(io::Error::other("the content is longer than allowed"));
        }
        Ok(count)
    }
}

#[cfg(test)]
#[path = "layer_tests.rs"]
mod tests;

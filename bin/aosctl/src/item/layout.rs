//! Reading OCI image layouts: a folder, or an archive of one.
//!
//! Every blob is checked against its digest when it is taken, so a damaged layout is found here and not on a
//! Unit. Of an archive only the layout's own files are unpacked, whatever else it holds.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use aos_ids::Digest;
use serde_json::Value;

use super::blob::Blob;
use super::image::Image;
use super::layer::TAR_GZIP;

const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
/// Documents of an image are small; a larger one is not what it says.
const MAX_DOCUMENT: u64 = 4 << 20;
/// Indexes within indexes, as multi-platform builders make them.
const MAX_DEPTH: u32 = 3;

/// Reads all images of the layout at `path`; an archive is unpacked into `scratch`.
pub fn read(path: &Path, scratch: &Path) -> Result<Vec<Image>> {
    let meta = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    let root = if meta.is_dir() {
        path.to_path_buf()
    } else {
        let root = scratch.join("layout");
        unpack(path, &root)?;
        root
    };
    let index = root.join("index.json");
    if !index.is_file() {
        bail!(
            "{} is no OCI layout: it has no index.json. Make one with `skopeo copy docker-archive:FILE oci:DIR`",
            path.display()
        );
    }
    let layout = Layout { root };
    let mut images = Vec::new();
    layout.images(&document(&index)?, 0, &mut images)?;
    if images.is_empty() {
        bail!("{} holds no image for Linux", path.display());
    }
    Ok(images)
}

struct Layout {
    root: PathBuf,
}

impl Layout {
    fn images(&self, index: &Value, depth: u32, found: &mut Vec<Image>) -> Result<()> {
        let entries = index.get("manifests").and_then(Value::as_array).context("the index lists no manifests")?;
        for entry in entries {
            let foreign = |key: &str, good: &str| {
                entry.pointer(&format!("/platform/{key}")).and_then(Value::as_str).is_some_and(|value| value != good)
            };
            // Attestations of builders are listed like images, for a platform that does not exist.
            if foreign("os", "linux") || entry.pointer("/annotations/vnd.docker.reference.type").is_some() {
                continue;
            }
            let content = document(&self.checked(entry)?)?;
            if content.get("manifests").is_some() {
                if depth >= MAX_DEPTH {
                    bail!("the indexes are nested too deeply");
                }
                self.images(&content, depth + 1, found)?;
            } else {
                found.push(self.image(&content)?);
            }
        }
        Ok(())
    }

    fn image(&self, manifest: &Value) -> Result<Image> {
        let config = manifest.get("config").context("a manifest has no config")?;
        let config = document(&self.checked(config)?)?;
        let listed = manifest.get("layers").and_then(Value::as_array).context("a manifest has no layers")?;
        let mut layers = Vec::new();
        for layer in listed {
            let media_type = layer.get("mediaType").and_then(Value::as_str).unwrap_or_default();
            let media_type = match media_type {
                TAR | "application/vnd.docker.image.rootfs.diff.tar" => TAR,
                TAR_GZIP | "application/vnd.docker.image.rootfs.diff.tar.gzip" => TAR_GZIP,
                other => bail!("layers of type '{other}' cannot be run on Units; use tar or tar+gzip"),
            };
            layers.push(Blob::file(media_type, &self.checked(layer)?)?);
        }
        Ok(Image { config, layers })
    }

    /// The file of a described blob, whose content has the digest and size described.
    fn checked(&self, descriptor: &Value) -> Result<PathBuf> {
        let digest = descriptor.get("digest").and_then(Value::as_str).context("a descriptor has no digest")?;
        let digest: Digest = digest.parse()?;
        let path = self.root.join("blobs/sha256").join(digest.hex());
        let blob = Blob::file("", &path).with_context(|| format!("the layout lacks blob {digest}"))?;
        let size = descriptor.get("size").and_then(Value::as_u64);
        if blob.digest != digest || size.is_some_and(|size| size != blob.size) {
            bail!("{} is damaged: its content is not what its name says", path.display());
        }
        Ok(path)
    }
}

fn document(path: &Path) -> Result<Value> {
    let what = || format!("cannot read {}", path.display());
    let file = File::open(path).with_context(what)?;
    let mut bytes = Vec::new();
    file.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes).with_context(what)?;
    if bytes.len() as u64 > MAX_DOCUMENT {
        bail!("{} is too large for a document", path.display());
    }
    serde_json::from_slice(&bytes).with_context(|| format!("{} is not JSON", path.display()))
}

fn unpack(archive: &Path, into: &Path) -> Result<()> {
    let what = || format!("cannot unpack {}", archive.display());
    fs::create_dir_all(into.join("blobs/sha256")).with_context(what)?;
    let mut file = File::open(archive).with_context(what)?;
    let mut magic = [0; 2];
    let gzipped = file.read_exact(&mut magic).is_ok() && magic == [0x1f, 0x8b];
    file.rewind().with_context(what)?;
    let reader: Box<dyn Read> =
        if gzipped { Box::new(flate2::read::MultiGzDecoder::new(file)) } else { Box::new(file) };
    let mut tar = tar::Archive::new(reader);
    for entry in tar.entries().with_context(what)? {
        let mut entry = entry.with_context(what)?;
        let name = entry.path().with_context(what)?.into_owned();
        let name = name.strip_prefix("./").unwrap_or(&name).to_string_lossy().into_owned();
        let wanted = match name.strip_prefix("blobs/sha256/") {
            Some(hex) => hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()),
            None => name == "index.json",
        };
        if wanted && entry.header().entry_type().is_file() {
            let mut out = File::create(into.join(&name)).with_context(what)?;
            io::copy(&mut entry, &mut out).with_context(what)?;
        }
    }
    Ok(())
}

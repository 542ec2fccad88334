//! The folder of layers: installing, looking after, removing.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use aos_durable::{create_dir, read_bounded, rename_durably, write_atomic};
use aos_ids::Digest;

use crate::seal::{stamp, text_of, tree_digest};
use crate::stream::{Metered, is_full};
use crate::tree::{Limits, TreeError, unpack};
use crate::{Layer, LayerError, Packing, squashfs};

/// Largest unpacked layer, bytes.
const MAX_PLAIN: u64 = 8 << 30;
/// Plain bytes any layer may have, however small it is packed.
const FREE_PLAIN: u64 = 256 << 20;
/// Beyond those, plain bytes for each packed one. Text packs 10 to 1, a disk image of zeros 1000 to 1.
const RATIO: u64 = 200;
/// Longest small file beside a tree, bytes.
const MAX_NOTE: u64 = 256;

/// How thoroughly a layer is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// One look at each entry; nothing is read while the stamp agrees.
    Quick,
    /// Every byte is read.
    Full,
}

/// What a look at a layer found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// It is what was installed.
    Whole,
    /// There is none.
    Missing,
    /// It was changed, or was never complete.
    Damaged,
}

/// Layers below one image folder. Clones mean the same folder.
#[derive(Debug, Clone)]
pub struct LayerStore {
    images: PathBuf,
}

/// A layer that is unpacked and verified, but not yet in its place. Dropped, it is removed.
#[derive(Debug)]
pub struct Staged {
    store: LayerStore,
    diff_id: Digest,
    folder: Temporary,
    root: OwnedFd,
}

impl LayerStore {
    /// Takes the folder up: makes what is missing of it and removes what an earlier process left unfinished.
    pub fn open(images: &Path) -> Result<Self, LayerError> {
        let store = Self { images: images.to_owned() };
        create_dir(&store.layers(), 0o700)?;
        let temporary = store.temporary();
        match fs::remove_dir_all(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(LayerError::file("empty", temporary)(error));
            }
            _ => {}
        }
        create_dir(&temporary, 0o700)?;
        Ok(store)
    }

    fn layers(&self) -> PathBuf {
        self.images.join("layers/sha256")
    }

    fn temporary(&self) -> PathBuf {
        self.images.join("tmp")
    }

    /// The folder of a layer, there or not.
    pub fn folder(&self, diff_id: &Digest) -> PathBuf {
        self.layers().join(diff_id.hex())
    }

    /// The unpacked tree of a layer, there or not.
    pub fn tree(&self, diff_id: &Digest) -> PathBuf {
        self.folder(diff_id).join("layer")
    }

    /// Unpacks and verifies a layer; the tree is not durable before [`Staged::commit`].
    ///
    /// `packed` is read to its end. It may use `disk` bytes of disk space.
    pub fn unpack(&self, layer: &Layer, packed: impl Read, disk: u64) -> Result<Staged, LayerError> {
        let folder = Temporary::new(self, "layer")?;
        let tree = folder.0.join("layer");
        create_dir(&tree, 0o755).map_err(|error| full_or(layer, error.into()))?;
        let root: OwnedFd = File::open(&tree).map_err(LayerError::file("open", &tree))?.into();
        if layer.packing == Packing::Squashfs {
            squashfs::unpack(self, layer, packed, &root, disk)?;
        } else {
            read_layer(layer, packed, &root, disk)?;
        }
        seal(&folder.0).map_err(|error| full_or(layer, error))?;
        Ok(Staged { store: self.clone(), diff_id: layer.diff_id, folder, root })
    }

    /// Looks at a layer.
    pub fn check(&self, diff_id: &Digest, depth: Depth) -> Result<Condition, LayerError> {
        let folder = self.folder(diff_id);
        let tree = folder.join("layer");
        match fs::symlink_metadata(&tree) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => return Ok(Condition::Damaged),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(if folder.exists() { Condition::Damaged } else { Condition::Missing });
            }
            Err(error) => return Err(LayerError::file("look at", tree)(error)),
        }
        let Some(expected) = note(&folder, "digest") else { return Ok(Condition::Damaged) };
        let known = note(&folder, "stamp");
        let mut now = None;
        if depth == Depth::Quick && known.is_some() {
            let found = stamp(&tree)?;
            if known == Some(text_of(&found)) {
                return Ok(Condition::Whole);
            }
            now = Some(found);
        }
        if tree_digest(&tree)?.digest.to_string() != expected {
            return Ok(Condition::Damaged);
        }
        // Copied, restored, or made by another program: the next look is quick again.
        let found = now.map_or_else(|| stamp(&tree), Ok)?;
        if known != Some(text_of(&found)) {
            write_atomic(&folder.join("stamp"), text_of(&found).as_bytes(), 0o600)?;
        }
        Ok(Condition::Whole)
    }

    /// Disk space of a layer's files as recorded, bytes.
    pub fn size(&self, diff_id: &Digest) -> Option<u64> {
        note(&self.folder(diff_id), "size")?.parse().ok()
    }

    /// The layers that are there, whole or not.
    pub fn list(&self) -> Result<Vec<Digest>, LayerError> {
        let folder = self.layers();
        let names = fs::read_dir(&folder).map_err(LayerError::file("read", &folder))?;
        let digest = |name: &str| format!("sha256:{name}").parse().ok();
        Ok(names.flatten().filter_map(|entry| entry.file_name().to_str().and_then(digest)).collect())
    }

    /// Takes a layer out of its place at once; what is returned removes it, which may take long, when dropped.
    /// A removal that is killed half-way is finished by the next [`LayerStore::open`].
    pub fn take_out(&self, diff_id: &Digest) -> Result<Option<impl Send + use<>>, LayerError> {
        let folder = self.folder(diff_id);
        let aside = Temporary::name(self, "removed");
        match rename_durably(&folder, &aside) {
            Ok(()) => Ok(Some(Temporary(aside))),
            Err(_) if !folder.exists() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// A file for what has to be on disk while a layer is installed.
    pub(crate) fn scratch(&self) -> PathBuf {
        Temporary::name(self, "file")
    }
}

impl Staged {
    /// The layer's name.
    pub fn diff_id(&self) -> &Digest {
        &self.diff_id
    }

    /// Makes the tree durable and gives it its place. One that is there already stays, unless `replace`: then it
    /// goes aside until the next [`LayerStore::open`], because instances may still run on it.
    pub fn commit(self, replace: bool) -> Result<(), LayerError> {
        let Self { store, diff_id, folder, root } = self;
        rustix::fs::syncfs(&root).map_err(|error| LayerError::file("sync", &folder.0)(error.into()))?;
        drop(root);
        if replace {
            std::mem::forget(store.take_out(&diff_id)?);
        }
        let place = store.folder(&diff_id);
        match rename_durably(&folder.0, &place) {
            Err(_) if place.join("layer").is_dir() => Ok(()),
            Err(error) => Err(error.into()),
            Ok(()) => {
                folder.keep();
                Ok(())
            }
        }
    }
}

fn note(folder: &Path, name: &str) -> Option<String> {
    let content = read_bounded(&folder.join(name), MAX_NOTE).ok()??;
    Some(String::from_utf8(content).ok()?.trim().to_owned())
}

/// Writes the notes beside a finished tree. They become durable together with it.
fn seal(folder: &Path) -> Result<(), LayerError> {
    let tree = folder.join("layer");
    let found = tree_digest(&tree)?;
    let stamp = stamp(&tree)?;
    for (name, text) in
        [("digest", found.digest.to_string()), ("size", found.bytes.to_string()), ("stamp", text_of(&stamp))]
    {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;
        let path = folder.join(name);
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        file.and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(LayerError::file("write", &path))?;
    }
    Ok(())
}

/// A folder or file that goes when this goes.
#[derive(Debug)]
struct Temporary(PathBuf);

impl Temporary {
    fn name(store: &LayerStore, kind: &str) -> PathBuf {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        store.temporary().join(format!("{kind}-{}-{number}", std::process::id()))
    }

    fn new(store: &LayerStore, kind: &str) -> Result<Self, LayerError> {
        let path = Self::name(store, kind);
        fs::create_dir(&path).map_err(LayerError::file("make", &path))?;
        Ok(Self(path))
    }

    /// What was here has another name now.
    fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("cannot remove {}: {error}", self.0.display());
            }
            _ => {}
        }
    }
}

/// Unpacks and checks a stream.
fn read_layer(layer: &Layer, packed: impl Read, root: &OwnedFd, disk: u64) -> Result<(), LayerError> {
    let mut packed = Metered::new(packed, layer.size);
    let most = layer.size.saturating_mul(RATIO).saturating_add(FREE_PLAIN).min(MAX_PLAIN);
    let mut buffer = vec![0; 64 * 1024];
    let decoder = layer.packing.decoder(&mut packed);
    let decoder = decoder.map_err(|source| LayerError::Source { layer: layer.digest, source })?;
    let mut plain = Metered::new(decoder, most);
    let unpacked = {
        let mut stream = io::BufReader::with_capacity(128 * 1024, &mut plain);
        unpack(&mut stream, root, Limits::of_disk(disk))
    };
    let unpacked = unpacked.and_then(|_| plain.drain(&mut buffer).map_err(TreeError::Read));
    let exceeded = plain.exceeded;
    let plain = plain.digest();
    if exceeded {
        return Err(LayerError::Bomb { layer: layer.digest, limit: most, packed: layer.size });
    }
    // A wrong packed digest explains every other trouble, except that there is no room to unpack.
    let space = match unpacked {
        Err(TreeError::Space(_)) => return Err(LayerError::NoSpace { layer: layer.digest, source: None }),
        Err(TreeError::Write { source, .. }) if is_full(&source) => {
            return Err(LayerError::NoSpace { layer: layer.digest, source: Some(source) });
        }
        other => other,
    };
    packed_digest(layer, packed, &mut buffer)?;
    space.map_err(|source| LayerError::Refused { layer: layer.digest, source })?;
    if plain != layer.diff_id {
        return Err(LayerError::Checksum {
            what: "the unpacked layer",
            expected: layer.diff_id,
            found: plain,
        });
    }
    Ok(())
}

/// Reads the rest of the packed bytes and checks length and digest.
pub(crate) fn packed_digest<R: Read>(
    layer: &Layer,
    mut packed: Metered<R>,
    buffer: &mut [u8],
) -> Result<(), LayerError> {
    let length = |found| LayerError::Length { layer: layer.digest, found, expected: layer.size };
    if packed.failed.is_none() && !packed.exceeded {
        let _ = packed.drain(buffer);
    }
    if let Some(source) = packed.failed.take() {
        return Err(LayerError::Source { layer: layer.digest, source });
    }
    if packed.exceeded || packed.bytes != layer.size {
        return Err(length(packed.bytes));
    }
    let found = packed.digest();
    if found == layer.digest {
        return Ok(());
    }
    Err(LayerError::Checksum { what: "the layer", expected: layer.digest, found })
}

/// A full disk is told as such, whatever was tried.
pub(crate) fn full_or(layer: &Layer, error: LayerError) -> LayerError {
    match error {
        LayerError::File { source, .. } if is_full(&source) => {
            LayerError::NoSpace { layer: layer.digest, source: Some(source) }
        }
        LayerError::Durable(error) if error.is_no_space() => {
            LayerError::NoSpace { layer: layer.digest, source: None }
        }
        other => other,
    }
}

//! Layers good and hostile. Needs root, as the program does: whiteouts are device nodes.

mod bounds;
mod hostile;
mod stored;

use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use super::*;

/// A tar stream written header by header: the writer of the tar crate refuses what we want to test.
#[derive(Default)]
struct Stream(Vec<u8>);

impl Stream {
    fn entry(mut self, kind: u8, name: &[u8], link: &[u8], content: &[u8]) -> Self {
        let mut header = tar::Header::new_ustar();
        {
            let old = header.as_old_mut();
            for (field, value) in [(&mut old.name, name), (&mut old.linkname, link)] {
                for (to, from) in field.iter_mut().zip(value) {
                    *to = *from;
                }
            }
        }
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_mode(0o4755);
        header.set_uid(1000);
        header.set_gid(1001);
        header.set_mtime(12345);
        header.set_size(content.len() as u64);
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, content: &str) -> Self {
        self.entry(b'0', name.as_bytes(), b"", content.as_bytes())
    }

    fn dir(self, name: &str) -> Self {
        self.entry(b'5', name.as_bytes(), b"", b"")
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(b'2', name.as_bytes(), target.as_bytes(), b"")
    }

    fn hardlink(self, name: &str, target: &str) -> Self {
        self.entry(b'1', name.as_bytes(), target.as_bytes(), b"")
    }

    fn pax(self, records: &[(&str, &str)]) -> Self {
        let mut text = String::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            let _ = writeln!(text, "{length} {key}={value}");
        }
        self.entry(b'x', b"pax", b"", text.as_bytes())
    }

    fn long_name(self, name: &str) -> Self {
        self.entry(b'L', b"././@LongLink", b"", format!("{name}\0").as_bytes())
    }

    fn clone_done(&self) -> Vec<u8> {
        Self(self.0.clone()).done()
    }

    fn done(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

/// Names of the extended attributes of a file that we know of.
fn tree_attributes(path: &Path) -> Vec<String> {
    let mut names = vec![0u8; 4096];
    let length = rustix::fs::llistxattr(path, &mut names).unwrap();
    let list = names.get(..length).unwrap().split(|&b| b == 0).filter(|name| !name.is_empty());
    let mut list: Vec<String> = list.map(|name| String::from_utf8(name.to_vec()).unwrap()).collect();
    list.retain(|name| name.starts_with("user.") || name.starts_with("trusted."));
    list
}

const DISK: u64 = 1 << 30;

/// An image folder.
struct Place {
    folder: tempfile::TempDir,
    store: LayerStore,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let store = LayerStore::open(folder.path()).unwrap();
        Self { folder, store }
    }

    fn put(&self, layer: &Layer, packed: &[u8]) -> Result<(), LayerError> {
        self.store.unpack(layer, packed, DISK)?.commit(false)
    }

    fn install(&self, tar: &[u8]) -> Result<PathBuf, LayerError> {
        let layer = describe(tar, tar, Packing::Tar);
        self.put(&layer, tar)?;
        Ok(self.store.tree(&layer.diff_id))
    }

    /// What is in the folder besides the three that are always there.
    fn rests(&self) -> usize {
        let count = |name: &str| fs::read_dir(self.folder.path().join(name)).unwrap().count();
        count("tmp") + count("layers/sha256") + count(".") - 2
    }

    /// Installs what has to be refused, and checks that nothing is left of the try.
    fn refuse(&self, tar: &[u8]) -> String {
        let error = self.install(tar).expect_err("a hostile layer was installed");
        assert_eq!(self.rests(), 0, "rests of a refused layer");
        error.to_string()
    }
}

fn describe(packed: &[u8], plain: &[u8], packing: Packing) -> Layer {
    Layer { digest: sha256(packed), size: packed.len() as u64, packing, diff_id: sha256(plain) }
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_layer_keeps_content_owner_mode_and_time() {
    let place = Place::new();
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(200));
    let tar = Stream::default()
        .dir("./")
        .dir("bin/")
        .file("bin/tool", "#!")
        .symlink("bin/link", "tool")
        .symlink("abs", "/etc/passwd")
        .hardlink("bin/hard", "bin/tool")
        .pax(&[
            ("path", "ünïcode"),
            ("uid", "70000"),
            ("SCHILY.xattr.user.note", "n"),
            ("SCHILY.xattr.trusted.overlay.opaque", "y"),
        ])
        .file("short", "x")
        .long_name(&long)
        .file("short", "y")
        .done();
    let tree = place.install(&tar).unwrap();
    let tool = fs::metadata(tree.join("bin/tool")).unwrap();
    assert_eq!((tool.uid(), tool.gid(), tool.mtime()), (1000, 1001, 12345));
    assert_eq!(tool.permissions().mode() & 0o7777, 0o755, "no set-user bit");
    assert_eq!(tool.nlink(), 2);
    assert_eq!(fs::read_link(tree.join("bin/link")).unwrap(), Path::new("tool"));
    assert_eq!(fs::read_link(tree.join("abs")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(fs::metadata(tree.join("ünïcode")).unwrap().uid(), 70000);
    assert_eq!(tree_attributes(&tree.join("ünïcode")), ["user.note"]);
    assert_eq!(fs::read(tree.join(long)).unwrap(), b"y");
    assert_eq!(fs::read_to_string(tree.parent().unwrap().join("size")).unwrap(), "6");
}

#[test]
fn a_packed_layer_is_checked_on_both_digests_and_shared() {
    let place = Place::new();
    let tar = Stream::default().file("a", "a").done();
    let packed = gzip(&tar);
    let layer = describe(&packed, &tar, Packing::Gzip);
    place.put(&layer, &packed).unwrap();
    place.put(&layer, &packed).unwrap();
    assert!(place.store.tree(&layer.diff_id).join("a").exists());
    assert_eq!(place.rests(), 1);

    let other = Place::new();
    let mut wrong = layer.clone();
    wrong.diff_id = sha256(b"other");
    let error = other.put(&wrong, &packed).unwrap_err();
    assert!(matches!(error, LayerError::Checksum { what: "the unpacked layer", .. }), "{error}");
    let mut damaged = packed.clone();
    *damaged.last_mut().unwrap() ^= 1;
    let error = other.put(&layer, &damaged).unwrap_err();
    assert!(matches!(error, LayerError::Checksum { what: "the layer", .. }), "{error}");
    let error = other.put(&layer, &packed[..packed.len() - 1]).unwrap_err();
    assert!(matches!(error, LayerError::Length { .. }), "{error}");
    let longer = [packed.as_slice(), b"more"].concat();
    let error = other.put(&layer, &longer).unwrap_err();
    assert!(matches!(error, LayerError::Length { .. }), "{error}");
    assert_eq!(other.rests(), 0);
}

#[test]
fn whiteouts_become_what_overlayfs_understands() {
    let place = Place::new();
    let tar = Stream::default()
        .dir("d")
        .file("d/.wh.gone", "")
        .file("d/.wh..wh..opq", "")
        .file(".wh..wh.plnk", "")
        .file("later", "1")
        .file(".wh.later", "")
        .file(".wh.back", "")
        .file("back", "2")
        .file(".wh.dir", "")
        .dir("dir")
        .done();
    let tree = place.install(&tar).unwrap();
    let gone = fs::symlink_metadata(tree.join("d/gone")).unwrap();
    assert!(gone.file_type().is_char_device());
    assert_eq!(gone.rdev(), 0);
    assert_eq!(tree_attributes(&tree.join("d")), ["trusted.overlay.opaque"]);
    assert_eq!(fs::read_to_string(tree.join("later")).unwrap(), "1", "a whiteout hides lower layers only");
    assert_eq!(fs::read_to_string(tree.join("back")).unwrap(), "2");
    assert_eq!(
        tree_attributes(&tree.join("dir")),
        ["trusted.overlay.opaque"],
        "the old content stays hidden"
    );
    assert!(!tree.join(".wh..wh.plnk").exists());
}

#[test]
fn media_types_are_known() {
    let oci = |kind: &str| Packing::of(&format!("application/vnd.oci.image.layer.v1.{kind}"));
    assert_eq!(oci("tar"), Some(Packing::Tar));
    assert_eq!(oci("tar+gzip"), Some(Packing::Gzip));
    assert_eq!(oci("tar+zstd"), Some(Packing::Zstd));
    assert_eq!(oci("squashfs"), Some(Packing::Squashfs));
    assert_eq!(oci("tar+lzma"), None);
}

#[test]
fn a_zstd_layer_is_unpacked_and_checked_alike() {
    let place = Place::new();
    let tar = Stream::default().file("a", &"text ".repeat(1000)).done();
    let packed = zstd::encode_all(tar.as_slice(), 3).unwrap();
    let layer = describe(&packed, &tar, Packing::Zstd);
    place.put(&layer, &packed).unwrap();
    assert_eq!(fs::metadata(place.store.tree(&layer.diff_id).join("a")).unwrap().len(), 5000);
    let other = Place::new();
    other.put(&layer, &packed[..packed.len() / 2]).unwrap_err();
    assert_eq!(other.rests(), 0);
}

// Memory is bounded by the window the decoder accepts: 8 MiB.
#[test]
fn a_zstd_window_that_is_too_large_is_refused() {
    let tar = Stream::default().file("a", "a").done();
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    encoder.include_contentsize(false).unwrap();
    encoder.write_all(&tar).unwrap();
    encoder.write_all(&vec![0; 64 << 10]).unwrap();
    let packed = encoder.finish().unwrap();
    let place = Place::new();
    let error = place.put(&describe(&packed, &tar, Packing::Zstd), &packed).unwrap_err();
    assert!(matches!(error, LayerError::Refused { .. }), "{error}");
    assert_eq!(place.rests(), 0);
}

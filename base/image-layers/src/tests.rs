//! Layers good and hostile. Needs root, as the program does: whiteouts are device nodes.

use std::fmt::Write as _;
use std::io::{Read as _, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use std::fs;
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

// REL-08
#[test]
fn climbing_names_are_refused() {
    let place = Place::new();
    assert!(place.refuse(&Stream::default().file("../evil", "x").done()).contains("'..'"));
    assert!(place.refuse(&Stream::default().file("a/../../evil", "x").done()).contains("'..'"));
    assert!(!place.folder.path().join("evil").exists());
}

// REL-08
#[test]
fn climbing_names_in_extended_headers_are_refused() {
    let place = Place::new();
    let message = place.refuse(&Stream::default().pax(&[("path", "x/../../evil")]).file("good", "x").done());
    assert!(message.contains("'..'"), "{message}");
    let message = place.refuse(&Stream::default().long_name("/tmp/evil").file("good", "x").done());
    assert!(message.contains("absolute"), "{message}");
}

// REL-08
#[test]
fn absolute_names_are_refused() {
    assert!(Place::new().refuse(&Stream::default().file("/tmp/evil", "x").done()).contains("absolute"));
}

// REL-08
#[test]
fn writing_through_a_symlink_is_refused() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    let tar = Stream::default().symlink("door", target).file("door/evil", "x").done();
    assert!(Place::new().refuse(&tar).contains("through a link"));
    let tar = Stream::default().dir("d").symlink("d/door", target).dir("d/door/sub").done();
    assert!(Place::new().refuse(&tar).contains("through a link"));
    let tar = Stream::default().symlink("door", target).file("door/.wh.x", "").done();
    assert!(Place::new().refuse(&tar).contains("through a link"));
    let tar = Stream::default().symlink("door", target).file("door/.wh..wh..opq", "").done();
    assert!(Place::new().refuse(&tar).contains("through a link"));
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn replacing_a_symlink_does_not_touch_its_target() {
    let outside = tempfile::NamedTempFile::new().unwrap();
    fs::write(outside.path(), "mine").unwrap();
    let place = Place::new();
    let tar = Stream::default().symlink("file", outside.path().to_str().unwrap()).file("file", "new").done();
    let tree = place.install(&tar).unwrap();
    assert_eq!(fs::read_to_string(tree.join("file")).unwrap(), "new");
    assert_eq!(fs::read_to_string(outside.path()).unwrap(), "mine");
}

// REL-08
#[test]
fn symlinks_that_lead_above_the_root_are_refused() {
    let message = Place::new().refuse(&Stream::default().symlink("a/up", "../../etc/shadow").done());
    assert!(message.contains("above the root"), "{message}");
}

// REL-08
#[test]
fn hard_links_to_the_outside_are_refused() {
    for target in ["/etc/passwd", "../../../etc/passwd"] {
        Place::new().refuse(&Stream::default().hardlink("evil", target).done());
    }
    let tar = Stream::default().symlink("door", "/etc").hardlink("evil", "door/passwd").done();
    assert!(Place::new().refuse(&tar).contains("through a link"));
    let tar = Stream::default().symlink("door", "/etc/passwd").hardlink("evil", "door").done();
    assert!(Place::new().refuse(&tar).contains("no file"));
    assert!(
        Place::new()
            .refuse(&Stream::default().hardlink("evil", "nowhere").done())
            .contains("not in the layer")
    );
}

#[test]
fn device_nodes_are_refused() {
    for kind in [b'3', b'4'] {
        assert!(
            Place::new().refuse(&Stream::default().entry(kind, b"null", b"", b"").done()).contains("devices")
        );
    }
}

#[test]
fn over_long_names_are_refused() {
    let name = "n".repeat(256);
    assert!(
        Place::new().refuse(&Stream::default().long_name(&name).file("x", "").done()).contains("too long")
    );
    let path = "p/".repeat(200);
    assert!(
        Place::new()
            .refuse(&Stream::default().pax(&[("path", &path)]).file("x", "").done())
            .contains("too deep")
    );
}

#[test]
fn headers_that_claim_too_much_are_refused() {
    let endless = Stream::default().entry(b'x', b"pax", b"", &vec![b'a'; 2 << 20]).file("x", "").done();
    assert!(Place::new().refuse(&endless).contains("too long"));
    let two = Stream::default().pax(&[("size", "10")]).file("x", "abc").done();
    assert!(Place::new().refuse(&two).contains("twice"));
    let sparse = Stream::default().pax(&[("GNU.sparse.major", "1")]).file("x", "abc").done();
    assert!(Place::new().refuse(&sparse).contains("sparse"));
}

#[test]
fn truncated_and_foreign_streams_are_refused() {
    let tar = Stream::default().file("a", &"x".repeat(3000)).done();
    Place::new().refuse(&tar[..2000]);
    Place::new()
        .refuse(b"this is no archive at all, and it is longer than a header would be".repeat(20).as_slice());
    let place = Place::new();
    let layer = describe(b"no gzip", b"", Packing::Gzip);
    place.put(&layer, b"no gzip").unwrap_err();
}

#[test]
fn a_folder_is_not_replaced_by_a_file() {
    let tar = Stream::default().file("d/inner", "x").file("d", "y").done();
    assert!(Place::new().refuse(&tar).contains("filled folder"));
    let tar = Stream::default().file("f", "x").file("f/inner", "y").done();
    assert!(Place::new().refuse(&tar).contains("through a file"));
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

/// A packed stream of zeros made while it is read.
fn zeros(bytes: u64, packing: Packing) -> Vec<u8> {
    let mut source = std::io::repeat(0).take(bytes);
    if packing == Packing::Zstd {
        return zstd::encode_all(source, 3).unwrap();
    }
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::copy(&mut source, &mut encoder).unwrap();
    encoder.finish().unwrap()
}

// A bomb is known by its growth, whatever the disk would take.
#[test]
fn bombs_are_cut_off() {
    for packing in [Packing::Gzip, Packing::Zstd] {
        let place = Place::new();
        let mut header = tar::Header::new_ustar();
        header.set_path("zeros").unwrap();
        header.set_size(3 << 30);
        header.set_mode(0o644);
        header.set_cksum();
        let mut packed = match packing {
            Packing::Zstd => zstd::encode_all(&header.as_bytes()[..], 3).unwrap(),
            _ => gzip(header.as_bytes()),
        };
        packed.extend(zeros(600 << 20, packing));
        let layer = describe(&packed, b"", packing);
        let error = place.store.unpack(&layer, packed.as_slice(), 64 << 30).unwrap_err();
        assert!(matches!(error, LayerError::Bomb { .. }), "{error}");
        assert_eq!(place.rests(), 0);
    }
}

// The end of the archive does not end the stream: what follows counts as well.
#[test]
fn a_bomb_behind_the_end_of_the_archive_is_cut_off() {
    let mut packed = gzip(&Stream::default().file("a", "a").done());
    packed.extend(zeros(600 << 20, Packing::Gzip));
    let place = Place::new();
    let error = place.put(&describe(&packed, b"", Packing::Gzip), &packed).unwrap_err();
    assert!(matches!(error, LayerError::Bomb { .. }), "{error}");
    assert_eq!(place.rests(), 0);
}

#[test]
fn sizes_beyond_the_space_are_refused_before_anything_is_written() {
    let mut header = tar::Header::new_gnu();
    header.set_path("huge").unwrap();
    header.set_size(u64::MAX / 2);
    header.set_mode(0o644);
    header.set_cksum();
    let mut tar = header.as_bytes().to_vec();
    tar.resize(4096, 0);
    let place = Place::new();
    let error = place.install(&tar).unwrap_err();
    assert!(error.is_no_space(), "{error}");
    assert_eq!(place.rests(), 0);
    let mut header = tar::Header::new_gnu();
    header.set_path("odd").unwrap();
    header.as_old_mut().size = *b"99999999999-";
    header.set_cksum();
    let message = place.refuse(&[header.as_bytes().as_slice(), &[0; 1024]].concat());
    assert!(message.contains("not readable"), "{message}");
}

// A full disk is no fault of the layer, and leaves nothing.
#[test]
fn the_space_allowed_is_kept_to_the_block() {
    let tar = (0..10).fold(Stream::default(), |tar, n| tar.file(&format!("f{n}"), "x")).done();
    let layer = describe(&tar, &tar, Packing::Tar);
    let place = Place::new();
    let error = place.store.unpack(&layer, tar.as_slice(), 20 * 4096 - 1).unwrap_err();
    assert!(error.is_no_space(), "{error}");
    assert_eq!(place.rests(), 0);
    place.store.unpack(&layer, tar.as_slice(), 20 * 4096).unwrap().commit(false).unwrap();
}

/// A million headers of empty files, made while they are read.
struct Million {
    next: u64,
    header: Vec<u8>,
    at: usize,
}

impl std::io::Read for Million {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.at == self.header.len() {
            if self.next == 1_000_000 {
                return Ok(0);
            }
            let mut header = tar::Header::new_ustar();
            header.set_path(format!("d{}/f{}", self.next / 1000, self.next)).unwrap();
            header.set_mode(0o644);
            header.set_size(0);
            header.set_cksum();
            self.header = header.as_bytes().to_vec();
            (self.next, self.at) = (self.next + 1, 0);
        }
        let count = buffer.len().min(self.header.len() - self.at);
        buffer[..count].copy_from_slice(&self.header[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

#[test]
fn a_million_files_are_refused() {
    let place = Place::new();
    let layer =
        Layer { digest: sha256(b"x"), size: 1_000_000 * 512, packing: Packing::Tar, diff_id: sha256(b"x") };
    let stream = || Million { next: 0, header: Vec::new(), at: 0 };
    // With the usual limits the space for so many names is refused first, or their number.
    let error = place.store.unpack(&layer, stream(), 100 << 20).unwrap_err();
    assert!(error.is_no_space(), "{error}");
    let root = place.folder.path().join("root");
    fs::create_dir(&root).unwrap();
    let root = fs::File::open(root).unwrap().into();
    let limits = Limits { entries: 20_000, ..Limits::of_disk(64 << 30) };
    let error = unpack(stream(), &root, limits).unwrap_err();
    assert!(error.to_string().contains("too many entries"), "{error}");
    assert!(Limits::of_disk(1).entries < 1_000_000);
}

#[test]
fn attributes_are_bounded() {
    let long = "n".repeat(300);
    let tar = Stream::default().pax(&[(&format!("SCHILY.xattr.user.{long}"), "x")]).file("a", "").done();
    assert!(Place::new().refuse(&tar).contains("attributes"));
    let value = "v".repeat(70_000);
    let tar = Stream::default().pax(&[("SCHILY.xattr.security.any", &value)]).file("a", "").done();
    assert!(Place::new().refuse(&tar).contains("attributes"));
    // Within the kernel's limit for one attribute, but more than the file system has room for.
    let value = "v".repeat(30_000);
    let tar = Stream::default()
        .pax(&[("SCHILY.xattr.user.a", &value), ("SCHILY.xattr.user.b", &value)])
        .file("a", "")
        .done();
    if let Err(error) = Place::new().install(&tar) {
        assert!(error.to_string().contains("attributes"), "{error}");
    }
    let tar = Stream::default().pax(&[("SCHILY.xattr.user.overlay.redirect", "/")]).file("a", "").done();
    let place = Place::new();
    assert!(tree_attributes(&place.install(&tar).unwrap().join("a")).is_empty());
}

#[test]
fn links_in_circles_and_long_chains_are_only_names() {
    let mut tar = Stream::default().symlink("a", "b").symlink("b", "a").symlink("self", "self");
    for n in 0..100 {
        tar = tar.symlink(&format!("c{n}"), &format!("c{}", n + 1));
    }
    let place = Place::new();
    let tree = place.install(&tar.clone_done()).unwrap();
    assert_eq!(fs::read_link(tree.join("self")).unwrap(), Path::new("self"));
    assert!(Place::new().refuse(&tar.file("a/x", "x").done()).contains("through a link"));
}

#[test]
fn the_last_of_several_entries_of_a_name_counts() {
    let tar = Stream::default()
        .file("d/a", "1")
        .symlink("d/a", "elsewhere")
        .file("d/a", "22")
        .dir("e")
        .symlink("e", "d")
        .dir("e")
        .file("e/b", "3")
        .done();
    let tree = Place::new();
    let tree_path = tree.install(&tar).unwrap();
    assert_eq!(fs::read_to_string(tree_path.join("d/a")).unwrap(), "22");
    assert_eq!(fs::read_to_string(tree_path.join("e/b")).unwrap(), "3");
    assert!(!tree_path.join("d/b").exists());
}

#[test]
fn a_refused_layer_leaves_the_others_alone() {
    let place = Place::new();
    let good = Stream::default().file("a", "a").done();
    let tree = place.install(&good).unwrap();
    place.install(&Stream::default().file("b", "b").file("../c", "c").done()).unwrap_err();
    assert_eq!(fs::read_to_string(tree.join("a")).unwrap(), "a");
    assert_eq!(place.store.check(&sha256(&good), Depth::Full).unwrap(), Condition::Whole);
    assert_eq!(place.rests(), 1);
}

// SM-03
#[test]
fn changes_of_an_installed_layer_are_found() {
    let place = Place::new();
    let tar = Stream::default().file("d/a", "aaa").symlink("link", "d/a").done();
    let (tree, id) = (place.install(&tar).unwrap(), sha256(&tar));
    let check = |depth| place.store.check(&id, depth).unwrap();
    assert_eq!((check(Depth::Quick), check(Depth::Full)), (Condition::Whole, Condition::Whole));
    assert_eq!(place.store.check(&sha256(b"none"), Depth::Quick).unwrap(), Condition::Missing);

    let time = fs::metadata(tree.join("d/a")).unwrap().modified().unwrap();
    fs::write(tree.join("d/a"), "bbb").unwrap();
    fs::File::options().write(true).open(tree.join("d/a")).unwrap().set_modified(time).unwrap();
    assert_eq!((check(Depth::Quick), check(Depth::Full)), (Condition::Damaged, Condition::Damaged));
    fs::write(tree.join("d/a"), "aaa").unwrap();
    assert_eq!(check(Depth::Quick), Condition::Whole, "the content is right again");

    fs::remove_file(tree.join("link")).unwrap();
    assert_eq!(check(Depth::Quick), Condition::Damaged);
    place
        .store
        .unpack(&describe(&tar, &tar, Packing::Tar), tar.as_slice(), DISK)
        .unwrap()
        .commit(true)
        .unwrap();
    assert_eq!(check(Depth::Full), Condition::Whole);
    assert_eq!(place.rests(), 2, "the old one stays for those who run on it");
    LayerStore::open(place.folder.path()).unwrap();
    assert_eq!(place.rests(), 1);
}

// A layer of another program has no stamp: it is read once, and taken up when it is right.
#[test]
fn layers_of_another_program_are_taken_up_or_seen_through() {
    let place = Place::new();
    let tar = Stream::default().file("a", "aaa").done();
    let (tree, id) = (place.install(&tar).unwrap(), sha256(&tar));
    let stamp = tree.parent().unwrap().join("stamp");
    fs::remove_file(&stamp).unwrap();
    assert_eq!(place.store.check(&id, Depth::Quick).unwrap(), Condition::Whole);
    assert!(stamp.exists());
    fs::remove_file(&stamp).unwrap();
    fs::write(tree.join("a"), "bbb").unwrap();
    assert_eq!(place.store.check(&id, Depth::Quick).unwrap(), Condition::Damaged);
    fs::remove_file(tree.parent().unwrap().join("digest")).unwrap();
    assert_eq!(place.store.check(&id, Depth::Quick).unwrap(), Condition::Damaged, "unfinished");
}

#[test]
fn what_was_not_finished_is_gone_after_the_next_start() {
    let place = Place::new();
    let tar = Stream::default().file("a", "a").done();
    let staged = place.store.unpack(&describe(&tar, &tar, Packing::Tar), tar.as_slice(), DISK).unwrap();
    std::mem::forget(staged);
    let id = sha256(&tar);
    assert_eq!(place.store.check(&id, Depth::Quick).unwrap(), Condition::Missing);
    assert_eq!(fs::read_dir(place.folder.path().join("tmp")).unwrap().count(), 1);
    let store = LayerStore::open(place.folder.path()).unwrap();
    assert_eq!(place.rests(), 0);
    store.unpack(&describe(&tar, &tar, Packing::Tar), tar.as_slice(), DISK).unwrap().commit(false).unwrap();
    let removed = store.take_out(&id).unwrap();
    assert_eq!(store.check(&id, Depth::Quick).unwrap(), Condition::Missing);
    drop(removed);
    assert_eq!(place.rests(), 0);
}

fn squashfs(tar: &[u8]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let (source, image) = (folder.path().join("tar"), folder.path().join("image"));
    fs::write(&source, tar).unwrap();
    let made = std::process::Command::new("tar2sqfs")
        .args(["-q", "-c", "gzip"])
        .arg(&image)
        .stdin(fs::File::open(&source).unwrap())
        .output()
        .expect("tar2sqfs, Debian's squashfs-tools-ng, is needed");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    fs::read(image).unwrap()
}

#[test]
fn a_squashfs_layer_takes_the_same_way() {
    let place = Place::new();
    let tar = Stream::default()
        .dir("bin")
        .file("bin/tool", "#!")
        .symlink("bin/link", "tool")
        .file("d/.wh..wh..opq", "")
        .file("d/.wh.gone", "")
        .done();
    let image = squashfs(&tar);
    let layer = describe(&image, &image, Packing::Squashfs);
    place.put(&layer, &image).unwrap();
    let tree = place.store.tree(&layer.diff_id);
    assert_eq!(fs::read_to_string(tree.join("bin/tool")).unwrap(), "#!");
    assert_eq!(fs::metadata(tree.join("bin/tool")).unwrap().uid(), 1000);
    assert_eq!(fs::read_link(tree.join("bin/link")).unwrap(), Path::new("tool"));
    assert_eq!(tree_attributes(&tree.join("d")), ["trusted.overlay.opaque"]);
    assert!(fs::symlink_metadata(tree.join("d/gone")).unwrap().file_type().is_char_device());
    assert_eq!(place.rests(), 1);
}

#[test]
fn a_hostile_squashfs_layer_is_refused() {
    let device = Stream::default().entry(b'3', b"null", b"", b"").done();
    let image = squashfs(&device);
    let place = Place::new();
    let error = place.put(&describe(&image, &image, Packing::Squashfs), &image).unwrap_err();
    assert!(error.to_string().contains("devices"), "{error}");
    let good = squashfs(&Stream::default().file("a", &"text".repeat(5000)).done());
    for cut in [200, 96, 10] {
        let image = &good[..cut];
        let error = place.put(&describe(image, image, Packing::Squashfs), image).unwrap_err();
        assert!(matches!(error, LayerError::Refused { .. }), "{error}");
    }
    let error = place.put(&describe(&good, b"other", Packing::Squashfs), &good).unwrap_err();
    assert!(matches!(error, LayerError::Checksum { .. }), "{error}");
    let error = place.put(&describe(&good, &good, Packing::Squashfs), &good[1..]).unwrap_err();
    assert!(matches!(error, LayerError::Length { .. }), "{error}");
    assert_eq!(place.rests(), 0);
}

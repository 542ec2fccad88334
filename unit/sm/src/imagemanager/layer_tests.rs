//! Layers good and hostile. Needs root, as the program does: whiteouts are device nodes.

use std::fmt::Write as _;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use super::*;
use crate::imagemanager::tree_attributes;

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

    fn done(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        fs::create_dir(folder.path().join("tmp")).unwrap();
        Self { folder }
    }

    fn images(&self) -> &Path {
        self.folder.path()
    }

    fn packed(&self, content: &[u8]) -> PathBuf {
        let path = self.folder.path().join("packed");
        fs::write(&path, content).unwrap();
        path
    }

    fn install(&self, tar: &[u8]) -> Result<PathBuf, Error> {
        let layer = describe(tar, tar, Packing::Tar);
        install(self.images(), &layer, &self.packed(tar))?;
        Ok(tree_of(self.images(), &layer.diff_id))
    }

    /// Installs what has to be refused, and checks that nothing is left of the try.
    fn refuse(&self, tar: &[u8]) -> String {
        let error = self.install(tar).expect_err("a hostile layer was installed");
        assert_eq!(fs::read_dir(self.images().join("tmp")).unwrap().count(), 0, "rests of a refused layer");
        assert!(!self.images().join("layers").exists());
        error.info().message
    }
}

fn describe(packed: &[u8], plain: &[u8], packing: Packing) -> Layer {
    Layer { digest: digest_of(packed), size: packed.len() as u64, packing, diff_id: digest_of(plain) }
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
    install(place.images(), &layer, &place.packed(&packed)).unwrap();
    install(place.images(), &layer, &place.packed(&packed)).unwrap();
    assert!(tree_of(place.images(), &layer.diff_id).join("a").exists());
    assert_eq!(fs::read_dir(place.images().join("tmp")).unwrap().count(), 0);

    let other = Place::new();
    let mut wrong = layer.clone();
    wrong.diff_id = digest_of(b"other");
    let error = install(other.images(), &wrong, &other.packed(&packed)).unwrap_err();
    assert!(matches!(error, Error::Checksum { .. }), "{error}");
    let mut damaged = packed.clone();
    *damaged.last_mut().unwrap() ^= 1;
    let error = install(other.images(), &layer, &other.packed(&damaged)).unwrap_err();
    assert!(matches!(error, Error::Checksum { .. }), "{error}");
    let error = install(other.images(), &layer, &other.packed(&packed[..packed.len() - 1])).unwrap_err();
    assert!(error.to_string().contains("bytes"), "{error}");
    assert_eq!(fs::read_dir(other.images().join("tmp")).unwrap().count(), 0);
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
    install(place.images(), &layer, &place.packed(b"no gzip")).unwrap_err();
}

#[test]
fn a_folder_is_not_replaced_by_a_file() {
    let tar = Stream::default().file("d/inner", "x").file("d", "y").done();
    assert!(Place::new().refuse(&tar).contains("filled folder"));
    let tar = Stream::default().file("f", "x").file("f/inner", "y").done();
    assert!(Place::new().refuse(&tar).contains("through a file"));
}

#[test]
fn a_stream_longer_than_allowed_is_cut_off() {
    let plain = vec![0u8; 10_000];
    let mut metered = Metered::new(plain.as_slice(), 5000);
    assert!(metered.drain().is_err());
    assert!(metered.exceeded);
    assert!(metered.bytes <= 5000 + 8192);
}

#[test]
fn a_packed_file_that_is_a_link_is_not_followed() {
    let place = Place::new();
    let tar = Stream::default().file("a", "a").done();
    let real = place.packed(&tar);
    let link = place.folder.path().join("link");
    std::os::unix::fs::symlink(real, &link).unwrap();
    install(place.images(), &describe(&tar, &tar, Packing::Tar), &link).unwrap_err();
}

#[test]
fn unknown_packings_are_refused() {
    assert!(Packing::of("application/vnd.oci.image.layer.v1.tar+gzip").is_ok());
    assert!(matches!(
        Packing::of("application/vnd.oci.image.layer.v1.tar+zstd"),
        Err(Error::NotSupported(_))
    ));
}

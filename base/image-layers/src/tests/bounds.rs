//! Layers that want more than they get: bombs, sizes, numbers.

use super::*;

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
// REL-32
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

// REL-32
#[test]
fn a_million_files_are_refused() {
    let place = Place::new();
    let layer =
        Layer { digest: sha256(b"x"), size: 1_000_000 * 512, packing: Packing::Tar, diff_id: sha256(b"x") };
    let stream = || Million { next: 0, header: Vec::new(), at: 0 };
    // With the usual limits the space for so many names is refused first, or their number.
    let error = place.store.unpack(&layer, stream(), 8 << 20).unwrap_err();
    assert!(error.is_no_space(), "{error}");
    let root = place.folder.path().join("root");
    fs::create_dir(&root).unwrap();
    let root = fs::File::open(root).unwrap().into();
    let limits = Limits { entries: 2000, ..Limits::of_disk(64 << 30) };
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

// REL-32
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

//! Layers on disk: changes, other programs, restarts; and squashfs.

use super::*;

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

// REL-32
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

//! Names, links and kinds of entries that are refused.

use super::*;

// REL-08, REL-32
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

// REL-08, REL-32
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

// REL-32
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

// REL-32
#[test]
fn headers_that_claim_too_much_are_refused() {
    let endless = Stream::default().entry(b'x', b"pax", b"", &vec![b'a'; 2 << 20]).file("x", "").done();
    assert!(Place::new().refuse(&endless).contains("too long"));
    let two = Stream::default().pax(&[("size", "10")]).file("x", "abc").done();
    assert!(Place::new().refuse(&two).contains("twice"));
    let sparse = Stream::default().pax(&[("GNU.sparse.major", "1")]).file("x", "abc").done();
    assert!(Place::new().refuse(&sparse).contains("sparse"));
}

// umoci leaves the last block unfilled.
#[test]
fn only_the_filling_of_the_last_block_may_be_missing() {
    let tar = Stream::default().file("a", &"x".repeat(700)).done();
    for length in [512 + 700, 512 + 701, 512 + 1023, 512 + 1024] {
        let place = Place::new();
        let tree = place.install(&tar[..length]).unwrap();
        assert_eq!(fs::read(tree.join("a")).unwrap().len(), 700);
    }
    for length in [100, 511, 512, 512 + 600, 512 + 699] {
        Place::new().refuse(&tar[..length]);
    }
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

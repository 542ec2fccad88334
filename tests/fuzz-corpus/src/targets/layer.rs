//! Layers of images, unpacked for real.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use aos_ids::Digest;
use aos_image_layers::{Layer, LayerStore, Limits, Packing, unpack};

const DISK: u64 = 8 << 20;
const LIMITS: Limits = Limits { disk: DISK, entries: 500, overlay_marks: false };
/// As a squashfs image is read: with the marks of an overlay.
const OVERLAY: Limits = Limits { overlay_marks: true, ..LIMITS };
/// Stands for a folder beside the tree in scripts.
const OUTSIDE: &[u8] = b"@OUT";

/// The first byte tells what the rest is: a tar stream, whose check sums are put right so that changes get
/// through; a script that names entries; either of them as a squashfs image is read; or a packed stream.
///
/// Whatever comes: nothing is made or changed outside of the tree, no device comes to be but whiteouts, no
/// set-user bit, and of what was refused nothing is left.
pub fn target_layer(data: &[u8]) {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let Some((first, rest)) = data.split_first() else { return };
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    // In memory where there is such a place: some thousand trees are made and removed.
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let place = folder.join(format!("aos-layer-{}-{number}", std::process::id()));
    let outside = place.join("outside");
    fs::create_dir_all(&outside).unwrap();
    fs::write(outside.join("file"), "mine").unwrap();
    match first {
        b'S' => tree(&place, &script(rest, outside.as_os_str().as_encoded_bytes()), LIMITS),
        b'O' => tree(&place, &script(rest, outside.as_os_str().as_encoded_bytes()), OVERLAY),
        b'G' => packed(&place, rest, Packing::Gzip),
        b'Z' => packed(&place, rest, Packing::Zstd),
        b'Q' => tree(&place, &with_check_sums(rest), OVERLAY),
        _ => tree(&place, &with_check_sums(rest), LIMITS),
    }
    let names: Vec<_> = fs::read_dir(&outside).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["file"], "something was made outside");
    let file = fs::metadata(outside.join("file")).unwrap();
    assert_eq!((file.len(), file.nlink(), file.uid(), file.mode() & 0o7000), (4, 1, own_uid(&place), 0));
    assert_eq!(fs::read(outside.join("file")).unwrap(), b"mine", "something was changed outside");
    assert_eq!(fs::read_dir(&place).unwrap().count(), 2, "something was made beside the tree");
    fs::remove_dir_all(&place).unwrap();
}

fn own_uid(place: &Path) -> u32 {
    fs::metadata(place).unwrap().uid()
}

fn tree(place: &Path, stream: &[u8], limits: Limits) {
    let root = place.join("tree");
    fs::create_dir(&root).unwrap();
    let opened = fs::File::open(&root).unwrap().into();
    match unpack(stream, &opened, limits) {
        Ok(contents) => assert!(contents.disk <= DISK && contents.entries <= LIMITS.entries),
        Err(error) => super::check_complaint(&error),
    }
    check_tree(&root, 0);
}

fn check_tree(folder: &Path, depth: usize) {
    assert!(depth <= 128, "too deep");
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        let kind = meta.file_type();
        assert!(!kind.is_block_device() && !kind.is_socket(), "a device");
        assert!(!kind.is_char_device() || meta.rdev() == 0, "a device");
        assert!(kind.is_symlink() || meta.mode() & 0o6000 == 0, "a set-user bit");
        if kind.is_dir() {
            check_tree(&path, depth + 1);
        }
    }
}

fn packed(place: &Path, stream: &[u8], packing: Packing) {
    let store = LayerStore::open(&place.join("tree")).unwrap();
    let wrong = Digest::from_sha256([7; 32]);
    let layer = Layer { digest: wrong, size: stream.len() as u64, packing, diff_id: wrong };
    let Err(error) = store.unpack(&layer, stream, DISK) else { panic!("digests do not matter") };
    super::check_complaint(&error);
    assert_eq!(fs::read_dir(place.join("tree/tmp")).unwrap().count(), 0, "rests of a refused layer");
}

/// Puts right the sums of all headers that can be found by going from one to the next.
fn with_check_sums(stream: &[u8]) -> Vec<u8> {
    let mut stream = stream.to_vec();
    let mut at = 0;
    while let Some(block) = stream.get_mut(at..at + 512) {
        if block.iter().all(|&byte| byte == 0) {
            break;
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let size = std::str::from_utf8(&block[124..135]).ok();
        let size = size.and_then(|text| usize::from_str_radix(text.trim_matches(['\0', ' ']), 8).ok());
        at += 512 + size.unwrap_or(0).min(1 << 30).next_multiple_of(512);
    }
    stream
}

/// A stream of entries, one for each line: kind, name, target of a link, content; a tabulator between them.
fn script(text: &[u8], outside: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    for line in text.split(|&byte| byte == b'\n').take(600) {
        let mut fields = line.split(|&byte| byte == b'\t').map(|field| replaced(field, outside));
        let (kind, name) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        let (link, content) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        let Some(&kind) = kind.first() else { continue };
        for (key, value) in [("path", &name), ("linkpath", &link)] {
            if value.len() > 99 {
                let record = record(key, value);
                stream.extend(block(b'x', b"pax", b"", record.len()));
                padded(&mut stream, &record);
            }
        }
        stream.extend(block(kind, &name, &link, content.len()));
        padded(&mut stream, &content);
    }
    stream.extend([0; 1024]);
    stream
}

fn replaced(field: &[u8], outside: &[u8]) -> Vec<u8> {
    match field.windows(OUTSIDE.len()).position(|part| part == OUTSIDE) {
        Some(at) => [&field[..at], outside, &field[at + OUTSIDE.len()..]].concat(),
        None => field.to_vec(),
    }
}

fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

fn block(kind: u8, name: &[u8], link: &[u8], size: usize) -> Vec<u8> {
    let mut block = vec![0; 512];
    for (at, value) in [(0, name), (157, link)] {
        let length = value.len().min(99);
        block[at..at + length].copy_from_slice(&value[..length]);
    }
    for (at, text) in
        [(100, "0006755\0"), (108, "0001750\0"), (116, "0001751\0"), (329, "0000001\0"), (337, "0000003\0")]
    {
        block[at..at + 8].copy_from_slice(text.as_bytes());
    }
    block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    block[136..148].copy_from_slice(b"00000030071\0");
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    with_check_sums(&block)
}

fn padded(stream: &mut Vec<u8>, content: &[u8]) {
    stream.extend_from_slice(content);
    stream.resize(stream.len().next_multiple_of(512), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    // The targets would prove nothing if scripts and changed streams were all refused at their first byte.
    #[test]
    fn scripts_and_changed_streams_are_archives() {
        let text = b"5\tdir\n0\tdir/file\t\tcontent\n2\tlink\t/etc\n1\thard\tdir/file\n0\t.wh.gone\n";
        let mut stream = script(text, b"/out");
        let entries = |stream: &[u8]| {
            let mut archive = tar::Archive::new(stream);
            archive
                .entries()
                .unwrap()
                .map(|entry| entry.unwrap().path_bytes().into_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(entries(&stream), [&b"dir"[..], b"dir/file", b"link", b"hard", b".wh.gone"]);
        stream[0] = b'D';
        assert_eq!(entries(&with_check_sums(&stream))[0], b"Dir");
        let folder = tempfile::tempdir().unwrap();
        let root = fs::File::open(folder.path()).unwrap().into();
        unpack(stream.as_slice(), &root, LIMITS).unwrap_err();
        assert_eq!(unpack(with_check_sums(&stream).as_slice(), &root, LIMITS).unwrap().entries, 5);
        assert_eq!(fs::read_to_string(folder.path().join("hard")).unwrap(), "content");
    }
}

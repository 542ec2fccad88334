use std::collections::HashSet;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::*;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();
    (dir, store)
}

/// Names below `partial/`.
fn partials(store: &Store) -> Vec<String> {
    std::fs::read_dir(store.root().join("partial"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn a_download_is_resumed_after_a_restart() {
    let (_dir, store) = store();
    let content = b"the whole content";
    let (digest, size) = (sha256(content), content.len() as u64);
    let mut partial = store.partial(&digest, size).unwrap();
    partial.append(&content[..5]).unwrap();
    drop(partial);

    let store = Store::open(store.root()).unwrap();
    assert_eq!((store.partial_len(&digest), store.has(&digest)), (5, false));
    let mut partial = store.partial(&digest, size).unwrap();
    assert_eq!((partial.len(), partial.is_complete(), partial.is_empty()), (5, false, false));
    partial.append(&content[5..]).unwrap();
    assert_eq!(std::fs::read(partial.path()).unwrap(), content);
    partial.finish().unwrap();

    assert_eq!(store.path(&digest), store.root().join("blobs/sha256").join(digest.hex()));
    assert_eq!(store.read(&digest, size).unwrap(), content);
    assert_eq!((store.size(&digest), store.partial_len(&digest)), (Some(size), 0));
    assert!(store.verify(&digest).unwrap());
    let mode = std::fs::metadata(store.path(&digest)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
}

#[test]
fn a_blob_that_does_not_match_its_digest_never_appears() {
    let (_dir, store) = store();
    let digest = sha256(b"expected");
    let mut partial = store.partial(&digest, 8).unwrap();
    partial.append(b"3xpected").unwrap();
    let error = partial.finish().unwrap_err();
    assert!(matches!(error, StoreError::Mismatch { expected, .. } if expected == digest));
    assert!(!store.has(&digest) && partials(&store).is_empty());
}

#[test]
fn sizes_are_bounded_by_what_was_announced() {
    let (_dir, store) = store();
    let digest = sha256(b"12345");
    let mut partial = store.partial(&digest, 5).unwrap();
    partial.append(b"1234").unwrap();
    assert!(matches!(partial.append(b"56"), Err(StoreError::TooLong { size: 5, .. })));
    assert_eq!(partial.len(), 4, "what does not fit is refused as a whole");
    assert!(matches!(partial.finish(), Err(StoreError::Incomplete { found: 4, size: 5, .. })));
    assert_eq!(store.partial_len(&digest), 4);
    // Announced smaller now: what is there cannot be right.
    assert_eq!(store.partial(&digest, 3).unwrap().len(), 0);
    store.partial(&digest, 3).unwrap().discard().unwrap();
    assert!(partials(&store).is_empty());
}

#[test]
fn an_empty_blob_is_a_blob() {
    let (_dir, store) = store();
    let digest = sha256(b"");
    store.partial(&digest, 0).unwrap().finish().unwrap();
    assert_eq!(store.size(&digest), Some(0));
}

#[test]
fn one_writer_at_a_time() {
    let (_dir, store) = store();
    let digest = sha256(b"x");
    let first = store.partial(&digest, 1).unwrap();
    let other_process = Store::open(store.root()).unwrap();
    assert!(matches!(other_process.partial(&digest, 1), Err(StoreError::Busy(_))));
    drop(first);
    let mut partial = other_process.partial(&digest, 1).unwrap();
    partial.append(b"x").unwrap();
    partial.finish().unwrap();
    // A finished blob leaves the name free; nothing old is locked.
    assert!(store.partial(&digest, 1).unwrap().is_empty());
}

#[test]
fn staged_content_becomes_a_blob_or_nothing() {
    let (_dir, store) = store();
    let digest = sha256(b"decrypted");
    let mut stage = store.stage().unwrap();
    stage.file().write_all(b"decrypted").unwrap();
    stage.commit(&digest).unwrap();
    assert!(store.verify(&digest).unwrap());
    let mut stage = store.stage().unwrap();
    std::fs::write(stage.path(), b"other").unwrap();
    stage.file().flush().unwrap();
    assert!(matches!(stage.commit(&sha256(b"wanted")), Err(StoreError::Mismatch { .. })));
    drop(store.stage().unwrap());
    assert!(partials(&store).is_empty());
}

#[test]
fn what_a_dead_writer_left_is_removed_what_a_living_one_has_is_not() {
    let (_dir, store) = store();
    let abandoned = store.root().join("partial/.stage-1-0");
    std::fs::write(&abandoned, b"half").unwrap();
    let mut living = store.stage().unwrap();
    let again = Store::open(store.root()).unwrap();
    assert!(!abandoned.exists() && living.path().exists());
    living.file().write_all(b"x").unwrap();
    living.commit(&sha256(b"x")).unwrap();
    assert!(again.has(&sha256(b"x")));
}

#[test]
fn importing_files_and_bytes() {
    let (dir, store) = store();
    let path = dir.path().join("layer.tar");
    let content = vec![7; 200_000];
    std::fs::write(&path, &content).unwrap();
    let (digest, length) = store.import_file(&path).unwrap();
    assert_eq!((digest, length), (sha256(&content), 200_000));
    assert_eq!(store.import_bytes(&content).unwrap(), digest);
    assert_eq!(store.list().unwrap(), [digest]);
    assert_eq!(store.total_size().unwrap(), 200_000);
    let wrong = store.import(&b"abc"[..], 10, Some(&digest)).unwrap_err();
    assert!(matches!(wrong, StoreError::Mismatch { .. }));
    assert!(matches!(store.import(&b"abc"[..], 2, None), Err(StoreError::TooLarge { max: 2, .. })));
    assert!(partials(&store).is_empty());
    assert!(store.import_file(&dir.path().join("missing")).is_err());
}

#[test]
fn damage_is_found() {
    let (_dir, store) = store();
    let digest = store.import_bytes(b"good").unwrap();
    std::fs::write(store.path(&digest), b"evil").unwrap();
    assert!(store.has(&digest) && !store.verify(&digest).unwrap());
    assert!(matches!(store.read(&digest, 100), Err(StoreError::Mismatch { .. })));
    assert!(!store.has(&digest), "a damaged blob is removed by the reader");
    assert!(matches!(store.read(&digest, 100), Err(StoreError::Missing(_))));
    assert!(matches!(store.open_blob(&digest), Err(StoreError::Missing(_))));
    assert!(!store.verify(&digest).unwrap());
    let digest = store.import_bytes(b"good").unwrap();
    assert!(store.read(&digest, 3).is_err(), "reading is bounded");
}

#[test]
fn a_collection_keeps_what_is_named_and_what_is_open() {
    let (_dir, store) = store();
    let kept = store.import_bytes(b"kept").unwrap();
    let dropped = store.import_bytes(b"dropped").unwrap();
    let (resumed, stale, open) = (sha256(b"r"), sha256(b"s"), sha256(b"o"));
    for digest in [resumed, stale] {
        store.partial(&digest, 10).unwrap().append(b"12").unwrap();
    }
    let open_partial = store.partial(&open, 10).unwrap();
    std::fs::write(store.root().join("blobs/sha256/README"), b"not ours").unwrap();
    let collected = store.collect(&HashSet::from([kept, resumed])).unwrap();
    assert_eq!(collected, Collected { blobs: 2, bytes: 9 });
    assert!(store.has(&kept) && !store.has(&dropped));
    assert_eq!((store.partial_len(&resumed), store.partial_len(&stale)), (2, 0));
    assert!(open_partial.path().exists());
    assert!(store.root().join("blobs/sha256/README").exists());
    store.remove(&kept).unwrap();
    store.remove(&kept).unwrap();
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn many_importers_of_the_same_content_agree() {
    let (_dir, store) = store();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for n in 0..20_u8 {
                    let store = Store::open(store.root()).unwrap();
                    let digest = store.import(&[n; 1000][..], 1000, None).unwrap().0;
                    assert!(store.has(&digest));
                }
            });
        }
    });
    assert_eq!(store.list().unwrap().len(), 20);
    assert!(partials(&store).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_split_and_any_restarts_give_the_same_blob(
        content in proptest::collection::vec(any::<u8>(), 0..5000),
        cuts in proptest::collection::vec((0_usize..1000, any::<bool>()), 0..12),
    ) {
        let (_dir, store) = store();
        let (digest, size) = (sha256(&content), content.len() as u64);
        let mut partial = store.partial(&digest, size).unwrap();
        for (length, reopen) in cuts {
            let from = usize::try_from(partial.len()).unwrap();
            partial.append(&content[from..(from + length).min(content.len())]).unwrap();
            if reopen {
                drop(partial);
                partial = Store::open(store.root()).unwrap().partial(&digest, size).unwrap();
            }
        }
        let from = usize::try_from(partial.len()).unwrap();
        partial.append(&content[from..]).unwrap();
        partial.finish().unwrap();
        prop_assert_eq!(store.read(&digest, size).unwrap(), content);
    }
}

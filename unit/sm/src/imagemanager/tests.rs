//! Images as a whole: what is refused before anything is unpacked, and what is removed when.

use super::*;

fn digest(letter: u8) -> Digest {
    Digest::from_sha256([letter; 32])
}

fn put(folder: &Path, content: &[u8]) -> Digest {
    let digest = layer::digest_of(content);
    fs::write(blob_path(folder, &digest), content).unwrap();
    digest
}

fn image_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for part in ["blobs/sha256", "layers/sha256", "tmp"] {
        fs::create_dir_all(folder.path().join(part)).unwrap();
    }
    folder
}

/// Puts an image with one unpacked layer in place; answers its manifest.
fn place_image(folder: &Path, diff_id: Digest) -> Digest {
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Cmd":["x"]}},"rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#
    );
    let config_digest = put(folder, config.as_bytes());
    let item_digest = put(folder, b"{}");
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"c","digest":"{config_digest}","size":{}}},
            "aosService":{{"mediaType":"i","digest":"{item_digest}","size":2}},
            "layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{}","size":1}}]}}"#,
        config.len(),
        digest(9)
    );
    fs::create_dir_all(layer::tree_of(folder, &diff_id)).unwrap();
    put(folder, manifest.as_bytes())
}

#[test]
fn an_image_is_present_only_as_a_whole_and_unchanged() {
    let folder = image_folder();
    let manifest = place_image(folder.path(), digest(1));
    assert_eq!(load(folder.path(), &manifest).unwrap().layers, [layer::tree_of(folder.path(), &digest(1))]);
    fs::remove_dir_all(layer::folder_of(folder.path(), &digest(1))).unwrap();
    assert!(matches!(load(folder.path(), &manifest), Err(Error::NotFound(_))));
    fs::create_dir_all(layer::tree_of(folder.path(), &digest(1))).unwrap();
    fs::write(blob_path(folder.path(), &manifest), "tampered").unwrap();
    assert!(matches!(load(folder.path(), &manifest), Err(Error::Checksum { .. })));
}

#[test]
fn manifests_without_layers_or_configuration_are_refused() {
    let config = format!(r#""config":{{"mediaType":"c","digest":"{}","size":1}}"#, digest(1));
    for text in [
        "{".to_owned(),
        format!(r#"{{"schemaVersion":2,{config},"layers":[]}}"#),
        format!(
            r#"{{"schemaVersion":2,{config},"aosItemConfig":{{"digest":"{}","size":1}},"layers":[]}}"#,
            digest(2)
        ),
    ] {
        assert!(parse_manifest(text.as_bytes(), &digest(3)).is_err(), "{text}");
    }
}

#[tokio::test]
async fn unwanted_versions_go_when_their_time_is_over_and_shared_layers_stay() {
    let folder = image_folder();
    let database = Database::open(&folder.path().join("sm.db")).unwrap();
    let (_channel, cm) = crate::smclient::shared_channel();
    let retention = Retention { ttl: Duration::from_hours(1), period: Duration::from_hours(1) };
    let task = Task { folder: folder.path().to_owned(), retention, database: database.clone(), cm };
    let (one, two) = (place_image(folder.path(), digest(1)), place_image(folder.path(), digest(2)));
    task.remember("item".into(), "1.0.0".into(), &one).await.unwrap();
    task.remember("item".into(), "2.0.0".into(), &two).await.unwrap();
    fs::write(blob_path(folder.path(), &digest(7)), "orphan").unwrap();

    let used = |version: &str| BTreeSet::from([("item".to_owned(), version.to_owned())]);
    task.mark(&used("2.0.0")).await.unwrap();
    task.clean().await.unwrap();
    assert!(load(folder.path(), &one).is_ok(), "not yet");

    let mut rows = database.items().await.unwrap();
    let mut old = rows.remove(rows.iter().position(|row| row.version == "1.0.0").unwrap());
    old.removed_at = Some(now() - 3601);
    database.put_item(old).await.unwrap();
    task.clean().await.unwrap();
    assert!(load(folder.path(), &one).is_err());
    assert!(load(folder.path(), &two).is_ok());
    assert!(!layer::folder_of(folder.path(), &digest(1)).exists());
    assert!(!blob_path(folder.path(), &digest(7)).exists());
}

#[tokio::test]
async fn at_most_two_versions_of_an_item_stay() {
    let folder = image_folder();
    let database = Database::open(&folder.path().join("sm.db")).unwrap();
    let (_channel, cm) = crate::smclient::shared_channel();
    let retention = Retention { ttl: Duration::from_hours(1), period: Duration::from_hours(1) };
    let task = Task { folder: folder.path().to_owned(), retention, database: database.clone(), cm };
    for number in 1..=4u8 {
        let manifest = place_image(folder.path(), digest(number));
        task.remember("item".into(), format!("{number}.0.0"), &manifest).await.unwrap();
    }
    task.mark(&BTreeSet::from([("item".to_owned(), "4.0.0".to_owned())])).await.unwrap();
    task.clean().await.unwrap();
    let versions = database.items().await.unwrap().len();
    assert_eq!(versions, 2);
}

#[tokio::test]
async fn without_cm_a_missing_blob_is_a_passing_failure() {
    let folder = tempfile::tempdir().unwrap();
    let database = Database::open(&folder.path().join("sm.db")).unwrap();
    let (_channel, cm) = crate::smclient::shared_channel();
    let retention = Retention { ttl: Duration::from_hours(1), period: Duration::from_hours(1) };
    let (manager, task) = ImageManager::open(folder.path().join("images"), retention, database, cm).unwrap();
    tokio::spawn(task);
    let error = manager.install("item".into(), "1.0.0".into(), digest(1)).await.unwrap_err();
    assert!(error.is_passing(), "{error}");
}

// A removal that is killed half-way leaves its rest in `tmp`, which every start empties.
#[tokio::test]
async fn a_layer_that_is_removed_in_part_is_not_taken_for_a_whole_one() {
    let folder = image_folder();
    let manifest = place_image(folder.path(), digest(1));
    let layer = layer::folder_of(folder.path(), &digest(1));
    let rest = folder.path().join("tmp").join(layer.file_name().unwrap());
    fs::create_dir_all(rest.join("layer")).unwrap();
    fs::write(rest.join("layer/file"), "half").unwrap();
    assert!(discard(folder.path(), &layer).is_err(), "the name is taken: nothing is removed");
    assert!(load(folder.path(), &manifest).is_ok());

    let database = Database::open(&folder.path().join("sm.db")).unwrap();
    let (_channel, cm) = crate::smclient::shared_channel();
    let retention = Retention { ttl: Duration::from_hours(1), period: Duration::from_hours(1) };
    let _opened = ImageManager::open(folder.path().to_owned(), retention, database, cm).unwrap();
    assert!(!rest.exists());
    discard(folder.path(), &layer).unwrap();
    assert!(!layer.exists() && !rest.exists());
}

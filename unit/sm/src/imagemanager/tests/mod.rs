//! Images as a whole, with real connections. Needs root, as the program does: whiteouts are device nodes.

mod damaged;
mod killed;
mod space;
mod world;

use std::fs;

use aos_image_layers::{Condition, Depth, sha256};
use serde_json::json;

use super::*;
use documents::{blob_path, parse_manifest};
use world::*;

fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("aos-images-").tempdir_in("/var/tmp").unwrap()
}

// SM-03, SM-69, SM-72, SM-73
#[tokio::test]
async fn an_image_is_fetched_verified_and_taken_from_the_disk_afterwards() {
    let (folder, cm) = (folder(), Cm::start().await);
    let service =
        cm.service(&[tar(&[("bin/", b""), ("bin/a", b"A")]), tar(&[("b", b"B"), (".wh.gone", b"")])]);
    let manager = Manager::open(folder.path(), &cm, RETENTION);
    let image = manager.install("item", "1.0.0", service.manifest).await.unwrap();
    let trees: Vec<PathBuf> = service.diff_ids.iter().map(|id| manager.layers().tree(id)).collect();
    assert_eq!(image.layers, trees);
    assert_eq!(fs::read_to_string(trees[0].join("bin/a")).unwrap(), "A");
    for (packed, diff_id) in service.packed.iter().zip(&service.diff_ids) {
        assert_eq!(fs::read_to_string(blob_path(&manager.folder, packed)).unwrap(), diff_id.to_string());
        let note = |name: &str| fs::read_to_string(manager.layers().folder(diff_id).join(name)).unwrap();
        assert!(note("digest").starts_with("sha256:"));
        assert_eq!(note("size"), "1");
    }
    assert_eq!(
        manager.contents(),
        [("blobs/sha256", 5), ("layers/sha256", 2), ("partial", 0), ("tmp", 0)].into()
    );
    assert_eq!(manager.images.present(&service.manifest).unwrap().layers, trees);
    manager.close().await;

    cm.disconnect();
    let manager = Manager::open(folder.path(), &cm, RETENTION);
    manager.install("item", "1.0.0", service.manifest).await.unwrap();
    assert_eq!(cm.state().requests.len(), 5, "nothing is fetched twice");
}

// Two items that share contents and many instances of each: everything is fetched once, even at the same time.
#[tokio::test]
async fn the_same_digest_is_fetched_once_however_many_ask() {
    let (folder, cm) = (folder(), Cm::start().await);
    let (base, mine, yours) = (tar(&[("base", &noise(1, 50_000))]), tar(&[("m", b"m")]), tar(&[("y", b"y")]));
    let first = cm.service(&[base.clone(), mine]);
    let second = cm.service(&[base, yours]);
    cm.state().held.insert(first.packed[0].to_string(), 4096);
    let manager = Manager::open(folder.path(), &cm, RETENTION);
    let installs = (0..10).map(|number| {
        let (images, first, second) = (manager.images.clone(), first.manifest, second.manifest);
        tokio::spawn(async move {
            let (item, manifest) = if number % 2 == 0 { ("a", first) } else { ("b", second) };
            images.install(item.to_owned(), "1.0.0".to_owned(), manifest).await
        })
    });
    let installs: Vec<_> = installs.collect();
    wait_for("both to come as far as the shared layer", || {
        (cm.requests(&first.packed[1]) == 1 && cm.requests(&second.packed[1]) == 1).then_some(())
    })
    .await;
    cm.state().held.clear();
    for install in installs {
        install.await.unwrap().unwrap();
    }
    let requests = cm.state().requests.clone();
    let mut digests: Vec<_> = requests.iter().map(|(digest, _)| digest).collect();
    digests.sort_unstable();
    digests.dedup();
    assert_eq!(digests.len(), requests.len(), "{requests:?}");
    assert_eq!(manager.contents()["layers/sha256"], 3);
}

// REL-07, ARC-23
#[tokio::test]
async fn wrong_bytes_are_refused_leave_nothing_and_are_asked_for_again() {
    let (folder, cm) = (folder(), Cm::start().await);
    let service = cm.service(&[tar(&[("a", b"A")])]);
    let manager = Manager::open(folder.path(), &cm, RETENTION);
    for (wrong, before) in [(service.manifest, 0), (service.config, 2), (service.packed[0], 3)] {
        let mut bytes = cm.state().blobs.get(&wrong.to_string()).cloned().unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        cm.state().wrong.insert(wrong.to_string(), bytes);
        let error = manager.install("item", "1.0.0", service.manifest).await.unwrap_err();
        assert_eq!(error.info().code(), aos_status::AosCode::InvalidChecksum, "{error}");
        cm.state().wrong.clear();
        assert!(manager.contents()["blobs/sha256"] <= before, "{:?}", manager.contents());
        assert_eq!((manager.contents()["layers/sha256"], manager.contents()["tmp"]), (0, 0));
        assert!(!blob_path(&manager.folder, &wrong).exists());
        assert!(manager.versions().await.is_empty());
    }
    manager.install("item", "1.0.0", service.manifest).await.unwrap();
    assert_eq!(cm.requests(&service.packed[0]), 2);
}

// The reference divides by the sum of sizes in the listing; here there is none.
#[tokio::test]
async fn a_layer_without_a_single_byte_is_a_layer() {
    let (folder, cm) = (folder(), Cm::start().await);
    let service = cm.service(&[tar(&[("d/", b""), ("empty", b"")])]);
    let manager = Manager::open(folder.path(), &cm, RETENTION);
    manager.install("item", "1.0.0", service.manifest).await.unwrap();
    assert_eq!(fs::read_to_string(manager.layers().folder(&service.diff_ids[0]).join("size")).unwrap(), "0");
}

#[tokio::test]
async fn a_layer_that_is_not_what_its_diff_id_says_is_refused() {
    let (folder, cm) = (folder(), Cm::start().await);
    let service = cm.service(&[tar(&[("a", b"A")])]);
    let other = sha256(b"other").to_string();
    let text = |digest: &Digest| String::from_utf8(cm.state().blobs[&digest.to_string()].clone()).unwrap();
    let config = text(&service.config).replace(&service.diff_ids[0].to_string(), &other);
    let config = cm.put(config.as_bytes());
    let manifest = text(&service.manifest).replace(&service.config.to_string(), &config.to_string());
    let manifest = cm.put(manifest.as_bytes());
    let manager = Manager::open(folder.path(), &cm, RETENTION);
    let error = manager.install("item", "1.0.0", manifest).await.unwrap_err();
    assert_eq!(error.info().code(), aos_status::AosCode::InvalidChecksum, "{error}");
    assert_eq!((manager.contents()["layers/sha256"], manager.contents()["tmp"]), (0, 0));
}

// SM-73
#[tokio::test]
async fn a_layer_is_unpacked_on_over_broken_connections() {
    let (folder, cm) = (folder(), Cm::start().await);
    let service = cm.service(&[tar(&[("a", &noise(3, 200_000))])]);
    let packed = service.packed[0].to_string();
    cm.state().cuts.insert(packed.clone(), vec![50_000, 100_000]);
    let manager = Manager::open(folder.path(), &cm, RETENTION);
    let image = manager.install("item", "1.0.0", service.manifest).await.unwrap();
    assert_eq!(fs::read(image.layers[0].join("a")).unwrap(), noise(3, 200_000));
    let offsets: Vec<u64> =
        cm.state().requests.iter().filter(|(digest, _)| *digest == packed).map(|(_, start)| *start).collect();
    assert_eq!(offsets.len(), 3);
    assert!(offsets[0] == 0 && offsets[1] >= 50_000 && offsets[2] > offsets[1], "{offsets:?}");
}

#[tokio::test]
async fn what_is_not_wanted_any_more_is_not_fetched_on() {
    let (folder, cm) = (folder(), Cm::start().await);
    let service = cm.service(&[tar(&[("a", &noise(3, 200_000))])]);
    cm.state().held.insert(service.packed[0].to_string(), 20_000);
    let manager = Manager::open(folder.path(), &cm, RETENTION);
    let (images, manifest) = (manager.images.clone(), service.manifest);
    let install = tokio::spawn(async move { images.install("item".into(), "1.0.0".into(), manifest).await });
    wait_for("the layer to be half-way", || (manager.contents()["tmp"] == 1).then_some(())).await;
    install.abort();
    manager.wait_contents([3, 0, 0, 0]).await;
    // What only the given-up plan had asked for goes with the next cleaning.
    manager.use_only(&[]);
    manager.wait_contents([0, 0, 0, 0]).await;
    cm.state().held.clear();
    manager.install("item", "1.0.0", service.manifest).await.unwrap();
}

#[tokio::test]
async fn one_of_two_who_wait_may_leave() {
    let (folder, cm) = (folder(), Cm::start().await);
    let service = cm.service(&[tar(&[("a", &noise(3, 200_000))])]);
    cm.state().held.insert(service.packed[0].to_string(), 20_000);
    let manager = Manager::open(folder.path(), &cm, RETENTION);
    let install = |images: ImageManager| {
        let manifest = service.manifest;
        tokio::spawn(async move { images.install("item".into(), "1.0.0".into(), manifest).await })
    };
    let (leaves, stays) = (install(manager.images.clone()), install(manager.images.clone()));
    wait_for("the layer to be half-way", || (manager.contents()["tmp"] == 1).then_some(())).await;
    leaves.abort();
    let _ = leaves.await;
    cm.state().held.clear();
    stays.await.unwrap().unwrap();
    assert_eq!(cm.requests(&service.packed[0]), 1);
}

// SM-03: an update keeps the version before; what is shared stays.
#[tokio::test]
async fn unwanted_versions_go_when_their_time_is_over_and_shared_layers_stay() {
    let (folder, cm) = (folder(), Cm::start().await);
    let base = tar(&[("base", b"base")]);
    let versions: Vec<Published> =
        (0..3u8).map(|n| cm.service(&[base.clone(), tar(&[("v", &[n])])])).collect();
    let manager = Manager::open(folder.path(), &cm, RETENTION);
    for (number, version) in versions.iter().enumerate() {
        let name = format!("{number}.0.0");
        manager.install("item", &name, version.manifest).await.unwrap();
        manager.use_only(&[("item", &name)]);
    }
    // Three documents of two versions share one, two layers and the shared one, three marks.
    manager.wait_contents([8, 3, 0, 0]).await;
    let row = |version: &str, wanted| ("item".to_owned(), version.to_owned(), wanted);
    assert_eq!(manager.versions().await, [row("1.0.0", false), row("2.0.0", true)]);

    // Its time is over: as if it had been unwanted for an hour.
    let mut rows = manager.database.items().await.unwrap();
    let mut old = rows.remove(rows.iter().position(|row| row.version == "1.0.0").unwrap());
    old.removed_at = old.removed_at.map(|at| at - 3601);
    manager.database.put_item(old).await.unwrap();
    manager.use_only(&[("item", "2.0.0")]);
    manager.wait_contents([5, 2, 0, 0]).await;
    assert_eq!(manager.versions().await, [row("2.0.0", true)]);

    // Wanted again, it is there again.
    manager.install("item", "1.0.0", versions[1].manifest).await.unwrap();
    assert_eq!(manager.versions().await, [row("1.0.0", true), row("2.0.0", true)]);
    assert_eq!(cm.requests(&versions[0].packed[0]), 1, "the shared layer stayed all the time");
}

#[tokio::test]
async fn an_index_leads_to_the_image_for_this_node() {
    let (folder, cm) = (folder(), Cm::start().await);
    let (ours, theirs) = (cm.service(&[tar(&[("ours", b"")])]), cm.service(&[tar(&[("theirs", b"")])]));
    let entry = |service: &Published, architecture: &str| {
        let size = cm.state().blobs[&service.manifest.to_string()].len();
        json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": service.manifest.to_string(),
               "size": size, "platform": {"architecture": architecture, "os": "linux"}})
    };
    let here = std::env::consts::ARCH;
    let index = json!({"schemaVersion": 2, "manifests": [entry(&theirs, "s390x"), entry(&ours, here)]});
    let index = cm.put(&serde_json::to_vec(&index).unwrap());
    let foreign =
        json!({"schemaVersion": 2, "manifests": [entry(&theirs, "s390x"), entry(&theirs, "riscv64")]});
    let foreign = cm.put(&serde_json::to_vec(&foreign).unwrap());
    let manager = Manager::open(folder.path(), &cm, RETENTION);
    let image = manager.install("item", "1.0.0", index).await.unwrap();
    assert!(image.layers[0].join("ours").exists());
    assert!(manager.images.present(&index).is_some());
    let error = manager.install("other", "1.0.0", foreign).await.unwrap_err();
    assert!(error.to_string().contains("no image for"), "{error}");
    manager.use_only(&[("item", "1.0.0")]);
    // Index, manifest, two configurations, mark.
    manager.wait_contents([5, 1, 0, 0]).await;
}

fn component(cm: &Cm, content: &[u8]) -> (Digest, Digest) {
    let blob = cm.put(content);
    let empty = cm.put(b"{}").to_string();
    let manifest = json!({"schemaVersion": 2,
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": empty, "size": 2},
        "layers": [{"mediaType": "application/vnd.aos.image.component.full.v1+squashfs",
                    "digest": blob.to_string(), "size": content.len()}]});
    (cm.put(&serde_json::to_vec(&manifest).unwrap()), blob)
}

// A raw blob is kept while it comes, so a restart goes on with it.
#[tokio::test]
async fn the_blobs_of_a_component_stay_raw_and_are_resumed_after_a_restart() {
    let (folder, cm) = (folder(), Cm::start().await);
    let content = noise(5, 300_000);
    let (manifest, blob) = component(&cm, &content);
    cm.state().held.insert(blob.to_string(), 200_000);
    let manager = Manager::open(folder.path(), &cm, RETENTION);
    let images = manager.images.clone();
    let install = tokio::spawn(async move { images.install("boot".into(), "1.0.0".into(), manifest).await });
    let partial = manager.folder.join("partial").join(blob.hex());
    let length = || fs::metadata(&partial).map_or(0, |meta| meta.len());
    wait_for("a part", || (length() >= 150_000).then_some(())).await;
    manager.close().await;
    assert!(install.await.unwrap().is_err());
    cm.state().held.clear();

    let manager = Manager::open(folder.path(), &cm, RETENTION);
    let image = manager.install("boot", "1.0.0", manifest).await.unwrap();
    assert!(image.layers.is_empty());
    let expected = RawBlob {
        media_type: "application/vnd.aos.image.component.full.v1+squashfs".into(),
        path: blob_path(&manager.folder, &blob),
    };
    assert_eq!(image.blobs, [expected]);
    assert_eq!(fs::read(&image.blobs[0].path).unwrap(), content);
    let last = cm.state().requests.iter().rev().find(|(digest, _)| *digest == blob.to_string()).cloned();
    assert!(last.unwrap().1 >= 150_000);
    assert_eq!(manager.contents()["partial"], 0);
}

#[tokio::test]
async fn a_wrong_raw_blob_is_removed() {
    let (folder, cm) = (folder(), Cm::start().await);
    let content = noise(5, 30_000);
    let (manifest, blob) = component(&cm, &content);
    cm.state().wrong.insert(blob.to_string(), noise(6, 30_000));
    let manager = Manager::open(folder.path(), &cm, RETENTION);
    let error = manager.install("boot", "1.0.0", manifest).await.unwrap_err();
    assert_eq!(error.info().code(), aos_status::AosCode::InvalidChecksum, "{error}");
    assert_eq!((manager.contents()["partial"], manager.contents()["blobs/sha256"]), (0, 1));
}

// A repository as another program left it: complete layers are taken up, the rest is never misread.
#[tokio::test]
async fn a_foreign_repository_is_taken_up_or_fetched_anew() {
    let (folder, cm) = (folder(), Cm::start().await);
    let service = cm.service(&[tar(&[("a", b"A")]), tar(&[("b", b"B")]), tar(&[("c", b"C")])]);
    let images = folder.path().join("images");
    let blobs = images.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |digest: &Digest, content: &[u8]| fs::write(blobs.join(digest.hex()), content).unwrap();
    let content = |digest: &Digest| cm.state().blobs[&digest.to_string()].clone();
    put(&service.manifest, &content(&service.manifest));
    let list = format!("{}  a\n", sha256(b"A").hex());
    let layer = |id: &Digest| images.join("layers/sha256").join(id.hex());
    for id in &service.diff_ids[..2] {
        fs::create_dir_all(layer(id).join("layer")).unwrap();
        fs::write(layer(id).join("size"), "1").unwrap();
    }
    // The first is complete; the second was killed while it was unpacked, with the packed blob still there.
    fs::write(layer(&service.diff_ids[0]).join("layer/a"), "A").unwrap();
    fs::write(layer(&service.diff_ids[0]).join("digest"), sha256(list.as_bytes()).to_string()).unwrap();
    put(&service.packed[0], service.diff_ids[0].to_string().as_bytes());
    fs::write(layer(&service.diff_ids[1]).join("layer/half"), "?").unwrap();
    put(&service.packed[1], &content(&service.packed[1]));
    // Of the third there is a torn blob.
    put(&service.packed[2], b"torn");

    let manager = Manager::open(folder.path(), &cm, RETENTION);
    let image = manager.install("item", "1.0.0", service.manifest).await.unwrap();
    let requests: Vec<usize> = service.packed.iter().map(|packed| cm.requests(packed)).collect();
    assert_eq!(requests, [0, 1, 1]);
    assert_eq!(cm.requests(&service.manifest), 0);
    for (tree, (name, text)) in image.layers.iter().zip([("a", "A"), ("b", "B"), ("c", "C")]) {
        let names: Vec<_> = fs::read_dir(tree).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(names, [name]);
        assert_eq!(fs::read_to_string(tree.join(name)).unwrap(), text);
    }
    for (packed, id) in service.packed.iter().zip(&service.diff_ids) {
        assert_eq!(fs::read_to_string(blobs.join(packed.hex())).unwrap(), id.to_string());
    }
}

#[tokio::test]
async fn without_cm_a_missing_blob_is_a_passing_failure() {
    let (folder, cm) = (folder(), Cm::start().await);
    cm.disconnect();
    let manager = Manager::open(folder.path(), &cm, RETENTION);
    let error = manager.install("item", "1.0.0", sha256(b"any")).await.unwrap_err();
    assert!(error.is_passing(), "{error}");
}

#[test]
fn manifests_without_layers_or_configuration_are_refused() {
    let digest = |letter: u8| Digest::from_sha256([letter; 32]);
    let config = format!(r#""config":{{"mediaType":"c","digest":"{}","size":1}}"#, digest(1));
    let layer = |kind: &str| format!(r#"{{"mediaType":"{kind}","digest":"{}","size":1}}"#, digest(4));
    let (service, part) = (
        layer("application/vnd.oci.image.layer.v1.tar"),
        layer("application/vnd.aos.image.component.full.v1+gzip"),
    );
    for text in [
        "{".to_owned(),
        format!(r#"{{"schemaVersion":2,{config},"layers":[]}}"#),
        format!(r#"{{"schemaVersion":2,{config},"layers":[{service}]}}"#),
        format!(
            r#"{{"schemaVersion":2,{config},"aosItemConfig":{{"digest":"{}","size":1}},"layers":[{service},{part}]}}"#,
            digest(2)
        ),
    ] {
        assert!(parse_manifest(text.as_bytes(), &digest(3)).is_err(), "{text}");
    }
}

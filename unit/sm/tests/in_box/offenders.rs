//! Services and images that mean harm, as the operator sees them: each is told about with its reason, and the
//! others go on. How they are held is tried with the container runtime alone (`containers/hostile.rs`) and with
//! layers alone (`base/image-layers`).

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tar::EntryType;

use crate::cm::wait_for;
use crate::image::{Image, Tar, base_layer, digest, lone_user, wish};
use crate::running::{HTTP, get};
use crate::sm::Sm;
use crate::tests::with_tmp;
use crate::watch::{alerts, wait_alert};

// REL-33, SM-66: limits that are met are alerts while the service goes on, and the reason when it does not.
pub async fn hostile_services_are_told_about_and_others_go_on() {
    let sm = Sm::start_with("crun", |config| {
        config["monitoring"] = json!({"pollPeriod": "1s", "averageWindow": "2s"});
    })
    .await;
    let limited = |name: &str, limit: u64| {
        let mut item = with_tmp();
        item["quotas"][name] = json!(limit);
        item["runParameters"] = json!({"startInterval": "1h", "startBurst": 1});
        item
    };
    let services: [(&str, &str, Value, &str); 5] = [
        (
            "forks",
            "(while :; do /bin/busybox sleep 1000 & done) & exec /bin/busybox sleep 1000",
            limited("pidsLimit", 16),
            "its limit of 16 processes is reached",
        ),
        (
            "memory",
            "while :; do /bin/busybox dd if=/dev/zero of=/dev/null bs=100M count=1; /bin/busybox sleep 0.2; done",
            limited("ramLimit", 33_554_432),
            "its limit of memory is reached",
        ),
        (
            "disk",
            "/bin/busybox dd if=/dev/zero of=/tmp/f bs=64k; exec /bin/busybox sleep 1000",
            with_tmp(),
            "its /tmp is full: 1048576 bytes",
        ),
        (
            "files",
            "i=0; while [ $i -lt 60 ]; do echo > /tmp/x$i; i=$((i+1)); done; exec /bin/busybox tail -f /tmp/x*",
            limited("noFileLimit", 32),
            "its limit of open files is reached",
        ),
        (
            "lines",
            "exec /bin/busybox yes 'many words about nothing at all'",
            with_tmp(),
            "writes its log too fast",
        ),
    ];
    let quiet = sm.blobs.simple(&HTTP.replace("mkdir", "/bin/busybox mkdir"), with_tmp());
    let mut wishes = vec![wish(9, "1.0.0", &quiet, &sm.runtime)];
    for (number, (_, script, item, _)) in (0..).zip(&services) {
        let image = sm.blobs.simple(script, item.clone());
        let mut info = wish(number, "1.0.0", &image, &sm.runtime);
        // Limits of processes are limits of users, too.
        info.uid = lone_user() + u32::try_from(number).unwrap();
        wishes.push(info);
    }
    let script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do /bin/busybox sleep 1000 & done; wait";
    let ends = sm.blobs.simple(script, limited("pidsLimit", 8));
    let mut info = wish(7, "1.0.0", &ends, &sm.runtime);
    info.uid = lone_user() + 7;
    wishes.push(info);
    sm.cm.update(wishes, vec![]).await;
    sm.cm.wait_state(9, "active").await;
    let before = sm.instance(9).await;
    let ip = before["ip"].as_str().unwrap().to_owned();
    wait_for("the quiet one", || get(&ip)).await;

    for (number, (name, _, _, words)) in (0..).zip(&services) {
        let told = wait_alert(&sm, words).await;
        assert!(told.starts_with(&format!("instance {number} 1.0.0 ")), "{name}: {told}");
        assert_eq!(sm.instance(number).await["state"], "active", "{name} goes on");
    }
    let error = sm.cm.wait_state(7, "failed").await.error.unwrap();
    assert!(error.message.contains("it had reached its limit of processes"), "{}", error.message);
    wait_alert(&sm, "it had reached its limit of processes").await;
    // Limits are met again and again, and told once.
    for (_, _, _, words) in services.iter().filter(|(name, ..)| *name != "lines") {
        assert_eq!(alerts(&sm).iter().filter(|alert| alert.contains(words)).count(), 1, "{words}");
    }
    let after = sm.instance(9).await;
    assert_eq!((&after["pid"], &after["starts"]), (&before["pid"], &before["starts"]));
    assert!(get(&ip).is_some(), "the quiet one answers all the time");
}

/// A tar of one entry whose header says what it likes.
fn entry(kind: EntryType, name: &str, link: &str, size: u64) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(size);
    let fields = header.as_old_mut();
    fields.name[..name.len()].copy_from_slice(name.as_bytes());
    fields.linkname[..link.len()].copy_from_slice(link.as_bytes());
    if kind == EntryType::Char {
        header.set_device_major(1).unwrap();
        header.set_device_minor(1).unwrap();
    }
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

/// The image with another diff ID for its second layer.
fn mislabelled(sm: &Sm, image: &Image) -> Image {
    let read = |digest: &str| -> Value {
        serde_json::from_slice(&fs::read(sm.blobs.path(digest)).unwrap()).unwrap()
    };
    let mut manifest = read(&image.manifest);
    let mut config = read(manifest["config"]["digest"].as_str().unwrap());
    config["rootfs"]["diff_ids"][1] = json!(digest(b"something else"));
    let text = config.to_string();
    manifest["config"]["digest"] = json!(sm.blobs.put(text.as_bytes()));
    manifest["config"]["size"] = json!(text.len());
    Image { manifest: sm.blobs.put(manifest.to_string().as_bytes()), layers: image.layers.clone() }
}

// REL-33: nothing of a hostile layer gets anywhere, and each is a failed instance with a reason.
pub async fn hostile_images_fail_with_a_reason() {
    let sm = Sm::start("crun").await;
    let script = "exec /bin/busybox sleep 1000";
    let good = sm.blobs.simple(script, with_tmp());
    sm.cm.update(vec![wish(99, "1.0.0", &good, &sm.runtime)], vec![]).await;
    sm.cm.wait_state(99, "active").await;
    let before = sm.instance(99).await;

    let mark = sm.folder.path().join("escaped");
    let mark_text = mark.to_str().unwrap();
    let through = {
        let mut bytes = entry(EntryType::Symlink, "way", sm.folder.path().to_str().unwrap(), 0);
        bytes.truncate(512);
        bytes.extend(Tar::new().file("way/escaped", b"x", 0o644).done());
        bytes
    };
    let layers: [(&str, Vec<u8>); 6] = [
        ("climbing name", entry(EntryType::Regular, "../../../../escaped", "", 0)),
        ("absolute name", entry(EntryType::Regular, mark_text, "", 0)),
        ("device", entry(EntryType::Char, "data/mem", "", 0)),
        ("hard link", entry(EntryType::Link, "data/passwd", "../../../../../../../../etc/passwd", 0)),
        ("way through a link", through),
        ("absurd size", entry(EntryType::Regular, "data/large", "", 1 << 60)),
    ];
    let mut images: Vec<(&str, Image)> = layers
        .into_iter()
        .map(|(name, layer)| (name, sm.blobs.image(&[base_layer(), layer], script, with_tmp())))
        .collect();
    let other = Tar::new().file("data/new", b"new", 0o644).done();
    let plain = sm.blobs.image(&[base_layer(), other], script, with_tmp());
    images.push(("wrong diff ID", mislabelled(&sm, &plain)));
    let wishes = (0..).zip(&images).map(|(number, (_, image))| wish(number, "1.0.0", image, &sm.runtime));
    sm.cm.update(wishes.collect(), vec![]).await;
    for (number, (name, image)) in (0u64..).zip(&images) {
        let error = sm.cm.wait_state(number, "failed").await.error.unwrap();
        let named = error.message.contains(image.layers[1].trim_start_matches("sha256:"))
            || error.message.contains("layer");
        assert!(error.aos_code != 0 && named, "{name}: {error:?}");
        wait_alert(&sm, &format!("instance {number} 1.0.0 ")).await;
        eprintln!("{name}: {}", error.message);
    }
    assert!(!mark.exists() && !Path::new("/escaped").exists());
    let images = sm.folder.path().join("work/images");
    assert_eq!(fs::read_dir(images.join("layers/sha256")).unwrap().count(), 1, "only the good layer is here");
    assert_eq!(fs::read_dir(images.join("tmp")).unwrap().count(), 0);
    assert_eq!(sm.instance(99).await["pid"], before["pid"]);
}

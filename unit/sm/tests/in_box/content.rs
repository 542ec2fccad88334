//! Layers and blobs: wrong, missing, on top of each other.

use std::fs;

use crate::cm::wait_for;
use crate::image::{Tar, base_layer, wish};
use crate::sm::Sm;
use crate::tests::with_tmp;

pub async fn a_blob_with_a_wrong_digest_is_never_installed() {
    let sm = Sm::start("crun").await;
    let good = sm.blobs.simple("exec /bin/busybox sleep 1000", with_tmp());
    sm.cm.update(vec![wish(0, "1.0.0", &good, &sm.runtime)], vec![]).await;
    sm.cm.wait_state(0, "active").await;
    let pid = sm.instance(0).await["pid"].clone();
    let extra = Tar::new().file("data/new", b"new", 0o644).done();
    let bad = sm.blobs.image(&[base_layer(), extra], "exec /bin/busybox sleep 2000", with_tmp());
    let path = sm.blobs.path(&bad.layers[1]);
    let mut content = fs::read(&path).unwrap();
    content[600] ^= 1;
    fs::write(&path, content).unwrap();
    sm.cm.update(vec![wish(0, "2.0.0", &bad, &sm.runtime)], vec![]).await;
    let status = sm.cm.wait_state(0, "failed").await;
    assert_eq!(status.version, "2.0.0");
    let error = status.error.unwrap();
    assert_eq!(error.aos_code, 10, "{}", error.message);
    assert_eq!(sm.instance(0).await["pid"], pid, "the running version stays");
    let layers = fs::read_dir(sm.folder.path().join("work/images/layers/sha256")).unwrap().count();
    assert_eq!(layers, 1);
    assert_eq!(fs::read_dir(sm.folder.path().join("work/images/tmp")).unwrap().count(), 0);
    // And back: the old version has run all the time.
    sm.cm.update(vec![wish(0, "1.0.0", &good, &sm.runtime)], vec![]).await;
    sm.cm.wait_status(0, |status| status.version == "1.0.0" && status.state == "active").await;
    assert_eq!(sm.instance(0).await["pid"], pid);
}

// SM-72, SM-73
pub async fn a_missing_layer_is_reported_and_fetched_when_it_is_there() {
    let sm = Sm::start("crun").await;
    let image = sm.blobs.simple("exec /bin/busybox sleep 1000", with_tmp());
    sm.cm.hide(&image.layers[0]);
    sm.cm.update(vec![wish(0, "1.0.0", &image, &sm.runtime)], vec![]).await;
    sm.cm.wait_state(0, "failed").await;
    sm.cm.show(&image.layers[0]);
    sm.cm.update(vec![wish(0, "1.0.0", &image, &sm.runtime)], vec![]).await;
    sm.cm.wait_state(0, "active").await;
    assert_eq!(sm.cm.count(&format!("blob {}", image.manifest)), 1, "what is here is not fetched again");
}

pub async fn layers_are_stacked_in_order_with_whiteouts() {
    let sm = Sm::start("crun").await;
    let low = Tar::new()
        .file("data/both", b"low", 0o644)
        .file("data/gone", b"x", 0o644)
        .dir("data/sub")
        .file("data/sub/a", b"a", 0o644)
        .done();
    let high = Tar::new()
        .file("data/both", b"high", 0o644)
        .file("data/.wh.gone", b"", 0o644)
        .dir("data/sub")
        .file("data/sub/.wh..wh..opq", b"", 0o644)
        .file("data/sub/b", b"b", 0o644)
        .done();
    let script = "cd /data; b=/bin/busybox; echo both=$($b cat both); echo all=$($b find . -type f | $b sort); exec $b sleep 1000";
    let image = sm.blobs.image(&[base_layer(), low, high], script, with_tmp());
    sm.cm.update(vec![wish(0, "1.0.0", &image, &sm.runtime)], vec![]).await;
    sm.cm.wait_state(0, "active").await;
    let id = sm.instance(0).await["id"].as_str().unwrap().to_owned();
    let log = wait_for("the output", || Some(sm.log(&id)).filter(|log| log.contains("all="))).await;
    assert_eq!(log, "both=high\nall=./both ./sub/b\n");
}

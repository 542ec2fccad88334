//! The alerts flow: what goes wrong on the Unit is told, kept and shown.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

mod common;

use std::fs;
use std::path::Path;

use aos_testbed::HttpService;
use common::{ITEM, LIMIT, Scene, UNIT, Way};
use serde_json::Value;

fn largest_blob(dir: &Path) -> std::path::PathBuf {
    let files = fs::read_dir(dir.join("cloud/blobs")).unwrap().map(|entry| entry.unwrap().path());
    files.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
}

fn alerts_with(page: &Value, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
    let items = page["items"].as_array().cloned().unwrap_or_default();
    items.into_iter().filter(|entry| wanted(&entry["alert"])).collect()
}

// REL-15, DIS-24
#[test]
fn a_download_that_fails_raises_alerts_that_the_operator_sees() {
    let mut scene = Scene::online("e2e-alerts");
    let dir = scene.stage.site.dir().to_path_buf();
    HttpService::new(&dir.join(ITEM), ITEM, "never seen")
        .unwrap()
        .publish(&scene.stage.operator, "1.0.0")
        .unwrap();
    // The layer is by far the largest file; with its end gone it can never be complete.
    let layer = largest_blob(&dir);
    let bytes = fs::read(&layer).unwrap();
    fs::write(&layer, &bytes[..bytes.len() / 2]).unwrap();
    scene.stage.operator.run(&["assign", UNIT, ITEM]).unwrap();

    let path = format!("units/{UNIT}/alerts/");
    let broken = |alert: &Value| alert["tag"] == "downloadProgressAlert" && alert["state"] == "interrupted";
    let page = scene.wait_document("the alert", &path, |page| !alerts_with(page, broken).is_empty());
    let alert = &alerts_with(&page, broken)[0];
    assert!(alert["id"].is_i64() && alert["received_at"].is_string(), "{alert}");
    assert!(alert["alert"]["digest"].as_str().unwrap().starts_with("sha256:"), "{alert}");
    let told = alert["alert"]["reason"].is_string() || alert["alert"]["errorInfo"].is_object();
    assert!(told, "it says why: {alert}");
    let frame = scene.wait_frame(0, Way::Out, "alerts", |_| true);
    scene.wait_acked(&frame);
    for item in frame.data()["items"].as_array().unwrap() {
        assert!(item["timestamp"].is_string() && item["tag"].is_string(), "{item}");
    }

    let table = scene.run(&["alerts", UNIT]);
    assert!(table.contains("downloadProgress") && table.contains("interrupted"), "{table}");

    // The blob is whole again: the same item arrives, and the end of the download is told too.
    fs::write(&layer, &bytes).unwrap();
    scene.stage.wait_active(ITEM, "1.0.0", LIMIT * 2).unwrap();
    let finished = |alert: &Value| alert["tag"] == "downloadProgressAlert" && alert["state"] == "finished";
    scene.wait_document("the good end", &path, |page| !alerts_with(page, finished).is_empty());
    // Newer than a known one only.
    let last = alert["id"].as_i64().unwrap();
    let later = scene.stage.operator.get(&format!("{path}?after={last}")).unwrap();
    assert!(later["items"].as_array().unwrap().iter().all(|entry| entry["id"].as_i64().unwrap() > last));
}

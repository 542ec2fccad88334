//! The monitoring flow: samples of node and instance reach the cloud and are shown.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

mod common;

use common::{Scene, UNIT, Way};
use serde_json::Value;

// REL-15
#[test]
fn samples_of_the_node_reach_the_cloud_again_and_again() {
    let scene = Scene::online("e2e-monitoring");
    let sampled = |frame: &common::Frame| frame.data()["nodes"][0]["items"][0].is_object();
    let first = scene.wait_frame(0, Way::Out, "monitoringData", sampled);
    scene.wait_acked(&first);
    let node = &first.data()["nodes"][0];
    assert_eq!(node["node"]["codename"], "main");
    let sample = &node["items"][0];
    assert!(sample["ram"].as_u64().unwrap() > 0, "{sample}");
    assert!(sample["cpu"].as_u64().unwrap() <= 10_000, "in DMIPS of the node: {sample}");
    scene.wait_frame(0, Way::Out, "monitoringData", |frame| frame.txn() != first.txn() && sampled(frame));

    let shown = scene.wait_document("the samples", &format!("units/{UNIT}/monitoring/"), |page| {
        page["items"].as_array().is_some_and(|items| items.len() >= 3)
    });
    let items = shown["items"].as_array().unwrap();
    assert_eq!(items[0]["monitoring"]["nodes"][0]["node"]["codename"], "main", "{shown}");
    // Reading on from an entry gives only later ones, oldest first.
    let after = items[0]["id"].as_i64().unwrap();
    let later = scene.stage.operator.get(&format!("units/{UNIT}/monitoring/?after={after}&limit=1")).unwrap();
    let ids: Vec<i64> =
        later["items"].as_array().unwrap().iter().filter_map(|one| one["id"].as_i64()).collect();
    assert_eq!(ids.len(), 1);
    assert!(ids[0] > after);
    let table = scene.run(&["monitoring", UNIT]);
    assert!(table.contains("main") && table.contains("CPU"), "{table}");
    let nothing = scene.stage.operator.get(&format!("units/{UNIT}/monitoring/?after={}", i64::MAX)).unwrap();
    assert_eq!(nothing["items"], Value::Array(vec![]));
}

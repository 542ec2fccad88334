//! The monitoring flow: samples of node and instance reach the cloud and are shown.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

mod common;

use common::{ITEM, Scene, UNIT, Way};
use serde_json::{Value, json};

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

// SM-62, PRO-75, PRO-82, CLO-22, DIS-14, CM-29: what a real service uses reaches
// the cloud with its states, and the alert of its own rule.
#[test]
fn samples_and_quota_alerts_of_an_instance_reach_the_cloud() {
    let mut scene = Scene::online("e2e-instance-load");
    scene.service("1.0.0", "measured", |service| {
        service
            .set_config(&json!({
                "author": "tests", "hostname": ITEM, "baseLayerIsNodeRootfs": false,
                "runtimes": [{"codename": "crun"}, {"codename": "runc"}],
                "quotas": {"ramLimit": 64 << 20, "pidsLimit": 32, "noFileLimit": 256},
                "alertRules": {"ram": {"minTimeout": "1s", "minThreshold": 0, "maxThreshold": 0}},
            }))
            .unwrap();
    });
    let measured = |frame: &common::Frame| frame.data()["instances"][0]["items"][0].is_object();
    let frame = scene.wait_frame(0, Way::Out, "monitoringData", measured);
    let instance = &frame.data()["instances"][0];
    assert_eq!((&instance["instance"], &instance["node"]["codename"]), (&json!(0), &json!("main")));
    let sample = &instance["items"][0];
    assert!(sample["ram"].as_u64().unwrap() > 0 && sample["timestamp"].is_string(), "{sample}");
    let states = scene.sent(Way::Out, "monitoringData").into_iter().any(|frame| {
        let states = frame.data()["instances"][0]["itemStates"].as_array().cloned().unwrap_or_default();
        states.iter().any(|one| one["state"] == "active")
    });
    assert!(states, "its states are told beside its samples");
    scene.wait_document("the alert", &format!("units/{UNIT}/alerts/"), |page| {
        let items = page["items"].as_array().cloned().unwrap_or_default();
        items.iter().any(|entry| {
            let alert = &entry["alert"];
            alert["tag"] == "instanceQuotaAlert" && alert["parameter"] == "ram" && alert["value"].is_u64()
        })
    });
    let table = scene.run(&["alerts", UNIT]);
    assert!(table.contains("instanceQuota"), "{table}");
}

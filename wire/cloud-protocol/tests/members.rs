//! Every member of the big documents is known: what a peer says in the usual form is read into the types and
//! written again without a loss. A member that the types did not have would be missing in the copy.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

mod support;

use aos_cloud_protocol::{Envelope, write};
use serde_json::{Value, json};
use support::frames::body;

const AT: &str = "2026-03-04T08:02:10.000000Z";

/// Reads `data` and writes it again; nothing may be missing or changed.
#[track_caller]
fn survives(data: &Value) {
    let envelope = Envelope::new("unit-1".parse().unwrap(), jiff::Timestamp::UNIX_EPOCH, body(data));
    let written: Value = serde_json::from_slice(&write(&envelope).unwrap()).unwrap();
    assert_eq!(written["data"], *data);
}

/// The same with each of `words` in the place of the text "?".
#[track_caller]
fn survives_with(data: &Value, words: &[&str]) {
    for word in words {
        survives(&serde_json::from_str(&data.to_string().replace("\"?\"", &format!("\"{word}\""))).unwrap());
    }
}

fn item(kind: &str) -> Value {
    json!({"id": "3f0c6a52-8d1e-4b7a-9c35-6e2f1d0a7b41", "type": kind})
}

fn subject() -> Value {
    json!({"id": "c5a9e1b3-7264-4d08-b1f6-90e8d3a2c714"})
}

fn node() -> Value {
    json!({"codename": "zone-main"})
}

// PRO-40
#[test]
fn desired_items() {
    let data = json!({"messageType": "desiredStatus", "items": [{
        "item": item("service"), "version": "2.2.0", "owner": {"id": "9d4b7c10-3e5f-4a82-a6d1-5b0f8e2c9371", "type": "?"},
        "indexDigest": "sha256:0b8340d96c816d945b9b983c6b0d6a1fe3aba2529978df9a117137ba6634564d",
    }]});
    survives_with(&data, &["sp", "oem"]);
}

// PRO-41, PRO-44
#[test]
fn desired_instances() {
    survives(&json!({"messageType": "desiredStatus", "instances": [{
        "item": item("service"), "subject": subject(), "priority": 100, "numInstances": 2, "labels": ["vision"],
    }]}));
}

// PRO-45
#[test]
fn desired_subjects() {
    let subject = json!({"identity": subject(), "type": "?", "isReportedFromUnit": true});
    survives_with(&json!({"messageType": "desiredStatus", "subjects": [subject]}), &["group", "user"]);
}

// PRO-49, PRO-50, PRO-51, PRO-52
#[test]
fn unit_configuration() {
    let percents = json!({"minThreshold": 75.0, "maxThreshold": 90.5, "minTimeout": 10});
    let points = json!({"minThreshold": 500_000, "maxThreshold": 1_000_000, "minTimeout": 10});
    let disk = json!({"name": "storages", "minThreshold": 80.0, "maxThreshold": 95.0, "minTimeout": 30});
    survives(
        &json!({"messageType": "desiredStatus", "unitConfig": {"version": "1.5.0", "formatVersion": "7", "nodes": [
            {
                "nodeGroupSubject": {"codename": "zonal-gateway"}, "node": node(),
                "alertRules": {"cpu": percents, "ram": percents, "partitions": [disk], "download": points, "upload": points},
                "resourceRatios": {"cpu": 50.0, "ram": 40.0, "storage": 60.0, "state": 10.0},
                "labels": ["front"], "priority": 10,
            },
            {"nodeGroupSubject": {"codename": "sensor-hub"}, "priority": 0},
        ]}}),
    );
}

// PRO-53, PRO-55, PRO-56, PRO-70
#[test]
fn status_of_configurations_and_subjects() {
    let error = json!({"aosCode": 9, "exitCode": 0, "message": "wrong version"});
    let data = json!({
        "messageType": "unitStatus", "isDeltaInfo": false,
        "unitConfig": [{"version": "1.4.0", "state": "?"}, {"version": "1.5.0", "state": "failed", "errorInfo": error}],
        "nodes": [], "items": [], "instances": [], "subjects": [{"codename": "driver-a"}],
    });
    survives_with(&data, &["absent", "installed", "failed"]);
    // All lists are optional.
    survives(&json!({"messageType": "unitStatus", "isDeltaInfo": true}));
}

// PRO-57, PRO-58, PRO-59, PRO-60, PRO-61, PRO-62, PRO-63
#[test]
fn status_of_nodes() {
    let os = json!({"os": "linux", "version": "6.6.21", "features": ["cgroupv2"]});
    let arch = json!({"architecture": "arm64", "variant": "v8"});
    let data = json!({"messageType": "unitStatus", "isDeltaInfo": false, "nodes": [{
        "identity": {"codename": "zone-main", "title": "Main zone"}, "nodeGroupSubject": {"codename": "gateway"},
        "maxDmips": 42000, "physicalRam": 4_294_967_296_u64, "totalRam": 6_442_450_944_u64, "osInfo": os,
        "cpus": [{"modelName": "A76", "totalNumCores": 4, "totalNumThreads": 4, "archInfo": arch, "maxDmips": 42000}],
        "attrs": {"MainNode": "", "dynamic": "true"},
        "partitions": [{"name": "storages", "types": ["storages"], "path": "/var/x", "totalSize": 8_589_934_592_u64}],
        "runtimes": [{
            "identity": {"codename": "crun-main"}, "runtimeType": "crun", "archInfo": arch, "osInfo": os,
            "maxDmips": 42000, "allowedDmips": 30000, "totalRam": 4096, "allowedRam": 2048, "maxInstances": 32,
        }],
        "resources": [{"name": "camera", "sharedCount": 1}],
        "isConnected": true, "state": "?", "errorInfo": {"aosCode": 7, "exitCode": 0, "message": "away"},
    }]});
    survives_with(&data, &["unprovisioned", "provisioned", "error", "paused"]);
}

// PRO-65
#[test]
fn status_of_items() {
    let data = json!({"messageType": "unitStatus", "isDeltaInfo": false,
        "items": [{"item": item("component"), "version": "5.0.3", "state": "?"}]});
    let words =
        ["unknown", "downloading", "pending", "installing", "installed", "removing", "removed", "failed"];
    survives_with(&data, &words);
}

// PRO-66, PRO-67, PRO-69
#[test]
fn status_of_instances() {
    let data = json!({"messageType": "unitStatus", "isDeltaInfo": false, "instances": [{
        "item": item("service"), "subject": subject(), "version": "2.1.0", "instances": [{
            "node": node(), "runtime": {"codename": "crun-main"}, "instance": 0, "state": "?",
            "errorInfo": {"aosCode": 5, "exitCode": 137, "message": "killed"},
        }],
    }]});
    survives_with(&data, &["activating", "active", "inactive", "failed"]);
}

// PRO-72, PRO-73, PRO-74, PRO-75, PRO-76, PRO-78, PRO-79, DIS-31
#[test]
fn alerts_of_all_kinds() {
    let digest = "sha256:0b8340d96c816d945b9b983c6b0d6a1fe3aba2529978df9a117137ba6634564d";
    let (item, subject, node) = (item("service"), subject(), node());
    survives(&json!({"messageType": "alerts", "items": [
        {"tag": "systemAlert", "timestamp": AT, "node": node, "message": "watchdog"},
        {"tag": "coreAlert", "timestamp": AT, "node": node, "coreComponent": "SM", "message": "lost"},
        {"tag": "systemQuotaAlert", "timestamp": AT, "node": node, "parameter": "cpu", "value": 40110},
        {"tag": "instanceQuotaAlert", "timestamp": AT, "item": item, "subject": subject, "instance": 1,
         "parameter": "ram", "value": 125_829_120},
        {"tag": "downloadProgressAlert", "timestamp": AT, "digest": digest, "url": "https://cdn.example/x",
         "downloadedBytes": 0, "totalBytes": 192, "state": "interrupted", "reason": "connection reset",
         "errorInfo": {"aosCode": 1, "exitCode": 0, "message": "failed"}},
        {"tag": "deviceAllocateAlert", "timestamp": AT, "item": item, "subject": subject, "instance": 0, "node": node,
         "deviceId": "camera", "message": "busy"},
        {"tag": "updateItemInstanceAlert", "timestamp": AT, "item": item, "subject": subject, "subjectId": subject,
         "instance": 1, "version": "2.1.0", "message": "exited"},
    ]}));
}

// PRO-81, PRO-82, PRO-83, PRO-84
#[test]
fn samples_of_nodes_and_instances() {
    let sample = json!({"timestamp": AT, "ram": 1_610_612_736, "cpu": 12750, "download": 18432, "upload": 4096,
        "partitions": [{"name": "storages", "usedSize": 734_003_200}]});
    let connected = json!({"timestamp": AT, "connected": true, "isConnected": true, "state": "provisioned"});
    survives(&json!({"messageType": "monitoringData",
        "nodes": [{"node": node(), "nodeStates": [connected], "items": [sample]}],
        "instances": [{"item": item("service"), "subject": subject(), "instance": 0, "node": node(),
            "itemStates": [{"timestamp": AT, "state": "active"}], "items": [sample]}],
    }));
}

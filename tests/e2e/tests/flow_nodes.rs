//! The nodes flow: pause and resume, and a second node that the cloud takes into the Unit and out of it again.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

mod common;

use std::fs;

use aos_testbed::{Daemon, Secondary, process};
use common::{LIMIT, Scene, UNIT, Way};
use serde_json::{Value, json};

fn node(scene: &Scene, id: &str) -> Value {
    let nodes = scene.json(&["unit", "nodes", UNIT]);
    let found = nodes["items"].as_array().unwrap().iter().find(|node| node["node_id"] == id).cloned();
    found.unwrap_or(Value::Null)
}

fn wait_node(scene: &Scene, id: &str, status: &str) -> Value {
    scene.until(&format!("node {id} to be {status}"), || {
        let node = node(scene, id);
        if node["status"] == status { Ok(node) } else { Err(node.to_string()) }
    })
}

fn pause_and_resume(scene: &mut Scene) {
    scene.deploy("1.0.0", "one");
    scene.run(&["node", "pause", UNIT, "main", "--wait"]);
    assert_eq!(node(scene, "main")["status"], "paused");
    let desired = scene.sent(Way::In, "desiredStatus").pop().unwrap();
    assert_eq!(
        desired.data()["nodes"],
        json!([{"item": {"codename": "main", "type": "node"}, "state": "paused"}])
    );
    scene
        .stage
        .wait_status("no instance on the paused node", LIMIT, |status| {
            let running = status["instances"].as_array().cloned().unwrap_or_default();
            let active = running.iter().filter(|one| one["state"] == "active").count();
            if active == 0 { Ok(()) } else { Err(format!("{running:?}")) }
        })
        .unwrap();
    scene.run(&["node", "resume", UNIT, "main", "--wait"]);
    assert_eq!(node(scene, "main")["status"], "provisioned");
    scene.active("1.0.0");
    let error = scene.refused(&["node", "pause", UNIT, "nowhere"]);
    assert!(error.contains("no such node"), "{error}");
}

/// A Unit configuration goes with the desired status until the Unit has it; a lower version is refused.
fn unit_config(scene: &mut Scene) {
    let file = scene.stage.site.dir().join("unit-config.json");
    let put = |version: &str, wait: bool| {
        let document = json!({
            "version": version,
            "formatVersion": "7",
            "nodes": [{"nodeGroupSubject": {"codename": "testbed-main"}, "labels": ["front"], "priority": 5}],
        });
        fs::write(&file, document.to_string()).unwrap();
        let path = file.display().to_string();
        let words = ["unit-config", "set", UNIT, &path, "--wait"];
        scene.stage.operator.run(if wait { &words } else { &words[..4] })
    };
    let shown = put("1.2.0", true).unwrap();
    assert!(shown.contains("1.2.0") && shown.contains("installed"), "{shown}");
    let error = put("1.1.0", true).unwrap_err().to_string();
    assert!(error.contains("not higher than 1.2.0"), "{error}");
    let shown = put("1.3.0", true).unwrap();
    assert!(shown.contains("1.3.0") && shown.contains("installed"), "{shown}");
    let error = put("one", false).unwrap_err().to_string();
    assert!(error.contains("version 'one'"), "{error}");
    let sent = scene.sent(Way::In, "desiredStatus").pop().unwrap();
    assert!(sent.data()["unitConfig"].is_null(), "what is installed is not sent again: {}", sent.json);
}

fn second_node(scene: &mut Scene) {
    let mut second = Secondary::new(&scene.stage.site, &scene.stage.unit, "second").unwrap();
    second.start(true).unwrap();
    let seen = scene.until("the Unit to tell of the second node", || {
        second.check_running().map_err(|error| error.to_string())?;
        let node = node(scene, "second");
        if node["status"] == "unprovisioned" { Ok(node) } else { Err(node.to_string()) }
    });
    assert_eq!(
        (&seen["is_main"], &seen["node_type"]),
        (&json!(false), &json!("testbed-secondary")),
        "{seen}"
    );

    let frames = scene.frames().len();
    scene.run(&["node", "provision", UNIT, "second", "--wait"]);
    let start = scene.wait_frame(frames, Way::In, "startProvisioningRequest", |_| true);
    let keys = scene.wait_frame(frames, Way::Out, "startProvisioningResponse", |_| true);
    let finish = scene.wait_frame(frames, Way::In, "finishProvisioningRequest", |_| true);
    let done = scene.wait_frame(frames, Way::Out, "finishProvisioningResponse", |_| true);
    for frame in [&start, &keys, &finish, &done] {
        scene.wait_acked(frame);
        assert_eq!(frame.correlation_id(), start.correlation_id(), "one exchange");
    }
    let types: Vec<&str> =
        keys.data()["csrs"].as_array().unwrap().iter().map(|one| one["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["iam", "sm"], "{}", keys.json);
    assert_eq!(wait_node(scene, "second", "provisioned")["task"]["state"], "done");
    let certificates = scene.stage.operator.get(&format!("units/{UNIT}/certificates/")).unwrap();
    let of_second =
        certificates["items"].as_array().unwrap().iter().filter(|one| one["node_id"] == "second").count();
    assert_eq!(of_second, 2, "the cloud knows what it issued: {certificates}");

    // As a provisioned node it comes back with its own certificate.
    second.stop().unwrap();
    second.start(false).unwrap();
    scene.until("the second node to be linked", || {
        second.check_running().map_err(|error| error.to_string())?;
        let node = node(scene, "second");
        let log = process::tail(&scene.stage.unit.log(Daemon::Iam), 5);
        if log.contains("node second is connected and provisioned") && node["status"] == "provisioned" {
            Ok(())
        } else {
            Err(format!("{node}\n{}", process::tail(&second.log(), 20)))
        }
    });

    // Provisioning it twice is refused by the Unit, with its reason, and breaks nothing.
    let error = scene.refused(&["node", "provision", UNIT, "second", "--wait"]);
    assert!(error.contains("failed") || error.contains("409"), "{error}");

    scene.run(&["node", "deprovision", UNIT, "second", "--wait"]);
    let request = scene.wait_frame(frames, Way::In, "deprovisioningRequest", |_| true);
    scene.wait_acked(&request);
    scene.wait_frame(frames, Way::Out, "deprovisioningResponse", |frame| {
        frame.data().get("errorInfo").is_none()
    });
    wait_node(scene, "second", "unprovisioned");
}

// REL-15
// CLO-17
#[test]
fn nodes_are_paused_resumed_provisioned_and_deprovisioned_over_the_cloud() {
    let mut scene = Scene::online("e2e-nodes");
    pause_and_resume(&mut scene);
    unit_config(&mut scene);
    second_node(&mut scene);

    // The main node holds the link itself: it cannot be taken away over it.
    let error = scene.refused(&["node", "deprovision", UNIT, "main", "--wait"]);
    assert!(error.contains("main"), "{error}");
    scene.active("1.0.0");
}

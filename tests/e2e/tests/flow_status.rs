//! The status flow: full on connect, deltas on change, full again after the link came back.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

mod common;

use std::process::Command;

use common::{ITEM, LIMIT, Scene, UNIT, Way};
use serde_json::json;

/// Statuses with `isDeltaInfo` as given that name the item's instance in this state.
fn reports(scene: &Scene, delta: bool, state: &str) -> usize {
    let statuses = scene.sent(Way::Out, "unitStatus");
    let matching = statuses.iter().filter(|frame| {
        let groups = frame.data()["instances"].as_array().cloned().unwrap_or_default();
        let states =
            groups.iter().flat_map(|group| group["instances"].as_array().cloned().unwrap_or_default());
        frame.data()["isDeltaInfo"] == json!(delta)
            && states.into_iter().any(|one| one["state"] == json!(state))
    });
    matching.count()
}

// REL-15
// PRO-02, PRO-118
// CM-23
#[test]
fn status_is_full_on_connect_then_deltas_and_full_again_after_a_cut() {
    let mut scene = Scene::online("e2e-status");
    let first = scene.wait_frame(0, Way::Out, "unitStatus", |_| true);
    assert_eq!(first.data()["isDeltaInfo"], json!(false));
    for list in ["unitConfig", "nodes", "items", "instances", "subjects"] {
        assert!(first.data()[list].is_array(), "a full status has {list}: {}", first.json);
    }
    scene.wait_acked(&first);

    scene.deploy("1.0.0", "one");
    scene.until("the full status after the update", || match reports(&scene, false, "active") {
        0 => Err("none".to_owned()),
        _ => Ok(()),
    });

    // The service dies and is started again: changes are told as deltas, which the cloud merges.
    let before = scene.frames().len();
    let pid = scene.stage.service_pid().unwrap();
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    let delta = scene.wait_frame(before, Way::Out, "unitStatus", |_| true);
    assert_eq!(delta.data()["isDeltaInfo"], json!(true), "{}", delta.json);
    assert!(delta.data().get("nodes").is_none(), "only what changed: {}", delta.json);
    scene.until("a delta with the new start", || match reports(&scene, true, "active") {
        0 => Err("none".to_owned()),
        _ => Ok(()),
    });
    scene.active("1.0.0");
    let status = scene.stage.status().unwrap();
    assert_eq!(status["nodes"].as_array().unwrap().len(), 1, "deltas leave the nodes: {status}");

    // While the link is cut the service goes; the cloud learns of it by the full status of the new session.
    let statuses = scene.sent(Way::Out, "unitStatus").len();
    let frames = scene.frames().len();
    scene.stage.unit.set_cloud_link(false);
    scene
        .stage
        .wait_status("the Unit to be offline", LIMIT, |status| {
            if status["online_status"] == "Offline" {
                Ok(())
            } else {
                Err(status["online_status"].to_string())
            }
        })
        .unwrap();
    let stale = scene.stage.status().unwrap();
    assert_eq!(stale["instances"].as_array().unwrap().len(), 1, "the last known status stays visible");
    scene.stage.operator.run(&["unassign", UNIT, ITEM]).unwrap();
    assert_eq!(scene.sent(Way::Out, "unitStatus").len(), statuses, "no status is queued while away");
    scene.stage.unit.set_cloud_link(true);
    scene.stage.wait_online(LIMIT).unwrap();
    let again = scene.wait_frame(frames, Way::Out, "unitStatus", |_| true);
    assert_eq!(again.data()["isDeltaInfo"], json!(false), "the first one after a reconnect is full");
    scene
        .stage
        .wait_status("the instance to be gone", LIMIT, |status| {
            let left = status["instances"].as_array().map_or(0, Vec::len);
            if left == 0 { Ok(()) } else { Err(status["instances"].to_string()) }
        })
        .unwrap();

    every_message_is_acknowledged_once(&scene);
}

/// Between our two ends nothing is repeated and nothing stays open on a link that is up.
fn every_message_is_acknowledged_once(scene: &Scene) {
    let open = |scene: &Scene| -> Vec<String> {
        let frames = scene.frames();
        let acked = |txn: &str, way: Way| {
            frames.iter().any(|frame| frame.kind() == "ack" && frame.way != way && frame.txn() == txn)
        };
        let asked = frames.iter().filter(|frame| !matches!(frame.kind(), "ack" | "nack"));
        let open = asked.filter(|frame| !acked(frame.txn(), frame.way));
        open.map(|frame| format!("{:?} {} {}", frame.way, frame.kind(), frame.txn())).collect()
    };
    scene.until("all acknowledgements", || {
        let open = open(scene);
        if open.is_empty() { Ok(()) } else { Err(format!("{open:?}")) }
    });
    let version = scene.frames().iter().all(|frame| frame.json["header"]["version"] == 7);
    assert!(version, "every message is of version 7");
}

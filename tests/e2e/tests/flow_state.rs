//! The state flow: what a service keeps as its state is kept by the cloud too, and can be given back or replaced.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{ITEM, LIMIT, Scene, UNIT, Way};
use serde_json::json;

fn state_file(dir: &Path) -> Option<PathBuf> {
    for entry in fs::read_dir(dir).ok()?.flatten() {
        let path = entry.path();
        let found =
            if path.is_dir() { state_file(&path) } else { path.ends_with("state.dat").then_some(path) };
        if found.is_some() {
            return found;
        }
    }
    None
}

fn kept(scene: &Scene) -> String {
    scene.stage.operator.run(&["state", "get", UNIT, ITEM]).unwrap_or_else(|error| error.to_string())
}

fn wait_kept(scene: &Scene, text: &str) {
    scene.until("the cloud to keep the state", || {
        let found = kept(scene);
        if found == text { Ok(()) } else { Err(found) }
    });
}

// REL-15
#[test]
fn a_state_is_kept_given_back_and_replaced() {
    let mut scene = Scene::online("e2e-state");
    scene.deploy_handles();

    // The service writes: the cloud accepts and keeps it.
    scene.ask("/cgi-bin/state?first");
    wait_kept(&scene, "first");
    let new = scene.wait_frame(0, Way::Out, "newState", |frame| frame.data()["state"] == "first");
    scene.wait_acked(&new);
    let verdict = scene.wait_frame(0, Way::In, "stateAcceptance", |frame| {
        frame.data()["checksum"] == new.data()["stateChecksum"]
    });
    scene.wait_acked(&verdict);
    assert_eq!(verdict.data()["result"], "accepted");
    assert_eq!(new.data()["stateChecksum"].as_str().unwrap().len(), 56, "SHA3-224");
    let list = scene.json(&["state", "list", UNIT]);
    assert_eq!(list["items"][0]["item"]["codename"], ITEM, "{list}");
    assert_eq!(list["items"][0]["size"], 5);

    // Away, the newest state waits and goes when the link is back.
    scene.stage.unit.set_cloud_link(false);
    scene.ask("/cgi-bin/state?second");
    scene.until("the service to see its own state", || {
        let text = scene.ask("/state.dat");
        if text == "second" { Ok(()) } else { Err(text) }
    });
    assert_eq!(kept(&scene), "first");
    scene.stage.unit.set_cloud_link(true);
    wait_kept(&scene, "second");

    // The operator gives another one: the service sees it, and no echo comes back as a new state.
    let file = scene.stage.site.dir().join("state");
    fs::write(&file, "from the operator").unwrap();
    let news = scene.sent(Way::Out, "newState").len();
    scene.run(&["state", "set", UNIT, ITEM, &file.display().to_string()]);
    let update =
        scene.wait_frame(0, Way::In, "updateState", |frame| frame.data()["state"] == "from the operator");
    scene.wait_acked(&update);
    scene.wait_answer("/state.dat", |text| text == "from the operator");
    wait_kept(&scene, "from the operator");
    assert_eq!(scene.sent(Way::Out, "newState").len(), news, "an update is not told back");

    // Lost while the item was away: with the instance its state comes back, on request.
    scene.run(&["unassign", UNIT, ITEM]);
    scene
        .stage
        .wait_status("the instance to be gone", LIMIT, |status| {
            let left = status["instances"].as_array().map_or(0, Vec::len);
            if left == 0 { Ok(()) } else { Err(status["instances"].to_string()) }
        })
        .unwrap();
    if let Some(path) = state_file(&scene.stage.unit.dir().join("states")) {
        fs::remove_file(path).unwrap();
    }
    let frames = scene.frames().len();
    scene.run(&["assign", UNIT, ITEM]);
    let request = scene.wait_frame(frames, Way::Out, "stateRequest", |_| true);
    scene.wait_acked(&request);
    assert_eq!(request.data()["default"], json!(false));
    scene.active("1.0.0");
    scene.wait_answer("/state.dat", |text| text == "from the operator");
    wait_kept(&scene, "from the operator");

    // Reset to empty.
    scene.run(&["state", "reset", UNIT, ITEM]);
    scene.wait_answer("/state.dat", str::is_empty);
    wait_kept(&scene, "");

    // What cannot be is refused where it is said.
    fs::write(&file, vec![b'x'; 65 * 1024]).unwrap();
    let error = scene.refused(&["state", "set", UNIT, ITEM, &file.display().to_string()]);
    assert!(error.contains("65536"), "{error}");
    fs::write(&file, [0xff, 0xfe]).unwrap();
    let error = scene.refused(&["state", "set", UNIT, ITEM, &file.display().to_string()]);
    assert!(error.contains("UTF-8"), "{error}");
    assert!(scene.refused(&["state", "get", UNIT, ITEM, "--instance", "9"]).contains("404"));
}

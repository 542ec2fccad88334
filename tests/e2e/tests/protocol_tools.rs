//! The support tools on a live link: what Unit and cloud say is recorded, is strict, and can be told afterwards.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

mod common;

use std::fs;

use common::{ITEM, Scene, UNIT, Way};
use serde_json::Value;

fn lines(path: &std::path::Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The messages of a timeline that did not take effect or were never acknowledged, but for those at its very end.
fn suspicious(timeline: &Value) -> Vec<&Value> {
    let messages = timeline["messages"].as_array().unwrap();
    let end = messages.iter().filter_map(|message| message["atMs"].as_u64()).max().unwrap();
    let bad = |message: &&Value| {
        let late = message["atMs"].as_u64().unwrap() + 2000 > end;
        message["effect"] == "none" || (message["acknowledged"] == false && !late)
    };
    messages.iter().filter(bad).collect()
}

// REL-26
#[test]
fn a_live_link_is_recorded_checked_and_told() {
    let mut scene = Scene::online("e2e-tools");
    scene.deploy_handles();
    let recording = scene.stage.site.dir().join("recording");
    let file = recording.display().to_string();

    std::thread::scope(|threads| {
        let record = threads.spawn(|| scene.run(&["protocol", "record", UNIT, "--for", "8s", "-O", &file]));
        scene.until("the recording to begin", || {
            let path = format!("units/{UNIT}/messages/");
            scene.stage.operator.get(&path).map(|_| ()).map_err(|error| error.to_string())
        });
        scene.run(&["env", "set", UNIT, "LEVEL=recorded", "--item", ITEM]);
        scene.wait_answer("/cgi-bin/env", |text| text.contains("LEVEL=recorded"));
        record.join().unwrap();
    });
    let seen = lines(&recording);
    let find = |from: &str, kind: &str| {
        let found =
            seen.iter().find(|line| line["from"] == from && line["frame"]["data"]["messageType"] == kind);
        found.unwrap_or_else(|| panic!("no {kind} from the {from}: {seen:#?}"))
    };
    let set = &find("cloud", "overrideEnvVars")["frame"];
    let told = &find("unit", "overrideEnvVarsStatus")["frame"];
    assert_eq!(set["data"]["correlationId"], told["data"]["correlationId"]);
    assert!(seen.iter().all(|line| line["at"].is_string()), "{seen:#?}");

    // Whatever our ends write is strict and within the limits of upstream Units: the exit status says so.
    scene.run(&["protocol", "check", &file]);
    let timeline = scene.json(&["protocol", "replay", &file]);
    assert!(suspicious(&timeline).is_empty(), "{timeline:#}");
    let messages = timeline["messages"].as_array().unwrap();
    let set = messages.iter().find(|message| message["txn"] == set["header"]["txn"]).unwrap();
    assert!(set["latencyMs"].as_u64().is_some_and(|latency| latency < 5000), "{set}");

    // The same for all that the Unit said and heard since it was started, from its own log.
    let log = scene.stage.site.dir().join("messages-of-the-unit");
    let text: String = scene
        .frames()
        .iter()
        .flat_map(|frame| {
            let way = if frame.way == Way::Out { "TX: " } else { "RX: " };
            [way.to_owned(), frame.json.to_string(), "\n".to_owned()]
        })
        .collect();
    fs::write(&log, text).unwrap();
    let log = log.display().to_string();
    scene.run(&["protocol", "check", &log]);
    scene.run(&["protocol", "record", "--from-log", &log, "-O", &file]);
    let timeline = scene.json(&["protocol", "replay", &file]);
    assert!(suspicious(&timeline).is_empty(), "{timeline:#}");
    assert!(messages.len() < timeline["messages"].as_array().unwrap().len());
}

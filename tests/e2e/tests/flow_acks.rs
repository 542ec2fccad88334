//! Acknowledgements under trouble: what was accepted takes effect once, whatever happens to link and cloud.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use aos_testbed::Daemon;
use common::{Frame, ITEM, LIMIT, Scene, UNIT, Way};

/// Kinds of the Unit that must not be lost.
const DURABLE: [&str; 2] = ["newState", "overrideEnvVarsStatus"];

fn kept(scene: &Scene) -> String {
    scene.stage.operator.run(&["state", "get", UNIT, ITEM]).unwrap_or_else(|error| error.to_string())
}

fn wait_kept(scene: &Scene, text: &str) {
    scene.until("the cloud to keep the state", || {
        let found = kept(scene);
        if found == text { Ok(()) } else { Err(found) }
    });
}

/// Each message of these kinds by txn, with the number of its copies; copies are equal.
fn copies(frames: &[Frame], way: Way, kinds: &[&str]) -> BTreeMap<String, usize> {
    let mut first: BTreeMap<String, String> = BTreeMap::new();
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    for frame in frames.iter().filter(|frame| frame.way == way && kinds.contains(&frame.kind())) {
        *found.entry(frame.txn().to_owned()).or_default() += 1;
        let known = first.entry(frame.txn().to_owned()).or_insert_with(|| frame.data().to_string());
        assert_eq!(*known, frame.data().to_string(), "a repeated message is the same message");
    }
    found
}

fn acked(frames: &[Frame], way: Way) -> BTreeSet<String> {
    let acks = frames.iter().filter(|frame| frame.way != way && frame.kind() == "ack");
    acks.map(|frame| frame.txn().to_owned()).collect()
}

// REL-15
// REL-16
#[test]
fn nothing_accepted_is_lost_or_done_twice_through_cuts_and_kills() {
    let mut scene = Scene::online("e2e-acks");
    scene.deploy_handles();
    let starts = scene.stage.service_starts().unwrap();

    // Cut while messages are on their way, in both directions.
    for round in 0..2 {
        scene.run(&["env", "set", UNIT, &format!("ROUND=cut{round}"), "--item", ITEM]);
        scene.ask(&format!("/cgi-bin/state?cut{round}"));
        scene.stage.unit.set_cloud_link(false);
        scene.ask("/cgi-bin/env");
        scene.stage.unit.set_cloud_link(true);
        scene.wait_answer("/cgi-bin/env", |text| text.contains(&format!("ROUND=cut{round}")));
        wait_kept(&scene, &format!("cut{round}"));
    }

    // A Communication Manager that is killed takes both flows up from its disk.
    scene.run(&["env", "set", UNIT, "ROUND=killed-cm", "--item", ITEM]);
    scene.ask("/cgi-bin/state?killed-cm");
    scene.stage.unit.kill_9(Daemon::Cm).unwrap();
    scene.stage.unit.start(Daemon::Cm).unwrap();
    scene.wait_answer("/cgi-bin/env", |text| text.contains("ROUND=killed-cm"));
    wait_kept(&scene, "killed-cm");

    // So does the cloud.
    for round in 0..2 {
        scene.run(&["env", "set", UNIT, &format!("ROUND=kill{round}"), "--item", ITEM]);
        scene.stage.cloud.kill_9().unwrap();
        scene.ask(&format!("/cgi-bin/state?kill{round}"));
        scene.stage.cloud.restart(&scene.stage.site).unwrap();
        scene.wait_answer("/cgi-bin/env", |text| text.contains(&format!("ROUND=kill{round}")));
        wait_kept(&scene, &format!("kill{round}"));
    }
    scene.stage.wait_online(LIMIT).unwrap();

    // Everything durable was acknowledged in the end, in both directions.
    scene.until("all acknowledgements", || {
        let frames = scene.frames();
        let open = |way: Way, kinds: &[&str]| -> Vec<String> {
            let acked = acked(&frames, way);
            copies(&frames, way, kinds).into_keys().filter(|txn| !acked.contains(txn)).collect()
        };
        let (ours, theirs) =
            (open(Way::Out, &DURABLE), open(Way::In, &["overrideEnvVars", "stateAcceptance"]));
        if ours.is_empty() && theirs.is_empty() { Ok(()) } else { Err(format!("{ours:?} {theirs:?}")) }
    });
    let frames = scene.frames();
    let sets = copies(&frames, Way::In, &["overrideEnvVars"]);
    assert_eq!(sets.len(), 5, "five sets, however often each came: {sets:?}");
    // The effect that shows a second execution: each set restarts the instance once.
    assert_eq!(scene.stage.service_starts(), Some(starts + 5), "{sets:?}");
    let statuses = copies(&frames, Way::Out, &["overrideEnvVarsStatus"]);
    assert_eq!(statuses.len(), 5, "one answer for each set: {statuses:?}");
    let texts: BTreeSet<String> = frames
        .iter()
        .filter(|frame| frame.way == Way::Out && frame.kind() == "newState")
        .map(|frame| frame.data()["state"].to_string())
        .collect();
    let news = copies(&frames, Way::Out, &["newState"]);
    assert_eq!(news.len(), texts.len(), "a state is told by one message: {news:?}");
}

// REL-15
#[test]
fn what_an_overloaded_cloud_turns_away_comes_again_and_is_done_once() {
    let limits = ["--unit-messages-per-second", "4", "--unit-message-burst", "6", "--unit-patience", "0"];
    let mut scene = Scene::with_cloud("e2e-nacks", &limits, |_| {});
    scene.deploy_handles();
    scene.run(&["env", "set", UNIT, "LEVEL=patient", "--item", ITEM]);
    scene.ask("/cgi-bin/state?patient");
    scene.wait_answer("/cgi-bin/env", |text| text.contains("LEVEL=patient"));
    wait_kept(&scene, "patient");

    let frames = scene.frames();
    let nacks: Vec<&Frame> =
        frames.iter().filter(|frame| frame.way == Way::In && frame.kind() == "nack").collect();
    assert!(!nacks.is_empty(), "the limits were not reached");
    for nack in &nacks {
        assert!(nack.data()["retryAfter"].as_u64().is_some_and(|pause| pause > 0), "{}", nack.json);
        assert_eq!(nack.correlation_id(), nack.txn());
    }
    // Each copy that was turned away is followed by another one, and what must not be lost arrives in the end.
    let all = copies(&frames, Way::Out, &DURABLE);
    scene.until("everything durable to be acknowledged", || {
        let acked = acked(&scene.frames(), Way::Out);
        let open: Vec<&String> = all.keys().filter(|txn| !acked.contains(*txn)).collect();
        if open.is_empty() { Ok(()) } else { Err(format!("{open:?}")) }
    });
    let told = scene.json(&["state", "list", UNIT]);
    assert_eq!(told["items"].as_array().unwrap().len(), 1, "{told}");
    scene.stage.unit.check_running().unwrap();
}

//! The variables flow: set, seen by the restarted instance, ended by time or by the operator.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

mod common;

use aos_testbed::Daemon;
use common::{ITEM, Scene, UNIT, Way};
use serde_json::{Value, json};

fn has(text: &str, line: &str) -> bool {
    text.lines().any(|one| one.trim() == line)
}

// REL-15
// CLO-33
#[test]
fn variables_reach_the_instance_and_end_in_time() {
    let mut scene = Scene::online("e2e-env");
    scene.deploy_handles();
    scene.ask("/cgi-bin/storage?kept");
    let starts = scene.stage.service_starts().unwrap();

    let set = scene.json(&["env", "set", UNIT, "LEVEL=high", "EMPTY=", "--item", ITEM]);
    assert_eq!(set["items"][0]["variables"].as_array().unwrap().len(), 2, "{set}");
    scene.wait_answer("/cgi-bin/env", |text| has(text, "LEVEL=high") && has(text, "EMPTY="));
    scene.until("the second start", || match scene.stage.service_starts() {
        Some(now) if now == starts + 1 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(scene.ask("/storage/note"), "kept", "the restart keeps the storage");

    // The Unit says what became of it, under the same exchange.
    let request = scene.sent(Way::In, "overrideEnvVars").pop().unwrap();
    scene.wait_acked(&request);
    let answer = scene.wait_frame(0, Way::Out, "overrideEnvVarsStatus", |frame| {
        frame.correlation_id() == request.correlation_id()
    });
    scene.wait_acked(&answer);
    let path = format!("units/{UNIT}/env-overrides/");
    let taken = scene.wait_document("the statuses", &path, |set| {
        let statuses = set["statuses"].as_array().cloned().unwrap_or_default();
        let of = |name: &str| statuses.iter().any(|one| one["name"] == name && one["error"].is_null());
        set["state"] == "delivered" && of("LEVEL") && of("EMPTY")
    });
    assert_eq!(taken["statuses"][0]["item"]["codename"], ITEM, "{taken}");
    let table = scene.run(&["env", "get", UNIT]);
    assert!(table.contains("LEVEL") && table.contains("taken by the Unit"), "{table}");

    // One with an end: the Unit drops it by itself, the other stays.
    scene.run(&["env", "set", UNIT, "SOON=gone", "--item", ITEM, "--ttl", "6s"]);
    scene.wait_answer("/cgi-bin/env", |text| has(text, "SOON=gone") && has(text, "LEVEL=high"));
    scene.wait_answer("/cgi-bin/env", |text| !text.contains("SOON=") && has(text, "LEVEL=high"));

    // Taken back.
    scene.run(&["env", "unset", UNIT, "LEVEL", "--item", ITEM]);
    scene.wait_answer("/cgi-bin/env", |text| !text.contains("LEVEL=") && has(text, "EMPTY="));
    scene.run(&["env", "unset", UNIT]);
    scene.wait_answer("/cgi-bin/env", |text| !text.contains("EMPTY="));
    assert_eq!(scene.ask("/storage/note"), "kept");
    let nothing = scene.json(&["env", "get", UNIT]);
    assert_eq!(nothing["items"], json!([]));
    let error = scene.refused(&["env", "unset", UNIT, "LEVEL"]);
    assert!(error.contains("nothing to take back"), "{error}");
    for wrong in [&["env", "set", UNIT, "=x"][..], &["env", "set", UNIT, "A=b", "--ttl", "soon"]] {
        scene.refused(wrong);
    }
    let values = |frame: &common::Frame| frame.data()["items"].as_array().map_or(0, Vec::len);
    let last = scene.sent(Way::In, "overrideEnvVars").pop().unwrap();
    assert_eq!(values(&last), 0, "each message is the whole set");
}

/// With the switch on, messages go in envelopes that only the Unit's offline key opens: a Unit that is not set
/// up for them refuses them, and gets them once it is.
// REL-15
// CLO-34
#[test]
fn variables_reach_the_instance_in_a_sealed_message() {
    let mut scene = Scene::online("e2e-sealed");
    scene.deploy_handles();
    scene.run(&["unit", "seal", UNIT, "on"]);
    scene.run(&["env", "set", UNIT, "LEVEL=sealed", "--item", ITEM]);
    scene.until("the Unit to refuse an envelope", || {
        let status = scene.stage.unit.status().map_err(|error| error.to_string())?;
        let refused = status.pointer("/cm/cloud/counters/refused/unreadable");
        if refused.and_then(Value::as_u64) > Some(0) {
            Ok(())
        } else {
            Err(status["cm"]["cloud"].to_string())
        }
    });
    assert!(scene.sent(Way::In, "overrideEnvVars").is_empty(), "nothing readable crossed the link");
    assert!(!scene.ask("/cgi-bin/env").contains("LEVEL="));

    scene.stage.unit.stop(Daemon::Cm).unwrap();
    scene.stage.unit.configure(Daemon::Cm, |cm| cm["openEnvelopedMessages"] = json!(true)).unwrap();
    scene.stage.unit.start(Daemon::Cm).unwrap();
    scene.wait_answer("/cgi-bin/env", |text| has(text, "LEVEL=sealed"));
    let answer = scene.wait_frame(0, Way::Out, "overrideEnvVarsStatus", |_| true);
    scene.wait_acked(&answer);
    scene.run(&["unit", "seal", UNIT, "off"]);
    scene.run(&["env", "unset", UNIT]);
    scene.wait_answer("/cgi-bin/env", |text| !text.contains("LEVEL="));
}

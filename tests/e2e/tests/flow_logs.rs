//! The logs flow: what a service wrote reaches the operator, by both ways; what cannot be had is said.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

mod common;

use std::time::Instant;

use common::{ITEM, Scene, UNIT, Way};
use serde_json::{Value, json};

fn newest(scene: &Scene) -> Value {
    let list = scene.json(&["logs", UNIT, "--list"]);
    let items = list["items"].as_array().unwrap();
    items.iter().max_by_key(|one| one["created_at"].as_str().unwrap().to_owned()).unwrap().clone()
}

// REL-15
#[test]
fn logs_come_by_messages_and_by_upload_and_what_is_missing_is_said() {
    let mut scene = Scene::online("e2e-logs");
    scene.deploy_handles();
    scene.ask("/cgi-bin/say?first-line");

    // By messages.
    let text = scene.run(&["logs", UNIT, ITEM]);
    assert!(text.contains("service starts with LEVEL=none") && text.contains("first-line"), "{text}");
    let request = scene.wait_frame(0, Way::In, "requestLog", |_| true);
    scene.wait_acked(&request);
    assert_eq!(request.data()["logType"], "instanceLog");
    assert_eq!(
        request.data()["filter"]["nodeIds"][0]["codename"],
        "main",
        "nodes are listed: {}",
        request.json
    );
    let part =
        scene.wait_frame(0, Way::Out, "pushLog", |frame| frame.correlation_id() == request.correlation_id());
    scene.wait_acked(&part);
    assert_eq!((&part.data()["status"], &part.data()["part"]), (&json!("ok"), &json!(1)));
    assert!(part.data()["content"].as_str().unwrap().starts_with("H4sI"), "a gzip stream");
    let record = newest(&scene);
    assert_eq!(record["id"], request.correlation_id());
    assert_eq!(
        (&record["state"], &record["nodes"][0]["state"]),
        (&json!("done"), &json!("done")),
        "{record}"
    );

    // By an upload of its own.
    let before = scene.frames().len();
    let text = scene.run(&["logs", UNIT, ITEM, "--upload", "https"]);
    assert!(text.contains("first-line"), "{text}");
    let request = scene.wait_frame(before, Way::In, "requestLog", |_| true);
    assert_eq!(request.data()["uploadOptions"]["type"], "https");
    let token = request.data()["uploadOptions"]["bearerToken"].as_str().unwrap();
    let end = scene.wait_frame(before, Way::Out, "pushLog", |_| true);
    assert!(
        end.data()["content"].as_str().unwrap_or_default().is_empty(),
        "the text went by upload: {}",
        end.json
    );
    let shown = newest(&scene);
    assert!(!shown.to_string().contains(token), "the token is nowhere shown");

    // What cannot be had is said, with a reason and soon.
    let start = Instant::now();
    for (args, reason) in [
        (&["logs", UNIT, "--system", "--node", "main"][..], "not supported"),
        (&["logs", UNIT, ITEM, "--crash"], "crash"),
        (&["logs", UNIT, ITEM, "--instance", "7"], "absent"),
    ] {
        let error = scene.refused(args);
        assert!(error.contains("there is no log") && error.contains(reason), "{args:?}: {error}");
    }
    let error = scene.refused(&["logs", UNIT, ITEM, "--node", "nowhere"]);
    assert!(error.contains("no node 'nowhere'"), "{error}");
    assert!(start.elapsed().as_secs() < 15, "honest answers come at once, not by timeout");

    // A request to a Unit that is away waits for it, and the waiting can be taken up.
    scene.stage.unit.set_cloud_link(false);
    let error = scene.refused(&["logs", UNIT, ITEM, "--timeout", "1"]);
    assert!(error.contains("goes on in the cloud") && error.contains("--request"), "{error}");
    let id = newest(&scene)["id"].as_str().unwrap().to_owned();
    scene.ask("/cgi-bin/say?while-away");
    scene.stage.unit.set_cloud_link(true);
    let text = scene.run(&["logs", UNIT, "--request", &id]);
    assert!(text.contains("while-away"), "{text}");
    let asked = scene.sent(Way::In, "requestLog").into_iter().filter(|frame| frame.correlation_id() == id);
    assert_eq!(asked.count(), 1, "asked once");

    let error = scene.refused(&["logs", UNIT, "--request", "no-such-request"]);
    assert!(error.contains("404"), "{error}");
}

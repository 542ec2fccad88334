//! What a person typically gets wrong with an item is told where it is seen, with the reason and what there is.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

mod common;

use std::process::Command;

use aos_testbed::HttpService;
use common::{Scene, UNIT};
use serde_json::{Value, json};

fn item(scene: &Scene, codename: &str, config: &Value) -> HttpService {
    let service = HttpService::new(&scene.stage.site.dir().join(codename), codename, "page").unwrap();
    service.set_config(config).unwrap();
    service
}

// Refused at the desk with file, key and reason.
#[test]
fn a_wrong_item_is_refused_where_it_is_published() {
    let scene = Scene::online("e2e-mistakes-desk");
    for (config, words) in [
        (json!({"quotas": {"ramLimit": "much"}}), ["quotas.ramLimit", "much"]),
        (json!({"offlineTTL": "soon"}), ["offlineTTL", "no duration"]),
        (json!({"allowedConnections": {"back": {}}}), ["'back'", "no connection, expected <item>/<port>"]),
        (json!({"probes": {"readiness": {}}}), ["probes.readiness", "exactly one"]),
    ] {
        let service = item(&scene, "wrong", &config);
        let refused = aos_testbed::chain(&service.publish(&scene.stage.operator, "1.0.0").unwrap_err());
        for word in ["item.json"].iter().chain(&words) {
            assert!(refused.contains(word), "no '{word}' in {refused}");
        }
    }
    let mut args = item(&scene, "ports", &json!({})).publish_args("1.0.0");
    for (port, word) in [("70000", "is no port"), ("9000-8000/tcp", "is no port"), ("80/sctp", "is no port")]
    {
        let place = args.iter().position(|word| word == "--expose").unwrap() + 1;
        args[place] = port.to_owned();
        let refused = aos_testbed::chain(&scene.stage.operator.run(&args).unwrap_err());
        assert!(refused.contains(port) && refused.contains(word), "{refused}");
    }
    // A key that means nothing is no error, Units of other versions may know it; but it is told.
    let service = item(&scene, "typo", &json!({"quotas": {"ramLimits": 1_000_000}}));
    let line = scene.stage.operator.command_line().unwrap();
    let words: Vec<String> = service.publish_args("1.0.0").iter().map(|word| format!("'{word}'")).collect();
    let output = Command::new("sh").args(["-c", &format!("{line} {}", words.join(" "))]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.contains("no key 'quotas.ramLimits'"), "{told}");
    assert!(scene.refused(&["assign", UNIT, "typo", "--version", "3.0.0"]).contains("no version 3.0.0"));
    assert!(scene.refused(&["assign", UNIT, "nothing"]).contains("no such item"));
}

// CM-44: what no node can run is `failed`, with what was wanted and what there is.
#[test]
fn an_item_that_fits_nowhere_says_what_was_wanted_and_what_there_is() {
    let scene = Scene::online("e2e-mistakes-unit");
    let foreign = if aos_testbed::unit_config::architecture() == "arm64" { "amd64" } else { "arm64" };
    let much = 990_000_000_000_000_u64;
    let cases = [
        (
            "camera",
            json!({"resources": [{"name": "camera", "mode": "rw"}]}),
            vec!["resources: camera wanted", "main has none"],
        ),
        (
            "huge",
            json!({"quotas": {"ramLimit": much}}),
            vec!["available RAM: 495000000000000 bytes wanted", "free"],
        ),
        ("wasm", json!({"runtimes": [{"codename": "wasm"}]}), vec!["runtime: wasm wanted", "main has crun"]),
        ("foreign", json!({}), vec!["platform: linux/", foreign, "wanted, main has linux/"]),
    ];
    for (name, config, _) in &cases {
        let mut args = item(&scene, name, config).publish_args("1.0.0");
        if *name == "foreign" {
            let place = args.iter().position(|word| word == "--arch").unwrap() + 1;
            args[place] = foreign.to_owned();
        }
        scene.stage.operator.run(&args).unwrap();
        scene.run(&["assign", UNIT, name]);
    }
    for (name, _, words) in &cases {
        scene.until(&format!("the reason why {name} does not run"), || {
            let table = scene.run(&["unit", "status", UNIT]);
            let line = table.lines().find(|line| line.starts_with(&format!("{name}:0 "))).unwrap_or_default();
            let told = line.contains("failed") && words.iter().all(|word| line.contains(word));
            if told { Ok(()) } else { Err(table) }
        });
    }
}

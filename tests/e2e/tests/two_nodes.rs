//! A Unit of two nodes in the hands of an operator: provisioned, looked at on the spot, renewed and taken back.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use aos_testbed::stage::STEP_LIMIT;
use aos_testbed::wait::wait_for_or_last;
use aos_testbed::{Cloud, Daemon, Operator, Secondary, Site, Stage, Unit, binaries, process};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);

/// `aos iam` as somebody at the Unit types it.
fn local(unit: &Unit, words: &[&str]) -> std::process::Output {
    let mut command = Command::new(binaries::find("aos").unwrap());
    command.arg("iam").args(words).arg("--run-dir").arg(unit.run_dir());
    command.env("SOFTHSM2_CONF", unit.dir().join("softhsm2.conf")).output().unwrap()
}

fn printed(unit: &Unit, words: &[&str]) -> String {
    let output = local(unit, words);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn document(unit: &Unit, topic: &str) -> Vec<Value> {
    serde_json::from_str(&printed(unit, &[topic, "--json"])).unwrap()
}

/// What `aos iam` shows of a provisioned Unit.
fn looked_at(unit: &Unit) {
    let certificates = document(unit, "certificates");
    let types: Vec<&str> = certificates.iter().map(|one| one["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["online", "offline", "iam", "cm", "sm"]);
    assert!(certificates.iter().all(|one| one["notBefore"].is_string()), "{certificates:?}");
    let shown = printed(unit, &["certificates"]);
    assert!(shown.contains("VALID FROM") && shown.contains(" % "), "{shown}");
    assert!(!shown.contains("pin-"), "{shown}");
    let shown = printed(unit, &["nodes"]);
    for line in ["main ", "second "] {
        let line = shown.lines().find(|found| found.starts_with(line)).unwrap();
        assert!(line.contains("provisioned") && line.contains("true"), "{shown}");
    }
    let tokens = document(unit, "token");
    let labels: Vec<&str> = tokens.iter().map(|one| one["label"].as_str().unwrap()).collect();
    assert_eq!(labels, ["aoscloud", "aoscore"]);
    for token in &tokens {
        assert_eq!((&token["session"], &token["orphans"]), (&json!("open"), &json!(0)), "{token}");
    }
}

/// `aos iam` while no manager runs.
fn looked_at_without_manager(unit: &Unit) {
    let refused = local(unit, &["nodes"]);
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && told.contains("start it"), "{told}");
    let refused = local(unit, &["token"]);
    let told = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && told.contains("--config"), "{told}");
    let config = unit.dir().join("iam.cfg").display().to_string();
    let shown = printed(unit, &["token", "--config", &config]);
    assert!(shown.contains("aoscore") && shown.contains("open"), "{shown}");
    let shown = printed(unit, &["certificates", "--config", &config]);
    assert!(shown.contains("offline"), "{shown}");
}

// ARC-05
#[test]
fn an_operator_provisions_renews_and_takes_back_a_unit_of_two_nodes() {
    let site = Arc::new(Site::new("e2e-two-nodes").unwrap());
    let cloud = Cloud::start(&site).unwrap();
    let operator = Operator::enrol(&site, &cloud).unwrap();
    let mut unit = Unit::new(&site, &cloud, "two-nodes").unwrap();
    unit.start_provisioning().unwrap();
    unit.wait_up(Daemon::Iam, LIMIT).unwrap();
    let mut second = Secondary::new(&site, &unit, "second").unwrap();
    second.start(true).unwrap();
    let address = unit.provisioning_address().to_string();
    let provision = |nodes: &str, wait: &str| {
        operator.run(&["unit", "provision", "--unit", &address, "--nodes", nodes, "--wait", wait])
    };
    let error = aos_testbed::chain(&provision("3", "2").unwrap_err());
    assert!(error.contains('3') && error.contains("node"), "{error}");
    let told = provision("2", "30").unwrap();
    assert!(told.contains("two-nodes") && told.contains("provisioned"), "{told}");
    let error = aos_testbed::chain(&provision("2", "30").unwrap_err());
    assert!(error.contains("aosctl unit deprovision two-nodes"), "{error}");

    unit.stop(Daemon::Iam).unwrap();
    looked_at_without_manager(&unit);
    second.stop().unwrap();
    second.start(false).unwrap();
    let mut stage = Stage { unit, cloud, operator, site };
    stage.unit.start_all().unwrap();
    stage.wait_online(STEP_LIMIT).unwrap();
    wait_for_or_last("the second node to be linked", LIMIT, || {
        let nodes = document(&stage.unit, "nodes");
        let second = nodes.iter().find(|node| node["id"] == "second");
        let linked = second.is_some_and(|node| node["connected"] == json!(true));
        if linked { Ok(()) } else { Err(format!("{nodes:?}")) }
    })
    .unwrap_or_else(|error| panic!("{error}: {}", process::tail(&second.log(), 20)));
    looked_at(&stage.unit);

    let renew = |words: &[&str]| stage.operator.json(&[&["unit", "renew", "two-nodes"], words].concat());
    let error = aos_testbed::chain(&renew(&["--node", "nowhere", "--wait"]).unwrap_err());
    assert!(error.contains("holds no such certificates of node 'nowhere'"), "{error}");
    let renewal = renew(&["--node", "second", "--wait"]).unwrap();
    assert_eq!(renewal["state"], "done", "{renewal}");
    let of_second = renewal["certificates"].as_array().unwrap();
    assert_eq!(of_second.len(), 2, "{renewal}");
    for one in of_second {
        assert_eq!((&one["node"], &one["error"]), (&json!("second"), &Value::Null), "{renewal}");
        assert_ne!(one["old_serial"], one["new_serial"], "{renewal}");
    }

    let error = aos_testbed::chain(&stage.operator.run(&["unit", "deprovision", "two-nodes"]).unwrap_err());
    assert!(error.contains("--force"), "{error}");
    stage.operator.run(&["unit", "deprovision", "two-nodes", "--force"]).unwrap();
    let error = aos_testbed::chain(&stage.operator.run(&["unit", "deprovision", "nobody"]).unwrap_err());
    assert!(error.contains("no such Unit"), "{error}");
}

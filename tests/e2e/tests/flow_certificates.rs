//! The certificates flow: four messages renew what a Unit shows to the cloud and inside; services do not notice.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

mod common;

use std::collections::BTreeMap;

use aos_testbed::{Daemon, Poller, service};
use common::{LIMIT, Scene, UNIT, Way};
use serde_json::Value;

/// Serial numbers of the good certificates by type.
fn serials(scene: &Scene) -> BTreeMap<String, Vec<String>> {
    let document = scene.stage.operator.get(&format!("units/{UNIT}/certificates/")).unwrap();
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for one in document["items"].as_array().unwrap().iter().filter(|one| one["status"] == "issued") {
        let word = |key: &str| one[key].as_str().unwrap().to_owned();
        found.entry(word("type")).or_default().push(word("serial"));
    }
    found
}

// REL-15, CM-32, ARC-24
#[test]
fn certificates_are_renewed_over_the_cloud_while_the_service_runs() {
    let mut scene = Scene::online("e2e-renew");
    scene.deploy("1.0.0", "one");
    let link = scene.stage.unit.link_to_service(service::PORT, LIMIT).unwrap();
    let poller = Poller::start(link.address()).unwrap();
    let (pid, before) = (scene.stage.service_pid(), serials(&scene));
    let frames = scene.frames().len();

    let renewal = scene.json(&["unit", "renew", UNIT, "--type", "online", "--type", "iam", "--wait"]);
    assert_eq!(renewal["state"], "done", "{renewal}");
    let list = renewal["certificates"].as_array().unwrap();
    let kinds: Vec<&str> = list.iter().map(|one| one["type"].as_str().unwrap()).collect();
    assert!(kinds.len() == 2 && kinds.contains(&"online") && kinds.contains(&"iam"), "{renewal}");
    for one in list {
        assert_ne!(one["old_serial"], one["new_serial"], "{one}");
        assert!(one["error"].is_null(), "{one}");
    }

    // The four messages, in order; the Unit installs `iam` of the main node last.
    let asked = scene.wait_frame(frames, Way::In, "renewCertificatesNotification", |_| true);
    let requested = scene.wait_frame(frames, Way::Out, "issueUnitCertificates", |_| true);
    let issued = scene.wait_frame(frames, Way::In, "issuedUnitCertificates", |_| true);
    let confirmed = scene.wait_frame(frames, Way::Out, "installUnitCertificatesConfirmation", |_| true);
    for frame in [&asked, &requested, &issued, &confirmed] {
        scene.wait_acked(frame);
    }
    assert!(asked.data()["unitSecrets"]["nodes"].is_array(), "the form that Units read");
    // What opens the node's keys crosses the link, and no log has it.
    let secrets = asked.data()["unitSecrets"]["nodes"].as_array().unwrap();
    let secret = secrets[0]["secret"].as_str().unwrap();
    assert!(secret.len() >= 8, "a secret");
    let logs = Daemon::ALL.map(|daemon| scene.stage.unit.log(daemon));
    for log in logs.iter().map(std::path::PathBuf::as_path).chain([scene.stage.cloud.log()]) {
        let text = std::fs::read(log).unwrap();
        assert!(!text.is_empty() && !String::from_utf8_lossy(&text).contains(secret), "{}", log.display());
    }
    let installed: Vec<&str> = confirmed.data()["certificates"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["type"].as_str().unwrap())
        .collect();
    assert_eq!(installed, ["online", "iam"]);

    // The session that shows the new certificate; then the old one is worth nothing any more.
    let new =
        |kind: &str| -> Value { list.iter().find(|one| one["type"] == kind).unwrap()["new_serial"].clone() };
    scene.until("a session with the new certificate", || {
        let log = std::fs::read_to_string(scene.stage.cloud.log()).unwrap_or_default();
        let sessions = log.matches("session opened").count();
        if sessions >= 2 { Ok(()) } else { Err(format!("{sessions} sessions")) }
    });
    scene.stage.wait_online(LIMIT).unwrap();
    let after = scene.until("the old online certificate to be refused", || {
        let found = serials(&scene);
        if found["online"].len() == 1 { Ok(found) } else { Err(format!("{found:?}")) }
    });
    assert_eq!(Value::from(after["online"][0].clone()), new("online"));
    assert_ne!(after["online"], before["online"]);
    assert!(after["iam"].contains(&new("iam").as_str().unwrap().to_owned()), "{after:?}");
    assert_eq!(after["sm"], before["sm"], "what was not asked for stays");

    // Everything inside still works: a new version needs CM, SM and IAM to trust each other.
    assert_eq!(scene.stage.service_pid(), pid, "the service was not touched");
    let failed = poller.stop().unwrap();
    assert!(failed.failures.is_empty(), "{failed:?}");
    scene.deploy("2.0.0", "two");

    // While the node's IAM is away the renewal waits, and so may whoever asked for it.
    scene.stage.unit.stop(Daemon::Iam).unwrap();
    let error = scene.refused(&["unit", "renew", UNIT, "--type", "sm", "--wait", "--timeout", "2"]);
    let again = error.split("--request ").nth(1).unwrap_or_default();
    let id = again.split_whitespace().next().unwrap_or_default().to_owned();
    assert!(error.contains("goes on in the cloud") && id.len() == 36, "{error}");
    scene.stage.unit.start(Daemon::Iam).unwrap();
    let renewal = scene.json(&["unit", "renew", UNIT, "--request", &id, "--wait"]);
    assert_eq!(renewal["state"], "done", "{renewal}");
    let sm = renewal["certificates"][0]["new_serial"].as_str().unwrap().to_owned();
    assert!(serials(&scene)["sm"].contains(&sm), "{renewal}");
    scene.active("2.0.0");

    let error = scene.refused(&["unit", "renew", UNIT, "--type", "nonsense"]);
    assert!(error.contains("400") || error.contains("422"), "{error}");
}

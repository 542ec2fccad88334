//! Certificates that live for seconds: renewed by themselves while a service runs, recovered without a visit after
//! the cloud was away longer than they lived, and by an operator's token when nothing is left to prove with.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use aos_testbed::{Daemon, Poller, service};
use common::{LIMIT, Scene, UNIT};
use serde_json::{Value, json};

/// Long enough for a slow machine to renew in, short enough to wait for.
const LIFE: Duration = Duration::from_secs(45);

/// The newest serial number by type, as the cloud has it.
fn newest(scene: &Scene) -> BTreeMap<String, (i64, String)> {
    let document = scene.stage.operator.get(&format!("units/{UNIT}/certificates/")).unwrap();
    let mut found: BTreeMap<String, (i64, String)> = BTreeMap::new();
    for one in document["items"].as_array().unwrap().iter().filter(|one| one["status"] == "issued") {
        let word = |key: &str| one[key].as_str().unwrap().to_owned();
        let ends: jiff::Timestamp = word("valid_till").parse().unwrap();
        let this = (ends.as_second(), word("serial"));
        let entry = found.entry(word("type")).or_insert_with(|| this.clone());
        if this.0 > entry.0 {
            *entry = this;
        }
    }
    found
}

fn recovers_from(scene: &mut Scene) {
    let file =
        scene.stage.cloud.root_certificate().parent().unwrap().parent().unwrap().join("endpoints.json");
    let document: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let port = document["blobs"].as_str().unwrap().rsplit_once(':').unwrap().1.to_owned();
    scene
        .stage
        .unit
        .configure(Daemon::Iam, |config| config["recoveryUrl"] = json!(format!("https://localhost:{port}")))
        .unwrap();
    scene.stage.unit.stop(Daemon::Iam).unwrap();
    scene.stage.unit.start(Daemon::Iam).unwrap();
}

fn renewed(scene: &Scene, before: &BTreeMap<String, (i64, String)>, types: &[&str], within: Duration) {
    let waited = aos_testbed::wait_for_or_last("new certificates", within, || {
        let now = newest(scene);
        let old: Vec<&str> =
            types.iter().copied().filter(|kind| now.get(*kind) == before.get(*kind)).collect();
        if old.is_empty() { Ok(()) } else { Err(format!("still the same: {old:?}")) }
    });
    scene.expect(waited);
}

/// Waits until all certificates of these types have ended.
fn wait_for_end(scene: &Scene, held: &BTreeMap<String, (i64, String)>, which: impl Fn(&str) -> bool) {
    let ends = held.iter().filter(|(kind, _)| which(kind)).map(|(_, (ends, _))| *ends).max().unwrap();
    let waited = aos_testbed::wait_for_or_last("the end of all certificates", LIFE * 2, || {
        let left = ends + 1 - jiff::Timestamp::now().as_second();
        if left < 0 { Ok(()) } else { Err(format!("{left} s left")) }
    });
    scene.expect(waited);
}

const SHORT: [&str; 4] = ["online", "iam", "cm", "sm"];

// REL-25
#[test]
fn short_lives_are_renewed_and_recovered_while_the_service_runs() {
    let life = format!("{}s", LIFE.as_secs());
    let mut scene = Scene::with_cloud(
        "e2e-life",
        &["--unit-certificate-life", &life, "--renew-at-percent", "50"],
        |_| {},
    );
    recovers_from(&mut scene);
    scene.stage.wait_online(LIMIT).unwrap();
    scene.deploy("1.0.0", "one");
    let link = scene.stage.unit.link_to_service(service::PORT, LIMIT).unwrap();
    let poller = Poller::start(link.address()).unwrap();
    let pid = scene.stage.service_pid();

    // Nobody asks for anything: each type is renewed before its end, twice.
    for _ in 0..2 {
        let before = newest(&scene);
        renewed(&scene, &before, &SHORT, LIFE);
    }
    scene.stage.wait_online(LIMIT).unwrap();
    assert_eq!(newest(&scene).len(), 5);

    // The cloud is away until everything but the offline key has ended.
    let before = newest(&scene);
    let site = std::sync::Arc::clone(&scene.stage.site);
    scene.stage.cloud.stop().unwrap();
    wait_for_end(&scene, &before, |kind| kind != "offline");
    scene.stage.cloud.restart(&site).unwrap();
    renewed(&scene, &before, &SHORT, LIFE);
    scene.stage.wait_online(LIFE).unwrap();
    let audit = std::fs::read_to_string(scene.stage.cloud.log()).unwrap();
    assert!(audit.contains("recovered 4 certificates"), "{}", scene.tails());

    // The service was never touched, and the components trust each other again.
    assert_eq!(scene.stage.service_pid(), pid);
    let failed = poller.stop().unwrap();
    assert!(failed.failures.is_empty(), "{failed:?}");
    scene.deploy("2.0.0", "two");
}

// REL-25
#[test]
fn an_operators_token_recovers_what_has_no_proof_left() {
    let life =
        ["--unit-certificate-life", "30s", "--offline-certificate-life", "30s", "--renew-at-percent", "0"];
    let mut scene = Scene::with_cloud("e2e-token", &life, |_| {});
    scene.stage.unit.configure(Daemon::Iam, |config| config["renewAtPercent"] = json!(99)).unwrap();
    recovers_from(&mut scene);
    let before = newest(&scene);
    let site = std::sync::Arc::clone(&scene.stage.site);
    scene.stage.cloud.stop().unwrap();
    wait_for_end(&scene, &before, |_| true);
    scene.stage.cloud.restart(&site).unwrap();
    let token = scene.run(&["unit", "recovery-token", UNIT]);
    let file = scene.stage.unit.dir().join("token");
    std::fs::write(&file, &token).unwrap();
    let mut recover = scene.stage.unit.command(aos_testbed::binaries::find("aos").unwrap()).unwrap();
    let output = recover.args(["iam", "recover", "--token-file"]).arg(&file).output().unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("5 certificates are new"), "{said}\n{}", scene.tails());
    renewed(&scene, &before, &["online", "offline", "iam", "cm", "sm"], LIMIT);
    scene.stage.wait_online(LIFE).unwrap();
}

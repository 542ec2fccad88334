//! Certificates that live for seconds: renewed by themselves while a service runs, recovered without a visit after
//! the cloud was away longer than they lived, and by an operator's token when nothing is left to prove with.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use aos_testbed::stage::STEP_LIMIT;
use aos_testbed::{
    Cloud, Daemon, Operator, Poller, Secondary, Site, Stage, Unit, binaries, process, service, tls_probe,
    wait_for_or_last,
};
use common::{LIMIT, Scene, UNIT};
use serde_json::{Value, json};

/// Long enough for a slow machine to renew in, short enough to wait for.
const LIFE: Duration = Duration::from_secs(45);

/// The newest serial number by type, as the cloud has it.
fn newest(scene: &Scene) -> BTreeMap<String, (i64, String)> {
    newest_of(&scene.stage.operator, UNIT, "main")
}

fn newest_of(operator: &Operator, unit: &str, node: &str) -> BTreeMap<String, (i64, String)> {
    let document = operator.get(&format!("units/{unit}/certificates/")).unwrap();
    let mut found: BTreeMap<String, (i64, String)> = BTreeMap::new();
    let items = document["items"].as_array().unwrap();
    for one in items.iter().filter(|one| one["status"] == "issued" && one["node_id"] == node) {
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

/// Where the cloud serves blobs and recoveries.
fn recovery_port(cloud: &Cloud) -> String {
    let file = cloud.root_certificate().parent().unwrap().parent().unwrap().join("endpoints.json");
    let document: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    document["blobs"].as_str().unwrap().rsplit_once(':').unwrap().1.to_owned()
}

fn recovers_from(scene: &mut Scene) {
    let port = recovery_port(&scene.stage.cloud);
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

/// Whether the main node's IAM has the node linked.
fn linked(unit: &Unit, node: &str) -> Result<(), String> {
    let mut command = std::process::Command::new(binaries::find("aos").unwrap());
    let output = command.args(["iam", "nodes", "--json", "--run-dir"]).arg(unit.run_dir()).output().unwrap();
    let nodes: Value = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
    let node = nodes.as_array().unwrap().iter().find(|one| one["id"] == node);
    let linked = node.is_some_and(|one| one["connected"] == json!(true));
    if linked { Ok(()) } else { Err(nodes.to_string()) }
}

// A second node beside the main one: renewed through it while it is connected, and back by itself after it was
// switched off longer than its certificates lived.
// REL-25, REL-40
#[test]
fn a_second_node_is_renewed_and_recovers_without_a_visit() {
    let site = std::sync::Arc::new(Site::new("e2e-life-two").unwrap());
    let life = "30s";
    let cloud =
        Cloud::start_with(&site, &["--unit-certificate-life", life, "--renew-at-percent", "50"]).unwrap();
    let operator = Operator::enrol(&site, &cloud).unwrap();
    let mut unit = Unit::new(&site, &cloud, "life-two").unwrap();
    let port = recovery_port(&cloud);
    unit.configure(Daemon::Iam, |config| config["recoveryUrl"] = json!(format!("https://localhost:{port}")))
        .unwrap();
    unit.start_provisioning().unwrap();
    unit.wait_up(Daemon::Iam, LIMIT).unwrap();
    let mut second = Secondary::new(&site, &unit, "second").unwrap();
    second.start(true).unwrap();
    let address = unit.provisioning_address().to_string();
    operator.run(&["unit", "provision", "--unit", &address, "--nodes", "2", "--wait", "30"]).unwrap();
    unit.stop(Daemon::Iam).unwrap();
    second.stop().unwrap();
    second.start(false).unwrap();
    let mut stage = Stage { unit, cloud, operator, site };
    stage.unit.start_all().unwrap();
    stage.wait_online(STEP_LIMIT).unwrap();
    let log = second.log();
    let tails = |stage: &Stage| {
        let cloud = process::tail(stage.cloud.log(), 30);
        format!("{}\n--- second\n{}\n--- cloud\n{cloud}", stage.unit.log_tails(30), process::tail(&log, 30))
    };
    let changed = |stage: &Stage, before: &BTreeMap<String, (i64, String)>| {
        let now = newest_of(&stage.operator, "life-two", "second");
        let new = ["iam", "sm"].iter().all(|kind| now.get(*kind) != before.get(*kind));
        if new { Ok(()) } else { Err(format!("{now:?}")) }
    };

    // Nobody asks for anything: over the stream, because the cloud wants it.
    let before = newest_of(&stage.operator, "life-two", "second");
    assert_eq!(before.len(), 2, "{before:?}");
    wait_for_or_last("renewal of the second node", LIFE * 2, || changed(&stage, &before))
        .unwrap_or_else(|error| panic!("{error}\n{}", tails(&stage)));
    wait_for_or_last("the second node", LIMIT, || linked(&stage.unit, "second")).unwrap();

    // Off until its certificates have ended; the main node lives on.
    second.stop().unwrap();
    let held = newest_of(&stage.operator, "life-two", "second");
    let ends = held.values().map(|(ends, _)| *ends).max().unwrap();
    wait_for_or_last("the end of the second node's certificates", LIFE * 2, || {
        let left = ends + 1 - jiff::Timestamp::now().as_second();
        if left < 0 { Ok(()) } else { Err(format!("{left} s left")) }
    })
    .unwrap();
    second.start(false).unwrap();
    wait_for_or_last("recovery of the second node", LIFE * 2, || {
        changed(&stage, &held)?;
        linked(&stage.unit, "second")
    })
    .unwrap_or_else(|error| panic!("{error}\n{}", tails(&stage)));
    let said = std::fs::read_to_string(&log).unwrap();
    assert!(said.contains("renewed by the Unit itself"), "{}", tails(&stage));
    stage.wait_online(LIFE).unwrap();
}

/// A fixed number of seconds beside the true time, which may be changed while programs run.
struct Clock(std::path::PathBuf);

impl Clock {
    const LIBRARY: &str = "faketime/libfaketime.so.1";

    /// For the daemons of a Unit, from their next start on; none where the library is missing.
    fn of(unit: &mut Unit) -> Option<Self> {
        let library = format!("/usr/lib/{}-linux-gnu/{}", std::env::consts::ARCH, Self::LIBRARY);
        if !std::path::Path::new(&library).exists() {
            println!("SKIPPED: no {library}; packaging/setup-host.sh installs it");
            return None;
        }
        let clock = Self(unit.dir().join("clock"));
        clock.set("+0");
        unit.set_env("LD_PRELOAD", library);
        unit.set_env("FAKETIME_TIMESTAMP_FILE", clock.0.clone());
        unit.set_env("FAKETIME_NO_CACHE", "1");
        unit.set_env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        Some(clock)
    }

    fn set(&self, beside: &str) {
        let fresh = self.0.with_extension("new");
        std::fs::write(&fresh, format!("{beside}\n")).unwrap();
        std::fs::rename(fresh, &self.0).unwrap();
    }
}

// A device that starts with a clock years ahead: for it every certificate has ended, new ones too. It waits, throws
// nothing away, and is back as soon as the clock is right, without a restart.
// REL-25
#[test]
fn a_clock_far_ahead_costs_nothing_but_time() {
    let mut scene = Scene::online("e2e-clock");
    recovers_from(&mut scene);
    scene.deploy("1.0.0", "one");
    let link = scene.stage.unit.link_to_service(service::PORT, LIMIT).unwrap();
    let poller = Poller::start(link.address()).unwrap();
    let service = scene.stage.service_pid();
    let Some(clock) = Clock::of(&mut scene.stage.unit) else { return };
    let newest_before = newest(&scene);

    for daemon in [Daemon::Sm, Daemon::Cm, Daemon::Iam] {
        scene.stage.unit.stop(daemon).unwrap();
    }
    clock.set("+3650d");
    for daemon in Daemon::ALL {
        scene.stage.unit.start(daemon).unwrap();
    }
    // IAM renews what seems to have ended: the cloud says what time it is.
    renewed(&scene, &newest_before, &SHORT, STEP_LIMIT);
    let pids = Daemon::ALL.map(|daemon| scene.stage.unit.pid(daemon).unwrap());
    // What happens meanwhile waits for it.
    let dir = scene.stage.site.dir().join("second-version");
    let two = aos_testbed::HttpService::new(&dir, common::ITEM, "two").unwrap();
    two.publish(&scene.stage.operator, "2.0.0").unwrap();
    assert_eq!(scene.stage.service_pid(), service, "it runs on");
    scene.stage.unit.check_running().unwrap();
    let status = scene.stage.operator.unit_status(UNIT).unwrap();
    assert_ne!(status["online_status"], "Online", "{status}");

    clock.set("+0");
    let waited = scene.stage.wait_online(STEP_LIMIT);
    scene.expect(waited);
    scene.active("2.0.0");
    assert_eq!(Daemon::ALL.map(|daemon| scene.stage.unit.pid(daemon).unwrap()), pids, "nobody was restarted");
    scene.stage.unit.check_running().unwrap();
    // Without an answer only while one version took the place of the other.
    let failed = poller.stop().unwrap();
    assert!(failed.failures.len() <= 1 || scene.stage.service_pid() != service, "{failed:?}");
    let floor = std::fs::read_to_string(scene.stage.unit.dir().join("iam/time-floor")).unwrap();
    let floor: i64 = floor.trim().parse().unwrap();
    assert!(floor <= jiff::Timestamp::now().as_second(), "a clock ahead leaves no trace");
}

// Anybody may ask there, so all together get only so much: whoever comes beyond it is told to come again, and can.
#[test]
fn the_recovery_endpoint_takes_only_so_many_requests() {
    use std::io::{BufRead as _, Read as _, Write as _};

    let site = Site::new("e2e-recovery-limit").unwrap();
    let cloud = Cloud::start(&site).unwrap();
    let address = format!("127.0.0.1:{}", recovery_port(&cloud));
    let stream = tls_probe::connect(&address, &cloud.root_certificate(), None, LIMIT).unwrap();
    let mut stream = std::io::BufReader::new(stream);
    let mut ask = || {
        let body = r#"{"systemId":"nobody"}"#;
        let head = format!(
            "POST /recovery/v1/challenge HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.get_mut().write_all(format!("{head}{body}").as_bytes()).unwrap();
        let mut status = String::new();
        stream.read_line(&mut status).unwrap();
        let mut length = 0;
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).unwrap();
            let line = line.trim().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).unwrap();
        (status.split(' ').nth(1).unwrap().to_owned(), String::from_utf8(body).unwrap())
    };
    let mut taken = 0;
    let refused = wait_for_or_last("a refusal", LIMIT, || {
        for _ in 0..100 {
            let (status, body) = ask();
            match status.as_str() {
                "200" => taken += 1,
                _ => return Ok((status, body)),
            }
        }
        Err(format!("{taken} taken"))
    })
    .unwrap();
    assert_eq!(refused.0, "429", "{refused:?}");
    assert!(refused.1.contains("come again later"), "{refused:?}");
    assert!(taken >= 500, "the first come together: {taken}");
    wait_for_or_last("room again", LIMIT, || {
        let (status, _) = ask();
        if status == "200" { Ok(()) } else { Err(status) }
    })
    .unwrap();
}

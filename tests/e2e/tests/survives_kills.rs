//! `kill -9` of the Unit's daemons and of the cloud, each in turn and all together, changes nothing for a
//! running service, and everything converges after the restart.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use aos_testbed::{Daemon, HttpService, Poller, Site, Stage, service, wait_for_or_last};
use serde_json::Value;

const LIMIT: Duration = Duration::from_mins(1);
const ITEM: &str = "web";
const VERSION: &str = "1.0.0";

/// Requests and bytes that the cloud served of every blob the Unit has.
fn served(stage: &Stage) -> BTreeMap<String, (u64, u64)> {
    let mut found = BTreeMap::new();
    collect_blobs(stage.unit.dir(), &mut |digest| {
        found.insert(digest.clone(), stage.served(&digest).unwrap());
    });
    assert!(!found.is_empty(), "the Unit has no blobs");
    found
}

/// Content-addressed files are named by their digest, wherever they are.
fn collect_blobs(dir: &Path, found: &mut impl FnMut(String)) {
    let install = dir.join("cm");
    let mut open = vec![install];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap().flatten() {
            let name = entry.file_name().to_str().unwrap().to_owned();
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            } else if name.len() == 64
                && name.bytes().all(|byte| byte.is_ascii_hexdigit())
                && dir.ends_with("sha256")
            {
                found(format!("sha256:{name}"));
            }
        }
    }
}

/// What must not change through any restart.
#[derive(Debug, PartialEq)]
struct Facts {
    pid: Option<i64>,
    starts: Option<u64>,
    served: BTreeMap<String, (u64, u64)>,
    desired_applied: Value,
}

fn facts(stage: &Stage) -> Facts {
    Facts {
        pid: stage.service_pid(),
        starts: stage.service_starts(),
        served: served(stage),
        desired_applied: stage
            .unit
            .status()
            .unwrap()
            .pointer("/cm/update/appliedDesired")
            .cloned()
            .unwrap_or_default(),
    }
}

/// Cloud and Unit agree again, on what they agreed on before.
fn converge(stage: &mut Stage, what: &str) {
    let fail = |stage: &Stage, error: &dyn std::fmt::Display| -> ! {
        panic!("after {what}: {error}\n{}", stage.unit.log_tails(30));
    };
    if let Err(error) = stage.wait_online(LIMIT) {
        fail(stage, &error);
    }
    if let Err(error) = stage.wait_active(ITEM, VERSION, LIMIT) {
        fail(stage, &error);
    }
    let connected = wait_for_or_last("the Unit's own view", LIMIT, || {
        let status = stage.unit.status().map_err(|error| error.to_string())?;
        let cloud = status.pointer("/cm/cloud/state").and_then(Value::as_str).unwrap_or_default();
        let instance = status.pointer("/sm/instances/0/state").and_then(Value::as_str).unwrap_or_default();
        if cloud == "connected" && instance == "active" { Ok(()) } else { Err(status.to_string()) }
    });
    if let Err(error) = connected {
        fail(stage, &error);
    }
}

// REL-02, REL-03, ARC-22
#[test]
fn a_service_survives_kills_of_everything_around_it() {
    let site = Site::new("e2e-kills").unwrap();
    let mut stage = Stage::online(site, "e2e-unit", |step| eprintln!("{step}")).unwrap();
    let web = HttpService::new(&stage.site.dir().join("web"), ITEM, "still here").unwrap();
    web.publish(&stage.operator, VERSION).unwrap();
    stage.operator.run(&["assign", "e2e-unit", ITEM]).unwrap();
    stage.wait_active(ITEM, VERSION, LIMIT).unwrap();

    let link = stage.unit.link_to_service(service::PORT, LIMIT).unwrap();
    wait_for_or_last("the first answer", LIMIT, || {
        aos_testbed::http::get(link.address(), "/", Duration::from_secs(2)).map_err(|error| error.to_string())
    })
    .unwrap();
    let poller = Poller::start(link.address()).unwrap();
    let before = facts(&stage);
    assert!(before.pid.is_some_and(|pid| pid > 0), "{before:?}");
    assert_eq!(before.starts, Some(1));
    assert!(before.desired_applied.is_number(), "{before:?}");

    for daemon in [Daemon::Cm, Daemon::Sm, Daemon::Iam] {
        eprintln!("kill -9 {}", daemon.word());
        stage.unit.kill_9(daemon).unwrap();
        stage.unit.start(daemon).unwrap();
        stage.unit.wait_up(daemon, LIMIT).unwrap();
        converge(&mut stage, &format!("kill -9 of {}", daemon.word()));
        assert_eq!(facts(&stage), before, "after kill -9 of {}", daemon.word());
    }

    eprintln!("kill -9 cloud");
    stage.cloud.kill_9().unwrap();
    let site = std::sync::Arc::clone(&stage.site);
    stage.cloud.restart(&site).unwrap();
    converge(&mut stage, "kill -9 of the cloud");
    assert_eq!(facts(&stage), before, "after kill -9 of the cloud");

    eprintln!("kill -9 everything");
    for daemon in Daemon::ALL {
        stage.unit.kill_9(daemon).unwrap();
    }
    stage.cloud.kill_9().unwrap();
    stage.cloud.restart(&site).unwrap();
    stage.unit.start_all().unwrap();
    converge(&mut stage, "kill -9 of everything");
    assert_eq!(facts(&stage), before, "after kill -9 of everything");

    let report = poller.stop().unwrap();
    assert!(report.asked > 50 && report.failures.is_empty(), "{report:?}");
}

/// What is killed in the middle of an update.
#[derive(Debug, Clone, Copy)]
enum Victim {
    Daemon(Daemon),
    Cloud,
}

// REL-03
#[test]
fn an_update_goes_on_after_kills_at_any_moment() {
    let site = Site::new("e2e-midway").unwrap();
    let mut stage = Stage::online(site, "e2e-unit", |step| eprintln!("{step}")).unwrap();
    let site = std::sync::Arc::clone(&stage.site);
    let victims =
        [Victim::Daemon(Daemon::Cm), Victim::Daemon(Daemon::Sm), Victim::Daemon(Daemon::Iam), Victim::Cloud];
    // From "just asked" to "about to run": an undisturbed update takes some 500 ms here.
    let moments = [0, 150, 300, 450].map(Duration::from_millis);
    for (number, (victim, moment)) in
        victims.into_iter().flat_map(|victim| moments.map(|moment| (victim, moment))).enumerate()
    {
        let item = format!("web-{number}");
        let what = format!("kill -9 of {victim:?} {} ms after the wish", moment.as_millis());
        eprintln!("{what}");
        let web = HttpService::new(&site.dir().join("web"), &item, &item).unwrap();
        web.publish(&stage.operator, VERSION).unwrap();
        stage.operator.run(&["assign", "e2e-unit", &item]).unwrap();
        aos_testbed::wait::pause(moment);
        match victim {
            Victim::Daemon(daemon) => {
                stage.unit.kill_9(daemon).unwrap();
                stage.unit.start(daemon).unwrap();
            }
            Victim::Cloud => {
                stage.cloud.kill_9().unwrap();
                stage.cloud.restart(&site).unwrap();
            }
        }
        if let Err(error) = stage.wait_active(&item, VERSION, LIMIT) {
            panic!("after {what}: {error}\n{}", stage.unit.log_tails(40));
        }
        for instance in stage.unit.instances() {
            assert_eq!(instance["starts"], 1, "after {what}: {instance}");
        }
        stage.operator.run(&["unassign", "e2e-unit", &item]).unwrap();
        stage
            .wait_status("the instance to be gone", LIMIT, |status| {
                let left = aos_testbed::stage::instances(status);
                if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
            })
            .unwrap();
    }
    // Layers are of one size here, and a resumed one is not asked for from its beginning.
    let layers: Vec<(String, (u64, u64))> =
        served(&stage).into_iter().filter(|(_, (_, bytes))| *bytes > 100_000).collect();
    let size = layers.iter().map(|(_, (_, bytes))| *bytes).min().unwrap();
    for (digest, (requests, bytes)) in layers {
        assert!(bytes < 2 * size, "{digest}: {bytes} bytes in {requests} requests, its size is {size}");
    }
}

//! What an item may ask for reaches the running service through the cloud, and what becomes of it comes back.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

mod common;

use std::process::Command;

use aos_testbed::stage::InstanceFacts;
use aos_testbed::{Daemon, HttpService, Link, http, service};
use common::{ITEM, LIMIT, Scene, UNIT, Way};
use serde_json::{Value, json};

/// The instances of an item as the cloud has them.
fn facts(scene: &Scene, item: &str) -> Vec<InstanceFacts> {
    let status = scene.stage.status().unwrap_or_default();
    aos_testbed::stage::instances(&status).into_iter().filter(|one| one.item == item).collect()
}

/// Waits until the cloud has the only instance of `item` in a state.
fn wait_state(scene: &Scene, item: &str, state: &str) -> InstanceFacts {
    scene.until(&format!("{item} to be {state}"), || {
        let found = facts(scene, item);
        match found.as_slice() {
            [one] if one.state == state => Ok(one.clone()),
            other => Err(format!("{other:?}")),
        }
    })
}

/// Errors of an item's instances in the messages to the cloud, in order.
fn errors(scene: &Scene) -> Vec<(String, i64)> {
    let frames = scene.sent(Way::Out, "unitStatus");
    let of = |frame: &common::Frame| {
        let groups = frame.data()["instances"].as_array().cloned().unwrap_or_default();
        let each = groups.iter().flat_map(|group| group["instances"].as_array().cloned().unwrap_or_default());
        each.filter_map(|one| {
            let error = one.get("errorInfo").filter(|error| error.is_object())?;
            Some((error["message"].as_str()?.to_owned(), error["exitCode"].as_i64().unwrap_or_default()))
        })
        .collect::<Vec<_>>()
    };
    frames.iter().flat_map(of).collect()
}

fn handles(scene: &Scene, codename: &str, change: impl FnOnce(&mut Value)) -> HttpService {
    let service = HttpService::with_handles(&scene.stage.site.dir().join(codename), codename).unwrap();
    let mut config = service.item_config().unwrap();
    change(&mut config);
    service.set_config(&config).unwrap();
    service
}

// REL-36: readiness gates `active`; a failing liveness probe restarts, and the cloud is told why.
#[test]
fn probes_decide_what_the_cloud_sees() {
    let scene = Scene::online("e2e-probes");
    let service = handles(&scene, ITEM, |config| {
        config["probes"] = json!({
            "startTimeout": "5m",
            "readiness": {"http": {"port": service::PORT, "path": "/storage/note"}, "period": "200ms"},
            "liveness": {"exec": ["/bin/busybox", "grep", "-q", "well", "/storage/note"],
                "period": "300ms", "timeout": "20s", "failureThreshold": 2},
        });
        config["runParameters"] = json!({"startBurst": 0, "restartInterval": "500ms"});
    });
    service.publish(&scene.stage.operator, "1.0.0").unwrap();
    scene.run(&["assign", UNIT, ITEM]);
    // The process answers, and yet it is not active: what it shall show is not there.
    scene.ask("/cgi-bin/env");
    assert_eq!(wait_state(&scene, ITEM, "activating").error, "");
    scene.ask("/cgi-bin/storage?well");
    wait_state(&scene, ITEM, "active");
    assert_eq!(scene.stage.service_starts(), Some(1));

    scene.ask("/cgi-bin/storage?sick");
    scene.until("the reason in a message to the cloud", || {
        let told = errors(&scene);
        let found = told.iter().any(|(message, _)| message.contains("2 probes in a row"));
        if found { Ok(()) } else { Err(format!("{told:?}")) }
    });
    scene.until("a restart", || match scene.stage.service_starts() {
        Some(starts) if starts > 1 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    scene.until("an alert that names the item", || {
        let text = scene.run(&["alerts", UNIT]);
        let told = |line: &str| line.contains("probes in a row") && line.contains(&format!(" {ITEM}:0 "));
        if text.lines().any(told) { Ok(()) } else { Err(text) }
    });
    scene.until("the cure", || {
        scene.ask("/cgi-bin/storage?well");
        let found = facts(&scene, ITEM);
        if found.iter().all(|one| one.state == "active") { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

// SM-04, SM-05, REL-37: a process without container, from the cloud to its exit code.
#[test]
fn a_native_service_is_run_and_its_exit_told() {
    let mut scene = Scene::online("e2e-native");
    scene.stage.unit.stop(Daemon::Sm).unwrap();
    let runtime = scene.stage.unit.dir().join("run/native").display().to_string();
    scene
        .stage
        .unit
        .configure(Daemon::Sm, |config| {
            let native = json!({"plugin": "native", "type": "plain",
                "config": {"runtimeDir": runtime, "ownNetwork": true, "stopGrace": "2s"}});
            config["runtimes"].as_array_mut().unwrap().push(native);
        })
        .unwrap();
    scene.stage.unit.start_all().unwrap();
    let mut service = handles(&scene, "native", |config| {
        config["hostname"] = Value::Null;
        config["runtimes"] = json!([{"codename": "plain"}]);
        config["runParameters"] = json!({"startInterval": "1h", "startBurst": 1});
    });
    service
        .set_start(
            "trap 'echo bye; exit 7' USR1\necho \"user $(/bin/busybox id -u) in $(/bin/busybox pwd)\"\n\
             echo kept > $AOS_STORAGE_DIR/note\n$AOS_ITEM_DIR/bin/busybox httpd -f -p 8080 -h $AOS_STORAGE_DIR &\nwait $!\n",
        )
        .unwrap();
    service.publish(&scene.stage.operator, "1.0.0").unwrap();
    scene.run(&["assign", UNIT, "native"]);
    wait_state(&scene, "native", "active");
    assert_eq!(scene.ask("/note"), "kept\n");
    let text = scene.until("its log", || {
        let text = scene.run(&["logs", UNIT, "native"]);
        if text.contains("user ") { Ok(text) } else { Err(text) }
    });
    assert!(!text.contains("user 0 "), "{text}");

    let pid = scene.stage.service_pid().unwrap();
    assert!(Command::new("kill").args(["-USR1", &pid.to_string()]).status().unwrap().success());
    let failed = wait_state(&scene, "native", "failed");
    assert!(failed.error.contains('7'), "{failed:?}");
    let told = errors(&scene);
    assert!(told.iter().any(|(_, code)| *code == 7), "{told:?}");
    let table = scene.run(&["unit", "status", UNIT]);
    assert!(table.contains(&failed.error), "{table}");
    scene.run(&["unassign", UNIT, "native"]);
    scene.until("the instance to be gone", || {
        let left = facts(&scene, "native");
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

/// The answer of a handle of the instance whose item has this id.
fn call(scene: &Scene, item: &str, handle: &str, words: &str) -> Result<String, String> {
    let instances = scene.stage.unit.instances();
    let found = instances.iter().find(|one| one["item"] == *item);
    let ip = found.and_then(|one| one["ip"].as_str()).unwrap_or_default();
    let ip =
        ip.split('/').next().unwrap_or_default().parse().map_err(|_| format!("{item}: {instances:?}"))?;
    let address = std::net::SocketAddr::new(ip, service::PORT);
    let link = Link::inward(scene.stage.unit.node(), address).map_err(|error| error.to_string())?;
    let answer = http::get(link.address(), &format!("/cgi-bin/{handle}?{words}"), LIMIT);
    let answer = answer.map_err(|error| error.to_string())?;
    if answer.status == 200 {
        Ok(answer.text())
    } else {
        Err(format!("{}: {}", answer.status, answer.text()))
    }
}

// SM-06, SM-51, REL-28: services of one owner find one another by name; a storage ends at its quota.
#[test]
fn two_services_meet_by_name_and_keep_to_their_storages() {
    let mut scene = Scene::online("e2e-names");
    scene.stage.unit.stop(Daemon::Sm).unwrap();
    scene.stage.unit.configure(Daemon::Sm, |config| config["diskQuotas"] = json!("images")).unwrap();
    scene.stage.unit.start_all().unwrap();
    for name in ["front", "back"] {
        handles(&scene, name, |_| {}).publish(&scene.stage.operator, "1.0.0").unwrap();
        scene.run(&["assign", UNIT, name]);
        let active = scene.stage.wait_active(name, "1.0.0", LIMIT);
        scene.expect(active);
    }
    let status = scene.stage.status().unwrap();
    let id = |codename: &str| -> String {
        let instances = status["instances"].as_array().unwrap();
        let found = instances.iter().find(|one| one["item"]["codename"] == codename).unwrap();
        found["item"]["id"].as_str().unwrap().to_owned()
    };
    let (front, back) = (id("front"), id("back"));
    scene.until("the other one's page by name", || {
        let text = call(&scene, &front, "fetch", "back:8080/bin/start")?;
        if text.contains("service starts") { Ok(()) } else { Err(text) }
    });
    scene.until("an unknown name to be unknown", || {
        let text = call(&scene, &back, "fetch", "nobody:8080/")?;
        if text.contains("bad address") { Ok(()) } else { Err(text) }
    });

    // 1 MiB of storage.
    let fill = |item: &str, kib: &str, words: &[&str]| {
        scene.until(&format!("{kib} KiB in a file of the storage"), || {
            let text = call(&scene, item, "fill", &format!("/storage/file:{kib}"))?;
            if words.iter().any(|word| text.contains(word)) { Ok(()) } else { Err(text) }
        });
    };
    fill(&front, "2048", &["quota exceeded", "No space left"]);
    fill(&front, "100", &["written"]);
    fill(&back, "100", &["written"]);
}

// SM-06, SM-51, CM-52, REL-29: between companies both must agree, and the one names the other's item as people know it.
#[test]
fn a_service_of_another_company_reaches_what_both_allow() {
    let mut scene = Scene::online("e2e-companies");
    let other = scene.stage.operator.colleague(&scene.stage.site, &scene.stage.cloud, "sp", "Other").unwrap();
    handles(&scene, "back", |_| {}).publish(&scene.stage.operator, "1.0.0").unwrap();
    let wrong = handles(&scene, "wrong", |config| config["allowedConnections"] = json!(["nowhere/8080"]));
    let refused = aos_testbed::chain(&wrong.publish(&other, "1.0.0").unwrap_err());
    assert!(refused.contains("no item 'nowhere'") && refused.contains("publish that one first"), "{refused}");
    let guest =
        handles(&scene, "guest", |config| config["allowedConnections"] = json!({"back/8080/tcp": {}}));
    let lone = handles(&scene, "lone", |_| {});
    for service in [&guest, &lone] {
        service.publish(&other, "1.0.0").unwrap();
    }
    for item in ["back", "guest", "lone"] {
        scene.run(&["assign", UNIT, item]);
        let active = scene.stage.wait_active(item, "1.0.0", LIMIT);
        scene.expect(active);
    }
    let status = scene.stage.status().unwrap();
    let id = |codename: &str| -> String {
        let instances = status["instances"].as_array().unwrap();
        let found = instances.iter().find(|one| one["item"]["codename"] == codename).unwrap();
        found["item"]["id"].as_str().unwrap().to_owned()
    };
    let address = |codename: &str| -> String {
        let instances = scene.stage.unit.instances();
        let found = instances.iter().find(|one| one["item"] == *id(codename)).unwrap();
        found["ip"].as_str().unwrap().split('/').next().unwrap().to_owned()
    };
    let (back, to_guest) = (address("back"), address("guest"));
    let page = |from: &str, to: &str| call(&scene, &id(from), "fetch", &format!("{to}:8080/bin/start"));
    scene.until("the page of the other company", || {
        let text = page("guest", &back)?;
        if text.contains("service starts") { Ok(()) } else { Err(text) }
    });
    for (from, to) in [("lone", &back), ("back", &to_guest)] {
        let text = scene.until("an answer", || page(from, to));
        assert!(!text.contains("service starts"), "{from} reaches {to}: {text}");
    }
    // Its own company's are open to it.
    scene.until("the page of its own company", || {
        let text = page("lone", &to_guest)?;
        if text.contains("service starts") { Ok(()) } else { Err(text) }
    });
}

//! Native services: processes without container.

use std::fs;
use std::path::Path;

use aos_keep::process;
use aos_sm::runtime_id;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::cm::wait_for;
use crate::image::{Tar, base_layer, lone_user, wish};
use crate::sm::Sm;
use crate::tests::number;

const KIND: &str = "plain";

pub fn native() -> String {
    runtime_id(KIND, "node1")
}

/// A Service Manager with a native runtime beside the container runtime.
pub async fn with_native(change: impl FnOnce(&mut Value)) -> Sm {
    Sm::start_with("crun", |config| {
        let mut runtime = json!({"plugin": "native", "type": KIND, "config": {
            "runtimeDir": "/run/aos-native", "cgroupParent": "/aos-test-native", "stopGrace": "1s"}});
        change(&mut runtime["config"]);
        config["runtimes"].as_array_mut().unwrap().push(runtime);
    })
    .await
}

fn status_of(pid: i32, key: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap().split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

// SM-04, SM-05, SM-47, SM-49, SM-50, REL-37
pub async fn a_native_service_has_user_files_and_limits() {
    let sm = with_native(|_| {}).await;
    let files = Tar::new().dir("opt").file("opt/words", b"from the item\n", 0o644).done();
    let script = "cd $AOS_ITEM_DIR; b=$AOS_ITEM_DIR/bin/busybox; $b cat opt/words; $b touch opt/new || echo read-only; \
        echo $COLOUR $AOS_INSTANCE_INDEX $AOS_ITEM_ID; echo kept >> $AOS_STATE_FILE; $b touch $AOS_STORAGE_DIR/f && echo stored; \
        ulimit -n; $b touch /tmp/x && echo tmp; $b cat /etc/os-release >/dev/null && echo host; \
        i=0; while [ $i -lt 12 ]; do $b sleep 1000 & i=$((i+1)); done; echo all; wait";
    let item = json!({"quotas": {"noFileLimit": 99, "pidsLimit": 8, "tmpLimit": 1_048_576, "ramLimit": 67_108_864},
        "runParameters": {"startInterval": "1h", "startBurst": 1}});
    let image = sm.blobs.image(&[base_layer(), files], script, item);
    let mut info = wish(0, "1.0.0", &image, &native());
    info.uid = lone_user();
    info.env_vars =
        vec![aos_unit_api::servicemanager::v5::EnvVarInfo { name: "COLOUR".into(), value: "red".into() }];
    info.state_path = "n/state".into();
    info.storage_path = "n/storage".into();
    sm.cm.update(vec![info], vec![]).await;
    sm.cm.wait_status(0, |status| status.state != "activating").await;
    let local = sm.instance(0).await;
    let id = local["id"].as_str().unwrap();
    let log = wait_for("the output", || Some(sm.log(id)).filter(|log| log.contains("can't fork"))).await;
    for line in ["from the item\n", "read-only\n", "red 0 mine\n", "stored\n", "99\n", "tmp\n", "host\n"] {
        assert!(log.contains(line), "'{line}' is not in:\n{log}");
    }
    assert!(!log.contains("all\n"), "more processes than allowed:\n{log}");
    assert!(!Path::new("/tmp/x").exists(), "its /tmp is its own");
    let work = sm.folder.path().join("work");
    assert_eq!(fs::read_to_string(work.join("states/n/state")).unwrap(), "kept\n");
    assert!(work.join("storages/n/storage/f").exists());
}

// SM-04, REL-37
pub async fn a_native_service_has_its_own_network_when_configured() {
    let sm = with_native(|config| config["ownNetwork"] = json!(true)).await;
    let script = "b=$AOS_ITEM_DIR/bin/busybox; $b cat /etc/hosts; $b ip addr show eth0; exec $b sleep 1000";
    let image = sm.blobs.simple(script, json!({"hostname": "plainly"}));
    let other = sm.blobs.simple("exec $AOS_ITEM_DIR/bin/busybox sleep 1000", json!({}));
    sm.cm
        .update(vec![wish(0, "1.0.0", &image, &native()), wish(1, "1.0.0", &other, &native())], vec![])
        .await;
    sm.cm.wait_state(0, "active").await;
    sm.cm.wait_state(1, "active").await;
    let local = sm.instance(0).await;
    let (id, ip) = (local["id"].as_str().unwrap(), local["ip"].as_str().unwrap());
    let log = wait_for("the output", || Some(sm.log(id)).filter(|log| log.contains("eth0"))).await;
    assert!(log.contains(&format!("inet {ip}/")), "{log}");
    assert!(log.contains("plainly"), "{log}");
    assert!(!fs::read_to_string("/etc/hosts").unwrap_or_default().contains("plainly"));
    let space = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    let (one, two) = (number(&local["pid"]), number(&sm.instance(1).await["pid"]));
    assert_ne!(space(one), space(two));
    assert_ne!(space(one), fs::read_link("/proc/self/ns/net").unwrap());
}

// SM-04, SM-54, REL-37
pub async fn native_services_survive_and_leave_nothing_behind() {
    let mut sm = with_native(|_| {}).await;
    // The second process leaves the group of the first and ignores SIGTERM.
    let script = "b=$AOS_ITEM_DIR/bin/busybox; (trap '' TERM; $b setsid $b sleep 4711) & trap 'exit 7' TERM; \
        while :; do $b sleep 0.05; done";
    let image = sm.blobs.simple(script, json!({}));
    let dies = sm.blobs.simple("exit 23", json!({"runParameters": {"startInterval": "1h", "startBurst": 1}}));
    let missing = sm.blobs.simple("exit 0", json!({"resources": [{"name": "none"}]}));
    sm.cm
        .update(
            vec![
                wish(0, "1.0.0", &image, &native()),
                wish(1, "1.0.0", &dies, &native()),
                wish(2, "1.0.0", &missing, &native()),
            ],
            vec![],
        )
        .await;
    sm.cm.wait_state(0, "active").await;
    let failed = sm.cm.wait_state(1, "failed").await;
    assert_eq!(failed.error.unwrap().exit_code, 23);
    sm.cm.wait_state(2, "failed").await;
    let pid = number(&sm.instance(0).await["pid"]);
    let start = process::start_time(pid).unwrap();
    assert_eq!(status_of(pid, "Uid"), "5001 5001 5001 5001");
    assert_eq!(status_of(pid, "Gid"), "5002 5002 5002 5002");
    assert_eq!(status_of(pid, "Groups"), "");
    assert_eq!(status_of(pid, "NoNewPrivs"), "1");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status_of(pid, set), "0000000000000000", "{set}");
    }
    for orderly in [false, true] {
        if orderly {
            sm.stop();
        } else {
            sm.kill();
        }
        let streams = sm.cm.count("RegisterSM");
        sm.launch();
        wait_for("another stream", || (sm.cm.count("RegisterSM") > streams).then_some(())).await;
        sm.cm.wait_state(0, "active").await;
        assert!(process::is_running(pid, start), "it runs on");
        assert_eq!(sm.instance(0).await["starts"], 1);
    }
    // It ends while nobody is there.
    sm.kill();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    wait_for("the end", || (!process::is_running(pid, start)).then_some(())).await;
    let before = sm.cm.history(0).len();
    sm.launch();
    wait_for("the report", || {
        sm.cm.history(0).iter().skip(before).any(|(_, code)| *code == 137).then_some(())
    })
    .await;
    sm.cm.wait_state(0, "active").await;
    sm.cm.update(vec![], vec![0, 1, 2]).await;
    wait_for("an empty list", || {
        use aos_unit_api::servicemanager::v5::sm_outgoing_messages::SmOutgoingMessage as FromSm;
        let last = sm.cm.messages().into_iter().rev().find_map(|message| match message {
            FromSm::NodeInstancesStatus(list) => Some(list.instances.is_empty()),
            _ => None,
        });
        (last == Some(true)).then_some(())
    })
    .await;
    let sleeping = fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        fs::read(entry.path().join("cmdline")).is_ok_and(|text| text.windows(4).any(|part| part == b"4711"))
    });
    assert!(!sleeping, "what left the process group is ended, too");
    let left = fs::read_dir("/run/aos-native").unwrap().flatten();
    let left: Vec<_> = left.filter(|entry| entry.file_name().to_string_lossy().len() == 36).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(!fs::read_to_string("/proc/self/mounts").unwrap().contains("/run/aos-native/"));
    for parent in ["/sys/fs/cgroup/memory/aos-test-native", "/sys/fs/cgroup/aos-test-native"] {
        let inside = fs::read_dir(parent).into_iter().flatten().flatten();
        assert_eq!(inside.filter(|entry| entry.path().is_dir()).count(), 0, "{parent}");
    }
}

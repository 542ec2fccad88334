//! How instances end, by themselves and when they are told to.

use std::fs;
use std::path::Path;

use aos_keep::process;
use aos_unit_api::servicemanager::v5::sm_outgoing_messages::SmOutgoingMessage as FromSm;
use serde_json::json;

use crate::cm::wait_for;
use crate::image::{lone_user, wish};
use crate::sm::Sm;
use crate::tests::{number, with_tmp};

pub async fn a_crash_loop_ends_after_the_burst_with_the_exit_code() {
    let sm = Sm::start("crun").await;
    let mut item = with_tmp();
    item["runParameters"] = json!({"startInterval": "1m", "startBurst": 3, "restartInterval": "50ms"});
    let image = sm.blobs.simple("echo started; exit 9", item);
    sm.cm.update(vec![wish(0, "1.0.0", &image, &sm.runtime)], vec![]).await;
    let local = wait_for_starts(&sm, 3).await;
    let status = sm.cm.wait_state(0, "failed").await;
    let error = status.error.unwrap();
    assert_eq!((error.aos_code, error.exit_code), (2, 9));
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert_eq!(sm.log(local["id"].as_str().unwrap()).matches("started").count(), 3);
    assert_eq!(sm.instance(0).await["starts"], 3);
    let failures = sm.cm.history(0).iter().filter(|(state, code)| state == "failed" && *code == 9).count();
    assert_eq!(failures, 3);
}

async fn wait_for_starts(sm: &Sm, starts: u64) -> serde_json::Value {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(40);
    loop {
        let local = sm.instance(0).await;
        if local["starts"] == starts && local["state"] == "failed" {
            return local;
        }
        assert!(std::time::Instant::now() < deadline, "{local}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

pub async fn limits_of_memory_and_processes_hold() {
    let sm = Sm::start("crun").await;
    let once = json!({"startInterval": "1h", "startBurst": 1});
    let eater = sm.blobs.simple(
        "/bin/busybox dd if=/dev/zero of=/dev/null bs=100M count=1; echo dd=$?; exec /bin/busybox sleep 1000",
        json!({"quotas": {"ramLimit": 33_554_432}, "runParameters": once}),
    );
    let forker = sm.blobs.simple(
        "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do /bin/busybox sleep 1000 & done; echo all; wait",
        json!({"quotas": {"pidsLimit": 8}, "runParameters": once}),
    );
    let mut forking = wish(1, "1.0.0", &forker, &sm.runtime);
    forking.uid = lone_user();
    sm.cm.update(vec![wish(0, "1.0.0", &eater, &sm.runtime), forking], vec![]).await;
    let id = |instance: u64| {
        let sm = &sm;
        async move { sm.instance(instance).await["id"].as_str().unwrap().to_owned() }
    };
    sm.cm.wait_status(0, |status| status.state == "active" || status.state == "failed").await;
    let eater = id(0).await;
    wait_for("the out-of-memory kill", || sm.log(&eater).contains("dd=137").then_some(())).await;
    let forker = id(1).await;
    wait_for("the failing fork", || sm.log(&forker).contains("can't fork").then_some(())).await;
}

pub fn links() -> Vec<String> {
    let names = fs::read_dir("/sys/class/net").unwrap().flatten();
    // The box's own view of /sys is the host's; the links of this namespace are in /proc.
    drop(names);
    let text = fs::read_to_string("/proc/net/dev").unwrap();
    text.lines()
        .skip(2)
        .filter_map(|line| Some(line.split(':').next()?.trim().to_owned()))
        .filter(|name| name != "lo")
        .collect()
}

pub async fn what_is_stopped_leaves_nothing_behind() {
    let sm = Sm::start("crun").await;
    let image = sm.blobs.simple("exec /bin/busybox sleep 1000", with_tmp());
    let both = vec![wish(0, "1.0.0", &image, &sm.runtime), wish(1, "1.0.0", &image, &sm.runtime)];
    sm.cm.update(both, vec![]).await;
    sm.cm.wait_state(0, "active").await;
    sm.cm.wait_state(1, "active").await;
    assert_eq!(links().len(), 3, "a bridge and two cables: {:?}", links());
    sm.cm.update(vec![], vec![0]).await;
    wait_for("the release", || (sm.cm.count("ReleaseInstanceNetwork") == 1).then_some(())).await;
    assert_eq!(links().len(), 2);
    sm.cm.update(vec![], vec![1]).await;
    wait_for("the release", || (sm.cm.count("ReleaseNodeNetwork") == 1).then_some(())).await;
    wait_for("an empty list", || {
        matches!(sm.cm.messages().last(), Some(FromSm::NodeInstancesStatus(list)) if list.instances.is_empty()).then_some(())
    })
    .await;
    assert_eq!(links(), Vec::<String>::new());
    assert_eq!(sm.cm.history(1).last().unwrap().0, "inactive");
    let left: Vec<String> = fs::read_dir("/run/aos/runtime")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.contains('-'))
        .collect();
    assert_eq!(left, Vec::<String>::new());
    assert_eq!(fs::read_dir("/run/aos/runtime/netns").unwrap().count(), 0);
    assert_eq!(fs::read_dir("/run/oci").unwrap().count(), 0);
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains("/run/aos/runtime/"), "{mounts}");
    let cgroups = ["/sys/fs/cgroup/memory/aos-test", "/sys/fs/cgroup/aos-test"];
    for group in cgroups.iter().filter(|group| Path::new(group).exists()) {
        let inside = fs::read_dir(group).unwrap().flatten().filter(|entry| entry.path().is_dir()).count();
        assert_eq!(inside, 0, "cgroups are left in {group}");
    }
}

pub async fn a_stubborn_process_is_killed_after_the_grace_time() {
    let sm = Sm::start("crun").await;
    let image = sm.blobs.simple("trap '' TERM; while :; do /bin/busybox sleep 0.1; done", with_tmp());
    let polite = sm.blobs.simple(
        "trap 'echo > /storage/bye; exit 0' TERM; while :; do /bin/busybox sleep 0.1; done",
        with_tmp(),
    );
    let mut second = wish(1, "1.0.0", &polite, &sm.runtime);
    second.storage_path = "polite".into();
    sm.cm.update(vec![wish(0, "1.0.0", &image, &sm.runtime), second], vec![]).await;
    sm.cm.wait_state(0, "active").await;
    sm.cm.wait_state(1, "active").await;
    let pid = number(&sm.instance(0).await["pid"]);
    let start = process::start_time(pid).unwrap();
    sm.cm.update(vec![], vec![0, 1]).await;
    wait_for("the end", || (!process::is_running(pid, start)).then_some(())).await;
    let words = sm.folder.path().join("work/storages/polite/bye");
    wait_for("the last words", || words.exists().then_some(())).await;
    sm.cm
        .wait_message(|m| {
            matches!(m, FromSm::NodeInstancesStatus(list) if list.instances.is_empty()).then_some(())
        })
        .await;
}

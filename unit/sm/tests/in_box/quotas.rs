//! Each limit of an item, proved by a service that exceeds it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::cm::wait_for;
use crate::image::{lone_user, wish};
use crate::sm::Sm;
use crate::watch::wait_alert;

const MIB: u64 = 1024 * 1024;
const PARENT: &str = "aos-test";

// SM-05: CPU, memory, processes, open files, space in /tmp., REL-28
pub async fn crun_keeps_each_limit() {
    keeps_each_limit("crun").await;
}

// SM-05: the same with the other runtime.
pub async fn runc_keeps_each_limit() {
    keeps_each_limit("runc").await;
}

fn once() -> Value {
    json!({"startInterval": "1h", "startBurst": 1})
}

async fn keeps_each_limit(runtime: &str) {
    let sm = Sm::start(runtime).await;
    let services = [
        // A tenth of one processor: 500 of 10000 DMIPS on two.
        ("while :; do :; done", json!({"cpuDMIPSLimit": 500})),
        // The kernel ends the only process.
        ("exec /bin/busybox dd if=/dev/zero of=/dev/null bs=200M count=1", json!({"ramLimit": 33_554_432})),
        (
            "i=0; while [ $i -lt 12 ]; do /bin/busybox sleep 1000 & i=$((i+1)); done; echo all; wait",
            json!({"pidsLimit": 8}),
        ),
        (
            "b=/bin/busybox; i=0; while [ $i -lt 40 ]; do set -- \"$@\" $b; i=$((i+1)); done; exec $b tail -n 0 -f \"$@\"",
            json!({"noFileLimit": 32}),
        ),
        (
            "/bin/busybox dd if=/dev/zero of=/tmp/big bs=64k count=100; /bin/busybox wc -c /tmp/big; exec /bin/busybox sleep 1000",
            json!({"tmpLimit": MIB}),
        ),
    ];
    let mut wishes = Vec::new();
    for (number, (script, quotas)) in (0..).zip(services) {
        let item = json!({"quotas": quotas, "runParameters": once()});
        let mut info = wish(number, "1.0.0", &sm.blobs.simple(script, item), &sm.runtime);
        info.uid = lone_user() + u32::try_from(number).unwrap();
        wishes.push(info);
    }
    sm.cm.update(wishes, vec![]).await;
    let mut ids = Vec::new();
    for number in 0..5 {
        sm.cm.wait_status(number, |status| status.state != "activating").await;
        ids.push(sm.instance(number).await["id"].as_str().unwrap().to_owned());
    }
    let said = |number: usize, words: &'static str| {
        let (sm, id) = (&sm, ids[number].clone());
        async move { wait_for(words, || Some(sm.log(&id)).filter(|log| log.contains(words))).await }
    };

    // What it uses is bounded by the kernel's own periods, however busy this machine is: a tenth of each, where a
    // processor of its own would be all of it. What the runtime took before the limit does not count.
    let after = |throttled: u64| {
        let id = ids[0].as_str();
        wait_for("throttled periods", move || cpu_of(id).filter(|found| found.1 >= throttled))
    };
    let before = after(5).await;
    let (periods, throttled, used) = after(before.1 + 20).await;
    let (periods, used) = (periods - before.0, used - before.2);
    assert!(used <= (periods + 2) * 20_000, "{used} us in {periods} periods, {throttled} throttled");

    let status = sm.cm.wait_status(1, |status| status.state == "failed").await;
    let error = status.error.unwrap();
    assert_eq!(error.exit_code, 137, "{error:?}");
    assert!(error.message.contains("memory"), "the reason is told: {error:?}");

    let log = said(2, "can't fork").await;
    assert!(!log.contains("all"), "{log}");
    // Standard streams are open, too.
    let refused = "Too many open files";
    let log =
        wait_for("11 refusals", || Some(sm.log(&ids[3])).filter(|log| log.matches(refused).count() >= 11))
            .await;
    assert_eq!(log.matches(refused).count(), 11, "{log}");
    let log = said(4, "/tmp/big").await;
    assert!(log.contains("No space left on device"), "{log}");
    let size = log.lines().find_map(|line| line.strip_suffix(" /tmp/big")?.parse::<u64>().ok()).unwrap();
    assert_eq!(size, MIB);
}

/// Periods, throttled periods and microseconds used of an instance, with either version of cgroups.
fn cpu_of(id: &str) -> Option<(u64, u64, u64)> {
    let root = Path::new("/sys/fs/cgroup");
    let read = |path: PathBuf| fs::read_to_string(path).ok();
    let below = |controller: &str| root.join(controller).join(PARENT).join(id);
    let v2 = root.join("cgroup.controllers").exists();
    let text = read(if v2 { below("").join("cpu.stat") } else { below("cpu").join("cpu.stat") })?;
    let number = |key: &str| {
        text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse::<u64>().ok())
    };
    let used = match number("usage_usec") {
        Some(used) => used,
        None => read(below("cpuacct").join("cpuacct.usage"))?.trim().parse::<u64>().ok()? / 1000,
    };
    Some((number("nr_periods")?, number("nr_throttled")?, used))
}

/// A file system of the box's own, made by `make`.
fn disk(make: &[&str], options: &str, mib: u64) -> PathBuf {
    let folder = tempfile::Builder::new().prefix("aos-disk-").tempdir_in("/var/tmp").unwrap();
    let (image, place) = (folder.path().join("image"), PathBuf::from("/run/disk"));
    fs::File::create(&image).unwrap().set_len(mib * MIB).unwrap();
    fs::create_dir_all(&place).unwrap();
    let run = |command: &mut Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    run(Command::new(make[0]).args(&make[1..]).arg(&image));
    run(Command::new("mount").args(["-o", options]).arg(&image).arg(&place));
    // The mount holds the file; both end with the box.
    place
}

fn places_on(disk: &Path, config: &mut Value) {
    config["runtimes"][0]["config"]["storageDir"] = json!(disk.join("storages"));
    config["runtimes"][0]["config"]["stateDir"] = json!(disk.join("states"));
}

const FILLER: &str = "b=/bin/busybox; for f in /storage/big /state.dat; do $b dd if=/dev/zero of=$f bs=64k count=400 conv=fsync; done; \
    $b wc -c /storage/big /state.dat; echo done; exec $b sleep 1000";

/// Starts a service that fills its storage and state; answers their sizes and what the kernel said.
async fn fill(sm: &Sm, number: u64, storage: u64, state: u64) -> (u64, u64, String) {
    let item = json!({"quotas": {"storageLimit": storage, "stateLimit": state}, "runParameters": once()});
    let image = sm.blobs.simple(FILLER, item);
    let mut info = wish(number, "1.0.0", &image, &sm.runtime);
    (info.uid, info.gid) = (5001 + u32::try_from(number).unwrap(), 5002);
    info.monitoring_parameters = Some(Default::default());
    info.storage_path = format!("item/subject/{number}");
    info.state_path = format!("item/subject/{number}/state.dat");
    sm.cm.update(vec![info], vec![]).await;
    sm.cm.wait_status(number, |status| status.state == "active").await;
    let id = sm.instance(number).await["id"].as_str().unwrap().to_owned();
    let log = wait_for("both to be full", || Some(sm.log(&id)).filter(|log| log.contains("done"))).await;
    let size = |name: &str| {
        log.lines().find_map(|line| line.trim().strip_suffix(name)?.trim().parse().ok()).unwrap()
    };
    (size("/storage/big"), size("/state.dat"), log.clone())
}

// SM-05, CM-18, REL-28
pub async fn storage_and_state_are_limited_on_btrfs() {
    let disk = disk(&["mkfs.btrfs", "-q", "-f"], "loop", 256);
    let mut sm = Sm::start_with("crun", |config| {
        places_on(&disk, config);
        config["diskQuotas"] = json!("required");
        config["monitoring"] = json!({"pollPeriod": "1s", "averageWindow": "1s"});
    })
    .await;
    let (storage, state, log) = fill(&sm, 0, 8 * MIB, MIB).await;
    let full = wait_alert(&sm, "its storage is nearly full").await;
    assert!(full.starts_with("instance 0 1.0.0 "), "{full}");
    assert!((6 * MIB..=8 * MIB).contains(&storage), "{log}");
    assert!(state <= MIB && log.matches("Disk quota exceeded").count() == 2, "{log}");
    // A neighbour is not touched, and nothing changes by a restart of ours.
    sm.restart().await;
    let (storage, _, log) = fill(&sm, 1, 4 * MIB, MIB).await;
    assert!((2 * MIB..=4 * MIB).contains(&storage), "{log}");
}

// SM-05, CM-18. Needs a kernel with user quotas: run by `other_kernel`, here it says why it does nothing.
pub async fn storage_and_state_are_limited_by_user_quota() {
    let make = ["mkfs.ext4", "-q", "-F", "-O", "quota", "-E", "quotatype=usrquota"];
    let disk = disk(&make, "loop,usrquota", 96);
    let sm = Sm::start_with("crun", |config| {
        places_on(&disk, config);
        config["diskQuotas"] = json!("required");
    })
    .await;
    // One user: storage and state share the sum of both limits.
    let (storage, state, log) = fill(&sm, 0, 8 * MIB, MIB).await;
    assert!((8 * MIB..=9 * MIB).contains(&(storage + state)), "{log}");
    assert!(log.matches("Disk quota exceeded").count() == 2, "{log}");
    let (storage, state, log) = fill(&sm, 1, 4 * MIB, MIB).await;
    assert!((4 * MIB..=5 * MIB).contains(&(storage + state)), "{log}");
}

// SM-05, REL-28
pub async fn a_storage_without_quotas_is_limited_by_its_image() {
    let disk = disk(&["mkfs.ext4", "-q", "-F"], "loop", 96);
    let mut sm = Sm::start_with("crun", |config| {
        places_on(&disk, config);
        config["diskQuotas"] = json!("images");
        config["monitoring"] = json!({"pollPeriod": "1s", "averageWindow": "1s"});
    })
    .await;
    let (storage, _, log) = fill(&sm, 0, 8 * MIB, 65536).await;
    wait_alert(&sm, "its storage is nearly full").await;
    assert!((7 * MIB..=9 * MIB).contains(&storage), "{log}");
    assert!(log.contains("No space left on device"), "{log}");
    assert_eq!(images(), 1);
    // After the death of ours the instance goes on with its storage; when it is not wanted any more nothing of it
    // stays mounted.
    sm.restart().await;
    assert_eq!(images(), 1);
    sm.cm.update(vec![], vec![0]).await;
    wait_for("the image to be unmounted", || (images() == 0).then_some(())).await;
    assert!(disk.join("storages/item/subject/0/.aos-storage.img").exists(), "the data stays");
}

/// Mounted images of storages.
fn images() -> usize {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    text.lines().filter(|line| line.contains(" /run/disk/storages/") && line.contains(" ext4 ")).count()
}

// Where nothing keeps a limit, the configuration says whether that is an error.
pub async fn what_cannot_be_limited_is_refused_if_wanted() {
    let disk = disk(&["mkfs.ext4", "-q", "-F"], "loop", 32);
    let sm = Sm::start_with("crun", |config| {
        places_on(&disk, config);
        config["diskQuotas"] = json!("required");
    })
    .await;
    let image = sm.blobs.simple(
        "exec /bin/busybox sleep 1000",
        json!({"quotas": {"stateLimit": 1000}, "runParameters": once()}),
    );
    let mut info = wish(0, "1.0.0", &image, &sm.runtime);
    info.state_path = "item/subject/0/state.dat".into();
    sm.cm.update(vec![info], vec![]).await;
    let status = sm.cm.wait_status(0, |status| status.state == "failed").await;
    let message = status.error.unwrap().message;
    assert!(message.contains("cannot be kept") && message.contains("quota"), "{message}");
}

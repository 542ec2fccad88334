//! Starts, commands inside, ends, and what is done without the OCI runtime when that fails or hangs.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use aos_keep::process;
use aos_sm::Error;
use aos_sm::parts::{ContainerRuntime, Grace, Keeper, NodeFigures, Runtime};
use serde_json::json;
use tokio::sync::mpsc;

use crate::rig::wait_for;
use crate::rig::{Rig, UID};

const NOW: Grace = Grace::Of(Duration::ZERO);

pub async fn crun_ends_every_process() {
    ends_every_process("crun").await;
}

pub async fn runc_ends_every_process() {
    ends_every_process("runc").await;
}

async fn ends_every_process(program: &str) {
    for users in [false, true] {
        let rig = Rig::new(program, users).await;
        let script = "trap '' TERM; for i in 1 2 3; do \
            /bin/busybox setsid /bin/busybox sh -c \"trap '' TERM HUP; while :; do /bin/busybox sleep 1; done\" & done; \
            echo up; while :; do /bin/busybox sleep 1; done";
        let (id, pid) = rig.start(&rig.job(0, script, json!({}))).await;
        rig.printed(&id, "up").await;
        wait_for("all processes", || (rig.processes(&id).len() >= 4).then_some(())).await;
        let start = process::start_time(pid).unwrap();
        let begun = Instant::now();
        rig.runtime.stop(&id, Grace::Of(Duration::from_millis(300))).await.unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(300), "it was given its time");
        assert!(!process::is_running(pid, start));
        rig.assert_nothing_is_left(&id);
        rig.runtime.stop(&id, NOW).await.unwrap();
        // A polite one is not made to wait.
        let script = "trap 'echo bye; exit 0' TERM; echo up; while :; do /bin/busybox sleep 0.05; done";
        let (id, _) = rig.start(&rig.job(1, script, json!({}))).await;
        rig.printed(&id, "up").await;
        let long = Duration::from_mins(1);
        let begun = Instant::now();
        rig.runtime.stop(&id, Grace::Of(long)).await.unwrap();
        assert!(begun.elapsed() < long);
        assert!(rig.log(&id).contains("bye"));
        rig.assert_nothing_is_left(&id);
    }
}

pub async fn crun_runs_commands_inside() {
    runs_commands_inside("crun").await;
}

pub async fn runc_runs_commands_inside() {
    runs_commands_inside("runc").await;
}

async fn runs_commands_inside(program: &str) {
    for users in [false, true] {
        let rig = Rig::new(program, users).await;
        let (id, pid) = rig.start(&rig.job(0, "echo up; exec /bin/busybox sleep 1000", json!({}))).await;
        rig.printed(&id, "up").await;
        let argv = |script: &str| ["/bin/busybox", "sh", "-c", script].map(str::to_owned);
        let long = Duration::from_mins(1);
        if users && program == "runc" {
            // runc before 1.2 cannot enter a network namespace that does not belong to the user namespace.
            let error = rig.runtime.exec(&id, &argv("exit 0"), long).await;
            assert!(matches!(error, Ok(0) | Err(Error::Runtime { .. })), "{error:?}");
            rig.runtime.stop(&id, NOW).await.unwrap();
            rig.assert_nothing_is_left(&id);
            continue;
        }
        let status = |script: &'static str| {
            let rig = &rig;
            let id = &id;
            async move { rig.runtime.exec(id, &argv(script), long).await.unwrap() }
        };
        assert_eq!(status("exit 0").await, 0);
        assert_eq!(status("exit 7").await, 7);
        assert_eq!(status("kill -9 $$").await, 137);
        let same = "b=/bin/busybox; $b test $($b id -u) = 5001 && $b grep -q 'Seccomp:.2' /proc/self/status && \
            $b grep -q 'NoNewPrivs:.1' /proc/self/status && ! $b touch /x";
        assert_eq!(UID, 5001);
        assert_eq!(status(same).await, 0, "as confined as the service itself");
        // A lot of output is no obstacle, and none of it goes anywhere.
        assert_eq!(status("/bin/busybox seq 1 300000").await, 0);
        assert!(!rig.log(&id).contains("299999"));
        let error = rig.runtime.exec(&id, &argv("/bin/busybox sleep 777"), Duration::from_millis(700)).await;
        assert!(error.is_err());
        wait_for("the end of the late command", || (rig.processes(&id) == [pid]).then_some(())).await;
        assert!(rig.runtime.exec("no-such", &argv("exit 0"), long).await.is_err());
        let null = fs::metadata("/dev/null").unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&null), 0);
        rig.runtime.stop(&id, NOW).await.unwrap();
        rig.assert_nothing_is_left(&id);
    }
}

/// A script in the place of the OCI runtime; `$real` is the real one.
fn program(rig_folder: &std::path::Path, text: &str) -> PathBuf {
    let path = rig_folder.join("runtime.sh");
    fs::write(&path, format!("#!/bin/sh\nreal=/usr/bin/crun\n{text}\nexec $real \"$@\"\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

pub async fn a_runtime_that_fails_or_hangs_leaves_nothing() {
    // It fails after it has made half of the container.
    let half = "case \"$*\" in *' run '*) : ;; *) exec $real \"$@\" ;; esac\n\
        log=$(echo \"$*\" | sed 's/.*--log \\([^ ]*\\) .*/\\1/'); \
        $real $(echo \"$*\" | sed 's/ run --detach / create /') >/dev/null 2>&1 || exit 9; \
        echo 'something broke' >> \"$log\"; exit 7";
    let rig = Rig::with("crun", true, |config| {
        config.executable = program(config.log_dir.parent().unwrap(), half);
    })
    .await;
    let job = rig.job(0, "echo up", json!({}));
    match rig.runtime.start(&job).await {
        Err(Error::Runtime { status, message, .. }) => {
            assert_eq!(status, 7);
            assert!(message.contains("something broke"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    rig.assert_nothing_is_left(&job.info.id());

    // It never ends a delete, and knows nothing about any container.
    let hanging = "case \"$*\" in *' delete '*) exec sleep 1000 ;; *' state '*) exit 1 ;; esac";
    let rig = Rig::with("crun", false, |config| {
        config.executable = program(config.log_dir.parent().unwrap(), hanging);
    })
    .await;
    let (id, pid) = rig.start(&rig.job(1, "echo up; exec /bin/busybox sleep 1000", json!({}))).await;
    rig.printed(&id, "up").await;
    let start = process::start_time(pid).unwrap();
    // Our own note is lost as well.
    fs::remove_file(rig.config.runtime_dir.join(&id).join("process.json")).unwrap();
    rig.runtime.stop(&id, NOW).await.unwrap();
    assert!(!process::is_running(pid, start));
    rig.assert_nothing_is_left(&id);
}

pub async fn leftovers_go_and_what_runs_is_not_disturbed() {
    let rig = Rig::new("crun", true).await;
    let script = "echo up; exec /bin/busybox sleep 1000";
    let mut ids = Vec::new();
    for number in 0..4 {
        let (id, pid) = rig.start(&rig.job(number, script, json!({}))).await;
        rig.printed(&id, "up").await;
        ids.push((id, pid, process::start_time(pid).unwrap()));
    }
    // 0 runs and is wanted; 1 runs and is not; 2 is wanted and has died; of 3 only the mounts are there.
    let kill = |pid| {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    };
    kill(ids[2].1);
    kill(ids[3].1);
    wait_for("two ends", || {
        (!process::is_running(ids[2].1, ids[2].2) && !process::is_running(ids[3].1, ids[3].2)).then_some(())
    })
    .await;
    fs::remove_dir_all(rig.config.state_root.join(&ids[3].0)).unwrap();
    fs::remove_file(rig.config.runtime_dir.join(&ids[3].0).join("instance.json")).unwrap();

    // As after a crash: a new link to the keeper, a new runtime.
    let (exits_in, _exits) = mpsc::channel(64);
    let (floods_in, _floods) = mpsc::channel(64);
    let program = std::env::current_exe().unwrap();
    let (keeper, known, task) =
        Keeper::open(rig.config.runtime_dir.clone(), program, exits_in, floods_in).await.unwrap();
    tokio::spawn(task);
    assert_eq!(known.exits.get(&ids[2].0).and_then(|exit| exit.signal), Some(9), "the end is known");
    let node = NodeFigures { cores: 2, max_dmips: 10_000, max_files: 2000, cgroup_namespaces: true };
    let second = ContainerRuntime::open(rig.config.clone(), node, keeper).unwrap();
    let wanted: BTreeSet<String> = [0, 2].map(|number: usize| ids[number].0.clone()).into();
    let alive = second.attach(&wanted, &known).await;
    let found: Vec<(String, i32)> = alive.into_iter().map(|one| (one.info.id(), one.pid)).collect();
    assert_eq!(found, [(ids[0].0.clone(), ids[0].1)]);
    assert!(process::is_running(ids[0].1, ids[0].2), "what is wanted goes on");
    for (id, ..) in &ids[1..] {
        rig.assert_nothing_is_left(id);
    }
    second.stop(&ids[0].0, NOW).await.unwrap();
    rig.assert_nothing_is_left(&ids[0].0);
}

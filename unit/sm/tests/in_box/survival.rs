//! What goes on and what comes back: after the death of the Service Manager, of its keeper, of the machine.

use std::fs;
use std::path::Path;

use aos_keep::process;
use aos_unit_api::servicemanager::v5::sm_outgoing_messages::SmOutgoingMessage as FromSm;
use serde_json::json;

use crate::cm::wait_for;
use crate::ends::links;
use crate::image::wish;
use crate::native::{native, with_native};
use crate::running::{HTTP, get};
use crate::sm::Sm;
use crate::tests::{number, with_tmp};

// ARC: containers live on without us
pub async fn containers_survive_the_death_of_the_service_manager() {
    let mut sm = Sm::start("crun").await;
    let image = sm.blobs.simple(&format!("alias mkdir='/bin/busybox mkdir'; {HTTP}"), with_tmp());
    sm.cm.update(vec![wish(0, "1.0.0", &image, &sm.runtime)], vec![]).await;
    sm.cm.wait_state(0, "active").await;
    let before = sm.instance(0).await;
    let (pid, ip) = (number(&before["pid"]), before["ip"].as_str().unwrap().to_owned());
    let start = process::start_time(pid).unwrap();
    wait_for("the service's answer", || get(&ip)).await;
    for orderly in [false, true, false] {
        sm.cm.clear();
        if orderly {
            sm.stop();
        } else {
            sm.kill();
        }
        assert!(process::is_running(pid, start));
        assert!(get(&ip).is_some(), "the service answers while the service manager is away");
        sm.launch();
        sm.cm.wait_message(|m| matches!(m, FromSm::SmInfo(_)).then_some(())).await;
        let status = sm.cm.wait_state(0, "active").await;
        assert_eq!(status.manifest_digest, image.manifest);
        let after = sm.instance(0).await;
        assert_eq!(
            (&after["pid"], &after["starts"], &after["ip"]),
            (&before["pid"], &before["starts"], &before["ip"])
        );
        assert!(get(&ip).is_some());
        wait_for("the network state", || (sm.cm.count("SyncNetworkState 1") == 1).then_some(())).await;
        assert_eq!(
            sm.cm.calls().iter().filter(|call| call.starts_with("blob")).count(),
            0,
            "nothing is fetched again"
        );
        assert_eq!(sm.cm.history(0), [("active".into(), 0)]);
    }
}

pub async fn an_exit_without_service_manager_is_learned_later() {
    let mut sm = Sm::start("crun").await;
    let mut item = with_tmp();
    item["runParameters"] = json!({"startInterval": "1h", "startBurst": 1});
    let script = "trap 'exit 42' TERM; echo trapped; while :; do /bin/busybox sleep 0.1; done";
    let image = sm.blobs.simple(script, item);
    sm.cm.update(vec![wish(0, "1.0.0", &image, &sm.runtime)], vec![]).await;
    sm.cm.wait_state(0, "active").await;
    let local = sm.instance(0).await;
    let pid = number(&local["pid"]);
    // Before it has its trap the first process of a namespace does not even see the signal.
    let id = local["id"].as_str().unwrap();
    wait_for("the trap", || sm.log(id).contains("trapped").then_some(())).await;
    let start = process::start_time(pid).unwrap();
    sm.kill();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM).unwrap();
    wait_for("the exit", || (!process::is_running(pid, start)).then_some(())).await;
    sm.launch();
    let status = sm.cm.wait_status(0, |status| status.state == "failed").await;
    assert_eq!(status.error.unwrap().exit_code, 42);
    assert_eq!(sm.instance(0).await["starts"], 1);
}

pub async fn a_dead_keeper_is_replaced_and_containers_go_on() {
    let sm = Sm::start("crun").await;
    let image = sm.blobs.simple("exec /bin/busybox sleep 1000", with_tmp());
    sm.cm.update(vec![wish(0, "1.0.0", &image, &sm.runtime)], vec![]).await;
    sm.cm.wait_state(0, "active").await;
    let pid = number(&sm.instance(0).await["pid"]);
    let keeper = keeper_pid().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(keeper), nix::sys::signal::Signal::SIGKILL).unwrap();
    wait_for("another keeper", || keeper_pid().filter(|&other| other != keeper)).await;
    assert_eq!(number(&sm.instance(0).await["pid"]), pid);
    wait_for("the keeper's socket", || aos_keep::Client::connect(Path::new("/run/aos/runtime")).ok()).await;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    sm.cm.wait_status(0, |status| status.state == "failed").await;
    sm.cm.wait_state(0, "active").await;
    let local = sm.instance(0).await;
    assert_ne!(number(&local["pid"]), pid);
    assert_eq!(local["starts"], 2);
}

pub async fn a_start_that_loses_its_keeper_is_tried_again() {
    let sm = Sm::start("crun").await;
    let image = sm.blobs.simple("exec /bin/busybox sleep 1003", with_tmp());
    let keeper = keeper_pid().unwrap();
    sm.cm.update(vec![wish(0, "1.0.0", &image, &sm.runtime)], vec![]).await;
    // The runtime's command has begun and the keeper waits for its end.
    while fs::read_dir("/run/oci").map_or(0, Iterator::count) == 0 {
        tokio::task::yield_now().await;
    }
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(keeper), nix::sys::signal::Signal::SIGKILL).unwrap();
    sm.cm.wait_state(0, "active").await;
    assert_ne!(keeper_pid(), Some(keeper));
    assert_eq!(sleepers(), ["1003"]);
}

/// A Service Manager that dies while it ends a service leaves it frozen.
pub async fn what_a_dead_service_manager_froze_goes_on() {
    let mut sm = with_native(|_| {}).await;
    let container = sm.blobs.simple(&HTTP.replace("mkdir", "/bin/busybox mkdir"), with_tmp());
    let ticking = "while :; do echo tick >> $AOS_STATE_FILE; $AOS_ITEM_DIR/bin/busybox sleep 0.05; done";
    let process = sm.blobs.simple(ticking, with_tmp());
    let mut second = wish(1, "1.0.0", &process, &native());
    second.state_path = "ticks".into();
    sm.cm.update(vec![wish(0, "1.0.0", &container, &sm.runtime), second], vec![]).await;
    sm.cm.wait_state(0, "active").await;
    sm.cm.wait_state(1, "active").await;
    let before = [sm.instance(0).await, sm.instance(1).await];
    let ip = before[0]["ip"].as_str().unwrap().to_owned();
    wait_for("the service's answer", || get(&ip)).await;
    sm.kill();
    let mut frozen = Vec::new();
    for (parent, local) in ["aos-test", "aos-test-native"].iter().zip(&before) {
        let id = local["id"].as_str().unwrap();
        let v1 = Path::new("/sys/fs/cgroup/freezer").join(parent).join(id).join("freezer.state");
        let v2 = Path::new("/sys/fs/cgroup").join(parent).join(id).join("cgroup.freeze");
        let (file, word) = if v1.exists() { (v1, "FROZEN") } else { (v2, "1") };
        fs::write(&file, word).unwrap();
        wait_for("the ice", || (fs::read_to_string(&file).ok()?.trim() == word).then_some(())).await;
        frozen.push((file, word));
    }
    let state = sm.folder.path().join("work/states/ticks");
    let ticks = || fs::read(&state).map_or(0, |text| text.len());
    let stopped_at = ticks();
    sm.launch();
    sm.cm.wait_message(|m| matches!(m, FromSm::SmInfo(_)).then_some(())).await;
    wait_for("the service's answer after the thaw", || get(&ip)).await;
    wait_for("more ticks", || (ticks() > stopped_at).then_some(())).await;
    for (file, word) in &frozen {
        assert_ne!(fs::read_to_string(file).unwrap().trim(), *word, "{}", file.display());
    }
    for (number, before) in (0..).zip(&before) {
        let after = sm.instance(number).await;
        assert_eq!((&after["pid"], &after["starts"]), (&before["pid"], &before["starts"]));
    }
}

pub fn keeper_pid() -> Option<i32> {
    fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let command = fs::read(entry.path().join("cmdline")).ok()?;
        let words: Vec<&[u8]> = command.split(|&b| b == 0).collect();
        (words.get(1) == Some(&&b"keep"[..])).then(|| entry.file_name().to_str()?.parse().ok()).flatten()
    })
}

pub async fn stored_instances_start_without_cm_after_a_reboot() {
    let mut sm = Sm::start("crun").await;
    let image = sm.blobs.simple("exec /bin/busybox sleep 1000", with_tmp());
    sm.cm.update(vec![wish(0, "1.0.0", &image, &sm.runtime)], vec![]).await;
    sm.cm.wait_state(0, "active").await;
    let pid = number(&sm.instance(0).await["pid"]);
    sm.kill();
    // As a reboot leaves it: no process, no cgroup, no network, an empty /run.
    for pid in [keeper_pid().unwrap(), pid] {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    nix::mount::mount(Some("tmpfs"), "/run", Some("tmpfs"), nix::mount::MsFlags::empty(), Some("mode=755"))
        .unwrap();
    for link in links() {
        let _ = std::process::Command::new("ip").args(["link", "del", &link]).status();
    }
    let config = sm.folder.path().join("sm.cfg");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace(&sm.cm.url, "127.0.0.1:1")).unwrap();
    sm.launch();
    let local = loop {
        let local = sm.instance(0).await;
        if local["state"] == "active" {
            break local;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    };
    assert_eq!(local["starts"], 2);
    assert_eq!(sm.status().await["cm"]["connected"], false);
    assert!(links().iter().any(|link| link.starts_with("br-")));
}

pub async fn killed_at_any_moment_an_instance_runs_once() {
    let mut sm = Sm::start("crun").await;
    let one = sm.blobs.simple("trap 'exit 0' TERM; /bin/busybox sleep 1001 & wait", with_tmp());
    let two = sm.blobs.simple("trap 'exit 0' TERM; /bin/busybox sleep 1002 & wait", with_tmp());
    for round in 0u64..24 {
        let image = if round % 2 == 0 { &one } else { &two };
        let wanted = wish(0, &format!("1.0.{round}"), image, &sm.runtime);
        sm.cm.update(vec![wanted.clone()], vec![]).await;
        tokio::time::sleep(std::time::Duration::from_millis(round * 7 % 160)).await;
        sm.kill();
        if round % 5 == 4 {
            nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(keeper_pid().unwrap()),
                nix::sys::signal::Signal::SIGKILL,
            )
            .unwrap();
        }
        let streams = sm.cm.count("RegisterSM");
        sm.launch();
        wait_for("another stream", || (sm.cm.count("RegisterSM") > streams).then_some(())).await;
        // The wish may have died with the process; CM says it again to whoever connects.
        sm.cm.update(vec![wanted.clone()], vec![]).await;
        sm.cm.wait_status(0, |status| status.state == "active" && status.version == wanted.version).await;
        let second = if round % 2 == 0 { "1001" } else { "1002" };
        wait_for("the service itself", || (sleepers() == [second]).then_some(())).await;
        assert_eq!(fs::read_dir("/run/oci").unwrap().count(), 1);
    }
}

/// Last arguments of all sleeping services.
pub fn sleepers() -> Vec<String> {
    let commands = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
        entry.file_name().to_str()?.parse::<u32>().ok()?;
        let command = fs::read(entry.path().join("cmdline")).ok()?;
        let words: Vec<&[u8]> = command.split(|&b| b == 0).collect();
        match words.as_slice() {
            [program, b"sleep", seconds, b""] if program.ends_with(b"busybox") => {
                Some(String::from_utf8_lossy(seconds).into_owned())
            }
            _ => None,
        }
    });
    commands.collect()
}

//! The promises, one test each.

use std::fs;
use std::future::Future;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::pin::Pin;

use aos_keep::process;
use aos_unit_api::servicemanager::v5 as wire;
use serde_json::json;
use wire::sm_incoming_messages::SmIncomingMessage as ToSm;
use wire::sm_outgoing_messages::SmOutgoingMessage as FromSm;

use crate::churn::two_hundred_kills_during_churn_leave_nothing_behind;
use crate::cm::wait_for;
use crate::connection::{
    a_slow_cm_holds_nothing_up, a_stream_begins_in_order_and_ends_with_a_pause,
    cm_and_cloud_are_lost_together, what_happened_without_cm_is_told_later,
};
use crate::image::{Tar, base_layer, lone_user, wish};
use crate::images::{an_image_made_by_umoci_runs, nginx_serves_from_layers_of_every_packing};
use crate::launcher::{
    a_hanging_runtime_holds_nobody_else_up, changed_variables_keep_state_and_others,
    the_time_without_the_cloud_is_kept_over_restarts,
};
use crate::logs::{
    log_answer, log_filter, log_lines_have_times_and_crashes_are_told, the_system_log_comes_from_the_journal,
};
use crate::names::{a_name_belongs_to_one_instance, names_resolve_whoever_is_killed};
use crate::native::{
    a_native_service_has_its_own_network_when_configured, a_native_service_has_user_files_and_limits,
    native_services_survive_and_leave_nothing_behind,
};
use crate::networks::{
    a_filter_that_was_emptied_is_filled_again, an_impossible_rule_fails_its_instance_alone,
    bandwidth_is_bounded_both_ways, no_packet_is_lost_while_the_manager_restarts,
    public_traffic_is_counted_bounded_and_kept, rules_that_come_later_are_appended_once,
    the_destination_and_the_source_must_both_allow_a_connection, the_last_stop_leaves_no_network,
    the_order_of_starts_means_nothing_to_the_firewall,
};
use crate::probes::{probes_decide_about_active_and_restart, probes_look_into_native_services};
use crate::sm::Sm;

use crate::quotas::{
    a_storage_without_quotas_is_limited_by_its_image, crun_keeps_each_limit, runc_keeps_each_limit,
    storage_and_state_are_limited_by_user_quota, storage_and_state_are_limited_on_btrfs,
    what_cannot_be_limited_is_refused_if_wanted,
};
use crate::resources::{
    a_shared_resource_is_given_to_as_many_as_it_allows, an_instance_gets_what_the_resource_says_and_no_more,
    what_a_node_does_not_have_fails_the_instance,
};
use crate::vlans::an_instance_is_reached_over_its_vlan;
use crate::watch::{
    a_busy_instance_is_measured_and_alerted_about, components_are_heard_without_a_journal,
    ends_of_instances_are_alerts_with_their_reasons, the_journal_is_alerted_about_once,
};

type Test = fn() -> Pin<Box<dyn Future<Output = ()> + Send>>;

macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        /// Every test by name.
        pub const ALL: &[(&str, Test)] = &[$((stringify!($name), || Box::pin($name()))),*];
    };
}

tests! {
    crun_keeps_each_limit,
    runc_keeps_each_limit,
    storage_and_state_are_limited_on_btrfs,
    a_storage_without_quotas_is_limited_by_its_image,
    what_cannot_be_limited_is_refused_if_wanted,
    a_shared_resource_is_given_to_as_many_as_it_allows,
    what_a_node_does_not_have_fails_the_instance,
    an_instance_gets_what_the_resource_says_and_no_more,
    crun_runs_an_instance_as_asked,
    runc_runs_an_instance_as_asked,
    containers_survive_the_death_of_the_service_manager,
    an_exit_without_service_manager_is_learned_later,
    a_dead_keeper_is_replaced_and_containers_go_on,
    a_start_that_loses_its_keeper_is_tried_again,
    a_crash_loop_ends_after_the_burst_with_the_exit_code,
    a_blob_with_a_wrong_digest_is_never_installed,
    a_missing_layer_is_reported_and_fetched_when_it_is_there,
    layers_are_stacked_in_order_with_whiteouts,
    nginx_serves_from_layers_of_every_packing,
    an_image_made_by_umoci_runs,
    limits_of_memory_and_processes_hold,
    stored_instances_start_without_cm_after_a_reboot,
    what_is_stopped_leaves_nothing_behind,
    a_stubborn_process_is_killed_after_the_grace_time,
    state_and_storage_belong_to_the_instance_and_last,
    cm_may_hang_up_at_any_time,
    requests_beside_instances_are_answered,
    log_lines_have_times_and_crashes_are_told,
    the_system_log_comes_from_the_journal,
    a_busy_instance_is_measured_and_alerted_about,
    the_journal_is_alerted_about_once,
    components_are_heard_without_a_journal,
    ends_of_instances_are_alerts_with_their_reasons,
    killed_at_any_moment_an_instance_runs_once,
    a_native_service_has_user_files_and_limits,
    a_native_service_has_its_own_network_when_configured,
    native_services_survive_and_leave_nothing_behind,
    probes_decide_about_active_and_restart,
    probes_look_into_native_services,
    a_hanging_runtime_holds_nobody_else_up,
    changed_variables_keep_state_and_others,
    the_time_without_the_cloud_is_kept_over_restarts,
    two_hundred_kills_during_churn_leave_nothing_behind,
    names_resolve_whoever_is_killed,
    a_name_belongs_to_one_instance,
    a_stream_begins_in_order_and_ends_with_a_pause,
    cm_and_cloud_are_lost_together,
    a_slow_cm_holds_nothing_up,
    what_happened_without_cm_is_told_later,
    the_destination_and_the_source_must_both_allow_a_connection,
    the_order_of_starts_means_nothing_to_the_firewall,
    rules_that_come_later_are_appended_once,
    no_packet_is_lost_while_the_manager_restarts,
    the_last_stop_leaves_no_network,
    bandwidth_is_bounded_both_ways,
    public_traffic_is_counted_bounded_and_kept,
    an_impossible_rule_fails_its_instance_alone,
    a_filter_that_was_emptied_is_filled_again,
}

/// Tests that only `other_kernel` runs, by name.
pub const ELSEWHERE: &[(&str, Test)] = &[
    ("storage_and_state_are_limited_by_user_quota", || {
        Box::pin(storage_and_state_are_limited_by_user_quota())
    }),
    ("an_instance_is_reached_over_its_vlan", || Box::pin(an_instance_is_reached_over_its_vlan())),
];

/// The test of a name.
pub fn find(name: &str) -> Option<&'static (&'static str, Test)> {
    ALL.iter().chain(ELSEWHERE).find(|(known, _)| *known == name)
}

const HTTP: &str =
    "mkdir -p /tmp/w; echo hello > /tmp/w/index.html; exec /bin/busybox httpd -f -p 8080 -h /tmp/w";

pub fn with_tmp() -> serde_json::Value {
    json!({"created": "2026-01-01T00:00:00Z", "quotas": {"tmpLimit": 1_048_576}})
}

fn get(ip: &str) -> Option<String> {
    let mut stream = TcpStream::connect((ip, 8080)).ok()?;
    stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.ends_with("hello\n").then_some(text)
}

pub fn number(value: &serde_json::Value) -> i32 {
    i32::try_from(value.as_i64().unwrap_or(0)).unwrap()
}

// SM-13, SM-14, SM-17, SM-18, SM-19, SM-28, SM-29, SM-37, SM-47, SM-50, SM-51, SM-54
async fn crun_runs_an_instance_as_asked() {
    runs_an_instance_as_asked("crun").await;
}

async fn runc_runs_an_instance_as_asked() {
    runs_an_instance_as_asked("runc").await;
}

async fn runs_an_instance_as_asked(runtime: &str) {
    let sm = Sm::start(runtime).await;
    let script = format!(
        "b=/bin/busybox; for c in id hostname env; do $b $c; done; $b ls -a /; $b grep -E 'Cap(Eff|Bnd)|NoNewPrivs' /proc/self/status; \
         $b touch /x || echo read-only; $b cat /etc/hosts /etc/resolv.conf; $b ip route; {}",
        HTTP.replace("mkdir", "$b mkdir")
    );
    let mut item = with_tmp();
    item["hostname"] = json!("webby");
    item["allowedConnections"] = json!({"other/80/tcp": {}});
    let image = sm.blobs.simple(&script, item);
    let mut info = wish(0, "1.0.0", &image, &sm.runtime);
    info.env_vars = vec![wire::EnvVarInfo { name: "COLOUR".into(), value: "red".into() }];
    sm.cm.update(vec![info], vec![]).await;
    let status = sm.cm.wait_state(0, "active").await;
    assert_eq!(status.error, None);
    assert_eq!((status.version.as_str(), status.runtime_id.as_str()), ("1.0.0", sm.runtime.as_str()));
    assert_eq!(status.manifest_digest, image.manifest);
    assert_eq!(status.env_vars.len(), 1);
    assert_eq!(sm.cm.history(0), [("activating".into(), 0), ("active".into(), 0)]);

    let local = sm.instance(0).await;
    let ip = local["ip"].as_str().unwrap().to_owned();
    assert_eq!(local["starts"], 1);
    wait_for("the service's answer", || get(&ip)).await;

    let log = sm.log(local["id"].as_str().unwrap());
    for line in [
        "uid=5001 gid=5002",
        "webby\n",
        "COLOUR=red\n",
        "AOS_ITEM_ID=mine\n",
        "AOS_SUBJECT_ID=subject\n",
        "AOS_INSTANCE_INDEX=0\n",
        "NoNewPrivs:\t1\n",
        "CapEff:\t0000000000000000\n",
        "CapBnd:\t0000000020000420\n",
        "read-only\n",
        &format!("{ip}\towner webby\n"),
        "nameserver 172.31.0.1\nnameserver 10.1.1.1\n",
        "default via 172.31.0.1 dev eth0",
    ] {
        assert!(log.contains(line), "'{line}' is not in:\n{log}");
    }
    for host in ["home\n", "root\n", "usr\n", "var\n"] {
        assert!(!log.contains(host), "the host's {host} is in the container:\n{log}");
    }

    let kinds: Vec<&str> = sm
        .cm
        .messages()
        .iter()
        .take(2)
        .map(|message| match message {
            FromSm::SmInfo(info) => {
                assert_eq!((info.node_id.as_str(), info.runtimes.len()), ("node1", 1));
                assert_eq!(info.runtimes[0].r#type, runtime);
                "info"
            }
            FromSm::NodeInstancesStatus(_) => "instances",
            _ => "other",
        })
        .collect();
    assert_eq!(kinds, ["info", "instances"]);
    let calls = sm.cm.calls();
    assert_eq!(calls[..2], ["RegisterSM".to_owned(), "SyncNetworkState 0".to_owned()]);
    let allocated = calls.iter().find(|call| call.starts_with("Allocate")).unwrap();
    assert!(allocated.contains("webby,0.subject.item.owner,0.subject.item"), "{allocated}");

    // The same wish again touches nothing.
    let mut again = wish(0, "1.0.0", &image, &sm.runtime);
    again.env_vars = vec![wire::EnvVarInfo { name: "COLOUR".into(), value: "red".into() }];
    sm.cm.clear();
    sm.cm.update(vec![again], vec![]).await;
    sm.cm.wait_message(|m| matches!(m, FromSm::NodeInstancesStatus(_)).then_some(())).await;
    assert_eq!(sm.instance(0).await["pid"], local["pid"]);

    // A change of the environment alone restarts it.
    sm.cm.update(vec![wish(0, "1.0.0", &image, &sm.runtime)], vec![]).await;
    wait_for("the other colour", || {
        sm.log(local["id"].as_str().unwrap()).contains("COLOUR=blue\n").then_some(())
    })
    .await;
    sm.cm.wait_state(0, "active").await;
    let after = sm.instance(0).await;
    assert_eq!((after["starts"].as_u64(), &after["ip"]), (Some(2), &local["ip"]));
}

// ARC: containers live on without us
async fn containers_survive_the_death_of_the_service_manager() {
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

async fn an_exit_without_service_manager_is_learned_later() {
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

async fn a_dead_keeper_is_replaced_and_containers_go_on() {
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

async fn a_start_that_loses_its_keeper_is_tried_again() {
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

fn keeper_pid() -> Option<i32> {
    fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let command = fs::read(entry.path().join("cmdline")).ok()?;
        let words: Vec<&[u8]> = command.split(|&b| b == 0).collect();
        (words.get(1) == Some(&&b"keep"[..])).then(|| entry.file_name().to_str()?.parse().ok()).flatten()
    })
}

async fn a_crash_loop_ends_after_the_burst_with_the_exit_code() {
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

async fn a_blob_with_a_wrong_digest_is_never_installed() {
    let sm = Sm::start("crun").await;
    let good = sm.blobs.simple("exec /bin/busybox sleep 1000", with_tmp());
    sm.cm.update(vec![wish(0, "1.0.0", &good, &sm.runtime)], vec![]).await;
    sm.cm.wait_state(0, "active").await;
    let pid = sm.instance(0).await["pid"].clone();
    let extra = Tar::new().file("data/new", b"new", 0o644).done();
    let bad = sm.blobs.image(&[base_layer(), extra], "exec /bin/busybox sleep 2000", with_tmp());
    let path = sm.blobs.path(&bad.layers[1]);
    let mut content = fs::read(&path).unwrap();
    content[600] ^= 1;
    fs::write(&path, content).unwrap();
    sm.cm.update(vec![wish(0, "2.0.0", &bad, &sm.runtime)], vec![]).await;
    let status = sm.cm.wait_state(0, "failed").await;
    assert_eq!(status.version, "2.0.0");
    let error = status.error.unwrap();
    assert_eq!(error.aos_code, 10, "{}", error.message);
    assert_eq!(sm.instance(0).await["pid"], pid, "the running version stays");
    let layers = fs::read_dir(sm.folder.path().join("work/images/layers/sha256")).unwrap().count();
    assert_eq!(layers, 1);
    assert_eq!(fs::read_dir(sm.folder.path().join("work/images/tmp")).unwrap().count(), 0);
    // And back: the old version has run all the time.
    sm.cm.update(vec![wish(0, "1.0.0", &good, &sm.runtime)], vec![]).await;
    sm.cm.wait_status(0, |status| status.version == "1.0.0" && status.state == "active").await;
    assert_eq!(sm.instance(0).await["pid"], pid);
}

// SM-72, SM-73
async fn a_missing_layer_is_reported_and_fetched_when_it_is_there() {
    let sm = Sm::start("crun").await;
    let image = sm.blobs.simple("exec /bin/busybox sleep 1000", with_tmp());
    sm.cm.hide(&image.layers[0]);
    sm.cm.update(vec![wish(0, "1.0.0", &image, &sm.runtime)], vec![]).await;
    sm.cm.wait_state(0, "failed").await;
    sm.cm.show(&image.layers[0]);
    sm.cm.update(vec![wish(0, "1.0.0", &image, &sm.runtime)], vec![]).await;
    sm.cm.wait_state(0, "active").await;
    assert_eq!(sm.cm.count(&format!("blob {}", image.manifest)), 1, "what is here is not fetched again");
}

async fn layers_are_stacked_in_order_with_whiteouts() {
    let sm = Sm::start("crun").await;
    let low = Tar::new()
        .file("data/both", b"low", 0o644)
        .file("data/gone", b"x", 0o644)
        .dir("data/sub")
        .file("data/sub/a", b"a", 0o644)
        .done();
    let high = Tar::new()
        .file("data/both", b"high", 0o644)
        .file("data/.wh.gone", b"", 0o644)
        .dir("data/sub")
        .file("data/sub/.wh..wh..opq", b"", 0o644)
        .file("data/sub/b", b"b", 0o644)
        .done();
    let script = "cd /data; b=/bin/busybox; echo both=$($b cat both); echo all=$($b find . -type f | $b sort); exec $b sleep 1000";
    let image = sm.blobs.image(&[base_layer(), low, high], script, with_tmp());
    sm.cm.update(vec![wish(0, "1.0.0", &image, &sm.runtime)], vec![]).await;
    sm.cm.wait_state(0, "active").await;
    let id = sm.instance(0).await["id"].as_str().unwrap().to_owned();
    let log = wait_for("the output", || Some(sm.log(&id)).filter(|log| log.contains("all="))).await;
    assert_eq!(log, "both=high\nall=./both ./sub/b\n");
}

async fn limits_of_memory_and_processes_hold() {
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

async fn stored_instances_start_without_cm_after_a_reboot() {
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

fn links() -> Vec<String> {
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

async fn what_is_stopped_leaves_nothing_behind() {
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

async fn a_stubborn_process_is_killed_after_the_grace_time() {
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

// SM-49
async fn state_and_storage_belong_to_the_instance_and_last() {
    let sm = Sm::start("crun").await;
    let script = "echo state=$(/bin/busybox cat /state.dat); echo s >> /state.dat; /bin/busybox touch /storage/f && echo ok; exec /bin/busybox sleep 1000";
    let image = sm.blobs.simple(script, with_tmp());
    let mut info = wish(0, "1.0.0", &image, &sm.runtime);
    info.state_path = "a/state.dat".into();
    info.storage_path = "a/storage".into();
    sm.cm.update(vec![info.clone()], vec![]).await;
    sm.cm.wait_state(0, "active").await;
    let id = sm.instance(0).await["id"].as_str().unwrap().to_owned();
    wait_for("the first run", || sm.log(&id).contains("state=\nok").then_some(())).await;
    info.version = "1.0.1".into();
    sm.cm.update(vec![info.clone()], vec![]).await;
    wait_for("the second run", || sm.log(&id).contains("state=s\nok").then_some(())).await;
    assert!(sm.folder.path().join("work/storages/a/storage/f").exists());
    info.storage_path = "../outside".into();
    sm.cm.update(vec![info], vec![]).await;
    sm.cm.wait_state(0, "failed").await;
    assert!(!sm.folder.path().join("work/outside").exists());
}

// SM-20, SM-23, SM-33, SM-77, SM-10, SM-80
async fn cm_may_hang_up_at_any_time() {
    let sm = Sm::start("crun").await;
    let image = sm.blobs.simple("exec /bin/busybox sleep 1000", with_tmp());
    sm.cm.update(vec![wish(0, "1.0.0", &image, &sm.runtime)], vec![]).await;
    sm.cm.wait_state(0, "active").await;
    let pid = sm.instance(0).await["pid"].clone();
    for round in 2..5 {
        sm.cm.hang_up();
        wait_for("another stream", || (sm.cm.count("RegisterSM") == round).then_some(())).await;
        sm.cm.wait_state(0, "active").await;
    }
    assert_eq!(sm.instance(0).await["pid"], pid);
    let infos = sm.cm.messages().iter().filter(|message| matches!(message, FromSm::SmInfo(_))).count();
    assert_eq!(infos, 4);
}

// SM-34, SM-40, SM-42, SM-53, SM-57, SM-59
async fn requests_beside_instances_are_answered() {
    let sm = Sm::start("crun").await;
    let image = sm.blobs.simple("echo some words; exec /bin/busybox sleep 1000", with_tmp());
    sm.cm.update(vec![wish(0, "1.0.0", &image, &sm.runtime)], vec![]).await;
    sm.cm.wait_state(0, "active").await;
    sm.cm.send(ToSm::GetNodeConfigStatus(wire::GetNodeConfigStatus {})).await;
    let state = |m: &FromSm| match m {
        FromSm::NodeConfigStatus(status) => Some(status.state.clone()),
        _ => None,
    };
    assert_eq!(sm.cm.wait_message(state).await, "absent");
    sm.cm.send(ToSm::GetAverageMonitoring(wire::GetAverageMonitoring {})).await;
    let ram = |m: &FromSm| match m {
        FromSm::AverageMonitoring(average) => average.node_monitoring.as_ref().map(|node| node.ram),
        _ => None,
    };
    assert!(sm.cm.wait_message(ram).await > 0);
    let id = sm.instance(0).await["id"].as_str().unwrap().to_owned();
    wait_for("the words", || sm.log(&id).contains("words").then_some(())).await;
    let request = |name: &str, item: &str| {
        let filter = Some(log_filter(item));
        ToSm::InstanceLogRequest(wire::InstanceLogRequest {
            correlation_id: name.into(),
            filter,
            ..Default::default()
        })
    };
    sm.cm.send(request("one", "item")).await;
    let (status, lines) = log_answer(&sm, "one").await;
    assert_eq!(status, "ok");
    assert_eq!(lines.iter().map(|(_, line)| line.as_str()).collect::<Vec<_>>(), ["some words"]);
    sm.cm.send(request("two", "other")).await;
    assert_eq!(log_answer(&sm, "two").await.0, "absent");
}

async fn killed_at_any_moment_an_instance_runs_once() {
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
fn sleepers() -> Vec<String> {
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

//! What the node and its instances use, and what is alerted about.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aos_unit_api::servicemanager::v5 as wire;
use serde_json::json;
use wire::alert::AlertItem;
use wire::sm_incoming_messages::SmIncomingMessage as ToSm;
use wire::sm_outgoing_messages::SmOutgoingMessage as FromSm;

use crate::cm::{ident, wait_for};
use crate::image::wish;
use crate::logs::log_answer;
use crate::sm::Sm;
use crate::tests::with_tmp;

/// Computing power of the node as the tests describe it.
const DMIPS: u64 = 10_000;

pub fn samples(sm: &Sm) -> Vec<wire::InstantMonitoring> {
    let samples = sm.cm.messages().into_iter().filter_map(|message| match message {
        FromSm::InstantMonitoring(sample) => Some(sample),
        _ => None,
    });
    samples.collect()
}

/// Alerts that CM got, each as a line.
pub fn alerts(sm: &Sm) -> Vec<String> {
    let alerts = sm.cm.messages().into_iter().filter_map(|message| match message {
        FromSm::Alert(alert) => Some(alert.alert_item.unwrap()),
        _ => None,
    });
    let number = |instance: Option<aos_unit_api::common::v2::InstanceIdent>| instance.unwrap().instance;
    let line = |item| match item {
        AlertItem::SystemQuotaAlert(one) => format!("node {} {}", one.parameter, one.status),
        AlertItem::InstanceQuotaAlert(one) => {
            format!("quota {} {} {}", number(one.instance), one.parameter, one.status)
        }
        AlertItem::ResourceAllocateAlert(one) => format!("resource {} {}", one.resource, one.message),
        AlertItem::SystemAlert(one) => format!("system {}", one.message),
        AlertItem::CoreAlert(one) => format!("{} {}", one.core_component, one.message),
        AlertItem::InstanceAlert(one) => {
            format!("instance {} {} {}", number(one.instance), one.service_version, one.message)
        }
    };
    alerts.map(line).collect()
}

pub async fn wait_alert(sm: &Sm, text: &str) -> String {
    let what = format!("the alert '{text}'");
    wait_for(&what, || alerts(sm).into_iter().find(|alert| alert.contains(text))).await
}

/// Figures of an instance in the newest sample.
pub fn figures(sm: &Sm, instance: u64) -> Option<wire::MonitoringData> {
    let sample = samples(sm).pop()?;
    let found = sample.instances_monitoring.into_iter();
    found.filter(|one| one.instance.as_ref() == Some(&ident(instance))).find_map(|one| one.monitoring_data)
}

// SM-07, SM-42, SM-52, SM-56, SM-57, SM-58, SM-61, SM-62, PRO-74, PRO-75: a real process under load, in real
// cgroups; over a restart of ours its past is not told as its load.
pub async fn a_busy_instance_is_measured_and_alerted_about() {
    let mut sm = Sm::start_with("crun", |config| {
        config["monitoring"] = json!({"pollPeriod": "1s", "averageWindow": "2s"});
    })
    .await;
    let image = sm.blobs.simple("while true; do :; done", with_tmp());
    let quiet = sm.blobs.simple("exec /bin/busybox sleep 1000", with_tmp());
    let mut busy = wish(0, "1.0.0", &image, &sm.runtime);
    let rule = wire::AlertRulePercents { duration: None, min_threshold: 0.5, max_threshold: 1.5 };
    busy.monitoring_parameters = Some(wire::MonitoringParameters {
        alert_rules: Some(wire::AlertRules { cpu: Some(rule), ..Default::default() }),
    });
    let mut other = wish(1, "1.0.0", &quiet, &sm.runtime);
    other.monitoring_parameters = Some(wire::MonitoringParameters::default());
    let unwatched = wish(2, "1.0.0", &quiet, &sm.runtime);
    sm.cm.update(vec![busy.clone(), other, unwatched], vec![]).await;
    for instance in 0..3 {
        sm.cm.wait_state(instance, "active").await;
    }
    let load = wait_for("load", || figures(&sm, 0).filter(|data| data.cpu > 0)).await;
    assert!(load.cpu <= DMIPS && load.ram > 0 && load.timestamp.is_some(), "{load:?}");
    let idle = wait_for("the quiet one", || figures(&sm, 1)).await;
    assert!(idle.ram > 0 && idle.cpu < load.cpu, "{idle:?} beside {load:?}");
    let sample = samples(&sm).pop().unwrap();
    let node = sample.node_monitoring.unwrap();
    let sum: u64 =
        sample.instances_monitoring.iter().map(|one| one.monitoring_data.as_ref().unwrap().cpu).sum();
    assert!(node.cpu >= sum && node.cpu <= DMIPS && node.ram > 0, "{node:?} with {sum} of instances");
    assert!(
        samples(&sm).iter().all(|sample| sample.instances_monitoring.len() <= 2),
        "2 is not to be measured"
    );
    assert_eq!(wait_alert(&sm, "quota 0 cpu").await, "quota 0 cpu raise");
    wait_alert(&sm, "quota 0 cpu continue").await;

    sm.cm.send(ToSm::GetAverageMonitoring(wire::GetAverageMonitoring {})).await;
    let average = |message: &FromSm| match message {
        FromSm::AverageMonitoring(average) => Some(average.clone()),
        _ => None,
    };
    let average = sm.cm.wait_message(average).await;
    assert_eq!(average.instances_monitoring.len(), 2);
    assert!(average.node_monitoring.unwrap().ram > 0);

    // It has used more CPU by now than one period has.
    sm.kill();
    sm.cm.clear();
    sm.launch();
    wait_for("figures after the restart", || figures(&sm, 0)).await;
    let all: Vec<u64> = samples(&sm)
        .iter()
        .flat_map(|sample| &sample.instances_monitoring)
        .map(|one| one.monitoring_data.as_ref().unwrap().cpu)
        .collect();
    assert!(all.iter().all(|cpu| *cpu <= DMIPS), "{all:?}");

    // A rule of the node, while it runs; what stops is measured no more.
    let config = r#"{"nodeGroupSubject":{"codename":"main"},"alertRules":{"ram":{"minThreshold":0,"maxThreshold":0}}}"#;
    let (node_config, version) = (config.to_owned(), "1.0.0".to_owned());
    sm.cm.send(ToSm::SetNodeConfig(wire::SetNodeConfig { node_config, version })).await;
    assert_eq!(wait_alert(&sm, "node ram").await, "node ram raise");
    sm.cm.update(vec![], vec![0, 1]).await;
    wait_for("samples without them", || {
        samples(&sm).pop().filter(|sample| sample.instances_monitoring.is_empty())
    })
    .await;
}

/// What the tests say begins with this: the machine's own kernel speaks into the same journal.
const MARK: &str = "test says: ";

/// A process that speaks to the journal from within a cgroup, and lives until it has been heard: whose words
/// they are is looked up by its number.
fn say(cgroup: &str, priority: &str, text: &str) {
    let place = Path::new("/sys/fs/cgroup/systemd").join(cgroup.trim_start_matches('/'));
    fs::create_dir_all(&place).unwrap();
    let script =
        r#"echo $$ > "$1/cgroup.procs" && exec systemd-cat -p "$2" sh -c 'echo "$0"; exec cat' "$3""#;
    let text = format!("{MARK}{text}");
    let mut speaker = Command::new("sh")
        .args(["-c", script, "sh", place.to_str().unwrap(), priority, &text])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let heard = || {
        assert!(Command::new("journalctl").arg("--sync").status().unwrap().success());
        let said = Command::new("journalctl").args(["--quiet", "--output=cat"]).output().unwrap();
        String::from_utf8_lossy(&said.stdout).matches(&text).count()
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    while heard() == 0 {
        assert!(Instant::now() < deadline, "'{text}' is not heard");
    }
    drop(speaker.stdin.take());
    assert!(speaker.wait().unwrap().success());
}

/// Alerts about what the tests said.
fn said(sm: &Sm) -> Vec<String> {
    let ours = alerts(sm).into_iter().filter(|alert| alert.contains(MARK));
    ours.map(|alert| alert.replace(MARK, "")).collect()
}

async fn journald() -> Child {
    for folder in ["/run/systemd/journal", "/run/log/journal"] {
        fs::create_dir_all(folder).unwrap();
    }
    let child = Command::new("/lib/systemd/systemd-journald").spawn().unwrap();
    let socket = Path::new("/run/systemd/journal/stdout");
    wait_for("journald", || socket.exists().then_some(())).await;
    wait_for("the journal", || {
        let entries = fs::read_dir("/run/log/journal").ok()?;
        entries.flatten().any(|entry| entry.path().is_dir()).then_some(())
    })
    .await;
    child
}

// SM-08, SM-58, SM-64, SM-65, SM-66, PRO-72, PRO-73, DIS-14, CM-17: a real journal; entries are those of their
// unit or instance, none is lost while we are away, none is told twice.
pub async fn the_journal_is_alerted_about_once() {
    let mut journald = journald().await;
    let mut sm = Sm::start_with("crun", |config| {
        config["journalAlerts"] = json!({"filter": ["usb .* reset", "(?=no expression here"]});
    })
    .await;
    let image = sm.blobs.simple("exec /bin/busybox sleep 1000", with_tmp());
    sm.cm.update(vec![wish(0, "1.2.3", &image, &sm.runtime)], vec![]).await;
    sm.cm.wait_state(0, "active").await;
    let id = sm.instance(0).await["id"].as_str().unwrap().to_owned();
    // The first entries may come before the journal is followed: nothing from before our start is told, all
    // from then on is.
    say("/system.slice/cron.service", "err", "cron is broken");
    say("/system.slice/cron.service", "warning", "cron is odd");
    say("/system.slice/aos-cm.service", "crit", "cm is broken");
    say("/system.slice/aos-iam.service", "err", "iam is broken");
    say("/system.slice/cron.service", "alert", "usb 1-1 reset");
    say(&format!("/aos-test/{id}"), "warning", "my disk is slow");
    say("/system.slice/aos-sm.service", "err", "the last of these");
    wait_alert(&sm, "the last of these").await;
    let first = [
        "system cron is broken",
        "CM cm is broken",
        "IAM iam is broken",
        "instance 0 1.2.3 my disk is slow",
        "SM the last of these",
    ];
    assert_eq!(said(&sm), first);

    // The same words at once are one alert, also when they are said again and again.
    for _ in 0..5 {
        say("/system.slice/cron.service", "err", "again and again");
    }
    say("/system.slice/cron.service", "err", "enough");
    wait_alert(&sm, "enough").await;
    assert_eq!(alerts(&sm).iter().filter(|alert| alert.contains("again and again")).count(), 1);

    // Killed and away: what has been said meanwhile comes, and what CM has had does not come again after an
    // orderly stop.
    sm.stop();
    sm.cm.clear();
    say("/system.slice/cron.service", "err", "while nobody listened");
    sm.launch();
    wait_alert(&sm, "while nobody listened").await;
    assert_eq!(said(&sm), ["system while nobody listened"]);
    // One that has ended and is not collected has no command line any more.
    let followers = || {
        let list = fs::read_dir("/proc").unwrap().flatten();
        let line = |path: PathBuf| fs::read_to_string(path.join("cmdline")).unwrap_or_default();
        list.filter(|entry| line(entry.path()).starts_with("journalctl\0")).count()
    };
    assert_eq!(followers(), 1);
    sm.kill();
    wait_for("the follower to end with us", || (followers() == 0).then_some(())).await;

    // A place that the journal does not take is given up.
    sm.cm.clear();
    let database = rusqlite::Connection::open(sm.folder.path().join("work/sm.db")).unwrap();
    let changed = database
        .execute("UPDATE facts SET value = ?1 WHERE name = 'journal-place'", [b"nonsense".as_slice()]);
    assert_eq!(changed.unwrap(), 1);
    drop(database);
    sm.launch();
    sm.cm.wait_connected().await;
    let mut number = 0;
    wait_for("alerts to come again", || {
        number += 1;
        if number % 100 == 1 {
            say("/system.slice/cron.service", "err", &format!("are you there {number}"));
        }
        alerts(&sm).into_iter().find(|alert| alert.contains("are you there"))
    })
    .await;
    sm.stop();
    journald.kill().unwrap();
    journald.wait().unwrap();
}

// SM-08, SM-39, SM-65, PRO-85: a node without a journal.
pub async fn components_are_heard_without_a_journal() {
    let logs = PathBuf::from("/run/component-logs");
    fs::create_dir_all(&logs).unwrap();
    let dir = logs.clone();
    let sm = Sm::start_with("crun", move |config| {
        config["logging"] = json!({"componentLogDir": dir});
    })
    .await;
    let line = "04.03.26 07:25:03.000 [ERR] (certhandler) the token is gone\n";
    fs::write(logs.join("iam.log"), format!("04.03.26 07:25:02.000 [INF] (iam) all is well\n{line}"))
        .unwrap();
    assert_eq!(wait_alert(&sm, "token").await, "IAM (certhandler) the token is gone");
    let (from, till) = (Some(prost_types::Timestamp { seconds: 1_772_609_103, nanos: 0 }), None);
    let request = wire::SystemLogRequest { correlation_id: "system".into(), from, till };
    sm.cm.send(ToSm::SystemLogRequest(request)).await;
    let (status, lines) = log_answer(&sm, "system").await;
    let lines: Vec<String> = lines.into_iter().map(|(_, line)| line).collect();
    assert_eq!(
        (status.as_str(), lines),
        ("ok", vec!["aos-iam [ERR] (certhandler) the token is gone".to_owned()])
    );
}

// SM-66, PRO-79: a failed start, a crash and a kill for memory are told, each with its reason.
pub async fn ends_of_instances_are_alerts_with_their_reasons() {
    let sm = Sm::start("crun").await;
    let mut item = with_tmp();
    item["runParameters"] = json!({"startBurst": 1, "startInterval": "1m", "restartInterval": "100ms"});
    let crashing = sm.blobs.simple("exit 7", item.clone());
    item["quotas"]["ramLimit"] = json!(16 * 1024 * 1024);
    // A child of the first process fills the memory; either of them is killed.
    let hungry = sm.blobs.simple("exec /bin/busybox dd if=/dev/zero of=/dev/null bs=200M", item);
    let missing = crate::image::Image { manifest: crate::image::digest(b"nowhere"), layers: vec![] };
    let wishes = vec![
        wish(0, "1.0.0", &crashing, &sm.runtime),
        wish(1, "1.0.0", &hungry, &sm.runtime),
        wish(2, "1.0.0", &missing, &sm.runtime),
    ];
    sm.cm.hide(&missing.manifest);
    sm.cm.update(wishes, vec![]).await;
    for (instance, reason) in [(0, "7"), (1, "memory"), (2, "")] {
        let start = format!("instance {instance} 1.0.0 ");
        let what = format!("the alert of {instance}");
        let told = wait_for(&what, || alerts(&sm).into_iter().find(|alert| alert.starts_with(&start))).await;
        assert!(told.len() > start.len() && told.contains(reason), "{told}");
    }
}

//! Figures under a load that is known.

use std::fs;

use aos_unit_api::servicemanager::v5 as wire;
use serde_json::json;

use crate::cm::wait_for;
use crate::image::wish;
use crate::networks::{lay_uplink, public_download};
use crate::sm::Sm;
use crate::watch::{figures, samples, wait_alert};

/// Memory of the node as the tests describe it.
const RAM: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

fn percents(min_threshold: f64, max_threshold: f64) -> wire::AlertRulePercents {
    wire::AlertRulePercents { duration: None, min_threshold, max_threshold }
}

// SM-07, SM-42, SM-52, SM-57, SM-61, SM-62, PRO-74, PRO-75: processor, memory and traffic of an instance are what it
// uses; its alert is raised by a fraction of a percent, goes on and ends; the fraction survives a restart of ours and
// makes nothing look changed.
pub async fn figures_are_those_of_a_known_load() {
    lay_uplink();
    let mut sm = Sm::start_with("crun", |config| {
        config["monitoring"] = json!({"pollPeriod": "1s", "averageWindow": "3s"});
    })
    .await;
    // A tenth of a node of 10 000 DMIPS, and 24 MiB of 1 GiB in files that count as memory.
    let item = json!({"created": "2026-01-01T00:00:00Z",
        "quotas": {"cpuDMIPSLimit": 1000, "tmpLimit": 32 * MIB}});
    let script = "b=/bin/busybox; $b dd if=/dev/zero of=/tmp/f bs=1M count=24 2>/dev/null; \
                  while ! test -e /storage/less; do :; done; $b rm /tmp/f; exec $b sleep 100000";
    let image = sm.blobs.simple(script, item);
    let mut busy = wire::InstanceInfo {
        owner_id: "one".into(),
        storage_path: "first".into(),
        ..wish(0, "1.0.0", &image, &sm.runtime)
    };
    let traffic = wire::AlertRulePoints { duration: None, min_threshold: 100_000, max_threshold: 200_000 };
    busy.monitoring_parameters = Some(wire::MonitoringParameters {
        // 1.9 % of memory are 19.5 MiB, 1.5 % are 15.4 MiB.
        alert_rules: Some(wire::AlertRules {
            ram: Some(percents(1.5, 1.9)),
            download: Some(traffic),
            ..Default::default()
        }),
    });
    sm.cm.update(vec![busy.clone()], vec![]).await;
    sm.cm.wait_state(0, "active").await;
    let id = sm.instance(0).await["id"].as_str().unwrap().to_owned();
    let load = wait_for("the load", || {
        figures(&sm, 0).filter(|data| (700..=1300).contains(&data.cpu) && data.ram >= 24 * MIB)
    })
    .await;
    assert!(load.ram <= 40 * MIB, "{load:?}");
    assert_eq!((load.download, load.upload), (0, 0));
    assert_eq!(wait_alert(&sm, "quota 0 ram").await, "quota 0 ram raise");
    wait_alert(&sm, "quota 0 ram continue").await;

    public_download(&id, 300_000);
    let counted = wait_for("the traffic", || figures(&sm, 0).filter(|data| data.download >= 300_000)).await;
    assert!(counted.download < 400_000 && counted.upload < 100_000, "{counted:?}");
    assert_eq!(wait_alert(&sm, "quota 0 download").await, "quota 0 download raise");
    let node = samples(&sm).pop().unwrap().node_monitoring.unwrap();
    assert!(node.download >= 300_000 && node.ram >= 24 * MIB && node.ram < 64 * RAM, "{node:?}");

    // The same wish to the next manager, with another one so that its end is seen.
    sm.restart().await;
    let second = wire::InstanceInfo { owner_id: "one".into(), ..wish(1, "1.0.0", &image, &sm.runtime) };
    sm.cm.update(vec![busy.clone(), second], vec![]).await;
    sm.cm.wait_state(1, "active").await;
    assert_eq!(sm.instance(0).await["starts"], 1, "a fraction was lost");
    assert_eq!(wait_alert(&sm, "quota 0 ram").await, "quota 0 ram raise");

    fs::write(sm.folder.path().join("work/storages/first/less"), "").unwrap();
    wait_alert(&sm, "quota 0 ram fall").await;
    let calm = wait_for("the calm", || figures(&sm, 0).filter(|data| data.cpu < 200)).await;
    assert!(calm.ram < 16 * MIB, "{calm:?}");
    assert!(calm.download >= 300_000, "the day's traffic is forgotten: {calm:?}");
}

//! Statuses, alerts, monitoring data, blob addresses, Unit configurations, and what came the wrong way.

use aos_cloud_protocol::{
    Alert, Alerts, CoreAlert, InstanceInfo, InstanceState, InstancesInfo, MonitoringData, RequestBlobUrls,
    UnitConfig, UnitStatus,
};
use aos_cloud_store::StoreError;
use aos_status::ErrorInfo;

use super::*;
use crate::FlowError;

/// A full status with one instance.
pub(super) fn running() -> UnitStatus {
    let info = InstanceInfo {
        node: node("main"),
        runtime: AosIdentity::by_codename("crun"),
        instance: 0,
        state_checksum: None,
        state: InstanceState::Active,
        error_info: None,
    };
    UnitStatus {
        instances: Some(vec![InstancesInfo {
            item: AosIdentity::by_id(ITEM),
            subject: AosIdentity::by_id(SUBJECT),
            version: "1.0.0".to_owned(),
            instances: vec![info],
        }]),
        ..UnitStatus::default()
    }
}

fn configured(version: &str, state: &str) -> UnitStatus {
    let mut status = running();
    let reported = serde_json::json!([{"version": version, "state": state}]);
    status.unit_config = Some(serde_json::from_value(reported).unwrap());
    status
}

pub(super) fn alert(text: &str) -> Body {
    let alert = CoreAlert {
        timestamp: Timestamp::now(),
        node: node("main"),
        core_component: "CM".to_owned(),
        message: text.to_owned(),
    };
    Body::Alerts(Alerts { items: vec![Alert::CoreAlert(alert)], refused: vec![] })
}

// CLO-21
#[tokio::test]
async fn alerts_of_all_kinds_are_kept() {
    let world = World::new();
    let cloud = world.cloud().await;
    let at = Timestamp::now();
    let (node, digest) = (serde_json::json!({"codename": "main"}), format!("sha256:{}", "ab".repeat(32)));
    let instance = serde_json::json!({"item": {"id": ITEM}, "subject": {"id": SUBJECT}, "instance": 0});
    let mut items = serde_json::json!([
        {"tag": "systemAlert", "node": node, "message": "watchdog"},
        {"tag": "coreAlert", "node": node, "coreComponent": "SM", "message": "lost"},
        {"tag": "systemQuotaAlert", "node": node, "parameter": "cpu", "value": 99},
        {"tag": "instanceQuotaAlert", "parameter": "ram", "value": 1_000_000},
        {"tag": "downloadProgressAlert", "digest": digest, "url": "https://cdn.example/x", "downloadedBytes": 1,
         "totalBytes": 2, "state": "interrupted"},
        {"tag": "deviceAllocateAlert", "node": node, "deviceId": "camera", "message": "busy"},
        {"tag": "updateItemInstanceAlert", "version": "2.1.0", "message": "exited"},
    ]);
    for item in items.as_array_mut().unwrap() {
        let item = item.as_object_mut().unwrap();
        item.insert("timestamp".to_owned(), at.to_string().into());
        if matches!(
            item["tag"].as_str(),
            Some("instanceQuotaAlert" | "deviceAllocateAlert" | "updateItemInstanceAlert")
        ) {
            item.extend(instance.as_object().unwrap().clone());
        }
    }
    let tags: Vec<_> = items.as_array().unwrap().iter().map(|item| item["tag"].clone()).collect();
    let content = serde_json::json!({"messageType": "alerts", "items": items});
    let alerts: Alerts = serde_json::from_value(content).unwrap();
    cloud.send(Body::Alerts(alerts)).await;
    let kept = cloud.store.events_after(&cloud.unit.id, "alerts", 0, 10).await.unwrap();
    let told: Vec<serde_json::Value> =
        kept.iter().map(|one| serde_json::from_str(&one.body).unwrap()).collect();
    assert_eq!(told.iter().map(|item| item["tag"].clone()).collect::<Vec<_>>(), tags);
    assert!(cloud.invalid().await.is_empty());
}

// PRO-71
#[tokio::test]
async fn one_bad_alert_does_not_drop_the_others() {
    let world = World::new();
    let cloud = world.cloud().await;
    let Body::Alerts(mut batch) = alert("good") else { unreachable!() };
    batch.refused.push("no such tag".to_owned());
    let message = Cloud::message(Body::Alerts(batch), None);
    cloud.deliver(message.clone()).await;
    cloud.deliver(message).await;
    let kept = cloud.store.events_after(&cloud.unit.id, "alerts", 0, 10).await.unwrap();
    assert_eq!(kept.len(), 1, "once, although it came twice");
    assert!(kept[0].body.contains("good"));
    assert_eq!(cloud.invalid().await.len(), 1);
    cloud.send(Body::MonitoringData(MonitoringData::default())).await;
    assert_eq!(cloud.store.events_after(&cloud.unit.id, "monitoring", 0, 10).await.unwrap().len(), 1);
}

// D14 to D17
#[tokio::test]
async fn what_comes_the_wrong_way_is_acknowledged_and_noted() {
    let world = World::new();
    let cloud = world.cloud().await;
    let answers = cloud.send(Body::DesiredStatus(aos_cloud_protocol::DesiredStatus::default())).await;
    assert!(answers.is_empty());
    assert!(cloud.invalid().await[0].contains("wrong direction"));
}

#[tokio::test]
async fn what_a_unit_may_not_fetch_has_no_address_and_a_repeated_request_is_answered_again() {
    let world = World::new();
    let cloud = world.cloud().await;
    let digest = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
    let body = Body::RequestBlobUrls(RequestBlobUrls { digests: vec![digest] });
    let message = Cloud::message(body, Some("exchange"));
    for _ in 0..2 {
        let answers = cloud.deliver(message.clone()).await;
        assert_eq!(answers[0].correlation_id.as_deref(), Some("exchange"));
        assert!(matches!(&answers[0].body, Body::BlobUrls(urls) if urls.items.is_empty()));
    }
    assert!(cloud.store.remembered(&cloud.unit.id).await.unwrap().is_empty(), "nothing to remember");
}

// PRO-48
#[tokio::test]
async fn a_unit_configuration_is_wanted_until_it_is_installed() {
    let world = World::new();
    let cloud = world.cloud().await;
    let unit = &cloud.unit.id;
    let config = |version: &str| UnitConfig { version: version.to_owned(), ..UnitConfig::default() };
    cloud.send(Body::UnitStatus(configured("1.0.0", "installed"))).await;
    let low = cloud.flows.set_unit_config(unit, config("1.0.0")).await;
    assert!(matches!(low, Err(FlowError::Store(StoreError::Conflict(_)))));
    let mut signal = cloud.store.watch_unit(unit).await.unwrap();
    let before = signal.borrow_and_update().target;
    cloud.flows.set_unit_config(unit, config("1.1.0")).await.unwrap();
    cloud.flows.set_unit_config(unit, config("1.1.0")).await.unwrap();
    let wanted = signal.borrow_and_update().target;
    assert_eq!(wanted, before + 1, "the same again is no change");
    let changed = UnitConfig { format_version: "2".to_owned(), ..config("1.1.0") };
    assert!(cloud.flows.set_unit_config(unit, changed).await.is_err(), "another document needs a version");
    cloud.send(Body::UnitStatus(configured("1.1.0", "failed"))).await;
    assert_eq!(signal.borrow_and_update().target, wanted);
    cloud.send(Body::UnitStatus(configured("1.1.0", "installed"))).await;
    assert!(signal.borrow_and_update().target > wanted, "it is not sent any more");
}

#[tokio::test]
async fn a_unit_of_endless_words_does_not_grow_without_bound() {
    let world = World::new();
    let cloud = world.cloud().await;
    cloud.send(Body::UnitStatus(running())).await;
    let known = async || cloud.store.unit_view(&cloud.unit.id).await.unwrap().unwrap().status.unwrap().merged;
    let before = known().await;
    // Each change is small enough; together they would not be.
    let mut change = running();
    change.is_delta_info = true;
    let instance = &mut change.instances.as_mut().unwrap()[0].instances[0];
    let message = "x".repeat(1_500_000);
    instance.error_info = Some(ErrorInfo { aos_code: 1, exit_code: 0, message });
    for number in 1..=5 {
        change.instances.as_mut().unwrap()[0].instances[0].instance = number;
        cloud.send(Body::UnitStatus(change.clone())).await;
    }
    let after = known().await.len();
    assert!(before.len() < after && after < 4 * 1024 * 1024, "{after} bytes");
    let noted = cloud.invalid().await;
    assert_eq!(noted.len(), 3);
    assert!(noted[0].contains("4194304 at most"), "{}", noted[0]);
    // A Unit that tells of ordinary things is known again.
    cloud.send(Body::UnitStatus(running())).await;
    assert!(known().await.len() < 2000);
}

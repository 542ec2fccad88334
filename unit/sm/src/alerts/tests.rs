//! The task that keeps alerts.

use std::path::Path;

use super::*;

fn world(dir: &Path) -> (AlertSender, mpsc::Receiver<wire::Alert>, Links) {
    let (sender, queue) = AlertSender::channel();
    let (out, received) = mpsc::channel(1);
    let (watched, instances) = watch::channel(Arc::default());
    drop(watched);
    let database = Database::open(&dir.join("sm.db")).unwrap();
    (sender, received, Links { queue, out, watched: instances, database })
}

fn ident() -> InstanceIdent {
    let ident = v2::InstanceIdent { item_id: "i".into(), subject_id: "s".into(), ..Default::default() };
    ident.try_into().unwrap()
}

// SM-58, SM-60, SM-66, SM-67: while nobody takes them the newest wait, each once, and come in order.
#[tokio::test]
async fn the_newest_alerts_wait_until_they_are_taken() {
    let folder = tempfile::tempdir().unwrap();
    let (sender, mut received, links) = world(folder.path());
    let stop = Shutdown::new();
    let alerts = Alerts::open(Settings::default(), "/none".into(), links).await;
    let task = tokio::spawn(alerts.run(stop.child()));
    for number in 0..200 {
        sender.instance(&ident(), "1.0.0", &format!("event {number}"));
        sender.instance(&ident(), "1.0.0", &format!("event {number}"));
        // One after the other, as events come; the task takes each from its queue.
        tokio::task::yield_now().await;
    }
    let mut texts = Vec::new();
    loop {
        let alert = tokio::time::timeout(Duration::from_secs(30), received.recv()).await.unwrap().unwrap();
        assert!(alert.timestamp.unwrap().seconds > 1_700_000_000);
        let Some(AlertItem::InstanceAlert(alert)) = alert.alert_item else { panic!("{alert:?}") };
        assert_eq!(alert.service_version, "1.0.0");
        let last = alert.message == "event 199";
        texts.push(alert.message);
        if last {
            break;
        }
    }
    // The first one was on its way already.
    assert_eq!(texts.remove(0), "event 0");
    let newest: Vec<String> = (136..200).map(|number| format!("event {number}")).collect();
    assert_eq!(texts, newest);
    stop.trigger();
    task.await.unwrap();
}

// SM-60, SM-61, SM-62, SM-63, SM-66: one variant for each kind.
#[tokio::test]
async fn each_kind_has_its_form() {
    let (sender, mut queue) = AlertSender::channel();
    sender.system_quota("ram", 7, QuotaStatus::Raise);
    sender.instance_quota(&ident(), "storages", 8, QuotaStatus::Fall);
    sender.resource(&ident(), "camera", "it is taken");
    sender.instance(&ident(), "2.0.0", &"x".repeat(300));
    let mut kinds = Vec::new();
    while let Ok(alert) = queue.try_recv() {
        kinds.push(match alert.alert_item.unwrap() {
            AlertItem::SystemQuotaAlert(one) => format!("{} {} {}", one.parameter, one.value, one.status),
            AlertItem::InstanceQuotaAlert(one) => {
                format!("{} {} {} {}", one.instance.unwrap().item_id, one.parameter, one.value, one.status)
            }
            AlertItem::ResourceAllocateAlert(one) => format!("{}: {}", one.resource, one.message),
            AlertItem::InstanceAlert(one) => format!("{} {}", one.service_version, one.message.len()),
            other => panic!("{other:?}"),
        });
    }
    let expected = ["ram 7 raise", "i storages 8 fall", "camera: it is taken", "2.0.0 255"];
    assert_eq!(kinds, expected);
}

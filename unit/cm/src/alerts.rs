//! Alerts of the nodes on their way to the cloud.
//!
//! At most 64 wait, the newest: when all places are taken the oldest goes and is counted. One that says the
//! same as a waiting one is dropped. Every send period up to 16 go into a message, until none wait. Without a
//! link they wait here.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use aos_cloud_protocol::{
    Alert, Alerts, AosIdentity, CoreAlert, DeviceAllocateAlert, InstanceQuotaAlert, MAX_ALERT_MESSAGE,
    SystemAlert, SystemQuotaAlert, UpdateItemInstanceAlert,
};
use aos_ids::NodeId;
use aos_unit_api::common::v2::InstanceIdent;
use aos_unit_api::servicemanager::v5::{self, alert::AlertItem};

/// Alerts that may wait.
const MAX_WAITING: usize = 64;
/// Alerts in one message.
const MAX_IN_MESSAGE: usize = 16;

/// The waiting alerts.
#[derive(Debug)]
pub struct Waiting {
    period: Duration,
    alerts: VecDeque<Alert>,
    since: Option<Instant>,
    dropped: u64,
}

impl Waiting {
    /// None yet; those that come are due after `period`.
    pub fn new(period: Duration) -> Self {
        Self { period, alerts: VecDeque::new(), since: None, dropped: 0 }
    }

    /// Takes an alert of a node; one that cannot be read is logged.
    pub fn push(&mut self, node: &NodeId, alert: v5::Alert, now: Instant) {
        let Some(alert) = read(node, alert) else {
            tracing::warn!("node {node} sends an alert that cannot be read");
            return;
        };
        self.add(alert, now);
    }

    /// Takes an alert of the Communication Manager itself.
    pub fn push_core(&mut self, node: &NodeId, message: &str, now: Instant) {
        let alert = CoreAlert {
            timestamp: jiff::Timestamp::now(),
            node: AosIdentity::by_codename(node.as_str()),
            core_component: "CM".to_owned(),
            message: short(message),
        };
        self.add(Alert::CoreAlert(alert), now);
    }

    /// Takes an alert as it is.
    pub fn add(&mut self, alert: Alert, now: Instant) {
        if self.alerts.iter().any(|known| same(known, &alert)) {
            return;
        }
        if self.alerts.len() >= MAX_WAITING {
            self.alerts.pop_front();
            self.dropped += 1;
            if self.dropped.is_power_of_two() {
                tracing::warn!("too many alerts, {} dropped so far", self.dropped);
            }
        }
        self.alerts.push_back(alert);
        self.since.get_or_insert(now);
    }

    /// When the waiting ones are due.
    pub fn deadline(&self) -> Option<Instant> {
        Some(self.since? + self.period)
    }

    /// All waiting ones, in messages.
    pub fn take(&mut self) -> Vec<Alerts> {
        self.since = None;
        let all: Vec<Alert> = self.alerts.drain(..).collect();
        all.chunks(MAX_IN_MESSAGE).map(|some| Alerts { items: some.to_vec(), refused: vec![] }).collect()
    }
}

/// Equal in everything but the time.
fn same(a: &Alert, b: &Alert) -> bool {
    let timeless = |alert: &Alert| {
        let mut value = serde_json::to_value(alert).unwrap_or_default();
        if let Some(object) = value.as_object_mut() {
            object.remove("timestamp");
        }
        value
    };
    timeless(a) == timeless(b)
}

/// The wire's time; a missing one is now.
pub fn time(stamp: Option<prost_types::Timestamp>) -> jiff::Timestamp {
    let read = stamp.filter(|stamp| stamp.seconds > 0);
    read.and_then(|stamp| jiff::Timestamp::new(stamp.seconds, stamp.nanos).ok())
        .unwrap_or_else(jiff::Timestamp::now)
}

fn short(text: &str) -> String {
    text.chars().take(MAX_ALERT_MESSAGE).collect()
}

fn read(node: &NodeId, alert: v5::Alert) -> Option<Alert> {
    let timestamp = time(alert.timestamp);
    let node = AosIdentity::by_codename(node.as_str());
    let of = |ident: Option<InstanceIdent>| {
        let ident = aos_ids::InstanceIdent::try_from(ident?).ok()?;
        let named = |name: &str| {
            if ident.preinstalled { AosIdentity::by_codename(name) } else { AosIdentity::by_id(name) }
        };
        Some((named(ident.item.as_str()), named(ident.subject.as_str()), ident.instance))
    };
    Some(match alert.alert_item? {
        AlertItem::SystemAlert(one) => {
            Alert::SystemAlert(SystemAlert { timestamp, node, message: short(&one.message) })
        }
        AlertItem::CoreAlert(one) => Alert::CoreAlert(CoreAlert {
            timestamp,
            node,
            core_component: one.core_component,
            message: short(&one.message),
        }),
        AlertItem::SystemQuotaAlert(one) => Alert::SystemQuotaAlert(SystemQuotaAlert {
            timestamp,
            node,
            parameter: one.parameter,
            value: one.value,
        }),
        AlertItem::InstanceQuotaAlert(one) => {
            let (item, subject, instance) = of(one.instance)?;
            let (parameter, value) = (one.parameter, one.value);
            Alert::InstanceQuotaAlert(InstanceQuotaAlert {
                timestamp,
                item,
                subject,
                instance,
                parameter,
                value,
            })
        }
        AlertItem::ResourceAllocateAlert(one) => {
            let (item, subject, instance) = of(one.instance)?;
            Alert::DeviceAllocateAlert(DeviceAllocateAlert {
                timestamp,
                item,
                subject,
                instance,
                node,
                device_id: one.resource,
                message: short(&one.message),
            })
        }
        AlertItem::InstanceAlert(one) => {
            let (item, subject, instance) = of(one.instance)?;
            Alert::UpdateItemInstanceAlert(UpdateItemInstanceAlert {
                timestamp,
                item,
                subject,
                instance,
                version: one.service_version,
                message: short(&one.message),
            })
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert(message: &str, seconds: i64) -> v5::Alert {
        v5::Alert {
            timestamp: Some(prost_types::Timestamp { seconds, nanos: 0 }),
            alert_item: Some(AlertItem::SystemAlert(v5::SystemAlert { message: message.into() })),
        }
    }

    // CM-17, CM-29: bounded, without repetitions, in batches; the newest are kept.
    #[test]
    fn alerts_are_bounded_and_batched() {
        let (node, now) = (NodeId::new("n").unwrap(), Instant::now());
        let mut waiting = Waiting::new(Duration::from_secs(10));
        for n in 0..70 {
            waiting.push(&node, alert(&format!("alert {n}"), 1), now);
            waiting.push(&node, alert(&format!("alert {n}"), 2), now);
        }
        assert_eq!(waiting.deadline(), Some(now + Duration::from_secs(10)));
        let messages = waiting.take();
        let sizes: Vec<usize> = messages.iter().map(|message| message.items.len()).collect();
        assert_eq!((sizes, waiting.dropped), (vec![16, 16, 16, 16], 6));
        let text = |alert: &Alert| match alert {
            Alert::SystemAlert(alert) => alert.message.clone(),
            other => panic!("{other:?}"),
        };
        let told: Vec<String> = messages.iter().flat_map(|message| &message.items).map(text).collect();
        assert_eq!(told, (6..70).map(|n| format!("alert {n}")).collect::<Vec<_>>());
        assert_eq!(waiting.deadline(), None);
        assert!(waiting.take().is_empty());
    }

    // DIS-22, DIS-23, DIS-24, CM-17: each of the six kinds that nodes know has its tag in the cloud, with what it is
    // about; the seventh tag is of downloads, which no node speaks of.
    #[test]
    fn alerts_of_nodes_become_alerts_for_the_cloud() {
        let instance = Some(InstanceIdent {
            item_id: "item".into(),
            subject_id: "subject".into(),
            instance: 3,
            ..Default::default()
        });
        let (message, status) = ("text".to_owned(), "raise".to_owned());
        let (parameter, value) = ("ram".to_owned(), 7);
        let kinds = [
            AlertItem::SystemAlert(v5::SystemAlert { message: message.clone() }),
            AlertItem::CoreAlert(v5::CoreAlert { core_component: "SM".into(), message: message.clone() }),
            AlertItem::SystemQuotaAlert(v5::SystemQuotaAlert {
                parameter: parameter.clone(),
                value,
                status: status.clone(),
            }),
            AlertItem::InstanceQuotaAlert(v5::InstanceQuotaAlert {
                instance: instance.clone(),
                parameter,
                value,
                status,
            }),
            AlertItem::ResourceAllocateAlert(v5::ResourceAllocateAlert {
                instance: instance.clone(),
                resource: "camera".into(),
                message: message.clone(),
            }),
            AlertItem::InstanceAlert(v5::InstanceAlert {
                instance,
                service_version: "1.2.3".into(),
                message,
            }),
        ];
        let at = "1970-01-01T00:00:09.000000Z";
        let node = serde_json::json!({"codename": "n"});
        let of = serde_json::json!({"item": {"id": "item"}, "subject": {"id": "subject"}, "instance": 3});
        let expected = [
            serde_json::json!({"tag": "systemAlert", "node": node, "message": "text"}),
            serde_json::json!({"tag": "coreAlert", "node": node, "coreComponent": "SM", "message": "text"}),
            serde_json::json!({"tag": "systemQuotaAlert", "node": node, "parameter": "ram", "value": 7}),
            serde_json::json!({"tag": "instanceQuotaAlert", "parameter": "ram", "value": 7}),
            serde_json::json!({"tag": "deviceAllocateAlert", "node": node, "deviceId": "camera", "message": "text"}),
            serde_json::json!({"tag": "updateItemInstanceAlert", "subjectId": {"id": "subject"}, "version": "1.2.3", "message": "text"}),
        ];
        for (number, (kind, expected)) in kinds.into_iter().zip(expected).enumerate() {
            let timestamp = Some(prost_types::Timestamp { seconds: 9, nanos: 0 });
            let alert = v5::Alert { timestamp, alert_item: Some(kind) };
            let mut expected = expected;
            expected["timestamp"] = at.into();
            if number > 2 {
                expected.as_object_mut().unwrap().extend(of.as_object().unwrap().clone());
            }
            let told = read(&NodeId::new("n").unwrap(), alert).unwrap();
            assert_eq!(serde_json::to_value(&told).unwrap(), expected);
        }
        let nobodys = v5::Alert {
            timestamp: None,
            alert_item: Some(AlertItem::InstanceAlert(v5::InstanceAlert::default())),
        };
        assert_eq!(read(&NodeId::new("n").unwrap(), nobodys), None);
    }
}

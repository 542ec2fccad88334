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
}

//! Alerts of this node on their way to the Communication Manager.
//!
//! One task keeps those that wait: at most 64, the newest, each once. Any module hands alerts in through an
//! [`AlertSender`], which never waits. While CM is away they stay here and go out, oldest first, with the next
//! connection.

mod waiting;

use std::time::{SystemTime, UNIX_EPOCH};

use aos_ids::InstanceIdent;
use aos_unit_api::common::v2;
use aos_unit_api::servicemanager::v5 as wire;
use tokio::sync::mpsc;
use wire::alert::AlertItem;

pub use waiting::Waiting;

/// Alerts that may wait for the task; it empties them at once.
const QUEUE: usize = 64;
/// Longest text peers take, bytes.
const MAX_MESSAGE: usize = 255;

/// A core component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Core {
    /// Communication Manager.
    Cm,
    /// Service Manager.
    Sm,
    /// Identity and Access Manager.
    Iam,
    /// Message Proxy.
    Mp,
}

impl Core {
    /// Its name as peers have it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Cm => "CM",
            Self::Sm => "SM",
            Self::Iam => "IAM",
            Self::Mp => "MP",
        }
    }
}

/// What a quota alert tells about its rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotaStatus {
    /// The value has been too high for the rule's time.
    Raise,
    /// It still is.
    Continue,
    /// It has been low for the rule's time.
    Fall,
}

impl QuotaStatus {
    /// Its name as peers have it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Raise => "raise",
            Self::Continue => "continue",
            Self::Fall => "fall",
        }
    }
}

/// Hands alerts in. Never waits and never fails: with a full queue the alert is counted as lost.
#[derive(Debug, Clone)]
pub struct AlertSender {
    queue: mpsc::Sender<wire::Alert>,
}

impl AlertSender {
    /// A sender and the other end of its queue.
    pub fn channel() -> (Self, mpsc::Receiver<wire::Alert>) {
        let (queue, receiver) = mpsc::channel(QUEUE);
        (Self { queue }, receiver)
    }

    /// A resource could not be given to an instance.
    pub fn resource(&self, ident: &InstanceIdent, resource: &str, message: &str) {
        self.put(AlertItem::ResourceAllocateAlert(wire::ResourceAllocateAlert {
            instance: Some(ident.into()),
            resource: resource.to_owned(),
            message: short(message),
        }));
    }

    /// An error or event of an instance.
    pub fn instance(&self, ident: &InstanceIdent, version: &str, message: &str) {
        self.put(instance_item(ident.into(), version, message));
    }

    /// A fault in a core component.
    pub fn core(&self, component: Core, message: &str) {
        self.put(core_item(component, message));
    }

    /// A fault of the system.
    pub fn system(&self, message: &str) {
        self.put(system_item(message));
    }

    /// The node is over a threshold; `parameter` is `cpu`, `ram`, `download`, `upload` or a partition.
    pub fn system_quota(&self, parameter: &str, value: u64, status: QuotaStatus) {
        self.put(AlertItem::SystemQuotaAlert(wire::SystemQuotaAlert {
            parameter: parameter.to_owned(),
            value,
            status: status.word().to_owned(),
        }));
    }

    /// An instance is over a threshold.
    pub fn instance_quota(&self, ident: &InstanceIdent, parameter: &str, value: u64, status: QuotaStatus) {
        self.put(AlertItem::InstanceQuotaAlert(wire::InstanceQuotaAlert {
            instance: Some(ident.into()),
            parameter: parameter.to_owned(),
            value,
            status: status.word().to_owned(),
        }));
    }

    fn put(&self, item: AlertItem) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let micros = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        if self.queue.try_send(alert(item, micros)).is_err() {
            tracing::debug!("an alert is lost: too many at once");
        }
    }
}

/// An alert with its time, microseconds since 1970.
fn alert(item: AlertItem, micros: u64) -> wire::Alert {
    let timestamp = prost_types::Timestamp {
        seconds: i64::try_from(micros / 1_000_000).unwrap_or(i64::MAX),
        nanos: i32::try_from(micros % 1_000_000 * 1000).unwrap_or(0),
    };
    wire::Alert { timestamp: Some(timestamp), alert_item: Some(item) }
}

fn instance_item(ident: v2::InstanceIdent, version: &str, message: &str) -> AlertItem {
    let (service_version, message) = (version.to_owned(), short(message));
    AlertItem::InstanceAlert(wire::InstanceAlert { instance: Some(ident), service_version, message })
}

fn core_item(component: Core, message: &str) -> AlertItem {
    let core_component = component.word().to_owned();
    AlertItem::CoreAlert(wire::CoreAlert { core_component, message: short(message) })
}

fn system_item(message: &str) -> AlertItem {
    AlertItem::SystemAlert(wire::SystemAlert { message: short(message) })
}

/// Cut to what peers take, at a character.
fn short(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_MESSAGE)].to_owned()
}

/// The task that keeps alerts until CM takes them.
pub struct Alerts {
    waiting: Waiting,
    queue: mpsc::Receiver<wire::Alert>,
    out: mpsc::Sender<wire::Alert>,
}

impl Alerts {
    /// Alerts from `queue` to `out`, whose other end is read only while CM is connected.
    pub fn new(queue: mpsc::Receiver<wire::Alert>, out: mpsc::Sender<wire::Alert>) -> Self {
        Self { waiting: Waiting::default(), queue, out }
    }

    /// Works for ever.
    pub async fn run(mut self) {
        loop {
            tokio::select! {
                Some(alert) = self.queue.recv() => self.waiting.add(alert, None),
                Ok(place) = self.out.reserve(), if !self.waiting.is_empty() => {
                    if let Some((alert, _)) = self.waiting.take() {
                        place.send(alert);
                    }
                }
                else => std::future::pending().await,
            }
        }
    }
}

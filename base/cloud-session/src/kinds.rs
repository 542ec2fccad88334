//! What the kinds of messages mean to the queue: worth, order, repetition.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};

use aos_cloud_protocol::{AosIdentity, Body, MessageType};

/// What a message is worth when the queue is full or the peer does not acknowledge it. When room is needed
/// the lowest class gives way first, the oldest of it first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// Samples; the next ones come anyway.
    Monitoring,
    /// Alerts.
    Alerts,
    /// Says or asks something about this moment: never dropped to make room, but not worth keeping after all
    /// tries.
    Transient,
    /// Must arrive: never dropped to make room, and parked after all tries.
    Durable,
}

impl Class {
    /// The class that suits a message. A delta of a status is worth nothing once a full one comes; a full
    /// one is what the peer's picture depends on.
    pub const fn of(body: &Body) -> Self {
        match body {
            Body::MonitoringData(_) => Self::Monitoring,
            Body::Alerts(_) => Self::Alerts,
            Body::UnitStatus(status) if status.is_delta_info => Self::Transient,
            Body::RequestBlobUrls(_) | Body::BlobUrls(_) | Body::PushLog(_) => Self::Transient,
            _ => Self::Durable,
        }
    }
}

/// True when the message makes every earlier one of its kind pointless.
pub(crate) fn replaces_earlier(body: &Body) -> bool {
    match body {
        Body::UnitStatus(status) => !status.is_delta_info,
        Body::DesiredStatus(_) | Body::OverrideEnvVars(_) => true,
        _ => false,
    }
}

/// True when the order among messages of this kind does not matter.
pub(crate) const fn stands_alone(kind: MessageType) -> bool {
    matches!(
        kind,
        MessageType::MonitoringData
            | MessageType::Alerts
            | MessageType::PushLog
            | MessageType::RequestBlobUrls
            | MessageType::BlobUrls
    )
}

/// Upstream Units do not recognise repetitions; these would make keys once more.
pub(crate) const fn once_per_connection(kind: MessageType) -> bool {
    matches!(
        kind,
        MessageType::StartProvisioningRequest
            | MessageType::FinishProvisioningRequest
            | MessageType::DeprovisioningRequest
    )
}

/// The thing a message is about, where a newer message about it says all that an older one said. A message
/// that overtook a parked one must not be undone by it.
pub(crate) fn topic(body: &Body) -> Option<u64> {
    let key = |identity: &AosIdentity| identity.key().map(str::to_owned);
    let instance = match body {
        Body::NewState(state) | Body::UpdateState(state) => {
            (state.item.as_ref().and_then(key), state.subject.as_ref().and_then(key), state.instance)
        }
        Body::StateAcceptance(verdict) => (key(&verdict.item), key(&verdict.subject), verdict.instance),
        Body::StateRequest(request) => (key(&request.item), key(&request.subject), request.instance),
        Body::OverrideEnvVarsStatus(_) => (None, None, 0),
        _ => return None,
    };
    let mut hasher = DefaultHasher::new();
    (body.message_type().as_str(), instance).hash(&mut hasher);
    Some(hasher.finish())
}

//! Messages to send, and what statuses tell.

use std::collections::BTreeMap;

use aos_cloud_protocol::*;

use crate::world::UNIT;

/// What a number stands for.
pub enum Content {
    /// Goes through the outbox.
    Kept(Body),
    /// Sent and forgotten.
    Volatile(Body),
    /// The end's own state changes at this key, and the peer is told.
    Change(u8),
}

pub fn content(end: usize, number: u8) -> Content {
    let (item, subject) = (AosIdentity::by_id("i"), AosIdentity::by_id("s"));
    let instance = u64::from(number / 64);
    let state = InstanceStateData {
        item: Some(item.clone()),
        subject: Some(subject.clone()),
        instance,
        state_checksum: StateChecksum::from_bytes(&[number; 28]),
        state: String::new(),
    };
    let start = StartProvisioningRequest { node: AosIdentity::by_codename("n"), password: Secret::default() };
    match (end, number % 6) {
        (UNIT, 0 | 1) => Content::Kept(Body::NewState(state)),
        (UNIT, 2) => Content::Volatile(Body::Alerts(Alerts::default())),
        (UNIT, 3) => Content::Volatile(Body::MonitoringData(MonitoringData::default())),
        (UNIT, 4) => {
            Content::Kept(Body::StateRequest(StateRequest { item, subject, instance, default: false }))
        }
        (_, 0..=2) => Content::Kept(Body::UpdateState(state)),
        (_, 3) => Content::Volatile(Body::BlobUrls(BlobUrls::default())),
        (_, 4) => Content::Kept(Body::StartProvisioningRequest(start)),
        _ => Content::Change(number % 2),
    }
}

/// A status that tells all of `own`, or one key of it.
pub fn status(end: usize, own: &BTreeMap<u8, u32>, key: Option<u8>) -> Body {
    let told = own.iter().filter(|(one, _)| end != UNIT || key.is_none_or(|key| key == **one));
    let told = told.map(|(key, value)| format!("{key}={value}"));
    if end == UNIT {
        let subjects = told.map(AosIdentity::by_codename).collect();
        let is_delta_info = key.is_some();
        return Body::UnitStatus(UnitStatus {
            is_delta_info,
            subjects: Some(subjects),
            ..UnitStatus::default()
        });
    }
    let subject = |name: String| Subject {
        identity: AosIdentity::by_codename(name),
        kind: SubjectType::Group,
        is_reported_from_unit: false,
    };
    Body::DesiredStatus(DesiredStatus {
        subjects: Some(told.map(subject).collect()),
        ..DesiredStatus::default()
    })
}

/// What a status tells.
pub fn told(body: &Body) -> BTreeMap<u8, u32> {
    let names: Vec<&str> = match body {
        Body::UnitStatus(status) => {
            status.subjects.iter().flatten().filter_map(|subject| subject.codename.as_deref()).collect()
        }
        Body::DesiredStatus(desired) => desired
            .subjects
            .iter()
            .flatten()
            .filter_map(|subject| subject.identity.codename.as_deref())
            .collect(),
        _ => return BTreeMap::new(),
    };
    let pair = |name: &str| {
        let (key, value) = name.split_once('=').unwrap();
        (key.parse().unwrap(), value.parse().unwrap())
    };
    names.into_iter().map(pair).collect()
}

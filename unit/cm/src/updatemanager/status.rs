//! What the cloud is told of the Unit: everything, or what changed since the last time.
//!
//! Pure. Each report is compared with what was told before, so a delta holds exactly the entries that differ
//! and nothing can be forgotten. A delta waits for a quiet time, but at most for three of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use aos_cloud_protocol::{
    AosIdentity, IdentityType, InstanceInfo, InstancesInfo, ItemStatus, NodeInfo, StateChecksum,
    UnitConfigStatus, UnitStatus,
};
use aos_ids::ItemKind;
use aos_status::{InstanceState, ItemState};

use crate::imagemanager::book::Book;
use crate::launcher::records::Status;

/// Quiet times that a delta waits at most.
const PATIENCE: u32 = 3;

type ItemKey = (String, String);
type InstanceKey = (AosIdentity, AosIdentity, String, u64);

/// The Unit at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    unit_config: Vec<UnitConfigStatus>,
    nodes: BTreeMap<AosIdentity, NodeInfo>,
    items: BTreeMap<ItemKey, ItemStatus>,
    instances: BTreeMap<InstanceKey, InstanceInfo>,
    subjects: Vec<AosIdentity>,
}

impl Snapshot {
    /// Joins what the modules know.
    pub fn new(
        unit_config: Vec<UnitConfigStatus>,
        nodes: Vec<NodeInfo>,
        book: &Book,
        instances: &[Status],
        subjects: impl IntoIterator<Item = String>,
    ) -> Self {
        let mut items: BTreeMap<ItemKey, ItemStatus> = book
            .records()
            .iter()
            .map(|((id, version), record)| {
                let item = AosIdentity::by_id(id.as_str()).with_type(record.kind.into());
                let status = ItemStatus {
                    item,
                    version: version.clone(),
                    state: record.state,
                    error_info: record.error.clone(),
                };
                ((id.to_string(), version.clone()), status)
            })
            .collect();
        for status in instances.iter().filter(|status| status.ident.preinstalled) {
            let item =
                AosIdentity::by_codename(status.ident.item.as_str()).with_type(kind(status.ident.kind));
            let version = version_of(status);
            let key = (status.ident.item.to_string(), version.clone());
            items.entry(key).or_insert(ItemStatus {
                item,
                version,
                state: ItemState::Installed,
                error_info: None,
            });
        }
        Self {
            unit_config,
            nodes: nodes.into_iter().map(|node| (node.identity.clone(), node)).collect(),
            items,
            instances: instances.iter().map(instance).collect(),
            subjects: subjects.into_iter().map(AosIdentity::by_codename).collect(),
        }
    }

    /// Adds the checksums of states, by item, subject and number.
    pub fn with_states<'a>(mut self, of: impl Fn(&str, &str, u64) -> Option<&'a StateChecksum>) -> Self {
        for ((item, subject, _, number), info) in &mut self.instances {
            if let (Some(item), Some(subject)) = (item.key(), subject.key()) {
                info.state_checksum = of(item, subject, *number).cloned();
            }
        }
        self
    }

    fn full(&self) -> UnitStatus {
        let present = self.items.values().filter(|item| item.state != ItemState::Removed);
        UnitStatus {
            is_delta_info: false,
            unit_config: Some(self.unit_config.clone()),
            nodes: Some(self.nodes.values().cloned().collect()),
            items: Some(present.cloned().collect()),
            instances: Some(groups(self.instances.iter())),
            subjects: Some(self.subjects.clone()),
        }
    }

    /// What differs from `before`; `None` when nothing does.
    fn delta(&self, before: &Self) -> Option<UnitStatus> {
        let some = |list: Vec<_>| (!list.is_empty()).then_some(list);
        let gone = before
            .items
            .iter()
            .filter(|(key, _)| !self.items.contains_key(*key))
            .map(|(_, item)| ItemStatus { state: ItemState::Removed, error_info: None, ..item.clone() });
        let gone = gone.filter(|item| before.items.values().all(|old| old != item));
        let items: Vec<ItemStatus> =
            changed(&self.items, &before.items).map(|(_, item)| item.clone()).chain(gone).collect();
        let nodes: Vec<NodeInfo> =
            changed(&self.nodes, &before.nodes).map(|(_, node)| node.clone()).collect();
        let instances = groups(changed(&self.instances, &before.instances));
        let status = UnitStatus {
            is_delta_info: true,
            unit_config: (self.unit_config != before.unit_config).then(|| self.unit_config.clone()),
            nodes: (!nodes.is_empty()).then_some(nodes),
            items: (!items.is_empty()).then_some(items),
            instances: some(instances),
            subjects: (self.subjects != before.subjects).then(|| self.subjects.clone()),
        };
        let empty = UnitStatus { is_delta_info: true, ..UnitStatus::default() };
        (status != empty).then_some(status)
    }
}

fn changed<'a, K: Ord, V: PartialEq>(
    now: &'a BTreeMap<K, V>,
    before: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (&'a K, &'a V)> {
    now.iter().filter(|(key, value)| before.get(*key) != Some(*value))
}

fn kind(kind: ItemKind) -> IdentityType {
    kind.into()
}

/// Other peers refuse an empty version.
fn version_of(status: &Status) -> String {
    if status.version.is_empty() { "0.0.0".to_owned() } else { status.version.clone() }
}

fn instance(status: &Status) -> (InstanceKey, InstanceInfo) {
    let named = |name: &str| {
        if status.ident.preinstalled { AosIdentity::by_codename(name) } else { AosIdentity::by_id(name) }
    };
    let key = (
        named(status.ident.item.as_str()),
        named(status.ident.subject.as_str()),
        version_of(status),
        status.ident.instance,
    );
    let info = InstanceInfo {
        node: status.node.as_ref().map(|node| AosIdentity::by_codename(node.as_str())).unwrap_or_default(),
        runtime: status.runtime.as_ref().map(|id| AosIdentity::by_codename(id.as_str())).unwrap_or_default(),
        instance: status.ident.instance,
        state_checksum: None,
        state: status.state,
        error_info: status.error.clone().filter(|_| status.state != InstanceState::Active),
    };
    (key, info)
}

fn groups<'a>(instances: impl Iterator<Item = (&'a InstanceKey, &'a InstanceInfo)>) -> Vec<InstancesInfo> {
    let mut groups: Vec<InstancesInfo> = Vec::new();
    for ((item, subject, version, _), info) in instances {
        match groups.last_mut() {
            Some(group) if group.item == *item && group.subject == *subject && group.version == *version => {
                group.instances.push(info.clone());
            }
            _ => groups.push(InstancesInfo {
                item: item.clone(),
                subject: subject.clone(),
                version: version.clone(),
                instances: vec![info.clone()],
            }),
        }
    }
    groups
}

/// Decides when a delta is due.
#[derive(Debug)]
pub struct Reporter {
    quiet: Duration,
    told: Option<Snapshot>,
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Reporter {
    /// A delta follows a change after the time `quiet` without another one.
    pub fn new(quiet: Duration) -> Self {
        Self { quiet, told: None, first: None, last: None }
    }

    /// Something may have changed. Without a link nothing is collected: the next full status tells all.
    pub fn touch(&mut self, now: Instant) {
        if self.told.is_some() {
            self.first.get_or_insert(now);
            self.last = Some(now);
        }
    }

    /// When the delta is due.
    pub fn deadline(&self) -> Option<Instant> {
        Some((self.last? + self.quiet).min(self.first? + self.quiet * PATIENCE))
    }

    /// The delta, if anything differs from what was told.
    pub fn delta(&mut self, snapshot: Snapshot) -> Option<UnitStatus> {
        (self.first, self.last) = (None, None);
        let delta = snapshot.delta(self.told.as_ref()?);
        self.told = Some(snapshot);
        delta
    }

    /// Everything; a delta that waits is covered by it.
    pub fn full(&mut self, snapshot: Snapshot) -> UnitStatus {
        (self.first, self.last) = (None, None);
        let full = snapshot.full();
        self.told = Some(snapshot);
        full
    }

    /// The link is gone.
    pub fn disconnected(&mut self) {
        (self.told, self.first, self.last) = (None, None, None);
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
